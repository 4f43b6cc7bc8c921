"""Training: what is planned, learnt and kept; and that nothing that stops a run changes its end."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

import speech_gru.training as training
from data_pipeline.dataset import evaluation_batches, feature_batches
from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from data_pipeline.manifest import read_manifest, write_rows
from data_pipeline.prepare import prepare
from speech_gru.checkpoint import list_checkpoints
from speech_gru.commit import recorded_commits
from speech_gru.config import Config, dump_config, load_config
from speech_gru.loop import DivergenceError, Interrupted, Monitor
from speech_gru.run import load_run
from speech_gru.teachers import Teachers
from speech_gru.training import adapted_front_end, plan_training, shards_digest, training_data
from trainings import At, KilledError, assert_same_weights, changed, interrupt, kill, run, terminate, trained_weights


@pytest.fixture(scope="module")
def undisturbed(light_config, tmp_path_factory):
    """Folder and figures of the light experiment, trained without a stop."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return folder, run(light_config, folder)


class TestLearning:
    def test_it_learns_to_tell_tones_apart(self, tiny_run, tiny_config):
        run = load_run(tiny_run)
        batches = evaluation_batches(tiny_config.corpus.shards, "test", 4000, 64).as_numpy_iterator()
        truth, guesses = [], []
        for batch in batches:
            truth += [label.decode() for label in batch["label"]]
            guesses += [run.labels[index] for index in run.recognizer(batch["audio"]).numpy().argmax(axis=1)]
        assert len(truth) == 27
        assert np.mean(np.array(truth) == np.array(guesses)) >= 0.9

    def test_the_run_directory_holds_what_it_promises(self, tiny_run, tiny_config):
        assert {path.name for path in tiny_run.iterdir()} >= {
            *("config.yaml", "labels.txt", "commit.txt", "model.keras", "checkpoints", "tensorboard")
        }
        assert load_config(tiny_run / "config.yaml") == tiny_config
        assert (tiny_run / "labels.txt").read_text(encoding="utf-8").split() == [
            *("tief", "mittel", "höher", "_unknown_", "_silence_")
        ]
        assert recorded_commits(tiny_run) is not None
        assert not list(tiny_run.glob("*.tmp")) + list(tiny_run.glob(".*"))
        assert [path.name for path in (tiny_run / "checkpoints").iterdir()] == ["best.npz"]  # the states are done with

    def test_the_model_file_holds_no_optimiser(self, tiny_run):
        arrays = sum(weight.nbytes for weight in load_run(tiny_run).recognizer.get_weights())
        with zipfile.ZipFile(tiny_run / "model.keras") as archive:
            assert archive.getinfo("model.weights.h5").file_size < arrays + 80_000

    def test_the_same_seed_gives_the_same_weights_and_another_others(self, light_config, undisturbed, tmp_path):
        folder, history = undisturbed
        assert run(light_config, tmp_path / "again") == history
        assert_same_weights(tmp_path / "again", folder)
        other = light_config.model_copy(update={"seed": 2})
        assert run(other, tmp_path / "other")[0]["loss"] != history[0]["loss"]

    def test_on_a_gpu_operators_are_deterministic_if_asked_for(self, light_config, tmp_path, monkeypatch):
        asked = []
        monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: asked.append(True))
        for deterministic in (False, True):
            config = changed(light_config, "training", deterministic=deterministic)
            with pytest.raises(KilledError):
                run(config, tmp_path / str(deterministic), At(1, kill))
            assert bool(asked) == deterministic

    def test_weights_of_the_labels_reach_the_training(self, light_config):
        config = changed(light_config, "training", class_balance=1)
        plan = plan_training(config)
        data = training_data(config, plan, adapted_front_end(config))
        total = sum(plan.label_clips)
        assert data.label_weights == pytest.approx([total / 5 / clips for clips in plan.label_clips])
        assert (data.seed, data.batch_size, data.steps_per_epoch) == (1, 8, 8)


class TestWhatIsKept:
    def test_the_best_epochs_average_is_validated_and_kept(self, light_config, tmp_path, monkeypatch):
        weights, steps, build = [], 8, training.build_learner
        learners = []
        monkeypatch.setattr(training, "build_learner", lambda *given: learners.append(build(*given)) or learners[0])

        class Recorder(Monitor):
            def before_step(self, step):
                weights.append(learners[0].model.get_weights())  # as the step before has left them

            def epoch(self, epoch, figures, predictions):
                if epoch == 3:
                    weights.append(learners[0].model.get_weights())

        config = changed(light_config, "training", epochs=3)
        accuracies = [figures["validation_accuracy"] for figures in run(config, tmp_path, Recorder())]
        best = int(np.argmax(accuracies))
        weights = weights[1:]
        average, *rest = weights[: steps * (best + 1)]
        for step in rest:
            average = [0.6 * old + 0.4 * new for old, new in zip(average, step, strict=True)]
        for kept, expected, raw in zip(trained_weights(tmp_path), average, weights[len(rest)], strict=True):
            np.testing.assert_allclose(kept, expected, rtol=1e-3, atol=1e-5)
            assert np.abs(kept - raw).max() > 1e-4
        assert accuracies[best] == pytest.approx(self.accuracy(config, tmp_path))

    @staticmethod
    def accuracy(config, folder) -> float:
        run = load_run(folder)
        data = feature_batches(
            config.corpus.shards, "validation", run.labels, run.front_end, clip_samples=4000, batch_size=64
        )
        features, labels = next(data.as_numpy_iterator())
        logits = run.recognizer.get_layer("encoder_and_head")(features).numpy()
        return float((logits.argmax(axis=1) == labels.argmax(axis=1)).mean())

    def test_patience_ends_the_training(self, light_config, tmp_path, monkeypatch):
        claimed = iter([0.3, 0.9, 0.9, 0.8])
        monkeypatch.setattr(training.Predictions, "accuracy", property(lambda self: next(claimed)))
        weights = []

        class Keeper(Monitor):
            def epoch(self, epoch, figures, predictions):
                with np.load(tmp_path / "checkpoints" / "best.npz") as best:
                    weights.append(list(best.values()))

        history = run(changed(light_config, "training", epochs=9, patience=2), tmp_path, Keeper())
        assert [figures["validation_accuracy"] for figures in history] == [0.3, 0.9, 0.9, 0.8]
        for kept, first, second in zip(trained_weights(tmp_path), *weights[:2], strict=True):
            np.testing.assert_array_equal(kept, second)
            assert np.abs(kept - first).max() > 0


class TestGoingOn:
    @pytest.mark.parametrize("stops", [[(1, terminate), (9, kill)], [(12, interrupt)]])
    def test_it_ends_as_if_it_had_never_been_stopped(self, stops, light_config, undisturbed, tmp_path):
        folder, history = undisturbed
        said = []
        for step, action in stops:
            with pytest.raises((Interrupted, KilledError)):
                run(light_config, tmp_path / "run", At(step, action))
            assert not (tmp_path / "run" / "model.keras").exists()
        assert run(light_config, tmp_path / "run", said=said) == history
        assert len(said) == 1
        assert said[0].startswith("going on after step")
        assert_same_weights(tmp_path / "run", folder)

    def test_in_half_precision_with_loss_scaling(self, light_config, tmp_path):
        config = changed(light_config, "training", precision="float16")
        assert plan_training(config).policy == "mixed_float16"
        history = run(config, tmp_path / "whole")
        assert np.isfinite([list(figures.values()) for figures in history]).all()
        assert history[-1]["loss_scale"] == 2**15
        for step, action in ((2, kill), (11, terminate)):
            with pytest.raises((Interrupted, KilledError)):
                run(config, tmp_path / "stopped", At(step, action))
        assert run(config, tmp_path / "stopped") == history
        assert_same_weights(tmp_path / "stopped", tmp_path / "whole")
        assert keras.config.dtype_policy().name == "float32"

    @pytest.mark.parametrize("stage", ["model.keras", "checkpoints"])
    def test_killed_while_the_model_is_saved(self, stage, light_config, undisturbed, tmp_path, monkeypatch):
        def save(self, path, *arguments, **keywords):
            path.write_bytes(b"half")
            raise KilledError

        with monkeypatch.context() as patch:
            if stage == "model.keras":
                patch.setattr(keras.Model, "save", save)
            else:
                patch.setattr(training, "list_checkpoints", kill)
            with pytest.raises(KilledError):
                run(light_config, tmp_path)
        found = {path.name for path in tmp_path.iterdir()}
        assert found - {"model.keras"} == {"config.yaml", "labels.txt", "commit.txt", "checkpoints", "tensorboard"}
        assert ("model.keras" in found) == (stage == "checkpoints")
        said, expected = [], undisturbed[1] if stage == "model.keras" else None
        assert run(light_config, tmp_path, said=said) == expected
        assert said[0].startswith(
            "going on after step 16 of 16" if stage == "model.keras" else f"{tmp_path}: the run is finished"
        )
        assert_same_weights(tmp_path, undisturbed[0])

    def test_a_process_that_was_killed(self, light_config, tmp_path):
        """The kill comes at a moment of its own each time: the end must always be the same."""
        config = changed(light_config, "training", epochs=40, checkpoint_steps=1)
        file = tmp_path / "tiny.yaml"
        file.write_text(dump_config(config), encoding="utf-8")
        command = [sys.executable, "-m", "speech_gru", "train", file, "--out", tmp_path / "killed"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None and not list(tmp_path.glob("killed/checkpoints/step-*")):
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.5))
        process.kill()
        out, _ = process.communicate()
        assert process.returncode == -signal.SIGKILL, out
        said = []
        history = run(config, tmp_path / "killed", said=said)
        assert said[0].startswith("going on after step")
        assert history == run(config, tmp_path / "whole")
        assert_same_weights(tmp_path / "killed", tmp_path / "whole")


class TestStreams:
    @pytest.fixture
    def following(self, light_config) -> Config:
        return changed(light_config, "augment", stream_clips=4)

    @pytest.mark.parametrize(("subsampling", "frames"), [(1, 20), (2, 20), (3, 21)])
    def test_a_clip_begins_whole_steps_after_the_one_before_it(self, following, subsampling, frames):
        """A clip's 4,000 samples have 20 frames of 200, of which 19 are whole."""
        config = changed(following, "model", subsampling=subsampling)
        plan, front_end = plan_training(config), adapted_front_end(config)
        assert training_data(config, plan, front_end).stream_frames == frames
        model = training.build_learner(config, plan, front_end).model
        batches = training_data(config, plan, front_end).batches()
        for (features, *_), shape in zip(batches, ((8, 19, 10), (2, 4 * frames, 10), (8, 19, 10)), strict=False):
            assert features.shape == shape
            assert model(features).shape == (8, 5)

    def test_a_teacher_hears_each_clip_alone(self, following, tiny_run, tiny_config):
        config = changed(changed(tiny_config, "augment", stream_clips=4), "training", teachers=[tiny_run])
        config = changed(config, "model", bidirectional=False)
        plan, front_end = plan_training(config), adapted_front_end(config)
        teachers = Teachers(config, plan.labels, front_end)
        features = next(iter(training_data(config, plan, front_end).batches(1)))[0]
        clips = tf.reshape(features, (8, 20, -1))[:, :19]
        model = load_run(tiny_run).recognizer.get_layer("encoder_and_head")
        np.testing.assert_allclose(teachers(features), tf.nn.softmax(model(clips)), atol=1e-6)

    def test_the_devices_must_be_able_to_share_them(self, following):
        with pytest.raises(
            UserError, match=r"4 devices can't share evenly in streams of 4; --set training.batch_size=16"
        ):
            plan_training(following, SimpleNamespace(num_replicas_in_sync=4))

    def test_each_device_gets_whole_streams_and_their_labels(self, following, monkeypatch):
        plan, front_end = plan_training(following), adapted_front_end(following)
        data = training_data(following, plan, front_end)
        monkeypatch.setattr(training, "host", lambda strategy: (0, 1))
        two = SimpleNamespace(num_replicas_in_sync=2, distribute_datasets_from_function=lambda shares: shares(None))
        shares, batches = training.device_batches(two, data, 0), iter(data.batches(0))
        for clips, streams in ((8, 8), (8, 2), (8, 8)):
            features, labels, weights = next(batches)
            for device in range(2):
                own = slice(device * streams // 2, (device + 1) * streams // 2)
                found = next(shares)
                np.testing.assert_array_equal(found[0], features[own])
                own = slice(device * clips // 2, (device + 1) * clips // 2)
                np.testing.assert_array_equal(found[1], labels[own])
                np.testing.assert_array_equal(found[2], weights[own])

    def test_they_have_an_effect_and_a_stop_has_none(self, following, undisturbed, tmp_path):
        history = run(following, tmp_path / "whole")
        assert history[0]["loss"] != undisturbed[1][0]["loss"]
        with pytest.raises(KilledError):
            run(following, tmp_path / "stopped", At(10, kill))
        assert run(following, tmp_path / "stopped") == history
        assert_same_weights(tmp_path / "stopped", tmp_path / "whole")

    def test_what_is_kept_takes_clips_alone(self, tiny_stream_run, tiny_shards):
        run = load_run(tiny_stream_run)
        assert run.config.augment.stream_clips == 2
        assert run.recognizer.input_shape == (None, 4000)
        batch = next(evaluation_batches(tiny_shards, "test", 4000, 64).as_numpy_iterator())
        guesses = [run.labels[index] for index in run.recognizer(batch["audio"]).numpy().argmax(axis=1)]
        assert np.mean(np.array(guesses) == [label.decode() for label in batch["label"]]) >= 0.9

    def test_its_export_is_proven(self, tiny_stream_run):
        found = json.loads((tiny_stream_run / "export" / "export_report.json").read_text(encoding="utf-8"))
        assert [(item["artefact"], item["status"]) for item in found["artefacts"]] == [
            ("float32", "proven"),
            ("stream_float32", "proven"),
        ]


def full(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestRunDirectory:
    def test_where_nothing_can_be_written(self, light_config, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"file/run.*can't be written"):
            run(light_config, tmp_path / "file" / "run")

    def test_a_full_disk(self, light_config, undisturbed, tmp_path, monkeypatch):
        def fill(step: int) -> None:
            monkeypatch.setattr(np, "savez", full)

        with pytest.raises(UserError, match=r"step-00000006\.npz can't be written: No space left on device"):
            run(light_config, tmp_path, At(4, fill))
        monkeypatch.undo()
        assert run(light_config, tmp_path) == undisturbed[1]
        assert_same_weights(tmp_path, undisturbed[0])

    def test_a_finished_run_is_left_alone(self, light_config, undisturbed, tmp_path):
        folder = shutil.copytree(undisturbed[0], tmp_path / "run")
        before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
        said = []
        assert run(light_config, folder, At(1, kill), said=said) is None
        assert said == [f"{folder}: the run is finished; train into another folder, or delete this one, to train again"]
        assert before == {
            path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()
        }

    @pytest.mark.parametrize("finished", [True, False])
    def test_a_run_with_other_settings_is_refused(self, finished, light_config, undisturbed, tmp_path):
        folder = shutil.copytree(undisturbed[0], tmp_path / "run")
        if not finished:
            (folder / "model.keras").unlink()
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        other = changed(changed(light_config, "model", units=6), "augment", gain_db=None)
        with pytest.raises(UserError) as caught:
            run(other.model_copy(update={"seed": 5}), folder)
        low, high = light_config.augment.gain_db
        assert str(caught.value) == (
            f"{folder} holds a run with other settings:\n  seed: 1 there, 5 now\n"
            f"  augment.gain_db: [{low}, {high}] there, None now\n  model.units: 5 there, 6 now\n"
            "Give another folder with --out, or delete this one"
        )
        assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def test_what_it_shows_may_change(self, light_config, undisturbed, tmp_path):
        with pytest.raises(KilledError):
            run(light_config, tmp_path, At(9, kill))
        assert run(changed(light_config, "tensorboard", scalar_steps=1), tmp_path) == undisturbed[1]

    def test_other_clips_are_refused(self, light_config, tiny_shards, tmp_path):
        shards = shutil.copytree(tiny_shards, tmp_path / "shards")
        config = changed(light_config, "corpus", shards=shards)
        with pytest.raises(KilledError):
            run(config, tmp_path / "run", At(4, kill))
        rows = [row for row in read_manifest(shards) if row.split != "test"]
        write_rows(shards / "manifest.csv", rows)
        with pytest.raises(
            UserError, match=r"began with other data or precision, so it can't go on: data: \w+ then, \w+"
        ):
            run(config, tmp_path / "run")

    def test_another_word_is_refused_though_the_head_has_another_shape(self, light_config, tiny_shards, tmp_path):
        shards = shutil.copytree(tiny_shards, tmp_path / "shards")
        config = changed(light_config, "corpus", shards=shards)
        with pytest.raises(KilledError):
            run(config, tmp_path / "run", At(4, kill))
        labels = (shards / "labels.txt").read_text(encoding="utf-8")
        (shards / "labels.txt").write_text(f"{labels}neu\n", encoding="utf-8")
        with pytest.raises(UserError, match=r"so it can't go on: labels: \['tief.* then, \['tief.*'neu'\] now"):
            run(config, tmp_path / "run")
        assert list_checkpoints(tmp_path / "run" / "checkpoints")

    def test_settings_that_change_no_weights_may_change(self, light_config, undisturbed, tmp_path):
        with pytest.raises(KilledError):
            run(light_config, tmp_path, At(12, kill))
        config = changed(light_config, "training", checkpoint_steps=3, validation_batch_size=5)
        config = changed(config, "corpus", path=tmp_path / "moved").model_copy(update={"name": "renamed"})
        run(config, tmp_path)
        assert_same_weights(tmp_path, undisturbed[0])

    def test_another_precision_is_refused(self, light_config, tmp_path, monkeypatch):
        """`auto` means another one on another machine."""
        config = changed(light_config, "training", precision="auto")
        with pytest.raises(KilledError):
            run(config, tmp_path, At(4, kill))
        monkeypatch.setattr(training, "policy_for", lambda precision: "mixed_bfloat16")
        with pytest.raises(UserError, match=r"can't go on: precision: float32 then, mixed_bfloat16 now; train into"):
            run(config, tmp_path)

    def test_best_weights_that_cant_be_read(self, light_config, tmp_path):
        class Spoiler(Monitor):
            def epoch(self, epoch, figures, predictions):
                (tmp_path / "checkpoints" / "best.npz").write_bytes(b"PK")

        with pytest.raises(
            UserError, match=r"best\.npz, the best weights, can't be read: .*; delete the run and train"
        ):
            run(light_config, tmp_path, Spoiler())
        assert not (tmp_path / "model.keras").exists()


class TestFingerprint:
    def test_it_tells_other_clips_and_other_shards_apart(self, tiny_shards, tmp_path):
        shards = shutil.copytree(tiny_shards, tmp_path / "shards")
        first = shards_digest(tiny_shards)
        assert shards_digest(shards) == first  # wherever they lie
        manifest = (shards / "manifest.csv").read_bytes()
        (shards / "manifest.csv").write_bytes(manifest.replace(b"s01", b"s91", 1))
        assert shards_digest(shards) != first
        (shards / "manifest.csv").write_bytes(manifest)
        assert shards_digest(shards) == first
        for name in ("noise.npy", "other_speech.npy"):
            content = (shards / name).read_bytes()
            np.save(shards / name, np.ones(8, np.int16))
            assert shards_digest(shards) != first
            (shards / name).write_bytes(content)
        assert shards_digest(shards) == first
        shard = next(shards.glob("*.tfrecord"))
        shard.rename(shard.with_name("train-00099.tfrecord"))
        assert shards_digest(shards) != first


class TestOtherSpeech:
    @pytest.fixture
    def config(self, light_config, tiny_shards, tmp_path) -> Config:
        shards = shutil.copytree(tiny_shards, tmp_path / "shards")
        return changed(changed(light_config, "corpus", shards=shards), "augment", fresh_unknown=True, speed=None)

    def test_it_reaches_the_unknown_clips_alone(self, config):
        front_end, plan = adapted_front_end(config), plan_training(config)

        def batches() -> list[tuple[np.ndarray, np.ndarray]]:
            made = training_data(config, plan, front_end).batches().take(6)
            return [(features, labels.argmax(axis=1)) for features, labels, _ in made.as_numpy_iterator()]

        without = batches()
        np.save(
            config.corpus.shards / "other_speech.npy", np.random.default_rng(0).normal(0, 3000, 64000).astype(np.int16)
        )
        unknown, others = [], []
        for (one, labels), (two, again) in zip(without, batches(), strict=True):
            np.testing.assert_array_equal(labels, again)
            differ = np.any(one != two, axis=(1, 2))
            unknown += differ[labels == plan.labels.index("_unknown_")].tolist()
            others += differ[labels != plan.labels.index("_unknown_")].tolist()
        assert 0 < sum(unknown) < len(unknown)
        assert not any(others)

    def test_a_corpus_without_unknown_words_is_refused(self, config, monkeypatch):
        known = tuple(label for label in plan_training(config).labels if label != "_unknown_")
        monkeypatch.setattr(training, "output_labels", lambda config: known)
        with pytest.raises(
            UserError, match=r"augment\.fresh_unknown makes other clips of _unknown_, and there are none"
        ):
            plan_training(config)


class TestTwoProcesses:
    def test_a_second_one_is_kept_out(self, light_config, tmp_path):
        class Second(Monitor):
            def begin(self, step):
                with pytest.raises(UserError, match="another process is training there"):
                    run(light_config, tmp_path)

        run(light_config, tmp_path, Second())
        assert (tmp_path / "model.keras").is_file()

    def test_what_a_killed_one_left_half_written_is_removed(self, light_config, tmp_path):
        leftovers = [tmp_path / ".config.yaml.7.tmp", tmp_path / "checkpoints" / ".step-00000007.npz.7.tmp"]
        for leftover in leftovers:
            leftover.parent.mkdir(exist_ok=True)
            leftover.write_text("half")
        run(light_config, tmp_path)
        assert not any(leftover.exists() for leftover in leftovers)


class TestDivergence:
    def test_the_step_and_its_clips_are_named(self, light_config, undisturbed, tmp_path, monkeypatch):
        real = training.device_batches

        def spoilt(strategy, data, step):
            for number, (features, labels, weights) in enumerate(real(strategy, data, step)):
                clip = tf.one_hot(3, 8)[:, None, None]
                yield tf.where(clip * float(step + number == 12) > 0, np.nan, features), labels, weights

        with monkeypatch.context() as patch:
            patch.setattr(training, "device_batches", spoilt)
            with pytest.raises(DivergenceError) as caught:
                run(light_config, tmp_path)
        plan = plan_training(light_config)
        clips = training_data(light_config, plan, adapted_front_end(light_config)).clips_of_step(12)
        assert len(clips) == 8
        assert (caught.value.step, caught.value.exit_code) == (13, 1)
        assert str(caught.value) == (
            "the training diverged at step 13: the loss is nan. The weights of the best epoch are in "
            f"{tmp_path / 'checkpoints' / 'best.npz'}. Train into another folder with a lower "
            f"training.learning_rate, or look for a bad clip in the step's batch: {', '.join(clips)}"
        )
        assert not (tmp_path / "model.keras").exists()
        with np.load(tmp_path / "checkpoints" / "best.npz") as best:
            assert all(np.isfinite(weight).all() for weight in best.values())
        # Once the clip is good again, so is the run.
        assert run(light_config, tmp_path) == undisturbed[1]
        assert_same_weights(tmp_path, undisturbed[0])

    def test_far_too_high_a_learning_rate(self, light_config, tmp_path):
        config = changed(light_config, "training", warmup_epochs=0, learning_rate=1e38)
        with pytest.raises(
            DivergenceError, match=r"the training diverged at step 2: the loss is .*\. Train into another"
        ):
            run(config, tmp_path)
        assert not (tmp_path / "model.keras").exists()


class TestFrontEnd:
    def test_the_features_have_the_training_splits_statistics(self, tiny_config):
        plain = FrontEnd.from_settings(tiny_config.front_end.model_copy(update={"normalize": False}), 8000)
        audio = [batch["audio"] for batch in evaluation_batches(tiny_config.corpus.shards, "train", 4000, 16)]
        features = np.concatenate([plain(clips) for clips in audio]).reshape(-1, 10).astype(np.float64)
        normalised = np.concatenate([adapted_front_end(tiny_config)(clips) for clips in audio]).reshape(-1, 10)
        expected = (features - features.mean(axis=0)) / features.std(axis=0)
        np.testing.assert_allclose(normalised, expected, rtol=1e-3, atol=1e-3)

    def test_without_normalisation_there_is_nothing_to_measure(self, tiny_config):
        assert adapted_front_end(changed(tiny_config, "front_end", normalize=False)).normalization is None


class TestPlan:
    def test_it_counts_what_there_is(self, tiny_config, tiny_shards):
        plan = plan_training(tiny_config)
        rows = list(read_manifest(tiny_shards))
        assert plan.labels == ("tief", "mittel", "höher", "_unknown_", "_silence_")
        assert plan.clips == {split: sum(row.split == split for row in rows) for split in plan.clips}
        assert plan.clips == {"train": 71, "validation": 27, "test": 27}
        assert plan.label_clips == (16, 16, 16, 16, 7)
        assert plan.steps_per_epoch == 71 // 8
        # GRUs: 2 directions x 3 gates x (inputs + 8 + 2 biases) x 8; attention; head.
        grus = 2 * 3 * (20 + 8 + 2) * 8 + 2 * 3 * (16 + 8 + 2) * 8
        assert plan.parameters == grus + (16 * 64 + 64 + 64) + (16 * 5 + 5)
        assert plan.policy == "float32"
        assert plan.devices.startswith(("CPU", "GPU"))
        assert plan.gru
        assert plan.strategy is tf.distribute.get_strategy()

    def test_few_clips_are_gone_through_again_for_an_epochs_steps(self, tiny_config, tmp_path):
        for least, steps in ((7, 8), (9, 9)):
            config = changed(tiny_config, "training", epochs=2, warmup_epochs=0, min_epoch_steps=least)
            assert plan_training(config).steps_per_epoch == steps
        ended = []
        run(config, tmp_path / "run", At(18, ended.append))
        assert ended == [18]

    def test_devices_that_cant_share_a_batch_evenly(self, tiny_config):
        strategy = SimpleNamespace(num_replicas_in_sync=3)
        with pytest.raises(
            UserError, match=r"batch_size is 8, which 3 devices can't share evenly; --set .*batch_size=6$"
        ):
            plan_training(tiny_config, strategy)
        with pytest.raises(UserError, match=r"batch_size=3$"):
            plan_training(changed(tiny_config, "training", batch_size=2), strategy)

    def test_xla_on_several_devices(self, tiny_config):
        with pytest.raises(UserError, match=r"training\.xla: true needs a single device, and there are 2"):
            plan_training(changed(tiny_config, "training", xla=True), SimpleNamespace(num_replicas_in_sync=2))

    def test_a_vocal_tract_that_empties_a_band(self, tiny_config):
        many_bands = changed(tiny_config, "front_end", kind="log_mel", mel_bins=80)
        assert plan_training(many_bands).parameters
        with pytest.raises(UserError, match=r"hold none once augment\.vocal_tract has moved them by 0\.50"):
            plan_training(changed(many_bands, "augment", vocal_tract=(0.5, 1)))

    def test_nothing_prepared(self, tiny_config, tmp_path):
        with pytest.raises(UserError, match=r"holds no prepared clips.*speech-gru prepare"):
            plan_training(changed(tiny_config, "corpus", shards=tmp_path))

    def test_fewer_clips_than_a_batch(self, tiny_config):
        with pytest.raises(UserError, match=r"training\.batch_size is 72, but there are only 71 training clips"):
            plan_training(changed(tiny_config, "training", batch_size=72))

    @pytest.mark.parametrize(
        ("section", "values", "named"),
        [
            ("corpus", {"sample_rate": 16000, "clip_seconds": 0.25}, r"corpus\.sample_rate, corpus\.clip_seconds"),
            ("corpus", {"clip_seconds": 1.0}, r"\(corpus\.clip_seconds\)"),
            ("corpus", {"words": ["tief", "mittel"]}, r"\(corpus\.words\)"),
            ("corpus", {"words": ["tief", "mittel", "höher", "sirene"]}, r"\(corpus\.words\)"),
            ("corpus", {"unknown_share": 0.1, "silence_share": 0.2}, r"corpus\.unknown_share, corpus\.silence_share"),
            ("corpus", {"max_seconds": 0.4, "noise": ["more"]}, r"corpus\.noise, corpus\.max_seconds"),
        ],
    )
    def test_settings_changed_since_prepare(self, tiny_config, section, values, named):
        with pytest.raises(UserError, match=f"was prepared with other settings.*{named}.*speech-gru prepare"):
            plan_training(changed(tiny_config, section, **values))

    @pytest.mark.parametrize("missing", ["train", "validation"])
    def test_a_split_without_clips(self, tiny_config, tiny_shards, tmp_path, missing):
        for name in ("labels.txt", "corpus.json"):
            (tmp_path / name).write_bytes((tiny_shards / name).read_bytes())
        write_rows(tmp_path / "manifest.csv", (row for row in read_manifest(tiny_shards) if row.split != missing))
        with pytest.raises(UserError, match=f"0 {missing}.*both are needed"):
            plan_training(changed(tiny_config, "corpus", shards=tmp_path))

    def test_a_damaged_folder(self, tiny_config, tiny_shards, tmp_path):
        for name in ("labels.txt", "manifest.csv"):
            (tmp_path / name).write_bytes((tiny_shards / name).read_bytes())
        for content in (None, "", "[]", '{"words": 3}', '{"no_such_setting": 3}'):
            if content is not None:
                (tmp_path / "corpus.json").write_text(content)
            with pytest.raises(UserError, match=r"corpus\.json can't be read; run `speech-gru prepare` again"):
                plan_training(changed(tiny_config, "corpus", shards=tmp_path))

    def test_a_setting_that_is_younger_than_the_shards_has_its_default_there(self, tiny_config, tiny_shards, tmp_path):
        for name in ("labels.txt", "manifest.csv"):
            (tmp_path / name).write_bytes((tiny_shards / name).read_bytes())
        made = json.loads((tiny_shards / "corpus.json").read_text(encoding="utf-8"))
        (tmp_path / "corpus.json").write_text(json.dumps({key: made[key] for key in made if key != "train_also"}))
        assert plan_training(changed(tiny_config, "corpus", shards=tmp_path)).clips["train"] == 71
        with pytest.raises(UserError, match=r"prepared with other settings \(corpus\.train_also\)"):
            plan_training(changed(tiny_config, "corpus", shards=tmp_path, train_also=["more"]))

    def test_thresholds_of_words_that_there_are_not(self, tiny_config):
        with pytest.raises(UserError, match=r"export\.thresholds has 'laut', which is none of the run's words"):
            plan_training(changed(tiny_config, "export", thresholds={"laut": 0.5}))

    def test_a_single_label(self, tiny_config, tmp_path, write_clips):
        names = [f"ja/s{speaker}.wav" for speaker in range(40)]
        corpus = write_clips(*names, rate=8000)
        config = changed(tiny_config, "corpus", path=corpus, shards=tmp_path / "s", words=[], silence_share=0)
        prepare(config.corpus)
        with pytest.raises(UserError, match="has the single label 'ja'; there is nothing to tell apart"):
            plan_training(config)

    def test_a_corpus_that_was_moved_is_the_same(self, tiny_config):
        assert plan_training(changed(tiny_config, "corpus", path="elsewhere")).clips["train"] == 71
