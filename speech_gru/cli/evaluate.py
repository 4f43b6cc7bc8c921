"""`speech-gru evaluate`: a run or an exported file -> figures, pictures and the worst clips."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from speech_gru.cli.options import DECODING, JSON, Split

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
        Path | None,
        typer.Option(
            help="Folder for the report; if not given, one in report/ beside the model (the package's: here)."
        ),
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
    decoding: DECODING = None,
    json: JSON = False,
):
    """Measure accuracy with its 95 % interval, precision, recall and F1 by word, the confusions and the worst clips.

    With a CTC head: the error rates of words and characters, the transcripts and the worst phrases.

    [bold]Examples:[/bold]

    speech-gru evaluate runs/demo

    speech-gru evaluate runs/demo/export/model.tflite --corpus my_recordings/

    speech-gru evaluate runs/demo --noise street_noise/

    speech-gru evaluate runs/phrases --corpus my_phrases.csv --decoding beam
    """
    import json as json_format
    import tempfile

    from data_pipeline.errors import UserError
    from speech_gru.cli.console import print_metrics, progress_bar
    from speech_gru.quiet import start_tensorflow

    if shards is not None and corpus is not None:
        raise UserError("--shards and --corpus exclude each other; give one of them")
    start_tensorflow()
    from speech_gru.subject import is_for_phrases, prepare_corpus

    name, prepared = split.value, None
    if is_for_phrases(model):
        subject, measure = _phrases(model, decoding, {"--noise": noise, "--keep-state": keep_state})
    else:
        subject, measure = _clips(model, keep_state, noise, {"--decoding": decoding})
    with tempfile.TemporaryDirectory(prefix="speech-gru-") as scratch, progress_bar("Evaluating") as progress:
        if corpus is not None:
            prepared = prepare_corpus(subject, corpus, Path(scratch), progress)
            shards, split, name = Path(scratch) / "shards", Split.test, f"corpus-{corpus.resolve().stem}"
        write = measure(shards, split.value, progress)
    suffix = "-one-stream" if keep_state else f"-{decoding.value}" if decoding else ""
    folder = out or subject.report_folder / (name + suffix)
    metrics, files = write(folder)
    if prepared:
        _print_notes(prepared)
    if json:
        print(json_format.dumps(metrics, ensure_ascii=False))
    else:
        print_metrics(name, metrics)
        if "robustness" in metrics:
            _print_robustness(metrics["robustness"])
        print(f"{folder}: {files}")
    return 3 if prepared and prepared.rejected else 0


def _clips(model: Path, keep_state: bool, noise: Path | None, options: dict) -> tuple:
    """A recogniser of single words, and what measures it: shards or None, split, progress -> what writes the report."""
    from speech_gru.cli.console import refuse
    from speech_gru.evaluation import predict_split, write_report
    from speech_gru.subject import load_subject

    refuse(options, f"for models with a CTC head; {model} is for single words")
    subject = load_subject(model, keep_state=keep_state)
    recordings = _load_noise(noise, subject.sample_rate) if noise else []

    def measure(shards: Path | None, split: str, progress):
        shards = shards or subject.shards()
        predictions = predict_split(
            subject.predict,
            subject.labels,
            shards,
            split,
            subject.clip_samples,
            thresholds=subject.thresholds,
            progress=progress,
        )
        rows = _measure_noise(subject, recordings, shards, split, progress) if noise else []

        def write(folder: Path) -> tuple[dict, str]:
            metrics, files = write_report(predictions, folder), "metrics.json, confusion.png, worst.csv"
            if not rows:
                return metrics, files
            return _write_robustness(rows, metrics, folder), f"{files}, robustness.json, robustness.png"

        return write

    return subject, measure


def _phrases(model: Path, decoding, options: dict) -> tuple:
    """As `_clips`, with a CTC head."""
    from speech_gru.cli.console import refuse
    from speech_gru.subject import load_phrase_subject
    from speech_gru.transcripts import transcribe, write_transcripts

    refuse(options, f"for models of single words; {model} has a CTC head")
    subject = load_phrase_subject(model, decoding and decoding.value)

    def measure(shards: Path | None, split: str, progress):
        source, decoder = subject.phrases(split, shards), subject.decoder
        found = transcribe(
            source,
            decoder.labels,
            decoder.kind,
            subject.predict,
            subject.shortest,
            decoder=decoder,
            progress=progress,
        )
        return lambda folder: (write_transcripts(found, folder), "metrics.json, transcripts.csv, worst.csv")

    return subject, measure


def _write_robustness(rows: list[dict], metrics: dict, folder: Path) -> dict:
    from speech_gru.robustness import write_robustness

    write_robustness(rows, folder)
    return metrics | {"robustness": rows}


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
