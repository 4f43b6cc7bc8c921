"""ONNX files in onnxruntime against Keras."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.front_end import FrontEnd
from export.errors import NotMadeError
from export.front_end import front_end_state
from export.material import Material, Subject
from export.onnx import write_onnx
from export.verify import read_onnx

needs_onnx = pytest.mark.filterwarnings("ignore::DeprecationWarning:tf2onnx", "ignore::FutureWarning:tf2onnx")


def of_clips(subject: Subject, clips: np.ndarray, folder: Path) -> Material:
    """What a file is read with: these clips, all of them whole."""
    np.save(folder / "clips.npy", clips)
    return replace(subject.material, clips=folder / "clips.npy")


@needs_onnx
def test_the_file_is_the_model(random_case, front_end, clips, features, subject, tmp_path):
    pytest.importorskip("tf2onnx", reason="needs tf2onnx, of the extra onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra onnx")
    case = random_case(bidirectional=True, stem_filters=(3, 4, 4), convolution_filters=6, subsampling=4)
    write_onnx(case.encoder, front_end_state(front_end), 896, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (audio,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (audio.name, audio.type, audio.shape[1:]) == ("audio", "tensor(float)", [896])
    assert (logits.name, logits.type, logits.shape[1:]) == ("logits", "tensor(float)", [4])
    for size in (1, 3, 80):
        (found,) = session.run(["logits"], {"audio": clips[:size]})
        np.testing.assert_allclose(found, case.model(features[:size]).numpy(), rtol=0, atol=1e-4)
    reading = read_onnx(tmp_path / "model.onnx", of_clips(subject, clips, tmp_path))
    np.testing.assert_allclose(reading.logits, case.model(features).numpy(), rtol=0, atol=1e-4)
    assert (reading.latency_of, reading.latency_ms > 0) == ("clip", True)


@needs_onnx
def test_a_front_end_without_statistics(random_case, clips, subject, tmp_path):
    pytest.importorskip("tf2onnx", reason="needs tf2onnx, of the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra onnx")
    layer = FrontEnd(sample_rate=8000, window_ms=16, hop_ms=8, mel_bins=5, kind="log_mel", normalize=False)
    case = random_case(bidirectional=False, subsampling=3, pooling="last")
    write_onnx(case.encoder, front_end_state(layer), 896, tmp_path / "model.onnx")
    expected = case.model(layer(clips)).numpy()
    reading = read_onnx(tmp_path / "model.onnx", of_clips(subject, clips, tmp_path))
    np.testing.assert_allclose(reading.logits, expected, rtol=0, atol=1e-3)


@needs_onnx
def test_a_ctc_head(ctc_case, phrase_front_end, phrases, phrase_logits, tmp_path):
    pytest.importorskip("tf2onnx", reason="needs tf2onnx, of the extra onnx")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime, of the extra onnx")
    case = ctc_case(bidirectional=True, stem_filters=(3, 4, 4), convolution_filters=8)
    write_onnx(case.encoder, front_end_state(phrase_front_end), 4000, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    found = [(item.name, item.type, item.shape[1:]) for item in session.get_inputs()]
    assert found == [("audio", "tensor(float)", [4000]), ("samples", "tensor(int32)", [])]
    (logits,) = session.get_outputs()
    assert (logits.name, logits.type, logits.shape[-1]) == ("logits", "tensor(float)", 4)
    expected = phrase_logits(case)
    for size in (1, 3, 11):
        given = {"audio": phrases.audio[:size], "samples": phrases.samples[:size]}
        (found,) = session.run(["logits"], given)
        for rows, each in zip(found, expected[:size], strict=True):
            np.testing.assert_allclose(rows[: len(each)], each, rtol=0, atol=1e-4)


def test_without_tf2onnx(random_case, front_end, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(NotMadeError, match=r"tf2onnx isn't installed; .* pip install \"\.\[onnx\]\""):
        write_onnx(random_case().encoder, front_end_state(front_end), 896, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime(subject, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NotMadeError, match=r"onnxruntime isn't installed; .* pip install \"\.\[onnx\]\""):
        read_onnx(tmp_path / "model.onnx", subject.material)
