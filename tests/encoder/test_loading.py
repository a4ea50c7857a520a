"""What is loaded of a repository's weights, and what is refused: tensors without use, errors of other libraries."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from numpy.typing import NDArray

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import ModelError
from sfr_batch.model.repository import config_keys, families
from tests.encoder.family_models import LLM, MODELS, write_family
from tests.models import edit_json
from tests.repositories import SMALL, write_repository

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A BERT without a head that a test may spoil."""
    return write_repository(tmp_path / "model")


def load(folder: Path, **options: Any) -> Encoder:
    settings = {"device": "cpu", **options.pop("settings", {})}
    return Encoder.load(ModelSettings(path=str(folder), **settings), torch_threads=1, **options)


def change(folder: Path, edit: Callable[[Tensors], Tensors]) -> None:
    file = folder / "model.safetensors"
    safetensors.torch.save_file(edit(safetensors.torch.load_file(file)), file, metadata={"format": "pt"})


def with_more(*names: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, **{name: torch.ones(3, 32) for name in names}}


@pytest.mark.parametrize(
    "name",
    ["lm_head.weight", "cls.predictions.transform.dense.weight", "cls.seq_relationship.weight", "pooler.dense.weight",
     "classifier.weight", "qa_outputs.bias", "embeddings.position_ids"],
)  # fmt: skip
def test_heads_and_counters_are_left_out(folder: Path, name: str) -> None:
    before = load(folder).encode(["a text"])
    change(folder, with_more(name))
    assert (load(folder).encode(["a text"]) == before).all()


@pytest.mark.parametrize(
    "name",
    ["encoder.layer.0.attention.self.query.lora_A.weight", "projection.weight", "linear.weight", "dense.weight",
     "encoder.layer.0.attention.self.distance_embedding.weight", "encoder.layer.2.output.dense.weight"],
)  # fmt: skip
def test_other_tensors_without_use_are_named(folder: Path, name: str) -> None:
    change(folder, with_more(name))
    with pytest.raises(ModelError, match=rf"1 tensor that a bert model .* does not use \({re.escape(name)}\)"):
        load(folder)


def test_a_head_is_known_by_the_class_that_config_json_names(tmp_path: Path) -> None:
    """RWKV calls its head ``head``, which may be anything elsewhere."""
    folder = write_family(tmp_path, "rwkv", MODELS["equal by probe"]["rwkv"])
    load(folder)
    edit_json(folder / "config.json", architectures=["RwkvModel"])
    with pytest.raises(ModelError, match=r"does not use \(head.weight\)"):
        load(folder)


@pytest.mark.parametrize("prefix", ["0.auto_model.", "module.", "_orig_mod.", "model."])
def test_tensors_saved_from_inside_another_model(folder: Path, prefix: str) -> None:
    change(folder, lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})
    with pytest.raises(ModelError, match=rf"name their tensors with '{re.escape(prefix)}' before the names of a bert"):
        load(folder)


def test_the_prefix_of_a_family_is_read(folder: Path) -> None:
    before = load(folder).encode(["a text"])
    change(folder, lambda tensors: {f"bert.{name}": tensor for name, tensor in tensors.items()})
    assert (load(folder).encode(["a text"]) == before).all()


def test_weights_of_another_architecture(folder: Path) -> None:
    change(folder, lambda tensors: {f"blocks.{number}": tensor for number, tensor in enumerate(tensors.values())})
    with pytest.raises(ModelError, match=r"are not those of a bert model as transformers .*Correct model_type"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "new-kind"}, "`new-kind`"),
        ({"num_attention_heads": 5}, "not a multiple of the number of attention heads"),
        ({"is_decoder": None}, "StrictDataclassFieldValidationError: .*'is_decoder'"),
        ({"dtype": "float99"}, None),
        ({"hidden_act": ["gelu"]}, None),
    ],
)
def test_errors_of_transformers_become_sentences(folder: Path, changes: dict[str, Any], said: str | None) -> None:
    edit_json(folder / "config.json", **changes)
    sentence = rf"transformers cannot load {folder} as its config.json describes it: .*{said}.* Correct the key"
    with pytest.raises(ModelError, match=sentence if said else "has (hidden_act|dtype) "):
        load(folder)


@pytest.mark.parametrize("failure", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you")])
def test_a_node_without_memory_for_the_weights(
    folder: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    """Nothing is wrong with the folder then."""

    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(transformers.BertModel, "from_pretrained", fail)
    sentence = rf"The memory of node .* is too small to read the weights of {folder}: .* free\. Take a node with more"
    with pytest.raises(ModelError, match=sentence):
        load(folder)


def test_sizes_that_do_not_fit_each_other(tmp_path: Path) -> None:
    """transformers builds such a model, which then fails on every row."""
    folder = write_family(tmp_path, "stablelm", MODELS["tested family"]["stablelm"])
    edit_json(folder / "config.json", head_dim=16)
    with pytest.raises(ModelError, match=r"does not turn plain rows of token ids into vectors: RuntimeError: The size"):
        load(folder)


def test_an_encoder_decoder_by_the_default_of_its_class(tmp_path: Path) -> None:
    folder = write_family(tmp_path, "bart", MODELS["refused"]["bart"])
    edit_json(folder / "config.json", is_encoder_decoder=..., hidden_size=32)
    with pytest.raises(ModelError, match="describes a model with encoder and decoder of type bart"):
        load(folder)


def test_positions_by_the_default_of_a_class(tmp_path: Path) -> None:
    """512 of RoBERTa's, two of which are never used, where config.json is silent and the files ask for more."""
    folder = write_repository(tmp_path, "roberta", config={"max_position_embeddings": 512}, max_seq_length=512)
    edit_json(folder / "config.json", max_position_embeddings=...)
    with pytest.raises(ModelError, match=r"512 tokens per row exceed 510, the max_position_embeddings of a roberta"):
        load(folder)


def test_known_activations_are_those_of_transformers() -> None:
    assert transformers.activations.ACT2CLS.keys() == config_keys.ACTIVATIONS


VALUES = {"id2label": {"0": "a"}, "label2id": {"a": 0}, "problem_type": "regression", "task_specific_params": {},
          "finetuning_task": "x", "dtype": "bfloat16", "torch_dtype": "float16", "_name_or_path": "x",
          "transformers_version": "4.1.0", "_commit_hash": "x", "num_labels": 1, "bad_words_ids": None,
          "suppress_tokens": None, "begin_suppress_tokens": None, "exponential_decay_length_penalty": None,
          "forced_bos_token_id": 5, "forced_eos_token_id": 5, "min_length": 5, "max_length": 5, "num_beams": 2,
          "top_k": 5, "no_repeat_ngram_size": 5, "encoder_no_repeat_ngram_size": 5,
          "num_return_sequences": 5}  # fmt: skip
FLAGS = {"gradient_checkpointing", "do_sample", "early_stopping", "output_scores", "return_dict_in_generate",
         "remove_invalid_values", "output_attentions", "output_hidden_states", "use_cache"}  # fmt: skip


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "gpt2", "t5", "llama", "qwen3_moe", "mamba"])
def test_harmless_keys_change_no_bit(tmp_path: Path, model_type: str) -> None:
    folder = write_family(tmp_path, model_type, {**MODELS["tested family"], **MODELS["equal by probe"]}[model_type])
    texts = ["How to bake a chocolate cake", "", "a longer text than the others, so that there is padding"]
    before = load(folder).encode(texts)
    changes: dict[str, Any] = {key: VALUES.get(key, key in FLAGS or 0.7) for key in config_keys.HARMLESS}
    edit_json(folder / "config.json", **{**changes, "return_dict": False})
    assert (load(folder).encode(texts) == before).all()


# ------------------------------------------------------------------------------------------- rows by themselves


def alone_and_together(encoder: Encoder, texts: list[str]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return np.concatenate([encoder.encode([text]) for text in texts]), encoder.encode(texts)


def test_longrope_below_its_switch(tmp_path: Path) -> None:
    """With a common beginning, that is computed once, and rows up to the last length at which nothing switches."""
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0, 5.0, 6.0, 7.0], "factor": 8.0,
            "original_max_position_embeddings": 64}  # fmt: skip
    folder = write_family(tmp_path, "llama", {**LLM, "rope_scaling": rope}, pooling="lasttoken")
    encoder = load(folder, settings={"max_length": 64})
    prompt = "Instruct: Given a web search query, retrieve relevant passages\nQuery: "
    alone, together = alone_and_together(encoder, [prompt + "word " * n for n in (1, 3, 9, 60, 61)])
    assert encoder.tokenizer.encode([prompt + "word " * 60]).lengths.max() == 64
    assert np.abs(alone - together).max() < 1e-5


def test_literal_padding_in_a_text_has_the_position_that_transformers_gives_it(tmp_path: Path) -> None:
    texts = ["a <pad> b c d", "<pad><pad> x y", "no pad here", "x <pad>", "<pad>"]
    for padding in (1, 4):  # the tokenizer's own, and another one
        config = {"pad_token_id": padding}
        folder = write_repository(tmp_path / str(padding), "roberta", config=config, max_seq_length=64)
        padded, packed = load(folder), load(folder, packed=True)
        alone, together = alone_and_together(packed, texts)
        assert np.abs(padded.encode(texts) - together).max() < 1e-6
        assert np.abs(alone - together).max() < 1e-6
        model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager")
        for row, text in enumerate(texts):
            ids = torch.tensor(padded.tokenizer.encode([text]).flat_ids[None].astype(np.int64))
            state = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(dim=1)
            theirs = torch.nn.functional.normalize(state, dim=1)[0].detach().numpy()
            assert np.abs(theirs - together[row]).max() < 1e-6


@pytest.mark.parametrize("model_type", ["fnet", "convbert", "yoso"])
def test_the_check_at_loading_finds_rows_that_depend_on_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str
) -> None:
    """As it must for families that nobody listed."""
    monkeypatch.setattr("sfr_batch.model.repository.architecture.UNSUPPORTED", {})
    folder = write_family(tmp_path, model_type, MODELS["refused"][model_type])
    with pytest.raises(ModelError, match="Rows of this model depend on the rows beside them"):
        load(folder)


def test_the_check_at_loading_compares_the_width(tmp_path: Path) -> None:
    """A family that is not in the table, whose states are projected: OPT by another name."""
    folder = write_family(tmp_path, "opt", MODELS["tested family"]["opt"])
    listed = {name: family for name, family in families.FAMILIES.items() if name != "opt"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfr_batch.model.repository.architecture.FAMILIES", listed)
        patch.setattr("sfr_batch.encoder.encoder.TESTED", frozenset(listed))
        edit_json(folder / "1_Pooling" / "config.json", word_embedding_dimension=SMALL["hidden_size"])
        with pytest.raises(ModelError, match=r"gives hidden states of 16 numbers, but .*config.json says 32"):
            load(folder)
