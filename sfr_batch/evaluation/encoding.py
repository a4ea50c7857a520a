"""The vectors of texts that a person gives, by the encoder of a table: the same ones as `Encoder.encode`.

All texts are tokenized before the first is encoded, so that one without a token is found at once. Knows no table.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sfr_batch.errors import ConfigError, CorpusError, ModelError, counted
from sfr_batch.evaluation.data.given_texts import GivenTexts
from sfr_batch.model import prompts
from sfr_batch.table.nearest import FloatArray

if TYPE_CHECKING:
    from sfr_batch.encoder.encoder import Encoder
    from sfr_batch.model.tokenization.tokenizer import Tokenized

NO_PROMPT = "none"
AT_ONCE = 1024
"""Texts that are encoded in one call."""
_AWAY = 1e-3
"""From 1, of the length of a vector; rounding is below 1e-5."""


@dataclass(frozen=True)
class Prepared:
    """Texts as tokens, ready to be encoded."""

    given: GivenTexts
    tokens: "list[Tokenized]"
    """Of AT_ONCE texts each."""

    @property
    def cut(self) -> int:
        """Texts that are longer than the model's max_length, and therefore truncated."""
        return sum(int(part.truncated.sum()) for part in self.tokens)

    def cut_told(self, max_length: int) -> str:
        """A sentence on these texts. max_length: tokens that the model takes."""
        texts = counted(self.cut, "text is", "texts are")
        return f"{texts} longer than {max_length:,} tokens; only the beginning is encoded."


def prepare(encoder: "Encoder", given: GivenTexts, prompt: str) -> Prepared:
    """Tokenize the texts. prompt: name of the prompt that is put before each, or NO_PROMPT.

    Raises ConfigError for an unknown prompt, CorpusError for a text without a token.
    """
    text = _prompt_text(encoder, prompt)
    starts = range(0, len(given.texts), AT_ONCE)
    parts = [encoder.tokenizer.encode(given.texts[start : start + AT_ONCE], text) for start in starts]
    for start, part in zip(starts, parts, strict=True):
        if len(empty := np.flatnonzero(part.lengths == 0)):
            place = given.places[start + int(empty[0])]
            raise CorpusError(f"{place}: the tokenizer drops all characters of this text. Remove it.")
    return Prepared(given, parts)


def vectors_of(encoder: "Encoder", prepared: Prepared) -> Iterator[FloatArray]:
    """The vectors of the texts in their order, float32 [AT_ONCE, d] of unit length; the last part may be shorter.

    Raises ModelError, which names the text on which the model fails, and what `Encoder.encode_tokens` raises.
    """
    for number, part in enumerate(prepared.tokens):
        encoded = encoder.encode_tokens(part.lengths, part.flat_ids)
        lengths = np.linalg.norm(encoded.vectors.astype(np.float64), axis=1)
        wrong = np.flatnonzero(~(np.abs(lengths - 1) < _AWAY))
        if len(wrong):
            row = int(wrong[0])
            why = encoded.failed.get(row, f"its vector has the length {lengths[row]:.6g}, not 1")
            raise ModelError(f"{prepared.given.places[number * AT_ONCE + row]}: the model fails on this text: {why}.")
        yield encoded.vectors


def _prompt_text(encoder: "Encoder", name: str) -> str:
    known = encoder.recipe.prompts
    if name == NO_PROMPT and name not in known:
        return ""
    if name not in {*known, prompts.QUERY, prompts.DOCUMENT}:
        names = ", ".join(sorted({*known, prompts.QUERY, prompts.DOCUMENT, NO_PROMPT}))
        raise ConfigError(f"The model of the table has no prompt {name!r}. Choose one of: {names}.")
    return prompts.resolve(known, name)
