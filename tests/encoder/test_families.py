"""Families of architectures, tiny and random: each equals sentence-transformers, or is refused for the right reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from numpy.typing import NDArray

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import ModelError
from tests.encoder.family_models import MODELS, write_family
from tests.repositories import corpus

TEXTS = [
    "How to bake a chocolate cake",
    "",
    "a </s> b <s> c <pad><pad> <mask> d",
    "日本語 e\u0301 🙂",
    corpus()[3][:90],
    corpus()[9][:700],
]


def ours(folder: Path, texts: list[str] = TEXTS, **options: Any) -> tuple[NDArray[np.float32], Encoder]:
    encoder = Encoder.load(ModelSettings(path=str(folder), device="cpu"), torch_threads=1, **options)
    return encoder.encode(texts), encoder


def theirs(folder: Path, texts: list[str] = TEXTS, batch_size: int = 32) -> NDArray[np.float32]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})
    # Some classes rebuild their tokenizer, which is not compared here.
    model.tokenizer._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    vectors: NDArray[np.float32] = model.encode(texts, normalize_embeddings=True, batch_size=batch_size)
    return vectors


def distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("model_type", MODELS["tested family"])
def test_a_tested_family_equals_sentence_transformers(tmp_path: Path, model_type: str) -> None:
    folder = write_family(tmp_path, model_type, MODELS["tested family"][model_type])
    vectors, encoder = ours(folder)
    assert encoder.family_state == "tested family"
    assert distance(vectors, theirs(folder)) < 1e-5
    assert np.abs(vectors @ vectors.T)[np.triu_indices(len(TEXTS), 1)].max() < 0.999, "texts differ"


@pytest.mark.parametrize("model_type", MODELS["equal by probe"])
def test_another_family_equals_it_after_its_probe(tmp_path: Path, model_type: str) -> None:
    folder = write_family(tmp_path, model_type, MODELS["equal by probe"][model_type])
    vectors, encoder = ours(folder)
    assert encoder.family_state == "equal by probe"
    assert distance(vectors, theirs(folder)) < 1e-5


@pytest.mark.parametrize("model_type", MODELS["refused"])
def test_a_family_is_refused(tmp_path: Path, model_type: str) -> None:
    folder = write_family(tmp_path, model_type, MODELS["refused"][model_type])
    with pytest.raises(ModelError) as refused:
        ours(folder)
    assert "depend on the rows beside them" in str(refused.value) or "is not supported" in str(refused.value)
