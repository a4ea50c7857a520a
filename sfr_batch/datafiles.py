"""Reading one Parquet file of a table, whole or in columns, and what must be true of a data file."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from sfr_batch import schema as names
from sfr_batch.errors import CountsDoNotClose, TableError
from sfr_batch.manifest import WAYS_OUT, Receipt
from sfr_batch.storage import Store, in_memory


def open_parquet(data: bytes | IO[bytes]) -> pq.ParquetFile:
    """A Parquet file whose page checksums are verified when it is read; ``use_threads=False`` is the reader's part.

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
        raise TableError(f"{store.root}/{key} is damaged: {error}") from error


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
