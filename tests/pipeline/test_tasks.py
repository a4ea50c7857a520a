"""Functions as Ray tasks: publishing, exporting, compacting, auditing, reading and searching on a real Ray."""

import contextlib
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import ray
from click.testing import CliRunner

import sfr_batch as sfr
from sfr_batch.checks.audit.auditor import audit
from sfr_batch.cli.main import main
from sfr_batch.corpus import packs
from sfr_batch.errors import ConfigError, TableError
from sfr_batch.format import names
from sfr_batch.format.records import DuplicateRule
from sfr_batch.pipeline import copy_vectors, placement, runner
from sfr_batch.pipeline.on_ray import choose
from sfr_batch.pipeline.tasks import OnRay
from sfr_batch.planning import pack_indexes
from sfr_batch.planning.comparison import compare
from sfr_batch.planning.make import make_plan
from sfr_batch.planning.pack_indexes import write_pack_indexes
from sfr_batch.planning.settled_ids import settle_ids
from sfr_batch.planning.table_ids import ids_to_read
from sfr_batch.storage import executor
from sfr_batch.storage.executor import ROWS_HERE, Executor, InProcess
from sfr_batch.storage.stores import open_store
from sfr_batch.table import export, row_changes, scan, search
from sfr_batch.table.commit import compaction, documents, publish
from sfr_batch.table.commit.compaction import find_compaction
from sfr_batch.table.table import Table
from tests.nights import Counting, Doc, Place, Writer, docs_of, expected_vectors, night, small_tasks
from tests.planning.test_settled_ids import decided
from tests.states import Row, commit_file, publish_state, state_of
from tests.table.commit.test_publish_elsewhere import write_state
from tests.table.test_export import DEAD, FILES
from tests.tables import do_plan, do_splits, make_table, split_name

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


def written(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_publishing_on_ray_writes_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "stamp", lambda base: ("2026-01-01T00:00:00+00:00", None))
    monkeypatch.setattr(publish, "who", lambda: "somebody@somewhere")
    monkeypatch.setattr(executor, "ROWS_A_PARTITION", 6)
    monkeypatch.setattr(executor, "ROWS_A_PART", 1)
    monkeypatch.setattr(documents, "ROWS_A_TASK", 4)
    here, there = tmp_path / "here", tmp_path / "there"
    owned = [[(id_, 1 + n % 2) for n, id_ in enumerate(its)] for its in ("abcdef", "abg", "hijk")]
    table, draft = write_state(open_store(str(here)), owned, [[0, 7, 2], [12]], [3], chunks=True)
    draft = dataclasses.replace(draft, duplicate_rule=DuplicateRule(order_by="n"))
    shutil.copytree(here, there)
    publish.publish(table, None, draft)
    snapshot = publish.publish(Table(open_store(str(there)), table.card), None, draft, OnRay("publishing"))
    assert written(there) == written(here)
    assert snapshot.manifest.duplicates
    assert snapshot.manifest.dead_rows

    draft = dataclasses.replace(draft, run_id="another")
    (there / names.index_key(1, "run", 0)).write_bytes(b"no Parquet")
    with pytest.raises(TableError, match="is damaged") as error:
        publish.publish(Table(open_store(str(there)), table.card), snapshot, draft, OnRay("publishing"))
    assert names.index_key(1, "run", 0) in str(error.value)


def test_comparing_on_ray_decides_the_same(nights: tuple[Place, Writer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Which rows are encoded, copied and reused, with vectors of a lender; only rows with work come to the driver."""
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 12), "b.jsonl": docs_of("b", 9)})
    night(place)
    writer.write(
        {"c.parquet": docs_of("a", 12)[::2], "b.jsonl": [*docs_of("b", 9)[3:], Doc("b1", "x"), Doc("b2", "y")]}
    )
    other = dataclasses.replace(place, table=f"{place.table}-new")
    do_plan(make_plan(other.config("select.shards=[c.parquet]")), encode=Counting())
    plans = make_plan(place.config()), make_plan(other.config(f"table.reuse_from={place.table}"))
    work = []
    with small_tasks(4):
        for plan in plans:
            here, there = compare(plan, InProcess()), compare(plan, OnRay("comparing"))
            assert len(there.rows.scans) >= 2
            mine, its = (dataclasses.replace(run.difference, packed=()) for run in (here, there))
            assert its == mine, "names of splits say which rows they have"
            assert there.encoded.split_ids == here.encoded.split_ids
            assert len(there.difference.packed) == 1
            for name in ("totals", "left"):
                assert np.array_equal(getattr(here.rows, name), getattr(there.rows, name))
            for splits, as_here in zip(there.copied, here.copied, strict=True):
                rows = [
                    list(run.executor.get(list(its.rows.handles.values())))
                    for run, its in ((there, splits), (here, as_here))
                ]
                assert all(map(np.array_equal, *rows))
                work.append(sum(map(len, rows[0])))
            assert there.rows.reused == here.rows.reused
    assert work == [0, 0, 0, 6]
    monkeypatch.setattr(runner, "_ROWS_HERE", plans[1].rows_to_compare + 21 // 8 - 1)
    with contextlib.ExitStack() as stack:
        found, _ = runner.compare_rows(plans[1], placement.HERE, stack, frozenset())
        assert isinstance(found.executor, OnRay), "the lender's 21 texts count, too"


def test_vectors_are_dealt_on_ray(nights: tuple[Place, Writer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows that are in other shards than before, all of which are copied, in two rounds."""
    place, writer = nights
    docs = [doc for name in "abcdefgh" for doc in docs_of(name, 16)]
    writer.write({name: docs[n * 16 : n * 16 + 16] for n, name in enumerate(f"{name}.parquet" for name in "abcdefgh")})
    settings = "run.rows_per_split=16"
    night(place, settings, "corpus.carry=[]")
    writer.write({name: docs[n::8] for n, name in enumerate(writer.now)})
    dealt = []
    real = copy_vectors._Round.dealt
    monkeypatch.setattr(copy_vectors._Round, "dealt", lambda its, shared: (dealt.append(its.its), real(its, shared))[1])
    monkeypatch.setattr(copy_vectors, "_PIECE_BYTES", 64)
    monkeypatch.setattr(OnRay, "room", 5 * 16 * 8 * 4)
    with small_tasks(30):
        snapshot = do_plan(make_plan(place.config(settings)), executor=OnRay("comparing"))
    assert dealt == [range(5)], "the three that are left read each file three times"
    assert [receipt.copied for receipt in snapshot.read_receipts()] == [True] * 8
    expected_vectors(snapshot, writer.now)


def test_there_is_room_on_ray_for_a_quarter_of_the_object_store() -> None:
    assert OnRay("comparing").room == ray.cluster_resources()["object_store_memory"] // 4 > 2**20


def test_rows_of_one_id_are_settled_on_ray(nights: tuple[Place, Writer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Which count: the same as here. A run does it on Ray if the table has many ids, few as the rows of today are."""
    place, writer = nights
    rule = "table.duplicate_ids=last", "table.order_by=lang"
    lines = {f"{name}.jsonl": [*docs_of(name, 12), Doc(f"{name}-", "")] for name in "abc"}
    writer.write({"0.parquet": docs_of("z", 9), **lines})
    night(place)
    whole = make_plan(place.config(*rule))
    night(place, *rule)
    day = [Doc("a1", "newer", "fr"), Doc("b2", "older", "de"), Doc("n", "one"), Doc("n", "two")]
    writer.write({**writer.now, "d.parquet": day})
    few = make_plan(place.config(*rule))
    assert (few.rows_to_compare, ids_to_read(few)) == (4, 48)
    for plan in (whole, few):
        with small_tasks(4):
            places: list[Executor] = [InProcess(), OnRay("settling")]
            here, there = (decided(settle_ids(plan, run), run) for run in places)
        assert there == here
    assert [positions for positions, *_ in there["losing"].values()] == [[1, 2]]
    assert len(there["contests"]) == 1
    assert (whole.rows_to_compare, ids_to_read(whole)) == (0, 48)
    with contextlib.ExitStack() as stack:
        for plan, most in ((few, 4 + 48 // 8), (whole, 48)):  # under another rule, all ids are compared
            monkeypatch.setattr(runner, "_ROWS_HERE", most)
            mine, _ = runner.compare_rows(plan, placement.HERE, stack, frozenset())
            assert isinstance(mine.executor, InProcess)
            monkeypatch.setattr(runner, "_ROWS_HERE", most - 1)
            found, _ = runner.compare_rows(plan, placement.HERE, stack, frozenset())
            assert isinstance(found.executor, OnRay)
            assert decided(found.settled, found.executor) == decided(mine.settled, mine.executor)


def test_export_on_ray_writes_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "_PART_BYTES", 1)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    table = state_of(open_store(str(tmp_path / "table")), FILES, DEAD)
    options = {"partition_by": "package", "empty_as_null": True}
    table.export(str(tmp_path / "here"), **options)  # type: ignore[arg-type]
    with sfr.on_ray("local") as run:
        assert isinstance(run, OnRay)
        with pytest.raises(ConfigError, match="has empty texts"):
            table.export(str(tmp_path / "no"), partition_by="package", executor=run)
    command = ["export", table.store.root, str(tmp_path / "there"), "--partition-by", "package", "--empty-as-null"]
    done = CliRunner().invoke(main, [*command, "--ray-address", "auto"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert written(tmp_path / "there") == written(tmp_path / "here")


def test_indexes_are_written_and_read_on_ray(nights: tuple[Place, Writer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of packs are written, and those of all shards read to find what to compact."""
    place, writer = nights
    monkeypatch.setattr(packs, "FEWEST", 20)
    for module in (pack_indexes, compaction):
        monkeypatch.setattr(module, "ROWS_A_TASK", 30)
    writer.write({f"{n:02}.jsonl": [*docs_of(f"{n}-", 2), Doc(f"{n}-2", "" if n % 9 == 0 else "a")] for n in range(60)})
    plan, on_ray = make_plan(place.config("run.rows_per_split=40")), OnRay("publishing")
    done = do_splits(plan)
    here, there = (write_pack_indexes(plan, done, 1, *its) for its in (("here", None), ("there", on_ray)))
    keys = sorted({part.key for its in there.parts.values() for part in its})
    assert len(keys) > 1
    assert [plan.store.read(key) for key in keys] == [plan.store.read(key.replace("there", "here")) for key in keys]
    assert there.coverage == here.coverage
    snapshot = do_plan(plan)
    found, elsewhere = find_compaction(snapshot), find_compaction(snapshot, executor=on_ray)
    assert len(found.groups) == 1
    assert elsewhere.describe() == found.describe()
    assert elsewhere.shards == found.shards
    assert elsewhere.groups[0].taken == found.groups[0].taken


def test_compacting_on_ray(tmp_path: Path) -> None:
    owned = [[(id_, 1 + n % 2) for n, id_ in enumerate(its)] for its in ("abcdef", "abg", "hijk")]
    table, draft = write_state(open_store(str(tmp_path / "table")), owned, [[0, 7, 2], [12]], [3], chunks=True)
    publish.publish(table, None, draft)
    before = Table(table.store, table.card).to_arrow()
    table.store.create(names.TABLE_JSON, table.card.to_json())
    done = CliRunner().invoke(main, ["compact", table.store.root, "--write", "--ray-address", "auto"])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("Rewrote 3 data files"), done.output
    after = Table(table.store, table.card).to_arrow()
    assert after.schema.equals(before.schema)
    assert after.sort_by("id").to_pylist() == before.sort_by("id").to_pylist()
    assert len(after) > 0


def test_audit_on_ray_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "ROWS_A_PARTITION", 2)
    monkeypatch.setattr(executor, "ROWS_A_PART", 1)
    monkeypatch.setattr(executor, "BYTES_A_TASK", 1)
    table = make_table(open_store(str(tmp_path / "table")), {"a": ["x", "y", "x"], "b": ["y", "z"], "c": ["w"]})
    for damaged in (False, True):
        if damaged:
            (tmp_path / "table" / names.data_key(split_name("b"))).unlink()
        here = audit(table)
        with sfr.on_ray("auto") as run:
            assert audit(table, executor=run).describe() == here.describe()
        done = CliRunner().invoke(main, ["audit", table.store.root, "--ray-address", "auto"])
        assert done.exit_code == int(damaged), done.output
        assert str(here["pages"]) in done.output


def test_audit_on_ray_reads_the_corpus(nights: tuple[Place, Writer]) -> None:
    place, writer = nights
    writer.write({"a.parquet": docs_of("a", 9), "b.jsonl": [*docs_of("b", 5), Doc("empty", "")]})
    snapshot, _ = night(place)
    table, plan = Table.open(snapshot.store), make_plan(place.config())
    with sfr.on_ray("auto") as run:
        found = audit(table, plan, executor=run)
        assert found.ok, found.describe()
        assert found["corpus rows"].measured.startswith("15 rows of the corpus")
        assert found["texts"].measured.startswith("14 live documents")
        writer.write({"b.jsonl": docs_of("b", 5)[1:]})
        other = audit(table, plan, executor=run)
    assert {check.name for check in other.checks if check.verdict == "FAIL"} == {"shards", "corpus rows"}


def test_reading_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executor, "ROWS_A_PARTITION", 6)
    monkeypatch.setattr(executor, "ROWS_A_PART", 1)
    monkeypatch.setattr(row_changes, "ROWS_A_TASK", 4)
    monkeypatch.setattr(scan, "_PART_BYTES", 1)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    table = state_of(open_store(str(tmp_path / "table")), FILES, DEAD)
    moved = commit_file(table, "moved", [Row(row.id, row.text, package=row.package) for row in FILES["a"]])
    publish_state(table, [moved], {})
    done = [
        CliRunner().invoke(main, ["changes", table.store.root, "1", "2", "--json", "--ray-address", address])
        for address in ("auto", "none")
    ]
    assert [result.exit_code for result in done] == [0, 0], done[0].output
    assert done[0].output == done[1].output
    with sfr.on_ray("auto") as run:
        assert table.to_arrow(executor=run).equals(table.to_arrow())
        assert np.array_equal(table.to_numpy(executor=run).matrix, table.to_numpy().matrix)


def test_search_on_ray_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows, their columns and the bits of their scores; many rows tie."""
    monkeypatch.setattr(search, "ROWS_A_TASK", 1)
    table = state_of(open_store(str(tmp_path / "table")), FILES, DEAD)
    queries = np.random.default_rng(1).normal(size=(5, 3))
    opened = sfr.open_table(table.store.root)
    here = opened.search_many(queries, 50, ["package"]).to_arrow()
    assert here.num_rows == 5 * 50
    with sfr.on_ray("auto") as run:
        assert isinstance(run, OnRay)
        assert not run.has_gpu
        assert opened.search_many(queries, 50, ["package"], executor=run).to_arrow().equals(here)
        with pytest.raises(TableError, match="has no column 'pakage'"):
            opened.search_many(queries, 50, ["pakage"], executor=run)


def test_large_tables_are_worked_on_where_ray_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is connected to a Ray, and RAY_ADDRESS is set."""
    assert choose(None, ROWS_HERE) == "none"
    assert choose(None, ROWS_HERE + 1) == "local"
    assert choose("auto", 1) == "local"
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert choose(None, ROWS_HERE + 1) == "head:6379"
    assert choose("none", ROWS_HERE + 1) == "none"
    monkeypatch.delenv("RAY_ADDRESS")
    assert choose(None, ROWS_HERE + 1) == "local"
    monkeypatch.setattr(placement, "has_ray", lambda: False)
    monkeypatch.setattr(placement, "running_cluster", lambda: None)
    assert choose(None, ROWS_HERE + 1) == "none"
    assert choose("auto", ROWS_HERE + 1) == "none"
    with sfr.on_ray("auto") as run:
        assert run is None


def test_cluster_that_cannot_be_joined() -> None:
    done = CliRunner().invoke(main, ["export", "table", "out", "--ray-address", "http://head:8265"])
    assert done.exit_code == 1, "there is no such table"
    told = "--ray-address is http://head:8265.*work in this process: --ray-address=none"
    with pytest.raises(ConfigError, match=told), sfr.on_ray("http://head:8265"):
        pass


def test_a_machine_that_is_too_busy_to_start_ray_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the words of Ray 2.60, which raises Exception itself. Planted, because it takes Ray half a minute."""

    def busy(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because")

    table = make_table(open_store(str(tmp_path / "table")), {"a": ["x", "y"]})
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", busy)
    done = CliRunner().invoke(main, ["audit", table.store.root, "--ray-address", "local"])
    assert done.exit_code == 1
    assert "too busy" in done.output
    assert "--ray-address none" in done.output
    assert "does not foresee" not in done.output
