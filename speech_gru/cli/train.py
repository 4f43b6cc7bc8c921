"""`speech-gru train`: shards -> a run directory."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from speech_gru.cli.options import CONFIG, SET


def train(
    config: CONFIG,
    out: Annotated[Path | None, typer.Option(help="The run directory; if not given, runs/NAME.")] = None,
    settings: SET = (),
):
    """Train a recogniser on prepared shards, keep the best weights, measure them on validation and test clips.

    [bold]Example:[/bold]  speech-gru train configs/demo.yaml --set training.epochs=20

    Watch it with: tensorboard --logdir runs

    A run that was stopped, by Ctrl-C, SIGTERM or a power cut, goes on with the same command and ends with the weights
    that it would have had.

    Several hosts: give each the same command and TF_CONFIG, as the README shows.
    """
    from speech_gru.cli.console import print_metrics
    from speech_gru.config import load_config
    from speech_gru.quiet import start_tensorflow

    experiment = load_config(config, settings)
    start_tensorflow()
    from speech_gru.cli.training_progress import EpochPrinter, print_plan
    from speech_gru.devices import host
    from speech_gru.loop import HostLostError
    from speech_gru.report import report_run
    from speech_gru.training import plan_training
    from speech_gru.training import train as train_model

    folder = out or Path("runs") / experiment.name
    plan = plan_training(experiment)
    print_plan(experiment, plan, folder)
    printer = EpochPrinter(experiment.training.epochs, plan.steps_per_epoch)
    try:
        train_model(experiment, plan, folder, monitors=[printer])
    except HostLostError as error:
        print(
            f"speech-gru: {error}; starting anew from the last checkpoint, once it is back", file=sys.stderr, flush=True
        )
        os.execv(sys.executable, [sys.executable, "-m", "speech_gru", *sys.argv[1:]])
    if host(plan.strategy)[0] > 0:
        return  # the chief measures
    for split, metrics in report_run(folder).items():
        print_metrics(split, metrics)
    print(f"{folder}: model.keras, metrics.json, report/, tensorboard/; next: speech-gru export {folder}")
