"""Families of architectures by model_type: direction of attention, and the keys of their width and of their positions.

Every family here is one that tests/encoder/test_families.py builds and compares with sentence-transformers. Knows no
files, and imports neither torch nor transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """What config.json means in one family, as transformers 5.24 reads it."""

    causal: bool
    """Whether a token attends only to itself and to tokens before it."""
    width: str = "hidden_size"
    """The key of the length of a hidden state, as the model returns it. ``hidden_size`` is an alias of all in
    transformers but ``embedding_dim``."""
    positions: str | None = "max_position_embeddings"
    """The key of the most tokens of a row; None where positions have no limit."""
    offset: bool = False
    """Whether positions count from pad_token_id + 1, and skip tokens that are the padding id, so that as many of
    ``positions`` cannot be used (create_position_ids_from_input_ids)."""
    turnable: bool = False
    """Whether transformers obeys ``is_causal: false``, with every kind of attention that it may choose."""
    encoder_only: str | None = None
    """The class that holds the encoder of an encoder-decoder model, which alone is loaded."""


_BERT = Family(causal=False)
_ROBERTA = Family(causal=False, offset=True)
_NO_LIMIT = Family(causal=False, positions=None)
_LLM = Family(causal=True)
_TURNABLE = Family(causal=True, turnable=True)

FAMILIES: Mapping[str, Family] = {
    # Encoders that count positions from 0, or have none to count.
    "albert": _BERT,
    "bert": _BERT,
    "big_bird": _BERT,
    "deberta": _BERT,
    "deberta-v2": _BERT,
    "distilbert": Family(causal=False, width="dim"),
    "electra": _BERT,
    "embedding_gemma2_text": Family(causal=False, width="embedding_dim"),
    "ernie": _BERT,
    "eurobert": _BERT,
    "gte": _BERT,
    "jina_embeddings_v3": _BERT,
    "megatron-bert": _BERT,
    "mobilebert": _BERT,
    "modernbert": _BERT,
    "nomic_bert": _BERT,
    "rembert": _BERT,
    "roformer": _BERT,
    "splinter": _BERT,
    "squeezebert": _BERT,
    "ultrabert": _BERT,
    "xlnet": Family(causal=False, width="d_model", positions=None),
    # Encoders that count positions from their padding id.
    "camembert": _ROBERTA,
    "data2vec-text": _ROBERTA,
    "esm": _ROBERTA,
    "ibert": _ROBERTA,
    "longformer": _ROBERTA,
    "mpnet": _ROBERTA,
    "roberta": _ROBERTA,
    "roberta-prelayernorm": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "xlm-roberta-xl": _ROBERTA,
    # Encoders of encoder-decoder models. Their positions are relative.
    "mt5": Family(causal=False, width="d_model", positions=None, encoder_only="MT5EncoderModel"),
    "t5": Family(causal=False, width="d_model", positions=None, encoder_only="T5EncoderModel"),
    "umt5": Family(causal=False, width="d_model", positions=None, encoder_only="UMT5EncoderModel"),
    # Decoders.
    "bloom": Family(causal=True, positions=None, turnable=True),
    "cohere": _TURNABLE,
    "cohere2": _TURNABLE,
    "exaone4": _TURNABLE,
    "falcon": _TURNABLE,
    "gemma": _TURNABLE,
    "gemma2": _TURNABLE,
    "gemma3_text": _TURNABLE,
    "glm": _TURNABLE,
    "gpt2": Family(causal=True, width="n_embd", positions="n_positions", turnable=True),
    "gpt_bigcode": Family(causal=True, width="n_embd", positions="n_positions", turnable=True),
    "gpt_neo": _LLM,
    "gpt_neox": _TURNABLE,
    "gptj": Family(causal=True, width="n_embd", positions="n_positions", turnable=True),
    "granite": _TURNABLE,
    "llama": _TURNABLE,
    "mistral": _TURNABLE,
    "mixtral": _TURNABLE,
    "olmo2": _TURNABLE,
    "opt": Family(causal=True, width="word_embed_proj_dim", turnable=True),
    "phi": _TURNABLE,
    "phi3": _TURNABLE,
    "qwen2": _TURNABLE,
    "qwen3": _TURNABLE,
    "qwen3_moe": _TURNABLE,
    "smollm3": _TURNABLE,
    "stablelm": _LLM,
    "starcoder2": _TURNABLE,
}
TESTED = frozenset(FAMILIES)
"""Families that equal sentence-transformers in a test. Others must pass `encoder.company` when they are loaded."""

WINDOWED = frozenset({"llama", "mistral", "qwen2", "qwen3"})
"""Families of which this package computes attention itself, without a sliding window: rows must not exceed it. In all
others transformers applies the window, as it does for sentence-transformers."""

UNSUPPORTED: Mapping[str, str] = {
    "fnet": "it mixes all places of a row, padding included",
    "convbert": "its convolution reads the padding behind a row",
    "yoso": "its attention is estimated over all places of a row, padding included",
    "nystromformer": "its attention is estimated over all places of a row, padding included",
    "reformer": "its attention hashes all places of a row, padding included",
    "switch_transformers": "its experts have a capacity, which the rows of a batch share",
    "nllb-moe": "its experts have a capacity, which the rows of a batch share",
}
"""Families whose rows depend on the rows beside them, with the reason."""
