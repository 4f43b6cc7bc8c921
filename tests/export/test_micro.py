"""The C source compiles and holds the model; TFLite Micro computes what LiteRT does."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from export.errors import ExportError
from export.micro import MicroFile, arena_bytes, write_micro
from export.tflite import operators
from export.verify import run_steps
from speech_gru.lite_file import LiteFile

CASES = {
    "convolutions": {"convolution_filters": 6, "subsampling": 3},
    "stem": {"stem_filters": (3, 4, 4), "convolution_filters": 6, "subsampling": 4},
    "stacked": {"subsampling": 3, "pooling": "mean"},
    "last": {"pooling": "last"},
}
MAIN = """
#include <cstdint>
#include <cstdio>
#include "model.h"

int main() {
  std::printf("%d %d %d\\n", speech_gru_model_bytes, kSpeechGruArenaBytes,
              static_cast<int>(reinterpret_cast<std::uintptr_t>(speech_gru_model) % 16));
  std::fwrite(speech_gru_model, 1, speech_gru_model_bytes, stderr);
}
"""


@pytest.fixture(params=CASES.values(), ids=CASES)
def micro_case(request, random_case):
    return random_case(bidirectional=False, **request.param)


@pytest.fixture
def step_model(micro_case, write_file) -> bytes:
    return write_file(micro_case, "step", "int8")


def test_files(step_model, tmp_path):
    write_micro(step_model, tmp_path / "micro")
    assert {path.name for path in (tmp_path / "micro").iterdir()} == {"model.tflite", "model.h", "model.cc"}
    assert (tmp_path / "micro" / "model.tflite").read_bytes() == step_model
    source = (tmp_path / "micro" / "model.cc").read_text()
    assert bytes(int(byte, 16) for byte in re.findall("0x([0-9a-f]{2})", source)) == step_model
    assert "alignas(16) const unsigned char speech_gru_model[]" in source
    header = (tmp_path / "micro" / "model.h").read_text()
    arena, how = arena_bytes(step_model)
    assert f"kSpeechGruArenaBytes = {arena};" in header
    assert how in header
    counts = operators(step_model)
    assert f"MicroMutableOpResolver<{len(counts)}>" in header
    methods = re.findall(r"resolver\.Add(\w+)\(\);", header)
    assert len(methods) == len(counts)
    assert {"FullyConnected", "Logistic", "Tanh", "Quantize"} <= set(methods)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler, g++")
def test_the_source_compiles(random_case, write_file, tmp_path):
    model = write_file(random_case(bidirectional=False, convolution_filters=6), "step", "int8")
    write_micro(model, tmp_path / "micro")
    (tmp_path / "main.cc").write_text(MAIN)
    sources = [tmp_path / "main.cc", tmp_path / "micro" / "model.cc"]
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", f"-I{tmp_path / 'micro'}"]
    subprocess.run(["g++", *flags, *map(str, sources), "-o", str(tmp_path / "main")], check=True, timeout=60)
    result = subprocess.run([tmp_path / "main"], check=True, capture_output=True, timeout=10)
    size, arena, misaligned = map(int, result.stdout.split())
    assert (size, misaligned) == (len(model), 0)
    assert arena == arena_bytes(model)[0]
    assert result.stderr == model


def test_the_estimate_is_near_what_was_measured(step_model, monkeypatch):
    pytest.importorskip("tflite_micro", reason="needs tflite_micro, of the extra micro")
    measured, how = arena_bytes(step_model)
    assert "64-bit" in how
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    estimate, how = arena_bytes(step_model)
    assert "not measured" in how
    assert measured / 2 <= estimate <= 4 * measured


def test_the_measured_arena_is_enough_and_hardly_more_than_is_needed(step_model):
    pytest.importorskip("tflite_micro", reason="needs tflite_micro, of the extra micro")
    from tflite_micro import runtime

    measured, _ = arena_bytes(step_model)
    runtime.Interpreter.from_bytes(step_model, arena_size=measured).invoke()
    with pytest.raises(RuntimeError):
        runtime.Interpreter.from_bytes(step_model, arena_size=measured - 64)


def test_a_report_without_the_arenas_size(step_model, monkeypatch):
    pytest.importorskip("tflite_micro", reason="needs tflite_micro, of the extra micro")
    monkeypatch.setattr("export.micro._captured", lambda function: "nothing of use")
    with pytest.raises(ExportError, match="doesn't say how large the arena is, but: nothing of use"):
        arena_bytes(step_model)


def lite_steps(model: bytes, chunks: list[np.ndarray]) -> np.ndarray:
    """The logits after each chunk of features, in LiteRT."""
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    given, found = interpreter.get_input_details(), interpreter.get_output_details()
    (scale, zero), (out_scale, out_zero) = given[0]["quantization"], found[0]["quantization"]
    values = [np.full(item["shape"], item["quantization"][1], item["dtype"]) for item in given]
    rows = []
    for chunk in chunks:
        values[0] = np.clip(np.round(chunk / scale) + zero, -128, 127).astype(np.int8)
        for item, each in zip(given, values, strict=True):
            interpreter.set_tensor(item["index"], each)
        interpreter.invoke()
        values[1:] = [interpreter.get_tensor(item["index"]) for item in found[1:]]
        rows.append((interpreter.get_tensor(found[0]["index"])[0].astype(np.float32) - out_zero) * out_scale)
    return np.array(rows)


def test_micro_steps_are_lite_steps(step_model, micro_case, features, tmp_path):
    pytest.importorskip("tflite_micro", reason="needs tflite_micro, of the extra micro")
    size = micro_case.encoder.subsampling
    audio = features[:3, :12].reshape(-1, features.shape[2])
    (tmp_path / "model.tflite").write_bytes(step_model)
    states = LiteFile(tmp_path / "model.tflite").initial_states()
    rows = run_steps(MicroFile(step_model), audio, states, size)
    expected = lite_steps(step_model, [audio[None, start : start + size] for start in range(0, len(audio), size)])
    step = np.min(np.diff(np.unique(expected)))
    assert np.abs(np.array(rows) - expected).max() <= 2.01 * step
    assert expected.std() > 10 * step


def test_without_tflite_micro(step_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "tflite_micro", None)
    with pytest.raises(ModuleNotFoundError):
        MicroFile(step_model)
