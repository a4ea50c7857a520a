"""Dead rows: rows of data files that are not part of a snapshot. Written and read by file.

The side file `dead_rows` has a `DeadPart` for each data file with dead rows: which rows of which list are their
positions. A list is a Parquet file of about a million rows, so that neither a writer nor a reader has all of them in
memory. In the first formats one side file, `deletes`, had the rows of all files. Knows no manifests.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format import names
from sfr_batch.format.expired import damaged, expiry_explained
from sfr_batch.format.indexes import create_own
from sfr_batch.format.parquet import damage_explained, encode_parquet, open_parquet, read_parquet
from sfr_batch.format.records import SideFile
from sfr_batch.storage.store import Store


@dataclass(frozen=True, slots=True)
class DeadPart:
    """The dead rows of a data file: ``rows`` rows of the list ``key``, from row ``start``. ``sha256``: of the list."""

    split_id: str
    key: str
    sha256: str
    start: int
    rows: int

    def __len__(self) -> int:
        return self.rows


Positions = NDArray[np.int64]
"""[n] rows of a data file, from 0."""
Dead = DeadPart | Positions
"""The dead rows of a data file: where their positions are, or, of a snapshot of an earlier format, the positions."""

_ROWS_A_LIST = 2**20
_LISTS_KEPT = 4


class DeadLists:
    """Reads positions from the lists of a snapshot. Keeps the last few lists, as files come in their order."""

    def __init__(self, store: Store, snapshot: int) -> None:
        self.store, self._snapshot = store, snapshot
        self._kept: dict[str, Positions] = {}
        self._reading = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return DeadLists, (self.store, self._snapshot)  # another process reads for itself

    def positions(self, dead: Dead) -> Positions:
        """The positions of dead rows of one file, ascending. Reads one list.

        Raises TableDamaged, or TableNotFound if the snapshot has expired.
        """
        if not isinstance(dead, DeadPart):
            return dead
        found = self._list(dead)[dead.start : dead.start + dead.rows]
        if len(found) < dead.rows:
            raise self._wrong(dead.key, "has fewer rows than")
        return found

    def data(self, dead: DeadPart) -> bytes:
        """The list that dead rows are in, as it was published. Raises as `positions` does."""
        with expiry_explained(self.store, self._snapshot):
            data = self.store.read(dead.key)
        if hashlib.sha256(data).hexdigest() != dead.sha256:
            raise self._wrong(dead.key, "is not the file that", "was published with")
        return data

    def _list(self, dead: DeadPart) -> Positions:
        with self._reading:  # the threads that read files ahead ask for one list at once
            if dead.key not in self._kept:
                data = self.data(dead)
                with damage_explained(self.store, dead.key):
                    positions = read_parquet(data, [names.POSITION]).column(0).to_numpy()
                while len(self._kept) >= _LISTS_KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[dead.key] = positions
            return self._kept[dead.key]

    def _wrong(self, key: str, what: str, more: str = "says") -> Exception:
        return damaged(self.store, self._snapshot, f"{self.store.root}/{key} {what} snapshot {self._snapshot} {more}")


class DeadRows(Mapping[str, Positions]):
    """The dead rows of a snapshot: ascending positions by split id, read when they are asked for."""

    def __init__(self, parts: Mapping[str, Dead], store: Store, snapshot: int) -> None:
        self.parts, self._lists = parts, DeadLists(store, snapshot)

    def __getitem__(self, split_id: str) -> Positions:
        return self._lists.positions(self.parts[split_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def rows(self) -> int:
        """Number of dead rows in all files."""
        return sum(map(len, self.parts.values()))

    def count(self, split_id: str) -> int:
        """Number of dead rows of a file."""
        return len(self.parts.get(split_id, ()))

    def lists(self) -> list[SideFile]:
        """The lists that these rows are in, in the form of side files."""
        found: dict[str, SideFile] = {}
        for dead in self.parts.values():
            if isinstance(dead, DeadPart):
                rows = dead.rows + (found[dead.key].rows if dead.key in found else 0)
                found[dead.key] = SideFile(name=dead.key, sha256=dead.sha256, rows=rows)
        return list(found.values())

    def by_list(self) -> Iterator[tuple[str, dict[str, DeadPart], dict[str, Positions]]]:
        """Each list: its key, its parts, and all the positions that it has, both by split id.

        Raises TableDamaged if a list is not as it was published, TableNotFound if the snapshot has expired.
        """
        by_key: dict[str, dict[str, DeadPart]] = {}
        for split_id, dead in self.parts.items():
            if isinstance(dead, DeadPart):
                by_key.setdefault(dead.key, {})[split_id] = dead
        for key, parts in by_key.items():
            data = self._lists.data(next(iter(parts.values())))
            with damage_explained(self._lists.store, key):
                yield key, parts, read_list(data)


def lists_of(parts: Iterable[Dead | None]) -> list[str]:
    """Keys of the lists that dead rows are in, each once, in order."""
    return list(dict.fromkeys(dead.key for dead in parts if isinstance(dead, DeadPart)))


def write_dead_rows(
    store: Store, files: Iterable[tuple[str, Positions]], key_of: Callable[[int], str]
) -> list[DeadPart]:
    """Write lists of the dead rows of files, one after the other. Returns a part for each file.

    files: (split id, ascending positions), at least one of each; may be a generator. key_of: key of the list with this
    number, a name that no other writer uses.
    """
    parts: list[DeadPart] = []
    for number, its in enumerate(_lists(files)):
        key, data = key_of(number), encode_parquet(_list_of(its))
        create_own(store, key, data)
        digest = hashlib.sha256(data).hexdigest()
        starts = accumulate((len(positions) for _, positions in its), initial=0)
        parts += [DeadPart(name, key, digest, start, len(at)) for (name, at), start in zip(its, starts, strict=False)]
    return parts


def _lists(files: Iterable[tuple[str, Positions]]) -> Iterator[list[tuple[str, Positions]]]:
    """The files of each list. The rows of a file are in one."""
    waiting: list[tuple[str, Positions]] = []
    rows = 0
    for split_id, positions in files:
        waiting.append((split_id, positions))
        rows += len(positions)
        if rows >= _ROWS_A_LIST:
            yield waiting
            waiting, rows = [], 0
    if waiting:
        yield waiting


def _list_of(files: Sequence[tuple[str, Positions]]) -> pa.Table:
    """Columns of `names.DELETES_SCHEMA`. Texts of 32 bytes for each row are made for some rows at a time."""
    counts = [len(positions) for _, positions in files]
    codes = np.repeat(np.arange(len(files), dtype=np.int32), counts)
    coded = pa.DictionaryArray.from_arrays(codes, pa.array([split_id for split_id, _ in files], pa.string()))
    texts = [coded.slice(at, _ROWS_A_LIST).dictionary_decode() for at in range(0, len(coded), _ROWS_A_LIST)]
    positions = np.concatenate([positions for _, positions in files])
    return pa.table([pa.chunked_array(texts, pa.string()), positions], schema=names.DELETES_SCHEMA)


def read_list(data: bytes) -> dict[str, Positions]:
    """Positions by split id, in a list or in a side file `deletes`. Takes 8 bytes a row, and 12 more for a million."""
    found: dict[str, list[Positions]] = {}
    file = open_parquet(data, texts_once=[names.SPLIT_ID])
    for batch in file.iter_batches(_ROWS_A_LIST, use_threads=False):
        for split_id, positions in _by_file(batch):
            found.setdefault(split_id, []).append(positions)
    return {split_id: its[0] if len(its) == 1 else np.concatenate(its) for split_id, its in found.items()}


def _by_file(rows: pa.RecordBatch) -> Iterator[tuple[str, Positions]]:
    files, positions = rows.column(names.SPLIT_ID), rows.column(names.POSITION).to_numpy()
    codes, split_ids = files.indices.to_numpy(), files.dictionary.to_pylist()
    begins = np.flatnonzero(np.diff(codes, prepend=-1))
    if len(begins) > len(split_ids):  # nobody has promised that the rows of a file stand together
        order = np.argsort(codes, kind="stable")
        codes, positions = codes[order], positions[order]
        begins = np.flatnonzero(np.diff(codes, prepend=-1))
    for code, its in zip(codes[begins].tolist(), np.split(positions, begins[1:]) if len(begins) else (), strict=True):
        yield split_ids[code], its
