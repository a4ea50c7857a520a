"""Iceberg tables as a corpus: the live data files of one snapshot, by the library pyiceberg.

A table is named by its folder or by one of its metadata files; catalogs are not asked. The library reads metadata and
manifests; data files are read as all others are. Knows nothing of rows.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from sfr_batch.config.settings import CorpusSettings, StorageSettings
from sfr_batch.corpus.file_formats import PARQUET
from sfr_batch.corpus.foreign_tables import ICEBERG, root_above
from sfr_batch.corpus.kept import Kept
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.table_files import (
    OTHER_NAMES,
    PUFFIN,
    DeleteFile,
    TableFile,
    identity,
    located,
    plain,
    value_as_text,
)
from sfr_batch.errors import ConfigError, CorpusError, SfrBatchError
from sfr_batch.format.fingerprint import short_id
from sfr_batch.storage.inputs import open_input
from sfr_batch.storage.locations import absolute_uri
from sfr_batch.storage.surroundings import names_in

_METADATA_FILE = re.compile(ICEBERG.log)
_KEPT: Kept[Any] = Kept()
_ENDINGS = (".metadata.json", ".metadata.json.gz")
_HINT = "version-hint.text"
_NAME_MAPPING = "schema.name-mapping.default"
_EXPORT = (
    "Export the table to a new folder, and set corpus.path to that: in Spark, "
    "spark.table('<its name>').write.parquet('<new folder>')."
)


class Pinned(NamedTuple):
    """A snapshot of a table: its metadata file, which never changes, and its id."""

    metadata: str
    snapshot: int


def newest_snapshot(settings: CorpusSettings) -> Pinned:
    """The snapshot to read: `corpus.version`, else the current one of the newest metadata. Raises ConfigError,
    CorpusError."""
    uri = _metadata_file(absolute_uri(str(settings.path)), settings.storage)
    metadata = _KEPT.put((uri, settings.storage), _open(uri, settings.storage)).metadata
    wanted = settings.version
    if wanted is None:
        if metadata.current_snapshot_id is None:
            raise CorpusError(f"The Iceberg table {uri} has no snapshot, so it has no rows. Add rows to it.")
        return Pinned(uri, metadata.current_snapshot_id)
    known = [snapshot.snapshot_id for snapshot in metadata.snapshots]
    if wanted not in known:
        raise CorpusError(
            f"corpus.version {wanted}: the Iceberg table {uri} has no such snapshot. Its newest ones are "
            f"{', '.join(map(str, known[-5:]))}. Set one of these, or null for the current one."
        )
    return Pinned(uri, wanted)


def list_files(settings: CorpusSettings, columns: Sequence[str]) -> list[Shard]:
    """The live data files at `corpus.version`. columns: paths of the columns that are read. Raises CorpusError."""
    if settings.version is None or not str(settings.path).endswith(_ENDINGS):
        pinned = newest_snapshot(settings)
    else:
        pinned = Pinned(absolute_uri(str(settings.path)), settings.version)
    table = _KEPT.get((pinned.metadata, settings.storage), lambda: _open(pinned.metadata, settings.storage))
    metadata = table.metadata
    name = f"snapshot {pinned.snapshot} of the Iceberg table {metadata.location}"
    scan = table.scan(snapshot_id=pinned.snapshot)
    tasks = _plan(scan, metadata, pinned.snapshot, name)
    # What a reader of the table sees today: the schema may have changed since the snapshot was made.
    fields = metadata.schema() if pinned.snapshot == metadata.current_snapshot_id else scan.projection()
    schema, defaults = _schema_of(fields, metadata, name)
    columns_are = identity(schema, columns)
    partitions = _Partitions(metadata, fields, schema)
    shards = []
    for task in tasks:
        file = task.file
        _check_file(file, name)
        deletes = tuple(sorted({_delete_file(other, name, pinned.metadata) for other in task.delete_files}))
        uris = [other.uri for other in deletes]
        state = short_id("iceberg", file.file_path, file.file_size_in_bytes, columns_are, uris)
        partition = partitions.of(file)
        its = TableFile(name, schema, {**defaults, **partition}, file.file_path, "expiring snapshots", deletes=deletes)
        text = tuple((key, value_as_text(value)) for key, value in partition.items())
        uri = located(file.file_path, f"The Iceberg table {metadata.location}", pinned.metadata)
        shards.append(Shard(uri, state, file.file_size_in_bytes, PARQUET, partition=text, table=its))
    return shards


# --- metadata


def _metadata_file(uri: str, storage: StorageSettings) -> str:
    """The metadata file that the path is, or the newest one of the table whose folder it is."""
    if uri.endswith(_ENDINGS):
        return uri
    folder = f"{uri.rstrip('/')}/{ICEBERG.folder}"
    there = [name for name in names_in(folder, "", storage)[0] if _METADATA_FILE.fullmatch(name) or name == _HINT]
    there += [name for beginning in ("0", "v") for name in names_in(folder, beginning, storage)[0]]
    files = {name for name in there if _METADATA_FILE.fullmatch(name)}
    if not files:
        above = root_above(uri, storage)
        if above and above[1] == ICEBERG and above[0] != uri:
            raise CorpusError(
                f"corpus.path {uri} is inside the Iceberg table {above[0]}. Set corpus.path to {above[0]}; "
                "select.partitions chooses a part of it."
            )
        raise CorpusError(
            f"corpus.path {uri} is no Iceberg table: it has no {ICEBERG.folder}/*.metadata.json. Correct corpus.path "
            "or corpus.format; a table whose metadata lies elsewhere is named by its metadata file."
        )
    if _HINT in there:
        hinted = _hinted(f"{folder}/{_HINT}", files, storage)
        if hinted:
            return f"{folder}/{hinted}"
    newest = max(map(_number, files))
    candidates = sorted(name for name in files if _number(name) == newest)
    if len(candidates) > 1:
        raise CorpusError(
            f"{folder} has several newest metadata files, {', '.join(candidates[:3])}: which one counts, only the "
            "table's catalog knows. Set corpus.path to the file that the catalog names as metadata_location, such as "
            f"{folder}/{candidates[-1]}."
        )
    return f"{folder}/{candidates[0]}"


def _hinted(uri: str, files: Iterable[str], storage: StorageSettings) -> str | None:
    """The metadata file that a table without a catalog names as its newest; None if it is not there."""
    with open_input(uri, storage) as file:
        hint = file.read(1000).decode("ascii", "replace").strip()
    names = (hint, f"v{hint}.metadata.json", f"v{hint}.gz.metadata.json", f"v{hint}.metadata.json.gz")
    return next((name for name in names if name in files), None)


def _number(name: str) -> int:
    return int(re.match(r"v?(\d+)", name)[1])  # type: ignore[index]


def _open(uri: str, storage: StorageSettings) -> Any:
    """The table with the metadata file ``uri``."""
    try:
        from pyiceberg.catalog.noop import NoopCatalog
        from pyiceberg.serializers import FromInputFile
        from pyiceberg.table import Table

        from sfr_batch.corpus.iceberg_io import ReadOnlyFiles
    except ImportError as error:
        raise ConfigError(
            "corpus.format iceberg needs the Python package pyiceberg: pip install 'sfr-batch[iceberg]'."
        ) from error
    files = ReadOnlyFiles(uri, storage)
    try:
        metadata = FromInputFile.table_metadata(files.new_input(uri))
    except SfrBatchError:
        raise
    except Exception as error:  # pydantic's, JSON's, zlib's, and those of the library
        raise CorpusError(
            f"{uri} is no metadata file of an Iceberg table that can be read: {_words(error)}."
        ) from error
    return Table(("corpus",), metadata, uri, files, NoopCatalog("corpus"))


def _plan(scan: Any, metadata: Any, snapshot: int, name: str) -> Sequence[Any]:
    """A task for each live data file, with the files that list its deleted rows."""
    summary = metadata.snapshot_by_id(snapshot).summary
    equality = int(summary.get("total-equality-deletes") or 0) if summary else 0
    try:
        return list(scan.plan_files())
    except SfrBatchError:
        raise
    except (
        Exception
    ) as error:  # the library raises ValueError, NotImplementedError, and what Avro makes of a damaged file
        what = (
            "has equality deletes, which are not supported"
            if equality or "equality" in str(error)
            else (f"cannot be read: {_words(error)}")
        )
        raise CorpusError(
            f"{name} {what}. Let the table's engine compact it (in Spark, CALL <catalog>.system.rewrite_data_files "
            f"with the option 'delete-file-threshold', '1'). Or: {_EXPORT}"
        ) from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".")


# --- columns


def _schema_of(fields: Any, metadata: Any, name: str) -> tuple[pa.Schema, Mapping[str, pa.Scalar]]:
    """The table's columns, each with its number, and the values of those that older files lack."""
    from pyiceberg.io.pyarrow import schema_to_pyarrow

    try:
        schema = schema_to_pyarrow(fields)
    except Exception as error:
        raise CorpusError(f"{name} has columns that are not supported: {_words(error)}. {_EXPORT}") from error
    mapping = metadata.properties.get(_NAME_MAPPING)
    if mapping:
        schema = pa.schema(_with_names(list(schema), json.loads(mapping)))
    defaults = {}
    for field in fields.fields:
        if field.initial_default is not None:
            kind = plain(schema.field(field.name).type)
            defaults[field.name] = pa.scalar(field.initial_default, kind)
    return schema, defaults


def _with_names(fields: Sequence[pa.Field], mapped: Sequence[Mapping[str, Any]]) -> list[pa.Field]:
    """The fields with their names in files that do not number their columns, as the table's name mapping says."""
    by_number = {str(entry.get("field-id")).encode(): entry for entry in mapped}
    found = []
    for field in fields:
        metadata, kind = field.metadata or {}, field.type
        entry = by_number.get(metadata.get(b"PARQUET:field_id", b""), {})
        if pa.types.is_struct(kind):
            kind = pa.struct(_with_names(list(kind.fields), entry.get("fields", ())))
        names = json.dumps(entry.get("names", [])).encode()
        found.append(field.with_type(kind).with_metadata({**metadata, OTHER_NAMES: names}))
    return found


class _Partitions:
    """The values that all rows of a data file have, by the names of the columns."""

    def __init__(self, metadata: Any, fields: Any, schema: pa.Schema) -> None:
        from pyiceberg.transforms import IdentityTransform

        self._identities: dict[int, list[tuple[int, str, pa.DataType]]] = {}
        for spec in metadata.partition_specs:
            self._identities[spec.spec_id] = [
                (place, column.name, plain(schema.field(column.name).type))
                for place, field in enumerate(spec.fields)
                if isinstance(field.transform, IdentityTransform)
                for column in [_by_id(fields, field.source_id)]
                if column is not None
            ]

    def of(self, file: Any) -> dict[str, pa.Scalar]:
        """Of identity partitions alone: other transforms do not give the values of a column."""
        return {
            name: _scalar(file.partition[place], kind) for place, name, kind in self._identities.get(file.spec_id, ())
        }


def _by_id(fields: Any, number: int) -> Any:
    return next((field for field in fields.fields if field.field_id == number), None)


def _scalar(value: Any, kind: pa.DataType) -> pa.Scalar:
    """The value of a partition, of which dates and times are numbers."""
    if isinstance(value, int) and (pa.types.is_date(kind) or pa.types.is_timestamp(kind) or pa.types.is_time(kind)):
        whole = pa.int32() if kind.bit_width == 32 else pa.int64()
        return pa.scalar(value, whole).cast(kind)
    return pa.scalar(value, kind)


# --- files


def _check_file(file: Any, name: str) -> None:
    """Raises CorpusError if a data file cannot be read."""
    kind = str(file.file_format.value).lower()
    if kind != PARQUET:
        raise CorpusError(
            f"{name} has data files in {kind}, e.g. {file.file_path}; only Parquet is supported. {_EXPORT}"
        )
    if file.key_metadata is not None:
        raise CorpusError(f"{name} has encrypted data files, e.g. {file.file_path}, which are not supported. {_EXPORT}")


def _delete_file(file: Any, name: str, metadata: str) -> DeleteFile:
    kind = str(file.file_format.value).lower()
    if kind not in (PARQUET, PUFFIN):
        raise CorpusError(
            f"{name} has delete files in {kind}, e.g. {file.file_path}, which are not supported. {_EXPORT}"
        )
    return DeleteFile(located(file.file_path, name, metadata), kind)
