"""What stands before the texts of each type of task, for the forms of prompts that models have."""

from collections.abc import Mapping

import pytest

from sfr_batch.evaluation.instructions import Prompts
from sfr_batch.evaluation.task_files import RERANKING, RETRIEVAL, STS, Task
from sfr_batch.model.prompts import instruct

WEB = "Given a web search query, retrieve relevant passages that answer the query"
GRIT = "<|user|>\n{instruction}\n<|embed|>\n"
BGE = "Represent this sentence for searching relevant passages: "
GEMMA = {
    "query": "task: search result | query: ",
    "document": "title: none | text: ",
    "Retrieval-query": "task: search result | query: ",
    "Retrieval-document": "title: none | text: ",
    "STS": "task: sentence similarity | query: ",
    "Reranking": "task: search result | query: ",
}
E5_MISTRAL = {"web_search_query": instruct(WEB), "sts_query": instruct("Retrieve semantically similar text.")}

ALL_TEXTS = "The prompt of queries stands before all texts"
UNUSED = "The task's instruction is not used"
SOME = "No prompt, though the model has some"
LAST = "No instruction, since model.prompts.query is empty"
NONE = "No instruction, though the model takes one"


def task(kind: str, instruction: str | None = "Do") -> Task:
    return Task(name="t", type=kind, instruction=instruction)  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize(
    ("prompts", "form", "asked", "compared", "remarks"),
    [
        ({"query": instruct(WEB)}, None, instruct("Do"), instruct("Do"), ([], [])),
        ({"query": instruct(WEB)[:-1], "document": ""}, None, instruct("Do")[:-1], instruct("Do")[:-1], ([], [])),
        (E5_MISTRAL, None, instruct("Do"), instruct("Do"), ([], [])),
        ({"query": GRIT.format(instruction=WEB)}, GRIT, GRIT.format(instruction="Do"), None, ([], [])),
        ({"query": GRIT.format(instruction=WEB)}, None, None, None, ([UNUSED], [ALL_TEXTS, UNUSED])),
        ({"query": BGE}, None, BGE, BGE, ([UNUSED], [ALL_TEXTS, UNUSED])),
        ({"query": BGE, "STS": ""}, None, BGE, "", ([UNUSED], [])),
        ({"query": "search_query: "}, None, "search_query: ", "search_query: ", ([], [ALL_TEXTS])),
        (GEMMA, None, GEMMA["query"], GEMMA["STS"], ([], [])),
        (GEMMA, "Task: {instruction} ", "Task: Do ", "Task: Do ", ([], [])),
        ({"query": instruct(WEB), "STS": "sts: ", "t-query": "own: "}, None, "own: ", "sts: ", ([], [])),
        ({"s2p_query": "Ask: "}, None, "", "", ([SOME], [SOME])),
        ({}, None, "", "", ([LAST], [LAST])),
    ],
    ids=[
        *("SFR", "Qwen3", "e5-mistral", "GritLM with a form", "GritLM", "bge", "bge for retrieval alone", "nomic"),
        *("EmbeddingGemma", "a form goes first", "a prompt of the task", "prompts of other names", "none"),
    ],
)
def test_the_prompts_of_models(
    prompts: Mapping[str, str],
    form: str | None,
    asked: str | None,
    compared: str | None,
    remarks: tuple[list[str], list[str]],
) -> None:
    """None: the prompt of queries, or, with a form, the same as before queries."""
    found = Prompts.of(prompts, form)
    expected = prompts.get("query") if asked is None else asked
    assert found.instructed(task(RETRIEVAL)) == found.instructed(task(RERANKING)) == expected
    assert found.instructed(task(STS)) == (expected if compared is None else compared)
    for kind, beginnings in zip((RETRIEVAL, STS), remarks, strict=True):
        told = list(found.remarks(task(kind), "last_token"))
        assert len(told) == len(beginnings), told
        assert all(one.startswith(begin) for one, begin in zip(told, beginnings, strict=True)), told


def test_what_is_right_has_no_remark() -> None:
    """A model without prompts that pools otherwise; and a model with instructions whose task names none has one."""
    assert not [*Prompts.of({}).remarks(task(RETRIEVAL), "mean")]
    assert not [*Prompts.of({"query": "query: "}).remarks(task(RETRIEVAL), "mean")]
    instructed = Prompts.of({"query": instruct(WEB)})
    assert not [*instructed.remarks(task(RETRIEVAL, None), "last_token")]
    (told,) = instructed.remarks(task(STS, None), "last_token")
    assert told.startswith(NONE)
    assert Prompts.of(GEMMA).fitted(task(RERANKING)).instructed == "queries"
