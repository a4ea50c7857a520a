"""Lists the corpus: which files are its shards, and which are passed over and why.

Knows paths, names and versions of files; knows nothing of what is in them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus import foreign_tables, table_versions
from sfr_batch.corpus.file_formats import COMPRESSIONS, CSV, JSONL, TEXT, format_of, supported
from sfr_batch.corpus.partitions import partition_of
from sfr_batch.corpus.shards import Shard
from sfr_batch.errors import CorpusError, ObjectNotFound, counted
from sfr_batch.storage.input_listing import find_inputs
from sfr_batch.storage.inputs import InputFile

_OTHER_DATA = (
    *(".json", ".bz2", ".xz", ".lz4", ".zip", ".7z", ".tar", ".tgz", ".avro", ".orc", ".arrow", ".feather", ".xlsx"),
    *COMPRESSIONS,
)
_HIDDEN = "hidden (names with _ or .)"
_UNKNOWN = "of unknown kind"
_OTHER_FORMAT = "not of corpus.format"


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Files below corpus.path that are no shards."""

    reasons: tuple[tuple[str, int, str], ...] = ()
    """(why, number of files, URI of the first of them)."""

    @classmethod
    def of(cls, why: Mapping[str, str]) -> "PassedOver":
        """The count of files; ``why``: reason by URI."""
        counts = Counter(why.values())
        return cls(
            tuple(
                (reason, number, min(uri for uri, its in why.items() if its == reason))
                for reason, number in sorted(counts.items())
            )
        )

    @property
    def files(self) -> int:
        """The number of files."""
        return sum(number for _, number, _ in self.reasons)

    def describe(self) -> str:
        """In one line for a person; empty if there are no such files."""
        if not self.reasons:
            return ""
        parts = (f"{number:,} {reason}, e.g. {uri}" for reason, number, uri in self.reasons)
        return f"{counted(self.files, 'file')}: {'; '.join(parts)}"


@dataclass(frozen=True)
class Listing(Sequence[Shard]):
    """The corpus as files: the sequence of its shards, sorted by URI, and what was passed over."""

    shards: tuple[Shard, ...]
    passed_over: PassedOver

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Shard]: ...
    def __getitem__(self, index: int | slice) -> Shard | Sequence[Shard]:
        return self.shards[index]

    def __len__(self) -> int:
        return len(self.shards)

    def __iter__(self) -> Iterator[Shard]:
        return iter(self.shards)


def list_shards(settings: CorpusSettings) -> Listing:
    """All shards, sorted by URI, each once, and the files that are none. Raises CorpusError if there are no shards."""
    found: dict[str, Shard] = {}
    passed_over: dict[str, str] = {}
    for path in [settings.path] if isinstance(settings.path, str) else settings.path:
        if settings.is_table:
            shards = table_versions.list_files(settings)
        else:
            shards, others = _list(path, settings)
            passed_over.update(others)
        found.update({shard.uri: shard for shard in shards})
    for uri in found:
        passed_over.pop(uri, None)
    return Listing(tuple(found[uri] for uri in sorted(found)), PassedOver.of(passed_over))


def _list(path: str, settings: CorpusSettings) -> tuple[list[Shard], dict[str, str]]:
    try:
        listing = find_inputs(path, settings.storage)
    except ObjectNotFound as error:
        raise CorpusError(_nothing_at(path)) from error
    foreign_tables.refuse(listing, path, settings)
    files = listing.files
    shards = [shard for file in files if (shard := _shard(file, settings))]
    if not files:
        raise CorpusError(_nothing_at(path))
    if not shards:
        raise CorpusError(
            f"corpus.path {path} has no readable files among its {counted(len(files), 'file')}, e.g. {files[0].uri}. "
            f"Supported: {supported()}. For files with other endings set corpus.format."
        )
    taken = {shard.uri for shard in shards}
    other_data = [file.uri for file in files if file.uri.lower().endswith(_OTHER_DATA) and file.uri not in taken]
    if other_data and settings.format == "auto":
        raise CorpusError(
            f"corpus.path {path} holds {counted(len(other_data), 'data file')} in unsupported formats, e.g. "
            f"{other_data[0]}. Supported: {supported()}. Convert them, select the files to read with a glob, or set "
            "corpus.format."
        )
    texts = [shard.uri for shard in shards if shard.format == TEXT]
    if texts and len(texts) < len(shards) and settings.format == "auto":
        raise CorpusError(
            f"corpus.path {path} holds text files, e.g. {texts[0]}, mixed with files that have columns. Select the "
            "files to read with a glob, or set corpus.format."
        )
    why = _UNKNOWN if settings.format == "auto" else _OTHER_FORMAT
    return shards, {
        **{file.uri: _HIDDEN for file in listing.hidden},
        **{file.uri: why for file in files if file.uri not in taken},
    }


def _nothing_at(path: str) -> str:
    return f"corpus.path {path} matches no files. Correct the path. Names that begin with _ or . are skipped."


def _shard(file: InputFile, settings: CorpusSettings) -> Shard | None:
    kind, compression = format_of(file.uri)
    if settings.format != "auto":
        if kind not in (None, settings.format) and not _same_family(kind, settings.format):
            return None
        kind = settings.format
    if kind is None:
        return None
    return Shard(file.uri, file.version, file.size, kind, compression, partition_of(file.uri))


def _same_family(kind: str | None, asked: str) -> bool:
    """Whether a file of this kind may be what ``asked`` means: data.txt may well be JSON Lines or CSV."""
    return kind == TEXT and asked in (JSONL, CSV)
