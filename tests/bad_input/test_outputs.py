"""What leaves a table and cannot leave it as it is: the commands say so, write nothing, and their advice works."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

import pyarrow as pa
import pytest
from click.testing import CliRunner

from sfr_batch.cli.main import main
from sfr_batch.storage.stores import open_store
from tests.bad_input.bench import Bench, Row, check_row
from tests.tables import table_of


def carried(**columns: pa.Array) -> Callable[[Bench], None]:
    """A table that carries these, in place of one that an earlier release may have made."""

    def prepare(bench: Bench) -> None:
        table_of(open_store(str(bench.table)), columns)

    return prepare


@dataclass(frozen=True)
class Refused(Row):
    advice: str = ""
    """What the message advises, followed literally: the command line that then succeeds."""


AT = pa.array([0, 10**18 + 1], pa.timestamp("ns"))
LONG = pa.array([Decimal(1), Decimal("9" * 45 + ".50")], pa.decimal256(50, 2))
NUMBERS = pa.array([1, 2])
WORDS = pa.array(["x", ""])
EXPORT = "export {root}/table {root}/out"
NO_CASE = "and DuckDB knows no upper and lower case: it would give the values of one for both"
TWINS = carried(ID=NUMBERS)

ROWS: list[Refused] = [
    Refused(
        "nanoseconds in an export",
        "{root}/table: the column 'at' has nanoseconds (id 'r1': 2001-09-09T01:46:40.000000001), and some engines "
        "cannot hold them. Write the column as text (--as-text at), export without it (--columns), or for one that "
        "can: --for duckdb or polars or lancedb or arrow.",
        code=2,
        prepare=carried(at=AT),
        command=EXPORT,
        advice=f"{EXPORT} --as-text at",
    ),
    Refused(
        "nanoseconds in a feed",
        "{root}/table: the column 'at' has nanoseconds (id 'r1': 2001-09-09T01:46:40.000000001), and Spark cannot hold "
        "them. Write the column as text (--as-text at), export without it (--columns), or for one that can: --for "
        "duckdb or polars or lancedb or arrow.",
        code=2,
        prepare=carried(at=AT),
        command="changes {root}/table 0 1 --output {root}/feed --for spark",
        advice="changes {root}/table 0 1 --output {root}/feed --for duckdb",
    ),
    Refused(
        "decimals of 50 digits in an export",
        "{root}/table: the column 'price' has decimals of more than 38 digits (id 'r1': "
        + "9" * 45
        + ".50), and DuckDB "
        "cannot hold them. Write the column as text (--as-text price), export without it (--columns), or for one that "
        "can: --for lancedb or arrow.",
        code=2,
        prepare=carried(price=LONG),
        command=f"{EXPORT} --for duckdb",
        advice=f"{EXPORT} --for lancedb",
    ),
    Refused(
        "decimals of 50 digits in a view",
        "{root}/table: the column 'price' has decimals of 50 digits, and DuckDB, which has 38, would round them. Name "
        "the columns to read without it, or let DuckDB read an export with it as text: sfr-batch export {root}/table "
        "<new folder> --for duckdb --as-text price.",
        code=2,
        prepare=carried(price=LONG),
        command="view {root}/table",
        advice="export {root}/table {root}/out --for duckdb --as-text price",
    ),
    Refused(
        "columns that differ by case in an export",
        "{root}/table: the columns 'id' and 'ID' would be named id and ID, and Spark knows no upper and lower case. "
        "Name one of them: --rename ID=<new name>.",
        code=2,
        prepare=TWINS,
        command=f"{EXPORT} --for spark",
        advice=f"{EXPORT} --for spark --rename ID=number",
    ),
    Refused(
        "columns that differ by case in a view",
        "{root}/table has columns 'id' and 'ID', "
        + NO_CASE
        + ". Let DuckDB read an export with another name for one of "
        "them: sfr-batch export {root}/table <new folder> --for duckdb --rename ID=<new name>.",
        code=2,
        prepare=TWINS,
        command="view {root}/table",
        advice="export {root}/table {root}/out --for duckdb --rename ID=number",
    ),
    Refused(
        "keys that differ by case in a view",
        "{root}/table: the column 'meta' has the keys 'K' and 'k', "
        + NO_CASE
        + ". Name the columns to read without it, "
        "or let DuckDB read an export with it as text: sfr-batch export {root}/table <new folder> --for duckdb "
        "--as-text meta.",
        code=2,
        prepare=carried(meta=pa.array([{"K": 1, "k": 2}])),
        command="view {root}/table",
        advice="view {root}/table --columns id,embedding",
    ),
    Refused(
        "two names that become one",
        "{root}/table: the columns 'a.b' and 'a_b' would be named a_b and a_b. Name one of them: --rename a_b=<new "
        "name>.",
        code=2,
        prepare=carried(**{"a.b": NUMBERS, "a_b": NUMBERS}),
        command=EXPORT,
        advice=f"{EXPORT} --rename a_b=c",
    ),
    Refused(
        "a new name that the engine cannot have",
        "--rename n=x.y: LanceDB cannot have a column of that name. Choose another one, such as x_y.",
        code=2,
        prepare=carried(n=NUMBERS),
        command=f"{EXPORT} --for lancedb --rename n=x.y",
        advice=f"{EXPORT} --for lancedb --rename n=x_y",
    ),
    Refused(
        "half a new name",
        "--rename n: write OLD=NEW, the name in the table and the name in the export.",
        code=2,
        prepare=carried(n=NUMBERS),
        command=f"{EXPORT} --rename n",
        advice=f"{EXPORT} --rename n=m",
    ),
    Refused(
        "a new name for no column",
        "{root}/table: there is no column 'm' to export. Columns: id, embedding, n_tokens, n_tokens_full, truncated, "
        "content_hash, row_hash, n.",
        prepare=carried(n=NUMBERS),
        command=f"{EXPORT} --rename m=n2",
        advice=f"{EXPORT} --rename n=n2",
    ),
    Refused(
        "empty texts as names of folders",
        "{root}/table: the column 'w' has empty texts. As names of folders, engines read them as null. Accept that "
        "with --empty-as-null, or partition by another column.",
        code=2,
        prepare=carried(w=WORDS),
        command=f"{EXPORT} --partition-by w",
        advice=f"{EXPORT} --partition-by w --empty-as-null",
    ),
    Refused(
        "a column named op in lines of changes",
        "{root}/table has a column op, and each line of --json has an op of its own, delete or upsert. Write files "
        "instead: --output <new folder>.",
        code=2,
        prepare=carried(op=WORDS),
        command="changes {root}/table 0 1 --json",
        advice="changes {root}/table 0 1 --output {root}/feed",
    ),
    Refused(
        "texts too long for names of folders",
        "{root}/table: the column 'w' has values of more than 255 bytes, which cannot be names of folders here: "
        + "x" * 40
        + "… Partition by another column.",
        code=2,
        prepare=carried(w=pa.array(["x" * 300]), n=pa.array([1])),
        command=f"{EXPORT} --partition-by w",
        advice=f"{EXPORT} --partition-by n",
    ),
    Refused(
        "a partition that engines pass over",
        "Cannot partition by _day: engines pass over folders whose names begin with an underscore or a dot. Give it "
        "another name: --rename _day=day.",
        code=2,
        prepare=carried(_day=NUMBERS),
        command=f"{EXPORT} --partition-by _day",
        advice=f"{EXPORT} --partition-by _day --rename _day=day",
    ),
    Refused(
        "a partition of lists",
        "Cannot partition by w (list<item: int64>). Choose a text, integer, boolean or date column whose values many "
        "rows share. The id cannot be chosen, because the files would lack it.",
        code=2,
        prepare=carried(w=pa.array([[1]]), n=pa.array([1])),
        command=f"{EXPORT} --partition-by w",
        advice=f"{EXPORT} --partition-by n",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_outputs(row: Refused, bench: Bench) -> None:
    check_row(row, bench)
    result = CliRunner().invoke(main, shlex.split(bench.fill(row.advice)))
    assert result.exit_code == 0, result.output
