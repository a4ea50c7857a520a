"""Matrix products in 8-bit floating point: weights scaled by output channel, activations by token as they come.

e4m3 keeps three bits of a number's mantissa, so each product is off by a few percent and a sum over thousands by much
less; scales of their own for each channel and token keep outliers from costing the others their bits. Embeddings,
norms, attention and pooling stay as they are. Knows linear layers and nothing of models.
"""

import socket
import weakref
from collections.abc import Callable, Iterator

import torch
from torch import nn

from sfr_batch.encoder.compiling import compiling
from sfr_batch.encoder.faults import is_of_the_device, is_out_of_memory
from sfr_batch.errors import ConfigError

DTYPE = torch.float8_e4m3fn
_LARGEST = torch.finfo(DTYPE).max
Fp8 = tuple[torch.Tensor, torch.Tensor]
"""[n, k] in e4m3, and the float32 scales [n, 1] that give the rows back when they are multiplied with them."""
_STEP = 16
"""The kernels need both sides of a weight to be multiples of this."""
_TRIED = 128
"""Rows and columns of the matrices by which a GPU is tried."""


class Fp8Linear(nn.Module):  # type: ignore[misc]
    """Takes the place of an `nn.Linear`; its output has the dtype of its input."""

    def __init__(self, linear: nn.Linear, quantize: "Quantizer") -> None:
        super().__init__()
        weight, scale = to_fp8(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = linear.bias
        self._quantize = quantize

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        out = multiply(self._quantize(x), (self.weight, self.scale))
        out = out.to(x.dtype).unflatten(0, x.shape[:-1])
        return out if self.bias is None else out + self.bias


class Quantizer:
    """Quantizes what goes into linear layers; what goes into several, one after the other, only once.

    So it is with queries, keys and values, and with both halves of a gated MLP. Knows tensors by identity: none is
    changed in place between two layers of the models that there are.
    """

    def __init__(self, device: torch.device) -> None:
        """On a GPU it is one kernel for each length of a row, whatever the number of rows: step by step it would read
        and write the activations half a dozen times."""
        self._compiled = device.type == "cuda"
        self._quantize = torch.compile(to_fp8, dynamic=False) if self._compiled else to_fp8
        self._last: tuple[Callable[[], torch.Tensor | None], Fp8] | None = None

    def __call__(self, x: torch.Tensor) -> Fp8:
        """x: [..., k]. Returns its n rows."""
        rows = x.reshape(-1, x.shape[-1])
        if torch.compiler.is_compiling():  # which finds by itself what is computed twice
            return to_fp8(rows)
        last = self._last  # read once: another thread may encode with the same model
        if last is not None and last[0]() is x:
            return last[1]
        if self._compiled:
            torch._dynamo.maybe_mark_dynamic(rows, 0)
        quantized: Fp8 = self._quantize(rows)
        self._last = weakref.ref(x), quantized
        return quantized


def to_fp8(rows: torch.Tensor) -> Fp8:
    """Rows [n, k] of any float dtype, quantized."""
    rows = rows.float()
    scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / _LARGEST
    return (rows / scale).clamp(-_LARGEST, _LARGEST).to(DTYPE), scale


def multiply(rows: Fp8, weight: Fp8) -> torch.Tensor:
    """[n, k] times the transpose of [m, k]: [n, m] in bfloat16."""
    return (by_kernel if rows[0].is_cuda else by_widening)(rows, weight)


def by_kernel(rows: Fp8, weight: Fp8) -> torch.Tensor:
    """The product by tensor cores, whose sums have about 14 bits; more would cost more time than it is worth."""
    # Not torch.nn.functional.scaled_mm: PyTorch 2.11 compiles the layers around that one in pieces.
    product: torch.Tensor = torch._scaled_mm(
        rows[0],
        weight[0].t(),
        scale_a=rows[1],
        scale_b=weight[1].t(),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return product


def check_kernel(device: torch.device) -> None:
    """Raises ConfigError if `by_kernel` fails on a GPU: some that multiply in 8 bits lack scales by row, in PyTorch's
    own kernels or in cuBLAS, and builds differ in that."""
    rows = to_fp8(torch.ones(_TRIED, _TRIED, device=device))
    try:
        by_kernel(rows, rows).cpu()
    except RuntimeError as error:
        if is_out_of_memory(error) or is_of_the_device(error):
            raise
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"model.dtype is fp8, but PyTorch {torch.__version__} does not multiply in it on the GPU of node "
            f"{socket.gethostname()}: {said}. Set model.dtype=bfloat16, whose vectors are others, in a table of its "
            "own, or use another GPU or another build of PyTorch."
        ) from error


def by_widening(rows: Fp8, weight: Fp8) -> torch.Tensor:
    """The same product without 8-bit units: float32 holds each term exactly. On a CPU the kernel takes 40 ms per call,
    however small."""
    product = rows[0].float() @ weight[0].float().t()
    return (product * rows[1] * weight[1].t()).to(torch.bfloat16)


def quantize_linears(model: nn.Module, device: torch.device | None = None) -> None:
    """Replace every linear layer of a model by an `Fp8Linear` on a device; default: where the model is.

    One by one, so that neither memory holds the model twice. Raises ConfigError if a GPU's kernel cannot be compiled.
    """
    device = device or next(model.parameters()).device
    quantize = Quantizer(device)
    with compiling("model.dtype=fp8", "set model.dtype=bfloat16"), torch.inference_mode():
        for width in sorted({child.in_features for _, _, child in _linears(model)}):
            quantize(torch.zeros(2, width, dtype=torch.bfloat16, device=device))
    left = list(_linears(model))
    while left:  # a layer that stayed in the list would stay on the device
        parent, name, child = left.pop()
        setattr(parent, name, Fp8Linear(child.to(device), quantize))


def bytes_saved(model: nn.Module) -> int:
    """The bytes by which `quantize_linears` makes a model smaller."""
    return sum(
        child.weight.nbytes - child.weight.numel() - 4 * child.out_features  # a byte each, and a scale a channel
        for _, _, child in _linears(model)
    )


def _linears(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """The layers that fit the kernel, each with its parent and its name there."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear) and not (child.in_features % _STEP or child.out_features % _STEP):
                yield parent, name, child


def is_quantized(model: nn.Module) -> bool:
    """Whether `quantize_linears` has changed the model."""
    return any(isinstance(module, Fp8Linear) for module in model.modules())
