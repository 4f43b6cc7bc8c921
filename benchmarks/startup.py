"""Seconds from Enter to the answer: `speech-gru --help`, and `recognize` of one file. Median of so many runs.

python benchmarks/startup.py runs/demo/export/model.tflite some.wav
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median


def main() -> None:
    """Prints a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("audio")
    parser.add_argument("--runs", type=int, default=11)
    arguments = parser.parse_args()
    program = str(Path(sys.executable).with_name("speech-gru"))
    for command in ([program, "--help"], [program, "recognize", arguments.model, arguments.audio]):
        times = []
        for _ in range(arguments.runs):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        span = f"{min(times):.2f} to {max(times):.2f}"
        print(f"speech-gru {command[1]:10} {median(times):.2f} s (median of {arguments.runs}; {span})")


if __name__ == "__main__":
    main()
