"""Which files of a snapshot are lost: data files that are missing or of another size than their receipts say, rejects
and indexes that are missing; and which manifests are.

By names and sizes alone. `inventory` looks inside files.
"""

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence

from sfr_batch.errors import ObjectNotFound, StorageError, TableDamaged, TableError, TableNotFound, counted
from sfr_batch.format import names
from sfr_batch.format.expired import REPAIR
from sfr_batch.format.records import Manifest
from sfr_batch.storage.store import ObjectInfo
from sfr_batch.table.table import Snapshot, Table

Lost = Mapping[str, str]
"""By split id, what is wrong with its data file; by key, with another file. A sentence that begins with the key."""


def listed_wrong(split_id: str, size: int, committed: Mapping[str, ObjectInfo]) -> str | None:
    """What is wrong with a data file of ``size`` bytes according to the listing; ``committed``: by split id."""
    key, info = names.data_key(split_id), committed.get(split_id)
    if info is None:
        return f"{key} is missing"
    return None if info.size == size else f"{key} has {info.size:,} bytes instead of {size:,}"


def find_lost(snapshot: Snapshot, committed: Mapping[str, ObjectInfo]) -> Lost:
    """The data files of a snapshot that are lost. committed: all data files on storage, by split id."""
    files = snapshot.receipt_columns([names.SPLIT_ID, "size"]).to_pydict()
    sizes = zip(files[names.SPLIT_ID], files["size"], strict=True)
    return {split_id: wrong for split_id, size in sizes if (wrong := listed_wrong(split_id, size, committed))}


def find_missing(snapshot: Snapshot, committed: Mapping[str, ObjectInfo]) -> Lost:
    """All files of a snapshot that listings show to be lost. committed: as in `find_lost`.

    Raises TableError if a side file that names files cannot be read.
    """
    lost, duplicates = dict(find_lost(snapshot, committed)), snapshot.manifest.duplicates
    rejects = {*snapshot.keys_of_rejects(owned=True), *([duplicates] if duplicates else [])}
    for folder, needed in ((names.REJECTS, rejects), (names.INDEX, snapshot.index_keys())):
        present = {info.key for info in snapshot.store.list(folder)} if needed else set()
        lost |= {key: f"{key} is missing" for key in sorted(needed - present)}
    return lost


def tell(lost: Lost) -> str:
    """The number of lost files, and one of them: `2 files are lost, e.g. data/… is missing`."""
    first = next(iter(lost.values()))
    if len(lost) == 1:
        return f"1 file is lost: {first}"
    return f"{counted(len(lost), 'file')} are lost, e.g. {first}"


def lost_manifests(table: Table, numbers: Sequence[int]) -> list[str]:
    """Sentences on manifests that are missing. numbers: all published ones that there are, ascending."""
    told = []
    newest_manifest = _manifest(table, numbers[-1]) if numbers else None
    for before, after in itertools.pairwise([0, *numbers]):
        if after > before + 1 and (newer := _manifest(table, after)) and newer.parent is not None:
            gap = range(before + 1 if before else newer.parent, after)
            if newest_manifest and all(newest_manifest.has_expired(number) for number in gap):
                continue
            which = f"manifest {names.manifest_key(gap[0])} is" if len(gap) == 1 else f"{len(gap)} manifests are"
            where = f"between snapshots {before} and {after}" if before else f"before snapshot {after}"
            told.append(
                f"{which} missing {where}. Restore it from a copy. Without one, newer snapshots are as good as before; "
                "`sfr-batch expire` gives up what cannot be read"
            )
    if newest := lost_newest(table, max(numbers, default=0)):
        told.append(
            f"{newest}. Restore it from a copy. Without one, the next `sfr-batch embed CONFIG` publishes its rows "
            "again: their vectors are in data/"
        )
    return told


def lost_newest(table: Table, newest: int) -> str | None:
    """What is wrong if the last run with a report has published a snapshot after ``newest``; nothing else shows it."""
    reported = _last_reported(table)
    return f"{names.manifest_key(reported)} is missing, which a run has published" if reported > newest else None


def _manifest(table: Table, number: int) -> Manifest | None:
    try:
        return table.published(number).manifest
    except TableError:  # damaged, which another sentence says
        return None


def _last_reported(table: Table) -> int:
    """Number of the snapshot that the last run with a report has published; 0 if there is no report.

    The last one by its name, which has the time of its machine, or by the store's clock: either may be wrong, the one
    on a machine whose clock is ahead, the other in a copy.
    """
    reports = [info for info in table.store.list(names.RUNS) if info.key.endswith(f"/{names.RUN_REPORT}")]
    if not reports:
        return 0
    by_name = max(reports, key=lambda info: info.key)
    by_time = max(reports, key=lambda info: (info.modified, info.key))
    return max(_reported(table, key) for key in {by_name.key, by_time.key})


def _reported(table: Table, key: str) -> int:
    try:
        return int(json.loads(table.store.read(key))["snapshot"])
    except (StorageError, ValueError, KeyError, TypeError):  # the record of a run is for people: it may be anything
        return 0


def refuse(snapshot: Snapshot, lost: Lost) -> TableDamaged:
    """The error of whoever cannot go on without the lost files."""
    return TableDamaged(
        f"{snapshot.store.root} is damaged, so nothing was done. Of snapshot {snapshot.number}, {tell(lost)}", REPAIR
    )


@contextlib.contextmanager
def needed_whole(snapshot: Snapshot) -> Iterator[None]:
    """Raises TableDamaged if a snapshot cannot be read that has to be, so that no file that it needs is removed."""
    try:
        yield
    except TableNotFound:  # it has expired meanwhile
        raise
    except (TableError, ObjectNotFound) as error:
        what = error.what if isinstance(error, TableDamaged) else str(error).rstrip(".")
        raise TableDamaged(
            f"{what}, so nobody knows which files it needs. Nothing was removed",
            "If it is the newest snapshot, `sfr-batch repair CONFIG --write` publishes a whole one. Older ones go with "
            "`sfr-batch expire TABLE --keep-last 1 --delete`.",
        ) from error
