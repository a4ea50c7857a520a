"""Data sets of pairs, labels, candidates and summaries as values, one class for each form; how they are read.

Every error is a CorpusError that names the file and the row. Knows no model: all checks come before a GPU is used.
`retrieval_set` has the sets of retrieval.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import CorpusError
from sfr_batch.evaluation.data.data_folder import DataFolder
from sfr_batch.evaluation.data.fields import Digest, Fields
from sfr_batch.evaluation.data.rows import Row, read_rows
from sfr_batch.evaluation.task_files import PAIR_CLASSIFICATION, Task

_ALSO = {"validation": ("validation", "dev", "valid", "val"), "dev": ("dev", "validation", "valid", "val")}
"""The other names of a split."""
_ONE = "default"
"""The subset of a data set that has no others."""
_LANGUAGE = "lang"
"""The column in which mteb's sets of several languages name the subset of a row."""
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Pairs:
    """[n] pairs of texts, each with a score: the similarity that people gave it (STS), or 1 for a pair that belongs
    together and 0 for another (pair classification)."""

    first: Sequence[str]
    second: Sequence[str]
    scores: Sequence[float]
    version: str
    """Of the data: a hash of all values, whatever the format of the files."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """[n] texts, each with a label."""

    texts: Sequence[str]
    labels: Sequence[str]


@dataclass(frozen=True, slots=True)
class Classes:
    """Texts with labels to learn from, and others to try it on."""

    train: Labelled
    test: Labelled
    version: str


@dataclass(frozen=True, slots=True)
class Clusters:
    """Sets of texts with labels, each clustered by itself."""

    sets: Sequence[Labelled]
    version: str


@dataclass(frozen=True, slots=True)
class Candidates:
    """One query of reranking: one text, or several that ask for the same, and the documents to put in order."""

    queries: Sequence[str]
    positive: Sequence[str]
    negative: Sequence[str]


@dataclass(frozen=True, slots=True)
class Rerankings:
    """[n] queries with their candidates. ``left_out``: rows without a positive or without a negative candidate, which
    no order of the candidates can tell apart; mteb leaves them out, too."""

    rows: Sequence[Candidates]
    left_out: int
    version: str


@dataclass(frozen=True, slots=True)
class Summaries:
    """Summaries of one text: by people, and by machines with how relevant people found each of them."""

    human: Sequence[str]
    machine: Sequence[str]
    relevance: Sequence[float]


@dataclass(frozen=True, slots=True)
class SummarySet:
    """[n] texts with their summaries."""

    rows: Sequence[Summaries]
    version: str


def read_pairs(task: Task, path: str, settings: StorageSettings) -> Pairs:
    """The pairs of an STS or pair classification task. Raises CorpusError."""
    fields, digest = Fields(task.columns), Digest()
    binary = task.type == PAIR_CLASSIFICATION
    first: list[str] = []
    second: list[str] = []
    scores: list[float] = []
    for row in _rows(task, path, settings):
        one, two, values = fields.texts(row, "sentence1"), fields.texts(row, "sentence2"), fields.numbers(row, "score")
        fields.equally_many(row, sentence1=one, sentence2=two, score=values)
        strange = next((value for value in values if binary and value not in (0, 1)), None)
        if strange is not None:
            raise CorpusError(
                f"{row.place}: the label is {strange:g}, but pair_classification has only 1, for a pair that belongs "
                "together, and 0. Write these, or name the right column in the task's columns: {score: NAME}."
            )
        first += one
        second += two
        scores += values
        digest.add(*one, *two, *values)
    if len({*scores}) == 1:
        raise CorpusError(
            f"{task.name}: all pairs have the same {'label' if binary else 'score'}, {scores[0]:g}, so nothing can be "
            "scored. Name the right column in the task's columns: {score: NAME}."
        )
    return Pairs(first, second, scores, digest.version)


def read_classes(task: Task, path: str, settings: StorageSettings) -> Classes:
    """The texts of a classification task, of the split `train` and of the task's own. Raises CorpusError."""
    digest = Digest()
    folder = DataFolder.at(path, settings)
    if folder.is_file:
        raise CorpusError(
            f"{folder.uri} is one file: {task.name} learns from one split and is scored on another. Give the folder "
            "that has both, such as train.csv and test.csv."
        )
    train = _labelled(task, _of_files(folder, task, ("train",), settings), digest)
    digest.add(len(train.texts))
    test = _labelled(task, _of_files(folder, task, _names(task), settings), digest)
    strange = sorted({*test.labels} - {*train.labels})
    if strange:
        raise CorpusError(
            f"{folder.uri}: no row of the split train has the label {strange[0]!r} of the split {task.split}. Check "
            "that both splits are of one data set and name the same column of labels."
        )
    if len({*train.labels}) < 2:
        raise CorpusError(f"{folder.uri}: all rows of the split train have the label {train.labels[0]!r}.")
    return Classes(train, test, digest.version)


def read_clusters(task: Task, path: str, settings: StorageSettings) -> Clusters:
    """The texts of a clustering task. A row whose columns are lists is a set of its own; else all rows are one set.

    Raises CorpusError.
    """
    fields, digest = Fields(task.columns), Digest()
    sets: list[Labelled] = []
    all_texts: list[str] = []
    all_labels: list[str] = []
    for row in _rows(task, path, settings):
        both = fields.is_written_list(row, "text") and fields.is_written_list(row, "label")
        texts = fields.members(row, "text") if both else fields.texts(row, "text")
        labels = fields.labels(row, "label")
        fields.equally_many(row, text=texts, label=labels)
        digest.add(*texts, *labels)
        if not texts:
            raise CorpusError(f"{row.place}: its lists are empty. Remove the row.")
        if fields.is_list(row, "text"):
            sets.append(Labelled(texts, labels))
        else:
            all_texts += texts
            all_labels += labels
    sets += [Labelled(all_texts, all_labels)] if all_texts else []
    if all(len({*own.labels}) == 1 for own in sets):
        raise CorpusError(
            f"{task.name}: all texts{' of each set' if len(sets) > 1 else ''} have the same label, so nothing can be "
            "scored. Name the right column in the task's columns: {label: NAME}."
        )
    return Clusters(sets, digest.version)


def read_rerankings(task: Task, path: str, settings: StorageSettings) -> Rerankings:
    """The queries and candidates of a reranking task. Raises CorpusError."""
    fields, digest = Fields(task.columns), Digest()
    found: list[Candidates] = []
    left_out = 0
    for row in _rows(task, path, settings):
        parts = [fields.texts(row, "query"), fields.members(row, "positive"), fields.members(row, "negative")]
        digest.add(*(text for part in parts for text in (str(len(part)), *part)))
        if not parts[0]:
            raise CorpusError(f"{row.place}: the query is empty. Remove the row, or give it a text.")
        if parts[1] and parts[2]:
            found.append(Candidates(*parts))
        else:
            left_out += 1
    if not found:
        raise CorpusError(f"{task.name}: no row has both positive and negative candidates. Check the columns.")
    return Rerankings(found, left_out, digest.version)


def read_summaries(task: Task, path: str, settings: StorageSettings) -> SummarySet:
    """The texts and summaries of a summarization task. Raises CorpusError."""
    fields, digest = Fields(task.columns), Digest()
    found: list[Summaries] = []
    for row in _rows(task, path, settings):
        human = fields.members(row, "human_summaries")
        machine = fields.members(row, "machine_summaries")
        relevance = fields.numbers(row, "relevance")
        fields.equally_many(row, machine_summaries=machine, relevance=relevance)
        if not human or not machine:
            raise CorpusError(f"{row.place}: it has no human_summaries or no machine_summaries. Remove the row.")
        digest.add(str(len(human)), *human, *machine, *relevance)
        found.append(Summaries(human, machine, relevance))
    if all(len({*row.relevance}) == 1 for row in found):
        raise CorpusError(f"{task.name}: in each row, all relevance is the same, so nothing can be scored.")
    return SummarySet(found, digest.version)


def _labelled(task: Task, rows: Iterator[Row], digest: Digest) -> Labelled:
    fields = Fields(task.columns)
    texts: list[str] = []
    labels: list[str] = []
    for row in rows:
        own_texts, own_labels = fields.texts(row, "text"), fields.labels(row, "label")
        fields.equally_many(row, text=own_texts, label=own_labels)
        texts += own_texts
        labels += own_labels
        digest.add(*(part for both in zip(own_texts, own_labels, strict=True) for part in both))
    return Labelled(texts, labels)


def _rows(task: Task, path: str, settings: StorageSettings) -> Iterator[Row]:
    return _of_files(DataFolder.at(path, settings), task, _names(task), settings)


def _names(task: Task) -> Sequence[str]:
    return task.files or (task.split,)


def _of_files(folder: DataFolder, task: Task, names: Sequence[str], settings: StorageSettings) -> Iterator[Row]:
    """The rows of all files of these names, of the task's subset alone. Raises CorpusError if a name has none.

    A subset has a folder or, in a folder of the split, a file of its own, or its name stands in its rows.
    """
    for name in names:
        known = _ALSO.get(name, (name,))
        of_subset = [place for one in known for place in (f"{task.subset}/{one}", f"{one}/{task.subset}")]
        files = folder.find(*known, first=of_subset)
        only = _language(files, task, settings)
        empty = True
        for uri in files:
            for row in read_rows(uri, settings):
                if only in (None, row.values.get(_LANGUAGE)):
                    empty = False
                    yield row
        if empty:
            raise CorpusError(f"{files[0]} has no rows: the split {name} is empty. Fetch the data set again.")


def _language(files: Sequence[str], task: Task, settings: StorageSettings) -> str | None:
    """The subset, if it has to be picked from rows of several languages. Raises CorpusError if they have none of it."""
    if task.subset == _ONE:
        return None
    first = next((row for uri in files for row in read_rows(uri, settings)), None)
    if first is None or _LANGUAGE not in first.values:
        return None
    there = {str(row.values.get(_LANGUAGE)) for uri in files for row in read_rows(uri, settings)}
    if len(there) == 1:
        return None
    if task.subset not in there:
        known = ", ".join(sorted(there)[:_SHOWN]) + (", …" if len(there) > _SHOWN else "")
        raise CorpusError(
            f"{files[0]} has rows of several languages, and none with {task.subset} in its column {_LANGUAGE}: "
            f"{known}. Give the data of {task.name} alone, or a task of your own whose subset is one of these."
        )
    return task.subset
