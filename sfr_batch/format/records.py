"""The records of a table: receipts, shard records, index parts, manifests with their counts, and the table card.

Immutable values with their JSON and Arrow forms; a field's name is its key or column on storage. The records of a lease
and of a pointer are in `table.commit.lease` and `table.pointer`. Knows nothing of stores.
"""

import dataclasses
import getpass
import json
import os
import socket
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfr_batch.errors import CountsDoNotClose, TableError, counted
from sfr_batch.format import names
from sfr_batch.format.hashes import ROW_HASH_VERSION
from sfr_batch.format.names import FORMAT_OF_ROW_HASH, FORMAT_VERSION, NEWEST_FORMAT
from sfr_batch.format.schemas import described, schema_of

WAYS_OUT = "Restore it from a copy, or write to a new table: table.path=<another path>."


def utc_now() -> str:
    """The time in ISO 8601, in UTC, with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def user() -> str:
    """Name of the user of this process, or the number of one without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())


def who() -> str:
    """``user@host`` of this process."""
    return f"{user()}@{socket.gethostname()}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What committing one split reports. It is in the footer of the split's data file, so no second log can disagree.

    Counts are documents, except ``vectors`` (rows of the data file) and token counts: ``tokens`` of the rows after
    truncation, ``tokens_full`` of their documents before truncation or chunking, ``encoded_tokens`` without repeated
    texts, ``padded_tokens`` as the device computed them. ``start``: position of the split's first row in its shard, as
    in the rejects; ``attempt``: names the rejects file that counts.
    """

    split_id: str
    shard: str
    version: str
    start: int
    attempt: str
    run_id: str
    read: int
    embedded: int
    rejected: int
    vectors: int
    tokens: int
    tokens_full: int
    encoded_tokens: int
    padded_tokens: int
    truncated: int
    encode_seconds: float
    canaries: int = 0
    """Number of fixed texts that were encoded with the rows."""
    drift: float = 0.0
    """Largest 1 - cosine between the vector of a canary encoded among the rows and encoded alone."""
    generation: str = ""
    """Label of the run that embedded the rows."""
    copied: bool = False
    """Whether the vectors are copies, because only carried columns changed."""
    covers: str = ""
    """What the row hashes of the data file cover, if not what the table's card says: a JSON list of their version and
    an object of the carried columns, name to type."""
    size: int = 0
    """Bytes of the data file. 0 in the footer, which is part of the file."""
    owned: bool = True
    """Whether ``shard`` has no index: its rows are exactly those of the data files that it owns. True in the footer,
    because it depends on the snapshot."""

    @classmethod
    def of_rows(
        cls,
        rows: pa.Table,
        *,
        split_id: str,
        shard: str,
        version: str,
        start: int,
        attempt: str,
        run_id: str,
        generation: str,
        rejected: int = 0,
        encoded_tokens: int = 0,
        padded_tokens: int = 0,
        encode_seconds: float = 0.0,
        canaries: int = 0,
        drift: float = 0.0,
        copied: bool = False,
        covers: str = "",
    ) -> Self:
        """The receipt of a data file with these rows: counts of documents, vectors and tokens are taken from them.

        rows: [vectors] with the columns n_tokens, n_tokens_full and truncated, and chunk where documents are cut into
        chunks; the rows of a document stand together. rejected: documents of the split that are not among the rows.
        """
        full = rows.column(names.N_TOKENS_FULL)  # of the whole document, in each of its rows
        if names.CHUNK in rows.column_names:
            full = full.filter(pc.equal(rows.column(names.CHUNK), 0))
        return cls(
            split_id=split_id,
            shard=shard,
            version=version,
            start=start,
            attempt=attempt,
            run_id=run_id,
            read=len(full) + rejected,
            embedded=len(full),
            rejected=rejected,
            vectors=rows.num_rows,
            tokens=pc.sum(rows.column(names.N_TOKENS)).as_py() or 0,
            tokens_full=pc.sum(full).as_py() or 0,
            encoded_tokens=encoded_tokens,
            padded_tokens=padded_tokens,
            truncated=pc.sum(rows.column(names.TRUNCATED)).as_py() or 0,
            encode_seconds=encode_seconds,
            canaries=canaries,
            drift=drift,
            generation=generation,
            copied=copied,
            covers=covers,
        )

    def check(self) -> None:
        """Raises CountsDoNotClose unless every row that was read is embedded or rejected."""
        if self.read != self.embedded + self.rejected:
            raise CountsDoNotClose(
                f"Split {self.split_id} of {self.shard}: {counted(self.read, 'row')} read, but {self.embedded} "
                f"embedded and {self.rejected} rejected."
            )

    @property
    def footer(self) -> "Receipt":
        """The receipt in the form that the footer of the data file has."""
        return dataclasses.replace(self, size=0, owned=True)

    def to_json(self) -> str:
        # An older release refuses a field that it does not know.
        fields = {name: value for name, value in dataclasses.asdict(self).items() if name != "covers" or value}
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        values = json.loads(text)
        # Thousands of receipts name the same shard and run: intern the strings.
        return cls(
            **values
            | {key: sys.intern(values[key]) for key in ("shard", "version", "run_id", "covers") if key in values}
        )


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """One shard in a snapshot: its version, row recipe, generation and number of rows.

    ``rejected``: rejected rows among the ``read`` rows, without duplicates of an id that have a vector. ``splits``:
    number of owned data files. ``retried``: label under which its rejects were last tried again. ``ctime_ns``: of a
    local file when it was read, 0 if unknown; no part of the version. ``superseded``: those of the rejected rows that
    were not embedded because another row has their id (`table.duplicate_ids: last`).
    """

    uri: str
    version: str
    size: int
    recipe: str
    generation: str
    read: int
    splits: int
    rejected: int = 0
    retried: str = ""
    ctime_ns: int = dataclasses.field(default=0, compare=False)
    superseded: int = 0


KEPT = ""
"""URI of the shard record for documents that left the corpus and stay in the table."""
PACKED = ""
"""Shard and version in the receipt of a split whose rows come from several shards."""


@dataclass(frozen=True, slots=True)
class IndexPart:
    """Some rows of a shard: ``rows`` rows of the index file ``key``, from row ``start``. Parts are in order."""

    shard: str
    key: str
    start: int
    rows: int
    covers: str = ""
    """What its row hashes cover, as in a receipt."""
    size: int = dataclasses.field(default=0, compare=False)
    """Bytes of the index file, 0 if unknown: before it is published, and in what older releases have published."""


def rows_in(source: Receipt | IndexPart) -> int:
    """Number of rows of a data file or of a part of an index."""
    return source.vectors if isinstance(source, Receipt) else source.rows


class Record(BaseModel):
    """Base of the records that are stored as JSON: strict and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, source: str, ways_out: str = WAYS_OUT) -> Self:
        """The record. Raises TableError, with ``source`` and ``ways_out``, if it is damaged or of a newer format."""
        try:
            version = int(json.loads(data).get("format_version", FORMAT_VERSION))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise TableError(f"{source} is damaged: {error}. {ways_out}") from error
        if version > NEWEST_FORMAT:
            raise TableError(
                f"{source} has table format {version}; this sfr-batch reads up to {NEWEST_FORMAT}: upgrade."
            )
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
            raise TableError(f"{source} is not a valid record: {wrong}. {ways_out}") from error


class Counts(Record):
    """Counts of a snapshot, in documents. ``read`` has all rows of the corpus, each in exactly one of the next three.

    ``vectors`` equals the documents with vectors, unless these have several (`model.overflow: chunk`).
    """

    read: int
    embedded: int
    """Documents whose vectors are new in this snapshot."""
    reused: int
    """Documents whose vectors are from an earlier snapshot."""
    rejected: int
    """Rejected rows, duplicates of an id included."""
    vectors: int
    """Live rows."""
    tokens: int
    """Tokens of the live rows, after truncation."""
    truncated: int
    """Live rows whose text was cut."""
    tokens_full: int = 0
    """Tokens of the live documents before truncation or chunking."""
    kept: int = 0
    """Documents that left the corpus and stay (`table.delete: keep`); not part of ``read``."""

    def check(self) -> None:
        """Raises CountsDoNotClose unless every document was embedded, reused or rejected."""
        if self.read != self.embedded + self.reused + self.rejected:
            raise CountsDoNotClose(
                f"{counted(self.read, 'row')} read, but {self.embedded} embedded, {self.reused} reused and "
                f"{self.rejected} rejected. Nothing was published; this is a bug, please report it with the run's "
                "receipts."
            )


class ChangeCounts(Record):
    """What a run found in the shards that it read, compared with its parent snapshot, in documents."""

    new: int = 0
    """Ids that the parent does not have."""
    changed: int = 0
    """Ids with another text, or embedded again under another label."""
    copied: int = 0
    """Ids with the same text and other carried columns; their vectors are copied."""
    unchanged: int = 0
    """Ids with the same row, in whichever place."""
    deleted: int = 0
    """Ids that left the corpus, including those that stay in the table."""


class SideFile(Record):
    """A Parquet file that a manifest names, with its hash and number of rows."""

    name: str
    sha256: str
    rows: int


class Expired(Record):
    """Which snapshots have expired. Their manifests stay, so that no number becomes free and can be won again."""

    before: int
    """Snapshots with a lower number have expired, except those in ``keep``."""
    keep: tuple[int, ...] = ()

    def covers(self, number: int) -> bool:
        return number < self.before and number not in self.keep


class DuplicateRule(Record):
    """Which row of an id is live, if that is not the first one: the last one in the order of the corpus."""

    order_by: str | None = None
    """Column of the table whose largest value is live, the last row among equals; null and NaN are below all others."""

    def __str__(self) -> str:
        return "last" + (f" by {self.order_by}" if self.order_by else "")


class StatedLayout(Record):
    """The columns of a snapshot, see `format.layout`."""

    arrow_schema: str = Field(repr=False)
    """As in the card."""
    columns: dict[str, str]
    """As in the card."""
    row_hash: int
    """Version of the row hashes of data files that are written in it."""

    @property
    def schema(self) -> pa.Schema:
        return schema_of(self.arrow_schema)


class Manifest(Record):
    """A published snapshot. Readers see what it names and nothing else."""

    format_version: int = FORMAT_VERSION
    snapshot: int
    parent: int | None
    operation: Literal["embed", "backfill", "compact", "sweep", "expire", "repair"]
    run_id: str
    created_at: str
    by: str = ""
    """``user@host`` of the process that published it."""
    fingerprint: str
    row_recipe: dict[str, Any]
    generation: str
    counts: Counts
    files: SideFile
    """Receipts of the live data files."""
    shards: SideFile
    """Shard records of the corpus that this snapshot covers."""
    indexes: SideFile | None = None
    """Index parts of the shards whose rows are not exactly those of their own data files."""
    changes: ChangeCounts | None = None
    """Result of the comparison with the parent; None if nothing was compared."""
    deletes: SideFile | None = None
    """Up to format 4: rows of the data files in ``files`` that are not part of this snapshot."""
    condemned: SideFile | None = None
    """Split ids that must never be used again: a sweep or an expiry deletes the files, or a repair found them lost."""
    duplicates: str | None = None
    """Key of the rejects file of the duplicates."""
    expired: Expired | None = None
    """Earlier snapshots that can no longer be read. The newest manifest decides for the whole table."""
    accepted: dict[str, Any] | None = None
    """Inputs of the fingerprint that the card lacks, see `format.accepted`; not in manifests of format 1."""
    corpus: dict[str, Any] | None = None
    """`path`, `format` and `version` of the Delta or Iceberg table that was read; None for files. Since format 3."""
    duplicate_rule: DuplicateRule | None = None
    """Which row of an id is live; None: the first. Of a manifest of format 4 alone."""
    clock: str | None = None
    """The writer's own time, if it was before the parent's ``created_at``, which this repeats. Of format 4 alone."""
    layout: StatedLayout | None = None
    """The columns, if carried columns have changed since the table was made; then all later manifests state them. Of a
    manifest of format 4 alone."""
    dead_rows: SideFile | None = None
    """Where the rows of the data files in ``files`` are listed that are not part of this snapshot. Since format 5."""

    def to_json(self) -> bytes:
        # An older release refuses a field that it does not know, even if it is null.
        later = ("accepted", "corpus", "duplicate_rule", "clock", "layout", "dead_rows")
        return self.model_dump_json(indent=1, exclude={name for name in later if getattr(self, name) is None}).encode()

    @property
    def sides(self) -> list[SideFile]:
        """The side files that the manifest names; earlier snapshots may have written them."""
        sides = (self.files, self.shards, self.indexes, self.deletes, self.dead_rows, self.condemned)
        return [side for side in sides if side is not None]

    def has_expired(self, number: int) -> bool:
        """Whether an earlier snapshot has expired."""
        return self.expired is not None and self.expired.covers(number)


class TableCard(Record):
    """The table card: fingerprint and schema. Created once; a run with another fingerprint or schema is refused."""

    format_version: int = FORMAT_VERSION
    created_at: str
    fingerprint: str
    fingerprint_inputs: dict[str, Any]
    arrow_schema: str = Field(repr=False)
    """The schema of the data files, as base64 of its Arrow IPC form."""
    columns: dict[str, str]
    """The schema for people: column name to type."""
    model: dict[str, Any]
    """The model settings of the run that created the table, for encoding queries."""
    row_hash: int = 1
    """Version of the row hashes, see `hashes.hash_rows`; not 1 only in a card of format 3."""

    def keep_in(self, today: "TableCard") -> "TableCard":
        """``today`` with the fingerprint and the row hashes of this card, which an older release may have written."""
        kept = ("format_version", "row_hash", "fingerprint", "fingerprint_inputs")
        return today.model_copy(update={name: getattr(self, name) for name in kept})

    def to_json(self) -> bytes:
        # An older release refuses a field that it does not know.
        return self.model_dump_json(indent=1, exclude={"row_hash"} if self.row_hash == 1 else set()).encode()

    @property
    def schema(self) -> pa.Schema:
        return schema_of(self.arrow_schema)

    @property
    def vector_dtype(self) -> str:
        """float32 or float16."""
        return str(self.fingerprint_inputs["vector_dtype"])

    @classmethod
    def make(cls, schema: pa.Schema, fingerprint: str, inputs: dict[str, Any], model: dict[str, Any]) -> Self:
        version = ROW_HASH_VERSION if names.ROW_HASH in schema.names else 1  # what no table needs, no reader must know
        return cls(
            format_version=FORMAT_VERSION if version == 1 else FORMAT_OF_ROW_HASH,
            row_hash=version,
            created_at=utc_now(),
            fingerprint=fingerprint,
            fingerprint_inputs=inputs,
            **described(schema),
            model=model,
        )
