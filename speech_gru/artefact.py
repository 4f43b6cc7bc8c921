"""What a .tflite file says about itself: one line of JSON in the flatbuffer's own metadata table.

Labels, sampling rate, clip length, front-end settings and origin travel inside the file, with a SHA-256 over all of the
file but the digest itself, so that a truncated, changed or foreign file is refused before an interpreter sees it.

The line begins with the format and the digest, and is found by that beginning: a damaged file is never followed from
offset to offset, and a device doesn't load the flatbuffer schema.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from data_pipeline.errors import UserError

METADATA_NAME = "speech_gru"
FORMAT = 1
"""Raised when an older version can't use a newer file. The line's beginning and the digest stay as they are."""
_BEGINNING = '{{"speech_gru": {}, "sha256": "{}", '
_BLANK = "0" * 64
_FOUND = re.compile(rb'\{"speech_gru": (\d{1,4}), "sha256": "([0-9a-f]{64})", [^\n]*')


@dataclass(frozen=True)
class Artefact:
    """The description inside a file."""

    labels: tuple[str, ...]
    sample_rate: int
    """Samples a second of the audio that goes in."""
    clip_samples: int
    front_end: dict = field(default_factory=dict)
    """Settings of the features, for information: the front end itself is in the graph."""
    head: str = "classification"
    run: str = ""
    """Name of the training run."""
    version: str = ""
    """Of speech_gru, when it was exported."""


def add_description(model: bytes, description: Artefact) -> bytes:
    """A TFLite model, as converted, with `description` inside."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    beginning = _BEGINNING.format(FORMAT, _BLANK).encode()
    buffer.data = beginning + json.dumps(asdict(description), ensure_ascii=False).encode()[1:] + b"\n"
    entry.name, entry.buffer = METADATA_NAME, len(tree.buffers)
    tree.buffers.append(buffer)
    tree.metadata = [*(tree.metadata or ()), entry]
    builder = flatbuffers.Builder(len(model) + 4096)
    builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
    blank = bytes(builder.Output())
    return blank.replace(beginning, _BEGINNING.format(FORMAT, hashlib.sha256(blank).hexdigest()).encode())


def read_description(model: bytes, name: str | Path) -> Artefact:
    """The description inside a TFLite file.

    Args:
        model: the file's content.
        name: what errors call it.

    Raises:
        UserError: not TFLite, truncated or changed, of another program, or of a later version of this one.
    """
    if model[4:8] != b"TFL3":
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
    labels = values.get("labels")
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"labels: expected a list of words, got {str(labels)[:80]}")
    for key in ("sample_rate", "clip_samples"):
        if type(values.get(key)) is not int or values[key] < 1:
            raise ValueError(f"{key}: expected a number of samples, got {str(values.get(key))[:80]}")
    known = {item.name for item in fields(Artefact)}
    return Artefact(**{key: value for key, value in values.items() if key in known} | {"labels": tuple(labels)})
