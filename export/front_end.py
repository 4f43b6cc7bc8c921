"""The trained front end -> a TFLite graph that the writers splice into theirs: one definition of the features for all.

This is the one part that goes through TensorFlow's converter, as float32 and with built-in operators alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from export.errors import ExportError

if TYPE_CHECKING:  # a process that writes or measures a file starts without Keras
    from data_pipeline.front_end import FrontEnd


@dataclass(frozen=True)
class FrontEndState:
    """A front end as it can be sent to another process."""

    config: dict
    mean: np.ndarray | None
    variance: np.ndarray | None


def front_end_state(front_end: FrontEnd) -> FrontEndState:
    """What `rebuild` needs."""
    normalization = front_end.normalization
    statistics = (None, None)
    if normalization is not None:
        statistics = [item.numpy() for item in (normalization.adapt_mean, normalization.adapt_variance)]
    return FrontEndState(front_end.get_config(), *statistics)


def rebuild(state: FrontEndState) -> FrontEnd:
    """The front end, with its statistics."""
    from data_pipeline.front_end import FrontEnd

    front_end = FrontEnd.from_config(state.config)
    if state.mean is not None:
        front_end.normalization.adapt_mean.assign(state.mean)
        front_end.normalization.adapt_variance.assign(state.variance)
        front_end.normalization.finalize_state()
    return front_end


def convert_front_end(state: FrontEndState, samples: int) -> bytes:
    """TFLite model: audio (1, samples) float32 -> features (1, frames, features) float32."""
    import tensorflow as tf
    from tensorflow.lite.python.convert_phase import ConverterError
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    front_end = rebuild(state)
    signature = tf.TensorSpec((1, samples), tf.float32, name="audio")
    graph = tf.function(lambda audio: front_end(audio), input_signature=[signature]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([convert_variables_to_constants_v2(graph)], front_end)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    try:
        return converter.convert()
    except ConverterError as error:
        reason = str(error).partition("\n")[0]
        raise ExportError(f"the front end can't be converted to TFLite: {reason}") from error
