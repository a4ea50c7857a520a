"""tokenizer.model without tokenizer.json: the same ids as the real SentencePiece, and a refusal where that fails."""

import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import TokenizerError
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.tokenization.tokenizer import SpecialTokensInText, Tokenizer
from sfr_batch.planning.card import model_inputs
from tests.models import BOS, EOS, docstrings, edit_json, mistral_sentencepiece, mistral_tokenizer, write_sfr_files

# Recorded from sentencepiece 0.2.3 with Mistral-7B-v0.1's tokenizer.model; special tokens around a text left out.
GOLDEN = {
    "": [],
    " ": [259],
    "a": [264],
    " a": [28705, 264],
    "a ": [264, 28705],
    "   a  b   ": [2287, 264, 28705, 287, 2287],
    " " * 14: [1417, 28705],
    " " * 15: [359],
    " " * 16: [359, 28705],
    " " * 33: [359, 359, 259],
    "\n": [28705, 13],
    "\n\n  x\n": [28705, 13, 13, 28705, 1318, 13],
    "a\r\nb": [264, 28801, 13, 28726],
    "\ta\t\tb": [28705, 12, 28708, 12, 12, 28726],
    " \t \n ": [259, 12, 28705, 13, 28705],
    "日本語の文章です。": [28705, 29142, 29119, 30321, 28993, 29019, 30138, 29230, 29126, 28944],
    "中文,标点 한국어": [28705, 28991, 29019, 28725, 29144, 29085, 28705, 29282, 30779, 29433],
    "\U00020bb7野家": [28705, 243, 163, 177, 186, 30337, 29490],
    "🙂": [28705, 29340],
    "👩\u200d👩\u200d👧": [28705, 243, 162, 148, 172, 29274, 243, 162, 148, 172, 29274, 243, 162, 148, 170],
    "👍🏽 🇩🇪": [28705, 30195, 31007, 28705, 243, 162, 138, 172, 243, 162, 138, 173],
    "e\u0301 \u00e9 a\u0308\u0323": [317, 28949, 1233, 264, 30814, 30906],
    "ﬁ ﬀ №": [28705, 30160, 28705, 242, 175, 131, 15778],
    "\u0000": [28705, 3],
    "a\u0000b\u0000": [264, 3, 28726, 3],
    "\u0001\u001f\u007f\u0085": [28705, 29534, 31217, 30982, 31363],
    "\u200b\ufeff\u00a0\u3000x": [15758, 31759, 29000, 29351, 28744],
    "▁": [259],
    "▁▁a ▁": [259, 264, 259],
    "<0x41>": [523, 28734, 28744, 28781, 28740, 28767],
    "[INST] <|im_end|>": [733, 16289, 28793, 523, 28766, 321, 28730, 416, 28766, 28767],
    "1234567890": [28705, 28740, 28750, 28770, 28781, 28782, 28784, 28787, 28783, 28774, 28734],
    "Ünïcödé Straße": [13156, 28711, 28920, 28717, 14697, 28797, 12360, 9526],
    "مرحبا \u202e": [28080, 28947, 29100, 28983, 28915, 28705, 229, 131, 177],
    "\ufffd\uffff\U0010ffff": [28705, 29137, 242, 194, 194, 247, 146, 194, 194],
    "    def f(x):\n        return x": [260, 801, 285, 28732, 28744, 1329, 13, 5390, 604, 1318],
    "</s": [1867, 28713],
    "How to bake a chocolate cake": [1602, 298, 287, 621, 264, 14403, 14833],
}
# Literal special tokens: as plain text, which is what SentencePiece itself gives, and parsed, which is what it gives
# for the texts between them.
GOLDEN_LITERALS = {
    "</s>": ([1867, 28713, 28767], [2]),
    "<s></s>": ([523, 28713, 3176, 28713, 28767], [1, 2]),
    "a </s> b <s> c <unk>": (
        [264, 1867, 28713, 28767, 287, 523, 28713, 28767, 277, 523, 2060, 28767],
        [264, 28705, 2, 28705, 287, 28705, 1, 28705, 277, 28705, 0],
    ),
}
SHAPES = ["tokenizer.model", "tokenizer.json <s> $A", "tokenizer.json $A"]


def write_shape(folder: Path, shape: str) -> Path:
    """SFR's folder, its tokenizer in one of the shapes in which the model family is found."""
    write_sfr_files(folder)
    if shape == "tokenizer.model":
        (folder / "tokenizer.json").unlink()
        shutil.copy(mistral_sentencepiece(), folder / "tokenizer.model")
    else:
        template = shape.removeprefix("tokenizer.json ")
        (folder / "tokenizer.json").write_text(mistral_tokenizer(template), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def load(folder: Path, special: SpecialTokensInText = "parse") -> Tokenizer:
    return Tokenizer.load(
        read_recipe(folder, ModelSettings(path=str(folder), device="cpu")), special_tokens_in_text=special
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {shape: write_shape(tmp_path_factory.mktemp("model"), shape) for shape in SHAPES}


@pytest.fixture(scope="module")
def tokenizers(folders: dict[str, Path]) -> Callable[[str, SpecialTokensInText], Tokenizer]:
    return functools.cache(lambda shape, special: load(folders[shape], special))


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A folder with tokenizer.model alone that a test may spoil."""
    return write_shape(tmp_path / "model", "tokenizer.model")


@pytest.fixture(scope="module")
def real() -> Any:
    """The real thing: SentencePiece itself, in C++."""
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(mistral_sentencepiece()))


def rows_of(tokenizer: Tokenizer, texts: list[str], max_length: int | None = None) -> list[list[int]]:
    tokenized = tokenizer.encode(texts, max_length=max_length)
    return [ids.tolist() for ids in np.split(tokenized.flat_ids, np.cumsum(tokenized.lengths)[:-1])]


def parsed(real: Any, text: str) -> list[int]:
    """As the reference code parses special tokens: each text between them is a text of its own."""
    special = {"<unk>": 0, "<s>": BOS, "</s>": EOS}
    parts = re.split("(<unk>|<s>|</s>)", text)
    return [i for part in parts for i in ([special[part]] if part in special else real.encode(part))]


# --- the same ids


@pytest.mark.parametrize("special", ["parse", "plain"])
@pytest.mark.parametrize("shape", SHAPES)
def test_golden_ids(tokenizers: Any, shape: str, special: SpecialTokensInText) -> None:
    literals = {text: both[special == "parse"] for text, both in GOLDEN_LITERALS.items()}
    expected = {text: [BOS, *ids, EOS] for text, ids in {**GOLDEN, **literals}.items()}
    found = rows_of(tokenizers(shape, special), list(expected))
    assert dict(zip(expected, found, strict=True)) == expected


@pytest.mark.parametrize("special", ["parse", "plain"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_truncated_text_still_ends_with_eos(tokenizers: Any, shape: str, special: SpecialTokensInText) -> None:
    tokenizer = tokenizers(shape, special)
    assert (tokenizer.prefix, tokenizer.suffix) == ([BOS], [EOS])
    assert rows_of(tokenizer, ["chocolate cake " * 50], 8) == [[1, 14403, 14833, 14403, 14833, 14403, 14833, 2]]
    for text, ids in GOLDEN.items():
        for limit in range(3, len(ids) + 3):
            assert rows_of(tokenizer, [text], limit) == [[BOS, *ids[: limit - 2], EOS]]


def test_golden_ids_are_the_real_ones(real: Any) -> None:
    assert {text: real.encode(text) for text in GOLDEN} == GOLDEN
    assert {text: (real.encode(text), parsed(real, text)) for text in GOLDEN_LITERALS} == GOLDEN_LITERALS


CHARACTERS = st.characters(exclude_categories=["Cs"])
UNITS = ["a", " ", "  ", "\n", "\t", "=", "-=", "0", ".", "▁", "ha", "\u0301", "é", "日本", "👩\u200d👧", "\u0000"]
WORDS = [*UNITS, "chocolate", " the", "ing", "    ", "</s>", "<s>", "<unk>", "<0x0A>", "\r\n", "\u200b", "\U0010ffff"]
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=60),
    # Runs, where pairs that make the same piece overlap, and so the order among equal scores would show.
    st.lists(st.tuples(st.sampled_from(UNITS), st.integers(1, 40)).map(lambda run: run[0] * run[1]), max_size=6).map(
        "".join
    ),
    st.lists(st.sampled_from(WORDS) | st.text(CHARACTERS, max_size=3), max_size=20).map("".join),
)


@given(TEXTS)
@settings(max_examples=500)
def test_equals_sentencepiece_on_any_text(tokenizers: Any, real: Any, text: str) -> None:
    for shape in SHAPES[:2]:
        assert rows_of(tokenizers(shape, "plain"), [text]) == [[BOS, *real.encode(text), EOS]]
        assert rows_of(tokenizers(shape, "parse"), [text]) == [[BOS, *parsed(real, text), EOS]]


def test_equals_sentencepiece_on_documents(tokenizers: Any, real: Any) -> None:
    texts = docstrings(2000)[:500]
    assert rows_of(tokenizers("tokenizer.model", "plain"), texts, 4096) == [
        [BOS, *ids[:4094], EOS] for ids in real.encode(texts)
    ]


# --- what the files beside it say


def test_both_shapes_are_one_model(folders: dict[str, Path]) -> None:
    """A table made with one goes on with the other."""
    inputs = [model_inputs(ModelSettings(path=str(folders[shape]), device="cpu"), "float32") for shape in SHAPES]
    assert inputs[0] == inputs[1] == inputs[2]


@pytest.mark.parametrize(
    ("flags", "prefix", "suffix"),
    [
        ({"add_bos_token": True, "add_eos_token": True}, [BOS], [EOS]),
        ({"add_bos_token": False, "add_eos_token": True}, [], [EOS]),
        ({"add_bos_token": True, "add_eos_token": False}, [BOS], []),
        ({"add_bos_token": ..., "add_eos_token": True}, [BOS], [EOS]),
        ({"add_bos_token": ..., "add_eos_token": ...}, [BOS], []),
    ],
)
def test_flags_and_the_defaults_of_the_llama_class(
    own_folder: Path, flags: dict[str, Any], prefix: list[int], suffix: list[int]
) -> None:
    edit_json(own_folder / "tokenizer_config.json", **flags)
    tokenizer = load(own_folder)
    assert (tokenizer.prefix, tokenizer.suffix) == (prefix, suffix)


def test_without_any_file_beside_it(own_folder: Path) -> None:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (own_folder / name).unlink()
    assert rows_of(load(own_folder), ["a"]) == [[BOS, 264]]


def test_tokenizer_json_rules_over_it(own_folder: Path) -> None:
    (own_folder / "tokenizer.json").write_text(mistral_tokenizer(), encoding="utf-8")
    (own_folder / "tokenizer.model").write_bytes(b"nonsense")
    assert rows_of(load(own_folder), ["a"]) == [[BOS, 264, EOS]]


OTHERWISE = [
    ({"tokenizer_class": "GemmaTokenizer"}, "must be read as a GemmaTokenizer tokenizer"),
    ({"legacy": False}, r"without a space before each text \(legacy or add_prefix_space: false\)"),
    ({"add_prefix_space": False}, "without a space before each text"),
    ({"pad_token": "[PAD]"}, r"does not contain the added special token '\[PAD\]'"),
    ({"additional_special_tokens": ["<|im_end|>"]}, r"the added special token '<\|im_end\|>'"),
    ({"extra_special_tokens": {"image_token": "<image>"}}, "the added special token '<image>'"),
    ({"added_tokens_decoder": {"32000": {"content": "<pad>", "special": True}}}, "the added special token '<pad>'"),
    ({"eos_token": {"content": "</s>", "lstrip": True}}, "special tokens that affect the text around them"),
]


@pytest.mark.parametrize(("changes", "text"), OTHERWISE)
def test_what_would_make_other_ids_of_it_is_refused(own_folder: Path, changes: dict[str, Any], text: str) -> None:
    edit_json(own_folder / "tokenizer_config.json", **changes)
    (own_folder / "special_tokens_map.json").unlink()  # it would rule over tokenizer_config.json
    with pytest.raises(
        TokenizerError, match=f"{own_folder}/tokenizer.model .*{text}.*, according to the files beside it"
    ):
        load(own_folder)


def test_added_tokens_json_is_refused(own_folder: Path) -> None:
    (own_folder / "added_tokens.json").write_text('{"[PAD]": 32000}', encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"special token '\[PAD\]', .*Put a tokenizer\.json beside it: "):
        load(own_folder)


def test_declarations_that_change_nothing_are_accepted(own_folder: Path) -> None:
    tokens = [{"content": content, "special": True, "normalized": False} for content in ("<unk>", "<s>", "</s>")]
    edit_json(
        own_folder / "tokenizer_config.json",
        added_tokens_decoder={str(number): token for number, token in enumerate(tokens)},
        additional_special_tokens=[],
        pad_token=None,
        eos_token=tokens[2],
    )
    assert rows_of(load(own_folder), ["a"]) == [[BOS, 264, EOS]]


# --- other kinds, and damage


def edited_model(edit: Callable[[Any], None]) -> bytes:
    from transformers.utils.sentencepiece_model_pb2_new import ModelProto

    model = ModelProto.FromString(mistral_sentencepiece().read_bytes())
    edit(model)
    return bytes(model.SerializeToString())


def set_of(part: str, **values: Any) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        for name, value in values.items():
            setattr(getattr(model, part), name, value)

    return edit


def set_of_piece(number: int, **values: Any) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        for name, value in values.items():
            setattr(model.pieces[number], name, value)

    return edit


def without_bytes(model: Any) -> None:
    del model.pieces[3:259]


KINDS = [
    (set_of("trainer_spec", model_type=1), "is a SentencePiece model of type unigram"),
    (set_of("trainer_spec", model_type=3), "is a SentencePiece model of type word"),
    (set_of("trainer_spec", model_type=4), "is a SentencePiece model of type character"),
    (set_of("normalizer_spec", name="nmt_nfkc", precompiled_charsmap=b"x"), "normalizes text by the rules 'nmt_nfkc'"),
    (set_of("normalizer_spec", remove_extra_whitespaces=True), "removes repeated spaces"),
    (set_of("normalizer_spec", add_dummy_prefix=False), "treats spaces in another way"),
    (set_of("normalizer_spec", escape_whitespaces=False), "treats spaces in another way"),
    (set_of("trainer_spec", treat_whitespace_as_suffix=True), "treats spaces in another way"),
    (set_of("trainer_spec", byte_fallback=False), "has no byte fallback"),
    (without_bytes, "has no byte fallback"),
    (set_of_piece(300, type=4), "has user-defined pieces, e.g. 'om'"),
    (set_of_piece(300, type=5), "has unused pieces, e.g. 'om'"),
    (set_of_piece(300, type=2), "holds a piece twice, or not exactly one for what is unknown"),
    (set_of_piece(300, piece="▁t"), "holds a piece twice, or not exactly one for what is unknown"),
]


@pytest.mark.parametrize(("edit", "text"), KINDS, ids=[text for _, text in KINDS])
def test_other_kinds_are_refused(own_folder: Path, edit: Callable[[Any], None], text: str) -> None:
    (own_folder / "tokenizer.model").write_bytes(edited_model(edit))
    with pytest.raises(TokenizerError) as caught:
        load(own_folder)
    assert str(caught.value) == (
        f"{own_folder}/tokenizer.model {text}, which is not supported without tokenizer.json. Supported are models "
        "like those of the Llama and Mistral families (byte-pair encoding, byte fallback, no normalization except of "
        "spaces). Put a tokenizer.json beside it: that of the model's own repository, or one that you make with "
        "transformers (AutoTokenizer.from_pretrained(folder).save_pretrained(folder)) and compare with the ids of "
        "its reference code."
    )


@pytest.mark.parametrize(
    "data", [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\x0a\x05\x0a\x03\xff\xff\xff"]
)
def test_a_damaged_file_is_named(own_folder: Path, data: bytes) -> None:
    (own_folder / "tokenizer.model").write_bytes(data)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model cannot be read \(.*\)\. Fetch the model again\."):
        load(own_folder)


def test_a_file_that_was_cut_short_is_never_taken_for_whole(own_folder: Path) -> None:
    data = mistral_sentencepiece().read_bytes()
    for kept in (1, 100, len(data) // 2, len(data) - 300, len(data) - 12, len(data) - 1):
        (own_folder / "tokenizer.model").write_bytes(data[:kept])
        with pytest.raises(TokenizerError):
            load(own_folder)


def test_planning_with_it_is_slim(own_folder: Path, tmp_path: Path) -> None:
    """Recipe, tokenizer and weight hashes in a process of their own."""
    code = """
import sys
from sfr_batch.config.settings import ModelSettings
from sfr_batch.planning.card import model_inputs
assert "google.protobuf" not in sys.modules, "only where it is needed"
assert model_inputs(ModelSettings(path=sys.argv[1], device="cpu"), "float32")["golden_ids"]
print(sorted({"torch", "transformers", "ray", "sentencepiece"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(own_folder)],
        capture_output=True,
        text=True,
        check=False,
        env={"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
