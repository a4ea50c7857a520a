"""Reads row groups of Parquet, batch by batch: all rows of a read unit, or those at some positions.

Knows storage and columns; what becomes of a row is up to `rows`.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.column_paths import is_inside
from sfr_batch.corpus.int96 import READ_AS, arrow_schema, iter_exact_batches
from sfr_batch.corpus.read_ahead import Fetched, ranges_of
from sfr_batch.corpus.splits import ReadUnit
from sfr_batch.storage.inputs import open_input
from sfr_batch.storage.locations import is_s3

_ROWS_PER_READ = 4096
_BATCH_BYTES = 32 * 2**20
"""Target bytes of a batch of rows: with long documents it has fewer rows."""
READ_AT_ONCE = 64 * 2**20
"""Most stored bytes of a unit's row groups that are fetched at once; larger ones are read in pieces. On S3 as much
again may be held that lies between them, see `read_ahead`."""
_PIECE = 4 * 2**20
Positions = NDArray[np.int64]
"""[k] positions of rows in their shard, ascending."""


def record_batches(unit: ReadUnit, columns: list[str], settings: CorpusSettings) -> Iterator[pa.RecordBatch]:
    """The row groups of a unit, batch by batch, in bounded memory however large a row group is."""
    with open_input(unit.shard.uri, settings.storage, readahead=_PIECE // 16) as file:
        ahead = settings if is_s3(unit.shard.uri) else None  # a disk answers at once
        yield from batches_of(file, pq.read_metadata(file), unit, columns, ahead)


def batches_at(
    unit: ReadUnit, positions: Positions, columns: list[str], settings: CorpusSettings
) -> Iterator[pa.RecordBatch]:
    """The rows of a unit at these positions, in order. Row groups that have none of them are not read."""
    with open_input(unit.shard.uri, settings.storage, readahead=_PIECE // 16) as file:
        metadata = pq.read_metadata(file)
        sizes = np.array([metadata.row_group(number).num_rows for number in unit.row_groups])
        starts = unit.first_row + np.cumsum(sizes) - sizes
        group = np.searchsorted(starts, positions, side="right") - 1
        groups, which = np.unique(group, return_inverse=True)
        before = np.cumsum(sizes[groups]) - sizes[groups]
        rows = positions - starts[group] + before[which]  # numbers among the rows that are read
        ahead = settings if is_s3(unit.shard.uri) else None
        read = dataclasses.replace(unit, row_groups=tuple(unit.row_groups[number] for number in groups.tolist()))
        first = 0
        for batch in batches_of(file, metadata, read, columns, ahead):
            a, b = np.searchsorted(rows, (first, first + batch.num_rows))
            if a < b:
                yield batch.take(pa.array(rows[a:b] - first))
            first += batch.num_rows


def batches_of(
    file: IO[bytes], metadata: pq.FileMetaData, unit: ReadUnit, columns: list[str], ahead: CorpusSettings | None = None
) -> Iterator[pa.RecordBatch]:
    """See `record_batches`. ahead: the settings with which the shard is read ahead; None if it is not."""
    table, in_file = unit.shard.table, arrow_schema(file, metadata)
    paths, columns = columns, table.names_in_file(columns, in_file) or in_file.names[:1] if table else columns
    chunks = chunks_of(metadata, unit.row_groups, columns)
    stored = sum(chunk.total_compressed_size for chunk in chunks)
    unpacked = sum(chunk.total_uncompressed_size for chunk in chunks)
    rows = sum(metadata.row_group(number).num_rows for number in unit.row_groups)
    whole = stored <= READ_AT_ONCE
    # Without threads of Arrow's, as everywhere, see `open_parquet`.
    reader = pq.ParquetFile(
        Fetched(file, unit.shard.uri, ranges_of(chunks), ahead.storage) if ahead and whole else file,
        metadata=metadata,
        pre_buffer=False,
        buffer_size=0 if whole else _PIECE,
        page_checksum_verification=True,  # where the writer has left checksums
        coerce_int96_timestamp_unit=READ_AS,
    )
    batches = iter_exact_batches(
        reader,
        file,
        columns,
        batch_size=max(1, min(_ROWS_PER_READ, rows * _BATCH_BYTES // max(1, unpacked))),
        row_groups=list(unit.row_groups),
    )
    yield from (table.conform(batch, paths, in_file) for batch in batches) if table else batches


def chunks_of(metadata: pq.FileMetaData, groups: Sequence[int], columns: list[str]) -> list[Any]:
    """The column chunks of some row groups that hold these columns."""
    return [
        chunk
        for number in groups
        for chunk in map(metadata.row_group(number).column, range(metadata.num_columns))
        if is_inside(chunk.path_in_schema, columns)
    ]
