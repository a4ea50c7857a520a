"""What a preflight asks of an encoder beyond its vectors: padding on either side, its size, and the memory of a batch;
and how fast its device multiplies matrices.

Looks into an `Encoder`; nothing that embeds a corpus comes through here.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from sfr_batch.encoder.attention import ATTENTION
from sfr_batch.encoder.devices import require_device
from sfr_batch.encoder.encoder import Encoder, FloatArray
from sfr_batch.encoder.fp8 import check_kernel, multiply, to_fp8
from sfr_batch.encoder.loading import count_parameters, torch_dtype
from sfr_batch.encoder.pooling import pool
from sfr_batch.encoder.threads import using
from sfr_batch.errors import ConfigError
from sfr_batch.model.repository.families import FAMILIES

# They derive positions from the ids that are not padding, on either side, and do not count from 0.
_OWN_POSITIONS = frozenset(name for name, family in FAMILIES.items() if family.offset)


def padded(
    encoder: Encoder, lengths: NDArray[np.integer], flat_ids: NDArray[np.int32], side: Literal["left", "right"]
) -> FloatArray:
    """[n, d] unit vectors of n rows in a single batch, padded on ``side`` under an explicit mask.

    Runs the model as reference code does, with the encoder's own pooling; the encoder itself only pads on the right and
    avoids the mask where it can. Arguments as in `Encoder.encode_tokens`.
    """
    width = int(lengths.max())
    places = np.arange(width)
    real = places >= width - lengths[:, None] if side == "left" else places < lengths[:, None]
    ids = np.full(real.shape, encoder._forward.pad_id, np.int64)
    ids[real] = flat_ids  # row by row, as they lie in it
    mask = torch.from_numpy(real).to(encoder._device)
    inputs: dict[str, Any] = {"input_ids": torch.from_numpy(ids).to(encoder._device), "attention_mask": mask.long()}
    if side == "left" and encoder.recipe.model_type not in _OWN_POSITIONS:
        inputs["position_ids"] = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
    kernels = encoder._forward.kernels()
    with using(encoder.torch_threads), torch.inference_mode(), _masked_attention(encoder), kernels:
        hidden = encoder._model(**inputs).last_hidden_state
        pooled = pool(encoder.recipe.pooling, hidden, mask)
        vectors: FloatArray = encoder._forward.finish(pooled).cpu().numpy()
    return vectors


@contextlib.contextmanager
def _masked_attention(encoder: Encoder) -> Iterator[None]:
    """transformers' own attention, which uses masks, for a decoder that otherwise has ours, which does not."""
    before = encoder._model.config._attn_implementation
    if before == ATTENTION:
        encoder._model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if before == ATTENTION:
            encoder._model.set_attn_implementation(before)


def parameters(encoder: Encoder) -> int:
    """The number of the model's parameters."""
    return count_parameters(encoder._model)


def batch_memory(encoder: Encoder, lengths: NDArray[np.integer], flat_ids: NDArray[np.int32]) -> int:
    """Peak bytes of GPU memory for encoding these rows, without the model."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    encoder.encode_tokens(lengths, flat_ids)
    return int(torch.cuda.max_memory_allocated() - before)


def computes_in(dtype: str) -> bool:
    """Whether this GPU would be given a model in a dtype: what loading one asks."""
    try:
        require_device("cuda", dtype)
        if dtype == "fp8":
            check_kernel(torch.device("cuda"))
    except ConfigError:
        return False
    return True


SQUARE = ((8192, 8192, 8192),)
"""A product that keeps all units of a GPU busy."""


def matrix_rate(
    device: str, compute_dtype: str, seconds: float, products: Sequence[tuple[int, int, int]] = SQUARE
) -> float:
    """FLOP/s of products of random matrices, [m, k] times [k, n] for each (m, k, n), one after the other for at least
    so many seconds. Less than in a burst, since power bounds it, as it bounds a run."""

    def random(*size: int) -> Any:
        return torch.randn(size, device=device, dtype=torch_dtype(compute_dtype))

    inputs = {(m, k): random(m, k) for m, k, _ in products}
    pairs = [(inputs[m, k], random(n, k)) for m, k, n in products]
    product: Any = F.linear
    if compute_dtype == "fp8":
        rows = {shape: to_fp8(each) for shape, each in inputs.items()}
        pairs = [(rows[m, k], to_fp8(weight)) for (m, k, _), (_, weight) in zip(products, pairs, strict=True)]
        product = multiply

    def took(times: int) -> float:
        began = time.perf_counter()
        for pair in pairs * times:
            product(*pair)
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    took(1)  # libraries choose their kernels
    done, spent = 0, 0.0
    while not done or spent < seconds:
        done, spent = done + 5, spent + took(5)
    return done * sum(2.0 * m * k * n for m, k, n in products) / spent
