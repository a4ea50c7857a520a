"""The filter behind a selection of rows: by id, by a condition, or because a row was rejected.

Knows ids and carried columns, not texts, shards, tables or plans."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sfr_batch.config.settings import SelectSettings
from sfr_batch.corpus.columns import Columns
from sfr_batch.format import names
from sfr_batch.table.filter_parser import parse
from sfr_batch.table.filters import Filter


@dataclass(frozen=True)
class RowFilter:
    """Which rows of the corpus are selected; a row must meet all conditions that are given."""

    ids: frozenset[str] | None = None
    """Ids as text."""
    where: Filter | None = None
    rejected: Mapping[str, frozenset[str]] | None = None
    """Ids, as text, of rejected rows by the URI of their shard."""

    @classmethod
    def make(
        cls, settings: SelectSettings, columns: Columns, rejected: Mapping[str, frozenset[str]] | None
    ) -> "RowFilter":
        """The filter of ``select``; rejected: see the field. Raises ConfigError if ``select.where`` is wrong."""
        schema = pa.schema([(names.ID, columns.id_type), *columns.types.items()])
        return cls(
            ids=frozenset(map(str, settings.ids)) if settings.ids else None,
            where=parse(settings.where, schema) if settings.where else None,
            rejected=rejected,
        )

    @property
    def columns(self) -> frozenset[str]:
        """The columns that it needs, by their names in the table: carried ones, and the id."""
        by_id = self.ids is not None or self.rejected is not None
        return frozenset((*(self.where.columns if self.where else ()), *([names.ID] if by_id else ())))

    def mask(self, uri: str, rows: pa.Table) -> NDArray[np.bool_]:
        """[n] whether each of the ``rows``, n of the shard ``uri``, is selected. They have at least `columns`."""
        found = np.ones(rows.num_rows, bool)
        for ids in (self.ids, None if self.rejected is None else self.rejected.get(uri, frozenset())):
            if ids is not None:
                its = rows.column(names.ID).to_pylist()
                found &= np.fromiter((str(id_) in ids for id_ in its), bool, len(its))
        if self.where is not None:
            found &= self.where.mask(rows).to_numpy()
        return found
