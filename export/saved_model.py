"""Trained run -> SavedModel, float32, any batch size, servable as it is.

Signatures, each with named inputs and outputs (samples and frames are those of the run's clips):

    serving_default  audio (batch, samples) in [-1, 1]     -> probabilities (batch, labels)
    logits           audio (batch, samples)                -> logits (batch, labels)
    features         audio (batch, samples)                -> features (batch, frames, features)
    from_features    features (batch, frames, features)    -> logits (batch, labels)
    embedding        audio (batch, samples)                -> embedding (batch, channels), the pooled encoder output

With a CTC head audio is of any length, zeros behind the shorter clips, and each clip's own length is a second input,
int32 (batch,); steps that end behind it mean nothing:

    serving_default  audio (batch, any), samples (batch,)  -> probabilities (batch, steps, labels)
    logits           audio, samples                        -> logits (batch, steps, labels)
    features         audio, samples                        -> features (batch, frames, features), frames (batch,)
    from_features    features, frames (batch,)             -> logits (batch, steps, labels)
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
import tensorflow as tf

from export.encoder import Convolution, Encoder, Gru
from export.front_end import FrontEndState, rebuild


class InferenceGraph(tf.Module):
    """The way from audio to logits, written for inference: see export.reference for its equations."""

    def __init__(self, encoder: Encoder, front_end: FrontEndState):
        super().__init__(name="recognizer")
        self.weights = []
        self.encoder = self._with_variables(encoder)
        self.front_end = rebuild(front_end)

    def _with_variables(self, item):
        """The same, with a variable for each array: the signatures share it, a constant would be in each of them."""
        if isinstance(item, np.ndarray):
            self.weights.append(tf.Variable(item, trainable=False))
            return self.weights[-1]
        if isinstance(item, tuple):
            return tuple(map(self._with_variables, item))
        if dataclasses.is_dataclass(item):
            fields = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
            return type(item)(**{name: self._with_variables(value) for name, value in fields.items()})
        return item

    def from_features(self, features: tf.Tensor) -> tf.Tensor:
        """(batch, frames, features) -> logits (batch, labels)."""
        return self.embed(features) @ self.encoder.head + self.encoder.head_bias

    def transcribe(self, features: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        """With a CTC head: (batch, frames, features) and frames (batch,) -> logits (batch, steps, labels)."""
        return self._encode(features, frames) @ self.encoder.head + self.encoder.head_bias

    def embed(self, features: tf.Tensor) -> tf.Tensor:
        """(batch, frames, features) -> (batch, channels)."""
        return self._pool(self._encode(features))

    def _encode(self, features: tf.Tensor, frames: tf.Tensor | None = None) -> tf.Tensor:
        """The top layer's states, (batch, steps, channels). See export.reference.encode."""
        encoder, hidden, mask = self.encoder, features, None
        count = encoder.frames if frames is None else tf.shape(features)[1]
        if frames is not None:
            hidden *= tf.sequence_mask(frames, count, tf.float32)[:, :, tf.newaxis]
        for convolution in encoder.convolutions:
            hidden, count = _convolve(hidden, convolution, count), count // convolution.stride[0]
            if frames is not None:
                frames //= convolution.stride[0]
                hidden *= tf.sequence_mask(frames, count, tf.float32)[:, :, tf.newaxis, tf.newaxis]
        steps, channels = count // encoder.stacked, encoder.stacked * math.prod(hidden.shape[2:])
        hidden = tf.reshape(hidden[:, : steps * encoder.stacked], (-1, steps, channels))
        if frames is not None:
            mask = tf.sequence_mask(frames // encoder.stacked, steps, tf.float32)[:, :, tf.newaxis]
        for layer in encoder.layers:
            hidden = _gru_layer(hidden, layer, steps, mask)
        return hidden

    def _pool(self, states: tf.Tensor) -> tf.Tensor:
        pooling = self.encoder.pooling
        if pooling.kind == "mean":
            return tf.reduce_mean(states, axis=1)
        if pooling.kind == "last":
            if not self.encoder.bidirectional:
                return states[:, -1]
            forwards, backwards = tf.split(states, 2, axis=2)
            return tf.concat([forwards[:, -1], backwards[:, 0]], axis=1)
        scores = tf.tanh(states @ pooling.hidden + pooling.bias) @ pooling.score
        return tf.reduce_sum(tf.nn.softmax(scores, axis=1) * states, axis=1)


def _convolve(inputs: tf.Tensor, convolution: Convolution, frames: int | tf.Tensor) -> tf.Tensor:
    channels = convolution.kernel.shape[2]
    inputs = tf.reshape(inputs, (-1, frames, math.prod(inputs.shape[2:]) // channels, channels))
    padded = tf.pad(inputs, ((0, 0), *convolution.padding, (0, 0)))
    outputs = tf.nn.relu(tf.nn.conv2d(padded, convolution.kernel, convolution.stride, "VALID") + convolution.bias)
    return outputs + inputs if convolution.residual else outputs


def _gru_layer(
    inputs: tf.Tensor, layer: tuple[Gru, ...], steps: int | tf.Tensor, mask: tf.Tensor | None = None
) -> tf.Tensor:
    """(batch, steps, inputs) -> (batch, steps, channels): the directions side by side in one loop over the steps.

    Args:
        mask: (batch, steps, 1), 1 within each clip, else 0; None: all are as long as the batch.
    """
    units, batch = layer[0].units, tf.shape(inputs)[0]
    projected = [inputs @ gru.kernel + gru.bias for gru in layer]
    projected = tf.stack([item if index == 0 else item[:, ::-1] for index, item in enumerate(projected)])
    projected = tf.transpose(projected, (2, 0, 1, 3))  # (steps, directions, batch, 3 units)
    if mask is not None:  # of each direction in its own order; what forwards lies behind a clip doesn't matter
        within = tf.transpose(
            tf.stack([mask if index == 0 else mask[:, ::-1] for index in range(len(layer))]), (2, 0, 1, 3)
        )
    recurrent = tf.stack([gru.recurrent for gru in layer])
    bias = tf.stack([gru.candidate_bias for gru in layer])[:, tf.newaxis]

    def step(index, state, states):
        product = state @ recurrent
        given = projected[index]
        update, reset = tf.split(tf.sigmoid(given[..., : 2 * units] + product[..., : 2 * units]), 2, axis=-1)
        candidate = tf.tanh(given[..., 2 * units :] + reset * (product[..., 2 * units :] + bias))
        state = candidate + update * (state - candidate)
        state = state if mask is None else state * within[index]
        return index + 1, state, states.write(index, state)

    first = tf.zeros((len(layer), batch, units))
    shape = tf.TensorShape((len(layer), None, units))
    states = tf.TensorArray(tf.float32, steps, element_shape=shape)
    begin = (tf.constant(0), first, states)
    invariants = (tf.TensorShape(()), shape, tf.TensorShape(None))
    _, _, states = tf.while_loop(lambda index, *_: index < steps, step, begin, shape_invariants=invariants)
    stacked = tf.transpose(states.stack(), (1, 2, 0, 3))  # (directions, batch, steps, units)
    return tf.concat([stacked[index] if index == 0 else stacked[index][:, ::-1] for index in range(len(layer))], axis=2)


def write_saved_model(encoder: Encoder, front_end: FrontEndState, clip_samples: int, folder: Path) -> None:
    """Writes a new `folder`."""
    graph = InferenceGraph(encoder, front_end)
    signatures = _phrase_signatures(graph) if encoder.is_ctc else _clip_signatures(graph, clip_samples)
    functions = {
        name: tf.function(each, input_signature=specs, autograph=False).get_concrete_function()
        for name, (each, *specs) in signatures.items()
    }
    tf.saved_model.save(graph, str(folder), functions)


def _clip_signatures(graph: InferenceGraph, clip_samples: int) -> dict[str, tuple]:
    """A function and what it takes, by the signature's name."""
    encoder = graph.encoder
    audio = tf.TensorSpec((None, clip_samples), tf.float32, name="audio")
    features = tf.TensorSpec((None, encoder.frames, encoder.features), tf.float32, name="features")

    def logits(audio: tf.Tensor) -> tf.Tensor:
        return graph.from_features(graph.front_end(audio))

    return {
        "serving_default": (lambda audio: {"probabilities": tf.nn.softmax(logits(audio))}, audio),
        "logits": (lambda audio: {"logits": logits(audio)}, audio),
        "features": (lambda audio: {"features": graph.front_end(audio)}, audio),
        "from_features": (lambda features: {"logits": graph.from_features(features)}, features),
        "embedding": (lambda audio: {"embedding": graph.embed(graph.front_end(audio))}, audio),
    }


def _phrase_signatures(graph: InferenceGraph) -> dict[str, tuple]:
    """The same with a CTC head."""
    audio = tf.TensorSpec((None, None), tf.float32, name="audio")
    samples = tf.TensorSpec((None,), tf.int32, name="samples")
    features = tf.TensorSpec((None, None, graph.encoder.features), tf.float32, name="features")
    frames = tf.TensorSpec((None,), tf.int32, name="frames")

    def transcribe(features: tf.Tensor, frames: tf.Tensor) -> tf.Tensor:
        """Of audio without a step, too: the states of a loop that never ran couldn't be stacked."""
        count, subsampling = tf.shape(features)[1], graph.encoder.subsampling
        padded = tf.pad(features, ((0, 0), (0, tf.maximum(0, subsampling - count)), (0, 0)))
        return graph.transcribe(padded, frames)[:, : count // subsampling]

    def logits(audio: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
        return transcribe(graph.front_end(audio), graph.front_end.frames_within(samples))

    def features_of(audio: tf.Tensor, samples: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"features": graph.front_end(audio), "frames": graph.front_end.frames_within(samples)}

    return {
        "serving_default": (
            lambda audio, samples: {"probabilities": tf.nn.softmax(logits(audio, samples))},
            audio,
            samples,
        ),
        "logits": (lambda audio, samples: {"logits": logits(audio, samples)}, audio, samples),
        "features": (features_of, audio, samples),
        "from_features": (lambda features, frames: {"logits": transcribe(features, frames)}, features, frames),
    }
