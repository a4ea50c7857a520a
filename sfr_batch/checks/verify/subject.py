"""The model under test, with what earlier checks found for later ones to use.

If an earlier check did not find what a later one needs, that one raises `Unavailable` and is skipped with the reason.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from sfr_batch.checks.verify import known
from sfr_batch.config.settings import Config, ModelSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.model import identity
from sfr_batch.model.prompts import DOCUMENT, resolve
from sfr_batch.model.recipe import Recipe
from sfr_batch.model.repository import folder
from sfr_batch.model.tokenization.tokenizer import Tokenized, Tokenizer

FloatArray = NDArray[np.float32]
T = TypeVar("T")

PROBES = (
    *known.PASSAGES,
    *known.QUERIES,
    "A vaccine trains the immune system to recognise a virus.",
    "def read(path):\n    with open(path) as file:\n        return file.read()",
    "日本語の文章です。中文 한국어",
    "emoji 🙂 e\u0301 é ﬁ",
    "a",
    "Parquet is a columnar file format. " * 8,
    "x = f(y, 1234567890) != 3.14159e-10 # ok",
)
"""Documents of all lengths, from one token to some hundred."""


class Unavailable(Exception):
    """A check needs something that the check ``by`` did not find."""

    def __init__(self, by: str) -> None:
        super().__init__(f"needs '{by}', which did not pass")


class Subject:
    """A config's model. Its attributes are filled by the checks, in their order."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.found: dict[str, Any] = {}
        """By name: folder, hashes, recipe, tokenizer, encoder."""

    @property
    def settings(self) -> ModelSettings:
        return self.config.model

    @property
    def folder(self) -> Path:
        return self._of("folder", Path, "weights")

    @property
    def hashes(self) -> Mapping[str, str]:
        """SHA-256 of each weight file by its name, computed now."""
        return self._of("hashes", dict, "weights")

    @property
    def recipe(self) -> Recipe:
        return self._of("recipe", Recipe, "recipe")

    @property
    def tokenizer(self) -> Tokenizer:
        return self._of("tokenizer", Tokenizer, "tokenizer")

    @property
    def encoder(self) -> Encoder:
        return self._of("encoder", Encoder, "model")

    @cached_property
    def architecture(self) -> Mapping[str, Any]:
        """config.json."""
        return folder.read_config(self.folder)

    @cached_property
    def probes(self) -> Tokenized:
        """`PROBES` as documents."""
        return self.tokenizer.encode(PROBES, resolve(self.recipe.prompts, DOCUMENT))

    @cached_property
    def alone(self) -> FloatArray:
        """[n, d] the vector of each probe when it is encoded by itself."""
        return np.concatenate([self.encoder.encode_tokens(*rows_of(self.probes, [row])).vectors for row in self.rows])

    @property
    def rows(self) -> range:
        return range(len(PROBES))

    @property
    def fingerprint_inputs(self) -> dict[str, Any]:
        """As a table would have them, but with the hashes of the bytes that are here."""
        return identity.fingerprint_inputs(
            self.settings, self.recipe, self.tokenizer, self.hashes, self.config.table.vector_dtype
        )

    @property
    def budget_of_a_run(self) -> int:
        """`run.max_batch_tokens`, or the default for the model and its device."""
        return self._of("budget", int, "model")

    @contextmanager
    def budget(self, max_batch_tokens: int) -> Iterator[None]:
        """Another budget of tokens for the encoder, for a while."""
        before, self.encoder.max_batch_tokens = self.encoder.max_batch_tokens, max_batch_tokens
        try:
            yield
        finally:
            self.encoder.max_batch_tokens = before

    @contextmanager
    def other_batches(self) -> Iterator[None]:
        """Packed batches instead of padded ones, or the other way round, for a while."""
        packed = self.encoder.packed
        self.encoder.pack(not packed)
        try:
            yield
        finally:
            self.encoder.pack(packed)

    def _of(self, name: str, kind: type[T], by: str) -> T:
        value = self.found.get(name)
        if not isinstance(value, kind):
            raise Unavailable(by)
        return value


def rows_of(tokenized: Tokenized, rows: list[int]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Lengths and flat ids of some rows."""
    ids = ids_of(tokenized)
    return tokenized.lengths[rows], np.concatenate([ids[row] for row in rows])


def ids_of(tokenized: Tokenized) -> list[NDArray[np.int32]]:
    """The ids of each row."""
    return np.split(tokenized.flat_ids, np.cumsum(tokenized.lengths)[:-1])
