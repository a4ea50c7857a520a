"""8-bit matrix products: what they cost in accuracy, on real weights and where numbers are hard on them."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.encoder.fp8 import DTYPE, Fp8, Fp8Linear, by_kernel, by_widening, quantize_linears, to_fp8
from tests.models import build_tiny_mistral, docstrings, minilm_folder


def test_rows_keep_their_own_scale() -> None:
    """An outlier costs its row alone; three bits of mantissa are a step of at most a sixteenth."""
    rows = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    rows[1] *= 1e6
    rows[2] *= 1e-6
    rows[3] = 0
    small, scale = to_fp8(rows)
    assert small.dtype == DTYPE
    back = small.float() * scale
    assert torch.isfinite(back).all()
    for row in (0, 1, 2, 4):
        largest = rows[row].abs().max()
        assert (back[row] - rows[row]).abs().max() <= largest / 16
        assert (back[row].abs().max() - largest).abs() <= 1e-6 * largest
    assert (back[3] == 0).all()


@pytest.mark.parametrize("multiply", [by_kernel, by_widening])
def test_product_is_that_of_the_rounded_numbers(multiply: Callable[[Fp8, Fp8], torch.Tensor]) -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = to_fp8(torch.randn(7, 64, generator=rng)), to_fp8(torch.randn(32, 64, generator=rng))
    exact = (a[0].double() * a[1]) @ (b[0].double() * b[1]).T
    found = multiply(a, b)
    assert (found.shape, found.dtype) == ((7, 32), torch.bfloat16)
    torch.testing.assert_close(found.double(), exact, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer(bias: bool) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 48, bias=bias), torch.randn(2, 3, 64)
    with torch.inference_mode():
        expected, found = linear(x), Fp8Linear(linear, to_fp8)(x)
    assert (found.shape, found.dtype) == (expected.shape, torch.float32)
    cosine = torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
    assert 0.998 < cosine < 1 - 1e-7


def test_layers_that_do_not_fit_the_kernel_stay() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 3))
    quantize_linears(model)
    assert [type(layer) for layer in model] == [Fp8Linear, nn.LayerNorm, nn.Linear]


def test_real_weights_lose_little() -> None:
    """On MiniLM, which has six layers of 384 numbers; and its vectors are as others are: of unit length, near their
    own whatever stands beside them."""
    texts = [text[:300] for text in docstrings(2000)[:15]]
    settings = ModelSettings(path=str(minilm_folder()), device="cpu")
    exact = Encoder.load(settings).encode(texts)
    encoder = Encoder.load(settings.model_copy(update={"dtype": "fp8"}))
    assert repr(encoder) == "<Encoder bert, 384 dims, mean, 256 tokens, fp8 on cpu>"
    assert sum(isinstance(module, Fp8Linear) for module in encoder._model.modules()) == 36
    found = encoder.encode(texts)
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
    loss = 1 - (found * exact).sum(axis=1)
    assert 1e-5 < loss.max() < 0.02
    alone = np.concatenate([encoder.encode([text]) for text in texts[:5]])
    assert (1 - (alone * found[:5]).sum(axis=1)).max() < 0.01


def test_a_decoder(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = build_tiny_mistral(tmp_path_factory.mktemp("model") / "tiny")
    texts = [text[:200] for text in docstrings(2000)[:12]]
    settings = ModelSettings(path=str(folder), device="cpu")
    exact, found = (Encoder.load(settings.model_copy(update={"dtype": d})).encode(texts) for d in ("float32", "fp8"))
    assert np.median((exact * found).sum(axis=1)) > 0.95
