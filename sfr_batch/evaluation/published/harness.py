"""Where the programs that measured published scores differ from this one, a sentence each: why equal vectors may have
another score.

Established by reading mteb and e5/utils.py of github.com/microsoft/unilm, with which the authors of
SFR-Embedding-Mistral measured. Knows no scores.
"""

from collections.abc import Iterator

from sfr_batch.evaluation.measures.clustering import SEEDS
from sfr_batch.evaluation.published.values import PublishedTask
from sfr_batch.evaluation.results import Made, TaskResult
from sfr_batch.evaluation.task_files import (
    CLASSIFICATION,
    CLUSTERING,
    PAIR_CLASSIFICATION,
    RERANKING,
    RETRIEVAL,
    STS,
    Task,
)

_OLD_LENGTH = 512
_SHORT_REVISION = 7
OTHER_REVISION = "The published score is of another revision of the data than the task names; both are listed below."


def known_differences(result: TaskResult, published: PublishedTask, made: Made) -> Iterator[str]:
    """The sentences that apply to a task of which there is a published score."""
    task, instructed = result.task, any(result.prompts.values())
    if task.type == RERANKING and instructed:
        here = "both" if task.instructed == "all" else "queries alone"
        yield (
            "Reranking: the authors of SFR-Embedding-Mistral and e5 put the instruction before queries and documents, "
            f"mteb from version 2 on before queries alone. Here: before {here}."
        )
    if task.type == CLASSIFICATION:
        yield (
            "Classification: the authors of SFR-Embedding-Mistral trained classifiers on vectors that are not "
            "normalized (AmazonCounterfactual 77.93, MTOPIntent 86.30); reruns of mteb have 74.51 and 78.86, as "
            "normalized ones give."
        )
    if task.type == CLUSTERING:
        if result.over_seeds:
            yield (
                "Clustering: k-means starts at random, in the published run elsewhere than here. So the published "
                f"score is compared with the mean over {len(SEEDS)} seeds; above it is the score with mteb's seed."
            )
        else:
            yield "Clustering: k-means starts from random seeds; with others equal vectors score some points apart."
    if task.type == RETRIEVAL:
        yield (
            "Retrieval: a document is its title, a space and its text, as in BEIR and mteb. Programs that leave the "
            "title out score otherwise."
        )
        yield (
            "Retrieval: of equal scores the smaller id comes first here, in run file and measures alike. trec_eval and "
            "mteb put the larger one first; the mrr of older versions of mteb left them as they came."
        )
    yield from _length(task, made)
    yield from _of_single_tasks(task, instructed)
    if other_revision(task, published):
        yield OTHER_REVISION


def _length(task: Task, made: Made) -> Iterator[str]:
    longest = made.inputs.get("max_length")
    if isinstance(longest, int) and longest > _OLD_LENGTH and task.type not in (STS, PAIR_CLASSIFICATION):
        yield (
            f"Long texts: the authors of SFR-Embedding-Mistral and e5, and older loaders of mteb, cut them after "
            f"{_OLD_LENGTH} tokens; here after {longest:,}."
        )


def _of_single_tasks(task: Task, instructed: bool) -> Iterator[str]:
    if task.name == "MSMARCO":
        yield "MSMARCO is scored on its split dev; scores of its split test are of other queries (TREC 2019)."
    if task.name == "CQADupstackRetrieval" and instructed:
        yield (
            'CQADupstackRetrieval: mteb 2 has no instruction for its parts and takes "Retrieve text based on user '
            'query."'
        )
    if task.name == "SummEval" and instructed:
        yield "SummEval: the instruction of mteb ends with a full stop, that of e5's authors does not."


def other_revision(task: Task, published: PublishedTask) -> bool:
    """Whether a score is known to be of another revision of the data than the task names. Hashes may be short."""
    ours, theirs = task.revision, published.revision
    if not ours or not theirs:
        return False
    if min(len(ours), len(theirs)) < _SHORT_REVISION:
        return ours != theirs
    return not (ours.startswith(theirs) or theirs.startswith(ours))
