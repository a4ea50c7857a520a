"""Bad input: evaluations that cannot begin, and the way out that each message names."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sfr_batch.cli.main import main
from tests.evaluation.small_sets import job, lines, pairs, put, retrieval

TASKS = "tasks: [{name: alike, type: sts}, {name: find, type: retrieval}]\n"
SURROGATE = b'{"sentence1": "a \\ud800", "sentence2": "b", "score": 1}\n'
PAIRS = lines({"sentence1": "a", "sentence2": other, "score": score} for other, score in [("b", 1), ("c", 2)])


@dataclass(frozen=True)
class Row:
    """Files, the arguments behind the config, the whole message, and the files and arguments that succeed after all."""

    name: str
    arguments: Sequence[str]
    message: str
    then: Sequence[str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    repair: Mapping[str, bytes] = field(default_factory=dict)


ALIKE = ["evaluation.tasks.alike={root}/alike"]
ROWS = [
    Row("no tasks", [],
        "evaluation.tasks is empty. Say where the data of a task lie: evaluation.tasks.SciFact=data/scifact.", ALIKE),
    Row("unknown task", ["evaluation.tasks.alikes={root}/alike"],
        "evaluation.tasks.alikes: there is no such task. Did you mean alike? A task of your own goes into a file of "
        "evaluation.task_files.", ALIKE),
    Row("task without data", [*ALIKE, "--task", "find"],
        "The task find has no data: evaluation.tasks names alike. Add evaluation.tasks.find=PATH.",
        [*ALIKE, "--task", "find", "evaluation.tasks.find={root}/find"]),
    Row("form without a place", [*ALIKE, "evaluation.prompt='Task: '"],
        "{root}/job.json has 1 wrong setting:\n"
        "  evaluation: prompt must have {instruction} where the instruction of a task stands",
        [*ALIKE, "evaluation.prompt='Task: {instruction} '"]),
    Row("no folder for the report", [*ALIKE, "--json", "{root}/none/report.json"],
        "--json {root}/none/report.json: there is no folder {root}/none.", [*ALIKE, "--json", "{root}/report.json"]),
    Row("half a surrogate pair", ["evaluation.tasks.alike={root}/half"],
        "{root}/half/test.jsonl row 1: sentence1 is not valid Unicode at character 2: half of a surrogate pair. Remove "
        "the row, or fetch the file again.", ["evaluation.tasks.alike={root}/half"],
        {"half/test.jsonl": SURROGATE + PAIRS}, {"half/test.jsonl": PAIRS}),
    Row("documents of different columns", ["evaluation.tasks.find={root}/mixed"],
        "{root}/mixed/corpus.jsonl row 2 has its id in the column id, rows before in _id. Give all documents the same "
        "columns.", ["evaluation.tasks.find={root}/mixed"],
        {"mixed/corpus.jsonl": b'{"_id": "a", "text": "b"}\n{"id": "c", "text": "d"}\n',
         "mixed/queries.jsonl": b'{"_id": "q", "text": "b"}\n',
         "mixed/qrels/test.tsv": b"query-id\tcorpus-id\tscore\nq\ta\t1\n"},
        {"mixed/corpus.jsonl": b'{"_id": "a", "text": "b"}\n{"_id": "c", "text": "d"}\n'}),
    Row("a store that there is not", ["evaluation.tasks.find={root}/find", "evaluation.path=nowhere://x"],
        "nowhere://x: the scheme nowhere:// is not supported; use s3:// or a local path.",
        ["evaluation.tasks.find={root}/find", "evaluation.path={root}/elsewhere"]),
]  # fmt: skip


def test_a_picture_that_nothing_draws_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the data are read: there are none."""
    (tmp_path / "job.json").write_text(job(tmp_path, {"SciFact": f"{tmp_path}/none"}).to_json())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    failed = evaluate(tmp_path, ["--picture", "{root}/scores.png"])
    assert failed.stderr.strip() == (
        "error: The picture of an evaluation needs the Python package matplotlib: pip install 'sfr-batch[evaluation]'."
    )


def evaluate(root: Path, arguments: Sequence[str]) -> Result:
    given = [argument.replace("{root}", str(root)) for argument in arguments]
    return CliRunner().invoke(main, ["evaluate", str(root / "job.json"), *given])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_an_evaluation_cannot_begin(tmp_path: Path, row: Row) -> None:
    """The whole message; and what it proposes succeeds."""
    (tmp_path / "tasks.yaml").write_text(TASKS)
    config = job(tmp_path, {}, evaluation={"task_files": [str(tmp_path / "tasks.yaml")]})
    (tmp_path / "job.json").write_text(config.to_json())  # JSON is YAML
    pairs(f"{tmp_path}/alike")
    retrieval(f"{tmp_path}/find")
    put(str(tmp_path), row.files)
    failed = evaluate(tmp_path, row.arguments)
    assert failed.exit_code in (1, 2), failed.output
    assert failed.stderr.strip() == "error: " + row.message.replace("{root}", str(tmp_path))
    for name, data in row.repair.items():
        (tmp_path / name).write_bytes(data)
    done = evaluate(tmp_path, row.then)
    assert done.exit_code == 0, done.output
    assert re.search(r"^  (alike|find) ", done.stdout, re.MULTILINE)
