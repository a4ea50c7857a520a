"""Clocks: the time that a snapshot shows, and what is said of a machine whose clock is not that of the store.

No guarantee of the protocol rests on a clock. What is kept and what is removed goes by the store's own.
"""

import time

from sfr_batch.format.history import moment
from sfr_batch.format.records import utc_now
from sfr_batch.storage.store import Store
from sfr_batch.table.table import Snapshot

_SKEW_S = 60.0
"""Difference of two clocks that is worth a word, in seconds."""


def stamp(base: Snapshot | None) -> tuple[str, str | None]:
    """The time that the snapshot after ``base`` shows, which is never before that of ``base``; and the time of this
    machine if it is another one."""
    now = utc_now()
    shown = base.manifest.created_at if base else now
    return (now, None) if moment(now) >= moment(shown) else (shown, now)


def tell_skew(store: Store) -> str:
    """A sentence if the clock of this machine differs from that of the store, else nothing."""
    ahead = time.time() - store.clock()
    if abs(ahead) <= _SKEW_S:
        return ""
    minutes = round(abs(ahead) / 60)
    return (
        f"Warning: the clock of this machine is {minutes // 60:,} h {minutes % 60} min "
        f"{'ahead of' if ahead > 0 else 'behind'} that of {store.root}. Snapshots and logs of this run show a wrong "
        "time. What is kept and removed goes by the store's clock. Correct the clock of this machine."
    )


def tell_lifted(snapshot: Snapshot) -> str:
    """A sentence if a snapshot shows the time of its parent, because the clock of its writer was behind."""
    if snapshot.manifest.clock is None:
        return ""
    return (
        f"Warning: the clock of this machine says {snapshot.manifest.clock}, but snapshot {snapshot.manifest.parent} "
        f"has the later time {snapshot.manifest.created_at}. Snapshot {snapshot.number} shows that time, too. One of "
        "the two machines has a wrong clock: correct it."
    )
