"""Results and errors in a notebook: one line, a table of HTML in which nothing of a corpus is markup, a DataFrame."""

import linecache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

import sfr_batch as sfr
from sfr_batch.checks.audit.report import AuditReport, Finding
from sfr_batch.checks.report import CheckResult
from sfr_batch.checks.verify.report import VerifyReport
from sfr_batch.config.loading import config_from_dict
from sfr_batch.errors import ConfigError, TableError
from sfr_batch.format.notebook import html_table
from sfr_batch.pipeline.summary import Summary
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.stores import open_store
from sfr_batch.table.changes import changes
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.search import Hit
from tests.tables import commit_rows, do_plan, draft_of, make_table, parquet, put, table_of

EVIL = "<script>alert('a')</script> & \"b\""


def cells(html: str) -> list[list[str]]:
    """The texts of a table, row by row, its title first. It has to be well-formed and to have no other markup."""
    table = ElementTree.fromstring(html)
    assert {element.tag for element in table.iter()} <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    title = [[element.text or ""] for element in table.iter("caption")]
    return title + [[cell.text or "" for cell in row] for row in table.iter("tr")]


def test_a_table_is_escaped_and_aligned() -> None:
    html = html_table([[EVIL, 1], ["FAIL", "x\ny"]], head=[EVIL, "n"], title=EVIL, numbers=[1])
    assert cells(html) == [[EVIL], [EVIL, "n"], [EVIL, "1"], ["FAIL", "x\ny"]]
    assert "<script" not in html
    assert html.count("text-align:right") == 3
    assert html.count("color:") == 1
    assert html_table([]) == "<table><tbody></tbody></table>"


def test_hits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_table(open_store(str(tmp_path)), {"a": [EVIL, "two"]})
    encoder = SimpleNamespace(encode=lambda texts, prompt: np.ones((1, 3), np.float32))
    monkeypatch.setattr(sfr.EmbeddingTable, "encoder", encoder)
    hits = sfr.open_table(str(tmp_path)).search("q", k=2, columns=["n_tokens"])
    assert isinstance(hits, list)
    assert repr(hits) == "\n".join(f"{hit.score:.4f}  {hit.id}" for hit in hits)
    head, *rows = cells(hits._repr_html_())
    assert head == ["score", "id", "n_tokens"]
    assert rows == [[f"{hit.score:.4f}", hit.id, str(hit.row["n_tokens"])] for hit in hits]
    assert EVIL in {row[1] for row in rows}
    assert repr(sfr.Hits()) == "no hits"
    assert cells(sfr.Hits()._repr_html_()) == [["score", "id"]]
    frame = hits.to_pandas()
    assert frame.to_dict("list") == {
        "score": [hit.score for hit in hits],
        "id": [hit.id for hit in hits],
        "n_tokens": [5, 5],
    }
    assert hits.to_arrow().schema.field("n_tokens").type == pa.int32()
    nothing = sfr.Hits([], hits.schema).to_arrow()
    assert (nothing.num_rows, nothing.schema) == (0, hits.to_arrow().schema)


def test_a_column_named_score_is_no_score(tmp_path: Path) -> None:
    hits = sfr.Hits(
        [Hit("a", 0.5, {"score": 7}, pa.record_batch({"score": [7], "id": ["a"]}))],
        pa.schema([("id", pa.string()), ("score", pa.int64())]),
    )
    assert hits.to_pandas().to_dict("records") == [{"cosine": 0.5, "id": "a", "score": 7}] == [hits[0].as_json()]


def test_samples_and_tables(tmp_path: Path) -> None:
    made = table_of(open_store(str(tmp_path)), {"note": pa.array([EVIL] * 25)})
    sample = made.sample(22, ["id", "embedding", "note", "row_hash"])
    title, head, *rows = cells(sample._repr_html_())
    assert title == ["22 rows of 25; the first 20"]
    assert head == ["id", "embedding", "note"], "nobody reads hashes"
    assert rows[0] == [sample.rows.column("id")[0].as_py(), "3 x float", EVIL]
    assert len(rows) == 20
    assert repr(sample) == f"<Sample of {tmp_path}, snapshot 1: 22 rows of 25; id, embedding, note, row_hash>"
    for shown in (made, made.current()):
        title, *columns = cells(shown._repr_html_())
        assert title[0] == repr(shown).strip("<>")
        assert columns[:2] == [["id", "string"], ["embedding", "3 x float"]]
        assert columns[-1] == ["note", "string"]


def test_snapshots(tmp_path: Path) -> None:
    table = make_table(open_store(str(tmp_path)), {"a": ["one"]})
    text, html = repr(table.snapshots()).splitlines(), cells(table.snapshots()._repr_html_())
    assert [line.split() for line in text] == html
    (row,) = table.snapshots().to_arrow().to_pylist()
    assert (row["number"], row["vectors"], row["operation"]) == (1, 1, "embed")
    assert row["when"].isoformat() == table.current().manifest.created_at
    assert sfr.open_table(tmp_path).changes(1, 1).to_arrow().num_rows == 0


def test_changes(tmp_path: Path) -> None:
    """Deletes have their key alone, beside whole rows."""
    store = open_store(str(tmp_path))
    first = make_table(store, {"a": ["one", "two"]})
    b = commit_rows(store, first.card, "b", ["three"])
    publish(first, first.latest(), draft_of([b], first.latest()))
    table = sfr.open_table(tmp_path)
    found = table.changes(1, 2)
    rows = found.to_arrow()
    assert rows.schema.names == ["op", *table.schema.names]
    assert rows.select(["op", "id", "n_tokens"]).to_pylist() == [
        {"op": "delete", "id": "one", "n_tokens": None},
        {"op": "delete", "id": "two", "n_tokens": None},
        {"op": "upsert", "id": "three", "n_tokens": 5},
    ]
    assert rows.slice(2).column("embedding").to_pylist() == table.to_arrow().column("embedding").to_pylist()
    assert found.to_arrow(["n_tokens"]).schema.names == ["op", "id", "n_tokens"]
    assert table.changes(0, 1).to_pandas(["n_tokens"])["op"].tolist() == ["upsert", "upsert"]
    renamed = table_of(open_store(f"{tmp_path}/op"), {"op": pa.array(["x"])})
    with pytest.raises(ConfigError, match=r"has a column op, which would stand beside the op of the rows"):
        changes(renamed, 0, 1).to_arrow()
    assert changes(renamed, 0, 1).to_arrow(["n_tokens"]).num_rows == 1


def test_reports() -> None:
    verify = VerifyReport("m", (CheckResult("weights", "PASS", EVIL), CheckResult("drift", "SKIP", "no GPU")))
    assert cells(verify._repr_html_()) == [
        ["1 passed, 0 failed, 1 skipped (drift)"],
        ["PASS", "weights", EVIL],
        ["SKIP", "drift", "no GPU"],
    ]
    assert verify.to_arrow().to_pylist()[1] == {"verdict": "SKIP", "name": "drift", "measured": "no GPU", "details": ""}
    assert VerifyReport("m", ()).to_arrow().num_rows == 0
    finding = Finding("ids", "FAIL", "3 rows: 2 problems", 2, (EVIL,), "Do this.")
    audit = AuditReport("t", 1, (finding,), rows=3, bytes=9, seconds=1.0, plain=False, orphans=0, orphan_bytes=0)
    title, row = cells(audit._repr_html_())
    assert title == ["0 passed, 1 failed (ids), 0 skipped"]
    assert row == ["FAIL", "ids", f"3 rows: 2 problems\n{EVIL}\nand 1 more\nDo this."]
    assert str(finding).splitlines()[1:] == [f"        {line}" for line in (EVIL, "and 1 more", "Do this.")]
    assert repr(audit) == "<AuditReport t, snapshot 1: 0 passed, 1 failed (ids), 0 skipped>"


def test_plan_and_summary(tmp_path: Path, mistral: str) -> None:
    folder = "<b>&"
    put(f"{tmp_path}/{folder}", "a.parquet", parquet(pa.table({"id": ["a"], "text": ["x"]})))
    config = config_from_dict(
        {
            "corpus": {"path": f"{tmp_path}/{folder}"},
            "model": {"path": mistral, "device": "cpu"},
            "table": {"path": f"{tmp_path}/{folder}-table"},
            "run": {"actors": {"gpus": 0}},
        }
    )
    plan = make_plan(config)
    assert cells(plan._repr_html_()) == as_cells(plan.describe(), title=f"Plan for {plan.store.root}")
    do_plan(plan)
    finished = make_plan(config)
    done = f"Plan for {plan.store.root}; up to date: nothing to do"
    assert cells(finished._repr_html_()) == as_cells(finished.describe().rpartition("\n")[0], title=done)
    summary = Summary.of(finished, 1.0)
    headline, rest = summary.describe().split("\n", 1)
    assert cells(summary._repr_html_()) == as_cells(rest, title=headline)
    assert f"{folder}-table" in rest


def as_cells(described: str, title: str) -> list[list[str]]:
    return [[title], *([line[:10].strip(), line[10:]] for line in described.splitlines())]


def test_one_line_each(tmp_path: Path) -> None:
    made = make_table(open_store(f"{tmp_path}/t"), {"a": ["one"], "b": ["two"]})
    orphan = commit_rows(made.store, made.card, "orphan", ["o"])
    table = sfr.open_table(f"{tmp_path}/t")
    one_line: list[tuple[Any, str]] = [
        (table.changes(0, 1), f"<Changes {tmp_path}/t, snapshot 0 to 1: 2 upserts (2 new, 0 changed), 0 deletes"),
        (table.maintenance.sweep(older_than="0m"), f"<Orphans: 1 object, {orphan.size:,} bytes>"),
        (table.maintenance.compact(), f"<Compaction {tmp_path}/t: Would rewrite 2 data files"),
        (table.maintenance.expire(keep_last=1), "<Expiry of snapshots none: 0 objects, 0 bytes; kept: 1>"),
        (
            sfr.promote(f"{tmp_path}/p", f"{tmp_path}/t"),
            f"<PointerTarget {tmp_path}/p points to {tmp_path}/t, since 20",
        ),
    ]
    for value, start in one_line:
        assert repr(value).startswith(start)
        assert "\n" not in repr(value)


def test_errors_are_the_message_and_the_line_of_the_cell(tmp_path: Path) -> None:
    """IPython shows what `_render_traceback_` returns. A bug has no such method, and keeps its traceback."""
    cell = f"x = 1\nsfr.open_table({str(tmp_path)!r})"
    linecache.cache["<cell>"] = (len(cell), None, cell.splitlines(), "<cell>")
    with pytest.raises(sfr.SfrBatchError) as caught:
        exec(compile(cell, "<cell>", "exec"), {"sfr": sfr})
    # What stands outside of the cell is the test's own, as in IPython its loop.
    assert caught.value._render_traceback_() == [f"TableNotFound: {caught.value}", f"In line 2: {cell.splitlines()[1]}"]
    helper = tmp_path / "helper.py"
    helper.write_text("def opened(sfr, path):\n    return sfr.open_table(path)\n")
    found: dict[str, Any] = {}
    exec(compile(helper.read_text(), str(helper), "exec"), found)
    with pytest.raises(sfr.SfrBatchError) as caught:
        found["opened"](sfr, tmp_path)
    assert caught.value._render_traceback_()[1:] == [f"In {helper}, line 2: return sfr.open_table(path)"]

    assert TableError("\x1b[31mred\nnext")._render_traceback_() == ["TableError: \\x1b[31mred\nnext"]
    assert len(TableError("x" * 10**6)._render_traceback_()[0]) < 2100
    assert not hasattr(Exception, "_render_traceback_")
