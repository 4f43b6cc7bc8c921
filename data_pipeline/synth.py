"""A corpus of chosen words from a speech synthesiser, laid out as Speech Commands is: a start without recordings."""

import functools
import multiprocessing
import os
import shutil
import signal
import unicodedata
import wave
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from data_pipeline.audio import resample, to_pcm16
from data_pipeline.errors import UserError
from data_pipeline.espeak import SAMPLE_RATE as ESPEAK_RATE
from data_pipeline.espeak import Espeak, accents
from data_pipeline.files import write_text

SAMPLE_RATE = 16000
SPLITS = ("train", "validation", "test")
UNKNOWN_WORDS = (  # noqa: SIM905
    "apple bird book bright cat chair cup dog fish garden gold "
    "guess happy house lift paper snow stock table town tree water"
).split()
"""Spoken beside the chosen words unless others are given (English). Some sound much like common commands."""
VARIANTS = (  # noqa: SIM905
    "f1 f2 f3 f4 f5 Andrea Annie anika aunty belinda grandma linda steph "
    "m1 m2 m3 m4 m5 m7 m8 Alex Andy Denis Gene Mike Nguyen Reed boris grandpa klatt4 max pablo pedro"
).split()
"""espeak-ng's voice variants that can be understood and told apart: no robots, whispers, near-copies, overdriven ones.
Each got 25 or more of 28 words right in a nearest-neighbour test (MFCCs, dynamic time warping, other variants); a
classifier trained on 15 words of real Speech Commands got 80 % of theirs right, and 85 % of unseen people's."""
_NOISE_SECONDS = 20
_BABBLE_VOICES = 8
_FASTEST = 450


@dataclass(frozen=True)
class Speaker:
    """A made-up speaker: a voice of espeak-ng, its split, and the middle of its pitch (0 to 99) and words a minute."""

    name: str
    voice: str
    split: str
    pitch: float
    rate: float


@dataclass(frozen=True)
class Synthesized:
    """What `synthesize` made: `speakers` and `clips` are counts by split, `seconds` those of all clips, noise aside."""

    words: tuple[str, ...]
    unknown_words: tuple[str, ...]
    speakers: dict[str, int]
    clips: dict[str, int]
    seconds: float


def synthesize(
    words: Sequence[str],
    out: str | os.PathLike,
    *,
    unknown_words: Sequence[str] | None = None,
    voices: int = 48,
    takes: int = 4,
    language: str = "en",
    seed: int = 0,
    seconds: float = 1.0,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> Synthesized:
    """Has espeak-ng speak `words` and writes `<out>/<word>/<speaker>_nohash_<take>.wav`: 16 kHz, mono, 16 bits.

    Beside them: `validation_list.txt` and `testing_list.txt` (a tenth of the voice variants each, at least one: no
    voice is in two splits, whatever its accent), `_background_noise_` and a README.txt. Each take has its own pitch,
    rate, intonation and volume, and lies at a random place in a faint noise. The same arguments give the same bytes
    with the same versions of espeak-ng and NumPy on the same kind of processor. `out` appears when all is done, or not
    at all.

    The work is done in one child process; a script that calls this needs the `if __name__ == "__main__":` guard.

    Args:
        words: what to tell apart, in the alphabet of `language`; `turn on` is one word here.
        out: a folder that doesn't exist or is empty.
        unknown_words: further words, to learn what isn't meant. None: UNKNOWN_WORDS without `words`; English only.
        voices: number of speakers, at least 3; beyond accents x variants they differ only in pitch and rate.
        takes: clips of each word from each speaker.
        language: one of espeak-ng's languages for all its accents (`en`), or one accent (`en-us`).
        seed: of everything random, 0 or more.
        seconds: length of a clip. A word that is longer is spoken faster; if that isn't enough, its clip is longer.
        progress: called with (clips done, clips in all).

    Raises:
        UserError: words or numbers that can't be used; `out` isn't empty or can't be written; espeakng-loader isn't
            installed; the language is unknown; a word is silent.
    """
    if voices < 3 or takes < 1 or seed < 0 or not 0.1 <= seconds <= 30:
        raise UserError(
            "expected at least 3 voices (one a split), at least 1 take, a seed of at least 0 and 0.1 to 30 seconds; "
            f"got {voices} voices, {takes} takes, seed {seed}, {seconds:g} seconds"
        )
    words, unknown_words = _checked(words, unknown_words, language)
    out = Path(out).resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and isn't an empty folder; give a new one, or delete it first")
    speakers = _cast(accents(language), voices, seed)
    texts = words + unknown_words
    per_speaker, spoken = len(texts) * takes, 0.0
    with _folder_aside(out) as folder, _child() as child:
        progress(0, voices * per_speaker)
        record = functools.partial(_record, folder=folder, texts=texts, takes=takes, seconds=seconds)
        for done, length in enumerate(child.map(record, speakers, [(seed, 1, i) for i in range(voices)]), start=1):
            spoken += length
            progress(done * per_speaker, voices * per_speaker)
        child.submit(_write_noise, folder, unknown_words, speakers, (seed, 2)).result()
        _write_lists(folder, speakers, texts, takes)
        parameters = {
            "words": ", ".join(words),
            "unknown words": ", ".join(unknown_words) or "none",
            "language": language,
            "speakers": voices,
            "takes": takes,
            "seed": seed,
            "seconds": seconds,
            "espeak-ng": child.submit(_version).result(),
            "espeakng-loader": version("espeakng-loader"),
            "NumPy": np.__version__,
        }
        write_text(folder / "README.txt", _readme(parameters, speakers))
    counts = Counter(speaker.split for speaker in speakers)
    clips = {split: counts[split] * per_speaker for split in SPLITS}
    return Synthesized(words, unknown_words, {split: counts[split] for split in SPLITS}, clips, spoken)


def _checked(
    words: Sequence[str], unknown_words: Sequence[str] | None, language: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Both lists in NFC, the default put in; UserError for what can't be a word or comes twice."""
    words = tuple(unicodedata.normalize("NFC", word) for word in words)
    if not words:
        raise UserError("expected at least one word to speak, got none")
    if unknown_words is None:
        if language.lower().split("-")[0] != "en":
            raise UserError(
                f"the default words for _unknown_ are English; with the language {language!r} give some yourself, or "
                'an empty list for none (--unknown-words "a,b" or "", unknown_words in Python)'
            )
        chosen = {word.lower() for word in words}
        unknown_words = [word for word in UNKNOWN_WORDS if word not in chosen]
    unknown_words = tuple(unicodedata.normalize("NFC", word) for word in unknown_words)
    seen = {}
    for word in words + unknown_words:
        _check_word(word)
        if word.lower() in seen:
            raise UserError(
                f"{seen[word.lower()]!r} and {word!r} are both given: expected each word once; "
                "names that differ only in case are one folder on many disks"
            )
        seen[word.lower()] = word
    return words, unknown_words


def _check_word(word: str) -> None:
    if word != word.strip() or not word.isprintable() or not any(map(str.isalnum, word)):
        raise UserError(f"{word!r} can't be a word: expected letters or digits on one line, without spaces around them")
    if word.startswith(("_", ".")) or word.endswith(".") or set(word) & set('/\\:*?"<>|'):
        raise UserError(
            f"{word!r} can't be a word: it becomes a folder's name, so it can't begin with _ or ., end with . or hold "
            'any of / \\ : * ? " < > |'
        )


def _cast(voice_files: dict[str, str], voices: int, seed: int) -> list[Speaker]:
    """Speakers: every variant in turn, each time with another accent. The variant settles the split."""
    rng = np.random.default_rng((seed, 0))
    variants = rng.permutation(VARIANTS).tolist()[:voices]
    tags = rng.permutation(sorted(voice_files)).tolist()
    held_out = max(1, round(len(variants) / 10))
    speakers = []
    for i in range(voices):
        time, place = divmod(i, len(variants))
        tag, again = tags[(place + time) % len(tags)], time // len(tags)
        speakers.append(
            Speaker(
                name=f"{tag}+{variants[place]}" + (f".{again + 1}" if again else ""),
                voice=f"{voice_files[tag]}+{variants[place]}",
                split=("test", "validation", "train")[min(place // held_out, 2)],
                pitch=rng.uniform(35, 65),
                rate=rng.uniform(130, 190),
            )
        )
    return speakers


@contextmanager
def _folder_aside(out: Path) -> Iterator[Path]:
    """Yields a new folder beside `out` that becomes `out` on success and is deleted on any failure."""
    aside = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir(parents=True)
        yield aside
        if out.is_dir():
            out.rmdir()  # it is empty; Windows doesn't rename over a folder
        aside.rename(out)
    except OSError as error:
        raise UserError(f"{out} can't be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _child() -> Iterator[ProcessPoolExecutor]:
    """One fresh process, as only a fresh library says the same again; Ctrl-C is for the parent alone."""
    context = multiprocessing.get_context("spawn")
    child = ProcessPoolExecutor(1, context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    # Before NumPy is loaded there: for products this small, a second BLAS thread costs up to a hundred times the work.
    child.submit(os.putenv, "OPENBLAS_NUM_THREADS", "1")
    try:
        yield child
    finally:
        child.shutdown(cancel_futures=True)


@functools.cache
def _espeak() -> Espeak:
    return Espeak()


def _version() -> str:
    return _espeak().version


def _record(
    speaker: Speaker, seed: Sequence[int], folder: Path, texts: Sequence[str], takes: int, seconds: float
) -> float:
    """Writes all clips of a speaker; returns their length in seconds. Runs in the child."""
    rng = np.random.default_rng(seed)
    samples = 0
    for text in texts:
        (folder / text).mkdir(exist_ok=True)
        for take in range(takes):
            clip = _utter(speaker, text, seconds, rng)
            samples += clip.size
            _write_wav(folder / text / _file_name(speaker, take), clip)
    return samples / SAMPLE_RATE


def _file_name(speaker: Speaker, take: int) -> str:
    return f"{speaker.name}_nohash_{take}.wav"


def _utter(speaker: Speaker, text: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """One take: float32 [samples] at 16 kHz, of `seconds` or longer. Raises UserError if nothing can be heard."""
    mark = rng.choice(["", "!", "?", ","])  # each another intonation; no full stop, which makes abbreviations
    manner = {
        "pitch": speaker.pitch + rng.uniform(-6, 6),
        "range": rng.uniform(30, 70),
        "volume": rng.uniform(40, 90),
        "rate": speaker.rate * rng.uniform(0.9, 1.1),
    }
    noise_seed = int(rng.integers(2**31))
    spoken = _say(text + mark, speaker, manner, noise_seed)
    room = 0.95 * seconds * ESPEAK_RATE
    if spoken.size > room:
        manner["rate"] = min(_FASTEST, manner["rate"] * spoken.size / room)
        spoken = _say(text + mark, speaker, manner, noise_seed)
    if not spoken.size:
        raise UserError(f"espeak-ng says nothing for {text!r} in the voice {speaker.name}; write it as it is spoken")
    spoken = resample(spoken, ESPEAK_RATE, SAMPLE_RATE)
    length = max(round(seconds * SAMPLE_RATE), spoken.size)
    clip = rng.normal(0, 10 ** (rng.uniform(-70, -50) / 20), length).astype(np.float32)
    start = rng.integers(length - spoken.size + 1)
    clip[start : start + spoken.size] += spoken
    return clip


def _say(text: str, speaker: Speaker, manner: dict[str, float], seed: int) -> np.ndarray:
    """float32 [samples] in [-1, 1) at 22,050 Hz without what is 50 dB below the peak at both ends; empty if silent."""
    samples = _espeak().say(text, speaker.voice, seed, **manner).astype(np.float32) / 32768
    level = np.abs(samples)
    heard = np.flatnonzero(level > level.max(initial=0) * 10 ** (-50 / 20))
    return samples[heard[0] : heard[-1] + 1] if heard.size else samples[:0]


def _write_wav(path: Path, samples: np.ndarray) -> None:
    """Without soundfile, which waits at each file until it is on the disk."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        file.writeframes(to_pcm16(samples).astype("<i2").tobytes())


def _write_noise(folder: Path, unknown_words: Sequence[str], speakers: Sequence[Speaker], seed: Sequence[int]) -> None:
    """Writes `_background_noise_`: 20 s each, RMS -20 dB of full scale. Runs in the child."""
    rng = np.random.default_rng(seed)
    noises = {f"{name}_noise": _coloured(rng, exponent) for exponent, name in enumerate(("white", "pink", "brown"))}
    noises |= {f"mains_hum_{hertz}hz": _hum(rng, hertz) for hertz in (50, 60)}
    if unknown_words:
        noises["babble"] = _babble(rng, unknown_words, [speaker for speaker in speakers if speaker.split == "train"])
    (folder / "_background_noise_").mkdir()
    for name, noise in noises.items():
        noise = 0.1 * noise / np.sqrt(np.mean(noise**2))
        _write_wav(folder / "_background_noise_" / f"{name}.wav", noise)


def _coloured(rng: np.random.Generator, exponent: float) -> np.ndarray:
    """Gaussian noise whose power falls as 1 / frequency ** exponent, from 20 Hz up."""
    spectrum = np.fft.rfft(rng.normal(size=_NOISE_SECONDS * SAMPLE_RATE))
    frequencies = np.arange(spectrum.size) / _NOISE_SECONDS
    return np.fft.irfft(np.where(frequencies < 20, 0, spectrum * np.maximum(frequencies, 20) ** (-exponent / 2)))


def _hum(rng: np.random.Generator, hertz: int) -> np.ndarray:
    """The mains and its harmonics up to 1 kHz, falling about as 1/n, in a little pink noise."""
    time = np.arange(_NOISE_SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    noise = _coloured(rng, 1)
    hum = 0.1 * noise / noise.std()
    for n in range(1, 1000 // hertz + 1):
        hum += rng.uniform(0.3, 1) / n * np.sin(2 * np.pi * (n * hertz * time + rng.random()))
    return hum


def _babble(rng: np.random.Generator, texts: Sequence[str], speakers: Sequence[Speaker]) -> np.ndarray:
    """Several speakers at once, each with the words in another order, over and over."""
    babble = np.zeros(_NOISE_SECONDS * SAMPLE_RATE)
    for i in rng.permutation(len(speakers))[:_BABBLE_VOICES]:
        manner = {"pitch": speakers[i].pitch, "range": 50, "volume": 60, "rate": speakers[i].rate}
        spoken = _say(" ".join(rng.permutation(texts)), speakers[i], manner, int(rng.integers(2**31)))
        babble += np.resize(resample(spoken, ESPEAK_RATE, SAMPLE_RATE), babble.size)
    return babble


def _write_lists(folder: Path, speakers: Sequence[Speaker], texts: Sequence[str], takes: int) -> None:
    for split, name in (("validation", "validation_list.txt"), ("test", "testing_list.txt")):
        own = [speaker for speaker in speakers if speaker.split == split]
        lines = [f"{text}/{_file_name(speaker, take)}\n" for text in texts for speaker in own for take in range(takes)]
        write_text(folder / name, "".join(lines))


def _readme(parameters: dict[str, object], speakers: Sequence[Speaker]) -> str:
    values = "\n".join(f"{name}: {value}" for name, value in parameters.items())
    cast = "\n".join(f"  {s.name:<28} {s.split:<10}  {s.pitch:4.1f}  {s.rate:5.1f}" for s in speakers)
    return f"""Synthetic speech: nobody said this.

Made by `speech-gru synth` in the layout of Speech Commands (arXiv:1804.03209): a folder a word,
<speaker>_nohash_<take>.wav, 16 kHz, mono, 16 bits; recordings of noise, made too, in _background_noise_.

It serves to try words out before anyone has recorded them. It doesn't stand for people: the voices are variants of one
formant synthesiser and lack most of what makes speakers, microphones and rooms differ. A figure measured on them says
little about people: record real speakers before you rely on a recogniser.

Splits are by voice variant: no voice of the validation or test list is heard in training, in whatever accent.

{values}

espeak-ng is licensed under GPL-3.0-or-later; that licence is the program's and doesn't cover the sound it makes.

Speakers: accent+variant, split, pitch in espeak-ng's units (0 to 99), words a minute.
{cast}
"""
