"""Measures the speed of the device, and suggests a token budget for batches, with rows of mixed lengths.

On a CPU it suggests the fastest budget, which caches limit. On a GPU it suggests the largest that fits half of the free
memory, because there a large budget does not cost speed.
"""

import time

import numpy as np
from numpy.typing import NDArray

from sfr_batch.checks.report import Outcome, judged, passed, skipped
from sfr_batch.checks.verify.subject import Subject
from sfr_batch.encoder import devices, probe
from sfr_batch.encoder.encoder import Encoder
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

TokenRows = tuple[NDArray[np.int32], NDArray[np.int32]]


def check_throughput(subject: Subject, seconds: float) -> Outcome:
    """Tokens a second, free memory on a GPU, and the `run.max_batch_tokens` that follows. Leaves the rate as
    ``subject.found["rate"]``."""
    if seconds <= 0:
        return skipped("not requested (--seconds 0)")
    _rate(subject.encoder, _rows(subject, SHORTEST))  # the first pass builds what later ones reuse
    first, tokens, took = 0.0, SHORTEST, 0.0
    while took < seconds / 20 and tokens < 1 << 20:  # a short pass says little
        tokens *= 2
        first = _rate(subject.encoder, _rows(subject, tokens))
        took = tokens / first
    measure = _on_gpu if subject.settings.device == "cuda" else _on_cpu
    return measure(subject, seconds, first)


def _on_cpu(subject: Subject, seconds: float, first: float) -> Outcome:
    configured, tokens = subject.config.max_batch_tokens, first * seconds
    # Two turns with each; a batch that the rows do not fill says nothing of its budget.
    budgets = next(
        (_CPU_BUDGETS[:n] for n in range(len(_CPU_BUDGETS), 1, -1) if tokens / (2 * n + 2) >= _CPU_BUDGETS[n - 1]), ()
    )
    tried = sorted({configured, *budgets})
    rows = _rows(subject, max(SHORTEST, int(tokens / (2 * len(tried)))))
    rates = dict.fromkeys(tried, 0.0)
    for _ in range(2):
        for budget in tried:
            with subject.budget(budget):
                rates[budget] = max(rates[budget], _rate(subject.encoder, rows))
    best = max(rates, key=lambda budget: rates[budget])
    if rates[best] < _CLEARLY * rates[configured]:
        best = configured
    others = ", ".join(f"{rate:,.0f} at {budget}" for budget, rate in rates.items() if budget != configured)
    if len(rows[0]) >= _ENOUGH_ROWS:
        subject.found["rate"] = rates[configured]
    measured = f"{_mixed(rows, rates[configured])} at run.max_batch_tokens={configured}"
    dtype = _other_dtype(subject.settings.compute_dtype)
    if not others:
        return passed(f"{measured}; too slow to try other budgets in {seconds:g} s{dtype}")
    return passed(f"{measured} ({others}); suggested: {best}{_other_batches(subject, rows)}{dtype}")


def _on_gpu(subject: Subject, seconds: float, first: float) -> Outcome:
    encoder, configured = subject.encoder, subject.config.max_batch_tokens
    rows = _rows(subject, int(min(max(4 * configured, first), 1 << 20)))
    until, rate = time.perf_counter() + seconds, 0.0
    while time.perf_counter() < until:
        rate = max(rate, _rate(encoder, rows))
    subject.found["rate"] = rate
    devices.release_memory()
    # The longest rows, since what attention takes may grow with them.
    width = min(subject.recipe.max_length, configured)
    longest = np.full(max(1, configured // width), width, np.int32)
    needed = probe.batch_memory(encoder, longest, _ids(subject, int(longest.sum())))
    free = devices.free_memory("cuda")
    fits = int(free / 2 * int(longest.sum()) / max(needed, 1)) // 1024 * 1024
    suggested = max(1024, min(fits, _LARGEST_BUDGET))
    return judged(
        encoder.max_batch_tokens >= configured,
        f"{_mixed(rows, rate)}; run.max_batch_tokens={configured} needs {room.gib(needed)} of {room.gib(free)} "
        f"free beside the model; suggested, for half of it: {suggested}{_other_batches(subject, rows)}",
    )


def _other_batches(subject: Subject, rows: TokenRows) -> str:
    """What the other `run.batches` would give, in two turns with each."""
    encoder = subject.encoder
    if not encoder.can_pack:
        return ""
    own = other = 0.0
    for _ in range(2):
        own = max(own, _rate(encoder, rows))
        with subject.other_batches():
            other = max(other, _rate(encoder, rows))
    name = "padded" if encoder.packed else "packed"
    return f"; run.batches={name}: {other / own:.2f} times as fast{', suggested' if other > _CLEARLY * own else ''}"


def _other_dtype(dtype: str) -> str:
    """A hint where the CPU suits another one; other vectors, so it is no setting to change under a table."""
    fast = devices.has_bfloat16()
    if dtype == "float32" and fast:
        return "; this CPU has bfloat16: model.dtype=bfloat16 is faster, but needs a table of its own"
    if dtype == "bfloat16" and fast is False:
        return "; this CPU has no bfloat16: model.dtype=float32 may be faster, but needs a table of its own"
    return ""


def _rate(encoder: Encoder, rows: TokenRows) -> float:
    """Tokens a second."""
    began = time.perf_counter()
    encoder.encode_tokens(*rows)
    return float(rows[0].sum()) / (time.perf_counter() - began)


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
