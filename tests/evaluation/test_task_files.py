"""The shipped tasks against the model card and the authors' instructions; and what is said of a wrong task file."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError
from sfr_batch.evaluation.task_files import Task, read_task_file, shipped_tasks
from tests.evaluation.authors import INSTRUCTIONS
from tests.evaluation.published import CARD, TYPES, needs_card


def of_card() -> list[Any]:
    _, front, _ = CARD.read_text(encoding="utf-8").split("---\n", 2)
    results: list[Any] = yaml.safe_load(front)["model-index"][0]["results"]
    return results


@needs_card
def test_every_task_of_the_card_is_shipped() -> None:
    """With its type, split, subset, the revision of its data, and a main score that the card has."""
    shipped = shipped_tasks()
    results = of_card()
    assert len(results) == 56
    for result in results:
        name = re.sub(r" \(.*\)$", "", result["dataset"]["name"].removeprefix("MTEB "))
        task = shipped[name]
        assert task.type == TYPES[result["task"]["type"]], name
        assert (task.split, task.subset) == (result["dataset"]["split"], result["dataset"]["config"]), name
        assert task.main_score in {metric["type"] for metric in result["metrics"]}, name
        revision = result["dataset"]["revision"]
        if revision != "None":
            assert revision == (task.published_revision or task.revision), name
        else:
            assert task.published_revision is None, name


def test_instructions_are_those_of_the_authors() -> None:
    """All texts of a task get its instruction, except for the documents of retrieval."""
    shipped = {name: task for name, task in shipped_tasks().items() if name in INSTRUCTIONS}
    assert {name: task.instruction for name, task in shipped.items()} == INSTRUCTIONS
    assert len(INSTRUCTIONS) == 56
    assert {name for name, task in shipped.items() if task.instructed == "queries"} == {
        name for name, task in shipped.items() if task.type == "retrieval"
    }
    assert len(shipped["CQADupstackRetrieval"].parts) == 12


def test_a_task_says_only_what_is_special(tmp_path: Path) -> None:
    file = tmp_path / "tasks.yaml"
    file.write_text("tasks:\n  - {name: ours, type: sts}\n  - {name: search, type: retrieval, split: dev}\n")
    tasks = read_task_file(str(file), StorageSettings())
    assert [(task.name, task.instructed, task.main_score, task.split) for task in tasks.values()] == [
        ("ours", "all", "cos_sim_spearman", "test"),
        ("search", "queries", "ndcg_at_10", "dev"),
    ]
    assert [Task.model_validate(task.model_dump()) for task in tasks.values()] == [*tasks.values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: [", "The task file {file} is not valid YAML: "),
        ("- name: a", "The task file {file} must have one key, tasks, with a list of tasks."),
        ("tasks: []", "The task file {file} must have one key, tasks, with a list of tasks."),
        ("tasks: [{type: sts}]", "{file}: task 1 (without a name):\n  name: missing, and it has no default"),
        (
            "tasks: [{name: a, type: sts, prompt: x}]",
            "{file}: task 1 (a):\n  prompt: unknown setting. Known: name, type, instruction, instructed, main_score, "
            "split, files, subset, parts, columns, samples_per_label, clustering, max_texts, ignore_identical_ids, "
            "p_values, dataset, revision, published_revision",
        ),
        (
            "tasks: [{name: a, type: sts, instructed: queries}]",
            "{file}: task 1 (a):\n  task: instructed: queries, but sts has no queries: write all, or leave it out",
        ),
        (
            "tasks: [{name: a, type: sts, main_score: accuracy}]",
            "{file}: task 1 (a):\n  task: main_score: sts has no main score accuracy: write cos_sim_spearman, or leave "
            "it out",
        ),
        (
            "tasks: [{name: a, type: sts, samples_per_label: 16}]",
            "{file}: task 1 (a):\n  task: samples_per_label: sts has no such setting, only classification: leave it "
            "out",
        ),
        (
            "tasks: [{name: a, type: clustering, p_values: true, ignore_identical_ids: true}]",
            "{file}: task 1 (a):\n  task: ignore_identical_ids: clustering has no such setting, only retrieval: leave "
            "it out",
        ),
        (
            "tasks: [{name: a, type: clustering, max_texts: 9}]",
            "{file}: task 1 (a):\n  task: max_texts: each set is clustered as a whole: write clustering: samples too, "
            "or leave it out",
        ),
        (
            "tasks: [{name: a, type: sts}, {name: a, type: sts}]",
            "{file}: task 2: there is another task a. Give it a name of its own.",
        ),
        (
            "tasks: [{name: a, type: ranking}]",
            "{file}: task 1 (a):\n  type: Input should be 'retrieval', 'reranking', 'sts', 'pair_classification', "
            "'classification', 'clustering' or 'summarization'",
        ),
    ],
)
def test_a_wrong_task_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "tasks.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        read_task_file(str(file), StorageSettings())
    assert str(error.value).startswith(message.replace("{file}", str(file)))
