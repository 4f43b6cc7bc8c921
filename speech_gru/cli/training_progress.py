"""What `train` shows of a training: the plan, a bar within an epoch, a line after it."""

from pathlib import Path

from speech_gru.cli.console import new_table, print_table
from speech_gru.config import Config
from speech_gru.loop import Monitor
from speech_gru.training import Plan
from speech_gru.transcripts import Transcripts


def print_plan(experiment: Config, plan: Plan, folder: Path) -> None:
    """Prints what a training will do."""
    settings = experiment.training
    table = new_table(f"training {experiment.name}", "")
    table.add_row("clips", ", ".join(f"{count:,} {split}" for split, count in plan.clips.items()))
    if plan.left_out:
        shown = ", ".join(plan.left_out[:3]) + (", ..." if len(plan.left_out) > 3 else "")
        table.add_row("left out of training", f"{len(plan.left_out)} too short for their text: {shown}")
    table.add_row("labels", str(len(plan.labels)))
    table.add_row("epochs", f"{settings.epochs} of {plan.steps_per_epoch} steps of {settings.batch_size} clips")
    table.add_row("parameters", f"{plan.parameters:,}")
    table.add_row("multiply-adds a clip", f"{plan.multiply_adds:,}")
    table.add_row("devices", plan.devices)
    table.add_row("precision", plan.policy)
    table.add_row("GRU", plan.gru)
    table.add_row("run directory", str(folder))
    print_table(table)


class EpochPrinter(Monitor):
    """A progress bar over an epoch's steps on a terminal, and a line an epoch."""

    def __init__(self, epochs: int, steps_per_epoch: int):
        from rich import progress
        from rich.console import Console

        console = Console(highlight=False, soft_wrap=True)
        columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn())
        columns += (progress.TextColumn("loss {task.fields[loss]:.3f}"), progress.TimeRemainingColumn())
        self.bar = progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch

    def begin(self, step):
        self.bar.start()
        self.task = self.bar.add_task("", total=self.steps_per_epoch, loss=float("nan"))
        self._show(step, float("nan"))

    def step(self, step, told):
        self._show(step, told["loss"])

    def _show(self, step: int, loss: float) -> None:
        epoch, done = divmod(step, self.steps_per_epoch)
        described = f"epoch {epoch + 1}/{self.epochs}"
        self.bar.update(self.task, completed=done, loss=loss, description=described)

    def epoch(self, epoch, figures, predictions):
        right, measured = "accuracy", f"accuracy {figures['validation_accuracy']:.2%}"
        if isinstance(predictions, Transcripts):
            right, measured = "exact phrases", f"word error rate {predictions.word_error_rate:.2%}"
        self.bar.console.print(
            f"epoch {epoch}/{self.epochs}: loss {figures['loss']:.4f}, {right} {figures['accuracy']:.2%}; validation "
            f"loss {figures['validation_loss']:.4f}, {measured}; "
            f"{figures['clips_per_second']:,.0f} clips/s, {figures['data_wait_share']:.0%} of it waiting for data",
        )

    def end(self):
        self.bar.stop()
