"""`speech-gru recognize`: an exported file and audio -> words. Needs neither TensorFlow nor librosa."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from speech_gru.cli.options import JSON


def recognize(
    audio: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] AUDIO...",
            help="A .tflite file that `export` wrote, or none for the model that comes with speech_gru; then audio "
            "files, folders of them, or - for standard input.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many labels to show for each clip.")] = 1,
    json: JSON = False,
):
    """Recognise clips: one line a file, with the word and its probability.

    Files may be WAV, FLAC, Ogg Vorbis, Opus or MP3 of any rate and length; of a long one the loudest stretch is taken.
    With --json each line is an object. A file that can't be read is reported and passed over; the exit code is then 3.

    The model that comes with speech_gru knows: yes no up down left right on off stop go zero one two three four five
    eight. Other speech is `_unknown_`, none is `_silence_`.

    [bold]Examples:[/bold]

    speech-gru recognize some.wav

    speech-gru recognize model.tflite yes.wav recordings/ --top 3

    arecord -d 1 -r 16000 -f S16_LE | speech-gru recognize model.tflite -
    """
    from io import BytesIO

    from data_pipeline.audio import AudioError
    from data_pipeline.errors import UserError
    from speech_gru.artefact import is_model
    from speech_gru.recognizer import Recognizer
    from speech_gru.shipped import CLIP_MODEL

    model, audio = (audio[0], audio[1:]) if is_model(audio[0]) else (CLIP_MODEL, audio)
    if not audio:
        raise UserError(f"no audio: expected files, folders or - after {model}")
    if models := [name for name in audio if is_model(name)]:
        raise UserError(f"{models[0]}: expected audio; the model comes first")
    files = list(_files(audio))
    recognizer = Recognizer(model)
    failures = 0
    for name in files:
        try:
            samples = recognizer.load(BytesIO(sys.stdin.buffer.read()) if name == "-" else name)
        except AudioError as error:
            failures += 1
            print(f"speech-gru: {name}: {error}", file=sys.stderr)
            continue
        heard = recognizer.recognize(samples)
        others = [item for item in heard.ranking if item[0] != heard.label]
        _print(name, [(heard.label, heard.probability), *others][:top], json)
    return 3 if failures else 0


def _files(arguments: list[str]) -> Iterator[str]:
    """The files meant; those in a folder come in order."""
    from data_pipeline.errors import UserError
    from data_pipeline.files import AUDIO_SUFFIXES, files_under

    for argument in arguments:
        folder = Path(argument)
        if not folder.is_dir():
            yield argument
            continue
        found = [name for name in files_under(folder, []) if Path(name).suffix.lower() in AUDIO_SUFFIXES]
        if not found:
            raise UserError(f"{argument}: no audio in this folder; expected {' '.join(sorted(AUDIO_SUFFIXES))}")
        yield from (str(folder / name) for name in found)


def _print(name: str, ranking, as_json: bool) -> None:
    if as_json:
        from json import dumps

        labels = [{"label": label, "probability": round(probability, 6)} for label, probability in ranking]
        print(dumps({"file": name, **labels[0], "top": labels}, ensure_ascii=False), flush=True)
    else:
        print(f"{name}: " + ", ".join(f"{label} {probability:.1%}" for label, probability in ranking), flush=True)
