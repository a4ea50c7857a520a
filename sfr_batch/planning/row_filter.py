"""The filter behind a selection of rows: by id, by a condition, or because a row was rejected.

Knows rows, not shards, tables or plans."""

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

    def mask(self, uri: str, rows: Rows) -> NDArray[np.bool_]:
        """[n] whether each of the ``rows``, n of the shard ``uri``, is selected."""
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
