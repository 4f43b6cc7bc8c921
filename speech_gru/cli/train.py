"""`speech-gru train`: shards -> a run directory."""

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
    """
    from speech_gru.cli.console import new_table, print_metrics, print_table, start_tensorflow
    from speech_gru.config import load_config

    experiment = load_config(config, settings)
    start_tensorflow()
    from speech_gru.report import report_run
    from speech_gru.training import plan_training
    from speech_gru.training import train as train_model

    folder = out or Path("runs") / experiment.name
    plan = plan_training(experiment)
    table = new_table(f"training {experiment.name}", "")
    table.add_row("clips", ", ".join(f"{count:,} {split}" for split, count in plan.clips.items()))
    table.add_row("labels", str(len(plan.labels)))
    table.add_row(
        "epochs",
        f"{experiment.training.epochs} of {plan.steps_per_epoch} steps of {experiment.training.batch_size} clips",
    )
    table.add_row("parameters", f"{plan.parameters:,}")
    table.add_row("multiply-adds a clip", f"{plan.multiply_adds:,}")
    table.add_row("device", plan.device)
    table.add_row("precision", plan.policy)
    table.add_row("run directory", str(folder))
    print_table(table)
    train_model(experiment, plan, folder, verbose="auto" if sys.stdout.isatty() else 2)  # 2: a line an epoch
    for split, metrics in report_run(folder).items():
        print_metrics(split, metrics)
    print(f"{folder}: model.keras, metrics.json, report/, tensorboard/; next: speech-gru export {folder}")
