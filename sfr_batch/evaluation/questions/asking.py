"""Asks tables the questions of a person: one to score it, two to compare them.

All that can be known without a model is said before one is loaded.
"""

from collections.abc import Callable, Sequence
from typing import Any

from sfr_batch.errors import ConfigError, counted
from sfr_batch.evaluation.measures.libraries import need_libraries
from sfr_batch.evaluation.questions.answers import Answers, Asked, absent, answer, check_documents, encode
from sfr_batch.evaluation.questions.comparison import TableComparison
from sfr_batch.evaluation.questions.forms import Questions
from sfr_batch.evaluation.questions.scores import TOP, TableScores, score
from sfr_batch.format.fingerprint import differences

Say = Callable[[str], None]
BEFORE, AFTER = "before", "after"
_QUESTION_PROMPT = "prompt of questions"
_GOLDEN = "golden_ids:"


def score_table(asked: Asked, questions: Questions, k: int, prompt: str, say: Say) -> TableScores:
    """The scores of a snapshot. say: is told what is to be said before the model is loaded, a sentence at a time.

    Raises ConfigError, CorpusError, TableError and ModelError.
    """
    if not questions.qrels:
        raise ConfigError(
            f"{questions.source} names no documents, so there is nothing to score. A column document, doc_id or "
            "corpus-id says which document answers a question (of another name: --column document=NAME), or a file of "
            "judgements does (--qrels FILE). Without judgements, compare with another table: --against TABLE."
        )
    need_libraries()
    remarks = [*questions.remarks, *check_documents(asked, questions)]
    for remark in remarks:
        say(remark)
    answers = answer(asked, questions, encode(asked, questions, prompt), k)
    remarks += _cut(answers)
    return TableScores(questions, answers, k, score(answers, questions, k), tuple(remarks))


def compare_tables(before: Asked, after: Asked, questions: Questions, k: int, prompt: str, say: Say) -> TableComparison:
    """How the snapshot after answers, beside the one before. Each encodes the questions with its own model.

    Raises as `score_table`; questions without judgements are enough.
    """
    if before.snapshot.store.root == after.snapshot.store.root and before.snapshot.number == after.snapshot.number:
        raise ConfigError(
            f"{after.snapshot.store.root}, snapshot {after.snapshot.number}, would be compared with itself. Name "
            "another table, or another snapshot."
        )
    remarks = list(questions.remarks)
    if questions.qrels:
        need_libraries()
        remarks += _of_sides(check_documents(before, questions), check_documents(after, questions))
    for remark in remarks:
        say(remark)
    # Both before the first search, which may take long: a model that is no longer that of its table is known by then.
    encoded = encode(before, questions, prompt)
    encoded_after = encoded if _same_model(before, after) else encode(after, questions, prompt)
    old, new = answer(before, questions, encoded, k), answer(after, questions, encoded_after, k)
    remarks += _of_sides(_cut(old), _cut(new))
    scores = [score(one, questions, k) for one in (old, new)] if questions.qrels else [None, None]
    gone = absent(after, {name for own in old.ranking.values() for name in own.documents[:TOP]})
    differs = _differences(before, after, old, new)
    return TableComparison(questions, old, new, k, differs, scores[0], scores[1], len(gone), tuple(remarks))


def _same_model(one: Asked, other: Asked) -> bool:
    """Whether both encode a question to the same vector: prompts of questions are in no fingerprint."""
    return one.inputs == other.inputs and one.model == other.model


def _differences(before: Asked, after: Asked, old: Answers, new: Answers) -> list[str]:
    """What makes other vectors, and the prompt of questions, in lines."""
    sides: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for side, asked, answers in zip(sides, (before, after), (old, new), strict=True):
        side |= {**asked.inputs, _QUESTION_PROMPT: answers.prompt}
    lines = differences(*sides, BEFORE, AFTER)
    # The ids of golden texts differ because something else does.
    return [line for line in lines if not line.startswith(_GOLDEN)] or lines


def _of_sides(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """Remarks on both tables, once if they are the same."""
    if before == after:
        return list(before)
    return [f"{side}: {told}" for side, all_told in ((BEFORE, before), (AFTER, after)) for told in all_told]


def _cut(answers: Answers) -> list[str]:
    limit: Any = answers.made.inputs.get("max_length")
    if not answers.cut:
        return []
    return [f"{counted(answers.cut, 'question is', 'questions are')} longer than {limit} tokens, and cut."]
