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


CONFIG = Annotated[
    str, typer.Argument(metavar="CONFIG", help="An experiment's YAML file, or the name of a shipped one (demo, ...).")
]
SET = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, such as model.units=96; may be repeated."),
]
RUN = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory that `train` wrote.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
