"""The results of a run: a receipt or a failure for each split, and the losses of the cluster. Plain values."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from sfr_batch.errors import counted
from sfr_batch.format import names
from sfr_batch.format.records import Receipt
from sfr_batch.pipeline.work import WORK, untold


@dataclass(frozen=True)
class Failure:
    """A split that could not be committed."""

    split_id: str
    shard: str
    error: str


@dataclass(frozen=True)
class Losses:
    """Nodes and actors that a run has lost so far, and whose work is done again elsewhere; false if there are none."""

    nodes: int = 0
    actors: int = 0
    """Number of restarts of encode actors."""

    def __bool__(self) -> bool:
        return self != Losses()

    def __str__(self) -> str:
        lost = ((self.nodes, "node"), (self.actors, "encode actor"))
        return " and ".join(counted(number, noun) for number, noun in lost if number) or "nothing"


def results(batch: pa.Table, work: Callable[[str], None] = untold) -> Iterator[Receipt | Failure]:
    """The results in a batch that `write_stage.write` has returned.

    work: is called before each receipt with what the split took beside it, see `work.work_of`.
    """
    for row in batch.to_pylist():
        if row["receipt"] is None:
            yield Failure(row[names.SPLIT_ID], row["shard"], row["error"])
        else:
            work(row[WORK])
            yield Receipt.from_json(row["receipt"])
