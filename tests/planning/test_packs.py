"""First runs of many small shards: they are embedded in packs, once, and are shards like any others from then on."""

import dataclasses
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sfr_batch.checks.audit.auditor import audit
from sfr_batch.corpus import packs
from sfr_batch.errors import CorpusError, TableError
from sfr_batch.format import names
from sfr_batch.format.layout import Layout
from sfr_batch.planning import pack_indexes
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.pack_indexes import write_pack_indexes
from sfr_batch.storage.executor import InProcess
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import status
from sfr_batch.table.commit.compaction import carry_out, find_compaction
from sfr_batch.table.commit.expiry import expire
from sfr_batch.table.table import Snapshot, Table
from tests.nights import Counting, Doc, Place, Shards, Writer, docs_of, expected_vectors, night, rejects_of, state_of
from tests.planning.test_repair import mended
from tests.proxy import relay
from tests.s3server import S3Server
from tests.table.commit.test_publish_elsewhere import Shuffled
from tests.tables import do_plan, do_splits, jsonl

pytestmark = pytest.mark.usefixtures("one_look_at_the_model")

Nights = tuple[Place, Writer]
SPLITS = ("run.rows_per_split=32",)


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "FEWEST", 20)


def small_shards(shards: int = 60, ending: str = "jsonl") -> Shards:
    """Up to three rows each; some of them are rejected, two have an id of another one, and one has no row."""
    made = {f"{n:03}.{ending}": docs_of(f"{n}-", 1 + n % 3) for n in range(shards)}
    made[f"007.{ending}"] = [Doc("7-0", ""), Doc("7-1", "text 1 of 7-")]
    made[f"020.{ending}"] = [Doc("20-0", "")]
    made[f"030.{ending}"] = [Doc("3-0", "another text of an id"), Doc("30-1", "text", "de"), Doc("30-1", "once more")]
    return made


def texts_of(shards: Shards) -> list[str]:
    return sorted(doc.text for docs in shards.values() for doc in docs if doc.text)


def check(place: Place, writer: Writer, *overrides: str) -> Snapshot:
    table = Table.open(open_store(place.table))
    found = audit(table, make_plan(place.config(*overrides)))
    assert found.ok, str(found)
    expected_vectors(table.current(), writer.now)
    return table.current()


def interrupted(place: Place, splits: int, rows: int = 32) -> list[str]:
    counting = Counting()
    plan = make_plan(place.config(f"run.rows_per_split={rows}"))
    assert plan.packs
    do_splits(plan, only=splits, encode=counting)
    return counting.texts


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_first_run_is_what_it_is_without_packs(nights: Nights, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, writer = nights
    monkeypatch.setattr(packs, "FEWEST", 10**6)
    writer.write(small_shards(ending=ending) | {"large.jsonl": docs_of("large", 100)})
    other, texts = night(dataclasses.replace(place, table=f"{place.table}-other"), "run.rows_per_split=400")
    monkeypatch.setattr(packs, "FEWEST", 20)
    assert len(other.read_receipts()) > 50
    plan = make_plan(place.config("run.rows_per_split=400"))
    assert sum(len(unit.whole) for unit in plan.units) == 60
    assert f"61 shards, 0 unchanged, 60 small ones in {plan.packs} pack" in plan.describe()
    assert not plan.has_to_compare
    snapshot, ours = night(place, "run.rows_per_split=400")
    assert sorted(ours) == sorted(texts)
    assert len(snapshot.read_receipts()) <= 4
    assert state_of(snapshot) == state_of(other)
    assert rejects_of(snapshot) == rejects_of(other)
    assert snapshot.manifest.counts == other.manifest.counts
    assert snapshot.manifest.format_version == other.manifest.format_version, "older releases read it"
    records = [[dataclasses.replace(r, splits=0) for r in it.read_shards()] for it in (snapshot, other)]
    assert records[0] == records[1]
    assert check(place, writer).number == snapshot.number


def test_tasks_of_an_executor_write_the_same_indexes(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    place, writer = nights
    writer.write(small_shards())
    plan = make_plan(place.config(*SPLITS))
    done = do_splits(plan)
    monkeypatch.setattr(pack_indexes, "ROWS_A_TASK", 30)
    here = write_pack_indexes(plan, done, 1, "here")
    elsewhere = Shuffled(plan.store, seed=5)
    there = write_pack_indexes(plan, done, 1, "there", elsewhere)
    assert 1 < elsewhere.ran.total() <= len(done)
    assert there.coverage == here.coverage
    assert sum(its.read for its in here.coverage.values()) == plan.rows
    assert sum(its.rejected for its in here.coverage.values()) == 2
    renamed = {
        u: [dataclasses.replace(p, key=p.key.replace("there", "here")) for p in there.parts[u]] for u in there.parts
    }
    assert list(renamed.items()) == list(here.parts.items())
    keys = {part.key for its in here.parts.values() for part in its}
    assert len(keys) == elsewhere.ran.total()
    assert [plan.store.read(key) for key in keys] == [plan.store.read(key.replace("here", "there")) for key in keys]


def test_nights_after_it(nights: Nights) -> None:
    """Shards of packs change, go and come; files are compacted, old snapshots expire."""
    place, writer = nights
    shards = small_shards()
    writer.write(shards)
    first, _ = night(place, *SPLITS)
    files = set(first.split_ids())
    assert 2 < len(files) < 20
    assert make_plan(place.config(*SPLITS)).up_to_date
    shards = {**shards, "011.jsonl": [*shards["011.jsonl"], Doc("new", "new text")], "100.jsonl": docs_of("100-", 2)}
    shards["012.jsonl"] = [dataclasses.replace(shards["012.jsonl"][0], lang="de")]
    del shards["013.jsonl"]
    writer.write(shards)
    second, texts = night(place, *SPLITS)
    assert sorted(texts) == ["new text", "text 0 of 100-", "text 1 of 100-"]
    assert files < set(second.split_ids())
    check(place, writer)
    table, before = Table.open(open_store(place.table)), state_of(second)
    carry_out(table, find_compaction(table.current(), rows_per_file=1000))
    assert len(check(place, writer).read_receipts()) == 1
    assert "damage" not in status.describe(table)
    expire(table, keep_last=1, dry_run=False)
    assert state_of(check(place, writer)) == before
    night(place, *SPLITS)
    random.seed(0)
    moved = [doc for docs in shards.values() for doc in docs]
    random.shuffle(moved)
    writer.write({f"{n:03}.jsonl": moved[n::40] for n in range(40)})
    kept = {doc.id: doc.text for name in sorted(writer.now) for doc in reversed(writer.now[name]) if doc.text}
    _, texts = night(place, *SPLITS)
    assert set(texts) <= {"another text of an id", "once more", *kept.values()}
    assert len(texts) <= 3, "of ids that are there twice"
    check(place, writer)


def test_a_new_column_costs_a_file_of_a_pack_once(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row hashes are computed once, not for each of its shards."""
    place, writer = nights
    writer.write(small_shards())
    first, _ = night(place, *SPLITS, "corpus.carry=[]")
    files = len(first.read_receipts())
    hashed, real = [], Layout.read

    def read(layout: Layout, file: Any, columns: Any, *more: Any) -> Any:
        hashed.extend([file] if list(columns) == [names.ROW_HASH] else [])
        return real(layout, file, columns, *more)

    monkeypatch.setattr(Layout, "read", read)
    run = compare(make_plan(place.config(*SPLITS)), InProcess())
    assert len(hashed) == files < 20
    assert run.difference.copied_vectors == 118
    _, texts = night(place, *SPLITS)
    assert texts == []
    check(place, writer, *SPLITS)


@pytest.mark.parametrize("rows", [32, 4])
def test_a_run_goes_on_with_its_packs(nights: Nights, rows: int) -> None:
    """Also in the middle of one, if it has more rows than a split may have."""
    place, writer = nights
    writer.write(small_shards())
    paid, splits = interrupted(place, 3, rows), f"run.rows_per_split={rows}"
    plan = make_plan(place.config(splits))
    assert (len(plan.done), plan.unpublished, plan.has_to_compare) == (3, [], False)
    snapshot, texts = night(place, splits)
    assert sorted([*paid, *texts]) == texts_of(writer.now)
    assert (max(r.read for r in snapshot.read_receipts()) > 4) == (rows == 32)
    check(place, writer, splits)


def test_a_pack_whose_rejects_are_gone_says_the_way_out(nights: Nights) -> None:
    place, writer = nights
    writer.write({uri: [*docs, Doc(f"{uri}-empty", "")] for uri, docs in small_shards().items()})
    interrupted(place, 1)
    (rejects,) = Path(place.table, "_rejects").rglob("*.parquet")
    rejects.unlink()
    with pytest.raises(TableError, match=rf"{rejects} is missing\. To embed the split again, delete data/\S+ and run"):
        night(place, *SPLITS)


def test_a_changed_shard_costs_its_pack_before_the_first_snapshot(nights: Nights) -> None:
    place, writer = nights
    shards = small_shards()
    writer.write(shards)
    paid = interrupted(place, 4)
    before = make_plan(place.config(*SPLITS))
    done = {unit.stream.prefix for unit in before.units if unit.stream} - {
        unit.stream.prefix for unit in before.todo if unit.stream
    }
    mine = next(unit for unit in before.units if unit.stream and unit.stream.prefix in done)
    name = Path(mine.whole[-1].uri).name
    changed = [dataclasses.replace(doc, text=doc.text.upper()) for doc in shards[name]]  # of the same size
    writer.write({**shards, name: changed})
    plan = make_plan(place.config(*SPLITS))
    names_ = {unit.stream.prefix for unit in plan.units if unit.stream}
    assert len(names_ - {unit.stream.prefix for unit in before.units if unit.stream}) == 1
    assert "1 data file of an interrupted run" in plan.describe()
    assert not plan.has_to_compare
    _, texts = night(place, *SPLITS)
    assert sorted(set(paid) & set(texts)) == sorted(
        {doc.text for its in mine.whole for doc in shards[Path(its.uri).name] if doc.text} & set(texts)
    )
    assert set(paid) | set(texts) >= set(texts_of(writer.now))
    check(place, writer)


def test_a_run_of_a_release_without_packs_is_finished(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    place, writer = nights
    monkeypatch.setattr(packs, "FEWEST", 10**6)
    writer.write(small_shards())
    counting = Counting()
    do_splits(make_plan(place.config(*SPLITS)), only=1, encode=counting)
    monkeypatch.setattr(packs, "FEWEST", 20)
    plan = make_plan(place.config(*SPLITS))
    assert (plan.packs, len(plan.done), plan.has_to_compare) == (0, 1, False)
    _, texts = night(place, *SPLITS)
    assert sorted([*counting.texts, *texts]) == texts_of(writer.now)
    check(place, writer)


def test_a_corpus_that_has_become_another_one_is_compared(nights: Nights) -> None:
    place, writer = nights
    writer.write(small_shards())
    paid = interrupted(place, 3)
    for file in Path(writer.root).iterdir():
        os.utime(file, ns=(1, file.stat().st_mtime_ns + 10**9))
    plan = make_plan(place.config(*SPLITS))
    assert (plan.packs, plan.has_to_compare) == (0, True)
    assert compare(plan, InProcess()).difference.taken == len(paid)
    _, texts = night(place, *SPLITS)
    assert sorted([*paid, *texts]) == texts_of(writer.now)
    check(place, writer)


def test_packs_of_another_size_are_used(nights: Nights) -> None:
    """As those of a release with another default are."""
    place, writer = nights
    writer.write(small_shards())
    paid = interrupted(place, 3, rows=16)
    plan = make_plan(place.config(*SPLITS))
    assert (plan.packs, plan.has_to_compare) == (0, True)
    _, texts = night(place, *SPLITS)
    assert sorted([*paid, *texts]) == texts_of(writer.now)
    check(place, writer)


@pytest.mark.parametrize("deep", [False, True])
def test_a_lost_file_of_a_pack_is_repaired(nights: Nights, deep: bool) -> None:
    place, writer = nights
    writer.write(small_shards())
    first, _ = night(place, *SPLITS)
    before = state_of(first), rejects_of(first)
    lost = max(first.read_receipts(), key=lambda r: r.rejected)
    file = Path(place.table) / names.data_key(lost.split_id)
    file.write_bytes(file.read_bytes()[:-100]) if deep else file.unlink()
    repaired, texts = mended(place, *SPLITS, deep=deep)
    assert repaired is not None
    assert len(texts) <= lost.embedded
    assert (state_of(repaired), rejects_of(repaired)) == before
    check(place, writer)


def test_many_new_small_shards_share_splits_on_later_nights(nights: Nights) -> None:
    place, writer = nights
    old = {"large.jsonl": docs_of("large", 100)}
    writer.write(old)
    first, _ = night(place, *SPLITS)
    writer.write(old | small_shards())
    second, texts = night(place, *SPLITS)
    assert sorted(texts) == texts_of(small_shards())
    assert len(second.read_receipts()) - len(first.read_receipts()) < 6
    check(place, writer)


def test_what_a_sample_does_not_show(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    """A carried column that few shards have: then all shards are surveyed. One that lacks the text is named."""
    monkeypatch.setattr(packs, "SAMPLE", 2)
    place, writer = nights
    writer.write(small_shards())
    rare = Path(writer.root) / "055.jsonl"
    rare.write_text('{"id": "55-0", "text": "text", "lang": "en", "rare": 7}\n')
    plan = make_plan(place.config("corpus.carry=[lang, rare]", *SPLITS))
    assert plan.packs
    assert str(plan.columns.types["rare"]) == "int64"
    rare.write_text('{"id": "55-0", "body": "text", "lang": "en"}\n')
    with pytest.raises(CorpusError, match=r"055\.jsonl has no column 'text' \(corpus\.text\)"):
        night(place, *SPLITS)


def test_a_first_run_on_s3_asks_about_once_for_each_shard(
    s3: S3Server, s3_prefix: str, mistral: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it: listing, a sample, reading, writing, indexes and the snapshot. What does not grow with the shards is
    taken off, as the difference of two runs."""
    monkeypatch.setattr(packs, "SAMPLE", 10)

    def rows_of(shard: int) -> list[dict[str, str]]:
        return [{"id": f"{shard}-{row}", "text": f"text {row} of {shard}", "lang": "en"} for row in range(10)]

    sizes = 100, 400
    asked: list[int] = []
    with relay(s3.endpoint) as through:
        for shards in sizes:
            place = Place(f"{s3_prefix}/{shards}/corpus", f"{s3_prefix}/{shards}/table", mistral)
            store = open_store(place.corpus)
            files = [(f"{n:04}.jsonl", jsonl(rows_of(n))) for n in range(shards)]
            with ThreadPoolExecutor(16) as pool:
                assert all(pool.map(store.create, *zip(*files, strict=True)))
            on_storage = [f"{part}.storage.endpoint_url={through.endpoint}" for part in ("corpus", "table")]
            plan = make_plan(place.config("run.rows_per_split=4096", *on_storage))
            assert sum(len(unit.whole) for unit in plan.units) == shards
            counting = Counting()
            snapshot = do_plan(plan, encode=counting)
            assert (len(counting.texts), snapshot.manifest.counts.vectors) == (10 * shards, 10 * shards)
            asked.append(len(through.requests) - sum(asked))
    assert (asked[1] - asked[0]) / (sizes[1] - sizes[0]) <= 1.1, asked
    assert asked[1] < 1.1 * sizes[1] + 100, asked
