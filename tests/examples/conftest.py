"""Models and clips that the examples are tried with, and what the Python runtime makes of them."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline.audio import fit_length
from speech_gru.artefact import FORMAT
from speech_gru.recognizer import Recognition, Recognizer

ROOT = Path(__file__).resolve().parents[2]
LABELS = ('a "b" \\ c', "zwei wörter", "]", "_unknown_")
THRESHOLDS = {"zwei wörter": 0.999}


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of the examples."""
    return ROOT / "examples"


@pytest.fixture(scope="session")
def model(tiny_export) -> Path:
    """A .tflite file of the tiny recogniser: 8 kHz, 4000 samples."""
    return tiny_export / "model.tflite"


@pytest.fixture(scope="session")
def weights() -> np.ndarray:
    """Of `sharp_model`."""
    return np.random.default_rng(2).normal(0, 0.1, (4000, len(LABELS))).astype(np.float32)


@pytest.fixture(scope="session")
def sharp_model(weights, tmp_path_factory) -> Path:
    """A .tflite file with two outputs whose probabilities depend on each sample's place, which a recogniser's don't."""
    import tensorflow as tf

    def graph(audio):
        logits = tf.matmul(audio, weights)
        return tf.nn.softmax(logits), logits

    function = tf.function(graph, input_signature=[tf.TensorSpec((1, 4000))]).get_concrete_function()
    content = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    path = tmp_path_factory.mktemp("sharp") / "sharp.tflite"
    path.write_bytes(described(content, thresholds=THRESHOLDS))
    return path


@pytest.fixture(scope="session")
def unfit(model, tmp_path_factory) -> dict[Path, str]:
    """Files that must be refused before LiteRT gets them, and with which words."""
    folder, content = tmp_path_factory.mktemp("unfit"), model.read_bytes()
    middle = len(content) // 2
    changed = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    graph = b"\0\0\0\0TFL3"
    cases = {
        "changed": (changed, "changed or cut off after it was exported; export it again"),
        "foreign": (graph, "that `speech-gru export` wrote"),
        "stream": (described(graph, kind="stream"), 'of kind "stream"; expected one for whole clips'),
        "later": (described(graph, format=FORMAT + 1), f"format {FORMAT + 1}, of a later speech_gru"),
    }
    for name, (content, _) in cases.items():
        (folder / f"{name}.tflite").write_bytes(content)
    return {folder / f"{name}.tflite": words for name, (_, words) in cases.items()}


def described(model: bytes, *, format: int = 1, **values) -> bytes:
    """A model with a description behind it: a flatbuffer may be followed by anything."""
    values = {"labels": LABELS, "sample_rate": 8000, "clip_samples": 4000} | values
    line = f'{{"speech_gru": {format}, "sha256": "%s", {json.dumps(values, ensure_ascii=False)[1:]}\n'
    digest = hashlib.sha256(model + (line % ("0" * 64)).encode()).hexdigest()
    return model + (line % digest).encode()


@pytest.fixture(scope="session")
def clips(tiny_corpus, tmp_path_factory) -> list[Path]:
    """16-bit mono WAV files at 8 kHz: the words as they are, shorter ones and longer ones."""
    folder, rng = tmp_path_factory.mktemp("clips"), np.random.default_rng(1)

    def write(name: str, samples: np.ndarray) -> Path:
        soundfile.write(folder / name, samples, 8000, subtype="PCM_16")
        return folder / name

    words = {word: soundfile.read(tiny_corpus / word / "s25.wav")[0] for word in ("tief", "mittel", "höher", "sirene")}
    noise, clicks = rng.normal(0, 0.01, 5001), np.zeros(9000)
    clicks[[1000, 8500]] = 0.5  # many stretches are equally loud
    return [
        *(write(f"{word}.wav", samples) for word, samples in words.items()),
        write("short.wav", words["tief"][:2801]),
        write("one sample.wav", words["tief"][-1:]),
        write("long.wav", np.concatenate([noise, words["mittel"], noise[:1234]])),
        write("longer.wav", np.concatenate([noise, words["sirene"], words["höher"], noise])),
        write("clicks.wav", clicks),
        write("silence.wav", np.zeros(9000)),
    ]


@pytest.fixture(scope="session")
def expected(model, clips) -> dict[str, Recognition]:
    """By the clip's name: what Python hears with `model`."""
    recognizer = Recognizer(model)
    return {clip.name: recognizer.recognize(soundfile.read(clip)[0]) for clip in clips}


@pytest.fixture(scope="session")
def sharp_expected(weights, clips) -> dict[str, Recognition]:
    """By the clip's name: what is to be heard with `sharp_model`."""
    result = {}
    for clip in clips:
        odds = np.exp(fit_length(soundfile.read(clip)[0], 4000) @ weights)
        ranking = sorted(zip(LABELS, odds / odds.sum(), strict=True), key=lambda item: -item[1])
        label, probability = ranking[0]
        if probability < THRESHOLDS.get(label, 0):
            label, probability = "_unknown_", dict(ranking)["_unknown_"]
        result[clip.name] = Recognition(label, probability, tuple(ranking))
    assert any(heard.label != heard.ranking[0][0] for heard in result.values()), "no threshold was tried"
    return result
