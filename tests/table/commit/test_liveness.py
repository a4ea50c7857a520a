"""What is live: over all shards in order the first of each id, whichever files its vectors are in."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.format.hashes import hash_ids
from sfr_batch.format.indexes import Located, index_table, read_part, write_index
from sfr_batch.format.records import KEPT, IndexPart, Receipt, ShardRecord
from sfr_batch.storage.store import Store
from sfr_batch.table.commit import duplicates, liveness, repeats
from sfr_batch.table.commit.duplicates import Duplicates
from sfr_batch.table.commit.liveness import Liveness, find_live
from sfr_batch.table.table import Table
from tests.memory_store import MemoryStore
from tests.tables import card_of, commit_rows, draft_of, split_name

NO_REJECTS = names.REJECTS_SCHEMA.empty_table()


def index_of(store: Store, shard: str, ids: list[Any], places: list[tuple[str, int]], key: str) -> list[IndexPart]:
    """An index of a shard whose rows' vectors are in other files: split id and row of each."""
    hashes = pa.table({"id_hash": hash_ids(ids), "row_hash": hash_ids(ids), "position": pa.array(range(len(ids)))})
    splits = pa.array([split_id for split_id, _ in places], pa.string())
    rows = np.array([row for _, row in places], np.int64)
    index = index_table(hashes, splits, rows, np.ones(len(ids), np.int32), NO_REJECTS)
    return write_index(store, key, [Located(shard, index)])


def live_of(
    store: Store,
    shards: list[str],
    receipts: list[Receipt],
    indexes: dict[str, list[IndexPart]] | None = None,
    **more: Any,
) -> Liveness:
    records = [ShardRecord(uri, "1", 0, "recipe", "", 0, 0) for uri in shards]
    draft = draft_of(receipts, shards=records, indexes=indexes or {}, new=more.get("new", frozenset()))
    table = Table(store, card_of())
    return find_live(table, draft, table.layout)


def rows_of_duplicates(store: Store, found: Duplicates) -> list[tuple[str, str, int, Any]]:
    """Shard, data file, row and id of each, in order."""
    places = found.places(0, len(found))
    ids = [id_ for its in found.ids(Table(store, card_of())) for id_ in its.to_pylist()]
    return list(zip(places.shards.to_pylist(), places.keys.to_pylist(), places.rows.tolist(), ids, strict=True))


@settings(max_examples=80)
@given(
    owned=st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), min_size=1, max_size=4),
    indexed=st.lists(st.lists(st.integers(0, 50), max_size=6), max_size=3),
    kept=st.lists(st.integers(0, 50), max_size=4),
    partition_rows=st.integers(1, 30),
    rows_at_once=st.integers(1, 30),
    rows_a_piece=st.integers(1, 30),
)
def test_live_is_what_a_dictionary_says(
    owned: list[list[str]],
    indexed: list[list[int]],
    kept: list[int],
    partition_rows: int,
    rows_at_once: int,
    rows_a_piece: int,
) -> None:
    """Some shards own their files, others have rows anywhere in these, and several rows may have one vector."""
    store = MemoryStore()
    receipts = [commit_rows(store, card_of(), f"s{n}", ids, shard=f"o{n}") for n, ids in enumerate(owned)]
    places = [(split_name(f"s{n}"), row, id_) for n, ids in enumerate(owned) for row, id_ in enumerate(ids)]
    rows = {f"o{n}": [(id_, split_name(f"s{n}"), row) for row, id_ in enumerate(ids)] for n, ids in enumerate(owned)}
    indexes = {}
    for name, chosen in [*((f"x{n}", its) for n, its in enumerate(indexed)), (KEPT, kept)]:
        found = [places[number % len(places)] for number in chosen] if places else []
        rows[name] = [(id_, split_id, row) for split_id, row, id_ in found]
        key = names.index_key(1, "run", len(indexes))
        indexes[name] = index_of(store, name, [i for _, _, i in found], [(s, r) for s, r, _ in found], key)
    order = [*sorted(name for name in rows if name != KEPT), KEPT]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(liveness, "PARTITION_ROWS", partition_rows)
        found = live_of(store, order, receipts, indexes, new=frozenset({split_name("s0")}))
        patch.setattr(duplicates, "ROWS_AT_ONCE", rows_at_once)
        patch.setattr(duplicates, "ROWS_A_PIECE", rows_a_piece)
        found_duplicates = rows_of_duplicates(store, found.duplicates)

    winner: dict[str, tuple[str, int]] = {}
    losers, counts = [], {"embedded": 0, "reused": 0, "kept": 0}
    for shard in order:
        for id_, split_id, row in rows[shard]:
            if id_ in winner:
                losers += [(shard, names.data_key(split_id), row, id_)] if shard != KEPT else []
                continue
            winner[id_] = split_id, row
            kind = "kept" if shard == KEPT else "embedded" if split_id == split_name("s0") else "reused"
            counts[kind] += 1
    live = set(winner.values())
    assert found_duplicates == losers
    for shard in order:
        assert found.duplicates.count_in({shard}) == sum(its[0] == shard for its in losers)
    assert {"embedded": found.embedded, "reused": found.reused, "kept": found.kept} == counts
    assert found.vectors == len(live)
    used = {split_id for its in rows.values() for _, split_id, _ in its}
    dead = [(split_id, row) for split_id, row, _ in places if (split_id, row) not in live and split_id in used]
    deletes = [(split_id, row) for split_id in found.dead for row in found.dead_rows(split_id).tolist()]
    assert sorted(deletes) == sorted(dead)
    assert found.needed == used


def test_ids_of_losers_are_read_once_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    receipts = [commit_rows(store, card_of(), f"s{n}", [f"i{m}" for m in range(50)], shard=f"o{n}") for n in range(5)]
    opened: list[str] = []

    def counting(key: str, size: int = 0, real: Any = store.open) -> Any:
        opened.append(key)
        return real(key, size)

    monkeypatch.setattr(store, "open", counting)
    found = live_of(store, [f"o{n}" for n in range(5)], receipts)
    assert (found.vectors, len(found.duplicates)) == (50, 200)
    assert len(opened) == 5, "each file once"
    columns = (getattr(found.duplicates, name) for name in ("order", "at", "winner_order", "winner"))
    assert sum(column.nbytes for column in columns) == 16 * 200
    assert len(rows_of_duplicates(store, found.duplicates)) == 200
    assert len(opened) == 5 + 4, "and once more where an id is lost"


@pytest.mark.parametrize(
    ("place", "told"), [((split_name("gone"), 0), "not among"), ((split_name("s"), 3), "rows that")]
)
def test_index_that_points_nowhere_is_refused(place: tuple[str, int], told: str) -> None:
    store = MemoryStore()
    receipt = commit_rows(store, card_of(), "s", ["a", "b", "c"], shard="o")
    key = names.index_key(1, "run", 0)
    with pytest.raises(TableError, match=f"{key}.*{told}"):
        live_of(store, ["o", "x"], [receipt], {"x": index_of(store, "x", ["d"], [place], key)})


def test_parts_are_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from sfr_batch.format import indexes

    monkeypatch.setattr(indexes, "ROWS_A_GROUP", 4)
    store, key = MemoryStore(), names.index_key(1, "run", 0)
    pieces = []
    for number, rows in enumerate([3, 0, 7, 6]):
        ids = [f"{number}-{row}" for row in range(rows)]
        hashes = pa.table({"id_hash": hash_ids(ids), "row_hash": hash_ids(ids), "position": pa.array(range(rows))})
        splits = pa.array(["f" * 32] * rows, pa.string())
        index = index_table(hashes, splits, np.arange(rows), np.ones(rows, np.int32), NO_REJECTS)
        pieces.append(Located(f"shard{number}", index))
    parts = write_index(store, key, pieces)
    for part, piece in zip(parts, pieces, strict=True):
        assert read_part(store, part).equals(piece.index.combine_chunks())
        assert read_part(store, part, ["row", "id_hash"]).equals(
            piece.index.combine_chunks().select(["row", "id_hash"])
        )
    with pytest.raises(TableError, match="it has 16 rows, rows up to 17 are needed"):
        read_part(store, IndexPart("x", key, 10, 7))


@pytest.mark.parametrize("last", [False, True])
def test_losers_keep_no_records_in_memory(last: bool) -> None:
    records = np.zeros(6, repeats.RECORD)
    records["hash"], records["order"], records["at"], records["vectors"] = [1, 2, 1, 3, 2, 1], range(6), range(6), 1
    losers = repeats.losers_in(records, 6, last=last)
    assert len(losers.order) == 3
    assert all(column.base is None for column in losers)
