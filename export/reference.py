"""The encoder in plain NumPy: the ground truth for Keras's layers and for the graph in every artefact.

A GRU (Cho et al. 2014, arXiv:1406.1078) carries a state h of `units` numbers from step to step. At a step with input x,
with W the input's kernel, U the recurrent kernel, b and c their biases (split below by gate: z, r, h), s the logistic
function and * the product by elements:

    update gate   z  = s(W_z x + b_z + U_z h + c_z)        how much of the old state stays
    reset gate    r  = s(W_r x + b_r + U_r h + c_r)        how much of it the candidate sees
    candidate     h~ = tanh(W_h x + b_h + g)               with g in one of two forms:
        g = r * (U_h h + c_h)     reset after the product  (Keras's `reset_after=True`, cuDNN, PyTorch, ONNX)
        g = U_h (r * h) + c_h     reset before the product (the paper's equation 8)
    new state     h' = z * h + (1 - z) * h~  =  h~ + z * (h - h~)

W x doesn't depend on h: for all steps of a clip it is one matrix product. With the reset after the product, U h is one
product for all three gates, and the whole step is that product and ten operations by element: this is why all models
here have that form. b_z + c_z and b_r + c_r occur only as sums and are added up beforehand; c_h stays by itself, inside
the reset.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from export.encoder import Convolution, Encoder, Gru, Pooling

Watch = Callable[[str, np.ndarray], None]
"""Is told each activation by its name."""


def _ignore(name: str, values: np.ndarray) -> None:
    pass


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-values)), without overflow."""
    return (1 + np.tanh(values / 2)) / 2


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (..., labels) -> probabilities."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def gru_step(
    projected: np.ndarray,
    state: np.ndarray,
    recurrent: np.ndarray,
    recurrent_bias: np.ndarray,
    *,
    reset_after: bool = True,
    watch: Watch = _ignore,
) -> np.ndarray:
    """One step of the equations above.

    Args:
        projected: W x + b, (batch, 3 units), the gates in the order z, r, h.
        state: h, (batch, units).
        recurrent: U, (units, 3 units).
        recurrent_bias: c, (3 units,).

    Returns: h', (batch, units).
    """
    inside = 2 * len(recurrent)
    product = state @ recurrent + recurrent_bias
    gates = projected[:, :inside] + product[:, :inside]
    update, reset = np.split(sigmoid(gates), 2, axis=1)
    if reset_after:
        inner = reset * product[:, inside:]
    else:
        inner = (reset * state) @ recurrent[:, inside:] + recurrent_bias[inside:]
    proposal = projected[:, inside:] + inner
    for name, values in (("product", product), ("gates", gates), ("inner", inner), ("proposal", proposal)):
        watch(name, values)
    candidate = np.tanh(proposal)
    return candidate + update * (state - candidate)


def gru(
    inputs: np.ndarray,
    weights: Gru,
    *,
    backwards: bool = False,
    watch: Watch = _ignore,
    mask: np.ndarray | None = None,
) -> np.ndarray:
    """States of all steps, (batch, steps, units), from inputs (batch, steps, inputs) and a state of zeros.

    Backwards the last step comes first; each state still lies at its own step.

    Args:
        mask: 1 where a step lies within its clip, else 0, float32 (batch, steps); None: all do. Backwards the state is
            zero until the clip's last step.
    """
    batch, steps, _ = inputs.shape
    projected = inputs @ weights.kernel + weights.bias
    watch("projected", projected)
    bias = np.concatenate([np.zeros(2 * weights.units, np.float32), weights.candidate_bias])
    states = np.zeros((batch, steps, weights.units), np.float32)
    state = np.zeros((batch, weights.units), np.float32)
    for step in reversed(range(steps)) if backwards else range(steps):
        state = gru_step(projected[:, step], state, weights.recurrent, bias, watch=watch)
        if mask is not None and backwards:
            state = state * mask[:, step, None]
        states[:, step] = state
    return states


def encode(
    features: np.ndarray, encoder: Encoder, watch: Watch = _ignore, frames: np.ndarray | None = None
) -> np.ndarray:
    """Features (batch, frames, features) -> the top layer's states (batch, steps, channels).

    Args:
        frames: of each clip, (batch,) integers, behind which nothing has any effect; None: all that there are.
    """
    hidden = features if frames is None else features * _mask(frames, features.shape[1])[:, :, None]
    watch("features", hidden)
    for index, convolution in enumerate(encoder.convolutions):
        hidden = convolve(hidden, convolution, _within(watch, f"convolution_{index}"))
        if frames is not None:
            frames = frames // convolution.stride[0]
            hidden = hidden * _mask(frames, hidden.shape[1])[:, :, None, None]
    steps = hidden.shape[1] // encoder.stacked
    hidden = hidden[:, : steps * encoder.stacked].reshape(len(hidden), steps, -1)
    mask = None if frames is None else _mask(frames // encoder.stacked, steps)
    for index, layer in enumerate(encoder.layers):
        directions = [
            gru(hidden, weights, backwards=backwards, watch=_within(watch, f"gru_{index}"), mask=mask)
            for backwards, weights in enumerate(layer)
        ]
        hidden = np.concatenate(directions, axis=2)
    return hidden


def _mask(lengths: np.ndarray, longest: int) -> np.ndarray:
    """1 within each length, 0 behind it: float32 (batch, longest)."""
    return (np.arange(longest) < lengths[:, None]).astype(np.float32)


def convolve(inputs: np.ndarray, convolution: Convolution, watch: Watch = _ignore) -> np.ndarray:
    """relu(convolution) and, with `residual`, the input added: (batch, frames, …) -> (batch, steps, bands, filters)."""
    kernel, (frames, bands) = convolution.kernel, convolution.stride
    inputs = inputs.reshape(*inputs.shape[:2], -1, kernel.shape[2])
    padded = np.pad(inputs, ((0, 0), *convolution.padding, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))[:, ::frames, ::bands]
    outputs = np.maximum(0, np.einsum("bsdiwv,wvif->bsdf", windows, kernel, optimize=True) + convolution.bias)
    watch("relu", outputs)
    if convolution.residual:
        outputs = outputs + inputs
        watch("sum", outputs)
    return outputs


def pool(states: np.ndarray, pooling: Pooling, *, bidirectional: bool, watch: Watch = _ignore) -> np.ndarray:
    """(batch, steps, channels) -> (batch, channels)."""
    if pooling.kind == "mean":
        return states.mean(axis=1)
    if pooling.kind == "last":
        if not bidirectional:
            return states[:, -1]
        forwards, backwards = np.split(states, 2, axis=2)
        return np.concatenate([forwards[:, -1], backwards[:, 0]], axis=1)
    hidden = states @ pooling.hidden + pooling.bias
    watch("attention", hidden)
    scores = np.tanh(hidden) @ pooling.score
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return (weights * states).sum(axis=1) / weights.sum(axis=1)


def embed(features: np.ndarray, encoder: Encoder, watch: Watch = _ignore) -> np.ndarray:
    """The pooled encoder output, (batch, channels)."""
    states = encode(features, encoder, watch)
    pooled = pool(states, encoder.pooling, bidirectional=encoder.bidirectional, watch=watch)
    watch("pooled", pooled)
    return pooled


def classify(features: np.ndarray, encoder: Encoder, watch: Watch = _ignore) -> np.ndarray:
    """Features (batch, frames, features) -> logits (batch, labels)."""
    logits = embed(features, encoder, watch) @ encoder.head + encoder.head_bias
    watch("logits", logits)
    return logits


def classify_stream(features: np.ndarray, encoder: Encoder, watch: Watch = _ignore) -> np.ndarray:
    """Features (batch, frames, features) of audio that goes on -> logits after each step, (batch, steps, labels).

    As files for streams do it: the state is kept, and pooling over time sees as many steps as a clip has; those before
    the beginning are zeros.
    """
    if encoder.is_ctc:
        return transcribe(features, encoder, watch)
    states, pooling = encode(features, encoder, watch), encoder.pooling
    window = 1 if pooling.kind == "last" else encoder.steps
    padded = np.pad(states, ((0, 0), (window - 1, 0), (0, 0)))
    if pooling.kind == "attention":  # once for all windows, which share their steps
        watch("attention", padded @ pooling.hidden + pooling.bias)
    windows = [padded[:, step : step + window] for step in range(states.shape[1])]
    pooled = np.stack([pool(each, pooling, bidirectional=False) for each in windows], axis=1)
    watch("pooled", pooled)
    logits = pooled @ encoder.head + encoder.head_bias
    watch("logits", logits)
    return logits


def transcribe(
    features: np.ndarray, encoder: Encoder, watch: Watch = _ignore, frames: np.ndarray | None = None
) -> np.ndarray:
    """With a CTC head: features (batch, frames, features) -> logits (batch, steps, labels). Arguments as for encode."""
    logits = encode(features, encoder, watch, frames) @ encoder.head + encoder.head_bias
    watch("logits", logits)
    return logits


def _within(watch: Watch, scope: str) -> Watch:
    return lambda name, values: watch(f"{scope}/{name}", values)


class Ranges(dict):
    """Where each activation lies over some clips, by name; use as `watch`."""

    _RARE = 1e-4

    def __call__(self, name: str, values: np.ndarray) -> None:
        usual = np.quantile(values, [self._RARE, 1 - self._RARE])
        found = Range(float(values.min()), float(values.max()), *map(float, usual))
        self[name] = found if name not in self else self[name].joined(found)


@dataclass(frozen=True)
class Range:
    """Where an activation lies."""

    low: float
    high: float
    usual_low: float
    """Without the lowest and highest ten-thousandth."""
    usual_high: float

    def joined(self, other: "Range") -> "Range":
        """The range of both."""
        return Range(
            min(self.low, other.low),
            max(self.high, other.high),
            min(self.usual_low, other.usual_low),
            max(self.usual_high, other.usual_high),
        )
