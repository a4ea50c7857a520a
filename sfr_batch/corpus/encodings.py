"""Encodings of files: byte order marks, and what the first bytes say. Knows bytes; knows no formats."""

from sfr_batch.errors import CorpusError

UTF_8 = "utf-8"
BOM = b"\xef\xbb\xbf"
"""Byte order mark of UTF-8. It is dropped at the beginning of any line: cat leaves it there between two files."""
_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_PROBE = 4096


def as_utf_8(line: bytes, encoding: str) -> bytes:
    """A line of another encoding. Bytes that this has not stay as they are, which is no UTF-8: the row is rejected."""
    return line.decode(encoding, "surrogateescape").encode(UTF_8, "surrogateescape")


def refuse_marked(start: bytes, uri: str) -> None:
    """Raises CorpusError if the beginning of a file is a byte order mark of another encoding than UTF-8."""
    for mark, encoding in _MARKS.items():
        if start.startswith(mark):
            raise _not_utf_8(uri, encoding, encoding)


def refuse_unmarked(data: bytes, uri: str) -> None:
    """Raises CorpusError if the beginning of a file is UTF-16 or UTF-32 without a byte order mark.

    Their ASCII characters have a zero byte on one side, or three: never on both, as far as texts hold zero bytes.
    """
    refuse_marked(data, uri)
    data = data[:_PROBE]
    zeros = [data[place::4].count(0) for place in range(4)]
    if sum(zeros) < max(2, len(data) // 10):
        return
    for encoding, none, some in (
        ("UTF-32LE", (0,), (2, 3)),
        ("UTF-32BE", (3,), (0, 1)),
        ("UTF-16LE", (0, 2), (1, 3)),
        ("UTF-16BE", (1, 3), (0, 2)),
    ):
        here = min(zeros[place] for place in some)
        if here and 20 * max(zeros[place] for place in none) <= here:
            raise _not_utf_8(uri, f"{encoding[:6]} without a byte order mark", encoding)


def _not_utf_8(uri: str, what: str, encoding: str) -> CorpusError:
    return CorpusError(f"{uri} is {what}, which is not supported. Convert it to UTF-8: iconv -f {encoding} -t UTF-8.")
