"""The training loop: it can stop after any step, and a later process goes on there as if nothing had happened.

Keras's `Model.fit` can't: it starts only at an epoch's first step, and its callbacks forget what they knew.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data_pipeline.errors import Interrupted, UserError
from data_pipeline.files import written_aside
from speech_gru.checkpoint import restore_newest, save_checkpoint
from speech_gru.devices import agree, broadcast, host, set_variables, sum_over_hosts
from speech_gru.evaluation import Predictions
from speech_gru.memory import give_back_free
from speech_gru.optimization import averaged_weights
from speech_gru.signals import StopSignal, listening

STEPS_BETWEEN_QUESTIONS = 10
"""So often several hosts ask each other whether one of them was told to stop."""
EXPLODED = 1e4
"""A loss above this is no training any more; the logarithm of the number of labels is where one begins."""


class DivergenceError(UserError):
    """The training has run into numbers that aren't finite, or exploded, at the step (counted from 1) in `step`."""

    exit_code = 1

    def __init__(self, step: int, what: str):
        super().__init__(f"the training diverged at step {step}: {what}")
        self.step = step


class HostLostError(UserError):
    """Another of the hosts that train together is gone; the same command goes on from the last checkpoint."""

    exit_code = 1


@dataclass(frozen=True)
class Schedule:
    """How long a run is, and how often its state is saved."""

    epochs: int
    steps_per_epoch: int
    batch_size: int
    checkpoint_steps: int
    patience: int | None = None
    """Stop after so many epochs without a better validation accuracy."""


@dataclass(frozen=True)
class Learner:
    """What is trained, and what trains it."""

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    """Built."""
    step: Callable[[tuple], dict[str, tf.Tensor]]
    """See speech_gru.step.build_step."""
    strategy: tf.distribute.Strategy

    @property
    def variables(self) -> list[keras.Variable]:
        """All that training changes: weights, statistics, dropout's random state, the optimiser with its averages."""
        return [*self.model.variables, *self.optimizer.variables]


class Monitor:
    """Is told how the training goes. The methods do nothing here."""

    def begin(self, step: int) -> None:
        """Training starts, after so many steps of earlier processes."""

    def before_step(self, step: int) -> None:
        """Step `step`, counted from 1, is about to begin."""

    def step(self, step: int, told: dict[str, float]) -> None:
        """Step `step` is done, and the next one may have begun; `told` as of speech_gru.step.build_step."""

    def epoch(self, epoch: int, figures: dict[str, float], predictions: Predictions) -> None:
        """An epoch, counted from 1, is done. See TrainingLoop for the figures; the predictions are of validation."""

    def end(self) -> None:
        """Training is over or has failed."""


@dataclass
class Progress:
    """Where a run is. All of it is in each checkpoint, as JSON, so it holds nothing that hangs on time."""

    identity: dict
    """What must be the same for the run to go on."""
    step: int = 0
    loss: float = 0.0
    correct: float = 0.0
    gradient_norm: float = 0.0
    """Sums over the epoch's steps so far."""
    best_accuracy: float = -1.0
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    """Each finished epoch's figures."""


class TrainingLoop:
    """Trains from the newest checkpoint, or from the start, to the end.

    Args:
        batches: gives the endless training batches from a step on.
        validate: weights (`model.get_weights()`) -> their loss and what they say to the validation clips; called on the
            chief alone.
        folder: of the checkpoints, and of best.npz: the weights of the epoch with the best validation accuracy.
        identity: what must be the same for a run to go on, of JSON's types.
        report: is told what a person should know.

    An epoch's figures: loss, accuracy (of training), gradient_norm (their mean), learning_rate, loss_scale (of its last
    step), validation_loss, validation_accuracy; and, of this process alone, clips_per_second and data_wait_share: the
    share of the time in which the loop waited for the next batch.
    """

    def __init__(
        self,
        learner: Learner,
        batches: Callable[[int], Iterator],
        validate: Callable[[list[np.ndarray]], tuple[float, Predictions]],
        schedule: Schedule,
        folder: Path,
        *,
        identity: dict,
        monitors: Sequence[Monitor] = (),
        report: Callable[[str], None] = print,
    ):
        self.learner, self.batches, self.validate = learner, batches, validate
        self.schedule, self.folder, self.report = schedule, folder, report
        self.is_chief = host(learner.strategy)[0] == 0
        self.monitors = list(monitors) if self.is_chief else []
        self.progress = Progress(identity)
        self._pending: tuple[int, dict[str, tf.Tensor]] | None = None

    @property
    def best_file(self) -> Path:
        """The best epoch's weights, in the order of `model.get_weights()`."""
        return self.folder / "best.npz"

    def run(self) -> list[dict[str, float]]:
        """Trains to the end; returns each epoch's figures.

        Raises:
            Interrupted: a signal came; the state is saved.
            DivergenceError: see there; best.npz and the checkpoints before it are intact.
            HostLostError: see there.
            UserError: a checkpoint can't be written, or those in `folder` are of other data.
        """
        with listening() as stop:
            try:
                self._restore()
                self._tell("begin", self.progress.step)
                try:
                    iterator = self.batches(self.progress.step)
                    while not self._is_finished():
                        self._run_epoch(iterator, stop)
                finally:
                    self._tell("end")
            except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
                if host(self.learner.strategy)[1] == 1:
                    raise
                if stop.number is not None:  # all of them were told to stop
                    said = "stopped together with another host; the same command goes on from the last checkpoint"
                    raise Interrupted(stop.number, said) from error
                raise HostLostError(f"another host is gone after step {self.progress.step}") from error
        return self.progress.history

    def _is_finished(self) -> bool:
        schedule, done = self.schedule, len(self.progress.history)
        waited = done - self.progress.best_epoch if self.progress.best_epoch else 0
        return done >= schedule.epochs or (schedule.patience is not None and waited >= schedule.patience)

    def _run_epoch(self, iterator: Iterator, stop: StopSignal) -> None:
        progress, schedule = self.progress, self.schedule
        first, end = progress.step, (len(progress.history) + 1) * schedule.steps_per_epoch
        start, waiting, told = time.perf_counter(), 0.0, {}
        while progress.step < end:
            asked = time.perf_counter()
            batch = next(iterator)
            waiting += time.perf_counter() - asked
            self._tell("before_step", progress.step + 1)
            outputs = self.learner.step(batch)
            progress.step += 1
            # Looked at once the next step is under way, so that a GPU needn't wait for the host.
            told = self._take_pending() or told
            self._pending = progress.step, outputs
            is_due, is_told = progress.step % schedule.checkpoint_steps == 0, self._is_told(stop)
            if progress.step < end and (is_due or is_told):
                self._take_pending()
                self._save()
                self._obey(stop, is_told)
        told = self._take_pending()
        seconds = time.perf_counter() - start
        clips = (progress.step - first) * schedule.batch_size
        self._end_epoch(told, {"clips_per_second": clips / seconds, "data_wait_share": waiting / seconds})
        self._save()
        self._obey(stop, self._is_told(stop))

    def _tell(self, what: str, *about) -> None:
        """Tells the monitors; one that fails is left out from then on, for a training is worth more than its curves."""
        for monitor in list(self.monitors):
            try:
                getattr(monitor, what)(*about)
            except (OSError, tf.errors.OpError) as error:
                self.monitors.remove(monitor)
                reason = getattr(error, "message", error)
                self.report(f"{type(monitor).__name__} failed, and the training goes on without it: {reason}")

    def _is_told(self, stop: StopSignal) -> bool:
        """Whether to stop here. Several hosts ask each other now and then, to stop at the same step."""
        strategy = self.learner.strategy
        if host(strategy)[1] == 1:
            return stop.number is not None
        if self.progress.step % STEPS_BETWEEN_QUESTIONS and self.progress.step % self.schedule.steps_per_epoch:
            return False
        return sum_over_hosts(strategy, np.array([stop.number is not None], np.float64))[0] > 0

    def _take_pending(self) -> dict[str, float]:
        """Adds what the last step told to the epoch's sums, or refuses to go on."""
        if self._pending is None:
            return {}
        step, outputs = self._pending
        self._pending = None
        told = {name: float(value) for name, value in outputs.items()}
        refuse_divergence(step, told)
        self.progress.loss += told["loss"]
        self.progress.correct += told["correct"]
        self.progress.gradient_norm += told["gradient_norm"] if math.isfinite(told["gradient_norm"]) else 0.0
        self._tell("step", step, told)
        return told

    def _end_epoch(self, told: dict[str, float], timing: dict[str, float]) -> None:
        progress, steps = self.progress, self.schedule.steps_per_epoch
        epoch, predictions = len(progress.history) + 1, None
        weights = averaged_weights(self.learner.model, self.learner.optimizer) if self.is_chief else None
        measured = np.zeros(2)
        if self.is_chief:
            loss, predictions = self.validate(weights)
            measured = np.array([loss, predictions.accuracy])
        loss, accuracy = (float(value) for value in broadcast(self.learner.strategy, [measured])[0])
        figures = {
            "loss": progress.loss / steps,
            "accuracy": progress.correct / (steps * self.schedule.batch_size),
            "gradient_norm": progress.gradient_norm / steps,
            "learning_rate": told["learning_rate"],
            "loss_scale": told["loss_scale"],
            "validation_loss": loss,
            "validation_accuracy": accuracy,
        }
        progress.history.append(figures)
        progress.loss = progress.correct = progress.gradient_norm = 0.0
        if accuracy > progress.best_accuracy:
            progress.best_accuracy, progress.best_epoch = accuracy, epoch
            if self.is_chief:
                with written_aside(self.best_file) as aside, aside.open("wb") as file:
                    np.savez(file, *weights)
        give_back_free()  # so that what is told to be in use is in use
        self._tell("epoch", epoch, figures | timing, predictions)

    def _save(self) -> None:
        if self.is_chief:
            save_checkpoint(self.folder, self.progress.step, self.learner.variables, asdict(self.progress))

    def _obey(self, stop: StopSignal, is_told: bool) -> None:
        if is_told and not self._is_finished():
            raise Interrupted(stop.number or signal.SIGTERM, self._said_when_stopped())

    def _said_when_stopped(self) -> str:
        return f"stopped after step {self.progress.step}; its state is saved, and the same command goes on from there"

    def _restore(self) -> None:
        """From the chief's newest checkpoint, on all hosts."""
        variables, strategy, found, error = self.learner.variables, self.learner.strategy, None, None
        if self.is_chief:
            try:
                found = restore_newest(self.folder, variables, self._check, self.report)
            except UserError as refused:
                error = refused
        agree(strategy, error)
        arrays, state = found or ([keras.ops.convert_to_numpy(variable) for variable in variables], {})
        text = np.frombuffer(json.dumps(state or asdict(self.progress)).encode(), np.uint8)
        (length,) = broadcast(strategy, [np.array(len(text))])
        text, *arrays = broadcast(strategy, [np.resize(text, int(length)), *arrays])
        try:
            self._check(json.loads(text.tobytes()))
        except UserError as refused:  # this host has other clips, say, than the chief
            error = refused
        agree(strategy, error)
        set_variables(variables, arrays)
        self.progress = Progress(**json.loads(text.tobytes()))
        if self.progress.step:
            steps = self.schedule.epochs * self.schedule.steps_per_epoch
            self.report(f"going on after step {self.progress.step} of {steps}")

    def _check(self, state: dict) -> None:
        """Raises UserError if a checkpoint's state is of another run, or of another version of this program."""
        if not isinstance(state, dict) or set(state) != {entry.name for entry in fields(Progress)}:
            raise UserError(f"{self.folder}: the checkpoints are of another version; train into another folder")
        refuse_other_identity(state["identity"], self.progress.identity, self.folder)


def refuse_divergence(step: int, told: dict[str, float]) -> None:
    """Raises DivergenceError if a step's numbers say that nothing good will follow."""
    loss, norm, scale = told["loss"], told["gradient_norm"], told["loss_scale"]
    if not math.isfinite(loss) or loss > EXPLODED:
        raise DivergenceError(step, f"the loss is {loss:g}")
    # With loss scaling Keras leaves out a step whose gradients aren't finite, and halves the scale, at first
    # 2 ** 15: once that is down to 1, it isn't the scale that is wrong.
    if not math.isfinite(norm) and scale <= 1:
        raise DivergenceError(step, f"the gradient's norm is {norm:g}")


def refuse_other_identity(before: dict, now: dict, folder: Path) -> None:
    """Raises UserError with the differences if a checkpoint is of another run than this one."""
    changed = [f"{key}: {before.get(key)} then, {now[key]} now" for key in now if before.get(key) != now[key]]
    if changed:
        raise UserError(
            f"{folder}: the run began with other data or precision, so it can't go on: {'; '.join(changed)}; "
            "train into another folder, or delete this one"
        )
