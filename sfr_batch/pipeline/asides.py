"""What the workers of a run on Ray tell its driver beside their results: requests to S3 that they have repeated, and
how long encode actors waited for input.

It travels with each split, as JSON in a column of its own, and adds up in the driver. A process tells what is new since
it last told; what a worker that dies has not told is lost. Nothing but metrics and the report depends on it. Knows no
stage and no Ray.
"""

import json
from collections import Counter

import pyarrow as pa

from sfr_batch.storage.retries import repeated_requests

ASIDE = "aside"
"""Column of the batches between stages."""
_WAITED, _REPEATED = "waited", "repeated"
_told: Counter[str] = Counter()
"""Repeated requests of this process that it has told."""


def with_aside(batch: pa.Table, before: pa.Table | None = None, waited: float = 0.0) -> pa.Table:
    """A batch, with what is to be told beside it.

    before: the batch that it was made from, whose aside goes on. waited: seconds that this process waited for that.
    """
    global _told
    earlier = Asides()
    if before is not None:
        for told in before.column(ASIDE).to_pylist():
            earlier.add(told)
    now = repeated_requests()
    news, _told = now - _told, now
    aside = json.dumps({_WAITED: earlier.waited + waited, _REPEATED: earlier.repeated + news})
    return batch.append_column(ASIDE, pa.array([aside, *[None] * (batch.num_rows - 1)], pa.string()))


class Asides:
    """All that workers have told."""

    def __init__(self) -> None:
        self.waited = 0.0
        """Seconds that encode actors waited for splits, added up."""
        self.repeated: Counter[str] = Counter()
        """Requests to S3 that workers have repeated, by reason."""

    def add(self, told: str | None) -> None:
        """Count what `with_aside` has written."""
        if told is not None:
            values = json.loads(told)
            self.waited += values[_WAITED]
            self.repeated.update(values[_REPEATED])


def nothing_told(told: str | None) -> None:
    """For those who do not ask."""
