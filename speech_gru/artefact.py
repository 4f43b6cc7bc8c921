"""What a .tflite file says about itself: one line of JSON in the flatbuffer's own metadata table.

Labels, sampling rate, clip length, front-end settings and origin travel inside the file, with a SHA-256 over all of the
file but the digest itself, so that a truncated, changed or foreign file is refused before an interpreter sees it.

The line begins with the format and the digest, and is found by that beginning: a damaged file is never followed from
offset to offset, and a device doesn't load the flatbuffer schema.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.labels import CONTROLS
from data_pipeline.tokens import KINDS as KINDS_OF_TOKENS

METADATA_NAME = "speech_gru"
FORMAT = 2
"""Raised when an older version can't use a newer file. The line's beginning and the digest stay as they are."""
_BEGINNING = '{{"speech_gru": {}, "sha256": "{}", '
_BLANK = "0" * 64
_TFLITE = b"TFL3"
"""At offset 4 of every TFLite file."""
_FOUND = re.compile(rb'\{"speech_gru": (\d{1,4}), "sha256": "([0-9a-f]{64})", [^\n]*')

KINDS = ("clip", "stream", "step")
HEADS = ("classification", "ctc")
DECODINGS = ("greedy", "beam", "words")
"""The most probable path; beam search; beam search held to sequences of the file's words."""
LOWEST_RATE, HIGHEST_RATE = 1000, 768_000
"""As in data_pipeline.audio, which needs NumPy."""


@dataclass(frozen=True)
class Artefact:
    """The description inside a file."""

    labels: tuple[str, ...]
    sample_rate: int
    """Samples a second of the audio that goes in."""
    clip_samples: int
    kind: str = "clip"
    """"clip": audio of a whole clip in; "stream": a chunk and states; "step": a chunk's features and states."""
    number_format: str = "float32"
    """What weights and products are: see export.number_format."""
    chunk_samples: int = 0
    """Of a stream: samples that go in at once, and come anew."""
    overlap_samples: int = 0
    """Of a stream: samples of the first state, the audio that the next chunk's first frame begins with."""
    warmup_chunks: int = 0
    """Of a stream: after so many chunks the pooling's window is filled."""
    thresholds: dict[str, float] = field(default_factory=dict)
    """By label: what is recognised with less probability isn't reported. Labels that are missing have none."""
    front_end: dict = field(default_factory=dict)
    """Settings of the features, for information: the front end itself is in the graph."""
    front_end_sha256: str = ""
    """Of those settings and the sampling rate, see `front_end_digest`: equal in files with equal features."""
    head: str = "classification"
    """Or "ctc": logits at each step, of the tokens that are the labels, the blank first."""
    frame_samples: int = 0
    hop_samples: int = 0
    """With a CTC head: samples of a frame, and from one to the next."""
    step_samples: int = 0
    """With a CTC head: from one step's logits to the next's."""
    tokens: str = ""
    """With a CTC head: what its tokens are; of data_pipeline.tokens.KINDS."""
    decoding: str = "greedy"
    """With a CTC head, unless somebody asks for another: of DECODINGS."""
    words: tuple[str, ...] = ()
    """With a CTC head: what may be said, for the decoding "words"."""
    run: str = ""
    """Name of the training run."""
    version: str = ""
    """Of speech_gru, when it was exported."""


def front_end_digest(settings: dict, sample_rate: int) -> str:
    """SHA-256 over a front end's settings and sampling rate as sorted JSON."""
    return hashlib.sha256(json.dumps([sample_rate, settings], sort_keys=True).encode()).hexdigest()


def describe(description: Artefact) -> bytes:
    """The line for a file that isn't signed yet."""
    line = _BEGINNING.format(FORMAT, _BLANK) + json.dumps(asdict(description), ensure_ascii=False)[1:] + "\n"
    return line.encode()


def sign(model: bytes) -> bytes:
    """A file that holds an unsigned line (see `describe`), signed."""
    beginning = _BEGINNING.format(FORMAT, _BLANK).encode()
    return model.replace(beginning, _BEGINNING.format(FORMAT, hashlib.sha256(model).hexdigest()).encode())


def inspect_file(path: str | os.PathLike) -> Artefact:
    """The description inside a file. Raises UserError if there is none, see `read_description`."""
    return read_description(read_file(path), path)


def is_model(name: str | os.PathLike) -> bool:
    """Whether a command line means a model by this name: a TFLite file whatever it is called, or one called *.tflite.

    What can't be read, or only once (a pipe), is none unless it is called so.
    """
    path = Path(name)
    try:
        if path.suffix == ".tflite" or not path.is_file():
            return path.suffix == ".tflite"
        with path.open("rb") as file:
            return file.read(8)[4:] == _TFLITE
    except OSError:
        return False


def read_file(path: str | os.PathLike) -> bytes:
    """A file's content. Raises UserError if it can't be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}; expected a .tflite file") from error


def read_description(model: bytes, name: str | Path) -> Artefact:
    """The description inside a TFLite file.

    Args:
        model: the file's content.
        name: what errors call it.

    Raises:
        UserError: not TFLite, truncated or changed, of another program, or of a later version of this one.
    """
    if model[4:8] != _TFLITE:
        raise UserError(f"{name}: not a TFLite file; expected one that `speech-gru export` wrote")
    found = _FOUND.search(model)
    if found is None:
        raise UserError(
            f"{name}: a TFLite file without speech_gru's description: of another program, or cut off; "
            "expected one that `speech-gru export` wrote"
        )
    start, end = found.span(2)
    if hashlib.sha256(model[:start] + _BLANK.encode() + model[end:]).hexdigest().encode() != found[2]:
        raise UserError(f"{name}: the file was changed or cut off after it was exported; export it again")
    if int(found[1]) > FORMAT:
        raise UserError(f"{name}: format {int(found[1])}, of a later speech_gru; this one reads {FORMAT}: update it")
    try:
        return _parse(found[0])
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: its description is wrong ({error}); export it again") from error


def _parse(line: bytes) -> Artefact:
    values = json.loads(line)
    labels, words = values.get("labels"), values.get("words", [])
    _check_labels(labels)
    if words != []:
        _check_labels(words, "words")
    for key in ("sample_rate", "clip_samples"):
        if type(values.get(key)) is not int or values[key] < 1:
            raise ValueError(f"{key}: expected a number of samples, got {str(values.get(key))[:80]}")
    if not LOWEST_RATE <= values["sample_rate"] <= HIGHEST_RATE:
        raise ValueError(f"sample_rate: expected {LOWEST_RATE} to {HIGHEST_RATE}, got {values['sample_rate']}")
    for key in ("chunk_samples", "overlap_samples", "warmup_chunks", "frame_samples", "hop_samples", "step_samples"):
        if type(values.get(key, 0)) is not int or values.get(key, 0) < 0:
            raise ValueError(f"{key}: expected a number from 0, got {str(values[key])[:80]}")
    if values.get("kind", "clip") not in KINDS or (values.get("kind") == "stream" and not values.get("chunk_samples")):
        raise ValueError(f"kind: expected {', '.join(KINDS)}, a stream with chunk_samples, got {str(values)[:80]}")
    thresholds = values.get("thresholds", {})
    if not isinstance(thresholds, dict) or not all(_is_share(value) for value in thresholds.values()):
        raise ValueError(f"thresholds: expected a probability by label, got {str(thresholds)[:80]}")
    for key in ("number_format", "front_end_sha256", "head", "tokens", "decoding", "run", "version"):
        if not isinstance(values.get(key, ""), str):
            raise ValueError(f"{key}: expected text, got {str(values[key])[:80]}")
    _check_head(values)
    if not isinstance(values.get("front_end", {}), dict):
        raise ValueError(f"front_end: expected settings by name, got {str(values['front_end'])[:80]}")
    known = {item.name for item in fields(Artefact)}
    lists = {"labels": tuple(labels), "words": tuple(words)}
    return Artefact(**{key: value for key, value in values.items() if key in known} | lists)


def _check_head(values: dict) -> None:
    if values.get("head", "classification") not in HEADS:
        raise ValueError(f"head: expected {' or '.join(HEADS)}, got {values['head'][:80]!r}")
    if values.get("head") != "ctc":
        return
    if values["labels"][0] != "" or len(values["labels"]) < 2:
        raise ValueError("labels: expected the blank, an empty label, and tokens after it")
    if values.get("tokens") not in KINDS_OF_TOKENS:
        raise ValueError(f"tokens: expected one of {', '.join(KINDS_OF_TOKENS)}, got {str(values.get('tokens'))[:80]}")
    if values.get("decoding") not in DECODINGS:
        raise ValueError(f"decoding: expected one of {', '.join(DECODINGS)}, got {str(values.get('decoding'))[:80]}")
    if "" in values.get("words", []):
        raise ValueError("words: expected words, got an empty one")
    _check_steps(values)


def _check_steps(values: dict) -> None:
    """How samples become steps, with a CTC head."""
    frame, hop, step = sizes = [values.get(key, 0) for key in ("frame_samples", "hop_samples", "step_samples")]
    if not min(sizes) or step % hop:
        raise ValueError(
            "step_samples: expected frame_samples and hop_samples above 0, and a multiple of the latter, got "
            f"{str(sizes)[:80]}"
        )
    # A chunk with the overlap before it has a step's frames, to the sample; a clip is no shorter.
    shortest = frame - hop + step
    if values.get("kind") == "stream" and (values["chunk_samples"], values.get("overlap_samples")) != (
        step,
        frame - hop,
    ):
        raise ValueError(f"chunk_samples: expected a step's, {step}, with an overlap of {frame - hop}")
    if values.get("kind", "clip") == "clip" and values["clip_samples"] < shortest:
        raise ValueError(f"clip_samples: expected a step's at least, {shortest}, got {values['clip_samples']}")


def _check_labels(labels, name: str = "labels") -> None:
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"{name}: expected a list of words, got {str(labels)[:80]}")
    if unprintable := [label for label in labels if CONTROLS.search(label)]:
        raise ValueError(f"{name}: expected words without control characters, got {ascii(unprintable[0])[:80]}")
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"{name}: expected words that differ, got {twice[:80]!r} {labels.count(twice)} times")


def _is_share(value) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1
