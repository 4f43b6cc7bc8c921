"""All of a training run's state, in one file a checkpoint, so that a killed run goes on exactly where it was.

A checkpoint is a NumPy archive (.npz): arrays and one JSON text, no pickles, so that reading one can't run code. Each
member carries a CRC-32, and the file is renamed into place once it is on the disk: it is whole or it isn't there.
"""

import json
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import keras
import numpy as np

from data_pipeline.files import written_aside

KEPT = 2
"""So many checkpoints are kept: if the newest can't be read, the one before it can."""
_NAME = re.compile(r"step-(\d+)\.npz")
_STATE = "state"


def save_checkpoint(folder: Path, step: int, variables: Iterable[keras.Variable], state: dict) -> Path:
    """Writes folder/step-N.npz and removes all but the newest two.

    Args:
        step: training steps done.
        variables: in an order that the same model has again.
        state: what else there is to know, of JSON's types.

    Raises:
        UserError: it can't be written; earlier checkpoints are untouched.
    """
    arrays = {_key(index, variable): _as_array(variable) for index, variable in enumerate(variables)}
    arrays[_STATE] = np.frombuffer(json.dumps({**state, "step": step}).encode(), np.uint8)
    path = folder / f"step-{step:08d}.npz"
    with written_aside(path) as aside, aside.open("wb") as file:
        np.savez(file, **arrays)
    for old in list_checkpoints(folder)[KEPT:]:
        old.unlink()
    return path


def restore_newest(folder: Path, variables: list[keras.Variable], report: Callable[[str], None]) -> dict | None:
    """Fills `variables` from the newest whole checkpoint; returns its state with `step`, or None if there is none.

    Args:
        report: is told of each checkpoint that had to be passed over.
    """
    for path in list_checkpoints(folder):
        try:
            arrays, state = _read(path, variables)
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            report(f"{path} can't be used ({error}); trying the one before it")
            continue
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        return state
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    found = (path for path in folder.glob("step-*.npz") if _NAME.fullmatch(path.name))
    return sorted(found, key=lambda path: int(_NAME.fullmatch(path.name)[1]), reverse=True)


def _read(path: Path, variables: list[keras.Variable]) -> tuple[list[np.ndarray], dict]:
    """All of a checkpoint, read and checked before anything is changed."""
    with np.load(path, allow_pickle=False) as archive:
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
    """Names can repeat; the position can't."""
    return f"{index:04d} {variable.path.replace('/', ' ')}"


def _as_array(variable: keras.Variable) -> np.ndarray:
    array = keras.ops.convert_to_numpy(variable.value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array
