"""mteb beside us: the shipped tasks against its metadata, and mteb.evaluate with our model."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import sfr_batch as sfr
from sfr_batch.config.settings import StorageSettings
from sfr_batch.errors import ConfigError
from sfr_batch.evaluation import production
from sfr_batch.evaluation.data.retrieval_set import read_retrieval
from sfr_batch.evaluation.instructions import TYPES as TYPE_NAMES
from sfr_batch.evaluation.measures.retrieval import score_ranking
from sfr_batch.evaluation.mteb_adapter import version_of_corpus
from sfr_batch.evaluation.ranking import ranked
from sfr_batch.evaluation.task_files import Task, shipped_tasks
from sfr_batch.pipeline import encode_stage
from sfr_batch.pipeline.encode_stage import load_encoder
from tests.evaluation import mteb_tasks
from tests.evaluation.published import SETS, TYPES, needs_sets
from tests.models import build_tiny_mistral, minilm_folder, mistral_tokenizer
from tests.saved_table import data_files

MAIN_SCORES = {"map_at_1000": "map", "max_over_subqueries_map_at_1000": "map", "cosine_spearman": "cos_sim_spearman"}
"""The keys that cards have for scores that mteb 2 calls otherwise."""
NO_INSTRUCTION = {"CQADupstackRetrieval": "neither the task nor one of its parts has one: ours is that of the authors"}
OTHER_INSTRUCTION = {
    "SummEval": (
        "Given a news summary, retrieve other semantically similar summaries.",
        "the authors have no full stop",
    )
}
NO_DATA = {"CQADupstackRetrieval": "each of its parts is a data set of its own"}
BARE_DOCUMENTS = {
    "AskUbuntuDupQuestions": "mteb's models leave documents bare, the card's authors instructed all texts of reranking",
    "MindSmallReranking": "the same",
    "SciDocsRR": "the same",
    "StackOverflowDupQuestions": "the same",
}
"""What differs between the shipped tasks and mteb, and why."""


@pytest.fixture(scope="module")
def mteb() -> Any:
    return pytest.importorskip("mteb")


def test_shipped_tasks_are_those_of_mteb(mteb: Any) -> None:
    """Name, type, split, main score, subset, data set, revision and instruction, except for what is listed above."""
    for name, task in shipped_tasks().items():
        of_mteb = mteb.get_task(name)
        known = of_mteb.metadata
        assert TYPES[known.type] == task.type, name
        assert TYPE_NAMES[task.type] == known.type, name
        assert task.split in known.eval_splits, name
        assert MAIN_SCORES.get(known.main_score, known.main_score) == task.main_score, name
        assert task.subset in known.hf_subsets, name
        if name in NO_DATA:
            assert (task.dataset, task.revision) == (None, None), name
        else:
            assert (task.dataset, task.revision) == (known.dataset["path"], known.dataset["revision"]), name
        if name not in NO_INSTRUCTION:
            assert task.instruction == instruction_of(of_mteb, task), name
        if known.prompt is not None:
            assert task.instructed == ("queries" if isinstance(known.prompt, dict) else "all"), name


def test_shipped_tasks_are_scored_as_in_mteb(mteb: Any) -> None:
    """Sample sizes, kinds of clustering, and the other settings of measures."""
    for name, task in shipped_tasks().items():
        of_mteb = mteb.get_task(name)
        settings = {
            "samples_per_label": getattr(of_mteb, "samples_per_label", 8),
            "clustering": "samples" if hasattr(of_mteb, "max_document_to_embed") else "whole",
            "max_texts": getattr(of_mteb, "max_document_to_embed", None),
            "ignore_identical_ids": getattr(of_mteb, "ignore_identical_ids", False),
            "p_values": getattr(of_mteb, "evaluator", type).__name__ == "DeprecatedSummarizationEvaluator",
        }
        assert settings == {key: getattr(task, key) for key in settings}, name


def instruction_of(of_mteb: Any, task: Task) -> str | None:
    """What mteb puts before queries and symmetrical texts: the prompt of the task, else that of its type."""
    prompt = of_mteb.metadata.prompt or of_mteb.abstask_prompt
    if isinstance(prompt, dict):
        assert set(prompt) == {"query"}, task.name  # documents have none
        prompt = prompt["query"]
    other, _ = OTHER_INSTRUCTION.get(task.name, (None, ""))
    return task.instruction if prompt == other else str(prompt)


def test_what_differs_from_mteb_is_as_listed(mteb: Any) -> None:
    """So that an exception goes when mteb changes its mind."""
    shipped = shipped_tasks()
    cqadupstack = mteb.get_task("CQADupstackRetrieval").metadata
    assert [part.metadata.name for part in cqadupstack.tasks] == [
        f"CQADupstack{part.capitalize()}Retrieval" for part in shipped["CQADupstackRetrieval"].parts
    ]
    assert [part.metadata.prompt for part in (*cqadupstack.tasks, mteb.get_task("CQADupstackRetrieval"))] == [None] * 13
    for name, (instruction, _) in OTHER_INSTRUCTION.items():
        assert mteb.get_task(name).abstask_prompt == instruction != shipped[name].instruction
    assert {name for name, task in shipped.items() if task.type == "reranking"} == {*BARE_DOCUMENTS}
    model = mteb.get_model_meta("Salesforce/SFR-Embedding-Mistral")
    assert model.loader_kwargs["apply_instruction_to_passages"] is False


# --- mteb drives us


def job(table: Path, model: str, **settings: Any) -> dict[str, Any]:
    return {
        "corpus": {"path": str(table.parent / "none")},
        "model": {"path": model, "device": "cpu", **settings},
        "table": {"path": str(table)},
        "run": {"actors": {"gpus": 0}, "ray_address": "none"},
    }


def evaluated(mteb: Any, model: Any, task: Any, predictions: Path | None = None) -> dict[str, float]:
    """The scores of the only split and subset of a task."""
    (result,) = mteb.evaluate(
        model, task, cache=None, show_progress_bar=False, prediction_folder=predictions
    ).task_results
    ((scores,),) = result.scores.values()
    return scores


@needs_sets
def test_retrieval_through_mteb_equals_products_of_all_vectors(
    mteb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With real questions and the vectors of the encoder; a second evaluation embeds and writes nothing."""
    task = mteb_tasks.retrieval("XQuADRetrieval", SETS / "beir" / "xquad-en", documents=20)
    data = task.dataset["en"]["validation"]
    model = sfr.mteb_model(job(tmp_path / "table", str(minilm_folder())))
    scores = evaluated(mteb, model, task)
    encoder = sfr.Encoder.load(sfr.ModelSettings(path=str(minilm_folder()), device="cpu"))
    documents, queries = encoder.encode(data["corpus"]["text"]), encoder.encode(data["queries"]["text"])
    ids = np.array(data["corpus"]["id"])
    ranking = {
        query: ranked(ids[order].tolist(), row[order])
        for query, row in zip(data["queries"]["id"], queries @ documents.T, strict=True)
        for order in [np.argsort(-row)]
    }
    expected = score_ranking(ranking, data["relevant_docs"]).means
    for key in ("ndcg_at_10", "map_at_10", "recall_at_5"):
        assert scores[key] == pytest.approx(expected[key], abs=2e-5)
    folder = tmp_path / "table-evaluation"
    (corpus,) = folder.glob("XQuADRetrieval-*")
    (texts,) = folder.glob("texts-*")
    assert sfr.open_table(corpus).num_rows == 20
    assert sfr.open_table(texts).num_rows == len(set(data["queries"]["text"]))
    model.encode([{"text": ["a text of another task"]}], task_metadata=task.metadata, hf_split="", hf_subset="")
    before = data_files(corpus), data_files(texts)
    monkeypatch.setattr(production, "encode_parquet", None)
    again = sfr.mteb_model(job(tmp_path / "table", str(minilm_folder())))
    assert evaluated(mteb, again, task) == scores
    assert (data_files(corpus), data_files(texts)) == before
    assert [len(sfr.open_table(table).snapshots()) for table in (corpus, texts)] == [1, 2]


@needs_sets
@pytest.mark.parametrize(("name", "folder"), [("XQuADRetrieval", "xquad-en"), ("SciFact", "scifact")])
def test_mteb_and_files_of_one_corpus_have_one_table(mteb: Any, name: str, folder: str) -> None:
    """It is named by the task and the version of its documents."""
    task, place = mteb_tasks.retrieval(name, SETS / "beir" / folder), str(SETS / "beir" / folder)
    split, subset = split_of(task)
    ours = read_retrieval(shipped_tasks()[name].model_copy(update={"files": ("test",)}), place, StorageSettings())
    assert version_of_corpus(task.dataset[subset][split]["corpus"]) == ours.corpus_version


PUBLISHED = ["XQuADRetrieval", "SciFact", "STSBenchmark", "Banking77Classification", "SICKNLPairClassification"]


def published_task(name: str) -> Any:
    """The task on the whole of its set."""
    if name in ("XQuADRetrieval", "SciFact"):
        return mteb_tasks.retrieval(name, SETS / "beir" / {"XQuADRetrieval": "xquad-en"}.get(name, "scifact"))
    if name == "Banking77Classification":
        folder = SETS / "cls" / "banking77"
        rows = (mteb_tasks.read_table(folder / f"{split}.csv") for split in ("train", "test"))
        return mteb_tasks.classification(name, *rows)
    if name == "SICKNLPairClassification":
        return mteb_tasks.pair_classification(name, mteb_tasks.read_table(SETS / "pair" / "sick-nl" / "test.tsv"))
    if name == "SIB200ClusteringS2S":
        files = {"train": "train", "validation": "dev", "test": "test"}
        folder = SETS / "clu" / "sib200-eng"
        return mteb_tasks.sib200(
            {split: mteb_tasks.read_table(folder / f"{file}.tsv", quoted=True) for split, file in files.items()}
        )
    return mteb_tasks.sts(name, mteb_tasks.read_table(SETS / "sts" / "STSBenchmark" / "test.tsv"))


@pytest.mark.slow
@needs_sets
@pytest.mark.parametrize(("name", "tolerance"), [*((name, 1e-4) for name in PUBLISHED), ("SIB200ClusteringS2S", 0.03)])
def test_scores_through_mteb_are_those_that_were_published(
    mteb: Any, tmp_path: Path, name: str, tolerance: float
) -> None:
    """And those of `evaluate`, within 0.01 points, which embeds no document again. Samples of clustering differ."""
    task = published_task(name)
    table = tmp_path / "table"
    scores = evaluated(mteb, sfr.mteb_model(job(table, str(minilm_folder()))), task)
    corpora = {folder: data_files(folder) for folder in tmp_path.glob(f"table-evaluation/{name}-*")}
    assert len(corpora) == (name in ("XQuADRetrieval", "SciFact"))
    assert scores["main_score"] == pytest.approx(own_score(name, table), abs=1e-4)
    assert {folder: data_files(folder) for folder in tmp_path.glob(f"table-evaluation/{name}-*")} == corpora
    published = json.loads((SETS / "published_scores.json").read_text(encoding="utf-8"))
    of_minilm = published[name]["all-MiniLM-L6-v2"]
    score = next(score for split, subset, score, *_ in of_minilm if (split, subset) == split_of(task))
    assert scores["main_score"] == pytest.approx(score / 100, abs=tolerance)


@pytest.mark.slow
def test_every_type_of_task_of_mteb_has_the_scores_that_its_own_encoder_gives(mteb: Any, tmp_path: Path) -> None:
    """Its small tasks on texts: with instructions in queries, dialogs, candidates, several languages and labels."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    theirs = sentence_transformers.SentenceTransformer(str(minilm_folder()), device="cpu")
    ours = sfr.mteb_model(job(tmp_path / "table", str(minilm_folder())))
    kinds = list(mteb_tasks.small_tasks())
    assert len(kinds) > 25
    for kind in kinds:
        expected, found = (all_scores(mteb, model, kind()) for model in (theirs, ours))
        assert found == pytest.approx(expected, abs=1e-4, nan_ok=True), kind.__name__


def all_scores(mteb: Any, model: Any, task: Any) -> dict[tuple[str, str, str], float]:
    """The scores of all splits and subsets."""
    task.load_data()
    (result,) = mteb.evaluate(model, task, cache=None, show_progress_bar=False).task_results
    return {
        (split, scores["hf_subset"], key): value
        for split, subsets in result.scores.items()
        for scores in subsets
        for key, value in scores.items()
        if isinstance(value, float)
    }


FOLDERS = {
    "XQuADRetrieval": "beir/xquad-en",
    "SciFact": "beir/scifact",
    "STSBenchmark": "sts/STSBenchmark",
    "SICKNLPairClassification": "pair/sick-nl",
    "Banking77Classification": "cls/banking77",
    "SIB200ClusteringS2S": "clu/sib200-eng",
}


def own_score(name: str, table: Path) -> float:
    """The main score of `evaluate` in the tables that mteb has left."""
    ours = shipped_tasks()[name]
    files = {"files": ["test"]} if name == "XQuADRetrieval" else {}
    tasks = {"tasks": [{**ours.model_dump(mode="json"), **files}]}
    file = table.parent / "tasks.yaml"
    file.write_text(yaml.safe_dump(tasks), encoding="utf-8")
    settings = {"tasks": {name: str(SETS / FOLDERS[name])}, "task_files": [str(file)]}
    return sfr.evaluate({**job(table, str(minilm_folder())), "evaluation": settings})[name].result.main_score


def split_of(task: Any) -> tuple[str, str]:
    split = "validation" if task.metadata.name == "XQuADRetrieval" else "test"
    return split, task.hf_subsets[0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small Mistral with the real tokenizer."""
    return str(build_tiny_mistral(tmp_path_factory.mktemp("tiny")))


QUERIES = [{"id": "q1", "text": "Can I upgrade?"}, {"id": "q2", "text": "Where is sudo?"}, {"id": "q3", "text": "Why?"}]
CORPUS = [
    {"id": "a", "title": "Upgrades", "text": "How do I upgrade?"},
    {"id": "b", "title": "", "text": "sudo is in sbin."},
    {"id": "c", "title": "Upgrades", "text": "Never."},
]
PAIRS = [
    {"sentence1": "A cat sat.", "sentence2": "A cat.", "score": 4.0},
    {"sentence1": "Dogs.", "sentence2": "Why?", "score": 1.0},
]


def test_queries_and_symmetrical_texts_are_instructed_and_documents_are_bare(
    mteb: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the tokens that the model gets, which is loaded once. Reranking ranks the candidates of each query alone."""
    seen: set[tuple[int, ...]] = set()
    from sfr_batch.encoder.encoder import Encoder

    launch = Encoder.launch

    def spy(self: Encoder, lengths: Any, flat_ids: Any, **rest: Any) -> Any:
        seen.update(tuple(row.tolist()) for row in np.split(flat_ids, np.cumsum(lengths)[:-1]))
        return launch(self, lengths, flat_ids, **rest)

    monkeypatch.setattr(Encoder, "launch", spy)
    loaded = []
    monkeypatch.setattr(encode_stage, "load_encoder", lambda *of, **how: loaded.append(1) or load_encoder(*of, **how))
    prompts = {"query": "Instruct: Given a web search query, retrieve relevant passages\nQuery: "}
    model = sfr.mteb_model(job(tmp_path / "table", tiny, prompts=prompts))
    candidates = {"q1": ["c", "a"], "q2": ["b", "a", "c"]}
    task = mteb_tasks.of_retrieval(
        "AskUbuntuDupQuestions",
        CORPUS,
        QUERIES,
        {"q1": {"a": 1}, "q2": {"b": 1}, "q3": {"c": 1}},
        top_ranked=candidates,
    )
    evaluated(mteb, model, task, tmp_path)
    evaluated(mteb, model, mteb_tasks.sts("STS12", PAIRS))
    asked, similar = "Retrieve duplicate questions from AskUbuntu forum", "Retrieve semantically similar text."
    instructed = [f"Instruct: {asked}\nQuery: {query['text']}" for query in QUERIES]
    instructed += [f"Instruct: {similar}\nQuery: {pair[side]}" for pair in PAIRS for side in ("sentence1", "sentence2")]
    bare = ["Upgrades How do I upgrade?", "sudo is in sbin.", "Upgrades Never."]
    tokens = tokens_of()
    assert len(loaded) == 1
    assert {tokens(text) for text in [*instructed, *bare]} <= seen
    others = [query["text"] for query in QUERIES] + [prompts["query"] + text for text in bare]
    others += [f"Instruct: {asked}\nQuery: {text}" for text in bare]
    assert not {tokens(text) for text in others} & seen

    predicted = json.loads((tmp_path / "AskUbuntuDupQuestions_predictions.json").read_text())["default"]["test"]
    assert {query: set(documents) for query, documents in predicted.items()} == {
        "q1": {"a", "c"},
        "q2": {"a", "b", "c"},
        "q3": set(),
    }


def tokens_of() -> Callable[[str], tuple[int, ...]]:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_str(mistral_tokenizer("<s> $A </s>"))
    return lambda text: tuple(tokenizer.encode(text).ids)


def test_the_instruction_is_the_most_special_one(mteb: Any, mistral: str, tmp_path: Path) -> None:
    """A model whose prompts are fixed keeps them. Scores of other instructions have another place in mteb's cache."""
    form = {"query": "Instruct: Given a web search query, retrieve relevant passages\nQuery: "}
    given = {"Retrieval": "type", "Retrieval-query": "type, query", "SciFact": "task", "STS": "sts"}
    plain = sfr.mteb_model(job(tmp_path / "table", mistral, prompts=form))
    other = sfr.mteb_model(job(tmp_path / "table", mistral, prompts=form), instructions=given, name="owner/name")
    fixed = sfr.mteb_model(job(tmp_path / "table", mistral, prompts={"query": "query: ", "document": "passage: "}))
    none = sfr.mteb_model(job(tmp_path / "table", mistral))
    typed = sfr.mteb_model(job(tmp_path / "table", mistral, prompts={"query": "query: ", "STS": "sts: "}))
    half = sfr.mteb_model(job(tmp_path / "table", mistral), {"table.vector_dtype": "float16"})
    query, document = mteb.types.PromptType.query, mteb.types.PromptType.document

    def before(model: Any, name: str, prompt_type: Any = None) -> str:
        text = model.prompt(mteb.get_task(name).metadata, prompt_type)
        return text.removeprefix("Instruct: ").removesuffix("\nQuery: ")

    claim = "Given a scientific claim, retrieve documents that support or refute the claim"
    assert [before(plain, "SciFact", query), before(plain, "SciFact", document)] == [claim, ""]
    assert before(plain, "XQuADRetrieval", query) == "Retrieve text based on user query."
    assert before(plain, "CQADupstackAndroidRetrieval", query) == "Retrieve text based on user query."
    assert before(plain, "STS12") == "Retrieve semantically similar text."
    assert before(other, "SciFact", query) == "task"
    assert before(other, "NFCorpus", query) == "type, query"
    assert [before(other, "STS12"), before(other, "Banking77Classification")] == [
        "sts",
        "Given a online banking query, find the corresponding intents",
    ]
    assert [before(fixed, "SciFact", query), before(fixed, "SciFact", document), before(fixed, "STS12")] == [
        "query: ",
        "passage: ",
        "query: ",
    ]
    assert [before(none, "SciFact", query), before(none, "STS12")] == ["", ""]
    assert [before(typed, "SciFact", query), before(typed, "STS12")] == ["query: ", "sts: "]

    meta = plain.mteb_model_meta
    assert (meta.embed_dim, meta.max_tokens, meta.similarity_fn_name.value) == (8, 4096, "cosine")
    assert meta.experiment_kwargs["fingerprint"] == meta.revision == none.mteb_model_meta.revision
    assert (meta.use_instructions, none.mteb_model_meta.use_instructions) == (True, False)
    assert other.mteb_model_meta.name == "owner/name"
    assert meta.name.startswith("sfr-batch/")
    places = {model.mteb_model_meta.experiment_name for model in (plain, other, fixed, none, half, typed)}
    assert len(places) == 6


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"instructions": {"SciFat": "x"}},
            "instructions: mteb has no task and no type of tasks 'SciFat'. A key is the name of a task, such as "
            "SciFact, or a type, such as STS or Retrieval-query.",
        ),
        (
            {"instructions": {"Retrieval-document": "x"}},
            "instructions: 'Retrieval-document' is for documents, which have model.prompts.document before them, as in "
            "production. Remove it.",
        ),
        (
            {"instructions": {"SciFact": "x"}},
            "instructions: model.prompts.query does not show where an instruction would stand. Give the form in "
            "evaluation.prompt, such as 'Instruct: {instruction}\\nQuery: ', or leave the instructions out.",
        ),
        (
            {"encode_kwargs": {"precision": "int8"}},
            "encode_kwargs: precision='int8' asks for other vectors than those of production. Remove it; model.dtype "
            "and table.vector_dtype of the config say what is computed and stored.",
        ),
        ({"missing": "mteb"}, "mteb_model needs the Python package mteb: pip install 'sfr-batch[mteb]'."),
        ({"search": True}, "search has no corpus: call index first, as mteb.evaluate does."),
    ],
)
def test_what_mteb_or_its_user_asks_wrongly(
    mteb: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], message: str
) -> None:
    config = job(tmp_path / "table", str(minilm_folder()))
    if "missing" in wrong:
        monkeypatch.setitem(sys.modules, wrong["missing"], None)
    with pytest.raises(ConfigError) as error:
        call(config, wrong)
    assert str(error.value) == message


def call(config: dict[str, Any], wrong: dict[str, Any]) -> None:
    model = sfr.mteb_model(config, instructions=wrong.get("instructions"))
    common = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}
    if "search" in wrong:
        model.search([], top_k=1, encode_kwargs={}, **common)
    model.encode([], **common, **wrong.get("encode_kwargs", {}))
