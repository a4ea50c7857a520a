"""What the files beside tokenizer.json say of a tokenizer.

Knows no backend and no token ids.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfr_batch.errors import TokenizerError
from sfr_batch.format.fingerprint import digest
from sfr_batch.storage.local_files import read_text_file, sha256_of

NOT_ACTING = frozenset({"version", "truncation", "padding", "decoder"})
"""Parts of tokenizer.json that make no id: the version of its format, the truncation and padding of its author's last
call, which are switched off, and how ids become text again."""

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


def acting_parts(file: Path) -> dict[str, Any]:
    """The parts of tokenizer.json that make ids, by name, each as the SHA-256 of its canonical JSON; of any other
    ``file`` the SHA-256 of its bytes. Raises TokenizerError.
    """
    if file.suffix != ".json":
        return {file.name: sha256_of(file)}
    try:
        parts = json.loads(read_text_file(file) or "{}")
    except ValueError as error:
        raise TokenizerError(f"{file} is not valid JSON ({error}). Fetch the model again.") from error
    return {file.name: {part: digest(value) for part, value in parts.items() if part not in NOT_ACTING}}
