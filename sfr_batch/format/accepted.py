"""The record of inputs of the fingerprint that a table accepted after it was created. Knows nothing of stores."""

from typing import Any

from sfr_batch.format.names import FORMAT_OF_ACCEPTED
from sfr_batch.format.records import Record


class AcceptedInputs(Record):
    """Inputs of the fingerprint that a table did not record when it was created, as its first run with a release that
    knows them found them. Created once; a run with other values is refused."""

    format_version: int = FORMAT_OF_ACCEPTED
    accepted_at: str
    by: str
    """``user@host`` of the process that accepted them."""
    run_id: str
    fingerprint: str
    """Equals the card's."""
    inputs: dict[str, Any]
    rows_compared: int
    """Rows of the table that were embedded again and compared with their vectors."""
    largest_distance: float
    """The largest 1 - cosine among them."""
