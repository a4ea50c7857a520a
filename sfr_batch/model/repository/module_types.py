"""The classes of sentence-transformers that modules.json may name, under the spellings of its versions 2 to 6.

Knows what kind of module a class is and which kinds have weights; reads no file.
"""

from collections.abc import Mapping

KINDS: Mapping[str, str] = {
    "Transformer": "transformer",
    "Pooling": "pooling",
    "Normalize": "normalize",
    "Dense": "dense",
    "LayerNorm": "layer_norm",
    "Dropout": "dropout",
}
"""Class -> the module of Python that has it since version 5.4."""
WITH_WEIGHTS = frozenset({"Dense", "LayerNorm"})
"""Kinds with a model.safetensors of their own in the folder of the module."""
LIBRARY = "sentence_transformers."
"""How the names of the library's own classes begin; any other class is code of the repository."""


def _spellings(kind: str, module: str) -> dict[str, str]:
    packages = ("models", "sentence_transformer.modules", "base.modules")
    names = [f"models.{kind}.{kind}", *(f"{p}.{kind}" for p in packages), *(f"{p}.{module}.{kind}" for p in packages)]
    return {f"{LIBRARY}{name}": kind for name in names}


_KINDS = {name: kind for kind, module in KINDS.items() for name, kind in _spellings(kind, module).items()}


def kind_of(class_name: str) -> str | None:
    """The kind of a class as modules.json spells it; None for one that is not known."""
    return _KINDS.get(class_name)
