"""Artefacts are loaded back and say what their model says."""

import sys
from dataclasses import replace

import numpy as np
import pytest

from export.reference import classify_stream, transcribe
from export.tflite import operators
from export.verify import read_clip_file, read_micro, read_phrase_file, read_saved_model, read_stream_file
from speech_gru.phrase_recognizer import log_softmax


@pytest.fixture
def written(write_file, tmp_path):
    """A function as `write_file` -> the file's path."""

    def write(*arguments):
        (tmp_path / "model.tflite").write_bytes(write_file(*arguments))
        return tmp_path / "model.tflite"

    return write


def test_a_clip_file(random_case, written, clips, features):
    case = random_case(bidirectional=True)
    file = written(case)
    reading = read_clip_file(file, clips[:20])
    np.testing.assert_allclose(reading.logits, case.model(features[:20]), rtol=0, atol=1e-5)
    assert (reading.latency_of, 0 < reading.latency_ms < 1000) == ("clip", True)
    assert reading.operators == dict(operators(file.read_bytes()))


@pytest.mark.parametrize("subsampling", [1, 3])
def test_a_stream_file(random_case, written, clips, features, front_end, subsampling):
    """Read at the end of each clip, which here is at the end of a chunk or within one."""
    case = random_case(bidirectional=False, convolution_filters=6, subsampling=subsampling)
    file = written(case, "stream")
    reading = read_stream_file(file, clips[:20], clips[:4].reshape(-1))
    np.testing.assert_allclose(reading.logits, case.model(features[:20]), rtol=0, atol=1e-5)
    joined = classify_stream(front_end(clips[:4].reshape(1, -1)).numpy(), case.encoder)[0]
    np.testing.assert_allclose(reading.stream_logits, joined, rtol=0, atol=1e-5)
    assert reading.latency_of == f"{8 * subsampling} ms chunk"
    assert reading.operators == dict(operators(file.read_bytes()))
    assert 0 < reading.latency_ms < 1000


@pytest.mark.parametrize("kind", ["clip", "stream"])
def test_a_file_with_a_ctc_head(ctc_case, write_phrase_file, phrases, phrase_logits, phrase_front_end, tmp_path, kind):
    case, file = ctc_case(bidirectional=False, convolution_filters=8), tmp_path / "model.tflite"
    file.write_bytes(write_phrase_file(case, kind))
    whole = phrases.audio[:3].reshape(-1) if kind == "stream" else None
    reading = read_phrase_file(file, phrases.audio, phrases.samples, whole)
    for rows, logits in zip(reading.logits, phrase_logits(case), strict=True):
        np.testing.assert_allclose(rows[: len(logits)], log_softmax(logits), rtol=0, atol=1e-5)
        assert not rows[len(logits) :].any()
    assert reading.operators == dict(operators(file.read_bytes()))
    assert (reading.latency_of, 0 < reading.latency_ms < 1000) == (
        "32 ms chunk" if kind == "stream" else "0.5 s window",
        True,
    )
    if kind == "clip":
        assert reading.stream_logits is None
        return
    expected = transcribe(phrase_front_end(whole[None]).numpy(), case.encoder)[0]
    np.testing.assert_allclose(reading.stream_logits, log_softmax(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize("installed", [True, False])
def test_a_step_model(random_case, written, subject, features, tmp_path, monkeypatch, installed):
    if installed:
        pytest.importorskip("tflite_micro", reason="needs tflite_micro, of the extra micro")
    else:
        monkeypatch.setitem(sys.modules, "tflite_micro", None)
    case = random_case(bidirectional=False, convolution_filters=6, subsampling=3)
    file = written(case, "step", "int8")
    joined = features[:4].reshape(-1, features.shape[2])
    np.save(tmp_path / "features.npy", features[:20])
    files = {"encoder": case.encoder, "features": tmp_path / "features.npy", "joined_features": joined}
    reading = read_micro(file.parent, replace(subject.material, **files))
    expected = case.model(features[:20]).numpy()
    assert np.abs(reading.logits - expected).mean() < 0.1 * expected.std()
    stream = classify_stream(joined[None], case.encoder)[0]
    assert reading.stream_logits.shape == stream.shape
    assert np.abs(reading.stream_logits - stream).mean() < 0.1 * stream.std()
    assert reading.latency_of == "step here"
    assert reading.operators == dict(operators(file.read_bytes()))


def test_a_saved_model(full_export, subject, tmp_path):
    np.save(tmp_path / "clips.npy", np.tile(np.load(subject.material.clips), (10, 1)))  # more than one batch
    reading = read_saved_model(
        full_export.folder / "saved_model", replace(subject.material, clips=tmp_path / "clips.npy")
    )
    np.testing.assert_allclose(reading.logits, np.tile(subject.logits, (10, 1)), rtol=0, atol=1e-5)
    assert (reading.latency_of, 0 < reading.latency_ms < 1000) == ("clip", True)
