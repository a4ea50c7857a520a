"""What changes the fingerprint, that nothing else does, where it is stored, and what is refused because of it.

Through the real path: configs and model folders in, the card of a table out.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config
from sfr_batch.corpus.columns import Columns
from sfr_batch.errors import TableError, TableMismatch
from sfr_batch.format import names
from sfr_batch.format.fingerprint import digest
from sfr_batch.format.records import TableCard
from sfr_batch.model import identity
from sfr_batch.planning.card import make_card
from sfr_batch.planning.make import make_plan
from sfr_batch.storage.store import in_memory
from sfr_batch.storage.stores import open_store
from sfr_batch.table.commit.publish import condemn, publish
from sfr_batch.table.commit.writing import create_or_open
from sfr_batch.table.table import Table
from tests.memory_store import MemoryStore
from tests.models import edit_json, write_json, write_sfr_files
from tests.repositories import wordpiece
from tests.tables import card_of, commit_rows, do_plan, draft_of, make_table, parquet, put, split_name

Edit = Callable[[Path], None]


@pytest.fixture
def folder(mistral: str, tmp_path: Path) -> Path:
    """A model folder that a test may spoil."""
    return Path(shutil.copytree(mistral, tmp_path / "model"))


def config_of(folder: Path, *overrides: str) -> Config:
    raw: dict[str, Any] = {
        "corpus": {"path": f"{folder.parent}/corpus"},
        "model": {"path": str(folder), "device": "cpu"},
        "table": {"path": f"{folder.parent}/table"},
        "run": {"actors": {"gpus": 0}},
    }
    return config_from_dict(raw, overrides)


def card(folder: Path, *overrides: str) -> TableCard:
    return make_card(config_of(folder, *overrides), Columns(pa.string(), {}))


def write_corpus(folder: Path, name: str = "a") -> None:
    put(str(folder.parent), f"corpus/{name}.parquet", parquet(pa.table({"id": [name], "text": ["x"]})))


# --- what changes it


def other_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"WEIGHTS")


def edited(name: str, **changes: Any) -> Edit:
    return lambda folder: edit_json(folder / name, **changes)


def other_pooling(folder: Path) -> None:
    write_json(folder / "1_Pooling" / "config.json", {"embedding_dimension": 8, "pooling_mode": "cls"})


def silent_about_pooling(folder: Path) -> None:
    """Then the setting rules; where both speak, a contradiction is an error."""
    (folder / "1_Pooling" / "config.json").unlink()


def swapped_pieces(folder: Path) -> None:
    """A tokenizer that differs in two pieces alone."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    vocab["to"], vocab["c"] = vocab["c"], vocab["to"]
    write_json(file, tokenizer)


def another_end(folder: Path) -> None:
    """[SEP] twice behind a text; BERT's own class would not have it."""
    edit_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    (folder / "tokenizer.json").write_text(wordpiece(template="[CLS] $A [SEP] [SEP]"), encoding="utf-8")


def wider(folder: Path) -> None:
    edit_json(folder / "config.json", hidden_size=16)
    edit_json(folder / "1_Pooling" / "config.json", word_embedding_dimension=16)


def with_dense(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    dense = {"idx": 3, "name": "3", "path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    write_json(folder / "modules.json", [*modules, dense])
    write_json(folder / "2_Dense" / "config.json", {"in_features": 8, "out_features": 6})
    (folder / "2_Dense" / "model.safetensors").write_bytes(b"dense")


def nothing(folder: Path) -> None:
    """Only settings change."""


CHANGES: dict[str, tuple[Edit, tuple[str, ...], set[str]]] = {
    "weights": (other_weights, (), {"weights"}),
    "special tokens around a text": (another_end, (), {"golden_ids", "tokenizer"}),
    "long documents are rejected": (nothing, ("model.overflow=reject",), {"overflow"}),
    "long documents are cut": (
        nothing,
        ("model.overflow=chunk", "model.chunk_tokens=100", "model.chunk_overlap=10"),
        {"overflow", "chunk_tokens", "chunk_overlap", "chunk_rule"},
    ),
    "each row by itself": (nothing, ("model.deterministic=true",), {"deterministic"}),
    "vocabulary": (swapped_pieces, (), {"golden_ids", "tokenizer"}),
    "architecture": (edited("config.json", num_attention_heads=8), (), {"config"}),
    "special tokens in a text": (
        nothing,
        ("model.special_tokens_in_text=plain",),
        {"special_tokens_in_text", "golden_ids"},
    ),
    "pooling": (other_pooling, (), {"pooling"}),
    "pooling where the repository is silent": (silent_about_pooling, ("model.pooling=cls",), {"pooling"}),
    "prompt of documents": (nothing, ("model.prompts={document: 'passage: '}",), {"prompt"}),
    "repository's prompt of documents": (
        edited("config_sentence_transformers.json", prompts={"document": "passage: "}),
        (),
        {"prompt"},
    ),
    "max_length": (nothing, ("model.max_length=512",), {"max_length"}),
    "repository's max_length": (edited("sentence_bert_config.json", max_seq_length=512), (), {"max_length"}),
    "compute dtype": (nothing, ("model.dtype=bfloat16",), {"compute_dtype"}),
    "8-bit matrix products": (nothing, ("model.dtype=fp8",), {"compute_dtype"}),
    "vector dtype": (nothing, ("table.vector_dtype=float16",), {"vector_dtype"}),
    "length of hidden states": (wider, (), {"config", "dim"}),
    "length of vectors": (nothing, ("model.dimensions=4", "model.matryoshka=true"), {"dim", "modules"}),
    "layers behind the pooling": (with_dense, (), {"dim", "modules", "weights"}),
}
CONSTANTS = {"normalize": True}
"""In the fingerprint although no setting changes them, so that vectors made otherwise one day are told apart."""


@pytest.mark.parametrize(("edit", "overrides", "keys"), CHANGES.values(), ids=list(CHANGES))
def test_what_changes_a_vector_changes_it_and_is_refused(
    folder: Path, edit: Edit, overrides: tuple[str, ...], keys: set[str]
) -> None:
    write_corpus(folder)
    plan = make_plan(config_of(folder))
    do_plan(plan)
    edit(folder)
    before, after = plan.card, card(folder, *overrides)
    old, new = before.fingerprint_inputs, after.fingerprint_inputs
    assert {key for key in {*old, *new} if old.get(key) != new.get(key)} == keys
    assert before.fingerprint != after.fingerprint
    with pytest.raises(TableMismatch) as caught:
        make_plan(config_of(folder, *overrides))
    first, *lines, last = str(caught.value).splitlines()
    assert first == f"{folder.parent}/table holds vectors made with other settings:"
    named = {"config.json": "config", "tokenizer.json": "tokenizer", "tokenizer_config.json": "tokenizer"}
    assert {named.get(of := line.split()[0].rstrip(":"), of) for line in lines} == keys
    assert last == (
        "A table with both kinds of vectors would be silently wrong. Change the settings back, or write to a new "
        "table: table.path=<another path>."
    )
    assert not make_plan(config_of(folder, *overrides, f"table.path={folder.parent}/new")).up_to_date


def test_rules_of_fp8_have_a_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which only tables in fp8 know, and those of the first rules do not: they keep their fingerprints."""
    eight, sixteen = (card(folder, f"model.dtype={dtype}") for dtype in ("fp8", "bfloat16"))
    assert "fp8_rule" not in eight.fingerprint_inputs
    monkeypatch.setattr(identity, "FP8_RULE", 2)
    assert card(folder, "model.dtype=bfloat16").fingerprint == sixteen.fingerprint
    changed = card(folder, "model.dtype=fp8")
    assert changed.fingerprint == digest({**eight.fingerprint_inputs, "fp8_rule": 2}) != eight.fingerprint


def test_all_that_is_in_it_is_tested(folder: Path) -> None:
    made = card(folder)
    inputs = made.fingerprint_inputs
    only_where_asked_for = {"chunk_tokens", "chunk_overlap", "chunk_rule", "deterministic", "modules"}
    tested = set().union(*(keys for _, _, keys in CHANGES.values())) | set(CONSTANTS)
    assert tested - only_where_asked_for == set(inputs)
    assert {key: inputs[key] for key in CONSTANTS} == CONSTANTS
    assert made.fingerprint == digest(inputs)
    others = [digest({**inputs, key: "something else"}) for key in inputs]
    assert len({made.fingerprint, *others}) == len(inputs) + 1


# --- what does not

IN_IT = {
    "model.prompts",
    "model.pooling",
    "model.max_length",
    "model.special_tokens_in_text",
    "model.overflow",
    "model.chunk_tokens",
    "model.chunk_overlap",
    "model.deterministic",
    "model.dimensions",
    "model.matryoshka",
    "model.dtype",
    "table.vector_dtype",
}
STORAGE = {
    "endpoint_url": "http://127.0.0.1:1",
    "region": "eu-central-1",
    "profile": "somebody",
    "anonymous": "true",
    "requester_pays": "true",
    "multipart": "false",
    "access_key_id": "${KEY}",
    "secret_access_key": "${SECRET}",
    "attempts": "3",
    "give_up_after_s": "7",
}
NOT_IN_IT = {
    "corpus.path": "elsewhere",
    "corpus.format": "delta",
    "corpus.id": "null",
    "corpus.text": "'{title} {text}'",
    "corpus.encoding": "latin-1",
    "corpus.delimiter": "';'",
    "corpus.quote": "null",
    "corpus.escape": "'\\'",
    "corpus.escape_unquoted": "true",
    "corpus.trim": "true",
    "corpus.header": "[id, title, text]",
    "corpus.comment": "'#'",
    "corpus.nulls": "[NA]",
    "corpus.carry": "[title]",
    "corpus.ctime": "false",
    "corpus.version": "3",
    "model.revision": "main",
    "model.device": "cuda",
    "model.cache_dir": "/elsewhere",
    "table.path": "elsewhere",
    "table.generation": "again",
    "table.duplicate_ids": "last",
    "table.order_by": "title",
    "table.retype": "[title]",
    "table.delete": "mirror",
    "table.max_delete_share": 0.5,
    "table.max_changed_share": 0.5,
    "table.reuse_from": "/nowhere/older",
    "table.shared_path": "true",
    "select.shards": "['*.parquet']",
    "select.partitions": "{date: 2026-11-01..}",
    "select.ids": "[a, 7]",
    "select.where": "lang = 'de'",
    "select.rejects": "true",
    "select.limit": "100",
    "run.rows_per_split": "7",
    "run.bytes_per_split": "2048",
    "run.vector_bytes_per_split": "4096",
    "run.min_splits": "3",
    "run.max_batch_tokens": "64",
    "run.batches": "packed",
    "run.fuse": "true",
    "run.actors.min": "2",
    "run.actors.max": "5",
    "run.actors.gpus": "0.5",
    "run.actors.cpus": "2",
    "run.actors.torch_threads": "3",
    "run.ray_address": "local",
    "run.max_failed_splits": "9",
    "run.max_reject_share": "1",
    "run.progress_every_s": "1",
    "run.lease_s": "5",
    "run.price_per_hour": "2.5",
    "run.gpu": "H100",
    "run.max_hours": "9",
    "run.max_price": "100",
    "run.on_end": "'true'",
    "run.on_end_timeout_s": "3",
    "evaluation.path": "elsewhere",
    "evaluation.tasks": "{SciFact: data}",
    "evaluation.task_files": "[tasks.yaml]",
    "evaluation.published": "[README.md]",
    "evaluation.prompt": "'Task: {instruction} '",
    "evaluation.unnormalized": "true",
    **{f"{section}.storage.{key}": value for section in ("corpus", "model", "table") for key, value in STORAGE.items()},
}
"""Every other setting, each with a value that is not its default."""


def leaves(section: type[BaseModel], prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, field in section.model_fields.items():
        kind = field.annotation
        inner = isinstance(kind, type) and issubclass(kind, BaseModel)
        found |= leaves(kind, f"{prefix}{name}.") if inner else {f"{prefix}{name}"}  # type: ignore[arg-type]
    return found


def test_every_setting_is_in_it_or_is_not(folder: Path) -> None:
    """A new setting has to be put on one side."""
    assert leaves(Config) == {*IN_IT, *NOT_IN_IT, "model.path"}
    used = {override.split("=")[0] for _, overrides, _ in CHANGES.values() for override in overrides}
    assert used == IN_IT


def test_no_other_setting_changes_it(folder: Path) -> None:
    """All at once, in a copy of the folder: what does not change a vector here cannot cancel out."""
    copy = shutil.copytree(folder, folder.parent / "copy")
    overrides = [f"{name}={value}" for name, value in NOT_IN_IT.items()]
    other = config_of(copy, *overrides, "model.dtype=float32")  # the default for cuda is another one
    usual = config_of(folder)
    changed = {name for name in leaves(Config) if value_at(other, name) != value_at(usual, name)}
    assert changed == {*NOT_IN_IT, "model.path", "model.dtype"}
    assert make_card(other, Columns(pa.string(), {})).fingerprint == card(folder).fingerprint


def value_at(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def same_as_default(folder: Path) -> tuple[str, ...]:
    return ("model.max_length=4096", "model.pooling=mean", "model.dtype=float32")


def linked(folder: Path) -> tuple[str, ...]:
    (folder.parent / "link").symlink_to(folder)
    return (f"model.path={folder.parent}/link",)


def spelled_otherwise(folder: Path) -> tuple[str, ...]:
    return (f"model.path={folder}/../model/",)


def other_files(folder: Path) -> tuple[str, ...]:
    (folder / "README.md").write_text("A model.", encoding="utf-8")
    write_json(folder / "onnx" / "config.json", {"max_length": 7})
    return ()


def details_that_change_nothing(folder: Path) -> tuple[str, ...]:
    """Rows are never padded with a token that means something, nor does a cache matter."""
    edit_json(folder / "tokenizer_config.json", padding_side="right", pad_token="<unk>", model_max_length=512)
    edit_json(folder / "config.json", use_cache=True, torch_dtype="bfloat16", transformers_version="4.37.0")
    return ()


def other_prompts(folder: Path) -> tuple[str, ...]:
    edit_json(folder / "config_sentence_transformers.json", prompts={"sts": "Retrieve similar text: "})
    return ("model.prompts={clustering: 'Identify topics: '}",)


SAME = [
    same_as_default,
    linked,
    spelled_otherwise,
    other_files,
    details_that_change_nothing,
    other_prompts,
]


@pytest.mark.parametrize("change", SAME, ids=[change.__name__ for change in SAME])
def test_what_makes_the_same_vectors_does_not_change_it(
    folder: Path, change: Callable[[Path], tuple[str, ...]]
) -> None:
    before = card(folder)
    after = card(folder, *change(folder))
    assert (after.fingerprint_inputs, after.fingerprint) == (before.fingerprint_inputs, before.fingerprint)


def test_whether_the_file_or_the_guard_adds_eos_does_not_change_it(tmp_path: Path) -> None:
    folder = write_sfr_files(tmp_path / "model", hidden=8)
    other_weights(folder)
    before = card(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["post_processor"]["single"].append({"SpecialToken": {"id": "</s>", "type_id": 0}})
    write_json(folder / "tokenizer.json", tokenizer)
    after = card(folder)
    assert (after.fingerprint_inputs, after.fingerprint) == (before.fingerprint_inputs, before.fingerprint)


def test_the_prompt_of_queries_is_not_in_it(folder: Path) -> None:
    """A table holds documents. Another query prompt leaves each of its vectors as it is, and the same table may be
    searched under several tasks' instructions, so that refusing it would only cost a re-embedding for nothing."""
    before = card(folder).fingerprint
    assert card(folder, "model.prompts={query: 'Instruct: Find it\\nQuery: '}").fingerprint == before
    edit_json(folder / "config_sentence_transformers.json", prompts={"query": "query: "})
    assert card(folder).fingerprint == before
    both = "model.prompts={query: 'Q: ', document: 'D: '}"
    assert card(folder, both).fingerprint_inputs["prompt"] == "D: "


# --- where it is stored


def test_it_stands_in_the_card_each_manifest_and_each_data_file(folder: Path) -> None:
    write_corpus(folder, "a")
    do_plan(make_plan(config_of(folder)))
    write_corpus(folder, "b")
    do_plan(make_plan(config_of(folder)))
    store = open_store(f"{folder.parent}/table")
    table = Table.open(store)
    condemn(table, table.current(), ["0" * 32])
    expected = card(folder).fingerprint
    assert json.loads(store.read("_sfr/table.json"))["fingerprint"] == expected
    manifests = [info.key for info in store.list(names.SNAPSHOTS) if info.key.endswith(".json")]
    assert [json.loads(store.read(key))["fingerprint"] for key in manifests] == [expected] * 3
    files = [info.key for info in store.list(names.DATA)]
    footers = [pq.read_metadata(in_memory(store.read(key))).metadata[b"sfr.fingerprint"] for key in files]
    assert footers == [expected.encode()] * 2


def test_a_manifest_of_another_table_is_refused() -> None:
    store, other = MemoryStore(), MemoryStore()
    table = make_table(store, {"a": ["x"]})
    make_table(other, {"a": ["x"]}, card_of(pooling="cls"))
    key = names.manifest_key(1)
    store.delete([key])
    store.create(key, other.read(key))
    with pytest.raises(TableError) as caught:
        table.current()
    assert str(caught.value) == (
        f"{store.root}/{key} has the fingerprint {card_of(pooling='cls').fingerprint[:12]}, the table "
        f"{table.card.fingerprint[:12]}: its vectors were made with another model or other settings, as if it came "
        "from another table. Restore it from a copy, or write to a new table: table.path=<another path>."
    )


def test_a_data_file_of_another_table_is_neither_read_nor_published() -> None:
    """A file of as many rows under the right name, which only its footer gives away."""
    store, other = MemoryStore(), MemoryStore()
    table = make_table(store, {"a": ["x"]})
    make_table(other, {"a": ["x"]}, card_of(pooling="cls"))
    key = names.data_key(split_name("a"))
    store.delete([key])
    store.create(key, other.read(key))
    text = rf"{key} has the fingerprint {card_of(pooling='cls').fingerprint[:12]}, .*Restore it from a copy, or write"
    with pytest.raises(TableError, match=text):
        table.to_arrow(["id"])
    fresh = create_or_open(MemoryStore(), card_of())
    receipt = commit_rows(fresh.store, card_of(pooling="cls"), "a", ["x"])
    with pytest.raises(TableError, match=text):
        publish(fresh, None, draft_of([receipt]))
    assert fresh.snapshot_numbers() == []
