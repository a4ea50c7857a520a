"""Lengths, lowercasing, prompts and shorter vectors, as sentence-transformers' files say them: obeyed or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfr_batch.config.loading import config_from_dict
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import ModelError
from sfr_batch.model.repository import transformer_file
from sfr_batch.model.repository.folder import TRANSFORMER_FILES
from tests.model.recipes import recipe_of, settings_of
from tests.models import edit_json, write_json
from tests.repositories import HARD_TEXTS, wordpiece, write_tokenizer

TEXTS = [*HARD_TEXTS[::4], "The Quick BROWN fox " * 20]
TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
TRANSFORMER = "sentence_bert_config.json"
REPOSITORY = "config_sentence_transformers.json"


def assert_as_theirs(folder: Path, how: str = "encode", prompt: str | None = None, **values: Any) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    expected = getattr(model, how)(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    found = Encoder.load(settings_of(folder, **values)).encode(TEXTS, prompt=prompt)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5


# --- sentence_bert_config.json


@pytest.mark.parametrize("name", TRANSFORMER_FILES)
def test_the_older_names_of_the_file(folder: Path, name: str) -> None:
    (folder / TRANSFORMER).unlink()
    write_json(folder / name, {"max_seq_length": 24, "do_lower_case": False})
    assert recipe_of(folder).max_length == 24
    assert_as_theirs(folder)


def test_the_first_of_several_files_that_is_not_empty_counts(folder: Path) -> None:
    write_json(folder / TRANSFORMER, {})
    write_json(folder / "sentence_xlnet_config.json", {"max_seq_length": 9})
    write_json(folder / "sentence_roberta_config.json", {"max_seq_length": 24})
    assert recipe_of(folder).max_length == 24
    assert_as_theirs(folder)


@pytest.mark.parametrize(
    ("file", "length", "how"),
    [
        ({"max_seq_length": None}, 512, "encode"),
        ({"tokenizer_args": {"model_max_length": 24}}, 24, "encode"),
        ({"processor_kwargs": {"model_max_length": 24}, "max_seq_length": 48}, 24, "encode"),
        ({"processor_kwargs": {"model_max_length": 48}, "tokenizer_args": {"model_max_length": 24}}, 24, "encode"),
        ({"max_seq_length": 48, "processing_kwargs": {"text": {"max_length": 24}}}, 24, "encode"),
        ({"max_seq_length": 48, "query_length": 24, "document_length": 24}, 24, "encode_document"),
        ({"max_seq_length": 24, "document_length": 24}, 24, "encode_document"),
        (
            {"query_length": 9, "document_length": 12, "processing_kwargs": {"text": {"max_length": 24}}},
            24,
            "encode_document",
        ),
    ],
)
def test_lengths(folder: Path, file: dict[str, Any], length: int, how: str) -> None:
    write_json(folder / TRANSFORMER, file)
    assert recipe_of(folder).max_length == length
    assert_as_theirs(folder, how)


@pytest.mark.parametrize(
    "file",
    [
        {"do_lower_case": False, "unpad_inputs": False, "query_expansion": None, "tokenizer_name_or_path": None},
        {
            "transformer_task": "feature-extraction",
            "modality_config": TEXT_ONLY,
            "module_output_name": "token_embeddings",
        },
        {"model_args": {"trust_remote_code": True, "torch_dtype": "float32", "attn_implementation": "eager"}},
        {"config_kwargs": {"use_cache": True}, "model_kwargs": {"add_pooling_layer": False}},
        {"processing_kwargs": {"text": {"padding": "longest", "truncation": True}, "chat_template": {"x": 1}}},
        {"tokenizer_args": {"use_fast": False, "padding_side": "right"}, "query_length": None},
    ],
)
def test_keys_that_change_no_vector(folder: Path, file: dict[str, Any]) -> None:
    write_json(folder / TRANSFORMER, {"max_seq_length": 24, **file})
    assert_as_theirs(folder)


@pytest.mark.parametrize("lowercase", [False, True])
def test_lowercasing(folder: Path, lowercase: bool) -> None:
    """It acts on a tokenizer with case, and changes nothing where the tokenizer lowercases by itself."""
    keys = {"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": ...}
    write_tokenizer(folder, "wordpiece", json=wordpiece(lowercase=lowercase), config=keys)
    before = Encoder.load(settings_of(folder)).encode(TEXTS)
    edit_json(folder / TRANSFORMER, do_lower_case=True)
    assert_as_theirs(folder)
    encoder = Encoder.load(settings_of(folder))
    assert bool(np.abs(encoder.encode(TEXTS) - before).max() > 1e-3) is not lowercase
    assert encoder.tokenizer.acting["lowercase"] is True


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"max_sequence_length": 32}, r"sets max_sequence_length to 32, a key that is not known"),
        ({"max_seq_length": "32"}, r'sets max_seq_length to "32", which is not a whole number of at least 1'),
        ({"max_seq_length": 0}, r"sets max_seq_length to 0, which is not a whole number"),
        ({"max_seq_length": True}, r"sets max_seq_length to true"),
        ({"do_lower_case": "yes"}, r'sets do_lower_case to "yes", which is not true or false'),
        ({"model_args": {"output_hidden_states": True}}, r"sets model_args.output_hidden_states to true, a key that"),
        ({"model_kwargs": {"quantization_config": {"bits": 4}}}, r'model_kwargs.quantization_config to \{"bits": 4\}'),
        ({"model_kwargs": {"use_safetensors": False}}, r"model_kwargs.use_safetensors to false"),
        ({"config_args": {"num_hidden_layers": 1}}, r"sets config_args.num_hidden_layers to 1, a key that is not"),
        ({"config_kwargs": {"is_causal": False}}, r"sets config_kwargs.is_causal to false"),
        ({"tokenizer_args": {"add_eos_token": True}}, r"sets tokenizer_args.add_eos_token to true"),
        ({"processor_kwargs": {"truncation_side": "left"}}, r'processor_kwargs.truncation_side to "left".*only|left'),
        ({"processor_kwargs": {"model_max_length": None}}, r"processor_kwargs.model_max_length to null"),
        ({"processor_kwargs": None}, r"sets processor_kwargs to null, which is not a JSON object"),
        ({"processing_kwargs": {"text": {"add_special_tokens": False}}}, r"processing_kwargs.text.add_special_tokens"),
        ({"processing_kwargs": {"common": {"max_length": 9}}}, r'processing_kwargs.common to \{"max_length": 9\}'),
        ({"processing_kwargs": {"texts": {}}}, r"processing_kwargs.texts to \{\}, a key that is not known"),
        ({"transformer_task": "fill-mask"}, r'transformer_task to "fill-mask", which is not supported'),
        ({"modality_config": {"message": TEXT_ONLY["text"]}}, r"sets modality_config to .*message.*not supported"),
        ({"module_output_name": "sentence_embedding"}, r'module_output_name to "sentence_embedding"'),
        ({"query_length": 9}, r"gives queries and documents different lengths \(query_length 9, document_length None"),
        ({"query_expansion": {"strategy": "min", "length": 9}}, r"sets query_expansion to .*which is not null"),
        ({"tokenizer_name_or_path": "bert-base-uncased"}, r'tokenizer_name_or_path to "bert-base-uncased"'),
    ],
)
def test_refused_transformer_files(folder: Path, file: dict[str, Any], message: str) -> None:
    write_json(folder / TRANSFORMER, {"max_seq_length": 24, **file})
    with pytest.raises(ModelError, match=rf"{TRANSFORMER} .*{message}"):
        recipe_of(folder)


def test_every_key_of_the_reference_is_known() -> None:
    """A key that a later sentence-transformers writes shows here; until then it is refused."""
    import inspect

    from sentence_transformers.base.modules import Transformer

    arguments = set(inspect.signature(Transformer.__init__).parameters) - {"self", "model_name_or_path", "backend"}
    assert arguments | set(Transformer.config_keys) <= set(transformer_file.TRANSFORMER)
    assert set(Transformer._VALID_PROCESSING_KWARGS_KEYS) == set(transformer_file.PROCESSING)


# --- prompts


@pytest.mark.parametrize(
    ("prompts", "side", "expected"),
    [
        ({"query": None, "document": "d: "}, "query", ""),
        ({"query": None, "document": "d: "}, "document", "d: "),
        ({"document": None, "passage": "p: "}, "document", ""),
        ({"query": "q: ", "document": ""}, "query", "q: "),
        ({}, "document", ""),
    ],
)
def test_prompts_of_both_sides(folder: Path, prompts: dict[str, Any], side: str, expected: str) -> None:
    edit_json(folder / REPOSITORY, prompts=prompts)
    assert recipe_of(folder).prompts.get(side, "") == expected
    assert_as_theirs(folder, f"encode_{side}", prompt=side)


@pytest.mark.parametrize(
    "file",
    [
        {"prompts": None},
        {"prompts": {}, "default_prompt_name": "document"},
        {"default_prompt_name": None, "similarity_fn_name": "dot", "model_type": "SentenceTransformer"},
        {"requirements": {"transformers": ">=5", "sentence_transformers": ">=99", "pytorch": {"specifier": ">=1"}}},
        {"truncate_dim": None, "__version__": {"pytorch": "1.9.0"}},
    ],
)
def test_keys_of_the_repository_file_that_change_no_vector(folder: Path, file: dict[str, Any]) -> None:
    before = recipe_of(folder)
    edit_json(folder / REPOSITORY, **file)
    assert recipe_of(folder) == before


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"prompts": {"query": 1}}, r"sets prompts.query to 1, which is not a text"),
        ({"prompts": ["q: "]}, r'sets prompts to \["q: "\], which is not a JSON object'),
        ({"default_prompt_name": "sts"}, r"sets default_prompt_name to 'sts', but its prompts are document, query"),
        ({"default_prompt_name": ""}, r"sets default_prompt_name to '', but its prompts are"),
        ({"model_type": "SparseEncoder"}, r'sets model_type to "SparseEncoder", which is not supported'),
        ({"model_type": None}, r"sets model_type to null"),
        ({"truncate_dim": "8"}, r'sets truncate_dim to "8"'),
        ({"truncate_dim": 0}, r"sets truncate_dim to 0"),
        ({"truncate_dimension": 8}, r"sets truncate_dimension to 8, a key that is not known"),
        ({"requirements": {"transformers": "<4"}}, r"asks for transformers <4 \(requirements\), but .* is installed"),
        ({"requirements": {"peft": ">=1"}}, r"sets requirements.peft to \">=1\", which cannot be checked"),
        ({"requirements": {"torch": "new"}}, r"sets requirements.torch to \"new\", which cannot be checked"),
    ],
)
def test_refused_repository_files(folder: Path, file: dict[str, Any], message: str) -> None:
    edit_json(folder / REPOSITORY, **file)
    with pytest.raises(ModelError, match=rf"{REPOSITORY} {message}"):
        recipe_of(folder)


# --- Matryoshka


def test_the_repository_s_own_cut(folder: Path) -> None:
    edit_json(folder / REPOSITORY, truncate_dim=8)
    assert (recipe_of(folder).dim, recipe_of(folder).modules) == (8, {"dimensions": 8})
    assert_as_theirs(folder)
    assert recipe_of(folder, dimensions=16).dim == 16, "the file says that the model was trained for it"
    assert recipe_of(folder, dimensions=32).modules == {}
    edit_json(folder / REPOSITORY, truncate_dim=64)
    assert (recipe_of(folder).dim, recipe_of(folder).modules) == (32, {})
    assert_as_theirs(folder)


@pytest.mark.parametrize(
    "config",
    [
        {"matryoshka_dimensions": [8, 16, 32]},
        {"matryoshka_dims": [8]},
        {"is_matryoshka": True},
        {"truncate_dim": 16},
    ],
)
def test_a_model_that_was_trained_for_it(folder: Path, config: dict[str, Any]) -> None:
    edit_json(folder / "config.json", **config)
    assert recipe_of(folder).dim == 32
    full = Encoder.load(settings_of(folder)).encode(TEXTS)
    cut = Encoder.load(settings_of(folder, dimensions=8)).encode(TEXTS)
    expected = full[:, :8] / np.linalg.norm(full[:, :8], axis=1, keepdims=True)
    assert np.abs(cut - expected).max() <= 1e-6


@pytest.mark.parametrize(
    ("config", "values", "message"),
    [
        ({}, {"dimensions": 8}, r"dimensions is 8 in the config, but nothing in .* says that the model was trained"),
        (
            {"is_matryoshka": False, "truncate_dim": None},
            {"dimensions": 8},
            r"but nothing in .*Remove model",
        ),
        (
            {"matryoshka_dims": [4, 16]},
            {"dimensions": 8},
            r"trained to be cut to 4, 16 by .*Set it to one",
        ),
        ({"matryoshka_dims": "8"}, {"dimensions": 8}, r'config.json sets matryoshka_dims to "8", which is not a list'),
        ({"is_matryoshka": True}, {"dimensions": 33}, r"dimensions is 33 in the config, but vectors of .* have 32"),
        ({}, {"dimensions": 33, "matryoshka": True}, r"but vectors of .* have 32 values"),
    ],
)
def test_cuts_that_are_refused(folder: Path, config: dict[str, Any], values: dict[str, Any], message: str) -> None:
    edit_json(folder / "config.json", **config)
    with pytest.raises(ModelError, match=message):
        recipe_of(folder, **values)


def test_the_user_knows_that_a_model_was_trained_for_it(folder: Path) -> None:
    assert recipe_of(folder, dimensions=8, matryoshka=True).dim == 8
    edit_json(folder / "config.json", matryoshka_dims=[4, 16])
    assert recipe_of(folder, dimensions=8, matryoshka=True).dim == 8
    assert recipe_of(folder, dimensions=32).modules == {}, "nothing is cut"
    with pytest.raises(ValueError, match="matryoshka has no effect without dimensions"):
        settings_of(folder, matryoshka=True)


def test_a_table_of_shorter_vectors(folder: Path, tmp_path: Path) -> None:
    """Its schema, its search and its record of the model follow the cut."""
    import sfr_batch as sfr

    edit_json(folder / "config.json", matryoshka_dims=[8])
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_text("\n".join(text for text in TEXTS if text.strip() and "\n" not in text))
    config = config_from_dict(
        {
            "corpus": {"path": str(tmp_path / "corpus"), "id": None},
            "model": {"path": str(folder), "device": "cpu", "dimensions": 8},
            "table": {"path": str(tmp_path / "table")},
            "run": {"actors": {"gpus": 0}, "ray_address": "none"},
        }
    )
    sfr.embed(config)
    table = sfr.open_table(str(tmp_path / "table"))
    [hit] = table.search("the quick brown fox", k=1)
    assert hit.score > 0.5
    vectors = table.to_arrow(["embedding"]).column("embedding")
    assert vectors.type.list_size == 8
    norms = np.linalg.norm(vectors.combine_chunks().flatten().to_numpy().reshape(-1, 8), axis=1)
    assert np.abs(norms - 1).max() < 1e-5
