"""Tables as the first releases made them, whose cards do not record all inputs of the fingerprint, for tests.

They are made by the stages of today with a fingerprint that leaves the later inputs out.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import sfr_batch as sfr
from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config
from sfr_batch.format import names
from sfr_batch.format.fingerprint import LATER_INPUTS
from sfr_batch.format.parquet import encode_parquet
from sfr_batch.format.records import SideFile
from sfr_batch.model import identity
from sfr_batch.pipeline import model_files
from sfr_batch.planning import card
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.table import Table
from tests.repositories import corpus


def with_deletes_of_format_4(table: Table) -> None:
    """Give the newest snapshot the form that it had before dead rows were listed by file."""
    snapshot, store = table.current(), table.store
    rows = [(split_id, at) for split_id, positions in snapshot.read_deletes().items() for at in positions.tolist()]
    data = encode_parquet(pa.table([[s for s, _ in rows], [at for _, at in rows]], schema=names.DELETES_SCHEMA))
    key = names.side_key(snapshot.number, snapshot.manifest.run_id, names.DELETES)
    store.create(key, data)
    side = SideFile(name=key, sha256=hashlib.sha256(data).hexdigest(), rows=len(rows))
    assert snapshot.manifest.dead_rows
    store.delete([*snapshot.dead_keys(), snapshot.manifest.dead_rows.name, names.manifest_key(snapshot.number)])
    changed = {"dead_rows": None, names.DELETES: side, "format_version": names.FORMAT_OF_LAYOUT}
    store.create(names.manifest_key(snapshot.number), snapshot.manifest.model_copy(update=changed).to_json())


def write_shard(place: Path, name: str, start: int, end: int) -> None:
    """A shard of the corpus with the rows r<start> to before r<end>."""
    file = place / "corpus" / f"{name}.jsonl"
    file.parent.mkdir(exist_ok=True)
    texts = corpus()
    lines = [{"id": f"r{number}", "text": f"{number} {texts[number % len(texts)]}"} for number in range(start, end)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def config_of(place: Path, *overrides: str, table: str = "table") -> Config:
    """A run in this process over the model, the corpus and a table below ``place``, cut to 32 tokens a row."""
    raw: dict[str, Any] = {
        "corpus": {"path": f"{place}/corpus"},
        "model": {"path": f"{place}/model", "device": "cpu", "max_length": 32},
        "table": {"path": f"{place}/{table}"},
        "run": {"actors": {"gpus": 0}, "min_splits": 1, "rows_per_split": 16, "ray_address": "none"},
    }
    return config_from_dict(raw, overrides)


@contextlib.contextmanager
def first_release() -> Iterator[None]:
    """Fingerprints without the inputs that came later."""
    whole = identity.fingerprint_inputs

    def before(*arguments: Any) -> dict[str, Any]:
        return {name: value for name, value in whole(*arguments).items() if name not in LATER_INPUTS}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card.identity, "fingerprint_inputs", before)
        patch.setattr(model_files, "fingerprint_inputs", before)
        yield


def old_table(place: Path, *overrides: str) -> Store:
    """Embed the corpus as the first release did; the store of the table."""
    with first_release():
        sfr.embed(config_of(place, *overrides))
    return open_store(f"{place}/table")
