"""One training step, on one device or on many.

Keras 3's own step can't be used on several devices: its optimisers clip each device's gradients before they are summed,
so that more devices would train another model. This one clips the sum.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from speech_gru.objective import Objective

Batch = tuple[tf.Tensor, ...]
"""What the objective takes: the model's inputs, then what it shall say to them; clips first, or streams of clips."""


def build_step(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    objective: Objective,
    *,
    clip_norm: float | None,
    batch_size: int,
    strategy: tf.distribute.Strategy,
    xla: bool = False,
) -> Callable[[Batch], dict[str, tf.Tensor]]:
    """A function that trains `model` on a batch and tells what happened.

    Args:
        objective: see speech_gru.objective.
        clip_norm: upper bound of the gradients' global norm; None: no bound.
        batch_size: clips in a whole batch, of all devices together.
        strategy: under whose scope model and optimiser were made.
        xla: compile with XLA; rules out cuDNN's GRU.

    Each device draws the same dropout masks for its part of the batch, for Keras keeps one random state.

    Returns: batch -> float32 scalars: loss (weighted mean over the batch), correct (clips), gradient_norm (before
        clipping), learning_rate, loss_scale (1 without loss scaling).
    """
    replicas = strategy.num_replicas_in_sync
    inner = getattr(optimizer, "inner_optimizer", optimizer)

    def train_replica(batch: Batch) -> dict[str, tf.Tensor]:
        learning_rate, loss_scale = tf.cast(inner.learning_rate, tf.float32), optimizer.scale_loss(tf.ones(()))
        with tf.GradientTape() as tape:
            losses, correct = objective(model, *batch)
            value = tf.reduce_sum(losses) / batch_size
            scaled = value * loss_scale
        gradients = tape.gradient(scaled, model.trainable_variables)
        gradients = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, gradients)
        norm = tf.linalg.global_norm(gradients) / loss_scale
        factor = 1.0 if clip_norm is None else tf.minimum(1.0, clip_norm / norm)
        # Keras's optimisers will sum over the devices what has been summed already.
        optimizer.apply([gradient * (factor / replicas) for gradient in gradients], model.trainable_variables)
        summed = {"loss": value, "correct": tf.reduce_sum(tf.cast(correct, tf.float32))}
        same = {"gradient_norm": norm, "learning_rate": learning_rate, "loss_scale": loss_scale}
        return summed | {name: value / replicas for name, value in same.items()}

    @tf.function(jit_compile=xla or None, reduce_retracing=True)
    def step(batch: Batch) -> dict[str, tf.Tensor]:
        told = strategy.run(train_replica, args=(batch,))
        return {name: strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None) for name, value in told.items()}

    return step
