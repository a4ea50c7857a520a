"""Inputs of the fingerprint that came later: new tables record them, older ones accept them once and check them then.

An older table is made by the stages of today with a fingerprint that leaves these inputs out, as the first releases
did; `tests.test_table_format_1` continues tables that the first release itself has made.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sfr_batch as sfr
from sfr_batch.config.settings import Config
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import TableError, TableMismatch
from sfr_batch.format import names
from sfr_batch.format.accepted import AcceptedInputs
from sfr_batch.format.fingerprint import LATER_INPUTS, differences
from sfr_batch.format.records import Manifest
from sfr_batch.model import identity
from sfr_batch.model.repository import architecture
from sfr_batch.pipeline import acceptance, runner
from sfr_batch.planning import acceptance as drawing
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.store import Store
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.writing import accept_inputs
from sfr_batch.table.table import Table
from tests.models import edit_json, write_json
from tests.older_tables import config_of, first_release, old_table, write_shard
from tests.repositories import corpus, wordpiece, write_repository


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("acceptance") / "bert", config={"num_attention_heads": 4})


@pytest.fixture
def place(bert: Path, tmp_path: Path) -> Path:
    """A folder with a model that a test may change, and a corpus of two shards."""
    shutil.copytree(bert, tmp_path / "model")
    write_shard(tmp_path, "a", 0, 60)
    write_shard(tmp_path, "b", 60, 90)
    return tmp_path


def has_accepted(store: Store) -> bool:
    return any(store.list(names.ACCEPTED_JSON))


def manifest(store: Store, number: int) -> dict[str, Any]:
    return dict(json.loads(store.read(names.manifest_key(number))))


def vectors(place: Path, table: str = "table") -> dict[str, np.ndarray[Any, Any]]:
    rows = sfr.open_table(f"{place}/{table}").to_arrow(["id", "embedding"])
    return dict(zip(rows["id"].to_pylist(), np.stack(rows["embedding"].to_numpy()), strict=True))


# --- a new table


def other_heads(folder: Path) -> None:
    """Twice as many, half as long: the same weights give other vectors."""
    edit_json(folder / "config.json", num_attention_heads=8)


def other_normalizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(wordpiece(lowercase=False), encoding="utf-8")


def other_activation(folder: Path) -> None:
    edit_json(folder / "config.json", hidden_act="relu")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (other_heads, "config.json num_attention_heads: 4 in the table, 8 in the config"),
        (other_activation, 'config.json hidden_act: nothing in the table, "relu" in the config'),
        (other_normalizer, "tokenizer.json normalizer: "),
    ],
)
def test_a_new_table_refuses_other_files_by_name_and_key(place: Path, change: Any, line: str) -> None:
    sfr.embed(config_of(place))
    store = open_store(f"{place}/table")
    assert manifest(store, 1)["format_version"] == 1
    assert not has_accepted(store)
    known = Table.open(store).card.fingerprint_inputs
    assert set(LATER_INPUTS) <= set(known)
    assert known["config"]["num_attention_heads"] == 4
    change(place / "model")
    write_shard(place, "c", 90, 95)
    for action in (sfr.plan, sfr.embed):
        with pytest.raises(TableMismatch, match="holds vectors made with other settings") as caught:
            action(config_of(place))
        assert f"  {line}" in str(caught.value)
    with pytest.raises(TableMismatch, match="is not the one that made") as caught:
        _ = sfr.open_table(f"{place}/table").encoder
    assert f"  {line}" in str(caught.value)
    with pytest.raises(TableMismatch):
        sfr.audit(f"{place}/table", config_of(place))


def test_many_keys_that_differ_are_all_named() -> None:
    today = {"config": dict.fromkeys([f"key_{letter}" for letter in "abcdefghijkl"], 1), "pooling": "mean"}
    *lines, pooling, last = differences({"config": {}, "pooling": "cls"}, today)
    assert lines == [f"config.json key_{letter}: nothing in the table, 1 in the config" for letter in "abcdefgh"]
    assert pooling == 'pooling: "cls" in the table, "mean" in the config'
    assert last == "config.json differs in key_i, key_j, key_k, key_l, too"


def test_null_is_not_nothing_and_one_is_not_true() -> None:
    """A class may have another default where config.json is silent."""
    assert differences({"config": {}}, {"config": {"sliding_window": None}}) == [
        "config.json sliding_window: nothing in the table, null in the config"
    ]
    assert differences({"config": {"rope": {"theta": 1}}}, {"config": {"rope": {"theta": True}}}) == [
        "config.json rope.theta: 1 in the table, true in the config"
    ]


def test_a_key_that_is_found_to_be_harmless_later_is_no_longer_compared(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a new table and of one that has accepted the key: both go on, and what they record stays."""
    edit_json(place / "model" / "config.json", license="none")
    store = old_table(place)
    sfr.embed(config_of(place, table="new"))
    write_shard(place, "c", 90, 92)
    sfr.embed(config_of(place))
    later = {**architecture.HARMLESS, "license": "a text"}
    monkeypatch.setattr(architecture, "HARMLESS", later)
    monkeypatch.setattr(identity, "HARMLESS", later)
    edit_json(place / "model" / "config.json", license="mit")
    write_shard(place, "d", 92, 94)
    for table in ("table", "new"):
        assert sfr.embed(config_of(place, table=table)).published
        assert sfr.open_table(f"{place}/{table}").audit(sfr.plan(config_of(place, table=table))).ok
        assert sfr.open_table(f"{place}/{table}").encoder.dim == 32
    assert manifest(store, 3)["accepted"]["config"]["license"] == "none"


# --- an older table


def test_an_older_table_accepts_them_once_and_checks_them_from_then_on(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = old_table(place)
    made = store.read(names.TABLE_JSON)
    assert manifest(store, 1)["format_version"] == 1
    assert "accepted" not in manifest(store, 1)
    assert sfr.embed(config_of(place)).published is False
    assert not has_accepted(store), "a night with nothing to do writes nothing"

    write_shard(place, "c", 90, 95)
    plan = sfr.plan(config_of(place))
    assert plan.accepts
    assert "an older release has made this table" in plan.describe()
    assert not has_accepted(store), "planning writes nothing"
    assert sfr.embed(config_of(place)).embedded == 5
    assert "Embedding 90 rows again to accept config and tokenizer." in capsys.readouterr().err
    record = AcceptedInputs.from_json(store.read(names.ACCEPTED_JSON), "")
    assert record.inputs == {name: plan.inputs[name] for name in LATER_INPUTS}
    assert record.rows_compared == 90
    assert record.largest_distance < 1e-6
    assert manifest(store, 2)["format_version"] == 2
    assert manifest(store, 2)["accepted"] == record.inputs
    assert store.read(names.TABLE_JSON) == made
    fingerprint = Table.open(store).card.fingerprint
    assert {manifest(store, number)["fingerprint"] for number in (1, 2)} == {fingerprint}

    write_shard(place, "d", 95, 97)
    assert not sfr.plan(config_of(place)).accepts
    sfr.embed(config_of(place))
    assert "again to accept" not in capsys.readouterr().err
    assert manifest(store, 3)["accepted"] == record.inputs
    audit = sfr.open_table(f"{place}/table").audit(sfr.plan(config_of(place)))
    assert audit.ok, audit
    assert "accepted at" in audit["fingerprint"].measured
    table = sfr.open_table(f"{place}/table")
    compaction = table.compact(rows_per_file=1000, dry_run=False)
    assert compaction.snapshot is not None
    assert compaction.snapshot.manifest.accepted == record.inputs
    table.expire(keep_last=1, dry_run=False)
    assert table.current().manifest.accepted == record.inputs
    assert table.audit().ok

    other_heads(place / "model")
    write_shard(place, "e", 97, 99)
    with pytest.raises(TableMismatch) as caught:
        sfr.embed(config_of(place))
    assert "config.json num_attention_heads: 4 in the table, 8 in the config" in str(caught.value)
    with pytest.raises(TableMismatch, match="num_attention_heads"):
        _ = sfr.open_table(f"{place}/table").encoder


def test_files_that_were_altered_long_ago_are_refused(place: Path) -> None:
    store = old_table(place)
    other_heads(place / "model")
    write_shard(place, "c", 90, 95)
    before = sorted(Table.open(store).committed())
    with pytest.raises(TableMismatch) as caught:
        sfr.embed(config_of(place))
    text = str(caught.value)
    assert f"{place}/table was made by an older release, which did not record config and tokenizer" in text
    assert "90 of 90 rows have other vectors: the worst cosine is" in text
    assert "rounding explains 0.99999" in text
    assert "Restore the files that made them" in text
    assert not has_accepted(store)
    assert sorted(Table.open(store).committed()) == before
    assert Table.open(store).snapshot_numbers() == [1]


def test_one_data_file_of_other_vectors_is_found(place: Path) -> None:
    """The first release has mixed two computations: of six data files and a small one the last was made otherwise."""
    store = old_table(place)
    other_heads(place / "model")
    write_shard(place, "c", 90, 92)
    with first_release():
        sfr.embed(config_of(place))
    edit_json(place / "model" / "config.json", num_attention_heads=4)
    write_shard(place, "d", 92, 93)
    with pytest.raises(TableMismatch, match="2 of 92 rows have other vectors"):
        sfr.embed(config_of(place))
    assert not has_accepted(store)


@pytest.mark.parametrize("candidates", [2**20, 20])
def test_rows_are_drawn_from_every_data_file(place: Path, monkeypatch: pytest.MonkeyPatch, candidates: int) -> None:
    """Also where only some of the rows of each file are looked for."""
    old_table(place)
    write_shard(place, "c", 90, 95)
    monkeypatch.setattr(drawing, "ROWS", 8)
    monkeypatch.setattr(drawing, "_CANDIDATES", candidates)
    plan = make_plan(config_of(place))
    drawn = drawing.draw(plan)
    assert len(drawn.texts) >= 8
    files = {text.rsplit("/", 1)[-1] for text in drawn.places}
    assert len(files) == len(Table.open(plan.store).current().split_ids())
    assert drawing.draw(plan).places == drawn.places, "a refusal would be another one each time"
    known = vectors(place)
    for text, at, vector in zip(drawn.texts, drawn.places, drawn.vectors, strict=True):
        row = at.split("'")[1]
        assert text.startswith(f"{row[1:]} ")
        assert np.array_equal(known[row], vector)


def test_rows_whose_text_has_changed_or_moved(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed text is no use, and where a row lies does not matter."""
    store = old_table(place)
    write_shard(place, "a", 0, 20)
    lines = (place / "corpus" / "a.jsonl").read_text(encoding="utf-8").splitlines()
    changed = [line.replace('"text": "', '"text": "now ') if number < 5 else line for number, line in enumerate(lines)]
    (place / "corpus" / "a.jsonl").unlink()
    (place / "corpus" / "moved.jsonl").write_text("\n".join(changed) + "\n", encoding="utf-8")
    sfr.embed(config_of(place, "table.delete=mirror"))
    assert "Warning: of 90 rows only these have their text in the corpus." in capsys.readouterr().err
    assert AcceptedInputs.from_json(store.read(names.ACCEPTED_JSON), "").rows_compared == 15 + 30


def test_no_row_in_the_corpus_is_no_evidence(place: Path) -> None:
    store = old_table(place)
    for name in "ab":
        (place / "corpus" / f"{name}.jsonl").unlink()
    write_shard(place, "c", 100, 110)
    with pytest.raises(TableMismatch, match="None of its 90 rows has its text in the corpus any more"):
        sfr.embed(config_of(place, "table.delete=mirror"))
    assert not has_accepted(store)


def test_a_table_without_rows_accepts_without_evidence(place: Path) -> None:
    for name in "ab":
        (place / "corpus" / f"{name}.jsonl").write_text('{"id": "x", "text": " "}\n', encoding="utf-8")
    store = old_table(place, "run.max_reject_share=1.0")
    write_shard(place, "c", 0, 5)
    sfr.embed(config_of(place, "run.max_reject_share=1.0"))
    record = AcceptedInputs.from_json(store.read(names.ACCEPTED_JSON), "")
    assert (record.rows_compared, record.largest_distance) == (0, 0.0)


@pytest.mark.parametrize("altered", [False, True])
def test_splits_of_an_interrupted_run_are_adopted_if_they_have_the_same_vectors(place: Path, altered: bool) -> None:
    """Its splits are named by the fingerprint that the table was made with."""
    write_shard(place, "b", 60, 61)
    store = old_table(place)
    write_shard(place, "c", 100, 140)
    if altered:
        other_heads(place / "model")
    with first_release():
        sfr.embed(config_of(place, "select.limit=16"))
    edit_json(place / "model" / "config.json", num_attention_heads=4)
    plan = make_plan(config_of(place))
    done = set(plan.done) | set(plan.unpublished)
    assert done
    if altered:
        with pytest.raises(TableMismatch, match=r"of .* rows have other vectors"):
            sfr.embed(config_of(place))
        return
    summary = sfr.embed(config_of(place))
    assert summary.embedded < 40
    assert done & set(Table.open(store).current().split_ids())
    assert sfr.open_table(f"{place}/table").audit(sfr.plan(config_of(place))).ok


def test_of_two_that_accept_at_once_the_loser_compares(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = old_table(place)
    write_shard(place, "c", 90, 95)
    table, plan = Table.open(store), make_plan(config_of(place))

    def first(texts: Any, job: Any, **options: Any) -> Any:
        """Another run accepts while this one embeds."""
        accept_inputs(table, {**plan.later_inputs, **others}, "other", 1, 0.0)
        return embed_texts(texts, job, **options)

    embed_texts, others = acceptance.embed_texts, {"config": {**plan.inputs["config"], "hidden_act": "relu"}}
    monkeypatch.setattr(acceptance, "embed_texts", first)
    with pytest.raises(TableMismatch, match='hidden_act: "relu" in the table, nothing in the config'):
        sfr.embed(config_of(place))
    store.delete([names.ACCEPTED_JSON])
    others = {}
    assert sfr.embed(config_of(place)).published
    assert AcceptedInputs.from_json(store.read(names.ACCEPTED_JSON), "").run_id == "other"


def test_audit_finds_records_that_disagree(place: Path) -> None:
    store = old_table(place)
    write_shard(place, "c", 90, 95)
    sfr.embed(config_of(place))
    table = sfr.open_table(f"{place}/table")
    assert table.audit().ok
    record = json.loads(store.read(names.ACCEPTED_JSON))
    store.delete([names.ACCEPTED_JSON])
    finding = table.audit()["fingerprint"]
    assert finding.verdict == "FAIL"
    assert "snapshot 2 has accepted inputs, but _sfr/accepted.json cannot be read" in str(finding)
    write_shard(place, "d", 95, 96)
    assert sfr.embed(config_of(place)).published, "the manifest still says it"
    record["inputs"]["config"]["num_attention_heads"] = 8
    store.create(names.ACCEPTED_JSON, json.dumps(record).encode())
    assert "num_attention_heads: 8 accepted, 4 in the manifest" in str(table.audit()["fingerprint"])
    write_shard(place, "e", 96, 97)
    with pytest.raises(TableError, match="say that other inputs of the fingerprint were accepted"):
        sfr.embed(config_of(place))


def test_a_manifest_that_accepts_nothing_is_as_it_was(place: Path) -> None:
    """An older release reads it: it refuses a field that it does not know."""
    store = old_table(place)
    text = store.read(names.manifest_key(1))
    assert b"accepted" not in text
    assert Manifest.from_json(text, "").to_json() == text


def test_chunks_are_compared_with_their_part_of_the_document(place: Path) -> None:
    chunks = ["model.overflow=chunk", "model.chunk_tokens=16", "table.vector_dtype=float16"]
    store = old_table(place, *chunks)
    assert sfr.open_table(f"{place}/table").num_rows > 2 * drawing.ROWS
    write_shard(place, "c", 90, 95)
    sfr.embed(config_of(place, *chunks))
    record = AcceptedInputs.from_json(store.read(names.ACCEPTED_JSON), "")
    assert drawing.ROWS <= record.rows_compared < 2 * drawing.ROWS
    assert record.largest_distance < 1e-5


# --- what a process remembers


def test_files_that_are_replaced_between_two_calls_are_read_again(place: Path) -> None:
    folder = place / "model"
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"document": "passage: "}})
    sfr.embed(config_of(place))
    before = vectors(place)

    def check(table: str) -> None:
        sfr.embed(config_of(place, table=table))
        settings = config_of(place).model
        text = f"3 {corpus()[3]}"
        [right] = Encoder.load(settings).encode([text], prompt="document")
        assert vectors(place, table)["r3"] @ right == pytest.approx(1, abs=1e-6)
        assert vectors(place, table)["r3"] @ before["r3"] < 0.99

    write_json(folder / "config_sentence_transformers.json", {"prompts": {"document": "title: none | text: "}})
    check("other_prompt")
    write_json(folder / "config_sentence_transformers.json", {"prompts": {"document": "passage: "}})
    other_normalizer(folder)
    edit_json(folder / "tokenizer_config.json", do_lower_case=False)
    check("other_tokenizer")


def test_files_that_are_replaced_after_planning_are_a_clear_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first worker that reads them says so; nothing is written."""

    def plan_then_replace(config: Config) -> Any:
        plan = make_plan(config)
        edit_json(place / "model" / "config_sentence_transformers.json", prompts={"document": "other: "})
        return plan

    monkeypatch.setattr(runner, "make_plan", plan_then_replace)
    with pytest.raises(sfr.SfrBatchError, match=r"is not the model of the plan: it differs in prompt\. Copy the same"):
        sfr.embed(config_of(place))
    assert not Table.open(open_store(f"{place}/table")).committed()
