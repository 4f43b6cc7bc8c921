"""The parts of the graph, each alone in a file, against the NumPy reference."""

from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from export.encoder import Convolution
from export.flatbuffer import FLOAT, Form, ModelWriter, Quantization
from export.lite_graph import LiteGraph
from export.number_format import FORMATS, UNIT
from export.reference import Range, Ranges, convolve, gru, pool


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(0, 0.8, shape).astype(np.float32)


def interpreter_of(model: bytes) -> Interpreter:
    interpreter = Interpreter(model_content=model)
    interpreter.allocate_tensors()
    return interpreter


def run(writer: ModelWriter, *inputs: np.ndarray) -> list[np.ndarray]:
    interpreter = interpreter_of(writer.finish({}))
    for item, values in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(item["index"], values)
    interpreter.invoke()
    return [interpreter.get_tensor(item["index"]) for item in interpreter.get_output_details()]


def lite(encoder, number_format: str = "float32", ranges: Ranges | None = None) -> LiteGraph:
    return LiteGraph(ModelWriter().main, encoder, FORMATS[number_format], ranges or Ranges())


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_gru_layer(random_case, bidirectional, steps):
    encoder = random_case(bidirectional=bidirectional).encoder
    layer, graph = encoder.layers[0], lite(encoder)
    states = [graph.graph.constant(np.zeros((1, 7), np.float32)) for _ in layer]
    found = graph.gru_layer(graph.graph.input("inputs", (steps, 5)), layer, "gru_0", states)
    for number, direction in enumerate(found):
        graph.graph.output(f"states_{number}", graph.concatenate(direction, 0))
    inputs = draw(steps, 5)
    outputs = run(graph.graph.model, inputs)
    for backwards, (weights, output) in enumerate(zip(layer, outputs, strict=True)):
        expected = gru(inputs[None], weights, backwards=bool(backwards))[0]
        np.testing.assert_allclose(output, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("number_format", "largest", "mean"), [("int8", 0.03, 0.006), ("int16x8", 0.015, 0.0025)])
def test_gru_layer_in_integers(random_case, number_format, largest, mean):
    encoder = random_case(bidirectional=True).encoder
    layer, inputs, ranges = encoder.layers[0], draw(9, 5), Ranges()
    ranges("features", inputs)
    expected = [
        gru(inputs[None], each, backwards=bool(index), watch=lambda name, values: ranges(f"gru_0/{name}", values))[0]
        for index, each in enumerate(layer)
    ]
    graph = lite(encoder, number_format, ranges)
    given = graph.cast(graph.graph.input("inputs", (9, 5)), graph.products_form("features"))
    zeros = [graph.graph.constant(np.zeros((1, 7), np.int16), UNIT.quantization) for _ in layer]
    for index, direction in enumerate(graph.gru_layer(given, layer, "gru_0", zeros)):
        graph.graph.output(f"states_{index}", graph.cast(graph.concatenate(direction, 0), FLOAT))
    error = np.abs(np.array(run(graph.graph.model, inputs)) - expected)
    assert error.max() <= largest
    assert error.mean() <= mean


@pytest.mark.parametrize("samples", [0, 99, 100, 455, 900, 1000])
def test_what_ends_within_a_clip(random_case, samples):
    graph = lite(random_case().encoder)
    given = graph.graph.input("samples", (1, 1), Form("int32"))
    graph.graph.output("mask", graph.within(given, np.arange(100, 1000, 100)))
    (mask,) = run(graph.graph.model, np.array([[samples]], np.int32))
    assert mask.tolist() == [[float(end <= samples)] for end in range(100, 1000, 100)]


@pytest.mark.parametrize("number_format", ["float32", "int8", "int16x8"])
@pytest.mark.parametrize("shape", [(5, 3), (1, 5, 2, 3)])
def test_masks_are_exact(random_case, number_format, shape):
    ranges = Ranges(given=Range(-3, 2, -3, 2))
    graph = lite(random_case().encoder, number_format, ranges)
    form, mask = graph.products_form("given"), np.array([[1], [1], [0], [1], [0]], np.float32)
    given = graph.cast(graph.graph.input("given", shape), form)
    graph.graph.output("as_it_is", graph.cast(graph.masked(given, None), FLOAT))
    graph.graph.output("masked", graph.cast(graph.masked(given, graph.graph.input("mask", (5, 1))), FLOAT))
    as_it_is, masked = run(graph.graph.model, np.clip(draw(*shape), -2, 2), mask)
    np.testing.assert_array_equal(masked, as_it_is * (mask if len(shape) == 2 else mask[None, :, :, None]))


@pytest.mark.parametrize("candidate_bias", [0.3, 3])
@pytest.mark.parametrize(
    ("number_format", "largest"), [("float32", 1e-6), ("dynamic_range", 0.05), ("int8", 0.05), ("int16x8", 0.02)]
)
def test_a_masked_gru_layer(random_case, number_format, largest, candidate_bias):
    """Backwards the state is zero until the clip's last step, also where biases are larger than the projections."""
    mask, inputs, ranges = np.array([[1, 1, 1, 1, 0, 0, 0, 0, 0]], np.float32), 0.1 * draw(9, 5), Ranges()
    layer = tuple(
        replace(each, candidate_bias=candidate_bias * np.sign(draw(7)))
        for each in random_case(bidirectional=True).encoder.layers[0]
    )
    ranges("features", inputs)
    expected = [
        gru(
            inputs[None],
            each,
            backwards=bool(index),
            watch=lambda name, values: ranges(f"gru_0/{name}", values),
            mask=mask,
        )[0]
        for index, each in enumerate(layer)
    ]
    graph = lite(random_case(bidirectional=True, head="ctc").encoder, number_format, ranges)
    given = graph.cast(graph.graph.input("inputs", (9, 5)), graph.products_form("features"))
    within, zeros = graph.graph.input("mask", (9, 1)), [graph._zeros(7)] * 2
    for index, direction in enumerate(graph.gru_layer(given, layer, "gru_0", zeros, within)):
        graph.graph.output(f"states_{index}", graph.cast(graph.concatenate(direction, 0), FLOAT))
    forwards, backwards = run(graph.graph.model, inputs, mask.T)
    assert np.abs(forwards - expected[0])[:4].max() <= largest
    assert np.abs(backwards - expected[1]).max() <= largest
    assert not expected[1][4:].any()


def test_a_state_of_zero_needs_no_stability(random_case):
    """Behind the clip's end rounding doesn't grow from step to step, where a state near zero would run away from it."""
    mask, inputs, ranges = np.zeros((60, 1), np.float32), 0.1 * draw(60, 5), Ranges()
    mask[:4] = 1
    encoder = random_case(bidirectional=True, head="ctc").encoder
    layer = tuple(
        replace(each, recurrent=4 * each.recurrent, candidate_bias=np.float32(0.3) * np.sign(draw(7)))
        for each in encoder.layers[0]
    )
    ranges("features", inputs)
    for index, each in enumerate(layer):
        expected = gru(
            inputs[None],
            each,
            backwards=bool(index),
            watch=lambda name, values: ranges(f"gru_0/{name}", values),
            mask=mask.T,
        )[0]
    graph = lite(encoder, "int16x8", ranges)
    given = graph.cast(graph.graph.input("inputs", (60, 5)), graph.products_form("features"))
    within, zeros = graph.graph.input("mask", (60, 1)), [graph._zeros(7)] * 2
    _, backwards = graph.gru_layer(given, layer, "gru_0", zeros, within)
    graph.graph.output("states", graph.cast(graph.concatenate(backwards, 0), FLOAT))
    (states,) = run(graph.graph.model, inputs, mask)
    assert np.abs(states - expected).max() <= 0.03


def test_steps_are_calls_of_one_graph(random_case):
    encoder = random_case(bidirectional=True).encoder
    graph = lite(encoder)
    zeros = [graph.graph.constant(np.zeros((1, 7), np.float32))] * 2
    found = graph.gru_layer(graph.graph.input("inputs", (6, 5)), encoder.layers[0], "gru_0", zeros)
    graph.graph.output("last", found[0][-1])
    model = graph.graph.model.finish({})
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    assert [item.name for item in tree.subgraphs] == [b"main", b"gru_0/step"]
    codes = [code.builtinCode for code in tree.operatorCodes]
    calls = [item for item in tree.subgraphs[0].operators if codes[item.opcodeIndex] == schema.BuiltinOperator.IF]
    assert [(item.builtinOptions.thenSubgraphIndex, item.builtinOptions.elseSubgraphIndex) for item in calls] == [
        (1, 1)
    ] * 6
    for weights in encoder.layers[0]:
        assert model.count(np.ascontiguousarray(weights.recurrent.T).tobytes()) == 1


@pytest.mark.parametrize(
    ("stride", "padding", "residual"),
    [
        ((1, 1), ((1, 2), (1, 1)), False),
        ((1, 1), ((1, 2), (1, 1)), True),
        ((1, 1), ((3, 0), (0, 2)), True),
        ((3, 2), ((1, 0), (0, 0)), False),
        ((2, 1), ((0, 0), (0, 0)), False),
    ],
)
@pytest.mark.parametrize("bands", [1, 5])
def test_convolution(random_case, stride, padding, residual, bands):
    if bands == 1:
        stride, padding = (stride[0], 1), (padding[0], (0, 0))
    convolution = Convolution(draw(4, min(bands, 3), 6, 6), draw(6), stride, padding, residual)
    graph = lite(random_case().encoder)
    graph.graph.output("found", graph.convolve(graph.graph.input("inputs", (1, 11, bands, 6)), convolution, "some"))
    inputs = draw(1, 11, bands, 6)
    (found,) = run(graph.graph.model, inputs)
    np.testing.assert_allclose(found, convolve(inputs, convolution), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("pooling", ["attention", "mean", "last"])
def test_pooling(random_case, pooling, bidirectional):
    encoder = random_case(pooling=pooling, bidirectional=bidirectional).encoder
    graph, channels = lite(encoder), 14 if bidirectional else 7
    states = graph.graph.input("states", (6, channels))
    last = [graph.rows(states, 5, 1)]
    if bidirectional:
        last = [graph.columns(last[0], 0, 7), graph.columns(graph.rows(states, 0, 1), 7, 7)]
    graph.graph.output("found", graph.pool(states, last))
    values = draw(6, channels)
    (found,) = run(graph.graph.model, values)
    expected = pool(values[None], encoder.pooling, bidirectional=bidirectional)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("number_format", "tolerance"), [("float32", 1e-6), ("float16", 2e-3), ("dynamic_range", 0.05), ("int8", 0.1)]
)
def test_dense_in_each_format(random_case, number_format, tolerance):
    ranges = Ranges(given=Range(-3, 3, -3, 3), found=Range(-8, 8, -8, 8))
    graph = lite(random_case().encoder, number_format, ranges)
    inputs = graph.cast(graph.graph.input("inputs", (6, 5)), graph.products_form("given"))
    kernel, bias, values = draw(5, 3), draw(3), draw(6, 5)
    graph.graph.output("found", graph.cast(graph.dense(inputs, kernel, bias, "found"), FLOAT))
    (found,) = run(graph.graph.model, values)
    np.testing.assert_allclose(found, values @ kernel + bias, rtol=0, atol=tolerance)


@pytest.mark.parametrize("number_format", ["int8", "int16x8"])
def test_a_bias_beside_tiny_weights(random_case, number_format):
    ranges = Ranges(given=Range(-1, 1, -1, 1), found=Range(-3, 3, -3, 3))
    graph = lite(random_case().encoder, number_format, ranges)
    inputs = graph.cast(graph.graph.input("inputs", (6, 5)), graph.products_form("given"))
    kernel, bias = draw(5, 3) * np.array([1, 1e-9, 0], np.float32), np.array([0.5, -2.5, 2.5], np.float32)
    graph.graph.output("found", graph.cast(graph.dense(inputs, kernel, bias, "found"), FLOAT))
    values = np.clip(draw(6, 5), -1, 1)
    (found,) = run(graph.graph.model, values)
    np.testing.assert_allclose(found, np.clip(values @ kernel + bias, -3, 3), rtol=0, atol=0.05)


def test_casts(random_case):
    graph = lite(random_case().encoder, "int16x8")
    given, form = graph.graph.input("given", (2, 3)), Form("int16", Quantization(0.5))
    assert graph.cast(given, FLOAT) is given
    integers = graph.cast(given, form)
    assert integers.form == form
    graph.graph.output("integers", integers)
    graph.graph.output("floats", graph.cast(integers, FLOAT))
    integers, floats = run(graph.graph.model, np.array([[1, 2, -3], [0.5, 0, 7]], np.float32))
    assert integers.dtype == np.int16
    np.testing.assert_array_equal(integers, [[2, 4, -6], [1, 0, 14]])
    np.testing.assert_array_equal(floats, integers / 2)


def test_states_are_int16_beside_integers(random_case):
    assert lite(random_case().encoder, "int8").state_form == UNIT
    assert lite(random_case().encoder, "dynamic_range").state_form == FLOAT


def test_what_changes_nothing_adds_no_operator(random_case):
    graph = lite(random_case().encoder)
    given = graph.graph.input("given", (2, 3))
    assert graph.split(given, 1, 0) == [given]
    assert graph.concatenate([given], 0) is given
    assert graph.reshape(given, 2, 3) is given
    assert graph.rows(given, 0, 2) is given
    assert not graph.graph.table.operators


def test_rows_columns_and_parts(random_case):
    graph = lite(random_case().encoder)
    given = graph.graph.input("given", (4, 6))
    graph.graph.output("rows", graph.rows(given, 1, 2))
    graph.graph.output("columns", graph.columns(graph.rows(given, 3, 1), 2, 3))
    for index, part in enumerate(graph.split(given, 3, 1)):
        graph.graph.output(f"part_{index}", part)
    values = draw(4, 6)
    rows, columns, *parts = run(graph.graph.model, values)
    np.testing.assert_array_equal(rows, values[1:3])
    np.testing.assert_array_equal(columns, values[3:, 2:5])
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), values)


def test_an_activation_whose_range_is_unknown(random_case):
    with pytest.raises(KeyError, match="elsewhere"):
        lite(random_case().encoder, "int8").products_form("elsewhere")
