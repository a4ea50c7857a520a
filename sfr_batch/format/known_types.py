"""The record of types that became known after a table was made."""

import pyarrow as pa
from pydantic import Field

from sfr_batch.format.names import FORMAT_OF_ROW_HASH
from sfr_batch.format.records import Record
from sfr_batch.format.schemas import schema_of


class KnownTypes(Record):
    """The schema of a table whose card has columns without a type, once some of these have values.

    Each record gives types to more of them and changes no other; a run creates it before it writes a data file with
    such a value.
    """

    format_version: int = FORMAT_OF_ROW_HASH
    created_at: str
    by: str
    """``user@host`` of the process that created it."""
    run_id: str
    fingerprint: str
    """Equals the card's."""
    arrow_schema: str = Field(repr=False)
    """As in the card."""
    columns: dict[str, str]
    """As in the card."""

    @property
    def schema(self) -> pa.Schema:
        return schema_of(self.arrow_schema)
