"""An epoch of `speech-gru train` beside Keras's bare `Model.fit` of the same model on features in memory already.

python benchmarks/epoch.py speech_commands_subset

Ours reads shards, augments, computes features, validates, writes checkpoints and TensorBoard; the bare one only trains
and validates. Both in one process, one after the other and again, so that a busy machine slows both. The first epoch of
each, in which graphs are traced, isn't counted.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import keras
import numpy as np

from data_pipeline.dataset import feature_batches
from speech_gru.config import Config, load_config
from speech_gru.loop import Monitor
from speech_gru.objective import ClassificationObjective
from speech_gru.optimization import build_optimizer
from speech_gru.training import Plan, adapted_front_end, build_learner, plan_training, train, training_data


class EpochTimes(Monitor):
    """Seconds from an epoch's end to the next one's."""

    def __init__(self):
        self.ends = []

    def epoch(self, epoch, figures, predictions):
        self.ends.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        return np.diff(self.ends).tolist()


def ours(config: Config, plan: Plan) -> list[float]:
    """Seconds of each epoch but the first."""
    times = EpochTimes()
    with tempfile.TemporaryDirectory() as scratch:
        train(config, plan, Path(scratch) / "run", monitors=[times])
    return times.seconds


def bare(config: Config, plan: Plan) -> list[float]:
    """The same of `Model.fit` on an epoch's features and labels in memory; not for augment.stream_clips."""
    front_end = adapted_front_end(config)
    epoch = training_data(config, plan, front_end).batches().take(plan.steps_per_epoch).as_numpy_iterator()
    features, labels, weights = (np.concatenate(parts) for parts in zip(*epoch, strict=True))
    batches = feature_batches(
        config.corpus.shards,
        "validation",
        plan.labels,
        front_end,
        clip_samples=config.corpus.clip_samples,
        batch_size=config.training.validation_batch_size,
    )
    validation = tuple(np.concatenate(parts) for parts in zip(*batches.as_numpy_iterator(), strict=True))
    model = build_learner(config, plan, front_end).model
    loss = ClassificationObjective(config.training.label_smoothing).loss
    loss.reduction = "sum_over_batch_size"
    optimizer = build_optimizer(config.training, plan.steps_per_epoch, plan.policy)
    optimizer.global_clipnorm = config.training.clip_norm
    model.compile(optimizer, loss, metrics=["accuracy"])
    ends = []
    model.fit(
        features,
        labels,
        sample_weight=weights,
        batch_size=config.training.batch_size,
        epochs=config.training.epochs,
        validation_data=validation,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(time.perf_counter()))],
        verbose=0,
    )
    return np.diff(ends).tolist()


def main() -> None:
    """Prints the medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE")
    parser.add_argument("--epochs", type=int, default=3, help="measured ones, in each of two rounds")
    arguments = parser.parse_args()
    short = [f"training.epochs={arguments.epochs + 1}", "training.warmup_epochs=0.5"]
    config = load_config(arguments.config, [*arguments.settings, *short])
    plan, seconds = plan_training(config), {ours: [], bare: []}
    for _ in range(2):
        for contender, times in seconds.items():
            times += contender(config, plan)
    for name, contender in (("speech-gru train", ours), ("bare Model.fit", bare)):
        print(f"{name:17} {median(seconds[contender]):6.2f} s an epoch (median of {len(seconds[contender])})")
    print(f"ratio             {median(seconds[ours]) / median(seconds[bare]):6.2f}")


if __name__ == "__main__":
    main()
