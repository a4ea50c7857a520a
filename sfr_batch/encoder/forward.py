"""One batch of token ids through the model: unit vectors, in float32 and still on the device.

Padded rows form a rectangle, with padding on the right; packed rows follow each other without padding. The vectors
differ only by rounding. Knows no texts and no other batch.
"""

import contextlib
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel

from sfr_batch.encoder.attention import ATTENTION, IN_16_BITS, Packing, Prefix, packed_takes_groups
from sfr_batch.encoder.decoder import Decoder, is_plain_decoder
from sfr_batch.encoder.devices import has_flash
from sfr_batch.encoder.faults import is_of_the_device, is_out_of_memory
from sfr_batch.encoder.layers import Finish
from sfr_batch.encoder.pooling import pool, pool_packed
from sfr_batch.errors import ConfigError
from sfr_batch.model.recipe import Recipe
from sfr_batch.model.repository.families import TESTED

IntArray = NDArray[np.int64]

# Bidirectional models that take positions as an argument, and whether they count them from behind the padding id.
_PACKABLE = {"bert": False, "roberta": True, "xlm-roberta": True, "camembert": True}


_NOT_CUDNN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_LARGEST_HEAD = 256
_NO_KERNEL = "no kernel image"
"""CUDA's words for a kernel that was not built for a GPU, which is whole then."""


class Forward:
    """A transformers model without head, on its device, in eval mode, as its recipe says."""

    def __init__(self, model: Any, recipe: Recipe, packed: bool | None) -> None:
        """packed: see `pack`. Raises what that raises, and ModelError if layers cannot be loaded."""
        parameter = next(model.parameters())
        self.device: torch.device = parameter.device
        self.finish = Finish(recipe, self.device)
        """From pooled vectors to final ones."""
        self.decoder = Decoder(model) if is_plain_decoder(recipe) else None
        self._model = model
        self._recipe = recipe
        # Some architectures derive positions from this id, so it must be theirs, whatever the mask says.
        self.pad_id = max(int(getattr(model.config, "pad_token_id", None) or 0), 0)
        self._counts_from_padding = bool(_PACKABLE.get(recipe.model_type))
        self._needs_no_mask = recipe.causal and recipe.model_type in TESTED
        # Asked once: whether packed rows have a kernel of their own.
        self._packs_well = parameter.dtype in IN_16_BITS and has_flash(self.device) and _fits_flash(model.config)
        if hasattr(model.config, "use_cache"):
            model.config.use_cache = False
        self.pack(packed)

    @property
    def can_pack(self) -> bool:
        return self.decoder is not None or self._recipe.model_type in _PACKABLE

    def pack(self, packed: bool | None) -> None:
        """Make batches packed, or padded, from now on; None: packed if there is a kernel for them, which makes them the
        faster ones. Raises ConfigError if rows of such a model cannot be packed."""
        if packed is None:
            packed = self.can_pack and self._packs_well
        if packed and not self.can_pack:
            raise ConfigError(
                f"run.batches is packed, but rows of this model ({self._recipe.model_type}, {self._recipe.pooling} "
                "pooling) cannot be packed. Set run.batches=padded."
            )
        self.packed = packed
        if self.can_pack and self.decoder is None:
            self._model.set_attn_implementation(ATTENTION if packed else "sdpa")

    def why_not_packed(self) -> str:
        """What PyTorch says to packed rows, of which two are tried; empty if it computes them, or has no kernel of
        their own to try. Raises what is the fault of the device, or of its memory.

        That a card is new enough does not say that this build has the kernel for it.
        """
        if not (self.packed and self._packs_well):
            return ""
        lengths = np.array([2, 1], np.int64)
        try:
            # Kernels run later than the calls that start them.
            self.pooled(np.array([0, 2]), lengths, np.zeros(3, np.int32)).cpu()
        except Exception as error:
            if is_out_of_memory(error) or (is_of_the_device(error) and _NO_KERNEL not in str(error)):
                raise
            self._packs_well = False  # who packs rows all the same does without it
            return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return ""

    def prefix(self, ids: NDArray[np.int32]) -> Prefix:
        """The keys and values of the tokens ``ids`` [p], for a batch whose rows begin with them. Only for decoders."""
        assert self.decoder is not None
        with torch.inference_mode(), self.kernels():
            return self.decoder.prefix(self._to_device(ids.astype(np.int64)))

    def beside(self, prefix: Prefix | None) -> int:
        """The tokens of a batch that take as much of a GPU's memory as the keys and values of ``prefix``, which each
        layer copies for each row. 0 on a CPU, whose batches are small."""
        if prefix is None or self.device.type == "cpu":
            return 0
        config = self._model.config
        heads, of_keys, width = config.num_attention_heads, config.num_key_value_heads, _size_of_heads(config)
        copied = 2 * of_keys * width
        if not (self.packed and self._packs_well and packed_takes_groups()):
            copied += 2 * heads * width  # repeated for each head of queries
        # A layer takes most of its memory in its MLP, and attention none of what that needs.
        of_a_token = 3 * config.intermediate_size + 2 * config.hidden_size
        return math.ceil(prefix.length * float(copied / of_a_token))

    def __call__(
        self,
        starts: IntArray,
        lengths: IntArray,
        flat_ids: NDArray[np.int32],
        prefix: Prefix | None = None,
        *,
        normalize: bool = True,
    ) -> torch.Tensor:
        """[b, d] float32 unit vectors of b rows, on the device. starts, lengths: [b] the place of their ids in
        ``flat_ids``; ``prefix`` precedes each row. normalize: false leaves the vectors their own lengths. Not finite
        where the model's own output is not."""
        with torch.inference_mode():
            return self.finish(self.pooled(starts, lengths, flat_ids, prefix), normalize=normalize)

    def pooled(
        self, starts: IntArray, lengths: IntArray, flat_ids: NDArray[np.int32], prefix: Prefix | None = None
    ) -> torch.Tensor:
        """[b, h] pooled hidden states, before what `finish` does to them. Arguments as when it is called."""
        with torch.inference_mode(), self.kernels():
            run = self._packed if self.packed else self._padded
            return run(starts, lengths, flat_ids, prefix)

    def kernels(self) -> contextlib.AbstractContextManager[None]:
        """On a GPU, attention without cuDNN, which PyTorch prefers on Hopper and later: it builds a plan for every
        shape of a batch, and nearly each has its own. That takes longer than the plan saves, and none is ever freed."""
        # Also for rows that are computed alone (model.deterministic), although on Hopper these are other bits than
        # those of PyTorch's own choice. It does not promise to repeat those: asked for deterministic algorithms, it
        # leaves cuDNN's attention out as well (sdp_utils.cpp, check_cudnn_deterministic).
        return contextlib.nullcontext() if self.device.type == "cpu" else sdpa_kernel(_NOT_CUDNN)

    def _padded(
        self, starts: IntArray, lengths: IntArray, flat_ids: NDArray[np.int32], prefix: Prefix | None
    ) -> torch.Tensor:
        width = int(lengths.max())
        ragged = width != int(lengths.min())
        places = np.arange(width)
        real = places < lengths[:, None]
        ids = np.full((len(lengths), width), self.pad_id, np.int64)
        ids[real] = flat_ids[(starts[:, None] + places)[real]]
        input_ids = self._to_device(ids)
        if self.decoder is not None:
            last = self._to_device(np.arange(len(lengths)) * width + lengths - 1)
            at = torch.arange(width, device=self.device).unsqueeze(0) + (prefix.length if prefix else 0)
            return self.decoder.states(input_ids, at, last, prefix)
        mask = self._to_device(real)
        inputs: dict[str, Any] = {"input_ids": input_ids}
        # Without a mask PyTorch's flash kernels can be used. A causal model needs none: padding stands on the right,
        # where no real token looks. Families that no test compares get one always: some would take it from the ids.
        if not self._needs_no_mask and (ragged or self._recipe.model_type not in TESTED):
            inputs["attention_mask"] = mask.long()
        return pool(self._recipe.pooling, self._model(**inputs).last_hidden_state, mask)

    def _packed(
        self, starts: IntArray, lengths: IntArray, flat_ids: NDArray[np.int32], prefix: Prefix | None
    ) -> torch.Tensor:
        shared = prefix.length if prefix else 0
        packing = Packing(lengths, shared, self._to_device if self._packs_well else None)
        ends = np.cumsum(lengths)
        at = np.arange(ends[-1]) - (ends - lengths).repeat(lengths)
        flat = flat_ids[starts.repeat(lengths) + at].astype(np.int64)
        ids = self._to_device(flat).unsqueeze(0)
        if self._counts_from_padding:
            at = _places_behind_padding(flat, lengths, self.pad_id)
        places = self._to_device(at + shared).unsqueeze(0)
        if self.decoder is not None:
            return self.decoder.states(ids, places, self._to_device(ends - 1), prefix, packing)
        hidden = self._model(
            input_ids=ids,
            position_ids=places,
            token_type_ids=torch.zeros_like(ids),
            packing=packing,
        ).last_hidden_state[0]
        firsts_and_sizes = self._to_device(np.stack([ends - lengths, lengths]))
        return pool_packed(self._recipe.pooling, hidden, lengths, firsts_and_sizes)

    def _to_device(self, array: NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self.device.type == "cpu":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)


def _fits_flash(config: Any) -> bool:
    """Whether the flash kernels take heads of this size."""
    size = _size_of_heads(config)
    return 0 < size <= _LARGEST_HEAD and size % 8 == 0


def _size_of_heads(config: Any) -> int:
    """0 if unknown."""
    heads = getattr(config, "num_attention_heads", None)
    return int(getattr(config, "head_dim", None) or (getattr(config, "hidden_size", 0) // heads if heads else 0))


def _places_behind_padding(ids: IntArray, lengths: IntArray, pad_id: int) -> IntArray:
    """Positions of the tokens of packed rows, as create_position_ids_from_input_ids of transformers counts them: from
    pad_id + 1, without tokens that are the padding id, which a text may hold and which stand at pad_id."""
    real = ids != pad_id
    counted = np.cumsum(real)
    before = (counted - real)[np.cumsum(lengths) - lengths]  # of each row's first token
    places: IntArray = np.where(real, counted - before.repeat(lengths) + pad_id, pad_id)
    return places
