"""TFLite files: for whole clips, for streams, and for microcontrollers. Raw audio in, but for microcontrollers.

Inputs and outputs have names and a fixed order:

    clip    audio (1, clip samples)                      -> probabilities (1, labels), logits (1, labels)
            audio (1, clip samples), samples (1, 1)      -> probabilities, logits (steps, labels), with a CTC head
    stream  audio (1, chunk samples), state_0, state_1 … -> probabilities, logits, new_state_0, new_state_1 …
    step    features (1, frames, features), state_0 …    -> logits, new_state_0 …; in the format's own numbers

A stream's states begin at zero (an integer state: at its zero point) and each new one is the next chunk's state. The
first of a stream is the audio that its next frame begins with: fill it with the first samples to get, chunk by chunk,
what the clip that begins there gets.
"""

from collections import Counter

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.encoder import Encoder
from export.errors import ExportError
from export.flatbuffer import FLOAT, Form, Graph, ModelWriter, Tensor
from export.lite_graph import LiteGraph
from export.number_format import NumberFormat
from export.reference import Ranges
from speech_gru.artefact import METADATA_NAME, Artefact, describe, sign


def write_clip(
    encoder: Encoder, front_end: bytes, format: NumberFormat, ranges: Ranges, description: Artefact
) -> bytes:
    """The file for whole clips.

    Args:
        front_end: TFLite model (1, clip samples) -> (1, frames, features), see export.front_end.

    With a CTC head clips may be shorter than that: `samples` says how long, and what lies behind has no effect on the
    steps that end before.
    """
    writer = ModelWriter()
    graph = writer.main
    audio = graph.input("audio", (1, description.clip_samples))
    samples = graph.input("samples", (1, 1), Form("int32")) if encoder.is_ctc else None
    (features,) = graph.splice(front_end, [audio], half=format.weights != "float32")
    lite = LiteGraph(graph, encoder, format, ranges)
    features = lite.reshape(features_of(features, encoder.frames, encoder), encoder.frames, encoder.features)
    features, masks = lite.cast(features, lite.products_form("features")), {}
    if samples is not None:
        ends = description.frame_samples + description.hop_samples * np.arange(encoder.frames)
        counts = dict.fromkeys((*encoder.frames_to_step, encoder.subsampling))
        masks = {count: lite.within(samples, ends[count - 1 :: count]) for count in counts}
        features = lite.masked(features, masks[1])
    inputs, _ = lite.convolved(features, masks=masks)
    states, last = lite.recurrent(inputs, mask=masks.get(encoder.subsampling))
    _answer(lite, lite.head(lite.pool(states, last)))
    return _finish(writer, description)


def write_stream(
    encoder: Encoder, front_end: bytes, format: NumberFormat, ranges: Ranges, description: Artefact
) -> bytes:
    """The file for streams: one step of the GRU layers for a chunk of `subsampling` hops.

    Args:
        encoder: not bidirectional, see export.material.Material.require_stream.
        front_end: TFLite model (1, overlap + chunk samples) -> (1, subsampling, features).
    """
    writer = ModelWriter()
    graph = writer.main
    lite = LiteGraph(graph, encoder, format, ranges)
    audio = graph.input("audio", (1, description.chunk_samples))
    before = graph.input("state_0", (1, description.overlap_samples))
    stretch = lite.concatenate([before, audio], axis=1)
    (features,) = graph.splice(front_end, [stretch], half=format.weights != "float32")
    features = lite.reshape(features_of(features, encoder.subsampling, encoder), encoder.subsampling, encoder.features)
    logits, states = _one_step(lite, lite.cast(features, lite.products_form("features")), first=1)
    _answer(lite, logits)
    graph.output("new_state_0", lite.columns(stretch, description.chunk_samples, description.overlap_samples))
    _give(graph, states, first=1)
    return _finish(writer, description)


def write_step(encoder: Encoder, format: NumberFormat, ranges: Ranges, description: Artefact) -> bytes:
    """The file for microcontrollers: as that for streams, without front end."""
    writer = ModelWriter()
    lite = LiteGraph(writer.main, encoder, format, ranges)
    form = lite.products_form("features")
    features = writer.main.input("features", (1, encoder.subsampling, encoder.features), form)
    logits, states = _one_step(lite, lite.reshape(features, encoder.subsampling, encoder.features), first=0)
    writer.main.output("logits", logits)
    _give(writer.main, states, first=0)
    return _finish(writer, description)


def features_of(tensor: Tensor, frames: int, encoder: Encoder) -> Tensor:
    """The front end's output with the shape that it must have. Raises ExportError if another was converted."""
    shape = (1, frames, encoder.features)
    if tensor.shape != shape:
        raise ExportError(f"the front end gives {tensor.shape}, but the encoder takes {shape}")
    return tensor


def _one_step(lite: LiteGraph, features: Tensor, first: int) -> tuple[Tensor, list[Tensor]]:
    """Logits and new states from the features of a chunk; the states are inputs, counted from `first`."""
    graph, encoder, made = lite.graph, lite.encoder, 0

    def state(shape: tuple[int, ...], form: Form) -> Tensor:
        nonlocal made
        made += 1
        return graph.input(f"state_{first + made - 1}", shape, form)

    pasts = []
    source, width = "features", encoder.features
    for index, convolution in enumerate(encoder.convolutions):
        channels = convolution.kernel.shape[2]
        shape = (1, convolution.past, width // channels, channels)
        pasts.append(state(shape, lite.products_form(source)) if convolution.past else None)
        source, width = f"convolution_{index}/{'sum' if convolution.residual else 'relu'}", convolution.width(width)
    recurrent = [state((1, gru.units), lite.state_form) for layer in encoder.layers for gru in layer]
    inputs, kept = lite.convolved(features, pasts)
    top, last = lite.recurrent(inputs, recurrent)
    states = [*kept, *last]
    if encoder.pooling.kind in ("attention", "mean") and encoder.steps > 1:
        window = state((encoder.steps - 1, top.shape[1]), lite.state_form)
        top = lite.concatenate([window, top], axis=0)
        states.append(lite.rows(top, 1, encoder.steps - 1))
    return lite.head(lite.pool(top, last)), states


def _answer(lite: LiteGraph, logits: Tensor) -> None:
    logits = lite.cast(logits, FLOAT)
    lite.graph.output("probabilities", lite.graph.apply("SOFTMAX", [logits], logits.shape, beta=1.0))
    lite.graph.output("logits", logits)


def _give(graph: Graph, states: list[Tensor], first: int) -> None:
    for number, state in enumerate(states, first):
        graph.output(f"new_state_{number}", state)


def _finish(writer: ModelWriter, description: Artefact) -> bytes:
    model = sign(writer.finish({METADATA_NAME: describe(description)}))
    refuse_foreign_operators(model)
    return model


def refuse_foreign_operators(model: bytes) -> None:
    """Raises ExportError unless a TFLite model is made of LiteRT's built-in operators alone."""
    foreign = sorted(name for name in operators(model) if name.startswith("custom "))
    if foreign:
        raise ExportError(f"the graph needs operators that LiteRT doesn't have built in: {', '.join(foreign)}")


def operators(model: bytes) -> Counter[str]:
    """How often each operator occurs in a TFLite model; one that isn't built in is "custom " and its own name."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    tree = schema.Model.GetRootAsModel(model, 0)
    codes = []
    for code in map(tree.OperatorCodes, range(tree.OperatorCodesLength())):
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        is_custom = number == schema.BuiltinOperator.CUSTOM
        codes.append(f"custom {(code.CustomCode() or b'').decode()}" if is_custom else names[number])
    graphs = map(tree.Subgraphs, range(tree.SubgraphsLength()))
    return Counter(
        codes[graph.Operators(index).OpcodeIndex()] for graph in graphs for index in range(graph.OperatorsLength())
    )
