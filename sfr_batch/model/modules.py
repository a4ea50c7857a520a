"""What the files of sentence-transformers say in a model folder: modules, pooling, length and prompts.

Refuses what this package would compute wrongly. Knows no architecture, no tokenizer and no weights, and imports neither
torch nor sentence-transformers.
"""

from pathlib import Path
from typing import Literal

from sfr_batch.errors import ModelError
from sfr_batch.model.folder import read_json, read_object
from sfr_batch.model.prompts import DOCUMENT, QUERY

Pooling = Literal["last_token", "mean", "cls"]
_POOLING_NAMES: dict[str, Pooling] = {"lasttoken": "last_token", "mean": "mean", "cls": "cls"}
_OLD_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


def read_pooling(folder: Path, asked: Pooling | None) -> Pooling:
    """How the repository pools hidden states; ``asked``, the setting, counts where it does not say.

    Raises ModelError where the two contradict each other, and for a module that is not supported.
    """
    return _pooling(folder, _check_modules(folder), asked)


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


def _pooling(folder: Path, file: Path, asked: Pooling | None) -> Pooling:
    config = read_object(file)
    if not config:
        if asked is None:
            raise ModelError(
                f"{folder} does not say how to pool hidden states into a vector ({file.parent.name}/{file.name} is "
                "missing). Set model.pooling to last_token, mean or cls, as the model card says."
            )
        return asked
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
    if asked not in (None, pooling):
        raise ModelError(
            f"model.pooling is {asked} in the config, but {file} says {pooling}. Remove model.pooling to "
            "use the pooling that the model was trained with."
        )
    return pooling


def read_max_seq_length(folder: Path) -> tuple[int | None, Path]:
    """Most tokens of a row as sentence-transformers is told, and the file that says so. Raises ModelError."""
    file = folder / "sentence_bert_config.json"
    transformer = read_object(file)
    if transformer.get("do_lower_case"):
        raise ModelError(
            f"{file} asks for lowercasing outside of the tokenizer (do_lower_case), which is not supported."
        )
    return transformer.get("max_seq_length"), file


def read_prompts(folder: Path) -> dict[str, str]:
    """The prompts of the repository by name; query and document as encode_query and encode_document find them."""
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
