"""`speech-gru export`: a run -> SavedModel and .tflite file, each proven equal to the model."""

from pathlib import Path
from typing import Annotated

import typer

from speech_gru.cli.options import RUN


def export(
    run: RUN,
    out: Annotated[Path | None, typer.Option(help="Folder for the artefacts.  [default: RUN/export]")] = None,
    shards: Annotated[
        Path | None, typer.Option(help="Prepared clips to compare on.  [default: those the run was trained with]")
    ] = None,
):
    """Export a trained recogniser; each artefact is loaded back and must agree with the model on real clips.

    [bold]Example:[/bold]  speech-gru export runs/demo

    Then: speech-gru recognize runs/demo/export/model.tflite some.wav
    """
    from rich.console import Console

    from export.matrix import export_run
    from export.verify import ExportError
    from speech_gru.cli.console import new_table

    folder = out or run / "export"
    try:
        agreements = export_run(run, folder, shards)
    except ExportError as error:
        Console(stderr=True).print(f"speech-gru: {error}", markup=False)
        return 1
    table = new_table("artefact", "KB", "clips", "largest difference", "equal decisions")
    for item in agreements:
        equal = f"{item.equal_decisions} of {item.clips}"
        table.add_row(
            item.artefact, f"{item.bytes / 1e3:,.0f}", str(item.clips), f"{item.largest_difference:.1e}", equal
        )
    Console().print(table)
    print(f"{folder}: each artefact was loaded back and agrees with the model")
    return 0
