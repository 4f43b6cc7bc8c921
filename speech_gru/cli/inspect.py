"""`speech-gru inspect`: what an exported file says about itself. Needs no TensorFlow."""

from pathlib import Path
from typing import Annotated

import typer

from speech_gru.cli.options import JSON


def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .tflite file that `export` wrote.")],
    json: JSON = False,
):
    """Show what is inside an exported file: labels or tokens, audio, front end, thresholds, number format, origin.

    A file that was changed, cut off or written by another program is refused with the reason.

    [bold]Example:[/bold]  speech-gru inspect model.tflite
    """
    from dataclasses import asdict

    from speech_gru.artefact import inspect_file

    values = {**asdict(inspect_file(file)), "bytes": file.stat().st_size}
    if json:
        from json import dumps

        print(dumps(values, indent=2, ensure_ascii=False))
        return
    if values["head"] != "ctc":
        values = {key: value for key, value in values.items() if key not in _OF_PHRASES}
    width = max(map(len, values))
    for key, value in values.items():
        print(f"{key:{width}}  {_shown(value)}")


_OF_PHRASES = ("frame_samples", "hop_samples", "step_samples", "tokens", "decoding", "words")
"""What says nothing of a file for single words."""


def _shown(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items() if item is not None) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(item if item.strip() else repr(item) for item in value) or "-"  # a blank, a space
    return str(value) or "-"
