"""Rejects as a report may have them: examples, a few of each reason and nothing in full length; and a number."""

from collections import Counter
from collections.abc import Mapping

import pyarrow as pa

from sfr_batch.format import names
from sfr_batch.format.on_screen import shown, shown_id
from sfr_batch.format.parquet import open_parquet
from sfr_batch.storage.store import Store
from sfr_batch.table.report.value import RejectExample

EXAMPLES = 5
"""Most examples that are kept, of each reason."""
REASONS = 50
"""Most reasons that are told apart: a corpus may not make a report grow."""


def examples_of(rejects: pa.Table, shard: str = "", before: Mapping[str, int] | None = None) -> list[RejectExample]:
    """Some rejects of each reason. rejects: columns of REJECTS_SCHEMA.

    shard: of those that name none. before: how many examples there are already, by reason.
    """
    seen = Counter(before or {})
    chosen = []
    for at, reason in enumerate(rejects.column(names.REASON).to_pylist()):
        seen[reason] += 1
        if seen[reason] <= EXAMPLES and len(seen) <= REASONS:
            chosen.append(at)
    return [
        RejectExample(
            reason=shown(row[names.REASON]),
            id="" if row[names.ID] is None else shown_id(row[names.ID]),
            shard=shown(row[names.SHARD] or shard, 500),
            position=row[names.POSITION],
            message=shown(row[names.MESSAGE], 300),
        )
        for row in rejects.take(pa.array(chosen, pa.int64())).to_pylist()
    ]


def count_duplicates(store: Store, key: str | None) -> int:
    """Rows in the file of duplicates that a manifest names, if it names one. Reads its footer alone.

    Raises ObjectNotFound, StorageError.
    """
    if key is None:
        return 0
    with store.open(key) as file:
        return int(open_parquet(file).metadata.num_rows)
