"""Rows that do not count, because another row has their id (`table.duplicate_ids: last`). They stay where tasks run.

The driver knows their shards and their number; the tasks that read shards get those of their own. Knows no files.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfr_batch.planning.last_rows import LOSER, POSITION
from sfr_batch.storage.executor import ROWS_A_PART, Executor


@dataclass(frozen=True)
class LosingRows:
    """The rows of a shard that do not count.

    positions: [n] ascending. by: [n] which of ``winners``, URIs of shards, has the row that counts; by_position: [n]
    its position there, -1 where it is not known.
    """

    positions: NDArray[np.int64]
    winners: tuple[str, ...]
    by: NDArray[np.int64]
    by_position: NDArray[np.int64]

    def find(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """[m] the number of the losing row at each of the positions [m], -1 if it counts."""
        at = np.minimum(np.searchsorted(self.positions, positions), len(self.positions) - 1)
        return np.asarray(np.where(self.positions[at] == positions, at, -1))

    def message(self, row: int, why: str) -> str:
        """The message of the reject. why: see `comes_last`."""
        winner, position = self.winners[self.by[row]], int(self.by_position[row])
        where = f"position {position} of {winner}" if position >= 0 else f"a row of {winner}"
        return f"when it was read, {where} had this id, too, and {why}"


@dataclass(frozen=True)
class Losers:
    """All rows that do not count, of the shards that a run reads."""

    shards: Mapping[str, int] = field(default_factory=dict)
    """The shards that have some: their numbers, by URI."""
    rows: int = 0
    """How many there are."""
    parts: Sequence[Any] = ()
    """Handles of [n] of `last_rows.LOSER`, by partition of the ids."""
    uris: Any = None
    """Handle of the URIs of all shards, by number."""

    def of_tasks(self, executor: Executor, tasks: Sequence[Sequence[str]]) -> list[Any]:
        """[tasks] handles of mappings: the `LosingRows` of those of a task's shards that have some, by URI. tasks: the
        URIs of the shards of each, in the order of the corpus."""
        numbers = [sorted({self.shards[uri] for uri in uris if uri in self.shards}) for uris in tasks]
        wanted = [number for number, its in enumerate(numbers) if its]
        found = [executor.share({})] * len(tasks)
        # As many bundles as there may be, so that what a partition hands to each is no small object.
        bundles = max(1, min(len(wanted), self.rows // (max(1, len(self.parts)) * ROWS_A_PART)))
        for some in np.array_split(np.array(wanted, np.int64), bundles):
            parts = self.parts
            if bundles > 1:
                shards = sorted({shard for task in some.tolist() for shard in numbers[task]})
                parts = [executor.submit(losers_in, part, shards)[0] for part in self.parts]
            for task in some.tolist():
                [found[task]] = executor.submit(losing_in, self.uris, numbers[task], *parts)
        return found


def losers_in(losers: NDArray[np.void], shards: Sequence[int]) -> NDArray[np.void]:
    """A task: those in some shards."""
    return losers[np.isin(losers["shard"], np.array(shards, np.int32))]


def losing_in(uris: Sequence[str], shards: Sequence[int], *parts: NDArray[np.void]) -> dict[str, LosingRows]:
    """A task: the rows of some shards, by their URIs. parts: of `last_rows.LOSER`."""
    losers = np.concatenate([np.empty(0, LOSER), *(losers_in(part, shards) for part in parts)])
    return dict(_by_shard(losers[np.lexsort((losers[POSITION], losers["shard"]))], uris))


def _by_shard(losers: NDArray[np.void], uris: Sequence[str]) -> Iterator[tuple[str, LosingRows]]:
    """losers: by shard and position."""
    bounds = np.flatnonzero(np.diff(losers["shard"])) + 1
    for own in np.split(losers, bounds) if len(losers) else ():
        used, which = np.unique(own["by_shard"], return_inverse=True)
        winners = tuple(uris[number] for number in used.tolist())
        yield uris[own["shard"][0]], LosingRows(own[POSITION].copy(), winners, which, own["by_position"].copy())
