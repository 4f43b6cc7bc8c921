"""How long the CTC decoders take for a second of audio, on one core.

    python benchmarks/decoding.py

Two models, made up: a trained one, most of whose frames are blanks and whose tokens are spikes, and an untrained one,
in which every token of every frame is probable. Times are medians; all are measured in turn, round after round, so that
a busy machine burdens them alike. NumPy uses one thread for what the decoders do: there is no matrix product in it.
"""

import argparse
import json
import time
from collections.abc import Callable

import numpy as np

from speech_gru.decoding import BeamSearch, KeywordSpotter, acceptor_of_phrases, ctc_log_likelihood, greedy

TOKENS, BAR_MS = 60, 2.0
"""Tokens of the table, and what a second may take in a beam search of width 16."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="so many times each is measured")
    parser.add_argument("--json", action="store_true", help="print JSON for programs")
    arguments = parser.parse_args()
    figures = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps({"bar_ms": BAR_MS, "ms": figures}, indent=2))
        return
    print(f"ms for a second of audio, {TOKENS} tokens; bar for the beam search of width 16: {BAR_MS} ms")
    for name, value in figures.items():
        print(f"  {name:62} {value:7.3f}")


def measure(rounds: int) -> dict[str, float]:
    """Milliseconds of each decoder."""
    rng = np.random.default_rng(0)
    phrases = [tuple(rng.integers(1, TOKENS, 12).tolist()) for _ in range(10)]
    acceptor, spotter = acceptor_of_phrases(phrases), KeywordSpotter({str(phrase): phrase for phrase in phrases})
    runs = {}
    for frames in (25, 50):
        for name, log_probs in (("trained", trained(rng, frames)), ("untrained", untrained(rng, frames))):
            decoders = {
                "beam search, width 16": lambda rows: search(rows, None),
                "beam search of 10 phrases of 12 tokens, width 16": lambda rows: search(rows, acceptor),
                "10 keywords of 12 tokens": spotter.feed,
                "greedy": greedy,
                "likelihood of 12 tokens": lambda rows: ctc_log_likelihood(rows, phrases[0]),
            }
            for decoder, run in decoders.items():
                runs[f"{decoder}, {name}, {frames} frames"] = lambda run=run, rows=log_probs: run(rows)
    return medians(runs, rounds)


def search(rows: np.ndarray, acceptor) -> None:
    """A beam search of width 16."""
    decoder = BeamSearch(acceptor, width=16)
    decoder.feed(rows)
    decoder.finish(1)


def trained(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Twelve tokens a second, each a spike of a frame or two with a few others beside it; else blanks."""
    logits = rng.normal(0, 1.5, (frames, TOKENS))
    logits[:, 0] += 10
    for frame in rng.choice(frames - 1, 12, replace=False):
        token, doubt = rng.integers(1, TOKENS, 2)
        logits[frame, [token, doubt]] += [14, 11]
        logits[frame + 1, token] += 9
    return log_softmax(logits)


def untrained(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Noise: no token is ever pruned."""
    return log_softmax(rng.normal(0, 1.5, (frames, TOKENS)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float32, as a model's."""
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def medians(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each."""
    times = {name: [] for name in runs}
    for round_ in range(rounds + 3):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if round_ >= 3:  # the first ones warm up
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(values)) for name, values in times.items()}


if __name__ == "__main__":
    main()
