"""The loop: whatever stops it, and whenever, it goes on to the very numbers that it would have had."""

import errno
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import speech_gru.loop as loop_module
from data_pipeline.errors import UserError
from speech_gru.checkpoint import list_checkpoints
from speech_gru.config import TrainingSettings
from speech_gru.devices import set_variables
from speech_gru.evaluation import Predictions
from speech_gru.loop import (
    DivergenceError,
    HostLostError,
    Interrupted,
    Learner,
    Monitor,
    Schedule,
    TrainingLoop,
    refuse_divergence,
)
from speech_gru.objective import ClassificationObjective
from speech_gru.optimization import averaged_weights, build_optimizer
from speech_gru.step import build_step
from speech_gru.training import dtype_policy

BATCH, FEATURES, LABELS = 8, 5, 3
STEPS, EPOCHS = 6, 4
SETTINGS = TrainingSettings(epochs=EPOCHS, warmup_epochs=0.5, learning_rate=0.05, ema=0.7, batch_size=BATCH)
IDENTITY = {"data": "abc", "labels": ["a", "b", "c"], "precision": "float32"}
SPLITTER = np.random.default_rng(0).normal(0, 1, (FEATURES, LABELS))


def clips(seed: list[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and labels that can be learnt from them."""
    features = np.random.default_rng(seed).normal(0, 1, (count, FEATURES)).astype(np.float32)
    return features, np.eye(LABELS, dtype=np.float32)[(features @ SPLITTER).argmax(axis=1)]


def batches(step: int):
    while True:
        yield (*(tf.constant(part) for part in clips([1, step], BATCH)), tf.ones(BATCH))
        step += 1


def network() -> keras.Model:
    inputs = keras.Input((FEATURES,))
    hidden = keras.layers.Dense(6, activation="tanh", name="hidden")(inputs)
    hidden = keras.layers.BatchNormalization(name="normalization")(hidden)
    hidden = keras.layers.Dropout(0.4, name="dropout")(hidden)
    return keras.Model(inputs, keras.layers.Dense(LABELS, dtype="float32", name="head")(hidden))


def new_learner(policy: str) -> Learner:
    """With all the state there can be: dropout's, normalisation's, the optimiser's, averages, the loss scale."""
    keras.utils.set_random_seed(7)
    strategy = tf.distribute.get_strategy()
    with dtype_policy(policy):
        model = network()
    optimizer = build_optimizer(SETTINGS, STEPS, policy)
    optimizer.build(model.trainable_variables)
    step = build_step(
        model,
        optimizer,
        ClassificationObjective(SETTINGS.label_smoothing),
        clip_norm=1.0,
        batch_size=BATCH,
        strategy=strategy,
    )
    return Learner(model, optimizer, step, strategy)


@cache
def first_learner(policy: str) -> tuple[Learner, list[np.ndarray]]:
    """A learner, which has soon been compiled, and its variables' first values."""
    learner = new_learner(policy)
    return learner, [variable.numpy() for variable in learner.variables]


def as_new(policy: str) -> Learner:
    """A learner as a new process has it."""
    learner, values = first_learner(policy)
    set_variables(learner.variables, values)
    return learner


@cache
def kept_model() -> keras.Model:
    return network()


def measure(weights: list[np.ndarray]) -> tuple[float, Predictions]:
    """Validation."""
    features, labels = clips([2], 60)
    kept_model().set_weights(weights)
    probabilities = tf.nn.softmax(kept_model()(features, training=False)).numpy()
    loss = -np.log((probabilities * labels).sum(axis=1)).mean()
    return float(loss), Predictions(("a", "b", "c"), (), labels.argmax(axis=1), probabilities)


def claiming(accuracies: list[float]) -> Callable[[list[np.ndarray]], tuple[float, Predictions]]:
    """A validation that finds these accuracies, epoch by epoch."""
    claimed = iter(accuracies)

    def validate(weights):
        right = round(next(claimed) * 10)
        return 0.0, Predictions(("a", "b"), (), np.zeros(10, int), np.eye(2)[[0] * right + [1] * (10 - right)])

    return validate


def make_loop(
    folder: Path,
    policy: str = "float32",
    *,
    learner: Learner | None = None,
    batches=batches,
    validate=measure,
    checkpoint_steps: int = 4,
    patience: int | None = None,
    identity: dict = IDENTITY,
    monitors=(),
    report=lambda line: None,
) -> TrainingLoop:
    """A loop as a new process has it."""
    schedule = Schedule(EPOCHS, STEPS, BATCH, checkpoint_steps, patience)
    learner = learner or as_new(policy)
    return TrainingLoop(
        learner, batches, validate, schedule, folder, identity=identity, monitors=monitors, report=report
    )


class End(NamedTuple):
    """All that a run leaves."""

    variables: list[np.ndarray]
    progress: dict
    best: list[np.ndarray]


def end_of(loop: TrainingLoop) -> End:
    with np.load(loop.best_file) as best:
        return End(
            [variable.numpy() for variable in loop.learner.variables], asdict(loop.progress), list(best.values())
        )


def assert_same(loop: TrainingLoop, expected: End) -> None:
    """Every variable, the figures and the best weights: all bits."""
    found = end_of(loop)
    for one, other, variable in zip(found.variables, expected.variables, loop.learner.variables, strict=True):
        assert (one.dtype, one.tobytes()) == (other.dtype, other.tobytes()), variable.path
    assert found.progress == expected.progress
    for one, other in zip(found.best, expected.best, strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A function that gives the end of the run that was never stopped, by dtype policy."""

    @cache
    def get(policy: str = "float32") -> End:
        loop = make_loop(tmp_path_factory.mktemp("undisturbed"), policy)
        loop.run()
        return end_of(loop)

    return get


class KilledError(Exception):
    """Stands for the end of a process: nobody handles it."""


class At(Monitor):
    """Does something once a step is told of, or an epoch."""

    def __init__(self, action: Callable[[], None], *, step: int | None = None, epoch: int | None = None):
        self.action, self.when = action, (step, epoch)

    def step(self, step, told):
        if step == self.when[0]:
            self.action()

    def epoch(self, epoch, figures, predictions):
        if epoch == self.when[1]:
            self.action()


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def kill() -> None:
    raise KilledError


def run_from_there(folder: Path, policy: str = "float32", **changes) -> TrainingLoop:
    loop = make_loop(folder, policy, **changes)
    loop.run()
    return loop


class TestTheUndisturbedRun:
    def test_the_figures_are_the_steps_means(self, tmp_path):
        told, epochs = [], []

        class Recorder(Monitor):
            def step(self, step, figures):
                told.append((step, figures))

            def epoch(self, epoch, figures, predictions):
                epochs.append((epoch, figures, predictions.accuracy))

        history = make_loop(tmp_path, monitors=[Recorder()]).run()
        assert [step for step, _ in told] == list(range(1, EPOCHS * STEPS + 1))
        assert len(history) == EPOCHS
        for index, figures in enumerate(history):
            steps = [figures for _, figures in told[index * STEPS : (index + 1) * STEPS]]
            assert figures["loss"] == pytest.approx(np.mean([step["loss"] for step in steps]))
            assert figures["accuracy"] == pytest.approx(sum(step["correct"] for step in steps) / STEPS / BATCH)
            assert figures["gradient_norm"] == pytest.approx(np.mean([step["gradient_norm"] for step in steps]))
            assert figures["learning_rate"] == steps[-1]["learning_rate"]
            epoch, shown, accuracy = epochs[index]
            assert (epoch, accuracy) == (index + 1, figures["validation_accuracy"])
            assert figures.items() <= shown.items()
            assert set(shown) - set(figures) == {"clips_per_second", "data_wait_share"}
            assert 0 <= shown["data_wait_share"] <= 1
        assert history[-1]["loss"] < history[0]["loss"]

    def test_freed_memory_is_given_back_before_an_epochs_is_told(self, tmp_path, monkeypatch):
        done = []
        monkeypatch.setattr("speech_gru.loop.give_back_free", lambda: done.append("given back"))
        monitors = [At(lambda: done.append("told"), epoch=epoch) for epoch in range(1, EPOCHS + 1)]
        make_loop(tmp_path, monitors=monitors).run()
        assert done == ["given back", "told"] * EPOCHS

    def test_it_learns_from_each_step_of_the_data_once(self, tmp_path):
        asked = []

        def watched(step):
            for number, batch in enumerate(batches(step), step):
                asked.append(number)
                yield batch

        loop = make_loop(tmp_path, batches=watched)
        loop.run()
        assert asked == list(range(EPOCHS * STEPS))
        assert int(loop.learner.optimizer.iterations) == EPOCHS * STEPS

    def test_checkpoints_come_every_so_many_steps_and_at_epochs_ends(self, tmp_path, monkeypatch):
        saved, save = [], loop_module.save_checkpoint
        monkeypatch.setattr(loop_module, "save_checkpoint", lambda *given: (saved.append(given[1]), save(*given)))
        make_loop(tmp_path).run()
        assert saved == [4, 6, 8, 12, 16, 18, 20, 24]
        assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000024.npz", "step-00000020.npz"]

    def test_the_averages_are_validated_and_kept(self, tmp_path):
        loop = make_loop(tmp_path)
        history = loop.run()
        averages = averaged_weights(loop.learner.model, loop.learner.optimizer)
        assert max(np.abs(a - b).max() for a, b in zip(averages, loop.learner.model.get_weights(), strict=True)) > 0
        assert measure(averages)[0] == history[-1]["validation_loss"]
        accuracies = [figures["validation_accuracy"] for figures in history]
        assert loop.progress.best_epoch == 1 + int(np.argmax(accuracies))
        assert measure(end_of(loop).best)[0] == history[int(np.argmax(accuracies))]["validation_loss"]

    def test_the_best_epoch_is_kept_and_patience_ends(self, tmp_path):
        weights, claim = [], claiming([0.3, 0.9, 0.9, 0.8])

        def validate(given):
            weights.append([array.copy() for array in given])
            return claim(given)

        loop = make_loop(tmp_path, validate=validate, patience=1)
        assert [figures["validation_accuracy"] for figures in loop.run()] == [0.3, 0.9, 0.9]
        assert (loop.progress.best_epoch, loop.progress.best_accuracy) == (2, 0.9)
        with np.load(loop.best_file) as best:
            for kept, second, last in zip(best.values(), weights[1], weights[-1], strict=True):
                np.testing.assert_array_equal(kept, second)
                assert np.abs(kept - last).max() > 0

    def test_a_finished_one_is_left_as_it_is(self, undisturbed, tmp_path):
        loop = run_from_there(tmp_path)

        def no_more(step):
            pytest.fail("a batch was asked for")
            yield

        again = make_loop(tmp_path, batches=no_more, validate=lambda weights: pytest.fail("measured again"))
        assert again.run() == loop.progress.history
        assert_same(again, undisturbed())


class TestGoingOn:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("step", [1, 4, 6, 11, 22])
    def test_after_a_signal_as_if_nothing_had_happened(self, number, step, undisturbed, tmp_path):
        before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
        with pytest.raises(Interrupted) as caught:
            make_loop(tmp_path, monitors=[At(send(number), step=step)]).run()
        assert {one: signal.getsignal(one) for one in before} == before
        assert caught.value.signal == number
        # A step is looked at when the next one is under way.
        stopped = int(list_checkpoints(tmp_path)[0].stem.removeprefix("step-"))
        assert step <= stopped <= step + 1
        assert str(caught.value) == (
            f"stopped after step {stopped}; its state is saved, and the same command goes on from there"
        )
        said = []
        assert_same(run_from_there(tmp_path, report=said.append), undisturbed())
        assert said == [f"going on after step {stopped} of {EPOCHS * STEPS}"]

    @pytest.mark.parametrize("step", [2, 5, 13, 24])
    def test_after_a_kill_from_the_newest_checkpoint(self, step, undisturbed, tmp_path):
        with pytest.raises(KilledError):
            make_loop(tmp_path, monitors=[At(kill, step=step)]).run()
        assert_same(run_from_there(tmp_path), undisturbed())

    @pytest.mark.parametrize("epoch", [1, 3])
    def test_after_a_kill_between_best_weights_and_checkpoint(self, epoch, undisturbed, tmp_path):
        with pytest.raises(KilledError):
            make_loop(tmp_path, monitors=[At(kill, epoch=epoch)]).run()
        assert_same(run_from_there(tmp_path), undisturbed())

    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    def test_in_mixed_precision(self, policy, undisturbed, tmp_path):
        for action, step in ((send(signal.SIGTERM), 3), (kill, 10), (send(signal.SIGINT), 15)):
            with pytest.raises((Interrupted, KilledError)):
                make_loop(tmp_path, policy, monitors=[At(action, step=step)]).run()
        assert_same(run_from_there(tmp_path, policy), undisturbed(policy))
        scales = [figures["loss_scale"] for figures in undisturbed(policy).progress["history"]]
        assert scales == [2.0**15 if policy == "mixed_float16" else 1.0] * EPOCHS

    def test_a_loss_scale_that_has_changed_is_kept(self, tmp_path):
        first = make_loop(tmp_path, "mixed_float16", monitors=[At(send(signal.SIGTERM), step=7)])
        first.learner.optimizer.dynamic_scale.assign(2.0**40)  # its gradients overflow, so it falls
        with pytest.raises(Interrupted):
            first.run()
        scale = float(first.learner.optimizer.dynamic_scale)
        assert scale == 2.0 ** (40 - first.progress.step)
        second = make_loop(tmp_path, "mixed_float16", monitors=[At(kill, step=first.progress.step + 1)])
        told = []
        second.monitors[0].step = lambda step, figures: told.append(figures["loss_scale"])
        second.run()
        assert told[0] == scale

    def test_stopped_after_every_single_step(self, undisturbed, tmp_path):
        """Each process does one step; only its checkpoint goes from one to the next."""

        class Always(Monitor):
            def begin(self, step):
                send(signal.SIGTERM)()

        for step in range(1, EPOCHS * STEPS):
            with pytest.raises(Interrupted, match=f"stopped after step {step};"):
                make_loop(tmp_path, monitors=[Always()]).run()
        assert_same(run_from_there(tmp_path, monitors=[Always()]), undisturbed())

    def test_with_a_model_built_anew(self, undisturbed, tmp_path):
        with pytest.raises(Interrupted):
            make_loop(tmp_path, monitors=[At(send(signal.SIGTERM), step=7)]).run()
        learner = new_learner("float32")
        for variable in learner.variables:
            variable.assign(np.ones(variable.shape))
        assert_same(run_from_there(tmp_path, learner=learner), undisturbed())

    def test_patience_counts_the_epochs_of_earlier_processes(self, tmp_path):
        with pytest.raises(Interrupted):
            make_loop(
                tmp_path, validate=claiming([0.9, 0.8]), patience=2, monitors=[At(send(signal.SIGTERM), step=13)]
            ).run()
        best = (tmp_path / "best.npz").read_bytes()
        loop = run_from_there(tmp_path, validate=claiming([0.9, 1.0]), patience=2)
        assert [figures["validation_accuracy"] for figures in loop.progress.history] == [0.9, 0.8, 0.9]
        assert (loop.progress.best_epoch, loop.best_file.read_bytes()) == (1, best)
        again = make_loop(tmp_path, validate=claiming([]), patience=2)
        assert again.run() == loop.progress.history

    def test_a_damaged_checkpoint_costs_only_its_steps(self, undisturbed, tmp_path):
        with pytest.raises(KilledError):
            make_loop(tmp_path, monitors=[At(kill, step=13)]).run()
        newest, before = list_checkpoints(tmp_path)
        newest.write_bytes(newest.read_bytes()[:-100])
        said = []
        assert_same(run_from_there(tmp_path, report=said.append), undisturbed())
        assert said[0].startswith(f"{newest} is damaged (")
        assert said[1:] == [f"going on after step {int(before.stem.removeprefix('step-'))} of {EPOCHS * STEPS}"]

    def test_where_all_checkpoints_are_damaged_it_says_so_and_keeps_the_best(self, tmp_path):
        with pytest.raises(KilledError):
            make_loop(tmp_path, monitors=[At(kill, step=13)]).run()
        for path in list_checkpoints(tmp_path):
            path.write_bytes(b"")
        best = (tmp_path / "best.npz").read_bytes()
        for _ in range(2):
            with pytest.raises(UserError, match="all checkpoints are damaged"):
                make_loop(tmp_path, report=lambda line: None).run()
        assert (tmp_path / "best.npz").read_bytes() == best

    def test_a_checkpoint_of_another_version_is_refused(self, tmp_path):
        with pytest.raises(KilledError):
            make_loop(tmp_path, monitors=[At(kill, step=7)]).run()
        (path, *_) = list_checkpoints(tmp_path)
        with np.load(path) as archive:
            arrays = dict(archive)
        arrays["state"] = np.frombuffer(b'{"step": 3}', np.uint8)
        with path.open("wb") as file:
            np.savez(file, **arrays)
        with pytest.raises(UserError, match="of another version"):
            make_loop(tmp_path).run()

    def test_other_data_or_precision_is_refused(self, tmp_path):
        with pytest.raises(KilledError):
            make_loop(tmp_path, monitors=[At(kill, step=7)]).run()
        before = [path.read_bytes() for path in list_checkpoints(tmp_path)]
        now = IDENTITY | {"data": "xyz", "precision": "mixed_bfloat16"}
        with pytest.raises(UserError) as caught:
            make_loop(tmp_path, identity=now).run()
        assert str(caught.value) == (
            f"{tmp_path}: the run began with other data or precision, so it can't go on: data: abc then, xyz now; "
            "precision: float32 then, mixed_bfloat16 now; train into another folder, or delete this one"
        )
        assert [path.read_bytes() for path in list_checkpoints(tmp_path)] == before


class TestSignals:
    def test_a_second_one_ends_it_at_once(self, tmp_path):
        def twice():
            send(signal.SIGINT)()
            send(signal.SIGINT)()

        with pytest.raises(KeyboardInterrupt) as caught:
            make_loop(tmp_path, checkpoint_steps=100, monitors=[At(twice, step=2)]).run()
        assert not isinstance(caught.value, Interrupted)
        assert list_checkpoints(tmp_path) == []

    @pytest.mark.parametrize("last", [{"epoch": EPOCHS}, {"step": EPOCHS * STEPS}])
    def test_after_the_last_step_there_is_nothing_to_stop(self, last, undisturbed, tmp_path):
        loop = make_loop(tmp_path, monitors=[At(send(signal.SIGTERM), **last)])
        loop.run()
        assert_same(loop, undisturbed())

    def test_outside_the_main_thread_it_trains_all_the_same(self, undisturbed, tmp_path):
        loop = make_loop(tmp_path)
        thread = threading.Thread(target=loop.run)
        thread.start()
        thread.join()
        assert_same(loop, undisturbed())


class TestMonitors:
    @pytest.mark.parametrize("step", [3, 24])
    def test_all_are_told_of_the_end_however_it_comes(self, step, tmp_path):
        told = []

        class Recorder(Monitor):
            def begin(self, step):
                told.append(f"begin {step}")

            def end(self):
                told.append("end")

        with pytest.raises(KilledError):
            make_loop(tmp_path, monitors=[Recorder(), At(kill, step=step)]).run()
        run_from_there(tmp_path, monitors=[Recorder()])
        assert told == ["begin 0", "end", f"begin {step // 4 * 4 if step < 24 else 20}", "end"]

    def test_the_chief_alone_writes_and_tells(self, tmp_path, monkeypatch):
        monkeypatch.setattr(loop_module, "host", lambda strategy: (1, 2))
        failing = At(lambda: pytest.fail("told"), step=1)
        loop = make_loop(tmp_path / "run", monitors=[failing], validate=lambda weights: pytest.fail("measured"))
        assert len(loop.run()) == EPOCHS
        assert not (tmp_path / "run").exists()


class TestDivergence:
    @pytest.mark.parametrize(
        ("told", "message"),
        [
            ({"loss": np.nan}, "the loss is nan"),
            ({"loss": np.inf}, "the loss is inf"),
            ({"loss": 1.1e4}, "the loss is 11000"),
            ({"gradient_norm": np.inf}, "the gradient's norm is inf"),
            ({"gradient_norm": np.nan}, "the gradient's norm is nan"),
            ({"loss": np.nan, "loss_scale": 2.0**15}, "the loss is nan"),
            ({"gradient_norm": np.inf, "loss_scale": 0.5}, "the gradient's norm is inf"),
        ],
    )
    def test_what_is_refused(self, told, message):
        with pytest.raises(DivergenceError) as caught:
            refuse_divergence(17, {"loss": 1.0, "gradient_norm": 1.0, "loss_scale": 1.0} | told)
        assert str(caught.value) == f"the training diverged at step 17: {message}"
        assert (caught.value.step, caught.value.exit_code) == (17, 1)
        assert isinstance(caught.value, UserError)

    @pytest.mark.parametrize(
        "told",
        [
            {},
            {"loss": 9e3, "gradient_norm": 1e30},
            {"gradient_norm": np.inf, "loss_scale": 2.0**15},
            {"gradient_norm": np.nan, "loss_scale": 2.0},
            {"loss_scale": 0.5},
        ],
    )
    def test_what_is_not(self, told):
        refuse_divergence(17, {"loss": 1.0, "gradient_norm": 1.0, "loss_scale": 1.0} | told)

    @pytest.mark.parametrize("bad", [0, 8, 17, 18])
    def test_a_bad_batch_is_named_by_its_step(self, bad, tmp_path):
        def spoilt(step):
            for number, (features, labels, weights) in enumerate(batches(step), step):
                yield features * (np.nan if number == bad else 1), labels, weights

        told = []

        class Recorder(Monitor):
            def step(self, step, figures):
                told.append(figures["loss"])

        with pytest.raises(DivergenceError) as caught:
            make_loop(tmp_path, batches=spoilt, monitors=[Recorder()]).run()
        assert caught.value.step == bad + 1
        assert len(told) == bad
        assert np.isfinite(told).all()
        assert (tmp_path / "best.npz").exists() == (bad >= STEPS)
        for path in [*list_checkpoints(tmp_path), *tmp_path.glob("best.npz")]:  # nothing bad has been saved
            with np.load(path) as archive:
                assert all(np.isfinite(array).all() for array in archive.values())

    def test_with_loss_scaling_a_step_that_overflows_is_no_divergence(self, tmp_path):
        loop = make_loop(tmp_path, "mixed_float16")
        loop.learner.optimizer.dynamic_scale.assign(2.0**40)
        history = loop.run()
        assert len(history) == EPOCHS
        assert all(np.isfinite(figures["gradient_norm"]) for figures in history)
        assert history[0]["loss_scale"] == 2.0 ** (40 - STEPS + 1)  # of its last step, before it


def full(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestWhereNothingCanBeWritten:
    @pytest.mark.parametrize("owner", [(np, "savez"), (os, "fsync")])
    @pytest.mark.parametrize("good", [1, 3, 4])
    def test_after_the_disk_was_full_it_goes_on(self, owner, good, undisturbed, tmp_path, monkeypatch):
        """The files: step 4, best of epoch 1, step 6, step 8, ..."""
        module, name = owner
        real, calls = getattr(module, name), []

        def until_full(*arguments, **keywords):
            calls.append(arguments)
            return (real if len(calls) <= good else full)(*arguments, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(module, name, until_full)
            with pytest.raises(UserError, match=r"\.npz can't be written: No space left on device") as caught:
                make_loop(tmp_path).run()
        assert caught.value.exit_code == 2
        assert len(calls) == good + 1
        assert not list(tmp_path.glob(".*"))
        said = []
        assert_same(run_from_there(tmp_path, report=said.append), undisturbed())
        assert said == [f"going on after step {(4, 4, 6, 8)[good - 1]} of {EPOCHS * STEPS}"]

    def test_a_file_in_the_folders_place(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"file/checkpoints/step-00000004\.npz can't be written"):
            make_loop(tmp_path / "file" / "checkpoints").run()


class TestFailingMonitors:
    @pytest.mark.parametrize("error", [OSError("no space"), tf.errors.OutOfRangeError(None, None, "no space")])
    def test_one_that_fails_is_left_out_and_the_training_goes_on(self, error, undisturbed, tmp_path):
        asked, said = [], []

        class Failing(Monitor):
            def step(self, step, told):
                asked.append(step)
                if step == 3:
                    raise error

        loop = make_loop(tmp_path, monitors=[Failing()], report=said.append)
        loop.run()
        assert asked == [1, 2, 3]
        assert said == ["Failing failed, and the training goes on without it: no space"]
        assert_same(loop, undisturbed())


class TestLostHosts:
    @pytest.mark.parametrize("kind", [tf.errors.UnavailableError, tf.errors.AbortedError])
    def test_another_hosts_end_is_told_as_such(self, kind, tmp_path, monkeypatch):
        def lost(step):
            yield from islice(batches(step), 7)
            raise kind(None, None, "connection reset by peer")

        with pytest.raises(kind):  # alone it can only be a fault of TensorFlow
            make_loop(tmp_path / "alone", batches=lost).run()
        monkeypatch.setattr(loop_module, "host", lambda strategy: (0, 2))
        with pytest.raises(HostLostError, match=r"another host is gone after step 7$") as caught:
            make_loop(tmp_path / "two", batches=lost).run()
        assert caught.value.exit_code == 1
