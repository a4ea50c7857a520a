"""The text before a text: the instruction of a task, in the form that the model was trained with.

Knows the prompts of a model and tasks; knows no tokenizer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sfr_batch.evaluation.task_files import QUERIES, RERANKING, RETRIEVAL, Task
from sfr_batch.model.prompts import DOCUMENT, QUERY, resolve

_FORM = re.compile(r"(Instruct: ).+(\n ?Query: ?)", re.DOTALL)
"""Instruct-tuned models of the E5 family, SFR, Linq, Qwen3 and others; some have no blank at the end."""
_PLACE = "{instruction}"


@dataclass(frozen=True, slots=True)
class Prompts:
    """What a model puts before texts."""

    query: str
    document: str
    form: str | None
    """With {instruction} where the instruction of a task stands; None: the model has fixed prompts, or none."""

    @classmethod
    def of(cls, prompts: Mapping[str, str], form: str | None = None) -> "Prompts":
        """Those of a recipe. form: `evaluation.prompt`."""
        query, document = resolve(prompts, QUERY), resolve(prompts, DOCUMENT)
        found = _FORM.fullmatch(query)
        return cls(query, document, form or (f"{found[1]}{_PLACE}{found[2]}" if found else None))

    def instructed(self, task: Task) -> str:
        """The text before an instructed text of a task. Models without a form have the prompt of queries for them, as
        the E5 models of fixed prompts are meant: their "query: " precedes all texts that are compared with each other.
        """
        return self.before(task.instruction, query=task.type in (RETRIEVAL, RERANKING))

    def before(self, instruction: str | None, *, query: bool) -> str:
        """The text before an instructed text. query: whether it asks for documents; else it is compared with others."""
        if self.form is None:
            return self.query
        if instruction is not None:
            return self.form.replace(_PLACE, instruction)
        return self.query if query else self.document

    def fitted(self, task: Task) -> Task:
        """The task as it is done with these prompts: a prompt for queries is none for the documents of reranking."""
        if self.form is None and task.type == RERANKING:
            return task.model_copy(update={"instructed": QUERIES})
        return task
