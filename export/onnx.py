"""Trained run -> ONNX file, float32, any batch size: audio (batch, samples) -> logits (batch, labels).

With a CTC head: audio (batch, samples of a window), samples (batch,) -> logits (batch, steps, labels).

Through tf2onnx, from the graph of export.saved_model. It can't convert that graph's Fourier transform (its real and
imaginary parts), and ONNX's own is in few runtimes: here the transform is a matrix product, of the same front end.
"""

from __future__ import annotations

import logging
from pathlib import Path

from export.encoder import Encoder
from export.errors import NotMadeError
from export.front_end import FrontEndState

OPSET = 18


def write_onnx(encoder: Encoder, front_end: FrontEndState, clip_samples: int, file: Path) -> None:
    """Writes `file`.

    Raises:
        NotMadeError: tf2onnx isn't installed.
    """
    try:
        import tf2onnx
    except ModuleNotFoundError as error:
        raise NotMadeError(f'{error.name} isn\'t installed; the ONNX file needs: pip install ".[onnx]"') from error
    import keras
    import numpy as np
    import tensorflow as tf

    from export.saved_model import InferenceGraph

    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    graph = InferenceGraph(encoder, front_end)
    layer, size = graph.front_end, graph.front_end.fft_size
    angle = 2 * np.pi / size * (np.arange(size)[:, None] * np.arange(size // 2 + 1) % size)
    cosine, sine = np.cos(angle).astype(np.float32), -np.sin(angle).astype(np.float32)
    layer.transform = lambda frames: (keras.ops.matmul(frames, cosine), keras.ops.matmul(frames, sine))

    audio = tf.TensorSpec((None, clip_samples), tf.float32, name="audio")
    length = [tf.TensorSpec((None,), tf.int32, name="samples")] if encoder.is_ctc else []

    @tf.function(input_signature=[audio, *length], autograph=False)
    def recognize(audio, samples=None):
        if layer.normalization is not None:
            # So that it reads its variables here: of a constant from outside of the graph tf2onnx makes an input.
            layer.normalization.finalize_state()
        if samples is not None:
            return {"logits": graph.transcribe(layer(audio), layer.frames_within(samples))}
        return {"logits": graph.from_features(layer(audio))}

    tf2onnx.convert.from_function(
        recognize, input_signature=recognize.input_signature, opset=OPSET, output_path=str(file)
    )
