"""A trained model's weights as plain arrays, in the one form from which every artefact's graph is built."""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # a process that writes or measures a file starts without Keras
    import keras

    from speech_gru.config import ModelSettings


@dataclass(frozen=True)
class Convolution:
    """Convolution over time and bands, and ReLU: batch normalisation is folded into kernel and bias.

    Its input is (frames, bands, inputs): one over time alone has one band, whose channels are all there are.
    """

    kernel: np.ndarray
    """float32 (frames, bands, inputs, filters)."""
    bias: np.ndarray
    """float32 (filters,)."""
    stride: tuple[int, int]
    """Frames and bands."""
    padding: tuple[tuple[int, int], tuple[int, int]]
    """Frames of zeros before and after the clip, bands of zeros below and above."""
    residual: bool
    """Whether the input is added to the output."""

    @property
    def past(self) -> int:
        """Frames before those of its step that it looks at, if it looks at none that are to come."""
        return self.kernel.shape[0] - self.stride[0]

    def width(self, width: int) -> int:
        """Numbers of a step, of all bands, that it makes of `width` numbers of a frame."""
        bands = width // self.kernel.shape[2] + sum(self.padding[1])
        return ((bands - self.kernel.shape[1]) // self.stride[1] + 1) * len(self.bias)


@dataclass(frozen=True)
class Gru:
    """One direction of a layer; the gates lie in Keras's order: update z, reset r, candidate h."""

    kernel: np.ndarray
    """float32 (inputs, 3 units)."""
    recurrent: np.ndarray
    """float32 (units, 3 units)."""
    bias: np.ndarray
    """float32 (3 units,), of the input's product; the recurrent product's for z and r is added to it."""
    candidate_bias: np.ndarray
    """float32 (units,), of the recurrent product's candidate part, inside the reset gate."""

    @property
    def units(self) -> int:
        return self.recurrent.shape[0]


@dataclass(frozen=True)
class Pooling:
    """How (steps, channels) become (channels,): "attention", "mean" or "last"; "none": they don't, for a CTC head."""

    kind: str
    hidden: np.ndarray | None = None
    """Attention: float32 (channels, attention units)."""
    bias: np.ndarray | None = None
    score: np.ndarray | None = None
    """Attention: float32 (attention units, 1)."""


@dataclass(frozen=True)
class Encoder:
    """Features (frames, features) -> logits (labels,); with a CTC head (steps, labels)."""

    frames: int
    """Of a clip; with a CTC head the most that are looked at together."""
    features: int
    stacked: int
    """So many frames are laid side by side before the first GRU layer; 1 where convolutions do the subsampling."""
    convolutions: tuple[Convolution, ...]
    layers: tuple[tuple[Gru, ...], ...]
    """The GRU layers: (forwards,) or (forwards, backwards)."""
    pooling: Pooling
    head: np.ndarray
    """float32 (channels, labels)."""
    head_bias: np.ndarray

    @property
    def is_ctc(self) -> bool:
        """Whether each step has logits, and clips lengths of their own."""
        return self.pooling.kind == "none"

    @property
    def bidirectional(self) -> bool:
        return len(self.layers[0]) == 2

    @property
    def subsampling(self) -> int:
        """Frames to a step of the GRU layers."""
        return self.stacked * math.prod(convolution.stride[0] for convolution in self.convolutions)

    @property
    def frames_to_step(self) -> tuple[int, ...]:
        """So many frames make a step before the first convolution, 1, and after each of them."""
        strides = (convolution.stride[0] for convolution in self.convolutions)
        return tuple(itertools.accumulate(strides, operator.mul, initial=1))

    @property
    def steps(self) -> int:
        """Steps of the GRU layers in a clip."""
        return self.frames // self.subsampling

    @property
    def parameters(self) -> int:
        """Numbers in all arrays."""
        recurrent = [array for layer in self.layers for gru in layer for array in vars(gru).values()]
        convolved = [array for item in self.convolutions for array in (item.kernel, item.bias)]
        pooling = [array for array in vars(self.pooling).values() if isinstance(array, np.ndarray)]
        return sum(array.size for array in (*recurrent, *convolved, *pooling, self.head, self.head_bias))


def read_encoder(model: keras.Model, settings: ModelSettings, frames: int) -> Encoder:
    """The weights of a model that `speech_gru.model.build_model` made with these settings.

    Args:
        frames: of a clip; with a CTC head the most to be looked at together.
    """
    features = model.inputs[0].shape[2]
    convolutions = tuple(_convolution(model, layer) for layer in model.layers if layer.name.startswith("convolution_"))
    return Encoder(
        frames,
        features,
        1 if convolutions else settings.subsampling,
        convolutions,
        tuple(_layer(model, settings, index) for index in range(settings.layers)),
        _pooling(model, settings),
        *_arrays(model.get_layer("head")),
    )


def _arrays(layer: keras.layers.Layer) -> list[np.ndarray]:
    return [array.astype(np.float32) for array in layer.get_weights()]


def _convolution(model: keras.Model, layer: keras.layers.Layer) -> Convolution:
    index = layer.name.rpartition("_")[2]
    (kernel,) = _arrays(layer)
    norm = model.get_layer(f"batch_norm_{index}")
    gamma, beta, mean, variance = _arrays(norm)
    scale = gamma / np.sqrt(variance + norm.epsilon)
    stride, padding = layer.strides, model.get_layer(f"padding_{index}").padding
    if kernel.ndim == 3:  # over time alone
        kernel, stride, padding = kernel[:, None], (*stride, 1), (padding, (0, 0))
    residual = any(other.name == f"sum_{index}" for other in model.layers)
    return Convolution(kernel * scale, beta - mean * scale, tuple(stride), tuple(map(tuple, padding)), residual)


def _layer(model: keras.Model, settings: ModelSettings, index: int) -> tuple[Gru, ...]:
    if not settings.bidirectional:
        return (_gru(model.get_layer(f"gru_{index}")),)
    both = model.get_layer(f"bigru_{index}")
    return _gru(both.forward_layer), _gru(both.backward_layer)


def _gru(layer: keras.layers.GRU) -> Gru:
    kernel, recurrent, (bias, recurrent_bias) = _arrays(layer)
    inside = 2 * layer.units
    bias = bias + np.concatenate([recurrent_bias[:inside], np.zeros_like(recurrent_bias[inside:])])
    return Gru(kernel, recurrent, bias, recurrent_bias[inside:])


def _pooling(model: keras.Model, settings: ModelSettings) -> Pooling:
    if settings.head == "ctc":
        return Pooling("none")
    if settings.pooling != "attention":
        return Pooling(settings.pooling)
    layer = model.get_layer("pooling")
    return Pooling("attention", *_arrays(layer.hidden), *_arrays(layer.score))
