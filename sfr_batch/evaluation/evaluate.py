"""`evaluate`: check all data, embed what is missing, score each task. Repeating it resumes it.

The table of contents of an evaluation. Knows no measure and no format of data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sfr_batch.config.settings import Config
from sfr_batch.evaluation.chosen import Chosen, choose
from sfr_batch.evaluation.kept import Kept, library_versions
from sfr_batch.evaluation.measures.libraries import need_libraries
from sfr_batch.evaluation.parts import Part
from sfr_batch.evaluation.production import Production
from sfr_batch.evaluation.published.reading import read_published
from sfr_batch.evaluation.report.report import Evaluation
from sfr_batch.evaluation.results import Made, TaskResult
from sfr_batch.evaluation.retrieval_part import RetrievalPart
from sfr_batch.evaluation.task_files import ALL, RERANKING, RETRIEVAL, Task
from sfr_batch.evaluation.texts_part import TextsPart
from sfr_batch.format.fingerprint import short_id
from sfr_batch.storage.locations import absolute_uri
from sfr_batch.table.table import Snapshot

_SHOWN_INPUTS = ("weights", "pooling", "max_length", "dim", "compute_dtype", "deterministic", "special_tokens_in_text")


def evaluate(
    config: Config, names: Sequence[str] = (), each: Callable[[TaskResult], None] = lambda result: None
) -> Evaluation:
    """Score the model of a config in the tasks of `evaluation.tasks`; safe to repeat, and to kill at any moment.

    names: of the tasks; default: all. each: is called with each result as soon as it is there. Raises ConfigError, and
    CorpusError for wrong data, before a model is loaded, and whatever `embed` raises.
    """
    need_libraries()
    chosen = choose(config, names)
    published = [read_published(path, config.corpus.storage) for path in config.evaluation.published]
    production = Production(config)
    made = _made(production)
    kept = Kept(production.store, made)
    work = [_Work.of(one, production, kept) for one in chosen]
    todo = [one for one in work if one.result is None]
    staged = [production.stage(part.texts()) for one in todo for part in one.parts.values()]
    texts = production.embed_texts(staged) if staged else None
    results = []
    for one in work:
        result = one.result or one.score(texts, kept)
        each(result)
        results.append(result)
    return Evaluation(made, tuple(results), tuple(published))


@dataclass(frozen=True)
class _Work:
    """A task with its data sets."""

    task: Task
    path: str
    prompts: Mapping[str, str]
    remarks: Sequence[str]
    """On the prompts."""
    parts: Mapping[str, Part]
    """By name; of a task without parts by an empty name."""
    key: str
    result: TaskResult | None
    """That of an earlier evaluation."""

    @classmethod
    def of(cls, chosen: Chosen, production: Production, kept: Kept) -> "_Work":
        """Read and check the data of a task."""
        task = production.prompts.fitted(chosen.task)
        parts = {name: _open_part(task, name, path, production, kept) for name, path in chosen.parts.items()}
        prompts = _prompts(task, production)
        remarks = tuple(production.prompts.remarks(task, production.inputs["pooling"]))
        key = kept.key(
            task,
            {
                "task": task.model_dump(mode="json"),
                "data": {name: part.version for name, part in parts.items()},
                "prompts": prompts,
                "remarks": remarks,
                "table": production.corpus_fingerprint if task.type == RETRIEVAL else "",
                "unnormalized": production.config.evaluation.unnormalized,
            },
        )
        return cls(task, absolute_uri(chosen.path), prompts, remarks, parts, key, kept.find(key))

    def score(self, texts: Snapshot | None, kept: Kept) -> TaskResult:
        """The scores of the task, which are kept."""
        assert texts is not None
        scored = {
            name: part.score(texts, f"{self.key}-{name}" if name else self.key) for name, part in self.parts.items()
        }
        result = TaskResult(
            task=self.task,
            scores=_means([one.scores for one in scored.values()]),
            data=self.path,
            version=_version([part.version for part in self.parts.values()]),
            prompts=self.prompts,
            counts=_sums([one.counts for one in scored.values()]),
            parts={name: one.scores for name, one in scored.items() if name},
            remarks=(
                *self.remarks,
                *(f"{name}: {remark}" if name else remark for name, one in scored.items() for remark in one.remarks),
            ),
            files={
                f"{name}/{what}" if name else what: uri
                for name, one in scored.items()
                for what, uri in one.files.items()
            },
        )
        kept.keep(self.key, result)
        return result


def _open_part(task: Task, name: str, path: str, production: Production, kept: Kept) -> Part:
    if task.type == RETRIEVAL:
        return RetrievalPart(task, f"{task.name}-{name}" if name else task.name, path, production, kept)
    return TextsPart(task, path, production)


def _prompts(task: Task, production: Production) -> dict[str, str]:
    """The text before each kind of text, by the kind."""
    prompts = production.prompts
    if task.type in (RETRIEVAL, RERANKING):
        documents = prompts.instructed(task) if task.instructed == ALL else prompts.document
        return {"queries": prompts.instructed(task), "documents": documents}
    return {"texts": prompts.instructed(task)}


def _made(production: Production) -> Made:
    inputs = {name: production.inputs[name] for name in _SHOWN_INPUTS if name in production.inputs}
    versions = library_versions()
    return Made(production.config.model.path, production.fingerprint, inputs, versions)


def _means(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of the scores that all have: of a part with very many texts there is none over seeds."""
    common = [name for name in scores[0] if all(name in one for one in scores)]
    return {name: float(np.mean([one[name] for one in scores])) for name in common}


def _sums(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    return {name: sum(one[name] for one in counts) for name in counts[0]}


def _version(versions: Sequence[str]) -> str:
    """Of all data sets of a task."""
    return versions[0] if len(versions) == 1 else short_id(*versions)
