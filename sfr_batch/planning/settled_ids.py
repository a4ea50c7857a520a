"""Before anything is embedded: which rows count among those that share an id (`table.duplicate_ids: last`).

Reads ids, and the column to order by, of the shards that the run reads; of unchanged shards from the table, where they
are ids of these shards. A row that does not count is not embedded: it is a reject without a vector in the index of its
shard. If the row that it lost to has left or has become smaller, its shard is read again: `SettledIds.again`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.reader import read_ids
from sfr_batch.corpus.splits import ReadUnit, cut
from sfr_batch.format.hashes import halves
from sfr_batch.planning.last_rows import (
    ID,
    KIND,
    MORE,
    ORDER,
    POSITION,
    REJECTED,
    SHARD,
    RowKind,
    decide,
    find_rivals,
)
from sfr_batch.planning.losing_rows import Losers
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.row_comparison import UNIT_BYTES, UNIT_ROWS, batches
from sfr_batch.planning.table_ids import deal_table, dealt, ids_to_read
from sfr_batch.storage.executor import Executor, partitioned


@dataclass(frozen=True)
class SettledIds:
    """Which rows count. Without a rule, or without changed shards, empty. What grows with the rows that repeat an id
    stays where tasks run."""

    losing: Losers = field(default_factory=Losers)
    """The rows that do not count, of the shards that the run reads."""
    again: frozenset[str] = frozenset()
    """URIs of unchanged shards that have to be read, because rows of them may count that have no vector."""
    contests: Sequence[Any] = ()
    """Handles of [n] of CONTEST, its shards by their number in ``uris``; partitions without any are left out."""
    uris: Sequence[str] = ()
    replaced: int = 0
    """Rows that count in the place of rows of unchanged shards."""
    unchanged: Any | None = None
    """Handle of [n] first halves of the hashes of ids that unchanged shards have a vector of, and read or vanished ones
    have, too; sorted. None: there are none."""

    def rivals_of(self, executor: Executor, rejected: Iterable[tuple[str, NDArray[np.int64]]]) -> frozenset[str]:
        """URIs of the unchanged shards with vectors of ids whose row that counts was rejected, so that none is live.

        rejected: shards and positions of rejected rows.
        """
        numbers = {uri: number for number, uri in enumerate(self.uris)}
        pieces = [np.empty(0, REJECTED)]
        for uri, positions in rejected if self.contests else ():
            if uri in numbers:
                pieces.append(np.empty(len(positions), REJECTED))
                pieces[-1]["shard"], pieces[-1][POSITION] = numbers[uri], positions
        rows = np.concatenate(pieces)
        if not len(rows):
            return frozenset()
        shared = executor.share(rows)
        found = executor.get([executor.submit(find_rivals, part, shared)[0] for part in self.contests])
        return frozenset(self.uris[number] for rivals in found for number in rivals.tolist())


class Judged(NamedTuple):
    """What the driver gets of a partition: numbers of shards, and how many there are of what stays."""

    losing: NDArray[np.int32]
    again: NDArray[np.int32]
    lost: int
    contests: int
    replaced: int
    unchanged: int


def settle_ids(plan: EmbedPlan, executor: Executor) -> SettledIds:
    """Decide which rows count. Raises what reading the corpus and the table raises."""
    if not plan.settles_ids:
        return SettledIds()
    rule = plan.duplicate_rule
    if rule is None:  # all rows of an id need a vector from now on, for the first is found when it is published
        return SettledIds(again=frozenset(record.uri for record in plan.carried if record.superseded))
    records = (*plan.carried, *plan.vanished, *plan.staying)
    uris = sorted({shard.uri for shard, _ in plan.changed} | {record.uri for record in records})
    numbers = {uri: number for number, uri in enumerate(uris)}
    units = [unit for survey in plan.surveys for unit in cut(survey, UNIT_ROWS, UNIT_BYTES, ("scan",), frozenset())]
    partitions, least = partitioned(plan.rows_to_compare + (ids_to_read(plan) if plan.rule_changed else 0))
    carry = {rule.order_by: plan.columns.carry[rule.order_by]} if rule.order_by else {}
    shared = executor.share((plan.config.corpus, Columns(plan.columns.id_type, carry), numbers))
    today = [
        executor.submit(_scan_ids, list(units[first:end]), shared, partitions, returns=1 + partitions)[1:]
        for first, end in batches(units, least)
    ]
    table = deal_table(plan, executor, numbers, today, partitions, least)
    judged = []
    for number in range(partitions):
        parts = (its[number] for its in (*today, *table))
        judged.append(executor.submit(_decide_partition, not plan.rule_changed, *parts, returns=4))
    del today, table  # handles keep results in memory
    return _settled(executor, judged, uris)


def _settled(executor: Executor, judged: Sequence[Sequence[Any]], uris: Sequence[str]) -> SettledIds:
    """judged: handles of what `_decide_partition` returns, by partition."""
    found: list[Judged] = list(executor.get([said for said, *_ in judged]))
    losers, contests, unchanged = (
        [its[1 + kind] for its, said in zip(judged, found, strict=True) if getattr(said, name)]
        for kind, name in enumerate(("lost", "contests", "unchanged"))
    )
    losing = Losers(
        shards={uris[number]: number for said in found for number in said.losing.tolist()},
        rows=sum(said.lost for said in found),
        parts=losers,
        uris=executor.share(uris) if losers else None,
    )
    return SettledIds(
        losing=losing,
        again=frozenset(uris[number] for said in found for number in said.again.tolist()),
        contests=contests,
        uris=uris,
        replaced=sum(said.replaced for said in found),
        unchanged=executor.submit(_sorted, *unchanged)[0] if unchanged else None,
    )


def _sorted(*parts: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A task: all of the parts."""
    return np.sort(np.concatenate(parts))


def _scan_ids(
    units: Sequence[ReadUnit], shared: tuple[CorpusSettings, Columns, Mapping[str, int]], partitions: int
) -> tuple[Any, ...]:
    """A task: None, then the rows of each partition as a table."""
    corpus, columns, numbers = shared
    parts = []
    for unit in units:
        for found in read_ids(unit, corpus, columns):
            ids = halves(found.id_hash)
            parts.append(
                pa.table(
                    {
                        ID: ids[:, 0],
                        MORE: ids[:, 1],
                        KIND: np.full(len(ids), RowKind.TODAY, np.uint8),
                        SHARD: np.full(len(ids), numbers[unit.shard.uri], np.int32),
                        POSITION: found.positions,
                        **({} if found.order is None else {ORDER: found.order}),
                    }
                )
            )
    return None, *dealt(pa.concat_tables(parts).combine_chunks(), partitions)


def _decide_partition(same_rule: bool, *parts: pa.Table) -> tuple[Any, ...]:
    """A task. Returns what was `Judged`, then losers, contests and ids of unchanged shards, as in `Verdict`.

    parts: rows that are read today, then rows of the table, which have no position.
    """
    rows = [its if POSITION in its.column_names else its.append_column(POSITION, _no_positions(its)) for its in parts]
    if not rows:
        nothing = {ID: pa.uint64(), MORE: pa.uint64(), KIND: pa.uint8(), SHARD: pa.int32(), POSITION: pa.int64()}
        rows = [pa.schema(list(nothing.items())).empty_table()]
    # Values have equal types by construction, but for a table without rows.
    schema = rows[0].schema
    same = [its if its.schema.equals(schema) else its.select(schema.names).cast(schema) for its in rows]
    found = decide(pa.concat_tables(same).combine_chunks(), same_rule=same_rule)
    said = Judged(
        losing=np.unique(found.losers["shard"]),
        again=found.again,
        lost=len(found.losers),
        contests=len(found.contests),
        replaced=found.replaced,
        unchanged=len(found.unchanged),
    )
    return said, found.losers, found.contests, found.unchanged


def _no_positions(rows: pa.Table) -> pa.Array:
    return pa.array(np.zeros(rows.num_rows, np.int64))
