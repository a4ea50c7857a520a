"""Cuts a long text into chunks: after a sentence, a line or a word if possible, else between two tokens.

Pure functions of a text and of a function that says where the tokens of a piece of it begin. Knows no tokenizer, no
prompt and no vectors.
"""

import re
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
TokenStarts = Callable[[str], IntArray]
"""Maps a piece of text to the character at which each of its tokens begins, in order. Tokens of a prompt before it,
which count towards a chunk, begin at 0."""

_STOPS = frozenset(".!?…।॥؟۔")
_WIDE_STOPS = "。！？｡"
_CLOSING = "\"'”’»)]}」』）】》"
# White space belongs to the words before it: a chunk then begins with a word, whose tokens are those that it has after
# a space. The pattern looks at each character once, whatever the text is: dots without end are no trap.
_GAP = re.compile(rf"[{_WIDE_STOPS}]+[{re.escape(_CLOSING)}]*\s*|\s+")
_WORD_START = re.compile(r"(?<=\s)\S")

_FIRST_LOOK = 6
"""Characters to look at per token, until it is known how many a chunk takes."""


def chunk_spans(text: str, token_starts: TokenStarts, room: int, overlap: int = 0) -> Iterator[tuple[int, int]]:
    """Cut ``text`` into chunks of at most ``room`` tokens; yields their half-open character spans, in order.

    Together the spans cover the text; each begins and ends after the one before it. A chunk ends at the last sentence
    end in the last fifth of what would fit, else at a line's end, else at a word's, else where a token ends. It
    shares with the chunk before it as many of that one's last tokens as begin at a word, at most ``overlap`` (fewer
    where nothing new would fit beside them). Every chunk is measured as the text that it is, for tokens may change
    where a text is cut. The only chunk that can be longer than ``room`` is a single character that is so by itself.
    """
    start = covered = 0
    width = _FIRST_LOOK * room
    while covered < len(text):
        end, starts = _longest(text, token_starts, room, start, covered, width)
        if end <= covered and start < covered:
            start = covered  # what would be shared leaves no room for more
            continue
        if end <= covered:  # not even one character fits: it is a chunk that shares nothing
            end, starts = covered + 1, starts[:0]
        yield start, end
        width = (end - start) * 5 // 4 + 16
        start, covered = _shared_from(text, start, end, starts, overlap), end


def _longest(
    text: str, token_starts: TokenStarts, room: int, start: int, covered: int, width: int
) -> tuple[int, IntArray]:
    """The end of the chunk that begins at ``start``, and its token starts; ``covered`` or less if nothing new fits."""
    while True:
        end = min(len(text), start + width)
        starts = token_starts(text[start:end])
        if len(starts) > room or end == len(text):
            break
        width *= 2
    while len(starts) > room:
        fits = min(start + int(starts[room]), end - 1)
        if fits <= covered:
            return fits, starts
        # The last fifth in tokens: in characters it might lie in white space that is hardly a token.
        end = last_boundary(text, max(covered, start + int(starts[room * 4 // 5])), fits)
        starts = token_starts(text[start:end])
    return end, starts


def _shared_from(text: str, start: int, end: int, starts: IntArray, overlap: int) -> int:
    """The start of the next chunk, which shares at most ``overlap`` tokens with this one."""
    if not overlap or not len(starts):  # white space alone may be no token at all
        return end
    alone = starts[max(0, len(starts) - overlap - 1)]  # the last token that is not to be shared
    # Several tokens may begin at one character, as the bytes of an emoji do: it is shared whole or not at all.
    shared = starts[np.searchsorted(starts, alone, side="right") :]
    first = start + int(shared[0]) if len(shared) else end
    word = _WORD_START.search(text, first, end)
    return word.start() if word else first


def last_boundary(text: str, low: int, high: int) -> int:
    """The best place to cut ``text`` in ``low < place <= high``: after the last sentence, else line, else word, else
    at ``high``. A blank line ends a sentence, a single line break only a line: texts may be wrapped."""
    sentence = line = word = 0
    for gap in _GAP.finditer(text, low, high):
        word = gap.end()
        breaks = gap[0].count("\n")
        if gap[0][0] in _WIDE_STOPS or breaks > 1 or _ends_sentence(text, gap.start()):
            sentence = word
        elif breaks:
            line = word
    return sentence or line or word or high


def _ends_sentence(text: str, end: int) -> bool:
    return text[max(0, end - 4) : end].rstrip(_CLOSING)[-1:] in _STOPS
