"""Hands live rows to pandas, Ray Data and DuckDB. Each is imported only when it is used."""

import contextlib
import dataclasses
import importlib
import secrets
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from sfr_batch.errors import ConfigError
from sfr_batch.format import names
from sfr_batch.storage.s3 import S3Store
from sfr_batch.table import duckdb_sql
from sfr_batch.table.json_values import json_values
from sfr_batch.table.scan import Scan

if TYPE_CHECKING:
    import duckdb
    import pandas
    import ray.data


def to_pandas(table: pa.Table) -> "pandas.DataFrame":
    """The rows, each vector a NumPy array: ``np.stack(frame["embedding"])`` is the matrix [n, d].

    No value is rounded: where pandas would make floats of integers beyond 2**53, because there are nulls beside them,
    they are Python's integers. Dates beyond Python's years are datetime64[ms]; what else Python cannot hold, such as
    times with nanoseconds, is text, see `json_values`.
    """
    _need("pandas")
    series = [(name, _series(column)) for name, column in zip(table.column_names, table.columns, strict=True)]
    import pandas

    return pandas.DataFrame(dict(series), columns=table.column_names)


def _series(column: pa.ChunkedArray) -> Any:
    """A column as a pandas.Series, no value rounded."""
    with contextlib.suppress(OverflowError, ValueError):  # also pyarrow's: pa.ArrowInvalid is a ValueError
        return column.to_pandas(integer_object_nulls=any(map(_beyond_floats, column.chunks)))
    if pa.types.is_date(column.type):
        return column.to_pandas(date_as_object=False)
    import pandas

    return pandas.Series(json_values(column), dtype=object)


def _beyond_floats(values: pa.Array) -> bool:
    """Whether there are integers that a float64 may round, at whatever depth."""
    kind, types = values.type, pa.types
    if types.is_int64(kind) or types.is_uint64(kind):
        bounds = pc.min_max(values).as_py()
        return bounds["max"] is not None and max(-bounds["min"], bounds["max"]) > 2**53
    if types.is_struct(kind):
        return any(map(_beyond_floats, values.flatten()))
    if types.is_map(kind):
        return _beyond_floats(values.keys) or _beyond_floats(values.items)
    return types.is_nested(kind) and _beyond_floats(values.flatten())


def to_ray(scan: Scan) -> "ray.data.Dataset":
    """A lazy dataset. Each task reads one or a few data files, and drops dead rows and applies filters there.

    Vectors are a tensor column: in batches of the formats numpy and torch a matrix [n, d].
    """
    import ray
    import ray.data
    from ray.data.block import BlockMetadata
    from ray.data.datasource import Datasource, ReadTask

    # One copy in the object store: in each of thousands of tasks a large list would be sent again and again.
    ids = None if scan.ids is None else ray.put(scan.ids)
    size = sum(file.bytes * file.live // file.rows for file in scan.files)

    class LiveRows(Datasource):  # type: ignore[misc]
        """Ray Data's view of a scan."""

        def get_name(self) -> str:
            return "EmbeddingTable"

        def estimate_inmemory_data_size(self) -> int | None:
            return size

        def get_read_tasks(self, parallelism: int, *_: Any, **options: Any) -> list[Any]:
            tasks = []
            for part in dataclasses.replace(scan, ids=None).parts(max(1, parallelism)):
                metadata = BlockMetadata(
                    num_rows=None if scan.filtered else part.live,
                    size_bytes=sum(file.bytes for file in part.files),
                    input_files=[f"{scan.store.root}/{names.data_key(file.split_id)}" for file in part.files],
                    exec_stats=None,
                )
                limit = options.get("per_task_row_limit")
                tasks.append(ReadTask(partial(_read_on_ray, part, ids), metadata, per_task_row_limit=limit))
            return tasks

    if not scan.files:
        return ray.data.from_arrow(_with_tensors(scan.schema.empty_table()))
    return ray.data.read_datasource(LiveRows())


def _read_on_ray(part: Scan, ids: Any) -> Iterator[pa.Table]:
    import ray

    scan = part if ids is None else dataclasses.replace(part, ids=ray.get(ids))
    found = False
    for table in scan.tables():
        found = True
        yield _with_tensors(table)
    if not found:
        yield _with_tensors(scan.schema.empty_table())


def _with_tensors(table: pa.Table) -> pa.Table:
    """The table with its vectors as a tensor column of Ray Data."""
    from ray.data.extensions import ArrowTensorArray

    for at, field in enumerate(table.schema):
        # Others may have nulls, texts or numbers that a tensor cannot have.
        if field.name == names.EMBEDDING:
            flat = table.column(at).combine_chunks().flatten().to_numpy(zero_copy_only=False)
            tensors = ArrowTensorArray.from_numpy(flat.reshape(table.num_rows, field.type.list_size))
            table = table.set_column(at, field.name, tensors)
    return table


def to_duckdb(scan: Scan, connection: "duckdb.DuckDBPyConnection | None" = None) -> "duckdb.DuckDBPyRelation":
    """A lazy relation over the rows. DuckDB reads the files itself; vectors are FLOAT[d].

    Rows come in no particular order. connection: default a new one in memory, with the storage settings of the table.
    A given connection must be able to read from S3 by itself.
    """
    _need("duckdb")
    import duckdb

    if connection is None:
        connection = duckdb.connect()
        if isinstance(scan.store, S3Store):
            connection.register_filesystem(scan.store.filesystem())
    wanted = None
    if scan.ids is not None:
        wanted = f"sfr_ids_{secrets.token_hex(8)}"
        connection.register(wanted, pa.table({"id": scan.ids}))
    return connection.sql(duckdb_sql.select(scan, wanted))


def need_pandas() -> None:
    """Raises ConfigError if pandas is missing: before anything is read for it."""
    _need("pandas")


def _need(package: str) -> None:
    with contextlib.suppress(ModuleNotFoundError):
        importlib.import_module(package)
        return
    raise ConfigError(f"{package} is not installed. Install it: pip install {package}")
