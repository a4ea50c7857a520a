"""Tables that the first release wrote are read, audited, continued, compacted and expired as that release did.

What it read in them and made of them was frozen beside them by `tests/fixtures/make_table_format_1.py`. Vectors that
are there already must stay what they are bit by bit; those that are computed anew may differ by rounding, for other
processors round otherwise. A copy of a table lies where its test runs; its corpus is at /proc/self/cwd, which is that
place, so that the absolute names of its shards hold anywhere.
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

import sfr_batch as sfr
from sfr_batch.corpus import reading_version
from tests.saved_table import (
    Values,
    by_column,
    by_key,
    by_row,
    copy_with_times,
    data_files,
    differences,
    hashes_of,
    in_order,
    key_of,
    outcome_of,
    rows_of,
    state_of,
    stored_vectors,
)

FIXTURE = Path(__file__).parent / "fixtures" / "table_format_1"
CONFIG = "config.yaml"
ROUNDING = {"float32": 1e-5, "float16": 1e-3}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the corpus is at /proc/self/cwd")


@dataclass(frozen=True)
class Saved:
    """A copy of a table in the current folder, with its config, its model and its corpus."""

    case: Path
    frozen: Values

    def corpus(self, name: str) -> None:
        """Make the corpus that of ``name``: "corpus", which the table covers, or "today"."""
        copy_with_times(self.case / name, Path("corpus"), self.frozen["times"][name])

    @property
    def dtype(self) -> str:
        return "float16" if self.case.name == "chunks" else "float32"


@pytest.fixture(params=["nights", "chunks"])
def saved(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Saved:
    case = FIXTURE / request.param
    found = Saved(case, json.loads((case / "frozen.json").read_text(encoding="utf-8")))
    monkeypatch.chdir(tmp_path)
    # What later releases read otherwise makes shards be read again, see `planning/test_reading_versions`.
    monkeypatch.setattr(reading_version, "CHANGES", ())
    shutil.copytree(FIXTURE / "model", "model")
    shutil.copy(case / CONFIG, CONFIG)
    copy_with_times(case / "table", Path("table"), found.frozen["times"]["table"])
    found.corpus("corpus")
    return found


def plain(values: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(values))


def vector(row: Values, dtype: str) -> NDArray[np.floating]:
    return np.frombuffer(bytes.fromhex(row["embedding"]), dtype)


def check_rows(frozen: list[Values], found: list[Values], dtype: str) -> None:
    """The same rows; their vectors are equal but for rounding."""
    expected, rows = by_key(frozen), by_key(found)
    assert rows.keys() == expected.keys()
    for key, row in rows.items():
        assert not differences({**expected[key], "embedding": ""}, {**row, "embedding": ""}, str(key))
        assert np.abs(vector(row, dtype) - vector(expected[key], dtype)).max() <= ROUNDING[dtype], key


def check_outcome(frozen: Values, snapshot: Any, dtype: str) -> None:
    """A snapshot is what the first release made of the same."""
    found = plain(outcome_of(snapshot))
    check_rows(by_row(frozen["rows"]), by_row(found["rows"]), dtype)
    assert not differences({**frozen, "rows": 0}, {**found, "rows": 0})


def check_against_nothing(snapshot: Any, dtype: str) -> None:
    """A snapshot is what embedding the corpus into a new table gives: rows, vectors and rejects.

    But for the row hashes, which new tables have in another version.
    """
    sfr.embed(CONFIG, ["table.path=./fresh"])
    fresh = sfr.open_table("fresh").current()
    new, old = (rows_of(table.to_arrow().drop_columns("row_hash")) for table in (fresh, snapshot))
    check_rows(new, old, dtype)
    assert without_places(snapshot.rejects().to_pylist()) == without_places(fresh.rejects().to_pylist())


def without_places(rejects: list[Values]) -> list[Values]:
    """Rejects, but for where the vectors of duplicates are."""
    return in_order(row | {"position": 0, "message": ""} if row["reason"] == "duplicate_id" else row for row in rejects)


def test_git_has_changed_no_byte(saved: Saved) -> None:
    for name, hashes in saved.frozen["sha256"].items():
        assert hashes_of(saved.case / name) == hashes


def test_every_snapshot_is_read_as_it_was(saved: Saved) -> None:
    table = sfr.open_table("table")
    frozen = saved.frozen
    assert table.snapshot_numbers() == [int(number) for number in frozen["snapshots"]]
    for number, state in frozen["snapshots"].items():
        assert not differences(state, plain(state_of(table.snapshot(int(number)))), number)
        assert differences(state, plain(state_of(table.snapshot(int(number)))) | {"rows": {}}), "nothing is compared"
    assert table.published_numbers() == sorted([*frozen["expired"], *map(int, frozen["snapshots"])])
    for number in frozen["expired"]:
        with pytest.raises(sfr.SfrBatchError, match=f"Snapshot {number} of .* was removed by"):
            table.snapshot(number)


def test_changes_between_snapshots_are_what_they_were(saved: Saved) -> None:
    table, frozen = sfr.open_table("table"), saved.frozen["changes"]
    found = table.changes(frozen["from"], table.current().number)
    assert {name: getattr(found, name) for name in frozen["counts"]} == frozen["counts"]
    upserts = (row for batch in found.upserts() for row in rows_of(pa.Table.from_batches([batch])))
    assert in_order(upserts) == frozen["upserts"]
    assert in_order(row for batch in found.deletes() for row in batch.to_pylist()) == frozen["deletes"]


def test_it_passes_the_audit_against_its_corpus(saved: Saved) -> None:
    table, plan = sfr.open_table("table"), sfr.plan(CONFIG, ["table.delete=keep"])
    assert plan.card.fingerprint == saved.frozen["fingerprint"]
    assert not differences(saved.frozen["fingerprint_inputs"], plain(plan.card.fingerprint_inputs))
    assert plan.up_to_date, plan.describe()
    audit = table.audit(plan)
    verdicts = {check.name: check.verdict for check in audit.checks}
    assert not differences(saved.frozen["audit"], verdicts), "\n".join(map(str, audit.checks))
    assert audit.ok, "\n".join(map(str, audit.checks))
    assert audit.orphans == saved.frozen["orphans"]
    for number in saved.frozen["snapshots"]:
        assert table.audit(snapshot=int(number)).ok


def test_the_next_night_continues_it(saved: Saved) -> None:
    frozen = saved.frozen["continued"]
    saved.corpus("today")
    before = hashes_of(Path("table"))
    plan = sfr.plan(CONFIG, compare=True)
    splits = {
        "done": sorted(plan.done),
        "todo": sorted(split.split_id for split in plan.todo_splits),
        "copies": sorted(plan.difference.copies) if plan.difference else [],
        "unpublished": plan.unpublished,
    }
    assert splits == frozen["plan"]

    summary = sfr.embed(CONFIG)
    table = sfr.open_table("table")
    snapshot = table.current()
    assert (summary.splits, summary.embedded) == (frozen["splits"], frozen["embedded"])
    assert data_files(Path("table")) == frozen["data_files"]
    check_outcome(frozen["outcome"], snapshot, saved.dtype)
    old, copies = saved.frozen["data_files"], frozen["plan"]["copies"]
    computed = stored_vectors(Path("table"), set(data_files(Path("table"))) - {*old, *copies})
    assert len({id_ for id_, *_ in computed}) == summary.embedded
    known = stored_vectors(Path("table"), old)
    for row in rows_of(snapshot.to_arrow()):
        name = (*key_of(row), row["content_hash"])
        assert name in computed or row["embedding"] in known[name], "a vector that was there is not what it was"
    # What interrupted runs have paid for is used: by name where their split is one of the night's, else row by row.
    used = {receipt.split_id for receipt in snapshot.read_receipts()}
    if saved.case.name == "nights":
        assert used & set(plan.done)
        assert used & set(plan.unpublished)
    after = hashes_of(Path("table"))
    # Who holds the lease passes on; nothing else is touched.
    assert not [name for name in before if "/leases/" not in name and after.get(name) != before[name]]
    audit = table.audit(sfr.plan(CONFIG))
    assert audit.ok, "\n".join(map(str, audit.checks))
    check_against_nothing(snapshot, saved.dtype)
    assert sfr.plan(CONFIG).up_to_date


def test_it_is_compacted_expired_and_then_continued(saved: Saved) -> None:
    frozen = saved.frozen["compacted"]
    table = sfr.open_table("table")
    before = rows_of(table.to_arrow())
    compaction = table.compact(rows_per_file=100, dry_run=False)
    assert sorted(group.split_id for group in compaction.groups) == frozen["splits"]
    assert (compaction.files, compaction.dropped) == (frozen["files"], frozen["dropped"])
    assert data_files(Path("table")) == frozen["data_files"]
    expiry = table.expire(keep_last=1, dry_run=False)
    assert list(expiry.snapshots) == frozen["expired"]
    assert data_files(Path("table")) == frozen["left"]
    assert by_key(rows_of(table.to_arrow())) == by_key(before)
    check_outcome(frozen["outcome"], table.current(), saved.dtype)
    audit = table.audit(sfr.plan(CONFIG))
    assert audit.ok, "\n".join(map(str, audit.checks))

    saved.corpus("today")
    summary = sfr.embed(CONFIG)
    assert summary.embedded == saved.frozen["continued"]["embedded"]
    snapshot = sfr.open_table("table").current()
    continued = saved.frozen["continued"]["outcome"]
    check_rows(by_row(continued["rows"]), rows_of(snapshot.to_arrow()), saved.dtype)
    assert without_places(snapshot.rejects().to_pylist()) == without_places(by_row(continued["rejects"]))
    assert sfr.open_table("table").audit(sfr.plan(CONFIG)).ok


def test_by_column_and_by_row_are_inverse() -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert by_row(by_column(rows)) == rows
