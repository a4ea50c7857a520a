"""mteb beside us: the shipped tasks against its metadata."""

from typing import Any

import pytest

from sfr_batch.evaluation.task_files import Task, shipped_tasks
from tests.evaluation.published import TYPES

MAIN_SCORES = {"map_at_1000": "map", "max_over_subqueries_map_at_1000": "map", "cosine_spearman": "cos_sim_spearman"}
"""The keys that cards have for scores that mteb 2 calls otherwise."""
NO_INSTRUCTION = {"CQADupstackRetrieval": "neither the task nor one of its parts has one: ours is that of the authors"}
OTHER_INSTRUCTION = {
    "SummEval": (
        "Given a news summary, retrieve other semantically similar summaries.",
        "the authors have no full stop",
    )
}
NO_DATA = {"CQADupstackRetrieval": "each of its parts is a data set of its own"}
BARE_DOCUMENTS = {
    "AskUbuntuDupQuestions": "mteb's models leave documents bare, the card's authors instructed all texts of reranking",
    "MindSmallReranking": "the same",
    "SciDocsRR": "the same",
    "StackOverflowDupQuestions": "the same",
}
"""What differs between the shipped tasks and mteb, and why."""


@pytest.fixture(scope="module")
def mteb() -> Any:
    return pytest.importorskip("mteb")


def test_shipped_tasks_are_those_of_mteb(mteb: Any) -> None:
    """Name, type, split, main score, subset, data set, revision and instruction, except for what is listed above."""
    for name, task in shipped_tasks().items():
        of_mteb = mteb.get_task(name)
        known = of_mteb.metadata
        assert TYPES[known.type] == task.type, name
        assert task.split in known.eval_splits, name
        assert MAIN_SCORES.get(known.main_score, known.main_score) == task.main_score, name
        assert task.subset in known.hf_subsets, name
        if name in NO_DATA:
            assert (task.dataset, task.revision) == (None, None), name
        else:
            assert (task.dataset, task.revision) == (known.dataset["path"], known.dataset["revision"]), name
        if name not in NO_INSTRUCTION:
            assert task.instruction == instruction_of(of_mteb, task), name
        if known.prompt is not None:
            assert task.instructed == ("queries" if isinstance(known.prompt, dict) else "all"), name


def test_shipped_tasks_are_scored_as_in_mteb(mteb: Any) -> None:
    """Sample sizes, kinds of clustering, and the other settings of measures."""
    for name, task in shipped_tasks().items():
        of_mteb = mteb.get_task(name)
        settings = {
            "samples_per_label": getattr(of_mteb, "samples_per_label", 8),
            "clustering": "samples" if hasattr(of_mteb, "max_document_to_embed") else "whole",
            "max_texts": getattr(of_mteb, "max_document_to_embed", None),
            "ignore_identical_ids": getattr(of_mteb, "ignore_identical_ids", False),
            "p_values": getattr(of_mteb, "evaluator", type).__name__ == "DeprecatedSummarizationEvaluator",
        }
        assert settings == {key: getattr(task, key) for key in settings}, name


def instruction_of(of_mteb: Any, task: Task) -> str | None:
    """What mteb puts before queries and symmetrical texts: the prompt of the task, else that of its type."""
    prompt = of_mteb.metadata.prompt or of_mteb.abstask_prompt
    if isinstance(prompt, dict):
        assert set(prompt) == {"query"}, task.name  # documents have none
        prompt = prompt["query"]
    other, _ = OTHER_INSTRUCTION.get(task.name, (None, ""))
    return task.instruction if prompt == other else str(prompt)


def test_what_differs_from_mteb_is_as_listed(mteb: Any) -> None:
    """So that an exception goes when mteb changes its mind."""
    shipped = shipped_tasks()
    cqadupstack = mteb.get_task("CQADupstackRetrieval").metadata
    assert [part.metadata.name for part in cqadupstack.tasks] == [
        f"CQADupstack{part.capitalize()}Retrieval" for part in shipped["CQADupstackRetrieval"].parts
    ]
    assert [part.metadata.prompt for part in (*cqadupstack.tasks, mteb.get_task("CQADupstackRetrieval"))] == [None] * 13
    for name, (instruction, _) in OTHER_INSTRUCTION.items():
        assert mteb.get_task(name).abstask_prompt == instruction != shipped[name].instruction
    assert {name for name, task in shipped.items() if task.type == "reranking"} == {*BARE_DOCUMENTS}
    model = mteb.get_model_meta("Salesforce/SFR-Embedding-Mistral")
    assert model.loader_kwargs["apply_instruction_to_passages"] is False
