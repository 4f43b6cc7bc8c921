"""Kills a short training run at random moments and lets it go on: its weights must be those of an undisturbed run.

python benchmarks/kill_resume.py speech_commands_subset --kills 20

Prepared shards of the experiment are needed. Each trial: start, SIGKILL at a random moment between the first checkpoint
and the end, start again to the end, compare all arrays of model.keras bit for bit.
"""

import argparse
import io
import random
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np

SETTINGS = (
    "training.epochs=3",
    "training.warmup_epochs=0.5",
    "training.checkpoint_steps=7",
    "training.batch_size=1024",
    "training.ema=0.9",
    "model.units=16",
    "model.convolution_filters=16",
    "tensorboard.pr_curves=false",
    "tensorboard.worst_clips=0",
)
CHECKPOINTS = "checkpoints/step-*.npz"


def start(config: str, folder: Path) -> subprocess.Popen:
    """`speech-gru train` in a process of its own."""
    settings = [argument for setting in SETTINGS for argument in ("--set", setting)]
    command = [sys.executable, "-m", "speech_gru", "train", config, "--out", str(folder), *settings]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(process: subprocess.Popen, folder: Path, pattern: str) -> None:
    """Returns once a file of that name is in the folder, or the process has ended."""
    while process.poll() is None and not any(folder.glob(pattern)):
        time.sleep(0.01)


def weights(folder: Path) -> dict[str, np.ndarray]:
    """Name -> array of all weights in a run's model.keras."""
    found = {}
    with zipfile.ZipFile(folder / "model.keras") as archive:
        tree = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    tree.visititems(lambda name, item: found.update({name: item[()]}) if hasattr(item, "shape") else None)
    return found


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    """Whether all arrays are equal bit for bit."""
    return first.keys() == second.keys() and all(first[name].tobytes() == second[name].tobytes() for name in first)


def main() -> None:
    """Prints a line a trial and the count of identical ones; exits with 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw, identical = random.Random(arguments.seed), 0
    with tempfile.TemporaryDirectory() as scratch:
        undisturbed = Path(scratch, "undisturbed")
        process = start(arguments.config, undisturbed)
        wait_for(process, undisturbed, CHECKPOINTS)
        began = time.perf_counter()
        wait_for(process, undisturbed, "model.keras")
        length = time.perf_counter() - began
        if process.wait():
            sys.exit(f"the undisturbed run failed; is {arguments.config} prepared?")
        expected = weights(undisturbed)
        print(f"undisturbed: {length:.1f} s from the first checkpoint on, {len(expected)} arrays", flush=True)
        for trial in range(arguments.kills):
            folder, moment = Path(scratch, f"killed-{trial}"), draw.uniform(0, 1) * length
            process = start(arguments.config, folder)
            wait_for(process, folder, CHECKPOINTS)
            time.sleep(moment)
            process.kill()
            process.wait()
            saved = sorted(path.stem for path in folder.glob(CHECKPOINTS))
            finished = (folder / "model.keras").is_file()
            code = start(arguments.config, folder).wait()
            equal = code == 0 and same(weights(folder), expected)
            identical += equal
            where = "after the end" if finished else f"at {saved[-1]}" if saved else "before the first checkpoint"
            print(f"killed {moment:5.1f} s later, {where}: {'identical' if equal else 'DIFFERENT'}", flush=True)
    print(f"{identical} of {arguments.kills} runs ended with identical weights")
    sys.exit(identical != arguments.kills)


if __name__ == "__main__":
    main()
