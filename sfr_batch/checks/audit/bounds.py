"""The bounds of columns in the footer of a data file: readers pass over rows by them, and no checksum covers them.

Knows no receipt and no table.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sfr_batch.table.scan import bounds_by_group


def wrong_bounds(parquet: pq.ParquetFile, rows: pa.Table) -> str:
    """A column whose values are not all within the bounds that readers take from the footer; empty if there is none.

    rows: all rows of the file. Bounds that are wider than the values mislead nobody.
    """
    of, start = bounds_by_group(parquet, rows.column_names, parquet.schema_arrow), 0
    for group in range(parquet.num_row_groups):
        length = parquet.metadata.row_group(group).num_rows
        for name, (least, greatest) in of(group).items():
            if _reaches_beyond(rows.column(name).slice(start, length), least, greatest):
                return f"says that {name} lies between {least!r} and {greatest!r}, which its values do not"
        start += length
    return ""


def _reaches_beyond(values: pa.ChunkedArray, least: Any, greatest: Any) -> bool:
    held = pc.min_max(values)
    try:
        its_least, its_greatest = held["min"].as_py(), held["max"].as_py()
    except OverflowError:  # a date beyond the years of Python, as the bounds would be
        return True
    return its_least is not None and bool(its_least < least or its_greatest > greatest)
