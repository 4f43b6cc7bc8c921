import numpy as np
import pytest

from data_pipeline.errors import UserError
from export.flatbuffer import Form, Quantization
from speech_gru.artefact import Artefact
from speech_gru.lite_file import LiteFile, as_float

LABELS = ("a", "b", "c")
SIZES = {
    "clip": {"clip_samples": 8},
    "stream": {"clip_samples": 8, "chunk_samples": 2, "overlap_samples": 1},
    "step": {"clip_samples": 8},
}
INT8, INT16 = Form("int8", Quantization(0.5, -7)), Form("int16", Quantization(0.25))
SCALED, SHIFTED = Form("int8", Quantization(0.25, -7)), Form("int8", Quantization(0.5, 7))
FITTING = {
    "clip": ([(1, 8)], [(1, 3), (1, 3)]),
    "stream": ([(1, 2), (1, 1), (1, 5)], [(1, 3), (1, 3), (1, 1), (1, 5)]),
    "step": ([(1, 4, 2), (1, 5)], [(1, 3), (1, 5)]),
}
"""By kind: the shapes of inputs and outputs."""


@pytest.fixture
def write(lite_model, copied, tmp_path):
    """A function (kind, inputs, outputs) -> a file with these shapes; a pair of shape and form makes it another form.

    Outputs that have an input's shape and form are that input, the others are constants.
    """

    def write(kind, inputs, outputs, **values):
        def build(graph):
            given = [graph.input(f"input_{index}", *split(item)) for index, item in enumerate(inputs)]
            for index, (shape, *form) in enumerate(map(split, outputs)):
                form = form[0] if form else Form("float32")
                fits = [item for item in given if (item.shape, item.form) == (shape, form)]
                source = fits[0] if fits else graph.constant(np.zeros(shape, form.dtype), form.quantization)
                graph.output(f"output_{index}", copied(graph, source))

        description = Artefact(**{"labels": LABELS, "sample_rate": 8000, "kind": kind, **SIZES[kind], **values})
        (tmp_path / "model.tflite").write_bytes(lite_model(description, build))
        return tmp_path / "model.tflite"

    return write


def split(item) -> tuple:
    return item if isinstance(item[-1], Form) else (item,)


@pytest.mark.parametrize("kind", FITTING)
def test_what_fits_is_run(write, kind):
    file = LiteFile(write(kind, *FITTING[kind]))
    assert file.description.kind == kind
    inputs = [np.full(shape, 0.5, np.float32) for shape in FITTING[kind][0]]
    assert [output.shape for output in file.run(*inputs)] == FITTING[kind][1]


@pytest.mark.parametrize(
    ("kind", "inputs", "outputs"),
    [
        ("clip", [(1, 9)], [(1, 3), (1, 3)]),
        ("clip", [(8,)], [(1, 3), (1, 3)]),
        ("clip", [((1, 8), INT8)], [(1, 3), (1, 3)]),
        ("clip", [(1, 8)], [(1, 3)]),
        ("clip", [(1, 8)], [(1, 3), (1, 4)]),
        ("clip", [(1, 8)], [(1, 2), (1, 3)]),
        ("clip", [(1, 8)], [((1, 3), INT8), (1, 3)]),
        ("clip", [(1, 8)], [(1, 3), (1, 3), (1, 3)]),
        ("clip", [(1, 8), (1, 5)], [(1, 3), (1, 3)]),
        ("clip", *FITTING["stream"]),
        ("clip", *FITTING["step"]),
        ("stream", *FITTING["clip"]),
        ("stream", *FITTING["step"]),
        ("stream", [(1, 2)], [(1, 3), (1, 3)]),
        ("stream", [(1, 3), (1, 1), (1, 5)], FITTING["stream"][1]),
        ("stream", [(1, 2), (1, 2), (1, 5)], [(1, 3), (1, 3), (1, 2), (1, 5)]),
        ("stream", FITTING["stream"][0], FITTING["stream"][1][:-1]),
        ("stream", FITTING["stream"][0][:-1], FITTING["stream"][1]),
        ("stream", FITTING["stream"][0], [(1, 3), (1, 3), (1, 5), (1, 1)]),
        ("stream", FITTING["stream"][0], [(1, 3), (1, 3), (1, 1), (1, 6)]),
        ("stream", [(1, 2), (1, 1), ((1, 5), INT8)], FITTING["stream"][1]),
        ("stream", [*FITTING["stream"][0][:-1], ((1, 5), INT8)], [*FITTING["stream"][1][:-1], ((1, 5), SCALED)]),
        ("stream", [*FITTING["stream"][0][:-1], ((1, 5), INT8)], [*FITTING["stream"][1][:-1], ((1, 5), SHIFTED)]),
        ("step", [(1, 4, 2), ((1, 5), INT8)], [(1, 3), ((1, 5), SCALED)]),
        ("step", FITTING["step"][0], [(1, 4), (1, 5)]),
        ("step", FITTING["step"][0], [(1, 3)]),
        ("step", FITTING["step"][0], [(1, 3), (1, 5), (1, 5)]),
        ("step", FITTING["step"][0], [(1, 3), (1, 6)]),
    ],
)
def test_a_graph_of_another_description(write, kind, inputs, outputs):
    with pytest.raises(UserError, match=r"model\.tflite: its graph doesn't fit its description; export it again"):
        LiteFile(write(kind, inputs, outputs))


def test_files_that_cant_be_read(tmp_path):
    with pytest.raises(UserError, match=r"none\.tflite: can't be read: No such file"):
        LiteFile(tmp_path / "none.tflite")
    with pytest.raises(UserError, match="can't be read: Is a directory"):
        LiteFile(str(tmp_path))


@pytest.mark.parametrize("threads", [0, -1])
def test_threads(write, threads):
    with pytest.raises(UserError, match=f"threads: expected 1 or more, got {threads}"):
        LiteFile(write("clip", *FITTING["clip"]), threads=threads)


def test_states_begin_at_what_stands_for_zero(write):
    states = [((1, 3), INT8), ((2, 2), INT16), ((1, 1, 4), Form("float32"))]
    file = LiteFile(write("step", [((1, 4), INT8), *states], [(1, 3), *states]))
    found = file.initial_states()
    for values, (shape, form), zero in zip(found, states, (-7, 0, 0), strict=True):
        assert (values.dtype, values.shape) == (form.dtype, shape)
        assert (values == zero).all()
    assert file.quantization == [(0.5, -7), (0, 0)]
    _, *new = file.run(np.zeros((1, 4), np.int8), *found)
    for before, after in zip(found, new, strict=True):
        np.testing.assert_array_equal(after, before)
    found[0][:] = 3
    assert (file.initial_states()[0] == -7).all()


def test_results_outlive_the_next_run(write):
    file = LiteFile(write("step", *FITTING["step"]))
    features, one, two = np.zeros((1, 4, 2), np.float32), np.full((1, 5), 1, np.float32), np.full((1, 5), 2, np.float32)
    kept = file.run(features, one)[1]
    file.run(features, two)
    np.testing.assert_array_equal(kept, one)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_samples_become_float32(dtype):
    samples = np.array([0.5, -1, 0.25], dtype)
    found = as_float(samples)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, samples)
    np.testing.assert_array_equal(as_float(np.array([16384, -32768, 8192], np.int16)), found)
