"""Tiny random models of many architectures, each in a repository with the one tokenizer, for the test of families.

Knows nothing of sfr_batch, so that what it writes is judged by others' code as well.
"""

from pathlib import Path
from typing import Any, Literal

from tests.models import edit_json
from tests.repositories import SMALL, bytelevel, write_modules, write_tokenizer

State = Literal["tested family", "equal by probe", "refused"]

LLM = {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
GPT = {"n_positions": 256}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
OFFSET = {"type_vocab_size": 1, "max_position_embeddings": 258}
MOE = {**LLM, "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
HYBRID = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}

MODELS: dict[State, dict[str, dict[str, Any]]] = {
    "tested family": {
        "albert": {"embedding_size": 16},
        "bert": {},
        "big_bird": {"attention_type": "original_full"},
        "deberta": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
        "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 32},
        "distilbert": {},
        "electra": {"embedding_size": 16},
        "embedding_gemma2_text": {
            **LLM,
            "embedding_dim": 24,
            "hidden_size_per_layer_input": 8,
            "sliding_window": 16,
            "global_head_dim": 16,
        },
        "ernie": {},
        "eurobert": {"num_key_value_heads": 2},
        "gte": {},
        "jina_embeddings_v3": {"type_vocab_size": 1},
        "megatron-bert": {},
        "mobilebert": {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
        "modernbert": {"local_attention": 16, "global_attn_every_n_layers": 2, "cls_token_id": 0, "sep_token_id": 2},
        "nomic_bert": {},
        "rembert": {"input_embedding_size": 16, "output_embedding_size": 16},
        "roformer": {"embedding_size": 32},
        "splinter": {},
        "squeezebert": {"embedding_size": 32},
        "ultrabert": {"sliding_window": 16},
        "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
        "camembert": OFFSET,
        "data2vec-text": OFFSET,
        "esm": {"position_embedding_type": "rotary", "mask_token_id": 4, "token_dropout": True},
        "ibert": OFFSET,
        "longformer": {**OFFSET, "attention_window": 16},
        "mpnet": {"max_position_embeddings": 258},
        "roberta": OFFSET,
        "roberta-prelayernorm": OFFSET,
        "xlm-roberta": OFFSET,
        "xlm-roberta-xl": OFFSET,
        "mt5": T5,
        "t5": T5,
        "umt5": T5,
        "bloom": {"n_layer": 2, "n_head": 4},
        "cohere": LLM,
        "cohere2": {**LLM, "sliding_window": 16, "sliding_window_pattern": 2},
        "exaone4": LLM,
        "falcon": {"num_kv_heads": 2},
        "gemma": LLM,
        "gemma2": {**LLM, "query_pre_attn_scalar": 8, "sliding_window": 16},
        "gemma3_text": {**LLM, "query_pre_attn_scalar": 8, "sliding_window": 16, "sliding_window_pattern": 2},
        "glm": LLM,
        "gpt2": GPT,
        "gpt_bigcode": GPT,
        "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "num_heads": 4, "window_size": 16},
        "gpt_neox": {},
        "gptj": {**GPT, "rotary_dim": 4},
        "granite": LLM,
        "llama": LLM,
        "mistral": LLM,
        "mixtral": {**MOE, "sliding_window": None},
        "olmo2": LLM,
        "opt": {"word_embed_proj_dim": 16, "ffn_dim": 64},
        "phi": LLM,
        "phi3": LLM,
        "qwen2": LLM,
        "qwen3": LLM,
        "qwen3_moe": MOE,
        "smollm3": LLM,
        "stablelm": LLM,
        "starcoder2": {**LLM, "sliding_window": 16},
    },
    "equal by probe": {
        "bert-generation": {},
        "biogpt": {},
        "ctrl": {**GPT, "n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 64},
        "flaubert": {"emb_dim": 32, "n_layers": 2, "n_heads": 4},
        "glm4": LLM,
        "layoutlm": {},
        "mamba": {"state_size": 4},
        "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 2},
        "olmo3": LLM,
        "persimmon": LLM,
        "rwkv": {"attention_hidden_size": 32},
        "seed_oss": LLM,
    },
    "refused": {
        "bart": HYBRID,
        "convbert": {"embedding_size": 32, "head_ratio": 2},
        "fnet": {},
        "funnel": {},
        "switch_transformers": {**T5, "num_experts": 2},
        "yoso": {},
    },
}
"""Settings of config.json by the state of a family and its model_type."""


def write_family(folder: Path, model_type: str, config: dict[str, Any], *, pooling: str = "mean") -> Path:
    """The repository of a model, with the head of its training if it has one, as most repositories have it."""
    import torch
    import transformers
    from transformers.models.auto import modeling_auto as auto

    ids = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    if model_type == "funnel":
        config = {"block_sizes": [1, 1], "n_head": 4, "d_head": 8, "d_inner": 64, "d_model": 32, "vocab_size": 600}
    else:
        config = {**SMALL, **config}
    parsed = transformers.CONFIG_MAPPING[model_type](**{**config, **ids})
    mappings = (auto.MODEL_FOR_CAUSAL_LM_MAPPING, auto.MODEL_FOR_MASKED_LM_MAPPING, transformers.MODEL_MAPPING)
    if not parsed.is_encoder_decoder and parsed.model_type not in ("flaubert", "xlnet", "ctrl"):
        mappings = mappings[1:] if type(parsed) in auto.MODEL_FOR_MASKED_LM_MAPPING else mappings
    else:
        mappings = mappings[2:]
    classes = next(mapping[type(parsed)] for mapping in mappings if type(parsed) in mapping)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = classes._from_config(parsed).eval()
        for parameter in model.parameters():  # some families ignore initializer_range, and are flat without
            if parameter.dim() > 1 and parameter.std() < 0.1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    edit_json(folder / "config.json", **ids)
    names = ("word_embed_proj_dim", "embedding_dim", "hidden_size")
    dim = next(getattr(parsed, name) for name in names if hasattr(parsed, name))
    write_tokenizer(
        folder,
        "bytelevel",
        json=bytelevel(template="<s> $A </s>"),
        config={"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 200},
    )
    return write_modules(folder, dim=dim, pooling=pooling, max_seq_length=200)
