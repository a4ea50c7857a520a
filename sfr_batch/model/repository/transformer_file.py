"""What sentence_bert_config.json, or one of its older names, says of the transformer and the tokenizer.

Every key of versions 2 to 6 is in a table here: obeyed, or known to change no vector; all others are refused by name.
Knows no architecture and no tokenizer. What it says of the reference is true of sentence-transformers 6.2
(base/modules/transformer.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfr_batch.errors import ModelError
from sfr_batch.model.repository import keys
from sfr_batch.model.repository.folder import TRANSFORMER_FILES, read_object
from sfr_batch.model.repository.keys import Key, check_keys

_ELSEWHERE = "sentence-transformers replaces it when it loads a model"
_FETCHING: keys.Table = {
    name: Key(keys.ANYTHING, _ELSEWHERE, null=True)
    for name in ("trust_remote_code", "revision", "token", "cache_dir", "local_files_only")
} | {"subfolder": Key(keys.TEXT, _ELSEWHERE, only=("",))}
_DTYPE = Key(keys.TEXT, "model.dtype decides", null=True, only=("auto", "float32", "bfloat16", "float16"))
_KERNEL = Key(
    keys.TEXT,
    "it chooses how attention is computed, up to rounding",
    null=True,
    only=("eager", "sdpa", "flash_attention_2", "flash_attention_3"),
)
MODEL: keys.Table = {
    **_FETCHING,
    "torch_dtype": _DTYPE,
    "dtype": _DTYPE,
    "attn_implementation": _KERNEL,
    "low_cpu_mem_usage": Key(keys.FLAG, "how weights are loaded", null=True),
    "use_safetensors": Key(keys.FLAG, "pickled weights are never loaded", null=True, only=(True,)),
    "add_pooling_layer": Key(keys.FLAG, "the pooler of transformers is not used"),
}
"""Keys of model_kwargs, which transformers gets when it loads the weights."""
CONFIG: keys.Table = {
    **_FETCHING,
    "torch_dtype": _DTYPE,
    "dtype": _DTYPE,
    "attn_implementation": _KERNEL,
    "use_cache": Key(keys.FLAG, "keys and values are not kept between calls"),
    "output_attentions": Key(keys.FLAG, "what is returned beside the hidden states"),
    "output_hidden_states": Key(keys.FLAG, "what is returned beside the last hidden states"),
}
"""Keys of config_kwargs, which replace those of config.json."""
PROCESSOR: keys.Table = {
    **_FETCHING,
    "model_max_length": Key(keys.SIZE, "the most tokens of a row"),
    "use_fast": Key(keys.FLAG, "transformers 5 ignores it", null=True),
    "padding_side": Key(keys.TEXT, "padding on the left moves the positions of some models", only=("right",)),
    "truncation_side": Key(keys.TEXT, "rows are cut at their end", only=("right",)),
    "clean_up_tokenization_spaces": Key(keys.FLAG, "acts when ids are turned into text", null=True),
}
"""Keys of processor_kwargs, which transformers gets when it loads the tokenizer."""
CALL: keys.Table = {
    "max_length": Key(keys.SIZE, "the most tokens of a row, whatever else is said"),
    "padding": Key(keys.ANYTHING, "padding is masked", only=(True, "longest", "max_length")),
    "truncation": Key(keys.ANYTHING, "rows are cut", only=(True, "longest_first", "only_first")),
    "add_special_tokens": Key(keys.FLAG, "special tokens are added", only=(True,)),
    "logits_to_keep": Key(keys.WHOLE, "acts on logits, which an embedding has not"),
}
"""Keys of processing_kwargs.text, which the tokenizer gets with each call."""
_OTHER_MODALITY = Key(keys.OBJECT, "acts on inputs that are not texts")
PROCESSING: keys.Table = {
    "text": Key(keys.OBJECT, "see CALL"),
    "common": Key(keys.OBJECT, "replaces arguments of the tokenizer", only=({},)),
    "chat_template": Key(keys.OBJECT, "a text is not put into a chat template"),
    "audio": _OTHER_MODALITY,
    "image": _OTHER_MODALITY,
    "video": _OTHER_MODALITY,
}
"""Keys of processing_kwargs."""
_TEXT_MODALITY = [
    {"text": {"method": "forward", "method_output_name": name}} for name in ("last_hidden_state", ["last_hidden_state"])
]
_LENGTH = Key(keys.SIZE, "the most tokens of a row of one side", null=True)
TRANSFORMER: keys.Table = {
    "max_seq_length": Key(keys.SIZE, "the most tokens of a row", null=True),
    "do_lower_case": Key(keys.FLAG, "whether texts are lowercased before the tokenizer normalizes them"),
    "model_args": Key(keys.OBJECT, "see MODEL"),
    "model_kwargs": Key(keys.OBJECT, "see MODEL"),
    "tokenizer_args": Key(keys.OBJECT, "see PROCESSOR"),
    "processor_kwargs": Key(keys.OBJECT, "see PROCESSOR"),
    "config_args": Key(keys.OBJECT, "see CONFIG"),
    "config_kwargs": Key(keys.OBJECT, "see CONFIG"),
    "processing_kwargs": Key(keys.OBJECT, "see PROCESSING", null=True),
    "transformer_task": Key(keys.TEXT, "only hidden states become embeddings here", only=("feature-extraction",)),
    "modality_config": Key(
        keys.OBJECT, "only texts are embedded, from the last hidden states", only=tuple(_TEXT_MODALITY)
    ),
    "module_output_name": Key(keys.TEXT, "only hidden states of tokens are pooled", only=("token_embeddings",)),
    "unpad_inputs": Key(keys.FLAG, "whether batches are padded", null=True),
    "query_length": _LENGTH,
    "document_length": _LENGTH,
    "query_expansion": Key(keys.NOTHING, "queries are not filled with mask tokens"),
    "tokenizer_name_or_path": Key(keys.NOTHING, "the tokenizer is that of the model folder"),
}
"""Keys of the file."""
_PARTS: Mapping[str, keys.Table] = {
    "model_args": MODEL,
    "model_kwargs": MODEL,
    "tokenizer_args": PROCESSOR,
    "processor_kwargs": PROCESSOR,
    "config_args": CONFIG,
    "config_kwargs": CONFIG,
    "processing_kwargs": PROCESSING,
}


@dataclass(frozen=True)
class TransformerFile:
    """What the file says."""

    max_length: int | None
    """Most tokens of a row; None if it does not say."""
    key: str
    """The key that says so."""
    file: Path
    """The file that was read, or the first of those that are not there."""
    lowercase: bool
    """Whether texts are lowercased before the tokenizer's own normalizer, unless that lowercases by itself."""


def read_transformer_file(folder: Path) -> TransformerFile:
    """What the first of the files that is not empty says; nothing without one. Raises ModelError."""
    for name in TRANSFORMER_FILES:
        file = folder / name
        found = read_object(file)
        if found:
            return _read(file, found)
    return TransformerFile(None, "max_seq_length", folder / TRANSFORMER_FILES[0], lowercase=False)


def _read(file: Path, found: Mapping[str, Any]) -> TransformerFile:
    check_keys(file, found, TRANSFORMER)
    for name, table in _PARTS.items():
        check_keys(file, found.get(name) or {}, table, f"{name}.")
    call = (found.get("processing_kwargs") or {}).get("text", {})
    check_keys(file, call, CALL, "processing_kwargs.text.")
    length, key = found.get("max_seq_length"), "max_seq_length"
    part = "tokenizer_args" if "tokenizer_args" in found else "processor_kwargs"  # of two, the older one counts
    if "model_max_length" in found.get(part, {}):
        length, key = found[part]["model_max_length"], f"{part}.model_max_length"
    if "max_length" in call:
        length, key = call["max_length"], "processing_kwargs.text.max_length"
    else:
        length, key = _length_of_sides(file, found, length, key)
    return TransformerFile(length, key, file, lowercase=found.get("do_lower_case", False))


def _length_of_sides(file: Path, found: Mapping[str, Any], length: int | None, key: str) -> tuple[int | None, str]:
    """The length of queries and documents, which each side may replace."""
    sides = {found.get(name) or length for name in ("query_length", "document_length")}
    if sides == {length}:
        return length, key
    if len(sides) > 1:
        raise ModelError(
            f"{file} gives queries and documents different lengths (query_length {found.get('query_length')}, "
            f"document_length {found.get('document_length')}, {key} {length}), which is not supported. Use a model "
            "that cuts both alike, or a copy of this one that does."
        )
    return sides.pop(), "document_length"
