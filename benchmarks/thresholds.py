"""What a threshold costs and what it saves: false commands on speech of other words beside the accuracy on a split.

    python benchmarks/thresholds.py runs/bigru_base/export/model_dynamic_range.tflite \\
        --other ../shared/data/other_speech/mycroft --false-commands 0.03

A word that is recognised with less probability than the threshold becomes `_unknown_`. The split is validation, so that
the test clips have no say in the choice; `speech-gru export RUN --set export.threshold=T` then puts it into the files.
What a file has itself is shown, too. With --false-commands each word gets a threshold of its own, and the setting that
says so is printed: other speech is seldom taken for all words alike. They are chosen on the clips of --other; of others
expect more. How much more is told, too: what is left of each folder's clips (a phrase's, a speaker's) by thresholds
that are chosen on the other folders.
"""

import argparse
import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipeline.audio import fit_length, load_audio
from data_pipeline.corpus import read_csv
from data_pipeline.dataset import evaluation_batches
from data_pipeline.files import AUDIO_SUFFIXES, files_under
from data_pipeline.labels import SILENCE, UNKNOWN
from data_pipeline.other_speech import says_one_of
from data_pipeline.settings import CorpusSettings
from speech_gru.cli.console import new_table, print_table
from speech_gru.decision import decide
from speech_gru.subject import Subject, load_subject

THRESHOLDS = (0, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
OWN_THRESHOLDS = (0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98)
"""What a word's own one is chosen from."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a run directory or a .tflite file")
    parser.add_argument(
        "--other",
        type=Path,
        nargs="+",
        required=True,
        help="folders of speech that holds no command, or CSVs (path,text)",
    )
    parser.add_argument(
        "--held-out",
        action="store_true",
        help="of a CSV the validation and test speakers alone: the model heard the others",
    )
    parser.add_argument("--thresholds", type=float, nargs="+", default=THRESHOLDS, metavar="T")
    parser.add_argument(
        "--false-commands",
        type=float,
        metavar="SHARE",
        help="give each word its own threshold, so that at most this share of --other is taken for a command",
    )
    parser.add_argument("--split", default="validation")
    parser.add_argument("--shards", type=Path)
    arguments = parser.parse_args()
    subject = load_subject(arguments.model)
    files = []
    for source in arguments.other:
        if arguments.held_out and source.is_dir():
            parser.error("--held-out is for a CSV; nothing says who speaks in a folder")
        found = files_without_commands(source, subject.labels, arguments.held_out)
        if not found:
            parser.error(f"{source}: expected speech without a command, found none")
        files += found
    other = predict_files(subject, files)
    probabilities, truth = predict_clips(subject, arguments.shards or subject.shards(), arguments.split)
    table = new_table(
        "threshold", f"false commands of {len(other)}", f"{arguments.split} accuracy", "recall of commands"
    )
    commands = [label for label in subject.labels if label not in (UNKNOWN, SILENCE)]
    is_command = np.isin(subject.labels, commands)
    chosen = {f"{threshold:g}": dict.fromkeys(commands, threshold) for threshold in arguments.thresholds}
    if subject.thresholds:
        chosen["the file's"] = subject.thresholds
    if arguments.false_commands is not None:
        chosen["own"] = own_thresholds(other, probabilities, truth, subject.labels, arguments.false_commands)
    for name, thresholds in chosen.items():
        right = decide(probabilities, subject.labels, thresholds) == truth
        false = false_commands(other, subject.labels, thresholds)
        table.add_row(name, f"{false:.1%}", f"{right.mean():.2%}", f"{right[is_command[truth]].mean():.2%}")
    print_table(table)
    if "own" in chosen:
        _print_own(chosen["own"], other, subject.labels)
        folders = np.array([str(file.parent) for file in files])
        if (count := len(set(folders))) > 1:
            crossed = crossed_false_commands(
                other, folders, probabilities, truth, subject.labels, arguments.false_commands
            )
            print(f"Chosen without a folder's clips, own thresholds leave {crossed:.1%} of them ({count} folders).")
        if (left := false_commands(other, subject.labels, chosen["own"])) > arguments.false_commands:
            parser.exit(1, f"thresholds up to {OWN_THRESHOLDS[-1]:g} leave {left:.1%}; take more, or train otherwise\n")


def false_commands(other: np.ndarray, labels: tuple[str, ...], thresholds: Mapping[str, float]) -> float:
    """The share of other speech that is taken for a command, of its probabilities (clips, labels)."""
    is_command = np.isin(labels, (UNKNOWN, SILENCE), invert=True)
    return float(is_command[decide(other, labels, thresholds)].mean())


def _print_own(thresholds: dict[str, float], other: np.ndarray, labels: tuple[str, ...]) -> None:
    """Each word's, with what it is for, and the setting."""
    table = new_table("word", "own threshold", "other clips taken for it without", "with it")
    guesses, best = other.argmax(axis=1), other.max(axis=1)
    for word, threshold in thresholds.items():
        taken = guesses == labels.index(word)
        table.add_row(word, f"{threshold:g}", str(taken.sum()), str((taken & (best >= threshold)).sum()))
    print_table(table)
    print(shlex.join(["--set", f"export.thresholds={json.dumps(thresholds, ensure_ascii=False)}"]))


def own_thresholds(
    other: np.ndarray, probabilities: np.ndarray, truth: np.ndarray, labels: tuple[str, ...], share: float
) -> dict[str, float]:
    """Each command's threshold: of those with which at most `share` of other speech is left, the ones that lose least.

    What is lost is counted in shares of each command's clips. Each word's threshold is the one with the least of lost
    clips and price times false commands (Lagrange), and the price the lowest one that does; if none does, the highest.
    A word that little other speech was taken for counts as if it had the words' mean of false commands as well, and a
    word without clips as if it lost as the words do on average.

    Args:
        other: probabilities of other speech, (clips, labels).
        probabilities, truth: of clips whose label is known, (clips, labels) and (clips,).
    """
    commands = [number for number, label in enumerate(labels) if label not in (UNKNOWN, SILENCE)]
    levels = np.array(OWN_THRESHOLDS)[:, None]

    def counts(found: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """(levels,): for how many of the chosen clips the most probable label reaches each level."""
        return (found.max(axis=1)[chosen] >= levels).sum(axis=1)

    guesses, right = other.argmax(axis=1), probabilities.argmax(axis=1) == truth
    false = np.array([counts(other, guesses == command) for command in commands])
    clips = np.array([(truth == command).sum() for command in commands])
    found = np.array([counts(probabilities, right & (truth == command)) for command in commands])
    kept = np.where(clips[:, None] > 0, found / np.maximum(1, clips[:, None]), found.sum(axis=0) / max(1, clips.sum()))
    feared = (false + false.mean(axis=0)) / len(other)
    for price in np.geomspace(1e-3, 1e3, 1000):
        best = (price * feared - kept).argmin(axis=1)  # the lowest of equals
        if false[np.arange(len(commands)), best].sum() <= share * len(other):
            break
    return {labels[command]: OWN_THRESHOLDS[level] for command, level in zip(commands, best, strict=True)}


def crossed_false_commands(
    other: np.ndarray,
    folders: np.ndarray,
    probabilities: np.ndarray,
    truth: np.ndarray,
    labels: tuple[str, ...],
    share: float,
) -> float:
    """The share of other speech that is left where each folder's clips had no say in their thresholds.

    Args:
        folders: of each clip of `other`, (clips,); two or more.
        other, probabilities, truth, labels, share: as own_thresholds takes them.
    """
    left = 0.0
    for folder in np.unique(folders):
        here = folders == folder
        own = own_thresholds(other[~here], probabilities, truth, labels, share)
        left += here.sum() * false_commands(other[here], labels, own)
    return left / len(other)


def files_without_commands(source: Path, labels: tuple[str, ...], held_out: bool) -> list[Path]:
    """All audio files of a folder, or those of a CSV whose text has none of the labels among its words.

    Args:
        held_out: leave out the speakers that `corpus.other_speech` would have training hear.
    """
    if source.is_dir():
        names = files_under(source, [])
        return [source / name for name in names if Path(name).suffix.lower() in AUDIO_SUFFIXES]
    clips, *_ = read_csv(source, CorpusSettings(path=source, shards=""))
    heard = {"train"} if held_out else set()
    return [
        source.parent / clip.path for clip in clips if clip.split not in heard and not says_one_of(clip.text, labels)
    ]


def predict_files(subject: Subject, files: list[Path]) -> np.ndarray:
    """(clips, labels): of each file the loudest stretch of a clip's length."""
    clips = [fit_length(load_audio(file, subject.sample_rate), subject.clip_samples) for file in files]
    return np.concatenate([subject.predict(np.stack(clips[at : at + 256])) for at in range(0, len(clips), 256)])


def predict_clips(subject: Subject, shards: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """(clips, labels) and the truth, (clips,)."""
    probabilities, truth = [], []
    for batch in evaluation_batches(shards, split, subject.clip_samples, 256).as_numpy_iterator():
        probabilities.append(subject.predict(batch["audio"]))
        truth += [subject.labels.index(label.decode()) for label in batch["label"]]
    return np.concatenate(probabilities), np.array(truth)


if __name__ == "__main__":
    main()
