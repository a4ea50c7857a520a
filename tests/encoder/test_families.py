"""Families of architectures, tiny and random: each equals sentence-transformers, or is refused for the right reason."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import ModelError
from sfr_batch.model.repository.families import FAMILIES, TESTED, UNSUPPORTED
from tests.encoder.family_models import MODELS, write_family
from tests.models import edit_json
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
    vectors: NDArray[np.float32] = model.encode(texts, normalize_embeddings=True, batch_size=batch_size)
    return vectors


def distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max())


@pytest.mark.parametrize("model_type", MODELS["tested family"])
def test_a_tested_family_equals_sentence_transformers(tmp_path: Path, model_type: str) -> None:
    folder = write_family(tmp_path, model_type, MODELS["tested family"][model_type])
    vectors, _ = ours(folder)
    assert model_type in TESTED
    assert distance(vectors, theirs(folder)) < 1e-5
    assert np.abs(vectors @ vectors.T)[np.triu_indices(len(TEXTS), 1)].max() < 0.999, "texts differ"


@pytest.mark.parametrize("model_type", [name for name, family in FAMILIES.items() if family.turnable])
def test_a_decoder_whose_config_turns_it_bidirectional(tmp_path: Path, model_type: str) -> None:
    """transformers' own class is the reference, with attention that needs no kernel, one row at a time."""
    folder = write_family(tmp_path, model_type, MODELS["tested family"][model_type])
    before, encoder = ours(folder, TEXTS[:3])
    edit_json(folder / "config.json", is_causal=False)
    vectors, encoder = ours(folder, TEXTS[:3])
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    for text, vector in zip(TEXTS[:3], vectors, strict=True):
        ids = torch.from_numpy(encoder.tokenizer.encode([text]).flat_ids.astype(np.int64)).unsqueeze(0)
        with torch.inference_mode():
            state = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(dim=1)
        assert np.abs(torch.nn.functional.normalize(state, dim=1)[0].numpy() - vector).max() < 1e-5
    assert distance(before, vectors) > 0.01, "it turned"


def test_the_length_that_sentence_transformers_writes_for_opt(tmp_path: Path) -> None:
    """hidden_size, although the states are projected to word_embed_proj_dim."""
    folder = write_family(tmp_path, "opt", MODELS["tested family"]["opt"])
    edit_json(folder / "1_Pooling" / "config.json", word_embedding_dimension=32)
    vectors, encoder = ours(folder)
    assert (encoder.dim, vectors.shape[1]) == (16, 16)
    assert distance(vectors, theirs(folder)) < 1e-5


def test_gemma_3_with_attention_in_both_directions(tmp_path: Path) -> None:
    """As EmbeddingGemma, with a sliding window that is shorter than the rows."""
    config = {**MODELS["tested family"]["gemma3_text"], "use_bidirectional_attention": True}
    folder = write_family(tmp_path, "gemma3_text", config)
    vectors, encoder = ours(folder)
    assert not encoder.recipe.causal
    assert distance(vectors, theirs(folder)) < 1e-5


@pytest.mark.parametrize("model_type", MODELS["equal by probe"])
def test_another_family_equals_it_after_its_probe(tmp_path: Path, model_type: str) -> None:
    folder = write_family(tmp_path, model_type, MODELS["equal by probe"][model_type])
    vectors, _ = ours(folder)
    assert model_type not in TESTED
    assert distance(vectors, theirs(folder)) < 1e-5


@pytest.mark.parametrize("model_type", MODELS["refused"])
def test_a_family_is_refused(tmp_path: Path, model_type: str) -> None:
    folder = write_family(tmp_path, model_type, MODELS["refused"][model_type])
    with pytest.raises(ModelError) as refused:
        ours(folder)
    words = ("depend on the rows beside them", "with encoder and decoder", "does not turn plain rows of token ids")
    assert any(text in str(refused.value) for text in words)


# ---------------------------------------------------------------------------------------------------- the README


def table() -> str:
    """The table of families, as the README of `sfr_batch.model` shows it."""
    reasons = {**UNSUPPORTED, **OTHER_REASONS}
    refused = "; ".join(f"`{name}`: {reasons[name]}" for name in sorted(reasons))
    rows = [
        ("tested family", ", ".join(f"`{name}`" for name in sorted(TESTED))),
        ("equal by probe", "any other that passes; in tests " + ", ".join(f"`{n}`" for n in MODELS["equal by probe"])),
        ("refused", refused),
    ]
    return "\n".join(["| State | Families (`model_type`) |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)])


OTHER_REASONS = {
    "bart": "encoder and decoder, as others but T5's kind",
    "funnel": "it shortens rows, and fails on short ones",
}


def test_the_readme_lists_the_families() -> None:
    assert FAMILIES.keys() == MODELS["tested family"].keys()
    assert MODELS["refused"].keys() <= UNSUPPORTED.keys() | OTHER_REASONS.keys()
    readme = (Path(__file__).parents[2] / "sfr_batch/model/README.md").read_text(encoding="utf-8")
    assert table() in readme, table()
