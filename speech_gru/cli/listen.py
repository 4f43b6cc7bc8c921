"""`speech-gru listen`: an exported file and audio that goes on -> words with their times. Needs no TensorFlow."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from speech_gru.cli.options import JSON


def listen(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL] [AUDIO]",
            help="A .tflite file for streams or clips, or none for the model that comes with speech_gru; then an audio "
            "file, - for raw 16-bit mono samples on standard input, or mic (the default) for a microphone.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Report all words from this mean probability on, instead of from the file's own thresholds (0.7 for "
            "words that have none).",
            show_default=False,
        ),
    ] = None,
    json: JSON = False,
):
    """Report the words of a stream as they are said: one line a word, with its time in seconds.

    A word that is said once is reported once: again only after its probability has fallen below the threshold.

    Standard input and microphone have the model's sampling rate. The microphone needs the extra [mic].

    The model that comes with speech_gru knows: yes no up down left right on off stop go zero one two three four five
    eight.

    [bold]Examples:[/bold]

    speech-gru listen

    speech-gru listen stream.tflite some.wav

    arecord -r 16000 -f S16_LE -t raw | speech-gru listen stream.tflite -
    """
    from data_pipeline.errors import UserError
    from speech_gru.artefact import is_model
    from speech_gru.shipped import STREAM_MODEL
    from speech_gru.streaming import StreamingRecognizer

    given = list(arguments or ())
    model = given.pop(0) if given and is_model(given[0]) else STREAM_MODEL
    audio = given.pop(0) if given else "mic"
    if given:
        raise UserError(f"expected a model and one source of audio, got {len(given)} more: {' '.join(given)}")
    stream = StreamingRecognizer(model, threshold=threshold)
    about = stream.description
    for samples in _chunks(audio, about.sample_rate, about.clip_samples):
        for heard in stream.detect(samples):
            _print(heard, json)


def _chunks(audio: str, sample_rate: int, clip_samples: int) -> Iterator:
    """Tenths of a second of audio, (samples,) each."""
    import numpy as np

    size = sample_rate // 10
    if audio == "mic":
        yield from _microphone(sample_rate, size)
    elif audio == "-":
        while len(content := sys.stdin.buffer.read(2 * size)) > 1:  # half a sample at the end is none
            yield np.frombuffer(content[: len(content) // 2 * 2], "<i2")
    else:
        from data_pipeline.audio import AudioError, load_audio

        try:
            samples = load_audio(audio, sample_rate)
        except AudioError as error:
            raise AudioError(f"{audio}: {error}") from error
        # A word may end the file: it has to get through a whole window, and a second is more than is smoothed.
        samples = np.append(samples, np.zeros(clip_samples + sample_rate, np.float32))
        yield from (samples[start : start + size] for start in range(0, len(samples), size))


def _microphone(sample_rate: int, size: int) -> Iterator:
    from data_pipeline.errors import UserError

    try:
        import sounddevice
    except (ModuleNotFoundError, OSError) as error:
        raise UserError(f'no microphone: {error}; it needs the extra [mic]: pip install ".[mic]"') from error
    try:
        with sounddevice.InputStream(sample_rate, size, channels=1, dtype="int16") as stream:
            while True:
                yield stream.read(size)[0][:, 0]
    except sounddevice.PortAudioError as error:
        raise UserError(f"the microphone can't be opened: {error}") from error


def _print(heard, as_json: bool) -> None:
    if as_json:
        from json import dumps

        rounded = {"probability": round(heard.probability, 6), "seconds": round(heard.seconds, 3)}
        print(dumps({"label": heard.label, **rounded}, ensure_ascii=False), flush=True)
    else:
        print(f"{heard.seconds:8.2f} s  {heard.label} {heard.probability:.1%}", flush=True)
