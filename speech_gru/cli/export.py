"""`speech-gru export`: a run -> SavedModel and .tflite file, each proven equal to the model."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from speech_gru.cli.options import RUN


def export(
    run: RUN,
    out: Annotated[Path | None, typer.Option(help="Folder for the artefacts; if not given, RUN/export.")] = None,
    shards: Annotated[
        Path | None, typer.Option(help="Prepared clips to compare on, instead of those the run was trained with.")
    ] = None,
):
    """Export a trained recogniser; each artefact is loaded back and must agree with the model on real clips.

    One that doesn't is not kept: the exit code is 1, and what an earlier export wrote stays as it was.

    [bold]Example:[/bold]  speech-gru export runs/demo

    Then: speech-gru recognize runs/demo/export/model.tflite some.wav
    """
    from speech_gru.cli.console import new_table, print_table, start_tensorflow

    start_tensorflow()
    from export.matrix import export_run
    from export.verify import ExportError

    folder = out or run / "export"
    try:
        agreements = export_run(run, folder, shards)
    except ExportError as error:
        print(f"speech-gru: {error}", file=sys.stderr)
        return 1
    table = new_table("artefact", "KB", "clips", "largest difference", "equal decisions")
    for item in agreements:
        equal = f"{item.equal_decisions} of {item.clips}"
        table.add_row(
            item.artefact, f"{item.bytes / 1e3:,.0f}", str(item.clips), f"{item.largest_difference:.1e}", equal
        )
    print_table(table)
    print(f"{folder}: each artefact was loaded back and agrees with the model")
    return 0
