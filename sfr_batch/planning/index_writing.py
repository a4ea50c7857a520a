"""The last round of a comparison: writes index files once every vector has its place."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from sfr_batch.format import names
from sfr_batch.format.hashes import whole
from sfr_batch.format.indexes import (
    Located,
    index_table,
    write_index,
)
from sfr_batch.format.records import IndexPart
from sfr_batch.planning.comparison import Comparison
from sfr_batch.planning.join import (
    Decision,
    Records,
)
from sfr_batch.planning.scan import Scanned, Source
from sfr_batch.storage.stores import open_store


def write_indexes(
    found: Comparison, shards: frozenset[str], snapshot: int, run_id: str
) -> tuple[dict[str, list[IndexPart]], dict[str, tuple[int, int]]]:
    """Write the indexes of some of the shards, once every row of theirs has a vector or is among ``found.failed``.

    Returns the parts of each shard, and how many rows and rejects it has.
    """
    executor, shared = found.executor, found.executor.share((found.source, found.files))
    handles = []
    for number, (first, end, scanned) in enumerate(found.tasks):
        wanted = [unit for unit in range(first, end) if found.units[unit].shard.uri in shards]
        if not wanted:
            continue
        a, b = int(found.starts[first]), int(found.starts[end])
        failed = {row - a: why for row, why in found.failed.items() if a <= row < b}
        key = names.index_key(snapshot, run_id, number)
        handles += executor.submit(_write_index, scanned, wanted, found.decisions[a:b], failed, key, shared)
    parts: dict[str, list[IndexPart]] = {}
    counts: dict[str, tuple[int, int]] = {}
    for written in executor.get(handles):
        for part, rejected in written:
            parts.setdefault(part.shard, []).append(part)
            rows, rejects = counts.get(part.shard, (0, 0))
            counts[part.shard] = rows + part.rows, rejects + rejected
    return parts, counts


def _write_index(
    scanned: Sequence[Scanned],
    wanted: Sequence[int],
    decisions: Records,
    failed: Mapping[int, tuple[str | None, str, str]],
    key: str,
    shared: tuple[Source, list[str]],
) -> list[tuple[IndexPart, int]]:
    source, files = shared
    located, start = [], 0
    chosen = frozenset(wanted)
    for unit in scanned:
        end = start + unit.hashes.num_rows
        if unit.unit in chosen:
            lost = {row - start: why for row, why in failed.items() if start <= row < end}
            located.append(_locate(unit, decisions[start:end], files, lost))
        start = end
    parts = write_index(open_store(source.table, source.table_storage), key, located)
    return [(part, piece.rejected) for part, piece in zip(parts, located, strict=True)]


def _locate(
    unit: Scanned, decisions: Records, files: Sequence[str], lost: Mapping[int, tuple[str | None, str, str]]
) -> Located:
    rejects, good = unit.rejects, decisions["kind"] != Decision.SKIP
    if lost:
        good[list(lost)] = False
        rows = sorted(lost)
        more = {
            names.ID: [lost[row][0] for row in rows],
            "shard": [unit.shard] * len(rows),
            "position": unit.hashes.column("position").take(pa.array(rows)),
            "reason": [lost[row][1] for row in rows],
            "message": [lost[row][2] for row in rows],
        }
        rejects = pa.concat_tables([rejects, pa.table(more, schema=names.REJECTS_SCHEMA)])
        rejects = rejects.sort_by("position")
    hashes = unit.hashes if good.all() else unit.hashes.filter(pa.array(good))
    taken = decisions[good]
    index = index_table(hashes, split_ids_of(taken, files), taken["first"], taken["vectors"], rejects)
    return Located(unit.shard, index)


def split_ids_of(records: Records, files: Sequence[str]) -> pa.Array:
    """[n] the split id of the file of each."""
    used, which = np.unique(records["file"], return_inverse=True)
    chosen = pa.array([files[number] for number in used.tolist()], pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(which.astype(np.int32)), chosen).dictionary_decode()


def index_of_left(left: Records, files: Sequence[str]) -> pa.Table:
    """Documents of the table as rows of an index; where they were in their shard is not known any more."""
    hashes = {
        "id_hash": whole(np.stack([left["hash"], left["more"]], axis=1)),
        "row_hash": whole(left["row"]),
        "position": pa.array(np.zeros(len(left), np.int64)),
    }
    hashes |= {"content_hash": whole(left["content"])} if "content" in (left.dtype.names or ()) else {}
    return index_table(
        pa.table(hashes), split_ids_of(left, files), left["first"], left["vectors"], names.REJECTS_SCHEMA.empty_table()
    )
