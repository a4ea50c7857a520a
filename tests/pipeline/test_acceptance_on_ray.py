"""An older table accepts inputs of the fingerprint on Ray, where a run on Ray gets its device."""

from pathlib import Path
from typing import Any

import pytest

import sfr_batch as sfr
from sfr_batch.errors import ModelError, TableMismatch
from sfr_batch.format import names
from sfr_batch.format.accepted import AcceptedInputs
from sfr_batch.pipeline import acceptance, placement
from sfr_batch.pipeline.runner import make_job
from sfr_batch.planning.make import make_plan
from sfr_batch.table.table import Table
from tests.models import edit_json
from tests.older_tables import config_of, old_table, write_shard
from tests.repositories import write_repository

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]

ON_RAY = "run.ray_address=local"


def test_rows_are_embedded_again_by_a_task_of_the_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it raises comes back as what it is."""
    write_repository(tmp_path / "model")
    write_shard(tmp_path, "a", 0, 40)
    store = old_table(tmp_path)
    write_shard(tmp_path, "b", 40, 45)

    def elsewhere(*arguments: Any) -> None:
        raise AssertionError("not in this process")

    with monkeypatch.context() as patch:
        patch.setattr("sfr_batch.encoder.encoder.Encoder.load", elsewhere)
        edit_json(tmp_path / "model" / "config.json", num_attention_heads=8)
        with pytest.raises(TableMismatch, match="40 of 40 rows have other vectors"):
            sfr.embed(config_of(tmp_path, ON_RAY))
        edit_json(tmp_path / "model" / "config.json", num_attention_heads=4)
        plan = make_plan(config_of(tmp_path, ON_RAY))
        acceptance.accept(Table.open(store), plan, make_job(plan, "run"), [], placement.LOCAL)
    record = AcceptedInputs.from_json(store.read(names.ACCEPTED_JSON), "")
    assert record.rows_compared == 40
    assert record.largest_distance < 1e-6


def test_an_error_of_the_model_on_the_cluster_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_repository(tmp_path / "model")
    write_shard(tmp_path, "a", 0, 20)
    old_table(tmp_path)
    write_shard(tmp_path, "b", 20, 22)
    draw = acceptance.draw

    def replaced(*arguments: Any) -> Any:
        edit_json(tmp_path / "model" / "config.json", num_attention_heads=8)
        return draw(*arguments)

    monkeypatch.setattr(acceptance, "draw", replaced)
    with pytest.raises(ModelError, match=r"differs in config\.json num_attention_heads"):
        sfr.embed(config_of(tmp_path, ON_RAY))
