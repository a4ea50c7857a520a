"""Values of a column in any rows of data files, to order the rows by. Knows neither stores nor tables."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format.indexes import read_ahead
from sfr_batch.format.order_values import comparable_values

IntArray = NDArray[np.integer[Any]]


def gather_values(
    read: Callable[[int], pa.ChunkedArray], file: IntArray, row: IntArray, kind: pa.DataType, vectors: Sequence[int]
) -> pa.Array:
    """[n] the values in rows of data files, as `comparable_values`. Each file is read once, several at a time.

    read: the column of the file with a number; file, row: [n] number of the data file, and of the row in it; null where
    ``file`` is negative. kind: type of the column. vectors: [files] rows of each file, to bound memory.
    """
    order = np.argsort(file, kind="stable")
    groups = [its for its in np.split(order, np.flatnonzero(np.diff(file[order])) + 1) if len(its)]

    def take(its: NDArray[np.intp]) -> pa.Array:
        number = int(file[its[0]])
        found = pa.nulls(len(its)) if number < 0 else read(number).take(pa.array(row[its]))
        return comparable_values(found, kind)

    numbers = [int(file[its[0]]) for its in groups]
    pieces = read_ahead(take, groups, [0 if number < 0 else vectors[number] for number in numbers])
    return pa.concat_arrays([comparable_values(pa.nulls(0), kind), *pieces]).take(pa.array(np.argsort(order)))
