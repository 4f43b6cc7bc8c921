"""`speech-gru evaluate`: a run or an exported file -> figures, pictures and the worst clips."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from speech_gru.cli.options import JSON, Split

SHOWN = 20
"""So many of the clips set aside are named."""


def evaluate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run directory, or a .tflite file that `export` wrote.")
    ],
    split: Annotated[Split, typer.Option(help="Which of the prepared clips.")] = Split.test,
    shards: Annotated[
        Path | None, typer.Option(help="Prepared clips to measure on, instead of those the run was trained with.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(help="A folder of words or a CSV manifest to measure on instead, all its splits.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report; if not given, one in report/ beside the model.")
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

    from data_pipeline.errors import UserError
    from speech_gru.cli.console import print_metrics, progress_bar
    from speech_gru.quiet import start_tensorflow

    if shards is not None and corpus is not None:
        raise UserError("--shards and --corpus exclude each other; give one of them")
    start_tensorflow()
    from speech_gru.evaluation import predict_split, write_report
    from speech_gru.subject import load_subject, prepare_corpus

    subject, name, prepared = load_subject(model), split.value, None
    with tempfile.TemporaryDirectory(prefix="speech-gru-") as scratch, progress_bar("Evaluating") as progress:
        if corpus is not None:
            prepared = prepare_corpus(subject, corpus, Path(scratch), progress)
            shards, split, name = Path(scratch) / "shards", Split.test, f"corpus-{corpus.resolve().stem}"
        predictions = predict_split(
            subject.predict,
            subject.labels,
            shards or subject.shards(),
            split.value,
            subject.clip_samples,
            progress=progress,
        )
    folder = out or subject.report_folder / name
    metrics = write_report(predictions, folder)
    if prepared:
        _print_notes(prepared)
    if json:
        print(json_format.dumps(metrics, ensure_ascii=False))
    else:
        print_metrics(name, metrics)
        print(f"{folder}: metrics.json, confusion.png, worst.csv")
    return 3 if prepared and prepared.rejected else 0


def _print_notes(prepared) -> None:
    """To standard error, where they can't disturb a program that reads --json."""
    for note in prepared.notes:
        print(f"note: {note}", file=sys.stderr)
    for path, reason in prepared.rejected[:SHOWN]:
        print(f"set aside: {path}: {reason}", file=sys.stderr)
    if len(prepared.rejected) > SHOWN:
        print(f"set aside: {len(prepared.rejected) - SHOWN} more", file=sys.stderr)
