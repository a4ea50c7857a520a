"""Published and expired snapshots, and the errors for a reader whose files were removed or lost. Deletes nothing."""

import bisect
import contextlib
from collections.abc import Iterator

from sfr_batch.errors import ObjectNotFound, TableDamaged, TableNotFound
from sfr_batch.format import names
from sfr_batch.format.records import Manifest
from sfr_batch.storage.store import Store

REPAIR = "`sfr-batch repair CONFIG` shows what it takes to have these rows again, and with --write it embeds them."
"""What to do about lost files of the newest snapshot."""
MANIFEST_WAYS_OUT = (
    "Restore it from a copy. Without one: if it is of the newest snapshot, `sfr-batch repair CONFIG` shows what it "
    "takes to publish the rows anew; else `sfr-batch expire` gives the snapshot up."
)
"""What to do about a damaged manifest."""


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
    """Turn ObjectNotFound into TableNotFound if the snapshot has expired since it was opened, or into TableDamaged."""
    try:
        yield
    except ObjectNotFound as error:
        check_not_expired(store, number)
        what = str(error).removeprefix("Cannot read ").split(": ")[0]
        raise damaged(store, number, f"{what} does not exist") from error


def damaged(store: Store, number: int, what: str) -> TableDamaged:
    """The error of who reads a snapshot of which something is lost: ``what`` says what, without a full stop."""
    newest = max(published_numbers(store), default=number)
    way_out = REPAIR if newest <= number else f"Read snapshot {newest}; `sfr-batch expire` removes damaged older ones."
    return TableDamaged(f"Snapshot {number} of {store.root} is damaged: {what}", way_out)
