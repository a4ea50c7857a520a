"""Published scores: cards and result files as they are in the wild become one kind of value, or a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError
from sfr_batch.evaluation.published.comparison import find, published_averages
from sfr_batch.evaluation.published.reading import read_published
from sfr_batch.evaluation.published.values import Published, PublishedTask
from sfr_batch.evaluation.task_files import shipped_tasks
from tests.evaluation.published import CARD, needs_card
from tests.tables import put

LOCAL = StorageSettings()
TASKS = shipped_tasks()
RESULT = """\
  - task: {type: %s}
    dataset: {type: x, name: %s, config: %s, split: test, revision: %s}
    metrics:
    - {type: %s, value: %s}
"""


def card(*results: tuple[str, str, str, str, str, object]) -> str:
    return (
        "---\nmodel-index:\n- name: ours\n  results:\n"
        + "".join(RESULT % result for result in results)
        + "---\n# Ours\n"
    )


SIMPLE = card(("Retrieval", "MTEB SciFact", "default", "d56462d", "ndcg_at_10", 64.5))


def read(folder: Path, text: str | bytes, name: str = "README.md") -> Published:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_published(str(folder / name), LOCAL)


# --- cards


@needs_card
def test_the_averages_of_the_card_come_from_its_figures() -> None:
    """As its authors publish them, but for two: their 78.33 is the mean of accuracies that were rounded before, and
    their 88.54 takes cosine for pairs, not the best of four distances, of which the mean over all is made."""
    found = read_published(str(CARD), LOCAL)
    assert (found.kind, found.model, len(found.tasks), found.remarks) == ("card", "SFR-Embedding-Mistral", 56, ())
    assert {
        kind: (round(100 * mean, 2), n) for kind, (mean, n) in published_averages(list(TASKS.values()), [found]).items()
    } == {
        None: (67.56, 56),
        "retrieval": (59.00, 15),
        "reranking": (60.64, 4),
        "sts": (85.05, 10),
        "pair_classification": (88.59, 3),
        "classification": (78.32, 12),
        "clustering": (51.67, 11),
        "summarization": (31.16, 1),
    }
    exact = [entry.scores["accuracy"] for entry in found.tasks if "f1" in entry.scores]
    assert round(sum(round(100 * score, 2) for score in exact) / 12, 2) == 78.33
    pairs = [entry.scores["cos_sim_ap"] for entry in found.tasks if "cos_sim_ap" in entry.scores]
    assert round(100 * sum(pairs) / 3, 2) == 88.54
    (first, *_) = found.tasks
    assert first == PublishedTask(
        "AmazonCounterfactualClassification",
        "test",
        "en",
        "e8379541af4e31359cca9fbcf4b00f2671dba205",
        {"accuracy": 0.7792537313432834, "ap": 0.4086767661556651, "f1": 0.7165758897929837},
    )


@pytest.mark.parametrize(
    "text",
    [
        SIMPLE,
        SIMPLE.replace("\n", "\r\n"),
        "\ufeff" + SIMPLE,
        "\n" + SIMPLE,
        SIMPLE.removesuffix("---\n# Ours\n"),
        SIMPLE.replace("64.5", '"64.5 %"'),
        SIMPLE.replace("type: ndcg_at_10", "type: NaN, name: ndcg_at_10"),
        SIMPLE.replace("name: MTEB SciFact, config: default", "name: MTEB SciFact (default)"),
        SIMPLE.replace("MTEB SciFact", "SciFact (default)").replace("64.5", "0.645"),
        SIMPLE.replace("ndcg_at_10", "main_score"),
        SIMPLE.replace("ndcg_at_10, value: 64.5", "cosine_ndcg@10, value: 0.645"),
        SIMPLE.replace("- {type: ndcg_at_10, value: 64.5}", "- value: 64.5\n      name: x\n      type: ndcg_at_10"),
    ],
    ids=[
        "plain",
        "CRLF",
        "BOM",
        "a line before",
        "no end",
        "text",
        "no type",
        *("brackets", "mteb 2"),
        "main",
        "a library",
        "order",
    ],
)
def test_one_score_in_the_forms_that_cards_have(tmp_path: Path, text: str) -> None:
    found = find(TASKS["SciFact"], [read(tmp_path, text)])
    assert found
    assert found.score == pytest.approx(0.645)
    assert found.entry.revision == "d56462d"


def test_yaml_alone_and_a_model_folder(tmp_path: Path) -> None:
    bare = SIMPLE.removeprefix("---\n").removesuffix("---\n# Ours\n")
    assert read(tmp_path, bare, "scores.yaml").tasks == read(tmp_path, SIMPLE).tasks
    (tmp_path / "config.json").write_text("{}")
    assert read_published(str(tmp_path), LOCAL).tasks == read(tmp_path, SIMPLE).tasks


def test_the_trouble_of_cards(tmp_path: Path) -> None:
    """Subsets, revisions of digits, what is no score, and tasks of other hands on a scale of their own."""
    found = read(
        tmp_path,
        card(
            ("STS", "MTEB STS22 (zh)", "zh", "0123456", "cos_sim_spearman", 0.7),
            ("STS", "MTEB STS22 (en)", "en", "null", "cosine_spearman", "68.4"),
            ("STS", "MTEB STS22 (de)", "de", "None", "cosine_spearman", ".nan"),
            ("Retrieval", "MTEB TRECCOVID", "default", "x", "ndcg_at_10", 771),
            ("PairClassification", "MTEB PPC", "default", "x", "max_f1", 50),
            ("STS", "sts dev", "default", "x", "spearman_cosine", 0.85),
            ("STS", '"MTEB Odd (one) (two)"', "default", "x", "cos_sim_pearson", 10),
        ),
    )
    tasks = {(entry.task, entry.subset): entry for entry in found.tasks}
    assert {key: (entry.revision, {**entry.scores}) for key, entry in tasks.items()} == {
        ("STS22", "zh"): ("0123456", {"cos_sim_spearman": pytest.approx(0.007)}),
        ("STS22", "en"): (None, {"cos_sim_spearman": pytest.approx(0.684)}),
        ("PpcPC", "default"): ("x", {"max_f1": pytest.approx(0.5)}),
        ("sts dev", "default"): ("x", {"cos_sim_spearman": pytest.approx(0.85)}),
        ("Odd (one) (two)", "default"): ("x", {"cos_sim_pearson": pytest.approx(0.1)}),
    }
    assert found.remarks == (
        "2 figures are no scores and were left out: STS22 cosine_spearman is '.nan'; TRECCOVID ndcg_at_10 is 771.",
        "1 task has no figure above 1 and was read as percent like the other tasks beside it: STS22.",
    )


# --- results of mteb


NEW = {
    "task_name": "STS22",
    "mteb_version": "2.1.0",
    "dataset_revision": "de9d86b3b84231dc21f76c7b7af1f28e2f57f6e3",
    "scores": {
        "test": [
            {"hf_subset": "zh", "cosine_spearman": -0.05, "main_score": -0.05, "spearman": [0.4, 0.0]},
            {"hf_subset": "en", "cosine_spearman": 0.684, "main_score": 0.684, "languages": ["eng-Latn"]},
        ]
    },
}
OLD = {
    "mteb_dataset_name": "STS22",
    "mteb_version": "1.1.1",
    "dataset_revision": None,
    "test": {
        "zh": {"cos_sim": {"spearman": -0.05}},
        "en": {"cos_sim": {"spearman": 0.684}, "manhattan": {"spearman": 0.6}},
        "evaluation_time": 12.5,
    },
}
PERCENT = {**NEW, "mteb_version": None, "scores": {"test": [{"hf_subset": "en", "cos_sim_spearman": 68.4}]}}
WHOLE_MODEL = {"model_name": "ours", "task_results": [NEW]}


@pytest.mark.parametrize(
    ("value", "version"), [(NEW, "2.1.0"), (OLD, "1.1.1"), (PERCENT, None), (WHOLE_MODEL, "2.1.0")]
)
def test_one_score_in_the_forms_of_mteb(tmp_path: Path, value: Any, version: str | None) -> None:
    found = find(TASKS["STS22"], [read(tmp_path, json.dumps(value), "STS22.json")])
    assert found
    assert (found.score, found.other, found.entry.version) == (pytest.approx(0.684), "", version)


def test_pairs_of_old_files_and_reranking_of_new_ones(tmp_path: Path) -> None:
    """What the main score of a type was called; and the best of four similarities, where nobody has written it."""
    pair = {"cos_sim": {"ap": 0.5}, "dot": {"ap": 0.25}, "euclidean": {"ap": 0.75}, "manhattan": {"ap": 0.5}}
    old = {"mteb_dataset_name": "SprintDuplicateQuestions", "test": {**pair, "evaluation_time": 3}}
    found = find(TASKS["SprintDuplicateQuestions"], [read(tmp_path, json.dumps(old), "a.json")])
    assert found
    assert found.score == 0.75
    new = {"task_name": "SciDocsRR", "scores": {"test": [{"map_at_1000": 0.8, "nauc_map_at_1000_max": -3.5}]}}
    found = find(TASKS["SciDocsRR"], [read(tmp_path, json.dumps(new), "b.json")])
    assert found
    assert (found.score, found.entry.revision) == (0.8, None)


def test_a_folder_of_results(place: str) -> None:
    """On a disk and in a bucket, among other JSON files; the parts of CQADupStack have a mean if all are there."""
    parts = TASKS["CQADupstackRetrieval"].parts
    for at, part in enumerate(parts):
        name = f"CQADupstack{part.capitalize()}Retrieval"
        scores = {"test": [{"hf_subset": "default", "ndcg_at_10": 0.4 + at / 100}]}
        put(place, f"r/s__ours/1/{name}.json", json.dumps({"task_name": name, "scores": scores}).encode())
    put(place, "r/s__ours/1/predictions.json", b"[1]")
    found = read_published(f"{place}/r", LOCAL)
    assert (found.kind, found.model, len(found.tasks)) == ("mteb", "s/ours", 12)
    whole = find(TASKS["CQADupstackRetrieval"], [found])
    assert whole
    assert whole.score == pytest.approx(0.455)
    assert find(TASKS["CQADupstackRetrieval"], [Published("x", "mteb", "", found.tasks[1:])]) is None
    put(place, "r/s__ours/1/model_meta.json", b'{"name": "s/theirs"}')
    assert read_published(f"{place}/r/s__ours/1", LOCAL).model == "s/theirs"
    put(place, "r/s__ours/2/STS22.json", json.dumps(NEW).encode())
    with pytest.raises(ConfigError, match=r"holds results of several models or revisions\. Give one of its folders: "):
        read_published(f"{place}/r", LOCAL)
