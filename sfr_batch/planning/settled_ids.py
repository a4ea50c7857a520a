"""Before anything is embedded: which rows count among those that share an id (`table.duplicate_ids: last`).

Reads ids, and the column to order by, of the shards that the run reads; of unchanged shards from the table, where they
are ids of these shards. A row that does not count is not embedded: it is a reject without a vector in the index of its
shard. If the row that it lost to has left or has become smaller, its shard is read again: `SettledIds.again`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.reader import read_ids
from sfr_batch.corpus.splits import ReadUnit, cut
from sfr_batch.format.hashes import halves
from sfr_batch.planning.last_rows import (
    CONTEST,
    ID,
    KIND,
    LOSER,
    MORE,
    ORDER,
    POSITION,
    SHARD,
    RowKind,
    Verdict,
    decide,
)
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.planning.row_comparison import UNIT_BYTES, UNIT_ROWS, batches
from sfr_batch.planning.scan import LosingRows
from sfr_batch.planning.table_ids import deal_table, dealt, ids_to_read
from sfr_batch.storage.executor import Executor, partitioned


@dataclass(frozen=True)
class SettledIds:
    """Which rows count. Without a rule, or without changed shards, empty."""

    losing: Mapping[str, LosingRows] = field(default_factory=dict)
    """The rows that do not count, by the URI of their shard; of the shards that the run reads."""
    again: frozenset[str] = frozenset()
    """URIs of unchanged shards that have to be read, because rows of them may count that have no vector."""
    contests: NDArray[np.void] = field(default_factory=lambda: np.empty(0, CONTEST))
    """[n] of CONTEST, its shards by their number in ``uris``."""
    uris: Sequence[str] = ()
    replaced: int = 0
    """Rows that count in the place of rows of unchanged shards."""
    unchanged: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """First halves of the hashes of ids that unchanged shards have a vector of, and read or vanished ones have, too;
    sorted."""

    def rivals_of(self, rejected: Iterable[tuple[str, NDArray[np.int64]]]) -> frozenset[str]:
        """URIs of the unchanged shards with vectors of ids whose row that counts was rejected, so that none is live.

        rejected: shards and positions of rejected rows.
        """
        if not len(self.contests):
            return frozenset()
        number = {uri: at for at, uri in enumerate(self.uris)}
        found: set[int] = set()
        for uri, positions in rejected:
            own = self.contests[self.contests["shard"] == number.get(uri, -1)]
            found.update(own["rival"][np.isin(own[POSITION], positions)].tolist())
        return frozenset(self.uris[at] for at in found)


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
        judged += executor.submit(_decide_partition, not plan.rule_changed, *parts)
    del today, table  # handles keep results in memory
    return _settled(list(executor.get(judged)), uris)


def _settled(verdicts: Sequence[Verdict], uris: Sequence[str]) -> SettledIds:
    losers = np.concatenate([verdict.losers for verdict in verdicts])
    losers = losers[np.lexsort((losers[POSITION], losers["shard"]))]
    return SettledIds(
        losing=dict(_by_shard(losers, uris)),
        again=frozenset(uris[number] for verdict in verdicts for number in verdict.again.tolist()),
        contests=np.concatenate([verdict.contests for verdict in verdicts]),
        uris=uris,
        replaced=sum(verdict.replaced for verdict in verdicts),
        unchanged=np.sort(np.concatenate([verdict.unchanged for verdict in verdicts])),
    )


def _by_shard(losers: NDArray[np.void], uris: Sequence[str]) -> Iterator[tuple[str, LosingRows]]:
    """losers: of LOSER, by shard and position."""
    assert losers.dtype == LOSER
    bounds = np.flatnonzero(np.diff(losers["shard"])) + 1
    for own in np.split(losers, bounds) if len(losers) else ():
        used, which = np.unique(own["by_shard"], return_inverse=True)
        winners = tuple(uris[number] for number in used.tolist())
        yield uris[own["shard"][0]], LosingRows(own[POSITION].copy(), winners, which, own["by_position"].copy())


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


def _decide_partition(same_rule: bool, *parts: pa.Table) -> Verdict:
    """A task. parts: rows that are read today, then rows of the table, which have no position."""
    rows = [its if POSITION in its.column_names else its.append_column(POSITION, _no_positions(its)) for its in parts]
    if not rows:
        nothing = {ID: pa.uint64(), MORE: pa.uint64(), KIND: pa.uint8(), SHARD: pa.int32(), POSITION: pa.int64()}
        rows = [pa.schema(list(nothing.items())).empty_table()]
    # Values have equal types by construction, but for a table without rows.
    schema = rows[0].schema
    same = [its if its.schema.equals(schema) else its.select(schema.names).cast(schema) for its in rows]
    return decide(pa.concat_tables(same).combine_chunks(), same_rule=same_rule)


def _no_positions(rows: pa.Table) -> pa.Array:
    return pa.array(np.zeros(rows.num_rows, np.int64))
