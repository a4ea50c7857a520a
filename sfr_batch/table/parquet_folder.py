"""Writes a new folder of plain Parquet files, on a disk or on S3, for any engine.

Each file is created whole, under a new name, and `_SUCCESS` last: without it, the folder is incomplete. Memory is
bounded, even with many folders in it. Knows no tables of embeddings.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError, StorageError, counted
from sfr_batch.format.parquet import ParquetContent
from sfr_batch.storage.s3 import S3Store
from sfr_batch.storage.store import Content, Store, whole
from sfr_batch.storage.stores import open_store, tidy
from sfr_batch.table.hive_names import folder_of, partition_texts

SUCCESS = "_SUCCESS"
"""The file that marks a complete folder. Engines skip names that begin with an underscore."""

_EXPORTED = re.compile(rf"(?:^|/)(?:{SUCCESS}|part-\d+(?:-\d+)?\.parquet)$")
_FILE_BYTES = 128 * 2**20
"""Size of a full file, as rows in memory."""
_WAITING_BYTES = 2 * _FILE_BYTES
"""Maximum size of rows that wait for a full file. Above it, the largest files are written until half is left."""
_ROW_GROUP_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Written:
    """What was written of a folder. bytes: size of all files; folders: those with files in them."""

    rows: int = 0
    files: int = 0
    bytes: int = 0
    folders: frozenset[str] = frozenset()

    def __add__(self, other: "Written") -> "Written":
        return Written(
            self.rows + other.rows,
            self.files + other.files,
            self.bytes + other.bytes,
            self.folders | other.folders,
        )


class ParquetFolder:
    """Collects rows and writes them. rows_per_file: the maximum; default: as many as are 128 MiB.

    Raises ConfigError unless ``target`` is empty or new.
    """

    def __init__(self, target: str, storage: StorageSettings | None = None, rows_per_file: int | None = None) -> None:
        if rows_per_file is not None and rows_per_file < 1:
            raise ConfigError(f"rows_per_file must be at least 1, not {rows_per_file}.")
        self._begin(open_store(target, storage), rows_per_file)
        keys = {info.key for info in self.store.list("")}
        if keys:
            complete = "a complete export" if SUCCESS in keys else f"no {SUCCESS}, so perhaps an incomplete export"
            exported = all(_EXPORTED.search(key) for key in keys)
            raise ConfigError(
                f"{self.root} is not empty ({counted(len(keys), 'object')}, "
                f"{complete if exported else 'of something else'}). Nothing is ever overwritten: choose another target"
                f"{', or remove this one first' if exported else ''}."
            )

    @classmethod
    def part(cls, store: Store, rows_per_file: int | None, number: int | None) -> Self:
        """A writer of one of several parts of a folder that is known to be new, perhaps in another process.

        Names of its files have its ``number``; None: it is the only part. `flush` ends it.
        """
        folder = cls.__new__(cls)
        folder._begin(store, rows_per_file, "" if number is None else f"{number:05}-")
        return folder

    def _begin(self, store: Store, rows_per_file: int | None, prefix: str = "") -> None:
        self.store = store
        self._rows_per_file, self._prefix = rows_per_file, prefix
        self._waiting: list[pa.Table] = []
        self._bytes_waiting = 0
        self._kind: tuple[str, str | None] = ("", None)
        self._numbers: dict[str, int] = {}
        self.written = Written()

    @property
    def root(self) -> str:
        return self.store.root

    @property
    def is_s3(self) -> bool:
        """Whether names may be longer than a local disk allows."""
        return isinstance(self.store, S3Store)

    def add(self, rows: pa.Table, folder: str = "", by: str | None = None) -> None:
        """Add rows to a folder in this one. by: a column whose values become Hive folders in it.

        All rows of a folder must have the same schema; they keep their order. A call with another ``folder`` or ``by``
        than the call before first writes the waiting rows.
        """
        if (folder, by) != self._kind:
            self.flush()
            self._kind = (folder, by)
        if rows.num_rows:
            self._waiting.append(rows)
            self._bytes_waiting += rows.nbytes
        if self._bytes_waiting > _WAITING_BYTES:
            self._write(leave=_WAITING_BYTES // 2)

    def flush(self) -> None:
        """Write all waiting rows."""
        if self._waiting:
            self._write(leave=0)

    def close(self, about: Mapping[str, Any]) -> None:
        """Write all waiting rows, then `_SUCCESS`, a JSON object with ``about`` and the counts."""
        self.flush()
        counts = {"rows": self.written.rows, "files": self.written.files, "bytes": self.written.bytes}
        self._create(SUCCESS, json.dumps({**about, **counts}, indent=1).encode())
        tidy(self.store)

    def _write(self, leave: int) -> None:
        """Write full files, then the largest other ones until at most ``leave`` bytes wait."""
        rows = pa.concat_tables(self._waiting)
        bytes_a_row = rows.nbytes / rows.num_rows
        self._waiting, self._bytes_waiting = [], 0
        full = self._rows_per_file or max(1, int(_FILE_BYTES / bytes_a_row))
        rests = []
        for folder, its in self._divided(rows):
            end = its.num_rows - its.num_rows % full
            for start in range(0, end, full):
                self._write_file(folder, its.slice(start, full))
            if end < its.num_rows:
                rests.append((folder, its.slice(end)))
        stays: list[pa.Table] = []
        for folder, rest in sorted(rests, key=lambda item: item[1].num_rows):
            if leave >= rest.num_rows * bytes_a_row:
                leave -= int(rest.num_rows * bytes_a_row)
                stays.append(rest)
            else:
                leave = 0
                self._write_file(folder, rest)
        if stays:
            # A copy: slices would keep all of the rows in memory.
            kept = pa.concat_tables(stays)
            self._waiting = [kept.take(pa.array(np.arange(kept.num_rows)))]
            self._bytes_waiting = self._waiting[0].nbytes

    def _divided(self, rows: pa.Table) -> Iterator[tuple[str, pa.Table]]:
        """(folder, its rows) for each folder of the rows."""
        folder, by = self._kind
        if by is None:
            yield folder, rows
            return
        values = partition_texts(rows.column(by))
        number_of = values.indices.to_numpy()
        ordered = rows.take(pa.array(np.argsort(number_of, kind="stable")))
        start = 0
        for number, count in enumerate(np.bincount(number_of, minlength=len(values.dictionary)).tolist()):
            inner = folder_of(by, values.dictionary[number].as_py())
            yield f"{folder}/{inner}" if folder else inner, ordered.slice(start, count)
            start += count

    def _write_file(self, folder: str, rows: pa.Table) -> None:
        by = self._kind[1]
        rows = rows if by is None else rows.drop_columns([by])
        number = self._numbers.get(folder, 0)
        file = ParquetContent(rows, row_group_size=max(1, rows.num_rows * _ROW_GROUP_BYTES // max(1, rows.nbytes)))
        self._create(f"{folder}{'/' if folder else ''}part-{self._prefix}{number:05}.parquet", file)
        self._numbers[folder] = number + 1
        self.written += Written(rows.num_rows, 1, file.size, frozenset() if number else frozenset({folder}))

    def _create(self, key: str, data: Content) -> None:
        # With our content, it is our own file: the reply to an earlier attempt was lost.
        if not self.store.create(key, data) and self.store.read(key) != whole(data):
            raise StorageError(f"{self.root}/{key} exists already: another process is writing to {self.root} too.")
