"""SQL with which DuckDB reads a table without sfr-batch: its data files without their dead rows.

    SELECT … FROM read_parquet([data files]) AS data ANTI JOIN read_parquet([dead rows]) AS dead ON file and position

Makes only text, and does not import DuckDB. Opens no file, unless carried columns have changed.
"""

from collections.abc import Sequence

import pyarrow as pa

from sfr_batch.errors import ConfigError
from sfr_batch.format import names
from sfr_batch.format.dead_rows import lists_of
from sfr_batch.storage.s3 import S3Store
from sfr_batch.table.engine_names import lower_ascii, twins, twins_inside
from sfr_batch.table.engine_types import DIGITS, longest_decimal
from sfr_batch.table.filter_parser import parse
from sfr_batch.table.filters import quoted_name, quoted_text
from sfr_batch.table.scan import Scan

_ROW = "file_row_number"
"""The name that DuckDB gives to a row's number in its file. It cannot be changed."""
_TYPES = {
    pa.string(): "VARCHAR",
    pa.large_string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.float16(): "FLOAT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.date32(): "DATE",
    pa.date64(): "DATE",
    pa.uuid(): "UUID",
    pa.json_(): "JSON",
    pa.time32("s"): "TIME",
    pa.time32("ms"): "TIME",
    pa.time64("us"): "TIME",
    pa.time64("ns"): "TIME_NS",
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

    Raises ConfigError if DuckDB would give other values than those of a column: it knows no case in names, and no
    decimals of more than 38 digits, and it converts values that the snapshot does not show, because they are of
    another type; or if a column has a name that this SQL needs.
    """
    condition = None if scan.where is None else parse(scan.where, scan.table_schema)
    asked = [*scan.columns, *(condition.columns if condition else ())]
    _check(scan, asked)
    _check_lost(scan, asked)
    written = _written(scan)
    columns = ",\n    ".join(_column(field) if field.name in written else _nothing(field) for field in scan.schema)
    if not scan.files:
        empty = ",\n    ".join(map(_nothing, scan.schema))
        return f"SELECT\n    {empty}\nWHERE false"
    files = _list([names.data_key(file.split_id) for file in scan.files], scan)
    # Not of a column too: `data.id` would be either the column id or what is in the struct data.
    data, dead, wanted, name = (_unused(alias, scan) for alias in ("data", "dead", "wanted", "sfr_file"))
    # Files that were written before a column had a value have no type for it; others lack columns that came later.
    mixed = scan.table_schema.metadata or any(file.covers != scan.layout.covers for file in scan.files)
    union = ", union_by_name = true" if mixed else ""
    # A folder above the table may be named lang=de: its value is none of the rows'.
    if any(file.dead is not None for file in scan.files):
        if _ROW in map(lower_ascii, scan.table_schema.names):
            raise ConfigError(
                f"{scan.store.root} has a column named {_ROW}, a name that the SQL for DuckDB needs. Use "
                "`sfr-batch export`, and let DuckDB read the export."
            )
        lists = lists_of(file.dead for file in scan.files) or [str(scan.deletes)]
        source = (
            f"read_parquet({files}, filename = '{name}', {_ROW} = true, hive_partitioning = false{union}) AS {data}\n"
            f"ANTI JOIN read_parquet({_list(lists, scan)}, hive_partitioning = false) AS {dead}\n"
            f"    ON {dead}.split_id = parse_filename({data}.{name}, true) AND {dead}.position = {data}.{_ROW}"
        )
    else:
        source = f"read_parquet({files}, hive_partitioning = false{union}) AS {data}"
    if ids is not None:
        source += f"\nSEMI JOIN {ids} AS {wanted} ON {wanted}.id = {data}.{quoted_name(names.ID)}"
    # Named as in the table before they are compared: the filter knows no `data`.
    where = "" if condition is None else f"\nWHERE {condition.sql}"
    return f"SELECT\n    {columns}\nFROM {source}{where}"


def _check(scan: Scan, columns: Sequence[str]) -> None:
    """Raises ConfigError unless DuckDB reads all these columns as they are."""
    root, order = scan.store.root, scan.table_schema.names
    no_case = "and DuckDB knows no upper and lower case: it would give the values of one for both"
    for name in dict.fromkeys(columns):
        same = twins(order, name, lower_ascii)
        # DuckDB takes the first of them whichever is named, so that the first can be had.
        if same and (order.index(name) > order.index(same[0]) or any(other in columns for other in same)):
            other = same[0] if name in names.RESERVED_COLUMNS else name
            raise ConfigError(
                f"{root} has columns {name!r} and {same[0]!r}, {no_case}. Let DuckDB read an export with another name "
                f"for one of them: sfr-batch export {root} <new folder> --for duckdb --rename {other}=<new name>."
            )
        kind = scan.table_schema.field(name).type
        inside, digits = twins_inside(kind, lower_ascii), longest_decimal(kind)
        if not inside and digits <= DIGITS:
            continue
        # It reads them as DOUBLE.
        rounds = f"has decimals of {digits} digits, and DuckDB, which has {DIGITS}, would round them"
        why = f"has the keys {inside[0]!r} and {inside[1]!r}, {no_case}" if inside else rounds
        raise ConfigError(
            f"{root}: the column {name!r} {why}. Name the columns to read without it, or let DuckDB read an export "
            f"with it as text: sfr-batch export {root} <new folder> --for duckdb --as-text {name}."
        )


def _check_lost(scan: Scan, columns: Sequence[str]) -> None:
    """Raises ConfigError if rows have null in one of these columns and their files a value of an earlier type."""
    root = scan.store.root
    for name, kind in scan.lost_columns().items():
        if name in columns:
            raise ConfigError(
                f"{root}: the column {name!r} is {scan.table_schema.field(name).type}, and was {kind} when some of the "
                "rows were written. These have no value in it any more, and DuckDB would show the old one. Name the "
                "columns to read without it, or let DuckDB read an export: "
                f"sfr-batch export {root} <new folder> --for duckdb."
            )


def _unused(alias: str, scan: Scan) -> str:
    taken = set(map(lower_ascii, scan.table_schema.names))
    while alias in taken:
        alias += "_"
    return alias


def _written(scan: Scan) -> set[str]:
    """The columns of the snapshot that some file has."""
    carried = {name for covers in {file.covers for file in scan.files} for name in scan.layout.written_columns(covers)}
    missing = {name for name in scan.layout.carried if name not in carried}
    missing |= set() if carried else {names.ROW_HASH}
    return {name for name in scan.table_schema.names if name not in missing}


def _nothing(field: pa.Field) -> str:
    return f"CAST(NULL AS {_type_of(field.type)}) AS {quoted_name(field.name)}"


def _list(keys: Sequence[str], scan: Scan) -> str:
    return "[\n    " + ",\n    ".join(quoted_text(f"{scan.store.root}/{key}") for key in keys) + "\n]"


def _column(field: pa.Field) -> str:
    name = quoted_name(field.name)
    # Parquet knows lists of any length only; DuckDB's functions for vectors want to know theirs.
    return f"CAST({name} AS {_type_of(field.type)}) AS {name}" if pa.types.is_fixed_size_list(field.type) else name


def _type_of(kind: pa.DataType) -> str:
    """The type that DuckDB gives to a column of Parquet that Arrow has written."""
    types = pa.types
    if kind in _TYPES:
        return _TYPES[kind]
    if types.is_fixed_size_list(kind):
        return f"{_type_of(kind.value_type)}[{kind.list_size}]"
    if types.is_map(kind):
        return f"MAP({_type_of(kind.key_type)}, {_type_of(kind.item_type)})"
    if types.is_struct(kind):
        return f"STRUCT({', '.join(f'{quoted_name(field.name)} {_type_of(field.type)}' for field in kind)})"
    if types.is_nested(kind):
        return f"{_type_of(kind.value_type)}[]"
    if types.is_dictionary(kind):
        return _type_of(kind.value_type)
    if types.is_decimal(kind):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    if types.is_timestamp(kind):
        return "TIMESTAMPTZ" if kind.tz is not None else "TIMESTAMP_NS" if kind.unit == "ns" else "TIMESTAMP"
    if types.is_duration(kind):
        return "BIGINT"
    return (
        "BLOB"
        if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
        else "VARCHAR"
    )
