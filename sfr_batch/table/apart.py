"""Whether a new folder lies apart from tables, pointers and the corpus: an export in a corpus would be embedded by the
next run, and files of others in a table would be taken for its own.

Knows where tables, pointers and corpora are; does not know what the folder is for.
"""

import os
from collections.abc import Iterator

from sfr_batch.config.settings import Config, CorpusSettings, StorageSettings
from sfr_batch.errors import ConfigError, ObjectNotFound, TableError
from sfr_batch.format import names
from sfr_batch.format.expired import published_numbers
from sfr_batch.format.parquet import read_parquet
from sfr_batch.format.records import Manifest
from sfr_batch.storage.input_listing import would_list
from sfr_batch.storage.locations import absolute_uri, is_s3
from sfr_batch.storage.patterns import parse_pattern
from sfr_batch.storage.s3 import endpoint_of
from sfr_batch.storage.store import Store
from sfr_batch.storage.surroundings import folders_from, names_in

BESIDE = "Choose a folder beside it."
_OWN, _CARD = names.TABLE_JSON.split("/")
_POINTER = names.POINTER.removeprefix(f"{_OWN}/")
_READ_NOTHING = ("compact", "sweep", "expire")
"""Operations whose runs have no config."""


def check_apart(
    place: str, table: Store, storage: StorageSettings | None, way_out: str, *, pointer: bool = False
) -> None:
    """Raises ConfigError if the folder ``place`` is in a table, in a pointer or in the corpus of ``table``, or if that
    table or its corpus is in ``place``.

    place: absolute URI. way_out: what to do instead. pointer: ``place`` is to be a pointer, which others may be
    creating, or have died creating.
    """
    settings = storage or StorageSettings()
    own = {place, place if is_s3(place) else os.path.realpath(place)} if pointer else set()
    for folder in folders_from(place):
        there, _ = names_in(f"{folder.rstrip('/')}/{_OWN}", "", settings)
        what = "table" if _CARD in there else "pointer" if f"{_POINTER}/" in there and folder not in own else ""
        if what:
            raise ConfigError(f"{place} is inside the {what} {folder}. {way_out}")
    if _is_below(table.root, place):
        raise ConfigError(f"The table {table.root} is inside {place}. {way_out}")
    for path, corpus in _corpus_paths(table):
        if is_s3(path) != is_s3(place) or (is_s3(path) and endpoint_of(corpus.storage) != endpoint_of(settings)):
            continue  # the same name would be another place
        real = place if is_s3(place) else os.path.realpath(place)
        if any(would_list(path, f"{name.rstrip('/')}/part-00000", corpus.storage) for name in {place, real}):
            raise ConfigError(f"{place} is inside {path}, the corpus of the table {table.root}. {way_out}")
        if _is_below(_folder_of(path), place):
            raise ConfigError(f"{path}, the corpus of the table {table.root}, is inside {place}. {way_out}")


def _is_below(uri: str, folder: str) -> bool:
    """Whether ``uri`` is the folder or in it, by name or, on a disk, by what links lead to."""
    pairs = [(uri, folder)]
    if not is_s3(uri) and not is_s3(folder):
        pairs.append((os.path.realpath(uri), os.path.realpath(folder)))
    return any(f"{one}/".startswith(f"{other.rstrip('/')}/") for one, other in pairs)


def _folder_of(path: str) -> str:
    """The folder below which a pattern looks; a path that is none as it is."""
    scheme = "s3://" if is_s3(path) else ""
    pattern = parse_pattern(path.removeprefix(scheme), (lambda _: False) if scheme else os.path.lexists)
    return f"{scheme}{pattern.base}" if pattern else path


def _corpus_paths(table: Store) -> Iterator[tuple[str, CorpusSettings]]:
    """Absolute paths of the corpus that the table was last embedded from, as far as the log of that run is there."""
    manifests = [_manifest(table, number) for number in published_numbers(table)[-1:]]
    newest = manifests[0] if manifests else None
    if not newest:
        return
    try:
        while manifests[-1].operation in _READ_NOTHING and manifests[-1].parent:
            manifests.append(_manifest(table, manifests[-1].parent))
        config = table.read(names.run_key(manifests[-1].run_id, names.RUN_CONFIG))
        corpus = Config.model_validate_json(config).corpus
    except (ObjectNotFound, TableError, ValueError):  # without its logs, of another release, or a manifest is lost
        return
    for path in [corpus.path] if isinstance(corpus.path, str) else corpus.path:
        uri = _absolute(path, table, newest)
        if corpus.is_table and uri.endswith(".json"):
            uri = os.path.dirname(os.path.dirname(uri))  # of an Iceberg table, <root>/metadata/<file>
        yield uri, corpus


def _manifest(table: Store, number: int) -> Manifest:
    key = names.manifest_key(number)
    return Manifest.from_json(table.read(key), f"{table.root}/{key}")


def _absolute(path: str, table: Store, newest: Manifest) -> str:
    """The corpus path as it was where the run was started: a relative one may mean another place here."""
    uri = absolute_uri(path)
    if is_s3(uri) or os.path.isabs(path):
        return uri
    relative = f"/{os.path.relpath(uri)}"
    stem = _folder_of(relative).rstrip("/")
    shards = read_parquet(table.read(newest.shards.name), columns=["uri"]).column("uri").to_pylist()
    shard = next((uri for uri in shards if uri.startswith("/")), "")
    at = f"{shard}/".find(f"{stem}/") if stem and ".." not in stem.split("/") else -1
    return uri if at < 0 else f"{shard[:at]}{relative}"
