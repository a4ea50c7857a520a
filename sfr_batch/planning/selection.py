"""What a backfill is about: shards by name or partition, rows by id, by a filter, or because they were rejected.

A selection of shards is as good as a smaller corpus: what is outside is neither read nor deleted. A selection of rows
adds and replaces rows and deletes none. Knows settings, URIs and rows, no table.
"""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.config.settings import SelectSettings
from sfr_batch.corpus.columns import Columns
from sfr_batch.corpus.rows import Rows
from sfr_batch.format import names
from sfr_batch.table.filter_parser import parse
from sfr_batch.table.filters import Filter

_RANGE = ".."


def covers(settings: SelectSettings, uri: str) -> bool:
    """Whether a shard is in the selection."""
    if settings.shards and not any(_matches(uri, pattern) for pattern in settings.shards):
        return False
    found = dict(part.split("=", 1) for part in uri.split("/")[:-1] if "=" in part)
    return all(key in found and _within(found[key], wanted) for key, wanted in settings.partitions.items())


def _matches(uri: str, pattern: str) -> bool:
    """A pattern without a slash is of file names; any other of the end of a path."""
    if "/" not in pattern:
        return fnmatch.fnmatchcase(uri.rsplit("/", 1)[-1], pattern)
    return fnmatch.fnmatchcase(uri, pattern) or fnmatch.fnmatchcase(uri, f"*/{pattern.lstrip('/')}")


def _within(value: str, wanted: str) -> bool:
    first, range_, last = wanted.partition(_RANGE)
    if not range_:
        return fnmatch.fnmatchcase(value, wanted)
    return (not first or value >= first) and (not last or value <= last)


@dataclass(frozen=True)
class RowFilter:
    """Which rows of the corpus are meant; all conditions must hold. rejected: ids, as text, by shard."""

    ids: frozenset[str] | None = None
    where: Filter | None = None
    rejected: Mapping[str, frozenset[str]] | None = None

    def mask(self, uri: str, rows: Rows) -> NDArray[np.bool_]:
        """[n] which rows of a shard are meant."""
        found = np.ones(len(rows.texts), bool)
        if self.ids is not None or self.rejected is not None:
            ids = [str(id_) for id_ in rows.ids.to_pylist()]
            for wanted in (self.ids, None if self.rejected is None else self.rejected.get(uri, frozenset())):
                if wanted is not None:
                    found &= np.fromiter((id_ in wanted for id_ in ids), bool, len(ids))
        if self.where is not None:
            table = pa.table(
                {names.ID: rows.ids, **{name: rows.carry.column(name) for name in rows.carry.column_names}}
            )
            found &= self.where.mask(table).to_numpy()
        return found


def row_filter(settings: SelectSettings, columns: Columns, rejected: Mapping[str, frozenset[str]]) -> RowFilter | None:
    """None if whole shards are meant. Raises ConfigError if ``select.where`` is wrong."""
    if not settings.by_rows:
        return None
    schema = pa.schema([(names.ID, columns.id_type), *columns.carry.items()])
    return RowFilter(
        ids=frozenset(map(str, settings.ids)) if settings.ids else None,
        where=parse(settings.where, schema) if settings.where else None,
        rejected=rejected if settings.rejects else None,
    )
