"""What the files beside tokenizer.json say: obeyed as transformers does, or refused by file and key."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfr_batch.errors import TokenizerError
from sfr_batch.model.tokenization import keys
from sfr_batch.model.tokenization.added_tokens import DEFAULT_TOKENS
from sfr_batch.model.tokenization.files import read_files
from sfr_batch.model.tokenization.reading import ORDINARY, RARE
from tests.model.tokenizer_folders import ids_of, load, reference_ids, write_folder
from tests.models import edit_json
from tests.repositories import HARD_TEXTS, TokenizerKind, bytelevel, unigram, wordpiece

TEXTS = [*HARD_TEXTS, *ORDINARY, *RARE]
DOC = {"content": "[DOC]", "special": True, "normalized": False, "lstrip": False, "rstrip": False, "single_word": False}
MASK = {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False, "normalized": False}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
CASED = functools.partial(wordpiece, lowercase=False)
UNCASED = functools.partial(wordpiece, lowercase=True)
SPACED = functools.partial(bytelevel, prefix_space=True)
BARE, ENDED = functools.partial(bytelevel, template="$A"), functools.partial(bytelevel, template="$A </s>")
AROUND = functools.partial(bytelevel, template="<s> $A </s>")

Json = Callable[[], str] | None
Case = tuple[TokenizerKind, str, dict[str, Any], Json]

EQUAL: list[Case] = [
    # BERT-like classes rule over the normalizer of tokenizer.json.
    *(
        ("wordpiece", "bert", {"do_lower_case": lower}, json)
        for lower in (True, False, ...)
        for json in (CASED, UNCASED)
    ),
    ("wordpiece", "bert", {"strip_accents": True, "do_lower_case": False}, None),
    ("wordpiece", "bert", {"strip_accents": False}, None),
    ("wordpiece", "bert", {"tokenize_chinese_chars": False}, None),
    ("wordpiece", "distilbert", {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": False}, None),
    ("wordpiece", "electra", {"tokenizer_class": "ElectraTokenizerFast", "do_lower_case": False}, None),
    ("wordpiece", "bert", {"tokenizer_class": ..., "do_lower_case": False}, None),
    ("wordpiece", "mpnet", {"tokenizer_class": "MPNetTokenizer", "do_lower_case": False}, None),
    ("wordpiece", "bert", {"mask_token": None}, None),
    # Tokens that tokenizer.json lacks, in every spelling.
    ("wordpiece", "bert", {"added_tokens_decoder": {"600": DOC}, "additional_special_tokens": ["[DOC]"]}, None),
    ("wordpiece", "bert", {"additional_special_tokens": ["[DOC]"]}, None),
    ("wordpiece", "bert", {"extra_special_tokens": ["[DOC]"]}, None),
    ("wordpiece", "bert", {"extra_special_tokens": {"doc_token": "[DOC]"}}, None),
    ("wordpiece", "bert", {"doc_token": "[DOC]", **FAST}, None),
    ("bytelevel", "roberta", {"additional_special_tokens": ["[DOC]"]}, None),
    ("bytelevel", "roberta", {"mask_token": MASK}, None),
    ("wordpiece", "bert", {"split_special_tokens": True}, None),
    # Byte-level classes rule over add_prefix_space.
    *(
        ("bytelevel", "roberta", {"add_prefix_space": space}, json)
        for space in (True, False, ...)
        for json in (None, SPACED)
    ),
    ("bytelevel", "roberta", {"add_prefix_space": True, **FAST}, SPACED),
    ("bytelevel", "longformer", {"tokenizer_class": "LongformerTokenizer", "add_prefix_space": True}, None),
    ("bytelevel", "gpt2", {"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, BARE),
    # These classes do not obey flags for BOS and EOS.
    *(
        ("bytelevel", kind, {"tokenizer_class": name, "add_eos_token": True, "add_bos_token": True}, BARE)
        for kind, name in (("llama", "PreTrainedTokenizerFast"), ("gpt2", "GPT2Tokenizer"), ("bloom", "BloomTokenizer"))
    ),
    # The flags say what tokenizer.json says.
    ("bytelevel", "llama", {"tokenizer_class": "LlamaTokenizer"}, AROUND),
    (
        "bytelevel",
        "llama",
        {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": True},
        AROUND,
    ),
    # Classes that make normalizer and pre-tokenizer anew.
    ("bytelevel", "gpt_neox", {"tokenizer_class": "GPTNeoXTokenizer"}, BARE),
    ("bytelevel", "qwen2", FAST, ENDED),
    ("unigram", "xlm-roberta", {}, None),
    ("unigram", "xlm-roberta", {}, functools.partial(unigram, words=False)),
    ("unigram", "camembert", {"tokenizer_class": "CamembertTokenizer"}, None),
    ("unigram", "xlm-roberta", FAST, None),
]


@pytest.mark.parametrize(("kind", "model_type", "config", "tokenizer_json"), EQUAL)
def test_ids_are_those_of_transformers(
    tmp_path: Path, kind: TokenizerKind, model_type: str, config: dict[str, Any], tokenizer_json: Json
) -> None:
    folder = write_folder(
        tmp_path / "model", kind, model_type, config, tokenizer_json=tokenizer_json and tokenizer_json()
    )
    for text, ours, theirs in zip(TEXTS, ids_of(load(folder), TEXTS), reference_ids(folder, TEXTS), strict=True):
        assert (text, ours) == (text, theirs)


OTHER_FILES: list[dict[str, Any]] = [
    {"special_tokens_map.json": {"additional_special_tokens": ["[DOC]"], "mask_token": "[MASK]"}},
    {"added_tokens.json": {"[DOC]": 600}},
    {"added_tokens.json": {"[DOC]": 600}, "special_tokens_map.json": None},
]


@pytest.mark.parametrize("files", OTHER_FILES)
def test_the_other_files_add_tokens_where_no_added_tokens_decoder_is_given(
    tmp_path: Path, files: dict[str, Any]
) -> None:
    folder = write_folder(tmp_path / "model", "wordpiece", "bert", files=files)
    assert ids_of(load(folder), ["[DOC] a"])[0][1] == 600
    assert ids_of(load(folder), TEXTS) == reference_ids(folder, TEXTS)
    decoder = {str(number): {"content": text, "special": True} for number, text in enumerate(("[PAD]", "[UNK]"))}
    edit_json(folder / "tokenizer_config.json", added_tokens_decoder=decoder)
    assert 600 not in ids_of(load(folder), ["[DOC] a"])[0]
    assert ids_of(load(folder), TEXTS) == reference_ids(folder, TEXTS)


def test_llama_classes_obey_flags_that_transformers_5_drops(tmp_path: Path) -> None:
    """The one departure. Should the last line fail, transformers obeys these flags again: the list can go."""
    assert list(keys.DEPARTURES) == ["add_bos_token, add_eos_token"]
    for name in keys.FLAGGED:
        folder = tmp_path / name
        tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        config = {"tokenizer_class": name, "add_bos_token": True, "add_eos_token": True, **tokens}
        # For Mistral's type of model, transformers 5 takes tokenizer.json as it is.
        write_folder(folder, "bytelevel", "mistral", config, tokenizer_json=bytelevel(template="$A"))
        [ours], [theirs] = ids_of(load(folder), ["a b"]), reference_ids(folder, ["a b"])
        assert ours == [0, *theirs, 2]


def test_what_is_not_around_the_text_without_a_flag(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "bytelevel", "llama", {"tokenizer_class": "LlamaTokenizer"})
    for flags, around in (
        ({}, ([0], [2])),
        ({"add_eos_token": False}, ([0], [])),
        ({"add_bos_token": False}, ([], [])),
        ({"add_bos_token": False, "add_eos_token": True}, ([], [2])),
    ):
        edit_json(folder / "tokenizer_config.json", **{"add_bos_token": ..., "add_eos_token": ..., **flags})
        tokenizer = load(folder)
        assert (tokenizer.prefix, tokenizer.suffix) == around


REFUSED: list[tuple[TokenizerKind, str, dict[str, Any], Json, str]] = [
    (
        "wordpiece",
        "bert",
        {"lowercase": True},
        None,
        "tokenizer_config.json has the key lowercase .true., which is not known",
    ),
    (
        "wordpiece",
        "bert",
        {"tokenizer_class": "EsmTokenizer"},
        None,
        "class EsmTokenizer .tokenizer_class. is not supported",
    ),
    (
        "wordpiece",
        "bert",
        {"tokenizer_class": "MyTokenizer"},
        None,
        "class MyTokenizer .tokenizer_class. is not supported",
    ),
    ("wordpiece", "bert", {"tokenizer_class": 3}, None, "tokenizer_class is 3, which should be the name of a class"),
    (
        "wordpiece",
        "esm",
        {"tokenizer_class": ...},
        None,
        "class EsmTokenizer .that of model_type esm. is not supported",
    ),
    (
        "wordpiece",
        "bert",
        {"tokenizer_class": "RobertaTokenizer"},
        None,
        "a model of type WordPiece, but RobertaTokenizer",
    ),
    ("wordpiece", "bert", {"cls_token": None}, None, "cls_token is null, but BertTokenizer needs it"),
    ("wordpiece", "bert", {"do_lower_case": "yes"}, None, 'do_lower_case is "yes", which should be true or false'),
    ("wordpiece", "bert", {"truncation_side": "left"}, None, "truncates texts on the left .truncation_side."),
    ("wordpiece", "bert", {"auto_map": {"AutoTokenizer": ["a.B", None]}}, None, "code of the repository .* .auto_map."),
    ("wordpiece", "bert", {"from_slow": True}, None, "from_slow is true, which is not supported"),
    ("wordpiece", "bert", {"fix_mistral_regex": True}, None, "fix_mistral_regex is true, which is not supported"),
    ("wordpiece", "bert", {"init_inputs": [1]}, None, "init_inputs is .1., which is not supported"),
    ("wordpiece", "bert", {"backend": "sentencepiece"}, None, 'backend is "sentencepiece", which is not supported'),
    ("wordpiece", "bert", {"fast_tokenizer_files": ["tokenizer.5.0.json"]}, None, "fast_tokenizer_files is "),
    ("wordpiece", "bert", {"model_input_names": ["input_ids"]}, None, "model_input_names is "),
    (
        "wordpiece",
        "bert",
        {"added_tokens_decoder": {"x": DOC}},
        None,
        "added_tokens_decoder should be an object of tokens by id",
    ),
    ("wordpiece", "bert", {"sep_token": 3}, None, "sep_token is 3 in tokenizer_config.json or special_tokens_map.json"),
    ("wordpiece", "bert", {"sep_token": {"content": "[SEP]", "odd": True}}, None, "sep_token is .* neither a text nor"),
    # transformers 4 obeys the flag, and transformers 5 takes tokenizer.json as it is.
    (
        "wordpiece",
        "modernbert",
        {"do_lower_case": False},
        None,
        "do_lower_case is false, which contradicts tokenizer.json",
    ),
    ("bytelevel", "roberta", FAST, SPACED, "does not say add_prefix_space, but tokenizer.json has it"),
    # transformers 5 replaces what stands around a text, or the normalizer.
    (
        "wordpiece",
        "bert",
        {},
        functools.partial(wordpiece, template="$A"),
        "class BertTokenizer .* of transformers 5 replaces parts",
    ),
    ("unigram", "t5", {"tokenizer_class": "T5Tokenizer"}, None, "class T5Tokenizer .* replaces parts"),
    ("bytelevel", "qwen3", {"tokenizer_class": "Qwen2Tokenizer"}, None, "class Qwen2Tokenizer .* replaces parts"),
    (
        "bytelevel",
        "mistral",
        {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": True},
        None,
        "add_prefix_space is true, but",
    ),
]


@pytest.mark.parametrize(("kind", "model_type", "config", "tokenizer_json", "message"), REFUSED)
def test_what_is_not_known_or_contradicts_is_refused_by_file_and_key(
    tmp_path: Path,
    kind: TokenizerKind,
    model_type: str,
    config: dict[str, Any],
    tokenizer_json: Json,
    message: str,
) -> None:
    folder = write_folder(
        tmp_path / "model",
        kind,
        model_type,
        config,
        tokenizer_json=tokenizer_json and tokenizer_json(),
        files={"special_tokens_map.json": None},  # it would rule over tokenizer_config.json
    )
    with pytest.raises(TokenizerError, match=message) as caught:
        load(folder)
    assert str(folder) in str(caught.value)


def test_other_files_are_refused_by_key(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "wordpiece", "bert", files={"special_tokens_map.json": {"odd": 1}})
    with pytest.raises(TokenizerError, match=r"special_tokens_map.json has the key odd, which is not known"):
        load(folder)
    write_folder(folder, "wordpiece", "bert", files={"added_tokens.json": {"[DOC]": "x"}})
    with pytest.raises(TokenizerError, match=r"added_tokens.json: the id of '\[DOC\]' is \"x\""):
        load(folder)


def test_truncation_on_the_left_in_tokenizer_json(tmp_path: Path) -> None:
    """The class takes the direction of the file where tokenizer_config.json is silent."""
    cut = {"direction": "Left", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    raw = json.dumps({**json.loads(wordpiece()), "truncation": cut})
    folder = write_folder(tmp_path / "model", "wordpiece", "bert", tokenizer_json=raw)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json truncates texts on the left"):
        load(folder)
    edit_json(folder / "tokenizer_config.json", truncation_side="right")
    assert ids_of(load(folder), TEXTS) == reference_ids_without_truncation(tmp_path / "other")


def reference_ids_without_truncation(folder: Path) -> list[list[int]]:
    return reference_ids(write_folder(folder, "wordpiece", "bert"), TEXTS)


def test_token_types_other_than_0_are_refused(tmp_path: Path) -> None:
    raw = wordpiece(template="[CLS]:1 $A [SEP]")
    folder = write_folder(tmp_path / "model", "wordpiece", "bert", FAST, tokenizer_json=raw)
    with pytest.raises(TokenizerError, match=r"a type other than 0 \(type_id\)"):
        load(folder)


def test_tokens_without_an_embedding_are_plain_text(tmp_path: Path) -> None:
    """With transformers the model fails on them. Those that every text needs are refused."""
    config = {"additional_special_tokens": ["[DOC]", "[ROW]"]}
    folder = write_folder(tmp_path / "model", "wordpiece", "bert", config, model_config={"vocab_size": 601})
    assert {600} == {id_ for ids in ids_of(load(folder), ["[DOC] [ROW]"]) for id_ in ids if id_ >= 600}
    edit_json(folder / "config.json", vocab_size=599)
    with pytest.raises(TokenizerError, match=r"vocabulary of 600 tokens, but .* 599 \(vocab_size in .*config.json\)"):
        load(folder)


HARMLESS_VALUES: dict[str, Any] = {
    "padding_side": "left",
    "pad_to_multiple_of": 8,
    "max_length": 4,
    "stride": 2,
    "truncation_strategy": "only_first",
    "clean_up_tokenization_spaces": True,
    "errors": "strict",
    "trim_offsets": False,
    "chat_template": "{{ messages }}",
    "name_or_path": "somewhere/else",
    "tokenizer_file": "/nowhere/tokenizer.json",
    "vocab_file": "/nowhere/vocab.txt",
    "processor_class": None,
    "do_basic_tokenize": False,
    "never_split": ["cake"],
    "sp_model_kwargs": {"enable_sampling": True},
    "return_token_type_ids": True,
    "vocab_size": 3,
    "cls_token_id": 7,
    "remove_space": False,
    "use_fast": False,
    "backend": "tokenizers",
    "is_local": True,
    "model_max_length": 16,
}


def test_harmless_keys_change_no_id(tmp_path: Path) -> None:
    kinds: tuple[TokenizerKind, ...] = ("wordpiece", "bytelevel", "unigram")
    for kind, model_type in zip(kinds, ("bert", "roberta", "xlm-roberta"), strict=True):
        plain = load(write_folder(tmp_path / f"plain {kind}", kind, model_type))
        folder = write_folder(tmp_path / kind, kind, model_type, HARMLESS_VALUES)
        assert ids_of(load(folder), TEXTS) == ids_of(plain, TEXTS) == reference_ids(folder, TEXTS)
        assert load(folder).acting == plain.acting


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("tokenizer_config.json", {"do_lower_case": False}),
        ("tokenizer_config.json", {"strip_accents": False}),
        ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ("tokenizer_config.json", {"additional_special_tokens": ["[DOC]"]}),
        ("tokenizer_config.json", {"split_special_tokens": True}),
        ("special_tokens_map.json", {"mask_token": {"content": "[MASK]", "lstrip": True}}),
        ("added_tokens.json", {"[DOC]": 600}),
        ("tokenizer.json", {"post_processor": None}),
        ("tokenizer.json", {"normalizer": {"type": "Lowercase"}}),
    ],
)
def test_what_changes_ids_acts(tmp_path: Path, file: str, changes: dict[str, Any]) -> None:
    """What acts is in the fingerprint, whether or not its golden texts show it."""
    folder = write_folder(tmp_path / "model", "wordpiece", "bert")
    before = load(folder).acting
    assert json.loads(json.dumps(before)) == before
    assert str(folder) not in json.dumps(before)
    if file == "tokenizer.json":
        edit_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
        before = load(folder).acting
    edit_json(folder / file, **changes)
    assert load(folder).acting != before


def test_tables_of_classes_fit_together() -> None:
    from transformers.models.auto import tokenization_auto

    theirs = {
        kind: name.removesuffix("Fast") for kind, name in tokenization_auto.TOKENIZER_MAPPING_NAMES.items() if name
    }
    assert set(keys.CLASSES.values()) == set(DEFAULT_TOKENS)
    assert {kind: theirs.get(kind) for kind in keys.DEFAULT_5} == keys.DEFAULT_5
    assert {kind: theirs.get(kind) for kind in keys.UNKNOWN_5} == keys.UNKNOWN_5
    assert {theirs[kind] for kind in keys.GENERIC_5} == {"TokenizersBackend", "MistralCommonBackend"}
    assert not {keys.DEFAULT_5.get(kind) for kind in theirs} - {None, *keys.CLASSES}
    specialized = {kind for kind, name in theirs.items() if name in keys.CLASSES and name != keys.GENERIC}
    assert specialized == set(keys.DEFAULT_5)
    wrong = tokenization_auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
    assert {kind for kind in wrong if theirs[kind] != keys.GENERIC} == set(keys.FORCED_5)
    tables = [set(keys.OBEYED), set(keys.CHECKED), set(keys.HARMLESS)]
    assert sum(len(table) for table in tables) == len(set.union(*tables))


def test_class_of_config_json(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", "wordpiece", "bert", {"tokenizer_class": ...}, model_config=FAST)
    assert read_files(folder, "bert").class_5 == keys.GENERIC
    assert ids_of(load(folder), TEXTS) == reference_ids(folder, TEXTS)
