"""Hashes that recognise a row from one run to the next: of its id, its text, and the whole row.

Pure functions over Arrow arrays and Python values, the same in every process and on every machine. 128 bits each, so
that equal hashes mean equal values.
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.format.row_hash_1 import spell_rows
from sfr_batch.format.row_hash_2 import encode_rows

Hashes = NDArray[np.uint64]
"""[n, 2]: the two halves of n hashes."""

ROW_HASH_VERSION = 2
"""Version of the row hashes of new tables."""
_SIZE = 16


def hash_texts(texts: Iterable[str]) -> pa.Array:
    """[n] BLAKE2b of each text in UTF-8, binary(16)."""
    return _array([hashlib.blake2b(text.encode(), digest_size=_SIZE).digest() for text in texts])


def hash_ids(ids: Sequence[str | int]) -> pa.Array:
    """[n] hash of each id, binary(16). 1 and "1" have one hash: the ids of a table are all of one type."""
    return hash_texts(map(str, ids))


def hash_rows(content_hash: pa.Array, carry: pa.Table, version: int) -> pa.Array:
    """[n] hash of each row: its ``content_hash`` and its carried columns. Without carried columns ``content_hash``.

    version: of the row hash, see `TableCard.row_hash`. In each, NaN equals NaN and 0.0 is not -0.0.
    """
    if not carry.num_columns:
        return content_hash
    rows = _ROWS[version]([_one_array(column) for column in carry.columns])
    hashes = zip(content_hash.to_pylist(), rows, strict=True)
    return _array([hashlib.blake2b(content + row, digest_size=_SIZE).digest() for content, row in hashes])


_ROWS = {1: spell_rows, 2: encode_rows}


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    """The column without chunks. Those of dictionaries may have different ones, which Arrow does not always unify."""
    column = column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _array(digests: list[bytes]) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(_SIZE), len(digests), [None, pa.py_buffer(b"".join(digests))])


def halves(column: pa.Array | pa.ChunkedArray) -> Hashes:
    """The values of a binary(16) column without nulls, [n, 2]."""
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint64)[2 * chunk.offset : 2 * (chunk.offset + len(chunk))]
        for chunk in chunks
        if len(chunk)
    ]
    return np.concatenate(parts).reshape(-1, 2) if parts else np.empty((0, 2), np.uint64)


def whole(hashes: Hashes) -> pa.Array:
    """The inverse of `halves`."""
    numbers = np.ascontiguousarray(hashes)
    return pa.Array.from_buffers(pa.binary(_SIZE), len(numbers), [None, pa.py_buffer(numbers)])
