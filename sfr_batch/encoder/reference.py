"""The model of a folder as sentence-transformers loads and computes it, to compare with; it is never used to embed.

One row at a time in float32, so that neither batches nor rounding hide a difference. Knows no tables and no checks.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from sfr_batch.encoder.loading import quiet_transformers
from sfr_batch.model.recipe import Recipe
from sfr_batch.model.repository.modules import POOLING_NAMES, SEVERAL

FloatArray = NDArray[np.float32]


def is_installed() -> bool:
    """Whether sentence-transformers can be imported here; nothing is imported."""
    return importlib.util.find_spec("sentence_transformers") is not None


class Reference:
    """A SentenceTransformer in float32, cut to the length of a recipe."""

    def __init__(self, recipe: Recipe, device: str) -> None:
        """Load the recipe's folder. Raises whatever sentence-transformers raises for a folder that it cannot load.

        A folder without modules.json gets the recipe's pooling: sentence-transformers would take the mean.
        """
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

        folder, options = Path(recipe.folder), {"model_kwargs": {"dtype": torch.float32}, "local_files_only": True}
        with quiet_transformers():
            if (folder / "modules.json").is_file():
                self._model: Any = SentenceTransformer(str(folder), device=device, trust_remote_code=False, **options)
            else:
                words = Transformer(str(folder), model_kwargs={"dtype": torch.float32})
                names = {ours: theirs for theirs, ours in POOLING_NAMES.items()}
                modes = [names[pooling] for pooling in recipe.pooling.split(SEVERAL)]
                pooling = Pooling(recipe.hidden, modes)
                self._model = SentenceTransformer(modules=[words, pooling], device=device)
        self._model.eval()
        self._model.max_seq_length = recipe.max_length
        self._dimensions = recipe.dim

    def ids(self, texts: Sequence[str], prompt: str = "") -> list[list[int]]:
        """The token ids of ``prompt + text`` for each text, as its tokenizer gives them."""
        return [self._features(text, prompt)["input_ids"][0].tolist() for text in texts]

    def vectors(self, texts: Sequence[str], prompt: str = "") -> FloatArray:
        """[n, d] unit vectors of the texts, from its own token ids."""
        return self._run([self._features(text, prompt) for text in texts])

    def vectors_of_ids(self, rows: Sequence[Sequence[int]]) -> FloatArray:
        """[n, d] unit vectors of rows of token ids that are not its own."""
        tensors = [torch.tensor([list(row)], dtype=torch.long, device=self._model.device) for row in rows]
        return self._run([{"input_ids": ids, "attention_mask": torch.ones_like(ids)} for ids in tensors])

    def _features(self, text: str, prompt: str) -> dict[str, Any]:
        features: dict[str, Any] = self._model.preprocess([text], prompt=prompt or None)
        return {
            name: value.to(self._model.device) if isinstance(value, torch.Tensor) else value
            for name, value in features.items()
        }

    def _run(self, rows: Sequence[dict[str, Any]]) -> FloatArray:
        with torch.inference_mode():
            states = [self._model(features)["sentence_embedding"][:, : self._dimensions] for features in rows]
            vectors: FloatArray = F.normalize(torch.cat(states).float(), p=2, dim=1).cpu().numpy()
        return vectors
