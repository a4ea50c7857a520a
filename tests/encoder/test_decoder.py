"""Our forward pass of decoders equals transformers' own, with and without a prefix, and computes what it must."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import varlen

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder import attention, batching
from sfr_batch.encoder.attention import Packing, Prefix
from sfr_batch.encoder.decoder import Decoder
from sfr_batch.encoder.encoder import PREFIX_SHARE, SHORTEST_PREFIX, Encoder
from sfr_batch.encoder.loading import load_model
from sfr_batch.model import prompts
from sfr_batch.model.recipe import Recipe
from tests.models import build_tiny_mistral, docstrings, minilm_folder

TASK = "Given a web search query, retrieve relevant passages that answer the query"
CONFIGS = {
    "mistral": transformers.MistralConfig,
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}


@pytest.fixture(scope="module", params=CONFIGS)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, torch.nn.Module]:
    """A decoder as it is loaded here, and the same weights as transformers runs them."""
    folder = tmp_path_factory.mktemp(request.param)
    config = CONFIGS[request.param](
        vocab_size=300,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=256,
        initializer_range=0.3,
        pad_token_id=0,
    )
    config.sliding_window = None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = transformers.AutoModel.from_config(config).eval()
    safetensors.torch.save_file(reference.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    recipe = Recipe(str(folder), request.param, True, "last_token", 256, 48, {}, None, None)
    return Decoder(load_model(recipe, torch.float32)), reference


def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_bounds: torch.Tensor,
    key_bounds: torch.Tensor,
    longest: int,
    longest_key: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> torch.Tensor:
    """What PyTorch's kernel for rows of all lengths computes, row by row: its triangle stands at the bottom right."""
    assert (query_bounds.dtype, key_bounds.dtype) == (torch.int32, torch.int32)
    assert (longest, longest_key) == tuple(int(bounds.diff().max()) for bounds in (query_bounds, key_bounds))
    out = torch.empty_like(query)
    for (start, end), (first, past) in zip(
        itertools.pairwise(query_bounds.tolist()), itertools.pairwise(key_bounds.tolist()), strict=True
    ):
        q, k, v = (s.transpose(0, 1)[None] for s in (query[start:end], key[first:past], value[first:past]))
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
        seen = seen.tril(k.shape[2] - q.shape[2]) if window_size[1] == 0 else seen
        attended = F.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=enable_gqa)
        out[start:end] = attended[0].transpose(0, 1)
    return out


def varlen_attn_2_11(*arguments: Any, scale: float | None, window_size: tuple[int, int]) -> torch.Tensor:
    """Without ``enable_gqa``, as in PyTorch 2.11."""
    return varlen_attn(*arguments, scale=scale, window_size=window_size)


WAYS = ["padded", "packed", "kernel", "kernel of 2.11"]
"""How the rows of a batch lie beside each other, and by which kernel, of which the last two are planted."""


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    way: str = request.param
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn_2_11 if way == "kernel of 2.11" else varlen_attn)
    attention.packed_takes_groups.cache_clear()
    yield way
    attention.packed_takes_groups.cache_clear()


def states(
    decoder: Decoder, ids: torch.Tensor, last: torch.Tensor, prefix: Prefix | None = None, way: str = "padded"
) -> torch.Tensor:
    """What the decoder makes of the tokens at ``last`` [b] of rows [b, t] that are padded on the right."""
    before = prefix.length if prefix else 0
    if way == "padded":
        flat = torch.arange(len(ids)) * ids.shape[1] + last
        return decoder.states(ids, torch.arange(ids.shape[1])[None] + before, flat, prefix)
    lengths = (last + 1).numpy()
    real = torch.arange(ids.shape[1]) <= last[:, None]
    places = torch.arange(ids.shape[1]).expand(len(ids), -1)[real] + before
    ends = torch.from_numpy(lengths.cumsum())
    packing = Packing(lengths, before, torch.from_numpy if way.startswith("kernel") else None)
    return decoder.states(ids[real][None], places[None], ends - 1, prefix, packing)


def rows(seed: int, *lengths: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids [b, t], padded on the right with zeros, and the place of each row's last token."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((len(lengths), max(lengths)), np.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = rng.integers(1, 300, length)
    return torch.from_numpy(ids), torch.tensor(lengths) - 1


@torch.inference_mode()
def expected(reference: torch.nn.Module, ids: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """As transformers has it, with a mask."""
    mask = (torch.arange(ids.shape[1]) <= last[:, None]).long()
    states: torch.Tensor = reference(input_ids=ids, attention_mask=mask).last_hidden_state
    return states[torch.arange(len(ids)), last]


def check_same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """States [b, d] that become the same unit vectors: how far their numbers are apart counts against their length,
    for a state is as long as its model has made it, and each processor rounds and sums in its own order."""
    assert found.shape == wanted.shape
    apart = (found - wanted).abs().amax(dim=1) / wanted.norm(dim=1)
    assert apart.max() < 1e-5, f"{apart.max():.2g} of a state's length"


@pytest.mark.parametrize("lengths", [(1,), (2, 1), (9, 9, 9), (200, 3, 77, 1), (1, 3, 3, 2, 3)])
def test_states_equal_transformers(lengths: tuple[int, ...], way: str, models: tuple[Decoder, torch.nn.Module]) -> None:
    decoder, reference = models
    ids, last = rows(len(lengths), *lengths)
    with torch.inference_mode():
        found = states(decoder, ids, last, way=way)
        check_same(found, expected(reference, ids, last))


@pytest.mark.parametrize("shared", [1, 2, 20, 130])
@pytest.mark.parametrize("lengths", [(1,), (1, 1), (40, 3, 1), (7, 7)])
def test_a_prefix_changes_nothing(
    shared: int, lengths: tuple[int, ...], way: str, models: tuple[Decoder, torch.nn.Module]
) -> None:
    """And serves several batches."""
    decoder, reference = models
    head, _ = rows(99, shared)
    with torch.inference_mode():
        prefix = decoder.prefix(head[0])
        for seed in (1, 2):
            ids, last = rows(seed, *lengths)
            whole = torch.cat([head.expand(len(ids), -1), ids], dim=1)
            found = states(decoder, ids, last, prefix, way)
            check_same(found, expected(reference, whole, last + shared))


# --- in the encoder


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    folder = build_tiny_mistral(tmp_path_factory.mktemp("mistral") / "tiny")
    return Encoder.load(ModelSettings(path=str(folder), device="cpu", prompts={"query": prompts.instruct(TASK)}))


@contextmanager
def counted(encoder: Encoder) -> Iterator[dict[str, int]]:
    """Tokens that pass through the first and the last layer's MLP, and the batches."""
    seen = {"first": 0, "last": 0, "batches": 0}

    def count(name: str, tokens: torch.Tensor) -> None:
        seen[name] += tokens.numel() // tokens.shape[-1]

    layers = encoder._model.layers
    hooks = [
        layers[0].mlp.register_forward_pre_hook(lambda _, inputs: count("first", inputs[0])),
        layers[-1].mlp.register_forward_pre_hook(lambda _, inputs: count("last", inputs[0])),
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def test_an_instruction_is_computed_once(mistral: Encoder) -> None:
    texts = [text[:80] for text in docstrings(2000)[:50]]
    tokenized = mistral.tokenizer.encode(texts, mistral.recipe.prompts["query"])
    starts = np.cumsum(tokenized.lengths) - tokenized.lengths
    shared = batching.shared_prefix(starts, tokenized.lengths, tokenized.flat_ids)
    assert shared >= 20
    with counted(mistral) as seen:
        result = mistral.encode_tokens(tokenized.lengths, tokenized.flat_ids)
    assert result.tokens == shared + int((tokenized.lengths - shared).sum())
    assert seen["first"] == result.padded_tokens
    assert seen["last"] == len(texts), "in the last layer of one token a row"
    alone = np.concatenate([mistral.encode([text], prompt="query") for text in texts])
    assert np.abs(result.vectors - alone).max() < 1e-5


def test_little_in_common_is_not_computed_apart(mistral: Encoder) -> None:
    """BOS alone, or an instruction before long documents."""
    long = [f"{mistral.recipe.prompts['query']}{text}" for text in docstrings(2000) if len(text) > 4000][:3]
    for texts in (docstrings(2000)[:20], long, ["one row alone, however long its text may be"]):
        tokenized = mistral.tokenizer.encode(texts)
        with counted(mistral) as seen:
            result = mistral.encode_tokens(tokenized.lengths, tokenized.flat_ids)
        assert result.tokens == tokenized.lengths.sum()
        assert seen["first"] == result.padded_tokens
    assert SHORTEST_PREFIX > 1
    assert PREFIX_SHARE > 0


@settings(max_examples=200)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=6))
def test_shared_prefix_is_the_longest_that_leaves_a_token(rows: list[list[int]]) -> None:
    lengths = np.array([len(row) for row in rows])
    flat = np.array([token for row in rows for token in row], np.int32)
    found = batching.shared_prefix(np.cumsum(lengths) - lengths, lengths, flat)
    candidates = range(min(lengths))
    assert found == max(n for n in candidates if all(row[:n] == rows[0][:n] for row in rows))


def test_a_very_long_prefix_is_looked_at_in_part() -> None:
    lengths = np.array([2000, 2000])
    flat = np.zeros(4000, np.int32)
    assert batching.shared_prefix(np.array([0, 2000]), lengths, flat) == 512


# --- what neighbours do to a vector


def test_canaries_travel_and_come_back(mistral: Encoder) -> None:
    from sfr_batch.encoder.canaries import MOST_TOKENS, TEXTS, Canaries

    canaries = Canaries(mistral)
    tokenized = mistral.tokenizer.encode(docstrings(2000)[:400])
    plain = mistral.encode_tokens(tokenized.lengths, tokenized.flat_ids)
    encoded, count, drift = canaries.encode_tokens(tokenized.lengths, tokenized.flat_ids)
    assert count == len(TEXTS)
    assert encoded.vectors.shape == plain.vectors.shape
    assert np.abs(encoded.vectors - plain.vectors).max() < 1e-5
    assert 0 < encoded.tokens - plain.tokens <= MOST_TOKENS * tokenized.lengths.sum()
    assert 0 <= drift < 1e-6

    few, count, drift = canaries.encode_tokens(tokenized.lengths[:2], tokenized.flat_ids[: tokenized.lengths[:2].sum()])
    assert (len(few.vectors), count, drift) == (2, 0, 0.0), "they would cost more than the rows"


def test_canaries_tell_of_an_encoder_that_mixes_rows_up(mistral: Encoder) -> None:
    """Here a fault is planted: in a batch of several rows each also gets a little of the others."""
    from sfr_batch.encoder.canaries import Canaries

    tokenized = mistral.tokenizer.encode(docstrings(2000)[:400])
    canaries = Canaries(mistral)
    hook = mistral._model.norm.register_forward_hook(lambda _, __, out: out + 0.05 * out.mean(dim=0))
    _, _, drift = canaries.encode_tokens(tokenized.lengths, tokenized.flat_ids)
    hook.remove()
    assert drift > 1e-4

    hook = mistral._model.norm.register_forward_hook(lambda _, __, out: torch.full_like(out, float("nan")))
    _, _, drift = canaries.encode_tokens(tokenized.lengths, tokenized.flat_ids)
    hook.remove()
    assert drift == 2.0, "vectors that are none must not look like no drift"


@pytest.mark.parametrize("name", ["mistral", "minilm"])
def test_deterministic_vectors_do_not_depend_on_neighbours(name: str, mistral: Encoder) -> None:
    """Bit for bit, in whatever company; and they are the vectors that everybody else gets."""
    path = mistral.recipe.folder if name == "mistral" else str(minilm_folder())
    settings = ModelSettings(path=path, device="cpu", deterministic=True, prompts={"query": prompts.instruct(TASK)})
    encoder = Encoder.load(settings)
    texts = docstrings(2000)[:60]
    whole = encoder.encode(texts, prompt="query")
    order = np.random.default_rng(1).permutation(60)[:25]
    assert (encoder.encode([texts[i] for i in order], prompt="query") == whole[order]).all()
    assert (encoder.encode(texts[7:8], prompt="query") == whole[7:8]).all()
    usual = Encoder.load(settings.model_copy(update={"deterministic": False}))
    assert np.abs(usual.encode(texts, prompt="query") - whole).max() < 1e-5
