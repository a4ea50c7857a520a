"""What a table answers to questions: they are encoded by its own model, and searched in one of its snapshots.

Judged documents that the table does not have are counted before the model is loaded. Knows no measure.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sfr_batch.errors import CorpusError, counted
from sfr_batch.evaluation.data.given_texts import GivenTexts
from sfr_batch.evaluation.encoding import NO_PROMPT, prepare, vectors_of
from sfr_batch.evaluation.kept import library_versions
from sfr_batch.evaluation.questions.forms import Questions
from sfr_batch.evaluation.ranking import Ranking
from sfr_batch.evaluation.results import Made
from sfr_batch.evaluation.searching import search_documents
from sfr_batch.format import names
from sfr_batch.format.on_screen import shown_id
from sfr_batch.model import prompts
from sfr_batch.table.nearest import FloatArray
from sfr_batch.table.table import Snapshot

if TYPE_CHECKING:
    from sfr_batch.encoder.encoder import Encoder

_LONG = ("config", "tokenizer", "golden_ids")
"""Inputs of a fingerprint that are too long to repeat in each result; the table's card has them."""
_SHOWN = 3
_MOST_DIGITS = 18
"""Of a number that surely fits into an int64."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A snapshot that is asked, and how to get the model of its table."""

    snapshot: Snapshot
    model: Mapping[str, Any]
    """Of the card: the settings of the model."""
    inputs: Mapping[str, Any]
    """Of the fingerprint, as far as they are known."""
    load: "Callable[[], Encoder]"

    @property
    def whole_ids(self) -> bool:
        """Whether ids are whole numbers rather than texts."""
        return bool(pa.types.is_integer(self.snapshot.schema.field(names.ID).type))


@dataclass(frozen=True, slots=True)
class Answers:
    """The ranked documents of a snapshot for each question."""

    table: str
    """URI."""
    snapshot: int
    rows: int
    """Live rows: documents, or their chunks."""
    made: Made
    prompt: str
    """The text before each question."""
    cut: int
    """Questions that are longer than the model takes, and were truncated."""
    ranking: Ranking

    @property
    def where(self) -> str:
        """One line: which snapshot of which table, made with what."""
        rows = counted(self.rows, "row")
        return f"{self.table}, snapshot {self.snapshot}, {rows}, fingerprint {self.made.fingerprint[:12]}"


@dataclass(frozen=True, slots=True)
class Encoded:
    """Questions as vectors."""

    vectors: FloatArray
    """[q, d] float32, of unit length."""
    prompt: str
    """The text before each question."""
    cut: int
    """Questions that are longer than the model takes, and were truncated."""


def encode(asked: Asked, questions: Questions, prompt: str) -> Encoded:
    """Encode the questions with the model of the table. prompt: the name of the one before questions, or none.

    Raises ConfigError, ModelError, and what `EmbeddingTable.encoder` raises.
    """
    encoder, texts = asked.load(), list(questions.texts.values())
    prepared = prepare(encoder, GivenTexts(texts, [f"the question {text[:60]!r}" for text in texts]), prompt)
    text = "" if prompt == NO_PROMPT else prompts.resolve(encoder.recipe.prompts, prompt)
    return Encoded(np.concatenate(list(vectors_of(encoder, prepared))), text, prepared.cut)


def answer(asked: Asked, questions: Questions, encoded: Encoded, k: int) -> Answers:
    """The first ``k`` documents for each question. Raises TableError."""
    snapshot = asked.snapshot
    scan = snapshot.scan([names.ID, names.EMBEDDING])
    ranking = search_documents(scan.batches, list(questions.texts), encoded.vectors, k)
    inputs = {name: value for name, value in asked.inputs.items() if name not in _LONG}
    made = Made(str(asked.model.get("path", "")), snapshot.manifest.fingerprint, inputs, library_versions())
    rows = snapshot.manifest.counts.vectors
    return Answers(snapshot.store.root, snapshot.number, rows, made, encoded.prompt, encoded.cut, ranking)


def absent(asked: Asked, documents: Collection[str]) -> set[str]:
    """Those of ``documents``, which are ids as texts, that the snapshot does not have. Reads the ids of the table."""
    kind = asked.snapshot.schema.field(names.ID).type
    # No table has an id with half a character, which JSON can escape.
    wanted: list[Any] = [name for name in documents if name.encode(errors="ignore").decode() == name]
    if asked.whole_ids:
        wanted = [int(name) for name in documents if _is_whole(name)]
    found = asked.snapshot.scan([names.ID], ids=pa.array(wanted, kind)).to_arrow().column(names.ID)
    return set(documents) - {str(name) for name in found.unique().to_pylist()}


def check_documents(asked: Asked, questions: Questions) -> tuple[str, ...]:
    """Sentences on relevant documents that the table does not have: they can never be found.

    Raises CorpusError if it has none of them.
    """
    missing = absent(asked, questions.relevant)
    if not missing:
        return ()
    root, number = asked.snapshot.store.root, asked.snapshot.number
    known = [name for name in questions.relevant if name in missing]
    no_number = [name for name in known if not _is_whole(name)] if asked.whole_ids else []
    kinds = f" Its ids are whole numbers, and {no_number[0]!r} is none." if no_number else ""
    if len(missing) == len(questions.relevant):
        raise CorpusError(
            f"{root}, snapshot {number}, has none of the {counted(len(missing), 'document')} that are relevant to the "
            f"questions.{kinds} Judged are {_examples(known)}; ids of the table are {_examples(_some_ids(asked))}. Are "
            "the judgements of another table, or is another column the one with the ids?"
        )
    hopeless = sum(
        all(name in missing for name, grade in own.items() if grade > 0)
        for own in questions.qrels.values()
        if any(grade > 0 for grade in own.values())
    )
    rejected = _rejected(asked, missing)
    are = "is" if len(missing) == 1 else "are"
    told = f"{len(missing):,} of {len(questions.relevant):,} relevant documents {are} not in the table, such as "
    told += f"{_examples(known)}: not found by any question.{kinds}"
    if rejected:
        were = "was" if len(rejected) == 1 else "were"
        told += f" {len(rejected):,} of them {were} rejected when it was made, such as {_examples(rejected)}."
    if hopeless:
        told += f" {counted(hopeless, 'question')} can find no relevant document at all."
    return (told,)


def _is_whole(name: str) -> bool:
    """Whether an id is the text of a whole number, as a table writes it."""
    digits = name.removeprefix("-")
    return len(digits) <= _MOST_DIGITS and digits.isascii() and digits.isdigit() and str(int(name)) == name


def _some_ids(asked: Asked) -> list[str]:
    first = next(iter(asked.snapshot.scan([names.ID]).batches()), None)
    return [] if first is None else [str(name) for name in first.column(names.ID)[:_SHOWN].to_pylist()]


def _rejected(asked: Asked, missing: Collection[str]) -> list[str]:
    rejects = asked.snapshot.rejects(duplicates=False).column(names.ID).to_pylist()
    return list(dict.fromkeys(str(name) for name in rejects if str(name) in missing))


def _examples(ids: Sequence[str]) -> str:
    """Up to three ids, as a sentence has them."""
    shown = [f"'{shown_id(name)}'" for name in ids[:_SHOWN]]
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
