"""Whole files with a CTC head, run in LiteRT: equal to Keras's model on clips of any length up to the window."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from export.number_format import FORMATS
from export.reference import transcribe
from export.tflite import operators, refuse_foreign_operators

WINDOW, OVERLAP, CHUNK = 4000, 64, 256
BOUNDS = {
    "float32": (1e-5, 1e-5),
    "float16": (1e-2, 3e-3),
    "dynamic_range": (0.2, 0.06),
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


def rows_of(interpreter: Interpreter, phrases, audio: np.ndarray) -> list[np.ndarray]:
    """The logits of each clip, of as many steps as are within it."""
    rows = []
    for clip, samples, steps in zip(audio, phrases.samples, phrases.steps, strict=True):
        probabilities, logits = run(interpreter, clip[None], samples.reshape(1, 1))
        np.testing.assert_allclose(probabilities, tf.nn.softmax(logits), rtol=0, atol=1e-6)
        rows.append(logits[:steps])
    return rows


def beginning(interpreter: Interpreter, first: int) -> list[np.ndarray]:
    details = interpreter.get_input_details()[first:]
    return [np.full(item["shape"], item["quantization"][1], item["dtype"]) for item in details]


def streamed(model: bytes, audio: np.ndarray) -> np.ndarray:
    """The logits after each chunk, every state of the file carried along."""
    interpreter = load(model)
    states, rows = [audio[None, :OVERLAP], *beginning(interpreter, 2)], []
    for start in range(OVERLAP, len(audio) - CHUNK + 1, CHUNK):
        _, logits, *states = run(interpreter, audio[None, start : start + CHUNK], *states)
        rows.append(logits[0])
    return np.array(rows)


def assert_close(found: np.ndarray, expected: np.ndarray, number_format: str) -> None:
    largest, mean = BOUNDS[number_format]
    error = np.abs(found - expected)
    assert error.max() <= largest
    assert error.mean() / expected.std() <= mean


@pytest.mark.parametrize("number_format", FORMATS)
def test_a_clip_file_is_the_model(phrase_case, number_format, write_phrase_file, phrases, phrase_logits):
    rows = rows_of(load(write_phrase_file(phrase_case, "clip", number_format)), phrases, phrases.audio)
    assert_close(np.concatenate(rows), np.concatenate(phrase_logits(phrase_case)), number_format)


def test_what_lies_behind_a_clip_changes_nothing(phrase_case, write_phrase_file, phrases):
    interpreter, garbage = load(write_phrase_file(phrase_case)), phrases.audio.copy()
    behind = np.arange(WINDOW) >= phrases.samples[:, None]
    garbage[behind] = np.random.default_rng(0).uniform(-1, 1, behind.sum())
    expected = np.concatenate(rows_of(interpreter, phrases, phrases.audio))
    np.testing.assert_array_equal(np.concatenate(rows_of(interpreter, phrases, garbage)), expected)


@pytest.mark.parametrize("number_format", FORMATS)
def test_chunks_with_their_states_are_the_model(
    phrase_stream_case, number_format, write_phrase_file, phrases, phrase_front_end
):
    """Also behind the length of a window: a stream knows none."""
    audio = phrases.audio[:2].reshape(-1)
    expected = transcribe(phrase_front_end(audio[None]).numpy(), phrase_stream_case.encoder)[0]
    found = streamed(write_phrase_file(phrase_stream_case, "stream", number_format), audio)
    assert len(found) == len(expected) == 31
    assert_close(found, expected, number_format)


@pytest.mark.parametrize("number_format", ["float32", "int8"])
def test_steps_from_features_are_the_model(phrase_stream_case, number_format, write_phrase_file, phrases):
    interpreter = load(write_phrase_file(phrase_stream_case, "step", number_format))
    (given, *_), (output, *_) = interpreter.get_input_details(), interpreter.get_output_details()
    (scale, zero), (out_scale, out_zero) = given["quantization"], output["quantization"]
    features, states, rows = phrases.features[0], beginning(interpreter, 1), []
    if scale:
        features = np.clip(np.round(features / scale) + zero, -128, 127).astype(np.int8)
    for start in range(0, len(features) - 3, 4):
        logits, *states = run(interpreter, features[None, start : start + 4], *states)
        rows.append((logits[0].astype(np.float32) - out_zero) * out_scale if out_scale else logits[0])
    expected = transcribe(phrases.features[:1], phrase_stream_case.encoder)[0]
    assert_close(np.array(rows), expected, number_format)


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("kind", ["clip", "stream"])
def test_only_built_in_operators(ctc_case, number_format, kind, write_phrase_file):
    model = write_phrase_file(ctc_case(bidirectional=kind == "clip", convolution_filters=8), kind, number_format)
    refuse_foreign_operators(model)
    counts = operators(model)
    assert {"FULLY_CONNECTED", "CONV_2D", "TANH", "LOGISTIC", "SOFTMAX"} <= counts.keys()
    assert not {"WHILE", "BATCH_MATMUL"} & counts.keys()
    assert counts["LESS_EQUAL"] == (2 if kind == "clip" else 0), "one mask of frames and one of steps"


def test_names_and_shapes(ctc_case, write_phrase_file):
    case = ctc_case(bidirectional=False, convolution_filters=8)
    clip, stream = (load(write_phrase_file(case, kind)) for kind in ("clip", "stream"))
    outputs = ["logits", "probabilities"]
    assert clip.get_signature_list()["serving_default"] == {"inputs": ["audio", "samples"], "outputs": outputs}
    audio, samples = clip.get_input_details()
    assert (audio["shape"].tolist(), audio["dtype"]) == ([1, WINDOW], np.float32)
    assert (samples["shape"].tolist(), samples["dtype"]) == ([1, 1], np.int32)
    assert [item["shape"].tolist() for item in clip.get_output_details()] == [[15, 4], [15, 4]]
    # The overlap, what the second convolution keeps (the first one's frames are those of a step), two layers' states.
    states = [f"state_{index}" for index in range(4)]
    assert stream.get_signature_list()["serving_default"] == {
        "inputs": ["audio", *states],
        "outputs": sorted([*outputs, *(f"new_{name}" for name in states)]),
    }
