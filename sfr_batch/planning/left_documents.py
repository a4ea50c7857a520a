"""Documents of the table whose ids the comparison did not find in the corpus. They stay where tasks run.

The driver knows the data files that they use. Whatever else it needs of them, tasks count; `index_writing` writes those
that stay in the table. Knows no files and no Ray.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfr_batch.format.hashes import Hashes
from sfr_batch.format.records import KEPT
from sfr_batch.planning.join import Documents, among_sorted, sorted_ids, split_by
from sfr_batch.storage.executor import Executor


class LeftIds(NamedTuple):
    """How many ids of such documents are elsewhere, each counted once."""

    turned: int
    """Still in the corpus, of rows that cannot be embedded."""
    unchanged: int
    """In shards that the comparison does not read."""


@dataclass(frozen=True)
class LeftDocuments:
    """Handles of the documents, by partition of the ids."""

    parts: Sequence[Any]
    """Handles of `Documents`, in order; partitions without any are left out."""
    files: frozenset[int]
    """Numbers of the data files that have their vectors."""

    def count(self, executor: Executor, turned: Hashes, unchanged: Any | None) -> LeftIds:
        """Count ids. turned: [k, 2] of `sorted_ids`; unchanged: handle of [n] first halves of ids, sorted; None: there
        are none."""
        if not self.parts or not (len(turned) or unchanged is not None):
            return LeftIds(0, 0)
        others = executor.share(turned), executor.share(np.empty(0, np.uint64)) if unchanged is None else unchanged
        handles = [executor.submit(_count, part, *others)[0] for part in self.parts]
        found: list[LeftIds] = list(executor.get(handles))
        return LeftIds(sum(ids.turned for ids in found), sum(ids.unchanged for ids in found))

    def released(self) -> "LeftDocuments":
        """The same without the documents, so that they take no memory any more."""
        return LeftDocuments((), self.files)


def _count(left: Documents, turned: Hashes, unchanged: NDArray[np.uint64]) -> LeftIds:
    """A task: of one partition."""
    ids = sorted_ids(left["id"])
    at = np.minimum(np.searchsorted(unchanged, ids[:, 0]), len(unchanged) - 1)
    still_there = int((unchanged[at] == ids[:, 0]).sum()) if len(unchanged) else 0
    return LeftIds(int(among_sorted(ids, turned).sum()), still_there)


def by_owner(left: Documents, owners: Sequence[str | None], turned: Hashes) -> dict[str, Documents]:
    """The documents that stay in the table, by the URI of the shard that they are part of from now on.

    owners: [shards] this URI, by the number of the shard that the documents were part of; None: they leave the table.
    turned: as in `LeftDocuments.count`. What the table has of such a document is stale, so it is not kept.
    """
    uris = list(dict.fromkeys(owner for owner in owners if owner is not None))
    numbers = {uri: number for number, uri in enumerate(uris)}
    owner = np.array([-1 if uri is None else numbers[uri] for uri in owners], np.int64)[left["shard"]]
    stays = owner >= 0
    if KEPT in numbers:
        stays &= (owner != numbers[KEPT]) | ~among_sorted(left["id"], turned)
    found = zip(uris, split_by(owner[stays], left[stays], len(uris)), strict=True) if stays.any() else ()
    return {uri: documents for uri, documents in found if len(documents)}
