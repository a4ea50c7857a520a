"""Poolings and layers by themselves, against the modules of sentence-transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import LayerNorm
from sentence_transformers.sentence_transformer.modules import Pooling as TheirPooling

from sfr_batch.encoder.layers import Finish
from sfr_batch.encoder.pooling import pool, pool_packed
from sfr_batch.errors import ModelError
from sfr_batch.model.recipe import Recipe
from sfr_batch.model.repository.layers import ACTIVATIONS, Layer
from sfr_batch.model.repository.modules import POOLING_NAMES, SEVERAL

CPU = torch.device("cpu")


def recipe_of(folder: Path, dim: int, *layers: Layer) -> Recipe:
    return Recipe(str(folder), "bert", False, "mean", 64, dim, {}, None, None, layers=layers)


@pytest.fixture
def hidden() -> torch.Tensor:
    """[4, 6, 8]"""
    return torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))


def mask_of(side: str) -> torch.Tensor:
    places, lengths = torch.arange(6), torch.tensor([[6], [1], [4], [2]])
    return places >= 6 - lengths if side == "left" else places < lengths


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("modes", [*((name,) for name in POOLING_NAMES), ("cls", "mean"), ("max", "lasttoken", "max")])
def test_poolings_equal_sentence_transformers(hidden: torch.Tensor, modes: tuple[str, ...], side: str) -> None:
    mask = mask_of(side)
    features = {"token_embeddings": hidden, "attention_mask": mask.long()}
    theirs = TheirPooling(8, modes)(features)["sentence_embedding"]
    pooling = SEVERAL.join(POOLING_NAMES[mode] for mode in modes)
    torch.testing.assert_close(pool(pooling, hidden, mask), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLING_NAMES.values())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_stands_in_padding_has_no_influence(hidden: torch.Tensor, pooling: str, dtype: torch.dtype) -> None:
    mask = mask_of("right")
    spoilt = hidden.to(dtype).masked_fill(~mask.unsqueeze(-1), float("nan"))
    found = pool(pooling, spoilt, mask)
    assert found.dtype == torch.float32
    for row, length in enumerate(mask.sum(dim=1).tolist()):
        alone = pool(pooling, spoilt[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool))
        torch.testing.assert_close(found[row : row + 1], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pooling", [*POOLING_NAMES.values(), "cls+mean", "max+last_token+max"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_rows_of_all_lengths_are_pooled_like_padded_ones(pooling: str, dtype: torch.dtype) -> None:
    """In the order that batches have, and in others."""
    random = np.random.default_rng(0)
    for lengths in (np.sort(random.integers(1, 300, 40))[::-1], random.integers(1, 9, 30), np.array([1]), [64] * 3):
        sizes = np.array(lengths, np.int64)
        starts = np.cumsum(sizes) - sizes
        hidden = torch.randn(int(sizes.sum()), 8, generator=torch.Generator().manual_seed(1)).to(dtype)
        real = torch.from_numpy(np.arange(sizes.max()) < sizes[:, None])
        padded = torch.full((*real.shape, 8), float("nan"), dtype=dtype)
        padded[real] = hidden
        found = pool_packed(pooling, hidden, sizes, torch.from_numpy(np.stack([starts, sizes])))
        torch.testing.assert_close(found, pool(pooling, padded, real), rtol=0, atol=1e-6)


def with_weights(folder: Path, module: torch.nn.Module) -> None:
    (folder / "2_Layer").mkdir()
    safetensors.torch.save_file(module.state_dict(), folder / "2_Layer" / "model.safetensors")


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize(("bias", "residual"), [(True, False), (False, True)])
def test_a_dense_layer_equals_sentence_transformers(
    tmp_path: Path, activation: str, bias: bool, residual: bool
) -> None:
    module = Dense(8, 5, bias, getattr(torch.nn, activation)(), use_residual=residual).eval()
    with_weights(tmp_path, module)
    layer = Layer("dense", 8, 5, activation, bias, residual, "2_Layer/model.safetensors")
    pooled = 3 * torch.randn(7, 8, generator=torch.Generator().manual_seed(1))
    theirs = module({"sentence_embedding": pooled})["sentence_embedding"]
    ours = Finish(recipe_of(tmp_path, 5, layer), CPU)(pooled)
    torch.testing.assert_close(ours, torch.nn.functional.normalize(theirs, dim=1), rtol=0, atol=1e-6)


def test_other_layers_equal_sentence_transformers(tmp_path: Path) -> None:
    """LayerNorm after Normalize: its epsilon weighs more for a short vector."""
    norm = LayerNorm(8)
    with torch.no_grad():
        norm.norm.weight.normal_(generator=torch.Generator().manual_seed(2))
        norm.norm.bias.normal_(generator=torch.Generator().manual_seed(3))
    with_weights(tmp_path, norm)
    pooled = torch.randn(7, 8, generator=torch.Generator().manual_seed(1)) * 1e-3
    layers = Layer("normalize", 8, 8), Layer("layer_norm", 8, 8, weights="2_Layer/model.safetensors")
    theirs = norm(Normalize()({"sentence_embedding": pooled.clone()}))["sentence_embedding"]
    ours = Finish(recipe_of(tmp_path, 8, *layers), CPU)(pooled)
    torch.testing.assert_close(ours, torch.nn.functional.normalize(theirs, dim=1), rtol=0, atol=1e-6)
    without = Finish(recipe_of(tmp_path, 8, layers[1]), CPU)(pooled)
    assert (without - ours).abs().max() > 1e-3


def test_a_cut_comes_before_the_normalization(tmp_path: Path) -> None:
    pooled = torch.tensor([[3.0, 4.0, 100.0]], dtype=torch.bfloat16)
    torch.testing.assert_close(Finish(recipe_of(tmp_path, 2), CPU)(pooled), torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"linear.weight": [5, 8]}, r"linear.bias has no tensor, but the shape \[5\] is needed"),
        (
            {"linear.weight": [8, 5], "linear.bias": [5]},
            r"linear.weight has the shape \[8, 5\], but the",
        ),
        ({"linear.weight": [5, 8], "linear.bias": [5], "scale": [1]}, r"scale has the shape \[1\], but no tensor is"),
        (None, r"model.safetensors cannot be read"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, tensors: dict[str, Any] | None, message: str) -> None:
    (tmp_path / "2_Layer").mkdir()
    file = tmp_path / "2_Layer" / "model.safetensors"
    if tensors is None:
        file.write_bytes(b"not a safetensors file")
    else:
        safetensors.torch.save_file({name: torch.zeros(shape) for name, shape in tensors.items()}, file)
    layer = Layer("dense", 8, 5, bias=True, weights="2_Layer/model.safetensors")
    with pytest.raises(ModelError, match=message):
        Finish(recipe_of(tmp_path, 5, layer), CPU)
