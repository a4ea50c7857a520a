"""Which version of the row hash a table has: it stands in the card, and the table goes on with it."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pytest

from sfr_batch.errors import TableError
from sfr_batch.format import hashes, names, records
from sfr_batch.planning.plan import EmbedPlan
from sfr_batch.table.table import Table
from tests.planning.test_planning import plan_of
from tests.tables import do_plan, parquet, put

CARRY = "corpus.carry=[at]"


@pytest.fixture
def here(tmp_path: Path, mistral: str) -> tuple[str, str]:
    write(str(tmp_path), 2)
    return str(tmp_path), mistral


def write(place: str, rows: int) -> None:
    at = pa.array(range(rows), pa.timestamp("us", "UTC"))
    columns = {"id": [str(n) for n in range(rows)], "text": ["x"] * rows, "at": at}
    put(place, "corpus/a.parquet", parquet(pa.table(columns)))


def card_of(place: str) -> dict[str, object]:
    found: dict[str, object] = json.loads((Path(place) / "table" / names.TABLE_JSON).read_bytes())
    return found


def row_hashes(plan: EmbedPlan) -> list[bytes]:
    return Table.open(plan.store).to_arrow([names.ROW_HASH]).column(0).to_pylist()  # type: ignore[no-any-return]


def test_a_new_table_with_carried_columns_has_version_2(here: tuple[str, str]) -> None:
    plan = plan_of(here, CARRY)
    do_plan(plan)
    card = card_of(here[0])
    assert (card["format_version"], card["row_hash"]) == (3, 2)
    carry = pa.table({"at": pa.array(range(2), pa.timestamp("us", "UTC"))})
    assert row_hashes(plan) == hashes.hash_rows(hashes.hash_texts(["x"] * 2), carry, 2).to_pylist()
    assert plan_of(here, CARRY).up_to_date


def test_a_table_without_carried_columns_says_nothing_that_older_releases_do_not_know(here: tuple[str, str]) -> None:
    do_plan(plan_of(here))
    card = card_of(here[0])
    assert card["format_version"] == 1
    assert "row_hash" not in card


def test_a_table_of_version_1_goes_on_with_it(here: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(records, "ROW_HASH_VERSION", 1)
        first = plan_of(here, CARRY)
        do_plan(dataclasses.replace(first, columns=dataclasses.replace(first.columns, row_hash=1)))
    assert "row_hash" not in card_of(here[0])
    write(here[0], 3)
    second = plan_of(here, CARRY)
    assert (second.columns.row_hash, second.card.row_hash, second.card.format_version) == (1, 1, 1)
    snapshot = do_plan(second)
    assert snapshot.manifest.counts.embedded == 1, "the others have the same hashes as before"
    assert snapshot.manifest.changes is not None
    assert snapshot.manifest.changes.copied == 0
    carry = pa.table({"at": pa.array(range(3), pa.timestamp("us", "UTC"))})
    assert set(row_hashes(second)) == set(hashes.hash_rows(hashes.hash_texts(["x"] * 3), carry, 1).to_pylist())


def test_an_older_release_asks_for_an_upgrade(here: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(here, CARRY)
    do_plan(plan)
    monkeypatch.setattr(records, "NEWEST_FORMAT", 2)
    with pytest.raises(TableError, match="has table format 3; this sfr-batch reads up to 2: upgrade"):
        Table.open(plan.store)
