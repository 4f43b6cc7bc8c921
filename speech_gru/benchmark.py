"""How fast a training runs, and what holds it up: the model, the input pipeline, and both together."""

import time
from collections.abc import Iterator
from itertools import repeat

from speech_gru.config import Config
from speech_gru.training import Plan, adapted_front_end, build_learner, device_batches, training_data

WARM_UP_STEPS = 5
"""The first steps trace the graphs, fill the buffers and let tf.data tune itself; they aren't counted."""


def benchmark_training(config: Config, plan: Plan, steps: int) -> dict[str, float]:
    """Trains so many steps on one batch, reads so many batches, and trains on so many batches as they come.

    Returns: model_ms, pipeline_ms, together_ms: of a step, on average; clips_per_second, of both together; and ratio,
        of together_ms to the slower of the two: above 1 the model waits for data, or both want the same cores.
    """
    front_end = adapted_front_end(config)
    learner, data = build_learner(config, plan, front_end), training_data(config, plan, front_end)
    batch = next(device_batches(plan.strategy, data, 0))

    def train(batches: Iterator) -> None:
        float(learner.step(next(batches))["loss"])  # waits for the device

    model = _step_seconds(train, repeat(batch), steps)
    pipeline = _step_seconds(next, device_batches(plan.strategy, data, 0), steps)
    together = _step_seconds(train, device_batches(plan.strategy, data, 0), steps)
    return {
        "model_ms": 1e3 * model,
        "pipeline_ms": 1e3 * pipeline,
        "together_ms": 1e3 * together,
        "clips_per_second": config.training.batch_size / together,
        "ratio": together / max(model, pipeline),
    }


def _step_seconds(step, batches: Iterator, steps: int) -> float:
    """The mean: batches come in bursts, so that single steps tell little."""
    for _ in range(WARM_UP_STEPS):
        step(batches)
    start = time.perf_counter()
    for _ in range(steps):
        step(batches)
    return (time.perf_counter() - start) / steps
