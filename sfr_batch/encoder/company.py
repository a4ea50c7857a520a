"""Whether the rows of a model depend on the rows beside them: a check at loading, for families that no test compares.

A model may look at padding, switch its algorithm by the longest row of a batch or share a capacity among rows. Then a
text has no vector of its own. Knows no texts: the rows are random ids.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from sfr_batch.encoder.faults import is_of_the_device, is_out_of_memory
from sfr_batch.encoder.forward import Forward, IntArray
from sfr_batch.errors import ModelError
from sfr_batch.model.recipe import Recipe
from sfr_batch.model.repository.modules import SEVERAL

_LENGTHS = (1, 2, 3, 7, 16, 33, 64, 130, 257)
"""Tokens of the rows, as far as the model allows; more than one window of local attention, and no multiple of one."""
_LONGEST_OF_TESTED = 2
"""Tokens of the longest row for families that a test compares."""
_BOUNDS = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 2e-2}
"""Largest 1 - cosine between a row's vector alone and beside others, by dtype."""


def check_company(
    forward: Forward, recipe: Recipe, vocabulary: int, dtype: torch.dtype, *, tested: bool = False
) -> None:
    """Raises ModelError if the model makes no vectors of rows, or if a row's vector depends on the rows beside it.

    vocabulary: the number of ids, of which the rows are drawn at random but always the same. dtype: that of the model.
    tested: whether a test compares the family. Then it is only asked whether short rows raise an error, as they do if
    values of config.json do not fit each other. Vectors that are not finite are no concern of this check.
    """
    longest = min(recipe.max_length, _LONGEST_OF_TESTED) if tested else recipe.max_length
    lengths = np.array([n for n in _LENGTHS if n <= longest], np.int64)
    ids = np.random.default_rng(0).integers(0, vocabulary, lengths.sum()).astype(np.int32)
    starts = np.cumsum(lengths) - lengths
    try:
        together = _vectors(forward, starts, lengths, ids)
        if tested:
            return
        alone = torch.cat([_vectors(forward, starts[[i]], lengths[[i]], ids) for i in range(len(lengths))])
        again = _vectors(forward, starts[:1], lengths[:1], ids)  # after the longer ones
    except Exception as error:
        if is_out_of_memory(error) or is_of_the_device(error):
            raise
        said = " ".join(str(error).split())[:300]
        raise ModelError(
            f"A model of type {recipe.model_type} ({recipe.folder}/config.json) does not turn plain rows of token ids "
            f"into vectors: {type(error).__name__}: {said}. Correct the sizes in config.json, or use another model."
        ) from error
    width = together.shape[1] // len(recipe.pooling.split(SEVERAL))
    if width != recipe.hidden:
        raise ModelError(
            f"A model of type {recipe.model_type} gives hidden states of {width} numbers, but "
            f"{recipe.folder}/config.json says {recipe.hidden}. This architecture is not supported; use another model."
        )
    drift = max(_drift(together, alone), _drift(again, alone[:1]))
    bound = _BOUNDS[dtype]
    if drift > bound:
        raise ModelError(
            f"Rows of this model depend on the rows beside them: with rows of other lengths in its batch, the vector "
            f"of a row turns by 1 - cosine {drift:.2g} (at most {bound:g}). A model of type {recipe.model_type} "
            f"({recipe.folder}/config.json) is not supported; use another one."
        )


def _drift(some: torch.Tensor, others: torch.Tensor) -> float:
    """Largest 1 - cosine of rows; 2 for a row that is finite in one of the two alone, and 0 for one that is in none."""
    finite = torch.stack([vectors.isfinite().all(dim=1) for vectors in (some, others)])
    apart = torch.where(finite.all(dim=0), 1 - (some * others).sum(dim=1), 2.0 * finite.any(dim=0))
    return float(apart.max())


def _vectors(forward: Forward, starts: IntArray, lengths: IntArray, ids: NDArray[np.int32]) -> torch.Tensor:
    return F.normalize(forward.pooled(starts, lengths, ids).double(), p=2, dim=1).cpu()
