"""Texts of which no token is left: one reject each, and every other row is embedded."""

from pathlib import Path

import pytest

import sfr_batch as sfr
from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder.encoder import Encoder
from tests.job_processes import config, documents, put_parquet
from tests.repositories import wordpiece, write_repository

TEXTS = ["a good text", "\u200b\u200b", "another one", "\ufeff", "a longer text " * 60, "\u0000\u0001", "the last text"]
EMPTY = [1, 3, 5]


@pytest.fixture(scope="module")
def without_special_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer puts nothing around a text, and drops control characters."""
    return write_repository(
        tmp_path_factory.mktemp("model") / "bert",
        tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"},
        tokenizer_json=wordpiece(template="$A"),
    )


@pytest.mark.parametrize("overflow", ["truncate", "reject", "chunk"])
def test_a_text_without_tokens_is_one_reject(without_special_tokens: Path, tmp_path: Path, overflow: str) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS))
    chunks = ("model.chunk_tokens=32", "model.chunk_overlap=4") if overflow == "chunk" else ()
    job = config(without_special_tokens, str(tmp_path), f"model.overflow={overflow}", *chunks, ray_address="none")
    outcome = sfr.embed(job)
    snapshot = sfr.open_table(f"{tmp_path}/table").current()
    rejects = {row["id"]: row for row in snapshot.rejects().to_pylist()}
    empty = {f"doc-{number:05}" for number in EMPTY}
    assert {id_ for id_, row in rejects.items() if row["reason"] == "empty_text"} == empty
    assert {rejects[id_]["message"] for id_ in empty} == {
        "no token of the text is left: the tokenizer drops all of its characters"
    }
    embedded = set(snapshot.to_arrow(["id"])["id"].to_pylist())
    assert len(rejects) == len(EMPTY) + (overflow == "reject") == outcome.snapshot.manifest.counts.rejected
    assert embedded == {row["id"] for row in documents(TEXTS)} - set(rejects)
    assert sfr.audit(f"{tmp_path}/table").ok


def test_the_encoder_names_the_row(without_special_tokens: Path) -> None:
    encoder = Encoder.load(ModelSettings(path=str(without_special_tokens), device="cpu"))
    with pytest.raises(ValueError, match="row 1 has no token"):
        encoder.encode(TEXTS)
    with pytest.raises(ValueError, match="row 0 has no token"):
        encoder.chunks(["", "a"], chunk_tokens=8)
    assert encoder.encode(["a"]).shape == (1, 32)
