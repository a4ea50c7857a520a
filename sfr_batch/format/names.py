"""Every column, key and file name of a table, spelled once.

Pure names and Arrow schemas; opens nothing. A table is a folder:

    data/<split_id>.parquet                      embeddings, one immutable file a split; nothing else lives here
    _rejects/<split_id>-<attempt>.parquet        rows that could not be embedded
    _rejects/duplicates-<n>-<run_id>.parquet     rows that lost to an earlier row with the same id
    _sfr/table.json                              what the table is; created once
    _sfr/snapshots/<n>.json                      manifest of a published state, created last
    _sfr/snapshots/<n>-<run_id>.<kind>.parquet   its side files
    _sfr/index/<n>-<run_id>-<number>.parquet     which rows some shard versions consist of, and where their vectors are
    _sfr/runs/<run_id>/…                         config, plan, receipts and report of a run
    _sfr/leases/<n>.json                         who is writing now; the highest number counts

A pointer is a folder beside the tables:

    _sfr/pointer/<n>.json                        which table is the current one; the highest number counts
"""

import re
from collections.abc import Mapping

import pyarrow as pa

FORMAT_VERSION = 1

ID = "id"
EMBEDDING = "embedding"
N_TOKENS = "n_tokens"
N_TOKENS_FULL = "n_tokens_full"
TRUNCATED = "truncated"
CONTENT_HASH = "content_hash"
"""Of the whole rendered text of the document, without a prompt."""
ROW_HASH = "row_hash"
"""Of the text and the carried columns; only where there are any, else it is the content hash."""
CHUNK = "chunk"
CHUNK_START = "chunk_start"
CHUNK_END = "chunk_end"
CHUNK_COLUMNS = (CHUNK, CHUNK_START, CHUNK_END)
"""Number of the chunk in its document, from 0, and the characters of the rendered text that it is, half-open."""
RESERVED_COLUMNS = frozenset(
    {ID, EMBEDDING, N_TOKENS, N_TOKENS_FULL, TRUNCATED, CONTENT_HASH, ROW_HASH, *CHUNK_COLUMNS}
)

RECEIPT_KEY = "sfr.receipt"
FINGERPRINT_KEY = "sfr.fingerprint"

DATA = "data"
REJECTS = "_rejects"
INDEX = "_sfr/index"
SNAPSHOTS = "_sfr/snapshots"
RUNS = "_sfr/runs"
LEASES = "_sfr/leases"
POINTER = "_sfr/pointer"
TABLE_JSON = "_sfr/table.json"

_DATA_KEY = re.compile(r"data/([0-9a-f]{32})\.parquet")
_REJECTS_KEY = re.compile(r"_rejects/([0-9a-f]{32})-([0-9a-f]+)\.parquet")
_DUPLICATES_KEY = re.compile(r"_rejects/duplicates-(\d{8,})-.+\.parquet")
_MANIFEST_KEY = re.compile(r"_sfr/snapshots/(\d{8,})\.json")
_LEASE_KEY = re.compile(r"_sfr/leases/([0-9]{8,18})\.json")
_POINTER_KEY = re.compile(r"_sfr/pointer/([0-9]{8,18})\.json")
_INDEX_KEY = re.compile(r"_sfr/index/(\d{8,})-.+-\d+\.parquet")
_SIDE_KEY = re.compile(r"_sfr/snapshots/(\d{8,})-.+\.parquet")


def data_key(split_id: str) -> str:
    return f"{DATA}/{split_id}.parquet"


def rejects_key(split_id: str, attempt: str) -> str:
    return f"{REJECTS}/{split_id}-{attempt}.parquet"


def duplicates_key(snapshot: int, run_id: str) -> str:
    return f"{REJECTS}/duplicates-{snapshot:08d}-{run_id}.parquet"


def manifest_key(snapshot: int) -> str:
    return f"{SNAPSHOTS}/{snapshot:08d}.json"


def side_key(snapshot: int, run_id: str, kind: str) -> str:
    """The run id keeps the side files of two writers apart that want the same snapshot number."""
    return f"{SNAPSHOTS}/{snapshot:08d}-{run_id}.{kind}.parquet"


def index_key(snapshot: int, run_id: str, number: int) -> str:
    return f"{INDEX}/{snapshot:08d}-{run_id}-{number:06d}.parquet"


def run_key(run_id: str, name: str) -> str:
    return f"{RUNS}/{run_id}/{name}"


def split_of_data_key(key: str) -> str | None:
    match = _DATA_KEY.fullmatch(key)
    return match[1] if match else None


def split_and_attempt_of_rejects_key(key: str) -> tuple[str, str] | None:
    match = _REJECTS_KEY.fullmatch(key)
    return (match[1], match[2]) if match else None


def number_of_manifest_key(key: str) -> int | None:
    match = _MANIFEST_KEY.fullmatch(key)
    return int(match[1]) if match else None


def lease_key(number: int) -> str:
    return f"{LEASES}/{number:08d}.json"


def number_of_lease_key(key: str) -> int | None:
    match = _LEASE_KEY.fullmatch(key)
    return int(match[1]) if match else None


def pointer_key(number: int) -> str:
    return f"{POINTER}/{number:08d}.json"


def number_of_pointer_key(key: str) -> int | None:
    match = _POINTER_KEY.fullmatch(key)
    return int(match[1]) if match else None


def number_of_attached_key(key: str) -> int | None:
    """The snapshot number that a side file, an index or a file of duplicates was written for."""
    match = _SIDE_KEY.fullmatch(key) or _DUPLICATES_KEY.fullmatch(key) or _INDEX_KEY.fullmatch(key)
    return int(match[1]) if match else None


def table_schema(
    id_type: pa.DataType, dim: int, vector_dtype: str, carry: Mapping[str, pa.DataType], *, chunks: bool = False
) -> pa.Schema:
    """The columns of a data file. ``dim``: vector length; ``vector_dtype``: float32 or float16.

    chunks: whether a document may be several rows. They then follow each other, and (id, chunk) is the key; else a
    row is a document and id is the key.
    """
    element = {"float32": pa.float32(), "float16": pa.float16()}[vector_dtype]
    return pa.schema(
        [
            pa.field(ID, id_type, nullable=False),
            pa.field(EMBEDDING, pa.list_(pa.field("element", element, nullable=False), dim), nullable=False),
            pa.field(N_TOKENS, pa.int32(), nullable=False),
            pa.field(N_TOKENS_FULL, pa.int32(), nullable=False),
            pa.field(TRUNCATED, pa.bool_(), nullable=False),
            pa.field(CONTENT_HASH, pa.binary(16), nullable=False),
            *(pa.field(name, pa.binary(16), nullable=False) for name in ([ROW_HASH] if carry else [])),
            *(pa.field(name, pa.int32(), nullable=False) for name in (CHUNK_COLUMNS if chunks else ())),
            *(pa.field(name, kind) for name, kind in carry.items()),
        ]
    )


REJECTS_SCHEMA = pa.schema(
    [
        pa.field(ID, pa.string()),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
    ]
)
"""``position``: number of the row in a Parquet or CSV shard, from 0; byte offset of the line in a file of lines, as it
is uncompressed; of a duplicate, its row in the data file that the message names."""

BAD_VECTOR, ENCODER_FAILED, TOO_LONG = "bad_vector", "encoder_failed", "too_long"
AFTER_READING = (BAD_VECTOR, ENCODER_FAILED, TOO_LONG)
"""Reasons that a row gets when it has been read: its id is good, and its text."""

DELETES_SCHEMA = pa.schema([pa.field("split_id", pa.string()), pa.field("position", pa.int64())])
"""``position``: row number in the data file of the split."""

CONDEMNED_SCHEMA = pa.schema([pa.field("split_id", pa.string())])

INDEX_SCHEMA = pa.schema(
    [
        pa.field("id_hash", pa.binary(16)),
        pa.field("row_hash", pa.binary(16)),
        pa.field("content_hash", pa.binary(16)),
        pa.field("position", pa.int64(), nullable=False),
        pa.field("split_id", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("vectors", pa.int32()),
        pa.field("id", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("message", pa.string()),
    ]
)
"""Rows of a shard: those with vectors in order, and its rejects. ``position``: of the row in its shard, as in the
rejects; ``split_id``, ``row``: the data file with its vector, and the first of its ``vectors`` rows there, null for a
reject, which has the last three instead. Hashes are those of `sfr_batch.format.hashes`."""
