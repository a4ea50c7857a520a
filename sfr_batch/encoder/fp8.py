"""Matrix products in 8-bit floating point: weights scaled by output channel, activations by token as they come.

e4m3 keeps three bits of a number's mantissa, so each product is off by a few percent and a sum over thousands by much
less; scales of their own for each channel and token keep outliers from costing the others their bits. Embeddings,
norms, attention and pooling stay as they are. Knows linear layers and nothing of models.
"""

from typing import Any

import torch
from torch import nn

DTYPE = torch.float8_e4m3fn
_LARGEST = torch.finfo(DTYPE).max
Fp8 = tuple[torch.Tensor, torch.Tensor]
"""[n, k] in e4m3, and the float32 scales [n, 1] that give the rows back when they are multiplied with them."""
_STEP = 16
"""The kernels need both sides of a weight to be multiples of this."""


class Fp8Linear(nn.Module):  # type: ignore[misc]
    """Takes the place of an `nn.Linear`; its output has the dtype of its input."""

    def __init__(self, linear: nn.Linear, quantize: Any) -> None:
        super().__init__()
        weight, scale = to_fp8(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale)
        self.bias = linear.bias
        self._quantize = quantize

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out]."""
        out = multiply(self._quantize(x.reshape(-1, x.shape[-1])), (self.weight, self.scale))
        out = out.to(x.dtype).unflatten(0, x.shape[:-1])
        return out if self.bias is None else out + self.bias


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
    # Not imported above: it is young, and only this needs it.
    from torch.nn.functional import ScalingType, scaled_mm

    by_row = ScalingType.RowWise
    product: torch.Tensor = scaled_mm(
        rows[0],
        weight[0].t(),
        rows[1],
        by_row,
        weight[1].t(),
        by_row,
        output_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    return product


def by_widening(rows: Fp8, weight: Fp8) -> torch.Tensor:
    """The same product without 8-bit units: float32 holds each term exactly. On a CPU the kernel takes 40 ms per call,
    however small."""
    product = rows[0].float() @ weight[0].float().t()
    return (product * rows[1] * weight[1].t()).to(torch.bfloat16)


def quantize_linears(model: nn.Module) -> None:
    """Replace every linear layer of a model by an `Fp8Linear`, one by one, so that memory never holds both."""
    on_gpu = next(model.parameters()).is_cuda
    # Fused into one kernel: step by step it would read and write the activations half a dozen times.
    quantize = torch.compile(to_fp8, dynamic=True) if on_gpu else to_fp8
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear) and not (child.in_features % _STEP or child.out_features % _STEP):
                setattr(parent, name, Fp8Linear(child, quantize))


def is_quantized(model: nn.Module) -> bool:
    """Whether `quantize_linears` has changed the model."""
    return any(isinstance(module, Fp8Linear) for module in model.modules())
