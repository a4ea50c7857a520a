"""`table.reuse_from`: another table, made by the same model and settings, lends vectors of texts that it has.

They are copied into data files of this table, which never names those of the other. Text decides, not the id: other
carried columns, another id column or another rule for duplicates need no model then. Reads hashes of texts only.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.config.settings import TableSettings
from sfr_batch.errors import ConfigError, TableMismatch, TableNotFound
from sfr_batch.format import names
from sfr_batch.format.fingerprint import LATER_INPUTS, mismatches
from sfr_batch.format.hashes import Hashes, halves
from sfr_batch.format.indexes import first_rows, read_ahead
from sfr_batch.format.parquet import read_data_file
from sfr_batch.format.records import Receipt
from sfr_batch.model.identity import comparable
from sfr_batch.planning.difference import Lender
from sfr_batch.planning.join import PLACE_DTYPE, Decision
from sfr_batch.planning.row_comparison import RowComparison, RowNumbers
from sfr_batch.planning.scan import ScannedUnit
from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Snapshot, Table


def open_lender(settings: TableSettings, inputs: dict[str, object], root: str) -> Snapshot | None:
    """The newest snapshot of the table that lends vectors; None without one, and under a label, which wants new ones.

    inputs: of the fingerprint, as the model and the settings have them today; root: of the table to write. Raises
    ConfigError, TableNotFound, TableMismatch.
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
    return newest


@dataclass(frozen=True)
class Borrowed:
    """A comparison in which rows take vectors of a lender. receipts: of the lender's data files, by split id."""

    found: RowComparison
    receipts: dict[str, Receipt]
    rows: int


def borrow(found: RowComparison, lender: Snapshot | None) -> Borrowed:
    """Let rows that would be encoded take the vectors of ``lender`` where it has their text."""
    wanted = np.flatnonzero(found.decisions["kind"] == Decision.ENCODE)
    if lender is None or not len(wanted):
        return Borrowed(found, {}, 0)
    texts, which = np.unique(_texts_of(found, wanted), axis=0, return_inverse=True)
    receipts, places = _find(lender, texts)
    place = places[which.reshape(-1)]  # [wanted]
    rows, place = wanted[place["file"] >= 0], place[place["file"] >= 0]
    used, number = np.unique(place["file"], return_inverse=True)
    decisions = found.decisions.copy()
    decisions["kind"][rows] = Decision.COPY
    decisions["file"][rows] = len(found.files) + number
    decisions["first"][rows], decisions["vectors"][rows] = place["first"], place["vectors"]
    files = [receipts[at] for at in used.tolist()]
    borrowed = dataclasses.replace(
        found,
        decisions=decisions,
        files=[*found.files, *(file.split_id for file in files)],
        own_files=len(found.files),
        lender=Lender(lender.store.root, lender.manifest.fingerprint),
    )
    return Borrowed(borrowed, {file.split_id: file for file in files}, len(rows))


def _texts_of(found: RowComparison, rows: RowNumbers) -> Hashes:
    """[n, 2] hashes of the texts of the rows, ascending."""
    handles = []
    for task in found.scans:
        start, end = int(found.starts[task.first]), int(found.starts[task.end])
        some = rows[(rows >= start) & (rows < end)]
        if len(some):
            handles += found.executor.submit(_texts_in, task.scanned, some - start)
    return np.concatenate([np.empty((0, 2), np.uint64), *found.executor.get(handles)])


def _texts_in(scanned: Sequence[ScannedUnit], rows: RowNumbers) -> Hashes:
    """A task: of these rows of scanned units."""
    columns = (
        unit.hashes.column(names.CONTENT_HASH if names.CONTENT_HASH in unit.hashes.column_names else names.ROW_HASH)
        for unit in scanned
    )
    return np.concatenate([halves(column) for column in columns])[rows]


def _find(lender: Snapshot, texts: Hashes) -> tuple[Sequence[Receipt], NDArray[np.void]]:
    """The lender's receipts, and [n] where it has each of the ``texts`` [n, 2], ascending: of `PLACE_DTYPE`, file -1 if
    nowhere. A dead row will do: its vector is that of its text."""
    receipts = lender.read_receipts()
    columns = [names.CONTENT_HASH, *([names.CHUNK] if names.CHUNK in lender.schema.names else [])]
    places = np.zeros(len(texts), PLACE_DTYPE)
    places["file"] = -1

    def read(receipt: Receipt) -> pa.Table:
        return read_data_file(lender.store, receipt, columns, lender.manifest.fingerprint)

    for number, table in enumerate(read_ahead(read, receipts, [receipt.vectors for receipt in receipts])):
        first, vectors = first_rows(table)
        of_file = halves(table.column(names.CONTENT_HASH))[first]
        at = np.minimum(np.searchsorted(texts[:, 0], of_file[:, 0]), len(texts) - 1)
        here = np.flatnonzero((texts[at] == of_file).all(axis=1))
        new = here[places["file"][at[here]] < 0]
        places["file"][at[new]], places["first"][at[new]], places["vectors"][at[new]] = number, first[new], vectors[new]
    return receipts, places
