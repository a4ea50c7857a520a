"""The encoder against two references: sentence-transformers on real MiniLM weights, the model card on a Mistral."""

import functools
import itertools
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers.processors import TemplateProcessing

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder import batching, devices, forward, pooling
from sfr_batch.encoder.encoder import MOST_FAILED, Encoder
from sfr_batch.encoder.loading import load_model
from sfr_batch.errors import ConfigError, DeviceError, ModelError, TextError
from sfr_batch.model import prompts
from sfr_batch.model.recipe import Recipe
from tests.encoder.cards import plant_gpu
from tests.models import BOS, EOS, build_tiny_mistral, docstrings, edit_json, minilm_folder

TASK = "Given a web search query, retrieve relevant passages that answer the query"


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return Encoder.load(ModelSettings(path=str(minilm_folder()), device="cpu"), max_batch_tokens=4096)


@pytest.fixture(scope="module")
def minilm_packed() -> Encoder:
    """Its model has attention that packed batches need, and cannot be padded."""
    return Encoder.load(ModelSettings(path=str(minilm_folder()), device="cpu"), max_batch_tokens=4096, packed=True)


@pytest.fixture(scope="module")
def mistral_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_mistral(tmp_path_factory.mktemp("mistral"))


@pytest.fixture(scope="module")
def mistral(mistral_folder: Path) -> Encoder:
    settings = ModelSettings(path=str(mistral_folder), device="cpu", prompts={"query": prompts.instruct(TASK)})
    return Encoder.load(settings)


def distance(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    assert a.shape == b.shape
    return float(np.abs(a - b).max())


# ------------------------------------------------------------------------------------------------- references


@pytest.mark.slow  # test_minilm_equals_the_reference_on_anything compares fewer texts
def test_minilm_equals_sentence_transformers(minilm: Encoder) -> None:
    """2,000 docstrings from one word to far beyond 256 tokens, then some of them in other orders and batches."""
    import sentence_transformers

    texts = docstrings(2000)
    ours = minilm.encode(texts)
    reference = sentence_transformers.SentenceTransformer(str(minilm_folder()), device="cpu", local_files_only=True)
    theirs = reference.encode(texts, normalize_embeddings=True, batch_size=32)
    assert ours.dtype == np.float32
    assert distance(ours, theirs) < 1e-5
    assert distance(np.linalg.norm(ours, axis=1), np.ones(2000, np.float32)) < 1e-5
    lengths = minilm.tokenizer.encode(texts).full_lengths
    assert lengths.min() < 8
    assert lengths.max() > 1000

    some = np.random.default_rng(0).permutation(2000)[:100]
    small = Encoder(minilm._model, minilm.tokenizer, minilm.recipe, max_batch_tokens=700)
    assert distance(small.encode([texts[i] for i in some]), ours[some]) < 1e-5
    alone = Encoder(minilm._model, minilm.tokenizer, minilm.recipe, max_batch_tokens=1)
    assert distance(alone.encode([texts[i] for i in some[:20]]), ours[some[:20]]) < 1e-5


@functools.cache
def model_and_tokenizer(folder: Path) -> tuple[Any, Any]:
    """As the card loads them, with the tokenizer made to do what the card's transformers did: BOS first, EOS last."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return transformers.AutoModel.from_pretrained(folder), tokenizer


def model_card(folder: Path, texts: list[str], max_length: int = 4096) -> NDArray[np.float32]:
    """The model card's code."""
    model, tokenizer = model_and_tokenizer(folder)

    def last_token_pool(last_hidden_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        left_padding = attention_mask[:, -1].sum() == attention_mask.shape[0]
        if left_padding:
            return last_hidden_states[:, -1]
        sequence_lengths = attention_mask.sum(dim=1) - 1
        batch_size = last_hidden_states.shape[0]
        return last_hidden_states[torch.arange(batch_size, device=last_hidden_states.device), sequence_lengths]

    with torch.inference_mode():
        batch_dict = tokenizer(texts, max_length=max_length, padding=True, truncation=True, return_tensors="pt")
        outputs = model(**batch_dict)
        embeddings = last_token_pool(outputs.last_hidden_state, batch_dict["attention_mask"])
        vectors: NDArray[np.float32] = F.normalize(embeddings, p=2, dim=1).numpy()
    return vectors


def test_mistral_equals_the_model_card_on_queries_and_documents(mistral: Encoder, mistral_folder: Path) -> None:
    texts = [
        "How to bake a chocolate cake",
        "Symptoms of the flu",
        "",
        " lead",
        "a </s> b",
        *(t[:800] for t in docstrings(2000)[:40]),
    ]
    queries = [f"Instruct: {TASK}\nQuery: {text}" for text in texts]
    ours = np.concatenate([mistral.encode(texts, prompt="query"), mistral.encode(texts, prompt="document")])
    theirs = np.concatenate([model_card(mistral_folder, queries), model_card(mistral_folder, texts)])
    assert distance(ours, theirs) < 1e-5
    assert distance(mistral.encode(texts), ours[len(texts) :]) == 0
    # The comparison is worth something only if texts differ: nearest other document is at some distance.
    similarity = theirs[len(texts) :] @ theirs[len(texts) :].T
    np.fill_diagonal(similarity, -1)
    assert np.median(similarity.max(axis=1)) < 0.95


def test_mistral_equals_the_model_card_at_every_length(mistral: Encoder, mistral_folder: Path) -> None:
    """From one token of text to the longest row, and beyond it; the longest is as long as the sliding window."""
    words = " ".join(docstrings(2000)).split()
    sizes = [1, 2, 3, 7, 8, 9, 31, 64, 127, 500, 1000, 1023, 2000]
    texts = [" ".join(words[size : 2 * size]) for size in sizes]
    long = ["cake " * n for n in (4092, 4093, 4094, 4095, 6000)] + [" ".join(words[:8000])]
    tokenized = mistral.tokenizer.encode(texts + long)
    assert set(tokenized.lengths.tolist()) >= {4095, 4096}
    assert tokenized.truncated.tolist()[-3:] == [True, True, True]
    theirs = [model_card(mistral_folder, texts[:8]), model_card(mistral_folder, texts[8:])]
    theirs += [model_card(mistral_folder, [text]) for text in long]  # apart, or its masks take gigabytes
    assert distance(mistral.encode(texts + long), np.concatenate(theirs)) < 1e-5


def test_truncation_below_the_repository_limit(mistral_folder: Path) -> None:
    encoder = Encoder.load(ModelSettings(path=str(mistral_folder), device="cpu", max_length=24))
    texts = docstrings(2000)[:50]
    assert encoder.tokenizer.encode(texts).truncated.any()
    assert distance(encoder.encode(texts), model_card(mistral_folder, texts, max_length=24)) < 1e-5


def test_order_duplicates_and_batches_do_not_matter(mistral: Encoder) -> None:
    texts = [*docstrings(2000)[:80], "again", "again", *docstrings(2000)[:5]]
    whole = mistral.encode(texts)
    order = np.random.default_rng(0).permutation(len(texts))
    other = Encoder(mistral._model, mistral.tokenizer, mistral.recipe, max_batch_tokens=300)
    assert distance(other.encode([texts[i] for i in order]), whole[order]) < 1e-5
    assert (whole[80] == whole[81]).all()
    assert (whole[:5] == whole[-5:]).all()


# ----------------------------------------------------------------------------------------------------- packed


def test_batches_can_be_changed_at_any_time(minilm: Encoder) -> None:
    texts = [text[:300] for text in docstrings(2000)[:20]]
    encoder = Encoder.load(ModelSettings(path=str(minilm_folder()), device="cpu"))
    for packed in (True, False, True):
        encoder.pack(packed)
        assert encoder.packed == packed
        assert distance(encoder.encode(texts), minilm.encode(texts)) < 1e-5


def test_packed_batches_have_no_padding_and_the_same_vectors(
    minilm: Encoder, minilm_packed: Encoder, mistral: Encoder
) -> None:
    texts = [text[:800] for text in docstrings(2000)[:100]]
    packed_mistral = Encoder(mistral._model, mistral.tokenizer, mistral.recipe, packed=True)
    for padded, packed, prompt in ((minilm, minilm_packed, None), (mistral, packed_mistral, "query")):
        tokenized = padded.tokenizer.encode(texts, padded.recipe.prompts[prompt] if prompt else "")
        rows = tokenized.lengths, tokenized.flat_ids
        found, usual = packed.encode_tokens(*rows), padded.encode_tokens(*rows)
        assert found.padded_tokens == found.tokens == usual.tokens < usual.padded_tokens
        assert distance(found.vectors, usual.vectors) < 1e-5
        assert found.batches > 1


@pytest.mark.parametrize("name", ["roberta", "xlm-roberta", "camembert"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_packed_rows_count_positions_from_where_their_model_does(name: str, pooling: str) -> None:
    """These begin behind the id of their padding."""
    config = transformers.AutoConfig.for_model(
        name,
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=70,
        type_vocab_size=1,
        initializer_range=0.3,
        pad_token_id=1,
    )
    recipe = Recipe("", name, False, pooling, 64, 32, {}, None, None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModel.from_config(config, add_pooling_layer=False).eval()
    lengths = np.array([1, 64, 7, 7, 33, 64, 2], np.int32)
    ids = np.random.default_rng(0).integers(5, 300, lengths.sum()).astype(np.int32)
    padded = Encoder(model, None, recipe, max_batch_tokens=200).encode_tokens(lengths, ids)  # type: ignore[arg-type]
    packed = Encoder(model, None, recipe, max_batch_tokens=200, packed=True)  # type: ignore[arg-type]
    assert distance(packed.encode_tokens(lengths, ids).vectors, padded.vectors) < 1e-5


@pytest.mark.parametrize("model", ["bidirectional", "decoder"])
def test_rows_are_padded_where_the_kernel_for_packed_ones_fails(
    model: str, mistral_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CPU that is said to have this kernel, and has not."""
    folder = minilm_folder() if model == "bidirectional" else mistral_folder
    settings = ModelSettings(path=str(folder), device="cpu", dtype="bfloat16")
    padded = Encoder.load(settings)
    monkeypatch.setattr(forward, "has_flash", lambda device: True)
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-7")
    encoder = Encoder.load(settings)
    assert not encoder.packed
    assert encoder.remark.startswith(
        "batches are padded, and slower than they could be: rows cannot be packed on node gpu-7: NotImplementedError: "
    )
    assert np.array_equal(encoder.encode(["a", "b c"]), padded.encode(["a", "b c"]))
    encoder.pack(True)  # as verify does, to compare
    assert distance(encoder.encode(["a", "b c"]), padded.encode(["a", "b c"])) < 0.02, "without the kernel"
    encoder._say("More.")
    assert encoder.remark.endswith("; More.")
    with pytest.raises(ConfigError, match=r"run\.batches is packed, but .* gpu-7: .* Set run\.batches=padded\."):
        Encoder.load(settings, packed=True)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("CUDA error: no kernel image is available for execution on the device", None),
        ("FlashAttention only supports Ampere GPUs or newer.", None),
        ("CUDA error: an illegal memory access was encountered", DeviceError),
        ("CUDA out of memory. Tried to allocate 2 GiB", ModelError),
    ],
)
def test_a_device_that_fails_at_packed_rows_is_not_given_padded_ones(
    message: str, kind: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.nn.attention import varlen

    def fail(*_: Any, **__: Any) -> None:
        raise (torch.AcceleratorError if "CUDA error" in message else RuntimeError)(message)

    monkeypatch.setattr(varlen, "varlen_attn", fail)
    monkeypatch.setattr(forward, "has_flash", lambda device: True)
    settings = ModelSettings(path=str(minilm_folder()), device="cpu", dtype="bfloat16")
    if kind is None:
        encoder = Encoder.load(settings)
        assert message in encoder.remark
        assert not encoder.packed
    else:
        with pytest.raises(kind, match=message if kind is DeviceError else "memory"):
            Encoder.load(settings)


@settings(max_examples=200)
@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 100), st.sampled_from([0, 0, 4, 50]))
def test_packed_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int, beside: int) -> None:
    sizes = np.array(lengths, np.int32)
    batches = batching.packed_batches(sizes, budget, beside)
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    taken = sizes + beside
    assert all(taken[batch].sum() <= budget or len(batch) == 1 for batch in batches)
    assert all(len(batch) for batch in batches)
    order = [lengths[row] for batch in batches for row in batch]
    assert order == sorted(lengths, reverse=True), "longest first"
    assert all(taken[a].sum() + taken[b[0]] > budget for a, b in itertools.pairwise(batches)), "filled"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fused_layers_give_the_same_vectors_with_few_compilations(mistral_folder: Path, mistral: Encoder) -> None:
    """Whatever the batches are: their shapes are symbolic. Slow, because each kernel is compiled by a C++ compiler."""
    from torch._dynamo.utils import counters

    counters.clear()
    encoder = Encoder.load(ModelSettings(path=str(mistral_folder), device="cpu"), max_batch_tokens=700, fuse=True)
    texts = [text[:500] for text in docstrings(2000)[:80]]
    for some in (texts, texts[:1], texts[3:7], ["a"], texts[20:50]):
        for packed in (False, True):
            encoder.pack(packed)
            assert distance(encoder.encode(some), mistral.encode(some)) < 1e-5
    graphs = counters["stats"]["unique_graphs"]
    assert 2 <= graphs <= 12, counters
    some = texts[40:70]
    encoder.encode(some)
    assert counters["stats"]["unique_graphs"] == graphs


# ---------------------------------------------------------------------------------------------------- pooling


@pytest.mark.parametrize("name", ["last_token", "mean", "cls"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_is_right_on_either_padding_side(name: str, dtype: torch.dtype) -> None:
    """Padding holds NaN, so that any influence of it shows."""
    width, dim = 6, 5
    rows = [torch.randn(n, dim, generator=torch.Generator().manual_seed(n)).to(dtype) for n in (1, 3, 6, 5)]
    wanted = {"last_token": lambda r: r[-1], "mean": lambda r: r.mean(dim=0), "cls": lambda r: r[0]}
    expected = torch.stack([wanted[name](row.float()) for row in rows])
    for side, mask_dtype in itertools.product(("left", "right"), (torch.bool, torch.int64)):
        hidden = torch.full((len(rows), width, dim), float("nan"), dtype=dtype)
        mask = torch.zeros(len(rows), width, dtype=mask_dtype)
        for i, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
            hidden[i, place], mask[i, place] = row, 1
        pooled = pooling.POOLINGS[name](hidden, mask)
        assert pooled.dtype == torch.float32
        torch.testing.assert_close(pooled, expected)


# ------------------------------------------------------------------------------------------- the rest of it


class SmallMemory:
    """A device that runs out of memory above a number of padded tokens, for a model within this context.

    The property it gives: whether a batch fits depends on its padded size alone, so that a test can say exactly which
    batches must be cut and to what.
    """

    def __init__(self, encoder: Encoder, fits: int, error: Exception | None = None) -> None:
        self.embeddings = encoder._model.embed_tokens
        self.fits, self.error = fits, error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        self.seen: list[int] = []

    def __enter__(self) -> "SmallMemory":
        self.hook = self.embeddings.register_forward_pre_hook(self.check)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def check(self, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.seen.append(inputs[0].numel())
        if self.seen[-1] > self.fits:
            raise self.error


NO_ANSWER = 'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1154'
"""What PyTorch says of a slice of a card that is full."""


@pytest.mark.parametrize("error", [None, RuntimeError("HIP out of memory"), RuntimeError(NO_ANSWER), MemoryError()])
def test_out_of_memory_halves_the_batch_and_is_remembered(mistral: Encoder, error: Exception | None) -> None:
    texts = [text for text in docstrings(2000) if len(text) < 2000][:120]
    lengths = mistral.tokenizer.encode(texts).lengths
    fits = int(lengths.max())  # a row has to fit, and no two of the longest
    encoder = Encoder(mistral._model, mistral.tokenizer, mistral.recipe, max_batch_tokens=8 * fits)
    whole = mistral.encode(texts)
    with SmallMemory(encoder, fits, error) as memory:
        assert distance(encoder.encode(texts), whole) < 1e-5
        assert encoder.max_batch_tokens <= 2 * fits
        failures = [size for size in memory.seen if size > fits]
        assert 1 <= len(failures) <= 4, "each failure halves"
        memory.seen.clear()
        encoder.encode(texts)
        assert not [size for size in memory.seen if size > fits], "the smaller budget is remembered"


def test_memory_that_a_failed_batch_leaves_is_given_back_before_the_next(
    mistral: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch keeps freed blocks of a GPU, in sizes that the smaller batches may have no use for. The device is only
    said to be one."""
    texts = [text for text in docstrings(2000) if len(text) < 2000][:120]
    fits = int(mistral.tokenizer.encode(texts).lengths.max())
    encoder = Encoder(mistral._model, mistral.tokenizer, mistral.recipe, max_batch_tokens=8 * fits)
    monkeypatch.setattr(encoder, "_device", torch.device("cuda"))
    with SmallMemory(encoder, fits) as memory:
        given_back: list[int] = []
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given_back.append(len(memory.seen)))
        encoder.encode(texts)
        assert given_back == [number for number, size in enumerate(memory.seen, 1) if size > fits] != []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_memory_of_models_that_are_no_more_is_given_back() -> None:
    model = torch.empty(2**26, device="cuda")
    model.cycle = model  # type: ignore[attr-defined]
    held = torch.cuda.memory_reserved()
    del model
    devices.release_memory()
    assert torch.cuda.memory_reserved() <= held - 2**28


def test_a_row_that_does_not_fit_is_an_error(mistral: Encoder) -> None:
    encoder = Encoder(mistral._model, mistral.tokenizer, mistral.recipe)
    with (
        SmallMemory(encoder, fits=5),
        pytest.raises(ModelError, match=r"One row of 9 tokens does not fit into the memory of cpu. Lower model.max_l"),
    ):
        encoder.encode(["How to bake a chocolate cake"])


@pytest.mark.parametrize(("used", "others"), [(0.5, ""), (20, ", of which other processes have 20.0 GiB. Stop them (")])
def test_a_row_that_does_not_fit_into_a_card_that_others_use(
    used: float, others: str, mistral: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a restart of the actor, which cannot know that such rows did fit."""
    encoder = Encoder(mistral._model, mistral.tokenizer, mistral.recipe)
    plant_gpu(monkeypatch, total=24, used=used)
    monkeypatch.setattr(encoder, "_device", torch.device("cuda"))
    with SmallMemory(encoder, fits=5), pytest.raises(ModelError) as caught:
        encoder.encode(["How to bake a chocolate cake"])
    said = str(caught.value)
    assert said.startswith("One row of 9 tokens does not fit into the memory of cuda")
    assert others in said
    assert ("nvidia-smi" in said) == bool(others)
    assert "ower model.max_length" in said


def test_memory_that_others_have_taken_is_no_fault_of_a_row(mistral: Encoder) -> None:
    """The process of an actor ends then: as the error of a split it would be that of the next ones, too."""
    encoder = Encoder(mistral._model, mistral.tokenizer, mistral.recipe)
    encoder.encode(["How to bake a chocolate cake", "a"])
    with SmallMemory(encoder, fits=5):
        for text in ("How to bake a chocolate cake", "How to eat a chocolate cake"):
            with pytest.raises(DeviceError, match=r"memory of cpu on node .* row of [89] tokens does not fit any more"):
                encoder.encode([text, "b"])
        with pytest.raises(ModelError, match=r"One row of 10 tokens does not fit .* Lower model.max_length"):
            encoder.encode(["How to bake a large chocolate cake"])
        assert encoder.encode(["c"]).shape == (1, encoder.dim)


@pytest.mark.parametrize("packed", [False, True])
def test_an_instruction_that_does_not_fit_beside_its_batch(mistral: Encoder, packed: bool) -> None:
    """The memory of a device may be short for the tokens that all rows share as well; each row then brings its own."""
    texts = [text[:60] for text in docstrings(2000)[:30]]
    whole = mistral.encode(texts, prompt="query")
    encoder = Encoder(mistral._model, mistral.tokenizer, mistral.recipe, packed=packed)
    reset, seen = encoder._forward.prefix, []

    def too_large(ids: NDArray[np.int32]) -> None:
        seen.append(len(ids))
        raise torch.OutOfMemoryError("CUDA out of memory")

    encoder._forward.prefix = too_large  # type: ignore[method-assign, assignment]
    assert distance(encoder.encode(texts, prompt="query"), whole) < 1e-5
    assert len(seen) == 1
    encoder._forward.prefix = reset  # type: ignore[method-assign]


def test_a_device_that_fails_is_not_tried_again(mistral: Encoder) -> None:
    """After such an error all that is tried on it fails, whatever the rows are."""
    broken = RuntimeError("CUDA error: an illegal memory access")
    with SmallMemory(mistral, 0, broken) as memory, pytest.raises(DeviceError, match=r"(?s)illegal memory.*dmesg"):
        mistral.encode(["a", "b"])
    assert len(memory.seen) == 1


class Poison:
    """A model that fails on batches with a given token, as one does on an id that it has no row for. The property it
    gives: it depends on the rows alone."""

    def __init__(self, encoder: Encoder, token: int) -> None:
        self.embeddings, self.token, self.calls = encoder._model.embed_tokens, token, 0

    def __enter__(self) -> "Poison":
        self.hook = self.embeddings.register_forward_pre_hook(self.check)
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()

    def check(self, _: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.calls += 1
        if bool((inputs[0] == self.token).any()):
            raise IndexError("index out of range\nin self")


@pytest.mark.parametrize("packed", [False, True])
def test_a_poisoned_row_is_found_and_the_others_are_as_without_it(mistral: Encoder, packed: bool) -> None:
    texts = docstrings(2000)[:60]
    tokenized = mistral.tokenizer.encode([*texts[:20], "poison", *texts[20:], "poison"])
    whole = mistral.encode_tokens(tokenized.lengths, tokenized.flat_ids).vectors
    token = int(mistral.tokenizer.encode(["poison"]).flat_ids[1])
    bad = [i for i, ids in enumerate(np.split(tokenized.flat_ids, np.cumsum(tokenized.lengths)[:-1])) if token in ids]
    assert {20, 61} <= set(bad)
    encoder = Encoder(mistral._model, mistral.tokenizer, mistral.recipe, packed=packed)
    with Poison(encoder, token) as poison:
        result = encoder.encode_tokens(tokenized.lengths, tokenized.flat_ids)
    assert dict(result.failed) == dict.fromkeys(bad, "IndexError: index out of range in self")
    good = np.setdiff1d(np.arange(62), bad)
    assert distance(result.vectors[good], whole[good]) < 1e-5
    assert np.isnan(result.vectors[bad]).all()
    unpoisoned = encoder.encode_tokens(tokenized.lengths, tokenized.flat_ids)
    assert poison.calls <= unpoisoned.batches + 20 * len(bad), "halving, not one by one"
    assert result.tokens < unpoisoned.tokens


def test_an_error_that_every_row_has_is_not_theirs(mistral: Encoder) -> None:
    """A bug, or a device that fails under a name that we do not know."""
    with Poison(mistral, BOS) as poison, pytest.raises(IndexError):
        mistral.encode(docstrings(2000)[:60])
    assert poison.calls < 20


def test_too_many_rows_to_blame(mistral: Encoder) -> None:
    texts = [f"poison {number}" for number in range(MOST_FAILED + 1)]
    token = int(mistral.tokenizer.encode(["poison"]).flat_ids[1])
    with Poison(mistral, token), pytest.raises(IndexError):
        mistral.encode(texts)
    with Poison(mistral, token):
        assert np.isnan(mistral.encode(texts[:MOST_FAILED])).all()


def test_encode_tokens_reports_what_it_cost(mistral: Encoder) -> None:
    tokenized = mistral.tokenizer.encode(["a", "a", "How to bake a chocolate cake", ""])
    assert tokenized.lengths.tolist() == [3, 3, 9, 2]
    result = mistral.encode_tokens(tokenized.lengths, tokenized.flat_ids)
    assert (result.tokens, result.padded_tokens, result.batches) == (14, 27, 1)
    assert result.vectors.shape == (4, mistral.dim)
    assert repr(result) == "<EncodedTokens 4 rows, 14 tokens, 48.1% padding, 1 batches>"


def test_rows_are_launched_before_others_are_fetched(mistral: Encoder) -> None:
    """Each have the vectors that they have without the others, to the bit, and their own account."""
    some, others = (mistral.tokenizer.encode(texts) for texts in (["a", "b", "a"], docstrings(2000)[:9]))
    first, second = (mistral.launch(rows.lengths, rows.flat_ids) for rows in (some, others))
    for rows, launched in ((others, second), (some, first)):
        alone, found = mistral.encode_tokens(rows.lengths, rows.flat_ids), launched.result()
        assert found.vectors.tobytes() == alone.vectors.tobytes()
        assert (found.tokens, found.padded_tokens, found.batches) == (alone.tokens, alone.padded_tokens, alone.batches)


def test_nothing_to_encode(mistral: Encoder) -> None:
    assert mistral.encode([]).shape == (0, 64)


def test_vectors_that_are_not_finite_come_back_as_they_are(mistral: Encoder) -> None:
    """All NaN or all zero, as overflow and dead layers make them."""
    for value in (float("nan"), 0.0):
        hook = mistral._model.norm.register_forward_hook(lambda _, __, out, value=value: torch.full_like(out, value))
        vectors = mistral.encode(["a"])
        hook.remove()
        assert np.isnan(vectors).all() if np.isnan(value) else (vectors == 0).all()


def test_bfloat16_is_normalized_in_float32(mistral_folder: Path, mistral: Encoder) -> None:
    half = Encoder.load(ModelSettings(path=str(mistral_folder), device="cpu", dtype="bfloat16"))
    texts = docstrings(2000)[:40]
    vectors = half.encode(texts)
    assert next(half._model.parameters()).dtype == torch.bfloat16
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
    assert np.median((vectors * mistral.encode(texts)).sum(axis=1)) > 0.98


def test_wrong_arguments(mistral: Encoder) -> None:
    with pytest.raises(ConfigError, match=r"no prompt 'qeury'. Known prompts: document, query"):
        mistral.encode(["a"], prompt="qeury")
    with pytest.raises(TextError, match="takes a list of texts"):
        mistral.encode("a text")
    with pytest.raises(TextError, match="row 1 is not a text but float"):
        mistral.encode(["a text", float("nan")])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match=r"^Encoder.load takes the model of a config: Encoder.load\(load_config"):
        Encoder.load("configs/demo.yaml")  # type: ignore[arg-type]


def test_weights_that_do_not_fit_the_config(tmp_path: Path) -> None:
    folder = build_tiny_mistral(tmp_path / "model", hidden=16)
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    del tensors["layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 tensor missing or with another shape \(layers.1.mlp.up_proj.weight\)"):
        Encoder.load(ModelSettings(path=str(folder), device="cpu"))


def test_what_transformers_refuses_names_the_folder(tmp_path: Path) -> None:
    folder = build_tiny_mistral(tmp_path / "model", hidden=16)
    edit_json(folder / "config.json", model_type="new", architectures=["NewForCausalLM"])
    edit_json(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast", add_eos_token=...)
    with pytest.raises(
        ModelError, match=rf"transformers cannot load {folder} as its config.json .*`new`.*Correct the key"
    ):
        Encoder.load(ModelSettings(path=str(folder), device="cpu"))


def test_mpnet_has_no_sdpa(tmp_path: Path) -> None:
    """It falls back to eager attention; batches still equal single rows, with padding in its own position ids."""
    config = transformers.MPNetConfig(
        vocab_size=500,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=130,
        initializer_range=0.3,
        pad_token_id=1,
    )
    model = transformers.MPNetModel(config)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(tmp_path)
    recipe = Recipe(str(tmp_path), "mpnet", False, "mean", 128, 32, {}, None, None)
    loaded = load_model(recipe, torch.float32)
    with pytest.raises(ConfigError, match=r"rows of this model \(mpnet, mean pooling\) cannot be packed"):
        Encoder(loaded, None, recipe, packed=True)  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 128, 40).astype(np.int32)
    ids = rng.integers(5, 500, lengths.sum()).astype(np.int32)
    whole, single = (
        Encoder(loaded, None, recipe, max_batch_tokens=budget).encode_tokens(lengths, ids)  # type: ignore[arg-type]
        for budget in (4096, 1)
    )
    assert whole.padded_tokens > whole.tokens, "no batch was ragged"
    assert single.batches == 40
    assert distance(whole.vectors, single.vectors) < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_no_gpu(mistral_folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"PyTorch sees no GPU here.*, or set model.device=cpu"):
        Encoder.load(ModelSettings(path=str(mistral_folder)))


def test_repr(minilm: Encoder, mistral: Encoder) -> None:
    assert repr(minilm) == "<Encoder bert, 384 dims, mean, 256 tokens, float32 on cpu>"
    assert repr(mistral) == "<Encoder mistral, 64 dims, last_token, 4096 tokens, float32 on cpu>"
    assert minilm.dim == 384


# ------------------------------------------------------------------------------------ whatever is asked of it


def runs_of_words() -> st.SearchStrategy[str]:
    words = " ".join(docstrings(2000)[:300]).split()
    return st.tuples(st.integers(0, len(words) - 600), st.integers(1, 600)).map(
        lambda run: " ".join(words[run[0] : run[0] + run[1]])
    )


# Deferred: to find docstrings takes seconds, and every process that shares the tests imports this module.
texts_of_any_length = st.one_of(st.text(max_size=40), st.deferred(runs_of_words))
any_batch = st.tuples(
    st.lists(texts_of_any_length, min_size=1, max_size=12),
    st.sampled_from(["", "query: ", prompts.instruct(TASK), "日本語の指示："]),
    st.sampled_from([1, 100, 700, 5000]),
    st.booleans(),
)
"""Texts, a prompt before them, a budget of tokens, and whether batches are packed."""


@settings(max_examples=15, derandomize=True)
@given(any_batch)
def test_minilm_equals_the_reference_on_anything(
    minilm: Encoder, minilm_packed: Encoder, sentence_transformer: Any, case: tuple[list[str], str, int, bool]
) -> None:
    texts, prompt, budget, packed = case
    recipe = replace(minilm.recipe, prompts={"query": prompt})
    model = (minilm_packed if packed else minilm)._model
    encoder = Encoder(model, minilm.tokenizer, recipe, max_batch_tokens=budget, packed=packed)
    ours = encoder.encode(texts, prompt="query")
    theirs = sentence_transformer.encode(texts, prompt=prompt, normalize_embeddings=True, batch_size=5)
    assert distance(ours, theirs) < 1e-5


@settings(max_examples=15, derandomize=True)
@given(any_batch)
def test_mistral_equals_the_model_card_on_anything(
    mistral: Encoder, mistral_folder: Path, case: tuple[list[str], str, int, bool]
) -> None:
    texts, prompt, budget, packed = case
    recipe = replace(mistral.recipe, prompts={"query": prompt})
    encoder = Encoder(mistral._model, mistral.tokenizer, recipe, max_batch_tokens=budget, packed=packed)
    ours = encoder.encode(texts, prompt="query")
    assert distance(ours, model_card(mistral_folder, [prompt + text for text in texts])) < 1e-5


@pytest.fixture(scope="module")
def sentence_transformer() -> Any:
    import sentence_transformers

    return sentence_transformers.SentenceTransformer(str(minilm_folder()), device="cpu", local_files_only=True)
