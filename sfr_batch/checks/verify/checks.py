"""The checks, each a function from a `Subject` to an `Outcome`. Earlier checks find what later ones need.

An outcome names what was measured and its limit. If a check raises an error of this package, it has failed (see
`preflight.verify`), so that what the loading code refuses needs no second rule here.
"""

import re
import time
from pathlib import Path
from typing import Literal

import numpy as np

from sfr_batch.checks.report import Outcome, failed, judged, passed, skipped
from sfr_batch.checks.verify import known
from sfr_batch.checks.verify.golden import Golden, GoldenText
from sfr_batch.checks.verify.subject import PROBES, FloatArray, Subject, ids_of, rows_of
from sfr_batch.encoder import devices, probe, segments
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.encoder.libraries import load_libraries
from sfr_batch.encoder.loading import check_gpu
from sfr_batch.encoder.threads import threads_of_a_run
from sfr_batch.format.fingerprint import digest
from sfr_batch.model.identity import SAME_MODEL
from sfr_batch.model.prompts import DOCUMENT, QUERY, instruct, resolve
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.repository.folder import weight_files
from sfr_batch.model.sources import checksums, lock_file, room
from sfr_batch.model.sources.location import is_local, is_packaged, locate
from sfr_batch.model.sources.weight_hashes import lock_place, published_hashes
from sfr_batch.model.tokenization.tokenizer import Tokenized, Tokenizer
from sfr_batch.storage.locations import is_s3

AGAINST_FLOAT32 = {"float16": 5e-4, "bfloat16": 1e-2, "fp8": 5e-2}
"""1 - cosine of a compute dtype against float32: all its rounding, not only what differs between two orders of it.

Measured with MiniLM on a CPU over 1,379 short sentences: 1.3e-4 in bfloat16, 9.5e-3 in fp8.
"""
CARD_POINTS = {"float32": 0.05, "float16": 0.2, "bfloat16": 0.5, "fp8": 1.0}
"""What a score of the model card, a cosine times 100 computed in float32, may be off by, by compute dtype.

The error of a score is the part of two rounding errors that lies along the other vector: 1 - cosine of 0.001 is an
error of 0.045 in 4096 directions, in one of them 0.0007, or 0.07 points; 0.5 leaves room for errors that are not quite
random. A missing EOS or instruction moves scores by whole points.
"""
CHANGED = 0.005
"""Smallest 1 - cosine by which an instruction must change a query, which proves that it reached the model."""
UNIT = 1e-5
"""Largest difference of a vector's length from 1."""

_INSTRUCTION = re.compile(r"Instruct: (\S|\S.*\S)\nQuery: ")
_SFR = "sfr-embedding-mistral"
_SFR_DIMS = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "vocab_size": 32000}


def distance(a: FloatArray, b: FloatArray) -> float:
    """The largest 1 - cosine between rows with the same number; NaN if a vector is not finite."""
    return float(np.max(1 - _cosines(a, b)))


def _cosines(a: FloatArray, b: FloatArray) -> FloatArray:
    a, b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines: FloatArray = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosines


# ------------------------------------------------------------------------------------------------ what is loaded


def check_weights(subject: Subject) -> Outcome:
    """Compares the SHA-256 of the weights with the lock file, or with the hub, if the device has room for them."""
    settings = subject.settings
    check_gpu(settings)
    folder = subject.found["folder"] = locate(settings, weights=True)
    files = weight_files(folder)
    hashes = subject.found["hashes"] = checksums.hash_again(files, folder)
    size = room.gib(sum(file.stat().st_size for file in files))
    shown = ", ".join(f"{name} {sha256[:12]}…" for name, sha256 in hashes.items())
    told = published_hashes(settings, folder)
    if told is None:
        who = "no lock file" if is_local(settings.path) or settings.path.startswith("s3:") else "no hashes from the hub"
        return passed(f"SHA-256 of {size} ({shown}); {who} to compare with")
    expected, place = told
    for name in sorted({*hashes, *expected}):
        if hashes.get(name) != expected.get(name):
            return failed(
                f"{folder / name} is damaged or a different file: SHA-256 {hashes.get(name)}, but {place} says "
                f"{expected.get(name)}. Fetch it again, or recreate the lock file if the model was replaced on purpose"
            )
    return passed(f"SHA-256 of {size} ({shown}) matches {place}")


def check_recipe(subject: Subject) -> Outcome:
    """Reads pooling, length and normalization from the model folder and the settings, which must agree."""
    recipe = subject.found["recipe"] = read_recipe(subject.folder, subject.settings)
    sight = "causal" if recipe.causal else "bidirectional"
    layers = "".join(f", then {layer}" for layer in recipe.layers)
    cut = "" if recipe.dimensions is None else ", the first of a longer vector"
    return passed(
        f"{recipe.model_type}, {sight}, pooling {recipe.pooling}{layers}, at most {recipe.max_length} tokens, "
        f"{recipe.dim} dims{cut}, normalized in float32"
    )


def check_tokenizer(subject: Subject) -> Outcome:
    """BOS and EOS of probe texts, truncated ones too; for the Mistral family known ids as well."""
    recipe = subject.recipe
    tokenizer = Tokenizer.load(recipe, special_tokens_in_text=subject.settings.special_tokens_in_text)
    subject.found["tokenizer"] = tokenizer
    first, last = tokenizer.prefix, tokenizer.suffix
    if _is_mistral_embedder(subject) and not (first and last):
        return failed(
            f"{recipe.folder} puts {first or 'nothing'} before a text and {last or 'nothing'} after it, but models of "
            "this family read the vector at the EOS token: set add_bos_token and add_eos_token to true in "
            "tokenizer_config.json"
        )
    cut = min(8, recipe.max_length)
    probed = [*ids_of(tokenizer.encode(PROBES)), *ids_of(tokenizer.encode(PROBES, max_length=cut))]
    for ids in (row.tolist() for row in probed):
        if ids[: len(first)] != first or ids[len(ids) - len(last) :] != last:
            return failed(f"{ids[:6]} … {ids[-6:]} of a probe text does not begin with {first} and end with {last}")
    around = f"{first} … {last} around {len(probed)} probe texts, {len(PROBES)} of them cut to {cut} tokens"
    if recipe.model_type != "mistral" or subject.architecture.get("vocab_size") != known.MISTRAL_VOCABULARY:
        return passed(around)
    known_ids = {text: ids for text, ids in known.MISTRAL_IDS.items() if len(ids) <= recipe.max_length}
    for (text, right), ids in zip(known_ids.items(), ids_of(tokenizer.encode(list(known_ids))), strict=True):
        if ids.tolist() != right:
            return failed(f"{text[:40]!r} gives {ids.tolist()}, but the tokenizer of Mistral-7B-v0.1 gives {right}")
    return passed(f"{around}; {len(known_ids)} texts have the same ids as with the tokenizer of Mistral-7B-v0.1")


def check_model(subject: Subject) -> Outcome:
    """Loads the encoder as an actor of a run does."""
    _ = subject.tokenizer  # a model whose tokenizer is refused is not loaded
    began = time.perf_counter()
    encoder = Encoder.load(
        subject.settings,
        max_batch_tokens=subject.config.max_batch_tokens,
        torch_threads=_threads(subject, subject.settings.device),
        packed=subject.config.packed,
        fuse=subject.config.fused,
    )
    subject.found |= {"encoder": encoder, "budget": encoder.max_batch_tokens}
    dtype, device = subject.settings.compute_dtype, subject.settings.device
    count, took = probe.parameters(encoder), time.perf_counter() - began
    subject.found["load_seconds"] = load_libraries() + took  # as an actor does
    remarks = "".join(f"; {remark}" for remark in (segments.let_grow(device), encoder.remark) if remark)
    return passed(f"{count:,} parameters in {dtype} on {device}, loaded in {took:.1f} s{remarks}")


def _threads(subject: Subject, device: str) -> int | None:
    """Those of a run on the device that the config names, else its default."""
    wanted = subject.config.run.actors.torch_threads if device == subject.settings.device else None
    return threads_of_a_run(wanted, device, own_process=False)


# ------------------------------------------------------------------------------------------------ what it computes


def check_vectors(subject: Subject) -> Outcome:
    """Vectors are finite and of unit length."""
    vectors = subject.alone
    off = float(np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max())
    if not np.isfinite(vectors).all():
        bad = int((~np.isfinite(vectors).all(axis=1)).sum())
        return failed(
            f"{bad} of {len(vectors)} vectors are not finite: the weights are damaged, or model.dtype is too small"
        )
    return judged(
        off <= UNIT, f"{len(vectors)} vectors are finite, lengths differ from 1 by at most {off:.1e} (limit {UNIT:g})"
    )


def check_instruction(subject: Subject) -> Outcome:
    """The query prompt, as the family needs it, reaches the model; documents get what the recipe says, here nothing."""
    query, document = (resolve(subject.recipe.prompts, side) for side in (QUERY, DOCUMENT))
    if _is_mistral_embedder(subject):
        form = "'Instruct: {task}\\nQuery: '"
        if not _INSTRUCTION.fullmatch(query):
            return failed(
                f"model.prompts.query is {query!r}, but models of this family need {form}: one space after each colon, "
                "nothing else around the task"
            )
        if document:
            return failed(
                f"model.prompts.document is {document!r}, but documents of this family get no prompt: set it to ''"
            )
    elif not query and not document:
        return skipped("the recipe has no prompts")
    moved = {}
    for side, prompt in ((QUERY, query), (DOCUMENT, document)):
        bare, full = (subject.encoder.encode(known.QUERIES, prompt=name) for name in (None, side))
        moved[side] = max(0.0, float(np.min(1 - _cosines(bare, full))))
        least = f"at least {CHANGED:g}" if prompt else "0"
        if not (moved[side] >= CHANGED if prompt else np.array_equal(bare, full)):
            return failed(
                f"the {side} prompt {prompt!r} changes vectors by 1 - cosine {moved[side]:.1e} instead of {least}"
            )
    shown = " and ".join(
        f"the {side} prompt {prompt!r} changes vectors by {moved[side]:.3f} (at least {CHANGED:g})"
        if prompt
        else f"no {side} prompt"
        for side, prompt in ((QUERY, query), (DOCUMENT, document))
    )
    return passed(f"1 - cosine: {shown}")


def check_scores(subject: Subject) -> Outcome:
    """The 2x2 scores that the card of SFR-Embedding-Mistral prints."""
    if not _is_sfr(subject):
        return skipped("no published scores for this model; record a golden file instead (--record)")
    return card_scores(subject)


def card_scores(subject: Subject) -> Outcome:
    """The scores of this model beside those of the card of SFR-Embedding-Mistral, whatever model it is."""
    texts = [*(instruct(known.TASK) + query for query in known.QUERIES), *known.PASSAGES]
    tokenized = subject.tokenizer.encode(texts)
    if tokenized.truncated.any():
        return skipped(f"model.max_length {subject.recipe.max_length} truncates the texts of the model card")
    vectors = subject.encoder.encode_tokens(tokenized.lengths, tokenized.flat_ids).vectors
    return compare_scores(vectors[:2], vectors[2:], CARD_POINTS[subject.settings.compute_dtype])


def compare_scores(queries: FloatArray, passages: FloatArray, points: float) -> Outcome:
    """Scores of two queries [2, d] and two passages [2, d], unit vectors, against those of the card."""
    scores = queries.astype(np.float64) @ passages.astype(np.float64).T * 100
    off = float(np.abs(scores - known.SCORES).max())
    here, card = (" ".join(f"{score:.2f}" for score in np.ravel(s)) for s in (scores, known.SCORES))
    return judged(
        off <= points, f"{here} here, {card} on the model card: largest difference {off:.2f} (limit {points:g})"
    )


def compare_golden(subject: Subject, golden: Golden) -> Outcome:
    """The recorded texts encoded here: the same model and recipe, the same ids, and vectors within the tolerance."""
    texts = golden.texts
    problems = golden.differences(subject.fingerprint_inputs)
    ids, vectors = _encode_sides(subject, [(text.side, text.text) for text in texts])
    other = [number for number, text in enumerate(texts) if ids[number] != text.ids]
    if other:
        text = texts[other[0]]
        problems.append(
            f"{len(other)} of {len(texts)} texts have different ids, first the {text.side} {text.text[:30]!r}: "
            f"{_ends(ids[other[0]])} here, {_ends(text.ids)} recorded"
        )
    then, now = str(golden.inputs.get("compute_dtype")), subject.settings.compute_dtype
    bound = SAME_MODEL[now] if then == now else max(AGAINST_FLOAT32.get(dtype, 0.0) for dtype in (then, now))
    recorded = golden.vectors()
    if recorded.shape == vectors.shape:
        away = distance(vectors, recorded)
        measured = f"1 - cosine at most {away:.1e} (limit {bound:g}) to {len(texts)} vectors"
        if not away <= bound:
            problems.append(f"vectors differ: {measured}")
    if problems:
        return failed("; ".join(problems))
    return passed(f"{measured} recorded in {then}; all ids are equal")


def record(subject: Subject) -> Golden:
    """What `compare_golden` compares with, of the model that is here."""
    sides: list[tuple[Literal["query", "document"], str]] = [
        *(("query", text) for text in known.QUERIES),
        *(("document", text) for text in PROBES),
    ]
    ids, vectors = _encode_sides(subject, sides)
    inputs = subject.fingerprint_inputs
    return Golden(
        model=subject.settings.path,
        fingerprint=digest(inputs),
        inputs=inputs,
        texts=[
            GoldenText(side=side, text=text, ids=ids[number], vector=vectors[number].tolist())
            for number, (side, text) in enumerate(sides)
        ],
    )


def check_drift(subject: Subject) -> Outcome:
    """The probes alone against the same ones in batches of different compositions."""
    compositions = {
        "the configured batches": (subject.budget_of_a_run, subject.rows),
        "one padded batch": (1 << 20, subject.rows),
        "small batches": (64, subject.rows),
        "batches with other texts": (1 << 20, subject.rows[::2]),
    }
    found = {}
    for name, (budget, rows) in compositions.items():
        with subject.budget(budget):
            together = subject.encoder.encode_tokens(*rows_of(subject.probes, list(rows))).vectors
        found[name] = distance(together, subject.alone[list(rows)])
    worst = max(found, key=lambda name: found[name] if np.isfinite(found[name]) else np.inf)
    return _within(found[worst], subject, f"alone against {len(found)} kinds of batches, largest difference in {worst}")


def check_padding(subject: Subject) -> Outcome:
    """Rows padded on the left and on the right under a mask, by the encoder's own pooling, against unpadded ones."""
    rows = rows_of(subject.probes, list(subject.rows))
    left, right = (probe.padded(subject.encoder, *rows, side) for side in ("left", "right"))
    found = {"left": distance(left, subject.alone), "right": distance(right, subject.alone)}
    worst = max(found.values()) if np.isfinite(list(found.values())).all() else float("nan")
    both = ", ".join(f"{side} {away:.1e}" for side, away in found.items())
    return _within(worst, subject, f"padded against unpadded rows, {both}")


def check_float32(subject: Subject) -> Outcome:
    """The compute dtype against float32, on the same device if that has room, else on the CPU."""
    settings = subject.settings
    if settings.compute_dtype == "float32":
        return skipped("the compute dtype is already float32")
    needed = 4 * probe.parameters(subject.encoder)
    places: list[Literal["cuda", "cpu"]] = [settings.device, "cpu"]
    device = next((place for place in places if 1.2 * needed <= devices.free_memory(place)), None)
    if device is None:
        return skipped(f"float32 needs {room.gib(needed)}, more than is free on {' or '.join(dict.fromkeys(places))}")
    float32 = settings.model_copy(update={"dtype": "float32", "device": device})
    reference = Encoder.load(float32, torch_threads=_threads(subject, device))
    expected = reference.encode_tokens(subject.probes.lengths, subject.probes.flat_ids).vectors
    del reference
    devices.release_memory()
    away, bound = distance(subject.alone, expected), AGAINST_FLOAT32[settings.compute_dtype]
    return judged(
        away <= bound,
        f"{settings.compute_dtype} against float32 on {device}: cosine at least {1 - away:.5f} (limit {1 - bound:g})",
    )


# ------------------------------------------------------------------------------------------------------ the lock file


def write_lock(subject: Subject, ok: bool) -> Outcome:
    """Pin the model by a lock file beside its weights, where it has none and may have one."""
    if not ok:
        return skipped("not written, because a check failed")
    settings, place = subject.settings, lock_place(subject.settings, subject.folder)
    told = published_hashes(settings, subject.folder)
    if told is not None and told[1] == place:
        return skipped(f"already exists: {place}")
    if not is_local(settings.path) and not is_s3(settings.path):
        return skipped("not written for a model on the hub, which records the hashes itself")
    if not is_local(settings.path):
        return skipped(f"written only beside local models; verify a local copy and upload its lock file to {place}")
    if is_packaged(settings.path):
        return skipped(f"not written into an installed package; it would be {place}")
    try:
        lock_file.write_lock([Path(subject.folder) / name for name in subject.hashes], Path(subject.folder))
    except OSError as error:
        return skipped(f"{place} cannot be written: {error.strerror}")
    return passed(f"written: {place}")


def _within(away: float, subject: Subject, what: str) -> Outcome:
    bound = SAME_MODEL[subject.settings.compute_dtype]
    return judged(away <= bound, f"{what}: 1 - cosine at most {away:.1e} (limit {bound:g})")


def _is_mistral_embedder(subject: Subject) -> bool:
    """E5-mistral and all that were trained on it: SFR-Embedding-Mistral, SFR-Embedding-2, Linq-Embed-Mistral."""
    return subject.recipe.model_type == "mistral" and subject.recipe.pooling == "last_token"


def _is_sfr(subject: Subject) -> bool:
    """By its name on the hub; a copy by the dimensions and a name that its path or its config.json still has."""
    if subject.settings.path.lower() == f"salesforce/{_SFR}":
        return True
    names = (subject.settings.path, str(subject.architecture.get("_name_or_path")))
    fits = all(subject.architecture.get(key) == value for key, value in _SFR_DIMS.items())
    return fits and any(_SFR in name.lower() for name in names)


def _encode_sides(
    subject: Subject, sides: list[tuple[Literal["query", "document"], str]]
) -> tuple[list[list[int]], FloatArray]:
    """Ids and vectors [n, d] of (side, text), each under its side's prompt."""
    ids: list[list[int]] = [[] for _ in sides]
    vectors = np.empty((len(sides), subject.recipe.dim), np.float32)
    for side in (QUERY, DOCUMENT):
        numbers = [number for number, (own, _) in enumerate(sides) if own == side]
        if not numbers:
            continue
        tokenized: Tokenized = subject.tokenizer.encode(
            [sides[number][1] for number in numbers], resolve(subject.recipe.prompts, side)
        )
        vectors[numbers] = subject.encoder.encode_tokens(tokenized.lengths, tokenized.flat_ids).vectors
        for number, row in zip(numbers, ids_of(tokenized), strict=True):
            ids[number] = row.tolist()
    return ids, vectors


def _ends(ids: list[int]) -> str:
    return str(ids) if len(ids) <= 8 else f"[{', '.join(map(str, ids[:4]))}, …, {', '.join(map(str, ids[-2:]))}]"
