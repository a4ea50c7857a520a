"""Where the files of a data set are: by the names that BEIR and the Hugging Face hub give them.

Knows names of files; opens none.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sfr_batch.config.settings import StorageSettings
from sfr_batch.corpus.file_formats import TEXT, ending_of, format_of
from sfr_batch.errors import CorpusError
from sfr_batch.evaluation.data.rows import FORMATS
from sfr_batch.storage.input_listing import list_inputs
from sfr_batch.storage.locations import absolute_uri

_PART = re.compile(r"-\d+-of-\d+$")
_SHOWN = 8


@dataclass(frozen=True)
class DataFolder:
    """The files at a path: a folder or prefix, or one file."""

    uri: str
    files: tuple[str, ...]
    """URIs, sorted."""

    @classmethod
    def at(cls, path: str, settings: StorageSettings) -> "DataFolder":
        """The files at a path on disk or on S3. Raises CorpusError if there are none."""
        uri = absolute_uri(path).rstrip("/")
        files = tuple(file.uri for file in list_inputs(path, settings))
        if not files:
            raise CorpusError(f"There is no data at {uri}. Correct the path of the task's data.")
        return cls(uri, files)

    @property
    def is_file(self) -> bool:
        """Whether the path names one file."""
        return self.files == (self.uri,)

    def find(self, *names: str, first: Sequence[str] = ()) -> Sequence[str]:
        """The files of the first of ``names`` that there are: `test` means test.tsv, test-00000-of-00002.parquet, the
        files in test/, and the same below data/. A path that is a file is the answer to every name.

        first: names that count before these where there are such files, and of which no error speaks.

        Raises CorpusError if there are none, or if two formats or places answer to a name.
        """
        if self.is_file:
            return self.files
        for name in (*first, *names):
            for wanted in (name, f"data/{name}"):
                if found := self._named(wanted):
                    return found
        there = [file.removeprefix(f"{self.uri}/") for file in self.files]
        shown = ", ".join(there[:_SHOWN]) + (", …" if len(there) > _SHOWN else "")
        wanted = " or ".join(names)
        raise CorpusError(f"{self.uri} has no file {wanted} ({FORMATS}). It has: {shown}.")

    def has(self, name: str) -> bool:
        """Whether there are files of this name."""
        return bool(self._named(name) or self._named(f"data/{name}"))

    def _named(self, name: str) -> Sequence[str]:
        stems: dict[str, list[str]] = {}
        for file in self.files:
            below = file.removeprefix(f"{self.uri}/")
            if format_of(file)[0] in (None, TEXT):
                continue
            if below.startswith(f"{name}/"):
                stems.setdefault(f"{name}/", []).append(file)
            elif _PART.sub("", below.removesuffix(ending_of(file))) == name:
                stems.setdefault(ending_of(file), []).append(file)
        if len(stems) > 1:
            files = ", ".join(files[0] for files in stems.values())
            raise CorpusError(f"Several files answer to {name}: {files}. Keep one of them.")
        return next(iter(stems.values()), [])
