"""`speech-gru listen`: an exported file and audio that goes on -> words, phrases, their times. Needs no TensorFlow."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from speech_gru.cli.options import DECODING, JSON, PHRASES


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
            max=1,
            help="Report all words from this mean probability on, instead of from the file's own thresholds (0.7 for "
            "words that have none). With --phrases: what has this score at least, instead of -1; 0 is the best.",
            show_default=False,
        ),
    ] = None,
    phrases: PHRASES = (),
    decoding: DECODING = None,
    json: JSON = False,
):
    """Report the words of a stream as they are said: one line a word, with its time in seconds.

    A word that is said once is reported once: again only after its probability has fallen below the threshold.

    With a CTC head words are reported after a pause of a second, each with the time when it begins and ends; phrases
    that are searched for as soon as they are sure.

    Standard input and microphone have the model's sampling rate. The microphone needs the extra [mic].

    The model that comes with speech_gru knows: yes no up down left right on off stop go zero one two three four five
    eight.

    [bold]Examples:[/bold]

    speech-gru listen

    speech-gru listen stream.tflite some.wav

    speech-gru listen phrases.tflite --phrases "turn left" --phrases "stop now"

    arecord -r 16000 -f S16_LE -t raw | speech-gru listen stream.tflite -
    """
    from data_pipeline.errors import UserError
    from speech_gru.artefact import is_model
    from speech_gru.lite_file import LiteFile
    from speech_gru.shipped import STREAM_MODEL

    given = list(arguments or ())
    model = given.pop(0) if given and is_model(given[0]) else STREAM_MODEL
    audio = given.pop(0) if given else "mic"
    if given:
        raise UserError(f"expected a model and one source of audio, got {len(given)} more: {' '.join(given)}")
    file = LiteFile(model)
    about = file.description
    open_stream = _phrases if about.head == "ctc" else _words
    listen_to, silence = open_stream(
        file, {"--phrases": tuple(phrases), "--threshold": threshold, "--decoding": decoding}
    )
    for heard in listen_to(_chunks(audio, about.sample_rate, silence)):
        _print(heard, json)


def _words(file, options: dict) -> tuple:
    """What finds single words in chunks of audio, and how many samples of silence must follow a file."""
    from speech_gru.cli.console import refuse
    from speech_gru.streaming import StreamingRecognizer

    threshold, about = options.pop("--threshold"), file.description
    refuse(options, f"for files with a CTC head; {file.path} is for single words")
    stream = StreamingRecognizer(file, threshold=threshold)
    # A word may end the file: it has to get through a whole window, and a second is more than is smoothed.
    silence = about.clip_samples + about.sample_rate
    return lambda chunks: (heard for samples in chunks for heard in stream.detect(samples)), silence


def _phrases(file, options: dict) -> tuple:
    """As `_words`, with a CTC head."""
    from speech_gru.cli.console import refuse
    from speech_gru.phrase_recognizer import PhraseRecognizer

    phrases, threshold, decoding = options.values()
    if phrases:
        refuse({"--decoding": decoding}, "of no use with --phrases, which searches")
    else:
        refuse({"--threshold": threshold}, "with a CTC head of no use without --phrases")
    recognizer = PhraseRecognizer(file, decoding=decoding and decoding.value)
    stream = recognizer.search(phrases, -1.0 if threshold is None else threshold) if phrases else recognizer.stream()
    return stream.listen, 0


def _chunks(audio: str, sample_rate: int, silence: int) -> Iterator:
    """Tenths of a second of audio, (samples,) each; a file is followed by so many samples of silence."""
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
        samples = np.append(samples, np.zeros(silence, np.float32))
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
    from speech_gru.streaming import Detection

    if as_json:
        from json import dumps

        print(dumps(_json(heard), ensure_ascii=False), flush=True)
    elif isinstance(heard, Detection):
        print(f"{heard.seconds:8.2f} s  {heard.label} {heard.probability:.1%}", flush=True)
    else:
        said = f"{heard.phrase} {heard.score:.2f}" if hasattr(heard, "phrase") else heard.text
        print(f"{heard.start:8.2f} to {heard.end:.2f} s  {said}", flush=True)


def _json(heard) -> dict:
    from speech_gru.cli.console import entry
    from speech_gru.streaming import Detection

    if not isinstance(heard, Detection):
        return entry(heard)
    return {"label": heard.label, "probability": round(heard.probability, 6), "seconds": round(heard.seconds, 3)}
