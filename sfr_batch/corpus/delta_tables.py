"""Delta tables as a corpus: the live data files of one version, by the library deltalake (delta-rs).

The library replays the log, and refuses reader features that it does not know by name. The files themselves are read as
all others are. Knows nothing of rows.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.config.settings import CorpusSettings, StorageSettings
from sfr_batch.corpus.file_formats import PARQUET
from sfr_batch.corpus.foreign_tables import DELTA, root_above
from sfr_batch.corpus.kept import Kept
from sfr_batch.corpus.shards import Shard
from sfr_batch.corpus.table_files import FIELD_ID, TableFile, identity, located, pack_deleted, plain, value_as_text
from sfr_batch.errors import ConfigError, CorpusError
from sfr_batch.format.fingerprint import short_id
from sfr_batch.storage.locations import absolute_uri, is_s3
from sfr_batch.storage.other_clients import object_store_options

_KNOWN = {"deletionVectors", "columnMapping", "timestampNtz", "v2Checkpoint", "vacuumProtocolCheck", "typeWidening"}
"""The reader features that are honoured here; the library knows more, of which nobody has seen what they ask of us."""
_KEPT: Kept["_Version"] = Kept()
_MAPPED_ID = b"delta.columnMapping.id"


class _Version(NamedTuple):
    """A table at one version."""

    number: int
    schema: pa.Schema
    files: pa.Table
    """A row each: path, size_bytes, partition (a struct, if there are partitions)."""
    deleted: dict[str, NDArray[np.bool_]]
    """Which rows are deleted in files that have such, by URI."""


def newest_version(settings: CorpusSettings) -> int:
    """The version to read: `corpus.version`, else the newest one now. Raises ConfigError, CorpusError."""
    root = absolute_uri(str(settings.path))
    found = _open(root, settings.version, settings.storage)
    return _KEPT.put((root, found.number, settings.storage), found).number


def list_files(settings: CorpusSettings, columns: Sequence[str]) -> list[Shard]:
    """The live data files at `corpus.version`. columns: paths of the columns that are read. Raises CorpusError."""
    root = absolute_uri(str(settings.path))
    asked = (root, settings.version, settings.storage)
    # What is newest changes; only a version that has a number is kept.
    version = _open(*asked) if settings.version is None else _KEPT.get(asked, lambda: _open(*asked))
    name = f"version {version.number} of the Delta table {root}"
    columns_are = identity(version.schema, columns)
    partitions = _partitions(version)
    shards = []
    for number, (path, size) in enumerate(
        zip(version.files["path"].to_pylist(), version.files["size_bytes"].to_pylist(), strict=True)
    ):
        uri = _located(root, path)
        constants = {key: values[number] for key, values in partitions.items()}
        deleted = version.deleted.get(uri)
        vector = "" if deleted is None else short_id(np.flatnonzero(deleted).tolist())
        # A path is never written twice, so it says which bytes these are.
        state = short_id("delta", path, size, columns_are, vector)
        packed = b"" if deleted is None else pack_deleted(deleted)
        file = TableFile(name, version.schema, constants, path, "VACUUM", packed)
        shards.append(Shard(uri, state, size, PARQUET, partition=_as_text(constants), table=file))
    return shards


def _open(root: str, number: int | None, storage: StorageSettings) -> _Version:
    """Replay the log. number: None for the newest version."""
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError, TableNotFoundError
    except ImportError as error:
        raise ConfigError(
            "corpus.format delta needs the Python package deltalake: pip install 'sfr-batch[delta]'."
        ) from error
    options = object_store_options(root, storage) if is_s3(root) else {}
    if root_above(root, storage) != (root, DELTA):
        raise CorpusError(_no_table(root, storage))
    try:
        table = DeltaTable(root, version=number, storage_options=options)
        files = pa.table(table.get_add_actions())
    except TableNotFoundError as error:
        raise CorpusError(_no_table(root, storage)) from error
    except (DeltaError, OSError, ValueError, FileNotFoundError) as error:
        raise CorpusError(_unreadable(root, number, storage, error)) from error
    _check_features(table, root)
    schema = _schema_of(table)
    return _Version(table.version(), schema, files, _deleted_rows(table, root))


def _no_table(root: str, storage: StorageSettings) -> str:
    above = root_above(root, storage)
    if above and above[1] == DELTA:
        return (
            f"corpus.path {root} is inside the Delta table {above[0]}. Set corpus.path to {above[0]}; "
            "select.partitions chooses a part of it."
        )
    return f"corpus.path {root} is no Delta table: it has no {DELTA.folder}. Correct corpus.path or corpus.format."


def _unreadable(root: str, number: int | None, storage: StorageSettings, error: Exception) -> str:
    words = " ".join(str(error).split()).rstrip(".")
    if number is not None:
        newest = _open(root, None, storage).number
        if number > newest:
            return (
                f"corpus.version {number}: the newest version of the Delta table {root} is {newest}. Set that, or null."
            )
        return (
            f"Version {number} of the Delta table {root} cannot be read: {words}. If its log has been cleaned up, set "
            "corpus.version to a newer one, or to null for the newest."
        )
    return (
        f"The Delta table {root} cannot be read: {words}. If it uses a feature that the package deltalake does not "
        f"know, upgrade that. Or {_export(root)}"
    )


def _check_features(table: Any, root: str) -> None:
    """Raises CorpusError if the table needs a feature that would be ignored here."""
    unknown = sorted(set(table.protocol().reader_features or ()) - _KNOWN)
    if unknown:
        raise CorpusError(
            f"The Delta table {root} needs the reader features {', '.join(unknown)}, which are not supported; "
            f"{_export(root)}"
        )


def _export(root: str) -> str:
    return (
        "export the table to a new folder, and set corpus.path to that: in Spark, "
        f"spark.read.format('delta').load('{root}').write.parquet('<new folder>')."
    )


def _schema_of(table: Any) -> pa.Schema:
    """The columns. Where they are matched by number, each has its number as Parquet files have it."""
    schema = pa.schema(table.schema().to_arrow())
    if table.metadata().configuration.get("delta.columnMapping.mode") != "id":
        return schema

    def numbered(field: pa.Field) -> pa.Field:
        metadata = field.metadata or {}
        kind = field.type
        if pa.types.is_struct(kind):
            kind = pa.struct([numbered(inner) for inner in kind.fields])
        number = {FIELD_ID: metadata[_MAPPED_ID]} if _MAPPED_ID in metadata else {}
        return field.with_type(kind).with_metadata({**metadata, **number})

    return pa.schema([numbered(field) for field in schema])


def _deleted_rows(table: Any, root: str) -> dict[str, NDArray[np.bool_]]:
    """Which rows deletion vectors delete, by the URI of the file."""
    if "deletionVectors" not in (table.protocol().reader_features or ()):
        return {}
    found = {}
    for batch in map(pa.record_batch, table.deletion_vectors()):
        for uri, keep in zip(batch.column("filepath").to_pylist(), batch.column("selection_vector"), strict=True):
            found[_located(root, uri)] = ~keep.values.to_numpy(zero_copy_only=False)
    return found


def _partitions(version: _Version) -> dict[str, list[pa.Scalar]]:
    """The values of each partition column, of all files."""
    if "partition" not in version.files.column_names:
        return {}
    column = version.files["partition"].combine_chunks()
    names = [field.name for field in column.type.fields]
    values = (
        array.cast(plain(version.schema.field(name).type)) for name, array in zip(names, column.flatten(), strict=True)
    )
    return {name: list(array) for name, array in zip(names, values, strict=True)}


def _as_text(constants: dict[str, pa.Scalar]) -> tuple[tuple[str, str | None], ...]:
    """The partition as folders would say it."""
    return tuple((name, value_as_text(value)) for name, value in constants.items())


def _located(root: str, path: str) -> str:
    """The URI of a file of the log: relative to the root, or absolute; percent-encoded, as the protocol says."""
    if "://" not in path and not path.startswith("/"):
        path = f"{root.replace('%', '%25')}/{path}"
    return located(unquote(path), f"The Delta table {root}", root)
