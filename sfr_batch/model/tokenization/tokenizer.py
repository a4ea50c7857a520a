"""Text to token ids. Checks that the special tokens of the recipe are there, also after truncation.

Uses only the `tokenizers` package, so that planning and CPU tasks never import torch. Token ids are not padded: they
are one flat int32 array with lengths, and no pad token is used (in the Mistral family it is EOS). Knows nothing of
models beyond their recipe.
"""

import contextlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sfr_batch.errors import ConfigError, TextError, TokenizerError
from sfr_batch.model.recipe import Recipe
from sfr_batch.model.repository.folder import read_config
from sfr_batch.model.tokenization import sentencepiece
from sfr_batch.model.tokenization.chunks import IntArray, chunk_spans
from sfr_batch.model.tokenization.files import TokenizerFiles, acting_parts, read_files
from sfr_batch.model.tokenization.reading import read_tokenizer

SpecialTokensInText = Literal["parse", "plain"]

GOLDEN_LENGTH = 32
"""Most tokens of a golden text, so that golden ids also show the special tokens after truncation."""

# The ids of these texts stand for the tokenizer in every fingerprint: never change them, or no table fits any more.
GOLDEN_TEXTS = (
    "How to bake a chocolate cake",
    "",
    " ",
    " leading space",
    "two  spaces,   three",
    "line\nline\r\n\n line",
    "\ttab\t\ttabs",
    "trailing space ",
    "日本語の文章です。中文 한국어",
    "emoji 🙂👩‍👩‍👧 e\u0301 é ﬁ",
    "a </s> b <s> c <unk>",
    "a [SEP] b [CLS] c [MASK]",
    "<|endoftext|><|im_end|>",
    "Ünïcödé Straße İstanbul ΑΒΓ абв",
    "x = f(y, 1234567890) != 3.14159e-10 # ok",
    "\u0000\u200b\ufeff\u00a0",
    "chocolate cake " * 50,
)

_TOKEN_OPTIONS = ("lstrip", "rstrip", "single_word", "normalized")


@dataclass(frozen=True)
class Tokenized:
    """Token ids of n rows, one row after the other without padding."""

    lengths: NDArray[np.int32]
    """[n] tokens of each row, special tokens included, after truncation."""
    full_lengths: NDArray[np.int32]
    """[n] tokens of each row before truncation."""
    flat_ids: NDArray[np.int32]
    """[lengths.sum()] the ids of all rows."""

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """[n] whether each row was truncated."""
        return self.lengths < self.full_lengths

    @staticmethod
    def concat(one: "Tokenized", other: "Tokenized") -> "Tokenized":
        """The rows of both."""
        return Tokenized(
            np.concatenate([one.lengths, other.lengths]),
            np.concatenate([one.full_lengths, other.full_lengths]),
            np.concatenate([one.flat_ids, other.flat_ids]),
        )

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> "Tokenized":
        """The rows with these numbers, in this order."""
        ends = np.cumsum(self.lengths, dtype=np.int64)
        pieces = [self.flat_ids[ends[row] - self.lengths[row] : ends[row]] for row in rows]
        rows = np.asarray(rows, dtype=np.int64)
        return Tokenized(
            self.lengths[rows], self.full_lengths[rows], np.concatenate(pieces) if pieces else self.flat_ids[:0]
        )

    def __repr__(self) -> str:
        return (
            f"<Tokenized {len(self.lengths)} rows, {len(self.flat_ids)} tokens, {int(self.truncated.sum())} truncated>"
        )


@dataclass(frozen=True)
class Chunked:
    """The chunks of n texts: m rows, at least one of each text, in order."""

    text: IntArray
    """[m] the number of each chunk's text."""
    chunk: NDArray[np.int32]
    """[m] the number of each chunk in its text, from 0."""
    start: NDArray[np.int32]
    """[m] the first character of each chunk in its text."""
    end: NDArray[np.int32]
    """[m] one past the last character of each chunk."""
    text_lengths: NDArray[np.int32]
    """[m] tokens of each chunk's whole text, prompt and special tokens included."""
    tokenized: Tokenized
    """Tokens of m rows: the prompt and ``text[start:end]``, tokenized as one string."""

    def __repr__(self) -> str:
        texts = int(self.text[-1]) + 1 if len(self.text) else 0
        return f"<Chunked {texts} texts, {len(self.text)} chunks, {len(self.tokenized.flat_ids)} tokens>"


class Tokenizer:
    """The tokenizer of a model folder. A row is `prefix + ids of the text + suffix`; only the text is ever cut."""

    def __init__(
        self,
        backend: Any,
        recipe: Recipe,
        prefix: list[int],
        suffix: list[int],
        files: Mapping[str, Any] | None = None,
    ) -> None:
        """Use `Tokenizer.load`. ``prefix`` and ``suffix`` are the ids of the special tokens around a text."""
        self.recipe = recipe
        self.prefix = prefix
        self.suffix = suffix
        self.acting: dict[str, Any] = {**(files or {}), "prefix": prefix, "suffix": suffix}
        """How it acts, as JSON, for the fingerprint: what makes ids in the file that it was read from, and what is put
        around them. Independent of paths and of versions of libraries."""
        self._backend = backend

    def __repr__(self) -> str:
        around = f"{self.prefix} … {self.suffix}"
        return f"<Tokenizer {self.recipe.folder}, {around}, up to {self.recipe.max_length} tokens>"

    @classmethod
    def load(cls, recipe: Recipe, *, special_tokens_in_text: SpecialTokensInText = "parse") -> "Tokenizer":
        """Read tokenizer.json, else tokenizer.model, and the files beside it, and check the result on probes.

        Raises TokenizerError.
        """
        with _failures_explained(recipe):
            return cls._load(recipe, special_tokens_in_text)

    @classmethod
    def _load(cls, recipe: Recipe, special_tokens_in_text: SpecialTokensInText) -> "Tokenizer":
        folder = Path(recipe.folder)
        files = read_files(folder, recipe.model_type)
        backend, file, raw = _read_backend(folder, files)
        # Some files have truncation and padding of their author's last call baked in.
        backend.no_truncation()
        backend.no_padding()
        plain = special_tokens_in_text == "plain" or files.flags.get("split_special_tokens") is True
        backend.encode_special_tokens = plain
        if recipe.lowercase:
            _lowercase_first(backend)

        prefix, suffix = _around(backend, file)
        add_bos, add_eos = files.special_token_flags()
        bos = _id(backend, files, "bos", required=add_bos is True)
        eos = _id(backend, files, "eos", required=add_eos is True)
        if add_bos is not None:
            prefix = _with_first(prefix, bos) if add_bos else [i for i in prefix if i != bos]
        if add_eos is not None:
            suffix = _with_last(suffix, eos) if add_eos else [i for i in suffix if i != eos]
        lowercase = {"lowercase": True} if recipe.lowercase else {}
        acting = {**acting_parts(raw), **files.acting, **lowercase}
        tokenizer = cls(backend, recipe, prefix, suffix, acting)
        tokenizer._check(bos=bos if add_bos else None, eos=eos if add_eos else None)
        return tokenizer

    def encode(self, texts: Sequence[str], prompt: str = "", max_length: int | None = None) -> Tokenized:
        """Token ids of ``prompt + text`` for each text, cut at the end of the text to at most ``max_length`` tokens.

        max_length: default and upper bound is the recipe's. Prompt and text are tokenized as one string, because
        tokens may reach over the seam. Raises ValueError naming the row for a text that is not valid Unicode (a lone
        surrogate), and ConfigError if the prompt leaves no room for text.
        """
        limit = self.recipe.max_length if max_length is None else max_length
        if limit > self.recipe.max_length:
            raise ValueError(f"max_length {limit} is more than the model's {self.recipe.max_length}")
        room = limit - len(self.prefix) - len(self.suffix)
        used = self._tokens_of(prompt)
        if room - used < 1:
            what = f"The prompt takes {used} tokens and the" if prompt else "The"
            raise ConfigError(
                f"{what} special tokens take {limit - room} of {limit}, which leaves no room for text. "
                "Raise model.max_length or shorten the prompt."
            )
        encodings = self._encode_all([prompt + text for text in texts] if prompt else list(texts))
        return self._assemble(encodings, room)

    def chunk(
        self, texts: Sequence[str], prompt: str = "", chunk_tokens: int | None = None, overlap: int = 0
    ) -> Chunked:
        """Cut texts that are longer than ``chunk_tokens`` into chunks, see `chunks.chunk_spans`, and tokenize them.

        chunk_tokens: of a chunk at most, prompt and special tokens included; default and upper bound is the recipe's
        max_length. The prompt stands before every chunk. overlap: tokens that a chunk shares with the one before it,
        at most. Raises ConfigError if they leave no room for anything new, else as `encode` does.
        """
        limit = self.recipe.max_length if chunk_tokens is None else chunk_tokens
        self._check_chunks(limit, prompt, overlap)
        whole = self.encode(texts, prompt, limit)
        room = limit - len(self.prefix) - len(self.suffix)

        def token_starts(piece: str) -> IntArray:
            encoding = self._backend.encode(prompt + piece, add_special_tokens=False)
            starts = np.fromiter((start for start, _ in encoding.offsets), np.int64, len(encoding))
            return np.maximum.accumulate(np.maximum(starts - len(prompt), 0))

        spans = [
            list(chunk_spans(text, token_starts, room, overlap)) if too_long else [(0, len(text))]
            for text, too_long in zip(texts, whole.truncated, strict=True)
        ]
        counts = np.asarray([len(some) for some in spans], dtype=np.int64)
        of_text = np.repeat(np.arange(len(spans)), counts)
        number = np.arange(len(of_text)) - np.repeat(np.cumsum(counts) - counts, counts)
        bounds = np.asarray([span for some in spans for span in some], dtype=np.int32).reshape(-1, 2)
        tokenized = whole
        cut = whole.truncated[of_text]
        if cut.any():
            rows = zip(of_text[cut], bounds[cut], strict=True)
            pieces = self.encode([texts[text][start:end] for text, (start, end) in rows], prompt, limit)
            place = np.where(cut, len(spans) + np.cumsum(cut) - 1, of_text)
            tokenized = Tokenized.concat(whole, pieces).take(place)
        return Chunked(
            text=of_text,
            chunk=number.astype(np.int32),
            start=bounds[:, 0],
            end=bounds[:, 1],
            text_lengths=whole.full_lengths[of_text],
            tokenized=tokenized,
        )

    def _check_chunks(self, limit: int, prompt: str, overlap: int) -> None:
        """Raises ConfigError unless a chunk has room for more than what it shares with the one before it."""
        if limit > self.recipe.max_length:
            raise ConfigError(
                f"model.chunk_tokens is {limit}, but a row has at most {self.recipe.max_length} tokens "
                f"(model.max_length or the model repository). Set it to {self.recipe.max_length} or less."
            )
        special = len(self.prefix) + len(self.suffix)
        room = limit - special - self._tokens_of(prompt)
        if overlap >= room:
            raise ConfigError(
                f"model.chunk_overlap is {overlap}, but of the {limit} tokens of a chunk (model.chunk_tokens) the "
                f"prompt takes {limit - special - room} and the special tokens {special}, which leaves room for "
                f"{max(room, 0)}. Lower chunk_overlap, raise chunk_tokens or shorten the prompt."
            )

    def _tokens_of(self, prompt: str) -> int:
        return len(self._backend.encode(prompt, add_special_tokens=False)) if prompt else 0

    def golden_ids(self) -> list[list[int]]:
        """Ids of GOLDEN_TEXTS, for the fingerprint: tokenizers with equal golden ids count as equal."""
        with _failures_explained(self.recipe):
            tokenized = self.encode(GOLDEN_TEXTS, max_length=min(GOLDEN_LENGTH, self.recipe.max_length))
        ends = np.cumsum(tokenized.lengths)
        return [ids.tolist() for ids in np.split(tokenized.flat_ids, ends[:-1])]

    def _encode_all(self, texts: list[str]) -> list[Any]:
        try:
            encodings: list[Any] = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, ValueError):
            for row, text in enumerate(texts):
                if not isinstance(text, str):
                    raise TextError(f"row {row} is not a text but {type(text).__name__}") from None
                try:
                    text.encode()
                except UnicodeEncodeError as error:
                    raise TextError(f"row {row} is not valid Unicode: {error}") from None
            raise
        return encodings

    def _assemble(self, encodings: list[Any], room: int) -> Tokenized:
        """Put prefix and suffix around each row's ids, cut to ``room``, by array arithmetic instead of row by row."""
        special = len(self.prefix) + len(self.suffix)
        full = np.fromiter((len(encoding) for encoding in encodings), np.int32, len(encodings))
        kept = np.minimum(full, room)
        lengths = (kept + special).astype(np.int32)
        ends = np.cumsum(lengths, dtype=np.int64)
        starts = ends - lengths
        flat = np.empty(int(lengths.sum(dtype=np.int64)), np.int32)
        is_text = np.ones(len(flat), np.bool_)
        for place, token in enumerate(self.prefix):
            flat[starts + place] = token
            is_text[starts + place] = False
        for place, token in enumerate(reversed(self.suffix), 1):
            flat[ends - place] = token
            is_text[ends - place] = False
        ids = itertools.chain.from_iterable(
            encoding.ids if n <= room else encoding.ids[:room] for encoding, n in zip(encodings, full, strict=True)
        )
        flat[is_text] = np.fromiter(ids, np.int32, int(kept.sum(dtype=np.int64)))
        return Tokenized(lengths, (full + special).astype(np.int32), flat)

    def _check(self, bos: int | None, eos: int | None) -> None:
        """Raises TokenizerError unless short, empty and truncated texts get the special tokens that are expected."""
        limit = min(GOLDEN_LENGTH, self.recipe.max_length)
        probes = ["How to bake a chocolate cake", "", "a", "chocolate cake " * 50]
        tokenized = self.encode(probes, max_length=limit)
        rows = np.split(tokenized.flat_ids, np.cumsum(tokenized.lengths)[:-1])
        for probe, row in zip(probes, rows, strict=True):
            wrong = (bos is not None and (not len(row) or row[0] != bos)) or (
                eos is not None and (not len(row) or row[-1] != eos)
            )
            if wrong or len(row) > limit:
                raise TokenizerError(
                    f"The tokenizer in {self.recipe.folder} gives {row.tolist()} for {probe[:40]!r}, but the model "
                    f"expects {bos} first and {eos} last (None: anything). Use the tokenizer files of the model's own "
                    "repository."
                )


@contextlib.contextmanager
def _failures_explained(recipe: Recipe) -> Iterator[None]:
    """Turn failures of the tokenizers package into a TokenizerError: it raises bare Exception, or panics, which is no
    Exception at all."""
    try:
        yield
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ != "PanicException":
            raise
        raise TokenizerError(
            f"The tokenizer in {recipe.folder} fails: {error}. A part of tokenizer.json, or a special token that the "
            "files beside it name (unk_token, cls_token, sep_token …), does not fit its vocabulary. Use the tokenizer "
            "files of the model's own repository."
        ) from error


def _read_backend(folder: Path, files: TokenizerFiles) -> tuple[Any, Path, Mapping[str, Any]]:
    """The backend, its file, and the contents of this as tokenizer.json has them.

    tokenizer.json has priority over tokenizer.model, as in transformers.
    """
    file = folder / "tokenizer.json"
    if file.is_file():
        backend, raw = read_tokenizer(folder, files)
        return backend, file, raw
    file = folder / sentencepiece.FILE
    if file.is_file():
        backend = sentencepiece.read_backend(file)
        _check_llama(backend, file, files)
        return backend, file, json.loads(backend.to_str())
    found = ", ".join(n for n in ("vocab.txt", "vocab.json") if (folder / n).is_file())
    raise TokenizerError(
        f"{folder} holds neither tokenizer.json nor tokenizer.model (found: {found or 'no tokenizer at all'}). Save "
        "the tokenizer there once with transformers: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
    )


def _check_llama(backend: Any, file: Path, files: TokenizerFiles) -> None:
    """Raises TokenizerError if the other files change the ids that tokenizer.model gives."""
    tokens = [token for token in files.named.values() if token is not None]
    tokens += [*files.by_key.values(), *files.by_name.values(), *(files.more or []), *(files.added or {}).values()]
    contents = {*files.added_file, *(token["content"] for token in tokens)}
    added = sorted(contents - {token.content for token in backend.get_added_tokens_decoder().values()})
    reason = None
    if files.class_4 != "LlamaTokenizer":
        reason = f"must be read as a {files.class_4 or files.class_5} tokenizer"
    elif files.flags.get("legacy") is False or files.flags.get("add_prefix_space") is False:
        reason = "must be read without a space before each text (legacy or add_prefix_space: false)"
    elif added:
        reason = f"does not contain the added special token {added[0]!r}"
    elif any(token.get(option) for token in tokens for option in _TOKEN_OPTIONS):
        reason = f"must be read with special tokens that affect the text around them ({', '.join(_TOKEN_OPTIONS)})"
    if reason:
        raise TokenizerError(
            f"{file} {reason}, according to the files beside it. This is not supported without tokenizer.json. "
            f"{sentencepiece.WAY_OUT}"
        )


def _around(backend: Any, file: Path) -> tuple[list[int], list[int]]:
    """The ids that the file's own post-processor puts before and after a text, found by probing."""
    probes = ["a", "How to bake", ""]
    pairs = [(backend.encode(p).ids, backend.encode(p, add_special_tokens=False).ids) for p in probes]
    if any(any(backend.encode(probe).type_ids) for probe in probes):
        raise TokenizerError(
            f"The post-processor of {file} gives tokens of a single text a type other than 0 (type_id), which is not "
            "supported."
        )
    whole, bare = pairs[0]
    for cut in range(len(whole) - len(bare) + 1):
        prefix, suffix = whole[:cut], whole[cut + len(bare) :]
        if all(with_special == prefix + without + suffix for with_special, without in pairs):
            return prefix, suffix
    raise TokenizerError(
        f"The post-processor of {file} does more than add special tokens around a text, which is not supported."
    )


def _with_first(ids: Iterable[int], token: int | None) -> list[int]:
    assert token is not None
    return [token, *(i for i in ids if i != token)]


def _with_last(ids: Iterable[int], token: int | None) -> list[int]:
    assert token is not None
    return [*(i for i in ids if i != token), token]


def _id(backend: Any, files: TokenizerFiles, which: Literal["bos", "eos"], *, required: bool) -> int | None:
    """The id of BOS or EOS; None where there is none. Raises TokenizerError where it is ``required``."""
    token = files.named.get(f"{which}_token")
    content = None if token is None else token["content"]
    number = backend.token_to_id(content) if content is not None else read_config(files.folder).get(f"{which}_token_id")
    if isinstance(number, int):
        return number
    if required:
        raise TokenizerError(
            f"{files.folder} adds {which.upper()} to each text (add_{which}_token), but its {which}_token {content!r} "
            "is not in its tokenizer. Use the tokenizer files of the model's own repository."
        )
    return None


def _lowercase_first(backend: Any) -> None:
    """Lowercase texts before the tokenizer's normalizer, unless one of its steps is Lowercase.

    As sentence-transformers 6.2 obeys do_lower_case (base/modules/transformer.py), which does not look into steps of
    steps or into a BertNormalizer.
    """
    from tokenizers import normalizers

    own: Any = backend.normalizer
    steps: list[Any] = [] if own is None else [own]
    if isinstance(own, normalizers.Sequence):
        steps = [own[place] for place in range(len(own))]
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
