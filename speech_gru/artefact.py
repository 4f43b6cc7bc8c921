"""What a .tflite file says about itself: one JSON object in the flatbuffer's own metadata table.

Labels, sampling rate, clip length, front-end settings and origin travel inside the file, with a SHA-256 over all of the
file but the digest itself, so that a truncated, changed or foreign file is refused before an interpreter sees it.
"""

import hashlib
import json
import struct
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from data_pipeline.errors import UserError

METADATA_NAME = "speech_gru"
FORMAT = 1
_BLANK = "0" * 64


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
    format: int = FORMAT


def add_description(model: bytes, description: Artefact) -> bytes:
    """A TFLite model with `description` inside; any earlier one is replaced."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    text = json.dumps({**asdict(description), "sha256": _BLANK}, ensure_ascii=False)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = text.encode()
    entry.name, entry.buffer = METADATA_NAME, len(tree.buffers)
    tree.buffers.append(buffer)
    tree.metadata = [kept for kept in tree.metadata or [] if kept.name != METADATA_NAME.encode()] + [entry]
    builder = flatbuffers.Builder(len(model) + 4096)
    builder.Finish(tree.Pack(builder), file_identifier=b"TFL3")
    blank = bytes(builder.Output())
    return blank.replace(_BLANK.encode(), hashlib.sha256(blank).hexdigest().encode())


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
    values = _find_json(model)
    if values is None:
        raise UserError(
            f"{name}: a TFLite file without speech_gru's description: of another program, or cut off; "
            "expected one that `speech-gru export` wrote"
        )
    digest = str(values.pop("sha256", ""))
    if hashlib.sha256(model.replace(digest.encode(), _BLANK.encode())).hexdigest() != digest:
        raise UserError(f"{name}: the file was changed or cut off after it was exported; export it again")
    if values.get("format") != FORMAT:
        raise UserError(
            f"{name}: format {values.get('format')} of a later speech_gru; this one reads {FORMAT}: update it"
        )
    known = {item.name for item in fields(Artefact)}
    values = {key: value for key, value in values.items() if key in known}
    return Artefact(**values | {"labels": tuple(values["labels"])})


def _find_json(model: bytes) -> dict | None:
    from ai_edge_litert import schema_py_generated as schema

    try:
        tree = schema.Model.GetRootAsModel(model, 0)
        for index in range(min(tree.MetadataLength(), 64)):
            entry = tree.Metadata(index)
            if entry.Name() == METADATA_NAME.encode():
                values = json.loads(tree.Buffers(entry.Buffer()).DataAsNumpy().tobytes())
                return values if isinstance(values, dict) else None
    except (struct.error, IndexError, ValueError, TypeError, AttributeError, MemoryError):
        pass  # random bytes lead the flatbuffer reader anywhere
    return None
