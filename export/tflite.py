"""Trained run -> TFLite file: raw audio in, probabilities out, built-in operators alone, its description inside."""

from collections import Counter
from pathlib import Path

import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from tensorflow.lite.python.convert_phase import ConverterError
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
    try:
        model = converter.convert()
    except ConverterError as error:
        raise ExportError(f"the graph can't be converted to TFLite: {str(error).splitlines()[0]}") from error
    refuse_foreign_operators(model)
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
