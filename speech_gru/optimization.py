"""How training minimises: the optimiser with its schedule. Keras 3 alone, on any backend."""

import keras
import numpy as np

from speech_gru.config import TrainingSettings


def build_optimizer(settings: TrainingSettings, steps_per_epoch: int, policy: str) -> keras.optimizers.Optimizer:
    """The optimiser with its schedule and moving average; for float16, in Keras's dynamic loss scaling.

    It doesn't clip: the step does (speech_gru.step), once the gradients of all devices are summed.

    Args:
        policy: the Keras dtype policy of the model.
    """
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=settings.learning_rate,
        warmup_steps=round(settings.warmup_epochs * steps_per_epoch),
        decay_steps=max(1, round((settings.epochs - settings.warmup_epochs) * steps_per_epoch)),
    )
    arguments = {"use_ema": settings.ema is not None}
    if settings.ema is not None:
        # Keras's average starts at the first weights: in a short run it must forget them faster, to less than 1 %.
        arguments["ema_momentum"] = min(settings.ema, max(0.0, 1 - 5 / (settings.epochs * steps_per_epoch)))
    if settings.optimizer == "adamw":
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=settings.weight_decay, **arguments)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    elif settings.optimizer == "adam":
        optimizer = keras.optimizers.Adam(schedule, **arguments)
    else:
        optimizer = keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True, **arguments)
    if policy == "mixed_float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def averaged_weights(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> list[np.ndarray]:
    """`model.get_weights()` with the moving averages, if its optimiser keeps them, in the trained weights' place."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    averages = {}
    if optimizer.use_ema:
        # Keras's own SwapEMAWeights reads this attribute; it would swap them in, which rounds the weights.
        pairs = zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True)
        averages = {id(variable): average for variable, average in pairs}
    return [keras.ops.convert_to_numpy(averages.get(id(weight), weight)) for weight in model.weights]


def class_weights(label_clips: tuple[int, ...], balance: float) -> np.ndarray:
    """Weight of each label's clips, count ** -balance, scaled to a mean of 1 over the clips: float32 (labels,)."""
    counts = np.array(label_clips, np.float64)
    raw = np.where(counts > 0, np.maximum(counts, 1) ** -balance, 0)
    return (raw * counts.sum() / (raw @ counts)).astype(np.float32)
