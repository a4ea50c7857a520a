"""Measures the speed of the device, and suggests a token budget for batches, with rows of mixed lengths.

A speed is in computed tokens, padding included: the few rows here are padded more than those of a split.
On a CPU it suggests the fastest budget, which caches limit. On a GPU it suggests the largest that fits half of the free
memory, because there a large budget does not cost speed.
"""

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfr_batch.checks.report import Outcome, judged, passed, skipped
from sfr_batch.checks.verify.subject import Subject
from sfr_batch.config.settings import batch_tokens
from sfr_batch.encoder import devices, probe
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.model.operations import operations_of_rows
from sfr_batch.model.sources import room

SHORTEST, LONGEST = 64, 512
"""Tokens of the rows, evenly mixed."""
_CPU_BUDGETS = (512, 1024, 2048, 4096, 8192)
_CLEARLY = 1.05
"""A budget must be faster by so much to be suggested instead of the configured one."""
_ENOUGH_ROWS = 4
"""Fewest rows that give a rate which is kept for plans."""
_LARGEST_BUDGET = 131072
"""With the 14,336 numbers that a 7B model makes of a token inside, more would not fit 32-bit indices of kernels."""

_LARGEST_OF_LARGE = 32768
"""For models of a billion parameters and more, which are no faster with more tokens; padding grows with them."""

_MATRICES_S = 1.0
_FASTER = {"float32": ("bfloat16", "float16"), "bfloat16": ("fp8",), "float16": ("fp8",)}
"""What may be faster than a compute dtype on a GPU, the better one first."""

TokenRows = tuple[NDArray[np.int32], NDArray[np.int32]]


@dataclass(frozen=True)
class Speed:
    """What a plan reckons with."""

    tokens_per_second: float
    """Computed ones, over all passes."""
    row_tokens: float
    """Length of the row of a token, on average over the tokens."""


def check_throughput(subject: Subject, seconds: float) -> Outcome:
    """Tokens a second, free memory on a GPU, and the `run.max_batch_tokens` that follows. Leaves the `Speed`
    as ``subject.found["speed"]``."""
    if seconds <= 0:
        return skipped("not requested (--seconds 0)")
    _encode(subject.encoder, _rows(subject, SHORTEST))  # the first pass builds what later ones reuse
    first, tokens, took = 0.0, SHORTEST, 0.0
    while took < seconds / 20 and tokens < 1 << 20:  # a short pass says little
        tokens *= 2
        took, computed = _encode(subject.encoder, _rows(subject, tokens))
        first = computed / took
    measure = _on_gpu if subject.settings.device == "cuda" else _on_cpu
    return measure(subject, seconds, first)


def _on_cpu(subject: Subject, seconds: float, first: float) -> Outcome:
    configured, tokens = subject.budget_of_a_run, first * seconds
    # Two turns with each; a batch that the rows do not fill says nothing of its budget.
    budgets = next(
        (_CPU_BUDGETS[:n] for n in range(len(_CPU_BUDGETS), 1, -1) if tokens / (2 * n + 2) >= _CPU_BUDGETS[n - 1]), ()
    )
    tried = sorted({configured, *budgets})
    rows = _rows(subject, max(SHORTEST, int(tokens / (2 * len(tried)))))
    rates, own = dict.fromkeys(tried, 0.0), _Passes()
    for _ in range(2):
        for budget in tried:
            with subject.budget(budget):
                rates[budget] = max(rates[budget], (own if budget == configured else _Passes()).add(subject, rows))
    while own.seconds < seconds / 2:  # longer, since plans reckon with it
        own.add(subject, rows)
    best = max(rates, key=lambda budget: rates[budget])
    if rates[best] < _CLEARLY * rates[configured]:
        best = configured
    others = ", ".join(f"{rate:,.0f} at {budget}" for budget, rate in rates.items() if budget != configured)
    if len(rows[0]) >= _ENOUGH_ROWS:
        subject.found["speed"] = own.speed(rows)
    measured = f"{_mixed(rows, own.rate)} at run.max_batch_tokens={configured}"
    dtype = _other_dtype(subject.settings.compute_dtype)
    if not others:
        return passed(f"{measured}; too slow to try other budgets in {seconds:g} s{dtype}")
    return passed(f"{measured} ({others}); suggested: {best}{_other_batches(subject, rows)}{dtype}")


def _on_gpu(subject: Subject, seconds: float, first: float) -> Outcome:
    encoder, configured = subject.encoder, subject.budget_of_a_run
    rows = _rows(subject, int(min(max(4 * configured, first), 1 << 20)))
    own = _Passes()
    while own.seconds < seconds:
        own.add(subject, rows)
    subject.found["speed"] = own.speed(rows)
    devices.release_memory()
    # The longest rows, since what attention takes may grow with them.
    width = min(subject.recipe.max_length, configured)
    longest = np.full(max(1, configured // width), width, np.int32)
    needed = probe.batch_memory(encoder, longest, _ids(subject, int(longest.sum())))
    free = devices.free_memory("cuda")
    fits = int(free / 2 * int(longest.sum()) / max(needed, 1)) // 1024 * 1024
    suggested = max(1024, min(fits, _LARGEST_BUDGET if probe.parameters(encoder) < 1e9 else _LARGEST_OF_LARGE))
    return judged(
        encoder.max_batch_tokens >= configured,
        f"{_mixed(rows, own.rate)}{_share(subject, rows, own.rate)}; run.max_batch_tokens={configured} needs "
        f"{room.gib(needed)} of {room.gib(free)} free beside the model; suggested, for half of it: {suggested}"
        f"{_other_batches(subject, rows)}{_faster(subject)}",
    )


def _share(subject: Subject, rows: TokenRows, rate: float) -> str:
    """The operations that a model is given for its tokens, against what the GPU does when it multiplies matrices for a
    second."""
    dtype, lengths = subject.settings.compute_dtype, rows[0].tolist()
    needed = operations_of_rows(subject.architecture, lengths, pooled_alone=subject.encoder.is_decoder)
    if needed is None:
        return ""
    most = probe.matrix_rate("cuda", dtype, _MATRICES_S)
    share = rate * needed / sum(lengths) / most
    return f", {share:.0%} of the {most / 1e12:,.0f} TFLOP/s that matrices in {dtype} reach on this GPU"


def _faster(subject: Subject) -> str:
    """What would use more of the GPU, or let it do more."""
    settings, config, encoder = subject.settings, subject.config, subject.encoder
    ways = []
    if settings.deterministic:
        ways.append("model.deterministic=false, in a table of its own")
    elif encoder.is_decoder and not encoder.fused:
        ways.append("install what run.fuse needs" if "not fused" in encoder.remark else "run.fuse=true")
    if faster := next(filter(probe.computes_in, _FASTER.get(settings.compute_dtype, ())), None):
        ways.append(f"model.dtype={faster}, in a table of its own")
    default = batch_tokens("cuda", probe.parameters(encoder))
    if (config.run.max_batch_tokens or default) < default:
        ways.append(f"run.max_batch_tokens={default}")
    return f"; faster: {', '.join(ways)}" if ways else ""


def _other_batches(subject: Subject, rows: TokenRows) -> str:
    """What the other `run.batches` would give, in two turns with each."""
    encoder = subject.encoder
    if not encoder.can_pack:
        return ""
    own = other = np.inf
    for _ in range(2):
        own = min(own, _encode(encoder, rows)[0])
        with subject.other_batches():
            other = min(other, _encode(encoder, rows)[0])
    name = "padded" if encoder.packed else "packed"
    return f"; run.batches={name}: {own / other:.2f} times as fast{', suggested' if own > _CLEARLY * other else ''}"


def _other_dtype(dtype: str) -> str:
    """A hint where the CPU suits another one; other vectors, so it is no setting to change under a table."""
    fast = devices.has_bfloat16()
    if dtype == "float32" and fast:
        return "; this CPU has bfloat16: model.dtype=bfloat16 is faster, but needs a table of its own"
    if dtype == "bfloat16" and fast is False:
        return "; this CPU has no bfloat16: model.dtype=float32 may be faster, but needs a table of its own"
    return ""


def _encode(encoder: Encoder, rows: TokenRows) -> tuple[float, int]:
    """Seconds, and computed tokens."""
    began = time.perf_counter()
    computed = encoder.encode_tokens(*rows).padded_tokens
    return time.perf_counter() - began, computed


class _Passes:
    """Passes of the same rows in the same batches."""

    def __init__(self) -> None:
        self.seconds, self._tokens = 0.0, 0

    def add(self, subject: Subject, rows: TokenRows) -> float:
        """One more. Returns its own tokens a second."""
        seconds, tokens = _encode(subject.encoder, rows)
        self.seconds, self._tokens = self.seconds + seconds, self._tokens + tokens
        return tokens / seconds

    @property
    def rate(self) -> float:
        """Tokens a second of all of them."""
        return self._tokens / self.seconds

    def speed(self, rows: TokenRows) -> Speed:
        return Speed(self.rate, self.row_tokens(rows))

    @staticmethod
    def row_tokens(rows: TokenRows) -> float:
        """Length of the row of a token, on average over the tokens."""
        lengths = rows[0].astype(np.float64)
        return float(lengths @ lengths / lengths.sum())


def _mixed(rows: TokenRows, rate: float) -> str:
    lengths = rows[0]
    return f"{rate:,.0f} tokens/s at {lengths.min()} to {lengths.max()} tokens a row"


def _rows(subject: Subject, tokens: int) -> TokenRows:
    """Distinct rows of mixed lengths that hold about so many tokens together, at least one row."""
    longest = min(LONGEST, subject.recipe.max_length)
    count = max(1, round(tokens / ((min(SHORTEST, longest) + longest) / 2)))
    lengths = np.linspace(min(SHORTEST, longest), longest, count).astype(np.int32)
    return lengths, _ids(subject, int(lengths.sum()))


def _ids(subject: Subject, count: int) -> NDArray[np.int32]:
    """Tokens of the probes in a random but fixed order: a row of them repeats no other."""
    return np.random.default_rng(0).choice(subject.probes.flat_ids, count)
