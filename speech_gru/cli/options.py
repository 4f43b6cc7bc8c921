"""Arguments and options that several verbs share."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Split(str, Enum):
    """A split of prepared clips, as a choice."""

    train = "train"
    validation = "validation"
    test = "test"


class Decoding(str, Enum):
    """Of speech_gru.artefact.DECODINGS, as a choice."""

    greedy = "greedy"
    beam = "beam"
    words = "words"


CONFIG = Annotated[
    str, typer.Argument(metavar="CONFIG", help="An experiment's YAML file, or the name of a shipped one (demo, ...).")
]
SET = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as model.units=96; may be repeated."),
]
RUN = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory that `train` wrote.")]
PHRASES = Annotated[
    list[str],
    typer.Option(
        metavar="PHRASE",
        help="With a CTC head: search for this phrase, whatever else is said; may be repeated.",
        show_default=False,
    ),
]
DECODING = Annotated[
    Decoding | None,
    typer.Option(
        help="With a CTC head: fast; more exact; or held to the file's words. If not given, as the file says.",
        show_default=False,
    ),
]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
