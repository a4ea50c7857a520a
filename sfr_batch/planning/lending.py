"""`table.reuse_from`: another table, made by the same model and settings, lends vectors of texts that it has.

They are copied into data files of this table, which never names those of the other. Text decides, not the id: other
carried columns, another id column or another rule for duplicates need no model then. Reads hashes of texts only, in
tasks of the comparison's executor.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.config.settings import StorageSettings, TableSettings
from sfr_batch.errors import ConfigError, TableDamaged, TableMismatch, TableNotFound
from sfr_batch.format import names
from sfr_batch.format.fingerprint import LATER_INPUTS, mismatches
from sfr_batch.format.hashes import Hashes, halves
from sfr_batch.format.indexes import first_rows, read_ahead
from sfr_batch.format.parquet import read_data_file
from sfr_batch.format.records import Receipt
from sfr_batch.model.identity import comparable
from sfr_batch.planning.decided_rows import Bounds, DecidedRows, UnitTotals, totals_of, with_places
from sfr_batch.planning.difference import Lender
from sfr_batch.planning.join import (
    PLACE_DTYPE,
    PLACE_FIELDS,
    Decision,
    among_sorted,
    find_first,
    partition_of,
    sorted_ids,
    split_by,
)
from sfr_batch.planning.row_comparison import RowComparison
from sfr_batch.planning.scan import ScannedUnit
from sfr_batch.storage.executor import ROWS_A_PART, ROWS_A_TASK, grouped, partitioned
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.damage import find_lost, tell
from sfr_batch.table.table import Snapshot, Table

_FEW = 8
"""Where the lender has so many times the rows that look for a text, its tasks hand on only texts that are looked for:
there are as few partitions as the rows to encode allow."""


def open_lender(settings: TableSettings, inputs: dict[str, object], root: str) -> Snapshot | None:
    """The newest snapshot of the table that lends vectors; None without one, and under a label, which wants new ones.

    inputs: of the fingerprint, as the model and the settings have them today; root: of the table to write. Raises
    ConfigError, TableNotFound, TableMismatch, or TableDamaged if it lacks data files.
    """
    if settings.reuse_from is None or settings.generation:
        return None
    store = open_store(settings.reuse_from, settings.storage)
    if store.root == root:
        raise ConfigError(
            f"table.reuse_from is the table itself, {root}, whose vectors are reused in any case. Remove "
            "table.reuse_from."
        )
    try:
        table = Table.open(store)
    except TableNotFound as error:
        raise TableNotFound(f"table.reuse_from: {error}") from None
    newest = table.latest()
    if newest is None:
        raise TableNotFound(
            f"table.reuse_from: nothing has been published in {store.root} yet. Complete its run, or remove "
            "table.reuse_from."
        )
    known = comparable(table.known_inputs(newest))
    if any(name not in known for name in LATER_INPUTS):
        raise TableMismatch(
            f"table.reuse_from: an older release has made {store.root}, and nobody has checked yet whether its model "
            "is still the same. Run `sfr-batch embed` with its own config once, or remove table.reuse_from."
        )
    if lines := mismatches(known, inputs):
        raise TableMismatch(
            f"table.reuse_from: {store.root} holds vectors made with other settings:\n  " + "\n  ".join(lines) + "\n"
            "Only vectors of the same model and settings can be taken over. Change the settings back, or remove "
            "table.reuse_from."
        )
    if lost := find_lost(newest, table.committed()):
        raise TableDamaged(
            f"table.reuse_from: {store.root} is damaged. Of snapshot {newest.number}, {tell(lost)}",
            "Repair that table (`sfr-batch repair` with its own config), or remove table.reuse_from.",
        )
    return newest


@dataclass(frozen=True)
class Borrowed:
    """A comparison in which so many ``rows`` take vectors of a lender."""

    found: RowComparison
    rows: int


def borrow(found: RowComparison, lender: Snapshot | None) -> Borrowed:
    """Let rows that would be encoded take the vectors of ``lender`` where it has their text. A dead row of it will do:
    its vector is that of its text."""
    wanted = [n for n, task in enumerate(found.scans) if found.totals["encoded"][task.first : task.end].any()]
    if lender is None or not wanted:
        return Borrowed(found, 0)
    executor, receipts = found.executor, lender.read_receipts()
    sizes = [receipt.vectors for receipt in receipts]
    encoded = int(found.totals["encoded"].sum())
    partitions = partitions_of(encoded, len(wanted), sum(sizes))
    texts = []
    for of_wanted, number in enumerate(wanted):
        task = found.scans[number]
        texts.append(
            executor.submit(_texts_of, task.scanned, task.decided, of_wanted, partitions, returns=1 + partitions)
        )
    place = executor.share(_Lending(lender.store.root, found.context.table_storage, lender.manifest.fingerprint))
    files = list(zip(receipts, range(len(found.receipts), len(found.receipts) + len(receipts)), strict=True))
    chunks = names.CHUNK in lender.schema.names
    looked_for: list[Any] = []
    if _FEW * encoded < sum(sizes):
        for number in range(1, 1 + partitions):
            looked_for += executor.submit(_looked_for, *(its[number] for its in texts))
    lent = [
        executor.submit(_texts_of_files, batch, place, chunks, partitions, *looked_for, returns=1 + partitions)
        for batch in grouped(files, sizes, max(ROWS_A_TASK, partitions * ROWS_A_PART))
    ]
    matches = []
    for number in range(1, 1 + partitions):
        parts = (its[number] for its in (*texts, *lent))
        matches.append(executor.submit(_match, len(texts), *parts, returns=1 + len(texts)))
    del texts, looked_for, lent  # handles keep results in memory
    arguments = {
        number: (len(found.receipts), *(match[1 + of_wanted] for match in matches))
        for of_wanted, number in enumerate(wanted)
    }
    del matches
    borrowed = dataclasses.replace(
        found.decided_anew(_lend, arguments),
        receipts=[*found.receipts, *receipts],
        own_files=len(found.receipts),
        lender=Lender(lender.store.root, lender.manifest.fingerprint),
    )
    count = encoded - int(borrowed.totals["encoded"].sum())
    return Borrowed(borrowed, count)


def partitions_of(encoded: int, tasks: int, lent: int) -> int:
    """How many partitions texts are dealt to: of so many rows to encode in so many tasks, and so many of the lender.

    Not so many that a task's part of one becomes so small that Ray keeps it on the driver.
    """
    return max(1, min(partitioned(encoded + lent)[0], encoded // (tasks * ROWS_A_PART)))


class _Lending(NamedTuple):
    """How tasks read the lender's data files."""

    table: str
    storage: StorageSettings
    fingerprint: str


_TEXT = np.dtype([("text", np.uint64, 2), ("task", np.int32), ("at", np.int32)])
"""A row that lacks a vector: hash of its text, number of its task and its number there."""
_LENT = np.dtype([("text", np.uint64, 2), *PLACE_FIELDS])
"""A document of the lender: hash of its text, and where its vectors are."""
FOUND = np.dtype([("at", np.int32), *PLACE_FIELDS])
"""A row, by its number in its task, and where the vectors are that it takes."""


def _texts_of(scanned: Sequence[ScannedUnit], decided: DecidedRows, task: int, partitions: int) -> tuple[Any, ...]:
    """A task: None, then for each partition the rows of a scan that lack a vector, of `_TEXT`."""
    at = np.flatnonzero(decided["kind"] == Decision.ENCODE)
    columns = (
        unit.hashes.column(names.CONTENT_HASH if names.CONTENT_HASH in unit.hashes.column_names else names.ROW_HASH)
        for unit in scanned
    )
    rows = np.zeros(len(at), _TEXT)
    rows["text"] = np.concatenate([halves(column) for column in columns])[at]
    rows["task"], rows["at"] = task, at
    return None, *split_by(partition_of(rows["text"], partitions), rows, partitions)


def _looked_for(*parts: NDArray[np.void]) -> Hashes:
    """A task: the texts of a partition that rows look for, of `sorted_ids`. parts: of `_TEXT`."""
    return sorted_ids(np.concatenate([part["text"] for part in parts]))


def _texts_of_files(
    files: Sequence[tuple[Receipt, int]], lender: _Lending, chunks: bool, partitions: int, *looked_for: Hashes
) -> tuple[Any, ...]:
    """A task: None, then for each partition the documents of data files, given with their numbers, of `_LENT`.

    looked_for: the texts of each partition that matter; none: all do.
    """
    store = open_store(lender.table, lender.storage)
    columns = [names.CONTENT_HASH, *([names.CHUNK] if chunks else [])]

    def read(file: tuple[Receipt, int]) -> pa.Table:
        return read_data_file(store, file[0], columns, lender.fingerprint)

    pieces: list[list[NDArray[np.void]]] = [[np.empty(0, _LENT)] for _ in range(partitions)]
    tables = read_ahead(read, files, [receipt.vectors for receipt, _ in files])
    for (_, number), table in zip(files, tables, strict=True):
        first, vectors = first_rows(table)
        rows = np.zeros(len(first), _LENT)
        rows["text"] = halves(table.column(names.CONTENT_HASH))[first]
        rows["file"], rows["first"], rows["vectors"] = number, first, vectors
        its = split_by(partition_of(rows["text"], partitions), rows, partitions)
        if looked_for:
            its = [some[among_sorted(some["text"], texts)] for some, texts in zip(its, looked_for, strict=True)]
        for piece, some in zip(pieces, its, strict=True):
            piece.append(some)
    return None, *(np.concatenate(piece) for piece in pieces)


def _match(tasks: int, *parts: NDArray[np.void]) -> tuple[Any, ...]:
    """A task: None, then for each of the ``tasks`` the rows that find their text, of `FOUND`. The first so many of the
    parts of a partition are their rows, the others the lender's; of equal ones the first in its first file is taken."""
    rows, lent = np.concatenate(parts[:tasks]), np.concatenate([np.empty(0, _LENT), *parts[tasks:]])
    lent = lent[np.lexsort((lent["first"], lent["file"]))]
    which = find_first(rows["text"], lent["text"])
    rows, lent = rows[which >= 0], lent[which[which >= 0]]
    found = np.zeros(len(rows), FOUND)
    found["at"] = rows["at"]
    for name in PLACE_DTYPE.names or ():
        found[name] = lent[name]
    return None, *split_by(rows["task"].astype(np.int64), found, tasks)


def _lend(
    decided: DecidedRows, bounds: Bounds, own_files: int, *parts: NDArray[np.void]
) -> tuple[UnitTotals, DecidedRows]:
    """A task: the decisions of a scan, where rows take vectors of the lender, whose first file is ``own_files``."""
    found = np.concatenate(parts)
    lent = with_places(decided, found["at"], found, Decision.COPY)
    return totals_of(lent, bounds, own_files), lent
