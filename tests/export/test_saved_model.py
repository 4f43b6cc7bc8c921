"""SavedModels against Keras: every signature, any batch, and served where there is only TensorFlow."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from export.front_end import front_end_state
from export.reference import embed
from export.saved_model import InferenceGraph, write_saved_model

PROGRAM = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("speech_gru", "data_pipeline", "export", "ai_edge_litert"):
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
import numpy as np
import tensorflow as tf

serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
audio = np.load(sys.argv[2])
batches = {str(size): serve(audio=tf.constant(audio[:size]))["probabilities"].numpy() for size in (1, 7, len(audio))}
np.savez(sys.argv[3], **batches)
"""


@pytest.fixture(scope="module")
def case(random_case):
    return random_case(bidirectional=True, stem_filters=(3, 4, 4), convolution_filters=6, subsampling=4)


@pytest.fixture(scope="module")
def served(case, front_end, tmp_path_factory):
    """The signatures of a written SavedModel."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    write_saved_model(case.encoder, front_end_state(front_end), 896, folder)
    return tf.saved_model.load(str(folder)).signatures


def shapes(specs: dict) -> dict[str, tuple]:
    return {name: (spec.shape.as_list(), spec.dtype) for name, spec in specs.items()}


def test_signatures(served):
    audio, features = ([None, 896], tf.float32), ([None, 13, 5], tf.float32)
    logits = ([None, 4], tf.float32)
    found = {
        name: (shapes(each.structured_input_signature[1]), shapes(each.structured_outputs))
        for name, each in served.items()
    }
    assert found == {
        "serving_default": ({"audio": audio}, {"probabilities": logits}),
        "logits": ({"audio": audio}, {"logits": logits}),
        "features": ({"audio": audio}, {"features": features}),
        "from_features": ({"features": features}, {"logits": logits}),
        "embedding": ({"audio": audio}, {"embedding": ([None, 14], tf.float32)}),
    }


@pytest.mark.parametrize("size", [1, 3, 80])
def test_values(served, case, clips, features, size):
    audio, given = tf.constant(clips[:size]), features[:size]
    expected = case.model(given).numpy()
    results = {
        "serving_default": ("probabilities", keras.ops.softmax(expected)),
        "logits": ("logits", expected),
        "features": ("features", given),
        "embedding": ("embedding", keras.Model(case.model.input, case.model.get_layer("pooling").output)(given)),
    }
    for name, (output, values) in results.items():
        np.testing.assert_allclose(served[name](audio=audio)[output], values, rtol=0, atol=2e-5, err_msg=name)
    found = served["from_features"](features=tf.constant(given))["logits"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_the_graph_of_each_model(random_case, front_end, features):
    for settings in (
        {"bidirectional": both, "convolution_filters": filters, "subsampling": subsampling, "pooling": pooling}
        for both in (False, True)
        for filters, subsampling, pooling in ((0, 3, "mean"), (0, 1, "last"), (6, 1, "attention"), (6, 3, "last"))
    ):
        case = random_case(**settings)
        graph = InferenceGraph(case.encoder, front_end_state(front_end))
        given = tf.constant(features[:5])
        expected = case.model(given).numpy()
        np.testing.assert_allclose(graph.from_features(given), expected, rtol=0, atol=1e-5, err_msg=str(settings))
        np.testing.assert_allclose(graph.embed(given), embed(features[:5], case.encoder), rtol=0, atol=1e-5)


def test_signatures_share_the_weights(random_case, front_end, tmp_path):
    encoder = random_case(units=48).encoder
    write_saved_model(encoder, front_end_state(front_end), 896, tmp_path / "model")
    size = sum(file.stat().st_size for file in (tmp_path / "model" / "variables").iterdir())
    assert 4 * encoder.parameters < size < 1.3 * 4 * encoder.parameters
    graph = (tmp_path / "model" / "saved_model.pb").read_bytes()
    assert encoder.layers[1][0].recurrent.tobytes() not in graph


@pytest.fixture(scope="module")
def served_phrases(ctc_case, phrase_front_end, tmp_path_factory):
    """The signatures of a written SavedModel with a CTC head, and its Case."""
    case = ctc_case(bidirectional=True, stem_filters=(3, 4, 4), convolution_filters=8)
    folder = tmp_path_factory.mktemp("saved_phrases") / "model"
    write_saved_model(case.encoder, front_end_state(phrase_front_end), 4000, folder)
    return tf.saved_model.load(str(folder)).signatures, case


def test_signatures_with_a_ctc_head(served_phrases):
    served, _ = served_phrases
    audio, lengths, logits = ([None, None], tf.float32), ([None], tf.int32), ([None, None, 4], tf.float32)
    features, inputs = ([None, None, 5], tf.float32), {"audio": audio, "samples": lengths}
    found = {
        name: (shapes(each.structured_input_signature[1]), shapes(each.structured_outputs))
        for name, each in served.items()
    }
    assert found == {
        "serving_default": (inputs, {"probabilities": logits}),
        "logits": (inputs, {"logits": logits}),
        "features": (inputs, {"features": features, "frames": lengths}),
        "from_features": ({"features": features, "frames": lengths}, {"logits": logits}),
    }


@pytest.mark.parametrize("chosen", [slice(0, 1), slice(4, 7), slice(7, 8), slice(0, 11)])
def test_values_with_a_ctc_head(served_phrases, phrases, phrase_logits, chosen):
    """Of any number of clips, each as long as it is; the audio is as long as the longest of them."""
    served, case = served_phrases
    samples = phrases.samples[chosen]
    inputs = {"audio": tf.constant(phrases.audio[chosen, : samples.max()]), "samples": tf.constant(samples)}
    logits, probabilities = served["logits"](**inputs)["logits"], served["serving_default"](**inputs)["probabilities"]
    features = served["features"](**inputs)
    again = served["from_features"](**features)["logits"]
    np.testing.assert_array_equal(features["frames"], phrases.frames[chosen])
    for number, (expected, steps) in enumerate(zip(phrase_logits(case)[chosen], phrases.steps[chosen], strict=True)):
        np.testing.assert_allclose(logits[number, :steps], expected, rtol=0, atol=2e-5)
        np.testing.assert_allclose(again[number, :steps], expected, rtol=0, atol=2e-5)
        np.testing.assert_allclose(
            probabilities[number, :steps], keras.ops.softmax(expected, axis=-1), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("samples", [1, 127, 128, 319])
def test_audio_without_a_step(served_phrases, samples):
    served, _ = served_phrases
    audio = tf.zeros((2, samples))
    assert served["logits"](audio=audio, samples=tf.constant([samples, 0]))["logits"].shape == (2, 0, 4)


def test_the_graph_of_each_model_with_a_ctc_head(phrase_case, phrase_front_end, phrases, phrase_logits):
    graph = InferenceGraph(phrase_case.encoder, front_end_state(phrase_front_end))
    found = graph.transcribe(tf.constant(phrases.features), tf.constant(phrases.frames))
    for rows, expected, steps in zip(found, phrase_logits(phrase_case), phrases.steps, strict=True):
        np.testing.assert_allclose(rows[:steps], expected, rtol=0, atol=1e-5)


def test_served_where_there_is_only_tensorflow(tiny_run, full_export, tmp_path):
    from speech_gru.run import load_run

    audio = np.random.default_rng(0).normal(0, 0.1, (20, 4000)).astype(np.float32)
    np.save(tmp_path / "audio.npy", audio)
    arguments = [full_export.folder / "saved_model", tmp_path / "audio.npy", tmp_path / "found.npz"]
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    expected = keras.ops.softmax(load_run(tiny_run).recognizer(audio)).numpy()
    with np.load(tmp_path / "found.npz") as found:
        for size in (1, 7, 20):
            assert found[str(size)].dtype == np.float32
            np.testing.assert_allclose(found[str(size)], expected[:size], rtol=0, atol=1e-5)
