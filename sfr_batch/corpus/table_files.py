"""What a data file of a Delta or Iceberg table needs beyond what is in the file, to give the rows of its table.

The table decides which columns there are, of which types, and which of the file's rows are deleted: a column may have
another name in the file, be missing from it because it came later, or stand in the table's log alone. Knows Arrow and
positions of rows; knows no library of a table format and opens nothing.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.errors import CorpusError
from sfr_batch.storage.locations import is_s3

FIELD_ID = b"PARQUET:field_id"
"""Metadata of an Arrow field: its number in the table, and in a Parquet file that has such numbers."""
NAME_IN_FILE = b"delta.columnMapping.physicalName"
"""Metadata of a field of a table: its name in files without numbers, if it is another one."""

OTHER_NAMES = b"sfr.names"
"""The same: a JSON list of its names in files without numbers."""
PUFFIN = "puffin"
"""The format of a `DeleteFile` that holds deletion vectors; others are Parquet."""


@dataclass(frozen=True, slots=True, order=True)
class DeleteFile:
    """A file that lists deleted rows of data files: their paths as the table spells them, and positions."""

    uri: str
    format: str
    """`parquet` or `PUFFIN`."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """A data file as a part of its table at one version."""

    table: str
    """For messages: `version 12 of the Delta table s3://…`."""
    schema: pa.Schema
    """The table's columns. The metadata of a field says which column of the file it is."""
    constants: Mapping[str, pa.Scalar]
    """Values of columns in all rows where the file does not have the column: partitions and defaults."""
    path: str
    """As the table spells it."""
    cleaned_by: str
    """What deletes files of older versions."""
    deleted: bytes = b""
    """Which rows are deleted, see `pack_deleted`; empty if none is, or `deletes` say it."""
    deletes: tuple[DeleteFile, ...] = ()
    """The files that say which rows are deleted."""

    def to_json(self) -> dict[str, Any]:
        """Values that JSON has, for `from_json`: a shard travels to workers."""
        constants = pa.RecordBatch.from_pydict({key: pa.array([value]) for key, value in self.constants.items()})
        return {
            "table": self.table,
            "schema": _text(self.schema.serialize()),
            "constants": _text(constants.schema.serialize()) + " " + _text(constants.serialize()),
            "path": self.path,
            "cleaned_by": self.cleaned_by,
            "deleted": _text(self.deleted),
            "deletes": [[file.uri, file.format] for file in self.deletes],
        }

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> "TableFile":
        kinds, values = map(_bytes, raw["constants"].split(" "))
        batch = pa.ipc.read_record_batch(pa.py_buffer(values), pa.ipc.read_schema(pa.py_buffer(kinds)))
        return cls(
            table=raw["table"],
            schema=pa.ipc.read_schema(pa.py_buffer(_bytes(raw["schema"]))),
            constants={name: batch.column(name)[0] for name in batch.schema.names},
            path=raw["path"],
            cleaned_by=raw["cleaned_by"],
            deleted=_bytes(raw["deleted"]),
            deletes=tuple(DeleteFile(uri, kind) for uri, kind in raw["deletes"]),
        )

    @property
    def has_deletes(self) -> bool:
        """Whether some of the file's rows may be deleted."""
        return bool(self.deleted or self.deletes)

    def source_of(self, name: str, file: pa.Schema) -> pa.Field | None:
        """The file's column that is the table's column ``name``; None if it has none."""
        return _find(self.schema.field(name), list(file)) if name in self.schema.names else None

    def names_in_file(self, paths: Sequence[str], file: pa.Schema) -> list[str]:
        """The columns of the file with the table's columns at these paths: whole ones, also of parts of structs."""
        tops = dict.fromkeys(_top(path, self.schema) for path in paths)
        found = (self.source_of(name, file) for name in tops)
        return [field.name for field in found if field is not None]

    def schema_for(self, paths: Sequence[str], file: pa.Schema, uri: str) -> pa.Schema:
        """The table's schema, without the metadata. Raises CorpusError if the file's columns at ``paths`` do not give
        the types of the table's."""
        try:
            empty = pa.RecordBatch.from_pylist([], schema=pa.schema([field.remove_metadata() for field in file]))
            self.conform(empty, paths, file)
        except (pa.ArrowException, NotImplementedError) as error:
            raise CorpusError(
                f"{uri}, a data file of {self.table}, does not have the columns as the table has them: "
                f"{' '.join(str(error).split()).rstrip('.')}. Rewrite the table in its engine, or take the column out "
                "of corpus.text and corpus.carry."
            ) from error
        return pa.schema([pa.field(field.name, plain(field.type)) for field in self.schema])

    def conform(self, batch: pa.RecordBatch, paths: Sequence[str], file: pa.Schema) -> pa.RecordBatch:
        """The rows of a batch in the table's columns at ``paths``. file: the file's schema, with its metadata."""
        arrays = {}
        for name in dict.fromkeys(_top(path, self.schema) for path in paths):
            if name not in self.schema.names:
                continue  # whoever asks for it finds it missing
            field, source = self.schema.field(name), self.source_of(name, file)
            if source is not None:
                arrays[name] = _fit(batch.column(source.name), field, source)
            else:
                value = self.constants.get(name, pa.scalar(None, plain(field.type)))
                arrays[name] = pa.repeat(value, batch.num_rows)
        if not arrays:
            return batch.select([])
        return pa.RecordBatch.from_arrays(list(arrays.values()), names=list(arrays))


def _text(data: Any) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def pack_deleted(deleted: NDArray[np.bool_]) -> bytes:
    """Which rows [n] of a file are deleted, in few bytes."""
    return zlib.compress(np.packbits(deleted).tobytes(), 1)


def unpack_deleted(packed: bytes) -> NDArray[np.int64]:
    """Positions of the deleted rows, ascending."""
    return np.flatnonzero(np.unpackbits(np.frombuffer(zlib.decompress(packed), np.uint8)))


def plain(kind: pa.DataType) -> pa.DataType:
    """The type as tables of embeddings have it: without views, 64-bit offsets and metadata of fields."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, plain(field.type)) for field in kind.fields])
    if pa.types.is_map(kind):
        return pa.map_(plain(kind.key_type), plain(kind.item_type))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(plain(kind.value_type))
    return kind


def identity(schema: pa.Schema, paths: Sequence[str]) -> list[list[str]]:
    """Which columns of files the table's columns at ``paths`` are: it changes if a column is dropped and another one
    gets its name."""
    tops = dict.fromkeys(_top(path, schema) for path in paths)
    return [[name, *_keys(schema.field(name))] for name in tops if name in schema.names]


def value_as_text(value: pa.Scalar) -> str | None:
    """The value of a partition as a folder `key=value` has it."""
    plain_value = value.as_py()
    if plain_value is None or isinstance(plain_value, str):
        return plain_value
    return str(plain_value).lower() if isinstance(plain_value, bool) else str(plain_value)


def located(path: str, table: str, beside: str) -> str:
    """The URI of a file that a table names by its absolute path. Raises CorpusError if it is elsewhere.

    beside: URI of what the table itself was read from. Tables come from strangers: one on S3 must not name local files.
    """
    scheme, colon, rest = path.partition(":")
    local = not colon or "/" in scheme or scheme == "file"
    uri = f"/{rest.lstrip('/')}" if scheme == "file" else path if local else f"s3://{rest.lstrip('/')}"
    if not local and scheme not in ("s3", "s3a", "s3n"):
        raise CorpusError(
            f"{table} has files on {scheme}:, e.g. {path}, which is not supported. Copy the table to s3:// or a local "
            "path with its engine, and set corpus.path to that."
        )
    if ".." in uri.split("/") or local == is_s3(beside):
        raise CorpusError(
            f"{table} names the file {path}, which is not where the table is. Copy the table with its engine, and set "
            "corpus.path to that."
        )
    return uri


def _keys(field: pa.Field) -> list[str]:
    metadata = field.metadata or {}
    own = [metadata[key].decode() for key in (FIELD_ID, NAME_IN_FILE) if key in metadata]
    return [*own, *(key for inner in _inner(field.type) for key in _keys(inner))]


def _inner(kind: pa.DataType) -> list[pa.Field]:
    if pa.types.is_struct(kind):
        return list(kind.fields)
    if pa.types.is_map(kind):
        return [kind.key_field, kind.item_field]
    return [kind.value_field] if pa.types.is_list(kind) or pa.types.is_large_list(kind) else []


def _top(path: str, schema: pa.Schema) -> str:
    """The name of the whole column at a path."""
    return path if path in schema.names else path.split(".")[0]


def _find(field: pa.Field, there: Sequence[pa.Field]) -> pa.Field | None:
    """The field of a file that is this field of the table."""
    metadata = field.metadata or {}
    names = [metadata.get(NAME_IN_FILE, field.name.encode()).decode()]
    if FIELD_ID in metadata:
        if any(FIELD_ID in (other.metadata or {}) for other in there):
            return next((other for other in there if (other.metadata or {}).get(FIELD_ID) == metadata[FIELD_ID]), None)
        if OTHER_NAMES not in metadata and NAME_IN_FILE not in metadata:
            raise NotImplementedError("the file does not number its columns, and the table has no name mapping")
        names = json.loads(metadata[OTHER_NAMES]) if OTHER_NAMES in metadata else names
    return next((other for other in there if other.name in names), None)


def _fit(array: pa.Array, wanted: pa.Field, have: pa.Field) -> pa.Array:
    """The values in the table's type. Raises ArrowException, NotImplementedError."""
    kind = plain(wanted.type)
    if pa.types.is_struct(kind) and pa.types.is_struct(have.type):
        parts = dict(zip((field.name for field in have.type.fields), array.flatten(), strict=True))
        children = []
        for field in wanted.type.fields:
            source = _find(field, have.type.fields)
            if source is None:
                children.append(pa.nulls(len(array), plain(field.type)))
            else:
                children.append(_fit(parts[source.name], field, source))
        return pa.StructArray.from_arrays(children, fields=list(kind.fields), mask=array.is_null())
    if _renamed(wanted, have):
        raise NotImplementedError(f"a field inside the lists or maps of {wanted.name!r} has another name in the file")
    if isinstance(kind, pa.BaseExtensionType):
        stored = array.storage if isinstance(array, pa.ExtensionArray) else array
        return kind.wrap_array(stored.cast(kind.storage_type))
    if pa.types.is_timestamp(kind) and pa.types.is_timestamp(array.type):
        array = array.cast(pa.timestamp(array.type.unit, kind.tz))  # INT96 has no zone: the table says which it is
    try:
        return array if array.type == kind else array.cast(kind)
    except pa.ArrowInvalid:
        return array  # of a value that the type does not hold: the row is rejected, as in any file


def _renamed(wanted: pa.Field, have: pa.Field) -> bool:
    """Whether structs inside lists or maps have fields with other names here and there."""
    here, there = _inner(wanted.type), _inner(have.type)
    if pa.types.is_struct(wanted.type) and [field.name for field in here] != [field.name for field in there]:
        return True
    return any(_renamed(one, other) for one, other in zip(here, there, strict=False))
