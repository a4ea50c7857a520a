"""The check of `verify` against sentence-transformers: equal models pass, and any other ids or vectors fail by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import normalizers

from sfr_batch.checks.report import Outcome, Verdict
from sfr_batch.checks.verify import checks, reference
from sfr_batch.checks.verify.subject import Subject
from sfr_batch.config.loading import config_from_dict
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.model.tokenization.tokenizer import Tokenizer
from tests.models import build_tiny_mistral, minilm_folder


def subject_of(folder: Path, **settings: Any) -> Subject:
    """A loaded model, as the checks find it."""
    model = {"path": str(folder), "device": "cpu", **settings}
    raw = {"corpus": {"path": "/none"}, "table": {"path": "/none"}, "run": {"actors": {"gpus": 0}}}
    subject = Subject(config_from_dict(raw | {"model": model}))
    encoder = Encoder.load(subject.settings, torch_threads=1)
    subject.found = {"folder": folder, "recipe": encoder.recipe, "tokenizer": encoder.tokenizer, "encoder": encoder}
    return subject


def check(subject: Subject) -> Outcome:
    return reference.check_sentence_transformers(subject, checks.AGAINST_FLOAT32)


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_mistral(tmp_path_factory.mktemp("mistral"))


@pytest.fixture(scope="module")
def minilm() -> Subject:
    return subject_of(minilm_folder(), prompts={"query": "query: "})


def test_real_weights_are_equal(minilm: Subject) -> None:
    outcome = check(minilm)
    assert outcome.verdict == "PASS"
    assert "texts: equal ids, largest difference of vectors (component) " in outcome.measured


def test_an_eos_that_transformers_leaves_out_is_a_note(mistral: Path) -> None:
    """The folder has the shape of SFR-Embedding-Mistral: EOS by a flag, tokenizer.json without it."""
    outcome = check(subject_of(mistral))
    assert outcome.verdict == "PASS", outcome.measured
    assert "ids differ by the BOS or EOS of tokenizer_config.json" in outcome.measured


def test_special_tokens_that_are_read_as_text_are_a_note() -> None:
    outcome = check(subject_of(minilm_folder(), special_tokens_in_text="plain"))
    assert outcome.verdict == "PASS", outcome.measured
    assert "ids differ by model.special_tokens_in_text" in outcome.measured


def test_other_ids_fail_with_the_first_that_differs(minilm: Subject) -> None:
    subject = Subject(minilm.config)
    subject.found = dict(minilm.found)
    tokenizer = Tokenizer.load(minilm.recipe)
    tokenizer._backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    subject.found["tokenizer"] = tokenizer
    outcome = check(subject)
    assert outcome.verdict == "FAIL"
    assert 'texts have other token ids than with sentence-transformers, first "To bake a deli' in outcome.measured
    assert " at token 1: [101, 100, " in outcome.measured


def test_another_pooling_fails_by_its_vectors(minilm: Subject) -> None:
    subject = Subject(minilm.config)
    recipe = replace(minilm.recipe, pooling="cls")
    encoder = Encoder(minilm.encoder._model, minilm.tokenizer, recipe)
    subject.found = minilm.found | {"encoder": encoder}
    outcome = check(subject)
    assert outcome.verdict == "FAIL"
    assert "equal ids, largest difference of vectors" in outcome.measured


def test_without_sentence_transformers_it_is_skipped(minilm: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "is_installed", lambda: False)
    outcome = check(minilm)
    assert outcome.verdict == "SKIP"
    assert "pip install 'sfr-batch[benchmark]'" in outcome.measured


@pytest.mark.parametrize(
    ("model_type", "compared", "verdict", "state"),
    [
        ("bert", "SKIP", "PASS", "tested: models of the type bert are compared with sentence-transformers in a test"),
        ("other", "PASS", "PASS", "equal by probe: no test has models of the type other, but this one is equal"),
        ("other", "FAIL", "FAIL", "no test has models of the type other, and this one differs"),
        ("other", "SKIP", "SKIP", "unknown: no test has models of the type other, and this one was not compared"),
    ],
)
def test_in_which_state_a_model_is(
    minilm: Subject, model_type: str, compared: Verdict, verdict: Verdict, state: str
) -> None:
    subject = Subject(minilm.config)
    subject.found = minilm.found | {"recipe": replace(minilm.recipe, model_type=model_type)}
    outcome = reference.check_family(subject, compared)
    assert (outcome.verdict, outcome.measured[: len(state)]) == (verdict, state)


def test_a_refused_model_has_no_other_state(minilm: Subject) -> None:
    subject = Subject(minilm.config)
    assert reference.check_family(subject, "SKIP") == Outcome("SKIP", "refused: see the check that failed")
