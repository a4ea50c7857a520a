"""Loads a transformers model from its folder and moves it to its device; refuses what would give wrong vectors.

Safetensors only, no remote code. Whether a GPU has room for the weights is asked before any are fetched. Knows no texts
and no batches.
"""

import contextlib
import copy
import inspect
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

from sfr_batch.config.settings import ModelSettings
from sfr_batch.encoder import segments
from sfr_batch.encoder.attention import ATTENTION
from sfr_batch.encoder.decoder import is_plain_decoder
from sfr_batch.encoder.devices import free_memory, release_memory
from sfr_batch.encoder.faults import is_out_of_memory
from sfr_batch.encoder.fp8 import Fp8Linear, bytes_saved, check_kernel, quantize_linears
from sfr_batch.encoder.tensors import check_tensors
from sfr_batch.errors import ConfigError, ModelError
from sfr_batch.model.recipe import Recipe, read_recipe
from sfr_batch.model.repository import weights
from sfr_batch.model.repository.families import FAMILIES
from sfr_batch.model.repository.folder import weight_files
from sfr_batch.model.sources import room
from sfr_batch.model.sources.location import locate


def torch_dtype(compute_dtype: str) -> torch.dtype:
    """The dtype of loaded weights and of activations; for fp8 see `encoder.fp8`."""
    dtype: torch.dtype = torch.bfloat16 if compute_dtype == "fp8" else getattr(torch, compute_dtype)
    return dtype


def check_gpu(settings: ModelSettings) -> None:
    """Raises ModelError if the weights of a model, and what computes with them, do not fit into what is free of its
    GPU, in this process' share, and ConfigError if PyTorch does not multiply in fp8 there, or no such model anywhere.

    No weights are fetched or read for it: config.json tells their sizes. A CPU is not asked, since weights stay mapped
    from their files there. Raises what `read_recipe` raises, too.
    """
    if settings.compute_dtype == "fp8":
        _check_fp8(read_recipe(locate(settings, weights=False), settings))
    if settings.device == "cpu":
        return
    segments.let_grow(settings.device)  # before anything is allocated there
    needed = bytes_needed(read_recipe(locate(settings, weights=False), settings), settings.compute_dtype)
    if needed + room.BESIDE_WEIGHTS > free_memory(settings.device):
        release_memory()  # of a model before this one, whose compiled layers refer to themselves
    room.check_device(needed, free_memory(settings.device), settings.device)
    if settings.compute_dtype == "fp8":
        check_kernel(torch.device(settings.device))


def _check_fp8(recipe: Recipe) -> None:
    if _encoder_only(recipe):
        raise ConfigError(
            f"model.dtype is fp8, but models of type {recipe.model_type} ({recipe.folder}/config.json) cannot compute "
            "in it: in transformers their MLPs turn what they multiply into the dtype of their weights. Set "
            "model.dtype=bfloat16, whose vectors are others, in a table of its own."
        )


def bytes_needed(recipe: Recipe, compute_dtype: str) -> int:
    """The bytes of a model's weights on its device, by its config.json; T5's in float16, some of which stay in float32,
    are more. Raises ModelError if config.json describes no model."""
    with quiet_transformers(), _in_sentences(recipe):
        config = _config(recipe)
        model_class = _model_class(recipe, config)
        with torch.device("meta"):
            model = model_class._from_config(config, dtype=torch_dtype(compute_dtype), **_options(recipe, model_class))
    return _bytes_on_device(model, fp8=compute_dtype == "fp8")


def _bytes_on_device(model: Any, *, fp8: bool) -> int:
    whole = sum(int(tensor.nbytes) for tensor in itertools.chain(model.parameters(), model.buffers()))
    return whole - (bytes_saved(model) if fp8 else 0)


def load_model(recipe: Recipe, dtype: torch.dtype) -> Any:
    """The transformers model of a recipe, without head, in eval mode, on the CPU. Raises ModelError.

    Built without initial values; weights that have the dtype already stay mapped from their files and cost no memory
    of this process, so that those of a node share them.
    """
    for file in weight_files(Path(recipe.folder)):
        weights.check_whole(file)
    with quiet_transformers(), _in_sentences(recipe):
        config = _config(recipe)
        model_class = _model_class(recipe, config)
        model, report = model_class.from_pretrained(
            recipe.folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report: refused below, in one sentence
            **_options(recipe, model_class),
        )
    check_tensors(
        recipe.folder,
        recipe.model_type,
        missing=report["missing_keys"],
        mismatched=[name for name, *_ in report["mismatched_keys"]],
        unused=report["unexpected_keys"],
        parameters=len(model.state_dict()),
        heads=lambda: _names_of_head(config),
    )
    _check_positions(recipe, model.config)
    if recipe.model_type == "mistral":
        # A row is never longer than the window (the recipe refuses that), so the window never acts; but from its
        # length on transformers would build an explicit mask, which keeps PyTorch from its flash kernels.
        model.config.sliding_window = None
    return model.eval()


def count_parameters(model: Any) -> int:
    """The numbers of a model's weights, quantized ones included."""
    quantized = (module.weight for module in model.modules() if isinstance(module, Fp8Linear))
    return sum(tensor.numel() for tensor in itertools.chain(model.parameters(), quantized))


def _config(recipe: Recipe) -> Any:
    """config.json as transformers reads it, with what is harmless set as the forward pass needs it."""
    config = transformers.AutoConfig.from_pretrained(recipe.folder, trust_remote_code=False, local_files_only=True)
    if config.is_encoder_decoder and not _encoder_only(recipe):
        raise ModelError(
            f"{recipe.folder}/config.json describes a model with encoder and decoder of type {recipe.model_type}, "
            "which is not supported. Use a model that is one of both."
        )
    config.return_dict = True
    config.output_attentions = config.output_hidden_states = False
    if hasattr(config, "use_cache"):
        config.use_cache = False
    return config


def _encoder_only(recipe: Recipe) -> str | None:
    family = FAMILIES.get(recipe.model_type)
    return family.encoder_only if family else None


def _model_class(recipe: Recipe, config: Any) -> Any:
    """The class without head that AutoModel would load, or that of the encoder alone, as sentence-transformers does."""
    if name := _encoder_only(recipe):
        return getattr(transformers, name)
    classes = transformers.MODEL_MAPPING[type(config)]
    if not isinstance(classes, list | tuple):
        return classes
    named = {one.__name__: one for one in classes}
    return next((named[name] for name in config.architectures or () if name in named), classes[0])


_HEADS = ("LMHeadModel", "ForCausalLM", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification")
"""Endings of classes whose head is of a task. Heads for embeddings, such as ForRetrieval, are not among them."""


def _names_of_head(config: Any) -> set[str]:
    """The tensors of the head of the class that config.json names, as transformers builds it; empty without one."""
    names: set[str] = set()
    for architecture in config.architectures or ():
        model_class = getattr(transformers, architecture, None) if architecture.endswith(_HEADS) else None
        if model_class is not None and model_class.config_class is type(config):
            with torch.device("meta"):
                whole = model_class(copy.deepcopy(config))
            inside = f"{whole.base_model_prefix}."
            names.update(name for name in whole.state_dict() if not name.startswith(inside))
    return names


def _options(recipe: Recipe, model_class: Any) -> dict[str, Any]:
    """How the class is built. No recipe here uses a pooler layer, so it is neither loaded nor computed where the class
    can leave it out."""
    takes_pooling_layer = "add_pooling_layer" in inspect.signature(model_class.__init__).parameters
    without_pooler = {"add_pooling_layer": False} if takes_pooling_layer else {}
    return {"attn_implementation": _attention(recipe, model_class), **without_pooler}


def _attention(recipe: Recipe, model_class: Any) -> str:
    """The attn_implementation for transformers: eager where PyTorch's attention lacks something, such as a bias of
    relative positions or a soft cap."""
    if is_plain_decoder(recipe):
        return ATTENTION
    return "sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager"


def _check_positions(recipe: Recipe, config: Any) -> None:
    """Refuses rows beyond the positions that the class has by default, where config.json does not say how many."""
    known = getattr(config, "max_position_embeddings", None)
    if isinstance(known, int) and (family := FAMILIES.get(recipe.model_type)) and family.offset:
        rotary = getattr(config, "position_embedding_type", None) == "rotary"
        known -= 0 if rotary else (config.pad_token_id or 0) + 1
    if isinstance(known, int) and 0 < known < recipe.max_length:
        raise ModelError(
            f"{recipe.max_length} tokens per row exceed {known}, the max_position_embeddings of a {recipe.model_type} "
            f"model where {recipe.folder}/config.json does not say it. Set model.max_length to at most {known}."
        )


@contextlib.contextmanager
def _in_sentences(recipe: Recipe) -> Iterator[None]:
    """Turns whatever transformers raises while it reads config.json and builds the model into a ModelError."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise ModelError(room.no_room_to_read(recipe.folder, free_memory("cpu"))) from error
        said = " ".join(str(error).split())
        kind = "" if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: "
        raise ModelError(
            f"transformers cannot load {recipe.folder} as its config.json describes it: {kind}{said[:400]}. Correct "
            "the key that it names, fetch the model again, or use a model type that transformers supports."
        ) from error


def to_device(model: Any, device: str, *, fp8: bool = False) -> Any:
    """The model on its device. Raises ModelError if that is full by now, see `check_gpu`.

    fp8: whether its linear layers become `Fp8Linear` on the way, each as it is copied.
    """
    if device == "cpu":
        if fp8:
            quantize_linears(model)
        return model
    needed, free = _bytes_on_device(model, fp8=fp8), free_memory(device)
    try:
        if fp8:
            quantize_linears(model, torch.device(device))
        return model.to(device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(room.no_room_on(device, needed, free)) from error


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
