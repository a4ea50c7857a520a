"""Audits: a healthy table of every kind passes, and each kind of damage is found, named, and found by its own check."""

import dataclasses
import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

import sfr_batch as sfr
from sfr_batch import api
from sfr_batch.checks.audit import corpus
from sfr_batch.checks.audit.auditor import audit
from sfr_batch.checks.audit.report import AuditReport
from sfr_batch.cli.main import main
from sfr_batch.corpus.rejects import Reject
from sfr_batch.errors import TableDamaged, TableMismatch, TableNotFound
from sfr_batch.format import names
from sfr_batch.format.dead_rows import DeadPart, write_dead_rows
from sfr_batch.format.parquet import encode_parquet, read_receipt
from sfr_batch.format.records import Receipt, ShardRecord, SideFile, TableCard
from sfr_batch.format.side_tables import to_table
from sfr_batch.planning.make import make_plan
from sfr_batch.storage import executor
from sfr_batch.storage.store import Store, in_memory
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import duplicates
from sfr_batch.table.commit.publish import condemn, publish
from sfr_batch.table.commit.sweep import sweep
from sfr_batch.table.commit.writing import create_or_open
from sfr_batch.table.table import Table
from tests import job_processes
from tests.memory_store import MemoryStore
from tests.table.commit.test_publish_elsewhere import Shuffled
from tests.tables import card_of, commit_rows, do_plan, draft_of, jsonl, make_table, rows_of, split_name

A, B = names.data_key(split_name("a")), names.data_key(split_name("b"))
CHUNKED = names.table_schema(pa.string(), 3, "float32", {}, chunks=True)


def replace(store: Store, key: str, data: bytes) -> None:
    store.delete([key])
    assert store.create(key, data)


def bad(id_: str, position: int = 0, reason: str = "empty_text") -> Reject:
    return Reject(id_, position, reason, "it cannot be embedded")


def failed(found: AuditReport) -> set[str]:
    """What failed; each with an example and a way out."""
    for finding in found.checks:
        assert bool(finding.examples) == bool(finding.problems) == bool(finding.way_out) == (finding.verdict == "FAIL")
    assert found.ok == (not found.failed)
    return set(found.failed)


def examples(found: AuditReport, name: str) -> str:
    return "\n".join(found[name].examples)  # type: ignore[attr-defined]


def commit_chunks(store: Store, card: TableCard, label: str, chunks: dict[str, int], **changes: Any) -> Receipt:
    """Commit a split of documents, each of so many chunks."""
    ids = [id_ for id_, number in chunks.items() for _ in range(number)]
    numbers = [chunk for number in chunks.values() for chunk in range(number)]
    carry = {
        names.CHUNK: numbers,
        names.CHUNK_START: [10 * n for n in numbers],
        names.CHUNK_END: [10 * n + 10 for n in numbers],
    }
    changes |= {"read": len(chunks), "embedded": len(chunks), "tokens_full": 5 * len(chunks)}
    return commit_rows(store, card, label, ids, carry=carry, **changes)


# --- forging: damage that leaves everything else consistent


def forge(table: Table, receipts: Sequence[Receipt] | None = None, **changes: Any) -> None:
    """Write the newest manifest anew, with these receipts, shards or deletes in its side files."""
    manifest = table.current().manifest
    sides = {"shards": ShardRecord, "files": Receipt, names.DEAD_ROWS: DeadPart}
    given = {"files": receipts, "shards": changes.pop("shards", None), names.DEAD_ROWS: changes.pop("parts", None)}
    if "deletes" in changes:
        table.store.delete(sorted(table.current().dead_keys()))
        lists = [(split_id, np.array(at)) for split_id, at in changes.pop("deletes").items()]
        key_of = partial(names.dead_key, manifest.snapshot, manifest.run_id)
        given[names.DEAD_ROWS] = write_dead_rows(table.store, lists, key_of)
    tables = {kind: to_table(sides[kind], list(rows)) for kind, rows in given.items() if rows is not None}
    for kind, rows in tables.items():
        key = names.side_key(manifest.snapshot, manifest.run_id, kind)
        data = encode_parquet(rows)
        replace(table.store, key, data)
        changes[kind] = SideFile(name=key, sha256=hashlib.sha256(data).hexdigest(), rows=rows.num_rows)
    counts = manifest.counts.model_copy(update=changes.pop("counts", {}))
    manifest = manifest.model_copy(update={**changes, "counts": counts})
    replace(table.store, names.manifest_key(manifest.snapshot), manifest.to_json())


def rewrite(table: Table, label: str, rows: pa.Table, fingerprint: str | None = None, **changes: Any) -> None:
    """A data file with other rows, and the manifest changed with it, as if it had been published so."""
    receipts = {receipt.split_id: receipt for receipt in table.current().read_receipts()}
    receipt = dataclasses.replace(receipts[split_name(label)], **changes)
    metadata = {
        names.RECEIPT_KEY: dataclasses.replace(receipt, size=0).to_json(),
        names.FINGERPRINT_KEY: fingerprint or table.card.fingerprint,
    }
    data = encode_parquet(rows, metadata)
    replace(table.store, names.data_key(receipt.split_id), data)
    receipts[receipt.split_id] = dataclasses.replace(receipt, size=len(data))
    forge(table, list(receipts.values()))


def with_vector(ids: Sequence[str], row: int, numbers: Sequence[float], arrow: pa.Schema | None = None) -> pa.Table:
    rows = rows_of(ids) if arrow is None else rows_of(ids, arrow)
    kind = rows.schema.field(names.EMBEDDING).type
    flat = rows.column(names.EMBEDDING).combine_chunks().flatten().to_numpy(zero_copy_only=False).copy()
    flat[3 * row : 3 * row + 3] = numbers
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind)
    return rows.set_column(1, rows.schema.field(names.EMBEDDING), column)


# --- healthy tables


def plain(store: Store) -> Table:
    return make_table(store, {"a": ["x", "y"], "b": ["z"]})


def with_duplicates(store: Store) -> Table:
    return make_table(store, {"a": ["x", "y", "x"], "b": ["z", "y", "w"], "c": []})


def with_duplicates_in_pieces(store: Store) -> Table:
    """The file of duplicates has two row groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "ROWS_A_PIECE", 1)
        return with_duplicates(store)


def with_rejects(store: Store) -> Table:
    table = create_or_open(store, card_of())
    splits: list[tuple[str, list[str], list[Reject]]] = [
        ("a", ["x", "y"], [bad("p"), bad("y", 1)]),  # another row with the id y has no text
        ("b", ["z", "x"], [Reject(None, 7, "bad_json", "no JSON"), bad("q", 8, "bad_vector")]),
        ("c", [], [bad("r", 9, "too_long")]),
    ]
    publish(table, None, draft_of([commit_rows(store, table.card, *split, start=n) for n, split in enumerate(splits)]))
    return table


def of_halves(store: Store) -> Table:
    arrow = names.table_schema(pa.int64(), 3, "float16", {"id.x": pa.string()})
    card = card_of(arrow, vector_dtype="float16")
    table = create_or_open(store, card)
    rejects = [bad("13", 2, "bad_vector")]
    receipt = commit_rows(store, card, "a", [-1, -2, 2**61 - 1, 0, 5, 5], rejects, carry={"id.x": list("pqrstu")})
    publish(table, None, draft_of([receipt]))
    return table


def chunked(store: Store) -> Table:
    card = card_of(CHUNKED)
    table = create_or_open(store, card)
    receipts = [
        commit_chunks(store, card, "a", {"x": 3, "y": 1}),
        commit_chunks(store, card, "b", {"z": 2, "x": 2}, start=1),
    ]
    publish(table, None, draft_of(receipts))
    return table


def without_rows(store: Store) -> Table:
    return make_table(store, {"a": []})


def with_history(store: Store) -> Table:
    table = make_table(store, {"a": ["x"], "b": ["x", "y"]})
    base = table.current()
    more = commit_rows(store, table.card, "c", ["z"], start=2)
    base = publish(table, base, draft_of([*base.read_receipts()[1:], more], base))
    condemn(table, base, [split_name("never")])
    return table


HEALTHY: list[Callable[[Store], Table]] = [
    plain,
    with_duplicates,
    with_duplicates_in_pieces,
    with_rejects,
    of_halves,
    chunked,
    without_rows,
    with_history,
]


def everything(store: Store) -> dict[str, bytes]:
    return {info.key: store.read(info.key) for info in store.list("")}


def elsewhere(table: Table, *arguments: Any) -> AuditReport:
    """The findings of an audit in many tasks, each on copies, and several partitions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executor, "ROWS_A_PARTITION", 1)
        patch.setattr(executor, "ROWS_A_PART", 1)
        patch.setattr(executor, "BYTES_A_TASK", 1)
        tasks = Shuffled(table.store, seed=1)
        found = audit(table, *arguments, executor=tasks)
    assert not tasks._waiting
    return found


def lines(found: AuditReport) -> list[str]:
    """All findings with their examples, which may come in another order from several partitions."""
    return sorted(found.describe().splitlines())


@pytest.mark.parametrize("make", HEALTHY)
def test_healthy_table_passes_and_stays_as_it_is(store: Store, make: Callable[[Store], Table]) -> None:
    table = make(store)
    before = everything(store)
    told: list[str] = []
    found = audit(table, each=lambda finding: told.append(finding.name))
    assert {finding.verdict for finding in found.checks} == {"PASS"}, found.describe()
    assert failed(found) == set()
    assert told == [finding.name for finding in found.checks]
    assert ("chunks" in told) == (make is chunked)
    assert found.rows == sum(receipt.vectors for receipt in table.current().read_receipts())
    assert found.bytes == sum(receipt.size for receipt in table.current().read_receipts())
    assert found.plain == (not table.current().read_deletes() and make is not with_history)
    assert json.loads(found.to_json())["ok"]
    assert everything(store) == before
    parted = audit(table, partition_rows=1)
    assert parted.describe() == found.describe()
    assert elsewhere(table).describe() == found.describe()


def test_nothing_is_published_yet(store: Store) -> None:
    table = create_or_open(store, card_of())
    commit_rows(store, table.card, "a", ["x"])
    found = audit(table)
    assert found.ok
    assert (found.snapshot, found["snapshots"].verdict) == (None, "SKIP")
    assert f"\nno snapshot of {found.table}, 0 rows" in found.brief()
    with pytest.raises(TableNotFound, match="has no snapshot 3"):
        audit(table, snapshot=3)


def test_older_snapshot() -> None:
    table = with_history(MemoryStore())
    found = audit(table, snapshot=1)
    assert (found.snapshot, found.rows, failed(found)) == (1, 3, set())


def test_what_is_not_published_is_an_orphan_and_no_failure(store: Store) -> None:
    table = plain(store)
    assert audit(table).plain
    receipt = commit_rows(store, table.card, "orphan", ["o"], [bad("p")])
    store.create("data/foreign.parquet", b"whatever")
    rejects = names.rejects_key(receipt.split_id, receipt.attempt)
    found = audit(table)
    assert failed(found) == set()
    assert (found.orphans, found.plain) == (2, False)
    assert found.orphan_bytes == receipt.size + len(store.read(rejects))
    assert found["orphans"].measured.startswith(f"2 objects in no snapshot, {found.orphan_bytes:,} bytes, the oldest ")
    assert "2 files not in snapshot 1" in found["plain"].measured


def test_unfinished_run_is_told() -> None:
    table = plain(MemoryStore())
    plan = pa.table({"split_id": [split_name("a"), split_name("new")], "shard": ["a", "b"], "rows": [2, 2]})
    table.store.create(names.run_key("2999-run", "plan.parquet"), encode_parquet(plan))
    found = audit(table)
    assert found["runs"].measured == "interrupted: 2999-run (1 of 2 splits)"
    assert found.orphans == 0, "its log is not told twice"
    assert found.ok


def test_why_a_snapshot_cannot_be_read_is_told_once() -> None:
    table = plain(MemoryStore())
    replace(table.store, table.current().manifest.files.name, b"-")
    found = audit(table)
    why = [check.name for check in found.checks if "is not the file" in str(check)]
    assert why == ["side files", "data files"]
    others = [check.measured for check in found.checks if check.verdict == "SKIP"][1:]
    assert others[0] == "snapshot 1 cannot be read, see data files"
    assert others[-1] == "cannot be determined: the same snapshot cannot be read"
    assert len(others) > 10


def test_other_writers_raise_no_alarm() -> None:
    """While the audit reads, a run publishes, another one is under way, and a sweep removes what it may."""
    store = MemoryStore()
    table = with_duplicates(store)
    commit_rows(store, table.card, "old", ["old"])

    class Busy:
        """The same objects; the first read of a data file lets the others act."""

        root, create, open, list, delete = store.root, store.create, store.open, store.list, store.delete
        acted = False

        def read(self, key: str) -> bytes:
            if key == A and not self.acted:
                self.acted = True
                base = table.current()
                more = commit_rows(store, table.card, "more", ["more", "x"], start=5)
                publish(table, base, draft_of([*base.read_receipts(), more], base))
                commit_rows(store, table.card, "under way", ["x"])
                assert sweep(table, older_than_s=0, now=100).keys
            return store.read(key)

    busy = Busy()
    found = audit(Table(busy, table.card))
    assert busy.acted
    assert failed(found) == set()
    assert found.snapshot == 1
    assert table.snapshot_numbers() == [1, 2, 3]
    assert audit(table).ok


# --- damage, each with the checks that must fail and what they must say


def flipped(store: Store, column: str) -> None:
    data = store.read(A)
    group = pq.read_metadata(in_memory(data)).row_group(0)
    chunk = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema.startswith(column))
    damaged = bytearray(data)
    damaged[chunk.data_page_offset + chunk.total_compressed_size - 2] ^= 1
    replace(store, A, bytes(damaged))


def in_footer(store: Store, old: bytes, new: bytes) -> None:
    """Change the first such bytes of the footer."""
    data = store.read(A)
    at = data.index(old, len(data) - 8 - pq.read_metadata(in_memory(data)).serialized_size)
    replace(store, A, data[:at] + new + data[at + len(old) :])


def other_bound(table: Table) -> None:
    """A bit in the least id, after its length: a read of some ids passes over the file by it."""
    in_footer(table.store, b"\1x", b"\1z")
    assert table.to_arrow(ids=["x"]).num_rows == 0


def other_type(table: Table) -> None:
    """A bit in the type of a column's values: Arrow ends the process that asks for the bounds of such a column."""
    in_footer(table.store, b"\x15\x0c\x19", b"\x15\x04\x19")
    with pytest.raises(TableDamaged, match="the footer gives two types for the column id"):
        table.to_arrow(ids=["x"])


def longer_vector(table: Table) -> None:
    """As a tool would leave it that rewrites the file: the size, the footer and the checksums are right."""
    old = table.store.read(A)
    metadata = {
        names.RECEIPT_KEY: dataclasses.replace(read_receipt(table.store, split_name("a")), size=0).to_json(),
        names.FINGERPRINT_KEY: table.card.fingerprint,
    }
    ways = (encode_parquet(with_vector(["x", "y"], 1, [0.6, 0.8 + n / 1e4, 0]), metadata) for n in range(1, 100))
    replace(table.store, A, next(data for data in ways if len(data) == len(old)))


def other_receipt(table: Table) -> None:
    """The file of another split, of the same size and number of rows."""
    other = commit_rows(table.store, table.card, "other", ["x", "y"])
    data = table.store.read(names.data_key(other.split_id))
    table.store.delete([names.data_key(other.split_id)])
    replace(table.store, A, data)
    receipts = table.current().read_receipts()
    forge(table, [dataclasses.replace(receipts[0], size=len(data)), *receipts[1:]])


def missing_in_the_middle(table: Table) -> None:
    base = condemn(table, table.current(), [split_name("q")])
    condemn(table, base, [split_name("r")])
    table.store.delete([names.manifest_key(2)])


def relabelled(table: Table, split_id: str) -> None:
    """The list of dead rows, with another data file in it than the snapshot says."""
    (key,) = table.current().dead_keys()
    rows = pq.read_table(in_memory(table.store.read(key)))
    data = encode_parquet(rows.set_column(0, rows.schema.field(0), pa.array([split_id] * rows.num_rows)))
    replace(table.store, key, data)
    parts = table.current().read_deletes().parts.values()
    forge(table, parts=[dataclasses.replace(part, sha256=hashlib.sha256(data).hexdigest()) for part in parts])


def list_damaged(table: Table) -> None:
    (key,) = table.current().dead_keys()
    replace(table.store, key, table.store.read(key)[:-1])


def last_duplicate_damaged(table: Table) -> None:
    key = table.current().manifest.duplicates
    assert key is not None
    data = table.store.read(key)
    column = pq.ParquetFile(in_memory(data)).metadata.row_group(1).column(0)
    at = column.data_page_offset + column.total_compressed_size - 1
    replace(table.store, key, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])


def sides_damaged(table: Table) -> None:
    key = table.current().manifest.shards.name
    data = table.store.read(key)
    replace(table.store, key, data[:-9] + b"!" + data[-8:])


def no_rejects(table: Table) -> None:
    receipt = table.current().read_receipts()[0]
    table.store.delete([names.rejects_key(receipt.split_id, receipt.attempt)])


def fewer_rejects(table: Table) -> None:
    receipt = table.current().read_receipts()[0]
    key = names.rejects_key(receipt.split_id, receipt.attempt)
    replace(table.store, key, encode_parquet(pq.read_table(in_memory(table.store.read(key))).slice(1)))


def broken_chunks(table: Table) -> None:
    at = CHUNKED.get_field_index(names.CHUNK)
    rows = pq.read_table(in_memory(table.store.read(A))).replace_schema_metadata(None)
    rewrite(table, "a", rows.set_column(at, CHUNKED.field(at), pa.array([0, 2, 1, 0], pa.int32())))


def delete_half_a_document(table: Table) -> None:
    dead = {split_id: at.tolist() for split_id, at in table.current().read_deletes().items()}
    dead[next(reversed(dead))].pop()
    dead.setdefault(split_name("a"), []).insert(0, 1)
    forge(table, deletes={split_id: at for split_id, at in dead.items() if at})


def version_of(table: Table) -> None:
    receipts = table.current().read_receipts()
    rewrite(table, "a", rows_of(["x", "y"]), version="2")
    assert receipts != table.current().read_receipts()


def manifest_twice(table: Table) -> None:
    table.store.create("_sfr/snapshots/000000001.json", table.store.read(names.manifest_key(1)))


def fewer_rows(table: Table) -> None:
    rewrite(table, "a", rows_of(["x"]))


Plant = Callable[[Table], Any]
PLANTS: list[tuple[str, Callable[[Store], Table], Plant, dict[str, str]]] = [
    ("bit in a vector", plain, lambda t: flipped(t.store, "embedding"), {"pages": f"{A} is damaged: "}),
    ("bit in an id", plain, lambda t: flipped(t.store, "id"), {"pages": f"{A} is damaged: "}),
    ("bit in a bound", plain, other_bound, {"footers": f"{A} says that id lies between 'z' and 'y', which its"}),
    ("bit in a type", plain, other_type, {"pages": f"{A} is damaged: the footer gives two types for the column id"}),
    ("longer vector", plain, longer_vector, {"vectors": f"row 1 of {A} (id 'y'): length 1.0000"}),
    (
        "NaN",
        plain,
        lambda t: rewrite(t, "a", with_vector(["x", "y"], 0, [np.nan, 0, 0])),
        {"vectors": f"row 0 of {A} (id 'x'): not finite"},
    ),
    (
        "infinity",
        of_halves,
        lambda t: rewrite(
            t,
            "a",
            with_vector([1], 0, [np.inf, 0, 0], names.table_schema(pa.int64(), 3, "float16", {}))
            .append_column(t.schema.field("row_hash"), pa.array([bytes(16)], pa.binary(16)))
            .append_column(t.schema.field("id.x"), pa.array(["p"])),
        ),
        {
            "vectors": f"row 0 of {A} (id 1): not finite",
            "counts": "vectors",
            "duplicates": "1 row rejected as duplicate_id",
            "chunks": "",
        },
    ),
    ("missing data file", plain, lambda t: t.store.delete([A]), {"data files": f"{A} is missing"}),
    (
        "truncated data file",
        plain,
        lambda t: replace(t.store, A, t.store.read(A)[:-100]),
        {"data files": f"{A} has "},
    ),
    (
        "no Parquet file",
        plain,
        lambda t: replace(t.store, A, bytes(len(t.store.read(A)))),
        {"pages": f"{A} is damaged: "},
    ),
    (
        "data file of an older snapshot",
        with_history,
        lambda t: t.store.delete([A]),
        {"data files": f"{A} is missing; snapshot 1 needs it"},
    ),
    (
        "another fingerprint",
        plain,
        lambda t: rewrite(t, "a", rows_of(["x", "y"]), "f" * 64),
        {"footers": f"{A} has the fingerprint ffffffffffff, the table has "},
    ),
    ("another split's receipt", plain, other_receipt, {"footers": f"{A} has a receipt with split_id "}),
    (
        "another schema",
        plain,
        lambda t: rewrite(t, "a", rows_of(["x", "y"]).drop_columns([names.TRUNCATED])),
        {"schema": f"{A} has no column truncated"},
    ),
    ("fewer rows", plain, fewer_rows, {"counts": f"{A}: the number of vectors is 1, its receipt says 2"}),
    (
        "id twice in a file",
        plain,
        lambda t: rewrite(t, "a", rows_of(["x", "x"])),
        {"ids": f"id 'x' is live 2 times: row 0 of {A}, row 1 of {A}", "duplicates": "id 'x': 0 rows rejected"},
    ),
    (
        "id in two files",
        plain,
        lambda t: rewrite(t, "b", rows_of(["y"])),
        {"ids": f"id 'y' is live 2 times: row 1 of {A}, row 0 of {B}", "duplicates": "id 'y': 0 rows rejected"},
    ),
    ("missing rejects", with_rejects, no_rejects, {"rejects": "is missing"}),
    ("fewer rejects", with_rejects, fewer_rejects, {"rejects": "has 1 row, the receipt of its split says 2"}),
    (
        "missing duplicates",
        with_duplicates,
        lambda t: t.store.delete([t.current().manifest.duplicates]),
        {"rejects": "_rejects/duplicates-00000001-"},
    ),
    (
        "damaged duplicates",
        with_duplicates_in_pieces,
        last_duplicate_damaged,
        {"rejects": "is damaged: could not verify"},
    ),
    (
        "wrong counts",
        plain,
        lambda t: forge(t, counts={"vectors": 4, "tokens": 7}),
        {
            "counts": "snapshot 1: the number of vectors is 3, the manifest says 4\n"
            "snapshot 1: the number of tokens is 15, the manifest says 7"
        },
    ),
    (
        "counts that do not close",
        plain,
        lambda t: forge(t, counts={"read": 4}),
        {"counts": "snapshot 1: the number of rows read is 3, the manifest says 4"},
    ),
    (
        "another version",
        plain,
        version_of,
        {"counts": "shard is covered in version 1, but one of its splits has another version"},
    ),
    (
        "split twice",
        without_rows,
        lambda t: forge(t, t.current().read_receipts() * 2),
        {"counts": f"split {split_name('a')} appears 2 times in snapshot 1"},
    ),
    (
        "shard lost",
        plain,
        lambda t: forge(t, shards=[]),
        {"counts": "shard has splits, but is not among the shards of snapshot 1"},
    ),
    (
        "damaged side file",
        plain,
        sides_damaged,
        {"side files": ".shards.parquet is not the file that snapshot 1 was published with"},
    ),
    ("missing manifest", plain, missing_in_the_middle, {"snapshots": "has no snapshot 2. Available: 1, 3."}),
    ("two manifests", plain, manifest_twice, {"snapshots": "snapshot 1 has 2 manifests"}),
    ("wrong parent", plain, lambda t: forge(t, parent=7), {"snapshots": "has the parent 7 instead of None"}),
    (
        "manifest of another table",
        plain,
        lambda t: forge(t, fingerprint="f" * 64),
        {"snapshots": "00000001.json has the fingerprint ffffffffffff"},
    ),
    (
        "delete out of range",
        with_duplicates,
        lambda t: forge(t, deletes={split_name("a"): [2], split_name("b"): [3]}),
        {
            "deletes": f"row 3 of {B} is deleted, but the file has 3 rows",
            "ids": "'y' is live 2 times",
            "counts": "the number of documents is 5, the manifest says 4",
        },
    ),
    (
        "list of dead rows that is another",
        with_duplicates,
        list_damaged,
        {"side files": "-000000.parquet is not the file that snapshot 1 was published with"},
    ),
    (
        "list of dead rows that is missing",
        with_duplicates,
        lambda t: t.store.delete(sorted(t.current().dead_keys())),
        {"side files": "-000000.parquet of snapshot 1 is missing"},
    ),
    (
        "list of dead rows of another name",
        with_duplicates,
        lambda t: relabelled(t, "0" * 32),
        {"deletes": "has other rows, by its column split_id, than the snapshot says"},
    ),
    (
        "delete in no file",
        with_duplicates,
        lambda t: forge(t, deletes={split_name("a"): [2], "0" * 32: [1]}),
        {
            "deletes": "which is not part of snapshot 1",
            "ids": "'y' is live 2 times",
            "counts": "the number of documents is 5, the manifest says 4",
        },
    ),
    (
        "wrong row deleted",
        with_duplicates,
        lambda t: forge(t, deletes={split_name("a"): [2], split_name("b"): [2]}),
        {"ids": "(id 'w') is deleted, but should be live"},
    ),
    ("chunk out of order", chunked, broken_chunks, {"chunks": f"row 1 of {A} (id 'x'): chunk 2 does not follow"}),
    (
        "half a document deleted",
        chunked,
        delete_half_a_document,
        {"chunks": f"row 1 of {A} (id 'x'): chunk 1 does not follow"},
    ),
    (
        "condemned name is live",
        plain,
        lambda t: condemn(t, t.current(), [split_name("a")]),
        {"condemned": f"{A} is live, but its name is condemned"},
    ),
]


@pytest.mark.parametrize(("make", "plant", "expected"), [p[1:] for p in PLANTS], ids=[p[0] for p in PLANTS])
def test_damage_is_found(make: Callable[[Store], Table], plant: Plant, expected: dict[str, str]) -> None:
    table = make(MemoryStore())
    plant(table)
    found = audit(table)
    print(found.describe())
    assert failed(found) == {name for name, text in expected.items() if text}
    for name in failed(found):
        assert expected[name] in examples(found, name)
    assert lines(audit(table, partition_rows=1)) == lines(found)
    assert lines(elsewhere(table)) == lines(found)


def test_work_is_cut_into_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "ROWS_A_PARTITION", 2)
    monkeypatch.setattr(executor, "ROWS_A_PART", 1)
    monkeypatch.setattr(executor, "BYTES_A_TASK", 1)
    table = make_table(MemoryStore(), {name: [f"{name}{n}" for n in range(5)] for name in "abc"})
    tasks = Shuffled(table.store, seed=2)
    assert audit(table, executor=tasks).ok
    assert tasks.ran == {"_look_at": 3, "_check": 5}, "three rows a partition: the root of fifteen"


def test_damage_is_found_on_every_store(store: Store) -> None:
    table = plain(store)
    flipped(store, "embedding")
    assert failed(audit(table)) == {"pages"}
    store.delete([A])
    found = audit(table)
    assert failed(found) == {"data files"}
    assert {f.name for f in found.checks if f.verdict == "SKIP"} == {
        *("pages", "footers", "schema", "counts", "vectors", "indexes", "ids", "duplicates")
    }, "of what could not be read nothing is said"


def test_finding_has_a_few_examples_of_many() -> None:
    table = make_table(MemoryStore(), {"a": [f"id{n}" for n in range(200)]})
    rewrite(table, "a", rows_of(["same"] * 200))
    rewrite(table, "a", with_vector(["same"] * 200, 0, [2, 0, 0]))
    rows = [rows_of(["same"] * 200).column(names.EMBEDDING).combine_chunks().flatten().to_numpy() * 3]
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows[0]), type=table.schema.field(names.EMBEDDING).type)
    rewrite(table, "a", rows_of(["same"] * 200).set_column(1, table.schema.field(names.EMBEDDING), column))
    found = audit(table)
    assert failed(found) == {"vectors", "ids", "duplicates"}
    vectors = next(f for f in found.checks if f.name == "vectors")
    assert (vectors.problems, len(vectors.examples)) == (200, 5)
    assert "and 195 more" in str(vectors)
    assert "id 'same' is live 200 times" in examples(found, "ids")


@settings(max_examples=150)
@given(data=st.data())
def test_flipped_bit_anywhere_is_found_or_changes_nothing(data: st.DataObject) -> None:
    store = MemoryStore()
    table = data.draw(st.sampled_from([with_duplicates, with_rejects]))(store)
    live, rejects = table.to_arrow(), table.current().rejects()
    ids = live.column(names.ID).to_pylist()
    key = data.draw(st.sampled_from(sorted(k for k in everything(store) if k != names.TABLE_JSON)))
    damaged = bytearray(store.read(key))
    at = data.draw(st.integers(0, 10**6)) % len(damaged)  # sizes differ by a byte or two from run to run
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    replace(store, key, bytes(damaged))
    found = audit(table)
    if found.ok:
        assert table.to_arrow().equals(live), f"{key} byte {at}"
        assert table.to_arrow(ids=ids).equals(live), f"{key} byte {at}"
        assert table.current().rejects().equals(rejects), f"{key} byte {at}"


# --- against the corpus


def documents(lines: Iterable[int], prefix: str) -> list[dict[str, str]]:
    return [{"id": f"{prefix}-{n:03}", "text": f"text {n:03} of {prefix}", "lang": "en"} for n in lines]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A corpus of every kind of shard, with rows that cannot be embedded and an id that comes twice; an audit reads
    about 40 rows at a time."""
    monkeypatch.setattr(corpus, "_ROWS", 40)
    monkeypatch.setattr(corpus, "_ROWS_AT_ONCE", 100)
    job_processes.put_parquet(f"{tmp_path}/corpus/a.parquet", documents(range(300), "a"))
    rows = [*documents(range(40), "b"), {"id": "b-empty", "text": " "}, {"id": "a-007", "text": "again", "lang": "en"}]
    job_processes.put(f"{tmp_path}/corpus/b.jsonl", jsonl([*rows, "no JSON", {"id": None, "text": "x"}]))
    job_processes.put(f"{tmp_path}/corpus/c.jsonl.gz", gzip.compress(jsonl(documents(range(150), "c"))))
    return str(tmp_path)


def finished(mistral: str, root: str) -> tuple[sfr.Config, Table]:
    config = job_processes.config(mistral, root)
    do_plan(make_plan(config))
    return config, Table.open(open_store(config.table.path))


def audit_against(config: sfr.Config, table: Table) -> AuditReport:
    """In this process, and in tasks, which find the same."""
    found = audit(table, make_plan(config))
    assert lines(elsewhere(table, make_plan(config))) == lines(found)
    return found


def edit(file: str, old: str, new: str) -> None:
    """Change a shard in place, so that nobody could see it from outside."""
    status = os.stat(file)
    data = Path(file).read_bytes()
    assert data.count(old.encode()) == 1
    assert len(old) == len(new)
    Path(file).write_bytes(data.replace(old.encode(), new.encode()))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def test_table_holds_its_corpus(mistral: str, root: str) -> None:
    config, table = finished(mistral, root)
    found = audit(table, make_plan(config))
    assert {finding.verdict for finding in found.checks} == {"PASS"}, found.describe()
    assert found["shards"].measured == "3 shards: the table covers their current versions"
    assert (
        found["corpus rows"].measured == "494 rows of the corpus: each is live or rejected, and the table has no others"
    )
    assert found["texts"].measured == "490 live documents: hashes of text and row match the corpus"
    assert audit(table, make_plan(config), partition_rows=10).describe() == found.describe()
    assert elsewhere(table, make_plan(config)).describe() == found.describe()


def test_text_of_today_is_another(mistral: str, root: str) -> None:
    config, table = finished(mistral, root)
    edit(f"{root}/corpus/b.jsonl", "text 003 of b", "TEXT 003 of b")
    found = audit_against(config, table)
    assert failed(found) == {"texts"}
    text = examples(found, "texts")
    assert "(id 'b-003') has the vector of another text than position " in text
    assert text.endswith(f"of {root}/corpus/b.jsonl (id 'b-003')")


def test_row_of_today_is_another(mistral: str, root: str) -> None:
    config, table = finished(mistral, root)
    edit(f"{root}/corpus/b.jsonl", '"b-003"', '"b-new"')
    found = audit_against(config, table)
    assert failed(found) == {"corpus rows"}
    text = examples(found, "corpus rows")
    assert f"of {root}/corpus/b.jsonl (id 'b-new') is neither live nor rejected" in text
    assert ".parquet (id 'b-003') is not in the corpus" in text


def test_row_that_cannot_be_embedded_any_more(mistral: str, root: str) -> None:
    config, table = finished(mistral, root)
    edit(f"{root}/corpus/b.jsonl", '"text 003 of b"', '"             "')
    found = audit_against(config, table)
    assert failed(found) == {"corpus rows"}
    assert f"of {root}/corpus/b.jsonl is neither live nor rejected" in examples(found, "corpus rows")
    assert "(id 'b-003') is not in the corpus" in examples(found, "corpus rows")


def test_corpus_has_gone_on(mistral: str, root: str) -> None:
    config, table = finished(mistral, root)
    os.remove(f"{root}/corpus/c.jsonl.gz")
    job_processes.put(f"{root}/corpus/d.jsonl", jsonl(documents(range(3), "d")))
    job_processes.put_parquet(f"{root}/corpus/a.parquet", documents(range(299), "a"))
    found = audit(table, make_plan(config))
    assert failed(found) == {"shards", "corpus rows"}
    assert examples(found, "shards").splitlines() == [
        f"{root}/corpus/a.parquet has changed",
        f"{root}/corpus/d.jsonl is new",
        f"{root}/corpus/c.jsonl.gz is no longer in the corpus",
    ]
    rows = next(finding for finding in found.checks if finding.name == "corpus rows")
    assert rows.problems == 3 + 1 + 150
    assert "Run `sfr-batch embed`" in str(rows)
    do_plan(make_plan(job_processes.config(mistral, root, "table.delete=mirror")))
    assert audit(table, make_plan(config)).ok


def test_row_recipe_and_fingerprint_are_compared(mistral: str, root: str) -> None:
    config, table = finished(mistral, root)
    other = job_processes.config(mistral, root, "corpus.text='{text} {lang}'")
    found = audit(table, make_plan(other))
    assert {"shards", "texts"} <= failed(found)
    assert "was read with other corpus settings" in examples(found, "shards")
    with pytest.raises(TableMismatch, match="max_length"):
        api.audit(config.table.path, config, ["model.max_length=64"])


def test_damage_hides_no_more_than_it_must(mistral: str, root: str) -> None:
    """Rows that cannot be read are not called missing; what is in the table and not in the corpus still is told."""
    config, table = finished(mistral, root)
    split_id = next(r.split_id for r in table.current().read_receipts() if r.shard.endswith("a.parquet"))
    table.store.delete([names.data_key(split_id)])
    edit(f"{root}/corpus/b.jsonl", '"b-003"', '"b-new"')
    found = audit_against(config, table)
    assert failed(found) == {"data files", "corpus rows"}
    assert "b-new" not in examples(found, "corpus rows")
    assert "(id 'b-003') is not in the corpus" in examples(found, "corpus rows")


# --- the command line


def run(*arguments: Any) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def test_audit_command(mistral: str, root: str) -> None:
    config, table = finished(mistral, root)
    path, file, report = config.table.path, f"{root}/job.yaml", f"{root}/audit.json"
    Path(file).write_text(json.dumps(job_processes.settings(mistral, root) | {"table": {"path": "/nowhere"}}))
    result = run("audit", path, "--against", file, "--json", report)
    assert result.exit_code == 0, result.output
    assert "PASS  corpus rows   494 rows of the corpus" in result.output
    assert result.output.splitlines()[-2] == "21 passed, 0 failed, 0 skipped"
    read = json.loads(Path(report).read_text())
    assert (read["ok"], read["snapshot"], read["table"], len(read["checks"])) == (True, 1, path, 21)
    assert run("audit", path, "--against", file, "corpus.text='{lang}'").exit_code == 1

    gone = names.data_key(table.current().read_receipts()[0].split_id)
    table.store.delete([gone])
    result = run("audit", path, "--json", report)
    assert result.exit_code == 1
    files = len(table.current().read_receipts())
    assert (
        f"FAIL  data files    {files} data files: 1 problem\n        {gone} is missing\n        `sfr-batch repair"
        in result.output
    )
    read = {check["name"]: check for check in json.loads(Path(report).read_text())["checks"]}
    assert read["data files"]["examples"] == [f"{gone} is missing"]
    assert "data/ alone is not the table: the snapshot is damaged" in read["plain"]["measured"], "the lines agree"


def test_wrong_audit_commands(mistral: str, root: str) -> None:
    config, _ = finished(mistral, root)
    path = config.table.path
    for code, text, arguments in [
        (2, "run.x=1: overrides need --against CONFIG.", [path, "run.x=1"]),
        (2, "There is no config", [path, "--against", f"{root}/no.yaml"]),
        (2, "there is no folder /no/where", [path, "--json", "/no/where/x.json"]),
        (1, "has no snapshot 9. Available: 1.", [path, "--snapshot", "9"]),
        (1, "There is no table at", [f"{root}/corpus"]),
    ]:
        result = run("audit", *arguments)
        assert result.exit_code == code, result.output
        assert result.stderr.startswith("error: ")
        assert text in result.stderr
    assert run("audit", path, "--snapshot", "0").exit_code == 2


def test_sweep_command(tmp_path: Path) -> None:
    path = str(tmp_path / "table")
    table = plain(open_store(path))
    orphan = commit_rows(table.store, table.card, "orphan", ["o"])
    key = names.data_key(orphan.split_id)
    old = table.store.list(key.rsplit("/", 1)[0])
    assert key in {info.key for info in old}
    before = everything(table.store)
    assert run("sweep", path).output == "No leftovers older than 7d.\n"
    result = run("sweep", path, "--older-than", "0m")
    assert result.output.splitlines() == [
        f"  {key}  {orphan.size:,} bytes",
        f"Would remove 1 object, {orphan.size:,} bytes, older than 0m. Nothing was removed; --delete does it.",
    ]
    assert everything(table.store) == before
    result = run("sweep", path, "--older-than", "0m", "--delete")
    assert result.output.splitlines()[-1] == (
        f"Removed 1 object, {orphan.size:,} bytes, older than 0m. Barred 1 split name from reuse."
    )
    assert key not in everything(table.store)
    assert table.current().read_condemned() == {orphan.split_id}
    assert audit(table).plain
    for wrong in ("7", "d", "-1d", "1w", ""):
        result = run("sweep", path, "--older-than", wrong)
        assert result.exit_code == 2
        assert "give a number of days, hours or minutes, such as" in result.stderr
    fresh = create_or_open(open_store(str(tmp_path / "fresh")), card_of())
    assert "Nothing is published yet. Nothing was removed." in run("sweep", fresh.store.root, "--delete").output


def test_audit_of_an_opened_table(tmp_path: Path) -> None:
    table = plain(open_store(str(tmp_path)))
    found = sfr.open_table(str(tmp_path)).audit()
    assert repr(found).startswith(
        f"<AuditReport {tmp_path}, snapshot 1: {len(found.checks)} passed, 0 failed, 0 skipped>"
    )
    assert found.brief().splitlines()[1].startswith(f"snapshot 1 of {table.store.root}, 3 rows, ")
