"""The model's part of a fingerprint: everything about a model and its settings that defines a vector.

What is listed in `fingerprint_inputs` changes the fingerprint, and nothing else does; `format.fingerprint` makes one
hash of it. Knows no files: the recipe, the tokenizer and the hashes of the weights are given.
"""

from collections.abc import Mapping
from typing import Any

from sfr_batch.config.settings import ModelSettings
from sfr_batch.model.prompts import DOCUMENT, resolve
from sfr_batch.model.recipe import Recipe
from sfr_batch.model.repository.architecture import HARMLESS
from sfr_batch.model.tokenization.tokenizer import Tokenizer

CHUNK_RULE = 1
"""Version of the rules in `chunks`, for the fingerprint: raise it if any text would be cut elsewhere than before."""
FP8_RULE = 1
"""Version of the rules in `encoder.fp8`, for the fingerprint of tables in fp8: raise it if numbers would be scaled or
rounded otherwise than before. The first one is not written, so that tables that are older than it keep theirs."""

SAME_MODEL = {"float32": 1e-5, "float16": 1e-4, "bfloat16": 2e-3, "fp8": 1e-2}
"""1 - cosine that the same text may differ by between batches, paddings or machines, by compute dtype.

Rounding errors of relative size e turn a unit vector by an angle of that order, so 1 - cosine goes with e squared: the
unit roundoffs are 6e-8, 5e-4 and 4e-3, and some ten of them add up over the layers. A wrong token, pooling or prompt
moves it by 0.01 and more. Measured with MiniLM on a CPU: 4e-13, 6e-7 and 4e-5; a 7B model has five times the layers.
In fp8, a difference in the last bit of bfloat16 may become a step of a sixteenth: 9e-4 measured.
"""


def fingerprint_inputs(
    settings: ModelSettings,
    recipe: Recipe,
    tokenizer: Tokenizer,
    hashes: Mapping[str, str],
    vector_dtype: str,
) -> dict[str, Any]:
    """Everything of a model that can change a stored vector, for `fingerprint.digest`.

    Left out: paths, the device, batch sizes, library versions. The prompt is the text of the documents' prompt.
    """
    inputs = {
        "weights": dict(hashes),
        "config": dict(recipe.config),
        "tokenizer": tokenizer.acting,
        "golden_ids": tokenizer.golden_ids(),
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
    inputs |= {"fp8_rule": FP8_RULE} if settings.compute_dtype == "fp8" and FP8_RULE > 1 else {}
    return inputs | ({"deterministic": True} if settings.deterministic else {})


def comparable(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded inputs, without keys of config.json that were found to be harmless since they were recorded."""
    if not isinstance(inputs.get("config"), Mapping):
        return dict(inputs)
    return {**inputs, "config": {key: value for key, value in inputs["config"].items() if key not in HARMLESS}}


def _overflow(settings: ModelSettings, recipe: Recipe) -> dict[str, Any]:
    if settings.overflow != "chunk":
        return {"overflow": settings.overflow}
    return {
        "overflow": "chunk",
        "chunk_tokens": settings.chunk_tokens or recipe.max_length,
        "chunk_overlap": settings.chunk_overlap,
        "chunk_rule": CHUNK_RULE,
    }
