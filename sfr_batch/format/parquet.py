"""Writing and reading the Parquet files of a table: whole files, page checksums, receipts in footers.

Knows stores and receipts; does not know which files are live.
"""

import contextlib
import dataclasses
import io
import itertools
import json
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch.errors import CountsDoNotClose, ObjectNotFound, StorageError, TableDamaged, TableError, counted
from sfr_batch.format import names
from sfr_batch.format.expired import REPAIR
from sfr_batch.format.layout import Layout, covers_in
from sfr_batch.format.records import WAYS_OUT, Receipt
from sfr_batch.storage.local_files import unnamed_file
from sfr_batch.storage.ranges import Ranges
from sfr_batch.storage.store import ObjectInfo, Store, whole

_PARALLEL_FOOTERS = 32
_FOOTERS_A_TASK = 64


@dataclasses.dataclass
class ParquetContent:
    """A whole Parquet file, as the content of an object of a store: written when and where the store asks for it.

    Page checksums let a reader detect a flipped bit. Vectors are noise: dictionaries, statistics and compression would
    not make them smaller. ``row_group_size``: rows, default all.
    """

    table: pa.Table
    metadata: dict[str, str] | None = None
    row_group_size: int | None = None
    size: int = 0
    """Bytes, once it has been written."""

    def __call__(self, file: IO[bytes]) -> None:
        """Write it into an empty file."""
        pq.write_table(
            self.table.replace_schema_metadata(self.metadata),
            file,
            row_group_size=self.row_group_size or max(1, self.table.num_rows),
            **_written(self.table.column_names),
        )
        self.size = file.tell()


def encode_parquet(table: pa.Table, metadata: dict[str, str] | None = None, row_group_size: int | None = None) -> bytes:
    """As `ParquetContent`, in memory."""
    return whole(ParquetContent(table, metadata, row_group_size))


def encode_pieces(pieces: Iterable[pa.Table], schema: pa.Schema) -> bytes:
    """As `encode_parquet`, of tables that come one after the other: each becomes a row group. In memory are one of them
    and, at last, the bytes, which wait on disk till then."""
    with unnamed_file() as file:
        with pq.ParquetWriter(file, schema.remove_metadata(), **_written(schema.names)) as writer:
            for piece in pieces:
                writer.write_table(piece, row_group_size=max(1, piece.num_rows))
        file.seek(0)
        return file.read()


def _written(columns: Sequence[str]) -> dict[str, Any]:
    """How these columns are written."""
    plain = [name for name in columns if name != names.EMBEDDING]
    return {
        "compression": {**dict.fromkeys(plain, "zstd"), f"{names.EMBEDDING}.list.element": "none"},
        "use_dictionary": [name for name in plain if name == names.SPLIT_ID],
        "write_statistics": plain,
        "write_page_checksum": True,
    }


def open_parquet(data: bytes | IO[bytes], texts_once: Sequence[str] = ()) -> pq.ParquetFile:
    """A Parquet file whose page checksums are verified as it is read. Read it without threads.

    texts_once: columns of texts that repeat, to be read as dictionaries.

    Not `pq.read_table`, and not with pre_buffer, its default: these read ahead in threads of Arrow, and a process ends
    with SIGABRT if one of them still holds a Python object then (pyarrow 26 on Linux: one in six processes that end
    right after `pq.read_table`, one in eighty with pre_buffer).
    """
    file = pa.BufferReader(data) if isinstance(data, bytes) else _native(data)
    return pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True, read_dictionary=list(texts_once))


def _native(stream: IO[bytes]) -> IO[bytes] | pa.OSFile:
    """The same file for Arrow to read itself where it is one of a local disk, as far as Linux shows it.

    Arrow reads into memory that it has had before. Through the stream, everything would be copied from a new Python
    object, whose memory the kernel has to find and clear: a third of the CPU of an audit.
    """
    raw = getattr(stream, "raw", None)
    if isinstance(raw, io.FileIO):
        with contextlib.suppress(OSError):
            return pa.OSFile(f"/proc/self/fd/{raw.fileno()}")  # not by its name, which another file may have by now
    return stream


def read_parquet(data: bytes | IO[bytes], columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or columns of it, decoded in the calling thread. Page checksums are verified."""
    table = open_parquet(data).read(columns=columns, use_threads=False)
    # A column named "a.b" is also read where "a" is asked for.
    return table if columns is None else table.select(columns)


@contextlib.contextmanager
def damage_explained(store: Store, key: str) -> Iterator[None]:
    """Turn errors of Parquet on a damaged file into a TableDamaged that names the file."""
    try:
        yield
    except (OSError, KeyError, pa.ArrowException) as error:
        why = " ".join(str(error).split()).rstrip(" .")
        raise TableDamaged(
            f"{store.root}/{key} is damaged: {why}",
            "Restore it from a copy, or have its rows again: `sfr-batch repair CONFIG --deep` shows what that takes.",
        ) from error


def read_rejects(store: Store, receipt: Receipt, *, published: bool) -> pa.Table:
    """The rejects of a split, columns of `names.REJECTS_SCHEMA`; published: whether a snapshot has the split.

    Raises TableError, with the way out, if their file is damaged or missing.
    """
    if not receipt.rejected:
        return names.REJECTS_SCHEMA.empty_table()
    key = names.rejects_key(receipt.split_id, receipt.attempt)
    try:
        with damage_explained(store, key):
            return read_parquet(store.read(key))
    except ObjectNotFound as error:
        way_out = REPAIR if published else embed_again(receipt.split_id)
        raise TableError(f"{store.root}/{key} is missing. {way_out}") from error


def embed_again(split_id: str) -> str:
    """The way out if what belongs to a split that no snapshot has is gone."""
    return f"To embed the split again, delete {names.data_key(split_id)} and run the command again."


def check_fingerprint(store: Store, key: str, found: str | None, expected: str) -> None:
    """Raises TableError if a file has another fingerprint than the table: it was made for another table."""
    if found != expected:
        raise TableError(
            f"{store.root}/{key} has the fingerprint {(found or 'none')[:12]}, the table {expected[:12]}: its vectors "
            f"were made with another model or other settings, as if it came from another table. {WAYS_OUT}"
        )


def check_data_file(store: Store, key: str, file: pq.ParquetFile, rows: int, fingerprint: str) -> None:
    """Raises TableError if the footer of a data file does not have the table's ``fingerprint``, CountsDoNotClose if the
    number of rows differs from ``rows``, that of its receipt."""
    found = (file.metadata.metadata or {}).get(names.FINGERPRINT_KEY.encode())
    check_fingerprint(store, key, found.decode(errors="replace") if found else None, fingerprint)
    if file.metadata.num_rows != rows:
        raise CountsDoNotClose(
            f"{store.root}/{key} has {counted(file.metadata.num_rows, 'row')}, its receipt says {rows:,}."
        )


def read_data_file(
    store: Store, receipt: Receipt, columns: list[str], fingerprint: str, layout: Layout | None = None
) -> pa.Table:
    """Columns of a split's data file, including dead rows. Page checksums are verified.

    layout: in which they are read; needed for carried columns and row hashes, which files may have otherwise. Raises
    TableError if the file is damaged or its footer does not have the table's ``fingerprint``, CountsDoNotClose if its
    number of rows differs from the receipt.
    """
    return _read_columns(store, receipt, columns, fingerprint, layout)[0]


def read_file_of_pack(
    store: Store, receipt: Receipt, columns: list[str], fingerprint: str, layout: Layout
) -> tuple[pa.Table, list[int]]:
    """As `read_data_file`, for a file of a pack; also how many documents each shard of the pack has in it, see
    `names.PIECES_KEY`."""
    table, metadata = _read_columns(store, receipt, columns, fingerprint, layout)
    with damage_explained(store, names.data_key(receipt.split_id)):
        try:
            pieces = [int(documents) for documents in json.loads(metadata.get(names.PIECES_KEY.encode(), b"[]"))]
        except (ValueError, TypeError) as error:
            raise OSError(f"{names.PIECES_KEY} in its footer is no list of numbers: {error}") from error
    if sum(pieces) != receipt.embedded:
        raise CountsDoNotClose(
            f"{store.root}/{names.data_key(receipt.split_id)} has {counted(receipt.embedded, 'document')}, the shards "
            f"of its pack have {sum(pieces):,}."
        )
    return table, pieces


def _read_columns(
    store: Store, receipt: Receipt, columns: list[str], fingerprint: str, layout: Layout | None
) -> tuple[pa.Table, dict[bytes, bytes]]:
    """Columns of a data file, and the metadata in its footer."""
    key = names.data_key(receipt.split_id)
    with damage_explained(store, key), store.open(key, receipt.size) as stream:
        file = open_parquet(stream)
        check_data_file(store, key, file, receipt.vectors, fingerprint)
        gather_columns(stream, file, columns if layout is None else layout.stored(file, columns))
        metadata = file.metadata.metadata or {}
        if layout is not None:
            return layout.read(file, columns), metadata
        return file.read(columns=columns, use_threads=False).select(columns), metadata


def gather_columns(
    stream: IO[bytes] | Ranges, file: pq.ParquetFile, columns: Sequence[str], group: int | None = None
) -> None:
    """Fetch, before they are read, the small ones of these columns of a file, or of one of its row groups.

    Does so where the ``stream`` of the file makes a request of each read; then columns that are close to each other
    cost one.
    """
    if isinstance(stream, Ranges):
        groups = range(file.num_row_groups) if group is None else [group]
        stream.gather(place for number in groups for place in _places(file.metadata.row_group(number), set(columns)))


def _places(group: pq.RowGroupMetaData, columns: Container[str]) -> Iterator[tuple[int, int]]:
    """Where these columns of a row group begin and end in the file."""
    for number in range(group.num_columns):
        column = group.column(number)
        if column.path_in_schema in columns or column.path_in_schema.split(".")[0] in columns:
            start = min(column.dictionary_page_offset or column.data_page_offset, column.data_page_offset)
            yield start, start + column.total_compressed_size


def read_receipt(store: Store, split_id: str, size: int = 0) -> Receipt:
    """The receipt in the footer of a split's data file. size: of the file, where a listing has told it.

    Raises ObjectNotFound, or TableError if it is damaged.
    """
    key = names.data_key(split_id)
    try:
        with store.open(key, size) as file:
            metadata = pq.read_metadata(file).metadata or {}
            size = file.seek(0, 2)
        receipt = Receipt.from_json(metadata[names.RECEIPT_KEY.encode()])
    except StorageError:
        raise
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise TableDamaged(
            f"{store.root}/{key} has no readable receipt in its footer: {error!r}",
            "`sfr-batch repair CONFIG --deep` shows what it takes to do without this file; before the first snapshot, "
            "remove it.",
        ) from error
    if receipt.split_id != split_id:
        raise TableError(f"{store.root}/{key} holds the receipt of another split, {receipt.split_id}.")
    return dataclasses.replace(receipt, size=size)


class Footer(NamedTuple):
    """What the footer of a data file says of it. fingerprint: empty without one; covers: of its receipt; sources: the
    text under `names.SOURCES_KEY`, empty without one."""

    fingerprint: str
    covers: str
    schema: pa.Schema
    rows: int
    sources: str


def read_footer(store: Store, split_id: str, size: int = 0) -> Footer:
    """The footer of a data file. size: as of `read_receipt`. Raises ObjectNotFound, or TableError if it is damaged."""
    key = names.data_key(split_id)
    with damage_explained(store, key), store.open(key, size) as stream:
        file = pq.ParquetFile(stream, pre_buffer=False)
        schema, metadata = file.schema_arrow, file.metadata.metadata or {}
        found, sources = (
            metadata.get(key.encode(), b"").decode(errors="replace")
            for key in (names.FINGERPRINT_KEY, names.SOURCES_KEY)
        )
        return Footer(found, covers_in(file), schema.remove_metadata(), file.metadata.num_rows, sources)


def read_receipts(
    store: Store, split_ids: Sequence[str], listed: Mapping[str, ObjectInfo] | None = None
) -> list[Receipt]:
    """The receipts of many data files, in order, see `read_receipt`. listed: the files by split id, where known."""

    def read(split_id: str) -> Receipt:
        info = listed.get(split_id) if listed else None
        return read_receipt(store, split_id, info.size if info else 0)

    # Several per task: handing over a task costs as much as reading a footer from a local disk.
    at_once = max(1, min(_FOOTERS_A_TASK, len(split_ids) // (4 * _PARALLEL_FOOTERS)))
    parts = [split_ids[start : start + at_once] for start in range(0, len(split_ids), at_once)]
    with ThreadPoolExecutor(_PARALLEL_FOOTERS) as pool:
        return list(itertools.chain.from_iterable(pool.map(lambda part: [read(each) for each in part], parts)))
