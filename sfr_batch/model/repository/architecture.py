"""What config.json says of an architecture: its type, its direction of attention, its width and its limits.

Refuses what this package would compute wrongly. Knows no sentence-transformers files, no tokenizer and no weights, and
imports neither torch nor transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfr_batch.errors import ModelError
from sfr_batch.model.repository import config_keys
from sfr_batch.model.repository.families import FAMILIES, UNSUPPORTED, WINDOWED, Family
from sfr_batch.model.repository.folder import read_config
from sfr_batch.model.repository.rope import rope_limit

HARMLESS = config_keys.HARMLESS
"""Keys of config.json that change no vector, each with the reason. All others are part of the fingerprint."""
_WIDTHS = ("hidden_size", "d_model", "n_embd", "emb_dim", "dim")
"""Names of the length of a hidden state in families that `FAMILIES` does not have."""
_POSITIONS = ("max_position_embeddings", "n_positions")
_ALONE = "; beyond it the vector of a row depends on the longest row of its batch"


@dataclass(frozen=True)
class Limit:
    """Most tokens of a row by one key of config.json."""

    tokens: int
    name: str
    """The key, as an error names it."""
    why: str = ""
    """What happens beyond it, to follow the name of the file in a sentence."""


@dataclass(frozen=True)
class Architecture:
    """The part of a recipe that config.json decides."""

    model_type: str
    """Architecture family: model_type of config.json."""
    causal: bool
    """Whether a token attends only to itself and to tokens before it. A guess for families that no test compares."""
    dim: int
    """Length of a hidden state."""
    positions: int | None
    """Most tokens of a row by the model's positions; None where config.json does not limit them."""
    limits: tuple[Limit, ...]
    """All limits of the tokens of a row, that of the positions among them."""
    config: Mapping[str, Any]
    """config.json without the keys that are `HARMLESS`: whatever may change a vector."""


def read_architecture(folder: Path) -> Architecture:
    """What config.json in ``folder`` says. Raises ModelError for an architecture that would be computed wrongly."""
    config = read_config(folder)
    file = f"{folder}/config.json"
    if not config:
        raise ModelError(f"{folder} is not a model folder: it has no config.json. Set model.path to a model folder.")
    _refuse_what_is_not_computed(file, config)
    config_keys.check_values(file, config)
    family = FAMILIES.get(config["model_type"])
    causal = _is_causal(file, config, family)
    positions = _positions(file, config, family)
    return Architecture(
        model_type=config["model_type"],
        causal=causal,
        dim=_width(file, config, family),
        positions=positions,
        limits=_limits(file, config, positions),
        config={key: value for key, value in config.items() if key not in HARMLESS},
    )


def _refuse_what_is_not_computed(file: str, config: Mapping[str, Any]) -> None:
    if "auto_map" in config:
        raise ModelError(
            f"{file} asks for code from the repository (auto_map), which is never run. Use a model whose "
            "architecture is part of transformers, or a copy without auto_map if it is."
        )
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise ModelError(
            f"{file} has no model_type, so the architecture is unknown. Use a model of the transformers library, or "
            "fetch the model again."
        )
    if model_type in UNSUPPORTED:
        raise ModelError(
            f"{file}: the rows of a model of type {model_type} depend on the rows beside them, since "
            f"{UNSUPPORTED[model_type]}, so that a text has no vector of its own. Use another model."
        )
    for key in ("quantization_config", "compression_config"):
        quantization = config.get(key)
        if quantization:
            method = quantization.get("quant_method") if isinstance(quantization, Mapping) else quantization
            raise ModelError(
                f"{file} says that the weights are quantized ({key}: {method or 'of no named method'}), which is not "
                "supported. Use the model's weights in float32, bfloat16 or float16."
            )
    if config.get("is_encoder_decoder") and not getattr(FAMILIES.get(model_type), "encoder_only", None):
        raise ModelError(
            f"{file} describes a model with encoder and decoder (is_encoder_decoder) of type {model_type}, which is "
            f"not supported. Supported: {', '.join(sorted(t for t, f in FAMILIES.items() if f.encoder_only))}."
        )
    for key, why in _MUST_BE_OFF.items():
        if config.get(key):
            raise ModelError(f"{file} has {key} {config[key]!r}, which is not supported: {why}. Use another model.")
    if model_type in WINDOWED and config.get("per_layer_config"):
        raise ModelError(
            f"{file} has per_layer_config, layers that differ from each other, which is not supported for a "
            f"{model_type} model. Use another model."
        )
    if "text_config" in config:
        raise ModelError(
            f"{file} describes a model of texts and other inputs (text_config) of type {model_type}, which is not "
            "supported. Use its model of texts alone, if there is one."
        )
    _check_kind_of_positions(file, config)


_MUST_BE_OFF = {
    "add_cross_attention": "its layers attend to the output of another model",
    "chunk_size_feed_forward": "it cuts rows, and fails on lengths that it does not divide",
    "pruned_heads": "transformers 5 no longer removes heads",
}


_KINDS_OF_POSITIONS = {"esm": ("absolute", "rotary"), "granitemoehybrid": ("rope",), "gte": ("rope",)}
"""Values of position_embedding_type that transformers 5.24 obeys, or that name the only kind it has; for all other
families it takes positions to be absolute, whatever the key says."""


def _check_kind_of_positions(file: str, config: Mapping[str, Any]) -> None:
    kind, model_type = config.get("position_embedding_type"), config["model_type"]
    obeyed = _KINDS_OF_POSITIONS.get(model_type, ("absolute",))
    if kind is not None and kind not in obeyed:
        raise ModelError(
            f"{file} has position_embedding_type {kind!r}, but transformers 5 computes a {model_type} model as if it "
            f"were {' or '.join(obeyed)}, so that vectors would be wrong. Use another model."
        )


def _is_causal(file: str, config: Mapping[str, Any], family: Family | None) -> bool:
    model_type = config["model_type"]
    architectures = config.get("architectures") or []
    # Of other families only a head tells; they are computed with a mask, which is right in either case.
    causal = family.causal if family else any(name.endswith("ForCausalLM") for name in architectures)
    turned = False
    if config.get("is_causal") is not None and bool(config["is_causal"]) != causal:
        turned = True
        if causal and family is not None and family.turnable:
            return False
    if config.get("use_bidirectional_attention"):
        turned = causal
        if model_type == "gemma3_text" and config["use_bidirectional_attention"] is True:
            return False
    # A decoder turned bidirectional, or an encoder turned causal, would be run with the wrong attention.
    if turned or (not causal and config.get("is_decoder") and not (family and family.encoder_only)):
        raise ModelError(
            f"{file} changes the direction of attention of a {model_type} model (is_causal, is_decoder "
            "or use_bidirectional_attention), which is not supported. Use a model that does not change it."
        )
    return causal


def _width(file: str, config: Mapping[str, Any], family: Family | None) -> int:
    names: tuple[str, ...] = (family.width, "hidden_size") if family else _WIDTHS
    if family and family.width == "embedding_dim":  # a size of its own, behind a projection
        names = names[:1]
    found = {name: config[name] for name in names if name in config}
    if family and family.width == "word_embed_proj_dim":  # OPT has both: states are projected to the first
        found = {name: found[name] for name in names[: 1 if names[0] in found else 2] if name in found}
    if not found:
        raise ModelError(
            f"{file} has no {names[0]}, so the length of a vector is unknown. Fetch the "
            "model again, or use another one."
        )
    if family and len(set(found.values())) > 1:
        both = " and ".join(f"{name} {value}" for name, value in found.items())
        raise ModelError(f"{file} has {both}, which are two names of one size. Keep {names[0]}.")
    return int(next(iter(found.values())))


def _positions(file: str, config: Mapping[str, Any], family: Family | None) -> int | None:
    if family:
        names: tuple[str, ...] = (family.positions, "max_position_embeddings") if family.positions else ()
    else:
        names = _POSITIONS
    found = [config[name] for name in names if config.get(name) is not None]
    if not found:
        return None
    if family and family.offset and not (config["model_type"] == "esm" and _is_rotary(config)):
        padding = config.get("pad_token_id", None if config["model_type"] == "esm" else 1)
        if padding is None or padding < 0:
            raise ModelError(
                f"{file} has pad_token_id {padding}, but a {config['model_type']} model counts positions from behind "
                "its padding id. Set pad_token_id to the id of the padding token."
            )
        return int(min(found)) - int(padding) - 1
    return int(min(found))


def _is_rotary(config: Mapping[str, Any]) -> bool:
    return bool(config.get("position_embedding_type") == "rotary")


def _limits(file: str, config: Mapping[str, Any], positions: int | None) -> tuple[Limit, ...]:
    limits = []
    if positions is not None:
        limits.append(Limit(positions, "max_position_embeddings"))
    window = _window(config)
    if window is not None:
        why = "; beyond the window results differ between implementations"
        limits.append(Limit(window, "sliding_window", why))
    rope = rope_limit(file, config)
    if rope is not None:
        limits.append(Limit(*rope, _ALONE))
    if config["model_type"] == "big_bird" and config.get("attention_type", "block_sparse") != "original_full":
        # transformers 5.24, modeling_big_bird.py: up to here it computes full attention whatever the type.
        blocks = 5 + 2 * int(config.get("num_random_blocks", 3))
        limits.append(Limit(blocks * int(config.get("block_size", 64)), "attention_type block_sparse", _ALONE))
    return tuple(limits)


def _window(config: Mapping[str, Any]) -> int | None:
    """The sliding window that this package does not compute, with transformers' defaults where the file is silent."""
    model_type = config["model_type"]
    if model_type not in WINDOWED:
        return None
    if model_type in ("qwen2", "qwen3") and not config.get("use_sliding_window", False):
        return None
    window = config.get("sliding_window", 4096 if model_type == "mistral" else None)
    return None if window is None else int(window)
