"""Tables that have lost files: each command says so, changes nothing, and its advice works."""

import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from click.testing import CliRunner

from sfr_batch.cli.main import main
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit import lease
from tests.bad_input.bench import GOOD, Bench, both, embedded, flipped_at, shape
from tests.tables import jsonl


@dataclass(frozen=True)
class Damaged:
    name: str
    message: str
    """On stderr, after "error: "."""
    command: str
    prepare: Callable[[Bench], None]
    advice: str
    """What the message advises, followed literally: the command line that then succeeds."""
    code: int = 1
    then: str = "audit {root}/table"
    """Succeeds after the advice, too."""
    before: Callable[[Bench], None] | None = None
    """What the advice is to do before its command."""


def lose(pattern: str, content: bytes | None = None) -> Callable[[Bench], None]:
    """Remove the first file of the table that matches, or put this in its place."""

    def prepare(bench: Bench) -> None:
        file = sorted(bench.table.glob(pattern))[0]
        file.unlink()
        if content is not None:
            file.write_bytes(content)

    return prepare


def flip(bench: Bench) -> None:
    (file,) = bench.table.glob("data/*.parquet")
    file.write_bytes(flipped_at(file.read_bytes(), 60))


def without_sfr(bench: Bench) -> None:
    shutil.rmtree(bench.table / "_sfr")


def other_corpus(bench: Bench) -> None:
    (bench.root / "corpus/good.jsonl").unlink()
    bench.put("corpus/new.jsonl", jsonl([{"id": "three", "text": "Three."}]))


def trial(bench: Bench) -> None:
    assert bench.run("embed {root}/job.yaml", ("select.limit=1",)).exit_code == 0


def twice(bench: Bench) -> None:
    embedded(bench)
    bench.put("corpus/more.jsonl", jsonl([{"id": "three", "text": "Three."}]))
    embedded(bench)


REJECTS = ("run.max_reject_share=1",)


def changed(bench: Bench) -> None:
    """A table with an index, and with a reject in a file."""
    bench.put("corpus/more.jsonl", jsonl([{"id": "three", "text": "Three."}, {"id": "four", "text": ""}]))
    assert bench.run("embed {root}/job.yaml", REJECTS).exit_code == 0
    bench.put("corpus/good.jsonl", jsonl([{"id": "one", "text": "One."}, {"id": "two", "text": "Another."}]))
    assert bench.run("embed {root}/job.yaml", REJECTS).exit_code == 0


def written_by_another_run(bench: Bench) -> None:
    held = lease.hold(open_store(str(bench.table)), lease.Holder.of_this_process("another-run"), 60, print)
    bench.cleanup.enter_context(held)


LOST = both(embedded, lose("data/*.parquet"))
EMBED, REPAIR = "embed {root}/job.yaml", "repair {root}/job.yaml --write"
SHOWS = "`sfr-batch repair CONFIG` shows what it takes to have these rows again, and with --write it embeds them."
NO_CARD = (
    "{root}/table has lost its _sfr/table.json, but data/ has 1 data file of a table: perhaps a copy has left out "
    "names that begin with _. Copy the whole folder _sfr again. Without it, `sfr-batch repair CONFIG` shows what it "
    "takes to make a table of these files, and with --write it does so."
)
RESTORE = (
    "Restore it from a copy. Without one: if it is of the newest snapshot, `sfr-batch repair CONFIG` shows what it "
    "takes to publish the rows anew; else `sfr-batch expire` gives the snapshot up."
)
UNKNOWN = (
    "is damaged: {root}/table/_sfr/snapshots/{*} is not the file that snapshot 1 was published with, so nobody knows "
    "which files it needs. Nothing was removed. If it is the newest snapshot, `sfr-batch repair CONFIG --write` "
    "publishes a whole one. Older ones go with `sfr-batch expire TABLE --keep-last 1 --delete`."
)

ROWS = [
    Damaged("a data file is gone",
            "{root}/table is damaged, so nothing was done. Of snapshot 1, 1 file is lost: data/{*}.parquet is "
            f"missing. {SHOWS}", EMBED, LOST, REPAIR),
    Damaged("two data files are gone",
            "{root}/table is damaged, so nothing was done. Of snapshot 2, 2 files are lost, e.g. data/{*}.parquet "
            f"is missing. {SHOWS}", EMBED, both(twice, lose("data/*.parquet"), lose("data/*.parquet")), REPAIR),
    Damaged("rejects and an index are gone",
            "{root}/table is damaged, so nothing was done. Of snapshot 2, 2 files are lost, e.g. _rejects/{*} is "
            f"missing. {SHOWS}", EMBED, both(changed, lose("_sfr/index/*"), lose("_rejects/*")),
            f"{REPAIR} {REJECTS[0]}"),
    Damaged("a compaction of lost files",
            "{root}/table is damaged, so nothing was done. Of snapshot 2, 1 file is lost: data/{*}.parquet is "
            f"missing. {SHOWS}", "compact {root}/table --write", both(twice, lose("data/*.parquet")), REPAIR),
    Damaged("reading lost rows",
            f"Snapshot 1 of {{root}}/table is damaged: {{root}}/table/data/{{*}}.parquet does not exist. {SHOWS}",
            "export {root}/table {root}/out", LOST, REPAIR),
    Damaged("reading a lost side file",
            "Snapshot 1 of {root}/table is damaged: {root}/table/_sfr/snapshots/{*}.files.parquet does not exist. "
            f"{SHOWS}", "export {root}/table {root}/out",
            both(embedded, lose("_sfr/snapshots/*.files.parquet")), REPAIR),
    Damaged("flipped bits",
            "{root}/table/data/{*}.parquet is damaged: {*}. Restore it from a copy, or have its rows again: `sfr-batch "
            "repair CONFIG --deep` shows what that takes.", "export {root}/table {root}/out", both(embedded, flip),
            "repair {root}/job.yaml --deep --write"),
    Damaged("documents that have left the corpus",
            "Some documents of {root}/table were in lost files and cannot be had any more. Nothing was embedded or "
            "published.\n  2 documents of {root}/corpus/good.jsonl, which is no longer in the corpus\nRestore these "
            "files from a copy, or repair the table without these documents: `sfr-batch repair CONFIG --write "
            "--accept-loss`.", REPAIR, both(LOST, other_corpus), f"{REPAIR} --accept-loss"),
    Damaged("other settings of the corpus",
            "corpus.text: a repair reads the rows as the last run did, and snapshot 1 of {root}/table was read with "
            "other settings. Use the config of that run. `sfr-batch embed` applies the new settings afterwards.",
            "repair {root}/job.yaml corpus.text=id", LOST, REPAIR, code=2),
    Damaged("nothing is published",
            "Nothing has been published in {root}/table yet, so there is nothing to repair. To complete its run, "
            "repeat the same `sfr-batch embed`.", REPAIR, trial, EMBED),
    Damaged("all manifests are lost",
            "No snapshot of {root}/table can be read, so there is nothing to repair. _sfr/snapshots/00000001.json is "
            "missing, which a run has published. Restore it from a copy. Without one, the next `sfr-batch embed "
            "CONFIG` publishes its rows again: their vectors are in data/.", REPAIR,
            both(embedded, lose("_sfr/snapshots/*.json")), EMBED),
    Damaged("table.json is damaged",
            "{root}/table/_sfr/table.json is damaged: {*}. Restore it from a copy. Without one, remove it: `sfr-batch "
            "repair CONFIG` then shows what it takes to make it anew, and with --write it does so.",
            "status {root}/table", both(embedded, lose("_sfr/table.json", b"{")), REPAIR,
            before=lose("_sfr/table.json")),
    Damaged("a repair while a run lives, after the loss of _sfr",
            "Another run is writing to {root}/table: run another-run of {*}", REPAIR,
            both(embedded, without_sfr, written_by_another_run), REPAIR, before=lambda bench: bench.cleanup.close()),
    Damaged("_sfr is lost", NO_CARD, EMBED, both(embedded, without_sfr), REPAIR),
    Damaged("_sfr is lost under a reader", NO_CARD, "status {root}/table", both(embedded, without_sfr), REPAIR),
    Damaged("_sfr is lost, and the config is another one",
            "{root}/table has 1 data file and no _sfr. Their fingerprint is {*}, that of this config {*}: they were "
            "made with another model or other settings. Use the config that made them.",
            "repair {root}/job.yaml model.max_length=7", both(embedded, without_sfr), REPAIR),
    Damaged("the newest manifest is damaged",
            f"{{root}}/table/_sfr/snapshots/00000001.json is damaged: {{*}}. {RESTORE}", EMBED,
            both(embedded, lose("_sfr/snapshots/*.json", b"{")), REPAIR),
    Damaged("a sweep beside a damaged side file",
            f"Snapshot 1 of {{root}}/table {UNKNOWN}", "sweep {root}/table --older-than 0m --delete",
            both(embedded, lose("_sfr/snapshots/*.files.parquet", b"noise")), REPAIR),
    Damaged("an expiry that keeps a damaged snapshot",
            f"Snapshot 1 of {{root}}/table {UNKNOWN}", "expire {root}/table --keep-last 2 --delete",
            both(twice, lose("_sfr/snapshots/00000001-*.files.parquet", b"noise")),
            "expire {root}/table --keep-last 1 --delete"),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_damaged_tables(row: Damaged, bench: Bench) -> None:
    for name, data in GOOD.items():
        bench.put(f"corpus/{name}", data)
    row.prepare(bench)
    result = bench.run(row.command, ())
    said = re.sub(r"(?m)^\[\d+:\d\d\] .*\n", "", result.stderr)
    assert said.startswith("error: "), said
    assert shape(row.message, bench).fullmatch(said.removeprefix("error: ").rstrip("\n")), said
    assert (result.exit_code, result.stdout) == (row.code, "")
    if row.before:
        row.before(bench)
    for command in (row.advice, row.then):
        result = CliRunner().invoke(main, shlex.split(bench.fill(command)))
        assert result.exit_code == 0, result.output
