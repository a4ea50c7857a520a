"""Any key with any value in sentence-transformers' files: the reference's vectors, or a refusal that names both."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import SfrBatchError
from sfr_batch.model.repository import keys, layers, modules, repository_file, transformer_file
from tests.models import edit_json
from tests.repositories import HARD_TEXTS, write_chain, write_repository

TEXTS = [*HARD_TEXTS[:8], "word " * 100]
TRANSFORMER = "sentence_bert_config.json"
PARTS = {name: table for name, table in transformer_file._PARTS.items() if name != "processing_kwargs"}
FILES: dict[str, keys.Table] = {
    TRANSFORMER: transformer_file.TRANSFORMER,
    "config_sentence_transformers.json": repository_file.REPOSITORY,
    "1_Pooling/config.json": modules.POOLING,
    "2_Dense/config.json": layers.DENSE,
    "3_LayerNorm/config.json": layers.LAYER_NORM,
    "4_Normalize/config.json": layers.NORMALIZE,
    "5_Dropout/config.json": modules.DROPOUT,
}
VALUES = [
    None,
    True,
    False,
    0,
    1,
    24,
    32,
    48,
    -1,
    0.5,
    "24",
    "",
    "cls",
    "max",
    "left",
    [],
    ["cls", "max"],
    {},
    {"x": 1},
]
USUAL: dict[str, list[Any]] = {
    "activation_function": ["torch.nn.modules.activation.ReLU", "torch.nn.ReLU", "torch.nn.modules.linear.Identity"],
    "module_input_name": ["sentence_embedding", "token_embeddings"],
    "module_output_name": ["sentence_embedding", "token_embeddings"],
    "transformer_task": ["feature-extraction", "fill-mask"],
    "default_prompt_name": ["query", "document"],
    "prompts": [{"query": "q: ", "sts": None}, {"document": "d: "}],
    "attn_implementation": ["eager", "sdpa"],
    "torch_dtype": ["float32"],
    "dtype": ["float32"],
}
"""Values that some keys have in repositories."""


LATE = {
    "out_features": "but the vector before this module",
    "pooling_mode": "but the vector before this module",
    "model_max_length": "which leaves no room for text",
    "max_seq_length": "which leaves no room for text",
    "max_length": "which leaves no room for text",
}
"""Keys whose value is refused elsewhere: lengths that do not fit at the next module, no room for text later."""


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_repository(tmp_path_factory.mktemp("keys") / "base")
    return write_chain(
        folder,
        [
            ("Pooling", {"pooling_mode": "mean", "embedding_dimension": 32}),
            ("Dense", {"in_features": 32, "out_features": 32}),
            ("LayerNorm", {"dimension": 32}),
            ("Normalize", {}),
            ("Dropout", {"dropout": 0.1}),
        ],
    )


@st.composite
def changes(draw: st.DrawFn) -> tuple[str, str, str, Any]:
    """File, object inside of it ("" for the whole), key, value."""
    file = draw(st.sampled_from(sorted(FILES)))
    inside, table = "", FILES[file]
    if file == TRANSFORMER and draw(st.booleans()):
        inside = draw(st.sampled_from([*sorted(PARTS), "processing_kwargs.text"]))
        table = PARTS.get(inside, transformer_file.CALL)
    key = draw(st.sampled_from([*sorted(table), "one_that_is_new"]))
    return file, inside, key, draw(st.sampled_from([*VALUES, *3 * USUAL.get(key, [])]))


def reference(folder: Path) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})
    return model.encode(TEXTS, prompt="", normalize_embeddings=True, show_progress_bar=False)


@settings(max_examples=25, derandomize=True)
@given(change=changes())
def test_any_key(base: Path, tmp_path_factory: pytest.TempPathFactory, change: tuple[str, str, str, Any]) -> None:
    file, inside, key, value = change
    folder = Path(shutil.copytree(base, tmp_path_factory.mktemp("key") / "model"))
    found: Any = {key: value}
    for name in reversed(inside.split(".") if inside else []):
        found = {name: found}
    edit_json(folder / file, **found)
    refused, vectors = "", None
    try:
        vectors = Encoder.load(ModelSettings(path=str(folder), device="cpu")).encode(TEXTS)
    except SfrBatchError as error:
        refused = str(error)
    if vectors is None:
        named = file in refused and key in refused
        assert named or LATE.get(key, "?") in refused
        return
    try:
        theirs = reference(folder)
    except Exception:
        assert value is None, "sentence-transformers cannot load it; null is as if the key were absent"
        return
    assert vectors.shape == theirs.shape
    assert np.abs(vectors - theirs).max() <= 1e-5
