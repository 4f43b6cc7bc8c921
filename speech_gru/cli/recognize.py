"""`speech-gru recognize`: an exported file and audio -> words. Needs neither TensorFlow nor librosa."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from speech_gru.cli.options import JSON

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3")


def recognize(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A .tflite file that `export` wrote.")],
    audio: Annotated[
        list[str], typer.Argument(metavar="AUDIO...", help="Audio files, folders of them, or - for standard input.")
    ],
    top: Annotated[int, typer.Option(min=1, help="How many labels to show for each clip.")] = 1,
    json: JSON = False,
):
    """Recognise clips: one line a file, with the word and its probability.

    Files may be WAV, FLAC, Ogg Vorbis, Opus or MP3 of any rate and length; of a long one the loudest stretch is taken.
    With --json each line is an object. A file that can't be read is reported and passed over; the exit code is then 3.

    [bold]Examples:[/bold]

    speech-gru recognize model.tflite yes.wav recordings/ --top 3

    arecord -d 1 -r 16000 -f S16_LE | speech-gru recognize model.tflite -
    """
    from io import BytesIO

    from data_pipeline.audio import AudioError
    from speech_gru.recognizer import Recognizer

    recognizer = Recognizer(model)
    failures = 0
    for name, file in _files(audio):
        try:
            samples = recognizer.load(BytesIO(sys.stdin.buffer.read()) if file is None else file)
        except AudioError as error:
            failures += 1
            print(f"speech-gru: {name}: {error}", file=sys.stderr)
            continue
        _print(name, recognizer.recognize(samples).ranking[:top], json)
    return 3 if failures else 0


def _files(arguments: list[str]):
    for argument in arguments:
        path = Path(argument)
        if argument == "-":
            yield "standard input", None
        elif path.is_dir():
            yield from ((str(file), file) for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES)
        else:
            yield argument, path


def _print(name: str, ranking, as_json: bool) -> None:
    if as_json:
        from json import dumps

        labels = [{"label": label, "probability": round(probability, 6)} for label, probability in ranking]
        print(dumps({"file": name, **labels[0], "top": labels}, ensure_ascii=False), flush=True)
    else:
        print(f"{name}: " + ", ".join(f"{label} {probability:.1%}" for label, probability in ranking), flush=True)
