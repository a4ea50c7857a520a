"""What the splits of a run took, beside their receipts: times of stages, lengths of texts, reasons of rejects.

It travels from the write stage to the driver as JSON, with the result of each split, and adds up there to a bounded
number of figures. Nothing but the report depends on it. Knows no stage.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format import names
from sfr_batch.format.records import Receipt
from sfr_batch.table.report.examples import EXAMPLES, REASONS, examples_of
from sfr_batch.table.report.measures import EDGES, Series, length_counts
from sfr_batch.table.report.value import Lengths, RejectExample, Rejects, Throughput

TIMES, WORK = "times", "work"
"""Columns of the batches between stages: what reading took, and the work of a split."""


def with_times(batch: pa.Table, **seconds: float) -> pa.Table:
    """A batch of one split with what reading and tokenizing took."""
    return batch.append_column(TIMES, pa.array([json.dumps(seconds)]))


def work_of(seconds: Mapping[str, float], rows: pa.Table, rejects: pa.Table, shard: str) -> str:
    """The work of a split as JSON.

    seconds: of the stages `read`, `tokenize` and `write`. rows: as committed. rejects: columns of REJECTS_SCHEMA.
    shard: of rejects that name none.
    """
    full = rows.column(names.N_TOKENS_FULL).to_numpy()  # of the whole document, in each of its rows
    if names.CHUNK in rows.column_names:
        full = full[rows.column(names.CHUNK).to_numpy() == 0]
    lengths = rows.column(names.N_TOKENS).to_numpy()
    reasons = Counter(rejects.column(names.REASON).to_pylist())
    examples = [example.model_dump() for example in examples_of(rejects, shard)]
    return json.dumps([dict(seconds), _sparse(length_counts(full)), _sparse(length_counts(lengths)), reasons, examples])


class Work:
    """The work of all splits of a run so far."""

    def __init__(self) -> None:
        self._series = Series()
        self._seconds: Counter[str] = Counter()
        self._documents, self._rows = (np.zeros(len(EDGES), np.int64) for _ in range(2))
        self._rejects: Counter[str] = Counter()
        self._examples: dict[str, list[RejectExample]] = {}
        self._truncated = self._tokens_full = 0

    def add(self, work: str) -> None:
        """Count what `work_of` has made."""
        seconds, documents, rows, reasons, examples = json.loads(work)
        self._seconds.update(seconds)
        for counts, pairs in ((self._documents, documents), (self._rows, rows)):
            for bucket, amount in pairs:
                counts[bucket] += amount
        for reason, amount in reasons.items():
            known = reason in self._rejects or len(self._rejects) < REASONS
            self._rejects[reason if known else "other reasons"] += amount
        for example in map(RejectExample.model_validate, examples):
            kept = self._examples.setdefault(example.reason, []) if len(self._examples) < REASONS else []
            if len(kept) < EXAMPLES:
                kept.append(example)

    def committed(self, receipt: Receipt, at: float) -> None:
        """Count a finished split, ``at`` seconds after the run began to embed."""
        self._series.add(at - receipt.encode_seconds, at, receipt.tokens, receipt.embedded)
        self._truncated += receipt.truncated
        self._tokens_full += receipt.tokens_full

    @property
    def seconds(self) -> dict[str, float]:
        """Of the stages `read`, `tokenize` and `write` so far. Another thread may ask while it grows."""
        return dict(self._seconds)

    @property
    def rejects(self) -> dict[str, int]:
        """Rejected rows so far, by reason. Another thread may ask while it grows."""
        return dict(self._rejects)

    def figures(self) -> dict[str, Any]:
        """What it comes to, by the fields of a report. A signal may ask for it from another thread, while it grows."""
        tokens, rows = self._series.values()
        return {
            "throughput": Throughput(every_seconds=self._series.every_s, tokens=tokens, rows=rows),
            "lengths": Lengths(edges=EDGES, documents=_plain(self._documents), rows=_plain(self._rows)),
            "rejects": Rejects(
                by_reason=dict(self._rejects),
                examples=tuple(row for rows in list(self._examples.values()) for row in rows),
            ),
            "truncated": self._truncated,
            "tokens_full": self._tokens_full,
            **{f"{stage}_seconds": self._seconds[stage] for stage in ("read", "tokenize", "write")},
        }


def untold(work: str) -> None:
    """For those who do not ask."""


def _sparse(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    return [(int(bucket), int(counts[bucket])) for bucket in np.flatnonzero(counts)]


def _plain(counts: Sequence[int] | NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(number) for number in counts)
