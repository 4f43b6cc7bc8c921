"""Audio files -> mono float32 at one sampling rate, or the reason why a file can't be used.

Needs only NumPy and soundfile, so that a device hears a file as training did.
"""

import io
import os
import re
from fractions import Fraction
from functools import lru_cache
from typing import BinaryIO

import numpy as np
import soundfile as sf
from numpy.lib.stride_tricks import sliding_window_view

from data_pipeline.errors import UserError

SILENT_PEAK = 1e-4
"""A clip whose peak is below this (-80 dBFS) is silent."""
LOUDEST_PEAK = 10.0
"""Decoders overshoot 1 a little; ten times it is a file of floats that were never scaled."""
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000
"""Sampling rates in Hz beyond which a header is wrong rather than unusual."""

_FAMILIES = {
    ".wav": "WAV",
    ".wave": "WAV",
    ".flac": "FLAC",
    ".ogg": "Ogg",
    ".oga": "Ogg",
    ".opus": "Ogg",
    ".mp3": "MP3",
    ".raw": "samples without a header",  # soundfile opens nothing by that name
}
_LARGEST_OGG_PAGE = 27 + 255 + 255 * 255
_WAV_CHUNKS = 100  # walked in search of the samples; more is not a recording
_STREAMED_SIZE = 0x7FFFF000  # what SoX writes to a pipe; arecord and FFmpeg write more
_UNKNOWN_FRAMES = 2**62  # libsndfile's frame count where a header holds none is 2**63 - 1
_BLOCK_VALUES = 2**22  # decoded at a time, so that a header that lies costs 16 MB at most

_STOP_BAND_DB = 90.0
_TRANSITION = 0.1  # the filter falls between 0.9 and 1 of the lower Nyquist frequency
_LARGEST_RATIO_TERM = 1000


class AudioError(UserError):
    """A file that can't be used as a clip. The message is a short reason without the path: "truncated: ..."."""


class _SequentialFile(sf.SoundFile):
    """soundfile seeks to where it is after each read, and Opus then decodes 80 ms again: 1.6 times the time."""

    def seekable(self) -> bool:
        return False


def load_audio(
    file: str | os.PathLike | BinaryIO,
    sample_rate: int,
    *,
    min_seconds: float = 0.0,
    max_seconds: float | None = None,
) -> np.ndarray:
    """Decodes WAV (integer or float), FLAC, Ogg (Vorbis, Opus, FLAC) or MP3 of any rate and number of channels.

    Threads may call it: reading from a path, the decoder runs without Python's lock.

    Args:
        file: a path, or a seekable binary file object, which is read from its start and not closed.
        sample_rate: of the result, in Hz.
        min_seconds: a shorter file is refused.
        max_seconds: a longer file is refused; where the header tells, nothing is decoded.

    Returns:
        float32 (samples,) within [-1, 1]: the mean of the channels.

    Raises:
        AudioError: the first of these that holds: missing, unreadable, empty (0 bytes), not audio, misnamed (the
            extension is another format's), truncated (by the container's sizes and end marks), damaged so that it
            can't be opened, an impossible sampling rate, empty (no samples) or too short or too long by its header,
            truncated or damaged (found in decoding), too short or too long as decoded, not finite, out of range,
            silent. An MP3 without a Xing header doesn't say how long it is: its length is the decoder's estimate, an
            end cut off goes unseen, and with a varying bit rate the end can be left out.
    """
    try:
        if not isinstance(file, (str, os.PathLike)):
            source, counted = _inspect(file, suffix="")
        elif not os.path.isfile(file):
            raise AudioError("missing: there is no such file")
        else:
            with open(file, "rb") as stream:
                source, counted = _inspect(stream, suffix=os.path.splitext(file)[1].lower())
            if source is stream:  # bytes on POSIX: names that aren't UTF-8 exist
                source = os.fsencode(file) if os.name == "posix" else os.fspath(file)
        with _SequentialFile(source) as sound:
            rate = sound.samplerate
            samples = _decode(sound, counted, min_seconds, max_seconds)
    except OSError as error:
        raise AudioError(f"unreadable: {error.strerror or error}") from error
    except sf.SoundFileError as error:
        reason = getattr(error, "error_string", "soundfile gives no reason")  # str(error) holds the path
        raise AudioError(f"truncated or damaged: {reason.removeprefix('Error : ').rstrip('.')}") from error
    _check_samples(samples)
    return np.clip(resample(samples, rate, sample_rate), -1.0, 1.0)


def _inspect(stream: BinaryIO, suffix: str) -> tuple[BinaryIO, bool]:
    """Checks what can be known without decoding.

    Returns:
        What to decode (`stream`, or a mended copy in memory), and whether its header counts the samples.
    """
    size = stream.seek(0, os.SEEK_END)
    if size == 0:
        raise AudioError("empty: 0 bytes")
    start = _id3_size(stream)
    stream.seek(start)
    family = _family(stream.read(12)) or ("MP3" if start else None)
    if family is None:
        raise AudioError("not audio: expected WAV, FLAC, Ogg or MP3")
    if _FAMILIES.get(suffix, family) != family:
        raise AudioError(f"misnamed: {suffix}, but its content is {family}")
    stream.seek(start)
    counted = family != "MP3" or _has_frame_count(stream.read(64))
    if start and family != "MP3":  # a tag that has no place there, and makes libsndfile lose samples
        stream, size = io.BytesIO(stream.read()), size - start
    if family == "WAV":
        stream = _check_wav(stream, size)
    elif family == "Ogg":
        _check_ogg(stream, size)
    stream.seek(0)
    return stream, counted


def _id3_size(stream: BinaryIO) -> int:
    """Bytes of the ID3v2 tag that the file begins with, or 0."""
    stream.seek(0)
    head = stream.read(10)
    if len(head) < 10 or head[:3] != b"ID3":
        return 0
    return 10 + sum((byte & 127) << shift for byte, shift in zip(head[6:], (21, 14, 7, 0), strict=True))


def _family(head: bytes) -> str | None:
    if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:] == b"WAVE":
        return "WAV"
    if re.match(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]", head):  # MPEG 1, 2 and 2.5, layer III
        return "MP3"
    return {b"fLaC": "FLAC", b"OggS": "Ogg"}.get(head[:4])


def _has_frame_count(frame: bytes) -> bool:
    """Whether the first frame of an MP3 is a Xing (or "Info") header that holds the number of frames."""
    found = re.search(rb"(?:Xing|Info)...(.)", frame, re.DOTALL)
    return found is not None and bool(found[1][0] & 1)


def _check_wav(stream: BinaryIO, size: int) -> BinaryIO:
    """Compares the size of the data chunk with what is there. A size of 0, left by a writer that couldn't seek back,
    is replaced in a copy, for libsndfile would read no samples."""
    stream.seek(0)
    order = "big" if stream.read(4) == b"RIFX" else "little"
    position, bytes_per_second = 12, 1
    for _ in range(_WAV_CHUNKS):
        stream.seek(position)
        header = stream.read(20)
        chunk, length = header[:4], int.from_bytes(header[4:8], order)
        position += 8
        if position > size:
            raise AudioError("truncated: it ends before the samples")
        if chunk == b"data":
            break
        if chunk == b"fmt ":
            bytes_per_second = int.from_bytes(header[16:20], order) or 1
        position += length + length % 2
    else:
        return stream
    there = size - position
    if there < length < _STREAMED_SIZE:
        raise AudioError(f"truncated: {there / bytes_per_second:.2f} s of {length / bytes_per_second:.2f} s are there")
    if length > 0 or there == 0:
        return stream
    stream.seek(0)
    content = stream.read()
    return io.BytesIO(content[: position - 4] + b"\xff" * 4 + content[position:])


def _check_ogg(stream: BinaryIO, size: int) -> None:
    """Looks at the last page (RFC 3533, section 6): is it all there, and is it marked as the end of the stream?"""
    stream.seek(max(0, size - _LARGEST_OGG_PAGE))
    tail = stream.read()
    page = tail[tail.rfind(b"OggS\0") :]
    if len(page) < 27 or len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        raise AudioError("truncated: the last Ogg page is cut")
    if not page[5] & 4:
        raise AudioError("truncated: the last Ogg page is not the stream's end")


def _decode(sound: sf.SoundFile, counted: bool, min_seconds: float, max_seconds: float | None) -> np.ndarray:
    """Mono samples at the file's rate, block by block, so that memory is bounded by what is in the file."""
    rate, promised = sound.samplerate, sound.frames
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(f"impossible sampling rate: {rate} Hz, expected {LOWEST_RATE} to {HIGHEST_RATE} Hz")
    if promised < _UNKNOWN_FRAMES:
        _check_seconds(promised / rate, min_seconds, max_seconds)
    blocks, there = [], 0
    while there < promised and (max_seconds is None or there <= max_seconds * rate):
        block = sound.read(min(promised - there, _BLOCK_VALUES // sound.channels), dtype="float32", always_2d=True)
        if len(block) == 0:
            break
        there += len(block)
        with np.errstate(over="ignore", invalid="ignore"):  # of unusable floats, which are refused afterwards
            blocks.append(block[:, 0] if sound.channels == 1 else block.mean(axis=1))
    if counted and there < promised < _UNKNOWN_FRAMES:
        raise AudioError(f"truncated: {there / rate:.2f} s of {promised / rate:.2f} s are there")
    _check_seconds(there / rate, min_seconds, max_seconds)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def _check_seconds(seconds: float, min_seconds: float, max_seconds: float | None) -> None:
    if seconds == 0:
        raise AudioError("empty: it holds no samples")
    if seconds < min_seconds:
        raise AudioError(f"too short: {seconds:.2f} s, at least {min_seconds:g} s are needed")
    if max_seconds is not None and seconds > max_seconds:
        raise AudioError(f"too long: {seconds:.2f} s, at most {max_seconds:g} s are allowed")


def _check_samples(samples: np.ndarray) -> None:
    peak = float(np.abs(samples).max())
    if not np.isfinite(peak):
        raise AudioError("not finite: it holds NaN or infinite samples")
    if peak > LOUDEST_PEAK:
        raise AudioError(f"out of range: the peak is {peak:g}, expected samples within -1 to 1")
    if peak < SILENT_PEAK:
        raise AudioError(f"silent: the peak is {peak:.1e}, at least {SILENT_PEAK:g} is needed")


def resample(samples: np.ndarray, from_rate: int, to_rate: int) -> np.ndarray:
    """Band-limited change of the sampling rate with linear phase and no delay.

    Flat to 0.9 of the lower Nyquist frequency, 80 dB down and more from that frequency on. A Kaiser-windowed sinc
    (Smith, "Digital Audio Resampling Home Page", https://ccrma.stanford.edu/~jos/resample/), its phases as the columns
    of a matrix (the polyphase form: Crochiere & Rabiner, "Multirate Digital Signal Processing", 1983, chapter 3).
    A ratio of rates whose terms exceed 1000 is approximated: to 0.1 % at worst, to 0.001 % for rates in use.

    Args:
        samples: float (samples,). Beyond its ends the signal is taken as zero.
        from_rate, to_rate: in Hz.

    Returns:
        float32 (ceil(samples * to_rate / from_rate),); `samples` itself where it is float32 and the rates are equal.
    """
    samples = np.asarray(samples, np.float32)
    if from_rate == to_rate or len(samples) == 0:
        return samples
    matrix, step = _resampling_matrix(from_rate, to_rate)
    window, outputs = matrix.shape
    length = -(-len(samples) * to_rate // from_rate)
    rows = -(-length // outputs)
    before = (window - step) // 2
    padded = np.zeros((rows - 1) * step + window, np.float32)
    kept = samples[: len(padded) - before]
    padded[before : before + len(kept)] = kept
    windows = sliding_window_view(padded, window)[::step]
    result = np.empty((rows, outputs), np.float32)
    batch = max(1, 2**20 // window)
    for row in range(0, rows, batch):  # np.dot copies overlapping windows for BLAS; np.matmul may loop instead
        np.dot(windows[row : row + batch], matrix, out=result[row : row + batch])
    return result.ravel()[:length]


@lru_cache(maxsize=16)
def _resampling_matrix(from_rate: int, to_rate: int) -> tuple[np.ndarray, int]:
    """The matrix (input samples of a window, output samples), and the step in input samples to the next window.

    Kaiser's formulas for the window: Oppenheim & Schafer, "Discrete-Time Signal Processing", 3rd ed., section 7.5.3.
    """
    smaller, larger = sorted((from_rate, to_rate))
    ratio = Fraction(smaller, larger).limit_denominator(_LARGEST_RATIO_TERM)
    up, down = (ratio.numerator, ratio.denominator) if to_rate < from_rate else (ratio.denominator, ratio.numerator)
    repeats = -(-64 // up)  # wide enough for the windows to overlap little, and for BLAS
    up, step = up * repeats, down * repeats

    nyquist = min(1.0, to_rate / from_rate)  # the lower of the two, as a share of the input's
    half = (_STOP_BAND_DB - 7.95) / (2.285 * np.pi * _TRANSITION * nyquist) / 2
    beta = 0.1102 * (_STOP_BAND_DB - 8.7)
    before = int(np.ceil(half))
    time = np.arange(-before, step + before)[:, None] - np.arange(up) * (step / up)
    kaiser = np.i0(beta * np.sqrt(np.maximum(0.0, 1 - (time / half) ** 2))) * (np.abs(time) <= half)
    matrix = np.sinc((1 - _TRANSITION / 2) * nyquist * time) * kaiser
    matrix = (matrix / matrix.sum(axis=0)).astype(np.float32)
    matrix.flags.writeable = False
    return matrix, step


def fit_length(samples: np.ndarray, length: int) -> np.ndarray:
    """The `length` successive samples with the greatest energy (the first of equals).

    A shorter signal is padded with zeros on both sides; where their number is odd, the end gets one more.
    dtype as that of `samples` (samples,).
    """
    missing = length - len(samples)
    if missing >= 0:
        return np.pad(samples, (missing // 2, missing - missing // 2))
    energy = np.concatenate(([0.0], np.cumsum(np.square(samples, dtype=np.float64))))
    start = int(np.argmax(energy[length:] - energy[:-length]))
    return samples[start : start + length]


def to_pcm16(samples: np.ndarray) -> np.ndarray:
    """Float [-1, 1] -> int16: times 32768, rounded to nearest, saturated."""
    return np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(np.int16)


def from_pcm16(pcm: np.ndarray) -> np.ndarray:
    """int16 -> float32 [-1, 1): divided by 32768, so that to_pcm16(from_pcm16(pcm)) is `pcm`."""
    return pcm.astype(np.float32) / np.float32(32768)
