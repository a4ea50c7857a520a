"""Tokenizer files drawn at random from all known keys: ids are those of transformers, or the folder is refused."""

import functools
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sfr_batch.errors import TokenizerError
from sfr_batch.model.tokenization import keys
from sfr_batch.model.tokenization.files import read_files
from sfr_batch.model.tokenization.reading import ORDINARY, RARE
from sfr_batch.model.tokenization.tokenizer import Tokenizer
from tests.model.tokenizer_folders import ids_of, load, write_folder
from tests.models import write_json
from tests.repositories import HARD_TEXTS, TokenizerKind, bytelevel, unigram, wordpiece

TEXTS = [*HARD_TEXTS, *RARE, *ORDINARY, "[DOC]a <doc> b [DOC]", "un<doc>ited [DOC] <DOC>"]

Draw = Callable[[st.SearchStrategy[Any]], Any]

# Classes, types of models and tokenizer.json that belong together, as repositories have them.
KINDS: dict[str, tuple[TokenizerKind, list[tuple[str, str]]]] = {
    "wordpiece": (
        "wordpiece",
        [
            ("BertTokenizer", "bert"),
            ("BertTokenizerFast", "nomic_bert"),
            ("DistilBertTokenizer", "distilbert"),
            ("ElectraTokenizer", "electra"),
            ("MPNetTokenizer", "mpnet"),
            ("PreTrainedTokenizerFast", "modernbert"),
            ("TokenizersBackend", "bert"),
        ],
    ),
    "bytelevel": (
        "bytelevel",
        [
            ("RobertaTokenizer", "roberta"),
            ("RobertaTokenizerFast", "data2vec-text"),
            ("LongformerTokenizer", "longformer"),
            ("BartTokenizer", "bart"),
            ("PreTrainedTokenizerFast", "modernbert"),
        ],
    ),
    "decoder": (
        "bytelevel",
        [
            ("GPT2Tokenizer", "gpt2"),
            ("GPTNeoXTokenizerFast", "gpt_neox"),
            ("PreTrainedTokenizerFast", "llama"),
            ("LlamaTokenizer", "llama"),
            ("LlamaTokenizerFast", "mistral"),
            ("PreTrainedTokenizerFast", "qwen2"),
            ("PreTrainedTokenizerFast", "qwen3"),
            ("BloomTokenizerFast", "bloom"),
            ("GemmaTokenizer", "mistral"),
        ],
    ),
    "unigram": (
        "unigram",
        [
            ("XLMRobertaTokenizer", "xlm-roberta"),
            ("CamembertTokenizer", "camembert"),
            ("XLMRobertaTokenizerFast", "xlm-roberta-xl"),
            ("PreTrainedTokenizerFast", "xlm-roberta"),
            ("DebertaV2Tokenizer", "deberta-v2"),
        ],
    ),
}
HARMLESS: dict[str, st.SearchStrategy[Any]] = {
    "padding_side": st.sampled_from(["left", "right"]),
    "clean_up_tokenization_spaces": st.booleans(),
    "chat_template": st.just("{{ x }}"),
    "model_max_length": st.sampled_from([32, 512, 1e30]),
    "name_or_path": st.just("a/b"),
    "errors": st.just("strict"),
    "trim_offsets": st.booleans(),
    "processor_class": st.none(),
    "use_fast": st.booleans(),
    "never_split": st.none(),
    "max_length": st.just(8),
    "truncation_side": st.just("right"),
    "backend": st.just("tokenizers"),
    "model_input_names": st.just(["input_ids", "attention_mask"]),
}
WILD: dict[str, st.SearchStrategy[Any]] = {
    **HARMLESS,
    "do_lower_case": st.booleans(),
    "strip_accents": st.sampled_from([True, False, None]),
    "tokenize_chinese_chars": st.booleans(),
    "add_prefix_space": st.booleans(),
    "add_bos_token": st.booleans(),
    "add_eos_token": st.booleans(),
    "legacy": st.booleans(),
    "keep_accents": st.booleans(),
    "split_by_punct": st.booleans(),
    "split_special_tokens": st.booleans(),
    "extra_ids": st.sampled_from([0, 3]),
    "unk_id": st.sampled_from([1, 3]),
    "truncation_side": st.sampled_from(["left", "right"]),
    "odd_key": st.booleans(),
    "doc_token": st.just("<doc>"),
}


def flags_of(draw: Draw, family: str, name: str) -> dict[str, Any]:
    """Settings that the documentation of the class lists, and of these only what the class reads."""
    chosen: dict[str, Any] = {}
    if family == "wordpiece" and keys.CLASSES[name.removesuffix("Fast")] != keys.GENERIC:
        for key in ("do_lower_case", "strip_accents", "tokenize_chinese_chars"):
            if draw(st.booleans()):
                chosen[key] = draw(WILD[key])
        if name == "MPNetTokenizer":
            chosen.pop("tokenize_chinese_chars", None)  # transformers 4 does not obey it
    if family == "bytelevel" and keys.CLASSES[name.removesuffix("Fast")] != keys.GENERIC and draw(st.booleans()):
        chosen["add_prefix_space"] = draw(st.booleans())
    if family == "decoder" and draw(st.booleans()):
        chosen |= {"add_bos_token": draw(st.booleans()), "add_eos_token": draw(st.booleans())}
    if draw(st.integers(0, 4)) == 0:
        chosen["split_special_tokens"] = draw(st.booleans())
    return chosen


def tokenizer_of(draw: Draw, family: str) -> str:
    if family == "wordpiece":
        return wordpiece(lowercase=draw(st.booleans()))
    if family == "bytelevel":
        return bytelevel(prefix_space=draw(st.booleans()))
    if family == "decoder":
        return bytelevel(template=draw(st.sampled_from(["$A", "$A </s>", "<s> $A </s>"])))
    return unigram(words=draw(st.booleans()))


def tokens_of(draw: Draw) -> tuple[dict[str, Any], dict[str, Any]]:
    """Added tokens, in one of the ways in which repositories have them: keys of tokenizer_config.json, and files."""
    options = {key: draw(st.booleans()) for key in ("lstrip", "rstrip", "single_word", "normalized")}
    way = draw(st.sampled_from(["none", "none", "list", "objects", "decoder", "named", "file", "map"]))
    contents = draw(st.lists(st.sampled_from(["[DOC]", "<doc>"]), min_size=1, max_size=2, unique=True))
    if way == "list":
        return {draw(st.sampled_from(["additional_special_tokens", "extra_special_tokens"])): contents}, {}
    if way == "objects":
        made = [{"__type": "AddedToken", "content": content, **options} for content in contents]
        return {"additional_special_tokens": made}, {}
    if way == "decoder":
        special = draw(st.booleans())
        made = {str(600 + n): {"content": text, "special": special, **options} for n, text in enumerate(contents)}
        return {"added_tokens_decoder": made}, {}
    if way == "named":
        return {"extra_special_tokens": {f"t{n}_token": text for n, text in enumerate(contents)}}, {}
    if way == "file":
        return {}, {"added_tokens.json": {text: 600 + n for n, text in enumerate(contents)}}
    return {}, ({"special_tokens_map.json": {"additional_special_tokens": contents}} if way == "map" else {})


def draw_folder(draw: Draw, folder: Path, *, documented: bool) -> None:
    """Writes the files of a tokenizer; documented: from settings that belong together."""
    family = draw(st.sampled_from(sorted(KINDS)))
    kind, pairs = KINDS[family]
    name, model_type = draw(st.sampled_from(pairs))
    config: dict[str, Any] = {"tokenizer_class": name}
    tokenizer_json = tokenizer_of(draw, family)
    if name == "MPNetTokenizer":
        config |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    some = HARMLESS if documented else WILD
    if documented:
        config |= flags_of(draw, family, name)
        if keys.CLASSES[name.removesuffix("Fast")] == keys.GENERIC and '"add_prefix_space":true' in tokenizer_json:
            config["add_prefix_space"] = True
    else:
        if draw(st.booleans()):
            model_type = draw(st.sampled_from([model for _, others in KINDS.values() for _, model in others]))
        tokenizer_json = draw(st.sampled_from([tokenizer_json, changed(tokenizer_json)]))
    for key in draw(st.lists(st.sampled_from(sorted(some)), max_size=4, unique=True)):
        config[key] = draw(some[key])
    tokens, files = tokens_of(draw)
    if "extra_special_tokens" in tokens and isinstance(tokens["extra_special_tokens"], list):
        config.pop("additional_special_tokens", None)
    write_folder(folder, kind, model_type, {**config, **tokens}, tokenizer_json=tokenizer_json, files=files)


@functools.cache
def changed(tokenizer_json: str) -> str:
    """The same with the words of its normalizer in lowercase."""
    raw = json.loads(tokenizer_json)
    own = [raw["normalizer"]] if raw["normalizer"] else []
    raw["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *own]}
    return json.dumps(raw)


def judge(folder: Path) -> str:
    """Whether a folder is refused or its ids are those of transformers; fails where they are not."""
    import transformers

    try:
        ours: Tokenizer = load(folder)
    except TokenizerError as error:
        return "refused" if str(folder) in str(error) else "refused without the folder's name"
    theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    departs = any(flag is not None for flag in read_files(folder, model_type).special_token_flags())
    for text, ids in zip(TEXTS, ids_of(ours, TEXTS), strict=True):
        expected = list(theirs(text, add_special_tokens=not departs)["input_ids"])
        if departs:
            expected = [*ours.prefix, *expected, *ours.suffix]
        assert (text, ids) == (text, expected)
    return "departs" if departs else "equal"


def run(examples: int, *, documented: bool) -> Counter[str]:
    """Judges as many folders; returns how many of each verdict."""
    counts: Counter[str] = Counter()

    @given(st.data())
    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    def one(data: st.DataObject) -> None:
        with tempfile.TemporaryDirectory() as folder:
            draw_folder(data.draw, Path(folder), documented=documented)
            counts[judge(Path(folder))] += 1

    one()
    return counts


@pytest.mark.parametrize(
    ("documented", "examples"),
    [
        (True, 40),
        (False, 20),
        pytest.param(True, 1000, marks=pytest.mark.slow),
        pytest.param(False, 1000, marks=pytest.mark.slow),
    ],
)
def test_ids_of_drawn_folders_are_those_of_transformers_or_refused(
    documented: bool, examples: int, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = run(examples, documented=documented)
    assert set(counts) <= {"refused", "equal", "departs"}
    accepted = 1 - counts["refused"] / counts.total()
    with capsys.disabled():
        print(f" {'documented' if documented else 'any'} settings: {dict(counts)}, {accepted:.0%} accepted ", end="")
    assert accepted >= (0.8 if documented else 0.1)


def test_a_folder_without_a_map_of_special_tokens(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "wordpiece", "bert", files={"special_tokens_map.json": None})
    write_json(folder / "tokenizer_config.json", {})
    assert judge(folder) == "equal"
