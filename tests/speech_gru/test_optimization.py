"""The loss, the optimiser with its schedule and averages, the labels' weights; and that they need no TensorFlow."""

import os
import subprocess
import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_gru.config import ModelSettings, TrainingSettings
from speech_gru.model import build_model
from speech_gru.objective import ClassificationObjective
from speech_gru.optimization import averaged_weights, build_optimizer, class_weights
from speech_gru.step import build_step
from speech_gru.training import dtype_policy


def built(steps_per_epoch: int = 10, policy: str = "float32", **values) -> tuple[keras.Model, keras.Optimizer]:
    """A model with every kind of layer that we use, and its optimiser."""
    keras.utils.set_random_seed(0)
    with dtype_policy(policy):
        model = build_model(ModelSettings(units=3, layers=2, convolution_filters=5), 6, 4, 3)
    arguments = {"warmup_epochs": 0, "epochs": 10} | values
    optimizer = build_optimizer(TrainingSettings(**arguments), steps_per_epoch, policy)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def learning_rate(optimizer: keras.Optimizer, step: int) -> float:
    optimizer.iterations.assign(step)
    return float(optimizer.learning_rate)


def apply_zeros(model: keras.Model, optimizer: keras.Optimizer) -> None:
    optimizer.apply([keras.ops.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables)


class TestSchedule:
    @pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
    def test_the_rate_climbs_to_its_peak_and_falls_as_a_cosine_to_zero(self, name):
        _, optimizer = built(epochs=10, warmup_epochs=2, learning_rate=0.1, optimizer=name)
        for step in range(20):
            assert learning_rate(optimizer, step) == pytest.approx(0.1 * step / 20, abs=1e-7)
        for step in range(20, 101):
            expected = 0.1 * (1 + np.cos(np.pi * (step - 20) / 80)) / 2
            assert learning_rate(optimizer, step) == pytest.approx(expected, abs=1e-7)
        assert learning_rate(optimizer, 1000) == pytest.approx(0, abs=1e-7)

    @pytest.mark.parametrize(
        ("values", "steps", "rates"),
        [
            ({"warmup_epochs": 0, "epochs": 2}, 10, {0: 0.1, 10: 0.05, 20: 0}),
            ({"warmup_epochs": 0.5, "epochs": 1}, 10, {0: 0, 4: 0.08, 5: 0.1, 10: 0}),
            ({"warmup_epochs": 0.9, "epochs": 1}, 1, {0: 0, 1: 0.1, 2: 0}),  # all of one step
        ],
    )
    def test_odd_warm_ups(self, values, steps, rates):
        _, optimizer = built(steps, learning_rate=0.1, **values)
        assert {step: learning_rate(optimizer, step) for step in rates} == pytest.approx(rates, abs=1e-7)


class TestOptimizer:
    def test_decay_shrinks_matrices_alone(self):
        model, optimizer = built(learning_rate=0.1, weight_decay=0.5, ema=None)
        model.set_weights([np.ones_like(weight) for weight in model.get_weights()])
        apply_zeros(model, optimizer)
        shrunk = {variable.path: variable.numpy().ravel()[0] for variable in model.trainable_variables}
        matrices = {path: value for path, value in shrunk.items() if path.endswith("kernel")}
        assert len(matrices) == 1 + 2 * 2 * 2 + 2 + 1  # convolution; GRUs; attention; head
        assert set(matrices.values()) == {np.float32(1 - 0.1 * 0.5)}
        others = {path: value for path, value in shrunk.items() if path not in matrices}
        assert {path.rpartition("/")[2] for path in others} == {"bias", "gamma", "beta"}
        assert set(others.values()) == {1.0}

    @pytest.mark.parametrize("name", ["adam", "sgd"])
    def test_the_others_do_not_decay(self, name):
        model, optimizer = built(optimizer=name, weight_decay=0.5, ema=None)
        before = model.get_weights()
        apply_zeros(model, optimizer)
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    @pytest.mark.parametrize(
        ("name", "kind"),
        [("adamw", keras.optimizers.AdamW), ("adam", keras.optimizers.Adam), ("sgd", keras.optimizers.SGD)],
    )
    def test_each_is_what_it_is_called(self, name, kind):
        _, optimizer = built(optimizer=name, ema=0.7)
        assert type(optimizer) is kind
        assert (optimizer.use_ema, optimizer.ema_momentum) == (True, 0.7)
        assert not built(optimizer=name, ema=None)[1].use_ema

    @pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
    def test_float16_alone_has_its_loss_scaled(self, policy):
        _, optimizer = built(policy=policy, ema=0.7)
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        assert (type(inner), inner.use_ema) == (keras.optimizers.AdamW, True)

    @pytest.mark.parametrize("clip_norm", [None, 1e-6])
    def test_it_clips_nothing_itself(self, clip_norm):
        """Several devices would each clip their own share; the step clips the sum."""
        _, optimizer = built(clip_norm=clip_norm)
        assert (optimizer.clipnorm, optimizer.global_clipnorm, optimizer.clipvalue) == (None, None, None)

    @pytest.mark.parametrize(
        ("ema", "epochs", "steps", "momentum"), [(0.999, 100, 100, 0.999), (0.999, 10, 10, 0.95), (0.9, 1, 4, 0.0)]
    )
    def test_a_short_run_still_forgets_its_first_weights(self, ema, epochs, steps, momentum):
        _, optimizer = built(steps, epochs=epochs, ema=ema)
        assert optimizer.ema_momentum == pytest.approx(momentum)
        assert momentum ** (epochs * steps) < 0.01


class TestAveragedWeights:
    @pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
    def test_by_hand(self, policy):
        model, optimizer = built(policy=policy, ema=0.6, learning_rate=0.1)
        rng, expected = np.random.default_rng(0), None
        for _ in range(4):
            gradients = [rng.normal(0, 1, v.shape).astype(np.float32) for v in model.trainable_variables]
            optimizer.apply([keras.ops.convert_to_tensor(one) for one in gradients], model.trainable_variables)
            now = [variable.numpy() for variable in model.trainable_variables]
            # Keras's average starts at the weights after the first step.
            expected = (
                now if expected is None else [0.6 * old + 0.4 * new for old, new in zip(expected, now, strict=True)]
            )
        raw, averaged = model.get_weights(), averaged_weights(model, optimizer)
        trained = {id(variable): average for variable, average in zip(model.trainable_variables, expected, strict=True)}
        assert len(trained) == len(model.weights) - 2  # the normalisation's running mean and variance aren't averaged
        for weight, kept, last in zip(model.weights, averaged, raw, strict=True):
            np.testing.assert_allclose(kept, trained.get(id(weight), last), rtol=1e-4, atol=1e-6)
        assert max(np.abs(kept - last).max() for kept, last in zip(averaged, raw, strict=True)) > 0.01
        for weight, last in zip(model.get_weights(), raw, strict=True):
            np.testing.assert_array_equal(weight, last)  # the model itself is left as it was

    def test_without_averages_they_are_the_weights(self):
        model, optimizer = built(ema=None)
        for kept, weight in zip(averaged_weights(model, optimizer), model.get_weights(), strict=True):
            np.testing.assert_array_equal(kept, weight)


class TestLoss:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
    def test_it_is_cross_entropy_with_smoothed_labels(self, smoothing):
        logits = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]], np.float32)
        truth = np.array([[1, 0, 0], [0, 0.25, 0.75]], np.float32)  # the second is mixup's
        log_probabilities = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        expected = -((truth * (1 - smoothing) + smoothing / 3) * log_probabilities).sum(axis=1)
        loss = ClassificationObjective(smoothing).loss(truth, logits)
        assert loss.shape == (2,)
        np.testing.assert_allclose(loss, expected, rtol=1e-5)

    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    def test_logits_and_loss_are_float32_under_mixed_policies(self, policy):
        with dtype_policy(policy):
            model, loss = build_model(ModelSettings(units=3), 6, 4, 3), ClassificationObjective(0.1).loss
            assert model.get_layer("pooling").compute_dtype == policy.removeprefix("mixed_")
            logits = model(np.ones((2, 6, 4), np.float32), training=True)
            assert (logits.dtype, loss(np.eye(3)[:2], logits).dtype) == (tf.float32, tf.float32)
            # 2**-16 is no longer seen beside 1 in either half-precision format.
            fine = loss(np.eye(3, dtype=np.float32)[:2], np.array([[1 + 2**-16, 1, 1], [1, 1, 1]], np.float32)).numpy()
        assert 0 < fine[1] - fine[0] < 2**-15


class TestClassWeights:
    def test_by_hand(self):
        assert class_weights((10, 30), 0.0).tolist() == [1, 1]
        assert class_weights((10, 30), 1.0) == pytest.approx([2.0, 2 / 3])
        # 4 ** -0.5 = 1/2 and 16 ** -0.5 = 1/4: a mean of (4 / 2 + 16 / 4) / 20 = 0.3.
        assert class_weights((4, 16), 0.5) == pytest.approx([0.5 / 0.3, 0.25 / 0.3])
        assert class_weights((4, 0, 16), 1.0).tolist() == pytest.approx([2.5, 0, 0.625])
        assert class_weights((4, 16), 0.5).dtype == np.float32

    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(0, 5000), min_size=2, max_size=9).filter(any), st.floats(0, 1))
    def test_the_mean_over_the_clips_is_one(self, counts, balance):
        weights = class_weights(tuple(counts), balance)
        assert weights @ counts == pytest.approx(sum(counts), rel=1e-5)
        assert np.isfinite(weights).all()
        assert (weights >= 0).all()


STEPS = 3
SETTINGS = {"epochs": 2, "warmup_epochs": 0, "learning_rate": 0.05, "ema": 0.5, "clip_norm": None}
MODEL = {"units": 4, "layers": 2, "convolution_filters": 6, "subsampling": 2, "convolution_kernel": 3, "dropout": 0}
ELSEWHERE = f"""
import sys
sys.modules["tensorflow"] = None  # importing it fails
import keras, numpy as np
from speech_gru.config import ModelSettings, TrainingSettings
from speech_gru.model import build_model
from speech_gru.objective import ClassificationObjective
from speech_gru.optimization import averaged_weights, build_optimizer
archive, settings = np.load(sys.argv[1]), TrainingSettings(**{SETTINGS!r})
assert keras.backend.backend() == sys.argv[2]
model = build_model(ModelSettings(**{MODEL!r}), 11, 5, 3)
model.set_weights([archive[f"before_{{index}}"] for index in range(len(model.weights))])
loss = ClassificationObjective(settings.label_smoothing).loss
model.compile(build_optimizer(settings, 4, "float32"), lambda truth, logits: keras.ops.mean(loss(truth, logits)))
for features, labels, expected in zip(archive["features"], archive["labels"], archive["losses"]):
    model.reset_metrics()  # else it tells the mean of all steps
    np.testing.assert_allclose(model.train_on_batch(features, labels), expected, rtol=1e-4)
for index, weight in enumerate(averaged_weights(model, model.optimizer)):
    np.testing.assert_allclose(weight, archive[f"after_{{index}}"], rtol=1e-2, atol=1e-3)
"""


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory):
    """Three steps of the training proper: weights before, batches, losses, averages after, in a file."""
    keras.utils.set_random_seed(3)
    rng, config = np.random.default_rng(3), TrainingSettings(**SETTINGS)
    features = rng.normal(0, 1, (STEPS, 8, 11, 5)).astype(np.float32)
    labels = np.eye(3, dtype=np.float32)[rng.integers(0, 3, (STEPS, 8))]
    model, optimizer = build_model(ModelSettings(**MODEL), 11, 5, 3), build_optimizer(config, 4, "float32")
    optimizer.build(model.trainable_variables)
    before = {f"before_{index}": weight for index, weight in enumerate(model.get_weights())}
    strategy = tf.distribute.get_strategy()
    step = build_step(
        model,
        optimizer,
        ClassificationObjective(config.label_smoothing),
        clip_norm=None,
        batch_size=8,
        strategy=strategy,
    )
    losses = [float(step((*batch, np.ones(8, np.float32)))["loss"]) for batch in zip(features, labels, strict=True)]
    assert max(losses) - min(losses) > 1e-2
    after = {f"after_{index}": weight for index, weight in enumerate(averaged_weights(model, optimizer))}
    file = tmp_path_factory.mktemp("backends") / "here.npz"
    np.savez(file, features=features, labels=labels, losses=losses, **before, **after)
    return file


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_the_same_model_learns_the_same_on_other_backends(backend, three_steps):
    if find_spec(backend) is None:
        pytest.skip(f"needs {backend}, which isn't installed")
    code = ELSEWHERE if backend != "tensorflow" else ELSEWHERE.replace('sys.modules["tensorflow"] = None', "")
    done = subprocess.run(
        [sys.executable, "-c", code, three_steps, backend],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
