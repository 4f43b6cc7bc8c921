"""What training minimises: a batch -> each clip's loss, and whether it was right. Keras 3 alone, on any backend."""

from collections.abc import Callable

import keras
from keras import ops

from speech_gru.config import Config

Objective = Callable[..., tuple]
"""(model, *batch) -> losses float32 (batch,), correct bool (batch,); the model is run as in training."""
BLANK = 0
"""The token that says nothing, in a CTC head's logits."""
UNSAYABLE = 700.0
"""The loss of a text for which a clip's steps don't suffice, a constant: it moves no weight."""
_NEVER = -1e30
"""The logarithm of a probability of 0: finite, and so far below all others that nothing comes near it."""


def build_objective(config: Config, teachers: Callable | None = None) -> Objective:
    """What the experiment's head is trained with.

    Args:
        teachers: see DistillationObjective; None: the labels alone.
    """
    if config.model.head == "ctc":
        if config.training.consistency:
            return ConsistentCtcObjective(config.model.subsampling, config.training.consistency)
        return CtcObjective(config.model.subsampling)
    if teachers is not None:
        return DistillationObjective(config.training.label_smoothing, teachers, config.training.distillation)
    return ClassificationObjective(config.training.label_smoothing)


class ClassificationObjective:
    """Cross-entropy. A batch: features, labels (batch, labels), one-hot or mixed, and weights (batch,)."""

    def __init__(self, label_smoothing: float):
        self.loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing, reduction=None, dtype="float32"
        )

    def __call__(self, model, features, labels, weights):
        logits = model(features, training=True)
        losses = self.losses(features, labels, logits)
        return losses * weights, ops.argmax(logits, axis=1) == ops.argmax(labels, axis=1)

    def losses(self, features, labels, logits):
        """Each clip's own, (batch,)."""
        return self.loss(labels, logits)


class DistillationObjective(ClassificationObjective):
    """Cross-entropy with the labels and with what teachers say (Hinton et al. 2015, arXiv:1503.02531; temperature 1).

    Args:
        teachers: features -> probabilities (batch, labels); see speech_gru.teachers.
        share: of the teachers in the loss.
    """

    def __init__(self, label_smoothing: float, teachers: Callable, share: float):
        super().__init__(label_smoothing)
        self.teachers, self.share = teachers, share

    def losses(self, features, labels, logits):
        taught = keras.losses.categorical_crossentropy(self.teachers(features), logits, from_logits=True)
        return (1 - self.share) * self.loss(labels, logits) + self.share * taught


class CtcObjective:
    """Connectionist temporal classification (Graves et al. 2006). A batch: see data_pipeline.phrases.PhraseData."""

    def __init__(self, subsampling: int):
        self.subsampling = subsampling

    def __call__(self, model, features, frames, tokens, token_counts):
        logits = model([features, frames], training=True)
        steps = frames // self.subsampling
        return ctc_loss(logits, steps, tokens, token_counts), says(logits, steps, tokens, token_counts)


class ConsistentCtcObjective:
    """CTC of two views of each phrase, which shall also be heard alike: CR-CTC (Yao et al. 2025, arXiv:2410.05101).

    To the mean of the two views' CTC losses comes the mean of the divergences of one view's steps from the other's,
    each of which the other one takes as given.

    Args:
        share: what the divergence is multiplied with.
    """

    def __init__(self, subsampling: int, share: float):
        self.subsampling, self.share = subsampling, share

    def __call__(self, model, features, frames, tokens, token_counts):
        """Features (batch, 2, frames, features); `correct` is of the first view."""
        both = ops.reshape(features, (-1, ops.shape(features)[2], features.shape[3]))
        logits = model([both, ops.repeat(frames, 2)], training=True)
        target = [frames // self.subsampling, tokens, token_counts]
        losses = ctc_loss(logits, *(ops.repeat(part, 2, axis=0) for part in target))
        one, other, steps = logits[0::2], logits[1::2], target[0]
        differing = (divergence(one, other, steps) + divergence(other, one, steps)) / 2
        return (losses[0::2] + losses[1::2]) / 2 + self.share * differing, says(one, *target)


def divergence(given, logits, steps):
    """Kullback and Leibler's of `logits` from `given`, a constant, summed over each clip's steps: float32 (batch,).

    Args:
        given, logits: (batch, steps, labels).
        steps: (batch,) int32, each clip's own.
    """
    expected = ops.stop_gradient(ops.log_softmax(ops.cast(given, "float32"), axis=2))
    found = ops.log_softmax(ops.cast(logits, "float32"), axis=2)
    of_steps = ops.sum(ops.exp(expected) * (expected - found), axis=2)
    return ops.sum(of_steps * ops.cast(_within(of_steps, steps), "float32"), axis=1)


def ctc_loss(logits, steps, tokens, token_counts):
    """Minus the logarithm of a text's probability, the sum over its alignments: float32 (batch,), always finite.

    A text for which the steps don't suffice costs UNSAYABLE. The forward algorithm of Graves et al. 2006, section 4.1:
    of Keras's own `ops.ctc_loss` the time grows with the square of the text's length on TensorFlow, so that sentences
    take ten times as long, and the value isn't finite on PyTorch.

    Args:
        logits: (batch, steps, labels), of which label 0 is the blank.
        steps: (batch,) int32, each clip's own.
        tokens: (batch, tokens) int32, from 1; after the last anything.
        token_counts: (batch,) int32; may be 0.
    """
    log_probs, steps = ops.log_softmax(ops.cast(logits, "float32"), axis=2), ops.cast(steps, "int32")
    tokens = ops.where(_within(tokens, token_counts), tokens, BLANK)
    # A path's states: a blank, the first token, a blank, the second token, ..., a blank.
    states = ops.reshape(ops.stack([ops.zeros_like(tokens), tokens], axis=2), (-1, 2 * ops.shape(tokens)[1]))
    states = ops.pad(states, ((0, 0), (0, 1)), constant_values=BLANK)
    # Two different tokens need no blank between them.
    can_skip = ops.logical_and(states != BLANK, states != _shifted(states, 2, BLANK))
    emitted = ops.take_along_axis(log_probs, states[:, None, :], axis=2)

    def step(before, emitted):
        alpha, number = before
        skipped = ops.where(can_skip, _shifted(alpha, 2, _NEVER), _NEVER)
        come = ops.logsumexp(ops.stack([alpha, _shifted(alpha, 1, _NEVER), skipped]), axis=0)
        return (ops.where((number < steps)[:, None], come + emitted, alpha), number + 1), None

    first = ops.where(ops.arange(ops.shape(states)[1]) == 0, 0.0, _NEVER) * ops.ones_like(states, dtype="float32")
    # The step's number is carried along: over two sequences Keras doesn't scan if their length isn't known before.
    (alpha, _), _ = ops.scan(step, (first, ops.zeros((), "int32")), ops.swapaxes(emitted, 0, 1))
    # A path ends in the last token, which an empty text has not, or in the blank behind it.
    alpha = ops.pad(alpha, ((0, 0), (1, 0)), constant_values=_NEVER)
    last = 2 * ops.cast(token_counts, "int32")[:, None]
    ends = ops.take_along_axis(alpha, ops.concatenate([last, last + 1], axis=1), axis=1)
    likelihood = ops.logsumexp(ends, axis=1)
    return ops.where(likelihood > _NEVER / 2, -likelihood, UNSAYABLE)


def says(logits, steps, tokens, token_counts):
    """Whether the most probable path (speech_gru.decoding.greedy) says the text: bool (batch,). Arguments as above."""
    path = ops.cast(ops.argmax(logits, axis=2), "int32")
    kept = ops.logical_and(_within(path, steps), ops.logical_and(path != _shifted(path, 1, -1), path != BLANK))
    # The text's token that each step must say, if it says one: that of its number among those kept.
    number = ops.cumsum(ops.cast(kept, "int32"), axis=1)
    expected = ops.take_along_axis(tokens, ops.clip(number - 1, 0, ops.shape(tokens)[1] - 1), axis=1)
    count = ops.sum(ops.cast(kept, "int32"), axis=1)
    return ops.logical_and(count == token_counts, ops.all(ops.logical_or(ops.logical_not(kept), path == expected), 1))


def _within(sequence, lengths):
    """Whether a place lies within its sequence's length: (batch, places, ...), (batch,) -> bool (batch, places)."""
    return ops.arange(ops.shape(sequence)[1], dtype="int32")[None, :] < ops.cast(lengths, "int32")[:, None]


def _shifted(sequence, places: int, first):
    """(batch, length), each value moved `places` to the right, `first` at the beginning."""
    return ops.pad(sequence, ((0, 0), (places, 0)), constant_values=first)[:, : ops.shape(sequence)[1]]
