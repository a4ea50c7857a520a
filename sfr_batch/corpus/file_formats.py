"""The formats of corpus files: what is known of a file by its name.

To take in another format, add it to `FORMATS` and to the settings, say in `survey` what a file tells before it is read,
in `records` how a line becomes a row, and in `reader` how its rows are read. Knows no columns, rows or stores.
"""

import re
from dataclasses import dataclass

PARQUET = "parquet"
JSONL = "jsonl"
CSV = "csv"
TEXT = "text"
DELTA, ICEBERG = "delta", "iceberg"
"""Formats of whole tables, whose data files are Parquet; see `table_versions`."""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """Properties of all files of a format."""

    endings: tuple[str, ...]
    has_metadata: bool = False
    """Whether a file states its rows, their sizes and types; else these are estimated from its beginning."""
    read_from_start: bool = False
    """Whether a file can only be read from its beginning, even if it is not compressed."""
    has_ids: bool = True
    """Whether a file may have a column of ids; else its rows are numbered whatever `corpus.id` is."""


FORMATS = {
    PARQUET: FileFormat((".parquet", ".pq", ".parq"), has_metadata=True),
    JSONL: FileFormat((".jsonl", ".ndjson", ".jsonlines", ".ldjson", ".jl", ".json")),
    CSV: FileFormat((".csv", ".tsv", ".tab", ".psv"), read_from_start=True),
    TEXT: FileFormat((".txt", ".text"), has_ids=False),
}
COMPRESSIONS = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_ENDINGS = {ending: name for name, kind in FORMATS.items() for ending in kind.endings}
_MANY_MEANINGS = (".json", ".ldjson", ".jl", ".psv")
"""Endings of files that may be of other formats, too, if `corpus.format` says so."""
_CODECS = (".snappy", ".gz", ".gzip", ".zst", ".zstd", ".lz4", ".lzo", ".br", ".brotli", ".uncompressed")
"""Endings behind `.parquet` that name the codec inside the file, as pandas' own example has it."""
_DELIMITERS = {".tsv": "\t", ".tab": "\t", ".psv": "|"}
_NUMBER = re.compile(r"(\.\d[\d_-]*|[.-]\d+-of-\d+|\.part[_-]?\d+)$")
"""What stands behind an ending when a file is rotated or divided: a.jsonl.1, a.csv.2024-11-01, a.txt-00000-of-00008."""


def format_of(name: str) -> tuple[str | None, str]:
    """Format and compression by a file's name, such as ``("jsonl", "gzip")``; None if it does not tell the format."""
    bare, compression = bare_name(name)
    kind = _kind_of(bare)
    if kind is None and any(ending in bare for ending in FORMATS[PARQUET].endings):
        codec = next((codec for codec in _CODECS if name.lower().endswith(codec)), "")
        kind = PARQUET if _kind_of(name.lower().removesuffix(codec)) == PARQUET else None
    return (kind, "") if kind == PARQUET else (kind, COMPRESSIONS.get(compression, ""))


def _kind_of(bare: str) -> str | None:
    return next((kind for ending, kind in _ENDINGS.items() if bare.endswith(ending)), None)


def bare_name(name: str) -> tuple[str, str]:
    """The name in lower case without its compression's ending, and that ending; without the number of a part."""
    name = name.lower()
    compression = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    bare = name.removesuffix(compression)
    number = _NUMBER.search(bare)
    if number:
        inner, of_inner = bare_name(bare[: number.start()])
        if _kind_of(inner) and not (compression and of_inner):
            return inner, compression or of_inner
    return bare, compression


def ending_of(name: str) -> str:
    """All that follows the stem of a file whose name tells its format, as it is written: `.jsonl.gz`, `.csv.1`."""
    last = name.rsplit("/", 1)[-1]
    bare, _ = bare_name(last)
    known = next((ending for ending in _ENDINGS if bare.endswith(ending)), "")
    return last[last.lower().rindex(known) :] if known else ""


def may_be(name: str, asked: str) -> bool:
    """Whether a file of this name is read if `corpus.format` is ``asked``: data.txt may well be JSON Lines or CSV."""
    kind, _ = format_of(name)
    if kind in (None, asked):
        return True
    bare, _ = bare_name(name)
    return asked != PARQUET and (kind == TEXT or bare.endswith(_MANY_MEANINGS))


def delimiter_by_name(name: str) -> str:
    """The separator of a CSV's columns, by its name."""
    bare, _ = bare_name(name)
    return next((delimiter for ending, delimiter in _DELIMITERS.items() if bare.endswith(ending)), ",")


def supported() -> str:
    """The supported endings, as a text for messages."""
    return f"{', '.join(_ENDINGS)}; all but Parquet also with {', '.join(COMPRESSIONS)}"
