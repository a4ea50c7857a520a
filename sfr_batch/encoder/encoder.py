"""The encoder: a model, its tokenizer and its recipe on one device; texts or token ids in, unit vectors out.

Knows neither Ray nor storage. Rows go through the device sorted by length under a budget of padded tokens, each
distinct row once, and come back in input order. Pooling and normalization run in float32 whatever the model runs in.
"""

import socket
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sfr_batch.config.settings import ModelSettings, batch_tokens
from sfr_batch.encoder import batching
from sfr_batch.encoder.attention import Prefix
from sfr_batch.encoder.company import check_company
from sfr_batch.encoder.compiling import compiling, for_all_shapes
from sfr_batch.encoder.devices import free_memory, require_device, take_share, taken_by_others
from sfr_batch.encoder.encoded import EncodedTokens
from sfr_batch.encoder.faults import is_of_the_device, is_out_of_memory, of_the_device
from sfr_batch.encoder.forward import Forward
from sfr_batch.encoder.fp8 import is_quantized
from sfr_batch.encoder.launched import Arriving, Launched, Result
from sfr_batch.encoder.loading import check_gpu, count_parameters, load_model, to_device, torch_dtype
from sfr_batch.encoder.threads import using
from sfr_batch.errors import ConfigError, DeviceError, ModelError, TextError
from sfr_batch.model import prompts
from sfr_batch.model.recipe import Recipe, read_recipe
from sfr_batch.model.repository.families import TESTED
from sfr_batch.model.repository.folder import weight_files
from sfr_batch.model.sources import room
from sfr_batch.model.sources.location import locate
from sfr_batch.model.sources.weight_hashes import check_weights
from sfr_batch.model.tokenization.tokenizer import Chunked, Tokenizer

FloatArray = NDArray[np.float32]

SHORTEST_PREFIX = 8
PREFIX_SHARE = 0.1
"""Fewest tokens of a common prefix, and the smallest share of all tokens that it must save, for it to be computed once:
attention over a prefix costs a copy of its keys in each layer and batch."""
MOST_FAILED = 32
"""Most rows of one call that are blamed for errors; more failures are hardly due to rows."""
_EACH_GRAPH = ((3, 2), (2,), (1,), (1, 1))
"""Lengths of rows of batches for which kernels are compiled: of several rows and of one, of several tokens and of one.
PyTorch knows no symbol for 1."""
_SANE = "A text that any encoder can encode."


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
        torch_threads: int | None = None,
        packed: bool | None = None,
    ) -> None:
        """Use `Encoder.load`. ``model`` is a transformers model without head, on its device, in eval mode."""
        self.recipe = recipe
        self.tokenizer = tokenizer
        self._model = model
        # Rows that are computed alone have no padding: they stay as they were before there were packed ones.
        self._forward = Forward(model, recipe, False if packed is None and deterministic else packed)
        self._device = self._forward.device
        self.max_batch_tokens = max_batch_tokens or batch_tokens(self._device.type, count_parameters(model))
        """Most tokens of a batch, padding included; on a GPU, keys of a common prefix count by their memory. Lowered
        for good when the device runs out of it."""
        self.reuse_prefix = True
        """Whether tokens that all rows begin with are computed once. Their vectors differ only by rounding."""
        self.deterministic = deterministic
        """Whether each row is computed by itself, so that other rows cannot change its rounding."""
        self.fused = False
        """Whether the small operations of its layers are compiled, see `fuse`."""
        self.remark = ""
        """What whoever runs it should know, and what does no harm; empty if there is nothing."""
        self._largest_row = 0
        """Tokens of the largest row that was computed, with those that its prefix takes of the budget."""
        self.torch_threads = torch_threads
        """PyTorch's threads while this encoder computes; None: those that the process has."""
        self.steps = 0
        """Batches that were given to the device, and those whose vectors have come: grows as long as it works."""

    def __repr__(self) -> str:
        r, parameter = self.recipe, next(self._model.parameters())
        dtype = "fp8" if is_quantized(self._model) else str(parameter.dtype).removeprefix("torch.")
        return f"<Encoder {r.model_type}, {r.dim} dims, {r.pooling}, {r.max_length} tokens, {dtype} on {self._device}>"

    @classmethod
    def load(
        cls,
        settings: ModelSettings,
        *,
        max_batch_tokens: int | None = None,
        torch_threads: int | None = None,
        weight_hashes: Mapping[str, str] | None = None,
        packed: bool | None = None,
        fuse: bool | None = False,
        memory_share: float = 1,
    ) -> "Encoder":
        """Load weights and tokenizer as the repository and the settings say.

        max_batch_tokens: tokens of a batch, padding included; default is what suits device and model. torch_threads:
        while this encoder computes; default is what the process has, such as OMP_NUM_THREADS says. weight_hashes:
        SHA-256 by file name that the weights on this node must have, as a fingerprint names them. packed, fuse:
        `run.batches` and `run.fuse`; None: their defaults, without what fails on this device (`remark` says so).
        memory_share: the part of a GPU's memory that this process may use. Raises ModelError, ConfigError,
        StorageError, or DeviceError if the device fails.
        """
        if not isinstance(settings, ModelSettings):
            raise ConfigError("Encoder.load takes the model of a config: Encoder.load(load_config(PATH).model).")
        with using(torch_threads), of_the_device(torch.device(settings.device)):
            require_device(settings.device, settings.compute_dtype)
            take_share(settings.device, memory_share)
            try:
                encoder = cls._load(settings, max_batch_tokens, torch_threads, weight_hashes, packed=packed)
                if fuse:
                    encoder.fuse()
                elif fuse is None:
                    encoder.fuse_if_it_can()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                free = free_memory(settings.device)
                raise ModelError(room.no_room_beside_the_model(settings.device, free)) from error
        return encoder

    @classmethod
    def _load(
        cls,
        settings: ModelSettings,
        max_batch_tokens: int | None,
        torch_threads: int | None,
        weight_hashes: Mapping[str, str] | None,
        *,
        packed: bool | None,
    ) -> "Encoder":
        check_gpu(settings)
        folder = locate(settings, weights=True)
        if weight_hashes is not None:
            check_weights(weight_files(folder), weight_hashes, folder)
        recipe = read_recipe(folder, settings)
        tokenizer = Tokenizer.load(recipe, special_tokens_in_text=settings.special_tokens_in_text)
        model = load_model(recipe, torch_dtype(settings.compute_dtype))
        model = to_device(model, settings.device, fp8=settings.compute_dtype == "fp8")
        encoder = cls(
            model,
            tokenizer,
            recipe,
            max_batch_tokens=max_batch_tokens,
            deterministic=settings.deterministic,
            torch_threads=torch_threads,
            packed=packed,
        )
        if why := encoder._forward.why_not_packed():
            encoder.pack(False)  # a model that is at fault itself fails below
        check_company(
            encoder._forward,
            recipe,
            vocabulary=model.get_input_embeddings().weight.shape[0],
            dtype=torch_dtype(settings.compute_dtype),
            tested=recipe.model_type in TESTED,
        )
        if why:
            failed = f"rows cannot be packed on node {socket.gethostname()}: {why}"
            if packed:
                raise ConfigError(f"run.batches is packed, but {failed}. Set run.batches=padded.")
            encoder._say(f"batches are padded, and slower than they could be: {failed}")
        return encoder

    @property
    def packed(self) -> bool:
        """Whether the rows of a batch are packed one after the other, instead of padded to one length."""
        return self._forward.packed

    @property
    def can_pack(self) -> bool:
        """Whether rows of this kind of model can be packed."""
        return self._forward.can_pack

    @property
    def is_decoder(self) -> bool:
        """Whether it is a model that `fuse` is made for."""
        return self._forward.decoder is not None

    def pack(self, packed: bool) -> None:
        """Pack rows from now on, or pad them; vectors differ only by rounding. Raises ConfigError if it cannot."""
        self._forward.pack(packed)

    def fuse(self) -> None:
        """Compile the norms and MLPs of the layers, so that their small operations become one kernel.

        On a GPU each such operation reads and writes all activations. Shapes stay symbolic, so that a few
        compilations serve all batches; they take about a minute. Vectors differ only by rounding. Raises ConfigError if
        they fail, for which a machine without a C compiler is enough; the layers are then as they were.
        """
        small = [m for m in self._model.modules() if type(m).__name__.endswith(("RMSNorm", "MLP"))]
        for module in small:
            module.compile(**for_all_shapes())
        try:
            with compiling("run.fuse", "set run.fuse=false"):
                for lengths in _EACH_GRAPH:
                    rows = np.array(lengths, np.int64)
                    self._forward(np.zeros_like(rows), rows, np.zeros(max(lengths), np.int32))
        except Exception:
            for module in small:
                module._compiled_call_impl = None
            raise
        self.fused = True

    def fuse_if_it_can(self) -> None:
        """`fuse` a model that it is made for, on a GPU, unless rows are computed alone. Where it fails, the layers stay
        as they are, and `remark` says why."""
        if self._device.type == "cpu" or self._forward.decoder is None or self.deterministic:
            return
        try:
            self.fuse()
        except ConfigError as error:
            self._say(f"the layers are not fused, and slower than they could be: {error}")

    def _say(self, remark: str) -> None:
        self.remark = f"{self.remark}; {remark}" if self.remark else remark

    @property
    def dim(self) -> int:
        return self.recipe.dim

    def encode(self, texts: Sequence[str], prompt: str | None = None, *, normalize: bool = True) -> FloatArray:
        """[n, d] unit vectors of ``texts``, in their order. normalize: false leaves them their own lengths.

        prompt: the name of a prompt, such as "query" or "document", whose text is put before each text; None puts
        nothing. Gives one vector per text whatever `model.overflow` is: a text beyond the recipe's max_length is
        truncated (`tokenizer.encode(...).truncated` tells which). For several vectors per text see `chunks`. Raises
        ConfigError for an unknown name, and TextError naming the row for what is no text or has no token left.
        """
        if isinstance(texts, str):
            raise TextError("encode takes a list of texts; for one text write encode([text])[0]")
        tokenized = self.tokenizer.encode(texts, prompts.resolve(self.recipe.prompts, prompt))
        _check_tokens(tokenized.lengths)
        return self.encode_tokens(tokenized.lengths, tokenized.flat_ids, normalize=normalize).vectors

    def chunks(
        self, texts: Sequence[str], prompt: str | None = None, chunk_tokens: int | None = None, overlap: int = 0
    ) -> tuple[Chunked, FloatArray]:
        """Cut texts into chunks, as a table with `model.overflow: chunk` does, and encode these.

        Returns the m chunks, with the text and the characters of each, and their vectors [m, d]. Arguments and errors
        as in `Tokenizer.chunk` and `encode`.
        """
        chunked = self.tokenizer.chunk(texts, prompts.resolve(self.recipe.prompts, prompt), chunk_tokens, overlap)
        _check_tokens(chunked.tokenized.lengths, chunked.text)
        return chunked, self.encode_tokens(chunked.tokenized.lengths, chunked.tokenized.flat_ids).vectors

    def encode_tokens(
        self, lengths: NDArray[np.integer], flat_ids: NDArray[np.int32], *, normalize: bool = True
    ) -> EncodedTokens:
        """Vectors of rows that are tokenized already: ``lengths`` [n], all >= 1, and their ids one after the other.

        Rows on which the model fails while others pass are `EncodedTokens.failed`. Raises DeviceError if the device
        fails, or no longer has room for a row that it had room for, ModelError if a single row does not fit into its
        memory, and any other error of the model that is not due to rows.
        """
        return self.launch(lengths, flat_ids, normalize=normalize).result()

    def launch(self, lengths: NDArray[np.integer], flat_ids: NDArray[np.int32], *, normalize: bool = True) -> Launched:
        """As `encode_tokens`, but a GPU may still have to compute the vectors: other rows can be launched before these
        are fetched. On a CPU all is computed. Not for several threads at once."""
        with of_the_device(self._device), using(self.torch_threads):
            return self._launch(lengths, flat_ids, normalize)

    def _launch(self, lengths: NDArray[np.integer], flat_ids: NDArray[np.int32], normalize: bool) -> Launched:
        first, inverse = batching.unique_rows(lengths, flat_ids)
        starts = (np.cumsum(lengths, dtype=np.int64) - lengths)[first]
        own: NDArray[np.int64] = lengths[first].astype(np.int64)
        prefix = self._prefix(starts, own, flat_ids)
        shared = prefix.length if prefix else 0
        starts, own = starts + shared, own - shared
        arriving = Arriving(len(first), self.dim, self._step)
        failed: dict[int, str] = {}
        computed = shared
        beside = self._forward.beside(prefix)
        queue = self._batches(own, beside)
        while queue:
            rows = queue[0]
            result: Result | None = None
            blamed = ""
            try:
                result = Result(self._forward(starts[rows], own[rows], flat_ids, prefix, normalize=normalize))
            except Exception as error:
                if is_out_of_memory(error):
                    self._shrink(own[rows], beside, error)
                else:
                    blamed = self._blame(error, alone=len(rows) == 1, before=len(failed))
            # Outside of `except`, whose traceback keeps the batch's tensors alive.
            if result is not None:
                arriving.add(rows, result)
                self._step()
                computed += self._size(own[rows])
                self._largest_row = max(self._largest_row, int(own[rows].max()) + beside)
                queue.pop(0)
            elif not blamed:
                if self._device.type == "cuda":
                    torch.cuda.empty_cache()
                rest = np.concatenate(queue)
                queue = [rest[batch] for batch in self._batches(own[rest], beside)]
            elif len(rows) > 1:
                queue[:1] = np.array_split(rows, 2)
            else:
                failed[int(rows[0])] = blamed
                queue.pop(0)
        # The last batches are not waited for: each time the device would wait for the host.
        real = shared + int(own.sum()) - sum(int(own[row]) for row in failed)
        account = EncodedTokens(np.empty((0, self.dim), np.float32), computed, real, arriving.batches, failed)
        return Launched(self._device, arriving, inverse, account)

    def _step(self) -> None:
        self.steps += 1  # by several threads: a step may be lost, and others follow

    def _batches(self, lengths: NDArray[np.int64], beside: int) -> list[NDArray[np.int64]]:
        budget = 1 if self.deterministic else self.max_batch_tokens
        return (batching.packed_batches if self.packed else batching.length_batches)(lengths, budget, beside)

    def _size(self, lengths: NDArray[np.int64]) -> int:
        """Tokens that a batch of these rows computes, padding included."""
        return int(lengths.sum() if self.packed else len(lengths) * lengths.max())

    def _prefix(
        self, starts: NDArray[np.int64], lengths: NDArray[np.int64], flat_ids: NDArray[np.int32]
    ) -> Prefix | None:
        """The tokens that all rows begin with, such as an instruction, computed once; None if it saves too little."""
        if self._forward.decoder is None or not self.reuse_prefix or self.deterministic or not len(lengths):
            return None
        shared = batching.shared_prefix(starts, lengths, flat_ids)
        if shared < SHORTEST_PREFIX or shared * (len(lengths) - 1) < PREFIX_SHARE * lengths.sum():
            return None
        try:
            return self._forward.prefix(flat_ids[starts[0] : starts[0] + shared])
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None  # each row then brings its own, in batches that are made smaller

    def _shrink(self, lengths: NDArray[np.int64], beside: int, error: Exception) -> None:
        """Halve the budget below the batch that did not fit, where each row took ``beside`` its tokens. If that batch
        was a single row, raises DeviceError if there was room for such a row before, else ModelError."""
        longest = int(lengths.max())
        if len(lengths) == 1:
            if longest + beside <= self._largest_row:
                raise DeviceError(room.no_room_any_more(str(self._device), longest)) from error
            others = taken_by_others(self._device.type)
            raise ModelError(room.no_room_for_row(str(self._device), longest, others)) from error
        self.max_batch_tokens = max(longest, (self._size(lengths) + beside * len(lengths)) // 2)

    def _blame(self, error: Exception, *, alone: bool, before: int) -> str:
        """The error message if the rows of a batch may have caused it; otherwise raises the error.

        alone: whether the batch is one row, which is then the cause unless every text fails. before: rows blamed so
        far.
        """
        if is_of_the_device(error) or (alone and (before >= MOST_FAILED or not self._is_sane())):
            raise error
        return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

    def _is_sane(self) -> bool:
        """Whether the model encodes a harmless text."""
        tokenized = self.tokenizer.encode([_SANE])
        try:
            vectors = self._forward(np.zeros(1, np.int64), tokenized.lengths.astype(np.int64), tokenized.flat_ids)
            return bool(torch.isfinite(vectors).all())
        except Exception:
            return False


def _check_tokens(lengths: NDArray[np.integer], text: NDArray[np.integer] | None = None) -> None:
    """Raises TextError if a row has no token. text: the number of each row's text, by default that of the row."""
    empty = np.flatnonzero(lengths == 0)
    if len(empty):
        row = int(empty[0] if text is None else text[empty[0]])
        raise TextError(
            f"row {row} has no token: the tokenizer drops all characters of its text and puts nothing around it"
        )
