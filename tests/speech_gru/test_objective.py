"""The CTC loss against three others written independently, and the phrase model's indifference to padding."""

import itertools
import os
import subprocess
import sys
from importlib.util import find_spec

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from data_pipeline.phrases import steps_needed
from speech_gru.config import Config, ModelSettings
from speech_gru.decoding import ctc_log_likelihood, greedy
from speech_gru.model import build_model
from speech_gru.objective import (
    UNSAYABLE,
    ClassificationObjective,
    ConsistentCtcObjective,
    CtcObjective,
    build_objective,
    ctc_loss,
    divergence,
    says,
)
from speech_gru.training import dtype_policy

SEEDS = st.integers(0, 2**32 - 1)
STEPS, LABELS, TOKENS = 7, 4, 4
"""Of each case, however much of it is padding: TensorFlow then makes its graphs once."""


def log_softmax(logits: np.ndarray) -> np.ndarray:
    rows = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))


def case(seed: int, batch: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits, steps, tokens with garbage after the last, token counts: all texts can be said, one at least is empty."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, rng.choice([0.3, 2, 8]), (batch, STEPS, LABELS)).astype(np.float32)
    tokens = rng.integers(1, rng.choice([2, LABELS]), (batch, TOKENS))  # those of one token alone are repeated
    steps = rng.integers(1, STEPS + 1, batch)
    counts = rng.integers(0, TOKENS + 1, batch)
    counts[0], steps[1] = 0, STEPS
    for row in range(batch):
        while steps_needed(tokens[row, : counts[row]]) > steps[row]:
            counts[row] -= 1
        tokens[row, counts[row] :] = rng.integers(-3, 99, TOKENS - counts[row])
    return logits, steps.astype(np.int32), tokens.astype(np.int32), counts.astype(np.int32)


LENGTHS, TEXTS = tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None, None), tf.int32)


@tf.function(input_signature=(tf.TensorSpec((None, None, None)), LENGTHS, TEXTS, LENGTHS))
def loss_and_gradient(logits, steps, tokens, counts):
    """With all shapes unknown, as in training."""
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = ctc_loss(logits, steps, tokens, counts)
    return losses, tape.gradient(losses, logits)


def ours(logits, steps, tokens, counts) -> tuple[np.ndarray, np.ndarray]:
    """Losses (batch,) and the gradient of their sum, like the logits."""
    constants = (tf.constant(logits), *(tf.constant(part, tf.int32) for part in (steps, tokens, counts)))
    losses, gradient = loss_and_gradient(*constants)
    return losses.numpy(), gradient.numpy()


def by_brute_force(logits: np.ndarray, text: tuple[int, ...]) -> float:
    """Minus the logarithm of the sum over all paths, of which there are labels ** steps, that say the text."""
    probabilities, total = np.exp(log_softmax(logits)), 0.0
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        said = tuple(token for token, _ in itertools.groupby(path) if token)
        total += said == text and np.prod([row[token] for row, token in zip(probabilities, path, strict=True)])
    return -np.log(total)


class TestCtcLoss:
    @settings(max_examples=60, deadline=None)
    @given(SEEDS)
    def test_it_is_the_decoders_likelihood(self, seed):
        logits, steps, tokens, counts = case(seed)
        losses, _ = ours(logits, steps, tokens, counts)
        expected = [
            -ctc_log_likelihood(log_softmax(rows[:length]), text[:count].tolist())
            for rows, length, text, count in zip(logits, steps, tokens, counts, strict=True)
        ]
        np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("text", [(), (1,), (2, 2), (1, 2), (1, 1, 2), (2, 1, 2, 1)])
    @pytest.mark.parametrize("steps", [4, 5])
    def test_it_is_the_sum_over_all_paths(self, steps, text):
        logits = np.random.default_rng(len(text)).normal(0, 2, (1, STEPS, LABELS)).astype(np.float32)
        tokens = np.array([[*text, *[3] * (TOKENS - len(text))]])
        losses, _ = ours(logits, [steps], tokens, [len(text)])
        assert losses == pytest.approx([by_brute_force(logits[0, :steps], text)], rel=1e-5)

    @settings(max_examples=4, deadline=None)
    @given(SEEDS)
    @example(0)
    def test_its_gradient_is_the_likelihoods_differences(self, seed):
        logits, steps, tokens, counts = case(seed, batch=3)
        _, gradient = ours(logits, steps, tokens, counts)
        for row, length, count in zip(range(3), steps, counts, strict=True):
            assert not gradient[row, length:].any()
            for place in itertools.product(range(length), range(LABELS)):
                step = np.zeros((length, LABELS))
                step[place] = 1e-4
                above, below = (
                    -ctc_log_likelihood(log_softmax(logits[row, :length] + sign * step), tokens[row, :count].tolist())
                    for sign in (1, -1)
                )
                assert gradient[row][place] == pytest.approx((above - below) / 2e-4, abs=2e-4)

    def test_equal_probabilities_share_the_gradient(self):
        """Where paths are equally probable, a careless logarithm of a sum gives the gradient to one of them."""
        _, gradient = ours(np.zeros((1, STEPS, LABELS)).astype(np.float32), [2], [[1, 0, 0, 0]], [1])
        # Of "1_", "_1" and "11" two have a 1 in the first step, and two in the second.
        expected = [[1 / 4 - 1 / 3, 1 / 4 - 2 / 3, 1 / 4, 1 / 4]] * 2
        np.testing.assert_allclose(gradient[0, :2], expected, atol=1e-6)

    @settings(max_examples=40, deadline=None)
    @given(SEEDS)
    def test_it_is_pytorchs(self, seed):
        torch = pytest.importorskip("torch", reason="needs torch, which isn't installed")
        logits, steps, tokens, counts = case(seed)
        losses, gradient = ours(logits, steps, tokens, counts)
        given_logits = torch.tensor(logits, requires_grad=True)
        log_probs = torch.log_softmax(given_logits, dim=2).swapaxes(0, 1)
        clean = torch.tensor(np.where(np.arange(TOKENS) < counts[:, None], tokens, 1), dtype=torch.long)
        lengths = (torch.tensor(part, dtype=torch.long) for part in (steps, counts))
        theirs = torch.nn.functional.ctc_loss(log_probs, clean, *lengths, reduction="none")
        theirs.sum().backward()
        np.testing.assert_allclose(losses, theirs.detach().numpy(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(gradient, given_logits.grad.numpy(), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("text", [(1, 1), (1, 2, 3), (2, 2, 2, 2)])
    def test_a_text_too_long_for_the_steps_is_finite_and_moves_nothing(self, text):
        logits = np.random.default_rng(0).normal(0, 2, (2, STEPS, LABELS)).astype(np.float32)
        tokens = np.array([[*text, *[0] * (TOKENS - len(text))], [1, 0, 0, 0]])
        losses, gradient = ours(logits, [2, 2], tokens, [len(text), 1])
        assert losses[0] == UNSAYABLE
        assert not gradient[0].any()
        assert losses[1] == pytest.approx(by_brute_force(logits[1, :2], (1,)), rel=1e-5), "others aren't touched"
        assert gradient[1, :2].all()

    def test_no_steps_at_all(self):
        """A clip may be shorter than one step."""
        losses, gradient = ours(np.ones((2, STEPS, LABELS)).astype(np.float32), [0, 0], np.ones((2, TOKENS)), [0, 1])
        assert losses.tolist() == [0, UNSAYABLE]
        assert not gradient.any()

    def test_a_text_that_is_thought_all_but_impossible(self):
        """Thousands, where a logarithm of 0 that is too high a number would leave hundreds."""
        logits = np.zeros((1, 300, 3)).astype(np.float32)
        logits[:, :, 2] = 20
        losses, gradient = ours(logits, [300], [[1, 1, 1, 1]], [4])
        expected = -ctc_log_likelihood(log_softmax(logits[0]), [1, 1, 1, 1])
        assert expected > 5000
        assert losses == pytest.approx([expected], rel=1e-5)
        np.testing.assert_allclose(gradient[0, :, 2], 1, atol=1e-4)

    @pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
    def test_it_is_float32_under_mixed_policies(self, policy):
        logits, *others = case(3)
        expected, _ = ours(logits, *others)
        with dtype_policy(policy):
            losses = ctc_loss(logits, *others)
            half = ctc_loss(tf.cast(logits, policy.removeprefix("mixed_")), *others)
        assert (losses.dtype, half.dtype) == (tf.float32, tf.float32)
        np.testing.assert_allclose(losses, expected, rtol=1e-6)
        np.testing.assert_allclose(half, expected, rtol=0.05, atol=0.1)


class TestSays:
    @settings(max_examples=60, deadline=None)
    @given(SEEDS)
    def test_it_is_what_greedy_decoding_says(self, seed):
        logits, steps, tokens, counts = case(seed, batch=12)
        heard = [
            [token.index for token in greedy(log_softmax(rows[:n]))] for rows, n in zip(logits, steps, strict=True)
        ]
        for row in range(0, 12, 2):  # every other text is what is heard, as far as there is room
            counts[row] = min(TOKENS, len(heard[row]))
            tokens[row, : counts[row]] = heard[row][:TOKENS]
        found = says(*map(tf.constant, (logits, steps, tokens, counts))).numpy()
        expected = [text[:n].tolist() == said for text, n, said in zip(tokens, counts, heard, strict=True)]
        assert found.tolist() == expected

    @pytest.mark.parametrize(
        ("path", "steps", "text", "expected"),
        [
            ([1, 1, 0, 1, 2], 5, [1, 1, 2], True),
            ([1, 1, 0, 1, 2], 4, [1, 1], True),
            ([1, 1, 0, 1, 2], 5, [1, 2], False),
            ([1, 1, 0, 1, 2], 5, [1, 1, 2, 2], False),
            ([0, 0, 0, 0, 0], 5, [], True),
            ([3, 0, 0, 0, 0], 0, [], True),
            ([0, 0, 0, 0, 3], 5, [], False),
        ],
    )
    def test_by_hand(self, path, steps, text, expected):
        logits = np.eye(4, dtype=np.float32)[path][None]
        tokens = np.array([[*text, 2, 2]], np.int32)
        found = says(logits, np.array([steps], np.int32), tokens, np.array([len(text)], np.int32))
        assert found.numpy().tolist() == [expected]


FRAMES = (19, 7, 4, 12)
"""Of each clip of a batch, the longest first."""
FEATURES = 9
MODELS = {
    "bidirectional": {},
    "forwards": {"bidirectional": False},
    "stacked": {"subsampling": 3},
    "convolutions": {"convolution_filters": 6, "convolution_layers": 2, "subsampling": 2},
    "forward convolutions": {"bidirectional": False, "convolution_filters": 6, "convolution_layers": 2},
    "stem": {"stem_filters": (4, 4, 4), "convolution_filters": 6, "convolution_layers": 2, "subsampling": 2},
    "forward stem": {"bidirectional": False, "stem_filters": (4,), "convolution_filters": 6, "subsampling": 2},
}


def phrase_model(policy: str = "float32", **values) -> keras.Model:
    """With random weights, biases and statistics too."""
    keras.utils.set_random_seed(5)
    with dtype_policy(policy):
        model = build_model(ModelSettings(head="ctc", units=5, layers=1, dropout=0, **values), 19, FEATURES, LABELS)
    rng = np.random.default_rng(5)
    for weight in model.weights:
        noise = rng.normal(0, 0.3, weight.shape)
        weight.assign(np.abs(noise) + 0.5 if "moving_variance" in weight.path else weight.numpy() + noise)
    return model


def clips() -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Each clip's features, (frames, FEATURES), and texts of a token or two: tokens, token counts."""
    rng = np.random.default_rng(6)
    features = [rng.normal(0, 1, (frames, FEATURES)).astype(np.float32) for frames in FRAMES]
    return features, np.array([[1, 2], [3, 0], [2, 0], [1, 1]], np.int32), np.array([2, 1, 1, 2], np.int32)


def padded(features: list[np.ndarray], frames: int, filler: float = 0.0) -> np.ndarray:
    rows = [np.pad(clip, ((0, frames - len(clip)), (0, 0)), constant_values=filler) for clip in features]
    return np.stack(rows)


def measuring(model: keras.Model, subsampling: int):
    """A function of a batch: logits, losses, and the gradients of the losses' sum with respect to the weights."""

    @tf.function(input_signature=(tf.TensorSpec((None, None, FEATURES)), LENGTHS, TEXTS, LENGTHS))
    def measure(features, frames, tokens, counts):
        with tf.GradientTape() as tape:
            logits = model([features, frames])
            losses = ctc_loss(logits, frames // subsampling, tokens, counts)
        return logits, losses, tape.gradient(losses, model.trainable_variables)

    return lambda *batch: tf.nest.map_structure(lambda part: part.numpy(), measure(*batch))


class TestPadding:
    @pytest.mark.parametrize(
        ("name", "policy"),
        [*((name, "float32") for name in MODELS), ("convolutions", "mixed_bfloat16"), ("forwards", "mixed_bfloat16")],
    )
    def test_logits_loss_and_gradients_are_those_of_each_clip_alone(self, name, policy):
        model, subsampling = phrase_model(policy, **MODELS[name]), MODELS[name].get("subsampling", 1)
        measure, (features, tokens, counts) = measuring(model, subsampling), clips()
        frames = np.array(FRAMES, np.int32)
        # Garbage behind the clips: the model itself must not look at it.
        batch = padded(features, 23, filler=9.0), frames, tokens, counts
        logits, losses, whole = measure(*batch)
        total = [np.zeros_like(part) for part in whole]
        loose = 1e-5 if policy == "float32" else 0.03
        for row, clip in enumerate(features):
            steps = len(clip) // subsampling
            one = clip[None], frames[row : row + 1], tokens[row : row + 1], counts[row : row + 1]
            alone, loss, parts = measure(*one)
            assert alone.shape == (1, steps, LABELS)
            np.testing.assert_allclose(logits[row, :steps], alone[0], rtol=loose, atol=loose)
            np.testing.assert_allclose(losses[row], loss[0], rtol=loose, atol=loose)
            total = [sum_ + part for sum_, part in zip(total, parts, strict=True)]
        for found, expected in zip(whole, total, strict=True):
            scale = max(1.0, np.abs(expected).max())
            np.testing.assert_allclose(found / scale, expected / scale, rtol=0, atol=10 * loose)

    @pytest.mark.parametrize("bidirectional", [False, True])
    @pytest.mark.parametrize("stem", [{}, {"stem_filters": (6,), "subsampling": 2}])
    def test_the_normalisations_statistics_dont_see_it(self, stem, bidirectional):
        """Trained on a padded batch they move as on all clips' own steps."""
        values = {"convolution_filters": 6, "convolution_layers": 2, "bidirectional": bidirectional, **stem}
        model, (features, *_) = phrase_model(**values), clips()
        norm, before = model.get_layer("batch_norm_0"), model.get_layer("batch_norm_0").get_weights()
        convolution = keras.Model(model.inputs, model.get_layer("convolution_0").output)
        own = [convolution([clip[None], np.array([len(clip)])]).numpy()[0].reshape(-1, 6) for clip in features]
        own = np.concatenate(own)
        bands = 4 if stem else 1
        assert own.shape == (bands * sum(frames // values.get("subsampling", 1) for frames in FRAMES), 6)
        model([padded(features, 40, filler=9.0), np.array(FRAMES, np.int32)], training=True)
        _, _, mean, variance = norm.get_weights()
        kept = norm.momentum
        np.testing.assert_allclose(mean, kept * before[2] + (1 - kept) * own.mean(axis=0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(variance, kept * before[3] + (1 - kept) * own.var(axis=0), rtol=1e-4, atol=1e-5)

    def test_a_batch_without_a_step_leaves_numbers(self):
        model = phrase_model(**MODELS["convolutions"])
        model([np.zeros((2, 8, FEATURES), np.float32), np.array([1, 0], np.int32)], training=True)
        assert all(np.isfinite(weight).all() for weight in model.get_weights())

    @pytest.mark.parametrize("name", ["bidirectional", "convolutions", "forward convolutions", "stem"])
    def test_training_gives_the_same_however_much_there_is(self, name):
        """With the normalisation's statistics of the batch, too."""
        objective = CtcObjective(MODELS[name].get("subsampling", 1))
        features, *texts = clips()
        frames_and_texts, found = [tf.constant(part) for part in (np.array(FRAMES, np.int32), *texts)], []
        for frames, filler in ((19, 0.0), (31, 9.0)):
            model = phrase_model(**MODELS[name])

            @tf.function
            def train(features, model=model):
                with tf.GradientTape() as tape:
                    losses, correct = objective(model, features, *frames_and_texts)
                return losses, tf.cast(correct, tf.float32), *tape.gradient(losses, model.trainable_variables)

            found.append([*train(padded(features, frames, filler)), *model.weights])
        for short, long in zip(*found, strict=True):
            np.testing.assert_allclose(
                keras.ops.convert_to_numpy(short), keras.ops.convert_to_numpy(long), rtol=1e-3, atol=1e-4
            )


class TestDivergence:
    @settings(max_examples=30, deadline=None)
    @given(SEEDS)
    def test_it_is_kullbacks_and_leiblers_and_moves_one_of_the_two(self, seed):
        given_logits, steps, _, _ = case(seed)
        logits = np.random.default_rng(seed + 1).normal(0, 2, given_logits.shape).astype(np.float32)
        variables = [tf.Variable(given_logits), tf.Variable(logits)]
        with tf.GradientTape() as tape:
            found = divergence(*variables, tf.constant(steps))
        of_given, gradient = tape.gradient(found, variables)
        assert of_given is None
        expected = [
            sum(entropy(p, q) for p, q in zip(softmax(one[:count], 1), softmax(other[:count], 1), strict=True))
            for one, other, count in zip(given_logits.astype(np.float64), logits.astype(np.float64), steps, strict=True)
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        difference = softmax(logits, 2) - softmax(given_logits, 2)  # what the derivative comes to
        inside = np.arange(STEPS) < steps[:, None]
        np.testing.assert_allclose(gradient, difference * inside[:, :, None], rtol=1e-3, atol=1e-5)


class TestConsistency:
    def measure(self, features, share, **settings):
        frames, (_, *texts) = np.array(FRAMES, np.int32), clips()
        model = phrase_model(**MODELS["bidirectional"], **settings)
        losses, correct = ConsistentCtcObjective(1, share)(model, features, frames, *texts)
        plain = [CtcObjective(1)(model, features[:, view], frames, *texts) for view in (0, 1)]
        return losses.numpy(), correct.numpy(), [(part.numpy(), right.numpy()) for part, right in plain]

    def test_equal_views_cost_what_one_costs(self):
        features = padded(clips()[0], 19)
        losses, correct, ((expected, right), _) = self.measure(np.stack([features, features], axis=1), 0.5)
        np.testing.assert_allclose(losses, expected, rtol=1e-4)
        np.testing.assert_array_equal(correct, right)

    def test_different_ones_cost_their_mean_and_what_they_differ_by(self):
        """Kullback and Leibler's divergence, the mean of both directions, of all of a phrase's steps."""
        features = padded(clips()[0], 19)
        views = np.stack([features, 0.5 * features], axis=1)
        losses, correct, ((one, right), (other, _)) = self.measure(views, 0.3)
        np.testing.assert_array_equal(correct, right)
        model = phrase_model(**MODELS["bidirectional"])
        frames = np.array(FRAMES, np.int32)
        said = [softmax(model([views[:, view], frames], training=True).numpy(), 2) for view in (0, 1)]
        differing = [
            sum(entropy(p, q) + entropy(q, p) for p, q in zip(first[:count], second[:count], strict=True)) / 2
            for first, second, count in zip(*said, FRAMES, strict=True)
        ]
        assert min(differing) > 0.01
        np.testing.assert_allclose(losses, (one + other) / 2 + 0.3 * np.array(differing), rtol=1e-4)

    def test_what_lies_behind_a_phrase_is_of_no_matter(self):
        found = []
        for frames, filler in ((19, 0.0), (31, 9.0)):
            features = padded(clips()[0], frames, filler)
            found.append(self.measure(np.stack([features, 0.5 * features], axis=1), 0.2)[0])
        np.testing.assert_allclose(*found, rtol=1e-3)


def test_the_objective_is_chosen_by_the_head(tmp_path):
    corpus = {"path": tmp_path, "shards": tmp_path}
    assert isinstance(build_objective(Config(name="x", corpus=corpus)), ClassificationObjective)
    config = Config(
        name="x", corpus={**corpus, "tokens": "words"}, model={"head": "ctc", "subsampling": 3}, augment={"speed": None}
    )
    assert isinstance(build_objective(config), CtcObjective)
    assert build_objective(config).subsampling == 3
    training = config.training.model_copy(update={"consistency": 0.2})
    consistent = build_objective(config.model_copy(update={"training": training}))
    assert (type(consistent), consistent.subsampling, consistent.share) == (ConsistentCtcObjective, 3, 0.2)


ELSEWHERE = f"""
import sys
sys.modules["tensorflow"] = None  # importing it fails
import keras, numpy as np
from keras import ops
from speech_gru.config import ModelSettings
from speech_gru.model import build_model
from speech_gru.objective import ConsistentCtcObjective, CtcObjective
archive = np.load(sys.argv[1])
assert keras.backend.backend() == sys.argv[2]
settings = ModelSettings(head="ctc", units=5, layers=1, dropout=0, **{MODELS["stem"]!r})
model = build_model(settings, 19, {FEATURES}, {LABELS})
model.set_weights([archive[f"weight_{{index}}"] for index in range(len(model.weights))])
batch = [ops.convert_to_tensor(archive[name]) for name in ("features", "frames", "tokens", "counts")]
losses, correct = CtcObjective(2)(model, *batch)
np.testing.assert_allclose(ops.convert_to_numpy(losses), archive["losses"], rtol=1e-3)
assert ops.convert_to_numpy(correct).tolist() == archive["correct"].tolist()
views = ops.stack([batch[0], 0.5 * batch[0]], axis=1)
losses, _ = ConsistentCtcObjective(2, 0.2)(model, views, *batch[1:])
np.testing.assert_allclose(ops.convert_to_numpy(losses), archive["of_views"], rtol=1e-3)
"""


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_step_runs_on_other_backends_without_tensorflow(backend, tmp_path):
    if find_spec(backend) is None:
        pytest.skip(f"needs {backend}, which isn't installed")
    features, tokens, counts = clips()
    model = phrase_model(**MODELS["stem"])
    weights = {f"weight_{index}": weight for index, weight in enumerate(model.get_weights())}
    batch = {"features": padded(features, 19), "frames": np.array(FRAMES, np.int32), "tokens": tokens, "counts": counts}
    losses, correct = CtcObjective(2)(model, *batch.values())
    views = np.stack([batch["features"], 0.5 * batch["features"]], axis=1)
    of_views, _ = ConsistentCtcObjective(2, 0.2)(model, views, *list(batch.values())[1:])
    np.savez(tmp_path / "here.npz", losses=losses, correct=correct, of_views=of_views, **batch, **weights)
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tmp_path / "here.npz", backend],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
