"""The check against sentence-transformers: the same texts must have the same token ids and the same vectors.

It is made where sentence-transformers is installed, for any model. Token ids are compared first, because a difference
in them explains all others. `DEPARTURES` are the only differences in ids that are allowed; the vectors are then
compared for our ids.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from sfr_batch.checks.report import Outcome, Verdict, failed, passed, skipped
from sfr_batch.checks.verify import known
from sfr_batch.checks.verify.subject import PROBES, FloatArray, Subject, ids_of
from sfr_batch.encoder import devices, probe
from sfr_batch.encoder.reference import Reference, is_installed
from sfr_batch.model.prompts import DOCUMENT, QUERY, resolve
from sfr_batch.model.repository.families import TESTED
from sfr_batch.model.sources import room
from sfr_batch.model.tokenization.files import read_files

EQUAL = 1e-5
"""Largest difference of a vector's component from that of sentence-transformers, both in float32."""

TEXTS: Mapping[str, tuple[str, ...]] = {
    DOCUMENT: (*PROBES, " leading", "trailing \n", "\ttwo  spaces", "Ünïcödé Straße ΑΒΓ", "a </s> b [SEP] c <pad>"),
    QUERY: known.QUERIES,
}
"""Texts of each side, under that side's prompt."""


def check_sentence_transformers(subject: Subject, bounds: Mapping[str, float]) -> Outcome:
    """Ids and vectors of probe texts against those of sentence-transformers.

    bounds: largest 1 - cosine to float32 by compute dtype; float32 itself must be `EQUAL`.
    """
    encoder, tokenizer, settings = subject.encoder, subject.tokenizer, subject.settings
    if not is_installed():
        return skipped("sentence-transformers is not installed here: pip install 'sfr-batch[benchmark]'")
    needed = 4 * probe.parameters(encoder)
    device = next((place for place in dict.fromkeys((settings.device, "cpu")) if _has_room(needed, place)), None)
    if device is None:
        return skipped(f"a second model in float32 needs {room.gib(needed)}, more than is free")
    try:
        reference = Reference(subject.recipe, device)
    except Exception as error:  # it and transformers have no common base
        return skipped(f"sentence-transformers cannot load {subject.folder} ({type(error).__name__}: {error})")
    worst, departures = 0.0, set()
    for side, texts in TEXTS.items():
        prompt = resolve(subject.recipe.prompts, side)
        tokenized = tokenizer.encode(texts, prompt)
        ours = [ids.tolist() for ids in ids_of(tokenized)]
        theirs = reference.ids(texts, prompt)
        if ours != theirs:
            why = next((reason for reason, holds in DEPARTURES.items() if holds(subject, ours, theirs)), None)
            if why is None:
                return failed(_first_difference(texts, ours, theirs))
            departures.add(why)
        vectors = encoder.encode_tokens(tokenized.lengths, tokenized.flat_ids).vectors
        expected = reference.vectors(texts, prompt) if ours == theirs else reference.vectors_of_ids(ours)
        worst = max(worst, _away(vectors, expected, settings.compute_dtype))
    del reference
    devices.release_memory()
    kind, bound = "component", EQUAL
    if settings.compute_dtype != "float32":
        kind, bound = "1 - cosine", bounds[settings.compute_dtype]
    count = sum(map(len, TEXTS.values()))
    ids = "; ".join(sorted(departures)) or "equal ids"
    measured = f"{count} texts: {ids}, largest difference of vectors ({kind}) {worst:.1e} (limit {bound:g})"
    return passed(measured) if worst <= bound else failed(measured)


def check_family(subject: Subject, compared: Verdict) -> Outcome:
    """In which of three states the model is: of a tested family, equal by probe, or refused.

    compared: the verdict of `check_sentence_transformers`.
    """
    if "recipe" not in subject.found or "encoder" not in subject.found:
        return skipped("refused: see the check that failed")
    model_type = subject.recipe.model_type
    if model_type in TESTED:
        return passed(f"tested: models of the type {model_type} are compared with sentence-transformers in a test")
    name = f"no test has models of the type {model_type}"
    if compared == "PASS":
        return passed(f"equal by probe: {name}, but this one is equal to sentence-transformers (reference)")
    if compared == "FAIL":
        return failed(f"{name}, and this one differs from sentence-transformers (reference)")
    return skipped(f"unknown: {name}, and this one was not compared with sentence-transformers (reference)")


def _has_room(needed: int, device: str) -> bool:
    return 1.2 * needed <= devices.free_memory(device)


def _away(ours: FloatArray, theirs: FloatArray, dtype: str) -> float:
    """The largest difference of a component in float32, else the largest 1 - cosine; infinite where not finite."""
    if ours.shape != theirs.shape:
        return float("inf")
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    away = np.abs(a - b).max() if dtype == "float32" else (1 - (a * b).sum(axis=1)).max()
    return float(away) if np.isfinite(away) else float("inf")


def _first_difference(texts: Sequence[str], ours: list[list[int]], theirs: list[list[int]]) -> str:
    row = next(row for row, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
    a, b = ours[row], theirs[row]
    place = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    around = slice(max(0, place - 2), place + 3)
    other = sum(x != y for x, y in zip(ours, theirs, strict=True))
    return (
        f"{other} of {len(texts)} texts have other token ids than with sentence-transformers, first "
        f"{texts[row][:40]!r} at token {place}: {a[around]} here, {b[around]} there. Compare the tokenizer files with "
        "those of the model's own repository"
    )


def _flags(subject: Subject, ours: list[list[int]], theirs: list[list[int]]) -> bool:
    """Whether rows differ only by a BOS or EOS, and the class is one whose flags are obeyed on purpose."""
    if read_files(subject.folder, subject.recipe.model_type).special_token_flags() == (None, None):
        return False
    first, last = subject.tokenizer.prefix, subject.tokenizer.suffix
    return all(
        any(
            b == [*before, *a[len(first) : len(a) - len(last)], *after]
            for before in (first, [])
            for after in (last, [])
        )
        for a, b in zip(ours, theirs, strict=True)
    )


def _plain(subject: Subject, ours: list[list[int]], theirs: list[list[int]]) -> bool:
    """Whether rows differ only because special tokens in texts are read as plain text."""
    return subject.settings.special_tokens_in_text == "plain"


Departure = Callable[[Subject, list[list[int]], list[list[int]]], bool]
DEPARTURES: Mapping[str, Departure] = {
    "ids differ by the BOS or EOS of tokenizer_config.json, which transformers 5 leaves out": _flags,
    "ids differ by model.special_tokens_in_text": _plain,
}
"""Documented differences in ids, with the test for each."""
