"""Training: shards and settings -> a run directory."""

import fcntl
import hashlib
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data_pipeline.augmentation import build_vocal_tract
from data_pipeline.clip_index import ClipIndex
from data_pipeline.dataset import TrainingData, evaluation_batches, feature_batches
from data_pipeline.errors import UserError
from data_pipeline.files import write_text, written_aside
from data_pipeline.front_end import FrontEnd
from data_pipeline.labels import UNKNOWN
from data_pipeline.manifest import count_rows, read_manifest
from data_pipeline.phrases import PhraseData
from data_pipeline.prepare import corpus_settings
from data_pipeline.settings import CorpusSettings
from speech_gru.checkpoint import list_checkpoints
from speech_gru.commit import record_commit
from speech_gru.config import Config, differences, dump_config, load_config
from speech_gru.devices import (
    agree,
    broadcast,
    choose_strategy,
    describe_devices,
    describe_gru,
    host,
    policy_for,
    use_cudnn,
)
from speech_gru.evaluation import Predictions
from speech_gru.loop import DivergenceError, Learner, Monitor, Schedule, TrainingLoop
from speech_gru.model import build_model, build_recognizer, multiply_adds, stream_frames
from speech_gru.objective import ClassificationObjective, build_objective
from speech_gru.optimization import build_optimizer, class_weights
from speech_gru.phrase_training import PhraseValidator, output_labels, phrase_data, training_phrases
from speech_gru.run import take_encoder
from speech_gru.step import build_step
from speech_gru.teachers import Teachers, teachers_digest
from speech_gru.tensorboard import TensorBoard

STATISTICS_CLIPS = 4096
"""So many training clips give the features' means and standard deviations."""


@dataclass(frozen=True)
class Plan:
    """What a training run will do, known before it starts."""

    labels: tuple[str, ...]
    clips: dict[str, int]
    """By split."""
    left_out: list[str]
    """Training phrases whose text can't be said in the steps that they have, or not with the tokens."""
    label_clips: tuple[int, ...]
    """Training clips of each label."""
    steps_per_epoch: int
    parameters: int
    multiply_adds: int
    """For one clip, without the front end; for a phrase of corpus.clip_seconds."""
    devices: str
    policy: str
    gru: str
    """Which implementation of the GRU, and why not cuDNN's."""
    strategy: tf.distribute.Strategy


def plan_training(config: Config, strategy: tf.distribute.Strategy | None = None) -> Plan:
    """Counts the data and builds the model once to say what `train` will do.

    Args:
        strategy: the devices to train on; None: all there are (see `choose_strategy`).

    Raises:
        UserError: nothing prepared, or with other settings; no training or validation clips; fewer clips than a batch;
            a batch that the devices can't share evenly; a run that is needed isn't finished; a vocal tract that leaves
            a mel band empty; thresholds of words that there aren't.
    """
    strategy = strategy or choose_strategy()
    shards, batch_size = config.corpus.shards, config.training.batch_size
    labels, counts = output_labels(config), count_rows(read_manifest(shards))
    _check_prepared(config.corpus)
    clips = {
        split: sum(count.clips for (s, _), count in counts.items() if s == split)
        for split in ("train", "validation", "test")
    }
    front_end = FrontEnd.from_settings(config.front_end, config.corpus.sample_rate)
    build_vocal_tract(config.augment, front_end)  # for its error
    left_out = []
    if config.model.head == "ctc":
        source = training_phrases(config, labels, front_end)
        clips["train"], left_out = len(source), source.left_out
    else:
        config.export.word_thresholds(labels)  # for its error, which else came after the training
    if config.augment.fresh_unknown and UNKNOWN not in labels:
        raise UserError(
            f"augment.fresh_unknown makes other clips of {UNKNOWN}, and there are none: record some other words, "
            "leave some out of corpus.words, or leave out augment.fresh_unknown"
        )
    for folder in filter(None, (config.training.initial, *config.training.teachers)):
        if not (folder / "model.keras").is_file():
            raise UserError(f"training.initial, teachers: {folder} is no finished run; train it first")
    if not clips["train"] or not clips["validation"]:
        raise UserError(
            f"{shards}: {clips['train']} train and {clips['validation']} validation clips; both are needed. "
            "A speaker is never in two splits: record three or more (SPEAKER_nohash_N.wav), or give the splits in a CSV"
        )
    stream_clips = config.augment.stream_clips
    if clips["train"] < batch_size:
        raise UserError(
            f"training.batch_size is {batch_size}, but there are only {clips['train']} training clips; lower it: "
            f"--set training.batch_size={max(1, clips['train'] // 4 // stream_clips) * stream_clips}"
        )
    if len(labels) < 2:
        raise UserError(f"{shards} has the single label {''.join(labels)!r}; there is nothing to tell apart")
    replicas = strategy.num_replicas_in_sync
    if config.training.xla and replicas > 1:
        raise UserError(f"training.xla: true needs a single device, and there are {replicas}; leave it out")
    if batch_size % (least := replicas * stream_clips):
        streams = f" in streams of {stream_clips}" if stream_clips > 1 else ""
        raise UserError(
            f"training.batch_size is {batch_size}, which {replicas} devices can't share evenly{streams}; "
            f"--set training.batch_size={batch_size // least * least or least}"
        )
    model = _build(config, front_end, len(labels))
    return Plan(
        labels,
        clips,
        left_out,
        tuple(counts["train", label].clips for label in labels),
        max(clips["train"] // batch_size, config.training.min_epoch_steps),
        model.count_params(),
        multiply_adds(model, front_end.frame_count(config.corpus.clip_samples)),
        describe_devices(strategy),
        policy_for(config.training.precision),
        describe_gru(config.training),
        strategy,
    )


def train(
    config: Config,
    plan: Plan,
    folder: Path,
    *,
    monitors: Sequence[Monitor] = (),
    report: Callable[[str], None] = print,
) -> list[dict[str, float]] | None:
    """Trains into the run directory: config.yaml, labels.txt, commit.txt, checkpoints/, model.keras, tensorboard/.

    A run that was stopped, however, goes on from its newest checkpoint and ends with the weights it would have had. A
    finished one is left alone, and None is returned.

    Args:
        monitors: are told how it goes, beside TensorBoard.
        report: is told what a person should know.

    Returns: each epoch's figures (see TrainingLoop).

    Raises:
        UserError: the folder can't be written, or holds a run with other settings or other clips.
        Interrupted: a signal came; the state is saved.
        DivergenceError: the message names the step and its clips.
        HostLostError: another host is gone.
    """
    number, _ = host(plan.strategy)
    agree(plan.strategy, _other_config(config, folder))
    (is_finished,) = broadcast(plan.strategy, [np.array((folder / "model.keras").is_file())])
    if is_finished:
        report(f"{folder}: the run is finished; train into another folder, or delete this one, to train again")
        return None
    with _locked(folder) if number == 0 else nullcontext():
        return _train(config, plan, folder, monitors, report)


def _train(
    config: Config, plan: Plan, folder: Path, monitors: Sequence[Monitor], report: Callable[[str], None]
) -> list[dict[str, float]]:
    number, _ = host(plan.strategy)
    if number == 0:
        write_text(folder / "config.yaml", dump_config(config))
        write_text(folder / "labels.txt", "".join(f"{label}\n" for label in plan.labels))
        record_commit(folder)
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(config.seed)
    front_end = adapted_front_end(config)
    learner, data = build_learner(config, plan, front_end), training_data(config, plan, front_end)
    if config.training.initial is not None:
        take_encoder(learner.model, config.training.initial, config.front_end)
    kept = _build(config, front_end, len(plan.labels), cudnn="auto")
    validate = (PhraseValidator if config.model.head == "ctc" else _Validator)(config, plan.labels, front_end, kept)
    shown = TensorBoard(folder / "tensorboard", config.tensorboard, data, config.training.epochs, validate.graph)
    loop = TrainingLoop(
        learner,
        lambda step: device_batches(plan.strategy, data, step),
        validate,
        _schedule(config, plan),
        folder / "checkpoints",
        identity=_identity(config, plan),
        monitors=(shown, *monitors),
        report=report,
    )
    try:
        history = loop.run()
    except DivergenceError as error:
        _explain(error, data, loop)
        raise
    if number == 0:
        _set_best(kept, loop.best_file)
        _save(build_recognizer(front_end, kept, config.corpus.clip_samples), folder / "model.keras")
        for checkpoint in list_checkpoints(loop.folder):
            checkpoint.unlink()
    return history


def _identity(config: Config, plan: Plan) -> dict:
    """What must be the same for a run to go on."""
    identity = {"data": shards_digest(config.corpus.shards), "labels": list(plan.labels), "precision": plan.policy}
    return identity | ({"teachers": teachers_digest(config.training.teachers)} if config.training.teachers else {})


def build_learner(config: Config, plan: Plan, front_end: FrontEnd) -> Learner:
    """The model with fresh weights on the plan's devices, its optimiser and its step."""
    settings, strategy = config.training, plan.strategy
    has_streams = config.augment.stream_clips > 1
    with dtype_policy("float32"), strategy.scope():
        teachers = Teachers(config, plan.labels, front_end) if settings.teachers else None
    with dtype_policy(plan.policy), strategy.scope():
        model = _build(
            config,
            front_end,
            len(plan.labels),
            cudnn=use_cudnn(settings),
            unroll=settings.xla,
            synchronized=strategy.num_replicas_in_sync > 1,
            stream_steps=stream_frames(config, front_end) // config.model.subsampling if has_streams else None,
        )
        optimizer = build_optimizer(settings, plan.steps_per_epoch, plan.policy)
        optimizer.build(model.trainable_variables)
        step = build_step(
            model,
            optimizer,
            build_objective(config, teachers),
            clip_norm=settings.clip_norm,
            batch_size=settings.batch_size,
            strategy=strategy,
            xla=settings.xla,
        )
    return Learner(model, optimizer, step, strategy)


def training_data(config: Config, plan: Plan, front_end: FrontEnd) -> TrainingData | PhraseData:
    """What the run learns from."""
    if config.model.head == "ctc":
        return phrase_data(config, plan.labels, front_end, plan.steps_per_epoch)
    return TrainingData(
        config.corpus.shards,
        plan.labels,
        front_end,
        config.augment,
        config.corpus.clip_samples,
        config.seed,
        config.training.batch_size,
        plan.steps_per_epoch,
        class_weights(plan.label_clips, config.training.class_balance),
        config.augment.stream_clips,
        stream_frames(config, front_end),
    )


def device_batches(strategy: tf.distribute.Strategy, data: TrainingData, step: int) -> Iterator:
    """The batches from `step` on, each shared out to the devices of all hosts."""
    if strategy.num_replicas_in_sync == 1:
        return iter(data.batches(step))
    number, hosts = host(strategy)
    devices = strategy.num_replicas_in_sync // hosts

    def share(part: tf.Tensor) -> tf.Tensor:
        clips, *shape = (tf.shape(part)[axis] if size is None else size for axis, size in enumerate(part.shape))
        return tf.reshape(part, (devices, clips // devices, *shape))

    def shares(context: tf.distribute.InputContext) -> tf.data.Dataset:
        return data.batches(step, number, hosts).map(lambda *batch: tuple(map(share, batch))).unbatch()

    return iter(strategy.distribute_datasets_from_function(shares))


def shards_digest(shards: Path) -> str:
    """Tells whether prepared clips, noise and other speech are still the same, in the same shards."""
    digest = hashlib.sha256()
    for name in ("manifest.csv", "noise.npy", "other_speech.npy"):
        digest.update((shards / name).read_bytes())
    for shard in sorted(shards.glob("*.tfrecord")):
        digest.update(f"{shard.name} {shard.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]


def adapted_front_end(config: Config) -> FrontEnd:
    """The experiment's front end with the statistics of the training split, if it normalises."""
    front_end = FrontEnd.from_settings(config.front_end, config.corpus.sample_rate)
    if config.front_end.normalize and config.corpus.tokens:
        clips = ClipIndex(config.corpus.shards, "train")
        chosen = range(0, len(clips), -(-len(clips) // STATISTICS_CLIPS))
        front_end.adapt(clips.read(number)[np.newaxis] / np.float32(32768) for number in chosen)
    elif config.front_end.normalize:
        clips = evaluation_batches(config.corpus.shards, "train", config.corpus.clip_samples, batch_size=256)
        front_end.adapt(clips.take(STATISTICS_CLIPS // 256).map(lambda batch: batch["audio"]))
    return front_end


class _Validator:
    """Measures weights on the validation clips, in float32 and on one device: what will be kept."""

    def __init__(self, config: Config, labels: tuple[str, ...], front_end: FrontEnd, model: keras.Model):
        self.labels, self.model = labels, model
        self.loss = ClassificationObjective(config.training.label_smoothing).loss
        self.batches = feature_batches(
            config.corpus.shards,
            "validation",
            labels,
            front_end,
            clip_samples=config.corpus.clip_samples,
            batch_size=config.training.validation_batch_size,
        )
        self.logits = tf.function(lambda features: model(features, training=False), reduce_retracing=True)

    def __call__(self, weights: list[np.ndarray]) -> tuple[float, Predictions]:
        self.model.set_weights(weights)
        batches = [(self.logits(features), labels) for features, labels in self.batches]
        logits, labels = (tf.concat(parts, axis=0) for parts in zip(*batches, strict=True))
        truth, probabilities = labels.numpy().argmax(axis=1), tf.nn.softmax(logits).numpy()
        return float(tf.reduce_mean(self.loss(labels, logits))), Predictions(self.labels, (), truth, probabilities)

    def graph(self) -> tf.Graph:
        """The model's, features to logits."""
        return self.logits.get_concrete_function(tf.TensorSpec((1, *self.model.input_shape[1:]), tf.float32)).graph


@contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Builds layers under `policy`, a Keras dtype policy's name, while the block runs."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _schedule(config: Config, plan: Plan) -> Schedule:
    settings = config.training
    return Schedule(
        settings.epochs, plan.steps_per_epoch, settings.batch_size, settings.checkpoint_steps, settings.patience
    )


def _explain(error: DivergenceError, data: TrainingData, loop: TrainingLoop) -> None:
    """Adds to the message what a person can do, and with which clips it happened."""
    kept = f"The weights of the best epoch are in {loop.best_file}. " if loop.best_file.is_file() else ""
    clips = ", ".join(data.clips_of_step(error.step - 1))
    error.args = (
        f"{error.args[0]}. {kept}Train into another folder with a lower "
        f"training.learning_rate, or look for a bad clip in the step's batch: {clips}",
    )


def _other_config(config: Config, folder: Path) -> UserError | None:
    stored = folder / "config.yaml"
    if not stored.is_file() or not (changed := differences(load_config(stored), config)):
        return None
    listed = "".join(f"  {key}: {before} there, {now} now\n" for key, (before, now) in changed.items())
    return UserError(
        f"{folder} holds a run with other settings:\n{listed}Give another folder with --out, or delete this one"
    )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps a second process out of the run directory, and removes what a killed one left half-written."""
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror or error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # gone with the process, however it ends
        for leftover in (*folder.glob(".*.tmp"), *folder.glob("checkpoints/.*.tmp")):
            leftover.unlink()
        yield
    except BlockingIOError as error:
        raise UserError(f"{folder}: another process is training there; wait for it, or stop it") from error
    finally:
        os.close(descriptor)


def _set_best(model: keras.Model, file: Path) -> None:
    try:
        # Given a path, np.load leaves a damaged file open.
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            model.set_weights(list(archive.values()))
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{file}, the best weights, can't be read: {error}; delete the run and train again") from error


def _check_prepared(corpus: CorpusSettings) -> None:
    """The run directory mustn't tell of other data than it was trained on."""
    file = corpus.shards / "corpus.json"
    try:
        made = json.loads(file.read_text(encoding="utf-8"))
        # A setting that is younger than the shards has its default there.
        made = corpus_settings(CorpusSettings(path=corpus.path, shards=corpus.shards, **made))
        changed = [f"corpus.{name}" for name, value in corpus_settings(corpus).items() if made[name] != value]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} can't be read; run `speech-gru prepare` again") from error
    if changed:
        raise UserError(
            f"{corpus.shards} was prepared with other settings ({', '.join(changed)}); run `speech-gru prepare` again"
        )


def _build(config: Config, front_end: FrontEnd, labels: int, **arguments) -> keras.Model:
    frames = front_end.frame_count(config.corpus.clip_samples)
    return build_model(config.model, frames, front_end.feature_count, labels, **arguments)


def _save(recognizer: keras.Model, path: Path) -> None:
    with written_aside(path) as aside, tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        final = Path(scratch) / path.name  # Keras demands the suffix
        recognizer.save(final)
        final.replace(aside)
