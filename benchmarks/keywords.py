"""Typed keywords: misses beside false alarms of a search in phrases whose texts are known, as a table and a DET curve.

    python benchmarks/keywords.py runs/an4/export/model.tflite --shards shards/an4 --out det.png \
        --keywords one two three four five six seven eight nine enter rubout

The texts say how often a phrase holds a keyword, not where: of the occurrences found in it, so many of the best are
hits, and the others false alarms. Pooled over the keywords; false alarms are counted per keyword and hour of audio.
"""

import argparse
from pathlib import Path

import numpy as np

from data_pipeline.clip_index import ClipIndex
from data_pipeline.files import written_aside
from speech_gru.cli.console import new_table, print_table
from speech_gru.phrase_recognizer import PhraseRecognizer

RATES = (0, 1, 2, 5, 10, 20, 50)
"""False alarms per keyword and hour that the table shows."""
LOWEST = -20.0
"""Occurrences of a lower score aren't looked at."""


def main() -> None:
    """Prints the table, draws the curve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a .tflite file with a CTC head")
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--keywords", nargs="+", required=True)
    parser.add_argument("--out", type=Path, help="a PNG for the curve")
    arguments = parser.parse_args()
    recognizer, clips = PhraseRecognizer(arguments.model), ClipIndex(arguments.shards, arguments.split)
    hits, alarms, said, hours = search_all(recognizer, clips, arguments.keywords)
    if not said:
        parser.error(f"none of the keywords is said in the {arguments.split} phrases; give words of their texts")
    thresholds, misses, rates = det_curve(hits, alarms, said, hours * len(arguments.keywords))
    table = new_table("false alarms per keyword and hour, at most", "missed", "threshold")
    for rate in RATES:
        place = np.flatnonzero(rates <= rate)[-1]
        table.add_row(f"{rate:g}", f"{misses[place]:.1%}", f"{thresholds[place]:.2f}")
    print_table(table)
    print(f"{said} keywords said in {len(clips)} phrases, {hours * 60:.1f} min; {len(arguments.keywords)} keywords")
    if arguments.out:
        draw(misses, rates, arguments.out)


def search_all(
    recognizer: PhraseRecognizer, clips: ClipIndex, keywords: list[str]
) -> tuple[np.ndarray, np.ndarray, int, float]:
    """Scores of the hits and of the false alarms, how many keywords were said, and the hours of audio."""
    hits, alarms, said, samples = [], [], 0, 0
    for number, row in enumerate(clips.rows):
        audio = clips.read(number)
        samples += len(audio)
        found = recognizer.find(audio, keywords, threshold=LOWEST)
        for keyword in keywords:
            count = row.text.split().count(keyword)
            scores = sorted((item.score for item in found if item.phrase == keyword), reverse=True)
            said, hits, alarms = said + count, hits + scores[:count], alarms + scores[count:]
    return np.array(hits), np.array(alarms), said, samples / recognizer.sample_rate / 3600


def det_curve(
    hits: np.ndarray, alarms: np.ndarray, said: int, keyword_hours: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds from the strictest on, the share missed and the false alarms per keyword and hour at each."""
    thresholds = np.concatenate([[np.inf], np.unique(np.concatenate([hits, alarms]))[::-1]])
    misses = np.array([1 - (hits >= threshold).sum() / said for threshold in thresholds])
    return thresholds, misses, np.array([(alarms >= threshold).sum() for threshold in thresholds]) / keyword_hours


def draw(misses: np.ndarray, rates: np.ndarray, out: Path) -> None:
    """Writes the curve."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.step(rates, 100 * misses, where="post")
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlabel("false alarms per keyword and hour")
    axes.set_ylabel("missed, %")
    axes.set_ylim(0, 50)
    axes.grid(alpha=0.4)
    with written_aside(out) as aside:
        figure.savefig(aside, format="png", dpi=120)


if __name__ == "__main__":
    main()
