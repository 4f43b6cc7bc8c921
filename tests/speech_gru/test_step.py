"""The training step against NumPy: softmax regression, whose gradient is (p - y) x."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from speech_gru.config import ModelSettings, TrainingSettings
from speech_gru.model import build_model
from speech_gru.objective import ClassificationObjective
from speech_gru.optimization import build_optimizer
from speech_gru.step import build_step
from speech_gru.training import dtype_policy

BATCH, FEATURES, LABELS = 6, 4, 3
RATE = 0.01


class Trial:
    """A model of one dense layer, plain in its optimiser, and a batch for it."""

    def __init__(self, policy: str = "float32", **settings):
        keras.utils.set_random_seed(0)
        arguments = {"optimizer": "sgd", "learning_rate": RATE, "ema": None, "label_smoothing": 0, "clip_norm": None}
        config = TrainingSettings(**{"warmup_epochs": 0, "epochs": 10} | arguments | settings)
        with dtype_policy(policy):
            inputs = keras.Input((FEATURES,))
            hidden = keras.layers.Activation("linear")(inputs)  # computes in the policy's number format
            self.model = keras.Model(inputs, keras.layers.Dense(LABELS, dtype="float32")(hidden))
        self.optimizer = build_optimizer(config, 10, policy)
        self.optimizer.build(self.model.trainable_variables)
        self.step = build_step(
            self.model,
            self.optimizer,
            ClassificationObjective(config.label_smoothing),
            clip_norm=config.clip_norm,
            batch_size=BATCH,
            strategy=tf.distribute.get_strategy(),
        )
        rng = np.random.default_rng(1)
        self.features = rng.normal(0, 1, (BATCH, FEATURES)).astype(np.float32)
        self.labels = np.eye(LABELS, dtype=np.float32)[rng.integers(0, LABELS, BATCH)]
        self.weights = np.ones(BATCH, np.float32)

    def expected(self) -> tuple[float, list[np.ndarray], int]:
        """Loss, gradients of kernel and bias, and how many clips are right, before a step."""
        kernel, bias = (weight.astype(np.float64) for weight in self.model.get_weights())
        logits = self.features @ kernel + bias
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        loss = -(self.weights * np.log((probabilities * self.labels).sum(axis=1))).sum() / BATCH
        error = (probabilities - self.labels) * self.weights[:, None] / BATCH
        right = (logits.argmax(axis=1) == self.labels.argmax(axis=1)).sum()
        return loss, [self.features.T @ error, error.sum(axis=0)], right

    def run(self) -> tuple[dict[str, float], list[np.ndarray]]:
        """What a step tells, and how it moves the weights."""
        before = self.model.get_weights()
        told = {name: value.numpy() for name, value in self.step((self.features, self.labels, self.weights)).items()}
        assert {value.dtype for value in told.values()} == {np.dtype(np.float32)}
        return told, [new - old for old, new in zip(before, self.model.get_weights(), strict=True)]


def length(arrays: list[np.ndarray]) -> float:
    """The norm over all arrays together."""
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays)))


def test_what_it_tells_is_as_computed_by_hand():
    trial = Trial()
    for _ in range(2):
        loss, gradients, right = trial.expected()
        assert 0 < right < BATCH
        told, _ = trial.run()
        assert set(told) == {"loss", "correct", "gradient_norm", "learning_rate", "loss_scale"}
        assert told["loss"] == pytest.approx(loss, rel=1e-5)
        assert told["gradient_norm"] == pytest.approx(length(gradients), rel=1e-5)
        assert told["correct"] == right
        assert told["loss_scale"] == 1


def test_the_rate_is_the_one_it_was_trained_with():
    trial = Trial(epochs=2, warmup_epochs=1)
    assert [trial.run()[0]["learning_rate"] for _ in range(3)] == pytest.approx([0, RATE / 10, RATE / 5], abs=1e-9)


@pytest.mark.parametrize("clip_norm", [None, 0.05, 1000.0])
def test_the_gradient_is_clipped_by_its_norm_over_all_weights(clip_norm):
    trial = Trial(clip_norm=clip_norm)
    _, gradients, _ = trial.expected()
    assert length(gradients) > 0.1
    told, moved = trial.run()
    assert told["gradient_norm"] == pytest.approx(length(gradients), rel=1e-5)  # before it is clipped
    factor = 0.05 / length(gradients) if clip_norm == 0.05 else 1
    for movement, gradient in zip(moved, gradients, strict=True):
        # The first step of Nesterov's momentum 0.9 is 1.9 times that of plain descent.
        np.testing.assert_allclose(movement, -1.9 * RATE * factor * gradient, rtol=1e-3, atol=1e-7)


def test_clips_count_by_their_weights():
    trial = Trial()
    trial.weights = np.array([2, 0, 0.5, 1, 0, 3], np.float32)
    loss, gradients, right = trial.expected()
    told, moved = trial.run()
    assert told["loss"] == pytest.approx(loss, rel=1e-5)
    assert told["gradient_norm"] == pytest.approx(length(gradients), rel=1e-5)
    assert told["correct"] == right
    for movement, gradient in zip(moved, gradients, strict=True):
        np.testing.assert_allclose(movement, -1.9 * RATE * gradient, rtol=1e-3, atol=1e-7)


def test_mixed_labels_are_right_where_the_larger_share_is():
    trial = Trial()
    trial.labels = np.float32(0.7) * trial.labels + np.float32(0.3) * np.roll(trial.labels, 1, axis=1)
    assert trial.run()[0]["correct"] == trial.expected()[2]


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_loss_scaling_changes_nothing_but_the_scale(clip_norm):
    trial = Trial("mixed_float16", clip_norm=clip_norm)
    loss, gradients, _ = trial.expected()
    told, moved = trial.run()
    assert told["loss_scale"] == 2**15
    assert told["loss"] == pytest.approx(loss, rel=2e-3)
    assert told["gradient_norm"] == pytest.approx(length(gradients), rel=2e-3)
    assert told["learning_rate"] == pytest.approx(RATE)
    factor = 1 if clip_norm is None else clip_norm / length(gradients)
    for movement, gradient in zip(moved, gradients, strict=True):
        np.testing.assert_allclose(movement, -1.9 * RATE * factor * gradient, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_a_step_whose_gradient_overflows_is_left_out_and_the_scale_halved(clip_norm):
    with dtype_policy("mixed_float16"):
        model = build_model(ModelSettings(units=3, layers=1), 4, FEATURES, LABELS)
    config = TrainingSettings(epochs=10, warmup_epochs=0, clip_norm=clip_norm)
    optimizer = build_optimizer(config, 10, "mixed_float16")
    optimizer.build(model.trainable_variables)
    optimizer.dynamic_scale.assign(2.0**40)
    strategy = tf.distribute.get_strategy()
    step = build_step(
        model,
        optimizer,
        ClassificationObjective(config.label_smoothing),
        clip_norm=clip_norm,
        batch_size=BATCH,
        strategy=strategy,
    )
    rng, before = np.random.default_rng(0), model.get_weights()
    batch = rng.normal(0, 1, (BATCH, 4, FEATURES)).astype(np.float32), np.eye(LABELS, dtype=np.float32)[[0, 1, 2] * 2]
    told = {name: float(value) for name, value in step((*batch, np.ones(BATCH, np.float32))).items()}
    assert np.isfinite(told["loss"])
    assert not np.isfinite(told["gradient_norm"])
    assert told["loss_scale"] == 2**40
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for _ in range(40):
        told = {name: float(value) for name, value in step((*batch, np.ones(BATCH, np.float32))).items()}
    assert told["loss_scale"] < 2**30
    assert np.isfinite(told["gradient_norm"])
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert max(np.abs(new - old).max() for old, new in zip(before, model.get_weights(), strict=True)) > 0


def sequence_losses(xla: bool, batches) -> list[dict[str, float]]:
    """What three steps of a whole model tell."""
    keras.utils.set_random_seed(0)
    config = TrainingSettings(epochs=10, warmup_epochs=0, learning_rate=0.05)
    model = build_model(
        ModelSettings(units=3, layers=1, convolution_filters=4, dropout=0), 4, FEATURES, LABELS, cudnn=False, unroll=xla
    )
    optimizer = build_optimizer(config, 10, "float32")
    optimizer.build(model.trainable_variables)
    strategy = tf.distribute.get_strategy()
    step = build_step(
        model,
        optimizer,
        ClassificationObjective(config.label_smoothing),
        clip_norm=1.0,
        batch_size=BATCH,
        strategy=strategy,
        xla=xla,
    )
    if xla:  # TensorFlow has XLA's code of such a function alone
        assert "HloModule" in step.experimental_get_compiler_ir(batches[0])()
    return [{name: float(value) for name, value in step(batch).items()} for batch in batches]


def test_compiled_by_xla_it_tells_the_same():
    rng = np.random.default_rng(0)
    batches = [
        (
            rng.normal(0, 1, (BATCH, 4, FEATURES)).astype(np.float32),
            np.eye(LABELS, dtype=np.float32)[rng.integers(0, LABELS, BATCH)],
            rng.uniform(0.5, 2, BATCH).astype(np.float32),
        )
        for _ in range(3)
    ]
    plain, compiled = (sequence_losses(xla, batches) for xla in (False, True))
    for one, other in zip(plain, compiled, strict=True):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-6)
