"""The number formats of TFLite files: how weights are stored, and what products and gates are computed in."""

from dataclasses import dataclass

import numpy as np

from export.flatbuffer import FLOAT, Form, Quantization
from export.reference import Range


@dataclass(frozen=True)
class NumberFormat:
    """One way to write the numbers of a model."""

    name: str
    weights: str
    """"float32"; "float16", made float32 when the file is loaded; or "int8" with a scale for each output."""
    products: str
    """What matrix products take and give: "float32" (beside int8 weights LiteRT rounds it), "int8", "int16"."""
    gates: str
    """What GRU states and gates are: "float32" or "int16". An int8 state would stand still where the update gate is
    nearly open: its steps of 1/128 are too coarse for a small change to add up."""

    @property
    def is_integer(self) -> bool:
        """Whether activations are integers, whose ranges must be known."""
        return self.products != "float32"


FORMATS = {
    item.name: item
    for item in (
        NumberFormat("float32", "float32", "float32", "float32"),
        NumberFormat("float16", "float16", "float32", "float32"),
        NumberFormat("dynamic_range", "int8", "float32", "float32"),
        NumberFormat("int8", "int8", "int8", "int16"),
        NumberFormat("int16x8", "int8", "int16", "int16"),
    )
}


def form_of(dtype: str, range: Range) -> Form:
    """The form for an activation. int8 spends its 256 steps on the usual values, and cuts off the rare ones.

    int16 is symmetric, as LiteRT's kernels want it; 0 is exact in both.
    """
    if dtype == "float32":
        return FLOAT
    if dtype == "int16":
        return Form("int16", Quantization(max(-range.low, range.high, 1e-6) / 32767))
    low, high = min(range.usual_low, 0.0), max(range.usual_high, 1e-6)
    scale = (high - low) / 255
    return Form("int8", Quantization(scale, round(-128 - low / scale)))


_TINY = 1e-20
"""The smallest scale of weights, of outputs that have none."""
UNIT = Form("int16", Quantization(1 / 32768))
"""Values in [-1, 1): what LiteRT's logistic function and tangent give in int16."""


def quantize_weights(kernel: np.ndarray, least: np.ndarray | float = 0.0) -> tuple[np.ndarray, Quantization]:
    """int8 weights in -127..127 with a scale for each index of the first axis.

    Args:
        least: the smallest scale that each may have, see `least_scale`.
    """
    flat = np.abs(kernel.reshape(len(kernel), -1)).max(axis=1)
    scale = np.maximum(np.maximum(flat / 127, least), _TINY).astype(np.float32)
    shaped = scale.reshape(-1, *[1] * (kernel.ndim - 1))
    return np.round(kernel / shaped).astype(np.int8), Quantization(tuple(scale.tolist()))


def least_scale(bias: np.ndarray, inputs: Form) -> np.ndarray:
    """The weights' scales (outputs,) below which the bias would overflow 32 bits, with as much left for the sums."""
    return np.abs(bias) / (inputs.quantization.scale * 2**30)


def quantize_bias(bias: np.ndarray, inputs: Form, weights: Quantization) -> tuple[np.ndarray, Quantization]:
    """A bias at the scale of the products' sums: int32, or int64 beside int16 activations."""
    scale = np.array(weights.scale, np.float64) * inputs.quantization.scale
    dtype = np.int64 if inputs.dtype == "int16" else np.int32
    limit = 2**31 - 1 if dtype is np.int32 else 2**39
    values = np.clip(np.round(bias / scale), -limit, limit).astype(dtype)
    return values, Quantization(tuple(scale.astype(np.float32).tolist()))
