"""The meter of `jobs.benchmark pipeline`: each contender writes when which rows were done, and the padding.

One JSON line for each time that `done` is called. Knows nothing of sfr-batch.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class Meter:
    """Counts the tokens that a sentence-transformers ``model`` is given, and writes lines to ``file``."""

    def __init__(self, file: str, model: Any = None) -> None:
        self._file = Path(file)
        self.encoded = self.padded = 0
        if model is not None:
            model[0].register_forward_pre_hook(self._count)
        self.done([])  # loaded, nothing encoded yet

    def _count(self, module: Any, inputs: tuple[dict[str, Any], ...]) -> None:
        mask = inputs[0]["attention_mask"]
        self.encoded += int(mask.sum())
        self.padded += mask.numel()

    def done(self, ids: Sequence[str]) -> None:
        """The rows with these ids have their vectors now."""
        event = {"time": time.time(), "ids": list(ids), "encoded_tokens": self.encoded, "padded_tokens": self.padded}
        with self._file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(event) + "\n")
        self.encoded = self.padded = 0
