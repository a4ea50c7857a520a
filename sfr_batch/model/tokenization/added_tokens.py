"""The special tokens of a tokenizer, and tokenizer.json as the `tokenizers` package reads it.

What both readings (`tokenization.v4`, `tokenization.v5`) have in common. Knows no class but by its table of defaults.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sfr_batch.model.tokenization import keys
from sfr_batch.model.tokenization.files import Token, TokenizerFiles

_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_SENTENCE_TOKENS = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_END_OF_TEXT = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")
_DEBERTA_TOKENS = {**_BERT_TOKENS, "bos_token": "[CLS]", "eos_token": "[SEP]"}
DEFAULT_TOKENS: dict[str, dict[str, str | None]] = {
    keys.GENERIC: {},
    "BertTokenizer": {**_BERT_TOKENS},
    "MPNetTokenizer": {**_SENTENCE_TOKENS, "unk_token": "[UNK]"},
    "RobertaTokenizer": {**_SENTENCE_TOKENS},
    "XLMRobertaTokenizer": {**_SENTENCE_TOKENS},
    "CamembertTokenizer": {**_SENTENCE_TOKENS},
    "AlbertTokenizer": {**_DEBERTA_TOKENS, "unk_token": "<unk>", "pad_token": "<pad>"},
    "T5Tokenizer": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "DebertaV2Tokenizer": {**_DEBERTA_TOKENS},
    "DebertaTokenizer": {**_DEBERTA_TOKENS},
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "GemmaTokenizer": {
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    },
    "CohereTokenizer": {
        "unk_token": "<UNK>",
        "bos_token": "<BOS_TOKEN>",
        "eos_token": "<|END_OF_TURN_TOKEN|>",
        "pad_token": "<PAD>",
        "cls_token": "<CLS>",
        "sep_token": "<SEP>",
        "mask_token": "<MASK_TOKEN>",
    },
    "Qwen2Tokenizer": {**_END_OF_TEXT, "bos_token": None, "pad_token": "<|endoftext|>"},
    "Qwen3_5Tokenizer": {**_END_OF_TEXT, "bos_token": None, "pad_token": "<|endoftext|>"},
    "GPT2Tokenizer": {**_END_OF_TEXT},
    "GPTNeoXTokenizer": {**_END_OF_TEXT, "pad_token": "<|padding|>"},
    "BigBirdTokenizer": {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
        "cls_token": "[CLS]",
    },
}
"""Special tokens of each class of transformers 5 where no file names others."""


@dataclass(frozen=True)
class Source:
    """tokenizer.json: as JSON, and as the package reads it."""

    raw: Mapping[str, Any]
    """The file."""
    backend: Any
    """The `tokenizers.Tokenizer` of the file; never changed."""
    rows: int | None = None
    """Ids that the model has an embedding for: 0 to rows - 1; None where config.json does not say."""

    def copy(self) -> Any:
        """A tokenizer of its own that acts as the file says. It shares the vocabulary."""
        import tokenizers

        copy = tokenizers.Tokenizer(self.backend.model)
        for part in ("normalizer", "pre_tokenizer", "post_processor"):
            if (value := getattr(self.backend, part)) is not None:
                setattr(copy, part, value)
        self.add(copy, [added_token(token) for token in self.raw.get("added_tokens") or []])
        return copy

    def add(self, backend: Any, tokens: list[Any]) -> None:
        """Add tokens to a backend, but those that would get an id that the model has no embedding for.

        Their texts are plain text then. transformers adds them, too, and the model fails on such a text.
        """
        known, size = [], backend.get_vocab_size()
        for token in tokens:
            if backend.token_to_id(token.content) is None:
                if self.rows is not None and size >= self.rows:
                    continue
                size += 1
            known.append(token)
        backend.add_tokens(known)


def added_token(token: Mapping[str, Any], **more: Any) -> Any:
    """The `tokenizers.AddedToken` of a token as its file spells it, or with other options."""
    import tokenizers

    return tokenizers.AddedToken(**{**{key: value for key, value in token.items() if key != "id"}, **more})


def _value(token: Token | None) -> Any:
    """As transformers has it: a text, or an AddedToken where more than the text is known."""
    if token is None or len(token) == 1:
        return None if token is None else token["content"]
    return added_token(token)


def text_of(value: Any) -> str:
    """The text of a token, which may be an AddedToken."""
    return value if isinstance(value, str) else str(value.content)


class Tokens:
    """The special and added tokens of one reading."""

    def __init__(
        self, source: Source, files: TokenizerFiles, defaults: Mapping[str, str | None], stripping_mask: bool
    ) -> None:
        values = {**defaults, **{key: _value(token) for key, token in files.named.items()}}
        padding = source.raw.get("padding")
        if padding and not defaults:
            values.setdefault("pad_token", padding.get("pad_token"))
        more = None if files.more is None else [_value(token) for token in files.more]
        self.more: list[Any] | None = more
        self.by_key = {name: _value(token) for name, token in files.by_key.items()}
        self.by_name = {name: _value(token) for name, token in files.by_name.items()}
        special = {text_of(value) for value in (*values.values(), *(more or ())) if value is not None}
        self.added: dict[int, Any] = {}
        if files.added is not None:
            self.added = {number: added_token(token) for number, token in files.added.items()}
        else:
            for content, number in files.added_file.items():
                is_special = content in special
                self.added[number] = added_token({"content": content}, normalized=not is_special, special=is_special)
            for token in source.raw.get("added_tokens") or []:
                self.added[token["id"]] = added_token(token)
        known = {token.content: token for token in self.added.values()}
        self.named: dict[str, Any] = {
            key: known.get(text_of(value), value) for key in keys.TOKENS if (value := values.get(key)) is not None
        }
        mask = self.named.get("mask_token")
        if stripping_mask and isinstance(mask, str):
            self.named["mask_token"] = added_token({"content": mask}, lstrip=True)

    def missing(self, backend: Any) -> list[Any]:
        """Those of `added` that the backend has not, or has with other options."""
        present = {repr(token) for token in backend.get_added_tokens_decoder().values()}
        return [token for _, token in sorted(self.added.items()) if repr(token) not in present]


def as_token(value: Any) -> Any:
    """An AddedToken; of a text a special one."""
    return added_token({"content": value}, special=True) if isinstance(value, str) else value


def sentinels(files: TokenizerFiles) -> list[str]:
    """The special tokens that the classes of T5 add where no file lists any."""
    number = files.flags.get("extra_ids", 100)
    return [f"<extra_id_{place}>" for place in range(number)]


def default_more(files: TokenizerFiles, name: str, more: list[Any] | None) -> list[Any]:
    """The special tokens without a name, of a class of transformers 4."""
    if more is None and name == "CamembertTokenizer":
        return ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]
    if more is None and name in ("T5Tokenizer", "MT5Tokenizer"):
        return list(sentinels(files))
    return more or []
