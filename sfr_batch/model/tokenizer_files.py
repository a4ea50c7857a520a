"""What the files beside tokenizer.json say of a tokenizer.

Knows no backend and no token ids.
"""

from collections.abc import Mapping
from typing import Any

LLAMA_TOKENIZERS = frozenset({"LlamaTokenizer", "LlamaTokenizerFast"})
LLAMA_MODELS = frozenset({"llama", "mistral"})
"""Types of models whose tokenizer is a Llama tokenizer where no file names its class."""


def special_token_flags(model_type: str, config: Mapping[str, Any]) -> tuple[bool | None, bool | None]:
    """Whether BOS and EOS are added, as (bos, eos); None leaves it to tokenizer.json.

    transformers 4 obeyed these flags and transformers 5 ignores them. For e5-mistral, the base of
    SFR-Embedding-Mistral, this was shown to lose EOS. Here a flag that is given is obeyed. If only one is given, the
    other has the default of the Llama classes (BOS yes, EOS no). If neither is given, tokenizer.json decides.
    """
    bos, eos = config.get("add_bos_token"), config.get("add_eos_token")
    kind = config.get("tokenizer_class")
    llama = kind in LLAMA_TOKENIZERS or (kind is None and model_type in LLAMA_MODELS)
    if llama and not (bos is None and eos is None):
        bos, eos = bos is not False, eos is True
    return bos, eos
