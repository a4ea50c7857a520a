"""A table that can be asked questions of one's own: `EmbeddingTable.evaluate` and `compare`.

Loads neither a model nor a library of measures before it is asked.
"""

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sfr_batch.config.settings import StorageSettings
from sfr_batch.storage.locations import Location
from sfr_batch.table.arguments import whole_number
from sfr_batch.table.table import Table

if TYPE_CHECKING:
    from sfr_batch.encoder.encoder import Encoder
    from sfr_batch.evaluation.questions.answers import Asked
    from sfr_batch.evaluation.questions.comparison import TableComparison
    from sfr_batch.evaluation.questions.forms import Given
    from sfr_batch.evaluation.questions.scores import TableScores


class Askable(Table):
    """A table with the model that made it."""

    @property
    @abstractmethod
    def encoder(self) -> "Encoder":
        """The model of the table."""

    @abstractmethod
    def _open(self, path: Location, storage: StorageSettings | None) -> "Askable":
        """Another table, or the one behind a pointer."""

    def evaluate(
        self,
        questions: "Given",
        qrels: str | os.PathLike[str] | None = None,
        *,
        k: int = 100,
        prompt: str = "query",
        snapshot: int | None = None,
        columns: Mapping[str, str] | None = None,
        storage: StorageSettings | None = None,
        say: Callable[[str], None] | None = None,
    ) -> "TableScores":
        """nDCG, recall, MAP, precision and MRR of a snapshot for questions of your own, by exact search.

        questions: a path, a DataFrame, {question: [id, …]} or {question: {id: grade}}, see `questions.forms`;
        qrels: the file with their judgements, if they are in another one. k: documents to look at for each question.
        prompt: the name of the one before questions, or "none". columns: {"query": NAME, "document": NAME, "grade":
        NAME} where names are unusual. storage: of the files. say: is told what is to be said before the model is
        loaded. Raises CorpusError, ConfigError, and what `encoder` raises.
        """
        from sfr_batch.evaluation.questions.asking import score_table
        from sfr_batch.evaluation.questions.forms import read_questions

        asked = self._asked(snapshot)
        read = read_questions(questions, qrels, columns=columns, storage=storage)
        return score_table(asked, read, whole_number("k", k, 1), prompt, say or _ignore)

    def compare(
        self,
        against: "Askable | Location",
        questions: "Given",
        qrels: str | os.PathLike[str] | None = None,
        *,
        k: int = 100,
        prompt: str = "query",
        snapshot: int | None = None,
        against_snapshot: int | None = None,
        columns: Mapping[str, str] | None = None,
        storage: StorageSettings | None = None,
        say: Callable[[str], None] | None = None,
    ) -> "TableComparison":
        """How this table answers questions beside the table ``against``, which is the one before: scores, overlap, and
        the questions that lost most.

        Questions without judgements are enough: the answers of the table before are then the reference. Each table
        encodes the questions with its own model, one loaded after the other. snapshot, against_snapshot: numbers;
        ``table.compare(table, questions, against_snapshot=1)`` compares two states of one table. Else as `evaluate`.
        """
        from sfr_batch.evaluation.questions.asking import compare_tables
        from sfr_batch.evaluation.questions.forms import read_questions

        before = against if isinstance(against, Askable) else self._open(against, storage)
        asked = before._asked(against_snapshot, keep=False), self._asked(snapshot)
        read = read_questions(questions, qrels, columns=columns, storage=storage)
        return compare_tables(*asked, read, whole_number("k", k, 1), prompt, say or _ignore)

    def _asked(self, snapshot: int | None, *, keep: bool = True) -> "Asked":
        """A snapshot for questions. keep: whether a model that is loaded for them stays in memory."""
        from sfr_batch.evaluation.questions.answers import Asked

        def load() -> "Encoder":
            loaded = "encoder" in vars(self)
            encoder = self.encoder
            if not (keep or loaded):
                vars(self).pop("encoder", None)
            return encoder

        chosen = self.current() if snapshot is None else self.snapshot(snapshot)
        return Asked(chosen, self.card.model, self.known_inputs(self.latest()), load)


def _ignore(remark: str) -> None:
    pass
