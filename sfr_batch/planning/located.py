"""Where the vectors of all compared rows are, once every split is committed. Reads rejects and chunk numbers only."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format import names
from sfr_batch.format.indexes import first_rows
from sfr_batch.format.parquet import read_data_file, read_rejects
from sfr_batch.format.records import Receipt
from sfr_batch.planning.join import PLACE_DTYPE
from sfr_batch.planning.row_comparison import RowComparison, RowNumbers
from sfr_batch.storage.store import Store


class LateReject(NamedTuple):
    """A row that was to be encoded and got no vector: columns of `names.REJECTS_SCHEMA`."""

    id: str | None
    reason: str
    message: str


@dataclass(frozen=True)
class LocatedRows:
    """The decisions of a comparison, with the places of the vectors that the run has made."""

    found: RowComparison
    files: tuple[str, ...]
    """Split ids of the data files that decisions name by number: those of the comparison, then those of the run."""
    rows: RowNumbers
    """[k] rows whose vectors the run has made, ascending."""
    places: NDArray[np.void]
    """[k] where they are, of `PLACE_DTYPE`."""
    failed: Mapping[int, LateReject]
    """By row number."""

    def made(self, rows: slice) -> tuple[NDArray[np.int64], NDArray[np.void]]:
        """Those of a range of rows whose vectors the run has made, by number in the range, and their places."""
        its = slice(*np.searchsorted(self.rows, [rows.start, rows.stop]))
        return self.rows[its] - rows.start, self.places[its]

    @cached_property
    def used(self) -> frozenset[str]:
        """Split ids of the older data files that hold vectors of compared rows, or of documents that were not found."""
        return frozenset(self.found.files[number] for number in self.found.reused | self.found.left.files)


def locate(
    found: RowComparison,
    assigned: Mapping[str, RowNumbers],
    receipts: Mapping[str, Receipt],
    store: Store,
    schema: pa.Schema,
    fingerprint: str,
) -> LocatedRows:
    """Find the vectors that the run has made.

    assigned: the rows of each packed and copied split, in order, by split id; receipts: of at least these splits, by
    split id. Raises TableError, StorageError.
    """
    files = list(found.files)
    failed: dict[int, LateReject] = {}
    rows, places = [np.empty(0, np.int64)], [np.empty(0, PLACE_DTYPE)]
    for split_id, its in assigned.items():
        receipt = receipts[split_id]
        survived = its
        if receipt.rejected:
            lost = _failed_rows(found, store, receipt, its)
            failed |= lost
            survived = its[~np.isin(its, list(lost))]
        place = np.empty(len(survived), PLACE_DTYPE)
        place["file"], place["first"], place["vectors"] = len(files), np.arange(len(survived)), 1
        if names.CHUNK in schema.names:
            data = read_data_file(store, receipt, [names.CHUNK], fingerprint)
            place["first"], place["vectors"] = first_rows(data)
        rows.append(survived)
        places.append(place)
        files.append(split_id)
    all_rows = np.concatenate(rows)
    order = np.argsort(all_rows)
    return LocatedRows(found, tuple(files), all_rows[order], np.concatenate(places)[order], failed)


def _failed_rows(found: RowComparison, store: Store, receipt: Receipt, rows: RowNumbers) -> dict[int, LateReject]:
    """Those of the rows of a split that were rejected, by row number."""
    rejects = read_rejects(store, receipt, published=False).to_pylist()
    number = found.by_position(rows)
    return {
        number[reject[names.SHARD], reject[names.POSITION]]: LateReject(
            reject[names.ID], reject[names.REASON], reject[names.MESSAGE]
        )
        for reject in rejects
    }
