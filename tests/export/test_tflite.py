"""Whole files, run in LiteRT: equal to Keras's model, step by step equal to the clip, and made as promised."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from data_pipeline.front_end import FrontEnd
from export import tflite
from export.encoder import Encoder, Gru, Pooling
from export.errors import ExportError
from export.front_end import convert_front_end, front_end_state
from export.number_format import FORMATS
from export.reference import Ranges, classify, classify_stream
from export.tflite import operators, refuse_foreign_operators, write_clip, write_stream
from speech_gru.artefact import Artefact, read_description

BOUNDS = {
    "float32": (1e-5, 1e-5),
    "float16": (1e-2, 3e-3),
    "dynamic_range": (0.1, 0.06),
    "int8": (0.8, 0.2),
    "int16x8": (0.25, 0.06),
}
"""Of each number format: the largest error of a logit, and the mean error over the logits' deviation."""


def load(model: bytes) -> Interpreter:
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    return interpreter


def run(interpreter: Interpreter, *inputs: np.ndarray) -> list[np.ndarray]:
    for item, values in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(item["index"], values)
    interpreter.invoke()
    return [interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()]


def beginning(interpreter: Interpreter, first: int) -> list[np.ndarray]:
    details = interpreter.get_input_details()[first:]
    return [np.full(item["shape"], item["quantization"][1], item["dtype"]) for item in details]


def streamed(model: bytes, clip: np.ndarray, chunk: int) -> np.ndarray:
    """The logits after each chunk, every state of the file carried along."""
    interpreter = load(model)
    states = [clip[None, :64], *beginning(interpreter, 2)]
    rows = []
    for start in range(64, len(clip) - chunk + 1, chunk):
        probabilities, logits, *states = run(interpreter, clip[None, start : start + chunk], *states)
        np.testing.assert_allclose(probabilities, tf.nn.softmax(logits), rtol=0, atol=1e-6)
        rows.append(logits[0])
    return np.array(rows)


def assert_close(found: np.ndarray, expected: np.ndarray, number_format: str) -> None:
    largest, mean = BOUNDS[number_format]
    error = np.abs(found - expected)
    assert error.max() <= largest
    assert error.mean() / expected.std() <= mean


@pytest.mark.parametrize("number_format", FORMATS)
def test_a_clip_file_is_the_model(case, number_format, write_file, clips, features):
    interpreter = load(write_file(case, "clip", number_format))
    outputs = [run(interpreter, clip[None]) for clip in clips[64:]]
    logits = np.array([item[1][0] for item in outputs])
    assert_close(logits, case.model(features[64:]).numpy(), number_format)
    np.testing.assert_allclose([item[0][0] for item in outputs], tf.nn.softmax(logits), rtol=0, atol=1e-6)


@pytest.mark.parametrize("number_format", FORMATS)
def test_a_stream_at_the_clips_end_is_the_clip(stream_case, number_format, write_file, clips, features):
    model, chunk = write_file(stream_case, "stream", number_format), 64 * stream_case.encoder.subsampling
    steps = stream_case.encoder.steps
    logits = np.array([streamed(model, clip[: 64 + steps * chunk], chunk)[-1] for clip in clips[64:72]])
    assert_close(logits, stream_case.model(features[64:72]).numpy(), number_format)


def test_a_stream_that_goes_on(stream_case, write_file, front_end, clips):
    encoder = stream_case.encoder
    audio = clips[64:68].reshape(-1)
    found = streamed(write_file(stream_case, "stream"), audio, 64 * encoder.subsampling)
    expected = classify_stream(front_end(audio[None]).numpy(), encoder)[0]
    assert len(found) == len(expected) > 3 * encoder.steps
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("number_format", ["float32", "int8", "int16x8"])
def test_steps_from_features_are_the_clip(stream_case, number_format, write_file, features):
    encoder, interpreter = stream_case.encoder, load(write_file(stream_case, "step", number_format))
    (given, *_), (output, *_) = interpreter.get_input_details(), interpreter.get_output_details()
    (scale, zero), (out_scale, out_zero) = given["quantization"], output["quantization"]
    found = []
    for clip in features[64:72]:
        states = beginning(interpreter, 1)
        if scale:
            limits = np.iinfo(given["dtype"])
            clip = np.clip(np.round(clip / scale) + zero, limits.min, limits.max).astype(given["dtype"])
        for step in range(encoder.steps):
            start = step * encoder.subsampling
            logits, *states = run(interpreter, clip[None, start : start + encoder.subsampling], *states)
        found.append((logits[0].astype(np.float32) - out_zero) * out_scale if out_scale else logits[0])
    assert_close(np.array(found), stream_case.model(features[64:72]).numpy(), number_format)


def test_names_of_inputs_and_outputs(random_case, write_file):
    case = random_case(bidirectional=False, convolution_filters=6, subsampling=3)
    clip, stream, step = (load(write_file(case, kind)).get_signature_list() for kind in ("clip", "stream", "step"))
    assert clip["serving_default"] == {"inputs": ["audio"], "outputs": ["logits", "probabilities"]}
    # The overlap, what three convolutions keep, two layers' states and the attention's window.
    states = [f"state_{index}" for index in range(7)]
    new = [f"new_{name}" for name in states]
    assert stream["serving_default"] == {
        "inputs": ["audio", *states],
        "outputs": sorted(["probabilities", "logits", *new]),
    }
    assert step["serving_default"] == {
        "inputs": ["features", *states[:6]],
        "outputs": sorted(["logits", *new[:6]]),
    }


@pytest.mark.parametrize(("kind", "first"), [("stream", 2), ("step", 1)])
@pytest.mark.parametrize("number_format", ["float32", "int8"])
def test_each_state_has_the_form_of_its_successor(random_case, write_file, kind, number_format, first):
    case = random_case(bidirectional=False, convolution_filters=6)
    interpreter = load(write_file(case, kind, number_format))
    given, found = (
        [(item["shape"].tolist(), item["dtype"], item["quantization"]) for item in details]
        for details in (interpreter.get_input_details()[1:], interpreter.get_output_details()[first:])
    )
    assert given == found


def test_shapes(random_case, write_file):
    interpreter = load(write_file(random_case(bidirectional=True)))
    (audio,), (probabilities, logits) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (audio["shape"].tolist(), audio["dtype"]) == ([1, 896], np.float32)
    assert (probabilities["shape"].tolist(), probabilities["dtype"]) == ([1, 4], np.float32)
    assert (logits["shape"].tolist(), logits["dtype"]) == ([1, 4], np.float32)


@pytest.mark.parametrize("kind", ["clip", "stream", "step"])
def test_the_description_is_in_the_file(random_case, write_file, describe_case, kind):
    case = random_case(bidirectional=False)
    assert read_description(write_file(case, kind, "int8"), "it") == describe_case(case, kind, "int8")


def test_the_same_file_again(random_case, write_file):
    case = random_case(bidirectional=True)
    assert write_file(case, "clip", "int8") == write_file(case, "clip", "int8")


def test_a_front_end_for_other_clips(random_case, converted, describe_case):
    case = random_case()
    about = replace(describe_case(case, "clip", "float32"), clip_samples=832)
    with pytest.raises(ExportError, match=r"gives \(1, 12, 5\), but the encoder takes \(1, 13, 5\)"):
        write_clip(case.encoder, converted(832), FORMATS["float32"], Ranges(), about)


# The weights are in the file once


@pytest.fixture(scope="module")
def usual() -> tuple[Encoder, dict[str, bytes]]:
    """2 x BiGRU-128 over 98 frames of 40 features, with random weights, and its files; the front end is inside."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray:
        return rng.normal(0, 1 / np.sqrt(shape[0]), shape).astype(np.float32)

    def direction(inputs: int) -> Gru:
        return Gru(draw(inputs, 384), draw(128, 384), 0.1 * draw(384), 0.1 * draw(128))

    layers = tuple((direction(inputs), direction(inputs)) for inputs in (40, 256))
    pooling = Pooling("attention", draw(256, 64), draw(64), draw(64, 1))
    encoder = Encoder(98, 40, 1, (), layers, pooling, draw(256, 12), draw(12))
    front_end = FrontEnd(sample_rate=16000, hop_ms=10, normalize=False)
    samples = 512 + 97 * 160
    ranges = Ranges()
    classify(rng.normal(0, 1, (4, 98, 40)).astype(np.float32), encoder, ranges)
    graph = convert_front_end(front_end_state(front_end), samples)
    labels = tuple(map(str, range(12)))
    files = {
        name: write_clip(encoder, graph, item, ranges, Artefact(labels, 16000, samples, number_format=name))
        for name, item in FORMATS.items()
    }
    return encoder, files


def test_float32_weights_are_in_the_file_once(usual):
    encoder, files = usual
    assert 4 * encoder.parameters < len(files["float32"]) <= 1.25 * 4 * encoder.parameters


@pytest.mark.parametrize(
    ("number_format", "share"), [("float16", 0.55), ("dynamic_range", 0.35), ("int8", 0.35), ("int16x8", 0.35)]
)
def test_smaller_formats_are_smaller(usual, number_format, share):
    _, files = usual
    assert len(files[number_format]) <= share * len(files["float32"])


@pytest.mark.parametrize("number_format", FORMATS)
def test_only_built_in_operators(usual, number_format):
    _, files = usual
    counts = operators(files[number_format])
    refuse_foreign_operators(files[number_format])
    assert counts["IF"] == 2 * 98
    assert {"RFFT2D", "FULLY_CONNECTED", "TANH", "LOGISTIC", "SOFTMAX"} <= counts.keys()
    assert "WHILE" not in counts


# Operators


def convert(function, *extra, custom: bool = False) -> bytes:
    graph = tf.function(function, input_signature=[tf.TensorSpec((4, 4))])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, *extra]
    converter.allow_custom_ops = custom
    return converter.convert()


def test_operators_are_counted():
    assert operators(convert(lambda x: tf.abs(tf.sin(tf.sin(x))))) == {"SIN": 2, "ABS": 1}


def test_operators_of_all_graphs_are_counted(random_case, write_file):
    counts = operators(write_file(random_case(bidirectional=True)))
    assert counts["IF"] == 2 * 13
    assert counts["TANH"] == 2 * 2 + 1  # of the two layers' graphs and of the attention


def test_a_tensorflow_operator_is_refused():
    model = convert(tf.linalg.det, tf.lite.OpsSet.SELECT_TF_OPS)
    with pytest.raises(ExportError, match="doesn't have built in: custom FlexMatrixDeterminant"):
        refuse_foreign_operators(model)


def test_a_custom_operator_is_refused():
    model = convert(tf.math.erfinv, custom=True)
    with pytest.raises(ExportError, match="doesn't have built in: custom Erfinv"):
        refuse_foreign_operators(model)


def test_builtin_operators_are_not():
    refuse_foreign_operators(convert(tf.sin))


@pytest.mark.parametrize("kind", ["clip", "stream"])
def test_a_front_end_with_foreign_operators(random_case, describe_case, kind):
    """What is spliced in keeps its operators foreign: no file is made of it."""
    case = random_case(bidirectional=False)
    samples, frames = (896, 13) if kind == "clip" else (128, 1)
    graph = tf.function(
        lambda audio: tf.reshape(tf.math.erfinv(audio)[:, : frames * 5], (1, frames, 5)),
        input_signature=[tf.TensorSpec((1, samples))],
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()])
    converter.allow_custom_ops = True
    write = write_clip if kind == "clip" else write_stream
    about = describe_case(case, kind, "float32")
    with pytest.raises(ExportError, match="doesn't have built in: custom"):
        write(case.encoder, converter.convert(), FORMATS["float32"], Ranges(), about)


@pytest.mark.parametrize("kind", ["clip", "stream", "step"])
def test_what_is_written_is_checked(random_case, write_file, monkeypatch, kind):
    monkeypatch.setattr(tflite, "operators", lambda model: Counter({"SIN": 3, "custom FlexSin": 1}))
    with pytest.raises(ExportError, match="custom FlexSin"):
        write_file(random_case(bidirectional=False), kind)
