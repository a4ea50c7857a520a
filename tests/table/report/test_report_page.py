"""The page, the lines and the JSON of a report: nothing of a corpus is obeyed, nothing unknown is 0, all is bounded."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from sfr_batch.format.run_accounts import KILLED, PUBLISHED, RunAccount
from sfr_batch.table.report import value
from sfr_batch.table.report.charts import area, bars
from sfr_batch.table.report.measures import EDGES
from sfr_batch.table.report.value import Lengths, RejectExample, Rejects, RunReport, Throughput

README = Path(value.__file__).with_name("README.md").read_text(encoding="utf-8")
EVIL = "<script>alert(1)</script>\x1b[2J\x00\u202e\ud800 \"'&amp;"
VOID = {"meta", "br", "path", "rect", "line"}


class Page(HTMLParser):
    """Its tags, attributes and texts. Raises AssertionError where tags do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def whole(evil: str = "", **changes: Any) -> RunReport:
    """A report with all its parts; every text that may be of others is ``evil``."""
    account = RunAccount(
        *("run", PUBLISHED, 3),
        error=evil,
        message=evil,
        user=evil,
        host=evil,
        device=evil,
        devices=2,
        command=evil,
        started_at="2026-11-29T10:00:00+00:00",
        seconds=30.0,
        versions={"sfr-batch": evil or "0.1.0"},
        splits=4,
        rows=40,
        tokens=400,
        actor_seconds_reserved=36.0,
        cost=0.01,
    )
    values: dict[str, Any] = {
        "report_version": 1,
        "run_id": "run",
        "table": evil or "s3://bucket/table",
        "snapshot": 3,
        "splits": 4,
        "embedded": 40,
        "earlier": 8,
        "rejected": 2,
        "tokens": 400,
        "tokens_full": 500,
        "truncated": 3,
        "encoded_tokens": 380,
        "padded_tokens": 400,
        "seconds": 30.0,
        "planning_seconds": 2.0,
        "start_up_seconds": 5.0,
        "embed_seconds": 20.0,
        "ending_seconds": 3.0,
        "read_seconds": 1.5,
        "tokenize_seconds": 2.5,
        "encode_seconds": 36.0,
        "write_seconds": 1.0,
        "actors": 2,
        "canaries": 5,
        "drift": 1e-7,
        "lost_nodes": 0,
        "lost_actors": 1,
        "repeated_requests": {evil or "throttled": 3},
        "throughput": Throughput(every_seconds=5, tokens=(0, 100, 300), rows=(0, 10, 30)),
        "lengths": Lengths(edges=EDGES, documents=(0, 0, 38, 0, 2), rows=(0, 0, 40)),
        "rejects": Rejects(
            by_reason={evil or "null_text": 2},
            examples=(RejectExample(reason=evil or "null_text", id=evil, shard=evil, position=7, message=evil),),
        ),
        "counts": {"read": 50, "embedded": 48, "reused": 0, "rejected": 2, "vectors": 48, "truncated": 3},
        "cost": {"actor_hours": 0.01, "planned": {"tokens": {"value": 390, "low": 380, "high": 410}, "times": []}},
        "model": evil or "models/m",
        "dim": 384,
        "vector_dtype": "float32",
        "fingerprint": evil or "ab" * 32,
        "fingerprint_inputs": {evil or "pooling": evil or "mean", "max_length": 512},
        "attempts": (account.as_json(),),
    }
    return RunReport(**(values | changes))


@pytest.mark.parametrize("evil", [EVIL, "x" * 2_000_000, "<b>" * 500_000], ids=["markup", "long", "long markup"])
def test_texts_of_others_are_shown_and_never_obeyed(evil: str) -> None:
    usual = Page(whole().to_html())
    report = whole(evil)
    shown = [report.to_html(), report._repr_html_(), report.describe()]
    for text in shown:
        assert len(text.encode()) < 150_000
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", text)
    page = Page(shown[0])
    assert (page.tags, page.attributes) == (usual.tags, usual.attributes)
    assert "script" not in page.tags
    assert not any(name.startswith("on") or name in ("src", "href") for name in page.attributes)
    Page(shown[1])
    if evil == EVIL:
        assert "<script>alert(1)</script>\\x1b[2J\\x00" in "".join(page.texts)


def test_a_page_needs_nothing_from_elsewhere() -> None:
    text = whole().to_html()
    assert "default-src &#x27;none&#x27;" in text
    assert not re.search(r"https?://|url\(|@import|<link|<img|<iframe|javascript:", text)
    assert "prefers-color-scheme:dark" in text
    assert "width=device-width" in text
    for number in ("40", "400", "0:30", "5.0%", "null_text", "0.0100"):
        assert number in text


@pytest.mark.parametrize(
    ("report", "says"),
    [
        (RunReport(run_id="run"), "wrote no report, or one of an older release"),
        (
            RunReport(run_id="run", outcome=KILLED, attempts=(RunAccount("run", KILLED, at_least=True).as_json(),)),
            "The process was killed",
        ),
    ],
    ids=["older", "killed"],
)
def test_what_was_not_measured_is_never_0(report: RunReport, says: str) -> None:
    page = "".join(Page(report.to_html()).texts)
    lines = report.describe()
    assert says in " ".join(lines.split())
    assert says in page
    assert page.count("ot measured") > 12
    for label in ("Speed", "Cut", "Rejects", "Drift", "Lost", "Repeated"):
        assert re.search(rf"(?m)^{label} +not measured$", lines), label
    for tile in ("tokens", "padding"):
        assert f'<dt>{tile}</dt><dd class="none">not measured</dd>' in report.to_html()
    assert "<svg" not in report.to_html()
    assert "not measured" in report._repr_html_()
    of_receipts = "<section><h2>Attempts.*?</section>"  # whose sums are of what is on storage, and that is nothing
    assert not re.search(r">0(\.0+)?( s|%)?<", re.sub(of_receipts, "", report.to_html()))


def test_lines_fit_a_terminal() -> None:
    lines = whole().describe().splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0] == "Run run: published snapshot 3."
    text = " ".join(" ".join(lines).split())
    assert "50 read = 48 embedded + 0 reused + 2 rejected" in text
    assert "40 by this run + 8 by earlier attempts that did not publish" in text
    assert "20 tokens/s, 5.0% padding" in text
    assert "The model: actors computed 100% of the time" in text
    assert "3 rows truncated, 20.0% of all tokens not embedded" in text
    assert "1 encode actor; their splits were done again elsewhere" in text
    assert "Cost 0.0100 for 0.0100 actor-hours; planned unknown, because no rate had been measured" in text


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, "model"),
        ({"encode_seconds": 10.0}, "input"),
        ({"encode_seconds": 10.0, "write_seconds": 9.0}, "output"),
        ({"encode_seconds": 10.0, "write_seconds": None}, "waiting"),
        ({"start_up_seconds": 60.0}, "start-up"),
        ({"planning_seconds": 60.0}, "planning"),
        ({"ending_seconds": 60.0}, "ending"),
        (dict.fromkeys(("planning_seconds", "start_up_seconds", "embed_seconds", "ending_seconds")), None),
    ],
)
def test_the_bottleneck(changes: dict[str, Any], found: str | None) -> None:
    report = whole(**changes)
    assert report.bottleneck == report.as_json()["bottleneck"] == found
    sentence = report.describe().partition("Waited")[2]
    words = {
        "model": "The model:",
        "input": "Probably the input:",
        "output": "Probably the output:",
        None: "not measured",
    }
    assert words.get(found, {"waiting": "Not the model"}.get(str(found), "took most of the time")) in sentence


def test_json_is_read_again_and_open_for_what_comes() -> None:
    report = whole(drift=float("nan"))
    text = report.to_json()
    again = RunReport.from_json(text)
    assert again == report.model_copy(update={"drift": None})
    later = json.dumps(json.loads(text) | {"of a later release": 1})
    assert RunReport.from_json(later) == again
    for damaged in ("", "[", "[]", "null", '{"run_id": 1}', '{"run_id": "a", "splits": "many"}'):
        assert RunReport.from_json(damaged) is None
    assert (
        len(whole(throughput=Throughput(every_seconds=9, tokens=(10**9,) * 240, rows=(10**6,) * 240)).to_json())
        < 20_000
    )


def models(kind: type[BaseModel]) -> set[str]:
    return {*kind.model_fields, *kind.model_computed_fields}


def test_the_schema_is_documented() -> None:
    fields = set().union(*map(models, (RunReport, Throughput, Lengths, Rejects, RejectExample)))
    named = {name for line in README.splitlines() if line.startswith("|") for name in re.findall(r"`(\w+)`", line)}
    assert fields - named == set()


def test_charts_have_their_numbers_as_text() -> None:
    chart = area([0, 5, 10], 20, "tokens/s", "a label")
    assert "0:20 to 0:40: 5 tokens/s" in chart
    assert 'aria-label="a label"' in chart
    assert ">0:30<" in chart
    chart = bars((1, 2, 3, 4, 6), (0, 7, 0, 1, 0), "documents", "a label", limit=3)
    assert [f">{text}<" in chart for text in ("2 tokens: 7 documents", "4 to 5 tokens: 1 documents")] == [True, True]
    assert 'class="limit"' in chart
    assert bars((1, 2), (0, 0), "documents", "none") == ""
    assert "and more tokens" in bars((1, 2), (0, 1), "documents", "last")
