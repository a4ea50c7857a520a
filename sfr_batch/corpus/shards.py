"""Lists the shards of the corpus. A shard is one file in one version.

Knows paths, names and versions of files; knows nothing of what is in them.
"""

from dataclasses import dataclass

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.file_formats import (
    COMPRESSIONS,
    CSV,
    FORMATS,
    JSONL,
    TEXT,
    bare_name,
    format_of,
    supported,
)
from sfr_batch.errors import CorpusError, ObjectNotFound, counted
from sfr_batch.storage.inputs import InputFile, list_inputs

_OTHER_DATA = (
    *(".json", ".bz2", ".xz", ".lz4", ".zip", ".7z", ".tar", ".tgz", ".avro", ".orc", ".arrow", ".feather", ".xlsx"),
    *COMPRESSIONS,
)


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of the corpus in one version."""

    uri: str
    version: str
    size: int
    """Bytes, as stored."""
    format: str
    compression: str = ""

    @property
    def is_stream(self) -> bool:
        """Whether the shard can only be read from its beginning."""
        return bool(self.compression) or FORMATS[self.format].read_from_start


def list_shards(settings: CorpusSettings) -> list[Shard]:
    """All shards, sorted by URI, each once. Raises CorpusError if there are none."""
    found: dict[str, Shard] = {}
    for path in [settings.path] if isinstance(settings.path, str) else settings.path:
        found.update({shard.uri: shard for shard in _list(path, settings)})
    return [found[uri] for uri in sorted(found)]


def _list(path: str, settings: CorpusSettings) -> list[Shard]:
    try:
        files = list_inputs(path, settings.storage)
    except ObjectNotFound as error:
        raise CorpusError(_nothing_at(path)) from error
    shards = [shard for file in files if (shard := _shard(file, settings))]
    if not files:
        raise CorpusError(_nothing_at(path))
    if not shards:
        raise CorpusError(
            f"corpus.path {path} has no readable files among its {counted(len(files), 'file')}, e.g. {files[0].uri}. "
            f"Supported: {supported()}. For files with other endings set corpus.format."
        )
    taken = {shard.uri for shard in shards}
    passed_over = [file.uri for file in files if file.uri.lower().endswith(_OTHER_DATA) and file.uri not in taken]
    if passed_over and settings.format == "auto":
        raise CorpusError(
            f"corpus.path {path} holds {counted(len(passed_over), 'data file')} in unsupported formats, e.g. "
            f"{passed_over[0]}. Supported: {supported()}. Convert them, select the files to read with a glob, or set "
            "corpus.format."
        )
    texts = [shard.uri for shard in shards if shard.format == TEXT]
    if texts and len(texts) < len(shards) and settings.format == "auto":
        raise CorpusError(
            f"corpus.path {path} holds text files, e.g. {texts[0]}, mixed with files that have columns. Select the "
            "files to read with a glob, or set corpus.format."
        )
    return shards


def _nothing_at(path: str) -> str:
    return f"corpus.path {path} matches no files. Correct the path. Names that begin with _ or . are skipped."


def _shard(file: InputFile, settings: CorpusSettings) -> Shard | None:
    kind, compression = format_of(file.uri)
    if settings.format != "auto":
        if kind not in (None, settings.format) and not _same_family(kind, settings.format):
            return None
        kind = settings.format
    return Shard(file.uri, file.version, file.size, kind, compression) if kind else None


def _same_family(kind: str | None, asked: str) -> bool:
    """Whether a file of this kind may be what ``asked`` means: data.txt may well be JSON Lines or CSV."""
    return kind == TEXT and asked in (JSONL, CSV)


def settings_for(shard: Shard, settings: CorpusSettings) -> CorpusSettings:
    """The settings as they hold for one shard: without an id column if its format has none."""
    return settings if FORMATS[shard.format].has_ids else settings.model_copy(update={"id": None})


def delimiter_of(shard: Shard, settings: CorpusSettings) -> str:
    """The separator of a CSV's columns: `corpus.delimiter`, else a tab in .tsv and .tab files and a comma in others."""
    name, _ = bare_name(shard.uri)
    return settings.delimiter or ("\t" if name.endswith((".tsv", ".tab")) else ",")
