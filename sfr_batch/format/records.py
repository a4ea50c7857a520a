"""The records a table keeps: receipts of splits, counts, shards, manifests of snapshots, the table's own card.

Immutable values with their JSON and Arrow forms. Knows nothing of stores: `table` reads them, `commit` writes them.
"""

import base64
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

from sfr_batch.errors import CountsDoNotClose, TableError
from sfr_batch.format import names
from sfr_batch.format.names import FORMAT_VERSION

WAYS_OUT = "Restore it from a copy, or write to a new table: table.path=<another path>."
_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def utc_now() -> str:
    """The time as ISO 8601 with seconds, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def user() -> str:
    """Whose process this is."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        return str(os.getuid())


def who() -> str:
    """``user@host`` of this process."""
    return f"{user()}@{socket.gethostname()}"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What finishing one split reports. It stands in the footer of the split's data file, so the file proves itself.

    Counts are documents, but for ``vectors`` (rows of the data file) and the token counts: ``tokens`` of the rows
    after truncation, ``tokens_full`` of their documents before truncation or chunking, ``encoded_tokens`` with
    repeated texts counted once, ``padded_tokens`` as the device computed them. ``start`` is the position of the
    split's first row in its shard, as in the rejects; ``attempt`` names the try whose rejects count.
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
    """Fixed texts that were encoded along with the rows."""
    drift: float = 0.0
    """Largest 1 - cosine between a canary's vector among the rows and the one it has by itself."""
    generation: str = ""
    """The label under which its rows were embedded."""
    copied: bool = False
    """Whether its vectors are copies, made because only carried columns had changed."""
    size: int = 0
    """Bytes of the data file; not in the footer, which is part of it."""
    owned: bool = True
    """Whether the rows of ``shard`` are just those of its owned data files; else an index says which rows of which
    files they are. Not in the footer: it depends on the snapshot."""

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
        )

    def check(self) -> None:
        """Raises CountsDoNotClose unless every row read is embedded or rejected."""
        if self.read != self.embedded + self.rejected:
            raise CountsDoNotClose(
                f"Split {self.split_id} of {self.shard}: {self.read} rows read, but {self.embedded} embedded and "
                f"{self.rejected} rejected."
            )

    @property
    def footer(self) -> "Receipt":
        """The receipt as the data file's footer has it."""
        return dataclasses.replace(self, size=0, owned=True)

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        values = json.loads(text)
        # The splits of a shard and of a run name it thousands of times over: once in memory is enough.
        return cls(**values | {key: sys.intern(values[key]) for key in ("shard", "version", "run_id")})


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """One shard as a snapshot covers it: which version, under which row recipe and generation, and its rows.

    ``rejected``: of the ``read`` rows, but for those that lost to an earlier row with the same id. ``splits``: its
    owned data files. ``retried``: the label under which its rejects were last tried again.
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


KEPT = ""
"""The URI of the record of all rows that are no longer in the corpus and stay in the table nevertheless."""
PACKED = ""
"""The shard, and the shard version, in the receipt of a split whose rows come from many shards."""


@dataclass(frozen=True, slots=True)
class IndexPart:
    """Some rows of a shard: ``rows`` rows of the index file ``key``, from row ``start`` on. Parts are in order."""

    shard: str
    key: str
    start: int
    rows: int


def rows_in(source: Receipt | IndexPart) -> int:
    """Rows that are read where the documents of a shard are: of its data file, or of its part of an index."""
    return source.vectors if isinstance(source, Receipt) else source.rows


def to_table(cls: type[Any], records: list[Any]) -> pa.Table:
    """Records of one of the dataclasses above as an Arrow table, a column a field."""
    fields = dataclasses.fields(cls)
    schema = pa.schema([pa.field(f.name, _ARROW[f.type], nullable=False) for f in fields])  # type: ignore[index]
    arrays = [pa.array([getattr(r, f.name) for r in records], schema.field(f.name).type) for f in fields]
    return pa.table(arrays, schema=schema)


def from_table(cls: type[Any], table: pa.Table) -> list[Any]:
    """The inverse of `to_table`; what an older table does not have is left at its default."""
    names = [field.name for field in dataclasses.fields(cls) if field.name in table.column_names]
    columns = [_values(table.column(name)) for name in names]
    return [cls(**dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    """The values as Python objects. A text that occurs often is one object: the receipts of a shard all name it."""
    if not pa.types.is_string(column.type):
        return list(column.to_pylist())
    coded = column.combine_chunks().dictionary_encode()
    texts = coded.dictionary.to_pylist()
    return [texts[at] for at in coded.indices.to_pylist()]


class Record(BaseModel):
    """Base of the records that are stored as JSON: strict and immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> bytes:
        return self.model_dump_json(indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes, source: str) -> Self:
        """Raises TableError that names ``source`` if the record is damaged or of a newer format."""
        try:
            version = int(json.loads(data).get("format_version", FORMAT_VERSION))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise TableError(f"{source} is damaged: {error}. {WAYS_OUT}") from error
        if version > FORMAT_VERSION:
            raise TableError(
                f"{source} has table format {version}; this sfr-batch reads up to {FORMAT_VERSION}: upgrade."
            )
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
            raise TableError(f"{source} is not a valid record: {wrong}. {WAYS_OUT}") from error


class Counts(Record):
    """Documents of a snapshot: ``read`` are all rows of the corpus, each of them in exactly one of the next three.

    ``vectors`` are as many as documents with vectors, but where `model.overflow` is chunk, and documents have several.
    """

    read: int
    embedded: int
    """Rows whose vectors are new in this snapshot."""
    reused: int
    """Rows whose vectors an earlier snapshot made."""
    rejected: int
    """Rows in the rejects, duplicates of an id included."""
    vectors: int
    """Live vectors."""
    tokens: int
    """Tokens of the live rows, after truncation."""
    truncated: int
    """Live rows whose text was cut."""
    tokens_full: int = 0
    """Tokens of the live documents before truncation or chunking."""
    kept: int = 0
    """Documents that are no longer in the corpus and are kept (`table.delete: keep`); not among those read."""

    def check(self) -> None:
        """Raises CountsDoNotClose unless every document has exactly one fate."""
        if self.read != self.embedded + self.reused + self.rejected:
            raise CountsDoNotClose(
                f"{self.read} rows read, but {self.embedded} embedded, {self.reused} reused and {self.rejected} "
                "rejected. Nothing was published; this is a bug, please report it with the run's receipts."
            )


class ChangeCounts(Record):
    """What a run found in the shards that it read, compared with its parent snapshot: documents, but for ``moved``."""

    new: int = 0
    """Ids that were not there before."""
    changed: int = 0
    """Ids whose text is another one, or that are embedded again under a label."""
    copied: int = 0
    """Ids with the same text and other carried columns: their vectors are copied."""
    unchanged: int = 0
    """Ids with the same row, wherever it stands now."""
    deleted: int = 0
    """Ids that are gone, those that are kept nevertheless included."""


class SideFile(Record):
    """A file that belongs to a manifest."""

    name: str
    sha256: str
    rows: int


class Expired(Record):
    """Snapshots that are no more. Their manifests stay, so that no number becomes free and can be won again."""

    before: int
    """All with a lower number,"""
    keep: tuple[int, ...] = ()
    """but for these."""

    def covers(self, number: int) -> bool:
        return number < self.before and number not in self.keep


class Manifest(Record):
    """A published state of the table. Readers see this and nothing else."""

    format_version: int = FORMAT_VERSION
    snapshot: int
    parent: int | None
    operation: Literal["embed", "backfill", "compact", "sweep", "expire"]
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
    """The corpus that this state covers."""
    indexes: SideFile | None = None
    """Which parts of which index files the shards consist of that are not just their owned data files."""
    changes: ChangeCounts | None = None
    """What was compared with the parent; None where nothing had to be."""
    deletes: SideFile | None = None
    """Rows of live data files that are not part of this state."""
    condemned: SideFile | None = None
    """Splits whose names must never be used again, because a sweep or an expiry deletes their files."""
    duplicates: str | None = None
    """Key of the rejects file of the duplicates."""
    expired: Expired | None = None
    """Earlier snapshots that can no longer be read. In the newest manifest this holds for all of the table."""

    @property
    def sides(self) -> list[SideFile]:
        """The side files that the manifest names; an earlier snapshot may have made them."""
        sides = (self.files, self.shards, self.indexes, self.deletes, self.condemned)
        return [side for side in sides if side is not None]

    def has_expired(self, number: int) -> bool:
        """Whether an earlier snapshot is no more."""
        return self.expired is not None and self.expired.covers(number)


class TableCard(Record):
    """What the table is; created once. A run whose own card differs in substance is refused."""

    format_version: int = FORMAT_VERSION
    created_at: str
    fingerprint: str
    fingerprint_inputs: dict[str, Any]
    arrow_schema: str = Field(repr=False)
    """The schema of the data files, as base64 of its Arrow IPC form."""
    columns: dict[str, str]
    """The same for people."""
    model: dict[str, Any]
    """The model settings of the run that created the table, for encoding queries."""

    @property
    def schema(self) -> pa.Schema:
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.arrow_schema)))

    @property
    def vector_dtype(self) -> str:
        """float32 or float16."""
        return str(self.fingerprint_inputs["vector_dtype"])

    @classmethod
    def make(cls, schema: pa.Schema, fingerprint: str, inputs: dict[str, Any], model: dict[str, Any]) -> Self:
        return cls(
            created_at=utc_now(),
            fingerprint=fingerprint,
            fingerprint_inputs=inputs,
            arrow_schema=base64.b64encode(schema.serialize().to_pybytes()).decode(),
            columns={field.name: str(field.type) for field in schema},
            model=model,
        )
