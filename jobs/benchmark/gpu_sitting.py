"""What the steps of `gpu` share: the device and its encoder, rows, and how a speed or a difference is told.

Weights and ids are random. Knows no step.
"""

import contextlib
import gc
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.benchmark import encoder as bench
from sfr_batch.errors import RunFailed
from sfr_batch.model.operations import operations_of_rows
from sfr_batch.pipeline.price.paper import gpu_types

FLOPS = (
    "FLOPs of a token: 2 for each weight of the layers, without embeddings, and causal attention, which meets half of "
    "the row; without the last layer's MLP of tokens that are not pooled, which is not computed."
)
VOCABULARY = 32000
NOT_MEASURED = "not measured"
"""The state of a step that was left out; in what it has found, the reason."""
NO_KERNELS = "the profiler saw no kernel: CUPTI may be missing here, or not allowed"
_PREFIX = 20

Lengths = NDArray[np.int32]
FloatArray = NDArray[np.float32]
Found = dict[str, Any]


@dataclass
class Sitting:
    """A device for a while."""

    device: str
    shape: str
    seconds: float
    """For all steps together."""
    folder: Path
    say: Callable[[str], None]
    found: Found = field(default_factory=dict)
    """By step; what `gpu.json` holds."""
    sustained: dict[str, float] = field(default_factory=dict)
    """FLOP/s by dtype, as matrices are multiplied for seconds."""
    expected: FloatArray | None = None
    """Vectors of `texts` by the first way, in `dtype`."""
    lost: str = ""
    """Why the device cannot be used any more by this process; empty if it can."""
    _encoder: Any = None
    _began: float = field(default_factory=time.perf_counter)

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def dtype(self) -> str:
        return "bfloat16" if self.on_gpu else "float32"

    @property
    def budget(self) -> int:
        return 16384 if self.on_gpu else 256

    @property
    def longest(self) -> int:
        """Tokens of the longest rows."""
        return 4096 if self.on_gpu else 64

    @property
    def turn(self) -> float:
        """Seconds of a measurement."""
        return 2.0 if self.on_gpu else 0.01

    @property
    def squares(self) -> Sequence[int]:
        """Sizes of the matrices of a burst."""
        return (4096, 8192, 16384) if self.on_gpu else (256,)

    @property
    def lacks_fp8(self) -> bool:
        """Whether the device is a GPU that does not multiply in 8 bits."""
        from sfr_batch.encoder.devices import multiplies_in

        return self.on_gpu and not multiplies_in("fp8")

    def on_paper(self, dtype: str) -> float | None:
        """FLOP/s of the device by its data sheet; None for one that `run.gpu` does not know."""
        from sfr_batch.encoder.devices import kind_of

        return on_data_sheet(kind_of(self.device), dtype)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.perf_counter() - self._began)

    def model(self) -> Any:
        """The encoder in `dtype`, which is kept until it is forgotten."""
        if self._encoder is None:
            self._encoder = self.new_model(self.dtype)
        return self._encoder

    def as_in_a_run(self) -> Any:
        """The same, fused and packed as it is by default."""
        encoder = self.model()
        encoder.pack(None)
        if not encoder.fused:
            encoder.fuse_if_it_can()
        return encoder

    def new_model(self, dtype: str) -> Any:
        """Another encoder with the same weights, in place of the kept one."""
        self.forget()
        return bench.random_encoder(self.shape, self.device, dtype, self.budget, VOCABULARY)

    def forget(self) -> None:
        """Let go of the kept encoder and its memory."""
        import torch

        self._encoder = None
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def sync(self) -> None:
        import torch

        if self.on_gpu:
            torch.cuda.synchronize()

    def texts(self) -> bench.TokenRows:
        """1,000 rows of the lengths of docstrings, each behind the same 20 tokens."""
        lengths = mixed(1000 if self.on_gpu else 8, min(self.longest, 512))
        prefix = ids(np.array([_PREFIX]), seed=1)
        rows = np.split(ids(lengths), np.cumsum(lengths)[:-1])
        return lengths + _PREFIX, np.concatenate([np.concatenate([prefix, row]) for row in rows])


def ids(lengths: NDArray[np.integer], seed: int = 0) -> NDArray[np.int32]:
    """Random ids for rows of these lengths, one after the other."""
    return np.random.default_rng(seed).integers(3, VOCABULARY, int(lengths.sum()), dtype=np.int32)


def mixed(rows: int, longest: int) -> Lengths:
    """Lengths like those of docstrings: 100 tokens on average, some very long."""
    return np.clip(np.random.default_rng(0).lognormal(4.2, 0.9, rows), 4, longest).astype(np.int32)


def both_batches(encoder: Any) -> Iterator[str]:
    """Has the encoder pad its batches, then pack them, and at last do what it does by default."""
    for packed in (False, True):
        encoder.pack(packed)
        yield "packed" if packed else "padded"
    encoder.pack(None)


# --- speed


def computed_flops(shape: str, length: int) -> float:
    """Of a row of ``length`` tokens, see FLOPS."""
    return operations_of_rows(bench.architecture(shape), [length], pooled_alone=True) or 0.0


def card_of(kind: str) -> str | None:
    """The name that `run.gpu` has for a GPU; None for one that it does not know, and for a slice of one. kind: as it
    calls itself, such as NVIDIA A100-SXM4-80GB."""
    words = re.split("[ -]", kind)
    if {"PCIe", "NVL", "MIG"} & {*words}:  # slower than the cards of the table, which are whole and SXM
        return None
    return next((name for name in gpu_types() if name in words), None)


def on_data_sheet(kind: str, dtype: str) -> float | None:
    """FLOP/s of dense products; None if unknown. kind: see `card_of`."""
    known = gpu_types().get(card_of(kind) or "", {})
    found = known.get({"bfloat16": "tflops", "fp8": "fp8_tflops"}.get(dtype, ""))
    return found and 1e12 * float(found)


def speed(
    sitting: Sitting, title: str, encoder: Any, found: Found, kinds: Sequence[str] = ("512", "longest", "32", "mix")
) -> None:
    """Tokens a second by the length of rows, and the shares of the sustained matrix rate and of the data sheet."""
    dtype = "fp8" if "fp8" in title else sitting.dtype
    ceiling, peak = sitting.sustained.get(dtype), sitting.on_paper(dtype)
    tokens = 65536 if sitting.on_gpu else 256
    if known := ceiling or sitting.sustained.get(sitting.dtype):  # fewer for a slow card: what it computes in a turn
        a_token = computed_flops(sitting.shape, 512) / 512
        tokens = int(min(tokens, max(sitting.budget, sitting.turn * known / a_token / 2)))
    for kind in kinds:
        length = min({"32": 32, "512": 512, "longest": sitting.longest, "mix": 0}[kind], sitting.longest)
        lengths = (
            np.full(max(2, tokens // length), length, np.int32)
            if length
            else mixed(max(4, tokens // 100), sitting.longest)
        )
        first, steady = rate(sitting, encoder, lengths)
        flops = sum(computed_flops(sitting.shape, int(n)) for n in lengths) / int(lengths.sum())
        share, of_peak = (steady * flops / most if most else None for most in (ceiling, peak))
        shares = {"share": share, "share of the data sheet": of_peak}
        found.setdefault(title, {})[kind] = {"tokens/s": round(steady), "first pass": round(first), **shares}
        of = f"{share:6.1%} of the sustained rate in {dtype}" if share else "share unknown"
        of += f", {of_peak:.1%} of the data sheet" if of_peak else ""
        sitting.say(f"{title:32s} {length or kind!s:>5s}: {steady:10,.0f} tokens/s, {of}; first pass {first:,.0f}")


def rate(sitting: Sitting, encoder: Any, lengths: Lengths) -> tuple[float, float]:
    """Tokens a second: of the first pass, which builds what later ones reuse, and the median of those."""
    rows = ids(lengths)
    seconds: list[float] = []
    while len(seconds) < (3 if sitting.on_gpu else 2) or (sum(seconds) < sitting.turn and len(seconds) < 20):
        began = time.perf_counter()
        encoder.encode_tokens(lengths, rows)
        seconds.append(time.perf_counter() - began)
        if len(seconds) == 2 and sum(seconds) > 6 * sitting.turn:
            break
    tokens = int(lengths.sum())
    return tokens / seconds[0], tokens / statistics.median(seconds[1:])


def timed(sitting: Sitting, call: Callable[[], Any], at_least: float) -> float:
    """Seconds of a call, on average over at least so many seconds."""
    call()
    sitting.sync()
    done, began = 0, time.perf_counter()
    while not done or time.perf_counter() - began < at_least:
        for _ in range(5):
            call()
        sitting.sync()
        done += 5
    return (time.perf_counter() - began) / done


def layer_products(sitting: Sitting) -> list[tuple[int, int, int]]:
    """(tokens, inputs, outputs) of the seven linear layers of a batch."""
    size = bench.SHAPES[sitting.shape]
    hidden, inner = size["hidden_size"], size["intermediate_size"]
    keys = hidden // size["heads"] * size["kv_heads"]
    attention = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden)]
    return [(sitting.budget, *pair) for pair in [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]]


# --- agreement


def agree(
    sitting: Sitting, found: Found, name: str, vectors: FloatArray, expected: FloatArray, bound: float | None
) -> None:
    """Note the largest 1 - cosine of two ways. bound: by how much they may differ; None: it is only noted."""
    apart = float(1 - np.einsum("nd,nd->n", vectors, expected, dtype=np.float64).min())
    found.setdefault("agreement", {})[name] = {"1 - cosine": apart, "bound": bound}
    told = "" if bound is None else f" (at most {bound:g})"
    sitting.say(f"{name:48s} 1 - cosine {apart:8.1e}{told}, {len(vectors):,} rows")


def must_agree(found: Found) -> None:
    """Raises RunFailed if ways of one model differ by more than their bound."""
    ways = found.get("agreement", {}).items()
    apart = [name for name, way in ways if way["bound"] is not None and not way["1 - cosine"] <= way["bound"]]
    if apart:
        raise RunFailed(f"Other vectors than expected: {', '.join(apart)}.")


# --- kernels


_KINDS: Mapping[str, Sequence[str]] = {
    "attention": ("flash", "fmha", "sdpa", "attention", "fprop"),
    "matrices": ("gemm", "cutlass", "nvjet", "xmma", "cublas", "::addmm", "::mm", "::bmm", "scaled_mm"),
    "copies": ("memcpy", "copy_"),
}
"""Parts of the names of kernels, and of operations on a CPU."""


@contextlib.contextmanager
def profiled(sitting: Sitting) -> Iterator[Any]:
    """The kernels that run inside, as PyTorch's profiler has them."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA if sitting.on_gpu else ProfilerActivity.CPU]) as seen:
        yield seen
        sitting.sync()


def seconds_of_kernels(seen: Any) -> float:
    """Of what `profiled` gave, on a GPU: how long kernels ran. Copies are none, nor are ranges that somebody named."""
    events = [event for event in seen.events() if str(event.device_type).endswith("CUDA")]
    ran = [each for each in events if "emcpy" not in each.name and not getattr(each, "is_user_annotation", False)]
    return float(sum(each.time_range.elapsed_us() for each in ran)) / 1e6


def kernels(sitting: Sitting, found: Found, title: str, encoder: Any) -> None:
    """Where the time of a batch goes, by kind of kernel; and the longest ones."""
    length = min(512, sitting.longest)
    lengths = np.full(sitting.budget // length, length, np.int32)
    rows = ids(lengths)
    encoder.encode_tokens(lengths, rows)
    with profiled(sitting) as seen:
        encoder.encode_tokens(lengths, rows)
    took: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    for event in seen.key_averages():
        spent = event.self_device_time_total if sitting.on_gpu else event.self_cpu_time_total
        name = event.key.lower()
        took[event.key] += spent
        kinds[next((kind for kind, parts in _KINDS.items() if any(part in name for part in parts)), "others")] += spent
    total = sum(took.values())
    if not total:
        found.setdefault("kernels", {})[title] = {NOT_MEASURED: NO_KERNELS}
        sitting.say(f"{title}, kernels: {NOT_MEASURED}, {NO_KERNELS}")
        return
    found.setdefault("kernels", {})[title] = {
        "kinds": {kind: spent / total for kind, spent in kinds.items()},
        "longest": {name[:140]: spent / total for name, spent in took.most_common(20)},
    }
    shares = ", ".join(f"{kind} {spent / total:.1%}" for kind, spent in kinds.most_common())
    sitting.say(f"{title}, {length} tokens: {total / 1e3:.1f} ms in kernels: {shares}")
    for name, spent in took.most_common(6):
        sitting.say(f"    {spent / total:6.1%} {name[:100]}")


@contextlib.contextmanager
def whole_layers(encoder: Any) -> Iterator[None]:
    """Has whole layers compiled but for attention: beside norms and MLPs, the rotation and the residual sums."""
    import torch
    import transformers

    from sfr_batch.encoder import attention

    transformers.AttentionInterface.register(attention.ATTENTION, torch.compiler.disable(attention.attend))
    for layer in encoder._model.layers:
        layer.compile(dynamic=True)
    try:
        yield
    finally:
        transformers.AttentionInterface.register(attention.ATTENTION, attention.attend)
