"""Long documents: truncated, rejected or cut into chunks, from the tokenizer to the table, in this process."""

import json
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import sfr_batch as sfr
from sfr_batch.checks.audit.auditor import audit
from sfr_batch.cli import main as cli
from sfr_batch.config.loading import config_from_dict
from sfr_batch.config.settings import Config, ModelSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import ConfigError, RunFailed, TableError, TableMismatch, TooManyRejects
from sfr_batch.format import names
from sfr_batch.format.parquet import read_data_file
from sfr_batch.format.records import Receipt
from sfr_batch.model.identity import fingerprint_inputs
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.tokenization.tokenizer import Tokenizer
from sfr_batch.pipeline import encode_stage, packing, read_stage, write_stage
from sfr_batch.pipeline.job import Job
from sfr_batch.pipeline.runner import make_job
from sfr_batch.planning import row_comparison
from sfr_batch.planning.drafting import draft
from sfr_batch.table.commit.publish import publish
from sfr_batch.table.commit.writing import create_or_open
from tests.job_processes import config, documents, put_jsonl, put_parquet
from tests.models import build_tiny_mistral, minilm_folder
from tests.repositories import write_repository

CHUNKING = ("model.overflow=chunk", "model.chunk_tokens=32", "model.chunk_overlap=6")
PROSE = " ".join(f"This is sentence number {n}, and it has some words." for n in range(30))
TEXTS = [
    "A short one.",
    PROSE,
    "日本語の文章です。" * 40,
    "nospaces" * 60,
    "👩‍👩‍👧 family 🙂 " * 20,
    "line\n" * 60,
    " " * 300 + "after much white space",
    "Another short one.",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_repository(tmp_path_factory.mktemp("model") / "tiny", max_seq_length=128, config={"hidden_size": 64})


@pytest.fixture(scope="module")
def mistral_encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """With Mistral's tokenizer, which has a piece for most words."""
    folder = build_tiny_mistral(tmp_path_factory.mktemp("model") / "mistral", max_length=128)
    return Encoder.load(ModelSettings(path=str(folder), device="cpu"))


@pytest.fixture(scope="module")
def encoder(tiny: Path) -> Encoder:
    return Encoder.load(ModelSettings(path=str(tiny), device="cpu"))


@pytest.fixture(scope="module")
def minilm() -> Tokenizer:
    return Tokenizer.load(read_recipe(minilm_folder(), ModelSettings(path=str(minilm_folder()), device="cpu")))


def job_of(tiny: Path, root: Path, *overrides: str, **run: Any) -> Config:
    return config(tiny, str(root), *overrides, ray_address="none", **run)


def by_document(table: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """The rows of each document, as they follow each other."""
    found = defaultdict(list)
    for row in table.to_pylist():
        found[row["id"]].append(row)
    return found


# --- settings, fingerprint, columns


def test_settings_of_chunks_need_chunks() -> None:
    for wrong in ({"chunk_tokens": 64}, {"chunk_overlap": 8}, {"overflow": "reject", "chunk_tokens": 64}):
        raw = {"corpus": {"path": "c"}, "model": {"path": "m", "device": "cpu", **wrong}, "table": {"path": "t"}}
        with pytest.raises(ConfigError, match="chunk_tokens and chunk_overlap have no effect with overflow"):
            config_from_dict(raw, ["run.actors.gpus=0"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.chunk_tokens=200"],
            "model.chunk_tokens is 200, but a row has at most 128 tokens (model.max_length or ",
        ),
        (
            ["model.chunk_tokens=32", "model.chunk_overlap=30"],
            "model.chunk_overlap is 30, but of the 32 tokens of a chunk (model.chunk_tokens) the prompt takes 0 and "
            "the special tokens 2, which leaves room for 30. Lower chunk_overlap, raise chunk_tokens or shorten the "
            "prompt.",
        ),
        (
            ["model.chunk_tokens=8", "model.prompts.document='a rather long prompt for a document: '"],
            "model.chunk_overlap is 0, but of the 8 tokens of a chunk (model.chunk_tokens) the prompt takes 15 and the",
        ),
    ],
)
def test_chunks_without_room_are_refused_when_planning(
    tiny: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(TEXTS))
    with pytest.raises(ConfigError) as error:
        sfr.plan(job_of(tiny, tmp_path, "model.overflow=chunk", *overrides))
    assert message in str(error.value)


def test_fingerprint_and_columns_are_todays_unless_chunks_are_asked_for(tiny: Path) -> None:
    def inputs(**values: Any) -> dict[str, Any]:
        chosen = ModelSettings(path=str(tiny), device="cpu", **values)
        recipe = read_recipe(tiny, chosen)
        return fingerprint_inputs(chosen, recipe, Tokenizer.load(recipe), {}, "float32")

    assert set(inputs()) == {
        *("weights", "golden_ids", "special_tokens_in_text", "pooling", "prompt", "max_length", "overflow"),
        *("normalize", "compute_dtype", "vector_dtype", "dim", "config", "tokenizer"),
    }
    assert inputs()["overflow"] == "truncate"
    assert inputs(overflow="reject") == inputs() | {"overflow": "reject"}
    whole = inputs(overflow="chunk")
    assert whole == inputs() | {"overflow": "chunk", "chunk_tokens": 128, "chunk_overlap": 0, "chunk_rule": 1}
    assert whole == inputs(overflow="chunk", chunk_tokens=128)
    assert inputs(overflow="chunk", chunk_tokens=64, chunk_overlap=8) == whole | {
        "chunk_tokens": 64,
        "chunk_overlap": 8,
    }

    plain = names.table_schema(pa.string(), 3, "float32", {"lang": pa.string()})
    assert "chunk" not in plain.names
    chunks = names.table_schema(pa.string(), 3, "float32", {"lang": pa.string()}, chunks=True)
    assert [name for name in chunks.names if name not in plain.names] == ["chunk", "chunk_start", "chunk_end"]


# --- the tokenizer and the encoder


@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
        | st.lists(
            st.sampled_from(["a word ", "Ende. ", "\n\n", "日本", "👩‍👧", "unaffable", "</s>", "e\u0301", "1.5 "]),
            max_size=40,
        ).map("".join),
        max_size=3,
    ),
    prompt=st.sampled_from(["", "passage: "]),
    limit=st.integers(16, 40),
    overlap=st.integers(0, 8),
)
@hypothesis_settings(max_examples=60)
@pytest.mark.parametrize("which", ["mistral", "minilm"])
def test_the_ids_of_a_chunk_are_those_of_its_text(
    encoder: Encoder, minilm: Tokenizer, which: str, texts: list[str], prompt: str, limit: int, overlap: int
) -> None:
    tokenizer = encoder.tokenizer if which == "mistral" else minilm
    found = tokenizer.chunk(texts, prompt, limit, overlap)
    spans = list(zip(found.text.tolist(), found.start.tolist(), found.end.tolist(), strict=True))
    alone = tokenizer.encode([texts[text][start:end] for text, start, end in spans], prompt)
    assert found.tokenized.lengths.tolist() == alone.lengths.tolist()
    assert found.tokenized.flat_ids.tolist() == alone.flat_ids.tolist()
    assert (alone.lengths <= limit).all()
    assert not found.tokenized.truncated.any()
    full = tokenizer.encode(texts, prompt).full_lengths
    assert found.text_lengths.tolist() == full[found.text].tolist()
    for number, text in enumerate(texts):
        own = [(start, end) for owner, start, end in spans if owner == number]
        assert found.chunk[found.text == number].tolist() == list(range(len(own)))
        assert (own[0][0], own[-1][1]) == (0, len(text))
        assert all(start < following <= end < its_end for (start, end), (following, its_end) in pairwise(own))
        assert len(own) > 1 or full[number] <= limit


def test_the_encoder_offers_chunks_and_encode_truncates(encoder: Encoder) -> None:
    chunked, vectors = encoder.chunks(TEXTS, chunk_tokens=32, overlap=6)
    assert repr(chunked).startswith(f"<Chunked {len(TEXTS)} texts, {len(vectors)} chunks, ")
    texts = [TEXTS[n][a:b] for n, a, b in zip(chunked.text, chunked.start, chunked.end, strict=True)]
    assert np.abs(vectors - encoder.encode(texts)).max() < 1e-5
    assert len(encoder.encode(TEXTS)) == len(TEXTS) < len(vectors)
    assert len(encoder.chunks([])[1]) == 0
    assert encoder.chunks([""])[0].end.tolist() == [0]


# --- the table


def test_documents_become_chunks(tmp_path: Path, mistral_encoder: Encoder) -> None:
    folder = mistral_encoder.recipe.folder
    put_parquet(f"{tmp_path}/corpus/a.parquet", [*documents(TEXTS), {"id": "none", "text": None, "lang": "en"}])
    job = job_of(folder, tmp_path, *CHUNKING, "model.prompts.document='passage: '", rows_per_split=3)
    summary = sfr.embed(job)
    counts = summary.snapshot.manifest.counts
    table = sfr.open_table(summary.table)
    rows = by_document(table.to_arrow())
    vectors = sum(map(len, rows.values()))
    assert (counts.read, counts.embedded, counts.rejected, counts.vectors) == (9, 8, 1, vectors)
    assert summary.embedded == 8
    assert f"9 read = 8 embedded + 0 reused + 1 rejected; {vectors:,} chunks" in summary.describe()
    assert "Cut " not in summary.describe()
    assert table.num_rows == vectors > 40
    assert [row["reason"] for row in table.current().rejects().to_pylist()] == ["null_text"]

    own = Encoder.load(job.model)
    for document in documents(TEXTS):
        chunks, text = rows[document["id"]], document["text"]
        assert [row["chunk"] for row in chunks] == list(range(len(chunks)))
        assert (chunks[0]["chunk_start"], chunks[-1]["chunk_end"]) == (0, len(text))
        assert all(b["chunk_start"] <= a["chunk_end"] < b["chunk_end"] for a, b in pairwise(chunks))
        pieces = [text[row["chunk_start"] : row["chunk_end"]] for row in chunks]
        stored = np.asarray([row["embedding"] for row in chunks], dtype=np.float32)
        assert np.abs(stored - own.encode(pieces, prompt="document")).max() < 1e-5
        tokenized = own.tokenizer.encode([*pieces, text], "passage: ")
        assert [row["n_tokens"] for row in chunks] == tokenized.lengths[:-1].tolist()
        assert {row["n_tokens_full"] for row in chunks} == {tokenized.full_lengths[-1]}
        assert max(row["n_tokens"] for row in chunks) <= 32
        assert not any(row["truncated"] for row in chunks)
        assert len({row["content_hash"] for row in chunks}) == 1
        assert {row["lang"] for row in chunks} == {"en"}
    assert len(rows["doc-00000"]) == len(rows["doc-00007"]) == 1
    ends = [PROSE[: row["chunk_end"]] for row in rows["doc-00001"][:-1]]
    assert all(end.endswith(" ") for end in ends), "prose is cut after words"
    assert any(end.endswith(". ") for end in ends), "and after sentences"
    receipts = table.current().read_receipts()
    assert sum(r.tokens_full for r in receipts) == sum(chunks[0]["n_tokens_full"] for chunks in rows.values())
    assert sum(r.vectors for r in receipts) == vectors
    assert counts.tokens == sum(row["n_tokens"] for chunks in rows.values() for row in chunks)

    # A finished table, other settings, a shard more.
    assert not sfr.embed(job).published
    with pytest.raises(TableMismatch, match="chunk_overlap: 6 in the table, 7 in the config"):
        sfr.embed(
            job_of(
                folder,
                tmp_path,
                *CHUNKING,
                "model.chunk_overlap=7",
                "model.prompts.document='passage: '",
            )
        )
    with pytest.raises(TableMismatch, match='overflow: "chunk" in the table, "truncate" in the config'):
        sfr.embed(job_of(folder, tmp_path, "model.prompts.document='passage: '"))
    put_parquet(f"{tmp_path}/corpus/b.parquet", documents([PROSE], "more"))
    counts = sfr.embed(job).snapshot.manifest.counts
    assert (counts.read, counts.embedded, counts.reused, counts.rejected) == (10, 1, 8, 1)
    assert counts.vectors == vectors + len(by_document(sfr.open_table(summary.table).to_arrow(["id"]))["more-00000"])


def test_a_stopped_run_goes_on_with_what_is_missing(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_jsonl(f"{tmp_path}/corpus/a.jsonl", documents(TEXTS))
    job = job_of(tiny, tmp_path, *CHUNKING, rows_per_split=1)
    whole = job_of(tiny, tmp_path, *CHUNKING, "table.path=" + str(tmp_path / "whole"), rows_per_split=1)
    expected = sfr.open_table(sfr.embed(whole).table).to_arrow()

    real, calls = write_stage.write, []

    def failing(batch: pa.Table, job: Job) -> pa.Table:
        calls.append(batch)
        if len(calls) > 3:
            raise OSError("the disk is gone")
        return real(batch, job)

    monkeypatch.setattr(write_stage, "write", failing)
    with pytest.raises(OSError, match="the disk is gone"):
        sfr.embed(job)
    monkeypatch.undo()
    plan = sfr.plan(job)
    assert 0 < len(plan.done) < len(plan.splits)
    summary = sfr.embed(job)
    assert summary.splits == len(plan.splits) - len(plan.done)
    assert sfr.open_table(summary.table).to_arrow().equals(expected)


def test_chunks_of_a_split_are_found_in_every_task(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next night encodes some documents again and copies others, each in one split with rows of all shards."""
    before = [documents(TEXTS[at::3], name) for at, name in enumerate("xyz")]
    now = [
        [row | ({"text": row["text"] + " today"} if n % 2 else {"lang": "de"}) for n, row in enumerate(rows)]
        for rows in before
    ]
    monkeypatch.setattr(row_comparison, "ROWS_A_TASK", 1)
    job = job_of(tiny, tmp_path, *CHUNKING, rows_per_split=100)
    for shards in (before, now):
        for name, rows in zip("xyz", shards, strict=True):
            put_parquet(f"{tmp_path}/corpus/{name}.parquet", rows)
        counts = sfr.embed(job).snapshot.manifest.counts
    assert (counts.read, counts.embedded, counts.reused) == (8, 3, 5)
    found = sfr.open_table(job.table.path)
    assert sorted((r.embedded, r.copied) for r in found.current().read_receipts())[-2:] == [(3, False), (5, True)]
    assert found.audit(sfr.plan(job)).ok
    whole = job_of(tiny, tmp_path, *CHUNKING, f"table.path={tmp_path}/whole", rows_per_split=100)
    rows, expected = (by_document(sfr.open_table(t).to_arrow()) for t in (job.table.path, sfr.embed(whole).table))
    assert rows.keys() == expected.keys()
    for id_, chunks in expected.items():
        assert [[row[name] for name in ("chunk", "chunk_end", "lang")] for row in rows[id_]] == [
            [row[name] for name in ("chunk", "chunk_end", "lang")] for row in chunks
        ]
        stored, made = (np.asarray([row["embedding"] for row in its]) for its in (rows[id_], chunks))
        assert np.abs(stored - made).max() < 1e-5


def test_a_document_longer_than_the_model_is_rejected(tiny: Path, tmp_path: Path) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["short", PROSE, "just as short", PROSE + "!"]))
    job = job_of(tiny, tmp_path, "model.overflow=reject")
    summary = sfr.embed(job)
    counts = summary.snapshot.manifest.counts
    assert (counts.read, counts.embedded, counts.rejected, counts.vectors, counts.truncated) == (4, 2, 2, 2, 0)
    table = sfr.open_table(summary.table)
    assert table.schema.names == [*names.table_schema(pa.string(), 3, "float32", {"lang": pa.string()}).names]
    rows = table.to_arrow().to_pylist()
    assert [row["id"] for row in rows] == ["doc-00000", "doc-00002"]
    own = Encoder.load(job.model)
    assert np.abs(np.asarray([row["embedding"] for row in rows]) - own.encode(["short", "just as short"])).max() < 1e-5
    tokens = own.tokenizer.encode([PROSE]).full_lengths[0]
    first, _ = table.current().rejects().to_pylist()
    assert (first["id"], first["position"], first["reason"]) == ("doc-00001", 1, "too_long")
    assert first["message"] == f"the document has {tokens:,} tokens, a row at most 128 (model.overflow)"

    with pytest.raises(TooManyRejects, match=r"(?s)2 of 4 rows .* too_long: 2, e\.g\. at 1 of .*a\.parquet"):
        sfr.embed(
            job_of(tiny, tmp_path, "model.overflow=reject", "table.path=" + str(tmp_path / "b"), max_reject_share=0.1)
        )


def test_the_summary_says_what_was_cut_off(tiny: Path, tmp_path: Path) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["short", PROSE, "just as short"]))
    summary = sfr.embed(job_of(tiny, tmp_path))
    rows = sfr.open_table(summary.table).to_arrow().to_pylist()
    share = 1 - sum(row["n_tokens"] for row in rows) / sum(row["n_tokens_full"] for row in rows)
    assert 0.5 < share < 1
    line = f"\nCut       1 documents truncated, {share:.1%} of all tokens not embedded (model.overflow)\n"
    assert line.replace("1 documents", "1 document") in summary.describe()
    report = json.loads(summary.snapshot.store.read(names.run_key(summary.snapshot.manifest.run_id, "report.json")))
    assert report["share_cut"] == pytest.approx(share)
    assert report["counts"]["truncated"] == 1

    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["short", "just as short"]))
    assert "Cut " not in sfr.embed(job_of(tiny, tmp_path)).describe()


@pytest.mark.parametrize("column_type", ["parquet", "jsonl"])
def test_a_later_document_with_the_same_id_loses_all_its_chunks(tiny: Path, tmp_path: Path, column_type: str) -> None:
    """In the same split, in another one of the same shard, and in another shard."""
    once = [
        {"id": "long", "text": PROSE, "lang": "en"},
        {"id": "short", "text": "A short one.", "lang": "en"},
        {"id": "long", "text": PROSE[::-1], "lang": "de"},
        {"id": "other", "text": PROSE[7:], "lang": "en"},
        {"id": "short", "text": PROSE[99:], "lang": "de"},
    ]
    again = [{"id": "other", "text": "brief", "lang": "de"}, {"id": "last", "text": PROSE, "lang": "en"}]
    put = put_parquet if column_type == "parquet" else put_jsonl
    put(f"{tmp_path}/corpus/a.{column_type}", once)
    put(f"{tmp_path}/corpus/b.{column_type}", again)
    job = job_of(tiny, tmp_path, *CHUNKING, rows_per_split=4)
    with pytest.raises(TableError, match=r"Duplicate ids in 3 rows, e\.g\. 'long', 'short', 'other'"):
        sfr.embed(job_of(tiny, tmp_path, *CHUNKING, "table.duplicate_ids=error", rows_per_split=4))
    summary = sfr.embed(job)
    counts = summary.snapshot.manifest.counts
    table = sfr.open_table(summary.table)
    rows = by_document(table.to_arrow())
    assert set(rows) == {"long", "short", "other", "last"}
    assert {row["lang"] for chunks in rows.values() for row in chunks} == {"en"}
    assert len(rows["short"]) == 1
    assert all([row["chunk"] for row in chunks] == list(range(len(chunks))) for chunks in rows.values())
    assert (counts.read, counts.embedded, counts.rejected) == (7, 4, 3)
    assert counts.vectors == sum(map(len, rows.values()))

    rejects = table.current().rejects().to_pylist()
    assert [(row["id"], row["reason"]) for row in rejects] == [
        (id_, "duplicate_id") for id_ in ("long", "short", "other")
    ]
    receipts = {names.data_key(r.split_id): r for r in table.current().read_receipts()}
    for reject in rejects:
        key = reject["message"].split(" of ")[-1]
        data = read_data_file(table.store, receipts[key], ["id", "chunk", "lang"], table.card.fingerprint).to_pylist()
        assert data[reject["position"]] == {"id": reject["id"], "chunk": 0, "lang": "de"}


def test_the_last_document_with_an_id_keeps_all_its_chunks(tiny: Path, tmp_path: Path) -> None:
    once = [{"id": "long", "text": PROSE, "lang": "en"}, {"id": "short", "text": "A short one.", "lang": "en"}]
    put_parquet(f"{tmp_path}/corpus/a.parquet", once)
    job = job_of(tiny, tmp_path, *CHUNKING, "table.duplicate_ids=last", rows_per_split=4)
    sfr.embed(job)
    again = [{"id": "long", "text": PROSE[::-1], "lang": "de"}, {"id": "short", "text": PROSE[99:], "lang": "de"}]
    put_parquet(f"{tmp_path}/corpus/b.parquet", again)
    put_parquet(f"{tmp_path}/corpus/c.parquet", [{"id": "short", "text": "A shorter one.", "lang": "de"}])
    summary = sfr.embed(job)
    table = sfr.open_table(summary.table)
    rows = by_document(table.to_arrow())
    assert {row["lang"] for chunks in rows.values() for row in chunks} == {"de"}
    assert all([row["chunk"] for row in chunks] == list(range(len(chunks))) for chunks in rows.values())
    assert (len(rows["long"]) > 1, len(rows["short"])) == (True, 1)
    assert summary.embedded == 2, "not that of b.parquet with the id of c.parquet"
    assert audit(table, sfr.plan(job)).ok


def test_one_bad_chunk_rejects_its_document(tiny: Path, tmp_path: Path) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents([PROSE, PROSE[3:], "short"]))
    plan = sfr.plan(job_of(tiny, tmp_path, *CHUNKING))
    table, job = create_or_open(plan.store, plan.card), make_job(plan, "run")
    units = pa.table({"unit": [packing.unit_to_json(unit) for unit in plan.todo]})
    [row] = read_stage.read_and_tokenize(units, job)
    encoded = encode_stage.Encode(job)(row)
    chunks = packing.from_ipc(encoded["rows"])["chunk"].to_numpy()
    per_document = np.diff([*np.flatnonzero(chunks == 0), len(chunks)])
    vectors = np.frombuffer(encoded["vectors"][0].as_buffer(), np.float32).reshape(len(chunks), -1).copy()
    vectors[per_document[0] + 1 : per_document[0] + 3] = np.nan
    at = encoded.column_names.index("vectors")
    encoded = encoded.set_column(at, "vectors", packing.binary_column(pa.py_buffer(vectors)))
    [result] = write_stage.write(encoded, job).to_pylist()
    assert result["error"] is None
    receipt = Receipt.from_json(result["receipt"])
    assert (receipt.read, receipt.embedded, receipt.rejected) == (3, 2, 1)
    assert receipt.vectors == per_document[0] + per_document[2]
    snapshot = publish(table, plan.base, draft(plan, "run", [receipt]))
    assert set(snapshot.to_arrow(["id"])["id"].to_pylist()) == {"doc-00000", "doc-00002"}
    [reject] = snapshot.rejects().to_pylist()
    assert (reject["id"], reject["position"], reject["reason"]) == ("doc-00001", 1, "bad_vector")


def test_a_carried_text_that_its_chunks_repeat_too_often_is_refused(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents([PROSE * 4, "short"]))
    job = job_of(tiny, tmp_path, *CHUNKING, "corpus.carry=[lang, text]")
    monkeypatch.setattr(read_stage, "_REPEATED_BYTES", 100_000)
    with pytest.raises(RunFailed, match=r"a\.parquet: the column text \(corpus.carry\), repeated in each chunk of its"):
        sfr.embed(job)
    monkeypatch.setattr(read_stage, "_REPEATED_BYTES", 10_000_000)
    rows = sfr.open_table(sfr.embed(job).table).to_arrow().to_pylist()
    assert {row["text"] for row in rows} == {PROSE * 4, "short"}


def test_search_finds_chunks(tiny: Path, tmp_path: Path) -> None:
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(["short", PROSE]))
    table = sfr.open_table(sfr.embed(job_of(tiny, tmp_path, *CHUNKING)).table)
    rows = by_document(table.to_arrow())["doc-00001"]
    wanted = rows[3]
    query = PROSE[wanted["chunk_start"] : wanted["chunk_end"]]
    hit = table.search(query, k=2, columns=["lang", "chunk"])[0]
    assert hit.score == pytest.approx(1, abs=1e-5)
    span = {name: wanted[name] for name in ("chunk", "chunk_start", "chunk_end")}
    assert (hit.id, hit.row) == ("doc-00001", span | {"lang": "en"})
    shown = CliRunner().invoke(cli.main, ["search", str(tmp_path / "table"), query, "-k", "1", "--show", "lang"])
    assert shown.output == f"{hit.score:.4f}  doc-00001 [3]\n        en\n"


def test_chunks_bound_the_text_of_a_split_by_its_vectors(tiny: Path, tmp_path: Path) -> None:
    """A few long documents are as many vectors as thousands of short ones."""
    texts = [f"{number} {PROSE}" for number in range(40)]  # unlike each other, or Parquet stores them once
    put_parquet(f"{tmp_path}/corpus/a.parquet", documents(texts))
    few = {"vector_bytes_per_split": 16 * 64 * 4}  # 16 vectors
    assert {split.rows for split in sfr.plan(job_of(tiny, tmp_path, **few)).splits} == {13, 14}
    plan = sfr.plan(job_of(tiny, tmp_path, *CHUNKING, **few))
    assert {split.rows for split in plan.splits} <= {1, 2}
    assert plan.estimated_tokens == pytest.approx(sum(map(len, texts)) / 4 / (1 - 6 / 32), rel=0.1)


def test_a_long_document_is_cut_in_time_that_grows_with_it(encoder: Encoder) -> None:
    chunked = encoder.tokenizer.chunk([PROSE * 200, "x" * 200_000], chunk_tokens=128, overlap=16)
    assert len(chunked.text) > 1000
    assert chunked.tokenized.lengths.max() <= 128
