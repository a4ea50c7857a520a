"""The tokenizer of a folder with tokenizer.json: that of transformers 5, where transformers 4 reads the same.

sentence-transformers 6 uses transformers 5; most models were trained with transformers 4. Where the two make the same
ids there is nothing to ask. Where they differ on ordinary texts, or because of a key that is given, nothing tells which
is meant, and the folder is refused. Where the classes of transformers 5 differ on rare texts alone (spaces at the ends,
invisible characters, ligatures), their ids count. Knows no recipe.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfr_batch.errors import TokenizerError
from sfr_batch.model.tokenization import keys
from sfr_batch.model.tokenization.added_tokens import Source
from sfr_batch.model.tokenization.files import CONFIG, JSON, TokenizerFiles, parse_object
from sfr_batch.model.tokenization.v4 import read_as_4
from sfr_batch.model.tokenization.v5 import read_as_5
from sfr_batch.storage.local_files import read_text_file

ORDINARY = (
    "How to bake a chocolate cake",
    "The Quick Brown Fox doesn't jump over 13 lazy dogs.",
    "x = f(y, 1234567890) != 3.14159e-10 # ok",
    "Crème brûlée in Ünïcödé Straße, żółw, İstanbul",
    "ΑΒΓ αβγ абв где",
    "日本語の文章です。中文 한국어",
    "line one\nline two",
)
"""Texts as most corpora have them."""

RARE = (
    *(" leading", "trailing ", "  both  ", "two  spaces,   three", "\ttab\t\ttabs\n", "line\r\n\n line", " ", "\n"),
    *(
        "e\u0301 n\u0303 \u212b",
        "ﬁ ½ № ™ Ⅳ ㎏ １２３ ｱ",
        "a\u200bb\u200dc\ufeffd\u00ade",
        "\u00a0a\u3000b\u2028c\u1680d\u0085e",
    ),
    *(
        "🙂👩‍👩‍👧",
        "مرحبا \u202eabc",
        "\u0000\u0001\u007f\ufffd",
        "``quoted'' \"text\" 'text'",
        "¶ § ▁ ▁▁a",
        "हिन्दी ไทย",
    ),
    *("don't DON'T it's WE'LL", "A" * 150, "##ing ##a [unused1] <extra_id_0>", "\U0010ffff\ue000"),
)
"""Texts on which tokenizers that are nearly the same differ."""

_WAY_OUT = (
    f"If {JSON} alone gives the ids of the model's reference code, set tokenizer_class to PreTrainedTokenizerFast in a "
    f"copy of {CONFIG}."
)


def read_tokenizer(folder: Path, files: TokenizerFiles) -> tuple[Any, Mapping[str, Any]]:
    """The `tokenizers.Tokenizer` of the folder, and tokenizer.json as JSON. Raises TokenizerError."""
    source = _source(folder / JSON, files.rows)
    _check_truncation(folder, source, files)
    return _choose(folder, source, files), source.raw


def _choose(folder: Path, source: Source, files: TokenizerFiles) -> Any:
    one, same_model = read_as_5(source, files)
    other = read_as_4(source, files)
    if other is None or (same_model and _same_parts(one, other)):
        return one
    found = _difference(one, other, files)
    if found is None:
        return one
    text, rare = found
    key = _cause(source, files)
    if key is None and (files.forced or (rare and files.class_5 != "LlamaTokenizer")):
        return one
    raise _refusal(folder, files, key, text, one, other)


def _source(file: Path, rows: int | None) -> Source:
    import tokenizers

    text = read_text_file(file) or ""
    raw = parse_object(file, text)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the package raises bare Exception
        raise TokenizerError(f"{file} cannot be read ({error}). Fetch the model again.") from error
    size = backend.get_vocab_size(with_added_tokens=False)
    if rows is not None and size > rows:
        raise TokenizerError(
            f"{file} has a vocabulary of {size:,} tokens, but the model has embeddings of {rows:,} (vocab_size in "
            f"{file.with_name('config.json')}). One of the files is of another model: fetch both again."
        )
    return Source(raw, backend, rows)


def _check_truncation(folder: Path, source: Source, files: TokenizerFiles) -> None:
    """Raises TokenizerError if tokenizer.json cuts on the left, which acts where tokenizer_config.json is silent."""
    direction = (source.raw.get("truncation") or {}).get("direction", "Right")
    if direction != "Right" and not files.truncates_right:
        raise TokenizerError(
            f"{folder / JSON} truncates texts on the left (truncation.direction), which is not supported."
        )


def _same_parts(one: Any, other: Any) -> bool:
    """Whether two tokenizers with the same model are made of equal parts, so that all their ids are equal."""
    return all(_state(getattr(one, part)) == _state(getattr(other, part)) for part in _PARTS) and {
        number: repr(token) for number, token in one.get_added_tokens_decoder().items()
    } == {number: repr(token) for number, token in other.get_added_tokens_decoder().items()}


_PARTS = ("normalizer", "pre_tokenizer", "post_processor")


def _state(part: Any) -> Any:
    return None if part is None else part.__getstate__()


def _difference(one: Any, other: Any, files: TokenizerFiles) -> tuple[str, bool] | None:
    """The first text of which two tokenizers make different ids, and whether it is a rare one."""
    names = [token["content"] for token in files.named.values() if token] + [t["content"] for t in files.more or []]
    names += [token["content"] for token in (files.added or {}).values()][:100]
    tokens = [text for name in dict.fromkeys(names) for text in (f"a {name} b", f"a{name}b", f"{name}")]
    for tokenizer in (one, other):
        tokenizer.encode_special_tokens = files.flags.get("split_special_tokens") is True
    around = files.class_4 not in keys.FLAGGED  # those have flags of their own, see special_token_flags
    for texts, rare in ((ORDINARY, False), ((*RARE, *tokens), True)):
        for text in texts:
            if _ids(one, text, around) != _ids(other, text, around):
                return text, rare
    return None


def _ids(tokenizer: Any, text: str, around: bool) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=around).ids
    return ids


def _cause(source: Source, files: TokenizerFiles) -> str | None:
    """The key of tokenizer_config.json without which the two readings are the same."""
    tries = [(key, {k: v for k, v in files.flags.items() if k != key}) for key in files.flags]
    if "add_prefix_space" not in files.flags:
        tries.append(("add_prefix_space", {**files.flags, "add_prefix_space": True}))
    for key, flags in tries:
        changed = replace(files, flags=flags)
        try:
            (one, _), other = read_as_5(source, changed), read_as_4(source, changed)
        except TokenizerError:
            continue
        if other is None or _difference(one, other, changed) is None:
            return key
    return None


def _refusal(folder: Path, files: TokenizerFiles, key: str | None, text: str, one: Any, other: Any) -> TokenizerError:
    shown = text if len(text) <= 40 else f"{text[:40]}…"
    ids = " and ".join(str(_ids(tokenizer, text, True)[:12]) for tokenizer in (other, one))
    told = f"transformers 4 and 5 make {ids} of {shown!r}"
    if key is None:
        return TokenizerError(
            f"{folder / CONFIG}: the class {files.class_5} (tokenizer_class) of transformers 5 replaces parts of "
            f"{JSON}, and the ids differ: {told}. {_WAY_OUT}"
        )
    if key not in files.flags:
        return TokenizerError(
            f"{folder / CONFIG} does not say {key}, but {JSON} has it, and the ids differ: {told}. Set {key} to true "
            "in a copy of the file."
        )
    return TokenizerError(
        f"{folder / CONFIG}: {key} is {json.dumps(files.flags[key])}, which contradicts {JSON}: {told}. Remove {key} "
        f"from a copy of the file, or correct {JSON}, as the ids of the model's reference code show."
    )
