"""Folders with the files of a tokenizer, ids of sfr_batch and ids of transformers' AutoTokenizer for them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sfr_batch.model.recipe import Recipe
from sfr_batch.model.tokenization.tokenizer import Tokenizer
from tests.models import write_json
from tests.repositories import TokenizerKind, write_tokenizer


def write_folder(
    folder: Path,
    kind: TokenizerKind,
    model_type: str,
    config: Mapping[str, Any] | None = None,
    *,
    tokenizer_json: str | None = None,
    model_config: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
) -> Path:
    """The tokenizer of `tests.repositories.write_tokenizer` and a config.json with little more than the type.

    files: further files by name; null removes one.
    """
    write_tokenizer(folder, kind, json=tokenizer_json, config=config)
    write_json(folder / "config.json", {"model_type": model_type, **(model_config or {})})
    for name, value in (files or {}).items():
        if value is None:
            (folder / name).unlink()
        else:
            write_json(folder / name, value)
    return folder


def load(folder: Path) -> Tokenizer:
    """The tokenizer of a folder of `write_folder`."""
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
    return Tokenizer.load(Recipe(str(folder), model_type, False, "mean", 4096, 8, {}))


def ids_of(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text."""
    tokenized = tokenizer.encode(texts)
    return [ids.tolist() for ids in np.split(tokenized.flat_ids, np.cumsum(tokenized.lengths)[:-1])]


def reference_ids(folder: Path, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text by AutoTokenizer of the installed transformers."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return [list(tokenizer(text)["input_ids"]) for text in texts]
