"""The encoder by itself, in one process and without Ray: against sentence-transformers, and against the hardware.

Everything that is compared runs in rounds, in alternation, on the same rows with the same threads; ratios are taken
within a round, then their median. Model-FLOP utilization is against the best rate at which this device multiplied large
matrices of the same dtype in the same run.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.benchmark.corpus import all_docstrings, distinct_docstrings
from jobs.benchmark.report import aligned
from sfr_batch.config.settings import CPU_BATCH_TOKENS, LARGE_MODEL_TOKENS, ModelSettings
from sfr_batch.corpus.splits import ROWS
from sfr_batch.encoder import batching
from sfr_batch.errors import RunFailed
from sfr_batch.model.operations import operations_of_rows

SAME_VECTORS = 1e-5
"""How far a number of a vector may be from the other contender's in float32 before the comparison is refused."""
SHAPES = {
    "mistral-7b": {"hidden_size": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "intermediate_size": 14336},
    "mistral-small": {"hidden_size": 512, "layers": 4, "heads": 8, "kv_heads": 4, "intermediate_size": 1792},
    "tiny": {"hidden_size": 64, "layers": 2, "heads": 4, "kv_heads": 2, "intermediate_size": 128},
}
"""Models that need no download: random weights. mistral-7b is the shape of SFR-Embedding-Mistral; of the speed of the
tiny one nothing follows."""
_LONGEST = 4096
_ST_BATCHES = (16, 32, 64, 128)
_REPEATED = 0.2

FloatArray = NDArray[np.float32]
TokenRows = tuple[NDArray[np.int32], NDArray[np.int32]]
"""Lengths [n], and the ids of all rows one after the other."""


@dataclass(frozen=True)
class Measurement:
    """One line of the report. Rates are medians over the rounds."""

    what: str
    tokens: int
    """Tokens of the user's rows, however many of them were computed."""
    tokens_per_second: float
    padding: float | None = None
    """Share of the computed tokens that were padding."""
    utilization: float | None = None
    """Model FLOPs of the rows' tokens over what the device's matrix rate would have done in that time."""
    compared_with: str = ""
    ratio: float | None = None
    """Tokens per second over those of the line that it is compared with, within a round; the median."""
    seconds: tuple[float, ...] = ()
    """Seconds of each round."""
    loss: float | None = None
    """Largest 1 - cosine between a row's vector here and on the line that it is compared with."""


def compare(contenders: Mapping[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Seconds of each contender in each round, in alternation; and what each returned in the first round."""
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    results: dict[str, Any] = {}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            started = time.perf_counter()
            result = contenders[name]()
            seconds[name].append(time.perf_counter() - started)
            results.setdefault(name, result)
    return seconds, results


def ratio(seconds: Mapping[str, Sequence[float]], name: str, other: str) -> float:
    """How many times as fast ``name`` is as ``other``."""
    return statistics.median(b / a for a, b in zip(seconds[name], seconds[other], strict=True))


def use_threads(device: str) -> None:
    """As many as an encode actor has, for all contenders."""
    import torch

    from sfr_batch.encoder.threads import usable_cores

    torch.set_num_threads(usable_cores() if device == "cpu" else 1)


# --- against sentence-transformers


def against_sentence_transformers(
    settings: ModelSettings, documents: int, rounds: int, say: Callable[[str], None]
) -> list[Measurement]:
    """The same distinct docstrings through `Encoder.encode`, through sentence-transformers at its best batch size, and
    token ids alone: as we batch them, and grouped by exact length, which pads nothing.

    Raises RunFailed if the vectors differ.
    """
    import sentence_transformers

    from sfr_batch.encoder.encoder import Encoder
    from sfr_batch.model.sources.location import locate

    texts = [text for _, text in distinct_docstrings(documents)]
    encoder = Encoder.load(settings)
    tokenized = encoder.tokenizer.encode(texts)
    tokens = int(tokenized.lengths.sum())
    say(f"{documents:,} distinct docstrings, {tokens:,} tokens")
    reference = sentence_transformers.SentenceTransformer(
        str(locate(settings, weights=True)), device=settings.device, local_files_only=True
    )

    def rival(batch_size: int, some: Sequence[str] = texts) -> Any:
        return reference.encode(list(some), batch_size=batch_size, normalize_embeddings=True)

    few = texts[: max(1, documents // 5)]
    tried, _ = compare({str(size): lambda size=size: rival(size, few) for size in _ST_BATCHES}, 1)  # type: ignore[misc]
    best = int(min(tried, key=lambda size: tried[size][0]))
    theirs, exact = f"sentence-transformers, batch size {best}", "ids by exact length"
    ours, ids, repeats = "Encoder.encode", "ids as we batch them", "Encoder.encode, 20 % repeated"
    again = [*texts, *texts[: round(documents * _REPEATED / (1 - _REPEATED))]]
    np.random.default_rng(0).shuffle(again)
    rows = tokenized.lengths, tokenized.flat_ids
    contenders: dict[str, Callable[[], Any]] = {
        ours: lambda: encoder.encode(texts),
        theirs: lambda: rival(best),
        ids: lambda: encoder.encode_tokens(*rows),
        exact: lambda: by_exact_length(encoder, rows),
        repeats: lambda: encoder.encode(again),
    }
    seconds, results = compare(contenders, rounds)
    for name in (theirs, exact):
        _check_same(results[ours], results[name], name)
    encoded = results[ids]
    padding = 1 - encoded.tokens / encoded.padded_tokens

    def line(name: str, other: str = "", padding: float | None = None, of: int = tokens) -> Measurement:
        rate = of / statistics.median(seconds[name])
        compared = ratio(seconds, name, other) * of / tokens if other else None
        return Measurement(name, of, rate, padding, None, other, compared, tuple(seconds[name]))

    all_tokens = int(encoder.tokenizer.encode(again).lengths.sum())
    return [
        line(theirs),
        line(ours, theirs, padding),
        line(exact, padding=0.0),
        line(ids, exact, padding),
        line(repeats, ours, of=all_tokens),
    ]


def other_ways(settings: ModelSettings, documents: int, rounds: int) -> list[Measurement]:
    """Token ids of the same docstrings in padded batches, in packed ones, and in dtypes of lower precision.

    Raises RunFailed if packed batches give other vectors. On a CPU in bfloat16 too, on a GPU that has it in fp8.
    """
    from sfr_batch.encoder.encoder import Encoder

    own = settings.compute_dtype
    first, packed = f"{own}, padded batches", f"{own}, packed batches"
    encoder = Encoder.load(settings)
    others = {
        name: Encoder.load(settings.model_copy(update={"dtype": name}))
        for name in _lower_dtypes(settings.device)
        if name != own
    }
    tokenized = encoder.tokenizer.encode([text for _, text in distinct_docstrings(documents)])
    rows, tokens = (tokenized.lengths, tokenized.flat_ids), int(tokenized.lengths.sum())

    def encode(as_packed: bool) -> Any:
        encoder.pack(as_packed)
        return encoder.encode_tokens(*rows)

    contenders = {first: partial(encode, False), packed: partial(encode, True)}
    contenders |= {name: partial(other.encode_tokens, *rows) for name, other in others.items()}
    for each in (encoder, *others.values()):  # what is compiled is compiled now
        each.encode_tokens(tokenized.lengths[:8], tokenized.flat_ids[: int(tokenized.lengths[:8].sum())])
    seconds, results = compare(contenders, rounds)
    if own == "float32":
        _check_same(results[first].vectors, results[packed].vectors, packed)
    found = []
    for name, encoded in results.items():
        loss = float((1 - np.einsum("nd,nd->n", results[first].vectors, encoded.vectors, dtype=np.float64)).max())
        rate = tokens / statistics.median(seconds[name])
        padding = 1 - encoded.tokens / encoded.padded_tokens
        line = Measurement(name, tokens, rate, padding, seconds=tuple(seconds[name]))
        if name != first:
            line = replace(line, compared_with=first, ratio=ratio(seconds, name, first), loss=loss)
        found.append(line)
    return found


def _lower_dtypes(device: str) -> tuple[str, ...]:
    """Of lower precision than the default, where the device multiplies in them."""
    from sfr_batch.encoder.devices import multiplies_in

    if device == "cpu":
        return ("bfloat16",)
    return ("fp8",) if multiplies_in("fp8") else ()


def batching_alone(settings: ModelSettings, rounds: int) -> list[Measurement]:
    """How much padding splits of the default size have, over all docstrings that are installed, and how long it takes
    to find that out: without a model."""
    from sfr_batch.model.recipe import read_recipe
    from sfr_batch.model.sources.location import locate
    from sfr_batch.model.tokenization.tokenizer import Tokenizer

    size = ROWS
    tokenizer = Tokenizer.load(read_recipe(locate(settings, weights=False), settings))
    texts = all_docstrings()
    whole = range(0, len(texts) - size + 1, size) or [0]  # fewer documents make one small split
    splits = [tokenizer.encode(texts[start : start + size]) for start in whole]

    def work() -> tuple[int, int]:
        real = padded = 0
        for rows in splits:
            lengths = rows.lengths[batching.unique_rows(rows.lengths, rows.flat_ids)[0]]
            batches = batching.length_batches(
                lengths, CPU_BATCH_TOKENS if settings.device == "cpu" else LARGE_MODEL_TOKENS
            )
            real, padded = real + int(lengths.sum()), padded + batching.padded_tokens(lengths, batches)
        return real, padded

    name = f"batches of {len(splits)} splits of {size:,} rows"
    seconds, results = compare({name: work}, rounds)
    real, padded = results[name]
    tokens = sum(int(rows.lengths.sum()) for rows in splits)
    rate = tokens / statistics.median(seconds[name])
    return [Measurement(name, tokens, rate, 1 - real / padded, seconds=tuple(seconds[name]))]


def by_exact_length(encoder: Any, rows: TokenRows) -> FloatArray:
    """Vectors [n, d] of token ids that are batched with others of their very length alone: without any padding."""
    lengths, flat_ids = rows
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    vectors = np.empty((len(lengths), encoder.dim), np.float32)
    for length in np.unique(lengths)[::-1]:
        same = np.flatnonzero(lengths == length)
        at_once = max(1, encoder.max_batch_tokens // int(length))
        for batch in np.split(same, range(at_once, len(same), at_once)):
            ids = flat_ids[starts[batch][:, None] + np.arange(length)].reshape(-1)
            vectors[batch] = encoder.encode_tokens(lengths[batch], ids).vectors
    return vectors


def _check_same(ours: FloatArray, theirs: FloatArray, what: str) -> None:
    difference = float(np.abs(ours - theirs).max()) if ours.shape == theirs.shape else float("inf")
    if not difference <= SAME_VECTORS:
        raise RunFailed(f"{what} gives other vectors, by up to {difference:.2g}: what is not the same is not compared.")


# --- against the hardware


def against_hardware(
    shape: str,
    device: str,
    dtype: str,
    budget: int | None,
    tokens: int,
    rounds: int,
    say: Callable[[str], None],
    *,
    packed: bool = False,
    fused: bool = False,
) -> list[Measurement]:
    """A model of ``shape`` with random weights: tokens per second for a mix of lengths and for rows of one length.

    tokens: about so many of each kind of rows. packed, fused: as `run.batches: packed` and `run.fuse` have it.
    """
    encoder = random_encoder(shape, device, dtype, budget)
    encoder.pack(packed)
    if fused:
        encoder.fuse()
    rate = matrix_rate(device, dtype)
    say(f"{shape} in {dtype} on {device}: matrices at {rate / 1e12:.2f} TFLOP/s, {encoder.max_batch_tokens:,} tokens")
    rng = np.random.default_rng(0)
    mix = np.clip(rng.lognormal(5.0, 1.1, max(8, tokens // 270)), 4, _LONGEST).astype(np.int32)
    kinds = {"mix of lengths": mix}
    kinds |= {f"{length:,} tokens": np.full(max(2, tokens // length), length, np.int32) for length in (32, 512, 4096)}
    found = []
    for name, lengths in kinds.items():
        flat_ids = rng.integers(3, 32000, int(lengths.sum()), dtype=np.int32)
        few = lengths[: max(2, len(lengths) // 8)]
        encoder.encode_tokens(few, flat_ids[: int(few.sum())])  # warm
        encoder.encode_tokens(few[:1], flat_ids[: int(few[0])])
        seconds, results = compare({name: lambda a=lengths, b=flat_ids: encoder.encode_tokens(a, b)}, rounds)  # type: ignore[misc]
        per_second = int(lengths.sum()) / statistics.median(seconds[name])
        flops = sum(flops_of_row(shape, length) for length in lengths.tolist()) / int(lengths.sum())
        done = results[name]
        padding = 1 - done.tokens / done.padded_tokens
        used = per_second * flops / rate
        found.append(Measurement(name, int(lengths.sum()), per_second, padding, used, seconds=tuple(seconds[name])))
        say(f"{name}: {per_second:,.0f} tokens/s, {found[-1].utilization:.0%} of the matrix rate")
    return found


def random_encoder(shape: str, device: str, dtype: str, budget: int | None = None, vocabulary: int = 32000) -> Any:
    """An `Encoder` of one of SHAPES with random weights and no tokenizer: for token ids alone."""
    import torch
    import transformers

    from sfr_batch.encoder.attention import ATTENTION
    from sfr_batch.encoder.encoder import Encoder
    from sfr_batch.encoder.fp8 import quantize_linears
    from sfr_batch.encoder.loading import torch_dtype
    from sfr_batch.model.recipe import Recipe

    size = SHAPES[shape]
    config = transformers.MistralConfig(
        vocab_size=vocabulary,
        hidden_size=size["hidden_size"],
        intermediate_size=size["intermediate_size"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        num_key_value_heads=size["kv_heads"],
        max_position_embeddings=32768,
        sliding_window=None,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModel.from_config(config, attn_implementation=ATTENTION, dtype=torch_dtype(dtype))
    if dtype == "fp8":
        quantize_linears(model)
    recipe = Recipe("", "mistral", True, "last_token", _LONGEST, size["hidden_size"], {})
    return Encoder(model.eval(), None, recipe, max_batch_tokens=budget)  # type: ignore[arg-type]


def flops_of_row(shape: str, length: int) -> float:
    """Floating-point operations of a forward pass over a row of ``length`` tokens: two for each weight outside of the
    embeddings and token, and causal attention, in which a token meets half of the row on average."""
    return operations_of_rows(architecture(shape), [length], pooled_alone=False) or 0.0


def architecture(shape: str) -> dict[str, Any]:
    """What matters of the config.json of a model of this shape."""
    size = SHAPES[shape]
    return {
        "model_type": "mistral",
        "hidden_size": size["hidden_size"],
        "intermediate_size": size["intermediate_size"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": size["heads"],
        "num_key_value_heads": size["kv_heads"],
    }


def matrix_rate(device: str, dtype: str, sizes: Sequence[int] | None = None) -> float:
    """FLOP/s of the product of two large matrices; the best of several sizes and tries."""
    import torch

    from sfr_batch.encoder.fp8 import multiply, to_fp8
    from sfr_batch.encoder.loading import torch_dtype

    best = 0.0
    for size in sizes or ((1024, 2048) if device == "cpu" else (4096, 8192, 16384)):
        pair = [torch.randn(size, size, device=device, dtype=torch_dtype(dtype)) for _ in range(2)]
        quantized = [to_fp8(matrix) for matrix in pair] if dtype == "fp8" else []
        for _ in range(8):
            if device == "cuda":
                torch.cuda.synchronize()
            started = time.perf_counter()
            multiply(*quantized) if quantized else torch.mm(*pair)
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


# --- what is reused, and what determinism costs


def with_and_without_prefix(
    shape: str, device: str, dtype: str, queries: int, rounds: int, say: Callable[[str], None]
) -> list[Measurement]:
    """Queries of 25 tokens under an instruction of 20, 64 rows a batch; and each row by itself, as in deterministic
    mode. Raises RunFailed if the vectors differ in float32."""
    from sfr_batch.encoder.encoder import Encoder

    reusing = random_encoder(shape, device, dtype, 64 * 45)
    one = reusing._model, None, reusing.recipe  # a GPU has room for one model
    plain = Encoder(*one, max_batch_tokens=64 * 45)  # type: ignore[arg-type]
    single = Encoder(*one, max_batch_tokens=64 * 45, deterministic=True)  # type: ignore[arg-type]
    plain.reuse_prefix = False
    rng = np.random.default_rng(0)
    instruction = rng.integers(3, 32000, 20, dtype=np.int32)
    ids = [np.concatenate([instruction, rng.integers(3, 32000, 25, dtype=np.int32)]) for _ in range(queries)]
    lengths, flat_ids = np.full(queries, 45, np.int32), np.concatenate(ids)
    names = "each query whole", "instruction computed once", "deterministic, row by row"
    encoders = dict(zip(names, (plain, reusing, single), strict=True))
    for encoder in encoders.values():
        encoder.encode_tokens(lengths[:64], flat_ids[: 64 * 45])
    contenders = {name: lambda e=encoder: e.encode_tokens(lengths, flat_ids) for name, encoder in encoders.items()}
    seconds, results = compare(contenders, rounds)
    if dtype == "float32":
        for name in names[1:]:
            _check_same(results[names[0]].vectors, results[name].vectors, name)
    tokens = int(lengths.sum())
    found = []
    for name in names:
        rate, other = tokens / statistics.median(seconds[name]), "" if name == names[0] else names[0]
        compared = ratio(seconds, name, other) if other else None
        found.append(Measurement(name, tokens, rate, None, None, other, compared, tuple(seconds[name])))
        say(f"{name}: {rate:,.0f} tokens/s")
    return found


# --- for people and for files


def tables(found: Mapping[str, Sequence[Measurement]]) -> str:
    """A table for each group of lines, with those columns that it has."""
    columns: dict[str, Callable[[Measurement], str | None]] = {
        "tokens": lambda m: f"{m.tokens:,}",
        "tokens/s": lambda m: f"{m.tokens_per_second:,.0f}",
        "padding": lambda m: None if m.padding is None else f"{m.padding:.1%}",
        "of the matrix rate": lambda m: None if m.utilization is None else f"{m.utilization:.0%}",
        "1 - cosine": lambda m: None if m.loss is None else f"{m.loss:.1e}",
        "times as fast": lambda m: None if m.ratio is None else f"{m.ratio:.2f} x {m.compared_with}",
    }
    lines = []
    for title, group in found.items():
        used = {head: cell for head, cell in columns.items() if any(cell(m) is not None for m in group)}
        rows = [[m.what, *(cell(m) or "–" for cell in used.values())] for m in group]
        lines += [*aligned([title, *used], rows), ""]
    return "\n".join(lines).rstrip()


def to_json(found: Mapping[str, Sequence[Measurement]], where: dict[str, Any]) -> dict[str, Any]:
    """Everything that was measured, for a file."""
    return {"machine": where, "lines": {title: [asdict(line) for line in lines] for title, lines in found.items()}}


def history_line(found: Mapping[str, Sequence[Measurement]], where: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run: one line of JSON with the machine, the commit, and the rates and ratios."""
    kept = ("measured_at", "commit", "cpu", "gpu", "cores", "versions")
    rates = {
        title: {
            m.what: {
                "tokens_per_second": round(m.tokens_per_second),
                **({"padding": round(m.padding, 4)} if m.padding is not None else {}),
                **({"utilization": round(m.utilization, 3)} if m.utilization is not None else {}),
                **({"loss": float(f"{m.loss:.2g}")} if m.loss is not None else {}),
                **({"ratio": round(m.ratio, 3), "compared_with": m.compared_with} if m.ratio is not None else {}),
            }
            for m in group
        }
        for title, group in found.items()
    }
    return {key: where[key] for key in kept if where.get(key)} | {"lines": rates}


def draw(found: Mapping[str, Sequence[Measurement]], where: dict[str, Any], file: Path) -> None:
    """A bar chart for each group: tokens per second, every round a dot."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"font.size": 11, "axes.titlesize": 12, "axes.titleweight": "bold"}):
        heights = [0.9 + 0.5 * len(group) for group in found.values()]
        figure, axes = plt.subplots(
            len(found), 1, figsize=(11, sum(heights) + 0.5), height_ratios=heights, layout="constrained", squeeze=False
        )
        for axis, (title, group) in zip(axes[:, 0], found.items(), strict=True):
            labels = [m.what for m in group]
            axis.barh(labels, [m.tokens_per_second for m in group], color="#0072B2", height=0.62, zorder=2)
            for row, m in enumerate(group):
                rates = [m.tokens / seconds for seconds in m.seconds]
                axis.scatter(rates, [row] * len(rates), color="black", s=14, zorder=3, linewidths=0)
                share = f", {m.utilization:.0%} of the matrix rate" if m.utilization is not None else ""
                share += f", {m.ratio:.2f} x {m.compared_with}" if m.ratio is not None else ""
                text = f"{m.tokens_per_second:,.0f}{share}"
                place = max(m.tokens_per_second, *rates), row
                axis.annotate(text, place, xytext=(7, 0), textcoords="offset points", va="center", fontsize=10)
            axis.set_title(title, loc="left")
            axis.set_xlim(left=0, right=1.75 * max(m.tokens_per_second for m in group))
            axis.invert_yaxis()
            axis.grid(axis="x", color="#dddddd", zorder=0)
            axis.spines[["top", "right", "left"]].set_visible(False)
            axis.tick_params(left=False)
            axis.xaxis.set_major_formatter("{x:,.0f}")
        axes[-1, 0].set_xlabel(f"tokens per second on {where.get('gpu') or where['cpu']}; bars: medians, dots: rounds")
        figure.savefig(file, dpi=160, bbox_inches="tight", pad_inches=0.15)
        plt.close(figure)
