"""Side files of a snapshot are read once, and decoded into records only where records are needed."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from sfr_batch.api import open_table
from sfr_batch.format import names
from sfr_batch.format.parquet import encode_parquet, read_parquet
from sfr_batch.format.records import IndexPart, Receipt, ShardRecord
from sfr_batch.format.side_tables import from_table, to_table
from sfr_batch.pipeline.runner import embed
from sfr_batch.storage.local import LocalStore
from sfr_batch.table import table as tables
from sfr_batch.table.commit.compaction import compact
from sfr_batch.table.commit.expiry import expire
from sfr_batch.table.commit.sweep import find_orphans
from sfr_batch.table.table import Table
from tests.nights import Place, Writer, docs_of, night
from tests.tables import receipt_of


class Reads:
    """Counts reads of side files, and tables that are decoded into records of a class."""

    def __init__(self) -> None:
        self.files: Counter[str] = Counter()
        self.decoded: Counter[type] = Counter()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    counted, read, decode = Reads(), LocalStore.read, tables.from_table

    def read_counted(store: LocalStore, key: str) -> bytes:
        counted.files[key] += key.startswith(names.SNAPSHOTS) and key.endswith(".parquet")
        return read(store, key)

    def decode_counted(cls: type[Any], table: pa.Table) -> list[Any]:
        counted.decoded[cls] += 1
        return decode(cls, table)

    monkeypatch.setattr(LocalStore, "read", read_counted)
    monkeypatch.setattr(tables, "from_table", decode_counted)
    return counted


@pytest.fixture
def place(nights: tuple[Place, Writer]) -> Place:
    """A table of two nights: one shard owns its data files, the other has an index."""
    place, writer = nights
    for rows in (6, 7):
        writer.write({"a.jsonl": docs_of("a", 6), "b.parquet": docs_of("b", rows)})
        night(place)
    return place


def test_an_embed_with_nothing_to_do_reads_each_side_file_at_most_once(place: Place, reads: Reads) -> None:
    assert embed(place.config()).published is False
    assert +reads.files, "it must know what the table covers"
    assert max(reads.files.values()) == 1
    assert reads.decoded == {ShardRecord: 1}


def test_an_embed_that_only_compares_reads_each_side_file_at_most_once(place: Place, reads: Reads) -> None:
    """A shard was written again with the rows that it had."""
    (Path(place.corpus) / "b.parquet").touch()
    summary = embed(place.config())
    assert summary.published
    assert summary.embedded == 0
    assert max(reads.files.values()) == 1
    assert reads.decoded == {ShardRecord: 1, Receipt: 1, IndexPart: 1}


def test_readers_and_maintenance_decode_no_receipt(place: Place, reads: Reads) -> None:
    table = open_table(place.table)
    base = table.current()
    assert base.scan(["id"]).live == base.manifest.counts.vectors
    find_orphans(table, base, cutoff=0.0)
    expire(table, keep_last=1)
    assert not base.needs().isdisjoint(map(names.data_key, base.split_ids()))
    assert base.rejects().num_rows == 0
    assert reads.decoded[Receipt] == 0
    assert "Nothing to compact" in compact(Table.open(table.store), rows_per_file=1, max_unneeded=1.0).describe()
    assert reads.decoded[Receipt] == 1, "what is compacted needs them all, and its description none"


def test_records_are_decoded_once_and_cannot_be_changed(place: Place, reads: Reads) -> None:
    base = open_table(place.table).current()
    assert base.read_receipts() is base.read_receipts()
    assert base.read_shards() is base.read_shards()
    indexes = base.read_indexes()
    indexes.clear()
    assert base.read_indexes()
    assert reads.decoded == {Receipt: 1, ShardRecord: 1, IndexPart: 1}


def test_columns_of_receipts_are_in_their_order(place: Place) -> None:
    base = open_table(place.table).current()
    receipts = base.read_receipts()
    assert base.receipt_columns(["size", "split_id"]).to_pydict() == {
        "size": [receipt.size for receipt in receipts],
        "split_id": [receipt.split_id for receipt in receipts],
    }
    assert base.split_ids() == [receipt.split_id for receipt in receipts]
    assert base.index_keys() == {part.key for parts in base.read_indexes().values() for part in parts}


def test_a_text_that_many_records_have_is_one_object() -> None:
    stored = to_table(Receipt, [receipt_of(f"s{n}", 1, shard="a shard") for n in range(3)])
    first, *others = from_table(Receipt, stored)
    assert all(other.shard is first.shard for other in others)


def test_a_table_without_the_fields_that_came_later_is_read_and_maintained(place: Place) -> None:
    """Receipts of the first days of format 1 lack these columns; each has its default."""
    later = ["owned", "generation", "copied", "size"]
    table = Table.open(open_table(place.table).store)
    base = table.current()
    key = base.manifest.files.name
    stored = read_parquet(table.store.read(key))
    before = stored.set_column(stored.schema.get_field_index("owned"), "owned", pa.array([True] * stored.num_rows))
    data = encode_parquet(before.drop_columns(later))
    old = base.manifest.model_copy(
        update={"files": base.manifest.files.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})}
    )
    Path(place.table, key).write_bytes(data)
    Path(place.table, names.manifest_key(base.number)).write_bytes(old.to_json())
    snapshot = table.current()
    defaults = {(r.owned, r.generation, r.copied, r.size) for r in snapshot.read_receipts()}
    assert defaults == {(True, "", 0, 0)}
    assert snapshot.receipt_columns(later).to_pylist()[0] == dict(zip(later, (True, "", 0, 0), strict=True))
    assert snapshot.needs() >= {names.data_key(split_id) for split_id in snapshot.split_ids()}
    assert snapshot.to_arrow(["id"]).num_rows == base.manifest.counts.vectors
    assert snapshot.rejects().num_rows == base.manifest.counts.rejected
    find_orphans(table, snapshot, cutoff=0.0)
    expire(table, keep_last=1)
