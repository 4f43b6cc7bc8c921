import dataclasses

import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from export import tflite
from export.tflite import describe, operators, refuse_foreign_operators, write_tflite
from export.verify import ExportError
from speech_gru.artefact import read_description
from speech_gru.run import load_run


def convert(function, *extra, custom: bool = False) -> bytes:
    graph = tf.function(function, input_signature=[tf.TensorSpec((4, 4))])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, *extra]
    converter.allow_custom_ops = custom
    return converter.convert()


def test_operators_are_counted():
    counts = operators(convert(lambda x: tf.abs(tf.sin(tf.sin(x)))))
    assert counts == {"SIN": 2, "ABS": 1}


def test_operators_of_the_recogniser(tiny_export):
    counts = operators((tiny_export / "model.tflite").read_bytes())
    assert {"RFFT2D", "WHILE", "SOFTMAX"} <= set(counts)
    assert not [name for name in counts if not name.isupper()]


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


def test_what_cant_be_converted_is_an_export_error(tiny_run, tmp_path):
    run = dataclasses.replace(load_run(tiny_run), recognizer=tf.math.erfinv)
    with pytest.raises(ExportError, match="can't be converted to TFLite"):
        write_tflite(run, tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_what_is_converted_is_checked(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(tflite, "operators", lambda model: {"SIN": 3, "custom FlexSin": 1})
    with pytest.raises(ExportError, match="custom FlexSin"):
        write_tflite(load_run(tiny_run), tmp_path / "model.tflite")
    assert not list(tmp_path.iterdir())


def test_description(tiny_run, tiny_export):
    run = load_run(tiny_run)
    description = read_description((tiny_export / "model.tflite").read_bytes(), "model.tflite")
    assert description == describe(run)
    assert description.labels == run.labels
    assert (description.sample_rate, description.clip_samples) == (8000, 4000)
    assert description.front_end["coefficients"] == 10
    assert description.run == tiny_run.name


def test_signature(tiny_export):
    interpreter = Interpreter(str(tiny_export / "model.tflite"))
    (audio,), (probabilities,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert (audio["shape"].tolist(), audio["dtype"].__name__) == ([1, 4000], "float32")
    assert (probabilities["shape"].tolist(), probabilities["dtype"].__name__) == ([1, 5], "float32")
