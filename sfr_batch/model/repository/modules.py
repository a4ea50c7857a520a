"""The modules of a repository as modules.json lists them: how hidden states are pooled, and what follows.

Refuses what this package would compute wrongly: modules and keys that it does not know. Knows no architecture, no
tokenizer and no weights, and imports neither torch nor sentence-transformers. What it says of the reference is true of
sentence-transformers 6.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from sfr_batch.errors import ModelError
from sfr_batch.model.repository import keys
from sfr_batch.model.repository.folder import (
    MODULES,
    REPOSITORY_FILE,
    TRANSFORMER_FILES,
    read_config,
    read_json,
    read_object,
)
from sfr_batch.model.repository.keys import Key, check_keys, shown
from sfr_batch.model.repository.layers import Layer, read_dense, read_layer_norm, read_normalize
from sfr_batch.model.repository.module_types import KINDS, LIBRARY, kind_of

SEVERAL = "+"
"""What stands between the names of poolings whose vectors are concatenated."""
POOLING_NAMES: Mapping[str, str] = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last_token",
}
"""Name in sentence-transformers -> name here."""
_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Flags of the versions before 6, in the order in which the reference concatenates."""
_DIMENSIONS = ("embedding_dimension", "word_embedding_dimension")
ENTRY: keys.Table = {
    "idx": Key(keys.WHOLE, "the modules act in the order of the file", null=True),
    "name": Key(keys.TEXT, "names the module"),
    "path": Key(keys.TEXT, "the folder of the module"),
    "type": Key(keys.TEXT, "the class of the module"),
    "kwargs": Key(keys.TEXTS, "arguments of a call that the module takes", null=True, only=([],)),
}
"""Keys of an entry of modules.json."""
POOLING: keys.Table = {
    **{name: Key(keys.SIZE, "the length of a hidden state") for name in _DIMENSIONS},
    **{name: Key(keys.FLAG, f"pools with {mode}") for name, mode in _OLD_MODES.items()},
    "pooling_mode": Key(keys.ANYTHING, "a pooling, or a list of poolings whose vectors are concatenated"),
    "include_prompt": Key(keys.FLAG, "whether the tokens of the prompt are pooled"),
}
"""Keys of the config.json of a Pooling module."""
DROPOUT: keys.Table = {"dropout": Key(keys.SHARE, "nothing is dropped at inference")}
"""Keys of the config.json of a Dropout module."""


_READERS = {"Dense": read_dense, "LayerNorm": read_layer_norm, "Normalize": read_normalize}


@dataclass(frozen=True)
class Modules:
    """The modules behind the transformer."""

    pooling: str
    """Names of poolings, joined by `SEVERAL` where their vectors are concatenated."""
    layers: tuple[Layer, ...]
    """What is applied to the pooled vector, in this order, before the final normalization."""
    dim: int
    """Length of the vector behind them."""
    without_prompt: Path | None
    """The file that leaves the tokens of prompts out of pooling; None where they are pooled."""


def read_modules(folder: Path, hidden: int, asked: str | None) -> Modules:
    """The modules of the repository in ``folder`` behind hidden states of length ``hidden``.

    asked: the setting for pooling, which counts where the repository does not say. Raises ModelError where the two
    contradict each other, and for modules, classes and keys that are not supported.
    """
    entries = _entries(folder / MODULES)
    if not entries:
        _refuse_files_without_modules(folder)
    poolings = [place for place, (kind, _) in enumerate(entries) if kind == "Pooling"]
    last = poolings[-1] if poolings else 0
    for place, (kind, path) in enumerate(entries):
        _check_place(folder / MODULES, kind, path, behind=bool(poolings) and place > last, first=place == 0)
        file = folder / path / "config.json"
        if kind == "Dropout":
            check_keys(file, read_object(file), DROPOUT)
        elif kind == "Pooling":  # of several, which all pool the hidden states, the reference takes the last
            check_keys(file, read_object(file), POOLING)
        elif kind == "Normalize":  # before a pooling, the reference finds no vector to normalize
            read_normalize(folder, path, hidden)
    file = folder / (entries[last][1] if poolings else "1_Pooling") / "config.json"
    config = read_object(file) if poolings else {}
    pooling = _pooling(folder, file, config, hidden, asked)
    layers, dim = _layers(folder, entries[last + 1 :], hidden * len(pooling.split(SEVERAL)))
    return Modules(pooling, layers, dim, file if config.get("include_prompt") is False else None)


def _entries(file: Path) -> list[tuple[str, str]]:
    """Kind and folder of each module of modules.json; none where there is no such file."""
    found = read_json(file)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ModelError(f"{file} should hold a list of JSON objects. Fetch the model again.")
    entries = [(_kind(file, entry), str(entry["path"])) for entry in found]
    if not entries or entries[0][0] != "Transformer":
        first = f"its first module is {entries[0][0]}" if entries else "it is empty"
        raise ModelError(f"{file} does not begin with a Transformer: {first}. Use a model that begins with one.")
    names = [entry["name"] for entry in found if "name" in entry]
    if len(set(names)) != len(names):
        raise ModelError(
            f"{file} gives several modules the same name ({', '.join(names)}), of which sentence-transformers would "
            "keep one. Give each module a name of its own."
        )
    return entries


def _kind(file: Path, entry: Mapping[str, Any]) -> str:
    check_keys(file, entry, ENTRY)
    missing = [name for name in ("type", "path") if name not in entry]
    if missing:
        raise ModelError(f"{file} has a module without {missing[0]}: {shown(entry)}. Fetch the model again.")
    name, path = entry["type"], entry["path"]
    if not name.startswith(LIBRARY):
        raise ModelError(
            f"{file} names the class {name}, which is code of the repository (type) and is never run. Use a model "
            "whose modules are those of sentence-transformers."
        )
    kind = kind_of(name)
    if kind is None:
        raise ModelError(
            f"{file} lists a module {name.rsplit('.', 1)[-1]} ({name}), which is not supported: vectors without it "
            f"would be wrong. Supported types: {', '.join(KINDS)}."
        )
    where = PureWindowsPath(path)  # reads both kinds of slashes
    if where.anchor or ".." in where.parts or "\0" in path or "\\" in path:
        raise ModelError(f"{file} has a module in {shown(path)} (path), outside of the model folder. Correct the path.")
    if kind == "Transformer" and PurePosixPath(path) != PurePosixPath():
        raise ModelError(f"{file}: the transformer lies in {path} (path), not in the model folder itself.")
    return kind


def _check_place(file: Path, kind: str, path: str, *, behind: bool, first: bool) -> None:
    if kind == "Transformer" and not first:
        raise ModelError(f"{file} lists two modules Transformer, which is not supported. Use a model that has one.")
    if kind in ("Dense", "LayerNorm", "Dropout") and not behind:
        raise ModelError(
            f"{file} lists {kind} ({path}) before the last Pooling, or without one, which is not supported. Use a "
            "model that pools first."
        )


def _refuse_files_without_modules(folder: Path) -> None:
    """The reference reads none of these files without modules.json."""
    for name in ("1_Pooling/config.json", *TRANSFORMER_FILES, REPOSITORY_FILE):
        if set(read_object(folder / name)) - {"__version__"}:
            raise ModelError(
                f"{folder / MODULES} is missing, without which sentence-transformers does not read {name}. Fetch the "
                f"model again, or remove {name} and say in the settings what it says."
            )


def _pooling(folder: Path, file: Path, config: Mapping[str, Any], hidden: int, asked: str | None) -> str:
    if not config:
        if asked is None:
            raise ModelError(
                f"{folder} does not say how to pool hidden states into a vector ({file.parent.name}/{file.name} is "
                "missing, or no path in modules.json). Set model.pooling to last_token, mean or cls, as the model card "
                "says."
            )
        return asked
    check_keys(file, config, POOLING)
    # sentence-transformers writes hidden_size, although the states of OPT are projected to another length.
    lengths = {hidden, read_config(folder).get("hidden_size", hidden)}
    for name in _DIMENSIONS:
        if config.get(name, hidden) not in lengths:
            raise ModelError(
                f"{file} sets {name} to {config[name]}, but a hidden state has {hidden} values by {folder}/config.json "
                "(hidden_size or the like). Fetch the model again."
            )
    modes = config.get("pooling_mode")
    if modes is None:  # the spelling before sentence-transformers 6; nothing chosen means mean there, too
        modes = [mode for key, mode in _OLD_MODES.items() if config.get(key)] or ["mean"]
    if isinstance(modes, str):
        modes = [modes]
    if not isinstance(modes, list) or not modes or not all(isinstance(m, str) and m in POOLING_NAMES for m in modes):
        raise ModelError(
            f"{file} sets pooling_mode to {shown(modes)}. Supported is one of {', '.join(POOLING_NAMES)}, or a list of "
            "them. Use another model."
        )
    pooling = SEVERAL.join(POOLING_NAMES[mode] for mode in modes)
    if asked not in (None, pooling):
        raise ModelError(
            f"model.pooling is {asked} in the config, but {file} says {pooling}. Remove model.pooling to "
            "use the pooling that the model was trained with."
        )
    return pooling


def _layers(folder: Path, entries: Sequence[tuple[str, str]], dim: int) -> tuple[tuple[Layer, ...], int]:
    """The layers behind the pooling, without what changes no direction at the end, and the length of their vector."""
    layers: list[Layer] = []
    for kind, path in entries:
        if kind in _READERS:
            layers.append(_READERS[kind](folder, path, dim))
            dim = layers[-1].out_features
    while layers and layers[-1].kind == "normalize":  # vectors are normalized at the end anyway
        layers.pop()
    return tuple(layers), dim
