"""The formats of corpus files: what is known of a file by its name.

To take in another format, add it to `FORMATS` and to the settings, say in `survey` what a file tells before it is read,
in `records` how a line becomes a row, and in `reader` how its rows are read. Knows no columns, rows or stores.
"""

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
    PARQUET: FileFormat((".parquet", ".pq"), has_metadata=True),
    JSONL: FileFormat((".jsonl", ".ndjson", ".jsonlines")),
    CSV: FileFormat((".csv", ".tsv", ".tab"), read_from_start=True),
    TEXT: FileFormat((".txt",), has_ids=False),
}
COMPRESSIONS = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd"}
_ENDINGS = {ending: name for name, kind in FORMATS.items() for ending in kind.endings}


def format_of(name: str) -> tuple[str | None, str]:
    """Format and compression by a file's ending, such as ``("jsonl", "gzip")``; None for an unknown ending."""
    bare, ending = bare_name(name)
    kind = next((kind for known, kind in _ENDINGS.items() if bare.endswith(known)), None)
    return (None, "") if kind == PARQUET and ending else (kind, COMPRESSIONS.get(ending, ""))


def bare_name(name: str) -> tuple[str, str]:
    """The name in lower case without its compression's ending, and that ending."""
    name = name.lower()
    ending = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    return name.removesuffix(ending), ending


def supported() -> str:
    """The supported endings, as a text for messages."""
    return f"{', '.join(_ENDINGS)}; all but Parquet also with {', '.join(COMPRESSIONS)}"
