"""The NumPy reference against Keras and against the equations written out, number by number."""

import math

import keras
import numpy as np
import pytest

from export.encoder import Convolution, Gru, Pooling
from export.reference import (
    Range,
    Ranges,
    classify,
    classify_stream,
    convolve,
    embed,
    encode,
    gru,
    gru_step,
    pool,
    sigmoid,
    softmax,
    transcribe,
)

UNITS, INPUTS, STEPS = 5, 3, 6


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(0, 0.8, shape).astype(np.float32)


def keras_gru(*, reset_after: bool, backwards: bool = False) -> keras.layers.GRU:
    layer = keras.layers.GRU(
        UNITS, return_sequences=True, reset_after=reset_after, go_backwards=backwards, use_cudnn=False
    )
    layer.build((None, STEPS, INPUTS))
    layer.set_weights([draw(*weight.shape, seed=index) for index, weight in enumerate(layer.get_weights())])
    return layer


def scalar_step(x, h, kernel, recurrent, bias, recurrent_bias, *, reset_after: bool) -> list[float]:
    """The equations of export.reference, for one clip, without a single array operation."""

    def given(gate: int, unit: int) -> float:
        column = gate * UNITS + unit
        return sum(x[i] * kernel[i][column] for i in range(INPUTS)) + bias[column]

    def product(gate: int, unit: int, state) -> float:
        column = gate * UNITS + unit
        return sum(state[i] * recurrent[i][column] for i in range(UNITS))

    def gate(number: int, unit: int) -> float:
        total = given(number, unit) + product(number, unit, h) + recurrent_bias[number * UNITS + unit]
        return 1 / (1 + math.exp(-total))

    z = [gate(0, unit) for unit in range(UNITS)]
    r = [gate(1, unit) for unit in range(UNITS)]
    new = []
    for unit in range(UNITS):
        c = recurrent_bias[2 * UNITS + unit]
        if reset_after:
            inner = r[unit] * (product(2, unit, h) + c)
        else:
            inner = product(2, unit, [r[i] * h[i] for i in range(UNITS)]) + c
        new.append(z[unit] * h[unit] + (1 - z[unit]) * math.tanh(given(2, unit) + inner))
    return new


@pytest.mark.parametrize("reset_after", [True, False])
def test_a_step_is_its_equations(reset_after):
    kernel, recurrent = draw(INPUTS, 3 * UNITS), draw(UNITS, 3 * UNITS)
    bias, recurrent_bias = draw(3 * UNITS, seed=1), draw(3 * UNITS, seed=2)
    inputs, states = draw(4, INPUTS), np.tanh(draw(4, UNITS))
    found = gru_step(inputs @ kernel + bias, states, recurrent, recurrent_bias, reset_after=reset_after)
    weights = [item.astype(float).tolist() for item in (kernel, recurrent, bias, recurrent_bias)]
    for x, h, new in zip(inputs.tolist(), states.tolist(), found, strict=True):
        np.testing.assert_allclose(new, scalar_step(x, h, *weights, reset_after=reset_after), rtol=0, atol=1e-6)


def test_the_two_forms_differ():
    arguments = draw(4, 3 * UNITS), draw(4, UNITS), draw(UNITS, 3 * UNITS), draw(3 * UNITS)
    assert np.abs(gru_step(*arguments, reset_after=True) - gru_step(*arguments, reset_after=False)).max() > 0.01


@pytest.mark.parametrize("backwards", [False, True])
def test_steps_with_the_reset_before_the_product_are_keras_layer(backwards):
    layer, inputs = keras_gru(reset_after=False, backwards=backwards), draw(4, STEPS, INPUTS)
    kernel, recurrent, bias = layer.get_weights()
    state, states = np.zeros((4, UNITS), np.float32), []
    for step in reversed(range(STEPS)) if backwards else range(STEPS):
        projected = inputs[:, step] @ kernel + bias
        state = gru_step(projected, state, recurrent, np.zeros(3 * UNITS, np.float32), reset_after=False)
        states.append(state)
    np.testing.assert_allclose(np.stack(states, axis=1), layer(inputs), rtol=0, atol=1e-6)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_layer_with_the_reset_after_the_product_is_keras_layer(backwards):
    layer, inputs = keras_gru(reset_after=True, backwards=backwards), draw(4, STEPS, INPUTS)
    kernel, recurrent, (bias, recurrent_bias) = layer.get_weights()
    inside = 2 * UNITS
    bias[:inside] += recurrent_bias[:inside]
    found = gru(inputs, Gru(kernel, recurrent, bias, recurrent_bias[inside:]), backwards=backwards)
    expected = layer(inputs).numpy()  # backwards, Keras gives the states in the order in which they came
    np.testing.assert_allclose(found, expected[:, ::-1] if backwards else expected, rtol=0, atol=1e-6)


def test_a_model_is_keras_model(case, features):
    expected = case.model(features).numpy()
    assert expected.std() > 0.1
    np.testing.assert_allclose(classify(features, case.encoder), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", [(0, 0), (3, 0), (1, 2)])
@pytest.mark.parametrize("stride", [1, 3])
def test_convolution_over_time(padding, stride):
    kernel, bias, inputs = draw(4, 2, 6), draw(6), draw(3, 11, 2)
    padded = np.pad(inputs, ((0, 0), padding, (0, 0)))
    expected = np.maximum(0, keras.ops.conv(padded, kernel, stride, "valid", "channels_last").numpy() + bias)
    found = convolve(inputs, Convolution(kernel[:, None], bias, (stride, 1), (padding, (0, 0)), residual=False))
    np.testing.assert_allclose(found[:, :, 0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((3, 0), (1, 2))])
@pytest.mark.parametrize("stride", [(1, 1), (2, 3)])
def test_convolution_over_time_and_bands(padding, stride):
    kernel, bias, inputs = draw(4, 3, 2, 6), draw(6), draw(3, 11, 10)
    bands = inputs.reshape(3, 11, 5, 2)  # two channels each
    padded = np.pad(bands, ((0, 0), *padding, (0, 0)))
    expected = np.maximum(0, keras.ops.conv(padded, kernel, stride, "valid", "channels_last").numpy() + bias)
    found = convolve(inputs, Convolution(kernel, bias, stride, padding, residual=False))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_residual_convolution():
    kernel, bias, inputs, ones = draw(3, 3, 6, 6), draw(6), draw(3, 11, 4, 6), ((1, 1), (1, 1))
    plain, residual = (
        convolve(inputs, Convolution(kernel, bias, (1, 1), ones, residual=item)) for item in (False, True)
    )
    np.testing.assert_array_equal(residual, plain + inputs)


def test_how_wide_a_step_is_after_a_convolution():
    kernel, inputs = draw(4, 3, 2, 6), draw(3, 11, 10)
    convolution = Convolution(kernel, draw(6), (2, 3), ((3, 0), (1, 2)), residual=False)
    assert convolution.width(10) == np.prod(convolve(inputs, convolution).shape[2:]) == 2 * 6


def test_pooling():
    states = draw(2, STEPS, 4)
    np.testing.assert_allclose(pool(states, Pooling("mean"), bidirectional=True), states.mean(axis=1), atol=1e-6)
    np.testing.assert_array_equal(pool(states, Pooling("last"), bidirectional=False), states[:, -1])
    both = pool(states, Pooling("last"), bidirectional=True)
    np.testing.assert_array_equal(both, np.concatenate([states[:, -1, :2], states[:, 0, 2:]], axis=1))


def test_attention_of_large_scores_is_finite():
    states, pooling = 100 * draw(2, STEPS, 4), Pooling("attention", draw(4, 3), draw(3), 1000 * draw(3, 1))
    pooled = pool(states, pooling, bidirectional=False)
    scores = np.tanh(states @ pooling.hidden + pooling.bias) @ pooling.score
    best = scores[:, :, 0].argmax(axis=1)
    np.testing.assert_allclose(pooled, states[[0, 1], best], rtol=1e-4)


def test_sigmoid():
    values = np.array([-1e4, -2, 0, 3, 1e4], np.float32)
    np.testing.assert_allclose(sigmoid(values), [0, 1 / (1 + math.exp(2)), 0.5, 1 / (1 + math.exp(-3)), 1], atol=1e-7)


def test_softmax():
    logits = np.array([[0, math.log(3)], [1e4, -1e4]], np.float32)
    np.testing.assert_allclose(softmax(logits), [[0.25, 0.75], [1, 0]], rtol=1e-6)


def test_what_is_watched(random_case, features):
    encoder = random_case(convolution_filters=6, subsampling=3).encoder
    seen = {}
    logits = classify(features, encoder, seen.__setitem__)
    convolutions = {"convolution_0/relu", *(f"convolution_{i}/{item}" for i in (1, 2) for item in ("relu", "sum"))}
    steps = {
        f"gru_{layer}/{name}" for layer in (0, 1) for name in ("projected", "product", "gates", "inner", "proposal")
    }
    assert seen.keys() == {"features", *convolutions, *steps, "attention", "pooled", "logits"}
    np.testing.assert_array_equal(seen["logits"], logits)
    np.testing.assert_array_equal(seen["pooled"], embed(features, encoder))
    states = encode(features, encoder)
    np.testing.assert_allclose(seen["attention"], states @ encoder.pooling.hidden + encoder.pooling.bias, atol=1e-6)


@pytest.mark.parametrize("pooling", ["attention", "mean", "last"])
@pytest.mark.parametrize(("filters", "subsampling"), [(0, 3), (6, 1), (6, 3)])
def test_a_stream(random_case, features, filters, subsampling, pooling):
    """After each step: the pooled states of the last clip's length; before the beginning there are zeros."""
    settings = {"convolution_filters": filters, "subsampling": subsampling, "pooling": pooling}
    encoder = random_case(bidirectional=False, **settings).encoder
    audio = features[:8].reshape(2, -1, features.shape[2])
    found = classify_stream(audio, encoder)
    states = encode(audio, encoder)
    assert found.shape[:2] == states.shape[:2]
    padded = np.pad(states, ((0, 0), (encoder.steps - 1, 0), (0, 0)))
    for step in range(states.shape[1]):
        window = padded[:, step : step + encoder.steps]
        expected = pool(window, encoder.pooling, bidirectional=False) @ encoder.head + encoder.head_bias
        np.testing.assert_allclose(found[:, step], expected, rtol=0, atol=1e-5)
    clip = classify_stream(features[:2], encoder)[:, encoder.steps - 1]
    np.testing.assert_allclose(clip, classify(features[:2], encoder), rtol=0, atol=1e-5)


def test_what_is_watched_in_a_stream(random_case, features):
    encoder = random_case(bidirectional=False, convolution_filters=6, subsampling=3).encoder
    clips, stream = Ranges(), Ranges()
    classify(features[:4], encoder, clips)
    logits = classify_stream(features[:8].reshape(2, -1, features.shape[2]), encoder, stream)
    assert stream.keys() == clips.keys()
    assert (stream["logits"].low, stream["logits"].high) == (logits.min(), logits.max())


def test_ranges():
    ranges = Ranges()
    values = np.linspace(-1, 1, 100_000)
    values[0], values[-1] = -50, 70
    ranges("a", values)
    ranges("b", np.array([1.0, 2.0]))
    found = ranges["a"]
    assert (found.low, found.high) == (-50, 70)
    assert -1 <= found.usual_low < -0.999
    assert 0.999 < found.usual_high <= 1
    assert (ranges["b"].low, ranges["b"].high) == (1, 2)


def test_ranges_of_several_batches_are_joined():
    ranges = Ranges()
    for values in ([0.0, 1.0], [-3.0, 0.5], [0.25, 0.5]):
        ranges("a", np.array(values))
    assert (ranges["a"].low, ranges["a"].high) == (-3, 1)
    joined = Range(-1, 2, -0.5, 1.5).joined(Range(-4, 1, -0.25, 0.5))
    assert joined == Range(-4, 2, -0.5, 1.5)


def test_phrases_of_their_own_lengths_are_keras_model(phrase_case, phrases, phrase_logits):
    found = transcribe(phrases.features, phrase_case.encoder, frames=phrases.frames)
    assert found.shape == (len(phrases.samples), phrase_case.encoder.steps, 4)
    for rows, expected, steps in zip(found, phrase_logits(phrase_case), phrases.steps, strict=True):
        np.testing.assert_allclose(rows[:steps], expected, rtol=0, atol=1e-5)
    assert sorted({*phrases.steps.tolist()})[:2] == [0, 1]


def test_what_lies_behind_a_phrase_changes_nothing(phrase_case, phrases):
    garbage = phrases.features.copy()
    behind = np.arange(garbage.shape[1]) >= phrases.frames[:, None]
    garbage[behind] = 100 * draw(behind.sum(), garbage.shape[2])
    found, expected = (
        transcribe(features, phrase_case.encoder, frames=phrases.frames) for features in (garbage, phrases.features)
    )
    for rows, same, steps in zip(found, expected, phrases.steps, strict=True):
        np.testing.assert_array_equal(rows[:steps], same[:steps])


def test_a_phrase_alone_is_what_it_is_in_a_batch(phrase_case, phrases):
    """Features that end with the phrase's last step need no number of frames."""
    encoder = phrase_case.encoder
    found = transcribe(phrases.features, encoder, frames=phrases.frames)
    for rows, features, frames, steps in zip(found, phrases.features, phrases.frames, phrases.steps, strict=True):
        if steps:
            alone = transcribe(features[None, :frames], encoder)[0]
            np.testing.assert_allclose(rows[:steps], alone, rtol=0, atol=1e-5)


def test_a_stream_with_a_ctc_head(phrase_stream_case, phrases):
    """Each step has logits of its own: nothing is pooled."""
    whole = phrases.features.reshape(1, -1, phrases.features.shape[2])
    found, expected = classify_stream(whole, phrase_stream_case.encoder), transcribe(whole, phrase_stream_case.encoder)
    np.testing.assert_array_equal(found, expected)
    beginning = transcribe(whole[:, :40], phrase_stream_case.encoder)
    np.testing.assert_allclose(beginning, expected[:, :10], rtol=0, atol=1e-5)


def test_what_is_watched_in_phrases(ctc_case, phrases):
    encoder, clips, stream = ctc_case(convolution_filters=8, bidirectional=False).encoder, Ranges(), Ranges()
    logits = transcribe(phrases.features, encoder, clips, phrases.frames)
    classify_stream(phrases.features, encoder, stream)
    assert stream.keys() == clips.keys() >= {"features", "convolution_1/sum", "gru_1/proposal", "logits"}
    assert (clips["logits"].low, clips["logits"].high) == (logits.min(), logits.max())
    assert not {"pooled", "attention"} & clips.keys()
