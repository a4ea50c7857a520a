"""The snapshots of a table as lines of text, and times as users write them. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa

from sfr_batch.errors import ConfigError
from sfr_batch.format import text_table
from sfr_batch.format.records import Manifest

HEAD = ("number", "when", "operation", "run", "vectors", "new", "reused", "rejected", "by")
NUMBERS = {"number", "vectors", "new", "reused", "rejected"}
_OPTIONAL = ("by", "run", "rejected", "reused")
"""Columns that a narrow terminal does without, in this order."""


def listing(manifests: Sequence[Manifest], width: int | None = None) -> str:
    """A header and one line per snapshot: new and reused count documents, rejected those of the whole snapshot.

    width: characters of a line, for which columns are left out; None: all columns.
    """
    if not manifests:
        return "no snapshot yet"
    lines, _ = text_table.lines(HEAD, [row(manifest) for manifest in manifests], NUMBERS, width, _OPTIONAL)
    return "\n".join(lines)


def row(manifest: Manifest) -> tuple[str, ...]:
    """The cells of a snapshot, under HEAD."""
    run, by = ("".join(char if char.isprintable() else "?" for char in text) for text in (manifest.run_id, manifest.by))
    when = moment(manifest.created_at).astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return (
        str(manifest.snapshot),
        when,
        manifest.operation,
        run,
        *(f"{number:,}" for number in _numbers(manifest)),
        by,
    )


def _numbers(manifest: Manifest) -> tuple[int, ...]:
    counts = manifest.counts
    return (counts.vectors, counts.embedded, counts.reused, counts.rejected)


def table(manifests: Sequence[Manifest]) -> pa.Table:
    """The same as Arrow has it: numbers as such, when in UTC."""
    kinds = {name: pa.int64() if name in NUMBERS else pa.string() for name in HEAD} | {"when": pa.timestamp("s", "UTC")}
    rows = [(m.snapshot, moment(m.created_at), m.operation, m.run_id, *_numbers(m), m.by) for m in manifests]
    return pa.table(
        [pa.array([row[n] for row in rows], kind) for n, kind in enumerate(kinds.values())],
        schema=pa.schema(list(kinds.items())),
    )


def iso(seconds: float) -> str:
    """Seconds since the epoch as manifests write times."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat(timespec="seconds")


def moment(time: str | datetime) -> datetime:
    """A time, given in ISO 8601 or as an object; UTC unless it names a zone. Raises ConfigError."""
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time)
        except ValueError:
            raise ConfigError(f"Invalid time {time!r}. Use 2026-11-24T23:00 or 2026-11-24T23:00+01:00.") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
