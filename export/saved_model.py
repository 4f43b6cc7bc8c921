"""Trained run -> SavedModel: raw audio in, probabilities out, any batch size."""

from pathlib import Path

import keras
import tensorflow as tf

from speech_gru.run import Run


def write_saved_model(run: Run, folder: Path) -> None:
    """Writes a new `folder`.

    Its signature `serving_default` takes `audio` (batch, clip samples) float32 in [-1, 1] and gives `probabilities`
    (batch, labels) float32.
    """
    archive = keras.export.ExportArchive()
    archive.track(run.recognizer)
    archive.add_endpoint(
        "serving_default",
        lambda audio: {"probabilities": tf.nn.softmax(run.recognizer(audio))},
        input_signature=[tf.TensorSpec((None, run.config.corpus.clip_samples), tf.float32, name="audio")],
    )
    archive.write_out(folder, verbose=False)
