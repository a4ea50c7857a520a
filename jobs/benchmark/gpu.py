"""One sitting on a GPU: do all ways of the encoder agree, how fast is each of them, and where does the time go.

Steps stand in order of what they are worth. Each has a bound, may fail without ending the others, and is on disk when
it is done. Nothing is downloaded, and little is needed beside PyTorch and transformers; Ray is not. On a CPU it only
shows that every step runs: nothing is compiled then.
"""

import contextlib
import json
import shutil
import signal
import statistics
import subprocess
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jobs.benchmark import encoder as bench
from jobs.benchmark import gpu_others
from jobs.benchmark.gpu_sitting import (
    FLOPS,
    NO_KERNELS,
    NOT_MEASURED,
    VOCABULARY,
    Found,
    Sitting,
    agree,
    both_batches,
    card_of,
    ids,
    kernels,
    layer_products,
    mixed,
    must_agree,
    profiled,
    rate,
    seconds_of_kernels,
    speed,
    timed,
    whole_layers,
)
from jobs.benchmark.report import aligned, machine
from sfr_batch.errors import RunFailed
from sfr_batch.model.identity import SAME_MODEL

_ALONE = 50
"""Rows that are computed one by one."""
Step = Callable[[Sitting, Found], None]


class TooLong(BaseException):
    """A step takes longer than it may. No Exception: an encoder would blame it on a row."""


def sit(sitting: Sitting, only: Sequence[str] = ()) -> bool:
    """Run the steps, or ``only`` those named. Returns whether none failed."""
    import torch

    from sfr_batch.encoder import segments
    from sfr_batch.encoder.devices import kind_of

    sitting.folder.mkdir(parents=True, exist_ok=True)
    states: dict[str, str] = {}
    with_aims = sitting.shape == "mistral-7b" and card_of(kind_of(sitting.device)) == "H200"
    # Only where it is meant: it holds from where it is made, not from where it is entered.
    with contextlib.nullcontext() if sitting.on_gpu else torch.compiler.set_stance("default", force_backend="eager"):
        with contextlib.suppress(RuntimeError):  # which the steps will meet
            if remark := segments.let_grow(sitting.device):  # as in a run
                sitting.say(remark)
        for name in only or STEPS:
            states[name] = _run(sitting, name)
            text = json.dumps({"steps": states, **sitting.found}, indent=1, default=str)
            (sitting.folder / "gpu.json").write_text(text, encoding="utf-8")
            if states[name] == "FAILED":
                _recover(sitting, name)
    rows = [[name, state, f"{sitting.found[name]['seconds']:.0f}"] for name, state in states.items()]
    sitting.say("\n" + "\n".join(aligned(["step", "", "seconds"], rows)))
    heading = ["on an H200, mistral-7b", "aim", ""]
    sitting.say("\n" + "\n".join(aligned(heading, aims(sitting.found if with_aims else {}))))
    return "FAILED" not in states.values()


def _recover(sitting: Sitting, name: str) -> None:
    """After a step that failed, which may have left the sitting in any state. What it found is on disk."""
    try:
        sitting.forget()
        sitting.sync()
    except Exception as error:  # as every call gives, once a kernel has read where it may not
        sitting.lost = f"the device was lost in step {name} ({type(error).__name__}: {str(error)[:200]})"


def aims(found: Found) -> list[list[str]]:
    """What an H200 should reach with the shape mistral-7b, each with the aim and what was found."""

    def of(*path: str) -> Any:
        value: Any = found
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def apart(*steps: str) -> float | None:
        """The largest 1 - cosine of the ways that have a bound; none if a step has none of them."""
        found = [[way["1 - cosine"] for way in _ways(of(step, "agreement"))] for step in steps]
        return float(np.max(np.concatenate(found))) if all(found) else None

    bf16, fp8 = ("fuse", "fused, packed"), ("fp8", "fp8, fused")
    lines: list[tuple[str, str, Any, str]] = [
        ("bfloat16, 512 tokens, of the sustained matrix rate", "85%", of(*bf16, "512", "share"), ".1%"),
        ("bfloat16, 4,096 tokens", "75%", of(*bf16, "longest", "share"), ".1%"),
        ("bfloat16, 512 tokens, tokens/s", "44,000", of(*bf16, "512", "tokens/s"), ",.0f"),
        ("fp8, 512 tokens, tokens/s", "65,000, better 75,000", of(*fp8, "512", "tokens/s"), ",.0f"),
        ("idle during whole splits", "at most 3%", of("split", "idle"), ".1%"),
        (
            "bfloat16, fused, packed and padded: 1 - cosine",
            f"at most {SAME_MODEL['bfloat16']:g}",
            apart("agreement", "fuse"),
            ".1e",
        ),
        ("fp8, fused, packed and padded: 1 - cosine", f"at most {SAME_MODEL['fp8']:g}", apart("fp8"), ".1e"),
    ]
    return [[what, aim, NOT_MEASURED if value is None else format(value, how)] for what, aim, value, how in lines]


def _ways(agreement: Any) -> list[Found]:
    """Those that must agree, of what `agree` has noted."""
    return [way for way in (agreement or {}).values() if way["bound"] is not None]


def _run(sitting: Sitting, name: str) -> str:
    """Run a step. Returns how it went."""
    needs, step = STEPS[name]
    found: Found = {"seconds": 0.0}
    sitting.found[name] = found
    if sitting.lost:
        found[NOT_MEASURED] = sitting.lost
        sitting.say(f"--- {name}: not measured, {sitting.lost}; in a new process: --only {name!r}")
        return NOT_MEASURED
    if sitting.on_gpu and sitting.left < needs:
        sitting.say(f"--- {name}: not measured, {sitting.left:.0f} s are left and it may need {needs:g}")
        return NOT_MEASURED
    sitting.say(f"--- {name}, {sitting.left:.0f} s left")
    began, failed = time.perf_counter(), False
    try:
        with _at_most(min(2 * needs, sitting.left) if sitting.on_gpu else sitting.seconds):
            step(sitting, found)
    except (Exception, TooLong) as error:
        failed = True
        found |= {"error": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-4000:]}
        sitting.say(f"{name} FAILED: {found['error'][:600]}\n{''.join(traceback.format_tb(error.__traceback__)[-3:])}")
    found["seconds"] = round(time.perf_counter() - began, 1)
    if why := found.get(NOT_MEASURED):
        sitting.say(f"not measured: {why}")
        return NOT_MEASURED
    return "FAILED" if failed else "ok"


@contextlib.contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLong(f"more than {seconds:.0f} seconds")

    before, timer = signal.signal(signal.SIGALRM, stop), signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


# --- the steps


def _machine(sitting: Sitting, found: Found) -> None:
    import torch

    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    found |= machine() | {"compiler": shutil.which("cc") or shutil.which("gcc"), "Python.h": header.is_file()}
    if sitting.on_gpu:
        found |= {
            "capability": torch.cuda.get_device_capability(),
            "built for": torch.cuda.get_arch_list(),
            "cuda": torch.version.cuda,
            "memory": torch.cuda.mem_get_info(),
        }
    sitting.say(json.dumps(found, default=str))


def _ceilings(sitting: Sitting, found: Found) -> None:
    """The rate of matrix products in a burst, and sustained, as a job has it: a card's power bounds that one."""
    import torch

    from sfr_batch.encoder import probe

    found["burst"] = bench.matrix_rate(sitting.device, sitting.dtype, sitting.squares)
    found["square, sustained"] = probe.matrix_rate(
        sitting.device, sitting.dtype, sitting.turn, [(sitting.budget // 2,) * 3]
    )
    found["layer, sustained"] = probe.matrix_rate(sitting.device, sitting.dtype, sitting.turn, layer_products(sitting))
    sitting.sustained[sitting.dtype] = max(found["square, sustained"], found["layer, sustained"])
    told = ", ".join(f"{name} {found[name] / 1e12:,.1f}" for name in found if name != "seconds")
    sitting.say(
        f"TFLOP/s in {sitting.dtype}: {told}; square: {sitting.budget // 2:,} each way; layer: its seven products for "
        f"{sitting.budget:,} tokens. The larger of the sustained ones counts.\n{FLOPS}"
    )
    if sitting.on_gpu:
        one = torch.empty(2**30, device="cuda", dtype=torch.bfloat16)
        two = torch.empty_like(one)
        found["copies, bytes/s"] = 2 * one.nbytes / timed(sitting, lambda: two.copy_(one), sitting.turn / 4)
        asked = "clocks.sm,power.draw,power.limit,temperature.gpu,driver_version"
        found["nvidia-smi"] = _of_nvidia_smi(asked)
        sitting.say(f"copies {found['copies, bytes/s'] / 1e12:.2f} TB/s; {asked}: {found['nvidia-smi']}")


def _of_nvidia_smi(asked: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:  # many containers have none
        return f"{NOT_MEASURED}: {error}"
    return (done.stdout or done.stderr).strip()


def _agreement(sitting: Sitting, found: Found) -> None:
    """All ways in one dtype without compiled kernels, and transformers' own attention under a mask."""
    from sfr_batch.encoder import probe

    encoder, (lengths, flat_ids), bound = sitting.model(), sitting.texts(), SAME_MODEL[sitting.dtype]
    some = lengths[:_ALONE], flat_ids[: int(lengths[:_ALONE].sum())]
    encoder.pack(False)
    encoder.reuse_prefix = False
    sitting.expected = expected = encoder.encode_tokens(lengths, flat_ids).vectors
    for batches in both_batches(encoder):
        for reuse in (False, True):
            encoder.reuse_prefix = reuse
            vectors = encoder.encode_tokens(lengths, flat_ids).vectors
            name = f"{batches}, prefix {'computed once' if reuse else 'in each row'}"
            agree(sitting, found, name, vectors, expected, bound)
        encoder.deterministic = True
        alone, again = (encoder.encode_tokens(*some).vectors for _ in range(2))
        encoder.deterministic = False
        agree(sitting, found, f"{batches}, row by row", alone, expected[:_ALONE], bound)
        found[f"{batches}, row by row, same bits again"] = np.array_equal(alone, again)
    for side in ("left", "right"):
        vectors = probe.padded(encoder, *some, side)
        agree(sitting, found, f"transformers' attention, padded on the {side}", vectors, expected[:_ALONE], bound)
    must_agree(found)
    if not found["padded, row by row, same bits again"]:
        raise RunFailed(
            "Rows that are computed alone do not have the same bits again, as model.deterministic promises."
        )


def _plain(sitting: Sitting, found: Found) -> None:
    encoder = sitting.model()
    for batches in both_batches(encoder):
        speed(sitting, batches, encoder, found)
    kernels(sitting, found, "packed", encoder)


def _fuse(sitting: Sitting, found: Found) -> None:
    from torch._dynamo.utils import counters

    counters.clear()
    encoder, (lengths, flat_ids) = sitting.model(), sitting.texts()
    found["compiled in"] = timed_once(encoder.fuse)
    for batches in both_batches(encoder):
        vectors = encoder.encode_tokens(lengths, flat_ids).vectors
        if sitting.expected is not None:
            agree(sitting, found, f"fused, {batches}", vectors, sitting.expected, SAME_MODEL[sitting.dtype])
    found["graphs"] = counters["stats"]["unique_graphs"]
    for batches in both_batches(encoder):
        speed(sitting, f"fused, {batches}", encoder, found)
    found["graphs later"] = counters["stats"]["unique_graphs"] - found["graphs"]
    found["breaks"] = dict(counters["graph_break"])
    sitting.say(
        f"compiled in {found['compiled in']:.1f} s, {found['graphs']} graphs, {found['graphs later']} more later; "
        f"breaks: {found['breaks'] or 'none'}"
    )
    kernels(sitting, found, "fused, packed", encoder)
    must_agree(found)


def timed_once(call: Callable[[], Any]) -> float:
    """Seconds of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _split(sitting: Sitting, found: Found) -> None:
    """Whole splits, one after the other: for how much of the time the device has nothing to do."""
    encoder, lengths = sitting.as_in_a_run(), mixed(4096 if sitting.on_gpu else 16, sitting.longest)
    tokens = 2 * int(lengths.sum())
    encoder.encode_tokens(lengths, ids(lengths))

    def both() -> None:  # as an actor has them: the second is launched before the first is fetched
        launched = [encoder.launch(lengths, ids(lengths, seed)) for seed in range(2)]
        for rows in launched:
            rows.result()

    with profiled(sitting) as seen:
        wall = timed_once(both)
    found |= {"tokens/s": tokens / wall, "wall": wall}
    told = f"two splits, {tokens:,} tokens: {found['tokens/s']:,.0f} tokens/s"
    if sitting.on_gpu:
        busy = seconds_of_kernels(seen)
        if busy:
            found["idle"] = 1 - busy / wall
            told += f"; kernels ran {busy:.2f} of {wall:.2f} s: idle for {found['idle']:.1%}"
        else:
            found[f"idle, {NOT_MEASURED}"] = NO_KERNELS
            told += f"; idle: {NOT_MEASURED}, {NO_KERNELS}"
    sitting.say(told)


def _fp8(sitting: Sitting, found: Found) -> None:
    from sfr_batch.encoder import probe

    if sitting.lacks_fp8:
        found[NOT_MEASURED] = "this GPU does not multiply in fp8"
        return
    encoder, (lengths, flat_ids) = sitting.new_model("fp8"), sitting.texts()
    found["burst"] = bench.matrix_rate(sitting.device, "fp8", sitting.squares)
    sitting.sustained["fp8"] = found["layer, sustained"] = probe.matrix_rate(
        sitting.device, "fp8", sitting.turn, layer_products(sitting)
    )
    sitting.say(f"TFLOP/s in fp8: burst {found['burst'] / 1e12:,.1f}, sustained {sitting.sustained['fp8'] / 1e12:,.1f}")
    first = encoder.encode_tokens(lengths, flat_ids).vectors
    if sitting.expected is not None:
        agree(sitting, found, f"fp8 to {sitting.dtype}", first, sitting.expected, None)
    for fused in ("", ", fused"):
        if fused:
            found["compiled in"] = timed_once(encoder.fuse)
        for batches in both_batches(encoder):
            vectors = encoder.encode_tokens(lengths, flat_ids).vectors
            agree(sitting, found, f"fp8{fused}, {batches}", vectors, first, SAME_MODEL["fp8"])
        speed(sitting, f"fp8{fused}", encoder, found, ("512", "longest", "mix"))
    kernels(sitting, found, "fp8, fused", encoder)
    must_agree(found)


def _layers(sitting: Sitting, found: Found) -> None:
    """Whether it is worth to compile whole layers instead of norms and MLPs."""
    encoder = sitting.new_model(sitting.dtype)
    with whole_layers(encoder):
        speed(sitting, "whole layers compiled", encoder, found, ("512", "longest"))


def _budgets(sitting: Sitting, found: Found) -> None:
    """What larger batches gain, and what they cost in padding and memory."""
    import torch

    encoder, lengths = sitting.as_in_a_run(), mixed(2048 if sitting.on_gpu else 8, sitting.longest)
    for batches in both_batches(encoder):
        for budget in (sitting.budget // 4, sitting.budget, 4 * sitting.budget):
            encoder.max_batch_tokens = budget
            if sitting.on_gpu:
                torch.cuda.reset_peak_memory_stats()
            _, steady = rate(sitting, encoder, lengths)
            done = encoder.encode_tokens(lengths, ids(lengths))
            peak = torch.cuda.max_memory_allocated() / 2**30 if sitting.on_gpu else 0.0
            padding = 1 - done.tokens / done.padded_tokens
            found[f"{batches}, {budget}"] = {"tokens/s": steady, "padding": padding, "peak GiB": peak}
            sitting.say(f"{batches}, {budget:7,}: {steady:10,.0f} tokens/s, padding {padding:.1%}, {peak:.1f} GiB")
    encoder.max_batch_tokens = sitting.budget


def _small_model(sitting: Sitting, found: Found) -> None:
    """The shape of BERT-base, where the host has to launch fast enough."""
    import torch
    import transformers

    from sfr_batch.encoder.encoder import Encoder
    from sfr_batch.encoder.loading import torch_dtype
    from sfr_batch.model.recipe import Recipe

    small: dict[str, int] = (
        {} if sitting.on_gpu else {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    )
    config = transformers.BertConfig(vocab_size=VOCABULARY, **small)
    with torch.device(sitting.device):
        model = transformers.AutoModel.from_config(
            config, attn_implementation="sdpa", dtype=torch_dtype(sitting.dtype), add_pooling_layer=False
        )
    recipe = Recipe("", "bert", False, "mean", 512, config.hidden_size, {})
    encoder = Encoder(model.eval(), None, recipe)  # type: ignore[arg-type]
    lengths = mixed(8192 if sitting.on_gpu else 8, min(512, sitting.longest))
    for batches in both_batches(encoder):
        for budget in (16384, 131072) if sitting.on_gpu else (512,):
            encoder.max_batch_tokens = budget
            first, steady = rate(sitting, encoder, lengths)
            found[f"{batches}, {budget}"] = {"tokens/s": steady, "first pass": first}
            sitting.say(f"BERT, {batches}, {budget:7,}: {steady:10,.0f} tokens/s; first pass {first:,.0f}")
    kernels(sitting, found, "BERT, packed", encoder)


def _cudnn(sitting: Sitting, found: Found) -> None:
    """Attention by cuDNN and without: what a plan for a new shape costs, and what its kernel gains."""
    import torch
    import torch.nn.functional as F

    if not sitting.on_gpu:
        found[NOT_MEASURED] = "no GPU"
        return
    size = bench.SHAPES[sitting.shape]
    head = size["hidden_size"] // size["heads"]

    def attend(rows: int, width: int) -> Callable[[], Any]:
        query, key = (
            torch.randn(rows, heads, width, head, device="cuda", dtype=torch.bfloat16)
            for heads in (size["heads"], size["kv_heads"])
        )
        return lambda: F.scaled_dot_product_attention(query, key, key, is_causal=True, enable_gqa=True)

    def new_shape(width: int) -> float:
        call = attend(8, width)
        sitting.sync()
        began = time.perf_counter()
        call()
        sitting.sync()
        return time.perf_counter() - began

    try:
        for name in ("cuDNN", "without"):
            torch.backends.cuda.enable_cudnn_sdp(name == "cuDNN")
            found[f"{name}, ms of a new shape"] = 1e3 * statistics.median(map(new_shape, range(300, 330)))
            for rows, width in ((32, 512), (4, 4096)):
                flops = 2 * rows * width**2 * size["hidden_size"]
                found[f"{name}, TFLOP/s at {width}"] = flops / timed(sitting, attend(rows, width), 0.3) / 1e12
    finally:
        torch.backends.cuda.enable_cudnn_sdp(True)
    sitting.say(", ".join(f"{name} {value:.2f}" for name, value in found.items()))


def _small_memory(sitting: Sitting, found: Found) -> None:
    """As on a card of 24 GB: does the budget fall, and the work go on?"""
    import torch

    if not sitting.on_gpu:
        found[NOT_MEASURED] = "no GPU"
        return
    sitting.forget()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 22 * 2**30 / total))
    try:
        encoder, lengths = sitting.model(), mixed(2048, sitting.longest)
        encoder.max_batch_tokens = 131072
        done = encoder.encode_tokens(lengths, ids(lengths))
        found |= {"budget fell to": encoder.max_batch_tokens, "failed rows": len(done.failed), "batches": done.batches}
        sitting.say(str(found))
        if done.failed or not np.isfinite(done.vectors).all():
            raise RunFailed("Rows were lost for want of memory.")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


STEPS: Mapping[str, tuple[float, Step]] = {
    "machine": (5, _machine),
    "ceilings": (20, _ceilings),
    "agreement": (30, _agreement),
    "plain": (45, _plain),
    "fuse": (90, _fuse),
    "split": (30, _split),
    "fp8": (110, _fp8),
    "layers": (60, _layers),
    "torchao": (90, gpu_others.torchao),
    "sentence-transformers": (60, gpu_others.sentence_transformers),
    "vllm": (100, gpu_others.vllm),
    "budgets": (30, _budgets),
    "small model": (25, _small_model),
    "cudnn": (15, _cudnn),
    "small memory": (20, _small_memory),
}
"""By name: the seconds that a step may need on an H200, and the step."""
