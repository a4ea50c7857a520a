"""The model's part of a fingerprint: everything about a model and its settings that defines a vector.

What is listed in `fingerprint_inputs` changes the fingerprint, and nothing else does; `format.fingerprint` makes one
hash of it. Knows no files: hashes, ids of the tokenizer and the recipe are given.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sfr_batch.config.settings import ModelSettings
from sfr_batch.model.prompts import DOCUMENT, resolve
from sfr_batch.model.recipe import Recipe

CHUNK_RULE = 1
"""Version of the rules in `chunks`, for the fingerprint: raise it if any text would be cut elsewhere than before."""


def fingerprint_inputs(
    settings: ModelSettings,
    recipe: Recipe,
    golden_ids: Sequence[Sequence[int]],
    hashes: Mapping[str, str],
    vector_dtype: str,
) -> dict[str, Any]:
    """Everything of a model that can change a stored vector, for `fingerprint.digest`.

    Left out: paths, the device, batch sizes, library versions. The prompt is the text of the documents' prompt.
    """
    inputs = {
        "weights": dict(hashes),
        "golden_ids": [list(ids) for ids in golden_ids],
        "special_tokens_in_text": settings.special_tokens_in_text,
        "pooling": recipe.pooling,
        "prompt": resolve(recipe.prompts, DOCUMENT),
        "max_length": recipe.max_length,
        **_overflow(settings, recipe),
        "normalize": True,
        "compute_dtype": settings.compute_dtype,
        "vector_dtype": vector_dtype,
        "dim": recipe.dim,
    }
    # Only where they are: tables older than the setting or than support of such modules keep their fingerprint.
    inputs |= {"modules": recipe.modules} if recipe.modules else {}
    return inputs | ({"deterministic": True} if settings.deterministic else {})


def _overflow(settings: ModelSettings, recipe: Recipe) -> dict[str, Any]:
    if settings.overflow != "chunk":
        return {"overflow": settings.overflow}
    return {
        "overflow": "chunk",
        "chunk_tokens": settings.chunk_tokens or recipe.max_length,
        "chunk_overlap": settings.chunk_overlap,
        "chunk_rule": CHUNK_RULE,
    }
