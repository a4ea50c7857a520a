"""States of tables made by hand: which rows are in which data file and which of them are dead, as an incremental run
or a compaction may leave them. Written through a Store, without Ray, a model or the protocol of `commit`."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from sfr_batch.corpus.rejects import rejects_table
from sfr_batch.format import names
from sfr_batch.format.dead_rows import DeadPart, write_dead_rows
from sfr_batch.format.history import moment
from sfr_batch.format.records import Counts, Manifest, Receipt, ShardRecord, SideFile, TableCard
from sfr_batch.format.side_tables import to_table
from sfr_batch.storage.store import Store
from sfr_batch.table.commit.publish import encode_parquet
from sfr_batch.table.commit.writing import commit_split, create_or_open
from sfr_batch.table.table import Snapshot, Table
from tests.memory_store import MemoryStore
from tests.tables import card_of, receipt_of, rows_of, split_name, vector


@dataclass(frozen=True)
class Row:
    """A row of a data file: its text stands for text and carried columns; ``seed`` makes another vector of the same."""

    id: str | int
    text: str = ""
    seed: int = 0
    chunk: int = 0
    package: str | None = None


def chunked_card(dim: int = 3) -> TableCard:
    return card_of(names.table_schema(pa.string(), dim, "float32", {}, chunks=True))


def package_card(dim: int = 3) -> TableCard:
    """A table with a carried column and, as such tables have, a hash of the row."""
    carry = {"package": pa.string()}
    return card_of(names.table_schema(pa.string(), dim, "float32", carry))


def hash_of(*parts: Any) -> bytes:
    return hashlib.md5(repr(parts).encode()).digest()


def vector_of(row: Row, dim: int = 3) -> Any:
    return vector(f"{row.text or row.id}/{row.chunk}/{row.seed}", dim)


def rows_table(rows: Sequence[Row], arrow_schema: pa.Schema) -> pa.Table:
    """The rows as a data file has them."""
    kind = arrow_schema.field(names.EMBEDDING).type
    carry = {
        names.CONTENT_HASH: [hash_of(row.text) for row in rows],
        names.CHUNK: [row.chunk for row in rows],
        names.CHUNK_START: [10 * row.chunk for row in rows],
        names.CHUNK_END: [10 * row.chunk + 10 for row in rows],
        "package": [row.package for row in rows],
        names.ROW_HASH: [hash_of(row.text, row.package) for row in rows],
    }
    table = rows_of([row.id for row in rows], arrow_schema, carry)
    if not rows:
        return table
    flat = pa.array(np.concatenate([vector_of(row, kind.list_size) for row in rows]).astype("float32"))
    vectors = pa.FixedSizeListArray.from_arrays(flat.cast(kind.value_type), type=kind)
    return table.set_column(1, arrow_schema.field(names.EMBEDDING), vectors)


def commit_file(table: Table, label: str, rows: Sequence[Row]) -> Receipt:
    """A data file of rows of no shard in particular."""
    receipt = receipt_of(split_name(label), len(rows), shard="", start=0)
    return commit_split(table.store, table.card, receipt, rows_table(rows, table.schema), rejects_table([], ""))


def publish_state(
    table: Table, receipts: Sequence[Receipt], dead: Mapping[str, Sequence[int]], **changes: Any
) -> Snapshot:
    """The next snapshot: these data files, in this order, less the rows ``dead`` by split id."""
    number = (table.snapshot_numbers() or [0])[-1] + 1
    rows = [(split_id, position) for split_id, positions in dead.items() for position in positions]
    live = sum(receipt.vectors for receipt in receipts) - len(rows)
    lists = [(split_id, np.array(sorted(at), np.int64)) for split_id, at in dead.items() if len(at)]
    parts = write_dead_rows(table.store, lists, lambda its: names.dead_key(number, f"run-{number}", its))
    manifest = Manifest(
        **{
            "snapshot": number,
            "parent": number - 1 or None,
            "operation": "embed",
            "run_id": f"run-{number}",
            "created_at": f"2026-11-{number:02}T23:00:00+00:00",
            "fingerprint": table.card.fingerprint,
            "row_recipe": {},
            "generation": "",
            "counts": Counts(read=live, embedded=live, reused=0, rejected=0, vectors=live, tokens=0, truncated=0),
            "files": _side(table.store, number, "files", to_table(Receipt, list(receipts))),
            "shards": _side(table.store, number, "shards", to_table(ShardRecord, [])),
            "dead_rows": _side(table.store, number, names.DEAD_ROWS, to_table(DeadPart, parts)) if rows else None,
            "format_version": names.FORMAT_OF_DEAD_ROWS if rows else names.FORMAT_VERSION,
            **changes,
        }
    )
    if "created_at" in changes and isinstance(table.store, MemoryStore):
        table.store.now = moment(changes["created_at"]).timestamp()  # no clock is wrong here
    assert table.store.create(names.manifest_key(number), manifest.to_json())
    return table.snapshot(number)


def _side(store: Store, number: int, kind: str, rows: pa.Table) -> SideFile:
    key, data = names.side_key(number, f"run-{number}", kind), encode_parquet(rows)
    assert store.create(key, data)
    return SideFile(name=key, sha256=hashlib.sha256(data).hexdigest(), rows=rows.num_rows)


def state_of(
    store: Store,
    files: Mapping[str, Sequence[Row]],
    dead: Mapping[str, Sequence[int]] | None = None,
    card: TableCard | None = None,
) -> Table:
    """A table with one snapshot of these files; ``dead`` by the file's label."""
    table = create_or_open(store, card or package_card())
    receipts = [commit_file(table, label, rows) for label, rows in files.items()]
    publish_state(table, receipts, {split_name(label): at for label, at in (dead or {}).items()})
    return table
