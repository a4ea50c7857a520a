"""What the classes of transformers 4 make of tokenizer.json: they take it as it is, with single settings changed.

From tokenization_utils_fast.py and models/*/tokenization_*_fast.py of 4.57.6, with the `tokenizers` package alone. Its
flags for BOS and EOS are in `tokenization.files`. Knows no recipe.
"""

import json
from collections.abc import Mapping
from typing import Any

from sfr_batch.errors import TokenizerError
from sfr_batch.model.tokenization import keys
from sfr_batch.model.tokenization.added_tokens import (
    DEFAULT_TOKENS,
    Source,
    Tokens,
    as_token,
    default_more,
    sentinels,
    text_of,
)
from sfr_batch.model.tokenization.files import JSON, TokenizerFiles

_DEFAULT_TOKENS: dict[str, dict[str, str | None]] = {
    "GPTNeoXTokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
    "GemmaTokenizer": {key: token for key, token in DEFAULT_TOKENS["GemmaTokenizer"].items() if key != "mask_token"},
    "CohereTokenizer": {"unk_token": "<UNK>", "bos_token": "<BOS_TOKEN>", "eos_token": "<|END_OF_TURN_TOKEN|>"},
    "BloomTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"},
    "MT5Tokenizer": DEFAULT_TOKENS["T5Tokenizer"],
}
"""Special tokens of the classes whose defaults are not those of transformers 5."""

_STRIPPING_MASK = frozenset(
    (
        *("MPNetTokenizer", "CamembertTokenizer", "BigBirdTokenizer"),
        *("RobertaTokenizer", "XLMRobertaTokenizer", "AlbertTokenizer"),
    )
)
"""Classes whose mask token takes the spaces before it, where no file says otherwise."""

_FROM_SLOW_4 = frozenset({"LlamaTokenizer", "T5Tokenizer", "MT5Tokenizer"})
"""Classes of transformers 4 that convert the slow tokenizer where add_prefix_space is given."""


def read_as_4(source: Source, files: TokenizerFiles) -> Any | None:
    """The same of transformers 4, its flags for BOS and EOS aside; None where it has no class or fails."""
    name = files.class_4
    if name is None:
        return None
    if name == "PreTrainedTokenizer":
        name = keys.GENERIC
    backend = source.copy()
    _add_tokens_4(source, files, backend, keys.CLASSES.get(name, name), name)
    given = files.flags.get("add_prefix_space")
    if given is not None and name in _FROM_SLOW_4 and given != _adds_prefix(source.raw):
        raise TokenizerError(
            f"{files.folder}/tokenizer_config.json: add_prefix_space is {json.dumps(given)}, but {JSON} says the "
            f"opposite, and transformers 4 and 5 read it in different ways for {name}. Remove add_prefix_space from a "
            f"copy of the file if {JSON} is right."
        )
    if name not in _FROM_SLOW_4:
        _set_prefix_4(backend, bool(given), deep=name in ("CohereTokenizer", "BloomTokenizer"))
    if keys.CLASSES.get(name) in ("BertTokenizer", "MPNetTokenizer"):
        return _set_bert_flags_4(backend, files, name)
    return backend


def _set_prefix_4(backend: Any, given: bool, *, deep: bool) -> None:
    """add_prefix_space as tokenization_utils_fast.py sets it: only where the pre-tokenizer has it at its top."""
    import tokenizers

    if backend.pre_tokenizer is None:
        return
    state = json.loads(backend.pre_tokenizer.__getstate__())
    if deep and given:
        state = _replaced(state, given)
    elif state.get("add_prefix_space", given) != given:
        state["add_prefix_space"] = given
    else:
        return
    whole = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": state,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    backend.pre_tokenizer = tokenizers.Tokenizer.from_str(json.dumps(whole)).pre_tokenizer


def _replaced(state: Any, given: bool) -> Any:
    if isinstance(state, dict):
        return {k: given if k == "add_prefix_space" else _replaced(v, given) for k, v in state.items()}
    return [_replaced(item, given) for item in state] if isinstance(state, list) else state


def _set_bert_flags_4(backend: Any, files: TokenizerFiles, name: str) -> Any | None:
    import tokenizers

    if backend.normalizer is None:
        return None
    state = json.loads(backend.normalizer.__getstate__())
    flags = {
        "lowercase": files.flags.get("do_lower_case", True),
        "strip_accents": files.flags.get("strip_accents"),
        "handle_chinese_chars": files.flags.get("tokenize_chinese_chars", True),
    }
    if name == "MPNetTokenizer":
        del flags["handle_chinese_chars"]
    if any(state.get(key, flag) != flag for key, flag in flags.items()):
        if state.pop("type") != "BertNormalizer":
            return None
        backend.normalizer = tokenizers.normalizers.BertNormalizer(**{**state, **flags})
    return backend


def _adds_prefix(raw: Mapping[str, Any]) -> bool:
    """Whether tokenizer.json puts a space before a text."""
    parts = json.dumps([raw.get("normalizer"), raw.get("pre_tokenizer")])
    return any(
        shown in parts
        for shown in (
            '"Prepend"',
            '"prepend_scheme": "always"',
            '"prepend_scheme": "first"',
            '"add_prefix_space": true',
        )
    )


def _add_tokens_4(source: Source, files: TokenizerFiles, backend: Any, kind: str, name: str) -> None:
    """As `PreTrainedTokenizerFast.__init__` of transformers 4."""
    defaults = _DEFAULT_TOKENS.get(name, DEFAULT_TOKENS[kind])
    tokens = Tokens(source, files, defaults, kind in _STRIPPING_MASK)
    to_add = tokens.missing(backend)
    present = {token.content for token in backend.get_added_tokens_decoder().values()}
    encoder = [*present, *(token.content for token in to_add)]
    named = list(tokens.named.values())
    more = default_more(files, name, tokens.more)
    if name in ("T5Tokenizer", "MT5Tokenizer") and not any("<extra_id_" in text_of(token) for token in more):
        more = [*more, *sentinels(files)]
    named += more
    named += tokens.by_name.values()
    for value in named:
        # An AddedToken is no text of this set, and is added again, with its own options: as the reference does it.
        if value not in encoder and value not in to_add:
            to_add.append(value)
    special = {text_of(value) for value in named}
    finished = [as_token(value) for value in to_add]
    for token in finished:
        token.special = token.special or token.content in special
    source.add(backend, finished)
