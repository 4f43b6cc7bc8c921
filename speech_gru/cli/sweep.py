"""`speech-gru sweep`: an experiment's sweep section -> many run directories and one table."""

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from speech_gru.cli.options import CONFIG, JSON, SET


def sweep(
    config: CONFIG,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the trials' run directories; if not given, runs/NAME-sweep.")
    ] = None,
    settings: SET = (),
    json: JSON = False,
):
    """Train an experiment with many settings, one training after the other, and rank them by validation accuracy.

    [bold]Example:[/bold]  speech-gru sweep configs/demo.yaml

    The YAML has a section such as:

    sweep: {settings: {model.units: [64, 96, 128], training.learning_rate: [0.001, 0.003]}}

    which is the whole grid, or, to draw 20 trials at random:

    sweep: {trials: 20, settings: {training.learning_rate: {low: 0.0005, high: 0.01, log: true}}}

    Stopped and started again, it does only what is left. Compare the trials in TensorBoard's HParams tab:
    tensorboard --logdir runs/NAME-sweep
    """
    from speech_gru.cli.console import new_table, print_table, progress_bar
    from speech_gru.sweep import list_trials, rank, run_sweep

    trials = list_trials(config, settings, out)
    with progress_bar(f"{len(trials)} trials") as progress:
        failed = run_sweep(trials, config, settings, progress)
    ranked = rank(trials)
    if json:
        print(json_format.dumps([{"trial": str(t.folder), "accuracy": t.accuracy, **t.settings} for t in ranked]))
    else:
        table = new_table("trial", "validation accuracy", *trials[0].settings)
        for trial in ranked:
            table.add_row(trial.folder.name, f"{trial.accuracy:.2%}", *map(str, trial.settings.values()))
        print_table(table)
        for trial in failed:
            print(f"{trial.folder.name} failed; {trial.folder / 'log.txt'} says why")
        print(f"{trials[0].folder.parent}: {len(ranked)} of {len(trials)} trials finished; sweep.csv")
    return 1 if failed else 0
