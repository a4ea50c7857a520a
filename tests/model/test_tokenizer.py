"""The tokenizer guard: the special tokens are there, whatever the files around them say, and nothing else changes."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from sfr_batch.config.settings import ModelSettings
from sfr_batch.errors import ConfigError, TokenizerError
from sfr_batch.model.recipe import Recipe, read_recipe
from sfr_batch.model.tokenization.tokenizer import GOLDEN_TEXTS, Tokenized, Tokenizer
from tests.models import BOS, EOS, docstrings, edit_json, minilm_folder, mistral_tokenizer, write_sfr_files

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
LITERALS = st.sampled_from(["</s>", "<s>", "<unk>", "[SEP]", " ", "\n", "  ", "chocolate cake "])


def recipe_of(folder: Path) -> Recipe:
    return read_recipe(folder, ModelSettings(path=str(folder), device="cpu"))


def rows_of(tokenized: Tokenized) -> list[list[int]]:
    return [ids.tolist() for ids in np.split(tokenized.flat_ids, np.cumsum(tokenized.lengths)[:-1])]


@pytest.fixture(scope="module")
def sfr_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sfr_files(tmp_path_factory.mktemp("sfr"))


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A folder that a test may spoil."""
    return write_sfr_files(tmp_path / "model")


@pytest.fixture(scope="module")
def sfr(sfr_folder: Path) -> Tokenizer:
    return Tokenizer.load(recipe_of(sfr_folder))


@pytest.fixture(scope="module")
def minilm() -> Tokenizer:
    return Tokenizer.load(recipe_of(minilm_folder()))


def test_golden_ids_of_the_mistral_tokenizer(sfr: Tokenizer) -> None:
    assert rows_of(sfr.encode(["How to bake a chocolate cake"])) == [[1, 1602, 298, 287, 621, 264, 14403, 14833, 2]]
    cut = sfr.encode(["chocolate cake " * 50], max_length=8)
    assert rows_of(cut) == [[1, 14403, 14833, 14403, 14833, 14403, 14833, 2]]
    assert cut.lengths.tolist() == [8]
    assert cut.full_lengths.tolist() == [103]
    assert cut.truncated.tolist() == [True]


def test_transformers_loses_eos_on_the_same_folder(sfr: Tokenizer, sfr_folder: Path) -> None:
    """The trap that the guard is for. Should this fail, transformers obeys add_eos_token again: keep the guard."""
    import transformers

    verbatim = transformers.AutoTokenizer.from_pretrained(sfr_folder)
    text = "How to bake a chocolate cake"
    theirs, ours = verbatim(text)["input_ids"], rows_of(sfr.encode([text]))[0]
    assert theirs[-1] != EOS
    assert ours == [*theirs, EOS]


@pytest.mark.parametrize("template", ["<s> $A", "$A", "<s> $A </s>", "$A </s>"])
@pytest.mark.parametrize(("bos", "eos"), [(True, True), (True, False), (False, True), (False, False)])
def test_flags_rule_over_the_post_processor(own_folder: Path, template: str, bos: bool, eos: bool) -> None:
    (own_folder / "tokenizer.json").write_text(mistral_tokenizer(template), encoding="utf-8")
    edit_json(own_folder / "tokenizer_config.json", add_bos_token=bos, add_eos_token=eos)
    tokenizer = Tokenizer.load(recipe_of(own_folder))
    assert (tokenizer.prefix, tokenizer.suffix) == ([BOS] * bos, [EOS] * eos)


@pytest.mark.parametrize("template", ["<s> $A", "<s> $A </s>"])
def test_without_flags_the_post_processor_rules(own_folder: Path, template: str) -> None:
    (own_folder / "tokenizer.json").write_text(mistral_tokenizer(template), encoding="utf-8")
    edit_json(own_folder / "tokenizer_config.json", add_eos_token=...)
    tokenizer = Tokenizer.load(recipe_of(own_folder))
    assert (tokenizer.prefix, tokenizer.suffix) == ([BOS], [EOS] if "</s>" in template else [])


@given(st.lists(TEXT | st.lists(LITERALS, max_size=12).map("".join), max_size=6), st.integers(4, 40))
@settings(max_examples=150)
@pytest.mark.parametrize("which", ["mistral", "minilm"])
def test_equals_a_template_with_truncation(
    sfr: Tokenizer,
    minilm: Tokenizer,
    reference: dict[str, tokenizers.Tokenizer],
    which: str,
    texts: list[str],
    cut: int,
) -> None:
    """Ids, lengths and truncation are those of the tokenizers package with an explicit post-processor."""
    tokenizer = sfr if which == "mistral" else minilm
    reference[which].enable_truncation(cut)
    expected = [encoding.ids for encoding in reference[which].encode_batch(texts)]
    reference[which].no_truncation()
    full = [len(encoding.ids) for encoding in reference[which].encode_batch(texts)]
    tokenized = tokenizer.encode(texts, max_length=cut)
    assert (rows_of(tokenized) if texts else []) == expected
    assert tokenized.full_lengths.tolist() == full
    assert tokenized.truncated.tolist() == [n > cut for n in full]
    assert (tokenized.lengths.dtype, tokenized.flat_ids.dtype) == (np.int32, np.int32)


@pytest.fixture(scope="module")
def reference() -> dict[str, tokenizers.Tokenizer]:
    theirs = tokenizers.Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    theirs.no_padding()
    return {"mistral": tokenizers.Tokenizer.from_str(mistral_tokenizer("<s> $A </s>")), "minilm": theirs}


def test_baked_in_truncation_and_padding_are_reset(minilm: Tokenizer) -> None:
    """MiniLM's tokenizer.json cuts at 128 and pads to 128; its sentence_bert_config says 256."""
    raw = json.loads((minilm_folder() / "tokenizer.json").read_text(encoding="utf-8"))
    assert raw["truncation"]["max_length"] == 128
    assert raw["padding"]["strategy"] == {"Fixed": 128}
    assert minilm.encode(["a", "word " * 400]).lengths.tolist() == [3, 256]


def test_the_prompt_is_tokenized_with_the_text_and_never_cut(sfr: Tokenizer) -> None:
    prompt = "Instruct: Retrieve relevant passages\nQuery: "
    text = "How to bake a chocolate cake " * 20
    whole = rows_of(sfr.encode([prompt + text]))[0]
    assert rows_of(sfr.encode([text], prompt)) == [whole]
    assert rows_of(sfr.encode([text], prompt, max_length=24)) == [[*whole[:23], EOS]]
    with pytest.raises(ConfigError, match=r"The prompt takes 1\d tokens .* leaves no room for text"):
        sfr.encode([text], prompt, max_length=12)
    with pytest.raises(ConfigError, match="special tokens take 2 of 2, which leaves no room"):
        sfr.encode([text], max_length=2)
    with pytest.raises(ValueError, match="max_length 5000 is more than the model's 4096"):
        sfr.encode([text], max_length=5000)


def test_literal_special_tokens_in_a_text(sfr_folder: Path, sfr: Tokenizer) -> None:
    plain = Tokenizer.load(recipe_of(sfr_folder), special_tokens_in_text="plain")
    text = "a </s> b <s> c"
    parsed_ids, plain_ids = rows_of(sfr.encode([text]))[0], rows_of(plain.encode([text]))[0]
    assert (parsed_ids.count(EOS), parsed_ids.count(BOS)) == (2, 2)
    assert (plain_ids.count(EOS), plain_ids.count(BOS)) == (1, 1)
    assert plain.golden_ids() != sfr.golden_ids()
    ordinary = [t for t in docstrings(2000)[:300] if not any(s in t for s in ("<s>", "</s>", "<unk>"))]
    assert rows_of(plain.encode(ordinary)) == rows_of(sfr.encode(ordinary))


def test_golden_ids(sfr: Tokenizer, minilm: Tokenizer) -> None:
    golden = sfr.golden_ids()
    assert len(golden) == len(GOLDEN_TEXTS)
    assert golden[0] == [1, 1602, 298, 287, 621, 264, 14403, 14833, 2]
    assert all(ids[0] == BOS and ids[-1] == EOS for ids in golden)
    assert len(golden[-1]) == 32
    assert golden != minilm.golden_ids()


def test_texts_that_cannot_be_tokenized_are_named_by_row(sfr: Tokenizer) -> None:
    with pytest.raises(ValueError, match="row 1 is not valid Unicode"):
        sfr.encode(["fine", "a lone \ud800 surrogate", "fine"])
    with pytest.raises(ValueError, match="row 2 is not a text but NoneType"):
        sfr.encode(["a", "b", None])  # type: ignore[list-item]
    assert rows_of(sfr.encode([""])) == [[BOS, EOS]]
    assert sfr.encode([]).lengths.tolist() == []


def test_no_tokenizer(own_folder: Path) -> None:
    (own_folder / "tokenizer.json").rename(own_folder / "vocab.json")
    with pytest.raises(TokenizerError, match=r"neither tokenizer.json nor .* \(found: vocab.json\).*save_pretrained"):
        Tokenizer.load(recipe_of(own_folder))


def test_unreadable_tokenizer_json(own_folder: Path) -> None:
    (own_folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer.json cannot be read .*Fetch the model again"):
        Tokenizer.load(recipe_of(own_folder))


def test_a_special_token_that_is_not_in_the_vocabulary(own_folder: Path) -> None:
    edit_json(own_folder / "special_tokens_map.json", eos_token={"content": "<|end|>"})
    with pytest.raises(TokenizerError, match=r"adds EOS to each text .* eos_token '<\|end\|>' is not in its tokenizer"):
        Tokenizer.load(recipe_of(own_folder))


def test_truncation_on_the_left_is_refused(own_folder: Path) -> None:
    edit_json(own_folder / "tokenizer_config.json", truncation_side="left")
    with pytest.raises(TokenizerError, match="truncates texts on the left"):
        Tokenizer.load(recipe_of(own_folder))


def test_the_guard_refuses_a_tokenizer_that_yields_something_else(sfr: Tokenizer) -> None:
    spoilt = Tokenizer(sfr._backend, sfr.recipe, sfr.prefix, [])
    with pytest.raises(TokenizerError, match="but the model expects 1 first and 2 last"):
        spoilt._check(bos=BOS, eos=EOS)


def test_a_recipe_too_short_for_the_special_tokens(sfr: Tokenizer) -> None:
    with pytest.raises(ConfigError, match="leaves no room for text"):
        Tokenizer.load(replace(sfr.recipe, max_length=2))


def test_reprs(sfr: Tokenizer) -> None:
    assert repr(sfr.encode(["a", "b b"])) == "<Tokenized 2 rows, 7 tokens, 0 truncated>"
    assert "[1] … [2], up to 4096 tokens" in repr(sfr)


def test_planning_imports_neither_torch_nor_transformers(sfr_folder: Path, tmp_path: Path) -> None:
    """Imports, recipe, tokenizer and weight hashes, in a process of their own."""
    folder = tmp_path / "model"
    shutil.copytree(sfr_folder, folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    code = f"""
import sys
from sfr_batch.model.sources.location import locate
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.tokenization.tokenizer import Tokenizer
from sfr_batch.model.sources.weight_hashes import weight_hashes
assert "huggingface_hub" not in sys.modules, "not needed for a local folder"
from sfr_batch.config.settings import ModelSettings
settings = ModelSettings(path={str(folder)!r}, device="cpu")
recipe = read_recipe(locate(settings, weights=True), settings)
Tokenizer.load(recipe).golden_ids()
weight_hashes(settings, recipe.folder)
print(sorted({{"torch", "transformers", "ray"}} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
