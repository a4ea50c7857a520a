"""The recipe of a model: how its vectors are made, read from the repository's small files.

It is checked against the settings; where the two disagree, the error names both. Loads no weights and imports neither
torch nor transformers, so that planning stays cheap; knows nothing of tables, corpora or Ray.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ModelError
from sfr_batch.model.repository.architecture import Architecture, read_architecture
from sfr_batch.model.repository.folder import read_object
from sfr_batch.model.repository.layers import Layer
from sfr_batch.model.repository.matryoshka import read_dimensions
from sfr_batch.model.repository.modules import Modules, read_modules
from sfr_batch.model.repository.repository_file import prompts_of, read_repository_file
from sfr_batch.model.repository.transformer_file import TransformerFile, read_transformer_file
from sfr_batch.model.tokenization.files import model_max_length

_WITHOUT_PROMPT = frozenset({"hkunlp/instructor-base", "hkunlp/instructor-large", "hkunlp/instructor-xl"})
"""Models whose prompts sentence-transformers leaves out of pooling although no file says so
(sentence_transformer/model.py)."""


@dataclass(frozen=True)
class Recipe:
    """How a model turns token ids into a vector."""

    folder: str
    """The model folder on this machine."""
    model_type: str
    """Architecture family: model_type of config.json."""
    causal: bool
    """Whether a token attends only to itself and to tokens before it."""
    pooling: str
    """How hidden states become the vector: a name of `encoder.pooling`, or several joined by "+" whose vectors are
    concatenated."""
    max_length: int
    """Most tokens of a row, prompt and special tokens included."""
    dim: int
    """Length of the final vector."""
    prompts: dict[str, str]
    """The repository's prompts, replaced and completed by those of the settings."""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """config.json without its harmless keys, see `architecture.HARMLESS`."""
    hidden: int = 0
    """Length of a hidden state."""
    layers: tuple[Layer, ...] = ()
    """What is applied to the pooled vector, in this order, before it is cut and normalized."""
    dimensions: int | None = None
    """The number of first values to which the vector is cut before it is normalized; None if it is not."""
    lowercase: bool = False
    """Whether texts are lowercased before the tokenizer's normalizer, unless that has a step that lowercases."""

    @property
    def modules(self) -> dict[str, Any]:
        """What follows the pooling, as JSON values for the fingerprint; empty where that is the normalization alone."""
        found: dict[str, Any] = {"layers": [layer.values() for layer in self.layers]} if self.layers else {}
        return found if self.dimensions is None else {**found, "dimensions": self.dimensions}


def read_recipe(folder: str | os.PathLike[str], settings: ModelSettings) -> Recipe:
    """The recipe of the model in ``folder``. Settings fill what the repository leaves out.

    Raises ModelError where the two contradict each other, where something is missing in both, and for models that
    this package would embed wrongly (remote code, unknown modules and keys, an active sliding window).
    """
    folder = Path(folder)
    architecture = read_architecture(folder)
    tokenizer_config = read_object(folder / "tokenizer_config.json")
    modules = read_modules(folder, architecture.dim, settings.pooling)
    transformer, repository = read_transformer_file(folder), read_repository_file(folder)
    dimensions = read_dimensions(folder, modules.dim, repository, settings)
    prompts = {**prompts_of(repository), **settings.prompts}
    _check_prompts(folder, modules, prompts, settings.path)
    return Recipe(
        folder=str(folder),
        model_type=architecture.model_type,
        causal=architecture.causal,
        pooling=modules.pooling,
        max_length=_max_length(folder, architecture, transformer, tokenizer_config, settings),
        dim=modules.dim if dimensions is None else dimensions,
        prompts=prompts,
        config=architecture.config,
        hidden=architecture.dim,
        layers=modules.layers,
        dimensions=dimensions,
        lowercase=transformer.lowercase,
    )


def _check_prompts(folder: Path, modules: Modules, prompts: Mapping[str, str], path: str) -> None:
    """Raises ModelError if a prompt would be pooled although the repository leaves prompts out."""
    file = modules.without_prompt or (folder if path in _WITHOUT_PROMPT else None)
    names = [name for name, text in prompts.items() if text]
    if file is not None and names:
        raise ModelError(
            f"{file} leaves the prompt out of pooling (include_prompt: false), which is not supported where there are "
            f"prompts ({', '.join(names)}). Use another model, or set these prompts to '' under model.prompts."
        )


def _max_length(
    folder: Path,
    architecture: Architecture,
    transformer: TransformerFile,
    tokenizer_config: Mapping[str, Any],
    settings: ModelSettings,
) -> int:
    repository = transformer.max_length
    positions = architecture.positions
    asked, place = settings.max_length, "model.max_length in the config"
    if asked is not None and repository is not None and asked > repository:
        raise ModelError(
            f"model.max_length is {asked} in the config, but {transformer.key} is {repository} in {transformer.file}. "
            f"Set model.max_length to at most {repository}, or remove it."
        )
    if asked is None:
        asked, place = repository, f"{transformer.key} in {transformer.file}"
    if asked is None:
        # As the reference does it; 1e30 is the tokenizers' way of saying that they do not know.
        known = [n for n in (model_max_length(folder, tokenizer_config), positions) if n is not None and n < 1e9]
        asked, place = (int(min(known)) if known else None), f"the limits in {folder}"
    if asked is None:
        raise ModelError(f"{folder} does not limit the number of tokens per row. Set model.max_length.")
    for limit in architecture.limits:
        if asked > limit.tokens:
            raise ModelError(
                f"{asked} tokens per row ({place}) exceed {limit.tokens}, the limit by {limit.name} in "
                f"{folder}/config.json{limit.why}. Set model.max_length to at most {limit.tokens}."
            )
    return int(asked)
