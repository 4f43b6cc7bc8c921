"""What a run shows in TensorBoard: curves, pictures, sounds, and how its settings compare with other runs'."""

import gc
import math
import re
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.pr_curve import summary as pr_curve

from data_pipeline.dataset import TrainingData, evaluation_batches
from data_pipeline.files import write_text
from data_pipeline.phrases import PhraseData, PhraseSource
from speech_gru.config import TensorBoardSettings
from speech_gru.evaluation import Predictions, confusion_figure, picture, worst_indices
from speech_gru.loop import Monitor
from speech_gru.memory import used_memory
from speech_gru.run import Run
from speech_gru.transcripts import Transcripts

TRAIN, VALIDATION = "train", "validation"
"""TensorBoard draws the curves of these two folders into one diagram."""
SHOWN_PHRASES = 20
"""About so many phrases are shown as said and as recognised."""


class TensorBoard(Monitor):
    """Writes a run's events while it trains. All steps are training steps.

    Args:
        folder: gets a folder for training's and one for validation's events.
        data: for the pictures of augmentation.
        epochs: how many there will be at most.
        graph: gives the graph to show, if the settings ask for it.
    """

    def __init__(
        self,
        folder: Path,
        settings: TensorBoardSettings,
        data: TrainingData | PhraseData,
        epochs: int,
        graph: Callable[[], tf.Graph],
    ):
        self.folder, self.settings, self.data, self.epochs = folder, settings, data, epochs
        self.graph, self.steps_per_epoch = graph, data.steps_per_epoch
        self._is_profiling = False

    def begin(self, step):
        self._train = tf.summary.create_file_writer(str(self.folder / TRAIN))
        self._validation = tf.summary.create_file_writer(str(self.folder / VALIDATION))
        if step == 0:
            self._draw_augmentation()
            if self.settings.graph:
                with self._train.as_default(step=0):
                    tf.summary.graph(self.graph())

    def before_step(self, step):
        first, last = self.settings.profile_steps or (0, -1)
        if not self._is_profiling and first <= step <= last:
            tf.profiler.experimental.start(str(self.folder / TRAIN))
            self._is_profiling = True
        elif step > last:
            self._stop_profiling()

    def step(self, step, told):
        if step % self.settings.scalar_steps:
            return
        with self._train.as_default(step=step):
            for name in ("loss", "gradient_norm", "learning_rate", "loss_scale"):
                if math.isfinite(told[name]):
                    tf.summary.scalar(f"steps/{name}", told[name])

    def epoch(self, epoch, figures, predictions):
        step = epoch * self.steps_per_epoch
        with self._train.as_default(step=step):
            for name in ("loss", "accuracy"):
                tf.summary.scalar(f"epochs/{name}", figures[name])
            for name in ("gradient_norm", "learning_rate", "loss_scale"):
                tf.summary.scalar(f"optimiser/{name}", figures[name])
            for name in ("clips_per_second", "data_wait_share"):
                tf.summary.scalar(f"speed/{name}", figures[name])
            for place, megabytes in used_memory().items():
                tf.summary.scalar(f"memory/{place}_megabytes", megabytes)
        with self._validation.as_default(step=step):
            for name in ("loss", "accuracy"):
                tf.summary.scalar(f"epochs/{name}", figures[f"validation_{name}"])
            every = self.settings.image_epochs
            if isinstance(predictions, Transcripts):
                show_error_rates(predictions)
            if every and (epoch % every == 0 or epoch == self.epochs):
                draw_results(predictions)
        self._train.flush()
        self._validation.flush()

    def end(self):
        self._stop_profiling()
        self._train.close()
        self._validation.close()

    def _stop_profiling(self) -> None:
        if self._is_profiling:
            tf.profiler.experimental.stop()
            self._is_profiling = False

    def _draw_augmentation(self) -> None:
        clips = min(self.settings.augmented_clips, self.data.batch_size)
        if not clips:
            return
        before, after = (features.numpy() for features in self.data.before_and_after(clips))
        with self._train.as_default(step=0):
            tf.summary.image("features/before_and_after_augmentation", _picture(features_figure(before, after)))


def show_error_rates(transcripts: Transcripts) -> None:
    """Adds the error rates and the share of phrases without error to the default writer."""
    for name in ("word_error_rate", "character_error_rate", "exact"):
        tf.summary.scalar(f"phrases/{name}", getattr(transcripts, name))


def draw_results(predictions: Predictions | Transcripts) -> None:
    """Adds the confusion matrix and each label's recall, as pictures, to the default writer; of phrases, a table."""
    if isinstance(predictions, Transcripts):
        rows = list(zip(predictions.truth, predictions.guesses, strict=True))
        rows = rows[:: max(1, len(rows) // SHOWN_PHRASES)]
        shown = [f"| {truth} | {guess} |" for truth, guess in (_in_table(row) for row in rows)]
        tf.summary.text("results/phrases", "\n".join(["| said | recognised |", "| --- | --- |", *shown]))
        return
    for name, draw in (("confusion", confusion_figure), ("recall", recall_figure)):
        tf.summary.image(f"results/{name}", _picture(draw(predictions.labels, predictions.confusions)))
    gc.collect()  # a figure's parts refer to each other, and Python would look for such only after dozens of figures


def _in_table(texts: Iterable[str]) -> list[str]:
    """Texts as they are, in a table in Markdown."""
    return [re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", text) for text in texts]


def recall_figure(labels: tuple[str, ...], matrix: np.ndarray):
    """Bars: how many of each label's clips were recognised. `matrix`: counts (labels, labels), truth by guess."""
    from matplotlib.figure import Figure

    counts = matrix.sum(axis=1)
    recall = np.diag(matrix) / np.maximum(counts, 1)
    figure = Figure(figsize=(6, min(1 + 0.3 * len(labels), 40)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(labels)), recall)
    axes.bar_label(bars, [f"{share:.1%} of {count}" for share, count in zip(recall, counts, strict=True)], padding=3)
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25)
    axes.set_xlabel("recall")
    return figure


def features_figure(before: np.ndarray, after: np.ndarray):
    """A row a clip: its features, (clips, frames, features) each, without augmentation and with it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.5 * len(before) + 0.5), layout="constrained")
    grid = figure.subplots(len(before), 2, squeeze=False)
    for row, clip in zip(grid, zip(before, after, strict=True), strict=True):
        low, high = np.min(clip), np.max(clip)
        for axes, features in zip(row, clip, strict=True):
            axes.imshow(features.T, origin="lower", aspect="auto", vmin=low, vmax=high)
            axes.set_xticks([])
            axes.set_yticks([])
    grid[0, 0].set_title("before augmentation")
    grid[0, 1].set_title("after")
    return figure


def log_results(run: Run, split: str, predictions: Predictions) -> None:
    """Adds what the kept weights do on a split: pictures, PR curves, the worst clips to listen to."""
    settings, labels = run.config.tensorboard, predictions.labels
    with _writer(run.folder / "tensorboard" / f"kept_{split}"):
        draw_results(predictions)
        if settings.pr_curves:
            for index, label in enumerate(labels):
                curve = pr_curve.pb(
                    f"pr_curve/{label}", predictions.truth == index, predictions.probabilities[:, index]
                )
                tf.summary.experimental.write_raw_pb(curve.SerializeToString(), step=0)
        _log_worst(run, split, predictions, settings.worst_clips)


def log_transcripts(run: Run, split: str, transcripts: Transcripts, source: PhraseSource) -> None:
    """The same of a phrase recogniser: error rates, a table, the worst phrases to listen to.

    Args:
        source: the phrases, in the order of the transcripts.
    """
    with _writer(run.folder / "tensorboard" / f"kept_{split}"):
        show_error_rates(transcripts)
        draw_results(transcripts)
        for rank, number in enumerate(transcripts.worst()[: run.config.tensorboard.worst_clips], 1):
            pcm, _, origin = source.read(0, number)
            said = f"said {transcripts.truth[number]}, recognised {transcripts.guesses[number]}"
            audio = pcm[np.newaxis, :, np.newaxis] / np.float32(32768)
            tf.summary.audio(f"worst/{rank}: {said}: {origin}", audio, run.config.corpus.sample_rate)


def _log_worst(run: Run, split: str, predictions: Predictions, count: int) -> None:
    labels, truth, guesses = predictions.labels, predictions.truth, predictions.guesses
    worst = {index: rank for rank, index in enumerate(worst_indices(predictions)[:count].tolist(), 1)}
    clips = evaluation_batches(run.config.corpus.shards, split, run.config.corpus.clip_samples, 256).unbatch()
    # By position: silence's clips share the paths of the recordings that they are cut from.
    for index, clip in enumerate(clips if worst else ()):
        if index in worst:
            said = f"said {labels[truth[index]]}, recognised {labels[guesses[index]]}"
            name = f"worst/{worst[index]}: {said}: {predictions.paths[index]}"
            tf.summary.audio(name, clip["audio"][tf.newaxis, :, tf.newaxis], run.config.corpus.sample_rate)


def log_hparams(run: Run, metrics: dict[str, dict]) -> None:
    """Adds the run's settings and final accuracies to the table in which TensorBoard compares runs."""
    settings = {"seed": run.config.seed}
    for section in ("front_end", "augment", "model", "training", *(["compose"] if run.config.compose else [])):
        for name, value in getattr(run.config, section).model_dump(mode="json").items():
            settings[f"{section}.{name}"] = value if isinstance(value, (bool, int, float)) else str(value)
    with _writer(run.folder / "tensorboard" / "kept"):
        hparams.hparams(settings, trial_id="/".join(run.folder.resolve().parts[-2:]))
        for split, figures in metrics.items():
            for name in ("accuracy", "word_error_rate"):
                if name in figures:
                    tf.summary.scalar(f"final/{split}_{name}", figures[name])


def log_embeddings(run: Run, clips: int) -> None:
    """Adds the pooled encoder outputs of the first validation clips, with word and speaker, to the projector."""
    corpus, model = run.config.corpus, run.recognizer.get_layer("encoder_and_head")
    encoder = keras.Model(model.input, model.get_layer("head").input)
    vectors, names = [], ["word\tspeaker"]
    for batch in evaluation_batches(corpus.shards, "validation", corpus.clip_samples, 256):
        vectors.append(encoder(run.front_end(batch["audio"])).numpy())
        said = zip(batch["label"].numpy(), batch["speaker"].numpy(), strict=True)
        names += ["\t".join(part.decode().replace("\t", " ") for part in pair) for pair in said]
        if len(names) > clips:
            break
    # In a folder with events: TensorBoard looks for projector files in no other.
    folder, vectors = run.folder / "tensorboard" / "kept", np.concatenate(vectors)[:clips]
    write_text(
        folder / "embeddings.tsv", "".join("\t".join(map("{:.5g}".format, row)) + "\n" for row in vectors.tolist())
    )
    write_text(folder / "embeddings_names.tsv", "\n".join(names[: clips + 1]) + "\n")
    config = projector.ProjectorConfig()
    config.embeddings.add(tensor_name="encoder", tensor_path="embeddings.tsv", metadata_path="embeddings_names.tsv")
    projector.visualize_embeddings(str(folder), config)


@contextmanager
def _writer(folder: Path):
    """A default writer for summaries at step 0, instead of what an earlier one has written there."""
    for events in folder.glob("events.out.tfevents.*"):
        events.unlink()
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default(step=0):
        yield
    writer.close()


def _picture(figure) -> np.ndarray:
    """(1, height, width, 4) uint8."""
    return picture(figure)[np.newaxis]
