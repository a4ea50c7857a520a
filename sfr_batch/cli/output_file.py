"""A new file that a command writes as a whole, on disk or S3: it is there complete, or not at all.

Knows names and bytes; knows no tables and no vectors.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sfr_batch.errors import ConfigError

if TYPE_CHECKING:
    from sfr_batch.config.settings import StorageSettings
    from sfr_batch.storage.store import Store

JSONL, PARQUET = ".jsonl", ".parquet"


def check_new(output: str, endings: Sequence[str], storage: "StorageSettings") -> None:
    """Raises ConfigError if --output has another ending, or is there already."""
    if not output.lower().endswith(tuple(endings)):
        raise ConfigError(f"--output {output}: the name must end in {', '.join(endings[:-1])} or {endings[-1]}.")
    from sfr_batch.errors import ObjectNotFound
    from sfr_batch.storage.inputs import stat_input
    from sfr_batch.storage.locations import absolute_uri

    try:
        stat_input(absolute_uri(output), storage)
    except ObjectNotFound:
        return
    raise _exists(output)


def check_beside(output: str, table: "Store", storage: "StorageSettings") -> None:
    """Raises ConfigError if --output would lie in the table or its corpus."""
    from sfr_batch.storage.locations import absolute_uri
    from sfr_batch.table.apart import BESIDE, check_apart

    check_apart(absolute_uri(output), table, storage, BESIDE)


def create(output: str, content: bytes, storage: "StorageSettings") -> None:
    """Create the file as a whole. Raises ConfigError if somebody else has created it meanwhile."""
    from sfr_batch.storage.locations import absolute_uri
    from sfr_batch.storage.stores import open_store, tidy

    folder, _, name = absolute_uri(output).rpartition("/")
    store = open_store(folder or "/", storage)
    try:
        if not store.create(name, content):
            raise _exists(output)
    finally:
        tidy(store)


def _exists(output: str) -> ConfigError:
    return ConfigError(f"--output {output} exists already, and is not overwritten. Name another file, or remove it.")
