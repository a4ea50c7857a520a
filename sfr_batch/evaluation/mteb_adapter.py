"""A model for `mteb.evaluate`, whose vectors are those of the main job: mteb drives sfr-batch.

mteb brings data and is the judge; prompts, tables and searches are those of `evaluate`. Knows no measure. mteb takes
seconds to load: it is imported where it is called.
"""

import importlib
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np

from sfr_batch.config.settings import Config, CorpusSettings
from sfr_batch.errors import ConfigError
from sfr_batch.evaluation.data.fields import Digest
from sfr_batch.evaluation.production import Production
from sfr_batch.evaluation.searching import rank_candidates, search_documents
from sfr_batch.format import names
from sfr_batch.format.fingerprint import digest
from sfr_batch.model.prompts import DOCUMENT, QUERY
from sfr_batch.model.sources import hub
from sfr_batch.model.sources.location import is_local
from sfr_batch.table.nearest import FloatArray
from sfr_batch.table.table import Snapshot

_ID, _TEXT = "id", "text"
_ROWS_AT_ONCE = 1000
_NO_NAME = re.compile(r"[^\w.-]+")
_SHOWN = 12
"""Digits of a hash where it is shown, or part of a name."""


class MtebModel:
    """A model for `mteb.evaluate`: its EncoderProtocol and its SearchProtocol. `sfr_batch.mteb_model` makes it.

    ``batch_size`` and ``num_proc`` have no effect: `run` of the config says how texts are embedded. A model that is
    loaded in this process stays there as long as this object.
    """

    def __init__(
        self, config: Config, *, name: str | None = None, instructions: Mapping[str, str] | None = None
    ) -> None:
        """See `sfr_batch.mteb_model`. Reads the small files of the model. Raises ConfigError, ModelError."""
        _need_mteb()
        self._production = Production(config)
        self._instructions = dict(instructions or {})
        _check_instructions(self._instructions, self._production.prompts.form)
        self._indexed: Snapshot | None = None
        self.mteb_model_meta = _meta(self._production, name, self._instructions)

    def __repr__(self) -> str:
        meta = self.mteb_model_meta
        return f"<MtebModel {meta.name}, {meta.embed_dim} dims, fingerprint {self._production.fingerprint[:_SHOWN]}>"

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> FloatArray:
        """[n, d] float32 unit vectors of the texts of ``inputs``, each with the prompt of its task before it.

        Raises ConfigError, CorpusError and what `embed` raises.
        """
        _refuse_precision(kwargs)
        prompt = self.prompt(task_metadata, prompt_type)
        texts = [prompt + text for batch in inputs for text in batch["text"]]
        staged = self._production.stage(texts)
        snapshot = self._production.embed_texts([staged])
        if snapshot is None:  # all of them are blank, if there are any
            empty = np.empty((0, self.mteb_model_meta.embed_dim), np.float32)
            return self._production.encoder.encode(texts) if texts else empty
        return self._production.vectors(snapshot, texts)(texts)

    def index(
        self,
        corpus: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Mapping[str, Any],
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Embed the documents into a table, as far as they are not in it: a killed run continues, a repeated one is
        done. Raises what `embed` raises."""
        _refuse_precision(encode_kwargs)
        name, version = task_metadata.name, version_of_corpus(corpus)
        rows = ({_ID: id_, _TEXT: f"{title} {text}".strip()} for id_, title, text in _documents(corpus))
        files = self._production.copy(f"corpora/{quote(name, safe='')}-{version[:_SHOWN]}", rows)
        storage = self._production.config.table.storage
        settings = CorpusSettings(path=files, id=_ID, text=_TEXT, storage=storage)
        self._indexed = self._production.corpus(name, version, settings)

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Mapping[str, Any],
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        num_proc: int | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, float]]:
        """The ``top_k`` documents of each query with their scores, by cosine, ties by id: exact, one pass over the
        table. top_ranked: the only documents that count, by query. Raises ConfigError before an `index`."""
        if self._indexed is None:
            raise ConfigError("search has no corpus: call index first, as mteb.evaluate does.")
        from mteb._create_dataloaders import create_dataloader  # what a query is made of, as in mteb's own searches
        from mteb.types import PromptType

        loader = create_dataloader(queries, task_metadata=task_metadata, prompt_type=PromptType.query, **encode_kwargs)
        vectors = self.encode(
            loader,
            task_metadata=task_metadata,
            hf_split=hf_split,
            hf_subset=hf_subset,
            prompt_type=PromptType.query,
            **encode_kwargs,
        )
        ids = list(queries["id"])
        rows = self._indexed.scan([names.ID, names.EMBEDDING]).batches
        if top_ranked is None:
            ranking = search_documents(rows, ids, vectors, top_k)
        else:
            ranking = rank_candidates(rows, ids, vectors, top_ranked, top_k)
        return {
            query: dict(zip(found.documents, found.scores.tolist(), strict=True)) for query, found in ranking.items()
        }

    def prompt(self, task_metadata: Any, prompt_type: Any = None) -> str:
        """The text before a text of a task: documents have that of the config; queries, and all texts of symmetrical
        tasks (no type), have what `Prompts.instructed` says; a given instruction goes before prompts of the model."""
        side = None if prompt_type is None else str(prompt_type.value)
        if side == DOCUMENT:
            return self._production.prompts.document
        from mteb.models.abs_encoder import get_prompt_name

        prompts, query = self._production.prompts, side == QUERY
        given = get_prompt_name(self._instructions, task_metadata, prompt_type)
        if given is not None:
            return prompts.before(self._instructions[given], query=query)
        own = prompts.own(task_metadata.name, task_metadata.type, query=query)
        return prompts.before(_instruction(task_metadata), query=query) if own is None else own

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """[n, m] cosines in float32."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """[n] cosines in float32."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)


def _instruction(task: Any) -> str | None:
    """That of mteb's task; else that of the task's type."""
    from mteb.abstasks.abstask import get_abstask_prompt

    if isinstance(task.prompt, Mapping):
        return task.prompt.get(QUERY)
    return task.prompt or get_abstask_prompt(task.name) or None


def _documents(corpus: Any) -> Iterator[tuple[str, str, str]]:
    """(id, title, text) of documents. BEIR and mteb put a space between the last two, and strip what comes out."""
    for batch in corpus.iter(_ROWS_AT_ONCE):
        titles = batch.get("title", [""] * len(batch["id"]))
        for id_, title, text in zip(batch["id"], titles, batch["text"], strict=True):
            yield str(id_), title or "", text or ""


def version_of_corpus(corpus: Any) -> str:
    """A hash of all documents: `RetrievalSet.corpus_version`, so that a corpus is embedded once, for mteb or not."""
    version = Digest()
    for document in _documents(corpus):
        version.add(*document)
    return version.version


def _meta(production: Production, name: str | None, instructions: Mapping[str, str]) -> Any:
    """What mteb says of the model, and keeps its scores under: so all that can change a score is part of it."""
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    model, inputs, prompts = production.config.model, production.inputs, production.prompts
    if name is None:
        on_hub = not is_local(model.path) and hub.NAME.fullmatch(model.path)
        name = model.path if on_hub else f"sfr-batch/{_NO_NAME.sub('-', model.path).strip('-')}"
    settings = {"table": production.corpus_fingerprint, "prompts": prompts.named, "form": prompts.form}
    return ModelMeta.create_empty(
        {
            "name": name,
            "revision": model.revision or production.fingerprint[:_SHOWN],
            "embed_dim": inputs["dim"],
            "max_tokens": inputs["max_length"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "framework": ["PyTorch"],
            "use_instructions": prompts.form is not None,
            "experiment_kwargs": {
                "fingerprint": production.fingerprint[:_SHOWN],
                "settings": digest({**settings, "instructions": instructions})[:_SHOWN],
            },
        }
    )


def _need_mteb() -> None:
    try:
        importlib.import_module("mteb")
    except ImportError as error:
        raise ConfigError("mteb_model needs the Python package mteb: pip install 'sfr-batch[mteb]'.") from error


def _check_instructions(instructions: Mapping[str, str], form: str | None) -> None:
    """Raises ConfigError for instructions that nothing would look up: the texts would silently have another prompt."""
    from mteb.models.abs_encoder import AbsEncoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what is refused here
        known, _ = AbsEncoder.validate_task_to_prompt_name(instructions, raise_for_invalid_keys=False)
    for key in instructions:
        if key not in known:
            raise ConfigError(
                f"instructions: mteb has no task and no type of tasks {key!r}. A key is the name of a task, such as "
                "SciFact, or a type, such as STS or Retrieval-query."
            )
        if key == DOCUMENT or key.endswith(f"-{DOCUMENT}"):
            raise ConfigError(
                f"instructions: {key!r} is for documents, which have model.prompts.document before them, as in "
                "production. Remove it."
            )
    if instructions and form is None:
        raise ConfigError(
            "instructions: model.prompts.query does not show where an instruction would stand. Give the form in "
            "evaluation.prompt, such as 'Instruct: {instruction}\\nQuery: ', or leave the instructions out."
        )


def _refuse_precision(encode_kwargs: Mapping[str, Any]) -> None:
    """Raises ConfigError where mteb would write that vectors were quantized."""
    if encode_kwargs.get("precision") is not None:
        raise ConfigError(
            f"encode_kwargs: precision={encode_kwargs['precision']!r} asks for other vectors than those of production. "
            "Remove it; model.dtype and table.vector_dtype of the config say what is computed and stored."
        )
