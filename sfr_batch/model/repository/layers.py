"""The layers that may follow a pooling, as plain values: Dense, LayerNorm and Normalize of sentence-transformers.

Reads their config.json and refuses what is not known. Knows no weights but the names of their files, and no torch:
`encoder.layers` computes them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sfr_batch.errors import ModelError
from sfr_batch.model.repository import keys
from sfr_batch.model.repository.folder import module_weights, read_object
from sfr_batch.model.repository.keys import Key, check_keys, shown

_VECTOR = "sentence_embedding"
_NAMES: keys.Table = {
    "module_input_name": Key(keys.TEXT, "a layer acts on the pooled vector only", only=(_VECTOR,)),
    "module_output_name": Key(keys.TEXT, "a layer gives the pooled vector only", null=True, only=(_VECTOR,)),
}
DENSE: keys.Table = {
    "in_features": Key(keys.SIZE, "the length of the vector before the layer"),
    "out_features": Key(keys.SIZE, "the length of the vector behind the layer"),
    "bias": Key(keys.FLAG, "whether the layer adds a vector"),
    "activation_function": Key(keys.TEXT, "the function applied to each value behind the layer"),
    "use_residual": Key(keys.FLAG, "whether the input is added to the output"),
    **_NAMES,
}
"""Keys of the config.json of a Dense module."""
LAYER_NORM: keys.Table = {"dimension": Key(keys.SIZE, "the length of the vector")}
"""Keys of the config.json of a LayerNorm module."""
NORMALIZE: keys.Table = _NAMES
"""Keys of the config.json of a Normalize module."""
ACTIVATIONS = frozenset(
    {"CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity", "LeakyReLU", "LogSigmoid"}
    | {"Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink"}
)
"""Classes of torch.nn that act on each value by itself, have no weights and need no arguments."""
_ACTIVATION_NAMES = {
    **{f"{package}.{name}": name for package in ("torch.nn", "torch.nn.modules") for name in ACTIVATIONS},
    **{f"torch.nn.modules.activation.{name}": name for name in ACTIVATIONS - {"Identity"}},
    "torch.nn.modules.linear.Identity": "Identity",
}


@dataclass(frozen=True)
class Layer:
    """A layer behind the pooling."""

    kind: Literal["dense", "layer_norm", "normalize"]
    in_features: int
    """Length of the vector before it."""
    out_features: int
    """Length of the vector behind it."""
    activation: str = "Identity"
    """A class of torch.nn."""
    bias: bool = False
    residual: bool = False
    """Whether the input is added to the output, through weights of its own where the lengths differ."""
    weights: str | None = None
    """Its weight file, named relative to the model folder."""

    def __str__(self) -> str:
        if self.kind != "dense":
            return self.kind
        residual = ", residual" if self.residual else ""
        return f"dense {self.in_features} to {self.out_features} ({self.activation}{residual})"

    def values(self) -> dict[str, Any]:
        """What of it defines a vector, as JSON values."""
        # The weight file too: the hashes of two layers that change places stay the same.
        used = vars(self) if self.kind == "dense" else {"kind": self.kind, "weights": self.weights}
        return {name: value for name, value in used.items() if value is not None}


def read_dense(folder: Path, path: str, dim: int) -> Layer:
    """The Dense module in the folder ``path``, behind a vector of length ``dim``. Raises ModelError."""
    file = folder / path / "config.json"
    config = _read(file, DENSE, ("in_features", "out_features"))
    _check_length(file, "in_features", config["in_features"], dim)
    return Layer(
        kind="dense",
        in_features=dim,
        out_features=config["out_features"],
        activation=_activation(file, config.get("activation_function", "torch.nn.modules.activation.Tanh")),
        bias=config.get("bias", True),
        residual=config.get("use_residual", False),
        weights=module_weights(path),
    )


def read_layer_norm(folder: Path, path: str, dim: int) -> Layer:
    """The LayerNorm module in the folder ``path``, behind a vector of length ``dim``. Raises ModelError."""
    file = folder / path / "config.json"
    _check_length(file, "dimension", _read(file, LAYER_NORM, ("dimension",))["dimension"], dim)
    return Layer(kind="layer_norm", in_features=dim, out_features=dim, weights=module_weights(path))


def read_normalize(folder: Path, path: str, dim: int) -> Layer:
    """The Normalize module in the folder ``path``, which has no file in most repositories. Raises ModelError."""
    if path:  # an empty path means the model folder, whose config.json is the architecture's
        _read(folder / path / "config.json", NORMALIZE, ())
    return Layer(kind="normalize", in_features=dim, out_features=dim)


def _read(file: Path, table: keys.Table, needed: tuple[str, ...]) -> dict[str, Any]:
    config = read_object(file)
    check_keys(file, config, table)
    for name in needed:
        if name not in config:
            raise ModelError(f"{file} is missing or has no {name}. Fetch the model again.")
    return config


def _check_length(file: Path, name: str, value: int, dim: int) -> None:
    if value != dim:
        raise ModelError(
            f"{file} sets {name} to {value}, but the vector before this module has {dim} values. Fetch the model again."
        )


def _activation(file: Path, name: str) -> str:
    """The class of torch.nn. The reference takes Tanh for one that is not torch's, which its author did not mean."""
    if name in _ACTIVATION_NAMES:
        return _ACTIVATION_NAMES[name]
    raise ModelError(
        f"{file} sets activation_function to {shown(name)}, which is not supported. Supported are the classes of "
        f"torch.nn.modules.activation {', '.join(sorted(ACTIVATIONS))}. Use another model."
    )
