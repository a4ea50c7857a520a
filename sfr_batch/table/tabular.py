"""Results that become a DataFrame: the hits of a search, changes, listings, reports, samples. Knows none of them."""

from abc import abstractmethod
from typing import TYPE_CHECKING

import pyarrow as pa

from sfr_batch.table import engines

if TYPE_CHECKING:
    import pandas


class Tabular:
    """The base of results that consist of rows."""

    @abstractmethod
    def to_arrow(self) -> pa.Table:
        """The rows, each column in its own type."""

    def to_pandas(self) -> "pandas.DataFrame":
        """The rows. No value is rounded, see `engines.to_pandas`. Raises ConfigError if pandas is missing."""
        engines.need_pandas()
        return engines.to_pandas(self.to_arrow())
