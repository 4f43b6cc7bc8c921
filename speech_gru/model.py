"""The model: optional convolutions, a stack of GRU layers, pooling, a head. Keras 3 alone, on any backend.

With a classification head all clips of a batch have one length. With a CTC head each has its own: its number of frames
is a second input, and what lies behind them is zero in each layer, so that a clip's logits don't hang on the others'.
"""

import math
from dataclasses import dataclass

import keras
from keras import layers, ops

from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from speech_gru.config import Config, ModelSettings


@keras.saving.register_keras_serializable("speech_gru")
class AttentionPooling(layers.Layer):
    """(batch, steps, channels) -> (batch, channels): a mean weighted by softmax(v · tanh(W h + b)) over the steps.

    The additive self-attention of Lin et al. 2017 (arXiv:1703.03130, equation 5) with one head.
    """

    def __init__(self, units: int = 64, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = layers.Dense(units, activation="tanh", dtype=self.dtype_policy, name="hidden")
        self.score = layers.Dense(1, use_bias=False, dtype=self.dtype_policy, name="score")

    def build(self, input_shape):
        self.hidden.build(input_shape)
        self.score.build((*input_shape[:-1], self.units))
        self.built = True

    def call(self, inputs):
        weights = ops.softmax(self.score(self.hidden(inputs)), axis=1)
        return ops.sum(weights * inputs, axis=1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1])

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("speech_gru")
class StepMask(layers.Layer):
    """Whether a step lies within its clip: a sequence (batch, steps, …), lengths (batch,) -> (batch, steps)."""

    def call(self, sequence, lengths):
        return ops.arange(ops.shape(sequence)[1], dtype="int32")[None, :] < ops.cast(lengths, "int32")[:, None]

    def compute_output_spec(self, sequence, lengths):
        return keras.KerasTensor(sequence.shape[:2], dtype="bool")


@keras.saving.register_keras_serializable("speech_gru")
class Masked(layers.Layer):
    """A sequence (batch, steps, …), zero where the mask (batch, steps) is false."""

    supports_masking = True  # of Keras's own mask, which normalisation hands on, it makes nothing

    def compute_mask(self, *_):
        return None

    def call(self, sequence, mask):
        return sequence * _beside(sequence, mask)

    def compute_output_spec(self, sequence, mask):
        return keras.KerasTensor(sequence.shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable("speech_gru")
class BatchNormalization(layers.BatchNormalization):
    """Keras's, but for masked steps: a step's mask counts for all of its bands, and the steps of several devices are
    normalised together, where Keras would take each device's by themselves."""

    def call(self, inputs, training=None, mask=None):
        if mask is not None:  # Keras wants as many dimensions as there are beside the channels
            mask = _beside(inputs, mask)[..., 0]
        return super().call(inputs, training=training, mask=mask)

    def _moments(self, inputs, mask):
        if mask is None:
            return super()._moments(inputs, mask)
        weights, axes = _beside(inputs, mask), tuple(range(len(inputs.shape) - 1))
        share, _ = ops.moments(weights, axes=axes, synchronized=self.synchronized)
        share = ops.maximum(share, keras.config.epsilon())  # perhaps no clip has a whole step
        mean = ops.moments(inputs * weights, axes=axes, synchronized=self.synchronized)[0] / share
        square = ops.square(inputs - mean) * weights
        return mean, ops.moments(square, axes=axes, synchronized=self.synchronized)[0] / share


def _beside(sequence, mask):
    """The mask (batch, steps) as numbers that a sequence (batch, steps, …) can be multiplied with."""
    return ops.reshape(ops.cast(mask, sequence.dtype), (*ops.shape(mask)[:2], *[1] * (len(sequence.shape) - 2)))


class ClipsOfStreams(layers.Layer):
    """Streams (streams, steps, channels) -> the clips in them (clips, own, channels): of each one its own steps.

    A clip begins `period` steps after the one before it; a clip alone, of its own steps, is a stream as well.
    """

    def __init__(self, own: int, period: int, **kwargs):
        super().__init__(**kwargs)
        self.own, self.period = own, period

    def call(self, inputs):
        steps = ops.shape(inputs)[1]
        clips = (steps + self.period - self.own) // self.period
        return ops.reshape(inputs, (-1, steps // clips, inputs.shape[2]))[:, : self.own]

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((None, self.own, inputs.shape[2]), dtype=self.compute_dtype)


@keras.saving.register_keras_serializable("speech_gru")
class StackFrames(layers.Layer):
    """(batch, frames, features) -> (batch, frames // count, count * features); frames that don't fill a step go."""

    def __init__(self, count: int, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def call(self, inputs):
        steps = ops.shape(inputs)[1] // self.count
        return ops.reshape(inputs[:, : steps * self.count], (-1, steps, self.count * inputs.shape[2]))

    def compute_output_spec(self, inputs):
        batch, frames, features = inputs.shape
        steps = None if frames is None else frames // self.count
        return keras.KerasTensor((batch, steps, self.count * features), dtype=self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "count": self.count}


def build_model(
    settings: ModelSettings,
    frames: int,
    features: int,
    labels: int,
    *,
    cudnn: bool | str = "auto",
    unroll: bool = False,
    synchronized: bool = False,
    stream_steps: int | None = None,
) -> keras.Model:
    """The trained part: features (batch, frames, features) -> logits (batch, labels), always float32.

    With a CTC head: features (batch, any frames, features) and their numbers of frames (batch,) int32 -> logits
    (batch, frames // subsampling, labels); of label 0, the blank, to begin with.

    Layers follow the dtype policy in force, so that the same call gives the mixed-precision model to train and the
    float32 model to export; their weights are the same.

    Args:
        cudnn: of Keras's GRU layers: True demands cuDNN, False rules it out, "auto" takes it where it can be had.
        unroll: write the GRUs' steps out instead of looping; rules out cuDNN.
        stream_steps: clips may also come as streams, where one begins so many steps after the one before it:
            (streams, frames, features) -> logits (clips, labels). None: clips alone.
        synchronized: normalise over the batches of all devices together (TensorFlow alone has this).

    Raises:
        UserError: a clip is shorter than one step of `subsampling` frames.
    """
    if settings.subsampling > frames:
        raise UserError(f"model.subsampling is {settings.subsampling}, but a clip has only {frames} frames")
    is_ctc = settings.head == "ctc"
    inputs = [keras.Input((None if stream_steps or is_ctc else frames, features), name="features")]
    inputs += [keras.Input((), dtype="int32", name="frames")] if is_ctc else []
    hidden, mask = _convolve(*inputs, settings=settings, synchronized=synchronized)
    for index in range(settings.layers):
        if index and settings.dropout:
            hidden = layers.Dropout(settings.dropout, name=f"dropout_{index}")(hidden)
        is_last = index == settings.layers - 1
        sequences = is_ctc or bool(stream_steps) or not (is_last and settings.pooling == "last")
        hidden = _gru(settings, index, return_sequences=sequences, use_cudnn=cudnn, unroll=unroll)(hidden, mask=mask)
    if stream_steps:
        hidden = ClipsOfStreams(frames // settings.subsampling, stream_steps, name="clips_of_streams")(hidden)
    if not is_ctc:
        hidden = _pool(hidden, settings)
    if settings.dropout:
        hidden = layers.Dropout(settings.dropout, name="dropout_head")(hidden)
    logits = layers.Dense(labels, dtype="float32", name="head")(hidden)
    return keras.Model(inputs if is_ctc else inputs[0], logits, name="encoder_and_head")


def stream_frames(config: Config, front_end: FrontEnd) -> int:
    """From one clip's beginning to the next one's in a stream: whole steps, as few as hold the clip."""
    subsampling = config.model.subsampling
    return -(-config.corpus.clip_samples // (front_end.hop * subsampling)) * subsampling


def build_recognizer(front_end: FrontEnd, model: keras.Model, clip_samples: int) -> keras.Model:
    """The whole way, with `model`'s own weights: audio (batch, clip_samples) float32 -> logits (batch, labels).

    With a CTC head: audio (batch, any samples) and each clip's own samples (batch,) int32 -> logits (batch, steps,
    labels).
    """
    if len(model.inputs) == 1:
        audio = keras.Input((clip_samples,), dtype="float32", name="audio")
        return keras.Model(audio, model(front_end(audio)), name="recognizer")
    audio = keras.Input((None,), dtype="float32", name="audio")
    samples = keras.Input((), dtype="int32", name="samples")
    return keras.Model([audio, samples], model([front_end(audio), front_end.frames_within(samples)]), name="recognizer")


def multiply_adds(model: keras.Model, frames: int | None = None) -> int:
    """Multiplications with addition that `model` (see `build_model`) does for a clip, in its matrix products.

    Args:
        frames: of the clip; None: those that the model has been built for.
    """
    total, steps = 0, frames or model.inputs[0].shape[1]
    for layer in model.layers:
        if isinstance(layer, StackFrames):
            steps //= layer.count
        elif isinstance(layer, (layers.Conv1D, layers.Conv2D)):
            steps //= layer.strides[0]
            bands = layer.output.shape[2] if isinstance(layer, layers.Conv2D) else 1
            total += steps * bands * math.prod(layer.kernel.shape)
        elif isinstance(layer, (layers.GRU, layers.Bidirectional)):
            matrices = [weight for weight in layer.trainable_weights if "kernel" in weight.name]
            total += steps * sum(matrix.shape[0] * matrix.shape[1] for matrix in matrices)
        elif isinstance(layer, AttentionPooling):
            channels = layer.input.shape[2]
            total += steps * (channels * layer.units + layer.units + channels)
        elif isinstance(layer, layers.Dense):
            total += (steps if len(layer.input.shape) == 3 else 1) * layer.input.shape[-1] * layer.units
    return total


def _convolve(features, frames=None, *, settings: ModelSettings, synchronized: bool):
    """Convolutions, or frames stacked, or nothing; and the mask of the steps, None without `frames`."""
    mask = None
    if frames is not None:
        features = Masked(name="masked_features")(features, StepMask(name="frame_mask")(features, frames))
    if not settings.convolution_filters:
        hidden = features
        if settings.subsampling > 1:
            hidden = StackFrames(settings.subsampling, name="stack_frames")(features)
        if frames is not None:
            mask = StepMask(name="step_mask")(hidden, frames // settings.subsampling)
        return hidden, mask
    hidden, masks, frames_to_step = features, {}, 1
    for index, planned in enumerate(_plan(settings)):
        convolved = _convolution(hidden, planned, index, settings.bidirectional)
        frames_to_step *= planned.stride[0]
        if frames is not None and frames_to_step not in masks:
            name = "step_mask" if frames_to_step == settings.subsampling else f"step_mask_{frames_to_step}"
            masks[frames_to_step] = StepMask(name=name)(convolved, frames // frames_to_step)
        mask = masks.get(frames_to_step)
        normalized = BatchNormalization(synchronized=synchronized, name=f"batch_norm_{index}")(convolved, mask=mask)
        added = layers.ReLU(name=f"relu_{index}")(normalized)
        if mask is not None:
            added = Masked(name=f"masked_{index}")(added, mask)
        hidden = layers.Add(name=f"sum_{index}")([hidden, added]) if planned.residual else added
    return hidden, mask


@dataclass(frozen=True)
class _Planned:
    """A convolution to be built."""

    filters: int
    kernel: tuple[int, ...]
    """Frames, and bands in the stem."""
    stride: tuple[int, ...]
    residual: bool


def _plan(settings: ModelSettings) -> list[_Planned]:
    """The convolutions one after the other, the stem's first."""
    planned, left = [], settings.subsampling
    for index, filters in enumerate(settings.stem_filters):
        size, halves = 3 if index else 5, index < 2
        stride = (2 if halves and left % 2 == 0 else 1, 2 if halves else 1)
        left //= stride[0]
        residual = not halves and filters == settings.stem_filters[index - 1]
        planned.append(_Planned(filters, (size, size), stride, residual))
    for index in range(settings.convolution_layers):
        width, stride = settings.convolution_kernel, left if index == 0 else 1
        if settings.stem_filters and index == 0:
            width = left
        planned.append(_Planned(settings.convolution_filters, (width,), (stride,), residual=index > 0))
    return planned


def _convolution(inputs, planned: _Planned, index: int, bidirectional: bool):
    """Convolution over time, in the stem over bands too; without bias: normalisation has one."""
    # A step sees its own frames and, of those beside them, more before or on both sides. Keras's "same" would lay them
    # by the clip's length, its "causal" begin with the first frame alone; a stream couldn't follow either.
    beside = planned.kernel[0] - planned.stride[0]
    after = beside - beside // 2 if bidirectional else 0
    padding, arguments = [(beside - after, after)], {"use_bias": False, "name": f"convolution_{index}"}
    if len(planned.kernel) == 1:
        if len(inputs.shape) == 4:
            inputs = layers.Reshape((-1, inputs.shape[2] * inputs.shape[3]), name="joined_bands")(inputs)
        padded = layers.ZeroPadding1D(padding[0], name=f"padding_{index}")(inputs)
        return layers.Conv1D(planned.filters, planned.kernel, strides=planned.stride, **arguments)(padded)
    if len(inputs.shape) == 3:
        inputs = layers.Reshape((-1, inputs.shape[2], 1), name="bands")(inputs)
    beside = planned.kernel[1] - planned.stride[1]
    padding.append((beside // 2, beside - beside // 2))
    padded = layers.ZeroPadding2D(padding, name=f"padding_{index}")(inputs)
    return layers.Conv2D(planned.filters, planned.kernel, strides=planned.stride, **arguments)(padded)


def _gru(settings: ModelSettings, index: int, **arguments):
    """A GRU in the one form that cuDNN runs: tanh, sigmoid, reset gate after the product, no recurrent dropout."""
    gru = layers.GRU(settings.units, name=f"gru_{index}", **arguments)
    return layers.Bidirectional(gru, name=f"bigru_{index}") if settings.bidirectional else gru


def _pool(hidden, settings: ModelSettings):
    if settings.pooling == "attention":
        return AttentionPooling(name="pooling")(hidden)
    if settings.pooling == "mean":
        return layers.GlobalAveragePooling1D(name="pooling")(hidden)
    # "last": the top GRU returned its last state alone, if there are no streams.
    return hidden if len(hidden.shape) == 2 else hidden[:, -1]
