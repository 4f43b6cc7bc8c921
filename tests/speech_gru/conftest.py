"""Files whose graph can be checked by hand, and a quick experiment."""

from collections.abc import Callable

import numpy as np
import pytest

from export.flatbuffer import Form, Graph, ModelWriter, Tensor
from export.tflite import METADATA_NAME
from speech_gru.artefact import Artefact, describe, sign


@pytest.fixture(scope="session")
def light_config(tiny_config):
    """The tiny experiment in two short epochs, with a model that TensorFlow has soon compiled."""
    from trainings import changed

    light = changed(tiny_config, "model", units=5, layers=1, bidirectional=False, pooling="last", dropout=0.3)
    light = changed(light, "training", epochs=2, warmup_epochs=0.5, ema=0.6, checkpoint_steps=3, patience=5)
    return changed(light, "tensorboard", image_epochs=0, augmented_clips=0, pr_curves=False)


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


@pytest.fixture(scope="session")
def phrase_mirror(lite_model, copied, tmp_path_factory) -> Callable[..., object]:
    """A function (**description) -> a file with a CTC head whose logits are ten times the samples, 4 a step, at 1 kHz.

    Its tokens are three words. Of a stream the overlap is a sample, of no effect; of a clip it is the last one.
    """

    def write(**values):
        kind = values.setdefault("kind", "clip")
        sizes = {"frame_samples": 5, "hop_samples": 4, "step_samples": 4, "clip_samples": 33}
        sizes |= {"chunk_samples": 4, "overlap_samples": 1} if kind == "stream" else {}
        labels = ("", "links", "höher", "stopp")
        about = {"labels": labels, "sample_rate": 1000, "head": "ctc", "tokens": "words", **sizes, **values}

        def build(graph: Graph) -> None:
            audio, steps = graph.input("audio", (1, 4 if kind == "stream" else 33)), 1 if kind == "stream" else 8
            states = [graph.input("state_0", (1, 1))] if kind == "stream" else []
            if kind == "clip":
                graph.input("samples", (1, 1), Form("int32"))
            sizes = [graph.constant(np.array(value, np.int32)) for value in ([0, 0], [1, 4 * steps], [steps, 4])]
            within = graph.apply("SLICE", [audio, *sizes[:2]], (1, 4 * steps))
            rows = graph.apply("RESHAPE", [within, sizes[2]], (steps, 4))
            logits = graph.apply("MUL", [rows, graph.constant(np.float32([10]))], (steps, 4))
            graph.output("probabilities", graph.apply("SOFTMAX", [logits], (steps, 4), beta=1.0))
            graph.output("logits", logits)
            for state in states:
                graph.output("new_state_0", copied(graph, state))

        path = tmp_path_factory.mktemp("phrase_mirror") / "phrases.tflite"
        path.write_bytes(lite_model(Artefact(**about), build))
        return path

    return write


@pytest.fixture(scope="session")
def spoken() -> Callable[[str], np.ndarray]:
    """A function (text) -> audio in which `phrase_mirror` for clips hears a token a step: L, H or S; else the blank."""

    def speak(text: str) -> np.ndarray:
        return np.append(np.eye(4, dtype=np.float32)[["-LHS".index(token) for token in text]].ravel() * 0.75, 0)

    return speak
