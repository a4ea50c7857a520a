"""What the installed mteb scores for given vectors: its own tasks on data sets of ours, by a model that looks them up.

mteb is imported only where it is used.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfr_batch.evaluation.data.sets import Classes, Clusters, Pairs, Rerankings, SummarySet
from sfr_batch.table.nearest import FloatArray

Vectors = Callable[[Sequence[str]], FloatArray]


class LookedUp:
    """mteb's EncoderProtocol over given vectors."""

    def __init__(self, vectors: Vectors) -> None:
        from mteb.models.model_meta import ModelMeta

        self._vectors = vectors
        self.mteb_model_meta = ModelMeta.create_empty()

    def encode(self, inputs: Any, **_: Any) -> FloatArray:
        return self._vectors([text for batch in inputs for text in batch["text"]])

    def similarity(self, first: Any, second: Any) -> Any:
        import mteb.similarity_functions

        return mteb.similarity_functions.cos_sim(first, second)

    def similarity_pairwise(self, first: Any, second: Any) -> Any:
        import mteb.similarity_functions

        return mteb.similarity_functions.pairwise_cos_sim(first, second)


def scores_of_mteb(name: str, data: Any, vectors: Vectors) -> Mapping[str, float]:
    """The scores of mteb's task ``name``, on data of ours, by mteb's keys."""
    import mteb
    from mteb.timing import TimingStack

    task = mteb.get_task(name)
    where = {"encode_kwargs": {"batch_size": 1024}, "hf_split": "test", "hf_subset": "default", "timer": TimingStack()}
    found: Mapping[str, float] = task._evaluate_subset(LookedUp(vectors), _set(task, data), **where)
    return found


def _set(task: Any, data: Any) -> Any:
    """The data as the task takes them."""
    from datasets import Dataset, DatasetDict

    match data:
        case Pairs():
            label = getattr(task, "label_column_name", "score")
            return Dataset.from_dict({"sentence1": data.first, "sentence2": data.second, label: data.scores})
        case Classes():
            numbers = {label: number for number, label in enumerate(sorted({*data.train.labels}, key=_by_size))}
            return DatasetDict(
                {
                    split: Dataset.from_dict({"text": own.texts, "label": [numbers[label] for label in own.labels]})
                    for split, own in (("train", data.train), ("test", data.test))
                }
            )
        case Clusters() if hasattr(task, "max_document_to_embed"):
            (own,) = data.sets
            return Dataset.from_dict({"sentences": own.texts, "labels": own.labels})
        case Clusters():
            return Dataset.from_dict(
                {"sentences": [own.texts for own in data.sets], "labels": [own.labels for own in data.sets]}
            )
        case Rerankings():
            return _reranking_set(task, data)
        case SummarySet():
            return {
                "human_summaries": [row.human for row in data.rows],
                "machine_summaries": [row.machine for row in data.rows],
                "relevance": [row.relevance for row in data.rows],
                "text": [""] * len(data.rows),
            }
    raise AssertionError(data)


def _by_size(label: str) -> tuple[int, str]:
    return (int(label) if label.isdecimal() else 0, label)


def _reranking_set(task: Any, data: Rerankings) -> Any:
    """As mteb converts its old form of data, with its ids."""
    from datasets import Dataset
    from mteb.abstasks.text.reranking import AbsTaskReranking

    rows = [
        AbsTaskReranking._process_example(
            task, {"query": row.queries[0], "positive": row.positive, "negative": row.negative}, "test", number
        )
        for number, row in enumerate(data.rows)
    ]
    documents = [
        {"id": id_, "title": "", "text": text}
        for row in rows
        for id_, text in zip(row["doc_ids"], row["doc_texts"], strict=True)
    ]
    return {
        "corpus": Dataset.from_list(documents),
        "queries": Dataset.from_list([{"id": row["query_id"], "text": row["query"]} for row in rows]),
        "relevant_docs": {
            row["query_id"]: dict(zip(row["doc_ids"], row["relevance_scores"], strict=True)) for row in rows
        },
        "top_ranked": {row["query_id"]: row["doc_ids"] for row in rows},
    }


def looked_up(texts: Sequence[str], matrix: NDArray[np.float32]) -> Vectors:
    """The vectors of texts: row n of the matrix is that of the n-th text."""
    rows = {text: row for row, text in enumerate(texts)}
    return lambda asked: matrix[[rows[text] for text in asked]]
