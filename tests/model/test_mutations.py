"""Flips every key of a repository's files, one at a time: each flip is seen.

Either the inputs of the fingerprint change, or the repository is refused by a message that names the key, or the key is
known to change no vector here and the vectors are equal bit by bit. So no key can act behind the fingerprint.
"""

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder.encoder import Encoder
from sfr_batch.errors import SfrBatchError
from sfr_batch.format.fingerprint import canonical_json
from sfr_batch.model.recipe import read_recipe
from sfr_batch.model.repository import architecture, layers, modules, repository_file
from sfr_batch.model.repository import transformer_file as transformer
from sfr_batch.model.tokenization import files as tokenizer_files
from sfr_batch.model.tokenization import keys as tokenizer_keys
from sfr_batch.model.tokenization.tokenizer import Tokenizer
from sfr_batch.planning.card import model_inputs
from tests.models import edit_json, write_json
from tests.repositories import HARD_TEXTS, write_repository

REMOVED, UNKNOWN = object(), "a_key_of_tomorrow"
Steps = tuple[str | int, ...]

KNOWN: Mapping[str, set[str]] = {
    "config.json": {*architecture.HARMLESS},
    "tokenizer.json": {*tokenizer_files.NOT_ACTING, "post_processor", UNKNOWN},
    "tokenizer_config.json": {*tokenizer_keys.HARMLESS, *tokenizer_keys.OBEYED, *tokenizer_keys.CHECKED},
    "special_tokens_map.json": {*tokenizer_keys.MAP_KEYS},
    "modules.json": {*modules.ENTRY},
    "1_Pooling/config.json": {*modules.POOLING},
    "2_Normalize/config.json": {*layers.NORMALIZE},
    "sentence_bert_config.json": {*transformer.TRANSFORMER},
    "config_sentence_transformers.json": {*repository_file.REPOSITORY},
}
"""Keys by file that may change no vector: those that never do, and those that are obeyed and have no effect here, such
as a length that another file cuts further. Each stands in a table with its reason."""
FILES = tuple(KNOWN)


@dataclass(frozen=True)
class Flip:
    """One change of a file: the keys that lead to it, and the value there."""

    steps: Steps
    value: Any

    @property
    def key(self) -> str:
        """The key that is changed, or in whose list something is."""
        return next(str(step) for step in reversed(self.steps) if isinstance(step, str))

    @property
    def names(self) -> set[str]:
        """The keys that lead to the change."""
        return {step for step in self.steps if isinstance(step, str)}

    def apply(self, content: Any) -> Any:
        """The content of the file with the change."""
        changed = copy.deepcopy(content)
        place = changed
        for step in self.steps[:-1]:
            place = place[step]
        if self.value is REMOVED:
            del place[self.steps[-1]]
        else:
            place[self.steps[-1]] = self.value
        return changed

    def __repr__(self) -> str:
        return f"{'.'.join(map(str, self.steps))} = {'removed' if self.value is REMOVED else json.dumps(self.value)}"


def other(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return 2 * value + 1
    if isinstance(value, str):
        return value + "x"
    return 1 if value is None else type(value)()


def flips(content: Any, steps: Steps = (), *, depth: int = 9) -> Iterator[Flip]:
    """Every key at any depth: another value, and none; and a key that nobody knows in each object."""
    if isinstance(content, dict):
        yield Flip((*steps, UNKNOWN), 1)
    children = content.items() if isinstance(content, dict) else enumerate(content)
    for step, value in children:
        here = (*steps, step)
        if other(value) != value:
            yield Flip(here, other(value))
        if isinstance(content, dict):
            yield Flip(here, REMOVED)
        if isinstance(value, dict | list) and depth:
            yield from flips(value, here, depth=depth - 1)


def flips_of(file: str, content: Any) -> list[Flip]:
    """Of tokenizer.json the vocabulary is one value, and one of its many special tokens stands for all."""
    if file != "tokenizer.json":
        found = list(flips(content))
        return [Flip((0, *flip.steps[1:]), flip.value) if flip.steps[0] == 0 else flip for flip in found if flip.names]
    small = {**content, "added_tokens": content["added_tokens"][:1]}
    small["model"] = {**content["model"], "vocab": {}}
    vocab = dict(content["model"]["vocab"])
    vocab["the"], vocab["a"] = vocab["a"], vocab["the"]
    found = [flip for flip in flips(small) if flip.names and flip.steps[:2] != ("model", "vocab")]
    return [*found, Flip(("model", "vocab"), vocab)]


@dataclass(frozen=True)
class Reference:
    """The repository as it is."""

    folder: Path
    settings: ModelSettings
    inputs: str
    encoder: Encoder
    vectors: np.ndarray[Any, Any]


TEXTS = [text for text in HARD_TEXTS if text.strip()]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = write_repository(tmp_path_factory.mktemp("mutations") / "bert")
    edit_json(folder / "config.json", initializer_range=0.3, layer_norm_eps=1e-12, hidden_act="gelu", use_cache=True)
    edit_json(
        folder / "config.json",
        hidden_dropout_prob=0.1,
        type_vocab_size=2,
        torch_dtype="float32",
        id2label={"0": "A"},
    )
    edit_json(folder / "tokenizer_config.json", padding_side="right", clean_up_tokenization_spaces=True)
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {"sentence_transformers": "2.2.2"},
            "prompts": {"query": "query: ", "document": "passage: "},
            "default_prompt_name": "document",
            "similarity_fn_name": "cosine",
        },
    )
    (folder / "2_Normalize").mkdir()
    write_json(folder / "2_Normalize" / "config.json", {})
    settings = ModelSettings(path=str(folder), device="cpu")
    inputs = canonical_json(model_inputs(settings, "float32"))
    encoder = Encoder.load(settings)
    return Reference(folder, settings, inputs, encoder, vectors_of(encoder))


def vectors_of(encoder: Encoder) -> np.ndarray[Any, Any]:
    return np.concatenate([encoder.encode([text], prompt="document") for text in TEXTS])


def loaded(reference: Reference, file: str) -> Encoder:
    """The encoder of the changed repository. Weights are read again only where config.json says how."""
    if file == "config.json":
        return Encoder.load(reference.settings)
    recipe = read_recipe(reference.folder, reference.settings)
    return Encoder(reference.encoder._model, Tokenizer.load(recipe), recipe)


def verdict(reference: Reference, file: str, flip: Flip) -> str | None:
    """What is wrong with how a flip is seen; None if it is seen."""
    try:
        if canonical_json(model_inputs(reference.settings, "float32")) != reference.inputs:
            return None
        found = vectors_of(loaded(reference, file))
    except SfrBatchError as error:
        named = flip.key in str(error) or (file == "tokenizer.json" and file in str(error))
        return None if named else f"{flip!r}: the refusal does not name {flip.key}: {error}"
    except Exception as error:
        return f"{flip!r}: {type(error).__name__}: {error}"
    if not np.array_equal(found, reference.vectors):
        return f"{flip!r}: other vectors under the same fingerprint"
    return None if flip.names & KNOWN[file] else f"{flip!r}: no effect, and no table says so"


@pytest.mark.parametrize("file", FILES)
def test_every_flip_of_a_key_is_seen(reference: Reference, file: str) -> None:
    path = reference.folder / file
    before = path.read_bytes()
    content = json.loads(before)
    wrong = []
    try:
        for flip in flips_of(file, content):
            write_json(path, flip.apply(content))
            wrong.append(verdict(reference, file, flip))
    finally:
        path.write_bytes(before)
    assert wrong, "nothing was flipped"
    assert [text for text in wrong if text] == []


def test_a_file_that_is_missing_is_seen(reference: Reference, tmp_path: Path) -> None:
    """Of the optional files; without any other one the model is refused."""
    for file in ("config_sentence_transformers.json", "sentence_bert_config.json", "modules.json"):
        copied = Path(shutil.copytree(reference.folder, tmp_path / file))
        (copied / file).unlink()
        settings = reference.settings.model_copy(update={"path": str(copied)})
        try:
            assert canonical_json(model_inputs(settings, "float32")) != reference.inputs
        except SfrBatchError as error:
            assert file in str(error)  # noqa: PT017


def test_flips_reach_every_key() -> None:
    content = {"a": {"b": [1, {"c": None}]}, "d": True}
    found = {repr(flip) for flip in flips(content)}
    assert found == {
        *("a = {}", "a = removed", "a.b = []", "a.b = removed", "a.b.0 = 3", "a.b.1 = {}", "a.b.1.c = 1"),
        *("a.b.1.c = removed", "d = false", "d = removed"),
        *(f"{place}{UNKNOWN} = 1" for place in ("", "a.", "a.b.1.")),
    }
