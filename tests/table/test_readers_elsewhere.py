"""Tables in other people's engines: the live rows of one with dead rows, handed over by our readers or by an export,
and the data/ folder of a plain one, read by the engines themselves. Vectors are MiniLM's; what is nearest is the same
everywhere."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import sfr_batch as sfr
from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.format import names
from sfr_batch.storage.stores import open_store
from sfr_batch.table.search import top_k, vectors_of
from tests.models import docstrings, minilm_folder
from tests.states import Row, state_of
from tests.tables import do_plan, parquet, put

pytestmark = pytest.mark.ray

DIM = 384
QUERIES = ["open a file", "a random sample of an array", "the gradient of a loss", "convert to a string"]


@dataclass(frozen=True)
class Made:
    """A table after a night with changes, and the one that it was the day before."""

    table: sfr.EmbeddingTable
    plain: sfr.EmbeddingTable
    queries: Any
    """float32 [q, d]"""

    def nearest(self, k: int = 5) -> list[list[str]]:
        """Ids by our own exact search."""
        return [
            [str(hit.id) for hit in hits] for hits in top_k(self.table.batches(["id", "embedding"]), self.queries, k)
        ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = str(tmp_path_factory.mktemp("elsewhere"))
    encoder = Encoder.load(ModelSettings(path=str(minilm_folder()), device="cpu"))
    texts = sorted(docstrings(2500), key=len)[200:440:2]

    def corpus(texts: list[str], first: int) -> bytes:
        ids = [f"doc-{n:03}" for n in range(first, first + len(texts))]
        langs = ["en" if n % 3 else "de" for n in range(len(texts))]
        return parquet(pa.table({"id": ids, "text": texts, "lang": langs}))

    def settings(table: str) -> Any:
        values = {
            "corpus": {"path": f"{root}/corpus", "carry": ["lang"]},
            "model": {"path": str(minilm_folder()), "device": "cpu"},
            "table": {"path": f"{root}/{table}"},
            "run": {"rows_per_split": 32, "min_splits": 1, "actors": {"gpus": 0}},
        }
        return sfr.Config.model_validate(values)

    def encode(texts: list[str]) -> Any:
        return encoder.encode(texts)

    put(root, "corpus/a.parquet", corpus(texts[:60], 0))
    put(root, "corpus/b.parquet", corpus(texts[60:], 60))
    for table in ("table", "plain"):
        do_plan(sfr.plan(settings(table)), encode)
    changed = [f"Once more: {text}" if n % 10 == 0 else text for n, text in enumerate(texts[:60])]
    put(root, "corpus/a.parquet", corpus(changed[:50], 0))  # five have another text, ten are gone
    do_plan(sfr.plan(settings("table")), encode)
    table = sfr.open_table(f"{root}/table")
    assert table.num_rows == 110
    assert sum(map(len, table.current().read_deletes().values())) > 0
    return Made(table, sfr.open_table(f"{root}/plain"), encoder.encode(QUERIES))


def check(made: Made, ids: list[Any], vectors: Any) -> None:
    """All live rows and no others, each with its vector."""
    vectors = np.asarray(vectors, dtype=np.float32)
    assert vectors.shape == (len(ids), DIM)
    ours = made.table.to_arrow(["id", "embedding"]).combine_chunks()
    expected = dict(zip(ours["id"].to_pylist(), vectors_of(ours["embedding"].chunk(0)), strict=True))
    assert sorted(ids) == sorted(expected)
    assert all(np.array_equal(vector, expected[id_]) for id_, vector in zip(ids, vectors, strict=True))


def nearest(ids: list[str], vectors: Any, queries: Any, k: int = 5) -> list[list[str]]:
    """By brute force, with ties by id as ours."""
    scores = queries @ np.asarray(vectors, dtype=np.float32).T
    return [sorted(ids, key=lambda id_, row=row: (-row[ids.index(id_)], id_))[:k] for row in scores]


@pytest.fixture(scope="module")
def exported(made: Made, tmp_path_factory: pytest.TempPathFactory) -> str:
    target = str(tmp_path_factory.mktemp("exported") / "out")
    made.table.export(target, partition_by="lang", rows_per_file=20)
    return target


# --- pandas, Polars, DuckDB


def test_pandas(made: Made, exported: str) -> None:
    import pandas

    frame = made.table.to_pandas()
    check(made, frame["id"].tolist(), np.stack(frame["embedding"]))
    assert frame["n_tokens"].dtype == np.int32
    assert nearest(frame["id"].tolist(), np.stack(frame["embedding"]), made.queries) == made.nearest()
    frame = pandas.read_parquet(exported)
    check(made, frame["id"].tolist(), np.stack(frame["embedding"]))
    assert set(frame["lang"]) == {"de", "en"}
    assert len(pandas.read_parquet(f"{made.plain.store.root}/data")) == 120


def test_polars(made: Made, exported: str) -> None:
    import polars

    frame = polars.from_arrow(made.table.to_arrow())
    assert isinstance(frame, polars.DataFrame)
    assert frame.schema["embedding"] == polars.Array(polars.Float32, DIM)
    check(made, frame["id"].to_list(), frame["embedding"].to_numpy())
    frame = polars.read_parquet(f"{exported}/**/*.parquet", hive_partitioning=True)
    check(made, frame["id"].to_list(), frame["embedding"].to_numpy())
    plain = polars.scan_parquet(f"{made.plain.store.root}/data/*.parquet")
    assert plain.filter(polars.col("lang") == "de").select("id").collect().height == 40


def test_duckdb(made: Made, exported: str) -> None:
    import duckdb

    live = made.table.to_duckdb()
    rows = live.project("id, embedding").fetchall()
    check(made, [id_ for id_, _ in rows], [vector for _, vector in rows])
    for query, expected in zip(made.queries, made.nearest(), strict=True):
        score = f"array_inner_product(embedding, {query.tolist()}::FLOAT[{DIM}])"
        assert [id_ for (id_,) in live.order(f"{score} DESC").limit(5).project("id").fetchall()] == expected
    rows = duckdb.sql(f"SELECT id, embedding FROM '{exported}/**/*.parquet'").fetchall()
    check(made, [id_ for id_, _ in rows], [vector for _, vector in rows])
    assert duckdb.sql(f"SELECT count(*) FROM '{made.plain.store.root}/data/*.parquet'").fetchall() == [(120,)]


# --- Hugging Face datasets


def test_hugging_face_datasets(made: Made, exported: str, tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    live = datasets.Dataset(made.table.to_arrow(["id", "embedding", "lang"])).with_format("numpy")
    check(made, list(live["id"]), live["embedding"])
    for files, rows in ((f"{exported}/**/*.parquet", 110), (f"{made.plain.store.root}/data/*.parquet", 120)):
        found = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(tmp_path))
        assert found.num_rows == rows
        assert len(found[0]["embedding"]) == DIM


# --- vector search


def test_faiss(made: Made) -> None:
    import faiss

    rows = made.table.to_arrow(["id", "embedding"]).combine_chunks()
    ids, vectors = rows["id"].to_pylist(), vectors_of(rows["embedding"].chunk(0))
    index = faiss.IndexFlatIP(DIM)
    index.add(vectors)
    assert index.ntotal == made.table.num_rows
    scores, found = index.search(made.queries, 5)
    ours = top_k(made.table.batches(["id", "embedding"]), made.queries, 5)
    assert [[ids[at] for at in row] for row in found] == [[hit.id for hit in hits] for hits in ours]
    assert np.allclose(scores, [[hit.score for hit in hits] for hits in ours], atol=1e-6)


def test_lancedb(made: Made, tmp_path: Path) -> None:
    """Batch by batch, and then kept up to date by the feed of changes."""
    import lancedb

    def searched(table: Any) -> list[list[str]]:
        found = []
        for query in made.queries:
            hits = table.search(query, vector_column_name="embedding").distance_type("dot").limit(5)
            found.append([row["id"] for row in hits.to_list()])
        return found

    columns = ["id", "embedding", "lang"]
    database = lancedb.connect(str(tmp_path / "lance"))
    reader = pa.RecordBatchReader.from_batches(made.table.scan(columns).schema, made.table.batches(columns))
    table = database.create_table("live", reader)
    assert table.count_rows() == made.table.num_rows
    assert searched(table) == made.nearest()

    copy = database.create_table("copy", made.table.at(snapshot=1).to_arrow(columns))
    assert copy.count_rows() == 120
    changes = made.table.changes(1, 2)
    assert (changes.new, changes.changed, changes.deleted, changes.unchanged) == (0, 5, 10, 105)
    for batch in changes.deletes():
        gone = ", ".join(f"'{id_}'" for id_ in batch.column("id").to_pylist())
        copy.delete(f"id IN ({gone})")
    for batch in changes.upserts(columns):
        upsert = copy.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        upsert.execute(pa.Table.from_batches([batch]))
    rows = copy.to_arrow()
    check(made, rows.column("id").to_pylist(), vectors_of(rows.column("embedding").combine_chunks()))
    assert searched(copy) == made.nearest()


# --- Ray Data


def ids_of(dataset: Any) -> list[str]:
    return sorted(row["id"] for row in dataset.take_all())


@pytest.mark.usefixtures("ray_session")
def test_ray_data(made: Made) -> None:
    import ray.data

    dataset = made.table.to_ray(["id", "embedding", "lang"])
    batch = dataset.take_batch(1000, batch_format="numpy")
    assert batch["embedding"].dtype == np.float32
    check(made, batch["id"].tolist(), batch["embedding"])
    queries = made.queries
    scored = dataset.map_batches(
        lambda b: {"id": b["id"], "score": (b["embedding"] @ queries[0])}, batch_format="numpy"
    )
    best = sorted(scored.take_all(), key=lambda row: -row["score"])[:5]
    assert [row["id"] for row in best] == made.nearest()[0]

    german = made.table.to_arrow(["id"], where="lang = 'de'").column(0).to_pylist()
    assert ids_of(made.table.to_ray(["id"], where="lang = 'de'")) == sorted(german)
    wanted = ["doc-000", "doc-055", "doc-061", "nobody"]
    assert ids_of(made.table.to_ray(["id", "embedding"], ids=wanted)) == ["doc-000", "doc-061"]
    assert ids_of(made.table.at(snapshot=1).to_ray(["id"], ids=wanted)) == ["doc-000", "doc-055", "doc-061"]

    plain = ray.data.read_parquet(f"{made.plain.store.root}/data")
    assert plain.count() == 120


@pytest.mark.usefixtures("ray_session")
def test_ray_data_reads_in_its_workers_from_s3(s3_prefix: str) -> None:
    """A task a file if Ray asks for so many; dead rows and the whole of dead files stay out."""
    files = {f"f{n}": [Row(f"r{n}-{m}") for m in range(4)] for n in range(6)}
    table = state_of(open_store(s3_prefix), files, {"f1": [0, 3], "f2": [0, 1, 2, 3]})
    opened: list[str] = []
    real = table.store.open
    table.store.open = lambda key, size=0: (opened.append(key), real(key, size))[1]  # type: ignore
    dataset = table.to_ray()
    del table.store.open  # type: ignore[misc]
    expected = [f"r{n}-{m}" for n in range(6) for m in range(4) if not (n == 2 or (n == 1 and m in (0, 3)))]
    assert dataset.count() == len(expected), "known from the receipts"
    assert ids_of(dataset) == expected
    assert opened == [], "the driver reads no data file"
    assert len(dataset.input_files()) == 5
    assert ids_of(table.to_ray(["id"], where="n_tokens < 0")) == []


@pytest.mark.usefixtures("ray_session")
def test_ray_data_of_an_empty_table(tmp_path: Path) -> None:
    table = state_of(open_store(str(tmp_path)), {})
    dataset = table.to_ray()
    assert dataset.count() == 0
    assert dataset.schema().names == table.schema.names
    assert names.EMBEDDING in dataset.schema().names
