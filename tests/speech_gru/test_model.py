"""The model against NumPy written from the equations, and its promises about causality, shapes and number formats."""

import os
import subprocess
import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest
import tensorflow as tf

from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from data_pipeline.settings import FrontEndSettings
from speech_gru.config import ModelSettings
from speech_gru.model import AttentionPooling, build_model, build_recognizer, multiply_adds
from speech_gru.training import dtype_policy

FRAMES, FEATURES, LABELS = 11, 5, 3


def build(policy: str = "float32", frames: int = FRAMES, **settings) -> keras.Model:
    """A small model with random weights, biases included."""
    with dtype_policy(policy):
        model = build_model(ModelSettings(**{"units": 4, "layers": 1, **settings}), frames, FEATURES, LABELS)
    rng = np.random.default_rng(1)
    model.set_weights([np.abs(rng.normal(0, 0.6, weight.shape)) + 0.1 for weight in model.get_weights()])
    for layer in model.layers:  # all weights positive would hide a wrong sign; variances must be
        if not isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.normal(0, 0.6, weight.shape) for weight in layer.get_weights()])
    return model


def batch(frames: int = FRAMES) -> np.ndarray:
    return np.random.default_rng(2).normal(0, 1, (3, frames, FEATURES)).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gru(inputs: np.ndarray, kernel, recurrent_kernel, bias) -> np.ndarray:
    """All states of the GRU whose reset gate acts after the product (cuDNN's; Keras's reset_after), in float64."""
    state, states = np.zeros((len(inputs), recurrent_kernel.shape[0])), []
    for frame in np.moveaxis(inputs.astype(np.float64), 1, 0):
        update, reset, new = np.split(frame @ kernel + bias[0], 3, axis=1)
        update_state, reset_state, new_state = np.split(state @ recurrent_kernel + bias[1], 3, axis=1)
        update, reset = sigmoid(update + update_state), sigmoid(reset + reset_state)
        state = update * state + (1 - update) * np.tanh(new + reset * new_state)
        states.append(state)
    return np.stack(states, axis=1)


def encode(inputs: np.ndarray, model: keras.Model, bidirectional: bool) -> np.ndarray:
    """The states of the model's whole stack, from its weights."""
    for layer in model.layers:
        if "gru" in layer.name:
            weights = layer.get_weights()
            states = gru(inputs, *weights[:3])
            if bidirectional:
                states = np.concatenate([states, gru(inputs[:, ::-1], *weights[3:])[:, ::-1]], axis=-1)
            inputs = states
    return inputs


def pool(states: np.ndarray, model: keras.Model, pooling: str, bidirectional: bool) -> np.ndarray:
    if pooling == "mean":
        return states.mean(axis=1)
    if pooling == "last":
        units = states.shape[-1] // 2
        return np.concatenate([states[:, -1, :units], states[:, 0, units:]], 1) if bidirectional else states[:, -1]
    hidden, bias, score = model.get_layer("pooling").get_weights()
    scores = np.exp((np.tanh(states @ hidden + bias) @ score)[:, :, 0])
    return np.einsum("bt,btc->bc", scores / scores.sum(axis=1, keepdims=True), states)


@pytest.mark.parametrize("pooling", ["attention", "mean", "last"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_model_is_its_equations(bidirectional, pooling):
    model = build(layers=2, bidirectional=bidirectional, pooling=pooling)
    pooled = pool(encode(batch(), model, bidirectional), model, pooling, bidirectional)
    kernel, bias = model.get_layer("head").get_weights()
    np.testing.assert_allclose(model(batch()), pooled @ kernel + bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pooling", ["attention", "mean", "last"])
def test_frames_are_stacked_in_order_and_what_is_left_over_is_dropped(pooling):
    model = build(bidirectional=False, subsampling=3, pooling=pooling)
    stacked = batch()[:, :9].reshape(3, 3, 3 * FEATURES)
    pooled = pool(encode(stacked, model, False), model, pooling, False)
    kernel, bias = model.get_layer("head").get_weights()
    np.testing.assert_allclose(model(batch()), pooled @ kernel + bias, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bidirectional", "before"), [(False, 4), (True, 2)])
def test_the_convolution_is_its_equation(bidirectional, before):
    model = build(bidirectional=bidirectional, convolution_filters=7)
    kernel = model.get_layer("convolution_0").get_weights()[0]
    padded = np.pad(batch(), ((0, 0), (before, 4 - before), (0, 0)))
    convolved = sum(padded[:, tap : tap + FRAMES] @ kernel[tap] for tap in range(5))
    scale, offset, mean, variance = model.get_layer("batch_norm_0").get_weights()
    expected = np.maximum(0, (convolved - mean) / np.sqrt(variance + 1e-3) * scale + offset)
    relu = keras.Model(model.input, model.get_layer("relu_0").output)
    np.testing.assert_allclose(relu(batch()), expected, rtol=1e-3, atol=1e-4)


class TestStreams:
    """Of three clips: each has 11 frames, hence five steps of two; six steps from one to the next."""

    @staticmethod
    def both(**settings) -> tuple[keras.Model, keras.Model]:
        """The model to train, and that of clips alone, with its weights."""
        settings = {"units": 4, "layers": 2, "bidirectional": False, "subsampling": 2, **settings}
        alone = build(**settings)
        model = build_model(ModelSettings(**settings), FRAMES, FEATURES, LABELS, stream_steps=6)
        assert [(w.path, w.shape) for w in model.weights] == [(w.path, w.shape) for w in alone.weights]
        model.set_weights(alone.get_weights())
        return model, alone

    @pytest.mark.parametrize("pooling", ["attention", "mean", "last"])
    def test_the_state_goes_on_and_the_pooling_takes_each_clips_own_steps(self, pooling):
        model, _ = self.both(pooling=pooling)
        inputs = batch(36)
        assert model.input_shape == (None, None, FEATURES)
        states = encode(inputs.reshape(3, 18, 2 * FEATURES), model, False)
        own = np.stack([states[:, 6 * clip : 6 * clip + 5] for clip in range(3)], axis=1).reshape(9, 5, 4)
        kernel, bias = model.get_layer("head").get_weights()
        np.testing.assert_allclose(
            model(inputs), pool(own, model, pooling, False) @ kernel + bias, rtol=1e-4, atol=1e-5
        )

    @pytest.mark.parametrize("pooling", ["attention", "mean", "last"])
    def test_a_clip_alone_is_what_it_was(self, pooling):
        model, alone = self.both(pooling=pooling)
        np.testing.assert_allclose(model(batch()), alone(batch()), rtol=1e-5, atol=1e-6)

    def test_in_a_graph_that_takes_both(self):
        """As training's, where the number of frames isn't known."""
        model, _ = self.both(pooling="mean")
        graph = tf.function(model, input_signature=[tf.TensorSpec((None, None, FEATURES))])
        for inputs in (batch(36), batch()):
            np.testing.assert_allclose(graph(inputs), model(inputs), rtol=1e-5, atol=1e-6)

    def test_behind_a_stem(self):
        model, alone = self.both(stem_filters=(3,), convolution_filters=6, pooling="mean")
        inputs = batch(36)
        stem = keras.Model(model.input, model.get_layer("relu_1").output)
        states = encode(stem(inputs).numpy(), model, False)
        pooled = states.reshape(3, 3, 6, 4)[:, :, :5].mean(axis=2).reshape(9, 4)
        kernel, bias = model.get_layer("head").get_weights()
        np.testing.assert_allclose(model(inputs), pooled @ kernel + bias, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(model(batch()), alone(batch()), rtol=1e-5, atol=1e-6)

    def test_behind_convolutions(self):
        settings = {"convolution_filters": 6, "convolution_layers": 2, "convolution_kernel": 3, "pooling": "mean"}
        model, _ = self.both(**settings)
        inputs = batch(36)
        convolution = keras.Model(model.input, model.get_layer("sum_1").output)
        assert convolution(inputs).shape == (3, 18, 6)
        states = encode(convolution(inputs).numpy(), model, False)
        pooled = states.reshape(3, 3, 6, 4)[:, :, :5].mean(axis=2).reshape(9, 4)
        kernel, bias = model.get_layer("head").get_weights()
        np.testing.assert_allclose(model(inputs), pooled @ kernel + bias, rtol=1e-4, atol=1e-5)


def convolved(inputs: np.ndarray, model: keras.Model, index: int, bidirectional: bool) -> np.ndarray:
    """relu(batch_norm(convolution)) with a stride of 1, from the equation and the model's weights."""
    kernel = model.get_layer(f"convolution_{index}").get_weights()[0]
    before = (len(kernel) - 1) // 2 if bidirectional else len(kernel) - 1
    padded = np.pad(inputs, ((0, 0), (before, len(kernel) - 1 - before), (0, 0)))
    summed = sum(padded[:, tap : tap + inputs.shape[1]] @ kernel[tap] for tap in range(len(kernel)))
    scale, offset, mean, variance = model.get_layer(f"batch_norm_{index}").get_weights()
    return np.maximum(0, (summed - mean) / np.sqrt(variance + 1e-3) * scale + offset)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_each_convolution_after_the_first_adds_to_what_it_is_given(bidirectional):
    settings = {"convolution_filters": 7, "convolution_layers": 3, "convolution_kernel": 3, "dropout": 0.1}
    model = build(bidirectional=bidirectional, pooling="mean", **settings)
    expected = convolved(batch(), model, 0, bidirectional)
    for index in (1, 2):
        expected = convolved(expected, model, index, bidirectional) + expected
        found = keras.Model(model.input, model.get_layer(f"sum_{index}").output)(batch())
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    pooled = pool(encode(expected, model, bidirectional), model, "mean", bidirectional)
    kernel, bias = model.get_layer("head").get_weights()
    np.testing.assert_allclose(model(batch()), pooled @ kernel + bias, rtol=1e-3, atol=1e-3)


def test_the_first_convolution_alone_takes_several_frames_a_step():
    model = build(convolution_filters=7, convolution_layers=3, subsampling=2)
    strides = [model.get_layer(f"convolution_{index}").strides for index in range(3)]
    assert strides == [(2,), (1,), (1,)]


def convolved_bands(inputs: np.ndarray, model: keras.Model, index: int, before: tuple[int, int], stride: int):
    """relu(batch_norm(convolution)) of (batch, frames, bands, channels), tap by tap, from the model's weights."""
    kernel = model.get_layer(f"convolution_{index}").get_weights()[0]
    padded = np.pad(inputs, ((0, 0), *((front, 9) for front in before), (0, 0)))
    frames, bands = (size // stride for size in inputs.shape[1:3])
    summed = 0
    for frame, band in np.ndindex(kernel.shape[:2]):
        taken = padded[:, frame : frame + stride * frames : stride, band : band + stride * bands : stride]
        summed = summed + taken @ kernel[frame, band]
    scale, offset, mean, variance = model.get_layer(f"batch_norm_{index}").get_weights()
    return np.maximum(0, (summed - mean) / np.sqrt(variance + 1e-3) * scale + offset)


STEM = {"stem_filters": (3, 4, 4), "convolution_filters": 6, "convolution_layers": 2, "subsampling": 4}


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_stem_is_its_equation(bidirectional):
    """Twice halved, then added to what it is given; its bands side by side go into one convolution of a step each."""
    with dtype_policy("float32"):
        model = build_model(ModelSettings(units=4, layers=1, bidirectional=bidirectional, **STEM), 24, 8, LABELS)
    rng = np.random.default_rng(3)
    model.set_weights(
        [rng.normal(0, 0.5, weight.shape) ** (2 if "var" in weight.path else 1) for weight in model.weights]
    )
    inputs = rng.normal(0, 1, (2, 24, 8)).astype(np.float32)
    # Bands are padded alike on both sides, or with one more above; frames so only if those to come may be seen.
    frames_before = (1, 0, 1) if bidirectional else (3, 1, 2)
    halved = convolved_bands(inputs[..., None], model, 0, (frames_before[0], 1), 2)
    quartered = convolved_bands(halved, model, 1, (frames_before[1], 0), 2)
    assert quartered.shape == (2, 6, 2, 4)
    stem = convolved_bands(quartered, model, 2, (frames_before[2], 1), 1) + quartered
    found = keras.Model(model.input, model.get_layer("sum_2").output)(inputs)
    np.testing.assert_allclose(found, stem, rtol=1e-3, atol=1e-3)
    assert len(model.get_layer("convolution_3").get_weights()[0]) == 1
    joined = convolved(stem.reshape(2, 6, 8), model, 3, bidirectional)
    expected = convolved(joined, model, 4, bidirectional) + joined
    found = keras.Model(model.input, model.get_layer("sum_4").output)(inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("subsampling", "strides"),
    [(1, [(1, 2), (1, 2), (1, 1), (1,)]), (2, [(2, 2), (1, 2), (1, 1), (1,)]), (6, [(2, 2), (1, 2), (1, 1), (3,)])],
)
def test_a_stem_halves_the_frames_while_it_can_and_the_first_after_it_does_the_rest(subsampling, strides):
    model = build(frames=24, stem_filters=(3, 4, 5), convolution_filters=6, subsampling=subsampling)
    assert [model.get_layer(f"convolution_{index}").strides for index in range(4)] == strides
    assert not [layer for layer in model.layers if layer.name.startswith("sum_")], "4 channels can't be added to 5"


@pytest.mark.parametrize("settings", [{}, {"bidirectional": False, "pooling": "last"}, {"convolution_filters": 4}])
def test_unrolled_it_gives_the_same_logits(settings):
    settings = ModelSettings(**{"units": 4, "layers": 2, **settings})
    loop, unrolled = (build_model(settings, FRAMES, FEATURES, LABELS, unroll=unroll) for unroll in (False, True))
    unrolled.set_weights(loop.get_weights())
    np.testing.assert_allclose(unrolled(batch()), loop(batch()), rtol=1e-4, atol=1e-5)
    operators = [
        {operator.type for operator in tf.function(model).get_concrete_function(batch()).graph.get_operations()}
        for model in (loop, unrolled)
    ]
    assert ["While" in found or "StatelessWhile" in found for found in operators] == [True, False]


def gru_layers(model: keras.Model) -> list[keras.layers.GRU]:
    """Those of both directions."""
    layers = []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Bidirectional):
            layers += [layer.forward_layer, layer.backward_layer]
        elif isinstance(layer, keras.layers.GRU):
            layers.append(layer)
    return layers


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cudnn", [True, False, "auto"])
def test_cudnn_is_asked_of_each_gru(cudnn, bidirectional):
    settings = ModelSettings(units=4, layers=2, bidirectional=bidirectional)
    layers = gru_layers(build_model(settings, FRAMES, FEATURES, LABELS, cudnn=cudnn))
    assert len(layers) == (4 if bidirectional else 2)
    assert {layer.use_cudnn for layer in layers} == {cudnn}


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="there is a GPU")
def test_cudnn_demanded_where_there_is_none_is_an_error():
    model = build_model(ModelSettings(units=4, layers=1), FRAMES, FEATURES, LABELS, cudnn=True)
    with pytest.raises(ValueError, match="use_cudnn=True"):
        model(batch())


@pytest.mark.parametrize("synchronized", [False, True])
def test_normalisation_over_all_devices_is_asked_of_each_convolution(synchronized):
    settings = ModelSettings(units=4, convolution_filters=4, convolution_layers=2)
    model = build_model(settings, FRAMES, FEATURES, LABELS, synchronized=synchronized)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert [layer.synchronized for layer in norms] == [synchronized] * 2


@pytest.mark.parametrize(
    ("settings", "frames", "steps"),
    [
        ({"subsampling": 1}, 11, 11),
        ({"subsampling": 2}, 11, 5),
        ({"subsampling": 2}, 12, 6),
        ({"subsampling": 8, "pooling": "mean"}, 8, 1),
        ({"subsampling": 2, "convolution_filters": 3}, 11, 5),
        ({"subsampling": 4, "convolution_filters": 3, "bidirectional": False}, 11, 2),
        ({"subsampling": 4, "convolution_filters": 3, "bidirectional": False}, 12, 3),
        ({"subsampling": 5, "convolution_filters": 3, "bidirectional": False, "convolution_layers": 2}, 11, 2),
        ({"subsampling": 2, "convolution_filters": 3, "convolution_layers": 3}, 11, 5),
        ({"convolution_filters": 3, "convolution_kernel": 99}, 11, 11),
        (STEM, 11, 2),
        (STEM, 12, 3),
    ],
)
def test_steps(settings, frames, steps):
    model = build(frames=frames, **settings)
    gru = next(layer for layer in model.layers if "gru" in layer.name)
    assert gru.input.shape[1] == steps
    assert model(batch(frames)).shape == (3, LABELS)


def test_a_clip_shorter_than_a_step_is_a_mistake_of_the_settings():
    with pytest.raises(UserError, match=r"model\.subsampling is 8, but a clip has only 7 frames"):
        build(frames=7, subsampling=8)


@pytest.mark.parametrize(
    ("settings", "first"),
    [
        ({}, 7),
        ({"subsampling": 2}, 3),  # frames 6 and 7
        ({"convolution_filters": 6}, 7),
        ({"convolution_filters": 6, "subsampling": 3}, 2),  # frames 6 to 8
        ({"convolution_filters": 6, "subsampling": 3, "convolution_kernel": 3}, 2),
        ({"convolution_filters": 6, "subsampling": 2, "convolution_layers": 3}, 3),
        ({"convolution_filters": 6, "convolution_layers": 2}, 7),
        ({**STEM, "subsampling": 2}, 3),
        ({**STEM, "subsampling": 1}, 7),
    ],
)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_without_backward_direction_no_step_sees_the_future(settings, first, bidirectional):
    model = build(bidirectional=bidirectional, layers=2, **settings)
    top = [layer for layer in model.layers if "gru" in layer.name][-1]
    encoder = keras.Model(model.input, top.output)
    before, changed = batch(), batch()
    changed[:, 7] += 1
    difference = np.abs(encoder(before).numpy() - encoder(changed).numpy()).max(axis=(0, 2))
    assert (difference[first:] > 0).all()
    assert (difference[:first] > 0).any() == bidirectional


def test_the_first_convolution_sees_a_steps_own_frames_and_those_before():
    settings = {"bidirectional": False, "convolution_filters": 6, "convolution_kernel": 5, "subsampling": 3}
    model = build(**settings)
    relu = keras.Model(model.input, model.get_layer("convolution_0").output)
    before = relu(batch()).numpy()
    seen = []
    for frame in range(FRAMES):
        changed = batch()
        changed[:, frame] += 1
        seen.append(set(np.flatnonzero(np.abs(relu(changed).numpy() - before).max(axis=(0, 2)) > 1e-6)))
    # Step 0 has frames 0 to 2; step 1 has its own, 3 to 5, and 1 and 2; step 2 has 6 to 8, and 4 and 5.
    assert seen == [{0}, {0, 1}, {0, 1}, {1}, {1, 2}, {1, 2}, {2}, {2}, {2}, set(), set()]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # One GRU step: 3 gates of (inputs + state) x units.
        ({"bidirectional": False, "pooling": "last"}, 11 * 3 * (5 + 4) * 4 + 4 * 3),
        ({"bidirectional": True, "pooling": "mean"}, 11 * 2 * 3 * (5 + 4) * 4 + 8 * 3),
        ({"layers": 2, "pooling": "mean"}, 11 * 2 * 3 * (5 + 4) * 4 + 11 * 2 * 3 * (8 + 4) * 4 + 8 * 3),
        # Attention, a step: 8 x 64 hidden units, 64 for the score, 8 for the weighted mean.
        ({"pooling": "attention"}, 11 * 2 * 3 * (5 + 4) * 4 + 11 * (8 * 64 + 64 + 8) + 8 * 3),
        ({"bidirectional": False, "pooling": "mean", "subsampling": 2}, 5 * 3 * (10 + 4) * 4 + 4 * 3),
        (
            {"bidirectional": False, "pooling": "mean", "convolution_filters": 7, "subsampling": 2},
            5 * 5 * 5 * 7 + 5 * 3 * (7 + 4) * 4 + 4 * 3,
        ),
        (  # The second and the third convolution have 7 channels on both sides, and no stride.
            {"convolution_filters": 7, "convolution_layers": 3, "subsampling": 2, "pooling": "mean"},
            5 * 5 * (5 + 7 + 7) * 7 + 5 * 2 * 3 * (7 + 4) * 4 + 8 * 3,
        ),
        (  # 11 frames of 5 bands; 5 of 2; 2 of 1, twice; then 4 channels a step.
            {**STEM, "pooling": "mean"},
            5 * 2 * 25 * 3
            + 2 * 9 * 3 * 4
            + 2 * 9 * 4 * 4
            + 2 * 4 * 6
            + 2 * 5 * 6 * 6
            + 2 * 2 * 3 * (6 + 4) * 4
            + 8 * 3,
        ),
    ],
)
def test_multiply_adds_as_counted_by_hand(settings, expected):
    assert multiply_adds(build(**settings)) == expected


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize(
    "settings", [{"subsampling": 2}, {"convolution_filters": 6}, {"pooling": "last"}, {"pooling": "mean"}, STEM]
)
def test_mixed_precision_has_float32_weights_and_logits(policy, settings):
    mixed = build(policy, **settings)
    assert keras.config.dtype_policy().name == "float32"
    assert mixed(batch()).dtype == "float32"
    assert {weight.dtype for weight in mixed.weights} == {"float32"}
    computed = {layer.compute_dtype for layer in mixed.layers if "gru" in layer.name}
    assert computed == {policy.removeprefix("mixed_")}
    whole = build(**settings)
    whole.set_weights(mixed.get_weights())
    np.testing.assert_allclose(whole(batch()), mixed(batch()), rtol=0.1, atol=0.1)


def test_the_same_weights_give_the_same_logits_when_rebuilt(tmp_path):
    settings = {"layers": 2, "convolution_filters": 6, "subsampling": 2, "dropout": 0.4}
    first, second = build(**settings), build("mixed_float16", **settings)
    second.save_weights(tmp_path / "x.weights.h5")
    rebuilt = build(**settings)
    rebuilt.set_weights([np.zeros_like(weight) for weight in rebuilt.get_weights()])
    rebuilt.load_weights(tmp_path / "x.weights.h5")
    np.testing.assert_array_equal(rebuilt(batch()), first(batch()))


@pytest.mark.parametrize("layers", [1, 3])
def test_dropout_acts_in_training_alone(layers):
    model = build(dropout=0.5, layers=layers)
    dropouts = [layer.name for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert dropouts == [f"dropout_{index}" for index in range(1, layers)] + ["dropout_head"]
    np.testing.assert_array_equal(model(batch()), model(batch(), training=False))
    assert np.abs(model(batch(), training=True) - model(batch())).max() > 0
    assert not [layer for layer in build(dropout=0).layers if isinstance(layer, keras.layers.Dropout)]


def test_the_recognizer_is_the_front_end_and_the_model():
    front_end = FrontEnd.from_settings(FrontEndSettings(mel_bins=6, coefficients=FEATURES, window_ms=20), 8000)
    clips = np.random.default_rng(0).normal(0, 0.1, (2, 2000)).astype(np.float32)
    features = front_end(clips)
    model = build(frames=features.shape[1])
    recognizer = build_recognizer(front_end, model, 2000)
    assert recognizer.input_shape == (None, 2000)
    np.testing.assert_allclose(recognizer(clips), model(features), rtol=1e-5, atol=1e-6)


def test_attention_pooling_survives_its_config():
    layer = AttentionPooling(units=9, name="mine")
    assert AttentionPooling.from_config(layer.get_config()).units == 9
    assert layer.compute_output_shape((None, 7, 5)) == (None, 5)


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_it_runs_on_other_backends_without_tensorflow(backend, tmp_path):
    if find_spec(backend) is None:
        pytest.skip(f"needs {backend}, which isn't installed")
    settings = {"layers": 2, "convolution_filters": 6, "subsampling": 2, "convolution_kernel": 3}
    settings |= {"convolution_layers": 2, "stem_filters": (3,)}
    np.savez(tmp_path / "here.npz", batch(), build(**settings)(batch()), *build(**settings).get_weights())
    code = f"""
import sys, numpy as np
sys.modules["tensorflow"] = None  # importing it fails
from speech_gru.config import ModelSettings
from speech_gru.model import build_model
inputs, logits, *weights = np.load({str(tmp_path / "here.npz")!r}).values()
model = build_model(ModelSettings(units=4, **{settings!r}), {FRAMES}, {FEATURES}, {LABELS}, stream_steps=6)
model.set_weights(weights)
assert model(np.zeros((2, 3 * 12, {FEATURES}), np.float32)).shape == (6, {LABELS})
import keras
assert keras.backend.backend() == {backend!r}
np.testing.assert_allclose(keras.ops.convert_to_numpy(model(inputs)), logits, rtol=1e-3, atol=1e-4)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "KERAS_BACKEND": backend}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_setting_has_an_effect():
    before = {"convolution_filters": 4}
    changes = {
        "head": "ctc",
        "units": 5,
        "layers": 2,
        "bidirectional": False,
        "dropout": 0.3,
        "stem_filters": (3,),
        "convolution_filters": 6,
        "convolution_layers": 2,
        "convolution_kernel": 3,
        "subsampling": 2,
        "pooling": "mean",
    }
    assert set(changes) == set(ModelSettings.model_fields)
    for name, value in changes.items():
        assert build(**before | {name: value}).get_config() != build(**before).get_config(), name
