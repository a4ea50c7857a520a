"""The encoder: a model, its tokenizer and its recipe on one device; texts or token ids in, unit vectors out.

Knows neither Ray nor storage. Rows go through the device sorted by length under a budget of padded tokens, each
distinct row once, and come back in input order. Pooling and normalization run in float32 whatever the model runs in.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import transformers
from numpy.typing import NDArray
from safetensors import SafetensorError

from sfr_batch import batching, prompts, weights
from sfr_batch.config import BATCH_TOKENS, ModelSettings
from sfr_batch.encoder.decoder import ATTENTION, Decoder, Prefix
from sfr_batch.encoder.pooling import POOLINGS
from sfr_batch.errors import ConfigError, ModelError
from sfr_batch.model import Recipe, locate, read_recipe, weight_files
from sfr_batch.tokenizer import Chunked, Tokenizer

FloatArray = NDArray[np.float32]

# Their pooler layer is no part of any recipe here; without it, it is neither loaded nor computed.
_HAVE_POOLER = frozenset({"bert", "roberta", "xlm-roberta", "camembert", "mpnet"})
# PyTorch's attention has no place for their relative position bias.
_NO_SDPA = frozenset({"mpnet"})
# Their layers are of one shape, which `decoder` knows.
_DECODERS = frozenset({"mistral", "llama", "qwen2", "qwen3"})


SHORTEST_PREFIX = 8
PREFIX_SHARE = 0.1
"""Tokens that rows must have in common, and the share of all tokens that this must save, to be computed once: attention
over a prefix costs a copy of its keys in each layer and batch."""


@dataclass(frozen=True)
class EncodedTokens:
    """Vectors of n rows, and what they cost."""

    vectors: FloatArray
    """[n, d] unit length, in input order. Not finite where the model's own output was not."""
    padded_tokens: int
    """Tokens that the device computed, padding included."""
    tokens: int
    """Real tokens among them. Rows that repeat were computed once and count once."""
    batches: int
    """Forward passes."""

    def __repr__(self) -> str:
        padding = 1 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0
        done = f"{self.tokens} tokens, {padding:.1%} padding, {self.batches} batches"
        return f"<EncodedTokens {len(self.vectors)} rows, {done}>"


class Encoder:
    """One model on one device."""

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        recipe: Recipe,
        *,
        max_batch_tokens: int | None = None,
        deterministic: bool = False,
    ) -> None:
        """Use `Encoder.load`. ``model`` is a transformers model without head, on its device, in eval mode."""
        self.recipe = recipe
        self.tokenizer = tokenizer
        self._model = model
        self._device = next(model.parameters()).device
        self.max_batch_tokens = max_batch_tokens or BATCH_TOKENS[self._device.type]
        """Padded tokens of a batch at most. Falls when the device runs out of memory, and stays there."""
        self.reuse_prefix = True
        """Whether tokens that all rows begin with are computed once. Their vectors differ by rounding alone."""
        self.deterministic = deterministic
        """Whether each row is computed by itself, so that its neighbours cannot change how it is rounded."""
        # Some architectures derive positions from this id, so it must be theirs, whatever the mask says.
        self._pad_id = int(getattr(model.config, "pad_token_id", None) or 0)
        self._decoder = Decoder(model) if _is_plain_decoder(recipe) else None

    def __repr__(self) -> str:
        r, parameter = self.recipe, next(self._model.parameters())
        dtype = str(parameter.dtype).removeprefix("torch.")
        return f"<Encoder {r.model_type}, {r.dim} dims, {r.pooling}, {r.max_length} tokens, {dtype} on {self._device}>"

    @classmethod
    def load(
        cls,
        settings: ModelSettings,
        *,
        max_batch_tokens: int | None = None,
        torch_threads: int | None = None,
        weight_hashes: Mapping[str, str] | None = None,
    ) -> "Encoder":
        """Load weights and tokenizer as the repository and the settings say.

        max_batch_tokens: padded tokens of a batch, default is what suits the device. torch_threads: set for the whole
        process; default is all usable cores for device cpu, 1 for cuda. weight_hashes: SHA-256 by file name that the
        weights on this node must have, as a fingerprint names them. Raises ModelError, ConfigError or StorageError.
        """
        require_device(settings.device)
        if torch_threads is None:
            torch_threads = len(os.sched_getaffinity(0)) if settings.device == "cpu" else 1
        torch.set_num_threads(torch_threads)
        folder = locate(settings, weights=True)
        if weight_hashes is not None:
            weights.check(weight_files(folder), weight_hashes)
        recipe = read_recipe(folder, settings)
        tokenizer = Tokenizer.load(recipe, special_tokens_in_text=settings.special_tokens_in_text)
        model = to_device(load_model(recipe, getattr(torch, settings.compute_dtype)), settings.device)
        return cls(
            model,
            tokenizer,
            recipe,
            max_batch_tokens=max_batch_tokens,
            deterministic=settings.deterministic,
        )

    @property
    def dim(self) -> int:
        return self.recipe.dim

    def encode(self, texts: Sequence[str], prompt: str | None = None) -> FloatArray:
        """[n, d] unit vectors of ``texts``, in their order.

        prompt: the name of a prompt, such as "query" or "document", whose text is put before each text; None puts
        nothing. One vector a text whatever `model.overflow` says: what is beyond the recipe's max_length is cut off
        (`tokenizer.encode(...).truncated` tells where). For several vectors a text see `chunks`. Raises ConfigError
        for a name that is not known.
        """
        if isinstance(texts, str):
            raise TypeError("encode takes a list of texts; for one text write encode([text])[0]")
        tokenized = self.tokenizer.encode(texts, prompts.resolve(self.recipe.prompts, prompt))
        return self.encode_tokens(tokenized.lengths, tokenized.flat_ids).vectors

    def chunks(
        self, texts: Sequence[str], prompt: str | None = None, chunk_tokens: int | None = None, overlap: int = 0
    ) -> tuple[Chunked, FloatArray]:
        """Cut texts into chunks, as a table with `model.overflow: chunk` does, and encode these.

        Returns which text and characters each of the m chunks is, and their vectors [m, d]. Arguments and errors as
        of `Tokenizer.chunk` and `encode`.
        """
        chunked = self.tokenizer.chunk(texts, prompts.resolve(self.recipe.prompts, prompt), chunk_tokens, overlap)
        return chunked, self.encode_tokens(chunked.tokenized.lengths, chunked.tokenized.flat_ids).vectors

    def encode_tokens(self, lengths: NDArray[np.integer], flat_ids: NDArray[np.int32]) -> EncodedTokens:
        """Vectors of rows that are tokenized already: ``lengths`` [n], all >= 1, and their ids one after the other."""
        first, inverse = batching.unique_rows(lengths, flat_ids)
        starts = (np.cumsum(lengths, dtype=np.int64) - lengths)[first]
        own: NDArray[np.int64] = lengths[first].astype(np.int64)
        prefix = self._prefix(starts, own, flat_ids)
        shared = prefix.length if prefix else 0
        starts, own = starts + shared, own - shared
        vectors = np.empty((len(first), self.dim), np.float32)
        done: list[tuple[NDArray[np.int64], torch.Tensor]] = []
        computed = shared
        queue = batching.length_batches(own, 1 if self.deterministic else self.max_batch_tokens)
        while queue:
            rows = queue[0]
            width = int(own[rows].max())
            try:
                result = self._forward(starts[rows], own[rows], flat_ids, prefix)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                self._shrink(len(rows), width, error)
                result = None
            if result is None:  # outside of `except`, whose traceback keeps the batch's tensors alive
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
                rest = np.concatenate(queue)
                queue = [rest[batch] for batch in batching.length_batches(own[rest], self.max_batch_tokens)]
                continue
            done.append((rows, result))
            computed += len(rows) * width
            queue.pop(0)
        # Copied at the end: a copy after every batch would make the device wait for the host each time.
        for rows, result in done:
            vectors[rows] = result.cpu().numpy()
        return EncodedTokens(vectors[inverse], computed, shared + int(own.sum()), len(done))

    def _prefix(
        self, starts: NDArray[np.int64], lengths: NDArray[np.int64], flat_ids: NDArray[np.int32]
    ) -> Prefix | None:
        """The tokens that all rows begin with, an instruction above all, computed once; None where it would not pay."""
        if self._decoder is None or not self.reuse_prefix or self.deterministic or not len(lengths):
            return None
        shared = batching.shared_prefix(starts, lengths, flat_ids)
        if shared < SHORTEST_PREFIX or shared * (len(lengths) - 1) < PREFIX_SHARE * lengths.sum():
            return None
        ids = flat_ids[starts[0] : starts[0] + shared].astype(np.int64)
        with torch.inference_mode():
            return self._decoder.prefix(self._to_device(ids))

    def _shrink(self, rows: int, width: int, error: RuntimeError) -> None:
        """Halve the budget below the batch that did not fit. Raises ModelError if that batch was a single row."""
        if rows == 1:
            raise ModelError(
                f"One row of {width} tokens does not fit into the memory of {self._device}. Lower model.max_length, "
                "use a smaller model.dtype, or a device with more memory."
            ) from error
        self.max_batch_tokens = max(width, rows * width // 2)

    def _forward(
        self,
        starts: NDArray[np.int64],
        lengths: NDArray[np.int64],
        flat_ids: NDArray[np.int32],
        prefix: Prefix | None,
    ) -> torch.Tensor:
        """[b, d] float32 unit vectors of one batch, on the device; ``prefix`` stands before each row."""
        width = int(lengths.max())
        ragged = width != int(lengths.min())
        places = np.arange(width)
        real = places < lengths[:, None]
        ids = np.full((len(lengths), width), self._pad_id, np.int64)
        ids[real] = flat_ids[(starts[:, None] + places)[real]]
        with torch.inference_mode():
            input_ids = self._to_device(ids)
            if self._decoder is not None:
                states = self._decoder.states(input_ids, self._to_device(lengths - 1), prefix)
                return F.normalize(states.float(), p=2, dim=1)
            mask = self._to_device(real)
            inputs: dict[str, Any] = {"input_ids": input_ids}
            if self.recipe.causal:
                # No mask: padding stands on the right, where no real token looks, and without a mask PyTorch can
                # choose its flash kernel.
                inputs["use_cache"] = False
            elif ragged:
                inputs["attention_mask"] = mask.long()
            hidden = self._model(**inputs).last_hidden_state
            return F.normalize(POOLINGS[self.recipe.pooling](hidden, mask), p=2, dim=1)

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)


def require_device(device: str) -> None:
    """Raises ConfigError if PyTorch cannot use this device here."""
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "model.device is cuda, but PyTorch sees no GPU here. Set model.device=cpu and run.actors.gpus=0, or "
            "check the driver and that PyTorch is a CUDA build."
        )


def load_model(recipe: Recipe, dtype: torch.dtype) -> Any:
    """The transformers model of a recipe, without head, in eval mode, on the CPU. Raises ModelError.

    Built without initial values; weights that have the dtype already stay mapped from their files and cost no memory
    of this process, so that those of a node share them.
    """
    for file in weight_files(Path(recipe.folder)):
        weights.check_whole(file)
    options = {"add_pooling_layer": False} if recipe.model_type in _HAVE_POOLER else {}
    try:
        with _quiet_transformers():
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
            f"transformers cannot load {recipe.folder}: {error}. Fetch the model again, or use one of a type that "
            "transformers supports."
        ) from error
    mismatched = (name for name, *_ in report["mismatched_keys"])
    missing = sorted(map(str, (*report["missing_keys"], *mismatched)))
    if missing:  # transformers fills these with random numbers and goes on
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise ModelError(
            f"The weights in {recipe.folder} do not fit config.json: {len(missing)} tensors are missing or of another "
            f"shape ({some}). Fetch the model again."
        )
    if recipe.model_type == "mistral":
        # A row is never longer than the window (the recipe refuses that), so the window never acts; but from its
        # length on transformers would build an explicit mask, which keeps PyTorch from its flash kernel.
        model.config.sliding_window = None
    return model.eval()


def _is_plain_decoder(recipe: Recipe) -> bool:
    return recipe.model_type in _DECODERS and recipe.pooling == "last_token"


def _attention(recipe: Recipe) -> str:
    """What transformers is to compute attention with."""
    if _is_plain_decoder(recipe):
        return ATTENTION
    return "eager" if recipe.model_type in _NO_SDPA else "sdpa"


def to_device(model: Any, device: str) -> Any:
    """The model on its device. Raises ModelError if it does not fit, before anything is copied if that is known."""
    if device == "cpu":
        return model
    needed = sum(tensor.nbytes for tensor in itertools.chain(model.parameters(), model.buffers()))
    weights.check_device(needed, torch.cuda.mem_get_info()[0], device)
    try:
        return model.to(device)
    except RuntimeError as error:
        if not _out_of_memory(error):
            raise
        raise ModelError(weights.no_room_on(device, needed, torch.cuda.mem_get_info()[0])) from error


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar and no report of unused keys: what matters of it is checked and raised."""
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
