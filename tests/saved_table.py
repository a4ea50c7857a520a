"""Dumps a table as JSON values, to compare it with what an older release wrote.

Uses no more of sfr_batch than what a table and its snapshots offer, so that the release that writes the values and
the one that is compared can both run it. Vectors and hashes are the hexadecimal of their bytes.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Values = dict[str, Any]


def rows_of(table: pa.Table) -> list[Values]:
    """Rows with all of their columns, in their order."""
    return by_row({name: _plain(table.column(name).combine_chunks()) for name in table.column_names})


def _plain(column: pa.Array) -> list[Any]:
    if pa.types.is_fixed_size_list(column.type):
        numbers = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
        return [vector.tobytes().hex() for vector in numbers]
    values = column.to_pylist()
    return [value.hex() for value in values] if pa.types.is_fixed_size_binary(column.type) else values


def key_of(row: Values) -> tuple[Any, ...]:
    """What names a row: its id, and its chunk where there are chunks."""
    return row["id"], row.get("chunk", 0)


def by_key(rows: Iterable[Values]) -> dict[tuple[Any, ...], Values]:
    """Rows by what names them; none of them is there twice."""
    listed = list(rows)
    found = {key_of(row): row for row in listed}
    assert len(found) == len(listed), "a row is live twice"
    return found


def by_column(rows: Iterable[Values]) -> dict[str, list[Any]]:
    """The same, a list for each column."""
    listed = list(rows)
    return {name: [row[name] for row in listed] for name in (listed[0] if listed else ())}


def by_row(columns: Mapping[str, list[Any]]) -> list[Values]:
    """The inverse of `by_column`."""
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def in_order(rows: Iterable[Values]) -> list[Values]:
    """The same rows, whatever their order was."""
    return sorted(rows, key=lambda row: json.dumps(row, sort_keys=True))


def state_of(snapshot: Any) -> Values:
    """All that a snapshot says."""
    manifest = snapshot.manifest
    names = ("snapshot", "parent", "operation", "run_id", "created_at", "generation", "row_recipe", "fingerprint")
    return {
        **{name: getattr(manifest, name) for name in names},
        "counts": manifest.counts.model_dump(),
        "changes": manifest.changes.model_dump() if manifest.changes else None,
        "schema": {field.name: str(field.type) for field in snapshot.schema},
        "rows": by_column(rows_of(snapshot.to_arrow())),
        "rejects": by_column(snapshot.rejects().to_pylist()),
        "receipts": by_column(map(dataclasses.asdict, _read(snapshot, "receipts"))),
        "shards": by_column(map(dataclasses.asdict, _read(snapshot, "shards"))),
        "indexes": by_column(
            dataclasses.asdict(part) for parts in _read(snapshot, "indexes").values() for part in parts
        ),
        "deletes": {name: positions.tolist() for name, positions in sorted(_read(snapshot, "deletes").items())},
        "condemned": sorted(_read(snapshot, "condemned")),
        "needs": sorted(snapshot.needs()),
    }


def _read(snapshot: Any, side: str) -> Any:
    """What a side file holds. In the release that wrote the tables these were properties, and a method."""
    if hasattr(snapshot, f"read_{side}"):
        return getattr(snapshot, f"read_{side}")()
    value = getattr(snapshot, side)
    return value() if callable(value) else value


def outcome_of(snapshot: Any) -> Values:
    """What a snapshot says that does not depend on when and by whom it was published."""
    state = state_of(snapshot)
    names = ("snapshot", "operation", "counts", "changes", "deletes", "condemned", "shards")
    receipts = by_row(state["receipts"])
    return {
        **{name: state[name] for name in names},
        "rows": by_column(sorted(by_row(state["rows"]), key=key_of)),
        "rejects": by_column(in_order(by_row(state["rejects"]))),
        "splits": sorted([receipt["split_id"], receipt["owned"]] for receipt in receipts),
    }


def stored_vectors(table: Path, splits: Iterable[str]) -> dict[tuple[Any, ...], set[str]]:
    """The vectors in data files of a local table, live and dead, by what names a row and its text's hash."""
    found: dict[tuple[Any, ...], set[str]] = {}
    for split_id in sorted(splits):
        for row in rows_of(pq.read_table(table / "data" / f"{split_id}.parquet")):
            found.setdefault((*key_of(row), row["content_hash"]), set()).add(row["embedding"])
    return found


def data_files(table: Path) -> list[str]:
    """Split ids of the data files of a local table."""
    return sorted(file.stem for file in (table / "data").glob("*.parquet"))


def differences(frozen: Any, found: Any, where: str = "") -> list[str]:
    """What differs from what was written down; values that a newer release has in addition do not."""
    if isinstance(frozen, Mapping) and isinstance(found, Mapping):
        missing = [f"{where}.{name}: missing" for name in frozen if name not in found]
        names = [name for name in frozen if name in found]
        return missing + [text for name in names for text in differences(frozen[name], found[name], f"{where}.{name}")]
    if isinstance(frozen, list | tuple) and isinstance(found, list | tuple):
        if len(frozen) != len(found):
            return [f"{where}: {len(found)} instead of {len(frozen)}"]
        pairs = zip(frozen, found, strict=True)
        return [text for n, pair in enumerate(pairs) for text in differences(*pair, f"{where}[{n}]")]
    return [] if frozen == found else [f"{where}: {found!r} instead of {frozen!r}"]


# --- files


def times_of(folder: Path) -> dict[str, int]:
    """When each file below a folder was last modified, in nanoseconds: a part of a local shard's version."""
    return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in _files(folder)}


def hashes_of(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder."""
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in _files(folder)}


def copy_with_times(source: Path, target: Path, times: Mapping[str, int]) -> None:
    """Make ``target`` a copy of a folder, its files modified when ``times`` says: Git does not keep that."""
    shutil.rmtree(target, ignore_errors=True)
    for file in _files(source):
        name = str(file.relative_to(source))
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
        os.utime(copy, ns=(times[name], times[name]))


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())
