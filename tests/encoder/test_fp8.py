"""8-bit matrix products: what they cost in accuracy, on real weights and where numbers are hard on them."""

import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder import compiling, fp8, loading, probe
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.encoder.fp8 import (
    DTYPE,
    Fp8,
    Fp8Linear,
    Quantizer,
    by_kernel,
    by_widening,
    check_kernel,
    quantize_linears,
    to_fp8,
)
from sfr_batch.errors import ConfigError
from sfr_batch.model.recipe import read_recipe
from tests.encoder.family_models import T5, write_family
from tests.models import build_tiny_mistral, docstrings, minilm_folder

CPU = torch.device("cpu")


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


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`", ConfigError),
        ("Rowwise scaling is not currently supported on your device", ConfigError),
        ("CUDA error: an illegal memory access was encountered", RuntimeError),
        ("CUDA out of memory. Tried to allocate 2 MiB", RuntimeError),
    ],
)
def test_a_kernel_that_a_gpu_lacks_is_said(monkeypatch: pytest.MonkeyPatch, said: str, kind: type[Exception]) -> None:
    """Blackwell's cards for desktops, with some builds of PyTorch, and builds for Windows. A CPU has the kernel."""
    check_kernel(CPU)

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError(said)

    monkeypatch.setattr(torch, "_scaled_mm", fail)
    with pytest.raises(kind, match=re.escape(said)) as caught:
        check_kernel(CPU)
    assert (kind is ConfigError) == ("Set model.dtype=bfloat16" in str(caught.value))


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer(bias: bool) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(64, 48, bias=bias), torch.randn(2, 3, 64)
    with torch.inference_mode():
        expected, found = linear(x), Fp8Linear(linear, Quantizer(CPU))(x)
    assert (found.shape, found.dtype) == (expected.shape, torch.float32)
    cosine = torch.cosine_similarity(found.flatten(), expected.flatten(), dim=0)
    assert 0.998 < cosine < 1 - 1e-7


def test_layers_that_do_not_fit_the_kernel_stay() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 3))
    quantize_linears(model)
    assert [type(layer) for layer in model] == [Fp8Linear, nn.LayerNorm, nn.Linear]


def test_what_several_layers_take_is_quantized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the seven layers of a block q, k and v take one input, gate and up another; and nothing is taken for another
    tensor that lies where it lay."""
    config = transformers.MistralConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
    )
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).to(torch.bfloat16).eval()
    quantize_linears(model)
    calls: list[int] = []

    def count(rows: torch.Tensor) -> Fp8:
        calls.append(len(rows))
        return to_fp8(rows)

    (quantizer,) = {module._quantize for module in model.modules() if isinstance(module, Fp8Linear)}
    monkeypatch.setattr(quantizer, "_quantize", count)
    ids = torch.arange(10).reshape(2, 5)
    with torch.inference_mode():
        once = model(input_ids=ids).last_hidden_state
        assert calls == [10] * 4 * 3
        for module in model.modules():
            if isinstance(module, Fp8Linear):
                module._quantize = lambda x: to_fp8(x.reshape(-1, x.shape[-1]))
        assert torch.equal(model(input_ids=ids).last_hidden_state, once)


def test_a_kernel_for_each_length_of_a_row_serves_all_numbers_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row is then read once: its length is known where the kernel is made."""
    graphs: list[Any] = []
    compile_ = torch.compile

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        values = [node.meta["example_value"] for node in graph.graph.nodes if node.op == "placeholder"]
        (rows,) = (value for value in values if isinstance(value, torch.Tensor))
        graphs.append(list(rows.shape))
        return graph

    monkeypatch.setattr(
        fp8.torch, "compile", lambda function, dynamic: compile_(function, dynamic=dynamic, backend=backend)
    )
    quantize = Quantizer(torch.device("cuda"))
    for rows, width in ((2, 64), (9, 64), (5, 128), (7, 64), (300, 128)):
        x = torch.randn(rows, width).to(torch.bfloat16)
        assert all(torch.equal(*both) for both in zip(quantize(x), to_fp8(x), strict=True))
    assert [shape[1] for shape in graphs] == [64, 128]
    assert not any(isinstance(shape[0], int) for shape in graphs), "symbols"


def test_a_machine_without_a_compiler_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said = r"fp8 has PyTorch compile .*: RuntimeError: Failed to find C compiler\..*gcc, g\+\+"
    with pytest.raises(ConfigError, match=said), compiling.compiling("model.dtype=fp8", "set model.dtype=bfloat16"):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")
    with pytest.raises(RuntimeError, match="illegal"), compiling.compiling("run.fuse=true", "set run.fuse=false"):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def no_compiler(*_: Any) -> Any:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(Quantizer, "__call__", no_compiler)
    with pytest.raises(ConfigError, match=said):  # before any layer is touched
        quantize_linears(model := nn.Sequential(nn.Linear(64, 64)))
    assert type(model[0]) is nn.Linear


def test_the_room_that_a_model_needs_is_that_in_8_bits(tmp_path: Path) -> None:
    """Not that of 16 bits, which its device never holds."""
    recipe = read_recipe(build_tiny_mistral(tmp_path), ModelSettings(path=str(tmp_path), device="cpu"))
    model = loading.to_device(loading.load_model(recipe, torch.bfloat16), "cpu", fp8=True)
    needed = loading.bytes_needed(recipe, "fp8")
    assert sum(t.nbytes for t in (*model.parameters(), *model.buffers())) == needed
    assert needed < loading.bytes_needed(recipe, "bfloat16") < loading.bytes_needed(recipe, "float32")


def test_layers_are_quantized_one_by_one_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device never holds a second layer in 16 bits, nor a layer twice: each is let go of once it is quantized."""
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
    layers = [weakref.ref(layer) for layer in model]
    there: list[int] = []

    class Watched(Fp8Linear):
        def __init__(self, linear: nn.Linear, quantize: Quantizer) -> None:
            super().__init__(linear, quantize)
            there.append(sum(layer.weight.is_meta for ref in layers if (layer := ref())))

    monkeypatch.setattr(fp8, "Fp8Linear", Watched)
    quantize_linears(model, torch.device("meta"))
    assert there == [1, 1, 1, 1]
    assert all(isinstance(layer, Fp8Linear) and layer.weight.is_meta for layer in model)


def test_real_weights_lose_little() -> None:
    """On MiniLM, which has six layers of 384 numbers; and its vectors are as others are: of unit length, near their
    own whatever stands beside them."""
    texts = [text[:300] for text in docstrings(2000)[:15]]
    settings = ModelSettings(path=str(minilm_folder()), device="cpu")
    whole = Encoder.load(settings)
    exact = whole.encode(texts)
    encoder = Encoder.load(settings.model_copy(update={"dtype": "fp8"}))
    assert probe.parameters(encoder) == probe.parameters(whole) == 22_565_376, "by which budgets and rooms are reckoned"
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


@pytest.mark.parametrize("model_type", ["t5", "mt5", "umt5"])
def test_t5_is_refused_before_its_weights_are_read(tmp_path: Path, model_type: str) -> None:
    """It looks at the dtype of its weights, and turns what it multiplies with them into 8 bits without a scale."""
    folder = write_family(tmp_path, model_type, T5)
    model = loading.load_model(read_recipe(folder, ModelSettings(path=str(folder), device="cpu")), torch.bfloat16)
    quantize_linears(model)
    with torch.inference_mode(), pytest.raises(RuntimeError, match="Float8"):  # else it need not be refused
        model(input_ids=torch.ones(1, 3, dtype=torch.int64))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=f"model.dtype is fp8, but models of type {model_type} .*dtype=bfloat16"):
        Encoder.load(ModelSettings(path=str(folder), device="cpu", dtype="fp8"))
