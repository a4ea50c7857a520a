"""What the files beside tokenizer.json say of a tokenizer: its class in transformers, its flags and special tokens.

A key, a class or a value that is not known is refused by name, see `tokenization.keys`. Reads as transformers does
(`_from_pretrained` in tokenization_utils_base.py). Knows no backend and no token ids.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfr_batch.errors import TokenizerError
from sfr_batch.format.fingerprint import digest
from sfr_batch.model.tokenization import keys
from sfr_batch.storage.local_files import read_text_file

CONFIG, MAP, ADDED, JSON = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"

NOT_ACTING = frozenset({"version", "truncation", "padding", "decoder"})
"""Parts of tokenizer.json that make no id: the version of its format, the truncation and padding of its author's last
call, which are switched off, and how ids become text again."""

_WAY_OUT = "Remove it from a copy of the file if it changes no token id of this model."
_TOKEN_PARTS = {"content": str, **dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized", "special"), bool)}
_BOOLEANS = (
    *("add_bos_token", "add_eos_token", "split_special_tokens", "do_lower_case", "strip_accents"),
    *("tokenize_chinese_chars", "add_prefix_space", "legacy", "keep_accents", "split_by_punct"),
)

Token = dict[str, Any]
"""A special token: content, and those of lstrip, rstrip, single_word, normalized and special that its file gives."""


@dataclass(frozen=True)
class TokenizerFiles:
    """The settings beside tokenizer.json."""

    folder: Path
    """Where the files lie."""
    class_5: str
    """The class of transformers 5 that reads tokenizer.json, one of the values of `tokenization.keys.CLASSES`."""
    class_4: str | None
    """The class of transformers 4 without Fast; None where it has none for this model."""
    named: dict[str, Token | None]
    """Special tokens by key; None where the file says null."""
    by_key: dict[str, Token]
    """Special tokens by other keys that end in _token, which transformers 4 does not know."""
    by_name: dict[str, Token]
    """Special tokens by name, in an object of extra_special_tokens."""
    more: list[Token] | None
    """Special tokens without a name; None where no file lists any."""
    added: dict[int, Token] | None
    """added_tokens_decoder; None where it is not given, and tokenizer.json's and added_tokens.json's are read."""
    added_file: dict[str, int]
    """added_tokens.json, where it acts."""
    forced: bool
    """Whether transformers 5 takes another class than the file names, because of the type of the model."""
    rows: int | None
    """Embeddings of tokens that the model has, by config.json; None where it does not say."""
    truncates_right: bool
    """Whether tokenizer_config.json says that a text is cut at its end."""
    flags: dict[str, Any] = field(default_factory=dict)
    """The other obeyed keys that are given."""

    @property
    def acting(self) -> dict[str, Any]:
        """All that may change ids, as JSON, by file; special tokens of the two files are one."""
        config: dict[str, Any] = {"tokenizer_class": self.class_5, **self.flags}
        config |= {**self.named, **self.by_key, **self.by_name}
        config |= {"additional_special_tokens": self.more} if self.more else {}
        if self.added is not None:
            config["added_tokens_decoder"] = {str(number): token for number, token in self.added.items()}
        return {CONFIG: config, **({ADDED: self.added_file} if self.added_file else {})}

    def special_token_flags(self) -> tuple[bool | None, bool | None]:
        """Whether BOS and EOS are added, as (bos, eos); None leaves it to tokenizer.json.

        transformers 4 obeyed add_bos_token and add_eos_token for some classes, and transformers 5 drops them. For
        e5-mistral, the base of SFR-Embedding-Mistral, this was shown to lose EOS. Here these classes obey a flag that
        is given, see `tokenization.keys.DEPARTURES`. If only one is given, the other has the default of the class. If
        neither is given, tokenizer.json decides.
        """
        bos, eos = self.flags.get("add_bos_token"), self.flags.get("add_eos_token")
        defaults = keys.FLAGGED.get(self.class_4 or "")
        if defaults is None or (bos is None and eos is None):
            return None, None
        return defaults[0] if bos is None else bos, defaults[1] if eos is None else eos


def read_files(folder: Path, model_type: str) -> TokenizerFiles:
    """The settings beside tokenizer.json in ``folder``. Raises TokenizerError for what is not known or contradicts."""
    config, special, added_file = (_read_object(folder / name) for name in (CONFIG, MAP, ADDED))
    _check_keys(folder / CONFIG, config)
    _check_values(folder / CONFIG, config)
    class_5, class_4, forced = _classes(folder, config, model_type)
    added = config.get("added_tokens_decoder")
    decoder = None if added is None else _added_tokens(folder / CONFIG, added)
    for key in special:
        if not (key in keys.MAP_KEYS or key.endswith("_token")):
            raise TokenizerError(f"{folder / MAP} has the key {key}, which is not known. {_WAY_OUT}")
    # Where added_tokens_decoder is given, neither version reads the two other files.
    merged = {**config, **({} if decoder is not None else special)}
    named = {key: _token(folder, key, merged[key]) for key in keys.TOKENS if key in merged}
    by_key = {
        key: _required(folder, key, value)
        for key, value in merged.items()
        if key.endswith("_token") and key not in keys.TOKENS and isinstance(value, str | dict)
    }
    by_name: dict[str, Token] = {}
    for key in ("extra_special_tokens", "model_specific_special_tokens"):
        if isinstance(merged.get(key), dict):
            by_name |= {name: _required(folder, key, value) for name, value in merged.pop(key).items()}
    more = merged.get("extra_special_tokens") or merged.get("additional_special_tokens")
    if not isinstance(more, list | None):
        raise TokenizerError(f"{folder / CONFIG}: {_short(more)} is neither a list nor an object of special tokens.")
    return TokenizerFiles(
        folder=folder,
        class_5=class_5,
        class_4=class_4,
        named=named,
        by_key=by_key,
        by_name=by_name,
        more=None if more is None else [_required(folder, "additional_special_tokens", token) for token in more],
        added=decoder,
        added_file={} if decoder is not None else _check_added_file(folder / ADDED, added_file),
        forced=forced,
        rows=_rows(_read_object(folder / "config.json")),
        truncates_right=config.get("truncation_side") == "right",
        flags={
            key: value
            for key, value in sorted(config.items())
            if key in keys.OBEYED and value is not None and key not in _NOT_FLAGS
        },
    )


_NOT_FLAGS = frozenset(
    (
        *keys.TOKENS,
        *("tokenizer_class", "additional_special_tokens", "extra_special_tokens", "model_specific_special_tokens"),
        # Lengths are part of the recipe, under a name of their own.
        *("added_tokens_decoder", "model_max_length", "max_len"),
    )
)


def _check_keys(file: Path, config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        known = key in keys.OBEYED or key in keys.CHECKED or key in keys.HARMLESS
        if not known and not (key.endswith("_token") and isinstance(value, str | dict)) and value is not None:
            raise TokenizerError(f"{file} has the key {key} ({_short(value)}), which is not known. {_WAY_OUT}")


def _check_values(file: Path, config: Mapping[str, Any]) -> None:
    """Raises TokenizerError for a value that is not supported, or of another type than its key has."""
    if config.get("truncation_side", "right") not in ("right", None):
        raise TokenizerError(f"{file} truncates texts on the left (truncation_side), which is not supported.")
    code = config.get("auto_map")
    if isinstance(code, list) or (isinstance(code, dict) and any("Tokenizer" in name for name in code)):
        raise TokenizerError(
            f"{file} names code of the repository as its tokenizer (auto_map), which is not run. If the class in "
            "tokenizer_class gives the same ids, remove auto_map from a copy of the file."
        )
    inputs = config.get("model_input_names") or ["input_ids", "attention_mask"]
    for key, wrong in (
        ("from_slow", bool(config.get("from_slow"))),
        ("fix_mistral_regex", bool(config.get("fix_mistral_regex"))),
        ("init_inputs", bool(config.get("init_inputs"))),
        ("backend", config.get("backend") not in (None, "tokenizers")),
        ("fast_tokenizer_files", (config.get("fast_tokenizer_files") or [JSON]) != [JSON]),
        (
            "model_input_names",
            not {"input_ids", "attention_mask"} <= set(inputs) <= {"input_ids", "attention_mask", "token_type_ids"},
        ),
    ):
        if wrong:
            raise TokenizerError(
                f"{file}: {key} is {_short(config[key])}, which is not supported ({keys.CHECKED[key]}). {_WAY_OUT}"
            )
    for key in _BOOLEANS:
        if not isinstance(config.get(key, False), bool | None):
            raise TokenizerError(f"{file}: {key} is {_short(config[key])}, which should be true or false. {_WAY_OUT}")
    for key in ("extra_ids", "unk_id"):
        if not isinstance(config.get(key, 0), int | None) or isinstance(config.get(key), bool):
            raise TokenizerError(f"{file}: {key} is {_short(config[key])}, which should be a whole number. {_WAY_OUT}")


def _classes(folder: Path, config: Mapping[str, Any], model_type: str) -> tuple[str, str | None, bool]:
    """The classes that AutoTokenizer of transformers 5 and 4 take, and `TokenizerFiles.forced`.

    Raises TokenizerError where one is not known.
    """
    file = folder / CONFIG
    found = config.get("tokenizer_class")
    if found is None:
        file = folder / "config.json"
        found = _read_object(file).get("tokenizer_class")
    if not isinstance(found, str | None):
        raise TokenizerError(f"{file}: tokenizer_class is {_short(found)}, which should be the name of a class.")
    if found is None:
        if model_type in keys.UNKNOWN_5:
            raise _unknown(folder / CONFIG, keys.UNKNOWN_5[model_type], f"that of model_type {model_type}")
        class_5 = keys.CLASSES[keys.DEFAULT_5.get(model_type, keys.GENERIC)]
        class_4 = "LlamaTokenizer" if model_type in keys.LLAMA_MODELS else keys.DEFAULT_5.get(model_type)
        return class_5, class_4, False
    name = found.removesuffix("Fast")
    if name not in keys.CLASSES:
        raise _unknown(file, found, "tokenizer_class")
    class_4 = None if found in keys.ONLY_5 else name
    default = keys.DEFAULT_5.get(model_type, keys.UNKNOWN_5.get(model_type))
    llama = name == "LlamaTokenizer" and model_type not in keys.GENERIC_5 | keys.FORCED_5
    if llama and '"ByteLevel"' in (read_text_file(folder / JSON) or ""):
        return keys.GENERIC, class_4, False  # as tokenization_auto.py of transformers 5 does
    if model_type in keys.GENERIC_5 and name != default:
        return keys.GENERIC, class_4, False
    if model_type in keys.FORCED_5 and name != default:
        if default not in keys.CLASSES:
            raise _unknown(file, str(default), f"that of model_type {model_type}")
        return keys.CLASSES[str(default)], class_4, True
    return keys.CLASSES[name], class_4, False


def _rows(config: Mapping[str, Any]) -> int | None:
    nested = config.get("text_config")
    found = config.get("vocab_size", nested.get("vocab_size") if isinstance(nested, dict) else None)
    return found if isinstance(found, int) else None


def _unknown(file: Path, name: str, where: str) -> TokenizerError:
    return TokenizerError(
        f"{file}: the tokenizer class {name} ({where}) is not supported: it may read tokenizer.json in a way of its "
        "own. If tokenizer.json alone gives the ids of the model's reference code, set tokenizer_class to "
        "PreTrainedTokenizerFast in a copy of the file."
    )


def _added_tokens(file: Path, value: Any) -> dict[int, Token]:
    if not isinstance(value, dict) or not all(str(number).isdecimal() for number in value):
        raise TokenizerError(f"{file}: added_tokens_decoder should be an object of tokens by id.")
    found = {int(number): _required(file.parent, "added_tokens_decoder", token) for number, token in value.items()}
    return dict(sorted(found.items()))


def _check_added_file(file: Path, value: Mapping[str, Any]) -> dict[str, int]:
    for content, number in value.items():
        if not isinstance(number, int):
            raise TokenizerError(f"{file}: the id of {content!r} is {_short(number)}, which should be a whole number.")
    return dict(value)


def _required(folder: Path, key: str, value: Any) -> Token:
    token = _token(folder, key, value)
    if token is None:
        raise TokenizerError(
            f"{folder / CONFIG}: {key} holds null in place of a token. Remove it from a copy of the file."
        )
    return token


def _token(folder: Path, key: str, value: Any) -> Token | None:
    """A special token as its file spells it: a text, or an object."""
    if value is None:
        return None
    token = {"content": value} if isinstance(value, str) else value
    if isinstance(token, dict):
        token = {part: given for part, given in token.items() if part not in ("__type", "id")}
        right = "content" in token and all(
            part in _TOKEN_PARTS and isinstance(given, _TOKEN_PARTS[part]) for part, given in token.items()
        )
        if right:
            return token
    raise TokenizerError(
        f"{folder}: {key} is {_short(value)} in {CONFIG} or {MAP}, which is neither a text nor an object with content "
        f"and {', '.join(list(_TOKEN_PARTS)[1:])}. Use the tokenizer files of the model's own repository."
    )


def model_max_length(folder: Path, config: Mapping[str, Any]) -> float | None:
    """Most tokens of a row as tokenizer_config.json says; None where it is silent. Raises TokenizerError."""
    key = "model_max_length" if config.get("model_max_length") is not None else "max_len"
    found = config.get(key)
    if found is None or (isinstance(found, int | float) and not isinstance(found, bool) and found >= 1):
        return found
    raise TokenizerError(f"{folder / CONFIG}: {key} is {_short(found)}, which should be a number of tokens.")


def acting_parts(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of tokenizer.json that make ids, by name, each as the SHA-256 of its canonical JSON.

    raw: the file; of tokenizer.model what the package would write, so that a table made with one of the two files goes
    on with the other. What a file of another version of the package leaves out, or spells otherwise, is the same. The
    special tokens of a post-processor are left out: `Tokenizer` puts its own prefix and suffix around a text.
    """
    parts = {**raw, "post_processor": _without_special_tokens(raw.get("post_processor"))}
    if isinstance(raw.get("model"), dict):
        parts["model"] = _canonical_model(raw["model"])
    return {JSON: {part: digest(value) for part, value in parts.items() if part not in NOT_ACTING and value}}


def _canonical_model(model: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in model.items() if value not in (None, False, "")}
    if isinstance(vocab := model.get("vocab"), dict):
        # By id, as the file mostly has them: by name, a large vocabulary would be the longest part of planning.
        pieces = sorted(vocab, key=vocab.__getitem__)
        found["vocab"] = [pieces, [vocab[piece] for piece in pieces]]
    if merges := model.get("merges"):
        found["merges"] = [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in merges]
    return found


def _without_special_tokens(post_processor: Any) -> list[Any]:
    """What a post-processor does beside adding special tokens: it trims offsets, which decide where chunks end."""
    if not isinstance(post_processor, dict):
        return []
    several = post_processor.get("processors") if post_processor.get("type") == "Sequence" else [post_processor]
    return [
        {key: value for key, value in one.items() if key not in ("cls", "sep")}
        for one in several or ()
        if one.get("type") not in ("TemplateProcessing", "BertProcessing")
    ]


def parse_object(file: Path, text: str | None) -> dict[str, Any]:
    """The JSON object in a file's ``text``; empty where there is no file. Raises TokenizerError."""
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise TokenizerError(f"{file} is not valid JSON ({error}). Fetch the model again.") from error
    if not isinstance(found, dict):
        raise TokenizerError(f"{file} should hold a JSON object. Fetch the model again.")
    return found


def _read_object(file: Path) -> dict[str, Any]:
    return parse_object(file, read_text_file(file))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
