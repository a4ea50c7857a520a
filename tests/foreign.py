"""Tables of other engines for tests: Iceberg tables with position deletes, Delta tables with deletion vectors.

Made by the engines' own libraries, as far as these can write; what they only read is written here, after the
specifications.
"""

import itertools
import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.tables import parquet

pytest.importorskip("deltalake", reason="reads and writes Delta tables: the extra sfr-batch[delta]")
pytest.importorskip("pyiceberg", reason="reads and writes Iceberg tables: the extra sfr-batch[iceberg]")

from deltalake import DeltaTable, QueryBuilder, write_deltalake
from pyiceberg.catalog import MetastoreCatalog
from pyiceberg.catalog.noop import NoopCatalog
from pyiceberg.io import load_file_io
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.table import CommitTableResponse, StagedTable, Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.typedef import Record
from pyroaring import BitMap64

# --- Iceberg


class FolderCatalog(MetastoreCatalog, NoopCatalog):
    """A catalog of tables that remembers them in memory."""

    def __init__(self, **properties: str) -> None:
        super().__init__("tests", **properties)
        self._tables: dict[Any, Table] = {}

    def create(self, location: str, schema: pa.Schema, **more: Any) -> Table:
        """A new table in the folder, without rows."""
        staged: StagedTable = self._create_staged_table(("ns", location), schema, location=location, **more)
        return self._keep(("ns", location), staged)

    def load_table(self, identifier: Any) -> Table:
        return self._tables[identifier]

    def commit_table(self, table: Table, requirements: Any, updates: Any) -> CommitTableResponse:
        name = table.name()
        kept = self._keep(name, self._update_and_stage_table(self._tables[name], name, requirements, updates))
        return CommitTableResponse(metadata=kept.metadata, metadata_location=kept.metadata_location)

    def _keep(self, name: Any, staged: Any) -> Table:
        self._write_metadata(staged.metadata, staged.io, staged.metadata_location)
        io = load_file_io(dict(self.properties), staged.metadata_location)
        self._tables[name] = Table(name, staged.metadata, staged.metadata_location, io, self)
        return self._tables[name]


class _DeleteManifest(ManifestWriterV2):
    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


class _AddDeletes(_FastAppendFiles):
    """A snapshot that adds delete files."""

    def _manifests(self) -> list[ManifestFile]:
        metadata = self._transaction.table_metadata
        number = next(self._manifest_num_counter)
        path = self._transaction._table.location_provider().new_metadata_location(f"{self.commit_uuid}-d{number}.avro")
        output = self._io.new_output(path)
        with _DeleteManifest(metadata.spec(), metadata.schema(), output, self._snapshot_id, "null") as writer:
            for file in self._added_data_files:
                entry = ManifestEntry.from_args(
                    status=ManifestEntryStatus.ADDED, snapshot_id=self._snapshot_id, data_file=file
                )
                writer.add(entry)
        return [writer.to_manifest_file(), *self._existing_manifests()]


_numbers = itertools.count()


def delete_rows(
    table: Table,
    positions: Mapping[str, Sequence[int]],
    content: DataFileContent = DataFileContent.POSITION_DELETES,
) -> None:
    """Delete rows of data files of an unpartitioned Iceberg table, as merge-on-read writers do: by one delete file."""
    pairs = [(file, at) for file in sorted(positions) for at in sorted(positions[file])]
    data = parquet(pa.table({"file_path": [file for file, _ in pairs], "pos": pa.array([at for _, at in pairs])}))
    _add_deletes(table, data, "parquet", FileFormat.PARQUET, len(pairs), content)


def _add_deletes(
    table: Table,
    data: bytes,
    ending: str,
    kind: FileFormat,
    rows: int,
    content: DataFileContent = DataFileContent.POSITION_DELETES,
) -> None:
    """Commit a delete file."""
    path = f"{table.location()}/data/00000-{next(_numbers)}-deletes.{ending}"
    with table.io.new_output(path).create() as stream:
        stream.write(data)
    file = DataFile.from_args(
        content=content,
        file_path=path,
        file_format=kind,
        partition=Record(),
        record_count=rows,
        file_size_in_bytes=len(data),
        equality_ids=[1] if content == DataFileContent.EQUALITY_DELETES else None,
    )
    file.spec_id = 0
    with table.transaction() as transaction:
        snapshot = _AddDeletes(Operation.OVERWRITE, transaction, table.io)
        snapshot.append_data_file(file)
        snapshot.commit()


def delete_by_puffin(table: Table, positions: Mapping[str, Sequence[int]]) -> None:
    """Delete rows of data files of an unpartitioned Iceberg table by deletion vectors in one Puffin file."""
    data, blobs = b"PFA1", []
    for file, rows in sorted(positions.items()):
        vector = bytes.fromhex("d1d33964") + BitMap64(rows).serialize()
        blob = struct.pack(">I", len(vector)) + vector + struct.pack(">I", zlib.crc32(vector))
        properties = {"referenced-data-file": file, "cardinality": str(len(rows))}
        place = {"offset": len(data), "length": len(blob), "snapshot-id": -1, "sequence-number": -1, "fields": []}
        blobs.append({"type": "deletion-vector-v1", "properties": properties, **place})
        data += blob
    footer = json.dumps({"blobs": blobs}).encode()
    data += b"PFA1" + footer + struct.pack("<i", len(footer)) + bytes(4) + b"PFA1"
    _add_deletes(table, data, "puffin", FileFormat.PUFFIN, sum(map(len, positions.values())))


def data_files(table: Table) -> list[str]:
    """The paths of the live data files, as the table spells them."""
    return sorted(task.file.file_path for task in table.scan().plan_files())


# --- Delta

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def delete_by_vectors(root: str, deleted: Mapping[str, Sequence[int]], *, inline: bool = True) -> None:
    """Commit deletion vectors for data files of a Delta table, by their paths in the log."""
    table = DeltaTable(root)
    features = ["deletionVectors"]
    protocol = {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": features, "writerFeatures": features}
    actions: list[dict[str, Any]] = [{"protocol": protocol}]
    for path, add in _adds(root).items():
        if path in deleted:
            actions.append({"remove": {"path": path, "deletionTimestamp": 1, "dataChange": True}})
            actions.append({"add": {**add, "deletionVector": _vector(root, deleted[path], inline)}})
    commit(root, table.version() + 1, actions)


def commit(root: str, version: int, actions: Sequence[Mapping[str, Any]]) -> None:
    """Write a commit to the log of a local Delta table, in place of one with this number."""
    lines = "".join(json.dumps(action) + "\n" for action in actions)
    file = Path(root) / "_delta_log" / f"{version:020}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(lines)


def actions_of(root: str, version: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(root) / "_delta_log" / f"{version:020}.json").read_text().splitlines()]


def _adds(root: str) -> dict[str, dict[str, Any]]:
    found = {}
    for file in sorted((Path(root) / "_delta_log").glob("*.json")):
        for line in file.read_text().splitlines():
            action = json.loads(line)
            if "add" in action:
                found[action["add"]["path"]] = action["add"]
    return found


def _vector(root: str, rows: Sequence[int], inline: bool) -> dict[str, Any]:
    data = struct.pack("<i", 1681511377) + BitMap64(rows).serialize()
    common = {"sizeInBytes": len(data), "cardinality": len(rows)}
    if inline:
        return {"storageType": "i", "pathOrInlineDv": _z85(data + bytes(-len(data) % 4)), **common}
    name = bytes(range(12)) + struct.pack(">I", next(_numbers))
    text = name.hex()
    uuid = "-".join(text[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
    file = b"\x01" + struct.pack(">i", len(data)) + data + struct.pack(">I", zlib.crc32(data))
    (Path(root) / f"deletion_vector_{uuid}.bin").write_bytes(file)
    return {"storageType": "u", "pathOrInlineDv": _z85(name), "offset": 1, **common}


def _z85(data: bytes) -> str:
    text = ""
    for at in range(0, len(data), 4):
        number, part = int.from_bytes(data[at : at + 4], "big"), ""
        for _ in range(5):
            number, rest = divmod(number, 85)
            part = _Z85[rest] + part
        text += part
    return text


__all__ = [
    "DataFileContent",
    "DeltaTable",
    "FolderCatalog",
    "QueryBuilder",
    "actions_of",
    "commit",
    "data_files",
    "delete_by_puffin",
    "delete_by_vectors",
    "delete_rows",
    "parquet",
    "write_deltalake",
]
