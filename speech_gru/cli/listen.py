"""`speech-gru listen`: an exported file and audio that goes on -> words with their times. Needs no TensorFlow."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from speech_gru.cli.options import JSON


def listen(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A .tflite file for streams or clips.")],
    audio: Annotated[
        str,
        typer.Argument(
            metavar="AUDIO",
            help="An audio file; - for raw 16-bit mono samples on standard input; mic: a microphone.",
        ),
    ] = "mic",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Report words from this mean probability on.")] = 0.7,
    json: JSON = False,
):
    """Report the words of a stream as they are said: one line a word, with its time in seconds.

    Standard input and microphone have the model's sampling rate. The microphone needs the extra [mic].

    [bold]Examples:[/bold]

    speech-gru listen stream.tflite

    arecord -r 16000 -f S16_LE -t raw | speech-gru listen stream.tflite -
    """
    from speech_gru.streaming import StreamingRecognizer

    stream = StreamingRecognizer(model, threshold=threshold)
    for samples in _chunks(audio, stream.description.sample_rate):
        for heard in stream.detect(samples):
            _print(heard, json)


def _chunks(audio: str, sample_rate: int) -> Iterator:
    """Tenths of a second of audio."""
    import numpy as np

    size = sample_rate // 10
    if audio == "mic":
        yield from _microphone(sample_rate, size)
    elif audio == "-":
        while content := sys.stdin.buffer.read(2 * size):
            yield np.frombuffer(content[: len(content) // 2 * 2], "<i2")
    else:
        from data_pipeline.audio import load_audio

        samples = load_audio(audio, sample_rate)
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
