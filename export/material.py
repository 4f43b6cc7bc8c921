"""A finished run -> all that artefacts are made of and proven with, in a form that other processes can take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from export.encoder import Encoder, read_encoder
from export.errors import NotMadeError
from export.front_end import FrontEndState, convert_front_end, front_end_state
from export.reference import Ranges, classify
from speech_gru import __version__
from speech_gru.artefact import Artefact, front_end_digest
from speech_gru.quiet import start_tensorflow

if TYPE_CHECKING:  # a process that writes or measures a file starts without Keras
    from data_pipeline.front_end import FrontEnd
    from speech_gru.run import Run

CALIBRATION_CLIPS = 512
"""So many training clips show where the activations lie that integers must hold."""
_BATCH = 256


@dataclass(frozen=True)
class Stream:
    """What a streaming file needs beside the weights."""

    graph: bytes
    """The front end for a chunk, see export.front_end."""
    description: Artefact


@dataclass(frozen=True)
class Material:
    """What artefacts are made of."""

    encoder: Encoder
    front_end: FrontEndState
    clip_graph: bytes
    """The front end for a whole clip, see export.front_end."""
    stream: Stream | str
    """Or why there can be none."""
    ranges: Ranges
    description: Artefact
    """Of the float32 file for clips."""
    clips: Path
    """.npy file of (clips, samples) float32."""
    features: Path
    """.npy file of their features, (clips, frames, features) float32."""

    def require_stream(self) -> Stream:
        """What streaming files need. Raises NotMadeError if this model can't stream."""
        if isinstance(self.stream, str):
            raise NotMadeError(self.stream)
        return self.stream


@dataclass(frozen=True)
class Facts:
    """What the report and the model card tell of a run."""

    run: str
    config: dict
    """The settings, as in config.yaml."""
    labels: tuple[str, ...]
    parameters: int
    multiply_adds: int
    counts: dict[str, dict[str, int]]
    """Clips by split and label."""
    metrics: dict
    """The run's metrics.json, empty without it."""
    split: str
    """What the artefacts are proven on."""
    correct: int
    """Clips of that split that the trained model gets right."""


@dataclass(frozen=True)
class Subject:
    """A run, ready to be exported."""

    material: Material
    facts: Facts
    logits: np.ndarray
    """(clips, labels) float32: what the trained model says."""
    truth: np.ndarray
    """(clips,) index of the label; -1 for one that the run doesn't know."""


def start_on_cpu() -> None:
    """Imports TensorFlow and hides the GPUs from it.

    Beside a GPU, Keras would put cuDNN's GRU into the graphs, and TF32 would blur what they are compared with.
    """
    start_tensorflow()
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")


def gather(folder: Path, shards: Path | None, overrides: tuple[str, ...], scratch: Path) -> Subject:
    """Reads a run and runs its model.

    Args:
        shards: clips to prove on; those of the run if None.
        overrides: settings of the section export, such as `export.threshold=0.5`, in the place of the run's.
        scratch: a folder for the clips.

    Raises:
        UserError: no finished run, or no clips.
        ExportError: the front end can't be converted.
    """
    start_on_cpu()
    from speech_gru.config import load_config
    from speech_gru.run import load_run

    run = load_run(folder)
    run = replace(run, config=load_config(folder / "config.yaml", overrides))
    shards = shards or run.config.corpus.shards
    encoder = read_encoder(run.recognizer.get_layer("encoder_and_head"), run.config.model)
    state = front_end_state(run.front_end)
    description = describe_run(run)
    counts = _counts(shards)
    split = "test" if "test" in counts else "validation"
    logits, truth, features = _predict(run, shards, split, scratch)
    material = Material(
        encoder,
        state,
        convert_front_end(state, description.clip_samples),
        _stream(run.front_end, state, encoder, description),
        _ranges(run, encoder, shards, "train" if "train" in counts else split),
        description,
        scratch / "clips.npy",
        features,
    )
    facts = _facts(run, counts, split, int((logits.argmax(axis=1) == truth).sum()))
    return Subject(material, facts, logits, truth)


def describe_run(run: Run) -> Artefact:
    """What the float32 file for clips says about itself."""
    config = run.config
    front_end = config.front_end.model_dump(mode="json")
    words = [label for label in run.labels if not label.startswith("_")]
    return Artefact(
        labels=run.labels,
        sample_rate=config.corpus.sample_rate,
        clip_samples=config.corpus.clip_samples,
        thresholds=dict.fromkeys(words, config.export.threshold) if config.export.threshold else {},
        front_end=front_end,
        front_end_sha256=front_end_digest(front_end, config.corpus.sample_rate),
        run=run.folder.resolve().name,
        version=__version__,
    )


def _stream(front_end: FrontEnd, state: FrontEndState, encoder: Encoder, description: Artefact) -> Stream | str:
    if encoder.bidirectional:
        return (
            "the encoder is bidirectional and needs the whole clip; StreamingRecognizer runs model.tflite on a window "
            "that slides. For a streaming file train with model.bidirectional=false"
        )
    if front_end.settings.deltas:
        return "deltas look at frames to come; for a streaming file train with front_end.deltas=0"
    if front_end.hop >= front_end.fft_size:
        return "frames do not overlap; for a streaming file train with a front_end.hop_ms shorter than the frame"
    overlap, chunk = front_end.fft_size - front_end.hop, encoder.subsampling * front_end.hop
    window = encoder.steps if encoder.pooling.kind != "last" else 0
    sizes = {"chunk_samples": chunk, "overlap_samples": overlap, "warmup_chunks": window}
    return Stream(convert_front_end(state, overlap + chunk), replace(description, kind="stream", **sizes))


def _counts(shards: Path) -> dict[str, dict[str, int]]:
    from data_pipeline.manifest import read_manifest

    counts: dict[str, dict[str, int]] = {}
    for row in read_manifest(shards):
        by_label = counts.setdefault(row.split, {})
        by_label[row.label] = by_label.get(row.label, 0) + 1
    return counts


def _predict(run: Run, shards: Path, split: str, scratch: Path) -> tuple[np.ndarray, np.ndarray, Path]:
    """The model's logits, the truth, and the file of the features; writes clips.npy beside it."""
    import tensorflow as tf

    from data_pipeline.dataset import evaluation_batches

    model = tf.function(lambda audio: run.recognizer(audio, training=False), reduce_retracing=True)
    indices = {label.encode(): index for index, label in enumerate(run.labels)}
    clips, features, logits, truth = [], [], [], []
    for batch in evaluation_batches(shards, split, run.config.corpus.clip_samples, _BATCH).as_numpy_iterator():
        clips.append(batch["audio"])
        features.append(run.front_end(batch["audio"]).numpy())
        logits.append(model(tf.constant(batch["audio"])).numpy())
        truth += [indices.get(label, -1) for label in batch["label"]]
    np.save(scratch / "clips.npy", np.concatenate(clips))
    np.save(scratch / "features.npy", np.concatenate(features))
    return np.concatenate(logits), np.array(truth), scratch / "features.npy"


def _ranges(run: Run, encoder: Encoder, shards: Path, split: str) -> Ranges:
    from data_pipeline.dataset import evaluation_batches

    ranges = Ranges()
    batches = evaluation_batches(shards, split, run.config.corpus.clip_samples, _BATCH).as_numpy_iterator()
    for batch in islice(batches, CALIBRATION_CLIPS // _BATCH):
        classify(run.front_end(batch["audio"]).numpy(), encoder, ranges)
    return ranges


def _facts(run: Run, counts: dict[str, dict[str, int]], split: str, correct: int) -> Facts:
    import json

    from speech_gru.model import multiply_adds

    metrics = run.folder / "metrics.json"
    model = run.recognizer.get_layer("encoder_and_head")
    return Facts(
        run.folder.resolve().name,
        run.config.model_dump(mode="json"),
        run.labels,
        model.count_params(),
        multiply_adds(model),
        counts,
        json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else {},
        split,
        correct,
    )
