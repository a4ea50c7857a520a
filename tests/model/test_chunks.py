"""Where texts are cut: properties over any text and tokenizers with the habits of real ones; the places by hand."""

import re
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sfr_batch.model.tokenization.chunks import IntArray, chunk_spans, last_boundary

Starts = Callable[[str], IntArray]


def starts_of(pieces: list[int]) -> IntArray:
    return np.asarray(pieces, dtype=np.int64)


def by_character(text: str) -> IntArray:
    return np.arange(len(text))


def by_bytes(text: str) -> IntArray:
    """Several tokens begin at one character, as the bytes of an emoji do; a space in front as SentencePiece has it."""
    return starts_of([0, *(at for at, character in enumerate(text) for _ in character.encode())])


def by_words(text: str) -> IntArray:
    """White space is no token, a word is several, but a long one is a single unknown: cut it, and it gets longer."""
    found = []
    for word in re.finditer(r"\S+", text):
        found += [word.start()] if len(word[0]) > 7 else range(word.start(), word.end(), 2)
    return starts_of(found)


def after_a_prompt(text: str) -> IntArray:
    return starts_of([0, 0, 0, *(piece.start() for piece in re.finditer(r"\s?\w{1,3}|.", text, re.DOTALL))])


TOKENIZERS = [by_character, by_bytes, by_words, after_a_prompt]
ALPHABET = st.sampled_from(
    [*"aaabc   .!?\n\r\t\u3000。」日本語é👩\u200d👩🏽e\u0301", "word ", "A sentence. ", "\n\n", "x" * 9]
)
TEXTS = st.lists(ALPHABET, max_size=80).map("".join) | st.text(max_size=60)


@pytest.mark.parametrize("tokens", TOKENIZERS)
@given(text=TEXTS, room=st.integers(4, 24), share=st.floats(0, 0.99))
@example(text=" " * 3000, room=4, share=0)
@example(text="x" * 999 + " " + "👩" * 99, room=5, share=0.9)
@example(text="𐀀0é", room=4, share=0.5)
@example(text="." * 2000, room=9, share=0.5)
def test_chunks_cover_any_text_and_fit(tokens: Starts, text: str, room: int, share: float) -> None:
    overlap = int(share * room)
    spans = list(chunk_spans(text, tokens, room, overlap))
    assert (not spans) == (not text)
    if not text:
        return
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    for start, end in spans:
        assert len(tokens(text[start:end])) <= room or end - start == 1
    for (start, end), (following, its_end) in pairwise(spans):
        assert start < following <= end < its_end
        shared = int((tokens(text[start:end]) >= following - start).sum())
        assert shared <= overlap
    if not overlap:
        assert "".join(text[start:end] for start, end in spans) == text


@given(st.text("日本語", min_size=1, max_size=99), st.integers(2, 12), st.integers(0, 11))
def test_without_words_chunks_are_full_and_share_what_was_asked_for(text: str, room: int, overlap: int) -> None:
    overlap = min(overlap, room - 1)
    spans = list(chunk_spans(text, by_character, room, overlap))
    assert all(end - start == room for start, end in spans[:-1])
    assert all(following == end - overlap for (_, end), (following, _) in pairwise(spans))


@given(TEXTS, st.integers(5, 24))
def test_a_chunk_ends_in_the_last_fifth_of_what_would_fit(text: str, room: int) -> None:
    for start, end in list(chunk_spans(text, by_character, room))[:-1]:
        assert end - start > room * 4 // 5


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("One. Two! Three four five", "One. Two! "),
        ('He said "no." Then he left it', 'He said "no." '),
        ("wrapped line\nand another one", "wrapped line\n"),
        ("a paragraph\n\nand a line\nand more", "a paragraph\n\n"),
        ("two words and mor", "two words and "),
        ("一つの文。二つの文", "一つの文。"),
        ("「一つの文。」二つの文", "「一つの文。」"),
        ("पहला वाक्य। दूसरा वाक्य", "पहला वाक्य। "),
        ("日本語日本語", "日本語日本語"),
        ("version 1.2.3", "version "),
        ("....................", "...................."),
        ("", ""),
    ],
)
def test_where_a_text_is_cut(text: str, left: str) -> None:
    assert text[: last_boundary(text, 0, len(text))] == left


def test_blank_lines_are_no_chunk_of_their_own() -> None:
    text = "\n" * 500 + "word " * 20
    first, *_ = chunk_spans(text, by_words, 20)
    assert text[slice(*first)] == "\n" * 500 + "word " * 10


def test_only_the_given_range_is_looked_at() -> None:
    assert last_boundary("One. Two. Three.", 5, 8) == 8
    assert last_boundary("One. Two. Three.", 3, 9) == 5
    assert last_boundary("One.     Two.", 0, 6) == 6, "white space that does not fit goes to the next chunk"


def test_what_is_shared_begins_at_a_word() -> None:
    text = "alpha beta gamma delta zeta"
    pieces = [text[start:end] for start, end in chunk_spans(text, by_character, 12, 6)]
    assert pieces == ["alpha beta ", "beta gamma ", "gamma delta ", "delta zeta"]


def test_sentences_stay_whole_where_they_can() -> None:
    text = "The first sentence is here. The second one is too. And a third, the longest of them all. Fin."
    pieces = [text[start:end] for start, end in chunk_spans(text, by_character, 55)]
    assert pieces == [
        "The first sentence is here. The second one is too. ",
        "And a third, the longest of them all. Fin.",
    ]
