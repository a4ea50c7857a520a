"""What a run says about itself: each line, in reading order, and nothing that does not apply."""

import dataclasses
from pathlib import Path

import pytest

from sfr_batch.format.records import ChangeCounts
from sfr_batch.pipeline.results import Losses
from sfr_batch.pipeline.summary import Summary
from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Snapshot
from tests.tables import make_table


@pytest.fixture
def snapshot(tmp_path: Path) -> Snapshot:
    latest = make_table(open_store(str(tmp_path)), {"a": ["one", "two"]}).current()
    counts = latest.manifest.counts.model_copy(
        update={"read": 9, "embedded": 2, "reused": 5, "rejected": 2, "kept": 1, "vectors": 11, "truncated": 1}
        | {"tokens": 60, "tokens_full": 80}
    )
    changes = ChangeCounts(new=1, changed=1, unchanged=5)
    return Snapshot(
        latest.store, latest.manifest.model_copy(update={"counts": counts, "changes": changes}), latest.layout
    )


def summary_of(snapshot: Snapshot | None) -> Summary:
    return Summary(
        table="t",
        snapshot=snapshot,
        splits=1,
        embedded=2,
        tokens=2000,
        seconds=65.0,
        tokens_per_second=1234.5,
        padding=0.125,
        published=True,
        plain=True,
        canaries=1,
        drift=2e-7,
        repeated={"throttled": 1, "timeout": 2},
        losses=Losses(nodes=1, actors=2),
        earlier=3,
    )


def test_every_line_in_reading_order(snapshot: Snapshot) -> None:
    assert summary_of(snapshot).describe() == (
        "Embedded 2 rows, 2,000 tokens in 1:05 (1,234 tokens/s, 12.5% padding).\n"
        "Repeated  3 requests to S3 (throttled 1, timeout 2)\n"
        "Lost      1 node and 2 encode actors; their splits were done again elsewhere\n"
        "Table     t, snapshot 1\n"
        "Rows      9 read = 2 embedded + 5 reused + 2 rejected; 11 chunks; 1 kept that are no longer in the corpus\n"
        "Resumed   5 rows embedded = 2 by this run + 3 by earlier runs that did not publish\n"
        "Cut       1 document truncated, 25.0% of all tokens not embedded (model.overflow)\n"
        "Drift     1 - cosine at most 2.0e-07 between a text in a batch and by itself, 1 canary\n"
        "Changes   1 new, 1 changed, 0 gone or rejected, 5 unchanged\n"
        'Search    sfr-batch search t "your question"\n'
        "Read      sfr_batch.open_table('t').to_arrow()\n"
        "          duckdb: SELECT id, embedding FROM 't/data/*.parquet'\n"
        "Rejects   sfr_batch.open_table('t').current().rejects()\n"
        "Report    sfr-batch report t"
    )


def test_what_does_not_apply_is_not_said(snapshot: Snapshot) -> None:
    plain = snapshot.manifest.counts.model_copy(update={"rejected": 0, "kept": 0, "vectors": 7, "truncated": 0})
    state = Snapshot(snapshot.store, snapshot.manifest.model_copy(update={"counts": plain}), snapshot.layout)
    quiet = dataclasses.replace(
        summary_of(state),
        splits=0,
        embedded=0,
        earlier=0,
        published=False,
        plain=False,
        canaries=0,
        repeated={},
        losses=Losses(),
    )
    assert quiet.describe() == (
        "Up to date, nothing to do (1:05).\n"
        "Table     t, snapshot 1\n"
        "Rows      9 read = 2 embedded + 5 reused + 0 rejected\n"
        'Search    sfr-batch search t "your question"\n'
        "Read      sfr_batch.open_table('t').to_arrow()"
    )
    published = dataclasses.replace(quiet, published=True).describe().splitlines()
    assert published[0] == "Nothing had to be embedded (1:05)."
    assert published[3:5] == [
        "Resumed   2 rows embedded = 0 by this run + 2 by earlier runs",
        "Changes   1 new, 1 changed, 0 deleted, 5 unchanged",
    ]


def test_all_rows_that_are_new_in_the_snapshot_add_up(snapshot: Snapshot) -> None:
    """Those too that came from data files of other plans, such as an interrupted run's over an older corpus."""
    counts = snapshot.manifest.counts.model_copy(update={"embedded": 9})
    state = Snapshot(snapshot.store, snapshot.manifest.model_copy(update={"counts": counts}), snapshot.layout)
    assert "\nResumed   9 rows embedded = 2 by this run + 7 by earlier runs\n" in summary_of(state).describe()
    alone = dataclasses.replace(summary_of(state), embedded=0, splits=0, earlier=0)
    assert "\nResumed   9 rows embedded = 0 by this run + 9 by earlier runs\n" in alone.describe()


def test_a_trial_and_an_empty_selection(snapshot: Snapshot) -> None:
    assert dataclasses.replace(summary_of(None), published=False, trial=True).describe() == (
        "Trial: embedded 2 rows, 2,000 tokens in 1:05 (1,234 tokens/s, 12.5% padding). Nothing was published. The "
        "embedded splits stay committed; a run without select.limit reuses them."
    )
    nothing = dataclasses.replace(summary_of(None), published=False)
    assert nothing.describe() == "Nothing to do: select matches no row of the corpus. t has no snapshot yet."


def test_one_line(snapshot: Snapshot) -> None:
    head = "<Summary t: 2 rows embedded in 1:05, lost 1 node and 2 encode actors, snapshot 1 of "
    assert repr(summary_of(snapshot)).startswith(head)
    assert repr(dataclasses.replace(summary_of(None), splits=0, losses=Losses())) == (
        "<Summary t: nothing to embed, no snapshot yet>"
    )
