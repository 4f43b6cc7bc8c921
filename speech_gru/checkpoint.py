"""All of a training run's state, in one file a checkpoint, so that a killed run goes on exactly where it was.

A checkpoint is a NumPy archive (.npz): arrays and one JSON text, no pickles, so that reading one can't run code. Each
member carries a CRC-32, and the file is renamed into place once it is on the disk: it is whole or it isn't there.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import keras
import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.files import written_aside

KEPT = 2
"""So many checkpoints are kept: if the newest can't be read, the one before it can."""
_NAME = re.compile(r"step-(\d+)\.npz")
_STATE = "state"
_DAMAGED = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a file of other bytes raises."""


def save_checkpoint(folder: Path, step: int, variables: Sequence[keras.Variable], state: dict) -> Path:
    """Writes folder/step-N.npz and removes all but the newest two.

    Args:
        step: training steps done.
        variables: in an order that the same model has again.
        state: what else there is to know, of JSON's types.

    Raises:
        UserError: it can't be written; earlier checkpoints are untouched.
    """
    arrays = {_key(index, variable): keras.ops.convert_to_numpy(variable) for index, variable in enumerate(variables)}
    arrays[_STATE] = np.frombuffer(json.dumps(state).encode(), np.uint8)
    path = folder / f"step-{step:08d}.npz"
    with written_aside(path) as aside, aside.open("wb") as file:
        np.savez(file, **arrays)
    for old in list_checkpoints(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def restore_newest(
    folder: Path,
    variables: Sequence[keras.Variable],
    check: Callable[[dict], None],
    report: Callable[[str], None],
) -> tuple[list[np.ndarray], dict] | None:
    """The arrays, one for each of `variables`, and the state of the newest whole checkpoint; None if there is none.

    Damaged ones that are newer are renamed to step-N.npz.damaged.

    Args:
        check: is given the state before anything else is looked at, and raises what it thinks of it.
        report: is told of each checkpoint that had to be passed over.

    Raises:
        UserError: there are checkpoints, but none can be used.
    """
    damaged = []
    for path in list_checkpoints(folder):
        try:
            found = _read(path, variables, check)
        except _DAMAGED as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk's fault, or the rights'
                raise UserError(f"{path} can't be read: {error.strerror}") from error
            report(f"{path} is damaged ({error}); trying the one before it")
            damaged.append(path)
        else:
            for other in damaged:
                other.rename(other.with_name(f"{other.name}.damaged"))
            return found
    if damaged:
        raise UserError(f"{folder}: all checkpoints are damaged; delete the run's folder to start anew")
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    found = (path for path in folder.glob("step-*.npz") if _NAME.fullmatch(path.name))
    return sorted(found, key=lambda path: int(_NAME.fullmatch(path.name)[1]), reverse=True)


def _read(
    path: Path, variables: Sequence[keras.Variable], check: Callable[[dict], None]
) -> tuple[list[np.ndarray], dict]:
    # Given a path, np.load leaves a damaged file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        state = json.loads(archive[_STATE].tobytes())
        check(state)
        arrays = [archive[_key(index, variable)] for index, variable in enumerate(variables)]
        count = len(archive.files) - 1
    if count != len(variables):
        raise ValueError(f"it holds {count} variables, the model has {len(variables)}")
    for variable, array in zip(variables, arrays, strict=True):
        if tuple(array.shape) != tuple(variable.shape):
            raise ValueError(f"{variable.path} has shape {tuple(array.shape)}, the model's is {tuple(variable.shape)}")
    return arrays, state


def _key(index: int, variable: keras.Variable) -> str:
    """Position and name: names alone can repeat."""
    return f"{index:04d} {variable.name}"
