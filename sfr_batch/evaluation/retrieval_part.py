"""A data set of retrieval: its corpus in a table of its own, the ranked documents of its queries, their measures.

Joins the data, the main job, the search and the measures; each of them is elsewhere.
"""

import re
from collections.abc import Iterator

import pyarrow as pa

from sfr_batch.config.settings import CorpusSettings
from sfr_batch.corpus.file_formats import JSONL, PARQUET, format_of
from sfr_batch.errors import CorpusError, counted
from sfr_batch.evaluation.data.retrieval_set import documents_of, read_retrieval
from sfr_batch.evaluation.kept import Kept
from sfr_batch.evaluation.measures.retrieval import RankingScores, score_ranking
from sfr_batch.evaluation.parts import Scored
from sfr_batch.evaluation.production import Production
from sfr_batch.evaluation.ranking import Ranking, qrels_file, run_file
from sfr_batch.evaluation.searching import search_documents
from sfr_batch.evaluation.task_files import Task
from sfr_batch.format import names
from sfr_batch.format.fingerprint import short_id
from sfr_batch.format.parquet import encode_parquet
from sfr_batch.table.table import Snapshot

TOP_K = 1000
"""Documents that are ranked for each query: the deepest cut-off of the card."""
_NUMBERS = "ids are numbers"
_PLAIN = re.compile(r"\w+([ -]\w+)*")
"""Names of columns that mean nothing else in `corpus.text`."""


class RetrievalPart:
    """See `parts.Part`."""

    def __init__(self, task: Task, name: str, path: str, production: Production, kept: Kept) -> None:
        """name: of the task, with that of the part. Raises CorpusError."""
        self.path = path
        self._task = task
        self._name = name
        self._production = production
        self._kept = kept
        self._data = read_retrieval(task, path, production.config.corpus.storage)
        self.version = self._data.version
        self._refuse_blank()

    def texts(self) -> Iterator[str]:
        prompt = self._production.prompts.instructed(self._task)
        return (prompt + query for query in self._data.queries.values())

    def score(self, texts: Snapshot, key: str) -> Scored:
        """See `parts.Part`. Raises what `embed` raises, and ConfigError if a library of the measures is missing."""
        data = self._data
        in_place = self._in_place()
        corpus = self._corpus_in_place() if in_place else self._corpus_copy()
        # Ids that are numbers make another table than the same ids as texts, which have the same version.
        version = short_id(data.corpus_version, _NUMBERS) if in_place and data.id_type is int else data.corpus_version
        table = self._production.corpus(self._name, version, corpus)
        if table.manifest.counts.read != data.documents:  # the version in the table's name would not be true
            raise CorpusError(
                f"{self.path} had {counted(data.documents, 'document')} when it was checked, and "
                f"{table.manifest.counts.read:,} when it was embedded. Run the command again."
            )
        vectors = self._production.vectors(texts, self.texts())(list(self.texts()))
        ranking = search_documents(
            table.scan([names.ID, names.EMBEDDING]).batches,
            list(data.queries),
            vectors,
            TOP_K,
            without_own=self._task.ignore_identical_ids,
        )
        measured = score_ranking(ranking, data.qrels)
        counts = {
            "documents": data.documents,
            "queries": len(data.queries),
            "judgements": sum(map(len, data.qrels.values())),
        }
        return Scored(
            measured.means,
            counts,
            tuple(self._remarks(table)),
            {"table": table.store.root, **self._write(key, ranking, measured)},
        )

    def _refuse_blank(self) -> None:
        """Raises CorpusError for a corpus that the main job would refuse when it is embedded."""
        data, most = self._data, self._production.config.run.max_reject_share
        if data.blank > most * data.documents:
            raise CorpusError(
                f"{self.path}: {data.blank:,} of {counted(data.documents, 'document')} have neither title nor text, "
                f"and run.max_reject_share allows {most:.0%}. Fetch the data set again; if it is meant to be so, "
                "run.max_reject_share=1: they are never found."
            )

    def _in_place(self) -> bool:
        """Whether the main job can read the corpus where it is: other rules may hold for files of a table."""
        data = self._data
        formats = all(format_of(uri)[0] in (JSONL, PARQUET) for uri in data.corpus)
        return formats and data.id_type is not None and all(_PLAIN.fullmatch(name) for name in data.columns.values())

    def _corpus_in_place(self) -> CorpusSettings:
        data, columns = self._data, self._data.columns
        text = " ".join(f"{{{columns[role]}}}" for role in ("title", "text") if role in columns)
        storage = self._production.config.corpus.storage
        return CorpusSettings(path=list(data.corpus), id=columns["id"], text=text, storage=storage)

    def _corpus_copy(self) -> CorpusSettings:
        rows = documents_of(self._data, self._task, self._production.config.corpus.storage)
        files = self._production.copy(f"corpora/{self._data.corpus_version}", rows)
        text = "{title} {text}"
        return CorpusSettings(path=files, id="id", text=text, storage=self._production.config.table.storage)

    def _remarks(self, table: Snapshot) -> Iterator[str]:
        counts = table.manifest.counts
        if counts.rejected:
            reasons = table.rejects().column(names.REASON).value_counts().to_pylist()
            why = ", ".join(f"{reason['values']} {reason['counts']:,}" for reason in reasons)
            yield f"{counted(counts.rejected, 'document')} cannot be found, for the table rejects them: {why}."
        if counts.truncated:
            documents = counted(counts.truncated, "document")
            yield f"{documents} truncated, {table.share_cut:.1%} of all tokens not embedded."
        without = sum(not any(grade > 0 for grade in own.values()) for own in self._data.qrels.values())
        if without:
            queries = counted(without, "query", "queries")
            yield f"{queries} without a relevant document (grade 1 or more): the score is 0, as in trec_eval."
        if self._data.left_out:
            yield f"{counted(self._data.left_out, 'query', 'queries')} without a judgement in this split left out."

    def _write(self, key: str, ranking: Ranking, measured: RankingScores) -> dict[str, str]:
        """The run file, the judgements and the scores of each query; their URIs."""
        queries = {"query": measured.queries, "text": [self._data.queries[query] for query in measured.queries]}
        scores = pa.table({**queries, **dict(zip(measured.names, measured.values.T, strict=True))})
        tag = f"sfr-batch-{self._production.fingerprint[:12]}"
        return {
            "run": self._kept.write(f"{key}.run.trec", "".join(run_file(ranking, tag)).encode()),
            "qrels": self._kept.write(f"{key}.qrels.trec", "".join(qrels_file(self._data.qrels)).encode()),
            "queries": self._kept.write(f"{key}.queries.parquet", encode_parquet(scores)),
        }
