"""`speech-gru export`: a run -> SavedModel, .tflite files and more, each proven equal to the model."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer

from data_pipeline.errors import Interrupted
from speech_gru.cli.options import RUN


def export(
    run: RUN,
    out: Annotated[Path | None, typer.Option(help="Folder for the artefacts; if not given, RUN/export.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ARTEFACT",
            help="Make this one alone; may be repeated: saved_model, float32, float16, dynamic_range, int8, int16x8, "
            "stream_float32, stream_dynamic_range, stream_int8, stream_int16x8, micro, onnx.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="export.KEY=VALUE", help="Override a setting, such as export.threshold=0.5."),
    ] = None,
    shards: Annotated[
        Path | None, typer.Option(help="Prepared clips to prove them on, instead of those the run was trained with.")
    ] = None,
):
    """Export a trained recogniser; each artefact is loaded back and must agree with the model on real clips.

    One that doesn't is not kept: the exit code is 1, and what an earlier export wrote stays as it was. What this model
    has no use for (a streaming file of a bidirectional encoder) is listed with the reason. The folder also gets
    export_report.json and MODEL_CARD.md.

    [bold]Examples:[/bold]

    speech-gru export runs/demo

    speech-gru export runs/demo --only float32 --only int8

    Then: speech-gru recognize runs/demo/export/model.tflite some.wav
    """
    from export.errors import ExportError
    from export.matrix import export_run
    from speech_gru.cli.console import progress_steps

    if find_spec("tensorflow") is None:  # here, not in the process that would need it
        raise ModuleNotFoundError(name="tensorflow")
    folder = out or run / "export"
    try:
        with _terminable(), progress_steps() as progress:
            proofs = export_run(run, folder, shards, only or (), settings or (), progress)
    except ExportError as error:
        print(f"speech-gru: {error}", file=sys.stderr)
        return 1
    _print(proofs)
    for reason, items in groupby(sorted(proofs, key=_complaint), key=_complaint):
        if reason:
            print(f"{', '.join(item.file for item in items)}: {reason}", file=sys.stderr)
    if any(proof.status == "failed" for proof in proofs) or not any(proof.status == "proven" for proof in proofs):
        return 1
    print(f"{folder}: each artefact was loaded back and agrees with the model; see MODEL_CARD.md there")
    return 0


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does: with what it was about removed, and its processes ended."""

    def stop(number, frame):
        signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the tidying
        raise Interrupted(number, "told to stop; what was finished is kept, nothing is half-written")

    if threading.current_thread() is not threading.main_thread():  # where Python allows no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _complaint(proof) -> str:
    return f"{proof.status}: {proof.reason}" if proof.reason else ""


def _print(proofs) -> None:
    from speech_gru.cli.console import new_table, print_table

    thresholds = ("with thresholds",) if any(item.correct_with_thresholds is not None for item in proofs) else ()
    table = new_table("artefact", "KB", "logits", "decisions", "accuracy", *thresholds, "ms", "of")
    for item in proofs:
        if not item.clips:
            continue
        name = item.file if item.status == "proven" else f"{item.file} (failed)"
        figures = (
            f"{item.bytes / 1e3:,.0f}",
            f"{item.largest_difference:.0e}" if item.largest_difference is not None else "-",
            f"{item.equal_decisions / max(1, item.decisions):.2%}",
        )
        accuracies = [_share(item.accuracy, item.accuracy_interval)]
        if thresholds:
            accuracies.append(_share(item.accuracy_with_thresholds, item.interval_with_thresholds))
        table.add_row(name, *figures, *accuracies, f"{item.latency_ms:.3f}", item.latency_of)
    print_table(table)
    print("logits: largest difference; decisions: the same as the model's; ms: median on one thread")


def _share(accuracy: float | None, interval: tuple[float, float] | None) -> str:
    if accuracy is None or interval is None:
        return "-"
    low, high = (f"{100 * value:.1f}" for value in interval)
    return f"{accuracy:.2%} ({low}-{high})"
