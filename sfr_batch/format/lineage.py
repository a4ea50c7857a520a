"""Where the rows of compacted data files come from: the list of sources in a footer, and the way back through them.

The name of a compacted file is a hash of that list, so the list proves itself: one that belongs to another file, or
was made up later, is not believed. A list names the files that were joined, not theirs in turn, so it does not grow
from one compaction to the next; a row is followed from file to file, as long as these are there. Knows stores and
footers; reads no rows, and does not know which are live.
"""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sfr_batch.errors import ObjectNotFound, TableDamaged
from sfr_batch.format import names
from sfr_batch.format.fingerprint import short_id
from sfr_batch.format.parquet import read_footer
from sfr_batch.storage.store import Store

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
Taken = tuple[str, str]
"""A source of a compacted file: its split id, and a bit for each of its rows, as hexadecimal: whether it was taken."""
_NAMES = 8
"""How many names of a file are tried: all but the first are of files that were swept and compacted again."""
_STEPS = 64
"""Compactions through which a row is followed back, at most."""


def taken(split_id: str, mask: Mask) -> Taken:
    """A source. mask: [rows] which of its rows are taken."""
    return split_id, np.packbits(mask).tobytes().hex()


def names_of(sources: Sequence[Taken], fingerprint: str, covers: str) -> Iterator[str]:
    """The split ids that a file with these rows can have: each one after the first if those before are condemned.

    fingerprint: of the table; covers: of the file's receipt.
    """
    name = short_id("compact", sources, fingerprint, *filter(None, [covers]))
    while True:
        yield name
        name = short_id(name, "after a sweep")


class Origin(NamedTuple):
    """Rows of a file that were copied from a known one. at: [n] rows of the file; rows: [n] the same rows there.

    same: whether they have the same columns and types in both, so that all of their values are equal; else only what
    is no carried column is, such as the vectors.
    """

    split_id: str
    at: Rows
    rows: Rows
    same: bool


class Lineage:
    """Finds rows of compacted files again in the files that they were copied from.

    known: number of rows and `covers` of these files, by split id.
    """

    def __init__(self, store: Store, fingerprint: str, known: Mapping[str, tuple[int, str]]) -> None:
        self._store, self._fingerprint, self._known = store, fingerprint, known

    def origins(self, split_id: str) -> list[Origin]:
        """Where rows of a file come from. Those that are not found in a known file are left out.

        Reads the footer of the file, and of each one between it and the known ones. Raises StorageError.
        """
        return self._follow(split_id, _STEPS, {})[1]

    def _follow(self, split_id: str, steps: int, seen: dict[str, tuple[str, list[Origin]]]) -> tuple[str, list[Origin]]:
        """What the receipt of a file covers, and its origins. seen: what was found of other files."""
        if split_id in seen or not steps:
            return seen.get(split_id, ("", []))
        (covers, sources), found, before = self._sources(split_id), list[Origin](), 0
        for source, rows in sources:
            at = before + np.arange(len(rows))
            before += len(rows)
            if source in self._known:
                vectors, theirs = self._known[source]
                if not len(rows) or rows[-1] < vectors:
                    found.append(Origin(source, at, rows, covers == theirs))
                continue
            theirs, origins = self._follow(source, steps - 1, seen)
            for origin in origins:
                here, there = np.isin(rows, origin.at), np.isin(origin.at, rows)  # both ascend
                if here.any():
                    same = origin.same and covers == theirs
                    found.append(Origin(origin.split_id, at[here], origin.rows[there], same))
        seen[split_id] = covers, found
        return seen[split_id]

    def _sources(self, split_id: str) -> tuple[str, list[tuple[str, Rows]]]:
        """What the receipt of a file covers, and the rows of its sources; no source if nothing proves them."""
        try:
            footer = read_footer(self._store, split_id)
        except (ObjectNotFound, TableDamaged):  # who needs its rows will be told
            return "", []
        listed = _parsed(footer.sources)
        possible = itertools.islice(names_of(listed, self._fingerprint, footer.covers), _NAMES)
        if not listed or split_id not in possible:
            return footer.covers, []
        sources = [(source, np.flatnonzero(_bits(mask))) for source, mask in listed]
        whole = sum(len(rows) for _, rows in sources) == footer.rows
        return footer.covers, sources if whole else []


def _parsed(text: str) -> list[Taken]:
    """The sources in a footer; none if it has no list of the right form."""
    try:
        listed = [(source, bytes.fromhex(mask).hex()) for source, mask in json.loads(text or "[]")]
        named = all(names.split_of_data_key(names.data_key(source)) for source, _ in listed)
    except (ValueError, TypeError, RecursionError):
        return []
    return listed if named else []


def _bits(mask: str) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(bytes.fromhex(mask), np.uint8))
