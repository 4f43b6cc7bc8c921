"""Files whose graph can be checked by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from export.flatbuffer import Graph, ModelWriter, Tensor
from export.tflite import METADATA_NAME
from speech_gru.artefact import Artefact, describe, sign


@pytest.fixture(scope="session")
def lite_model() -> Callable[[Artefact, Callable[[Graph], None]], bytes]:
    """A function (description, build) -> the signed content of a file, whose graph `build` makes."""

    def write(description: Artefact, build: Callable[[Graph], None]) -> bytes:
        writer = ModelWriter()
        build(writer.main)
        return sign(writer.finish({METADATA_NAME: describe(description)}))

    return write


@pytest.fixture(scope="session")
def copied() -> Callable[[Graph, Tensor], Tensor]:
    """A function (graph, tensor) -> another tensor with the same values."""

    def copy(graph: Graph, tensor: Tensor) -> Tensor:
        shape = graph.constant(np.array(tensor.shape, np.int32))
        return graph.apply("RESHAPE", [tensor, shape], tensor.shape, tensor.form)

    return copy


@pytest.fixture(scope="session")
def mirror(lite_model, copied, tmp_path_factory) -> Callable[..., object]:
    """A function (**description) -> a file whose probabilities are the samples themselves, 4 at a time at 8 kHz.

    Its logits are ten times as much. Of a stream the overlap is a sample, of no effect.
    """

    def write(**values):
        sizes = {"chunk_samples": 4, "overlap_samples": 1} if values.get("kind") == "stream" else {}
        labels = ("ja", "nein", "_unknown_", "_silence_")
        description = Artefact(**{"labels": labels, "sample_rate": 8000, "clip_samples": 4, **sizes, **values})

        def build(graph: Graph) -> None:
            audio = graph.input("audio", (1, 4))
            states = [graph.input("state_0", (1, 1))] if sizes else []
            graph.output("probabilities", copied(graph, audio))
            graph.output("logits", graph.apply("MUL", [audio, graph.constant(np.float32([10]))], (1, 4)))
            for state in states:
                graph.output("new_state_0", copied(graph, state))

        path = tmp_path_factory.mktemp("mirror") / "mirror.tflite"
        path.write_bytes(lite_model(description, build))
        return path

    return write
