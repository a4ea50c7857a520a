"""Bad input: settings of a table that change between its nights."""

import pytest

from tests.bad_input.bench import Bench, Row, check_row

ROWS = [
    Row("a share above the whole",
        "{root}/job.yaml has 1 wrong setting:\n  table.max_changed_share: must be at least 0 and at most 1",
        code=2, overrides=("table.max_changed_share=20",)),
    Row("a table that lends vectors to itself",
        "table.reuse_from is the table itself, {root}/table, whose vectors are reused in any case. Remove "
        "table.reuse_from.",
        code=2, overrides=("table.reuse_from={root}/table",)),
    Row("no table to take vectors from",
        "table.reuse_from: There is no table at {root}/older (no _sfr/table.json). Check the path, or create it with "
        "`sfr-batch embed`.",
        overrides=("table.reuse_from={root}/older",)),
]  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_bad_input(row: Row, bench: Bench) -> None:
    check_row(row, bench)
