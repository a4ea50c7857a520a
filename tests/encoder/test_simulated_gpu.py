"""What a GPU would be given, on tensors without numbers (device meta): its ways through the model in their shapes and
dtypes, and what the host does meanwhile. No kernel runs; that the kernels of a GPU agree is not shown here.
"""

import inspect
import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from sfr_batch.config.settings import batch_tokens
from sfr_batch.encoder import attention, forward, fp8
from sfr_batch.encoder import encoder as encoder_module
from sfr_batch.encoder.attention import ATTENTION
from sfr_batch.encoder.compiling import for_all_shapes
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.encoder.forward import Forward
from sfr_batch.encoder.fp8 import by_kernel, quantize_linears
from sfr_batch.errors import ConfigError
from sfr_batch.model.recipe import Recipe

LAYERS = 2
SEVEN_BILLION = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": LAYERS,
    "sliding_window": None,
}
MOST_GRAPHS = {"mistral": 12, "qwen2": 12, "llama": 12, "qwen3": 16}
"""Compilations for batches of one kind: of norms and of MLPs, for rows and tokens, of several and of one, in three
dimensions and two; those of Qwen3 in four as well, in norms of queries and keys."""
BLOCKING = "blocking copy"
WAITS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "item", BLOCKING)
"""Operations that need a number from the device, so that the host waits for all that it has been given."""


class Seen(TorchDispatchMode):
    """The operations of a forward pass. A copy to the device that the host waits for is named so."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0
        """Bytes of the largest tensor that an operation gave."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func.overloadpacket).removeprefix("aten.")
        to_device = name == "_to_copy" and args[0].device.type == "cpu"
        self.names.append(BLOCKING if to_device and not kwargs.get("non_blocking") else name)
        given = func(*args, **kwargs)
        tensors = [each for each in torch.utils._pytree.tree_leaves(given) if isinstance(each, torch.Tensor)]
        self.largest = max([self.largest, *(each.nbytes for each in tensors)])
        return given

    @property
    def waits(self) -> list[str]:
        return [name for name in self.names if name in WAITS]


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Device meta passes for a GPU with flash attention. What is pinned to be copied to it, in the order of the copies:
    only a CUDA build of PyTorch can pin."""
    copies: list[str] = []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        copies.append(str(tensor.dtype).removeprefix("torch."))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    for module in (forward, attention):
        monkeypatch.setattr(module, "has_flash", lambda device: device.type == "meta")
    monkeypatch.setattr(fp8, "multiply", by_kernel)
    asked = attention._takes_groups, attention.packed_takes_groups
    for each in asked:
        each.cache_clear()
    yield copies
    for each in asked:
        each.cache_clear()


def decoder(family: str, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Recipe]:
    config = transformers.AutoConfig.for_model(family, vocab_size=32000, **SEVEN_BILLION)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config, attn_implementation=ATTENTION, dtype=dtype).eval()
    return model, Recipe("", family, True, "last_token", 4096, 4096, {})


def mistral(dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Recipe]:
    return decoder("mistral", dtype)


def bert() -> tuple[Any, Recipe]:
    config = transformers.BertConfig(num_hidden_layers=LAYERS)
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config, add_pooling_layer=False, dtype=torch.bfloat16).eval()
    return model, Recipe("", "bert", False, "mean", 512, 768, {})


def run(to: Forward, lengths: list[int], prefix: int = 0) -> tuple[torch.Tensor, Seen]:
    sizes = np.array(lengths, np.int64)
    ids = np.ones(int(sizes.sum()) + prefix, np.int32)
    before = to.prefix(ids[:prefix]) if prefix else None
    with Seen() as seen:
        return to(np.cumsum(sizes) - sizes, sizes, ids, before), seen


RAGGED, EQUAL = [400, 30, 30, 7, 1], [512] * 4


@pytest.mark.parametrize("lengths", [RAGGED, EQUAL, [1]])
@pytest.mark.parametrize(("family", "prefix"), [(mistral, 0), (mistral, 20), (bert, 0)])
def test_a_packed_batch_never_waits(gpu: list[str], family: Any, prefix: int, lengths: list[int]) -> None:
    """All that the layers need is copied before the first of them."""
    model, recipe = family()
    to = Forward(model, recipe, None)
    assert to.packed, "the default"
    gpu.clear()
    at_first: list[int] = []
    model.get_input_embeddings().register_forward_hook(lambda *_: at_first.append(len(gpu)))
    out, seen = run(to, lengths, prefix)
    assert (out.shape, out.dtype, out.device.type) == ((len(lengths), recipe.dim), torch.float32, "meta")
    assert not seen.waits
    assert sum("varlen_attn" in name for name in seen.names) == LAYERS, seen.names
    behind = len(gpu) - at_first[-1]
    assert behind == (0 if family is mistral else 1), "what a bidirectional model is pooled by comes last"


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "weighted_mean"])
def test_a_long_row_does_not_widen_the_others_of_a_packed_batch(pooling: str) -> None:
    """The default budget of bge-m3, filled by its longest row and rows of 20 tokens, takes no more memory at once than
    rows of one length do. Padded to the longest row, their hidden states alone would be 19 GiB."""
    config = transformers.XLMRobertaConfig(
        vocab_size=100, hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=1,
        max_position_embeddings=8194, type_vocab_size=1,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config, add_pooling_layer=False, dtype=torch.bfloat16).eval()
    to = Forward(model, Recipe("", "xlm-roberta", False, pooling, 8192, 1024, {}), None)
    assert to.packed
    out, unequal = run(to, [8192, *[20] * 1228])
    _, equal = run(to, [512] * 64)
    assert out.shape[0] == 1229
    assert not unequal.waits
    assert unequal.largest <= equal.largest == 32_768 * 4096 * 2, "the inner states of an MLP"


def test_a_padded_batch_of_a_decoder_never_waits() -> None:
    model, recipe = mistral()
    to = Forward(model, recipe, packed=False)
    for lengths in (RAGGED, EQUAL):
        out, seen = run(to, lengths)
        assert (out.shape, out.dtype) == ((len(lengths), 4096), torch.float32)
        assert not seen.waits


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize(("family", "prefix"), [(mistral, 0), (mistral, 20), (bert, 0)])
def test_attention_leaves_cudnn_out(family: Any, prefix: int, deterministic: bool) -> None:
    """Rows that are computed alone, too: PyTorch does not promise to repeat cuDNN's bits."""
    model, recipe = family()
    encoder = Encoder(model, None, recipe, packed=False, deterministic=deterministic)  # type: ignore[arg-type]
    with_cudnn: list[bool] = []
    model.get_input_embeddings().register_forward_hook(
        lambda *_: with_cudnn.append(torch.backends.cuda.cudnn_sdp_enabled())
    )
    sizes, ids = np.array([512], np.int64), np.ones(512, np.int32)
    before = encoder._forward.prefix(ids[:prefix]) if prefix else None
    encoder._forward(np.zeros(1, np.int64), sizes, ids, before)
    assert with_cudnn == [False] * (2 if prefix else 1)
    assert torch.backends.cuda.cudnn_sdp_enabled(), "what the process has set comes back"


def test_a_padded_batch_behind_a_prefix_never_waits(gpu: list[str]) -> None:
    """A mask of its own type is made there, which no `Seen` may watch; but to wait, a tensor needs numbers."""
    model, recipe = mistral()
    to = Forward(model, recipe, packed=False)
    for lengths in (RAGGED, EQUAL, [1]):
        sizes, ids = np.array(lengths, np.int64), np.ones(3000, np.int32)
        before = to.prefix(ids[:20])
        gpu.clear()
        out = to(np.cumsum(sizes) - sizes, sizes, ids, before)
        assert (out.shape, out.dtype) == ((len(lengths), 4096), torch.float32)
        assert gpu == ["int64", "int64"], "ids, and the places of the last tokens"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("family", ["mistral", "qwen3"])
def test_keys_of_a_common_prefix_are_within_the_budget(
    monkeypatch: pytest.MonkeyPatch, family: str, packed: bool
) -> None:
    """Short rows behind a long instruction: each has keys of hundreds of tokens copied for it in every layer."""
    from torch.nn.attention import varlen

    model, recipe = decoder(family)
    encoder = Encoder(model, None, recipe, packed=packed)  # type: ignore[arg-type]
    of_keys: list[int] = []

    def listen(attend: Callable[..., Any]) -> Callable[..., Any]:
        def listening(query: Any, key: torch.Tensor, value: torch.Tensor, *others: Any, **options: Any) -> Any:
            of_keys.append(key.nbytes + value.nbytes)
            return attend(query, key, value, *others, **options)

        return listening

    monkeypatch.setattr(varlen, "varlen_attn", listen(varlen.varlen_attn))
    padded = SimpleNamespace(scaled_dot_product_attention=listen(attention.F.scaled_dot_product_attention))
    monkeypatch.setattr(attention, "F", padded)
    count, instruction = 3000, np.arange(512, dtype=np.int32)
    own = np.random.default_rng(0).integers(2, 7, count)
    ids = np.concatenate([np.r_[instruction, np.full(n, 600 + row)] for row, n in enumerate(own)]).astype(np.int32)
    launched = encoder.launch(own + 512, ids)
    assert launched.account.tokens == 512 + own.sum(), "the instruction is computed once"
    inner = 3 * model.config.intermediate_size + 2 * model.config.hidden_size
    assert encoder.max_batch_tokens == batch_tokens("cuda", 10**9) == 32_768
    of_a_budget = encoder.max_batch_tokens * inner * 2
    assert of_a_budget / 4 < max(of_keys) <= of_a_budget


def varlen_of_2_11(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`varlen_attn` as PyTorch 2.11 has it: with fewer arguments, and with as many heads of keys as of queries."""

    def varlen_attn(  # type: ignore[no-untyped-def]
        query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, return_aux=None, scale=None, window_size=(-1, -1)
    ):
        assert query.shape[1] == key.shape[1] == value.shape[1]
        return function(
            query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, return_aux=return_aux, scale=scale,
            window_size=window_size,
        )  # fmt: skip

    return varlen_attn


@pytest.mark.parametrize("prefix", [0, 20])
def test_both_signatures_of_the_kernel_for_packed_rows(monkeypatch: pytest.MonkeyPatch, prefix: int) -> None:
    from torch.nn.attention import varlen

    model, recipe = mistral()
    to = Forward(model, recipe, None)
    _, now = run(to, RAGGED, prefix)
    assert attention.packed_takes_groups() == ("enable_gqa" in inspect.signature(varlen.varlen_attn).parameters)
    monkeypatch.setattr(varlen, "varlen_attn", varlen_of_2_11(varlen.varlen_attn))
    attention.packed_takes_groups.cache_clear()
    out, then = run(to, RAGGED, prefix)
    assert out.shape == (len(RAGGED), 4096)
    for seen in (now, then):
        assert sum("varlen_attn" in name for name in seen.names) == LAYERS
        assert not seen.waits


@pytest.mark.parametrize("packed", [False, True])
def test_a_layer_in_fp8_quantizes_four_times_for_seven_products(packed: bool) -> None:
    """The kernel's checks of shapes, scales and strides pass; nothing waits."""
    model, recipe = mistral()
    quantize_linears(model)
    to = Forward(model, recipe, packed)
    for lengths in (RAGGED, EQUAL, [1]):
        out, seen = run(to, lengths)
        assert (out.shape, out.dtype) == ((len(lengths), 4096), torch.float32)
        assert sum("scaled_mm" in name for name in seen.names) == 7 * LAYERS
        assert seen.names.count("amax") == 4 * LAYERS
        assert not seen.waits


def graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize(
    ("family", "dtype", "packed"),
    [
        ("mistral", "fp8", True),
        ("mistral", "bfloat16", False),
        ("llama", "bfloat16", True),
        ("qwen2", "bfloat16", True),
        ("qwen3", "bfloat16", True),
        ("qwen3", "bfloat16", False),
    ],
)
def test_layers_are_fused_by_default_once_for_all_batches(
    monkeypatch: pytest.MonkeyPatch, family: str, dtype: str, packed: bool
) -> None:
    """By a backend that compiles nothing: what is counted is how often PyTorch would. Nothing is compiled after the
    load, and nothing is left uncompiled when batches are changed from one kind to the other."""
    monkeypatch.setattr(encoder_module, "for_all_shapes", lambda: {**for_all_shapes(), "backend": "eager"})
    model, recipe = decoder(family)
    if dtype == "fp8":
        quantize_linears(model)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
        encoder = Encoder(model, None, recipe, packed=packed)  # type: ignore[arg-type]
        encoder.fuse_if_it_can()
        assert encoder.fused, encoder.remark
        assert 4 <= graphs() <= MOST_GRAPHS[family]
        for now in (packed, not packed):
            encoder.pack(now)
            before = graphs()
            for prefix, lengths in itertools.product((0, 20), (RAGGED, EQUAL, [7, 7, 7], [5], [400, 30], [1], [1] * 3)):
                sizes = np.array(lengths, np.int64)
                shared = encoder._forward.prefix(np.ones(prefix, np.int32)) if prefix else None
                out = encoder._forward(np.cumsum(sizes) - sizes, sizes, np.ones(3000, np.int32), shared)
                assert out.shape == (len(lengths), recipe.dim)
            assert graphs() - before <= (0 if now == packed else MOST_GRAPHS[family])
    assert not torch._dynamo.utils.counters["graph_break"]


def test_the_limit_of_a_process_is_raised_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in PyTorch 2.11; never lowered."""
    monkeypatch.setattr(torch, "compile", lambda model=None, *, dynamic=None: model)
    for limit, then in ((8, 32), (100, 100)):
        with torch._dynamo.config.patch(recompile_limit=limit):
            assert for_all_shapes() == {"dynamic": True}
            assert torch._dynamo.config.recompile_limit == then


def test_what_is_not_fused_by_default() -> None:
    """Rows that are computed alone, whose bits stay; models that it was not made for."""
    (model, recipe), (other, its) = mistral(), bert()
    for encoder in (Encoder(model, None, recipe, deterministic=True), Encoder(other, None, its)):  # type: ignore[arg-type]
        encoder.fuse_if_it_can()
        assert not any(module._compiled_call_impl for module in encoder._model.modules())


def test_layers_that_cannot_be_compiled_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("Failed to find C compiler.")

    model, recipe = mistral()
    encoder = Encoder(model, None, recipe)  # type: ignore[arg-type]
    torch._dynamo.reset()
    with torch.compiler.set_stance("default", force_backend=no_compiler):
        with pytest.raises(ConfigError, match=r"run\.fuse has PyTorch compile .*Failed to find C compiler.*gcc"):
            encoder.fuse()
        encoder.fuse_if_it_can()
        assert encoder.remark.startswith("the layers are not fused")
        assert "Failed to find C compiler" in encoder.remark
        out, seen = run(encoder._forward, RAGGED)
    assert out.shape == (len(RAGGED), 4096)
    assert seen.names.count("rsqrt") == 2 * LAYERS + 1


@pytest.mark.parametrize(
    ("dtype", "flash", "takes"),
    [(torch.bfloat16, True, True), (torch.float32, True, False), (torch.float16, False, False)],
    ids=["A100", "A100 in float32", "T4"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_keys_are_repeated_where_no_kernel_takes_groups(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, flash: bool, takes: bool, packed: bool
) -> None:
    """Else all products of tokens with tokens would be written out: 2 GB a row of 4,096 and layer. Where there is no
    flash attention, rows are padded by default, and packed ones go without its kernel."""
    for module in (forward, attention):
        monkeypatch.setattr(module, "has_flash", lambda device: flash)
    model, recipe = mistral(dtype)
    to = Forward(model, recipe, None)
    assert to.packed == takes
    to.pack(packed)
    groups: list[bool] = []
    attend = attention.F.scaled_dot_product_attention

    def listen(query: torch.Tensor, key: torch.Tensor, *others: Any, enable_gqa: bool = False, **options: Any) -> Any:
        groups.append(enable_gqa)
        assert enable_gqa or query.shape[1] == key.shape[1]
        return attend(query, key, *others, enable_gqa=enable_gqa, **options)

    monkeypatch.setattr(attention.F, "scaled_dot_product_attention", listen)
    out, seen = run(to, EQUAL)
    assert (out.shape, out.dtype) == ((len(EQUAL), 4096), torch.float32)
    by_kernel = packed and takes
    assert groups == ([] if by_kernel else [takes] * LAYERS)
    assert any("varlen_attn" in name for name in seen.names) == by_kernel


@pytest.mark.parametrize(("size", "packed"), [(64, True), (256, True), (12, False), (288, False)])
def test_heads_that_no_flash_kernel_takes_are_not_packed(size: int, packed: bool) -> None:
    config = transformers.MistralConfig(
        vocab_size=50, hidden_size=64, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2,
        num_hidden_layers=1, head_dim=size,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config, attn_implementation=ATTENTION, dtype=torch.bfloat16)
    assert Forward(model, Recipe("", "mistral", True, "last_token", 64, 64, {}), None).packed == packed


def test_rows_that_are_computed_alone_are_not_packed() -> None:
    """Their bits stay as they were."""
    model, recipe = mistral()
    assert not Encoder(model, None, recipe, deterministic=True).packed  # type: ignore[arg-type]
    assert Encoder(model, None, recipe).packed  # type: ignore[arg-type]


def test_a_budget_suits_the_size_of_a_model() -> None:
    sizes = {"MiniLM": 22_700_000, "BERT large": 335_000_000, "Qwen3 0.6B": 596_000_000, "Mistral": 7_110_000_000}
    assert [batch_tokens("cuda", size) for size in sizes.values()] == [131_072, 131_072, 32_768, 16_384]
    assert {batch_tokens("cpu", size) for size in sizes.values()} == {2048}
    model, recipe = bert()
    assert Encoder(model, None, recipe).max_batch_tokens == 131_072  # type: ignore[arg-type]
