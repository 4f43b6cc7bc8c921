"""Training: what is planned, minimised, averaged and kept; and that it learns."""

import json
import zipfile

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import speech_gru.training as training
from data_pipeline.dataset import evaluation_batches, feature_batches
from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from data_pipeline.manifest import read_manifest, write_rows
from data_pipeline.prepare import prepare
from speech_gru.config import Config, TrainingSettings, load_config
from speech_gru.run import load_run
from speech_gru.training import adapted_front_end, class_weights, compile_model, plan_training, train


def changed(config: Config, section: str, **values) -> Config:
    part = getattr(config, section)
    return config.model_copy(update={section: type(part).model_validate(part.model_dump() | values)})


@pytest.fixture(scope="module")
def light_config(tiny_config) -> Config:
    """The tiny experiment with a model that TensorFlow has soon compiled."""
    return changed(tiny_config, "model", units=5, layers=1, bidirectional=False, pooling="last", dropout=0)


def trained_weights(folder) -> list[np.ndarray]:
    return load_run(folder).recognizer.get_layer("encoder_and_head").get_weights()


class Recorder(keras.callbacks.Callback):
    """Keeps the weights as the optimiser left them, step by step, and as they are at the epochs' ends."""

    def __init__(self):
        super().__init__()
        self.steps, self.epoch_starts, self.epoch_ends = [], [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch_starts.append((len(self.steps), self.model.get_weights()))

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self.model.get_weights())

    def on_epoch_end(self, epoch, logs=None):
        self.epoch_ends.append(self.model.get_weights())


@pytest.fixture
def with_callbacks(monkeypatch):
    """A function that lets callbacks watch `train`, behind its own, or in front of them."""
    own = training._callbacks

    def watch(*callbacks, first: bool = False) -> None:
        def both(*args):
            return [*callbacks, *own(*args)] if first else [*own(*args), *callbacks]

        monkeypatch.setattr(training, "_callbacks", both)

    return watch


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
            *("config.yaml", "labels.txt", "model.keras", "checkpoints", "tensorboard")
        }
        assert load_config(tiny_run / "config.yaml") == tiny_config
        assert (tiny_run / "labels.txt").read_text(encoding="utf-8").split() == [
            *("tief", "mittel", "höher", "_unknown_", "_silence_")
        ]
        assert not list(tiny_run.glob("*.tmp")) + list(tiny_run.glob(".*"))

    def test_the_model_file_holds_no_optimiser(self, tiny_run):
        arrays = sum(weight.nbytes for weight in load_run(tiny_run).recognizer.get_weights())
        with zipfile.ZipFile(tiny_run / "model.keras") as archive:
            assert archive.getinfo("model.weights.h5").file_size < arrays + 80_000

    def test_the_same_seed_gives_the_same_weights(self, tiny_run, tiny_config, tmp_path):
        train(tiny_config, plan_training(tiny_config), tmp_path / "again", verbose=0)
        for first, second in zip(trained_weights(tiny_run), trained_weights(tmp_path / "again"), strict=True):
            np.testing.assert_array_equal(first, second)

    def test_in_half_precision_with_loss_scaling_and_averages(self, light_config, tmp_path, with_callbacks):
        recorder = Recorder()
        with_callbacks(recorder)
        config = changed(light_config, "training", epochs=1, warmup_epochs=0, precision="float16")
        plan = plan_training(config)
        assert plan.policy == "mixed_float16"
        history = train(config, plan, tmp_path / "run", verbose=0)
        assert np.isfinite(history.history["loss"]).all()
        assert keras.config.dtype_policy().name == "float32"
        for kept, last, average in zip(
            trained_weights(tmp_path / "run"), recorder.steps[-1], recorder.epoch_ends[-1], strict=True
        ):
            np.testing.assert_array_equal(kept, average)
            assert np.abs(kept - last).max() > 0


class TestWhatIsKept:
    def average(self, steps: list[list[np.ndarray]], momentum: float) -> list[np.ndarray]:
        average = steps[0]
        for weights in steps[1:]:
            average = [momentum * old + (1 - momentum) * new for old, new in zip(average, weights, strict=True)]
        return average

    def test_the_averages_are_validated_and_kept_and_training_goes_on_without_them(
        self, light_config, tmp_path, with_callbacks
    ):
        recorder = Recorder()
        with_callbacks(recorder)
        config = changed(light_config, "training", epochs=2, warmup_epochs=0, ema=0.6)
        history = train(config, plan_training(config), tmp_path, verbose=0).history["val_accuracy"]
        best = int(np.argmax(history))
        steps = recorder.epoch_starts[1][0]
        expected = self.average(recorder.steps[: steps * (best + 1)], 0.6)
        for kept, average, raw in zip(trained_weights(tmp_path), expected, recorder.steps[-1], strict=True):
            np.testing.assert_allclose(kept, average, rtol=1e-3, atol=1e-5)
            assert np.abs(kept - raw).max() > 1e-3
        for start, end in zip(recorder.epoch_starts[1][1], recorder.steps[steps - 1], strict=True):
            np.testing.assert_allclose(start, end, rtol=1e-4, atol=1e-6)
        assert history[best] == pytest.approx(self.accuracy(config, tmp_path, trained_weights(tmp_path)))

    @staticmethod
    def accuracy(config, folder, weights) -> float:
        run = load_run(folder)
        model = run.recognizer.get_layer("encoder_and_head")
        model.set_weights(weights)
        data = feature_batches(
            config.corpus.shards, "validation", run.labels, run.front_end, clip_samples=4000, batch_size=64
        )
        features, labels = next(data.as_numpy_iterator())
        return float((model(features).numpy().argmax(axis=1) == labels.argmax(axis=1)).mean())

    def test_the_best_epoch_is_kept_and_patience_ends(self, light_config, tmp_path, with_callbacks):
        claimed = iter([0.3, 0.9, 0.9, 0.8, 1.0])

        class Claim(keras.callbacks.Callback):
            def on_epoch_end(self, epoch, logs=None):
                logs["val_accuracy"] = next(claimed)

        recorder = Recorder()
        with_callbacks(Claim(), recorder, first=True)
        config = changed(light_config, "training", epochs=5, patience=2, ema=None)
        history = train(config, plan_training(config), tmp_path, verbose=0)
        assert len(history.epoch) == 4  # two epochs without a better one
        for kept, second, last in zip(
            trained_weights(tmp_path), recorder.epoch_ends[1], recorder.epoch_ends[-1], strict=True
        ):
            np.testing.assert_array_equal(kept, second)
            assert np.abs(kept - last).max() > 0


def compiled(steps_per_epoch: int = 10, **values) -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 4))
    hidden = keras.layers.Bidirectional(keras.layers.GRU(3, return_sequences=True))(inputs)
    hidden = keras.layers.BatchNormalization()(keras.layers.Conv1D(5, 2)(hidden))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GRU(2)(hidden)))
    compile_model(model, TrainingSettings(**{"warmup_epochs": 0, "epochs": 10} | values), steps_per_epoch)
    return model


def learning_rate(model: keras.Model, step: int) -> float:
    model.optimizer.iterations.assign(step)
    return float(model.optimizer.learning_rate)


class TestCompileModel:
    @pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd"])
    def test_the_rate_climbs_to_its_peak_and_falls_as_a_cosine_to_zero(self, optimizer):
        model = compiled(epochs=10, warmup_epochs=2, learning_rate=0.1, optimizer=optimizer)
        for step in range(20):
            assert learning_rate(model, step) == pytest.approx(0.1 * step / 20, abs=1e-7)
        for step in range(20, 101):
            expected = 0.1 * (1 + np.cos(np.pi * (step - 20) / 80)) / 2
            assert learning_rate(model, step) == pytest.approx(expected, abs=1e-7)
        assert learning_rate(model, 1000) == pytest.approx(0, abs=1e-7)

    @pytest.mark.parametrize(
        ("values", "steps", "rates"),
        [
            ({"warmup_epochs": 0, "epochs": 2}, 10, {0: 0.1, 10: 0.05, 20: 0}),
            ({"warmup_epochs": 0.5, "epochs": 1}, 10, {0: 0, 4: 0.08, 5: 0.1, 10: 0}),
            ({"warmup_epochs": 0.9, "epochs": 1}, 1, {0: 0, 1: 0.1, 2: 0}),  # all of one step
        ],
    )
    def test_odd_warm_ups(self, values, steps, rates):
        model = compiled(steps, learning_rate=0.1, **values)
        assert {step: learning_rate(model, step) for step in rates} == pytest.approx(rates, abs=1e-7)

    def test_decay_shrinks_matrices_alone(self):
        model = compiled(learning_rate=0.1, weight_decay=0.5, ema=None)
        model.set_weights([np.ones_like(weight) for weight in model.get_weights()])
        model.optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
        shrunk = {variable.path: variable.numpy().ravel()[0] for variable in model.trainable_variables}
        matrices = {path: value for path, value in shrunk.items() if path.endswith("kernel")}
        assert len(matrices) == 8
        assert set(matrices.values()) == {np.float32(1 - 0.1 * 0.5)}
        others = {path: value for path, value in shrunk.items() if path not in matrices}
        assert {path.rpartition("/")[2] for path in others} == {"bias", "gamma", "beta"}
        assert set(others.values()) == {1.0}

    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_the_others_do_not_decay(self, optimizer):
        model = compiled(optimizer=optimizer, weight_decay=0.5, ema=None)
        before = model.get_weights()
        model.optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    @pytest.mark.parametrize(("clip_norm", "norm"), [(2.0, 2.0), (1000.0, 300.0), (None, 300.0)])
    def test_the_gradient_is_clipped_by_its_norm_over_all_weights(self, clip_norm, norm):
        model = compiled(optimizer="sgd", learning_rate=0.01, clip_norm=clip_norm, ema=None)
        rng, before = np.random.default_rng(0), model.get_weights()
        gradients = [rng.normal(0, 1, variable.shape).astype(np.float32) for variable in model.trainable_variables]
        length = np.sqrt(sum(np.square(gradient).sum() for gradient in gradients))
        gradients = [gradient * 300 / length for gradient in gradients]
        model.optimizer.apply([keras.ops.convert_to_tensor(one) for one in gradients], model.trainable_variables)
        moved = [new - old for old, new in zip(before, model.get_weights(), strict=True)]
        # The first step of Nesterov's momentum 0.9 is 1.9 times that of plain descent.
        assert np.sqrt(sum(np.square(one).sum() for one in moved)) == pytest.approx(0.01 * 1.9 * norm, rel=1e-3)

    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
    def test_the_loss_is_cross_entropy_with_smoothed_labels(self, smoothing):
        logits = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]], np.float32)
        truth = np.array([[1, 0, 0], [0, 0, 1]], np.float32)
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected = -((truth * (1 - smoothing) + smoothing / 3) * log_probabilities).sum(axis=1).mean()
        loss = compiled(label_smoothing=smoothing).loss(truth, logits)
        assert float(loss) == pytest.approx(expected, rel=1e-5)

    def test_each_optimiser_is_what_it_is_called(self):
        kinds = {"adamw": keras.optimizers.AdamW, "adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
        for name, kind in kinds.items():
            optimizer = compiled(optimizer=name, ema=0.7).optimizer
            assert type(optimizer) is kind
            assert (optimizer.use_ema, optimizer.ema_momentum) == (True, 0.7)
            assert not compiled(optimizer=name, ema=None).optimizer.use_ema

    @pytest.mark.parametrize(
        ("ema", "epochs", "steps", "momentum"), [(0.999, 100, 100, 0.999), (0.999, 10, 10, 0.95), (0.9, 1, 4, 0.0)]
    )
    def test_a_short_run_still_forgets_its_first_weights(self, ema, epochs, steps, momentum):
        model = compiled(steps, epochs=epochs, ema=ema)
        assert model.optimizer.ema_momentum == pytest.approx(momentum)
        assert momentum ** (epochs * steps) < 0.01


class TestClassWeights:
    def test_by_hand(self):
        assert class_weights((10, 30), 0.0) is None
        assert class_weights((10, 30), 1.0) == pytest.approx({0: 2.0, 1: 2 / 3})
        # 4 ** -0.5 = 1/2 and 16 ** -0.5 = 1/4: a mean of (4 / 2 + 16 / 4) / 20 = 0.3.
        assert class_weights((4, 16), 0.5) == pytest.approx({0: 0.5 / 0.3, 1: 0.25 / 0.3})

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(0, 5000), min_size=2, max_size=9).filter(any), st.floats(0.01, 1))
    def test_the_mean_over_the_clips_is_one(self, counts, balance):
        weights = class_weights(tuple(counts), balance)
        assert sum(weights[index] * count for index, count in enumerate(counts)) == pytest.approx(sum(counts))
        assert all(np.isfinite(weight) and weight >= 0 for weight in weights.values())

    def test_they_reach_the_training(self, tiny_config, tmp_path, monkeypatch):
        given = {}

        def fit(self, *args, **kwargs):
            given.update(kwargs)
            raise KeyboardInterrupt

        monkeypatch.setattr(keras.Model, "fit", fit)
        config = changed(tiny_config, "training", class_balance=1)
        plan = plan_training(config)
        with pytest.raises(KeyboardInterrupt):
            train(config, plan, tmp_path / "run")
        total = sum(plan.label_clips)
        assert given["class_weight"] == pytest.approx(
            {index: total / 5 / clips for index, clips in enumerate(plan.label_clips)}
        )


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
        assert plan.device

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
        ],
    )
    def test_settings_changed_since_prepare(self, tiny_config, section, values, named):
        with pytest.raises(UserError, match=f"was prepared with other settings.*{named}.*speech-gru prepare"):
            plan_training(changed(tiny_config, section, **values))

    @pytest.mark.parametrize("missing", ["train", "validation"])
    def test_a_split_without_clips(self, tiny_config, tiny_shards, tmp_path, missing):
        for name in ("labels.txt", "settings.json"):
            (tmp_path / name).write_bytes((tiny_shards / name).read_bytes())
        write_rows(tmp_path / "manifest.csv", (row for row in read_manifest(tiny_shards) if row.split != missing))
        with pytest.raises(UserError, match=f"0 {missing}.*both are needed"):
            plan_training(changed(tiny_config, "corpus", shards=tmp_path))

    def test_a_damaged_folder(self, tiny_config, tiny_shards, tmp_path):
        for name in ("labels.txt", "manifest.csv"):
            (tmp_path / name).write_bytes((tiny_shards / name).read_bytes())
        for content in (None, "", "[]", "{}"):
            if content is not None:
                (tmp_path / "settings.json").write_text(content)
            with pytest.raises(UserError, match=r"settings\.json can't be read; run `speech-gru prepare` again"):
                plan_training(changed(tiny_config, "corpus", shards=tmp_path))

    def test_a_single_label(self, tiny_config, tmp_path, write_clips):
        names = [f"ja/s{speaker}.wav" for speaker in range(40)]
        corpus = write_clips(*names, rate=8000)
        config = changed(tiny_config, "corpus", path=corpus, shards=tmp_path / "s", words=[], silence_share=0)
        prepare(config.corpus)
        with pytest.raises(UserError, match="has the single label 'ja'; there is nothing to tell apart"):
            plan_training(config)


class TestRunDirectory:
    def test_where_nothing_can_be_written(self, tiny_config, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"file/run.*can't be written"):
            train(tiny_config, plan_training(tiny_config), tmp_path / "file" / "run", verbose=0)

    @pytest.mark.parametrize("same", [True, False])
    def test_an_interrupted_training_leaves_no_model_of_another_config(
        self, tiny_run, tiny_config, tmp_path, monkeypatch, same
    ):
        folder = tmp_path / "run"
        (folder / "tensorboard" / "train").mkdir(parents=True)
        (folder / "tensorboard" / "train" / "events.out.tfevents.1.old").write_text("")
        (folder / "tensorboard" / "notes.txt").write_text("mine")
        for name in ("config.yaml", "model.keras"):
            (folder / name).write_bytes((tiny_run / name).read_bytes())

        def fit(self, *args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(keras.Model, "fit", fit)
        config = tiny_config if same else changed(tiny_config, "model", units=9)
        with pytest.raises(KeyboardInterrupt):
            train(config, plan_training(config), folder)
        assert (folder / "model.keras").exists() == same
        assert not list(folder.rglob("events.out.tfevents.*"))
        assert (folder / "tensorboard" / "notes.txt").exists()

    def test_an_interruption_while_the_model_is_saved_leaves_no_scraps(self, light_config, tmp_path, monkeypatch):
        def save(self, path, *args, **kwargs):
            path.write_bytes(b"half")
            raise KeyboardInterrupt

        monkeypatch.setattr(keras.Model, "save", save)
        config = changed(light_config, "training", epochs=1, warmup_epochs=0)
        with pytest.raises(KeyboardInterrupt):
            train(config, plan_training(config), tmp_path, verbose=0)
        assert {path.name for path in tmp_path.iterdir()} == {
            *("config.yaml", "labels.txt", "checkpoints", "tensorboard")
        }

    def test_a_diverged_training_is_no_finished_run(self, light_config, tmp_path):
        config = changed(light_config, "training", epochs=1, warmup_epochs=0, learning_rate=1e38)
        with pytest.raises(UserError, match=r"diverged; lower training\.learning_rate \(1e\+38\)"):
            train(config, plan_training(config), tmp_path, verbose=0)
        assert not (tmp_path / "model.keras").exists()


def test_settings_json_is_written_as_it_is_checked(tiny_shards):
    assert {"sample_rate", "clip_seconds"} <= set(json.loads((tiny_shards / "settings.json").read_text()))
