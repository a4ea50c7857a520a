"""Packs: small shards that are read together and share splits, where no row of them may have a vector yet.

Where a pack ends is decided by hashes of the URIs around its end. So a shard that is added, changed or removed renames
the pack that it is in, seldom another one, and none beyond the next boundary, which is a shard whose own hash says so.
All is a pure function of the listing, the settings and the sizes of a sample, which are rounded. Knows nothing of a
table; opens the shards that have to be surveyed.
"""

import hashlib
import heapq
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sfr_batch.config.run_settings import RunSettings
from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.splits import rows_by_text, rows_per_split
from sfr_batch.corpus.survey import ShardStatistics, survey_shards

FEWEST = 100
"""Fewest small shards of a format that are packed: where there are fewer, data files are few, too."""
SAMPLE = 1000
"""Most small shards of a format that are surveyed."""
_SMALL = 4
"""So many of the largest small shards fill a pack."""
_FULL = 0.9
"""Share of a split that a full pack is expected to fill: one that has more rows than expected is cut, and its rest is
a split by itself."""
_BETWEEN = 8
"""Full packs between two boundaries, on average."""
_STEPS = 4
"""Steps in which the size of a full pack doubles: a corpus that changes a little keeps it."""
_MOST_SHARDS = 2**14
"""Shards of a pack at most, however small they are."""
_LEAST = 1024.0
"""Fewest stored bytes of a full pack."""
_KEYS = 2**64


@dataclass(frozen=True)
class SmallShards:
    """The small shards of a format, and what a sample of them lets expect of the others."""

    shards: tuple[Shard, ...]
    """Sorted by URI."""
    full: int
    """Stored bytes of a full pack."""
    most: int
    """Most rows of a split."""
    sample: Mapping[str, ShardStatistics] = field(repr=False)
    """By URI."""
    means: "_Means"

    def expected(self, shards: Sequence[Shard]) -> tuple[int, int]:
        """Rows of some of the shards, and bytes of text; as they were surveyed, or else as the sample is."""
        known = [self.sample[shard.uri] for shard in shards if shard.uri in self.sample]
        size = sum(shard.size for shard in shards) - sum(survey.shard.size for survey in known)
        rows, text = sum(survey.rows for survey in known), sum(survey.text_bytes for survey in known)
        return rows + math.ceil(size * self.means.rows), text + math.ceil(size * self.means.text)

    def packs(self) -> Iterator[Sequence[Shard]]:
        """The shards of each pack."""
        return cut_packs(self.shards, self.full)


def find_small(
    shards: Sequence[Shard], settings: CorpusSettings, run: RunSettings
) -> tuple[list[SmallShards], list[ShardStatistics]]:
    """The small shards by format; and surveys of all others and of a sample of the small ones, in the order of shards.

    Raises as `survey_shards`.
    """
    likely: dict[str, list[Shard]] = {}
    for shard in shards:
        if shard.table is None and shard.size * _SMALL <= run.bytes_per_split:
            likely.setdefault(shard.format, []).append(shard)
    likely = {kind: its for kind, its in likely.items() if len(its) >= FEWEST}
    samples = {kind: _sample(its) for kind, its in likely.items()}
    unclear = {shard.uri for its in likely.values() for shard in its}
    drawn = [shard for its in samples.values() for shard in its]
    surveyed = survey_shards([*drawn, *(shard for shard in shards if shard.uri not in unclear)], settings)
    known = {survey.shard.uri: survey for survey in surveyed}
    means = {kind: _Means.of([known[shard.uri] for shard in its]) for kind, its in samples.items()}
    rows = sum(known[uri].rows for uri in known.keys() - unclear)
    rows += sum(round(means[kind].rows * sum(shard.size for shard in its)) for kind, its in likely.items())
    most = {kind: rows_by_text(run.rows_per_split, its.rows, its.text) for kind, its in means.items()}
    small = []
    for kind, its in likely.items():
        full = _full_pack(means[kind], rows_per_split(rows, most[kind], run.min_splits), run.bytes_per_split)
        chosen = tuple(shard for shard in its if shard.size * _SMALL <= full)
        if len(chosen) >= FEWEST:
            sample = {shard.uri: known[shard.uri] for shard in samples[kind]}
            small.append(SmallShards(chosen, full, most[kind], sample, means[kind]))
            unclear -= {shard.uri for shard in chosen}
    rest = [shard for shard in shards if shard.uri in unclear and shard.uri not in known]
    known |= {survey.shard.uri: survey for survey in survey_shards(rest, settings)}
    return small, [known[shard.uri] for shard in shards if shard.uri in known]


def are_many_small(surveys: Sequence[ShardStatistics], max_rows: Callable[[int, int], int]) -> bool:
    """Whether so many of the shards are small that they are to share splits. max_rows: of a split, by the rows of a
    shard and the bytes of their text."""
    return sum(its.rows * _SMALL <= max_rows(its.rows, its.text_bytes) for its in surveys) >= FEWEST


def cut_packs(shards: Sequence[Shard], full: int) -> Iterator[Sequence[Shard]]:
    """The shards, each at most a quarter of a pack, as runs of at most ``full`` stored bytes.

    A pack ends before a boundary. If there is none while it has room, it ends, when it is half full or fuller, before
    the shard with the smallest hash: the same one, mostly, even if the pack now begins one shard earlier or later.
    """
    keys = np.array([_key(shard.uri) for shard in shards], np.uint64)
    before = np.concatenate([[0], np.cumsum(_sizes(shards, full))])
    ends = [*(number for number in np.flatnonzero(boundaries(shards, full)).tolist() if number), len(shards)]
    start = 0
    for end in ends:
        while before[end] - before[start] > full:
            first = int(np.searchsorted(before, before[start] + full // 2))
            last = int(np.searchsorted(before, before[start] + full, side="right")) - 1
            cut = first + int(np.argmin(keys[first : last + 1]))
            yield shards[start:cut]
            start = cut
        if start < end:
            yield shards[start:end]
            start = end


def boundaries(shards: Sequence[Shard], full: int) -> NDArray[np.bool_]:
    """[n] before which of the shards a pack ends in any case: which follows from their own URIs and sizes alone."""
    keys = np.array([_key(shard.uri) for shard in shards], np.float64)
    return np.asarray(keys < _sizes(shards, full) / (_BETWEEN * full) * _KEYS)


def _sizes(shards: Sequence[Shard], full: int) -> NDArray[np.int64]:
    """[n] what each shard takes of the room of a pack."""
    return np.array([shard.size for shard in shards], np.int64) + max(1, full // _MOST_SHARDS)


@dataclass(frozen=True)
class _Means:
    """Of a stored byte: rows, and bytes of text and of all columns that are read."""

    rows: float
    text: float
    read: float

    @classmethod
    def of(cls, surveys: Sequence[ShardStatistics]) -> "_Means":
        size = max(1, sum(survey.shard.size for survey in surveys))
        rows, text, read = (
            sum(getattr(survey, name) for survey in surveys) / size for name in ("rows", "text_bytes", "read_bytes")
        )
        return cls(rows, text, read)


def _full_pack(means: _Means, max_rows: int, max_bytes: int) -> int:
    """Stored bytes of a pack that has about `_FULL` of the rows or bytes of a split, rounded."""
    size = _FULL * min(max_rows / max(means.rows, 1 / max_bytes), max_bytes / max(means.read, 1 / max_bytes), max_bytes)
    return round(2 ** (round(_STEPS * math.log2(max(_LEAST, size))) / _STEPS))


def _sample(shards: Sequence[Shard]) -> list[Shard]:
    """Some of the shards, by their hashes: one more shard changes one of them at most."""
    return heapq.nsmallest(SAMPLE, shards, key=lambda shard: _key(shard.uri))


@lru_cache(maxsize=2**20)
def _key(uri: str) -> int:
    return int.from_bytes(hashlib.blake2b(uri.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
