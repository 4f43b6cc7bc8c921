"""The converted front end is the Keras layer, and travels with its statistics."""

import pickle

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from data_pipeline.front_end import FrontEnd
from export import front_end as module
from export.errors import ExportError
from export.front_end import convert_front_end, front_end_state, rebuild
from export.tflite import refuse_foreign_operators

KINDS = {
    "mfcc with deltas": {"deltas": 2, "normalize": False},
    "mfcc, normalised": {"coefficients": 7},
    "log_mel": {"kind": "log_mel", "normalize": False},
    "log_mel with deltas, normalised": {"kind": "log_mel", "deltas": 1},
}


def small(**settings) -> FrontEnd:
    defaults = {"window_ms": 16, "hop_ms": 8, "mel_bins": 12, "coefficients": 9}
    return FrontEnd(sample_rate=8000, **(defaults | settings))


def run(model: bytes, clip: np.ndarray) -> np.ndarray:
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], clip)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_the_converted_graph_is_the_layer(settings, clips):
    layer = small(**settings)
    layer.adapt(clips)
    model = convert_front_end(front_end_state(layer), clips.shape[1])
    refuse_foreign_operators(model)
    for clip in (*clips[:6], np.zeros_like(clips[0])):
        expected = layer(clip[None]).numpy()
        found = run(model, clip[None])
        assert found.shape == expected.shape == (1, 13, layer.feature_count)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-4 * max(1, np.abs(expected).max() / 100))


def test_rebuilt_with_its_statistics(clips):
    layer = small()
    layer.adapt(clips)
    rebuilt = rebuild(pickle.loads(pickle.dumps(front_end_state(layer))))
    expected = layer(clips).numpy()
    np.testing.assert_array_equal(rebuilt(clips).numpy(), expected)
    np.testing.assert_allclose(expected.mean(axis=(0, 1)), 0, atol=1e-3)
    assert rebuilt.settings == layer.settings
    assert rebuilt.sample_rate == layer.sample_rate


def test_a_front_end_without_statistics(clips):
    layer = small(normalize=False)
    state = front_end_state(layer)
    assert (state.mean, state.variance) == (None, None)
    np.testing.assert_array_equal(rebuild(state)(clips).numpy(), layer(clips).numpy())


def test_the_state_is_a_copy(clips):
    layer = small()
    layer.adapt(clips)
    state = front_end_state(layer)
    before = state.mean.copy()
    layer.adapt(0.1 * clips)
    assert np.abs(layer.normalization.adapt_mean.numpy() - before).max() > 1
    np.testing.assert_array_equal(state.mean, before)


def test_what_cannot_be_converted(clips, monkeypatch):
    class Foreign(keras.layers.Layer):
        def call(self, audio):
            return tf.math.erfinv(audio)

    monkeypatch.setattr(module, "rebuild", lambda state: Foreign())
    with pytest.raises(ExportError, match="the front end can't be converted to TFLite: ") as caught:
        convert_front_end(front_end_state(small()), 896)
    assert "\n" not in str(caught.value)
