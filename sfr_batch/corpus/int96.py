"""Timestamps of Parquet's old type INT96, as Spark, Hive and Impala write them: read as they are.

Arrow reads them as nanoseconds, in which 9999-12-31 becomes 1816-03-29 without a word, or, if asked, as microseconds,
which cuts nanoseconds. Here both are read: a row that nanoseconds hold has them, any other has microseconds. What the
table's column then has no room for is found by `casting`. A survey says microseconds, for Spark has no other.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.corpus.column_paths import is_inside
from sfr_batch.format.nested import counts_and_items, fields_of

READ_AS = "us"
"""Option `coerce_int96_timestamp_unit` of `ParquetFile`."""


def has_int96(metadata: pq.FileMetaData) -> bool:
    """Whether a column, or a part of one, is of this type."""
    return any(metadata.schema.column(i).physical_type == "INT96" for i in range(metadata.num_columns))


def arrow_schema(file: IO[bytes], metadata: pq.FileMetaData) -> pa.Schema:
    """The Arrow schema of a Parquet file, with microseconds for INT96. Reads nothing more of the file."""
    if not has_int96(metadata):
        return metadata.schema.to_arrow_schema()
    reader = pq.ParquetFile(file, metadata=metadata, coerce_int96_timestamp_unit=READ_AS, pre_buffer=False)
    return reader.schema_arrow


def iter_exact_batches(
    reader: pq.ParquetFile, file: IO[bytes], columns: Sequence[str], **reading: Any
) -> Iterator[pa.RecordBatch]:
    """The batches of a reader that was opened with `READ_AS`, whose times are exact; some come in pieces.

    file: the same, read once more where it has such columns. reading: of `ParquetFile.iter_batches`.
    """
    batches: Iterator[pa.RecordBatch] = reader.iter_batches(columns=list(columns), use_threads=False, **reading)
    leaves = [reader.metadata.schema.column(i) for i in range(reader.metadata.num_columns)]
    old = [leaf.path for leaf in leaves if leaf.physical_type == "INT96"]
    again = [path for path in columns if any(is_inside(leaf, [path]) for leaf in old)]
    if not again:
        return batches
    other = pq.ParquetFile(file, metadata=reader.metadata, pre_buffer=False)
    return _exact_batches(batches, other.iter_batches(columns=again, use_threads=False, **reading))


def _exact_batches(
    microseconds: Iterator[pa.RecordBatch], nanoseconds: Iterator[pa.RecordBatch]
) -> Iterator[pa.RecordBatch]:
    """Columns of ``nanoseconds`` replace those of the same names in rows where nanoseconds hold the time."""
    rest = pa.table({})
    for batch in microseconds:
        while rest.num_rows < batch.num_rows:
            more = pa.Table.from_batches([next(nanoseconds)])
            rest = pa.concat_tables([rest, more]) if rest.num_columns else more
        fine = {name: rest.column(name).slice(0, batch.num_rows).combine_chunks() for name in rest.column_names}
        rest = rest.slice(batch.num_rows)
        yield from _pieces(batch, fine)


def _pieces(batch: pa.RecordBatch, fine: dict[str, pa.Array]) -> Iterator[pa.RecordBatch]:
    """Runs of rows in which the same columns have nanoseconds."""
    held = np.stack([_held(batch.column(name), column) for name, column in fine.items()], axis=1)
    first = 0
    for pattern, rows in groupby(map(tuple, held.tolist())):
        count = sum(1 for _ in rows)
        piece = batch.slice(first, count)
        for (name, column), whether in zip(fine.items(), pattern, strict=True):
            if whether:
                at = piece.schema.get_field_index(name)
                piece = piece.set_column(at, name, column.slice(first, count))
        yield piece
        first += count


def _held(coarse: pa.Array, fine: pa.Array) -> NDArray[np.bool_]:
    """[n] whether nanoseconds hold all times of a value; True where there are none."""
    kind = fine.type
    if pa.types.is_timestamp(kind) and not coarse.type.equals(kind):
        numbers = [np.asarray(array.cast(pa.int64()).fill_null(0)) for array in (fine, coarse)]
        # Beyond their range nanoseconds have wrapped around.
        same: NDArray[np.bool_] = numbers[0] // 1000 == numbers[1]
        return same
    if pa.types.is_struct(kind):
        parts = zip(fields_of(coarse), fields_of(fine), strict=True)
        held = np.ones(len(fine), bool)
        for (_, one), (_, other) in parts:
            held &= _held(one, other)
        return held
    if pa.types.is_nested(kind):
        counts, items = counts_and_items(fine)
        inside = _held(counts_and_items(coarse)[1], items)
        lengths = np.array([count or 0 for count in counts], np.int64)
        row = np.repeat(np.arange(len(lengths)), lengths)
        return np.equal(np.bincount(row[~inside], minlength=len(lengths)), 0)
    return np.ones(len(fine), bool)
