"""Lists the corpus: which files are its shards, and which are passed over and why.

Knows paths, names and versions of files; knows nothing of what is in them.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus import foreign_tables, table_versions
from sfr_batch.corpus.file_formats import PARQUET, TEXT, ending_of, format_of, may_be, supported
from sfr_batch.corpus.file_names import (
    MAGIC_BYTES,
    by_first_bytes,
    is_marker,
    is_set_aside,
    is_unclear,
    is_unreadable,
    samples_of,
    shape_of,
    was_passed_over,
)
from sfr_batch.corpus.partitions import names_above, partition_of
from sfr_batch.corpus.shards import Shard
from sfr_batch.errors import CorpusError, ObjectNotFound, counted
from sfr_batch.storage.input_listing import InputListing, find_inputs, one_of_each
from sfr_batch.storage.inputs import InputFile, read_input_range
from sfr_batch.storage.locations import where_relative
from sfr_batch.storage.parallel import in_parallel

_HIDDEN = "hidden (names that begin with _ or .)"
_UNKNOWN = "of unknown kind"
_SET_ASIDE = "set aside or being written, by their names (.tmp, .bak and others)"
_OTHER_FORMAT = "not of corpus.format"
_EMPTY = "without a byte"
_LINKED = "counted once, for links give them a second name"
_SHAPES = 32
"""Most shapes of names of which files are opened to see what they are."""
_PROBES_AT_ONCE = 16


class UnclearFormat(CorpusError):
    """There are files of documents whose names do not tell their format."""


class OtherEndings(UnclearFormat):
    """No file has an ending that is known."""


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
    later: tuple[str, ...] = ()
    """URIs of shards that earlier releases passed over without a word, sorted."""
    complete: bool = True
    """False if there may be more, because a first look was asked for."""

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


def list_shards(settings: CorpusSettings, first: int | None = None) -> Listing:
    """All shards, sorted by URI, each once, and the files that are none. Raises CorpusError if there are no shards.

    first: for a first look: how many names at each path are asked for; default: all.
    """
    found: dict[str, Shard] = {}
    passed_over: dict[str, str] = {}
    later: set[str] = set()
    complete = True
    for path in settings.paths:
        if settings.is_table:
            shards = table_versions.list_files(settings)
        else:
            files = _sort(path, settings, first)
            shards = files.shards
            passed_over.update(files.passed_over)
            later.update(files.later)
            complete &= files.complete
        found.update({shard.uri: shard for shard in shards})
    for uri in one_of_each(found) if len(settings.paths) > 1 else ():
        passed_over[uri] = _LINKED
        del found[uri]
    for uri in found:
        passed_over.pop(uri, None)
    uris = sorted(found)
    return Listing(
        tuple(found[uri] for uri in uris),
        PassedOver.of(passed_over),
        tuple(uri for uri in uris if uri in later),
        complete,
    )


@dataclass
class _Files:
    """The files at one path, sorted by what becomes of them."""

    base: str
    shards: list[Shard] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    """By URI, what a file is that holds documents in a form that is not supported."""
    unclear: list[InputFile] = field(default_factory=list)
    """Files of documents whose names do not tell the format."""
    unknown: list[InputFile] = field(default_factory=list)
    passed_over: dict[str, str] = field(default_factory=dict)
    """By URI, why."""
    later: list[str] = field(default_factory=list)
    """URIs of shards that were passed over before such names were known."""
    complete: bool = True

    def add(self, file: InputFile, kind: str, compression: str) -> None:
        """Take in a shard."""
        partition, above = partition_of(file.uri), names_above(self.base, file.uri)
        shard = Shard(file.uri, file.version, file.size, kind, compression, partition, above, ctime_ns=file.ctime_ns)
        self.shards.append(shard)


def _sort(path: str, settings: CorpusSettings, first: int | None) -> _Files:
    """The files at ``path``. Raises CorpusError if there are none to read, or some that cannot be passed over."""
    try:
        listing = find_inputs(path, settings.storage, first)
    except ObjectNotFound as error:
        raise CorpusError(_nothing_at(path, [])) from error
    foreign_tables.refuse(listing, path, settings)
    hidden = [file for file in listing.hidden if not is_marker(file.uri, file.size)]
    if not listing.files:
        raise CorpusError(_in_folders(path, listing, settings) or _nothing_at(path, hidden))
    files = _Files(listing.base, complete=listing.complete)
    for file in listing.files:
        if not is_marker(file.uri, file.size):
            _sort_by_name(file, settings, files)
    _sort_by_first_bytes(settings, files)
    _check(path, listing, files, settings)
    files.passed_over.update({file.uri: _HIDDEN for file in hidden})
    files.passed_over.update({file.uri: _UNKNOWN for file in files.unknown})
    files.passed_over.update({file.uri: _LINKED for file in listing.repeated})
    if settings.format == "auto":
        start = len(listing.base)
        files.later = [shard.uri for shard in files.shards if was_passed_over(shard.uri, shard.uri[start:])]
    return files


def _sort_by_name(file: InputFile, settings: CorpusSettings, files: _Files) -> None:
    kind, compression = format_of(file.uri)
    if kind is None and is_unreadable(file.uri):
        files.unreadable[file.uri] = ""
        return
    if settings.format != "auto":
        if not may_be(file.uri, settings.format):
            files.passed_over[file.uri] = _OTHER_FORMAT
            return
        kind, compression = settings.format, compression if settings.format != PARQUET else ""
    if kind is None and is_set_aside(file.uri):
        files.passed_over[file.uri] = _SET_ASIDE
    elif kind == PARQUET and not file.size:
        files.passed_over[file.uri] = _EMPTY
    elif kind is not None:
        files.add(file, kind, compression)
    else:
        (files.unclear if is_unclear(file.uri) else files.unknown).append(file)


def _sort_by_first_bytes(settings: CorpusSettings, files: _Files) -> None:
    """Look at the beginning of a few of the files whose names do not tell what they are, and sort their likes."""
    nameless = sorted([*files.unclear, *files.unknown], key=lambda file: file.uri)
    if not nameless:
        return
    samples = samples_of([file.uri for file in nameless], _SHAPES)
    begins = in_parallel(
        lambda uri: by_first_bytes(read_input_range(uri, 0, MAGIC_BYTES, settings.storage)), samples, _PROBES_AT_ONCE
    )
    kinds: dict[str, set[str]] = {}
    for uri, kind in zip(samples, begins, strict=True):
        kinds.setdefault(shape_of(uri), set()).add(kind)
    # Of one shape but not of one kind: nobody can tell what the others are.
    kind_of = {shape: its.pop() if len(its) == 1 else _MIXED for shape, its in kinds.items()}
    unclear = {file.uri for file in files.unclear}
    files.unclear, files.unknown = [], []
    for file in nameless:
        kind = kind_of.get(shape_of(file.uri), "")
        if kind == PARQUET:
            files.add(file, PARQUET, "")
        elif kind == _MIXED or (not kind and file.uri in unclear):
            files.unclear.append(file)
        elif kind:
            files.unreadable[file.uri] = kind
        else:
            files.unknown.append(file)


_MIXED = "mixed"


def _check(path: str, listing: InputListing, files: _Files, settings: CorpusSettings) -> None:
    """Raises CorpusError if files that hold documents would be passed over, or if nothing can be read."""
    if files.unreadable:
        first, kind = min(files.unreadable.items())
        raise CorpusError(
            f"corpus.path {path} holds {counted(len(files.unreadable), 'data file')} in unsupported formats, e.g. "
            f"{first}{f', which is {kind}' if kind else ''}. Supported: {supported()}. Convert "
            f"them{_or_select(path, listing, files.shards, settings)}."
        )
    if files.unclear:
        first = files.unclear[0].uri
        raise UnclearFormat(
            f"corpus.path {path} holds {counted(len(files.unclear), 'data file')} whose names do not tell their "
            f"format, e.g. {first}. Set corpus.format to parquet, jsonl, csv or "
            f"text{_or_select(path, listing, files.shards, settings)}."
        )
    if not files.shards and files.passed_over:
        raise CorpusError(
            f"corpus.path {path} has no readable files, only {PassedOver.of(files.passed_over).describe()}. Correct "
            "corpus.path or corpus.format, or write the files again."
        )
    if not files.shards:
        raise OtherEndings(
            f"corpus.path {path} has no readable files among its {counted(len(listing.files), 'file')}, e.g. "
            f"{listing.files[0].uri}. Supported: {supported()}. For files with other endings set corpus.format."
        )
    texts = [shard.uri for shard in files.shards if shard.format == TEXT and shard.size]
    others = [shard for shard in files.shards if shard.format != TEXT and shard.size]
    if texts and others and settings.format == "auto":
        way_out = _or_select(path, listing, others, settings).removeprefix(", or s")
        raise CorpusError(
            f"corpus.path {path} holds text files, e.g. {texts[0]}, mixed with files that have columns. S{way_out}."
        )


def _or_select(path: str, listing: InputListing, shards: Sequence[Shard], settings: CorpusSettings) -> str:
    """The way out by patterns that name these shards alone."""
    if not shards:
        return ""
    endings = sorted({ending_of(shard.uri) for shard in shards})
    if "" in endings or len(endings) > _FEW_ENDINGS:
        return ", or select the files to read with patterns"
    patterns = [f"{listing.base}/**/*{ending}" for ending in endings]
    if not isinstance(settings.path, str):
        return f", or select the files to read: write {', '.join(patterns)} in place of {path}"
    shown = patterns[0] if len(patterns) == 1 else f"[{','.join(patterns)}]"
    return f", or select the files to read: corpus.path={shown}"


_FEW_ENDINGS = 3


def _in_folders(path: str, listing: InputListing, settings: CorpusSettings) -> str:
    """The message where a pattern names folders alone, which Spark would look into; else empty."""
    below = f"{path.rstrip('/')}/**"
    if not listing.pattern or not find_inputs(below, settings.storage).files:
        return ""
    return f"corpus.path {path} names folders and no files. To read the files in them: corpus.path={below}."


def _nothing_at(path: str, hidden: Sequence[InputFile]) -> str:
    if "{" in path and not hidden:
        return f"corpus.path {path} matches no files. Braces are no pattern: write a list, corpus.path=[a,b]."
    if not hidden:
        at, rule = where_relative(path)
        correct = f"Correct the path: {rule}" if rule else "Correct the path"
        return f"corpus.path {path} matches no files{at}. {correct}. Names that begin with _ or . are skipped."
    first = hidden[0].uri
    return (
        f"corpus.path {path} matches no files but {counted(len(hidden), 'file')} whose names, or those of folders, "
        f"begin with _ or ., e.g. {first}. They are skipped unless the path itself names them: "
        f"corpus.path={first.rsplit('/', 1)[0]}."
    )
