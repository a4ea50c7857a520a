"""Whether the rows of a model depend on the rows beside them: a check at loading, for families that no test compares.

A model may look at padding, switch its algorithm by the longest row of a batch or share a capacity among rows. Then a
text has no vector of its own. Knows no texts: the rows are random ids.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from sfr_batch.encoder.forward import Forward, IntArray
from sfr_batch.errors import ModelError
from sfr_batch.model.modules import SEVERAL
from sfr_batch.model.recipe import Recipe

_LENGTHS = (1, 2, 3, 7, 16, 33, 64, 130, 257)
"""Tokens of the rows, as far as the model allows; more than one window of local attention, and no multiple of one."""
_BOUNDS = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 2e-2}
"""Largest 1 - cosine between a row's vector alone and beside others, by dtype."""


def check_company(forward: Forward, recipe: Recipe, vocabulary: int, dtype: torch.dtype) -> None:
    """Raises ModelError if a row's vector depends on the rows beside it beyond rounding, or is none at all.

    vocabulary: the number of ids, of which the rows are drawn at random but always the same. dtype: that of the model.
    """
    lengths = np.array([n for n in _LENGTHS if n <= recipe.max_length], np.int64)
    ids = np.random.default_rng(0).integers(0, vocabulary, lengths.sum()).astype(np.int32)
    starts = np.cumsum(lengths) - lengths
    try:
        together = _vectors(forward, starts, lengths, ids)
        alone = torch.cat([_vectors(forward, starts[[i]], lengths[[i]], ids) for i in range(len(lengths))])
        again = _vectors(forward, starts[:1], lengths[:1], ids)  # after the longer ones
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError) as error:
        said = " ".join(str(error).split())[:300]
        raise ModelError(
            f"A model of type {recipe.model_type} ({recipe.folder}/config.json) does not turn plain rows of token ids "
            f"into hidden states: {type(error).__name__}: {said}. It is not supported; use another model."
        ) from error
    width = together.shape[1] // len(recipe.pooling.split(SEVERAL))
    if width != recipe.hidden:
        raise ModelError(
            f"A model of type {recipe.model_type} gives hidden states of {width} numbers, but "
            f"{recipe.folder}/config.json says {recipe.hidden}. This architecture is not supported; use another model."
        )
    drift = float(torch.nan_to_num(1 - (together * alone).sum(dim=1), nan=2.0).max())
    drift = max(drift, float(torch.nan_to_num(1 - (again * alone[:1]).sum(dim=1), nan=2.0).max()))
    bound = _BOUNDS[dtype]
    if drift > bound:
        raise ModelError(
            f"Rows of this model depend on the rows beside them: with rows of other lengths in its batch, the vector "
            f"of a row turns by 1 - cosine {drift:.2g} (at most {bound:g}). A model of type {recipe.model_type} "
            f"({recipe.folder}/config.json) is not supported; use another one."
        )


def _vectors(forward: Forward, starts: IntArray, lengths: IntArray, ids: NDArray[np.int32]) -> torch.Tensor:
    return F.normalize(forward.pooled(starts, lengths, ids).double(), p=2, dim=1).cpu()
