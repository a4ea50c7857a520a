"""The small files of the model on this node, compared with those that the run was planned with.

A worker reads them again, maybe on another machine and always later than the plan did. Knows no stage and no device.
"""

import json
import socket
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ModelError
from sfr_batch.format.fingerprint import canonical_json, different_keys
from sfr_batch.model.identity import fingerprint_inputs
from sfr_batch.model.prompts import DOCUMENT, resolve
from sfr_batch.model.recipe import Recipe, read_recipe
from sfr_batch.model.sources.location import locate
from sfr_batch.model.tokenization.tokenizer import Tokenizer
from sfr_batch.pipeline.job import Job


def check_planned(settings: ModelSettings, recipe: Recipe, tokenizer: Tokenizer, inputs: Mapping[str, Any]) -> None:
    """Raises ModelError if recipe and tokenizer, as this node has them, make other vectors than the plan's ``inputs``.

    Weights are not compared: only who loads them knows theirs.
    """
    here = fingerprint_inputs(settings, recipe, tokenizer, inputs["weights"], inputs["vector_dtype"])
    if differing := different_keys(inputs, here):
        raise ModelError(
            f"{recipe.folder} on node {socket.gethostname()} is not the model of the plan: it differs in "
            f"{', '.join(differing)}. Copy the same model to all nodes. If its files were replaced after the run had "
            "begun, run the command again."
        )


def tokenizer_of(job: Job) -> tuple[Tokenizer, str]:
    """The tokenizer of a job and its prompt of documents. Raises ModelError, see `check_planned`; TokenizerError.

    Loaded once per process and plan: tasks come and go, their worker stays.
    """
    return _tokenizer(job.model.model_dump_json(), canonical_json(job.inputs))


@lru_cache(maxsize=2)
def _tokenizer(model_json: str, inputs_json: str) -> tuple[Tokenizer, str]:
    # The plan's inputs are part of the key: the same settings may mean other files for the next run of this process.
    settings = ModelSettings.model_validate_json(model_json)
    recipe = read_recipe(locate(settings, weights=False), settings)
    tokenizer = Tokenizer.load(recipe, special_tokens_in_text=settings.special_tokens_in_text)
    check_planned(settings, recipe, tokenizer, json.loads(inputs_json))
    return tokenizer, resolve(recipe.prompts, DOCUMENT)
