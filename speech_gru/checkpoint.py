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

from data_pipeline.files import written_aside

KEPT = 2
"""So many checkpoints are kept: if the newest can't be read, the one before it can."""
_NAME = re.compile(r"step-(\d+)\.npz")
_STATE = "state"
_DAMAGED = (OSError, ValueError, KeyError, TypeError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a file of other bytes raises."""


def save_checkpoint(folder: Path, step: int, variables: Sequence[keras.Variable], state: dict) -> Path:
    """Writes folder/step-N.npz and removes all others but the one before it.

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
    found = list_checkpoints(folder)
    kept = found[found.index(path) :][:KEPT]
    for other in set(found) - set(kept):  # older ones, and newer ones that couldn't be used
        other.unlink()
    return path


def restore_newest(
    folder: Path, variables: Sequence[keras.Variable], report: Callable[[str], None]
) -> tuple[list[np.ndarray], dict] | None:
    """The arrays, one for each of `variables`, and the state of the newest whole checkpoint; None if there is none.

    Args:
        report: is told of each checkpoint that had to be passed over.
    """
    for path in list_checkpoints(folder):
        try:
            return _read(path, variables)
        except _DAMAGED as error:
            report(f"{path} can't be used ({error}); trying the one before it")
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    found = (path for path in folder.glob("step-*.npz") if _NAME.fullmatch(path.name))
    return sorted(found, key=lambda path: int(_NAME.fullmatch(path.name)[1]), reverse=True)


def _read(path: Path, variables: Sequence[keras.Variable]) -> tuple[list[np.ndarray], dict]:
    # Given a path, np.load leaves a damaged file open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        arrays = [archive[_key(index, variable)] for index, variable in enumerate(variables)]
        state = json.loads(archive[_STATE].tobytes())
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
