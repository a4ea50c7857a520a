"""What comes back of a run: of each split the receipt of what was committed, or the reason why nothing was; losses."""

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from sfr_batch.format import names
from sfr_batch.format.records import Receipt


@dataclass(frozen=True)
class Failure:
    """A split that could not be committed."""

    split_id: str
    shard: str
    error: str


@dataclass(frozen=True)
class Losses:
    """What a run has lost so far, and has done or will do again elsewhere; False if nothing."""

    nodes: int = 0
    actors: int = 0
    """Times that an encode actor died and was started again."""

    def __bool__(self) -> bool:
        return self != Losses()

    def __str__(self) -> str:
        found = (_count(self.nodes, "node"), _count(self.actors, "encode actor"))
        return " and ".join(filter(None, found)) or "nothing"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}" if number else ""


def results(batch: pa.Table) -> Iterator[Receipt | Failure]:
    """The results in what `write_stage.write` returns."""
    for row in batch.to_pylist():
        if row["receipt"] is None:
            yield Failure(row[names.SPLIT_ID], row["shard"], row["error"])
        else:
            yield Receipt.from_json(row["receipt"])
