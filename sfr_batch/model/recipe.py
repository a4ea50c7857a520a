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
from sfr_batch.model.architecture import Architecture, read_architecture
from sfr_batch.model.folder import read_object
from sfr_batch.model.modules import Pooling, read_max_seq_length, read_pooling, read_prompts
from sfr_batch.model.tokenizer_files import special_token_flags


@dataclass(frozen=True)
class Recipe:
    """How a model turns token ids into a vector."""

    folder: str
    """The model folder on this machine."""
    model_type: str
    """Architecture family: model_type of config.json."""
    causal: bool
    """Whether a token attends only to itself and to tokens before it."""
    pooling: Pooling
    """How hidden states become the vector."""
    max_length: int
    """Most tokens of a row, prompt and special tokens included."""
    dim: int
    """Length of the vector."""
    prompts: dict[str, str]
    """The repository's prompts, replaced and completed by those of the settings."""
    add_bos: bool | None
    """Whether a row begins with BOS; None leaves it to tokenizer.json."""
    add_eos: bool | None
    """Whether a row ends with EOS; None leaves it to tokenizer.json."""
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """config.json without its harmless keys, see `architecture.HARMLESS`."""


def read_recipe(folder: str | os.PathLike[str], settings: ModelSettings) -> Recipe:
    """The recipe of the model in ``folder``. Settings fill what the repository leaves out.

    Raises ModelError where the two contradict each other, where something is missing in both, and for models that
    this package would embed wrongly (remote code, extra layers after pooling, an active sliding window).
    """
    folder = Path(folder)
    architecture = read_architecture(folder)
    tokenizer_config = read_object(folder / "tokenizer_config.json")
    add_bos, add_eos = special_token_flags(architecture.model_type, tokenizer_config)
    return Recipe(
        folder=str(folder),
        model_type=architecture.model_type,
        causal=architecture.causal,
        pooling=read_pooling(folder, settings.pooling),
        max_length=_max_length(folder, architecture, tokenizer_config, settings),
        dim=architecture.dim,
        prompts={**read_prompts(folder), **settings.prompts},
        add_bos=add_bos,
        add_eos=add_eos,
        config=architecture.config,
    )


def _max_length(
    folder: Path, architecture: Architecture, tokenizer_config: Mapping[str, Any], settings: ModelSettings
) -> int:
    repository, file = read_max_seq_length(folder)
    positions = architecture.positions
    asked, place = settings.max_length, "model.max_length in the config"
    if asked is not None and repository is not None and asked > repository:
        raise ModelError(
            f"model.max_length is {asked} in the config, but max_seq_length is {repository} in {file}. "
            f"Set model.max_length to at most {repository}, or remove it."
        )
    if asked is None:
        asked, place = repository, f"max_seq_length in {file}"
    if asked is None:
        # As the reference does it; 1e30 is the tokenizers' way of saying that they do not know.
        known = [n for n in (tokenizer_config.get("model_max_length"), positions) if n is not None and n < 1e9]
        asked, place = (int(min(known)) if known else None), f"the limits in {folder}"
    if asked is None:
        raise ModelError(f"{folder} does not limit the number of tokens per row. Set model.max_length.")
    for limit, name in ((positions, "max_position_embeddings"), (architecture.window, "sliding_window")):
        if limit is not None and asked > limit:
            why = "; beyond the window results differ between implementations" if name == "sliding_window" else ""
            raise ModelError(
                f"{asked} tokens per row ({place}) exceed {limit}, the limit by {name} in {folder}/config.json{why}. "
                f"Set model.max_length to at most {limit}."
            )
    return int(asked)
