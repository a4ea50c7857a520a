"""What follows the pooling, in float32: the layers of a recipe, its cut and the normalization.

Equal to sentence-transformers' modules Dense, LayerNorm and Normalize in eval mode (sentence-transformers 6.2:
base/modules/dense.py and others). Knows no tokens and no pooling; `model.repository.layers` reads what they are.
"""

from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F

from sfr_batch.errors import ModelError
from sfr_batch.model.recipe import Recipe
from sfr_batch.model.repository.layers import Layer
from sfr_batch.storage.local_files import read_bytes

Tensors = Mapping[str, torch.Tensor]


class Finish:
    """From pooled vectors to final ones."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        """Loads the weights of the recipe's layers, in float32. Raises ModelError if they do not fit."""
        folder = Path(recipe.folder)
        self._layers = [(layer, _tensors(folder, layer, device)) for layer in recipe.layers]
        self._dim = recipe.dim

    def __call__(self, pooled: torch.Tensor, *, normalize: bool = True) -> torch.Tensor:
        """[b, dim] float32 vectors of ``pooled`` [b, d], in any dtype; of unit length unless ``normalize`` is false."""
        vectors = pooled.float()
        for layer, tensors in self._layers:
            vectors = _apply(layer, tensors, vectors)
        vectors = vectors[:, : self._dim]
        return F.normalize(vectors, p=2, dim=1) if normalize else vectors


def _apply(layer: Layer, tensors: Tensors, vectors: torch.Tensor) -> torch.Tensor:
    if layer.kind == "normalize":
        return F.normalize(vectors, p=2, dim=1)
    if layer.kind == "layer_norm":
        return F.layer_norm(vectors, (layer.in_features,), tensors["norm.weight"], tensors["norm.bias"])
    activation = getattr(torch.nn, layer.activation)()
    out: torch.Tensor = activation(F.linear(vectors, tensors["linear.weight"], tensors.get("linear.bias")))
    if layer.residual:
        projection = tensors.get("residual.weight")
        out = out + (vectors if projection is None else F.linear(vectors, projection))
    return out


def _shapes(layer: Layer) -> dict[str, list[int]]:
    """The tensors of a layer, by the names that its file gives them."""
    if layer.kind == "layer_norm":
        return {"norm.weight": [layer.in_features], "norm.bias": [layer.in_features]}
    shapes = {"linear.weight": [layer.out_features, layer.in_features]}
    if layer.bias:
        shapes["linear.bias"] = [layer.out_features]
    if layer.residual and layer.in_features != layer.out_features:
        shapes["residual.weight"] = [layer.out_features, layer.in_features]
    return shapes


def _tensors(folder: Path, layer: Layer, device: torch.device) -> Tensors:
    """The weights of a layer. Raises ModelError for one that is missing, left over or of another shape."""
    if layer.weights is None:
        return {}
    file = folder / layer.weights
    try:
        found = safetensors.torch.load(read_bytes(file))
    except (OSError, safetensors.SafetensorError) as error:
        raise ModelError(f"{file} cannot be read: {error}. Fetch the model again.") from error
    wanted, here = _shapes(layer), {name: list(tensor.shape) for name, tensor in found.items()}
    for name in sorted({*wanted, *here}):
        if wanted.get(name) != here.get(name):
            raise ModelError(
                f"{file} does not fit {file.with_name('config.json')}: {name} has {_said(here, name)}, but "
                f"{_said(wanted, name)} is needed. Fetch the model again."
            )
    return {name: tensor.to(device, torch.float32) for name, tensor in found.items()}


def _said(shapes: Mapping[str, list[int]], name: str) -> str:
    return f"the shape {shapes[name]}" if name in shapes else "no tensor"
