"""A finished run -> all that artefacts are made of and proven with, in a form that other processes can take."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.errors import UserError
from export.encoder import Encoder, read_encoder
from export.errors import NotMadeError
from export.front_end import FrontEndState, convert_front_end, front_end_state
from export.number_format import NumberFormat
from export.phrases import CLIPS, FEATURES, describe_phrases, phrase_ranges, predict_phrases
from export.reference import Ranges, classify, classify_stream, softmax
from speech_gru import __version__
from speech_gru.artefact import Artefact, front_end_digest
from speech_gru.decision import decide
from speech_gru.phrase_recognizer import log_softmax
from speech_gru.quiet import start_tensorflow
from speech_gru.utterance import UtteranceDecoder

if TYPE_CHECKING:  # a process that writes or measures a file starts without Keras
    from data_pipeline.front_end import FrontEnd
    from speech_gru.run import Run

CALIBRATION_CLIPS = 512
"""So many training clips show where the activations lie that integers must hold."""
JOINED_CLIPS = 4
"""So many of them at a time also follow each other as one stream: its states aren't those of a clip by itself."""
PROOF_CLIPS_JOINED = 8
"""So many clips of the proof a streaming artefact also hears as one stream."""
_BATCH = 256
LABEL_FIGURES = ("precision", "recall", "f1", "clips")
"""What metrics.json has for each label."""


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
    ranges: Ranges | str
    """Of the activations over clips that the run was trained with; or why they aren't known."""
    stream_ranges: Ranges | str
    """Over the same clips, by themselves and following each other; or why they aren't known."""
    description: Artefact
    """Of the float32 file for clips."""
    clips: Path
    """.npy file of (clips, samples) float32; with a CTC head zeros lie behind the shorter ones."""
    features: Path
    """.npy file of their features, (clips, frames, features) float32."""
    joined_features: np.ndarray
    """(frames, features) float32: of `joined_clips`."""
    samples: np.ndarray | None = None
    """(clips,) int32, with a CTC head: each clip's own; None: all are whole."""

    def require_stream(self) -> Stream:
        """What streaming files need. Raises NotMadeError if this model can't stream."""
        if isinstance(self.stream, str):
            raise NotMadeError(self.stream)
        return self.stream

    def joined_clips(self) -> np.ndarray:
        """(samples,) float32: some clips end to end, for a stream."""
        return _end_to_end(np.load(self.clips, mmap_mode="r"), self.samples)

    def ranges_for(self, format: NumberFormat, streams: bool = False) -> Ranges:
        """The ranges that a number format needs; floats need none.

        Raises NotMadeError if they are needed and aren't known.
        """
        if not format.is_integer:
            return Ranges()
        ranges = self.stream_ranges if streams else self.ranges
        if isinstance(ranges, str):
            raise NotMadeError(ranges)
        return ranges


@dataclass(frozen=True)
class Facts:
    """What the report and the model card tell of a run."""

    run: str
    weights: str
    """SHA-256 of the file that holds them."""
    config: dict
    """The settings, as in config.yaml."""
    labels: tuple[str, ...]
    parameters: int
    multiply_adds: int
    counts: dict[str, dict[str, int]]
    """The run's own clips by split and label; empty if they are gone."""
    metrics: dict
    """The run's metrics.json, empty without it."""
    split: str
    """What the artefacts are proven on."""
    shards: str
    """The name of the folder of those clips; empty: they are the run's own."""
    clips: int
    """Their number; with a CTC head that of the words said in them."""
    correct: int
    """So many of them the trained model gets right."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """In the .tflite files, by label; empty: they have none."""
    correct_with_thresholds: int | None = None
    """So many of the clips the trained model would get right with those."""
    noise: bool | None = None
    """Whether there was noise to train with; None: nobody knows any more."""


@dataclass(frozen=True)
class Subject:
    """A run, ready to be exported."""

    material: Material
    facts: Facts
    logits: np.ndarray
    """(clips, labels) float32: what the trained model says. With a CTC head its log-probabilities, (clips, steps,
    labels), zero behind each clip's steps."""
    truth: np.ndarray
    """(clips,) index of the label; with a CTC head the text."""
    stream_logits: np.ndarray | None
    """(steps, labels) float32: what the model says of the material's joined clips; None if it can't stream."""


def start_on_cpu(*, one_thread: bool = False) -> None:
    """Imports TensorFlow and hides the GPUs from it.

    Beside a GPU, Keras would put cuDNN's GRU into the graphs, and TF32 would blur what they are compared with.

    Args:
        one_thread: for times that can be compared with those of the other runtimes.
    """
    start_tensorflow()
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    if one_thread:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)


def gather(folder: Path, shards: Path | None, overrides: tuple[str, ...], scratch: Path) -> Subject:
    """Reads a run and runs its model.

    Args:
        shards: clips to prove on; those of the run if None. All else is of the run's own.
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
    own = run.config.corpus.shards
    state, description = front_end_state(run.front_end), describe_run(run)
    frames = run.front_end.frame_count(description.clip_samples)
    encoder = read_encoder(run.recognizer.get_layer("encoder_and_head"), run.config.model, frames)
    split, samples = "test" if "test" in _counts(shards or own) else "validation", None
    if encoder.is_ctc:
        logits, truth, samples = predict_phrases(run, shards or own, split, description, scratch)
    else:
        logits, truth = _predict(run, shards or own, split, scratch)
    together = _end_to_end(np.load(scratch / CLIPS, mmap_mode="r"), samples)
    stream = _stream(run.front_end, state, encoder, description)
    material = Material(
        encoder,
        state,
        convert_front_end(state, description.clip_samples),
        stream,
        _ranges(run, encoder),
        stream if isinstance(stream, str) else _ranges(run, encoder, streams=True),
        description,
        scratch / CLIPS,
        scratch / FEATURES,
        run.front_end(together[None]).numpy()[0],
        samples,
    )
    stream_logits = None if isinstance(stream, str) else classify_stream(material.joined_features[None], encoder)[0]
    if encoder.is_ctc and stream_logits is not None:
        stream_logits = log_softmax(stream_logits)
    is_own = shards is None or shards.resolve() == own.resolve()
    proof = {"split": split, "shards": "" if is_own else shards.resolve().name}
    return Subject(
        material, _facts(run, description, **proof, **_scores(logits, truth, description)), logits, truth, stream_logits
    )


def decisions(logits: np.ndarray, description: Artefact) -> np.ndarray:
    """(clips,) what logits (clips, labels) decide: the label's index; of (clips, steps, labels) the text."""
    if logits.ndim == 2:
        return logits.argmax(axis=1)
    decoder = UtteranceDecoder(description.labels, description.tokens)
    return np.array([decoder.text(rows) for rows in logits])


def count_right(decided: np.ndarray, expected: np.ndarray) -> tuple[int, int]:
    """How many decisions are as expected, of how many; of texts, words: those said less all errors."""
    if decided.dtype.kind != "U":
        return int((decided == expected).sum()), len(expected)
    from speech_gru.error_rates import count_errors

    counts = count_errors(expected.tolist(), decided.tolist(), "words")
    said = counts.pop("said")
    return max(0, said - sum(counts.values())), said


def _end_to_end(clips: np.ndarray, samples: np.ndarray | None) -> np.ndarray:
    """(samples,) float32: some clips one after the other, each of its own length, or all of them whole."""
    if samples is None:
        return joined(clips, PROOF_CLIPS_JOINED)[0]
    return np.concatenate([clip[:count] for clip, count in zip(clips[:PROOF_CLIPS_JOINED], samples, strict=False)])


def _scores(logits: np.ndarray, truth: np.ndarray, description: Artefact) -> dict[str, int]:
    """How many clips there are, and how many the model gets right, as in Facts."""
    correct, count = count_right(decisions(logits, description), truth)
    right = {"correct": correct, "clips": count}
    if description.thresholds:
        decided = decide(softmax(logits), description.labels, description.thresholds)
        right["correct_with_thresholds"] = int((decided == truth).sum())
    return right


def describe_run(run: Run) -> Artefact:
    """What the float32 file for clips says about itself.

    Raises UserError if there is a threshold, but no label for what stays below it, or one for an unknown word.
    """
    config = run.config
    front_end = config.front_end.model_dump(mode="json")
    description = Artefact(
        labels=run.labels,
        sample_rate=config.corpus.sample_rate,
        clip_samples=config.corpus.clip_samples,
        front_end=front_end,
        front_end_sha256=front_end_digest(front_end, config.corpus.sample_rate),
        run=run.folder.resolve().name,
        version=__version__,
    )
    if config.model.head == "ctc":
        return describe_phrases(run, description)
    return replace(description, thresholds=config.export.word_thresholds(run.labels))


def _stream(front_end: FrontEnd, state: FrontEndState, encoder: Encoder, description: Artefact) -> Stream | str:
    if encoder.bidirectional:
        runs = "PhraseRecognizer runs model.tflite on windows that overlap"
        if not encoder.is_ctc:
            runs = "StreamingRecognizer runs model.tflite on a window that slides"
        return (
            f"the encoder is bidirectional and needs the whole clip; {runs}. For a streaming file train with "
            "model.bidirectional=false"
        )
    if front_end.settings.deltas:
        return "deltas look at frames to come; for a streaming file train with front_end.deltas=0"
    if front_end.hop >= front_end.fft_size:
        return "frames do not overlap; for a streaming file train with a front_end.hop_ms shorter than the frame"
    overlap, chunk = front_end.fft_size - front_end.hop, encoder.subsampling * front_end.hop
    window = encoder.steps if encoder.pooling.kind in ("attention", "mean") else 0
    sizes = {"chunk_samples": chunk, "overlap_samples": overlap, "warmup_chunks": window}
    return Stream(convert_front_end(state, overlap + chunk), replace(description, kind="stream", **sizes))


def _counts(shards: Path) -> dict[str, dict[str, int]]:
    from data_pipeline.manifest import read_manifest

    counts: dict[str, dict[str, int]] = {}
    for row in read_manifest(shards):
        by_label = counts.setdefault(row.split, {})
        by_label[row.label] = by_label.get(row.label, 0) + 1
    return counts


def _predict(run: Run, shards: Path, split: str, scratch: Path) -> tuple[np.ndarray, np.ndarray]:
    """The model's logits and the truth; writes the clips and their features into `scratch`."""
    import tensorflow as tf

    from speech_gru.evaluation import predict_split

    model = tf.function(lambda audio: run.recognizer(audio, training=False), reduce_retracing=True)
    clips, features = [], []

    def logits(audio: np.ndarray) -> np.ndarray:
        clips.append(audio)
        features.append(run.front_end(audio).numpy())
        return model(tf.constant(audio)).numpy()

    found = predict_split(logits, run.labels, shards, split, run.config.corpus.clip_samples, batch_size=_BATCH)
    np.save(scratch / CLIPS, np.concatenate(clips))
    np.save(scratch / FEATURES, np.concatenate(features))
    return found.probabilities, found.truth


def joined(clips: np.ndarray, count: int) -> np.ndarray:
    """(clips, samples) -> so many at a time end to end, or all if they are fewer; what is left over is left out."""
    count = min(count, len(clips))
    return clips[: len(clips) // count * count].reshape(-1, count * clips.shape[1])


def _ranges(run: Run, encoder: Encoder, streams: bool = False) -> Ranges | str:
    """Of the run's own training clips, whatever the proof is on: others may be louder, or of other words."""
    from data_pipeline.dataset import evaluation_batches

    ranges, corpus = Ranges(), run.config.corpus
    try:
        if encoder.is_ctc:
            return phrase_ranges(run, encoder, streams)
        batches = evaluation_batches(corpus.shards, "train", corpus.clip_samples, _BATCH).as_numpy_iterator()
    except UserError:
        return (
            "integers need the ranges of the activations over clips that the run was trained with, and those are gone: "
            f"expected them in {corpus.shards}; run `speech-gru prepare {run.folder / 'config.yaml'}`"
        )
    for batch in islice(batches, CALIBRATION_CLIPS // _BATCH):
        classify(run.front_end(batch["audio"]).numpy(), encoder, ranges)
        if streams:
            classify_stream(run.front_end(joined(batch["audio"], JOINED_CLIPS)).numpy(), encoder, ranges)
    return ranges


def _facts(run: Run, description: Artefact, **proof) -> Facts:
    """Args: `proof`, of Facts: on what the artefacts are proven, and how the model does there."""
    from speech_gru.model import multiply_adds

    shards, model = run.config.corpus.shards, run.recognizer.get_layer("encoder_and_head")
    return Facts(
        run=run.folder.resolve().name,
        weights=hashlib.sha256((run.folder / "model.keras").read_bytes()).hexdigest(),
        config=run.config.model_dump(mode="json"),
        labels=run.labels,
        parameters=model.count_params(),
        multiply_adds=multiply_adds(model, run.front_end.frame_count(description.clip_samples)),
        counts=_counts(shards) if (shards / "manifest.csv").is_file() else {},
        metrics=_read_metrics(run.folder / "metrics.json"),
        thresholds=description.thresholds,
        noise=_has_noise(shards),
        **proof,
    )


def _read_metrics(file: Path) -> dict:
    """What `train` or `evaluate` measured, see speech_gru.evaluation.measure; empty without the file."""
    if not file.is_file():
        return {}
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
        for split in metrics.values():
            for figures in split.get("labels", {}).values():
                sum(figures[name] for name in LABEL_FIGURES)
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        raise UserError(
            f"{file} is damaged ({error}): expected figures by split, as training writes them; delete it, or run the "
            "same `speech-gru train` command again"
        ) from error
    return metrics


def _has_noise(shards: Path) -> bool | None:
    from data_pipeline.dataset import read_noise

    try:
        return len(read_noise(shards)) > 0
    except UserError:
        return None
