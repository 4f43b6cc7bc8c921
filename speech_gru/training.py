"""Training: shards and settings -> a run directory."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data_pipeline.corpus import SILENCE, UNKNOWN
from data_pipeline.dataset import evaluation_batches, feature_batches, read_labels, training_batches
from data_pipeline.errors import UserError
from data_pipeline.files import write_text, written_aside
from data_pipeline.front_end import FrontEnd
from data_pipeline.manifest import count_rows, read_manifest
from data_pipeline.settings import CorpusSettings
from speech_gru.config import Config, TrainingSettings, dump_config
from speech_gru.model import build_model, build_recognizer, multiply_adds
from speech_gru.precision import describe_device, policy_for

STATISTICS_CLIPS = 4096
"""So many training clips give the features' means and standard deviations."""


@dataclass(frozen=True)
class Plan:
    """What a training run will do, known before it starts."""

    labels: tuple[str, ...]
    clips: dict[str, int]
    """By split."""
    label_clips: tuple[int, ...]
    """Training clips of each label."""
    steps_per_epoch: int
    parameters: int
    multiply_adds: int
    """For one clip, without the front end."""
    device: str
    policy: str


def plan_training(config: Config) -> Plan:
    """Counts the data and builds the model once to say what `train` will do.

    Raises:
        UserError: nothing prepared, or with other settings; no training or validation clips; fewer clips than a batch.
    """
    shards, batch_size = config.corpus.shards, config.training.batch_size
    labels, counts = read_labels(shards), count_rows(read_manifest(shards))
    _check_prepared(config.corpus, labels)
    clips = {
        split: sum(count.clips for (s, _), count in counts.items() if s == split)
        for split in ("train", "validation", "test")
    }
    if not clips["train"] or not clips["validation"]:
        raise UserError(
            f"{shards}: {clips['train']} train and {clips['validation']} validation clips; both are needed. "
            "A speaker is never in two splits: record three or more (SPEAKER_nohash_N.wav), or give the splits in a CSV"
        )
    if clips["train"] < batch_size:
        raise UserError(
            f"training.batch_size is {batch_size}, but there are only {clips['train']} training clips; lower it: "
            f"--set training.batch_size={max(1, clips['train'] // 4)}"
        )
    if len(labels) < 2:
        raise UserError(f"{shards} has the single label {''.join(labels)!r}; there is nothing to tell apart")
    front_end = FrontEnd.from_settings(config.front_end, config.corpus.sample_rate)
    model = _build(config, front_end, len(labels))
    return Plan(
        labels,
        clips,
        tuple(counts["train", label].clips for label in labels),
        clips["train"] // batch_size,
        model.count_params(),
        multiply_adds(model),
        describe_device(),
        policy_for(config.training.precision),
    )


def train(config: Config, plan: Plan, folder: Path, verbose: int | str = "auto") -> keras.callbacks.History:
    """Trains and writes the run directory: config.yaml, labels.txt, checkpoints/, model.keras, tensorboard/.

    Args:
        verbose: of Keras's `fit`.

    Raises:
        UserError: the folder can't be written, or the training diverged.
    """
    keras.utils.set_random_seed(config.seed)
    _clear_other_run(folder, dump_config(config))
    write_text(folder / "config.yaml", dump_config(config))
    write_text(folder / "labels.txt", "".join(f"{label}\n" for label in plan.labels))
    front_end = adapted_front_end(config)
    with dtype_policy(plan.policy):
        model = _build(config, front_end, len(plan.labels))
    compile_model(model, config.training, plan.steps_per_epoch)
    best = folder / "checkpoints" / "best.weights.h5"
    best.parent.mkdir(exist_ok=True)
    history = model.fit(
        _training_data(config, plan, front_end),
        epochs=config.training.epochs,
        steps_per_epoch=plan.steps_per_epoch,
        validation_data=_validation_data(config, plan, front_end),
        shuffle=False,  # the dataset has done it
        class_weight=class_weights(plan.label_clips, config.training.class_balance),
        callbacks=list(_callbacks(config.training, folder, best)),
        verbose=verbose,
    )
    model.load_weights(best)
    weights = model.get_weights()
    if not all(np.isfinite(weight).all() for weight in weights):
        raise UserError(f"the training diverged; lower training.learning_rate ({config.training.learning_rate:g})")
    kept = _build(config, front_end, len(plan.labels))  # in float32, and without the optimiser's state
    kept.set_weights(weights)
    _save(build_recognizer(front_end, kept, config.corpus.clip_samples), folder / "model.keras")
    return history


def adapted_front_end(config: Config) -> FrontEnd:
    """The experiment's front end with the statistics of the training split, if it normalises."""
    front_end = FrontEnd.from_settings(config.front_end, config.corpus.sample_rate)
    if config.front_end.normalize:
        clips = evaluation_batches(config.corpus.shards, "train", config.corpus.clip_samples, batch_size=256)
        front_end.adapt(clips.take(STATISTICS_CLIPS // 256).map(lambda batch: batch["audio"]))
    return front_end


def compile_model(model: keras.Model, settings: TrainingSettings, steps_per_epoch: int) -> None:
    """Gives `model` the loss, the optimiser with its schedule, and the accuracy."""
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=settings.learning_rate,
        warmup_steps=round(settings.warmup_epochs * steps_per_epoch),
        decay_steps=max(1, round((settings.epochs - settings.warmup_epochs) * steps_per_epoch)),
    )
    arguments = {"global_clipnorm": settings.clip_norm, "use_ema": settings.ema is not None}
    if settings.ema is not None:
        # Keras's average starts at the first weights: in a short run it must forget them faster, to less than 1 %.
        arguments["ema_momentum"] = min(settings.ema, max(0.0, 1 - 5 / (settings.epochs * steps_per_epoch)))
    if settings.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay, **arguments)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    elif settings.optimizer == "adam":
        optimizer = keras.optimizers.Adam(schedule, **arguments)
    else:
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, **arguments)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=settings.label_smoothing)
    model.compile(optimizer, loss, metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")])


def class_weights(label_clips: tuple[int, ...], balance: float) -> dict[int, float] | None:
    """Weight of each label's clips, count ** -balance, scaled to a mean of 1 over the clips; None for no balancing."""
    if balance == 0:
        return None
    raw = [count**-balance if count else 0.0 for count in label_clips]
    mean = sum(weight * count for weight, count in zip(raw, label_clips, strict=True)) / sum(label_clips)
    return {index: weight / mean for index, weight in enumerate(raw)}


@contextmanager
def dtype_policy(policy: str) -> Iterator[None]:
    """Builds layers under `policy`, a Keras dtype policy's name, while the block runs."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _check_prepared(corpus: CorpusSettings, labels: tuple[str, ...]) -> None:
    """The run directory mustn't tell of other data than it was trained on."""
    try:
        made = json.loads((corpus.shards / "settings.json").read_text(encoding="utf-8"))
        stale = [name for name in ("sample_rate", "clip_seconds") if made[name] != getattr(corpus, name)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{corpus.shards / 'settings.json'} can't be read; run `speech-gru prepare` again") from error
    if corpus.words and not set(corpus.words) >= set(labels) - {UNKNOWN, SILENCE}:
        stale.append("words")
    if stale:
        changed = ", ".join(f"corpus.{name}" for name in stale)
        raise UserError(f"{corpus.shards} was prepared with other settings ({changed}); run `speech-gru prepare` again")


def _clear_other_run(folder: Path, config: str) -> None:
    """Removes what would else mix with the new run: its curves, and the model if it is of another experiment."""
    try:
        for events in folder.glob("tensorboard/**/events.out.tfevents.*"):
            events.unlink()
        stored = folder / "config.yaml"
        if stored.is_file() and stored.read_text(encoding="utf-8", errors="replace") != config:
            for stale in ("model.keras", "metrics.json", "export/model.tflite"):
                (folder / stale).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror or error}") from error


def _build(config: Config, front_end: FrontEnd, labels: int) -> keras.Model:
    frames = front_end.frame_count(config.corpus.clip_samples)
    return build_model(config.model, frames, front_end.feature_count, labels)


def _training_data(config: Config, plan: Plan, front_end: FrontEnd) -> tf.data.Dataset:
    return training_batches(
        config.corpus.shards,
        plan.labels,
        front_end,
        config.augment,
        clip_samples=config.corpus.clip_samples,
        seed=config.seed,
        batch_size=config.training.batch_size,
        steps_per_epoch=plan.steps_per_epoch,
    )


def _validation_data(config: Config, plan: Plan, front_end: FrontEnd) -> tf.data.Dataset:
    batch_size = config.training.validation_batch_size
    batches = feature_batches(
        config.corpus.shards,
        "validation",
        plan.labels,
        front_end,
        clip_samples=config.corpus.clip_samples,
        batch_size=batch_size,
    )
    # Keras warns of running out of data where it doesn't know how much there is.
    return batches.apply(tf.data.experimental.assert_cardinality(-(-plan.clips["validation"] // batch_size)))


def _save(recognizer: keras.Model, path: Path) -> None:
    with written_aside(path) as aside, tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        final = Path(scratch) / path.name  # Keras demands the suffix
        recognizer.save(final)
        final.replace(aside)


def _callbacks(settings: TrainingSettings, folder: Path, best: Path) -> Iterator[keras.callbacks.Callback]:
    if settings.ema is not None:
        # First of all, so that what follows sees the averaged weights at an epoch's end.
        yield keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    yield keras.callbacks.ModelCheckpoint(
        best, monitor="val_accuracy", mode="max", save_best_only=True, save_weights_only=True
    )
    yield keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False)
    yield keras.callbacks.TerminateOnNaN()
    if settings.patience is not None:
        yield keras.callbacks.EarlyStopping(monitor="val_accuracy", mode="max", patience=settings.patience)
