"""The names of a table on storage: keys of objects, columns of Parquet files, keys of their metadata, reject reasons.

Each is spelled here and nowhere else, except `_sfr/tmp` in `storage.store`. Fields of JSON records and side files are
those of the classes in `records` (a lease's are in `table.commit.lease`, a pointer's in `table.pointer`). Pure names
and Arrow schemas; opens nothing.

    data/<split_id>.parquet                      vectors: one immutable file per split
    _rejects/<split_id>-<attempt>.parquet        rows that could not be embedded
    _rejects/duplicates-<n>-<run_id>.parquet     rows that lost to an earlier row with the same id
    _sfr/table.json                              the table card; created once
    _sfr/accepted.json                           inputs of the fingerprint that the card lacks; created once
    _sfr/types/<n>.json                          types of columns that had no value before; the highest number counts
    _sfr/snapshots/<n>.json                      manifest of a published snapshot; created last
    _sfr/snapshots/<n>-<run_id>.<kind>.parquet   its side files
    _sfr/index/<n>-<run_id>-<number>.parquet     which rows some shards consist of, and where their vectors are
    _sfr/dead/<n>-<run_id>-<number>.parquet      which rows of data files are not part of the snapshot
    _sfr/runs/<run_id>/…                         config, plan, receipts, progress, and reports or end of a run
    _sfr/leases/<n>.json                         who is writing; the highest number counts
    _sfr/tmp/…                                   temporary files of local stores, see `storage.store`

A pointer is a folder beside the tables:

    _sfr/pointer/<n>.json                        the current table; the highest number counts
"""

import re
from collections.abc import Mapping

import pyarrow as pa

FORMAT_VERSION = 1
"""Format of a record that uses nothing that came later."""
FORMAT_OF_ACCEPTED = 2
"""Format of a manifest that names accepted inputs, and of their own record."""
FORMAT_OF_ROW_HASH = 3
"""Format of a table card that names the version of its row hashes."""
FORMAT_OF_CORPUS = 3
"""Format of a manifest that names the version of the table that was its corpus."""
FORMAT_OF_DUPLICATE_RULE = 4
"""Format of a manifest that says that another row of an id than the first is live."""
FORMAT_OF_CLOCK = 4
"""Format of a manifest whose writer had a clock behind that of its parent's."""
FORMAT_OF_LAYOUT = 4
"""Format of a manifest that has columns of its own."""
FORMAT_OF_REPAIR = 4
"""Format of a manifest that a repair has published."""
FORMAT_OF_DEAD_ROWS = 5
"""Format of a manifest whose dead rows are listed by file."""
NEWEST_FORMAT = 5
"""The newest format that is read."""

ID = "id"
EMBEDDING = "embedding"
N_TOKENS = "n_tokens"
N_TOKENS_FULL = "n_tokens_full"
TRUNCATED = "truncated"
CONTENT_HASH = "content_hash"
"""Hash of the rendered text of the whole document, without a prompt."""
ROW_HASH = "row_hash"
"""Hash of the text and the carried columns; a column only if there are any, otherwise equal to the content hash."""
CHUNK = "chunk"
CHUNK_START = "chunk_start"
CHUNK_END = "chunk_end"
CHUNK_COLUMNS = (CHUNK, CHUNK_START, CHUNK_END)
"""Number of the chunk in its document, from 0, and its half-open range of characters of the rendered text."""
RESERVED_COLUMNS = frozenset(
    {ID, EMBEDDING, N_TOKENS, N_TOKENS_FULL, TRUNCATED, CONTENT_HASH, ROW_HASH, *CHUNK_COLUMNS}
)

SPLIT_ID = "split_id"
SHARD = "shard"
POSITION = "position"
"""In rejects and indexes the position of the row in its shard, in lists of dead rows the row in the data file."""
REASON = "reason"
MESSAGE = "message"
ID_HASH = "id_hash"
ROW = "row"
"""First row of a document in its data file."""
VECTORS = "vectors"
"""Rows of a document in its data file."""

RECEIPT_KEY = "sfr.receipt"
FINGERPRINT_KEY = "sfr.fingerprint"
PIECES_KEY = "sfr.pieces"
"""In a data file of a pack: a JSON list, how many documents of each of its shards the file has, in order."""
SOURCES_KEY = "sfr.sources"
"""In a compacted data file: a JSON list, which rows of which data files it has, see `lineage`."""
RUN_ACCOUNT_KEY = "sfr.run"
"""In a plan: the account of the run as it began, see `run_accounts`."""
REPORT_ATTEMPTS = "attempts"
"""In a report: the accounts of the attempts since the snapshot before, oldest first, the run itself last."""
END_REPORT = "report"
"""In the end of a run that has not published: its report, with the fields of a `report.json`."""

DATA = "data"
REJECTS = "_rejects"
INDEX = "_sfr/index"
DEAD = "_sfr/dead"
SNAPSHOTS = "_sfr/snapshots"
RUNS = "_sfr/runs"
LEASES = "_sfr/leases"
POINTER = "_sfr/pointer"
PROBE = "_sfr/probe"
"""Objects with which a run has found out what the store does with conditional writes. They say nothing of the table."""
TABLE_JSON = "_sfr/table.json"
ACCEPTED_JSON = "_sfr/accepted.json"
TYPES = "_sfr/types"

RUN_CONFIG, RUN_PLAN, RUN_REPORT, RUN_END = "config.json", "plan.parquet", "report.json", "end.json"
"""Files of a run, see `run_key`; its receipts: `run_receipts`. It has a report if it has published, else an end."""
RUN_PROGRESS = "progress"
"""Folder of a run in which it says where it is, while it goes on."""
RUN_PAGE = "report.html"
"""The report for people, of a run that has published or failed."""
FILES, SHARDS, INDEXES, DELETES, CONDEMNED = "files", "shards", "indexes", "deletes", "condemned"
DEAD_ROWS = "dead_rows"
"""Kinds of side files, see `side_key`. `deletes` is that of dead rows up to format 4."""

_DATA_KEY = re.compile(r"data/([0-9a-f]{32})\.parquet")
_REJECTS_KEY = re.compile(r"_rejects/([0-9a-f]{32})-([0-9a-f]+)\.parquet")
_DUPLICATES_KEY = re.compile(r"_rejects/duplicates-(\d{8,})-.+\.parquet")
_MANIFEST_KEY = re.compile(r"_sfr/snapshots/(\d{8,})\.json")
_TYPES_KEY = re.compile(r"_sfr/types/(\d{8,})\.json")
_LEASE_KEY = re.compile(r"_sfr/leases/([0-9]{8,18})\.json")
_PROGRESS_KEY = re.compile(r"_sfr/runs/[^/]+/progress/([0-9]{6,18})\.json")
_POINTER_KEY = re.compile(r"_sfr/pointer/([0-9]{8,18})\.json")
_INDEX_KEY = re.compile(r"_sfr/index/(\d{8,})-.+-\d+\.parquet")
_DEAD_KEY = re.compile(r"_sfr/dead/(\d{8,})-.+-\d+\.parquet")
_SIDE_KEY = re.compile(r"_sfr/snapshots/(\d{8,})-.+\.parquet")


def data_key(split_id: str) -> str:
    return f"{DATA}/{split_id}.parquet"


def rejects_key(split_id: str, attempt: str) -> str:
    return f"{REJECTS}/{split_id}-{attempt}.parquet"


def duplicates_key(snapshot: int, run_id: str) -> str:
    return f"{REJECTS}/duplicates-{snapshot:08d}-{run_id}.parquet"


def manifest_key(snapshot: int) -> str:
    return f"{SNAPSHOTS}/{snapshot:08d}.json"


def types_key(number: int) -> str:
    return f"{TYPES}/{number:08d}.json"


def number_of_types_key(key: str) -> int | None:
    match = _TYPES_KEY.fullmatch(key)
    return int(match[1]) if match else None


def side_key(snapshot: int, run_id: str, kind: str) -> str:
    """The run id keeps the side files of two writers apart that want the same snapshot number."""
    return f"{SNAPSHOTS}/{snapshot:08d}-{run_id}.{kind}.parquet"


def is_condemned_key(key: str) -> bool:
    return _SIDE_KEY.fullmatch(key) is not None and key.endswith(f".{CONDEMNED}.parquet")


def index_key(snapshot: int, run_id: str, number: int) -> str:
    return f"{INDEX}/{snapshot:08d}-{run_id}-{number:06d}.parquet"


def dead_key(snapshot: int, run_id: str, number: int) -> str:
    return f"{DEAD}/{snapshot:08d}-{run_id}-{number:06d}.parquet"


def run_key(run_id: str, name: str) -> str:
    return f"{RUNS}/{run_id}/{name}"


def run_of_key(key: str) -> str:
    """The id of the run that an object below `RUNS` is of."""
    return key.removeprefix(f"{RUNS}/").split("/")[0]


def run_receipts(number: int) -> str:
    """Name of a file of receipts of a run, for `run_key`."""
    return f"receipts/{number:06d}.jsonl"


def run_progress(number: int) -> str:
    """Name of an object that says where a run is, for `run_key`; the highest number counts."""
    return f"{RUN_PROGRESS}/{number:06d}.json"


def number_of_progress_key(key: str) -> int | None:
    match = _PROGRESS_KEY.fullmatch(key)
    return int(match[1]) if match else None


def is_run_receipts(key: str) -> bool:
    return key.startswith(f"{RUNS}/") and key.endswith(".jsonl")


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


def probe_keys(store: str) -> tuple[str, str]:
    """Of the object that is tried with, and of the one that says that the store has passed.

    store: a name, of hexadecimal digits, for where the store is and how it is written to: a table may be copied.
    """
    return f"{PROBE}/{store}", f"{PROBE}/{store}-passed"


def pointer_key(number: int) -> str:
    return f"{POINTER}/{number:08d}.json"


def number_of_pointer_key(key: str) -> int | None:
    match = _POINTER_KEY.fullmatch(key)
    return int(match[1]) if match else None


def number_of_attached_key(key: str) -> int | None:
    """The snapshot number that a side file, an index, a list of dead rows or a file of duplicates was written for."""
    forms = (_SIDE_KEY, _DUPLICATES_KEY, _INDEX_KEY, _DEAD_KEY)
    match = next(filter(None, (form.fullmatch(key) for form in forms)), None)
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
        pa.field(SHARD, pa.string(), nullable=False),
        pa.field(POSITION, pa.int64(), nullable=False),
        pa.field(REASON, pa.string(), nullable=False),
        pa.field(MESSAGE, pa.string(), nullable=False),
    ]
)
"""``position``: number of the row in a Parquet or CSV shard, from 0; in a file of lines the byte offset of the line,
uncompressed; of a duplicate, its row in the data file that the message names."""

# Reasons of rejects. Of rows that are not as the table needs them:
BAD_JSON = "bad_json"
"""The line is not a JSON object."""
BAD_CSV = "bad_csv"
"""The record has more or fewer fields than the header."""
NULL_ID = "null_id"
"""The id is null or empty."""
BAD_ID = "bad_id"
"""The id is not of the table's id type, needs more than 64 bits or is not valid Unicode."""
NULL_TEXT = "null_text"
"""All columns of the text are null."""
EMPTY_TEXT = "empty_text"
"""The text is empty or only white space, or its tokenizer leaves no token of it."""
BAD_TEXT = "bad_text"
"""The text is not a string or not valid Unicode."""
BAD_COLUMN = "bad_column"
"""A carried column is not of its type or not valid Unicode."""
# Of rows whose id and text are good:
TOO_LONG = "too_long"
"""The text has more tokens than the model takes, and `model.overflow` is `reject`."""
ENCODER_FAILED = "encoder_failed"
"""The model fails on the row and passes others."""
BAD_VECTOR = "bad_vector"
"""The model's vector is not finite or not of unit length."""
OF_COLUMNS = (NULL_ID, BAD_ID, NULL_TEXT, BAD_TEXT, BAD_COLUMN, BAD_JSON, BAD_CSV)
"""Reasons that all rows of a shard have if it lacks a column, or has one of another type."""
AFTER_READING = (BAD_VECTOR, ENCODER_FAILED, TOO_LONG)
"""Reasons of rows that were read without an error: id and text are good."""
# Of rows with a vector:
DUPLICATE_ID = "duplicate_id"
"""Another row of the corpus has the same id and is live instead."""
OF_NO_DOCUMENT = (NULL_ID, BAD_ID, DUPLICATE_ID)
"""Reasons that say nothing of a document: the row has no id, or another row of its id counts. Of any other reject with
an id it is known that the document is in the corpus and cannot be embedded."""
REASONS = (
    DUPLICATE_ID,
    NULL_ID,
    BAD_ID,
    NULL_TEXT,
    EMPTY_TEXT,
    BAD_TEXT,
    BAD_COLUMN,
    BAD_JSON,
    BAD_CSV,
    *AFTER_READING,
)

DELETES_SCHEMA = pa.schema([pa.field(SPLIT_ID, pa.string()), pa.field(POSITION, pa.int64())])
"""Of a list of dead rows, and of a side file `deletes`. ``position``: row number in the data file of the split."""

CONDEMNED_SCHEMA = pa.schema([pa.field(SPLIT_ID, pa.string())])

INDEX_SCHEMA = pa.schema(
    [
        pa.field(ID_HASH, pa.binary(16)),
        pa.field(ROW_HASH, pa.binary(16)),
        pa.field(CONTENT_HASH, pa.binary(16)),
        pa.field(POSITION, pa.int64(), nullable=False),
        pa.field(SPLIT_ID, pa.string()),
        pa.field(ROW, pa.int64()),
        pa.field(VECTORS, pa.int32()),
        pa.field(ID, pa.string()),
        pa.field(REASON, pa.string()),
        pa.field(MESSAGE, pa.string()),
    ]
)
"""Rows of a shard: those with vectors in order, then its rejects. ``position``: of the row in its shard, as in the
rejects. ``split_id``, ``row``, ``vectors``: the data file with its vectors, their first row there and their number;
null for a reject, which has ``id``, ``reason`` and ``message`` instead. For the hashes see `sfr_batch.format.hashes`.
"""
