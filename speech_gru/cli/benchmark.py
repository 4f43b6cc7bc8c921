"""`speech-gru benchmark train`: what a training step costs, and what holds it up."""

import json as json_format
from typing import Annotated

import typer

from speech_gru.cli.options import CONFIG, JSON, SET

benchmark = typer.Typer(help="Measure how fast this machine is.", no_args_is_help=True)


@benchmark.callback()
def _group():
    """Measure how fast this machine is."""


@benchmark.command("train", no_args_is_help=True)
def train(
    config: CONFIG,
    steps: Annotated[int, typer.Option(min=1, help="So many steps are measured, three times.")] = 100,
    settings: SET = (),
    json: JSON = False,
):
    """Measure a training step of the model alone, of the input pipeline alone, and of both together.

    [bold]Example:[/bold]  speech-gru benchmark train speech_commands_subset --set training.precision=float16
    """
    from speech_gru.cli.console import new_table, print_table
    from speech_gru.config import load_config
    from speech_gru.quiet import start_tensorflow

    experiment = load_config(config, settings)
    start_tensorflow()
    from speech_gru.benchmark import benchmark_training
    from speech_gru.training import plan_training

    plan = plan_training(experiment)
    figures = benchmark_training(experiment, plan, steps)
    if json:
        about = {"devices": plan.devices, "precision": plan.policy, "gru": plan.gru}
        print(json_format.dumps(about | figures))
        return
    table = new_table(f"a step of {experiment.training.batch_size} clips", "ms", "clips/s")
    for name in ("model", "pipeline", "together"):
        milliseconds = figures[f"{name}_ms"]
        table.add_row(name, f"{milliseconds:.1f}", f"{1e3 * experiment.training.batch_size / milliseconds:,.0f}")
    print_table(table)
    print(f"{plan.devices}; {plan.policy}; GRU: {plan.gru}")
    waiting = f"the model waits for data in {figures['data_wait_share']:.0%} of the time"
    print(f"together: {figures['ratio']:.2f} times the slower of the two; {waiting}")
