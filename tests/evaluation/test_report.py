"""The report: verdicts, notes, means, and one set of values in all its forms."""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from sfr_batch.errors import ConfigError
from sfr_batch.evaluation.published.values import Published, PublishedTask
from sfr_batch.evaluation.report.report import Evaluation, joined
from sfr_batch.evaluation.results import Made, TaskResult
from sfr_batch.evaluation.task_files import Task, shipped_tasks

TASKS = shipped_tasks()
MADE = Made("model/ours", "f1" * 32, {"max_length": 4096, "pooling": "last"}, {"torch": "2.13.0", "scipy": "1.16"})


def result(name: str, score: float, **changes: Any) -> TaskResult:
    task = TASKS[name]
    prompt = {"queries": "Instruct: x\nQuery: ", "documents": ""} if task.type == "retrieval" else {"texts": "x: "}
    whole = TaskResult(task, {task.main_score: score, "f1": 0.5}, f"/d/{name}", "v" * 64, prompt, {"texts": 5})
    return dataclasses.replace(whole, **changes)


def entry(name: str, score: float, **changes: Any) -> PublishedTask:
    task = TASKS[name]
    whole = PublishedTask(name, task.split, task.subset, task.revision, {task.main_score: score})
    return dataclasses.replace(whole, **changes)


def source(*entries: PublishedTask, name: str = "/card.md") -> Published:
    return Published(name, "card", "ours", entries)


def evaluation(*results: TaskResult, published: tuple[Published, ...] = (), **made: Any) -> Evaluation:
    return Evaluation(dataclasses.replace(MADE, **made), results, published)


SIX = evaluation(
    result("SciFact", 0.7762),
    result("XQuADRetrieval", 0.5),
    result("STSBenchmark", 0.87),
    result("STS22", 0.7),
    result("ArxivClusteringS2S", 0.49),
    result(
        "CQADupstackRetrieval", 0.4606, parts={"android": {"ndcg_at_10": 0.4606}}, remarks=("1 document is missing.",)
    ),
    published=(
        source(
            entry("SciFact", 0.7766, revision="0228b52c"),
            entry("STSBenchmark", 0.89),
            entry("STS22", 0.6, subset="zh"),
            entry("ArxivClusteringS2S", 0.4738),
            entry("CQADupstackRetrieval", 0.4652),
        ),
    ),
)


def test_verdicts() -> None:
    """Within the tolerance of its type; of another subset; not published. What is judged is not what is rounded."""
    assert {row.task.name: row.verdict for row in SIX.rows} == {
        "SciFact": "equal",
        "XQuADRetrieval": "not published",
        "STSBenchmark": "differs",
        "STS22": "other data",
        "ArxivClusteringS2S": "equal",
        "CQADupstackRetrieval": "differs",
    }
    assert SIX.differing == ["STSBenchmark", "CQADupstackRetrieval"]
    assert (
        SIX["STS22"].why == "STS22: /card.md has a score of split test, subset zh; the task is split test, subset en."
    )
    assert [SIX["SciFact"].difference, SIX["XQuADRetrieval"].difference] == [pytest.approx(-0.0004), None]
    strict = dataclasses.replace(SIX, tolerances={"retrieval": 0.0001})
    assert (strict["SciFact"].verdict, strict["ArxivClusteringS2S"].verdict) == ("differs", "equal")
    edge = evaluation(result("SciFact", 0.7776), published=(source(entry("SciFact", 0.7766)),))
    assert edge["SciFact"].verdict == "equal", "0.1 point is within 0.1 point, whatever binary fractions make of it"
    other_data = evaluation(result("SciFact", 0.5), published=(source(entry("SciFact", 0.6, revision="0228b52c")),))
    assert other_data["SciFact"].verdict == "differs", "another revision excuses nothing by itself"


def test_which_published_score_stands() -> None:
    """The first source with one of the same data; in it the one of the revision that the task names."""
    first = source(entry("SciFact", 0.1, split="train"), name="/a")
    second = source(entry("SciFact", 0.2, revision="abc"), entry("SciFact", 0.3), name="/b")
    row = evaluation(result("SciFact", 0.3), published=(first, second))["SciFact"]
    assert (row.published, row.source, row.verdict) == (0.3, "/b", "equal")
    assert row.why == "SciFact: /b also has 20.00 for the same split; 30.00 was taken."
    (row,) = evaluation(result("SciFact", 0.1), published=(first,)).rows
    assert (row.verdict, row.published) == ("other data", 0.1)
    no_key = source(PublishedTask("SciFact", "test", None, None, {"map_at_10": 0.5}))
    (row,) = evaluation(result("SciFact", 0.1), published=(no_key,)).rows
    assert row.why == "SciFact: /card.md has no ndcg_at_10 of it, only map_at_10."


NAMES = ("MSMARCO", "CQADupstackRetrieval", "AskUbuntuDupQuestions", "Banking77Classification", "SummEval", "SICK-R")


@pytest.mark.parametrize(
    ("prompts", "longest", "starts"),
    [
        (
            {"queries": "x", "documents": ""},
            4096,
            {
                "MSMARCO": ["Retrieval: a", "Retrieval: of", "Long texts", "MSMARCO is"],
                "CQADupstackRetrieval": ["Retrieval: a", "Retrieval: of", "Long texts", "CQADupstack"],
                "AskUbuntuDupQuestions": ["Reranking", "Long texts", "The published"],
                "Banking77Classification": ["Classification", "Long texts"],
                "SummEval": ["Long texts", "SummEval"],
                "SICK-R": ["The published"],
            },
        ),
        (
            {"texts": ""},
            256,
            {
                "MSMARCO": ["Retrieval: a", "Retrieval: of", "MSMARCO is"],
                "CQADupstackRetrieval": ["Retrieval: a", "Retrieval: of"],
                "AskUbuntuDupQuestions": ["The published"],
                "Banking77Classification": ["Classification"],
                "SummEval": [],
                "SICK-R": ["The published"],
            },
        ),
    ],
    ids=["instructed, long", "bare, short"],
)
def test_known_differences_of_harness(
    prompts: Mapping[str, str], longest: int, starts: Mapping[str, list[str]]
) -> None:
    published = source(*(entry(name, 0.5, revision=TASKS[name].published_revision) for name in NAMES))
    found = evaluation(
        *(result(name, 0.5, prompts=prompts) for name in NAMES), published=(published,), inputs={"max_length": longest}
    )
    for row in found.rows:
        wanted = starts[row.task.name]
        assert [note[: len(start)] for note, start in zip(row.differences, wanted, strict=True)] == wanted
    assert not any(row.differences for row in dataclasses.replace(found, published=()).rows)


def test_means_are_over_what_was_scored() -> None:
    """Ours over all, and both over those tasks alone that have a published score of the same data."""
    means = {(mean.type, mean.tasks): (mean.ours, mean.published) for mean in SIX.averages}
    assert means == {
        ("retrieval", 3): (pytest.approx((0.7762 + 0.5 + 0.4606) / 3), None),
        ("retrieval", 2): (pytest.approx((0.7762 + 0.4606) / 2), pytest.approx((0.7766 + 0.4652) / 2)),
        ("sts", 2): (pytest.approx((0.87 + 0.7) / 2), None),
        ("sts", 1): (pytest.approx(0.87), pytest.approx(0.89)),
        ("clustering", 1): (pytest.approx(0.49), pytest.approx(0.4738)),
        (None, 6): (pytest.approx(3.7968 / 6), None),
        (None, 4): (pytest.approx((0.7762 + 0.87 + 0.49 + 0.4606) / 4), pytest.approx((0.7766 + 0.89 + 0.939) / 4)),
    }


def test_of_several_seeds_the_mean_is_compared() -> None:
    """And the score with mteb's seed stands above it, in all forms. Reports of earlier versions have that one alone."""
    name = "ArxivClusteringS2S"
    scores = {"v_measure": 0.4245, "v_measure_seeds_mean": 0.4025, "v_measure_seeds_std": 0.0136}
    beside = (source(entry(name, 0.3977), entry("STSBenchmark", 0.89)),)
    found = evaluation(result(name, 0, scores=scores), result("STSBenchmark", 0.89), published=beside)
    row = found[name]
    assert (row.ours, row.difference, row.verdict) == (0.4245, pytest.approx(0.0048), "equal")
    assert [(mean.type, mean.ours) for mean in found.averages] == [
        ("sts", 0.89),
        ("clustering", 0.4025),
        (None, pytest.approx(0.64625)),
    ]
    text = found.describe()
    assert (
        """
Clustering, v_measure
  ArxivClusteringS2S                      42.45
    mean over 10 seeds (std 1.36)         40.25     39.77  +0.48  equal   1,2

All types
  mean of 2 tasks                         64.62     64.39  +0.24

Means are over the 2 tasks that were scored, each counting once, by its mean
over seeds if it has one; scores are times 100.

Notes
  1  Clustering: k-means starts at random, in the published run elsewhere than
     here. So the published score is compared with the mean over 10 seeds; above
     it is the score with mteb's seed.
"""
        in text
    )
    note = "So the published score is compared with the mean over 10 seeds; above it is the score with "
    for form in (" ".join(text.split()), found.to_markdown(), found._repr_html_()):
        assert form.count(note) == 1
        assert form.count("mean over 10 seeds (std 1.36)") == 1
    json_row = json.loads(found.to_json())["rows"][0]
    frame_row = found.to_arrow().to_pylist()[0]
    for values in (json_row, frame_row):
        columns = ("ours", "seeds_mean", "seeds_std", "difference")
        assert [values[column] for column in columns] == pytest.approx([0.4245, 0.4025, 0.0136, 0.0048])
    assert found.to_arrow().to_pylist()[1]["seeds_mean"] is None
    assert Evaluation.from_json(found.to_json()).describe() == text

    alone = evaluation(result(name, 0, scores=scores))
    assert "\n    mean over 10 seeds (std 1.36)         40.25\n" in alone.describe()
    earlier = evaluation(result(name, 0.4245), result("STSBenchmark", 0.89), published=beside)
    assert (earlier[name].difference, earlier.differing) == (pytest.approx(0.0268), [name])
    assert "with others equal vectors score" in " ".join(earlier.describe().split())
    height = [int.from_bytes(own.picture()[20:24]) for own in (earlier, found)]
    assert height[0] < height[1], "a line more"


TABLE = """\
model/ours, fingerprint f1f1f1f1f1f1f1f1: 6 tasks, 2 equal to the published
score within tolerance, 2 different, 1 published of other data alone, 1 not
published.
Published: the model card of ours, /card.md.

task                                       ours published  diff.  verdict notes

Retrieval, ndcg_at_10 (notes 1, 2, 3)
  SciFact                                 77.62     77.66  -0.04  equal   4
  XQuADRetrieval (en)                     50.00
  CQADupstackRetrieval                    46.06     46.52  -0.46  differs 5
  mean of 3 tasks                         57.89
  mean of 2 tasks with a published score  61.84     62.09  -0.25

STS, cos_sim_spearman
  STSBenchmark                            87.00     89.00  -2.00  differs
  STS22 (en)                              70.00     60.00 +10.00  other   7
  mean of 2 tasks                         78.50
  mean of 1 task with a published score   87.00     89.00  -2.00

Clustering, v_measure
  ArxivClusteringS2S                      49.00     47.38  +1.62  equal   3,6

All types
  mean of 6 tasks                         63.28
  mean of 4 tasks with a published score  64.92     65.14  -0.22

Means are over the 6 tasks that were scored, each counting once; scores are
times 100.
"""


def test_the_report_for_a_terminal() -> None:
    """A table of at most 80 columns; below it each note once, and for each task its data and prompts."""
    text = SIX.describe()
    assert text.startswith(TABLE)
    assert max(map(len, text.splitlines())) <= 80
    for note in {note for row in SIX.rows for note in row.differences}:
        assert " ".join(text.split()).count(note) == 1
    assert "\n  7  STS22: /card.md has a score of split test, subset zh;" in text
    assert (
        """
CQADupstackRetrieval
  data: /d/CQADupstackRetrieval, split test
  version: vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv (5
    texts)
  prompt of queries: 'Instruct: x\\nQuery: '
  prompt of documents: none
  parts: android 46.06
  remark: 1 document is missing.
"""
        in text
    )
    assert text.endswith(
        f"  fingerprint: {'f1' * 32}\n  inputs: max_length 4096, pooling last\n  versions: torch 2.13.0, scipy 1.16"
    )
    assert repr(SIX) == f"<Evaluation model/ours: {SIX.summary()}>"


def test_the_other_forms_say_the_same() -> None:
    frame = SIX.to_pandas()
    assert list(frame["task"]) == [row.task.name for row in SIX.rows]
    assert list(frame["verdict"]) == [row.verdict for row in SIX.rows]
    assert set(frame["fingerprint"]) == {MADE.fingerprint}
    markdown, html = SIX.to_markdown(), SIX._repr_html_()
    for text in ("77.62", "77.66", "differs", "f1f1f1f1f1f1f1f1", "2.13.0", "mean of 4 tasks", "0228b52c", "v" * 64):
        assert text in markdown
        assert text in html
    assert "| CQADupstackRetrieval | 46.06 | 46.52 | -0.46 | differs | 5 |\n" in markdown
    sign = evaluation(result("SciFact", 0.5, data="/a|b_<i>", remarks=("\x1b[2J",)), model="<b>*x*")
    assert "/a\\|b\\_\\<i\\>" in sign.to_markdown()
    assert "<i>" not in sign._repr_html_()
    assert "\x1b" not in sign.describe() + sign.to_markdown()


def test_json_gives_the_evaluation_back() -> None:
    """With the published scores of its tasks and no others; a score that could not be computed is null."""
    odd = evaluation(result("SciFact", math.nan), result("STS22", 0.5), published=(source(entry("SICK-R", 0.5)),))
    every = evaluation(*(result(name, 0.5) for name in TASKS))
    for given in (SIX, odd, every):
        text = given.to_json()
        again = Evaluation.from_json(text)
        assert again.to_json() == text
        assert again.describe() == given.describe()
        assert [own.task for own in again.results] == [own.task for own in given.results]
    raw = json.loads(odd.to_json())
    assert raw["results"][0]["scores"]["ndcg_at_10"] is raw["rows"][0]["ours"] is None
    assert raw["published"][0]["tasks"] == []
    assert json.loads(SIX.to_json())["rows"][0]["verdict"] == "equal"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "r.json is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        ("[]", "r.json is no report of an evaluation: it does not say format: 'sfr-batch evaluation 1'."),
        (
            '{"format": "sfr-batch evaluation 2"}',
            "r.json has the format 'sfr-batch evaluation 2'; this version of sfr-batch reads 'sfr-batch evaluation 1'.",
        ),
        (
            '{"format": "sfr-batch evaluation 1", "made": 5, "results": []}',
            "r.json is damaged: made: Input should be a dictionary or an instance of Made. Evaluate again.",
        ),
    ],
)
def test_what_is_no_report(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Evaluation.from_json(text, "r.json")
    assert str(error.value) == message


def test_scores_of_two_models_are_never_in_one_report() -> None:
    """Nor those of two sets of libraries, nor two of one task: they may be joined if all that made them is equal."""
    one, two = evaluation(result("SciFact", 0.5)), evaluation(result("STS22", 0.5))
    assert [row.task.name for row in joined([one, two]).rows] == ["SciFact", "STS22"]
    way_out = " Score the tasks again with one of them, or keep two reports."
    for made, why in (
        ({"fingerprint": "ab" * 32}, "fingerprints are f1f1f1f1f1f1 and abababababab"),
        (
            {"fingerprint": "ab" * 32, "inputs": {"max_length": 512, "pooling": "last"}},
            "fingerprints are f1f1f1f1f1f1 and abababababab (max_length 4096 and 512)",
        ),
        ({"versions": {"torch": "2.14.0", "scipy": "1.16"}}, "library versions differ (torch 2.13.0 and 2.14.0)"),
    ):
        with pytest.raises(ConfigError) as error:
            joined([one, evaluation(result("STS22", 0.5), **made)])
        assert str(error.value) == f"Scores of model/ours and model/ours do not belong into one report: {why}.{way_out}"
    with pytest.raises(
        ConfigError, match=r"^An evaluation has one result of each task, and two of SciFact were given\.$"
    ):
        joined([one, one])
    with pytest.raises(ConfigError, match=r"^No evaluations were given to be joined\.$"):
        joined([])


def test_a_task_of_ones_own() -> None:
    """With a main score of its own, a name that is no English, and nothing published."""
    task = Task.model_validate({"name": "問い $x$", "type": "retrieval", "main_score": "recall_at_5"})
    own = TaskResult(task, {"recall_at_5": 1.0}, "/d", "v", {}, {})
    found = evaluation(own)
    assert "\n  問い $x$, recall_at_5" in found.describe()
    assert " published" not in found.describe().split("Scores are times 100.")[0]
    with pytest.raises(ConfigError) as error:
        evaluation(dataclasses.replace(own, scores={"ndcg_at_10": 1.0, "map_at_10": 1.0}))
    assert str(error.value) == (
        "問い $x$: its main score recall_at_5 is none of its scores: ndcg_at_10, map_at_10. Name one of them as "
        "main_score in the task file."
    )
    assert evaluation().describe().startswith("model/ours, fingerprint f1f1f1f1f1f1f1f1: 0 tasks.\n")


def test_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of no, one and six tasks: the more lines, the higher. Drawn without a display."""
    monkeypatch.delenv("DISPLAY", raising=False)
    heights = []
    for found in (evaluation(), evaluation(result("SciFact", math.nan)), SIX):
        data = found.picture()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        heights.append(int.from_bytes(data[20:24]))
    assert heights == sorted(set(heights))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError) as error:
        SIX.picture()
    assert str(error.value) == (
        "The picture of an evaluation needs the Python package matplotlib: pip install 'sfr-batch[evaluation]'."
    )
