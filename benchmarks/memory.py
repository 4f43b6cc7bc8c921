"""Peak memory of `prepare` and of training's input pipeline on a corpus and on one so many times its size.

python benchmarks/memory.py speech_commands_subset --clips 2200 --times 10

The larger corpus is made of links to the same files under other speakers' names, in a scratch folder.

python benchmarks/memory.py speech_commands_subset --epochs 30

Memory of a training after each epoch instead: at most so far and, on Linux, now.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from data_pipeline.corpus import AUDIO_SUFFIXES
from speech_gru.config import load_config

PREPARE = """
import sys
from speech_gru.config import load_config
from data_pipeline.prepare import prepare
prepare(load_config(sys.argv[1], sys.argv[2:]).corpus)
"""
READ = """
import sys
from speech_gru.config import load_config
from speech_gru.training import adapted_front_end, plan_training, training_data
config = load_config(sys.argv[1], sys.argv[2:])
plan = plan_training(config)
for batch in training_data(config, plan, adapted_front_end(config)).batches().take(plan.steps_per_epoch):
    pass
"""
TRAIN = """
import sys, tempfile
from pathlib import Path
from speech_gru.quiet import start_tensorflow
start_tensorflow()
from speech_gru.config import load_config
from speech_gru.memory import used_memory
from speech_gru.loop import Monitor
from speech_gru.training import plan_training, train
class Memory(Monitor):
    def epoch(self, epoch, figures, predictions):
        used = [f"{place} {megabytes:,.0f} MB" for place, megabytes in used_memory().items()]
        print(f"epoch {epoch:3}: {', '.join(used)}", flush=True)
config = load_config(sys.argv[1], sys.argv[2:])
with tempfile.TemporaryDirectory() as scratch:
    train(config, plan_training(config), Path(scratch), monitors=[Memory()])
"""
REPORT = """
import resource
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def multiply(corpus: Path, clips: int, times: int, folder: Path) -> Path:
    """Links `clips` clips of a corpus `times` times into `folder`: a copy's speakers have other names."""
    paths = sorted(path for path in corpus.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    step = max(1, len(paths) // clips)
    for number, path in enumerate(paths):
        word = path.parent.name
        if number % step == 0 or word.startswith("_"):
            (folder / word).mkdir(parents=True, exist_ok=True)
            for copy in range(times if not word.startswith("_") else 1):
                target = folder / word / (path.name if copy == 0 else f"copy{copy}{path.name}")
                try:
                    os.link(path, target)
                except OSError:  # another file system
                    target.write_bytes(path.read_bytes())
    return folder


def peak_megabytes(program: str, *arguments: str) -> tuple[float, float]:
    """Runs a program in a process of its own; gives its peak resident memory in MB and its seconds."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program + REPORT, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return int(done.stdout.split()[-1]) / unit, time.perf_counter() - start


def main() -> None:
    """Prints a line for each program and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--clips", type=int, default=10**9, help="so many of the corpus's clips (default: all)")
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--epochs", type=int, help="train for so many epochs, and do nothing else")
    parser.add_argument("--set", action="append", default=[], dest="settings", help="with --epochs: KEY=VALUE")
    parser.add_argument("--scratch", type=Path, help="where the copies go (default: the system's temporary folder)")
    arguments = parser.parse_args()
    if arguments.epochs:
        settings = [f"training.epochs={arguments.epochs}", *arguments.settings]
        subprocess.run([sys.executable, "-c", TRAIN, arguments.config, *settings], check=True)
        return
    corpus = load_config(arguments.config).corpus.path
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        for times in (1, arguments.times):
            root = multiply(corpus, arguments.clips, times, Path(scratch, f"corpus-{times}"))
            clips = sum(1 for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
            settings = (f"corpus.path={root}", f"corpus.shards={scratch}/shards-{times}")
            for name, program in (("prepare", PREPARE), ("input pipeline, an epoch", READ)):
                memory, seconds = peak_megabytes(program, arguments.config, *settings)
                print(f"{clips:8,} files  {name:26} {memory:7,.0f} MB peak  {seconds:6.0f} s", flush=True)


if __name__ == "__main__":
    main()
