"""`speech-gru evaluate`: a run or an exported file -> figures, pictures and the worst clips."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from speech_gru.cli.options import JSON


def evaluate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run directory, or a .tflite file that `export` wrote.")
    ],
    split: Annotated[str, typer.Option(help="Which clips of the shards: train, validation or test.")] = "test",
    shards: Annotated[
        Path | None, typer.Option(help="Prepared clips to measure on.  [default: those the run was trained with]")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="A folder of words or a CSV manifest to measure on instead, all its splits.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report.  [default: report/ beside the model]")
    ] = None,
    json: JSON = False,
):
    """Measure accuracy with its 95 % interval, precision, recall and F1 by word, the confusions and the worst clips.

    [bold]Examples:[/bold]

    speech-gru evaluate runs/demo

    speech-gru evaluate runs/demo/export/model.tflite --corpus my_recordings/
    """
    import json as json_format
    import tempfile

    from speech_gru.cli.console import print_metrics, progress_bar
    from speech_gru.evaluation import predict_split, write_report
    from speech_gru.subject import load_subject, prepare_corpus

    subject = load_subject(model)
    with tempfile.TemporaryDirectory(prefix="speech-gru-") as scratch, progress_bar("Evaluating") as progress:
        if corpus is not None:
            prepared = prepare_corpus(subject, corpus, Path(scratch), progress)
            shards, split = Path(scratch) / "shards", "test"
        predictions = predict_split(
            subject.predict, subject.labels, shards or subject.shards(), split, subject.clip_samples, progress=progress
        )
    folder = out or subject.report_folder / (corpus.stem if corpus else split)
    metrics = write_report(predictions, folder)
    if corpus is not None:
        _print_notes(prepared)
    if json:
        print(json_format.dumps(metrics, ensure_ascii=False))
    else:
        print_metrics(split, metrics)
        print(f"{folder}: metrics.json, confusion.png, worst.csv")


def _print_notes(prepared) -> None:
    """To standard error, where they can't disturb a program that reads --json."""
    for note in prepared.notes:
        print(f"note: {note}", file=sys.stderr)
    for path, reason in prepared.rejected[:20]:
        print(f"set aside: {path}: {reason}", file=sys.stderr)
