"""Tables of other engines, recognised by the names of their files, so that they are never read as loose files.

The folder of such a table also holds rows that were replaced or deleted: only the table's own log says which files
count. Knows names; opens nothing. `delta_tables` and `iceberg_tables` read tables.
"""

import os
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sfr_batch.config.settings import CorpusSettings, StorageSettings
from sfr_batch.errors import CorpusError, counted
from sfr_batch.format import names
from sfr_batch.storage.input_listing import InputListing
from sfr_batch.storage.locations import absolute_uri, is_s3
from sfr_batch.storage.parallel import in_parallel
from sfr_batch.storage.surroundings import folders_from, names_in

_READ = "Set corpus.path to {root} and corpus.format to {format} (pip install 'sfr-batch[{format}]')."
_EXPORT = "Export its rows to a new folder, and set corpus.path to that: {how}."


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of table."""

    name: str
    folder: str
    """Where its log lies, below its root."""
    log: str
    """Regular expression of the names in that folder that show it."""
    way_out: str


DELTA = Kind("a Delta table", "_delta_log", r".+", _READ.replace("{format}", "delta"))
ICEBERG = Kind(
    "an Iceberg table",
    "metadata",
    r"(v\d+|\d{5,}-[^/]+)(\.gz)?\.metadata\.json(\.gz)?",
    _READ.replace("{format}", "iceberg"),
)
_KINDS = (
    DELTA,
    ICEBERG,
    Kind(
        "a Hudi table",
        ".hoodie",
        r".+",
        _EXPORT.format(how="in Spark, spark.read.format('hudi').load('{root}').write.parquet('<new folder>')"),
    ),
    Kind(
        "a Lance table",
        "_versions",
        r"\d+\.manifest",
        _EXPORT.format(
            how="in Python, pyarrow.parquet.write_table(lance.dataset('{root}').to_table(), '<new folder>/0.parquet')"
        ),
    ),
    Kind(
        "the output of a Spark stream",
        "_spark_metadata",
        r".+",
        _EXPORT.format(
            how="in Spark, which follows the log, spark.read.parquet('{root}').write.parquet('<new folder>')"
        ),
    ),
    Kind(
        "a Paimon table",
        "schema",
        r"schema-\d+",
        _EXPORT.format(how="in Spark, spark.read.format('paimon').load('{root}').write.parquet('<new folder>')"),
    ),
    Kind(
        "a table of sfr-batch",
        names.TABLE_JSON.split("/")[0],
        re.escape(names.TABLE_JSON.split("/")[1]),
        _EXPORT.format(how="sfr-batch export {root} <new folder>"),
    ),
)
_HIVE = Kind(
    "a transactional Hive table",
    "",
    r"(.+?)/(?:base|delta|delete_delta)_\d{7,}[^/]*/[^/]+",
    _EXPORT.format(how="in Hive, INSERT OVERWRITE DIRECTORY '<new folder>' STORED AS PARQUET SELECT * FROM <its name>"),
)
_DUCKLAKE = Kind(
    "a DuckLake",
    "",
    r"(.+)/ducklake-[0-9a-f]{8}-[0-9a-f-]{27}(?:-delete)?\.parquet",
    _EXPORT.format(how="in DuckDB, COPY (FROM <its name>) TO '<new folder>/0.parquet'"),
)
_HUDI_PARTITION = Kind(
    "a partition of a Hudi table",
    "",
    r"(.+)/\.hoodie_partition_metadata(?:\.\w+)?",
    _EXPORT.format(how="in Spark, spark.read.format('hudi').load(<the table>).write.parquet('<new folder>')"),
)
_BY_FILE = tuple((kind, re.compile(kind.log)) for kind in (_HIVE, _DUCKLAKE, _HUDI_PARTITION))
"""Tables whose log is elsewhere: whole URIs of their files, of which the first group is the root."""
_LOGS = re.compile(
    "(.*)/(?:"
    + "|".join(f"(?P<k{number}>{re.escape(kind.folder)}/{kind.log})" for number, kind in enumerate(_KINDS))
    + ")"
)
_TELLING = re.compile(
    "|".join(
        [*(re.escape(f"/{kind.folder}/") for kind in _KINDS), "ducklake-", "hoodie_partition", r"(?:base|delta)_\d{7}"]
    )
)
"""A quick look: what the name of every such file contains."""
_WRITE = re.compile(r"(.+)/_(started|committed)_(\d+)")
_NUMBER_OF_WRITE = re.compile(r"-tid-(\d+)-[^/]*$")
_FIRST_NAMES = {"metadata": ("0", "v"), "schema": ("schema-",)}
"""How the names of logs begin in folders that others may have, too, for other things."""
_FOLDERS_AT_ONCE = 16


def refuse(found: InputListing, path: str, settings: CorpusSettings) -> None:
    """Raises CorpusError if the files at ``path`` are those of a table of another engine, some of one, or in one.

    A file that is named by itself is read as it is. The listing has the names below the path already; only the folders
    above are asked.
    """
    if not found.files or [file.uri for file in found.files] == [absolute_uri(path)]:
        return
    uris = [file.uri for file in found.files]
    listed = [*uris, *(file.uri for file in found.hidden), *found.beside]
    above = list(folders_from(found.base))
    inside = _among(listed) | _at(_between(found.base, uris) if found.pattern else [], settings.storage)
    tables = _at(above if found.pattern or not found.complete else above[1:], settings.storage)
    tables |= {root: kind for root, kind in inside.items() if _any_below(root, uris)}
    whole = [f"{root}/" for root, kind in tables.items() if kind is not _HUDI_PARTITION]
    tables = {root: kind for root, kind in tables.items() if not root.startswith(tuple(whole))}
    if tables:
        root = min(tables, key=lambda uri: (uri.count("/"), uri))
        raise CorpusError(_explain(path, found.base, root, tables[root], len(tables)))
    _refuse_unfinished(path, uris, listed[len(uris) :])


def root_above(uri: str, storage: StorageSettings) -> tuple[str, Kind] | None:
    """The nearest folder, at ``uri`` or above it, that is the root of a table, and its kind."""
    found = ((folder, _kind_of(folder, storage)) for folder in folders_from(uri))
    return next(((folder, kind) for folder, kind in found if kind), None)


def _refuse_unfinished(path: str, uris: Sequence[str], others: Sequence[str]) -> None:
    """Raises CorpusError for files of a write that Databricks has begun and not committed: its readers pass over them.

    It leaves `_started_<n>` and, in the end, `_committed_<n>` in each folder, and writes n into the names of the files.
    """
    marks = {match.groups() for uri in others if (match := _WRITE.fullmatch(uri))}
    begun = {(folder, number) for folder, what, number in marks if what == "started"}
    begun = {(folder, number) for folder, number in begun if (folder, "committed", number) not in marks}
    if not begun:
        return
    for uri in uris:
        number = _NUMBER_OF_WRITE.search(uri)
        if number and (os.path.dirname(uri), number[1]) in begun:
            raise CorpusError(
                f"corpus.path {path} has files of a write that did not finish, e.g. {uri}: there is "
                f"_started_{number[1]} beside it and no _committed_{number[1]}. Wait until the job has ended; if it "
                "has failed, remove its files (in Databricks, VACUUM). Then run the command again."
            )


def _among(uris: Iterable[str]) -> dict[str, Kind]:
    """The roots of tables whose logs, or telling names, are among the URIs."""
    found: dict[str, Kind] = {}
    for uri in filter(_TELLING.search, uris):
        match = _LOGS.fullmatch(uri)
        if match:
            found.setdefault(match[1], next(kind for number, kind in enumerate(_KINDS) if match[f"k{number}"]))
        for kind, pattern in _BY_FILE:
            match = pattern.fullmatch(uri)
            if match:
                found.setdefault(match[1], kind)
    return found


def _between(base: str, uris: Sequence[str]) -> list[str]:
    """Of a local pattern, whose listing shows nothing else, the folders between ``base`` and the files."""
    if is_s3(base):
        return []  # one listing has shown all that is below
    found: set[str] = set()
    folders = {os.path.dirname(uri) for uri in uris}
    while folders := {folder for folder in folders if len(folder) > len(base)} - found:
        found |= folders
        folders = {os.path.dirname(folder) for folder in folders}
    return sorted(found)


def _at(folders: Sequence[str], storage: StorageSettings) -> dict[str, Kind]:
    """Those of the folders that are roots of tables. A folder `key=value` is a part of one at most."""
    folders = [folder for folder in folders if "=" not in folder.rsplit("/", 1)[-1]]
    kinds = in_parallel(lambda folder: _kind_of(folder, storage), folders, _FOLDERS_AT_ONCE)
    return {folder: kind for folder, kind in zip(folders, kinds, strict=True) if kind}


def _any_below(root: str, uris: Sequence[str]) -> bool:
    """Whether one of the sorted URIs is below ``root``."""
    at = bisect_left(uris, f"{root}/")
    return at < len(uris) and uris[at].startswith(f"{root}/")


def _kind_of(folder: str, storage: StorageSettings) -> Kind | None:
    """The kind of table whose root the folder is, if any."""
    if is_s3(folder):
        there, complete = names_in(folder, "", storage)
        candidates = [kind for kind in _KINDS if not complete or f"{kind.folder}/" in there]
    else:
        candidates = [kind for kind in _KINDS if os.path.isdir(os.path.join(folder, kind.folder))]
    for kind in candidates:
        for beginning in _FIRST_NAMES.get(kind.folder, ("",)):
            some, _ = names_in(f"{folder.rstrip('/')}/{kind.folder}", beginning, storage)
            if any(re.fullmatch(kind.log, name.rstrip("/")) for name in some):
                return kind
    return None


def _explain(path: str, base: str, root: str, kind: Kind, tables: int) -> str:
    if root == base:
        where = f"is {kind.name}"
    elif root.startswith(f"{base}/"):
        more = f" and {counted(tables - 1, 'other table')}" if tables > 1 else ""
        where = f"holds {kind.name}, {root}{more}"
    else:
        where = f"is inside {kind.name}, {root}"
    way_out = kind.way_out.replace("{root}", root)
    return (
        f"corpus.path {path} {where}. Its folder also has rows that were replaced or deleted since: which files count, "
        f"only the table's own log says. {way_out}"
    )
