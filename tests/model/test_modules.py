"""Chains of modules: equal to sentence-transformers within 1e-5, or refused by file and key."""

import inspect
import json
import random
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.encoder.encoder import Encoder, FloatArray
from sfr_batch.errors import ModelError
from sfr_batch.model.repository.layers import ACTIVATIONS
from sfr_batch.model.repository.module_types import KINDS, kind_of
from sfr_batch.model.repository.modules import POOLING_NAMES
from tests.model.recipes import recipe_of, settings_of
from tests.models import edit_json, write_json
from tests.repositories import HARD_TEXTS, write_chain

Chain = list[tuple[str, Mapping[str, Any] | None]]
TEXTS = HARD_TEXTS[::3]
IDENTITY = "torch.nn.modules.linear.Identity"
MEAN: Chain = [("Pooling", {"embedding_dimension": 32, "pooling_mode": "mean"})]


def ours(folder: Path, texts: Sequence[str] = TEXTS, **values: Any) -> FloatArray:
    return Encoder.load(settings_of(folder, **values)).encode(texts)


def theirs(folder: Path, texts: Sequence[str] = TEXTS) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False)


def assert_equal(found: FloatArray, expected: Any) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5


def dense(width: int, out: int, **keys: Any) -> tuple[str, Mapping[str, Any]]:
    return "Dense", {"in_features": width, "out_features": out, **keys}


CHAINS: dict[str, Chain] = {
    "EmbeddingGemma": [
        *MEAN,
        dense(32, 128, bias=False, activation_function=IDENTITY),
        dense(128, 32, bias=False, activation_function=IDENTITY),
        ("Normalize", None),
    ],
    "LaBSE": [("Pooling", {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}), dense(32, 32)],
    "all kinds": [
        ("Pooling", {"embedding_dimension": 32, "pooling_mode": ["weightedmean", "max"], "include_prompt": True}),
        ("Dropout", {"dropout": 0.5}),
        ("Normalize", {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}),
        dense(64, 16, use_residual=True, activation_function="torch.nn.modules.activation.GELU"),
        ("LayerNorm", {"dimension": 16}),
        ("Dropout", None),
        ("Normalize", {}),
        dense(16, 16, use_residual=True, module_input_name="sentence_embedding", module_output_name=None),
    ],
    "flags, in the order of sentence-transformers": [
        (
            "Pooling",
            {
                "word_embedding_dimension": 32,
                "pooling_mode_lasttoken": True,
                "pooling_mode_mean_sqrt_len_tokens": True,
                "pooling_mode_cls_token": True,
                "pooling_mode_mean_tokens": False,
            },
        )
    ],
    "nothing said is the mean": [("Pooling", {"word_embedding_dimension": 32})],
    "of two poolings the last counts": [("Pooling", {"embedding_dimension": 32, "pooling_mode": "cls"}), *MEAN],
    "a Normalize before pooling does nothing": [("Normalize", None), *MEAN],
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=list(CHAINS))
def test_chains_equal_sentence_transformers(folder: Path, chain: Chain) -> None:
    write_chain(folder, chain)
    expected = theirs(folder)
    encoder = Encoder.load(settings_of(folder))
    assert_equal(encoder.encode(TEXTS), expected)
    assert (encoder.dim, encoder.recipe.hidden) == (expected.shape[1], 32)
    encoder.pack(True)
    assert_equal(encoder.encode(TEXTS), expected)


def test_a_causal_model_with_layers(tmp_path: Path) -> None:
    """Its last token goes another way through the encoder."""
    from tests.models import build_tiny_mistral

    folder = build_tiny_mistral(tmp_path / "mistral", hidden=32, layers=1)
    edit_json(folder / "config.json", sliding_window=None)
    before = ours(folder, TEXTS[:4])
    write_chain(folder, [("Pooling", {"embedding_dimension": 32, "pooling_mode": "lasttoken"}), dense(32, 7)])
    from safetensors.numpy import load_file

    tensors = load_file(folder / "2_Dense" / "model.safetensors")
    # The vectors before have unit length, and so has the input of this Dense if a Normalize stands before it.
    write_chain(
        folder,
        [("Pooling", {"embedding_dimension": 32, "pooling_mode": "lasttoken"}), ("Normalize", None), dense(32, 7)],
    )
    expected = np.tanh(before @ tensors["linear.weight"].T + tensors["linear.bias"])
    assert_equal(ours(folder, TEXTS[:4]), expected / np.linalg.norm(expected, axis=1, keepdims=True))


def test_saved_by_sentence_transformers_itself(folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, LayerNorm, Normalize, Pooling, Transformer

    words = Transformer(str(folder))
    words.max_seq_length = 16
    modules = [words, Pooling(32, ("mean", "cls")), LayerNorm(64), Dense(64, 12), Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu", prompts={"document": "d: "})
    model.save(str(tmp_path / "saved"))
    expected = model.encode_document(TEXTS, normalize_embeddings=True, show_progress_bar=False)
    encoder = Encoder.load(settings_of(tmp_path / "saved"))
    assert_equal(encoder.encode(TEXTS, prompt="document"), expected)
    assert (encoder.recipe.max_length, encoder.dim) == (16, 12)


def test_every_spelling_of_a_class_is_that_class() -> None:
    """Those that sentence-transformers 6 can still import; no other class has a known spelling."""
    from sentence_transformers.sentence_transformer import modules
    from sentence_transformers.util import import_from_string

    importable = 0
    for kind, module in KINDS.items():
        for package in ("models", "sentence_transformer.modules", "base.modules"):
            for name in (f"{kind}", f"{module}.{kind}", f"{kind}.{kind}"):
                spelling = f"sentence_transformers.{package}.{name}"
                try:
                    found = import_from_string(spelling)
                except ImportError:
                    continue
                importable += 1
                assert inspect.getfile(found) == inspect.getfile(getattr(modules, kind))
                assert (kind_of(spelling) or kind) == kind
    assert importable >= 3 * len(KINDS)
    assert kind_of("my_code.Pooling") is None
    assert kind_of("sentence_transformers.models.WordWeights") is None


def test_layers_in_the_fingerprint(folder: Path) -> None:
    assert recipe_of(folder).modules == {}
    write_chain(folder, [*MEAN, ("Normalize", None), ("Dropout", None), ("Normalize", None)])
    assert recipe_of(folder).modules == {}, "they change nothing behind the pooling"
    write_chain(folder, [*MEAN, dense(32, 8), ("Normalize", None), ("LayerNorm", {"dimension": 8})])
    first, *others = recipe_of(folder, dimensions=4, matryoshka=True).modules["layers"]
    assert first == {
        "kind": "dense",
        "in_features": 32,
        "out_features": 8,
        "activation": "Tanh",
        "bias": True,
        "residual": False,
        "weights": "2_Dense/model.safetensors",
    }
    assert [layer["kind"] for layer in others] == ["normalize", "layer_norm"]
    json.dumps(recipe_of(folder).modules)


def test_layers_that_change_places_change_the_fingerprint(folder: Path) -> None:
    """Their files and hashes stay the same."""
    write_chain(folder, [*MEAN, ("LayerNorm", {"dimension": 32}), ("LayerNorm", {"dimension": 32})])
    before, vectors = recipe_of(folder).modules, ours(folder)
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    write_json(folder / "modules.json", [*modules[:2], modules[3], modules[2]])
    assert recipe_of(folder).modules != before
    assert np.abs(ours(folder) - vectors).max() > 1e-3


# --- refusals

POOLING = "1_Pooling/config.json"


def pooling(**keys: Any) -> Chain:
    return [("Pooling", {"embedding_dimension": 32, **keys})]


REFUSED_CHAINS: dict[str, tuple[Chain, str]] = {
    "unknown key of a pooling": (pooling(pooling_mode="mean", temperature=2), rf"{POOLING} sets temperature to 2"),
    "two dimensions": (pooling(word_embedding_dimension=31), rf"{POOLING} sets word_embedding_dimension to 31"),
    "dimension as text": (pooling(word_embedding_dimension="32"), r'to "32", which is not a whole number'),
    "flag as number": (pooling(pooling_mode_cls_token=1), r"pooling_mode_cls_token to 1, which is not true or false"),
    "no such mode": (pooling(pooling_mode="gem"), r'pooling_mode to \["gem"\]. Supported is one of'),
    "no mode": (pooling(pooling_mode=[]), r"pooling_mode to \[\]"),
    "mode as number": (pooling(pooling_mode=3), r"pooling_mode to 3"),
    "no pooling": ([("Normalize", None)], r"does not say how to pool .*no path in modules.json"),
    "dense before pooling": ([dense(32, 8), *MEAN], r"lists Dense \(1_Dense\) before the last Pooling"),
    "dense without pooling": ([dense(32, 8)], r"lists Dense \(1_Dense\) before the last Pooling, or without one"),
    "two transformers": ([("Transformer", None), *MEAN], r"the transformer lies in 1_Transformer"),
    "activation": (
        [*MEAN, dense(32, 8, activation_function="torch.nn.modules.activation.Softmax")],
        r"2_Dense/config.json sets activation_function to .*Softmax.*Supported are",
    ),
    "activation of the repository": (
        [*MEAN, dense(32, 8, activation_function="my_code.Swish")],
        r'activation_function to "my_code.Swish", which is not supported',
    ),
    "activation null": ([*MEAN, dense(32, 8, activation_function=None)], r"to null, which is not a text"),
    "dense of another length": ([*MEAN, dense(31, 8)], r"sets in_features to 31, but the vector before .* has 32"),
    "dense of tokens": (
        [*MEAN, dense(32, 8, module_input_name="token_embeddings")],
        r'module_input_name to "token_embeddings", which is not supported',
    ),
    "dense elsewhere": (
        [*MEAN, dense(32, 8, module_output_name="projected")],
        r'module_output_name to "projected", which is not supported',
    ),
    "unknown key of a dense": ([*MEAN, dense(32, 8, scale=2.0)], r"2_Dense/config.json sets scale to 2.0, a key"),
    "layer norm of another length": ([*MEAN, ("LayerNorm", {"dimension": 8})], r"sets dimension to 8, but .* 32"),
    "unknown key of a layer norm": ([*MEAN, ("LayerNorm", {"dimension": 32, "eps": 1e-3})], r"sets eps to 0.001"),
    "normalize of tokens": (
        [("Normalize", {"module_input_name": "token_embeddings"}), *MEAN],
        r"1_Normalize/config.json sets module_input_name",
    ),
    "unknown key of a dropout": ([*MEAN, ("Dropout", {"p": 0.1})], r"2_Dropout/config.json sets p to 0.1"),
    **{
        f"module {kind}": ([*MEAN, (kind, None)], rf"lists a module {kind} .*which is not supported")
        for kind in ("Router", "CNN", "LSTM", "BoW", "WordWeights", "WeightedLayerPooling", "StaticEmbedding", "New")
    },
}


@pytest.mark.parametrize(("chain", "message"), REFUSED_CHAINS.values(), ids=list(REFUSED_CHAINS))
def test_refused_chains(folder: Path, chain: Chain, message: str) -> None:
    write_chain(folder, chain)
    with pytest.raises(ModelError, match=message):
        recipe_of(folder)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"type": "my_code.Pooling"}, r"names the class my_code.Pooling, which is code of the repository"),
        ({"kwargs": ["task"]}, r'modules.json sets kwargs to \["task"\], which is not supported'),
        ({"requires": "x"}, r'modules.json sets requires to "x", a key that is not known'),
        ({"type": ...}, r"modules.json has a module without type"),
        ({"path": ...}, r"modules.json has a module without path"),
        ({"path": "../elsewhere"}, r"outside of the model folder"),
        ({"path": "/etc"}, r"outside of the model folder"),
        ({"path": 1}, r"modules.json sets path to 1, which is not a text"),
        ({"name": "0"}, r"gives several modules the same name"),
        ({"type": "sentence_transformers.models.Transformer", "path": ""}, r"lists two modules Transformer"),
    ],
)
def test_refused_entries(folder: Path, entry: dict[str, Any], message: str) -> None:
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    modules[1] = {key: value for key, value in {**modules[1], **entry}.items() if value is not ...}
    write_json(folder / "modules.json", modules)
    with pytest.raises(ModelError, match=message):
        recipe_of(folder)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, r"modules.json should hold a list of JSON objects"),
        ([1], r"modules.json should hold a list of JSON objects"),
        ([], r"does not begin with a Transformer: it is empty"),
        ([{"path": "", "type": "sentence_transformers.models.Pooling"}], r"its first module is Pooling"),
    ],
)
def test_refused_lists(folder: Path, value: Any, message: str) -> None:
    write_json(folder / "modules.json", value)
    with pytest.raises(ModelError, match=message):
        recipe_of(folder)


@pytest.mark.parametrize("name", ["1_Pooling/config.json", "sentence_bert_config.json", "sentence_xlnet_config.json"])
def test_files_that_nobody_reads_without_modules_json(folder: Path, name: str) -> None:
    for file in ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json"):
        (folder / file).unlink()
    assert recipe_of(folder, pooling="max").pooling == "max"
    write_json(folder / name, {"max_seq_length": 7})
    with pytest.raises(ModelError, match=rf"modules.json is missing, .* does not read {name}. Fetch the model again"):
        recipe_of(folder, pooling="max")


def test_prompts_that_are_left_out_of_pooling(folder: Path) -> None:
    write_chain(folder, pooling(pooling_mode="mean", include_prompt=False))
    assert_equal(ours(folder), theirs(folder))
    edit_json(folder / "config_sentence_transformers.json", prompts={"sts": "s: ", "query": ""})
    with pytest.raises(ModelError, match=rf"{POOLING} leaves the prompt out of pooling .* prompts \(sts\)"):
        recipe_of(folder)
    assert recipe_of(folder, prompts={"sts": ""}).pooling == "mean"


# --- any chain


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    modes = draw(st.lists(st.sampled_from(sorted(POOLING_NAMES)), min_size=1, max_size=3))
    if draw(st.booleans()):
        config: dict[str, Any] = {"embedding_dimension": 32, "pooling_mode": modes if len(modes) > 1 else modes[0]}
        dim = 32 * len(modes)
    else:
        flags = {"mean": "mean_tokens", "max": "max_tokens", "weightedmean": "weightedmean_tokens", "cls": "cls_token"}
        config = {"word_embedding_dimension": 32} | {f"pooling_mode_{flags.get(m, m)}": True for m in set(modes)}
        config = {k.replace("len_tokens_tokens", "len_tokens"): v for k, v in config.items()}
        dim = 32 * len(set(modes))
    chain: Chain = [("Pooling", config)]
    for kind in draw(st.lists(st.sampled_from(["Dense", "LayerNorm", "Normalize", "Dropout"]), max_size=4)):
        if kind == "Dense":
            out = draw(st.sampled_from([dim, 5, 24]))
            keys: dict[str, Any] = {"bias": draw(st.booleans()), "use_residual": draw(st.booleans())}
            name = draw(st.sampled_from(sorted(ACTIVATIONS)))
            keys["activation_function"] = f"torch.nn.modules.activation.{name}" if name != "Identity" else IDENTITY
            chain.append(dense(dim, out, **{k: v for k, v in keys.items() if draw(st.booleans())}))
            dim = out
        else:
            chain.append((kind, {"LayerNorm": {"dimension": dim}, "Dropout": {"dropout": 0.3}}.get(kind)))
    return chain


@settings(max_examples=15, derandomize=True)
@given(
    chain=chains(),
    cut=st.none() | st.integers(1, 40),
    package=st.sampled_from(["models", "sentence_transformer.modules"]),
)
def test_any_chain_equals_sentence_transformers(
    base: Path, tmp_path_factory: pytest.TempPathFactory, chain: Chain, cut: int | None, package: str
) -> None:
    folder = Path(shutil.copytree(base, tmp_path_factory.mktemp("chain") / "model"))
    write_chain(
        folder, chain, package=f"sentence_transformers.{package}", seed=random.Random(repr(chain)).getrandbits(32)
    )
    edit_json(folder / "config_sentence_transformers.json", truncate_dim=cut)
    assert_equal(ours(folder, TEXTS[:5]), theirs(folder, TEXTS[:5]))
