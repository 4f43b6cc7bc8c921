"""The model: an optional convolution, a stack of GRU layers, pooling, a head. Keras 3 alone, on any backend."""

import keras
from keras import layers, ops

from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from speech_gru.config import ModelSettings


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


def build_model(
    settings: ModelSettings,
    frames: int,
    features: int,
    labels: int,
    *,
    cudnn: bool | str = "auto",
    unroll: bool = False,
    synchronized: bool = False,
    preceded: bool = False,
) -> keras.Model:
    """The trained part: features (batch, frames, features) -> logits (batch, labels), always float32.

    Layers follow the dtype policy in force, so that the same call gives the mixed-precision model to train and the
    float32 model to export; their weights are the same.

    Args:
        cudnn: of Keras's GRU layers: True demands cuDNN, False rules it out, "auto" takes it where it can be had.
        unroll: write the GRUs' steps out instead of looping; rules out cuDNN.
        preceded: before the clip may come more frames, whole steps, which the pooling leaves out.
        synchronized: normalise over the batches of all devices together (TensorFlow alone has this).

    Raises:
        UserError: a clip is shorter than one step of `subsampling` frames.
    """
    if settings.subsampling > frames:
        raise UserError(f"model.subsampling is {settings.subsampling}, but a clip has only {frames} frames")
    inputs = keras.Input((None if preceded else frames, features), name="features")
    hidden = _convolve(inputs, frames, settings, synchronized)
    for index in range(settings.layers):
        if index and settings.dropout:
            hidden = layers.Dropout(settings.dropout, name=f"dropout_{index}")(hidden)
        is_last = index == settings.layers - 1
        sequences = not (is_last and settings.pooling == "last")
        hidden = _gru(settings, index, return_sequences=sequences, use_cudnn=cudnn, unroll=unroll)(hidden)
    if preceded and settings.pooling != "last":
        hidden = hidden[:, -(frames // settings.subsampling) :]
    hidden = _pool(hidden, settings)
    if settings.dropout:
        hidden = layers.Dropout(settings.dropout, name="dropout_head")(hidden)
    logits = layers.Dense(labels, dtype="float32", name="head")(hidden)
    return keras.Model(inputs, logits, name="encoder_and_head")


def build_recognizer(front_end: FrontEnd, model: keras.Model, clip_samples: int) -> keras.Model:
    """The whole way, with `model`'s own weights: audio (batch, clip_samples) float32 -> logits (batch, labels)."""
    audio = keras.Input((clip_samples,), dtype="float32", name="audio")
    return keras.Model(audio, model(front_end(audio)), name="recognizer")


def multiply_adds(model: keras.Model) -> int:
    """Multiplications with addition that `model` (see `build_model`) does for one clip, in its matrix products."""
    total = 0
    for layer in model.layers:
        shape = layer.input.shape if isinstance(layer.input, keras.KerasTensor) else ()
        if isinstance(layer, layers.Conv1D):
            total += layer.output.shape[1] * layer.kernel.shape[0] * layer.kernel.shape[1] * layer.filters
        elif isinstance(layer, (layers.GRU, layers.Bidirectional)):
            matrices = [weight for weight in layer.trainable_weights if "kernel" in weight.name]
            total += shape[1] * sum(matrix.shape[0] * matrix.shape[1] for matrix in matrices)
        elif isinstance(layer, AttentionPooling):
            total += shape[1] * (shape[2] * layer.units + layer.units + shape[2])
        elif isinstance(layer, layers.Dense):
            total += shape[-1] * layer.units
    return total


def _convolve(inputs, frames: int, settings: ModelSettings, synchronized: bool):
    """Convolutions, or frames stacked, or nothing."""
    if settings.convolution_filters:
        hidden = _convolution(inputs, settings, 0, synchronized)
        for index in range(1, settings.convolution_layers):
            added = _convolution(hidden, settings, index, synchronized)
            hidden = layers.Add(name=f"sum_{index}")([hidden, added])
        return hidden
    if settings.subsampling > 1:
        steps = -1 if inputs.shape[1] is None else frames // settings.subsampling
        rest = frames % settings.subsampling
        whole = inputs[:, :-rest] if rest else inputs
        return layers.Reshape((steps, settings.subsampling * inputs.shape[2]), name="stack_frames")(whole)
    return inputs


def _convolution(inputs, settings: ModelSettings, index: int, synchronized: bool):
    """Convolution over time, normalisation, ReLU; the first one takes `subsampling` frames a step."""
    stride = 1 if index else settings.subsampling
    # A step sees its own frames and, of `beside` more, those before or those on both sides. Keras's "same" would lay
    # them by the clip's length, its "causal" begin with the first frame alone; a stream couldn't follow either.
    beside = settings.convolution_kernel - stride
    after = beside - beside // 2 if settings.bidirectional else 0
    inputs = layers.ZeroPadding1D((beside - after, after), name=f"padding_{index}")(inputs)
    convolution = layers.Conv1D(
        settings.convolution_filters,
        settings.convolution_kernel,
        strides=stride,
        use_bias=False,
        name=f"convolution_{index}",
    )
    normalized = layers.BatchNormalization(synchronized=synchronized, name=f"batch_norm_{index}")(convolution(inputs))
    return layers.ReLU(name=f"relu_{index}")(normalized)


def _gru(settings: ModelSettings, index: int, **arguments):
    """A GRU in the one form that cuDNN runs: tanh, sigmoid, reset gate after the product, no recurrent dropout."""
    gru = layers.GRU(settings.units, name=f"gru_{index}", **arguments)
    return layers.Bidirectional(gru, name=f"bigru_{index}") if settings.bidirectional else gru


def _pool(hidden, settings: ModelSettings):
    if settings.pooling == "attention":
        return AttentionPooling(name="pooling")(hidden)
    if settings.pooling == "mean":
        return layers.GlobalAveragePooling1D(name="pooling")(hidden)
    return hidden  # "last": the top GRU returned its last state alone
