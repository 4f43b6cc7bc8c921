"""`speech-gru recognize`: an exported file and audio -> words or phrases. Needs neither TensorFlow nor librosa."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from speech_gru.cli.options import DECODING, JSON, PHRASES


def recognize(
    audio: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] AUDIO...",
            help="A .tflite file that `export` wrote, or none for the model that comes with speech_gru; then audio "
            "files, folders of them, or - for standard input.",
        ),
    ],
    top: Annotated[
        int | None,
        typer.Option(min=1, help="With single words: how many labels to show for each clip, 1 if not given."),
    ] = None,
    times: Annotated[
        bool, typer.Option("--times", help="With a CTC head: a line a word, with its start and end in seconds.")
    ] = False,
    phrases: PHRASES = (),
    threshold: Annotated[
        float | None,
        typer.Option(
            max=0,
            help="With --phrases: show what has this score at least; 0 is the best, and -1 is taken if not given.",
            show_default=False,
        ),
    ] = None,
    decoding: DECODING = None,
    json: JSON = False,
):
    """Recognise clips: one line a file, with the word and its probability, or with the text that was said.

    Files may be WAV, FLAC, Ogg Vorbis, Opus or MP3 of any rate and length; for a model of single words the loudest
    stretch of a long one is taken. With --json each line is an object. A file that can't be read is reported and passed
    over; the exit code is then 3.

    The model that comes with speech_gru knows: yes no up down left right on off stop go zero one two three four five
    eight. Other speech is `_unknown_`, none is `_silence_`.

    [bold]Examples:[/bold]

    speech-gru recognize some.wav

    speech-gru recognize model.tflite yes.wav recordings/ --top 3

    speech-gru recognize phrases.tflite talk.wav --times

    speech-gru recognize phrases.tflite talk.wav --phrases "turn left" --phrases "stop now"

    arecord -d 1 -r 16000 -f S16_LE | speech-gru recognize model.tflite -
    """
    from io import BytesIO

    from data_pipeline.audio import AudioError
    from data_pipeline.errors import UserError
    from speech_gru.artefact import is_model
    from speech_gru.lite_file import LiteFile
    from speech_gru.shipped import CLIP_MODEL

    model, audio = (audio[0], audio[1:]) if is_model(audio[0]) else (CLIP_MODEL, audio)
    if not audio:
        raise UserError(f"no audio: expected files, folders or - after {model}")
    if models := [name for name in audio if is_model(name)]:
        raise UserError(f"{models[0]}: expected audio; the model comes first")
    files = list(_files(audio))
    file, failures = LiteFile(model), 0
    options = {"--times": times, "--phrases": tuple(phrases), "--threshold": threshold, "--decoding": decoding}
    if file.description.head == "ctc":
        recognizer, show = _for_phrases(file, {"--top": top, **options}, json)
    else:
        recognizer, show = _for_words(file, {"--top": top, **options}, json)
    for name in files:
        try:
            samples = recognizer.load(BytesIO(sys.stdin.buffer.read()) if name == "-" else name)
        except AudioError as error:
            failures += 1
            print(f"speech-gru: {name}: {error}", file=sys.stderr)
            continue
        show(name, samples)
    return 3 if failures else 0


def _for_words(file, options: dict, as_json: bool) -> tuple:
    """A recogniser of single words, and what shows of a clip what it says."""
    from speech_gru.cli.console import refuse
    from speech_gru.recognizer import Recognizer

    top = options.pop("--top") or 1
    refuse(options, f"for files with a CTC head; {file.path} is for single words")
    recognizer = Recognizer(file)

    def show(name: str, samples) -> None:
        heard = recognizer.recognize(samples)
        others = [item for item in heard.ranking if item[0] != heard.label]
        _print(name, [(heard.label, heard.probability), *others][:top], as_json)

    return recognizer, show


def _for_phrases(file, options: dict, as_json: bool) -> tuple:
    """A recogniser of phrases, and what shows of audio what it says or finds."""
    from speech_gru.cli.console import entry, refuse
    from speech_gru.phrase_recognizer import PhraseRecognizer

    times, phrases, threshold, decoding = (
        options[f"--{name}"] for name in ("times", "phrases", "threshold", "decoding")
    )
    refuse({"--top": options["--top"]}, f"for files of single words; {file.path} has a CTC head")
    if phrases:
        refuse({"--times": times, "--decoding": decoding}, "of no use with --phrases, which searches")
    else:
        refuse({"--threshold": threshold}, "of no use without --phrases")
    recognizer = PhraseRecognizer(file, decoding=decoding and decoding.value)
    least = -1.0 if threshold is None else threshold
    if phrases:
        recognizer.search(phrases, least)  # a mistake in them is found before the work begins

    def show(name: str, samples) -> None:
        found = recognizer.find(samples, phrases, least) if phrases else recognizer.words(samples)
        text = "" if phrases else " ".join(word.text for word in found)
        if as_json:
            entries = [entry(item) for item in found]
            _print_json(name, {"phrases": entries} if phrases else {"text": text, "words": entries})
            return
        lines = [_line(item) for item in found] if times or phrases else [text]
        for line in lines or [""]:
            print(f"{name}: {line}" if line else f"{name}:", flush=True)

    return recognizer, show


def _line(found) -> str:
    """A Word, or a Found with its score."""
    when = f"{found.start:.2f} to {found.end:.2f} s"
    return f"{found.phrase} {found.score:.2f}, {when}" if hasattr(found, "phrase") else f"{found.text}, {when}"


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
        labels = [{"label": label, "probability": round(probability, 6)} for label, probability in ranking]
        _print_json(name, {**labels[0], "top": labels})
    else:
        print(f"{name}: " + ", ".join(f"{label} {probability:.1%}" for label, probability in ranking), flush=True)


def _print_json(name: str, values: dict) -> None:
    from json import dumps

    print(dumps({"file": name, **values}, ensure_ascii=False), flush=True)
