"""When snapshots were published, by the clock of the store: the time that the store gives their manifests.

Writers have clocks of their own, which may be wrong by hours; a store has one. Copying a table gives its objects later
times, unless the tool keeps them, and never earlier ones. So these times are never before the truth, and what is kept
by them is never too little. Pure but for one listing.
"""

from collections.abc import Mapping

from sfr_batch.format import names
from sfr_batch.format.history import moment
from sfr_batch.format.records import Manifest
from sfr_batch.storage.store import Store

WORDS_APART_S = 60.0
"""Seconds by which the time in a manifest may differ from the store's without a clock that is wrong: it is taken before
the manifest is written."""


def published_at(store: Store) -> dict[int, float]:
    """By number, oldest first, when each snapshot was published at the latest, in seconds since the epoch. Not falling:
    a snapshot was there before all later ones."""
    times = {}
    for info in store.list(names.SNAPSHOTS):
        number = names.number_of_manifest_key(info.key)
        if number is not None:
            times[number] = info.modified
    earliest = float("inf")
    for number in sorted(times, reverse=True):
        times[number] = earliest = min(earliest, times[number])
    return dict(sorted(times.items()))


def visible_since(manifest: Manifest, times: Mapping[int, float]) -> float:
    """Since when readers see a snapshot, in seconds since the epoch: as its manifest says if the store agrees.

    times: of `published_at`.
    """
    said, stored = moment(manifest.created_at).timestamp(), times[manifest.snapshot]
    return said if abs(said - stored) <= WORDS_APART_S else stored
