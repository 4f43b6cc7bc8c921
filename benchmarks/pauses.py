"""Recorded phrases as one stream, with pauses between them: its word errors beside those of each phrase alone.

    python benchmarks/pauses.py runs/an4/export/model.tflite --shards shards/an4

A pause is made of the phrase's own quietest tenth of a second, forwards and backwards in turn.
"""

import argparse
from pathlib import Path

import numpy as np

from data_pipeline.clip_index import ClipIndex
from data_pipeline.pauses import quietest
from speech_gru.cli.console import new_table, print_table
from speech_gru.error_rates import count_errors, error_rate
from speech_gru.phrase_recognizer import PhraseRecognizer


def with_pause(pcm: np.ndarray, samples: int, background: int) -> np.ndarray:
    """The phrase, (samples,) int16, and so many samples of pause, repeated from its quietest `background` of them."""
    quiet = quietest(pcm, background)
    return np.concatenate([pcm, np.resize(np.concatenate([quiet, quiet[::-1]]), samples)])


def main() -> None:
    """Prints both error rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a .tflite file with a CTC head")
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each pause")
    arguments = parser.parse_args()
    recognizer, clips = PhraseRecognizer(arguments.model), ClipIndex(arguments.shards, arguments.split)
    rate = recognizer.sample_rate
    phrases, texts = [clips.read(number) for number in range(len(clips))], [row.text for row in clips.rows]
    stream, said = recognizer.stream(), []
    for pcm in phrases:
        said += stream.feed(with_pause(pcm, round(arguments.seconds * rate), rate // 10))
    said += stream.finish()
    found = {
        "each alone": count_errors(texts, [recognizer.transcribe(pcm) for pcm in phrases], "words"),
        "one stream": count_errors([" ".join(texts)], [" ".join(word.text for word in said)], "words"),
    }
    table = new_table("", "wrong words", "substitutions", "deletions", "insertions")
    for name, counts in found.items():
        kinds = (str(counts[kind]) for kind in ("substitutions", "deletions", "insertions"))
        table.add_row(name, f"{error_rate(counts):.1%}", *kinds)
    print_table(table)


if __name__ == "__main__":
    main()
