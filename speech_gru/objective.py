"""What training minimises: a batch -> each clip's loss, and whether it was right. Keras 3 alone, on any backend."""

from collections.abc import Callable

import keras
from keras import ops

from speech_gru.config import Config

Objective = Callable[..., tuple]
"""(model, *batch) -> losses float32 (batch,), correct bool (batch,); the model is run as in training."""
BLANK = 0
"""The token that says nothing, in a CTC head's logits."""


def build_objective(config: Config) -> Objective:
    """What the experiment's head is trained with."""
    if config.model.head == "ctc":
        return CtcObjective(config.model.subsampling)
    return ClassificationObjective(config.training.label_smoothing)


class ClassificationObjective:
    """Cross-entropy. A batch: features, labels (batch, labels), one-hot or mixed, and weights (batch,)."""

    def __init__(self, label_smoothing: float):
        self.loss = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing, reduction=None, dtype="float32"
        )

    def __call__(self, model, features, labels, weights):
        logits = model(features, training=True)
        return self.loss(labels, logits) * weights, ops.argmax(logits, axis=1) == ops.argmax(labels, axis=1)


class CtcObjective:
    """Connectionist temporal classification (Graves et al. 2006). A batch: see data_pipeline.phrases.PhraseData."""

    def __init__(self, subsampling: int):
        self.subsampling = subsampling

    def __call__(self, model, features, frames, tokens, token_counts):
        logits = model([features, frames], training=True)
        steps = frames // self.subsampling
        return ctc_loss(logits, steps, tokens, token_counts), says(logits, steps, tokens, token_counts)


def ctc_loss(logits, steps, tokens, token_counts):
    """Minus the logarithm of a text's probability, the sum over its alignments: float32 (batch,), always finite.

    A text for which the steps don't suffice costs several hundred.

    Args:
        logits: (batch, steps, labels), of which label 0 is the blank.
        steps: (batch,) int32, each clip's own.
        tokens: (batch, tokens) int32, from 1; after the last anything.
        token_counts: (batch,) int32; may be 0.
    """
    return ops.ctc_loss(tokens, ops.cast(logits, "float32"), token_counts, steps, mask_index=BLANK)


def says(logits, steps, tokens, token_counts):
    """Whether the most probable path (speech_gru.decoding.greedy) says the text: bool (batch,). Arguments as above."""
    path = ops.cast(ops.argmax(logits, axis=2), "int32")
    before = ops.pad(path[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    inside = ops.arange(ops.shape(path)[1], dtype="int32")[None, :] < steps[:, None]
    kept = inside & (path != before) & (path != BLANK)
    # The text's token that each step must say, if it says one: that of its number among those kept.
    number = ops.cumsum(ops.cast(kept, "int32"), axis=1)
    expected = ops.take_along_axis(tokens, ops.clip(number - 1, 0, ops.shape(tokens)[1] - 1), axis=1)
    count = ops.sum(ops.cast(kept, "int32"), axis=1)
    return ops.logical_and(count == token_counts, ops.all(ops.logical_not(kept) | (path == expected), axis=1))
