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
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="A streaming file: hear all clips as one stream, never begin anew.")
    ] = False,
    noise: Annotated[
        Path | None,
        typer.Option(
            help="A folder of noise recordings that weren't trained with: measure also at 20 to 0 dB SNR, over a "
            "telephone, 20 dB quieter, shifted, and at other speeds."
        ),
    ] = None,
    json: JSON = False,
):
    """Measure accuracy with its 95 % interval, precision, recall and F1 by word, the confusions and the worst clips.

    [bold]Examples:[/bold]

    speech-gru evaluate runs/demo

    speech-gru evaluate runs/demo/export/model.tflite --corpus my_recordings/

    speech-gru evaluate runs/demo --noise street_noise/
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

    subject, name, prepared = load_subject(model, keep_state=keep_state), split.value, None
    recordings = _load_noise(noise, subject.sample_rate) if noise else []
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
            thresholds=subject.thresholds,
            progress=progress,
        )
        rows = _measure_noise(subject, recordings, shards or subject.shards(), split.value, progress) if noise else []
    folder = out or subject.report_folder / (f"{name}-one-stream" if keep_state else name)
    metrics = write_report(predictions, folder)
    if rows:
        from speech_gru.robustness import write_robustness

        write_robustness(rows, folder)
        metrics["robustness"] = rows
    if prepared:
        _print_notes(prepared)
    if json:
        print(json_format.dumps(metrics, ensure_ascii=False))
    else:
        print_metrics(name, metrics)
        if rows:
            _print_robustness(rows)
        print(f"{folder}: metrics.json, confusion.png, worst.csv{', robustness.json, robustness.png' if rows else ''}")
    return 3 if prepared and prepared.rejected else 0


def _load_noise(folder: Path, sample_rate: int) -> list:
    from speech_gru.robustness import load_noise

    return load_noise(folder, sample_rate)


def _measure_noise(subject, recordings: list, shards: Path, split: str, progress) -> list[dict]:
    import numpy as np

    from data_pipeline.dataset import evaluation_batches
    from speech_gru.robustness import measure_robustness

    indices = {label.encode(): index for index, label in enumerate(subject.labels)}
    batches = list(evaluation_batches(shards, split, subject.clip_samples, 256).as_numpy_iterator())
    clips = np.concatenate([batch["audio"] for batch in batches])
    truth = np.array([indices[label] for batch in batches for label in batch["label"]])
    return measure_robustness(subject.predict, clips, truth, recordings, subject.sample_rate, progress)


def _print_robustness(rows: list[dict]) -> None:
    from speech_gru.cli.console import new_table, print_table

    table = new_table("condition", "accuracy", "95 % interval")
    for row in rows:
        low, high = row["accuracy_interval"]
        table.add_row(row["condition"], f"{row['accuracy']:.2%}", f"{low:.2%} to {high:.2%}")
    print_table(table)


def _print_notes(prepared) -> None:
    """To standard error, where they can't disturb a program that reads --json."""
    for note in prepared.notes:
        print(f"note: {note}", file=sys.stderr)
    for path, reason in prepared.rejected[:SHOWN]:
        print(f"set aside: {path}: {reason}", file=sys.stderr)
    if len(prepared.rejected) > SHOWN:
        print(f"set aside: {len(prepared.rejected) - SHOWN} more", file=sys.stderr)
