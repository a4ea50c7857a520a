"""Repositories that are drawn at random give the vectors of sentence-transformers within 1e-5, or are refused.

Everything that a repository may say is drawn: the architecture and its config.json, tokenizer files, modules, lengths,
prompts. `SFR_EXAMPLES=2000 pytest -m slow tests/model/test_any_repository.py` draws more of them.
"""

import itertools
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import ConfigError, ModelError
from sfr_batch.model import prompts
from tests.models import edit_json, write_json
from tests.repositories import HARD_TEXTS, VOCABULARY, bytelevel, unigram, wordpiece, write_repository

TEXTS = [*HARD_TEXTS[:9], "a [SEP] b [CLS] c", "[DOC] Ünïcödé Straße", "word " * 60]
EXAMPLES = int(os.environ.get("SFR_EXAMPLES", "2000"))
IN_CI = 30
Draw = st.DrawFn

ROPE = {"num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 1, "bos_token_id": 0}
CAUSAL = {**ROPE, "eos_token_id": 2, "tie_word_embeddings": False}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {},
    "xlm-roberta": {},
    "llama": CAUSAL,
    "qwen3": {**CAUSAL, "head_dim": 16},
}
TOKENIZERS = {"bert": wordpiece, "xlm-roberta": unigram}
ACTIVATIONS = ["Identity", "Tanh", "ReLU", "GELU", "Sigmoid", "SiLU"]


def some(draw: Draw, choices: dict[str, st.SearchStrategy[Any]], chance: int = 4) -> dict[str, Any]:
    """Each key with one chance in so many."""
    return {key: draw(values) for key, values in choices.items() if draw(st.integers(1, chance)) == 1}


@st.composite
def architectures(draw: Draw) -> tuple[str, dict[str, Any]]:
    family = draw(st.sampled_from(sorted(FAMILIES)))
    config = dict(FAMILIES[family])
    if family in ("llama", "qwen3"):
        config |= some(draw, {"rms_norm_eps": st.sampled_from([1e-5, 1e-6]), "hidden_act": st.just("gelu")})
        config |= some(draw, {"rope_parameters": st.sampled_from(ROPES)}, 3)
        return family, config
    config |= some(
        draw,
        {
            "hidden_act": st.sampled_from(["gelu", "relu", "gelu_new", "silu"]),
            "layer_norm_eps": st.sampled_from([1e-12, 1e-5]),
            "position_embedding_type": st.just("absolute"),
            "hidden_dropout_prob": st.sampled_from([0.0, 0.1]),
            "classifier_dropout": st.just(None),
            "use_cache": st.booleans(),
            "id2label": st.just({"0": "LABEL_0"}),
        },
    )
    return family, config


ROPES = [
    {"rope_type": "default", "rope_theta": 10000.0},
    {"rope_type": "default", "rope_theta": 500.0},
    {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "rope_theta": 10000.0},
]


@st.composite
def tokenizers(draw: Draw, family: str) -> dict[str, Any]:
    """What is added to tokenizer_config.json, and the arguments that tokenizer.json is made with."""
    config = some(
        draw,
        {
            "padding_side": st.sampled_from(["left", "right"]),
            "clean_up_tokenization_spaces": st.booleans(),
            "model_max_length": st.sampled_from([24, 40, 512, int(1e30)]),
            "name_or_path": st.just("somewhere"),
            "additional_special_tokens": st.just([]),
            "trim_offsets": st.booleans(),
        },
    )
    if family == "bert":
        config |= some(draw, {"do_lower_case": st.booleans(), "strip_accents": st.sampled_from([None, True, False])}, 2)
        config |= some(draw, {"tokenize_chinese_chars": st.booleans()})
        made = {"lowercase": draw(st.booleans())}
        if draw(st.integers(1, 5)) == 1:
            config["do_lower_case"] = ...
    elif family == "roberta":
        config |= some(draw, {"add_prefix_space": st.booleans(), "errors": st.just("replace")}, 2)
        made = {"prefix_space": draw(st.booleans())}
    elif family == "xlm-roberta":
        made = {"words": draw(st.booleans())}
    else:
        config |= {"tokenizer_class": "PreTrainedTokenizerFast"}
        config |= some(draw, {"add_bos_token": st.booleans(), "add_eos_token": st.booleans()})
        made = {"template": draw(st.sampled_from(["$A </s>", "<s> $A", "<s> $A </s>", "$A"]))}
    if draw(st.integers(1, 4)) == 1:
        token = {"content": "[DOC]", "special": draw(st.booleans()), "normalized": False}
        config["added_tokens_decoder"] = {str(VOCABULARY): {**token, "lstrip": False, "rstrip": False}}
        config["added_tokens_decoder"][str(VOCABULARY)]["single_word"] = draw(st.booleans())
    return {"config": config, "made": made}


@st.composite
def modules(draw: Draw) -> dict[str, Any]:
    """Poolings, the modules after them, lengths and prompts."""
    chain = draw(st.lists(st.sampled_from(["Dense", "LayerNorm", "Normalize", "Dropout"]), max_size=3))
    return {
        "poolings": draw(
            st.sampled_from([["mean"], ["mean"], ["cls"], ["lasttoken"], ["max"], ["mean", "cls"], ["weightedmean"]])
        ),
        "chain": [(kind, draw(st.sampled_from(ACTIVATIONS)), draw(st.booleans())) for kind in chain],
        "length": some(
            draw,
            {
                "max_seq_length": st.sampled_from([20, 64, 128]),
                "do_lower_case": st.just(False),
                "tokenizer_args": st.just({"model_max_length": 48}),
            },
            2,
        ),
        "file": draw(st.sampled_from(["sentence_bert_config.json"] * 3 + ["sentence_roberta_config.json"])),
        "sentence_transformers": some(
            draw,
            {
                "prompts": st.sampled_from(
                    [{}, {"query": "query: ", "document": "passage: "}, {"query": None, "passage": "p: "}]
                ),
                "similarity_fn_name": st.sampled_from(["cosine", "dot"]),
                "truncate_dim": st.sampled_from([None, 16]),
                "model_type": st.just("SentenceTransformer"),
            },
            2,
        ),
    }


Odd = tuple[str, str, Any]
ODD: list[Odd] = [
    ("config.json", "position_embedding_type", "relative_key"),
    ("config.json", "is_decoder", True),
    ("config.json", "rope_parameters", {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}),
    ("config.json", "hidden_act", "gelu_x"),
    ("config.json", "quantization_config", {"quant_method": "gptq", "bits": 4}),
    ("config.json", "num_attention_heads", "4"),
    ("config.json", "some_new_switch", True),
    ("tokenizer_config.json", "some_new_switch", True),
    ("tokenizer_config.json", "tokenizer_class", "SomeTokenizer"),
    ("tokenizer_config.json", "truncation_side", "left"),
    ("tokenizer_config.json", "split_special_tokens", True),
    ("tokenizer_config.json", "do_lower_case", "yes"),
    ("sentence_bert_config.json", "config_args", {"num_hidden_layers": 1}),
    ("sentence_bert_config.json", "transformer_task", "fill-mask"),
    ("sentence_bert_config.json", "query_length", 8),
    ("sentence_bert_config.json", "some_new_switch", True),
    ("config_sentence_transformers.json", "default_prompt_name", "none of them"),
    ("config_sentence_transformers.json", "model_type", "SparseEncoder"),
    ("config_sentence_transformers.json", "some_new_switch", True),
    ("1_Pooling/config.json", "include_prompt", False),
    ("1_Pooling/config.json", "some_new_switch", True),
]
"""Keys of which at most one is set: unknown ones, and those that change vectors in ways of their own."""


@st.composite
def repositories(draw: Draw) -> dict[str, Any]:
    family, config = draw(architectures())
    return {
        "family": family,
        "config": config,
        "tokenizer": draw(tokenizers(family)),
        "modules": draw(modules()),
    }


def build(folder: Path, drawn: dict[str, Any], odd: Odd | None) -> Path:
    """Write the repository, with one odd setting if asked. sentence-transformers' own classes save the modules."""
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling
    from torch import nn

    said, tokenizer = drawn["modules"], drawn["tokenizer"]
    added = {"vocab_size": VOCABULARY + 1} if "added_tokens_decoder" in tokenizer["config"] else {}
    write_repository(
        folder,
        drawn["family"],
        config={**drawn["config"], **added},
        tokenizer_config=tokenizer["config"],
        tokenizer_json=TOKENIZERS.get(drawn["family"], bytelevel)(**tokenizer["made"]),
        max_seq_length=None,
        normalize=False,
    )
    pooling = Pooling(32, pooling_mode=tuple(said["poolings"]))
    dim = 32 * len(said["poolings"])
    chain: list[Any] = []
    for kind, activation, bias in said["chain"]:
        if kind == "Dense":
            chain.append(Dense(dim, 24, bias=bias, activation_function=getattr(nn, activation)()))
            dim = 24
        else:
            chain.append({"LayerNorm": LayerNorm(dim), "Dropout": Dropout(0.1), "Normalize": Normalize()}[kind])
    listed = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    for number, module in enumerate([pooling, *chain], 1):
        name = type(module).__name__
        place = folder / f"{number}_{name}"
        place.mkdir(exist_ok=True)
        module.save(str(place))
        kind = f"sentence_transformers.models.{name}"
        listed.append({"idx": number, "name": str(number), "path": place.name, "type": kind})
    write_json(folder / "modules.json", listed)
    (folder / "sentence_bert_config.json").unlink(missing_ok=True)
    write_json(folder / said["file"], said["length"])
    write_json(folder / "config_sentence_transformers.json", said["sentence_transformers"])
    if odd:
        name, key, value = odd
        if not (folder / name).exists():
            write_json(folder / name, {})
        edit_json(folder / name, **{key: value})
    return folder


def compare(folder: Path) -> str:
    """ "equal", or "refused: …" with the message; anything else fails."""
    import torch
    from sentence_transformers import SentenceTransformer

    try:
        encoder = Encoder.load(ModelSettings(path=str(folder), device="cpu"), torch_threads=1)
        encoder.tokenizer.encode([], prompts.resolve(encoder.recipe.prompts, "query"))
    except (ModelError, ConfigError) as error:
        return f"refused: {error}"
    dtype = {"dtype": torch.float32}
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=dtype)
    options = {"normalize_embeddings": True, "batch_size": 1, "show_progress_bar": False}
    passage = "passage" if "passage" in model.prompts else None  # encode_document does not look it up
    for side, encode in (("document", model.encode_document), ("query", model.encode_query)):
        lengths = encoder.tokenizer.encode(TEXTS, prompts.resolve(encoder.recipe.prompts, side)).lengths
        texts = [text for text, length in zip(TEXTS, lengths, strict=True) if length]  # others become rejects
        ours = encoder.encode(texts, prompt=side)
        theirs = encode(texts, prompt_name=passage if side == "document" else None, **options)
        assert ours.shape == theirs.shape
        away = np.abs(ours - theirs).max(axis=1)
        if not (away <= 1e-5).all():
            row = int(np.nanargmax(away))
            here = encoder.tokenizer.encode([texts[row]]).flat_ids.tolist()
            there = model.preprocess([texts[row]])["input_ids"][0].tolist()
            pytest.fail(f"{side} {texts[row]!r} is {away[row]:.1e} away; ids without prompt {here}, there {there}")
    return "equal"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("drawn")


def run(place: Path, examples: int, odd: bool) -> Counter[str]:
    """Compare so many repositories. Returns how many were equal and refused, by the reason's first words."""
    found: Counter[str] = Counter()
    odds = itertools.cycle(ODD if odd else [None])

    @seed(20261128)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(repositories())
    def one(drawn: dict[str, Any]) -> None:
        folder = place / "repository"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            outcome = compare(build(folder, drawn, next(odds)))
        except BaseException:
            print(json.dumps(drawn, default=str))
            raise
        found[outcome.replace(str(folder), "…")[:90]] += 1

    one()
    return found


def judge(found: Counter[str], share: float) -> None:
    total = found.total()
    print(f"{found['equal']} of {total} repositories are equal to sentence-transformers, the others are refused:")
    for outcome, count in found.most_common():
        print(f"{count:6}  {outcome}")
    assert found["equal"] >= share * total


def test_documented_settings(place: Path) -> None:
    judge(run(place, IN_CI, odd=False), 0.8)


def test_one_odd_setting(place: Path) -> None:
    judge(run(place, len(ODD), odd=True), 0.0)


@pytest.mark.slow
@pytest.mark.timeout(8 * 3600)
def test_many_repositories(place: Path) -> None:
    judge(run(place, EXAMPLES // 2, odd=False), 0.8)
    judge(run(place, EXAMPLES - EXAMPLES // 2, odd=True), 0.0)
