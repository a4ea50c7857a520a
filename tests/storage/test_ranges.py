"""Reads by exact ranges: the bytes are those of the object, and S3 is asked for little else, in few requests."""

import dataclasses
import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.config.settings import StorageSettings
from sfr_batch.corpus.rejects import rejects_table
from sfr_batch.errors import ObjectNotFound, TableError
from sfr_batch.format import indexes, names
from sfr_batch.format.hashes import hash_ids
from sfr_batch.format.indexes import Located, index_table, read_part, write_index
from sfr_batch.format.parquet import read_data_file, read_receipts
from sfr_batch.format.records import Receipt
from sfr_batch.storage import ranges
from sfr_batch.storage.ranges import Ranges
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import create_or_open
from sfr_batch.table.table import Table
from tests.proxy import Relay, relay
from tests.s3server import S3Server
from tests.tables import card_of, commit_rows, draft_of

CONTENT = bytes(range(256)) * 4
places = st.tuples(st.integers(0, 1100), st.integers(0, 1100))


@settings(max_examples=150)
@given(
    steps=st.lists(
        st.tuples(st.just("read"), st.integers(0, 1100), st.integers(-1, 400))
        | st.tuples(st.just("gather"), st.lists(places, max_size=4), st.just(0)),
        max_size=12,
    ),
    short=st.integers(0, 300),
    gathered=st.integers(0, 600),
)
def test_reads_are_those_of_a_file(steps: list[tuple[str, Any, int]], short: int, gathered: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranges, "_SHORT", short)
        patch.setattr(ranges, "_GATHERED", gathered)
        made, file = Ranges(lambda start, end: CONTENT[start:end], len(CONTENT)), io.BytesIO(CONTENT)
        for what, where, size in steps:
            if what == "gather":
                made.gather(where)
                continue
            assert made.seek(where) == file.seek(where)
            assert made.read(size) == file.read(size)
            assert made.tell() == file.tell()


def test_ranges_that_are_close_cost_one_request_and_large_ones_are_not_kept() -> None:
    size, asked = 2**24, list[tuple[int, int]]()

    def read(start: int, end: int) -> bytes:
        asked.append((start, end))
        return bytes(end - start)

    made = Ranges(read, size)
    made.gather([(10, 20), (10_000_000, 10_000_100), (30, 40), (1_000_000, 1_000_000 + 2**23), (5, 5), (-3, 4)])
    assert asked == [(10, 40), (10_000_000, 10_000_100)]
    for start, end in [(12, 20), (30, 39), (10_000_000, 10_000_100)]:
        made.seek(start)
        assert len(made.read(end - start)) == end - start
    assert len(asked) == 2
    for _ in range(2):
        made.seek(1_000_000)
        made.read(2**23)
    assert asked[2:] == [(1_000_000, 1_000_000 + 2**23)] * 2
    made.seek(-100, io.SEEK_END)
    made.read()
    made.seek(size - 50)
    made.read(10)
    assert asked[4:] == [(size - 100, size)], "a short read is kept"


# --- on S3

ROWS = 6_000


@pytest.fixture
def counted(s3: S3Server) -> Iterator[Relay]:
    with relay(s3.endpoint) as made:
        yield made


def data_requests(counted: Relay, folder: str = names.DATA) -> dict[str, list[tuple[str, int]]]:
    """(method, bytes) of each request for a file of a folder, by its name. Begins anew."""
    found: dict[str, list[tuple[str, int]]] = {}
    for method, path, range_ in counted.requests:
        if name := re.search(rf"/{folder}/([^?]+\.parquet)", path):
            first, last = re.findall(r"\d+", range_) or (0, -1)
            found.setdefault(name[1], []).append((method, int(last) - int(first) + 1))
    counted.requests.clear()
    return found


@pytest.fixture
def written(counted: Relay, s3_prefix: str) -> tuple[Table, list[Receipt]]:
    """A table without a snapshot, and the receipts of three data files."""
    store = open_store(f"{s3_prefix}/table", StorageSettings(endpoint_url=counted.endpoint))
    card = card_of(names.table_schema(pa.string(), 32, "float32", {}))
    table = create_or_open(store, card)
    receipts = [
        commit_rows(
            store,
            card,
            f"s{n}",
            [f"document-{n}-{row:08}" for row in range(ROWS)],
            shard=f"shard{n}",
            carry={names.CONTENT_HASH: [os.urandom(16) for _ in range(ROWS)]},
        )
        for n in range(3)
    ]
    counted.requests.clear()
    return table, receipts


def test_publishing_reads_forty_bytes_a_row_in_two_requests_a_file(
    counted: Relay, written: tuple[Table, list[Receipt]]
) -> None:
    table, receipts = written
    snapshot = publish(table, None, draft_of(receipts))
    assert snapshot.manifest.counts.vectors == 3 * ROWS
    found = data_requests(counted)
    assert len(found) == 3
    for requests in found.values():
        assert Counter(method for method, _ in requests) == {"GET": 2}
        assert sum(size for _, size in requests) <= 40 * ROWS

    assert Table.open(table.store).to_arrow(["id"]).num_rows == 3 * ROWS
    for requests in data_requests(counted).values():
        assert Counter(method for method, _ in requests) == {"GET": 2}, "and so does a reader of one column"
    assert len(Table.open(table.store).to_arrow(ids=["document-1-00000007"])) == 1
    assert sum(map(len, data_requests(counted).values())) <= 5, "statistics exclude two of the files"


def test_index_files_and_footers_are_read_without_asking_for_their_size(
    counted: Relay, written: tuple[Table, list[Receipt]]
) -> None:
    """Two shards whose rows are in the other's data file, in one index file of two row groups."""
    table, receipts = written
    places = [(f"shard{n}", split_id) for n, split_id in enumerate([receipts[1].split_id, receipts[0].split_id])]
    located = []
    for shard, split_id in places:
        ids = hash_ids([f"{shard}-{row}" for row in range(ROWS)])
        hashes = pa.table({"id_hash": ids, "row_hash": ids, "position": pa.array(range(ROWS))})
        vectors = np.ones(ROWS, np.int32)
        rows = index_table(hashes, pa.array([split_id] * ROWS), np.arange(ROWS), vectors, rejects_table([], shard))
        located.append(Located(shard, rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexes, "ROWS_A_GROUP", ROWS)
        parts = write_index(table.store, names.index_key(1, "run", 0), located)
    draft = draft_of([dataclasses.replace(receipt, owned=False) for receipt in receipts[:2]])
    draft = dataclasses.replace(draft, indexes={part.shard: [part] for part in parts})
    counted.requests.clear()
    snapshot = publish(table, None, draft)
    assert snapshot.manifest.counts.vectors == 2 * ROWS
    [requests] = data_requests(counted, names.INDEX).values()
    assert {method for method, _ in requests} == {"GET"}
    assert len(requests) <= 1 + 2 * 2, "the footer; ids and places of each row group, unless they come with the footer"
    assert sum(size for _, size in requests) <= 2**16 + 20 * 2 * ROWS, "no hash of a row"

    listed = {info.key: info.size for info in table.store.list(names.INDEX)}
    [[one], [other]] = Table.open(table.store).current().read_indexes().values()
    assert one.size == other.size == listed[one.key]
    counted.requests.clear()
    assert read_part(table.store, other).num_rows == ROWS
    [requests] = data_requests(counted, names.INDEX).values()
    assert {method for method, _ in requests} == {"GET"}
    older = dataclasses.replace(other, size=0)
    assert read_part(table.store, older).equals(read_part(table.store, other))
    assert "HEAD" in {method for method, _ in data_requests(counted, names.INDEX)[older.key.split("/")[-1]]}

    ids = [receipt.split_id for receipt in receipts]
    listing = table.committed()
    counted.requests.clear()
    assert read_receipts(table.store, ids, listing) == receipts
    for requests in data_requests(counted).values():
        assert requests == [("GET", 2**16)], "the end of a file is all that its footer takes"


def test_a_whole_read_takes_no_more_than_the_file(counted: Relay, written: tuple[Table, list[Receipt]]) -> None:
    table, receipts = written
    receipt = receipts[0]
    rows = read_data_file(table.store, receipt, table.layout.schema.names, table.card.fingerprint)
    assert rows.num_rows == ROWS
    [requests] = data_requests(counted).values()
    assert {method for method, _ in requests} == {"GET"}
    assert sum(size for _, size in requests) <= receipt.size + 2**16


def test_a_file_that_is_lost_or_has_another_size_is_told(written: tuple[Table, list[Receipt]], s3: S3Server) -> None:
    table, (receipt, other, _) = written
    bucket, prefix = table.store.root.removeprefix("s3://").split("/", 1)
    key = names.data_key(receipt.split_id)
    whole = table.store.read(key)
    s3.client().put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=whole[:-1000])
    with pytest.raises(TableError, match=f"{key} is damaged"):
        read_data_file(table.store, receipt, [names.ID], table.card.fingerprint)
    table.store.delete([names.data_key(other.split_id)])
    with pytest.raises(ObjectNotFound, match=names.data_key(other.split_id)):
        read_data_file(table.store, other, [names.ID], table.card.fingerprint)
