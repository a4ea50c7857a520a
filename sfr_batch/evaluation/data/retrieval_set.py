"""A data set of retrieval in BEIR's layout: corpus, queries and judgements (qrels), checked against each other.

The documents stay where they are: the main job embeds them. Knows no model: all checks come before a GPU is used.
"""

import hashlib
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import CorpusError, counted
from sfr_batch.evaluation.data.data_folder import DataFolder
from sfr_batch.evaluation.data.fields import Digest, Fields
from sfr_batch.evaluation.data.judgements import read_qrels
from sfr_batch.evaluation.data.rows import Row, read_rows
from sfr_batch.evaluation.ranking import Qrels
from sfr_batch.evaluation.task_files import Task


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """A corpus that stays in its files, the judged queries of a split, and their judgements."""

    corpus: Sequence[str]
    """URIs of the files with the documents."""
    documents: int
    blank: int
    """Documents with neither title nor text, which no table has."""
    columns: Mapping[str, str]
    """The names of the columns id, text and, where documents have titles, title. The text of a document is its title, a
    space and its text, stripped, as BEIR and MTEB have it."""
    id_type: type | None
    """Of the ids in the files: str or int; None if some are texts and others numbers."""
    queries: Mapping[str, str]
    """The texts of the judged queries, by id; in the order of their file."""
    qrels: Qrels
    left_out: int
    """Queries without a judgement in this split."""
    version: str
    """Of the data: a hash of all documents, judged queries and judgements, whatever the format of the files."""
    corpus_version: str
    """Of the documents alone, whose vectors serve all splits, and mteb: see `mteb_adapter`."""


def read_retrieval(task: Task, path: str, settings: StorageSettings) -> RetrievalSet:
    """The data set of a retrieval task: corpus.*, queries.* and qrels/SPLIT.* below ``path``.

    Raises CorpusError for judgements of documents or queries that there are not, repeated ids, texts that are missing,
    and for a split without judgements.
    """
    folder, fields, digest = DataFolder.at(path, settings), Fields(task.columns), Digest()
    if folder.is_file:
        raise CorpusError(f"{folder.uri} is one file. Give the folder that has corpus.jsonl, queries.jsonl and qrels/.")
    qrels, place = read_qrels(_qrels_files(folder, task), fields, settings)
    asked = _files(folder, task, "queries")
    queries, left_out = _read_queries(asked, qrels, fields, settings)
    if missing := qrels.keys() - queries.keys():
        query = min(missing, key=lambda query: place[query])
        raise CorpusError(
            f"{place[query]} judges the query {query!r}, which {asked[0]} does not have"
            f"{_and_others(len(missing), 'query', 'queries')}. Fetch the data set again, or remove these judgements."
        )
    corpus = _files(folder, task, "corpus")
    documents, blank, columns, id_type = _check_corpus(corpus, qrels, place, fields, digest, settings)
    corpus_version = digest.version
    for query, text in queries.items():
        digest.add(query, text, *(part for document, grade in qrels[query].items() for part in (document, grade)))
    return RetrievalSet(
        corpus, documents, blank, columns, id_type, queries, qrels, left_out, digest.version, corpus_version
    )


def documents_of(data: RetrievalSet, task: Task, settings: StorageSettings) -> Iterator[dict[str, str]]:
    """The documents with the columns id, title and text, for who cannot read the files themselves."""
    fields = Fields(task.columns)
    for row in _rows(data.corpus, settings):
        title = fields.part(row, "title") if fields.has(row, "title") else ""
        yield {"id": fields.id(row, "id"), "title": title, "text": fields.part(row, "text")}


def _qrels_files(folder: DataFolder, task: Task) -> Sequence[str]:
    """The files of judgements: where BEIR has them, or where the hub has those of a subset or of a whole set."""
    found: list[str] = []
    for split in task.files or (task.split,):
        usual = f"qrels/{split}"
        of_subset = (f"{task.subset}-qrels/{split}", f"{task.subset}/qrels/{split}")
        found += folder.find(usual, first=(*of_subset, usual, f"{task.subset}/{split}", split))
    return found


def _files(folder: DataFolder, task: Task, name: str) -> Sequence[str]:
    """The files of the corpus or of the queries, of the task's subset and split where these have files of their own."""
    places = (f"{task.subset}-{name}", f"{task.subset}/{name}", name)
    return folder.find(name, first=[*(f"{place}/{task.split}" for place in places), *places])


def _read_queries(
    files: Sequence[str], qrels: Qrels, fields: Fields, settings: StorageSettings
) -> tuple[dict[str, str], int]:
    """The texts of judged queries, and the number of the others."""
    queries: dict[str, str] = {}
    others: set[str] = set()
    for row in _rows(files, settings):
        query = fields.id(row, "id")
        if query in queries or query in others:
            raise CorpusError(f"{row.place}: there is another query {query!r}. Give it an id of its own.")
        if query in qrels:
            queries[query] = fields.text(row, "text")
        else:
            others.add(query)
    return queries, len(others)


def _check_corpus(
    files: Sequence[str],
    qrels: Qrels,
    place: Mapping[str, str],
    fields: Fields,
    digest: Digest,
    settings: StorageSettings,
) -> tuple[int, int, dict[str, str], type | None]:
    """The number of documents and of blank ones, their columns, and the type of their ids if it is one. 8 bytes of
    memory for each document, and the judged ones."""
    wanted = {document for own in qrels.values() for document in own}
    hashes = array("Q")
    columns: dict[str, str] = {}
    types: set[type] = set()
    blank = 0
    for row in _rows(files, settings):
        document = fields.id(row, "id")
        text = fields.part(row, "text")
        title = fields.part(row, "title") if fields.has(row, "title") else ""
        named = fields.named(row, "id", "text", *(["title"] if title else []))
        if changed := [role for role, name in named.items() if columns.setdefault(role, name) != name]:
            raise CorpusError(
                f"{row.place} has its {changed[0]} in the column {named[changed[0]]}, rows before in "
                f"{columns[changed[0]]}. Give all documents the same columns."
            )
        types.add(type(row.values[columns["id"]]))
        digest.add(document, title, text)
        blank += not f"{title}{text}".strip()
        hashes.append(int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest(), "little"))
        wanted.discard(document)
    if not hashes:
        raise CorpusError(f"{files[0]} has no documents. Fetch the data set again.")
    _refuse_repeated(files, np.frombuffer(hashes, np.uint64), fields, settings)
    if wanted:
        query, document = next(
            (query, document) for query, own in qrels.items() for document in own if document in wanted
        )
        raise CorpusError(
            f"{place[query]} and below judge the document {document!r} for the query {query!r}, which {files[0]} does "
            f"not have{_and_others(len(wanted), 'document')}. Fetch the data set again, or remove these judgements."
        )
    return len(hashes), blank, columns, types.pop() if len(types) == 1 else None


def _refuse_repeated(
    files: Sequence[str], hashes: NDArray[np.uint64], fields: Fields, settings: StorageSettings
) -> None:
    """Raises CorpusError if an id comes twice. Two ids may have one hash: a second reading tells."""
    found, times = np.unique(hashes, return_counts=True)
    doubtful = set(found[times > 1].tolist())
    seen: dict[str, str] = {}
    for number, row in enumerate(_rows(files, settings) if doubtful else ()):
        if int(hashes[number]) in doubtful:
            document = fields.id(row, "id")
            if document in seen:
                raise CorpusError(
                    f"{row.place}: the id {document!r} is also that of {seen[document]}. Keep one of them."
                )
            seen[document] = row.place


def _rows(files: Sequence[str], settings: StorageSettings) -> Iterator[Row]:
    return (row for uri in files for row in read_rows(uri, settings))


def _and_others(number: int, noun: str, plural: str | None = None) -> str:
    return f" (and {counted(number - 1, f'other {noun}', plural and f'other {plural}')})" if number > 1 else ""
