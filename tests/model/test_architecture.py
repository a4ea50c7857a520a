"""What config.json says of an architecture, without torch: sizes, limits, direction, and what is refused by its key."""

from pathlib import Path
from typing import Any

import pytest

from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ModelError
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.repository.architecture import HARMLESS, Architecture, read_architecture
from sfr_batch.model.repository.families import FAMILIES, UNSUPPORTED
from tests.models import write_json
from tests.repositories import write_modules, write_tokenizer

BERT = {
    "model_type": "bert",
    "architectures": ["BertModel"],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 600,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}


def read(folder: Path, **changes: Any) -> Architecture:
    """The architecture of BERT's config.json with changes; a key set to ``...`` is left out."""
    write_json(folder / "config.json", {k: v for k, v in {**BERT, **changes}.items() if v is not ...})
    return read_architecture(folder)


LONGROPE = {"type": "longrope", "short_factor": [1.0], "long_factor": [4.0], "original_max_position_embeddings": 64}
NO_SIZE = {"hidden_size": ..., "max_position_embeddings": ...}


@pytest.mark.parametrize(
    ("changes", "dim", "positions"),
    [
        ({}, 32, 512),
        ({"max_position_embeddings": ...}, 32, None),
        ({"model_type": "distilbert", "hidden_size": ..., "dim": 48}, 48, 512),
        ({"model_type": "gpt2", **NO_SIZE, "n_embd": 48, "n_positions": 64}, 48, 64),
        ({"model_type": "gpt2", "max_position_embeddings": 64}, 32, 64),
        ({"model_type": "opt", "word_embed_proj_dim": 16}, 16, 512),
        ({"model_type": "opt"}, 32, 512),
        ({"model_type": "t5", **NO_SIZE, "d_model": 48, "n_positions": 64, "is_encoder_decoder": True}, 48, None),
        ({"model_type": "xlnet", **NO_SIZE, "d_model": 48, "max_position_embeddings": -1}, 48, None),
        ({"model_type": "bloom", "n_positions": 64}, 32, None),
        ({"model_type": "roberta", "pad_token_id": 1}, 32, 510),
        ({"model_type": "roberta", "pad_token_id": 4}, 32, 507),
        ({"model_type": "longformer", "pad_token_id": ...}, 32, 510),
        ({"model_type": "esm", "pad_token_id": 1}, 32, 510),
        ({"model_type": "esm", "pad_token_id": 1, "position_embedding_type": "rotary"}, 32, 512),
        ({"model_type": "not-in-the-table", **NO_SIZE, "d_model": 48, "n_positions": 64}, 48, 64),
    ],
)
def test_sizes_by_the_keys_of_a_family(
    tmp_path: Path, changes: dict[str, Any], dim: int, positions: int | None
) -> None:
    architecture = read(tmp_path, **changes)
    assert (architecture.dim, architecture.positions) == (dim, positions)


@pytest.mark.parametrize(
    ("changes", "limits"),
    [
        ({}, [512]),
        ({"model_type": "llama", "rope_scaling": LONGROPE}, [512, 64]),
        ({"model_type": "llama", "rope_parameters": {**LONGROPE, "rope_type": "longrope"}}, [512, 64]),
        ({"model_type": "gemma3_text", "rope_parameters": {"full_attention": LONGROPE}}, [512, 64]),
        ({"model_type": "llama", "rope_scaling": LONGROPE, "original_max_position_embeddings": 32}, [512, 32]),
        ({"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}}, [512, 512]),
        (
            {"model_type": "llama", "rope_scaling": {"type": "dynamic", "original_max_position_embeddings": 64}},
            [512, 64],
        ),
        ({"model_type": "phi3", "rope_scaling": {"type": "su"}, "max_position_embeddings": 9000}, [9000, 4096]),
        *(
            ({"model_type": "llama", "rope_scaling": {"type": kind, "factor": 2.0}}, [512])
            for kind in ("linear", "yarn", "llama3", "default")
        ),
        ({"model_type": "llama", "rope_scaling": None}, [512]),
        ({"model_type": "mistral", "sliding_window": 128}, [512, 128]),
        ({"model_type": "mistral", "max_position_embeddings": 9000}, [9000, 4096]),
        ({"model_type": "qwen2", "sliding_window": 128}, [512]),
        ({"model_type": "qwen2", "sliding_window": 128, "use_sliding_window": True}, [512, 128]),
        ({"model_type": "gemma2", "sliding_window": 128}, [512]),  # transformers applies it
        ({"model_type": "big_bird", "block_size": 8, "num_random_blocks": 2}, [512, 72]),
        ({"model_type": "big_bird", "attention_type": "original_full"}, [512]),
    ],
)
def test_limits_of_a_row(tmp_path: Path, changes: dict[str, Any], limits: list[int]) -> None:
    assert [limit.tokens for limit in read(tmp_path, **changes).limits] == limits


def test_rows_beyond_a_rule_of_the_batch_are_refused_with_the_way_out(tmp_path: Path) -> None:
    read(tmp_path, model_type="llama", rope_scaling=LONGROPE)
    write_tokenizer(tmp_path, "bytelevel")
    write_modules(tmp_path, pooling="lasttoken", max_seq_length=128)
    settings = ModelSettings(path=str(tmp_path), device="cpu")
    message = (
        r"128 tokens per row .* exceed 64, the limit by longrope in rope_scaling in .*config.json; beyond it .*at most"
    )
    with pytest.raises(ModelError, match=message + " 64"):
        read_recipe(tmp_path, settings)
    assert read_recipe(tmp_path, ModelSettings(path=str(tmp_path), device="cpu", max_length=64)).max_length == 64


@pytest.mark.parametrize(
    ("changes", "causal"),
    [
        ({"model_type": "llama", "is_causal": False}, False),
        ({"model_type": "llama", "is_causal": True, "is_decoder": True}, True),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, False),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": False}, True),
        ({"model_type": "bert", "is_causal": False}, False),
        ({"model_type": "t5", "d_model": 32, "is_decoder": True}, False),
        ({"model_type": "new", "architectures": ["NewForCausalLM"]}, True),
        ({"model_type": "new", "architectures": ["NewModel"]}, False),
    ],
)
def test_direction(tmp_path: Path, changes: dict[str, Any], causal: bool) -> None:
    assert read(tmp_path, **changes).causal is causal


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no type": ({"model_type": ...}, "has no model_type"),
    "type of another JSON type": ({"model_type": 3}, "has no model_type"),
    "encoder and decoder": ({"model_type": "bart", "is_encoder_decoder": True}, r"\(is_encoder_decoder\) of type bart"),
    "cross attention": ({"add_cross_attention": True}, "has add_cross_attention True"),
    "layers of their own": ({"model_type": "llama", "per_layer_config": {"0": {}}}, "has per_layer_config"),
    "several inputs": ({"model_type": "gemma3", "text_config": {}}, r"\(text_config\) of type gemma3"),
    "no projection": ({"model_type": "embedding_gemma2_text"}, "has no embedding_dim"),
    "cut rows": ({"chunk_size_feed_forward": 3}, "has chunk_size_feed_forward 3"),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, r"quantized \(quantization_config: gptq\)"),
    "quantized, no method": ({"quantization_config": {"bits": 4}}, r"\(quantization_config: of no named method\)"),
    "compressed": ({"compression_config": {"quant_method": "x"}}, r"\(compression_config: x\)"),
    "relative positions": ({"position_embedding_type": "relative_key"}, "has position_embedding_type 'relative_key'"),
    "rotary BERT": ({"position_embedding_type": "rotary"}, "computes a bert model as if it were absolute"),
    "causal encoder": ({"is_causal": True}, "changes the direction of attention of a bert model"),
    "decoder": ({"is_decoder": True}, "changes the direction of attention of a bert model"),
    "not turnable": ({"model_type": "stablelm", "is_causal": False}, "changes the direction of attention"),
    "not obeyed": ({"model_type": "llama", "use_bidirectional_attention": True}, "changes the direction of attention"),
    "two names": ({"model_type": "distilbert", "dim": 16}, "has dim 16 and hidden_size 32, which are two names"),
    "no padding id": ({"model_type": "roberta", "pad_token_id": None}, "has pad_token_id None, but a roberta model"),
    "logn": ({"model_type": "llama", "use_logn_attn": True}, "has use_logn_attn True"),
    "unknown rope": ({"rope_scaling": {"type": "mrope3"}}, "has rope_type 'mrope3' in rope_scaling, which is not kn"),
    "nested unknown rope": ({"rope_parameters": {"full": {"rope_type": "x"}}}, "'x' in rope_parameters.full"),
    "two rope types": ({"rope_scaling": {"type": "linear", "rope_type": "yarn"}}, "both rope_type 'yarn' and"),
    "rope as a list": ({"rope_scaling": [1]}, r"has rope_scaling \[1\], which is not an object"),
    "longrope without length": ({"rope_scaling": {"type": "longrope"}}, "without a whole number original_max_pos"),
    "architectures": ({"architectures": "BertModel"}, "has architectures 'BertModel', which is not a list"),
    **{
        f"{key} {value!r}": ({key: value}, f"config.json has {key} {value!r}, which is not")
        for key, value in [
            ("hidden_size", 32.0), ("hidden_size", True), ("num_attention_heads", "4"), ("vocab_size", None),
            ("max_position_embeddings", -1), ("max_position_embeddings", "512"), ("intermediate_size", 64.0),
            ("num_hidden_layers", 0), ("layer_norm_eps", "1e-12"), ("layer_norm_eps", 0), ("rope_theta", "10000"),
            ("pad_token_id", "0"), ("hidden_act", "gelu_x"), ("hidden_act", 3), ("sliding_window", 1.5),
        ]
    },
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_its_key(tmp_path: Path, case: str) -> None:
    changes, message = REFUSED[case]
    with pytest.raises(ModelError, match=message) as refused:
        read(tmp_path, **changes)
    assert f"{tmp_path}/config.json" in str(refused.value)


@pytest.mark.parametrize("model_type", UNSUPPORTED)
def test_families_whose_rows_depend_on_each_other(tmp_path: Path, model_type: str) -> None:
    with pytest.raises(ModelError, match="depend on the rows beside them"):
        read(tmp_path, model_type=model_type)


def test_only_harmless_keys_are_left_out_of_what_may_change_a_vector(tmp_path: Path) -> None:
    found = read(tmp_path, **dict.fromkeys(HARMLESS), unknown_key=[1])
    assert dict(found.config) == {**BERT, "unknown_key": [1]}
    assert all(HARMLESS.values())
    assert not HARMLESS.keys() & {family.width for family in FAMILIES.values()}
