"""Splits whose vectors exist: only carried columns have changed, or another table lends them, so they are copied.

Commits like the write stage; needs no model and no device."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.corpus.reader import read_unit
from sfr_batch.corpus.rows import Rows
from sfr_batch.corpus.splits import Split, packed_together
from sfr_batch.format import names
from sfr_batch.format.records import Receipt
from sfr_batch.format.side_tables import to_table
from sfr_batch.pipeline.gathering import Dealt, Source, Spread, deal, gather_rows, spread_of
from sfr_batch.pipeline.job import Job, make_job
from sfr_batch.pipeline.write_stage import table_store
from sfr_batch.planning.comparison import ComparisonRun
from sfr_batch.planning.decided_rows import Work, WorkRows
from sfr_batch.planning.difference import Lender
from sfr_batch.planning.limits import vector_bytes
from sfr_batch.planning.packed_rows import PackedSplits, Part, chosen
from sfr_batch.storage.executor import in_order
from sfr_batch.table.commit.writing import commit_split, new_attempt

_PIECE_BYTES = 2**18
"""Fewest bytes, about, that a range of files deals to a group of splits: Ray keeps smaller objects on the driver."""
_PIECES = 128
"""Most ranges, and most groups, at a time: each piece is an object of which the driver knows."""
_DOCUMENTS = 2**22
"""Most documents at a time: one task sorts the places of their vectors, of 28 bytes each."""


class _Sources(NamedTuple):
    """What the copies of a run share. files: the receipts of all data files with vectors, by number; lender: the table
    of those that the rows take; None: the one that is written."""

    job: Job
    files: pa.Table
    lender: Lender | None
    by_position: bool

    def source(self) -> Source:
        job, lender = self.job, self.lender
        store = table_store(lender.table if lender else job.table, job.table_storage.model_dump_json())
        return Source(store, self.files, _stored_columns(job), (lender or job.card).fingerprint)


class _Group(NamedTuple):
    """Consecutive splits that are read together, see `CutRows.together`.

    ends: [splits] how many of the rows are in the splits up to each.
    """

    split_ids: Sequence[str]
    ends: Sequence[int]
    parts: Sequence[Part]


def copy_all(comparison: ComparisonRun, run_id: str) -> Iterator[Receipt]:
    """Commit the splits whose vectors are copied, in order, as tasks of the comparison's executor.

    Raises what reading the corpus and the table raises.
    """
    found, job = comparison.rows, make_job(comparison.plan, run_id)
    some = [splits for splits in comparison.copied if splits.split_ids]
    files = to_table(Receipt, list(found.receipts)) if some else None
    for splits in some:
        rows, lender = splits.rows, found.lender if splits.rows.work == Work.LENT else None
        shared = found.executor.share(_Sources(job, files, lender, rows.by_position))
        yield from itertools.chain.from_iterable(_copied(splits, shared, _document_bytes(splits, job)))
        rows.release()


def _document_bytes(splits: PackedSplits, job: Job) -> float:
    """Bytes of the vectors of a document, on average."""
    totals = splits.rows.found.totals
    documents = sum(int(totals[work.column].sum()) for work in (Work.COPY, Work.LENT))
    return vector_bytes(job.card.schema) * int(totals["vectors"].sum()) / documents


def _copied(splits: PackedSplits, shared: Any, document_bytes: float) -> Iterator[list[Receipt]]:
    """The receipts of some splits after others. shared: handle of the `_Sources`."""
    executor = splits.rows.found.executor
    documents = min(_DOCUMENTS, int(executor.room / document_bytes))
    found = (_Round.of(splits, its, document_bytes) for its in _rounds(splits, documents))
    for scattered, rounds in itertools.groupby(found, key=lambda its: its.spread.scattered):
        if not scattered:
            calls = (call for its in rounds for call in its.calls(shared))
            yield from in_order(executor, _copy, calls)
            continue
        for its in rounds:  # one at a time has room
            yield from in_order(executor, _copy_dealt, its.dealt(shared))


def _rounds(splits: PackedSplits, documents: int) -> Iterator[range]:
    """The splits, so many consecutive ones together that they have at most so many documents, or one."""
    ends, first = splits.rows.ends, 0
    while first < len(splits.split_ids):
        end = max(first + 1, int(np.searchsorted(ends, ends[first] + documents, "right")) - 1)
        yield range(first, end)
        first = end


class _Round(NamedTuple):
    """Consecutive splits, and how their vectors are spread over data files.

    parts: ranges of files, and groups of splits, if the vectors are dealt; places: handle of the `WorkRows`.
    """

    splits: PackedSplits
    its: range
    parts: int
    spread: Spread
    places: Any

    @classmethod
    def of(cls, splits: PackedSplits, its: range, document_bytes: float) -> "_Round":
        rows, executor = splits.rows, splits.rows.found.executor
        ends = rows.ends[its.start : its.stop + 1]
        size = int((ends[-1] - ends[0]) * document_bytes)
        parts = max(1, min(_PIECES, math.isqrt(size // _PIECE_BYTES)))
        spans: dict[int, tuple[int, int]] = {}  # rows of each scan task
        for part in rows.parts_of(its):
            spans[part.task] = spans.get(part.task, (part.start, 0))[0], part.stop
        handles = (rows.handles[task] for task in spans)
        arguments = (ends[1:] - ends[0]).tolist(), list(spans.values()), parts
        spread, places = executor.submit(spread_of, *arguments, *handles, returns=2)
        return cls(splits, its, parts, next(executor.get([spread])), places)

    def calls(self, shared: Any) -> Iterator[tuple[Any, ...]]:
        """The arguments of `_copy` for each group of splits."""
        for some in self.splits.rows.together(self.its):
            yield shared, *self._read([some])

    def dealt(self, shared: Any) -> Iterator[tuple[Any, ...]]:
        """The arguments of `_copy_dealt` for each group of splits, to which all files have dealt their rows."""
        ends, groups = self.splits.rows.ends, list(self.splits.rows.together(self.its))
        until = ends[[some.stop for some in groups]] - ends[self.its.start]  # [groups] documents up to each
        cuts = np.unique(np.searchsorted(until, until[-1] * np.arange(1, self.parts + 1) // self.parts)) + 1
        bounds, documents = self.spread.bounds, until[cuts - 1].tolist()
        ranges = ((shared, number, bounds, documents, self.places) for number in range(len(bounds) + 1))
        submit = self.splits.rows.found.executor.submit
        pieces = [submit(_deal, *arguments, returns=len(documents)) for arguments in ranges]
        for number, (first, end) in enumerate(itertools.pairwise([0, *cuts.tolist()])):
            yield shared, bounds, *self._read(groups[first:end]), *(its[number] for its in pieces)

    def _read(self, some: Sequence[range]) -> tuple[list[_Group], list[int], *tuple[Any, ...]]:
        """Groups of the splits, the numbers of the scan tasks that have their rows, and handles of the `WorkRows`."""
        rows = self.splits.rows
        groups = [
            _Group(
                self.splits.split_ids[its.start : its.stop],
                (rows.ends[its.start + 1 : its.stop + 1] - rows.ends[its.start]).tolist(),
                rows.parts_of(its),
            )
            for its in some
        ]
        tasks, handles = rows.handed(part for group in groups for part in group.parts)
        return groups, tasks, *handles


def _copy(shared: _Sources, groups: Sequence[_Group], tasks: Sequence[int], *rows: WorkRows) -> list[Receipt]:
    """A task: commit splits whose vectors are read from their data files.

    rows: of the scan tasks that ``tasks`` has the numbers of.
    """
    source = shared.source()
    return _commit(shared, groups, dict(zip(tasks, rows, strict=True)), lambda places: gather_rows(source, places))


def _deal(
    shared: _Sources, number: int, bounds: Sequence[int], ends: Sequence[int], places: WorkRows
) -> tuple[pa.Table, ...] | pa.Table:
    """A task: `gathering.deal`. To one group: without a tuple, as executors have it."""
    pieces = deal(shared.source(), number, bounds, ends, places)
    return pieces if len(pieces) > 1 else pieces[0]


def _copy_dealt(
    shared: _Sources, bounds: Sequence[int], groups: Sequence[_Group], tasks: Sequence[int], *handed: Any
) -> list[Receipt]:
    """A task: commit splits whose vectors were dealt to them. handed: the rows, as of `_copy`, and the pieces."""
    rows, pieces = handed[: len(tasks)], handed[len(tasks) :]
    return _commit(shared, groups, dict(zip(tasks, rows, strict=True)), Dealt(pieces, bounds).take)


def _commit(
    shared: _Sources,
    groups: Sequence[_Group],
    rows: Mapping[int, WorkRows],
    vectors: Callable[[WorkRows], pa.Table],
) -> list[Receipt]:
    """Commit splits in order, with today's carried columns. vectors: gives the rows of the documents of a split."""
    receipts = []
    for group in groups:
        chosen_rows = chosen(group.parts, rows, by_position=shared.by_position)
        unit = packed_together(group.split_ids, np.diff(group.ends, prepend=0).tolist(), chosen_rows)
        places = np.concatenate([rows[part.task][part.start : part.stop] for part in group.parts])
        read = read_unit(unit, shared.job.corpus, shared.job.columns)
        for (split, documents), (first, end) in zip(read, itertools.pairwise([0, *group.ends]), strict=True):
            its = places[first:end]
            receipts.append(_commit_one(split, shared.job, documents, its["vectors"], vectors(its)))
    return receipts


def _commit_one(split: Split, job: Job, documents: Rows, repeats: NDArray[np.int32], stored: pa.Table) -> Receipt:
    """repeats: [documents] how many rows each has; stored: [rows] the columns that are copied."""
    columns = {
        names.ID: documents.ids,
        names.CONTENT_HASH: documents.content_hash,
        names.ROW_HASH: documents.row_hash,
        **{name: documents.carry.column(name) for name in documents.carry.column_names},
    }
    table = pa.table(columns).take(pa.array(np.repeat(np.arange(len(repeats)), repeats)))
    for name in stored.column_names:
        table = table.append_column(name, stored.column(name))
    receipt = Receipt.of_rows(
        table,
        split_id=split.split_id,
        shard=split.shard,
        version=split.version,
        start=split.start,
        attempt=new_attempt(),
        run_id=job.run_id,
        generation=job.generation,
        rejected=documents.rejects.num_rows,
        copied=True,
        covers=job.covers,
    )
    store = table_store(job.table, job.table_storage.model_dump_json())
    return commit_split(store, job.card, receipt, table.select(job.card.schema.names), documents.rejects)


def _stored_columns(job: Job) -> list[str]:
    """Columns that are copied: whatever follows from the text and the model, and not from the corpus of today."""
    chunks = [name for name in names.CHUNK_COLUMNS if name in job.card.schema.names]
    return [names.EMBEDDING, names.N_TOKENS, names.N_TOKENS_FULL, names.TRUNCATED, *chunks]
