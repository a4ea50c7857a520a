"""Loads a transformers model from its folder and moves it to its device; refuses what would give wrong vectors.

Safetensors only, no remote code. Knows no texts and no batches.
"""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError

from sfr_batch.encoder.attention import ATTENTION
from sfr_batch.encoder.decoder import is_plain_decoder
from sfr_batch.encoder.faults import is_out_of_memory
from sfr_batch.errors import ModelError, counted
from sfr_batch.model import room, weights
from sfr_batch.model.folder import weight_files
from sfr_batch.model.recipe import Recipe

# No recipe here uses their pooler layer, so it is neither loaded nor computed.
_HAVE_POOLER = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "mpnet"})
# PyTorch's attention does not support their relative position bias.
_NO_SDPA = frozenset({"mpnet"})


def torch_dtype(compute_dtype: str) -> torch.dtype:
    """The dtype of loaded weights and of activations; for fp8 see `encoder.fp8`."""
    dtype: torch.dtype = torch.bfloat16 if compute_dtype == "fp8" else getattr(torch, compute_dtype)
    return dtype


def load_model(recipe: Recipe, dtype: torch.dtype) -> Any:
    """The transformers model of a recipe, without head, in eval mode, on the CPU. Raises ModelError.

    Built without initial values; weights that have the dtype already stay mapped from their files and cost no memory
    of this process, so that those of a node share them.
    """
    for file in weight_files(Path(recipe.folder)):
        weights.check_whole(file)
    options = {"add_pooling_layer": False} if recipe.model_type in _HAVE_POOLER else {}
    try:
        with quiet_transformers():
            model, report = transformers.AutoModel.from_pretrained(
                recipe.folder,
                dtype=dtype,
                attn_implementation=_attention(recipe),
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are in the report: refused below, in one sentence
                **options,
            )
    except (ValueError, OSError, SafetensorError) as error:
        raise ModelError(
            f"transformers cannot load {recipe.folder}: {error}. Fetch the model again, or use a model type that "
            "transformers supports."
        ) from error
    mismatched = (name for name, *_ in report["mismatched_keys"])
    missing = sorted(map(str, (*report["missing_keys"], *mismatched)))
    if missing:  # transformers fills these with random numbers and goes on
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ModelError(
            f"The weights in {recipe.folder} do not fit config.json: {counted(len(missing), 'tensor')} missing or "
            f"with another shape ({some}). Fetch the model again."
        )
    if recipe.model_type == "mistral":
        # A row is never longer than the window (the recipe refuses that), so the window never acts; but from its
        # length on transformers would build an explicit mask, which keeps PyTorch from its flash kernel.
        model.config.sliding_window = None
    return model.eval()


def _attention(recipe: Recipe) -> str:
    """The attn_implementation for transformers."""
    if is_plain_decoder(recipe):
        return ATTENTION
    return "eager" if recipe.model_type in _NO_SDPA else "sdpa"


def to_device(model: Any, device: str) -> Any:
    """The model on its device. Raises ModelError if it does not fit, if possible before anything is copied."""
    if device == "cpu":
        return model
    needed = sum(tensor.nbytes for tensor in itertools.chain(model.parameters(), model.buffers()))
    room.check_device(needed, torch.cuda.mem_get_info()[0], device)
    try:
        return model.to(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(room.no_room_on(device, needed, torch.cuda.mem_get_info()[0])) from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bar and no report of unused keys: `load_model` checks what matters."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()
