"""Keys of config.json: those that change no vector, the JSON types of the common ones, and activations by name.

Refuses what transformers would refuse later with an error of its own, or accept and compute something else. Knows no
files but the one it is told of, and imports neither torch nor transformers.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from sfr_batch.errors import ModelError

_DROPOUTS = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "hidden_dropout", "dropout"),
    *("classifier_dropout", "classifier_dropout_prob", "seq_classif_dropout", "qa_dropout", "dropout_rate"),
    *("embd_pdrop", "resid_pdrop", "attn_pdrop", "embedding_dropout", "mlp_dropout", "activation_dropout"),
    *("embed_dropout", "resid_dropout", "embd_dropout", "layerdrop"),
)
_DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")
_REASONS: Mapping[str, Iterable[str]] = {
    "where the file comes from, and which library wrote it": ("_name_or_path", "transformers_version", "_commit_hash"),
    "the dtype of the weights on disk; they are loaded in that of model.dtype": ("dtype", "torch_dtype"),
    "dropout, which does nothing outside of training": _DROPOUTS,
    "initial values of weights, all of which are loaded": ("initializer_range", "initializer_factor", "init_std"),
    "memory in training": ("gradient_checkpointing",),
    "labels and losses of heads, of which none is loaded": (
        *("id2label", "label2id", "num_labels", "problem_type", "finetuning_task", "task_specific_params"),
        *("router_aux_loss_coef",),
    ),
    # transformers 5.24 drops them from config.json (configuration_utils.py: _get_default_generation_params).
    "settings of generated text, and no text is generated": (
        *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "temperature", "top_k", "top_p"),
        *("typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "bad_words_ids"),
        *("encoder_no_repeat_ngram_size", "num_return_sequences", "output_scores", "return_dict_in_generate"),
        *("forced_bos_token_id", "forced_eos_token_id", "remove_invalid_values", "suppress_tokens"),
        *("exponential_decay_length_penalty", "begin_suppress_tokens"),
    ),
    # `encoder.loading` sets them itself.
    "what is returned beside the last hidden states, or kept for a next token": (
        *("output_attentions", "output_hidden_states", "return_dict", "use_cache"),
    ),
}
HARMLESS: Mapping[str, str] = {key: reason for reason, keys in _REASONS.items() for key in keys}
"""Keys of config.json that change no vector, each with the reason. All others are part of the fingerprint."""

_COUNTS = (
    *("hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim", "embedding_size", "vocab_size"),
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    *("num_attention_heads", "n_head", "n_heads", "num_heads"),
    *("max_position_embeddings", "n_positions"),
)
"""Whole numbers of at least 1."""
_COUNTS_OR_NULL = ("num_key_value_heads", "head_dim", "n_inner", "sliding_window", "intermediate_size", "hidden_dim")
"""Whole numbers of at least 1, or null for the default of the family."""
_NUMBERS = (
    *("layer_norm_eps", "layer_norm_epsilon", "layernorm_epsilon", "rms_norm_eps", "norm_eps", "norm_epsilon"),
    *("rope_theta", "rotary_emb_base", "partial_rotary_factor", "rotary_pct", "attention_multiplier"),
)
"""Numbers above 0, whole or not, or lists of them by layer in some families."""

ACTIVATIONS = frozenset(
    {
        *("gelu", "gelu_10", "gelu_accurate", "gelu_fast", "gelu_new", "gelu_python", "gelu_python_tanh"),
        *("gelu_pytorch_tanh", "quick_gelu", "relu", "relu2", "relu6", "leaky_relu", "prelu", "sigmoid", "silu"),
        *("swish", "hardswish", "mish", "tanh", "linear", "laplace", "sqrtsoftplus", "xielu"),
    }
)
"""Names of activations in transformers 5.24 (activations.py: ACT2CLS)."""
_ACTIVATION_KEYS = ("hidden_act", "hidden_activation", "activation_function", "feed_forward_proj")


def check_values(file: str, config: Mapping[str, Any]) -> None:
    """Raises ModelError for a well-known key of config.json whose value has a wrong JSON type or cannot be.

    file: the name of the file for the error.
    """
    architectures = config.get("architectures")
    if architectures is not None and not _is_list_of_texts(architectures):
        raise _wrong(file, "architectures", architectures, "a list of class names")
    for key in itertools.chain(_COUNTS, _COUNTS_OR_NULL):
        value = config.get(key)
        if key not in config or (value is None and key in _COUNTS_OR_NULL):
            continue
        if isinstance(value, list) and key in _COUNTS_OR_NULL:  # one value a layer, in some families
            continue
        if (key, value, config.get("model_type")) == ("max_position_embeddings", -1, "xlnet"):  # it has none
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise _wrong(file, key, value, "a whole number of at least 1")
    for key in _NUMBERS:
        value = config.get(key)
        if value is None or isinstance(value, list):
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise _wrong(file, key, value, "a number above 0")
    for key in _DROPOUTS:
        value = config.get(key)
        if isinstance(value, int | float) and not 0 <= value <= 1:  # transformers builds the layers, although none acts
            raise _wrong(file, key, value, "a share from 0 to 1")
    for key in ("dtype", "torch_dtype"):
        if config.get(key) not in (None, *_DTYPES):
            raise _wrong(file, key, config[key], f"one of {', '.join(_DTYPES)}")
    padding = config.get("pad_token_id")
    if padding is not None and (not isinstance(padding, int) or isinstance(padding, bool)):
        raise _wrong(file, "pad_token_id", padding, "a whole number or null")
    for key in _ACTIVATION_KEYS:
        name = config.get(key)
        if name is not None and not (isinstance(name, str) and name.removeprefix("gated-") in ACTIVATIONS):
            raise _wrong(file, key, name, f"one of {', '.join(sorted(ACTIVATIONS))}")


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _wrong(file: str, key: str, value: Any, wanted: str) -> ModelError:
    return ModelError(
        f"{file} has {key} {value!r}, which is not {wanted}. Correct {key} as the model's authors published it, or "
        "fetch the model again."
    )
