"""What config.json says of an architecture: its type, its direction of attention, its width and its limits.

Refuses what this package would compute wrongly. Knows no sentence-transformers files, no tokenizer and no weights, and
imports neither torch nor transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfr_batch.errors import ModelError
from sfr_batch.model.folder import read_config

CAUSAL = frozenset({"mistral", "llama", "qwen2", "qwen3"})
BIDIRECTIONAL = frozenset(
    {"bert", "roberta", "xlm-roberta", "camembert", "mpnet", "distilbert", "electra", "modernbert"}
)
# These count positions from pad_token_id + 1, so that many of max_position_embeddings can never be used.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})

HARMLESS = frozenset(
    {
        # Where the file comes from, and which library wrote it.
        *("_name_or_path", "transformers_version", "_commit_hash"),
        # The dtype of the weights on disk: they are loaded in that of the settings.
        *("dtype", "torch_dtype"),
        # Of training, and nothing that acts in eval mode: dropout, initial values, memory.
        *("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "classifier_dropout"),
        *("initializer_range", "initializer_factor", "gradient_checkpointing"),
        # Of heads, of which none is loaded.
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params"),
        # What a forward pass returns beside the hidden states of the last layer, or keeps for the next one.
        *("output_attentions", "output_hidden_states", "return_dict", "use_cache"),
    }
)
"""Keys of config.json that change no vector. All others are part of the fingerprint."""


@dataclass(frozen=True)
class Architecture:
    """The part of a recipe that config.json decides."""

    model_type: str
    """Architecture family: model_type of config.json."""
    causal: bool
    """Whether a token attends only to itself and to tokens before it."""
    dim: int
    """Length of a hidden state."""
    positions: int | None
    """Most tokens of a row by the model's positions; None where config.json does not limit them."""
    window: int | None
    """Tokens of the sliding window that acts; None without one."""
    config: Mapping[str, Any]
    """config.json without the keys that are `HARMLESS`: whatever may change a vector."""


def read_architecture(folder: Path) -> Architecture:
    """What config.json in ``folder`` says. Raises ModelError for an architecture that would be computed wrongly."""
    config = read_config(folder)
    if not config:
        raise ModelError(f"{folder} is not a model folder: it has no config.json. Set model.path to a model folder.")
    if "auto_map" in config:
        raise ModelError(
            f"{folder}/config.json asks for code from the repository (auto_map), which is never run. Use a model whose "
            "architecture is part of transformers, or a copy without auto_map if it is."
        )
    dim = config.get("hidden_size", config.get("dim"))
    if not isinstance(dim, int):
        raise ModelError(
            f"{folder}/config.json has no hidden_size, so the length of a vector is unknown. Fetch the "
            "model again, or use another one."
        )
    positions = config.get("max_position_embeddings")
    if positions is not None and config.get("model_type") in _OFFSET_POSITIONS:
        positions -= int(config.get("pad_token_id", 1)) + 1
    return Architecture(
        model_type=str(config.get("model_type", "")),
        causal=_is_causal(folder, config),
        dim=dim,
        positions=positions,
        window=_window(config),
        config={key: value for key, value in config.items() if key not in HARMLESS},
    )


def _is_causal(folder: Path, config: Mapping[str, Any]) -> bool:
    model_type = config.get("model_type")
    architectures = [str(name) for name in config.get("architectures") or []]
    if model_type in CAUSAL or any(name.endswith("ForCausalLM") for name in architectures):
        causal = True
    elif model_type in BIDIRECTIONAL or any(name.endswith("ForMaskedLM") for name in architectures):
        causal = False
    else:
        known = ", ".join(sorted(CAUSAL | BIDIRECTIONAL))
        raise ModelError(
            f"{folder}/config.json does not say whether a model of type {model_type!r} (architectures "
            f"{architectures}) is causal or bidirectional. Known types: {known}."
        )
    # A decoder turned bidirectional, or an encoder turned causal, would be run with the wrong attention.
    turned = (
        config.get("is_causal") is False
        or config.get("use_bidirectional_attention")
        or (not causal and config.get("is_decoder"))
    )
    if turned:
        raise ModelError(
            f"{folder}/config.json changes the direction of attention of a {model_type} model (is_causal, is_decoder "
            "or use_bidirectional_attention), which is not supported. Use a model that does not change it."
        )
    return causal


def _window(config: Mapping[str, Any]) -> int | None:
    """The sliding window that transformers would apply, with its class defaults where the file is silent."""
    if config.get("model_type") in ("qwen2", "qwen3") and not config.get("use_sliding_window", False):
        return None
    window = config.get("sliding_window", 4096 if config.get("model_type") == "mistral" else None)
    return int(window) if window is not None else None
