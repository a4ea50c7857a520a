"""The recipe of a model: how its vectors are made, read from the repository's small files.

It is checked against the settings; where the two disagree, the error names both. Loads no weights and imports neither
torch nor transformers, so that planning stays cheap; knows nothing of tables, corpora or Ray.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ModelError
from sfr_batch.model.folder import read_json, read_object
from sfr_batch.model.prompts import DOCUMENT, QUERY

Pooling = Literal["last_token", "mean", "cls"]
CAUSAL = frozenset({"mistral", "llama", "qwen2", "qwen3"})
BIDIRECTIONAL = frozenset(
    {"bert", "roberta", "xlm-roberta", "camembert", "mpnet", "distilbert", "electra", "modernbert"}
)
# These count positions from pad_token_id + 1, so that many of max_position_embeddings can never be used.
_OFFSET_POSITIONS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
LLAMA_TOKENIZERS = frozenset({"LlamaTokenizer", "LlamaTokenizerFast"})
LLAMA_MODELS = frozenset({"llama", "mistral"})
"""Types of models whose tokenizer is a Llama tokenizer where no file names its class."""
_POOLING_NAMES: dict[str, Pooling] = {"lasttoken": "last_token", "mean": "mean", "cls": "cls"}
_OLD_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


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


def read_recipe(folder: str | os.PathLike[str], settings: ModelSettings) -> Recipe:
    """The recipe of the model in ``folder``. Settings fill what the repository leaves out.

    Raises ModelError where the two contradict each other, where something is missing in both, and for models that
    this package would embed wrongly (remote code, extra layers after pooling, an active sliding window).
    """
    folder = Path(folder)
    config = read_object(folder / "config.json")
    if not config:
        raise ModelError(f"{folder} is not a model folder: it has no config.json. Set model.path to a model folder.")
    if "auto_map" in config:
        raise ModelError(
            f"{folder}/config.json asks for code from the repository (auto_map), which is never run. Use a model whose "
            "architecture is part of transformers, or a copy without auto_map if it is."
        )
    model_type = str(config.get("model_type", ""))
    pooling_file = _check_modules(folder)
    tokenizer_config = read_object(folder / "tokenizer_config.json")
    dim = config.get("hidden_size", config.get("dim"))
    if not isinstance(dim, int):
        raise ModelError(
            f"{folder}/config.json has no hidden_size, so the length of a vector is unknown. Fetch the "
            "model again, or use another one."
        )
    add_bos, add_eos = _special_token_flags(model_type, tokenizer_config)
    return Recipe(
        folder=str(folder),
        model_type=model_type,
        causal=_is_causal(folder, config),
        pooling=_pooling(folder, pooling_file, settings),
        max_length=_max_length(folder, config, tokenizer_config, settings),
        dim=dim,
        prompts={**_repository_prompts(folder), **settings.prompts},
        add_bos=add_bos,
        add_eos=add_eos,
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


def _check_modules(folder: Path) -> Path:
    """The pooling config that modules.json points to. Raises ModelError for an unsupported module."""
    file = folder / "modules.json"
    modules = read_json(file)
    pooling = "1_Pooling"
    for module in modules or []:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = str(module.get("path", pooling))
        elif kind == "Transformer":
            if module.get("path"):
                raise ModelError(f"{file}: the transformer lies in {module['path']}, not in the model folder itself.")
        elif kind != "Normalize":
            raise ModelError(
                f"{file} lists a module {kind}, which is not supported: vectors without it would be wrong. Supported: "
                "Transformer, Pooling, Normalize."
            )
    return folder / pooling / "config.json"


def _pooling(folder: Path, file: Path, settings: ModelSettings) -> Pooling:
    config = read_object(file)
    if not config:
        if settings.pooling is None:
            raise ModelError(
                f"{folder} does not say how to pool hidden states into a vector ({file.parent.name}/{file.name} is "
                "missing). Set model.pooling to last_token, mean or cls, as the model card says."
            )
        return settings.pooling
    if config.get("include_prompt") is False:
        raise ModelError(f"{file} leaves the prompt out of pooling (include_prompt: false), which is not supported.")
    modes = config.get("pooling_mode")
    if modes is None:  # the spelling before sentence-transformers 6; nothing chosen means mean there, too
        modes = [mode for key, mode in _OLD_POOLING_KEYS.items() if config.get(key)] or ["mean"]
    if isinstance(modes, str):
        modes = [modes]
    if len(modes) != 1 or modes[0] not in _POOLING_NAMES:
        raise ModelError(
            f"{file} asks for pooling {'+'.join(modes)}. Supported is exactly one of lasttoken, mean and cls."
        )
    pooling = _POOLING_NAMES[modes[0]]
    if settings.pooling not in (None, pooling):
        raise ModelError(
            f"model.pooling is {settings.pooling} in the config, but {file} says {pooling}. Remove model.pooling to "
            "use the pooling that the model was trained with."
        )
    return pooling


def _max_length(
    folder: Path, config: Mapping[str, Any], tokenizer_config: Mapping[str, Any], settings: ModelSettings
) -> int:
    file = folder / "sentence_bert_config.json"
    transformer = read_object(file)
    if transformer.get("do_lower_case"):
        raise ModelError(
            f"{file} asks for lowercasing outside of the tokenizer (do_lower_case), which is not supported."
        )
    repository = transformer.get("max_seq_length")
    positions = config.get("max_position_embeddings")
    if positions is not None and config.get("model_type") in _OFFSET_POSITIONS:
        positions -= int(config.get("pad_token_id", 1)) + 1

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
    for limit, name in ((positions, "max_position_embeddings"), (_window(config), "sliding_window")):
        if limit is not None and asked > limit:
            why = "; beyond the window results differ between implementations" if name == "sliding_window" else ""
            raise ModelError(
                f"{asked} tokens per row ({place}) exceed {limit}, the limit by {name} in {folder}/config.json{why}. "
                f"Set model.max_length to at most {limit}."
            )
    return int(asked)


def _window(config: Mapping[str, Any]) -> int | None:
    """The sliding window that transformers would apply, with its class defaults where the file is silent."""
    if config.get("model_type") in ("qwen2", "qwen3") and not config.get("use_sliding_window", False):
        return None
    window = config.get("sliding_window", 4096 if config.get("model_type") == "mistral" else None)
    return int(window) if window is not None else None


def _repository_prompts(folder: Path) -> dict[str, str]:
    config = read_object(folder / "config_sentence_transformers.json")
    found = {str(name): str(text) for name, text in (config.get("prompts") or {}).items()}
    # As encode_query and encode_document of sentence-transformers look them up.
    for alias in ("passage", "corpus"):
        if DOCUMENT not in found and alias in found:
            found[DOCUMENT] = found[alias]
    default = config.get("default_prompt_name")
    if default in found:
        for side in (QUERY, DOCUMENT):
            found.setdefault(side, found[default])
    return found


def _special_token_flags(model_type: str, config: Mapping[str, Any]) -> tuple[bool | None, bool | None]:
    """Whether BOS and EOS are added, as (bos, eos); None leaves it to tokenizer.json.

    transformers 4 obeyed these flags and transformers 5 ignores them. For e5-mistral, the base of
    SFR-Embedding-Mistral, this was shown to lose EOS. Here a flag that is given is obeyed. If only one is given, the
    other has the default of the Llama classes (BOS yes, EOS no). If neither is given, tokenizer.json decides.
    """
    bos, eos = config.get("add_bos_token"), config.get("add_eos_token")
    kind = config.get("tokenizer_class")
    llama = kind in LLAMA_TOKENIZERS or (kind is None and model_type in LLAMA_MODELS)
    if llama and not (bos is None and eos is None):
        bos, eos = bos is not False, eos is True
    return bos, eos
