"""Indexes of compared rows that a task cannot write."""

import numpy as np
import pyarrow as pa
import pytest

from sfr_batch.errors import TableError
from sfr_batch.format import names
from sfr_batch.planning import index_writing
from sfr_batch.planning.decided_rows import DECIDED_DTYPE
from sfr_batch.planning.join import Decision
from sfr_batch.planning.scan import ScannedUnit


def test_a_row_that_lost_its_vector_meanwhile_is_told() -> None:
    """Ray repeats a lost task, which may not find again what the first one found."""
    hashes = {names.ID_HASH: [bytes(16)] * 2, names.ROW_HASH: [bytes(16)] * 2, names.POSITION: [0, 1]}
    schema = pa.schema([names.INDEX_SCHEMA.field(name) for name in hashes])
    unit = ScannedUnit(0, "a.parquet", pa.table(hashes, schema=schema), names.REJECTS_SCHEMA.empty_table())
    decisions = np.zeros(2, DECIDED_DTYPE)
    decisions["vectors"] = 1
    assert index_writing._index_of_unit(unit, decisions, ["file"], {}).index.num_rows == 2
    decisions["kind"][1], decisions["file"][1] = Decision.ENCODE, -1
    with pytest.raises(TableError, match=r"^1 row of a\.parquet had vectors in .* Run the command again"):
        index_writing._index_of_unit(unit, decisions, ["file"], {})
