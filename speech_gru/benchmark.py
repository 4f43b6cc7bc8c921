"""How fast a training runs, and what holds it up: the model, the input pipeline, and both together."""

import time
from collections.abc import Callable, Iterator
from itertools import cycle

from speech_gru.config import Config
from speech_gru.training import Plan, adapted_front_end, build_learner, device_batches, training_data

WARM_UP_STEPS = 5
"""The first steps trace the graphs, fill the buffers and let tf.data tune itself; they aren't counted."""


def benchmark_training(config: Config, plan: Plan, steps: int) -> dict[str, float]:
    """Trains so many steps on two batches, reads so many batches, and trains on so many batches as they come.

    Returns: model_ms, pipeline_ms, together_ms: of a step, on average; clips_per_second, of both together; ratio, of
        together_ms to the slower of the two: above 1 the model waits for data, or both want the same cores; and
        data_wait_share, which tells these apart: the share of together_ms in which the model waits for its batch.
    """
    front_end = adapted_front_end(config)
    learner, data = build_learner(config, plan, front_end), training_data(config, plan, front_end)
    batches = device_batches(plan.strategy, data, 0)
    first = [next(batches), next(batches)]  # of clips and of streams, if there are such

    def train(batch: tuple) -> None:
        float(learner.step(batch)["loss"])  # waits for the device

    _, model = _waiting_and_using(cycle(first), train, steps)
    pipeline, _ = _waiting_and_using(device_batches(plan.strategy, data, 0), lambda batch: None, steps)
    waiting, training = _waiting_and_using(device_batches(plan.strategy, data, 0), train, steps)
    together = waiting + training
    return {
        "model_ms": 1e3 * model,
        "pipeline_ms": 1e3 * pipeline,
        "together_ms": 1e3 * together,
        "clips_per_second": config.training.batch_size / together,
        "ratio": together / max(model, pipeline),
        "data_wait_share": waiting / together,
    }


def _waiting_and_using(batches: Iterator, use: Callable[[tuple], None], steps: int) -> tuple[float, float]:
    """Means of the time in which a batch comes, and in which it is used: they come in bursts, a step tells little."""
    coming = using = 0.0
    for number in range(WARM_UP_STEPS + steps):
        start = time.perf_counter()
        batch = next(batches)
        come = time.perf_counter()
        use(batch)
        if number >= WARM_UP_STEPS:
            coming, using = coming + come - start, using + time.perf_counter() - come
    return coming / steps, using / steps
