"""Published and expired snapshots, and the error for a reader whose files were removed. Deletes nothing."""

import bisect
import contextlib
from collections.abc import Iterator

from sfr_batch.errors import ObjectNotFound, TableNotFound
from sfr_batch.format import names
from sfr_batch.format.records import Manifest
from sfr_batch.storage.store import Store


def published_numbers(store: Store) -> list[int]:
    """All numbers that were ever published, oldest first, those of expired snapshots included."""
    found = (names.number_of_manifest_key(info.key) for info in store.list(names.SNAPSHOTS))
    return sorted(number for number in found if number is not None)


def check_not_expired(store: Store, number: int) -> None:
    """Raises TableNotFound, with the date, if a published snapshot has expired."""

    def manifest(number: int) -> Manifest:
        key = names.manifest_key(number)
        return Manifest.from_json(store.read(key), f"{store.root}/{key}")

    numbers = published_numbers(store)
    newest = manifest(numbers[-1]) if numbers and numbers[-1] > number else None
    if newest is None or not newest.has_expired(number):
        return
    later = [n for n in numbers if n > number]  # expired once, expired in all later ones: bisect
    first = later[bisect.bisect_left(later, True, key=lambda n: manifest(n).has_expired(number))]
    known = ", ".join(str(n) for n in numbers if not newest.has_expired(n))
    raise TableNotFound(
        f"Snapshot {number} of {store.root} was removed by `sfr-batch expire` on {manifest(first).created_at}. "
        f"Available: {known}."
    )


@contextlib.contextmanager
def expiry_explained(store: Store, number: int) -> Iterator[None]:
    """Turn ObjectNotFound into TableNotFound if the snapshot has expired since it was opened."""
    try:
        yield
    except ObjectNotFound:
        check_not_expired(store, number)
        raise
