"""The index files of a snapshot: each examined once, in order, and the results folded into one value."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import pyarrow as pa

from sfr_batch.checks.audit.contents import AHEAD, Contents
from sfr_batch.checks.audit.files import DataFiles
from sfr_batch.checks.audit.id_records import IdRecords
from sfr_batch.checks.audit.index_file import (
    ExaminedRowGroup,
    IndexRowGroup,
    NumberedPart,
    examine_row_group,
    overlaps,
    place_in,
    read_sizes,
    row_groups,
    shard_of,
)
from sfr_batch.checks.audit.promises import Problem, Problems, PromiseCheck
from sfr_batch.checks.audit.report import INDEXES, Finding
from sfr_batch.checks.audit.snapshots import expired_since, last_repair
from sfr_batch.checks.audit.work import Work
from sfr_batch.errors import SfrBatchError, counted
from sfr_batch.format import names
from sfr_batch.format.records import IndexPart
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.store import Store
from sfr_batch.table.table import Snapshot, Table


@dataclass(frozen=True)
class IndexFiles:
    """The index files of a snapshot, all examined. unread: number of those that could not be read, or not in full."""

    parts: Sequence[NumberedPart]
    problems: Problems
    unread: int

    def place(self, number: int) -> str:
        """The file and row of the entry with this number among the candidates."""
        numbered = self.parts[bisect_right(self.parts, number, key=lambda part: part.number) - 1]
        return place_in(numbered.part, numbered.part.start + number - numbered.number)


def read_indexes(
    table: Table, contents: Contents, files: DataFiles, snapshots: Mapping[int, Snapshot], work: Work
) -> IndexFiles:
    """Examine the index files of a snapshot, and whether those of the other ``snapshots`` exist.

    files: the data files that entries point to. The records of entries and rejects are added to ``work``.
    """
    check = PromiseCheck(INDEXES)
    missing, elsewhere = _find_missing(table, contents, snapshots)
    check.add([*(Problem(f"{key} is missing") for key in missing), *elsewhere])
    parts = [NumberedPart(c, n) for n, c in contents.candidates() if isinstance(c, IndexPart) and c.rows]
    groups, problems, damaged = _find_row_groups(table.store, parts, set(missing))
    check.add(problems)
    unread, rejected = {*missing, *damaged}, Counter[str]()
    number, superseded = contents.snapshot.number, contents.snapshot.manifest.duplicate_rule is not None
    examined = work.each(_look, (files, number, superseded), groups, [group.rows for group in groups], AHEAD)
    for group, found in zip(groups, examined, strict=True):
        check.add(found.problems)
        rejected.update(found.rejected)
        if found.damaged:
            unread.add(group.key)
    check.add(list(_check_shards(contents, rejected, unread)))
    return IndexFiles(parts, check.problems, len(unread))


def _look(context: tuple[DataFiles, int, bool], group: IndexRowGroup) -> tuple[ExaminedRowGroup, Sequence[IdRecords]]:
    """A row group, examined, without its records, and these."""
    files, number, superseded = context
    found = examine_row_group(group, files, number, superseded=superseded)
    return replace(found, records=()), found.records


def index_finding(contents: Contents, check: PromiseCheck) -> Finding:
    """check: with all problems of indexes, also those that only ids show."""
    rows, files = sum(part.rows for part in contents.parts), len({part.key for part in contents.parts})
    what = f"{counted(rows, 'row')} in {counted(files, 'index file')}"
    return check.finding(what, "counts match the shards, each document points to its own row")


def _find_missing(
    table: Table, contents: Contents, snapshots: Mapping[int, Snapshot]
) -> tuple[list[str], list[Problem]]:
    """The missing index files of this snapshot, and the problems with those that only the others name."""
    present = {info.key for info in table.store.list(names.INDEX)} if contents.indexes else set()
    own = dict.fromkeys(part.key for part in contents.parts)
    problems: list[Problem] = []
    seen, mended = set(own), last_repair(snapshots)
    for number, snapshot in snapshots.items():
        if snapshot is contents.snapshot:
            continue
        try:
            keys = snapshot.index_keys() - seen
        except (SfrBatchError, pa.ArrowException):  # reported as a side file
            continue
        if keys and not present:
            present = {info.key for info in table.store.list(names.INDEX)}
        absent = sorted(keys - present)
        if absent and (number < mended or expired_since(table, number)):
            continue
        problems += [Problem(f"{key} is missing; snapshot {number} needs it") for key in absent]
        seen |= keys
    return [key for key in own if key not in present], problems


def _find_row_groups(
    store: Store, parts: Sequence[NumberedPart], missing: Set[str]
) -> tuple[list[IndexRowGroup], list[Problem], set[str]]:
    """The row groups that the parts need, the problems with their files, and the files that are damaged."""
    by_file: defaultdict[str, list[NumberedPart]] = defaultdict(list)
    for numbered in parts:
        by_file[numbered.part.key].append(numbered)
    keys = [key for key in by_file if key not in missing]
    groups: list[IndexRowGroup] = []
    problems: list[Problem] = []
    damaged: set[str] = set()
    for key, sizes in zip(keys, in_parallel(lambda key: read_sizes(store, key), keys, AHEAD), strict=True):
        if isinstance(sizes, str):
            damaged.add(key)
            problems.append(Problem(sizes))
            continue
        its = sorted(by_file[key], key=lambda numbered: numbered.part.start)
        if its[-1].end > sum(sizes):
            damaged.add(key)
            needed = f"{shard_of(its[-1].part)} needs rows up to {its[-1].end:,}"
            problems.append(Problem(f"{key} has {counted(sum(sizes), 'row')}, but {needed}"))
        problems += overlaps(key, its)
        groups += row_groups(key, its, sizes)
    return groups, problems, damaged


def _check_shards(contents: Contents, rejected: Mapping[str, int], unread: Set[str]) -> Iterator[Problem]:
    """Whether the index of each shard has its rows and its rejects."""
    records = {record.uri: record for record in contents.shards}
    for uri, parts in contents.indexes.items():
        record, shard = records.get(uri), shard_of(parts[0])
        if record is None:
            yield Problem(f"{shard} has an index, but is not among the shards")
            continue
        rows = sum(part.rows for part in parts)
        if rows != record.read:
            yield Problem(f"{shard} has {counted(record.read, 'row')}, its index has {rows:,}")
        if unread.isdisjoint(part.key for part in parts) and rejected.get(uri, 0) != record.rejected:
            yield Problem(f"{shard} has {counted(record.rejected, 'reject')}, its index has {rejected.get(uri, 0):,}")
