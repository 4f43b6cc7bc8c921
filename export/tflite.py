"""Trained run -> TFLite file: raw audio in, probabilities out, built-in operators alone, its description inside."""

from collections import Counter
from pathlib import Path

import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from data_pipeline.files import written_aside
from export.verify import ExportError
from speech_gru import __version__
from speech_gru.artefact import Artefact, add_description
from speech_gru.run import Run


def write_tflite(run: Run, path: Path) -> None:
    """Writes the float32 file: (1, clip samples) float32 -> (1, labels) float32.

    The batch and the number of frames are fixed: with an open batch a GRU's loop needs operators that are not built in.

    Raises:
        ExportError: the converted graph isn't made of built-in operators.
    """

    def recognize(audio: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(run.recognizer(audio))

    signature = tf.TensorSpec((1, run.config.corpus.clip_samples), tf.float32, name="audio")
    concrete = tf.function(recognize, input_signature=[signature]).get_concrete_function()
    frozen = convert_variables_to_constants_v2(concrete)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    model = converter.convert()
    foreign = [name for name in operators(model) if name.startswith(("Flex", "CUSTOM"))]
    if foreign:
        raise ExportError(f"{path}: the graph needs operators that LiteRT doesn't have built in: {', '.join(foreign)}")
    with written_aside(path) as aside:
        aside.write_bytes(add_description(model, describe(run)))


def describe(run: Run) -> Artefact:
    """What the file of a run says about itself."""
    return Artefact(
        labels=run.labels,
        sample_rate=run.config.corpus.sample_rate,
        clip_samples=run.config.corpus.clip_samples,
        front_end=run.config.front_end.model_dump(mode="json"),
        run=run.folder.resolve().name,
        version=__version__,
    )


def operators(model: bytes) -> Counter[str]:
    """How often each operator occurs in a TFLite model; a custom one goes by its own name."""
    names = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
    tree = schema.Model.GetRootAsModel(model, 0)
    codes = [tree.OperatorCodes(index) for index in range(tree.OperatorCodesLength())]
    codes = [
        (code.CustomCode() or b"").decode() or names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        for code in codes
    ]
    graphs = (tree.Subgraphs(index) for index in range(tree.SubgraphsLength()))
    return Counter(
        codes[graph.Operators(index).OpcodeIndex()] for graph in graphs for index in range(graph.OperatorsLength())
    )
