"""Parquet as a table's files are written and read: whole files in memory, page checksums, receipts in footers.

Knows stores and receipts; which files are live is `table`'s.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch.errors import CountsDoNotClose, StorageError, TableError
from sfr_batch.format import names
from sfr_batch.format.records import WAYS_OUT, Receipt
from sfr_batch.storage.store import Store, in_memory

_PARALLEL_FOOTERS = 32
_FOOTERS_A_TASK = 64


def encode_parquet(table: pa.Table, metadata: dict[str, str] | None = None, row_group_size: int | None = None) -> bytes:
    """A whole Parquet file in memory: an open Parquet stream that an exception closes would publish what it has.

    Page checksums let a reader see a flipped bit. Vectors are float noise: neither dictionaries, statistics nor
    compression pay for them. ``row_group_size``: rows, default all.
    """
    sink = pa.BufferOutputStream()
    plain = [name for name in table.column_names if name != names.EMBEDDING]
    pq.write_table(
        table.replace_schema_metadata(metadata),
        sink,
        row_group_size=row_group_size or max(1, table.num_rows),
        compression={**dict.fromkeys(plain, "zstd"), f"{names.EMBEDDING}.list.element": "none"},
        use_dictionary=[name for name in plain if name == names.SPLIT_ID],
        write_statistics=plain,
        write_page_checksum=True,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def open_parquet(data: bytes | IO[bytes]) -> pq.ParquetFile:
    """A Parquet file whose page checksums are verified as it is read; that no threads read it is its reader's part.

    Not `pq.read_table`, and not with pre_buffer, its default: these read ahead in threads of Arrow's, and one of these
    that still holds a Python object when the process ends brings it down (pyarrow 26 on Linux: one in six processes
    that end right after `pq.read_table`, one in eighty with pre_buffer).
    """
    file = in_memory(data) if isinstance(data, bytes) else data
    return pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)


def read_parquet(data: bytes | IO[bytes], columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file, or columns of it, its page checksums verified, decoded in the calling thread."""
    table = open_parquet(data).read(columns=columns, use_threads=False)
    # A column named "a.b" is also read where "a" is asked for.
    return table if columns is None else table.select(columns)


@contextlib.contextmanager
def damage_explained(store: Store, key: str) -> Iterator[None]:
    """Turn what Parquet says of a damaged file into a TableError that names it."""
    try:
        yield
    except (OSError, KeyError, pa.ArrowException) as error:
        why = " ".join(str(error).split()).rstrip(" .")
        raise TableError(f"{store.root}/{key} is damaged: {why}. {WAYS_OUT}") from error


def check_fingerprint(store: Store, key: str, found: str | None, expected: str) -> None:
    """Raises TableError if a file of the table has another fingerprint than the table; then it is not the table's."""
    if found != expected:
        raise TableError(
            f"{store.root}/{key} has the fingerprint {(found or 'none')[:12]}, the table {expected[:12]}: its vectors "
            f"were made with another model or other settings, as if it came from another table. {WAYS_OUT}"
        )


def check_data_file(store: Store, key: str, file: pq.ParquetFile, rows: int, fingerprint: str) -> None:
    """Raises TableError if a data file's footer has not the table's ``fingerprint``, CountsDoNotClose if it has not as
    many rows as its receipt says."""
    found = (file.metadata.metadata or {}).get(names.FINGERPRINT_KEY.encode())
    check_fingerprint(store, key, found.decode(errors="replace") if found else None, fingerprint)
    if file.metadata.num_rows != rows:
        raise CountsDoNotClose(f"{store.root}/{key} has {file.metadata.num_rows} rows, its receipt says {rows}.")


def read_data_file(store: Store, receipt: Receipt, columns: list[str], fingerprint: str) -> pa.Table:
    """Columns of a split's data file, dead rows included, its page checksums verified.

    Raises TableError if it is damaged or its footer has not the table's ``fingerprint``, CountsDoNotClose if it has not
    as many rows as its receipt says.
    """
    key = names.data_key(receipt.split_id)
    with damage_explained(store, key), store.open(key) as stream:
        file = open_parquet(stream)
        check_data_file(store, key, file, receipt.vectors, fingerprint)
        return file.read(columns=columns, use_threads=False).select(columns)


def read_receipt(store: Store, split_id: str) -> Receipt:
    """The receipt in the footer of a split's data file. Raises ObjectNotFound, or TableError if it is damaged."""
    key = names.data_key(split_id)
    try:
        with store.open(key) as file:
            metadata = pq.read_metadata(file).metadata or {}
            size = file.seek(0, 2)
        receipt = Receipt.from_json(metadata[names.RECEIPT_KEY.encode()])
    except StorageError:
        raise
    except (OSError, KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise TableError(f"{store.root}/{key} has no readable receipt in its footer: {error!r}") from error
    if receipt.split_id != split_id:
        raise TableError(f"{store.root}/{key} holds the receipt of another split, {receipt.split_id}.")
    return dataclasses.replace(receipt, size=size)


def read_receipts(store: Store, split_ids: Sequence[str]) -> list[Receipt]:
    """The receipts of many data files, in order, see `read_receipt`."""
    # A few at a time where they are many: handing one to a thread costs as much as reading a footer on a local disk.
    at_once = max(1, min(_FOOTERS_A_TASK, len(split_ids) // (4 * _PARALLEL_FOOTERS)))
    parts = [split_ids[start : start + at_once] for start in range(0, len(split_ids), at_once)]
    with ThreadPoolExecutor(_PARALLEL_FOOTERS) as pool:
        read = pool.map(lambda part: [read_receipt(store, split_id) for split_id in part], parts)
        return list(itertools.chain.from_iterable(read))
