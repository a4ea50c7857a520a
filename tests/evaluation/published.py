"""Where evaluation sets with published scores and the model card lie: beside the checkout. Without them tests skip.
And how cards and mteb call the types of tasks."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("SFR_PUBLISHED", Path(__file__).parents[3] / "shared"))
"""A folder with data/ (sets, published_scores.json) and facts/sfr-embedding-mistral-card.md."""
SETS = SHARED / "data"
CARD = SHARED / "facts" / "sfr-embedding-mistral-card.md"

needs_sets = pytest.mark.skipif(not SETS.is_dir(), reason=f"no evaluation sets at {SETS}: set SFR_PUBLISHED")
needs_card = pytest.mark.skipif(not CARD.is_file(), reason=f"no model card at {CARD}: set SFR_PUBLISHED")

TYPES = {
    "Retrieval": "retrieval",
    "Reranking": "reranking",
    "STS": "sts",
    "PairClassification": "pair_classification",
    "Classification": "classification",
    "Clustering": "clustering",
    "Summarization": "summarization",
}
"""Our types of tasks, by the names that model cards and mteb give them."""
