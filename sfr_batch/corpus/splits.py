"""Cuts shards into splits and names them.

A split is some thousand rows of a shard, the unit of encoding, of retry and of commit. Its name and its boundaries
are pure functions of the shard's version, its metadata and the settings, never of the cluster. Three shapes: rows of a
Parquet file, bytes of an uncompressed file of lines, and a stream, which can only be read from its beginning: it is cut
while it is read, and the names of its splits say their number and whether they are the last. A pack of small shards is
such a stream, too. Reads nothing.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sfr_batch.corpus.file_formats import FORMATS
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.survey import RowGroup, ShardStatistics
from sfr_batch.format.fingerprint import short_id
from sfr_batch.format.records import PACKED
from sfr_batch.format.split_ids import LAST_FLAG, STREAM_PREFIX

ROWS, MOST_ROWS = 2**13, 2**15
"""Rows of a split by default, and where texts are short. A driver manages some fifty splits a second, however small."""
_SHORT = 2**22
"""Bytes of text up to which a split gets more rows: about a million tokens, half a minute of a GPU."""
SMALLEST_SPLIT = 256
"""Fewest rows of a split that a small corpus is cut into."""


@dataclass(frozen=True, slots=True)
class Split:
    """Some thousand rows of a shard."""

    split_id: str
    shard: str
    """URI of the shard."""
    version: str
    start: int
    """First row (Parquet), first byte (lines), or position of the first record (stream)."""
    end: int
    """One past the last row, byte or position; of lines, those count that begin before it."""
    rows: int
    """Exact for Parquet, and for a stream once it is read; else an estimate."""
    text_bytes: int
    """Exact or an estimate, as ``rows``."""


@dataclass(frozen=True, slots=True)
class Stream:
    """A shard that is read from its beginning and cut on the way, after ``max_rows`` rows or ``max_bytes`` of text.

    Its splits are known only once it has been read.
    """

    prefix: str
    """First 24 characters of the names of its splits."""
    max_rows: int
    max_bytes: int
    rows: int
    """Rows of the whole shard, estimated."""
    text_bytes: int
    """Bytes of the whole shard's text, estimated."""
    done: tuple[int, ...] = ()
    """Numbers of the committed splits, which are skipped."""

    def split_id(self, number: int, last: bool) -> str:
        """The name of split ``number``, from 0. It says whether the split is the last one, so that a listing of the
        table shows whether the shard is complete."""
        return f"{self.prefix}{number | (LAST_FLAG if last else 0):08x}"

    def expected_splits(self) -> int:
        """The number of splits, estimated before reading."""
        return max(1, -(-self.rows // self.max_rows), -(-self.text_bytes // self.max_bytes))


@dataclass(frozen=True, slots=True)
class ReadUnit:
    """The part of a shard that one task decodes, with the splits to read; of a stream, all that are not done."""

    shard: Shard
    row_groups: tuple[int, ...]
    first_row: int
    splits: tuple[Split, ...]
    stream: Stream | None = None
    chosen: tuple["Chosen", ...] = ()
    """The rows of packed splits, one after the other; the unit has no shard of its own."""
    whole: tuple[Shard, ...] = ()
    """The shards of a pack, which is a stream of all of their rows; the unit has no shard of its own. See `packs`."""


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Some of the rows that a unit decodes."""

    unit: ReadUnit
    rows: NDArray[np.int64] | NDArray[np.int32]
    """[k] ascending: their numbers among the rows of the unit that can be embedded, or their positions in the shard."""
    by_position: bool = False
    """Whether it is positions: where a filter has chosen the rows, nobody knows which others can be embedded."""


_NO_SHARD = Shard(PACKED, PACKED, 0, "")


def pack(chosen: Sequence[Chosen], text_bytes: int, identity: Sequence[str], condemned: frozenset[str]) -> ReadUnit:
    """Rows of many shards as one split, whose name is a function of its rows and their shards' versions.

    identity: what else names it; condemned: names that it must not have.
    """
    shards = [part.unit.shard for part in chosen]
    rows = [
        (shard.uri, shard.named_version, start_of(part.unit), part.rows.tolist())
        for shard, part in zip(shards, chosen, strict=True)
    ]
    # Numbers and positions may be equal and stand for other rows.
    kind = "packed by position" if any(part.by_position for part in chosen) else "packed"
    split_id = short_id(kind, rows, *identity)
    while split_id in condemned:
        split_id = short_id(split_id, "after a sweep")
    return packed(split_id, chosen, text_bytes)


def packed(split_id: str, chosen: Sequence[Chosen], text_bytes: int) -> ReadUnit:
    """Rows of many shards as one split of this name."""
    return ReadUnit(_NO_SHARD, (), 0, (_packed(split_id, _count(chosen), text_bytes),), chosen=tuple(chosen))


def packed_together(split_ids: Sequence[str], rows: Sequence[int], chosen: Sequence[Chosen]) -> ReadUnit:
    """Rows of many shards as splits of these names, which have so many of the rows."""
    splits = (_packed(split_id, count, 0) for split_id, count in zip(split_ids, rows, strict=True))
    return ReadUnit(_NO_SHARD, (), 0, tuple(splits), chosen=tuple(chosen))


def joined(units: Iterable[ReadUnit], most: int) -> Iterator[ReadUnit]:
    """The units, those of packed splits together that have rows of the same unit, one after the other: it is decoded
    from its beginning for each read. At most ``most`` splits together."""
    waiting: list[ReadUnit] = []
    for unit in units:
        if waiting and (len(waiting) == most or not _follows(unit, waiting[-1])):
            yield _joined(waiting)
            waiting = []
        waiting.append(unit)
    if waiting:
        yield _joined(waiting)


def _follows(unit: ReadUnit, before: ReadUnit) -> bool:
    if not unit.chosen or not before.chosen:
        return False
    first, last = unit.chosen[0], before.chosen[-1]
    same = first.by_position == last.by_position and first.unit == last.unit
    return same and bool(first.rows[0] > last.rows[-1])


def _joined(units: Sequence[ReadUnit]) -> ReadUnit:
    if len(units) == 1:
        return units[0]
    chosen: list[Chosen] = []
    for unit in units:
        if chosen:
            last, first = chosen.pop(), unit.chosen[0]
            chosen.append(Chosen(last.unit, np.concatenate([last.rows, first.rows]), last.by_position))
        chosen += unit.chosen[1:] if chosen else unit.chosen
    return dataclasses.replace(units[0], splits=tuple(unit.splits[0] for unit in units), chosen=tuple(chosen))


def _count(chosen: Sequence[Chosen]) -> int:
    return sum(len(part.rows) for part in chosen)


def _packed(split_id: str, rows: int, text_bytes: int) -> Split:
    return Split(split_id, PACKED, PACKED, 0, rows, rows, text_bytes)


def pack_whole(
    shards: Sequence[Shard],
    expected: tuple[int, int],
    max_rows: int,
    max_bytes: int,
    identity: Sequence[str],
    condemned: frozenset[str],
) -> ReadUnit:
    """Whole shards, of one format, as one stream, whose name is a function of their versions.

    expected: rows of all of them, and bytes of their text. Mostly they are one split; where they have more rows or more
    text than one may have, the stream is cut like any other.
    """
    name = short_id("pack", [(shard.uri, shard.named_version) for shard in shards], max_rows, max_bytes, *identity)
    stream = Stream(_free_prefix(name, condemned), max_rows, max_bytes, *expected)
    return ReadUnit(_NO_SHARD, (), 0, (), stream, whole=tuple(shards))


def start_of(unit: ReadUnit) -> int:
    """The position in its shard at which a unit begins."""
    return unit.splits[0].start if unit.splits else 0


def rows_by_text(wanted: int | None, rows: float, text_bytes: float) -> int:
    """The most rows of a split: ``wanted``, or by default ROWS, doubled as long as their text is short.

    rows, text_bytes: of what is cut, by whatever measure. Doubling lets a shard that changes a little keep its
    split boundaries.
    """
    most = ROWS if wanted is None else wanted
    while wanted is None and 2 * most <= MOST_ROWS and 2 * most * text_bytes <= _SHORT * rows:
        most *= 2
    return most


def rows_per_split(total_rows: int, rows: int, min_splits: int) -> int:
    """The target rows of a split: ``rows``, halved until there are ``min_splits``, but not below SMALLEST_SPLIT.

    Halving lets a corpus that grows a little keep its split boundaries.
    """
    while rows > SMALLEST_SPLIT and rows * min_splits > total_rows:
        rows = max(SMALLEST_SPLIT, rows // 2)
    return rows


def cut(
    survey: ShardStatistics, max_rows: int, max_bytes: int, identity: Sequence[str], condemned: frozenset[str]
) -> list[ReadUnit]:
    """Cut a shard into read units and splits of about ``max_rows`` rows and ``max_bytes`` bytes of read columns.

    identity: what else names a split (row recipe, fingerprint, generation). A pure function: the same shard version
    under the same settings gives the same split ids, except that condemned names are replaced.
    """
    shard = survey.shard
    if survey.empty:
        return []
    if shard.is_stream:
        prefix = _name_stream(shard, max_rows, max_bytes, identity, condemned)
        stream = Stream(prefix, max_rows, max_bytes, survey.rows, survey.text_bytes)
        return [ReadUnit(shard, (), 0, (), stream)]
    pieces = _cut_row_groups if FORMATS[shard.format].has_metadata else _cut_bytes
    units = []
    for row_groups, first_row, ranges in pieces(survey.groups, max_rows, max_bytes, shard.size):
        splits = tuple(
            Split(
                split_id=name_split(shard, start, end, identity, condemned),
                shard=shard.uri,
                version=shard.version,
                start=start,
                end=end,
                rows=rows,
                text_bytes=size,
            )
            for start, end, rows, size in ranges
        )
        units.append(ReadUnit(shard, row_groups, first_row, splits))
    return units


def name_split(shard: Shard, start: int, end: int, identity: Sequence[str], condemned: frozenset[str]) -> str:
    """The split's id: 32 hexadecimal characters. A condemned name is never used again; the next free one is."""
    split_id = short_id(shard.uri, shard.named_version, start, end, *identity)
    while split_id in condemned:
        split_id = short_id(split_id, "after a sweep")
    return split_id


def _name_stream(
    shard: Shard, max_rows: int, max_bytes: int, identity: Sequence[str], condemned: frozenset[str]
) -> str:
    name = short_id(shard.uri, shard.named_version, "stream", max_rows, max_bytes, *identity)
    return _free_prefix(name, condemned)


def _free_prefix(name: str, condemned: frozenset[str]) -> str:
    """The beginning of the names of a stream's splits: that of ``name``, or the next one that is not condemned."""
    prefixes = _prefixes(condemned)
    while name[:STREAM_PREFIX] in prefixes:
        name = short_id(name, "after a sweep")
    return name[:STREAM_PREFIX]


@lru_cache(maxsize=1)
def _prefixes(condemned: frozenset[str]) -> frozenset[str]:
    return frozenset(split_id[:STREAM_PREFIX] for split_id in condemned)


_Range = tuple[int, int, int, int]
_Piece = tuple[tuple[int, ...], int, list[_Range]]


def _cut_row_groups(groups: Sequence[RowGroup], max_rows: int, max_bytes: int, _: int) -> Iterator[_Piece]:
    """Small row groups become one split together; a large one is read once and cut evenly."""
    together: list[int] = []
    first_row = row = rows = text = size = 0
    for number, group in enumerate(groups):
        parts = max(-(-group.rows // max_rows), -(-group.read_bytes // max_bytes)) if group.rows else 0
        parts = min(parts, group.rows)
        if together and (parts > 1 or rows + group.rows > max_rows or size + group.read_bytes > max_bytes):
            yield tuple(together), first_row, [(first_row, first_row + rows, rows, text)]
            together, rows, text, size = [], 0, 0, 0
        if parts > 1:
            bounds = [row + group.rows * part // parts for part in range(parts + 1)]
            ranges = [(a, b, b - a, group.text_bytes // parts) for a, b in pairwise(bounds)]
            yield (number,), row, ranges
        elif group.rows:
            first_row = first_row if together else row
            together.append(number)
            rows, text, size = rows + group.rows, text + group.text_bytes, size + group.read_bytes
        row += group.rows
    if together:
        yield tuple(together), first_row, [(first_row, first_row + rows, rows, text)]


def _cut_bytes(groups: Sequence[RowGroup], max_rows: int, max_bytes: int, size: int) -> Iterator[_Piece]:
    """Even byte ranges, each its own read unit."""
    rows = sum(group.rows for group in groups)
    if not size:
        return
    parts = max(1, -(-rows // max_rows), -(-size // max_bytes))
    bounds = [size * part // parts for part in range(parts + 1)]
    for a, b in pairwise(bounds):
        yield (), 0, [(a, b, -(-rows // parts), b - a)]


def splits_of(unit: ReadUnit) -> Iterable[Split]:
    """The unit's splits. Of a stream the expected ones that are not done, at least one."""
    stream, shard = unit.stream, unit.shard
    if stream is None:
        return unit.splits
    expected = stream.expected_splits()
    done = frozenset(stream.done)
    numbers = [number for number in range(expected) if number not in done] or [len(done)]
    return [
        Split(
            split_id=stream.split_id(number, last=False),
            shard=shard.uri,
            version=shard.version,
            start=number,
            end=number + 1,
            rows=-(-stream.rows // expected),
            text_bytes=stream.text_bytes // expected,
        )
        for number in numbers
    ]
