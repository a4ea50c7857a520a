"""all-MiniLM-L6-v2 with its real weights on real data: the scores that are published, and those of the installed mteb.

Minutes of CPU: by hand.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sfr_batch.config.settings import ModelSettings, StorageSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.evaluation.data.sets import read_classes, read_clusters, read_pairs
from sfr_batch.evaluation.scoring import score, texts_of
from sfr_batch.evaluation.task_files import shipped_tasks
from sfr_batch.table.nearest import FloatArray
from tests.evaluation.mteb_scores import looked_up, scores_of_mteb
from tests.evaluation.published import SETS, needs_sets
from tests.models import minilm_folder

pytestmark = [pytest.mark.slow, needs_sets]


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return Encoder.load(ModelSettings(path=str(minilm_folder()), device="cpu"))


@pytest.mark.parametrize(
    ("name", "read", "folder", "published", "mteb_key", "tolerance"),
    [
        ("STSBenchmark", read_pairs, "sts/STSBenchmark", 82.032, "cosine_spearman", 0.001),
        ("SICKNLPairClassification", read_pairs, "pair/sick-nl", 58.366, "max_ap", 0.001),
        ("Banking77Classification", read_classes, "cls/banking77", 80.042, "accuracy", 0.001),
        # Ten samples, whose scores have a standard deviation of 4.6.
        ("SIB200ClusteringS2S", read_clusters, "clu/sib200-eng", 39.765, "v_measure", 3),
    ],
)
def test_scores_are_those_published(
    minilm: Encoder,
    name: str,
    read: Callable[..., Any],
    folder: str,
    published: float,
    mteb_key: str,
    tolerance: float,
) -> None:
    """MiniLM has no instruction: texts stay bare."""
    task = shipped_tasks()[name]
    data = read(task, str(SETS / folder), StorageSettings())
    texts = sorted({text for some, _ in texts_of(task, data) for text in some})
    of_texts = looked_up(texts, minilm.encode(texts))

    def vectors(some: Sequence[str], _: bool) -> FloatArray:
        return of_texts(some)

    found = 100 * score(task, data, vectors)[task.main_score]
    assert found == pytest.approx(published, abs=tolerance)
    pytest.importorskip("mteb")
    assert found == pytest.approx(100 * scores_of_mteb(name, data, of_texts)[mteb_key], abs=0.01)
