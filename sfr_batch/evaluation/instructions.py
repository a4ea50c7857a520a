"""The text before a text: the instruction of a task, in the form that the model was trained with.

Knows the prompts of a model and tasks; knows no tokenizer.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sfr_batch.evaluation.task_files import (
    CLASSIFICATION,
    CLUSTERING,
    PAIR_CLASSIFICATION,
    QUERIES,
    RERANKING,
    RETRIEVAL,
    STS,
    SUMMARIZATION,
    Task,
)
from sfr_batch.model.prompts import DOCUMENT, QUERY, resolve

_FORM = re.compile(r"(Instruct: ).+(\n ?Query: ?)", re.DOTALL)
"""Instruct-tuned models of the E5 family, SFR, Linq, Qwen3 and others; some have no blank at the end."""
_PLACE = "{instruction}"
_WORD = re.compile(r"[^\W_]+")
TYPES = {
    RETRIEVAL: "Retrieval",
    RERANKING: "Reranking",
    STS: "STS",
    PAIR_CLASSIFICATION: "PairClassification",
    CLASSIFICATION: "Classification",
    CLUSTERING: "Clustering",
    SUMMARIZATION: "Summarization",
}
"""mteb's names of the types of tasks, which models use as names of prompts: EmbeddingGemma, nomic-embed and others."""
_LAST_TOKEN = "last_token"
"""The pooling of models that are made of language models, and trained with instructions."""
_SHOWN, _MARK = 4, 5
"""Names of prompts in a sentence; words of the longest prompt that only marks a side, as "search_query: " does."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a model puts before texts."""

    query: str
    document: str
    named: Mapping[str, str]
    """All prompts, by name."""
    form: str | None
    """With {instruction} where the instruction of a task stands; None: the model has fixed prompts, or none."""
    form_given: bool = False
    """Whether `evaluation.prompt` says the form: it goes before prompts of the model that are for a type of tasks."""

    @classmethod
    def of(cls, prompts: Mapping[str, str], form: str | None = None) -> "Prompts":
        """Those of a recipe. form: `evaluation.prompt`; else it is that of the prompt of queries or, where they have
        none, of all prompts with an instruction, such as the web_search_query and sts_query of e5-mistral.
        """
        query, document = resolve(prompts, QUERY), resolve(prompts, DOCUMENT)
        found = {
            f"{match[1]}{_PLACE}{match[2]}"
            for text in ([query] if query else prompts.values())
            if (match := _FORM.fullmatch(text))
        }
        own = found.pop() if len(found) == 1 else None
        return cls(query, document, prompts, form or own, form is not None)

    def instructed(self, task: Task) -> str:
        """The text before an instructed text of a task: the first that there is of evaluation.prompt, a prompt of the
        model that is named after the task or its type, and the form of its prompt of queries. Else it is the prompt of
        queries, as the E5 models of fixed prompts are meant: their "query: " precedes all texts that are compared with
        each other.
        """
        own = self.own(task.name, TYPES[task.type], query=_asks(task))
        return self.before(task.instruction, query=_asks(task)) if own is None else own

    def own(self, name: str, kind: str, *, query: bool) -> str | None:
        """The prompt that the model has for a task or for a type of tasks, by mteb's names and in its order."""
        if self.form_given:
            return None
        sides = (f"-{QUERY}", "") if query else ("",)
        keys = (one + side for one in (name, kind) for side in sides)
        return next((self.named[key] for key in keys if key in self.named), None)

    def before(self, instruction: str | None, *, query: bool) -> str:
        """The text before an instructed text, where the model has none for this task or type. query: whether it asks
        for documents; else it is compared with others."""
        if self.form is None:
            return self.query
        if instruction is not None:
            return self.form.replace(_PLACE, instruction)
        return self.query if query else self.document

    def fitted(self, task: Task) -> Task:
        """The task as it is done with these prompts: a prompt for queries is none for the documents of reranking."""
        fixed = self.form is None or self.own(task.name, TYPES[task.type], query=True) is not None
        if fixed and task.type == RERANKING:
            return task.model_copy(update={"instructed": QUERIES})
        return task

    def remarks(self, task: Task, pooling: object) -> Iterator[str]:
        """What a reader should know of the prompts of a task: where they may not be those that the model was trained
        with. pooling: that of the model."""
        if self.own(task.name, TYPES[task.type], query=_asks(task)) is not None:
            return
        if self.form is not None:
            if task.instruction is None and not self.before(None, query=_asks(task)):
                yield "No instruction, though the model takes one: give the task its instruction."
            return
        yield from self._remarks_without_form(task, pooling)

    def _remarks_without_form(self, task: Task, pooling: object) -> Iterator[str]:
        others = sorted(name for name, text in self.named.items() if text and name not in (QUERY, DOCUMENT))
        if not self.query and others:
            shown = ", ".join(others[:_SHOWN]) + (", …" if len(others) > _SHOWN else "")
            yield (
                f"No prompt, though the model has some ({shown}): none is called query or {TYPES[task.type]}. "
                f"model.prompts.query, or model.prompts.{TYPES[task.type]} for these tasks alone, says which it is."
            )
        elif not self.query and pooling == _LAST_TOKEN:
            yield (
                "No instruction, since model.prompts.query is empty. Models that pool the last token are trained with "
                "instructions: say in which form in evaluation.prompt."
            )
        elif self.query and not _asks(task):
            yield (
                "The prompt of queries stands before all texts, as E5 models of fixed prompts are meant. If the model "
                f"has another one for these tasks, or none: model.prompts.{TYPES[task.type]}."
            )
        if task.instruction is not None and len(_WORD.findall(self.query)) > _MARK:
            yield (
                "The task's instruction is not used: model.prompts.query does not show where it would stand. If the "
                "model takes instructions, say in which form in evaluation.prompt."
            )


def _asks(task: Task) -> bool:
    """Whether a task has queries and documents; else all its texts are of one kind."""
    return task.type in (RETRIEVAL, RERANKING)
