"""Models written operator by operator, run in LiteRT and read back by the schema's own classes."""

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from export.flatbuffer import FLOAT, Form, ModelWriter, Quantization

VALUES = np.random.default_rng(0).normal(0, 1, (4, 6)).astype(np.float32)


def run(model: bytes, *inputs: np.ndarray) -> list[np.ndarray]:
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    for item, values in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(item["index"], values)
    interpreter.invoke()
    return [interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()]


def convert(function, *shapes: tuple[int, ...]) -> bytes:
    graph = tf.function(function, input_signature=[tf.TensorSpec(shape) for shape in shapes])
    return tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()]).convert()


def spliced(content: bytes, *shapes: tuple[int, ...], half: bool = False) -> bytes:
    writer = ModelWriter()
    inputs = [writer.main.input(f"input_{index}", shape) for index, shape in enumerate(shapes)]
    for index, output in enumerate(writer.main.splice(content, inputs, half=half)):
        writer.main.output(f"output_{index}", output)
    return writer.finish({})


def test_a_model_and_its_signature():
    writer = ModelWriter()
    left, right = writer.main.input("left", (4, 6)), writer.main.input("right", (4, 6))
    total = writer.main.apply("ADD", [left, right], (4, 6))
    writer.main.output("difference", writer.main.apply("SUB", [left, right], (4, 6)))
    writer.main.output("sum", total)
    model = writer.finish({})
    difference, total = run(model, VALUES, VALUES + 1)
    np.testing.assert_array_equal(difference, VALUES - (VALUES + 1))
    np.testing.assert_array_equal(total, VALUES + (VALUES + 1))
    interpreter = Interpreter(model_content=model)
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["left", "right"], "outputs": ["difference", "sum"]}
    }
    named = interpreter.get_signature_runner()(right=VALUES + 1, left=VALUES)
    np.testing.assert_array_equal(named["sum"], total)


def test_options_reach_the_operator():
    writer = ModelWriter()
    given = writer.main.input("given", (4, 6))
    writer.main.output("soft", writer.main.apply("SOFTMAX", [given], (4, 6), beta=2.0))
    (found,) = run(writer.finish({}), VALUES)
    np.testing.assert_allclose(found, tf.nn.softmax(2 * VALUES), rtol=1e-5)


@pytest.mark.parametrize(("operator", "options"), [("SOFTMAX", {"alpha": 1.0}), ("SOFTMACKS", {})])
def test_what_the_schema_does_not_have(operator, options):
    writer = ModelWriter()
    given = writer.main.input("given", (4, 6))
    with pytest.raises(AttributeError):
        writer.main.apply(operator, [given], (4, 6), **options)


def test_a_number_type_that_files_do_not_hold():
    with pytest.raises(KeyError, match="complex64"):
        ModelWriter().main.constant(np.zeros(3, np.complex64))


def test_equal_constants_are_one():
    writer = ModelWriter()
    other = writer.graph("other")
    first = writer.main.constant(VALUES)
    assert writer.main.constant(VALUES.copy()) == first
    assert writer.main.constant(VALUES.reshape(6, 4)) != first
    other.constant(VALUES)
    writer.main.constant(np.zeros(8, np.float32))
    zeros = writer.main.constant(np.zeros(8, np.int32))
    assert zeros.form == Form("int32")
    assert writer.main.constant(np.zeros(8, np.int8), Quantization(0.5)) != writer.main.constant(np.zeros(8, np.int8))
    model = writer.finish({})
    assert model.count(VALUES.tobytes()) == 1
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    contents = [bytes(item.data) for item in tree.buffers if item.data is not None]
    assert len(contents) == len(set(contents)) == 3


def test_constants_lie_aligned_in_the_file():
    writer, rng = ModelWriter(), np.random.default_rng(0)
    contents = [rng.integers(-127, 127, size).astype(np.int8) for size in (23, 16, 31, 64, 1001, 17)]
    for array in contents:
        writer.main.constant(array)
    model = writer.finish({"speech": b"seventeen letters"})
    places = [model.index(array.tobytes()) for array in contents]
    assert [place % 16 for place in places] == [0] * len(places)
    assert model.index(b"seventeen letters") % 16 == 0


def test_metadata_and_identifier():
    model = ModelWriter().finish({"speech": b"of commands"})
    assert model[4:8] == b"TFL3"
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    (entry,) = tree.metadata
    assert entry.name == b"speech"
    assert bytes(tree.buffers[entry.buffer].data) == b"of commands"
    assert tree.version == 3
    assert tree.buffers[0].data is None


def test_quantisation_is_written():
    writer = ModelWriter()
    given = writer.main.input("given", (4, 6), Form("int8", Quantization(0.25, -3)))
    writer.main.output("real", writer.main.apply("DEQUANTIZE", [given], (4, 6), version=3))
    integers = np.arange(24, dtype=np.int8).reshape(4, 6)
    (real,) = run(writer.finish({}), integers)
    np.testing.assert_array_equal(real, 0.25 * (integers + 3.0))


def test_equal_quantisation_is_in_the_file_once():
    def size(kinds: int) -> int:
        writer = ModelWriter()
        given = writer.main.input("given", (4, 6))
        for index in range(60):
            form = Form("int8", Quantization(0.5 + index % kinds))
            given = writer.main.apply("QUANTIZE", [given], (4, 6), form, version=2)
            given = writer.main.apply("DEQUANTIZE", [given], (4, 6), version=3)
        writer.main.output("found", given)
        model = writer.finish({})
        integers = np.arange(-12, 12, dtype=np.float32).reshape(4, 6)
        if kinds == 1:
            np.testing.assert_array_equal(run(model, integers)[0], integers)
        return len(model)

    assert size(60) - size(1) > 59 * 16


def test_one_operator_code_for_each_version():
    writer = ModelWriter()
    given = writer.main.input("given", (4, 6))
    for version in (1, 2, 1):
        given = writer.main.apply("ADD", [given, given], (4, 6), version=version)
    writer.main.output("sum", given)
    model = writer.finish({})
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    assert [item.version for item in tree.operatorCodes] == [1, 2]
    np.testing.assert_array_equal(run(model, VALUES)[0], 8 * VALUES)


def two_outputs(left, right):
    """Float and integer constants, some of them large and some needed twice."""
    big = tf.constant(np.random.default_rng(1).normal(0, 1, (6, 300)), tf.float32)
    picked = tf.gather(tf.matmul(left, big), [5, 2, 7], axis=1)
    return picked * 3.5, tf.reshape(tf.matmul(tf.nn.relu(right) + 3.5, big), (300, 4))


def test_splice():
    model = spliced(convert(two_outputs, (4, 6), (4, 6)), (4, 6), (4, 6))
    for found, expected in zip(run(model, VALUES, -VALUES), two_outputs(VALUES, -VALUES), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_splice_with_large_constants_in_half():
    content = convert(two_outputs, (4, 6), (4, 6))
    whole, half = spliced(content, (4, 6), (4, 6)), spliced(content, (4, 6), (4, 6), half=True)
    assert len(whole) - len(half) > 1.9 * 6 * 300
    for found, expected in zip(run(half, VALUES, -VALUES), two_outputs(VALUES, -VALUES), strict=True):
        assert 0 < np.abs(found - expected).max() < 2e-2


def test_splice_between_other_operators():
    writer = ModelWriter()
    given = writer.main.input("given", (4, 6))
    twice = writer.main.apply("ADD", [given, given], (4, 6))
    (sine,) = writer.main.splice(convert(tf.sin, (4, 6)), [twice])
    assert sine.shape == (4, 6)
    assert sine.form == FLOAT
    writer.main.output("found", writer.main.apply("MUL", [sine, given], (4, 6)))
    np.testing.assert_allclose(run(writer.finish({}), VALUES)[0], np.sin(2 * VALUES) * VALUES, rtol=0, atol=1e-6)


def test_what_cannot_be_spliced():
    writer = ModelWriter()
    given = writer.main.input("given", (4, 6))
    with pytest.raises(ValueError, match="zip"):
        writer.main.splice(convert(tf.add, (4, 6), (4, 6)), [given])

    def loop(values):
        return tf.while_loop(lambda total: tf.reduce_sum(total) < 100, lambda total: (total + 1,), (values,))[0]

    with pytest.raises(ValueError, match="unpack"):  # its loop's graphs would be lost
        writer.main.splice(convert(loop, (4, 6)), [given])
