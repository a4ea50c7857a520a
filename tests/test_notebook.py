"""How results show in a notebook: one line, or a table of HTML in which nothing of a corpus is markup."""

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
from sfr_batch.format.notebook import html_table
from sfr_batch.pipeline.summary import Summary
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.stores import open_store
from tests.tables import commit_rows, do_plan, make_table, parquet, put

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


def test_snapshots(tmp_path: Path) -> None:
    table = make_table(open_store(str(tmp_path)), {"a": ["one"]})
    text, html = repr(table.snapshots()).splitlines(), cells(table.snapshots()._repr_html_())
    assert [line.split() for line in text] == html


def test_reports() -> None:
    verify = VerifyReport("m", (CheckResult("weights", "PASS", EVIL), CheckResult("drift", "SKIP", "no GPU")))
    assert cells(verify._repr_html_()) == [
        ["1 passed, 0 failed, 1 skipped (drift)"],
        ["PASS", "weights", EVIL],
        ["SKIP", "drift", "no GPU"],
    ]
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
