"""A new folder of plain Parquet files, on a disk or on S3, that any engine reads; complete or recognisably not.

Each file is written whole, under a name that nothing had before, and `_SUCCESS` last of all. Memory is bounded, also
with many folders in it. Knows no tables of embeddings.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from sfr_batch.config import StorageSettings
from sfr_batch.errors import ConfigError, StorageError
from sfr_batch.parquet import encode_parquet
from sfr_batch.storage import open_store, tidy

SUCCESS = "_SUCCESS"
"""Its presence says that all is there; engines pass over names with an underscore."""

_FILE_BYTES = 128 * 2**20
"""Of rows in memory: a file is written when it has so many."""
_BUFFERED_BYTES = 256 * 2**20
"""Of all rows that wait for their file to fill; beyond it the largest file is written as it is."""
_BUFFERS = 1000
"""Folders with rows that wait: each costs memory of its own, however small they are."""
_ROW_GROUP_BYTES = 32 * 2**20


@dataclass
class _Buffer:
    tables: list[pa.Table] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0


class ParquetFolder:
    """Takes rows, and writes them. ``rows_per_file``: at most; default: as many as are 128 MiB.

    Raises ConfigError unless ``target`` is empty or not there yet.
    """

    def __init__(self, target: str, storage: StorageSettings | None = None, rows_per_file: int | None = None) -> None:
        if rows_per_file is not None and rows_per_file < 1:
            raise ConfigError(f"rows_per_file must be at least 1, not {rows_per_file}.")
        self._store = open_store(target, storage)
        self._rows_per_file = rows_per_file
        self._buffers: dict[str, _Buffer] = {}
        self._buffered = 0
        self._numbers: dict[str, int] = {}
        self.rows = self.files = self.bytes = 0
        keys = {info.key for info in self._store.list("")}
        if keys:
            what = "a finished export" if SUCCESS in keys else f"no {SUCCESS}, so it may be an export that broke off"
            raise ConfigError(
                f"{self.root} is not empty ({len(keys):,} objects, {what}), and nothing is ever overwritten. Choose "
                "another target, or remove it first."
            )

    @property
    def root(self) -> str:
        return self._store.root

    @property
    def folders(self) -> int:
        """Folders with files in them."""
        return len(self._numbers)

    def add(self, rows: pa.Table, folder: str = "") -> None:
        """Rows of one schema a folder; in each folder they keep their order."""
        if not rows.num_rows:
            return
        buffer = self._buffers.setdefault(folder, _Buffer())
        buffer.tables.append(rows)
        buffer.rows += rows.num_rows
        buffer.bytes += rows.nbytes
        self._buffered += rows.nbytes
        if buffer.bytes >= _FILE_BYTES or (self._rows_per_file and buffer.rows >= self._rows_per_file):
            self._flush(folder, whole=False)
        while self._buffered > _BUFFERED_BYTES or len(self._buffers) > _BUFFERS:
            self._flush(max(self._buffers, key=lambda name: self._buffers[name].bytes))

    def flush(self) -> None:
        """Write what waits."""
        for folder in sorted(self._buffers):
            self._flush(folder)

    def close(self, about: Mapping[str, Any]) -> None:
        """Write what waits, and then `_SUCCESS`, a JSON object with ``about`` and the counts."""
        self.flush()
        counts = {"rows": self.rows, "files": self.files, "bytes": self.bytes}
        self._create(SUCCESS, json.dumps({**about, **counts}, indent=1).encode())
        tidy(self._store)

    def _flush(self, folder: str, *, whole: bool = True) -> None:
        """Write the rows of a folder; unless ``whole``, what does not fill a file goes on waiting."""
        buffer = self._buffers.pop(folder)
        self._buffered -= buffer.bytes
        rows = pa.concat_tables(buffer.tables)
        size = self._rows_per_file or rows.num_rows
        end = rows.num_rows if whole else rows.num_rows - rows.num_rows % size
        for start in range(0, end, size):
            self._write(folder, rows.slice(start, min(size, end - start)))
        if end < rows.num_rows:
            # A copy: a slice would keep all of the rows in memory.
            self.add(rows.take(pa.array(range(end, rows.num_rows))), folder)

    def _write(self, folder: str, rows: pa.Table) -> None:
        number = self._numbers.get(folder, 0)
        data = encode_parquet(rows, row_group_size=max(1, rows.num_rows * _ROW_GROUP_BYTES // max(1, rows.nbytes)))
        self._create(f"{folder}{'/' if folder else ''}part-{number:05}.parquet", data)
        self._numbers[folder] = number + 1
        self.rows += rows.num_rows
        self.files += 1
        self.bytes += len(data)

    def _create(self, key: str, data: bytes) -> None:
        # Found there with our content it is the reply that got lost.
        if not self._store.create(key, data) and self._store.read(key) != data:
            raise StorageError(f"{self.root}/{key} is there already: somebody else writes to {self.root} as well.")
