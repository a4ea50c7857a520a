"""SQL with which DuckDB reads a table without sfr-batch: its data files without their dead rows.

    SELECT … FROM read_parquet([data files]) AS data ANTI JOIN read_parquet([deletes]) AS dead ON file and position

Makes only text: opens no file and does not import DuckDB.
"""

from collections.abc import Sequence

import pyarrow as pa

from sfr_batch.errors import ConfigError
from sfr_batch.format import names
from sfr_batch.storage.s3 import S3Store
from sfr_batch.table.filter_parser import parse
from sfr_batch.table.filters import quoted_name, quoted_text
from sfr_batch.table.scan import Scan

_FILE = "sfr_file"
_ROW = "file_row_number"
"""The name that DuckDB gives to a row's number in its file. It cannot be changed."""
_TYPES = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.date32(): "DATE",
}
_SECRET = """\
-- To read from S3, DuckDB needs its extension httpfs, and the keys that the AWS chain finds:
--   INSTALL httpfs; LOAD httpfs; INSTALL aws; LOAD aws;
--   CREATE SECRET (TYPE s3, PROVIDER credential_chain{options});
"""


def view(scan: Scan, name: str, snapshot: str) -> str:
    """CREATE VIEW ``name`` over the rows of ``scan``, with comments: ``snapshot``, and what DuckDB needs to read it."""
    root = "".join(char if char.isprintable() else "?" for char in scan.store.root)
    head = f"-- {root}\n-- {snapshot}. The view does not follow the table: create it again after the next run.\n"
    return f"{head}{_needs(scan)}CREATE OR REPLACE VIEW {quoted_name(name)} AS\n{select(scan)};\n"


def _needs(scan: Scan) -> str:
    if not isinstance(scan.store, S3Store):
        return ""
    options = ""
    if scan.store.endpoint_url:
        scheme, _, host = scan.store.endpoint_url.rstrip("/").partition("://")
        ssl = "true" if scheme == "https" else "false"
        options = f",\n--     ENDPOINT {quoted_text(host)}, URL_STYLE 'path', USE_SSL {ssl}"
    return _SECRET.format(options=options)


def select(scan: Scan, ids: str | None = None) -> str:
    """A query for the rows of ``scan``. Vectors are FLOAT[d]. ids: name of a table in DuckDB with the wanted ids.

    Raises ConfigError if a column has a name that this SQL needs.
    """
    columns = ",\n    ".join(_column(field) for field in scan.schema)
    if not scan.files:
        empty = ",\n    ".join(f"CAST(NULL AS {_type_of(f.type)}) AS {quoted_name(f.name)}" for f in scan.schema)
        return f"SELECT\n    {empty}\nWHERE false"
    files = _list([names.data_key(file.split_id) for file in scan.files], scan)
    if any(file.dead is not None for file in scan.files):
        if _ROW in scan.table_schema.names or _FILE in scan.table_schema.names:
            raise ConfigError(
                f"{scan.store.root} has a column named {_ROW} or {_FILE}, a name that the SQL for DuckDB needs. Use "
                "`sfr-batch export`, and let DuckDB read the export."
            )
        source = (
            f"read_parquet({files}, filename = '{_FILE}', {_ROW} = true) AS data\n"
            f"ANTI JOIN read_parquet({_list([str(scan.deletes)], scan)}) AS dead\n"
            f"    ON dead.split_id = parse_filename(data.{_FILE}, true) AND dead.position = data.{_ROW}"
        )
    else:
        source = f"read_parquet({files}) AS data"
    if ids is not None:
        source += f"\nSEMI JOIN {ids} AS wanted ON wanted.id = data.{quoted_name(names.ID)}"
    # Named as in the table before they are compared: the filter knows no `data`.
    where = "" if scan.where is None else f"\nWHERE {parse(scan.where, scan.table_schema).sql}"
    return f"SELECT\n    {columns}\nFROM {source}{where}"


def _list(keys: Sequence[str], scan: Scan) -> str:
    return "[\n    " + ",\n    ".join(quoted_text(f"{scan.store.root}/{key}") for key in keys) + "\n]"


def _column(field: pa.Field) -> str:
    name = quoted_name(field.name)
    # Parquet knows lists of any length only; DuckDB's functions for vectors want to know theirs.
    return f"CAST({name} AS {_type_of(field.type)}) AS {name}" if pa.types.is_fixed_size_list(field.type) else name


def _type_of(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"FLOAT[{kind.list_size}]"
    if pa.types.is_fixed_size_binary(kind):
        return "BLOB"
    return _TYPES.get(kind, "VARCHAR")
