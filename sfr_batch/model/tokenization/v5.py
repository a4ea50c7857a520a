"""What the classes of transformers 5 make of tokenizer.json.

Most of them take the vocabulary and the post-processor of tokenizer.json and make the rest anew from flags
(tokenization_utils_tokenizers.py and models/*/tokenization_*.py of 5.24). Here this is done with the `tokenizers`
package alone. Knows no recipe.
"""

import base64
import json
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from sfr_batch.errors import TokenizerError
from sfr_batch.model.tokenization import keys
from sfr_batch.model.tokenization.added_tokens import (
    DEFAULT_TOKENS,
    Source,
    Tokens,
    added_token,
    as_token,
    sentinels,
    text_of,
)
from sfr_batch.model.tokenization.files import JSON, TokenizerFiles

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN3_5 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
_SPACE = "▁"

_STRIPPING_MASK = frozenset({"MPNetTokenizer", "CamembertTokenizer", "BigBirdTokenizer"})
"""Classes whose mask token takes the spaces before it, where no file says otherwise."""


def read_as_5(source: Source, files: TokenizerFiles) -> tuple[Any, bool]:
    """The `tokenizers.Tokenizer` of the class of transformers 5, and whether its model is that of tokenizer.json.

    Raises TokenizerError where the class does not fit.
    """
    build = _Build(source, files)
    if files.class_5 == keys.GENERIC:
        build.backend = source.copy()
        build.add_tokens()
    else:
        kind, make = _MAKERS[files.class_5]
        model = source.raw.get("model", {})
        if model.get("type", kind) != kind:
            raise TokenizerError(
                f"{files.folder / JSON} has a model of type {model['type']}, but {files.class_5} (tokenizer_class in "
                f"tokenizer_config.json or config.json) reads one of type {kind}. Use the tokenizer files of the "
                "model's own repository."
            )
        try:
            make(build)
        except TokenizerError:
            raise
        except Exception as error:  # the package raises bare Exception
            raise TokenizerError(
                f"{files.folder / JSON} cannot be read as a {files.class_5} ({error}). Use the tokenizer files of the "
                "model's own repository."
            ) from error
    return build.backend, build.same_model


class _Build:
    """A tokenizer of transformers 5 in the making."""

    def __init__(self, source: Source, files: TokenizerFiles) -> None:
        self.source = source
        self.files = files
        kind = files.class_5
        self.tokens = Tokens(source, files, DEFAULT_TOKENS[kind], kind in _STRIPPING_MASK)
        self.backend: Any = None
        self.same_model = True

    def flag(self, name: str, default: Any) -> Any:
        """A flag of tokenizer_config.json."""
        return self.files.flags.get(name, default)

    def text(self, key: str) -> str:
        """The text of a named special token. Raises TokenizerError where the file says null."""
        if key not in self.tokens.named:
            raise TokenizerError(
                f"{self.files.folder}/tokenizer_config.json: {key} is null, but {self.files.class_5} needs it. Use "
                "the tokenizer files of the model's own repository."
            )
        return text_of(self.tokens.named[key])

    def id(self, token: str) -> int:
        """The id of a token."""
        number = self.backend.token_to_id(token)
        if number is None:
            keys = [key for key, its in self.tokens.named.items() if its and text_of(its) == token]
            raise TokenizerError(
                f"{self.files.folder}: the special token {token!r} ({', '.join(keys) or 'of the class'}) is not in "
                f"{JSON}. Use the tokenizer files of the model's own repository."
            )
        return int(number)

    def model(self, **options: Any) -> None:
        """A tokenizer of nothing but the vocabulary, with these options in place of those of tokenizer.json."""
        import tokenizers

        model = dict(self.source.raw["model"])
        kind, defaults = _MAKERS[self.files.class_5][0], _MODEL_DEFAULTS
        wanted = {**defaults[kind], **options}
        given = {key: model.get(key) for key in wanted}
        for key in ("continuing_subword_prefix", "end_of_word_suffix"):
            if given.get(key) is None and key in given:
                given[key] = defaults[kind][key]
        for key in ("byte_fallback", "fuse_unk", "ignore_merges"):
            if key in given:
                given[key] = bool(given[key])
        if given == wanted:
            self.backend = tokenizers.Tokenizer(self.source.backend.model)
        else:
            self.same_model = False
            whole = {"version": "1.0", "added_tokens": [], "model": {**model, **wanted, "type": kind}}
            self.backend = tokenizers.Tokenizer.from_str(json.dumps(whole))
        if self.source.backend.post_processor is not None:
            self.backend.post_processor = self.source.backend.post_processor

    def parts(self, normalizer: Any, pre_tokenizer: Any) -> None:
        """Sets both; they must be there before tokens are added."""
        if normalizer is not None:
            self.backend.normalizer = normalizer
        self.backend.pre_tokenizer = pre_tokenizer

    def add_tokens(self, more: list[str] | None = None) -> None:
        """As `TokenizersBackend.__init__` does. more: tokens without a name where no file lists any."""
        tokens = self.tokens
        to_add = tokens.missing(self.backend)
        present = {token.content for token in self.backend.get_added_tokens_decoder().values()}
        encoder = present | {token.content for token in to_add}
        named = [*tokens.named.values(), *tokens.by_key.values(), *tokens.by_name.values()]
        for value in [*named, *((tokens.more if tokens.more is not None else more) or [])]:
            if text_of(value) not in encoder:
                to_add.append(value)
                encoder.add(text_of(value))
        special = {text_of(value) for value in named}
        finished = [as_token(value) for value in to_add]
        for token in finished:
            token.special = token.special or token.content in special
        self.source.add(self.backend, finished)

    def template(self, single: str | list[str], ids: Mapping[str, int]) -> None:
        """Sets what stands around a text."""
        import tokenizers

        self.backend.post_processor = tokenizers.processors.TemplateProcessing(
            single=single, special_tokens=list(ids.items())
        )

    @cached_property
    def charsmap(self) -> list[Any]:
        """The first precompiled normalizer of tokenizer.json, or none."""
        import tokenizers

        normalizer = self.source.raw.get("normalizer") or {}
        for part in normalizer.get("normalizers", [normalizer]):
            if part.get("type") == "Precompiled" and "precompiled_charsmap" in part:
                return [tokenizers.normalizers.Precompiled(base64.b64decode(part["precompiled_charsmap"]))]
        return []


_MODEL_DEFAULTS: dict[str, dict[str, Any]] = {
    "WordPiece": {"unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100},
    "BPE": {
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    },
    "Unigram": {"unk_id": 0, "byte_fallback": False},
}


def _bert(build: _Build) -> None:
    import tokenizers

    build.model(unk_token=build.text("unk_token"))
    build.parts(
        tokenizers.normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=build.flag("tokenize_chinese_chars", True),
            strip_accents=build.flag("strip_accents", None),
            lowercase=build.flag("do_lower_case", True),
        ),
        tokenizers.pre_tokenizers.BertPreTokenizer(),
    )
    build.add_tokens()
    first, last = build.text("cls_token"), build.text("sep_token")
    if build.files.class_5 == "MPNetTokenizer":
        build.backend.post_processor = tokenizers.processors.RobertaProcessing(
            (last, build.id(last)), (first, build.id(first)), True, False
        )
    else:
        build.template(f"{first}:0 $A:0 {last}:0", {first: build.id(first), last: build.id(last)})


def _roberta(build: _Build) -> None:
    _byte_level(build)
    import tokenizers

    first, last = build.text("cls_token"), build.text("sep_token")
    build.backend.post_processor = tokenizers.processors.RobertaProcessing(
        (last, build.id(last)), (first, build.id(first)), True, build.flag("add_prefix_space", False)
    )


def _byte_level(build: _Build) -> None:
    import tokenizers

    build.model()
    normalizer = tokenizers.normalizers.NFC() if build.files.class_5 == "GPTNeoXTokenizer" else None
    build.parts(normalizer, tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=build.flag("add_prefix_space", False)))
    build.add_tokens()


def _gpt_neox(build: _Build) -> None:
    _byte_level(build)
    build.template("$A:0", {})


def _deberta(build: _Build) -> None:
    _byte_level(build)
    first, last = build.text("cls_token"), build.text("sep_token")
    build.template(f"{first} $A {last}", {first: build.id(first), last: build.id(last)})


def _qwen(build: _Build) -> None:
    import tokenizers

    own = build.files.class_5 == "Qwen2Tokenizer"
    build.model()
    build.parts(
        tokenizers.normalizers.NFC(),
        tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Split(
                    tokenizers.Regex(_QWEN2 if own else _QWEN3_5), behavior="isolated", invert=False
                ),
                tokenizers.pre_tokenizers.ByteLevel(
                    add_prefix_space=build.flag("add_prefix_space", False), use_regex=False
                ),
            ]
        ),
    )
    build.add_tokens()
    if own:
        tokens = build.tokens
        named = [*tokens.named.values(), *tokens.by_key.values(), *tokens.by_name.values(), *(tokens.more or [])]
        build.source.add(build.backend, [added_token({"content": text_of(value)}, special=True) for value in named])


def _cohere(build: _Build) -> None:
    import tokenizers

    build.model()
    build.parts(
        tokenizers.normalizers.NFC(),
        tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Digits(individual_digits=True),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=build.flag("add_prefix_space", False)),
            ]
        ),
    )
    build.add_tokens()
    tokens = build.tokens
    named = [*tokens.named.values(), *tokens.by_key.values(), *tokens.by_name.values(), *(tokens.more or [])]
    build.source.add(
        build.backend,
        [
            added_token({"content": value}, special=True, normalized=False) if isinstance(value, str) else value
            for value in named
        ],
    )


def _llama(build: _Build) -> None:
    import tokenizers

    build.model(fuse_unk=True, byte_fallback=True)
    scheme = "never"
    if build.flag("add_prefix_space", True):
        scheme = "always" if build.flag("legacy", False) else "first"
    build.parts(None, tokenizers.pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme, split=False))
    build.add_tokens()


def _gemma(build: _Build) -> None:
    import tokenizers

    build.model(unk_token=build.text("unk_token"), fuse_unk=True, byte_fallback=True)
    build.parts(
        tokenizers.normalizers.Replace(" ", _SPACE),
        tokenizers.pre_tokenizers.Split(pattern=" ", behavior="merged_with_previous", invert=False),
    )
    build.add_tokens()


def _metaspace(build: _Build, *, words: bool, without: str = "never") -> Any:
    """Metaspace by add_prefix_space. words: split at white space before. without: where no space is put before."""
    import tokenizers

    scheme = "always" if build.flag("add_prefix_space", True) else without
    spaces = tokenizers.pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme=scheme)
    if not words:
        return spaces
    return tokenizers.pre_tokenizers.Sequence([tokenizers.pre_tokenizers.WhitespaceSplit(), spaces])


def _xlm_roberta(build: _Build) -> None:
    camembert = build.files.class_5 == "CamembertTokenizer"
    unknown = _place(build, build.text("unk_token"), None, 0) if camembert else 3
    build.model(unk_id=unknown)
    build.parts(build.charsmap[0] if build.charsmap else None, _metaspace(build, words=True))
    build.add_tokens(["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"] if camembert else None)
    first, last = build.text("bos_token"), build.text("eos_token")
    build.template([first, "$A", last], {first: build.id(first), last: build.id(last)})


def _place(build: _Build, token: str, score: float | None, default: int) -> int:
    """The place of a token in the vocabulary of a Unigram model, where it has this score."""
    pieces = build.source.raw["model"]["vocab"]
    found = (i for i, (piece, own) in enumerate(pieces) if piece == token and score in (None, own))
    return next(found, default)


def _t5(build: _Build) -> None:
    import tokenizers

    build.model(unk_id=2)
    spaces = tokenizers.pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="always", split=True)
    split = tokenizers.pre_tokenizers.Sequence([tokenizers.pre_tokenizers.WhitespaceSplit(), spaces])
    build.parts(build.charsmap[0] if build.charsmap else None, split)
    build.add_tokens(sentinels(build.files))
    build.template(["$A", "</s>"], {"</s>": build.id(build.text("eos_token"))})


def _albert(build: _Build) -> None:
    import tokenizers

    build.model(unk_id=1)
    normalizers = tokenizers.normalizers
    some: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    some += [] if build.flag("keep_accents", False) else [normalizers.NFKD(), normalizers.StripAccents()]
    some += [normalizers.Lowercase()] if build.flag("do_lower_case", True) else []
    build.parts(normalizers.Sequence([*some, *build.charsmap]), _metaspace(build, words=True))
    first, last = build.id(build.text("cls_token")), build.id(build.text("sep_token"))
    build.add_tokens()
    build.template("[CLS]:0 $A:0 [SEP]:0", {"[CLS]": first, "[SEP]": last})


def _deberta_v2(build: _Build) -> None:
    import tokenizers

    build.model(unk_id=_place(build, build.text("unk_token"), 0.0, build.flag("unk_id", 1)))
    normalizers = tokenizers.normalizers
    some: list[Any] = [normalizers.Lowercase()] if build.flag("do_lower_case", False) else []
    some += [
        normalizers.Replace(tokenizers.Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        normalizers.Strip(left=False, right=True),
    ]
    punctuation = [tokenizers.pre_tokenizers.Punctuation(behavior="isolated")]
    split = punctuation if build.flag("split_by_punct", False) else []
    build.parts(
        normalizers.Sequence(some),
        tokenizers.pre_tokenizers.Sequence([*split, _metaspace(build, words=False, without="first")]),
    )
    build.add_tokens()
    first, last = build.text("cls_token"), build.text("sep_token")
    build.template(f"{first}:0 $A:0 {last}:0", {first: build.id(first), last: build.id(last)})


def _big_bird(build: _Build) -> None:
    import tokenizers

    build.model(unk_id=_place(build, build.text("unk_token"), 0.0, 100))
    normalizers = tokenizers.normalizers
    build.parts(
        normalizers.Sequence(
            [normalizers.Strip(left=False, right=False), normalizers.Replace(tokenizers.Regex(r" {2,}"), _SPACE)]
        ),
        _metaspace(build, words=False),
    )
    build.add_tokens()
    first, last = build.text("cls_token"), build.text("sep_token")
    build.template(f"{first}:0 $A:0 {last}:0", {first: build.id(first), last: build.id(last)})


_MAKERS: dict[str, tuple[str, Callable[[_Build], None]]] = {
    "BertTokenizer": ("WordPiece", _bert),
    "MPNetTokenizer": ("WordPiece", _bert),
    "RobertaTokenizer": ("BPE", _roberta),
    "GPT2Tokenizer": ("BPE", _byte_level),
    "GPTNeoXTokenizer": ("BPE", _gpt_neox),
    "DebertaTokenizer": ("BPE", _deberta),
    "Qwen2Tokenizer": ("BPE", _qwen),
    "Qwen3_5Tokenizer": ("BPE", _qwen),
    "CohereTokenizer": ("BPE", _cohere),
    "LlamaTokenizer": ("BPE", _llama),
    "GemmaTokenizer": ("BPE", _gemma),
    "XLMRobertaTokenizer": ("Unigram", _xlm_roberta),
    "CamembertTokenizer": ("Unigram", _xlm_roberta),
    "T5Tokenizer": ("Unigram", _t5),
    "AlbertTokenizer": ("Unigram", _albert),
    "DebertaV2Tokenizer": ("Unigram", _deberta_v2),
    "BigBirdTokenizer": ("Unigram", _big_bird),
}
"""The type of model that each class of transformers 5 reads, and how it makes its tokenizer."""
