"""Vectors of data sets through the main job: a table for each corpus, and one for all other texts of a model.

What is evaluated is what is shipped: reading, batches, actors, Ray, checkpoints, writing and resuming are those of
`embed`. Knows no task and no score.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pyarrow as pa

from sfr_batch.config.settings import Config, CorpusSettings, TableSettings
from sfr_batch.errors import ConfigError, CorpusError, TableNotFound, counted
from sfr_batch.evaluation.instructions import Prompts
from sfr_batch.format import names
from sfr_batch.format.fingerprint import digest, short_id
from sfr_batch.format.parquet import encode_parquet
from sfr_batch.model.prompts import DOCUMENT, QUERY
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.sources.location import locate
from sfr_batch.pipeline import runner
from sfr_batch.pipeline.kept_model import KeptModel, keeping
from sfr_batch.planning.card import model_inputs
from sfr_batch.storage.input_listing import would_list
from sfr_batch.storage.locations import absolute_uri, is_s3
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.nearest import FloatArray, vectors_of
from sfr_batch.table.table import Snapshot, Table

if TYPE_CHECKING:
    from sfr_batch.encoder.encoder import Encoder

_ROWS_PER_FILE = 100_000
_ID, _TEXT = "id", "text"
_SHOWN = 12
"""Digits of a hash in the name of a folder: two of 10^4 data sets share 48 bits with a probability of 2e-7."""


@dataclass(frozen=True, slots=True)
class Staged:
    """Texts that the main job will read, each once."""

    name: str
    """Made from the texts: equal ones are written and embedded once."""
    files: tuple[str, ...]


class Vectors:
    """The vectors of texts, found by the text."""

    def __init__(self, rows: Mapping[str, int], matrix: FloatArray) -> None:
        self._rows = rows
        self._matrix = matrix

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """[n, d] float32 unit vectors. Raises KeyError for a text that was not embedded."""
        return self._matrix[[self._rows[text] for text in texts]]

    def __len__(self) -> int:
        return len(self._rows)


class Production:
    """The main job with the model of a config, for texts of evaluations."""

    def __init__(self, config: Config) -> None:
        """Reads the small files of the model. Raises ConfigError, ModelError."""
        self.config = config
        settings = config.evaluation
        self.root = (settings.path or f"{config.table.path.rstrip('/')}-evaluation").rstrip("/")
        _refuse_place(config, self.root)
        self.store: Store = open_store(self.root, config.table.storage)
        recipe = read_recipe(locate(config.model, weights=False), config.model)
        self.prompts = Prompts.of(recipe.prompts, settings.prompt)
        """What the model puts before texts."""
        # Texts come with their prompts in them: a prompt and its text are tokenized as one string in any case, see
        # `Tokenizer.encode`. So the texts of all tasks are one job, which loads the model once.
        self._bare = config.model.model_copy(
            update={
                "prompts": {QUERY: "", DOCUMENT: ""},
                "overflow": "truncate",
                "chunk_tokens": None,
                "chunk_overlap": 0,
            }
        )
        self.inputs = model_inputs(self._bare, "float32")
        """What makes a vector, without prompts and chunks."""
        self.fingerprint = digest(self.inputs)
        self._model = KeptModel()

    @cached_property
    def corpus_fingerprint(self) -> str:
        """That of the tables of corpora, which the config's prompt for documents, chunks and dtype make."""
        return digest(model_inputs(self.config.model, self.config.table.vector_dtype))

    def corpus(self, name: str, version: str, corpus: CorpusSettings) -> Snapshot:
        """The table of a corpus, embedded as far as it is not: a row for each document, or for each chunk of it.

        name, version: of the data set. Raises what `embed` raises.
        """
        path = f"{self.root}/{quote(name, safe='')}-{version[:_SHOWN]}-{self.corpus_fingerprint[:_SHOWN]}"
        table = self.config.table
        written = TableSettings(
            path=path, vector_dtype=table.vector_dtype, shared_path=table.shared_path, storage=table.storage
        )
        return self._embedded(Config(corpus=corpus, model=self.config.model, table=written, run=self.config.run))

    def stage(self, texts: Iterable[str]) -> Staged:
        """Write texts, which have their prompts in them, where the main job will read them."""
        distinct = _distinct(texts)
        name = short_id(*distinct)
        rows = ({_ID: _row_id(name, number), _TEXT: text} for number, text in enumerate(distinct))
        return Staged(name, tuple(self.copy(f"texts/{name}", rows)))

    def copy(self, name: str, documents: Iterable[Mapping[str, str]]) -> list[str]:
        """Write documents as Parquet files, where the main job reads their own files otherwise. Returns their URIs.

        name: of the files, made from the documents: those that are there are left.
        """
        files: list[str] = []
        there = {found.key for found in self.store.list(name.rpartition("/")[0])}
        for part in _in_parts(documents):
            key = f"{name}-{len(files):04}.parquet"
            if key not in there:
                self.store.create(key, encode_parquet(pa.Table.from_pylist(part)))
            files.append(f"{self.store.root}/{key}")
        return files

    def embed_texts(self, staged: Sequence[Staged]) -> Snapshot | None:
        """Embed all staged texts that are not embedded yet. None if there are none at all. Raises what `embed` does."""
        files = {file for one in staged for file in one.files}
        if not files:
            return None
        table, path = self.config.table, f"{self.root}/texts-{self.fingerprint[:_SHOWN]}"
        files |= self._embedded_before(path)
        corpus = CorpusSettings(path=sorted(files), id=_ID, text=_TEXT, storage=table.storage)
        written = TableSettings(
            path=path,
            delete="keep",  # the texts of other evaluations
            shared_path=table.shared_path,
            storage=table.storage,
        )
        return self._embedded(Config(corpus=corpus, model=self._bare, table=written, run=self.config.run))

    def vectors(self, snapshot: Snapshot, texts: Iterable[str]) -> Vectors:
        """Vectors of the texts of one `stage`, in the same order, from the snapshot of `embed_texts`.

        Those of blank texts, which a table rejects, and which sets of pairs and labels may have, are computed here.
        Raises CorpusError if the job has rejected a text.
        """
        texts = list(texts)
        distinct = _distinct(texts)
        blank = [text for text in dict.fromkeys(texts) if not text.strip()]
        matrix = np.full((len(distinct) + len(blank), int(self.inputs["dim"])), np.nan, np.float32)
        name = short_id(*distinct)
        where = f"id >= '{_row_id(name, 0)}' and id < '{_row_id(name, len(distinct))}'"
        for batch in snapshot.scan([_ID, names.EMBEDDING], where=where).batches():
            at = [_row_of(row) for row in batch.column(_ID).to_pylist()]
            matrix[at] = vectors_of(batch.column(names.EMBEDDING))
        lost = np.flatnonzero(np.isnan(matrix[: len(distinct), 0]))
        _refuse_rejected(snapshot, {_row_id(name, row): distinct[row] for row in lost.tolist()})
        if blank:
            matrix[len(distinct) :] = self.encoder.encode(blank)
        rows = {text: row for row, text in enumerate([*distinct, *blank])}
        return Vectors(rows, matrix)

    @cached_property
    def encoder(self) -> "Encoder":
        """The model in this process: that of the jobs, if they run here."""
        if self._model.encoder:
            return self._model.encoder
        from sfr_batch.encoder.encoder import Encoder

        return Encoder.load(
            self._bare,
            max_batch_tokens=self.config.max_batch_tokens,
            torch_threads=self.config.run.actors.torch_threads,
            weight_hashes=self.inputs["weights"],
        )

    def _embedded_before(self, path: str) -> set[str]:
        """Files whose texts the table has: asked for together with them, they are unchanged, and nothing reads them."""
        try:
            shards = Table.open(open_store(path, self.config.table.storage)).current().read_shards()
        except TableNotFound:
            return set()
        there = {f"{self.store.root}/{info.key}" for info in self.store.list("texts")}
        return {shard.uri for shard in shards} & there

    def _embedded(self, config: Config) -> Snapshot:
        with keeping(self._model):
            runner.embed(config)
        return Table.open(open_store(config.table.path, config.table.storage)).current()


def _refuse_place(config: Config, root: str) -> None:
    """Raises ConfigError if the folder of evaluations is in the table, whose files it would stand among, or in the
    corpus, which would be embedded with the files of evaluations."""
    table, place = absolute_uri(config.table.path).rstrip("/"), absolute_uri(root)
    beside = "Choose a place beside it: evaluation.path=<another path>."
    if f"{place}/".startswith(f"{table}/"):
        raise ConfigError(f"evaluation.path {root} is inside the table {config.table.path}. {beside}")
    corpus = config.corpus
    if is_s3(place) and corpus.storage != config.table.storage:
        return  # the same name may be another bucket
    for path in [corpus.path] if isinstance(corpus.path, str) else corpus.path:
        of_one_kind = is_s3(absolute_uri(path)) == is_s3(place)
        if of_one_kind and would_list(path, f"{place}/texts/0000.parquet", corpus.storage):
            raise ConfigError(
                f"evaluation.path {root} is inside corpus.path {path}: the next run of `sfr-batch embed` would embed "
                f"its files. {beside}"
            )


def _refuse_rejected(snapshot: Snapshot, texts: Mapping[str, str]) -> None:
    """texts: those that have no vector, by the id of their row. Raises CorpusError if there are any."""
    if not texts:
        return
    rejects = snapshot.rejects().select([names.ID, names.REASON, names.MESSAGE]).to_pylist()
    reasons = (f"{row[names.REASON]}: {row[names.MESSAGE]}" for row in rejects if row[names.ID] in texts)
    why = next(reasons, "nobody knows why")
    raise CorpusError(
        f"{counted(len(texts), 'text')} of the data set could not be embedded, such as "
        f"{next(iter(texts.values()))[:60]!r}: {why}"
    )


def _distinct(texts: Iterable[str]) -> list[str]:
    """The texts that the main job embeds: each once, and no blank one."""
    return [text for text in dict.fromkeys(texts) if text.strip()]


def _in_parts(documents: Iterable[Mapping[str, str]]) -> Iterator[list[Mapping[str, str]]]:
    rest = iter(documents)
    while part := list(itertools.islice(rest, _ROWS_PER_FILE)):
        yield part


def _row_id(name: str, number: int) -> str:
    return f"{name}-{number:09}"


def _row_of(row: str) -> int:
    return int(row.rpartition("-")[2])
