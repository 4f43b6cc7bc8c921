"""docs/results.csv: every figure that is promised, and the command that gives it.

    python benchmarks/results.py add RUN          rows for a run and its exported artefacts
    python benchmarks/results.py tables           writes the tables in README.md and docs/ anew
    python benchmarks/results.py reproduce ROW    trains that row's config again, and the runs that it begins with or
                                                  learns from if they aren't there; exports it and compares

A row is named CONFIG/SEED/ARTEFACT, such as gru_stream/0/stream_int8; `reproduce` succeeds if the accuracy that it
finds lies within the row's 95 % interval.
"""

import argparse
import csv
import io
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml

from data_pipeline.errors import UserError
from speech_gru.commit import recorded_commits
from speech_gru.config import SHIPPED, Config, differences, load_config

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results.csv"
BEGIN, END = "<!-- results", "<!-- end of results -->"
"""Between a line that begins so and this one, in README.md and docs/*.md, lies a table."""
CLIPS_SET_ASIDE = 3
"""Exit code of a `prepare` that went well but for some clips."""


@dataclass(frozen=True)
class Result:
    """A row."""

    config: str
    seed: int
    split: str
    artefact: str
    """A name of `speech-gru export --only`, or model: the trained one."""
    accuracy: float
    """Of clips; of a phrase recogniser 1 - the word error rate, with greedy decoding."""
    low: float
    high: float
    """The 95 % interval, Wilson's."""
    parameters: int
    multiply_adds: int
    bytes: int
    """Of the artefact; 0 for the model."""
    commit: str
    """Of the code that trained it, +dirty if it had changes; several if it went on with another; empty: unknown."""
    command: str

    @property
    def name(self) -> str:
        return f"{self.config}/{self.seed}/{self.artefact}"


def read_results(file: Path) -> list[Result]:
    """All rows, in the file's order."""
    with file.open(encoding="utf-8", newline="") as stream:
        kinds = {field.name: field.type for field in fields(Result)}
        return [Result(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(stream)]


def write_results(results: list[Result], file: Path) -> None:
    """Replaces the file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Result)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, results))
    file.write_text(text.getvalue(), encoding="utf-8")


def commit_of_run(run: Path) -> str:
    """The commits that trained a run, in seven digits; empty where the run doesn't say."""
    commits = recorded_commits(run) or ()
    return ", ".join(re.sub("^([0-9a-f]{7})[0-9a-f]+", r"\1", commit) for commit in commits)


def results_of_run(run: Path) -> list[Result]:
    """The rows of an exported run."""
    report = json.loads((run / "export" / "export_report.json").read_text(encoding="utf-8"))
    config = load_config(run / "config.yaml")
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))[report["split"]]
    sizes = (report["model"]["parameters"], report["model"]["multiply_adds"])
    interval = metrics.get("accuracy_interval") or word_interval(metrics["words"])
    found = [("model", metrics["accuracy"], interval, 0)]
    for item in report["artefacts"]:
        if item["status"] == "proven":
            found.append((item["artefact"], item["accuracy"], item["accuracy_interval"], item["bytes"]))
    return [
        Result(
            config.name,
            config.seed,
            report["split"],
            artefact,
            *(round(x, 4) for x in (share, *interval)),
            *sizes,
            size,
            commit_of_run(run),
            training_command(config),
        )
        for artefact, share, interval, size in found
    ]


def training_command(config: Config) -> str:
    """The command that trains an experiment: that of the shipped one of its name, with what it sets otherwise.

    Raises:
        UserError: no experiment of its name is shipped.
    """
    words = ["speech-gru", "train", config.name]
    for key, (_, value) in differences(load_config(config.name), config).items():
        is_plain = isinstance(value, str) and yaml.safe_load(value) == value
        words += ["--set", f"{key}={value if is_plain else json.dumps(value, ensure_ascii=False)}"]
    return shlex.join(words)


def settings_of(command: str) -> list[str]:
    """What a row's command sets otherwise than the shipped experiment, KEY=VALUE each.

    Raises:
        ValueError: it isn't of `training_command`'s form.
    """
    words = shlex.split(command)
    if words[:2] != ["speech-gru", "train"] or len(words) % 2 == 0 or set(words[3::2]) - {"--set"}:
        raise ValueError(f"expected `speech-gru train CONFIG` and --set KEY=VALUE, got {command!r}")
    return words[4::2]


def word_interval(words: dict[str, int]) -> tuple[float, float]:
    """Of the share of words recognised, as speech_gru.error_rates.count_errors counts them."""
    from scipy.stats import binomtest

    wrong = words["substitutions"] + words["deletions"] + words["insertions"]
    interval = binomtest(max(0, words["said"] - wrong), words["said"]).proportion_ci(method="wilson")
    return interval.low, interval.high


def table(results: list[Result]) -> str:
    """Markdown: one row a config and seed and artefact."""
    head = ("config", "seed", "artefact", "accuracy", "95 % interval", "parameters", "multiply-adds", "KB")
    lines = [head, ("---",) * len(head)]
    for item in results:
        interval = f"{100 * item.low:.1f} to {100 * item.high:.1f} %"
        size = f"{item.bytes / 1e3:,.0f}" if item.bytes else ""
        sizes = (f"{item.parameters:,}", f"{item.multiply_adds:,}", size)
        lines.append((item.config, str(item.seed), item.artefact, f"{100 * item.accuracy:.2f} %", interval, *sizes))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_tables(text: str, results: list[Result]) -> str:
    """A document with its tables written anew. A table of some configs alone is begun `<!-- results: a b -->`.

    Raises:
        ValueError: a table's beginning without its end, or the other way round: what follows would be lost.
    """
    lines, begun = [], 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith(BEGIN) if begun else line == END:
            raise ValueError(f"line {number}: expected {BEGIN}... and {END} in turn, got {line!r}; mend the document")
        if line.startswith(BEGIN):
            begun = number
            chosen = line.removeprefix(BEGIN).removesuffix("-->").strip(" :").split()
            picked = [item for item in results if not chosen or item.config in chosen]
            lines += [line, table(picked)]
        elif line == END:
            begun = 0
            lines.append(line)
        elif not begun:
            lines.append(line)
    if begun:
        raise ValueError(f"line {begun}: a table begins; expected {END} after it, got none; mend the document")
    return "\n".join(lines) + "\n"


def write_tables(results: list[Result], files: list[Path]) -> None:
    """Writes the documents' tables anew: all, or none if one document is wrong."""
    texts = {}
    for file in files:
        try:
            texts[file] = with_tables(file.read_text(encoding="utf-8"), results)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    for file, text in texts.items():
        file.write_text(text, encoding="utf-8")


def documents() -> list[Path]:
    """All that may have tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def add(run: Path) -> None:
    """Puts a run's rows into the file, in the place of all that its config has there with its seed."""
    new = results_of_run(run)
    if not new[0].commit:
        print(f"{run}: commit.txt names no commit; the rows' commit is left empty", file=sys.stderr)
    made = {(item.config, item.seed) for item in new}
    rows = read_results(RESULTS) if RESULTS.is_file() else []
    old = [item for item in rows if (item.config, item.seed) not in made]
    for command in sorted({item.command for item in rows if item not in old} - {new[0].command}):
        print(f"{run}: its rows take the place of those of `{command}`", file=sys.stderr)
    write_results(sorted([*old, *new], key=lambda item: (item.config, item.seed)), RESULTS)


def missing_runs(config: str, settings: Sequence[str] = ()) -> dict[str, list[str]]:
    """The runs that this experiment begins with or learns from and that aren't trained: folder -> `train`'s arguments.

    In the order in which they are to be trained. A run is called as its shipped experiment, or NAME_SEED.
    """
    training, missing = load_config(config, settings).training, {}
    for folder in filter(None, (training.initial, *training.teachers)):
        name, seed = re.fullmatch(r"(.*?)(?:_(\d+))?", folder.name).groups()
        if not (ROOT / folder / "model.keras").is_file() and (SHIPPED / f"{name}.yaml").is_file():
            chosen = ["--set", f"seed={seed}"] if seed else []
            missing |= missing_runs(name) | {str(folder): [name, *chosen, "--out", str(folder)]}
    return missing


def reproduce(name: str) -> int:
    """Trains, exports and compares; 0 if the accuracy lies within the row's interval, 2 if there is no such row."""
    rows = {item.name: item for item in read_results(RESULTS)} if RESULTS.is_file() else {}
    if name not in rows:
        print(f"{name}: no such row in {RESULTS.name}; expected one of: {', '.join(rows) or 'none'}", file=sys.stderr)
        return 2
    row = rows[name]
    settings = settings_of(row.command)
    changed = [part for setting in settings for part in ("--set", setting)]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / row.config
        program = [sys.executable, "-m", "speech_gru"]
        only = [] if row.artefact == "model" else ["--only", row.artefact]
        needed = missing_runs(row.config, settings).values()
        before = [step for train in needed for step in (["prepare", train[0]], ["train", *train])]
        steps = (
            *before,
            ["prepare", row.config, *changed],
            ["train", row.config, *changed, "--out", str(run)],
            ["export", str(run), *(only or ["--only", "float32"])],
        )
        for step in steps:
            code = subprocess.run([*program, *step], cwd=ROOT).returncode
            if code not in (0, CLIPS_SET_ASIDE):
                print(f"{name}: `speech-gru {' '.join(step)}` ended with exit code {code}, see above", file=sys.stderr)
                return 1
        found = next((item for item in results_of_run(run) if item.artefact == row.artefact), None)
    if found is None:
        print(f"{name}: the new run has no proven {row.artefact}; its export says why", file=sys.stderr)
        return 1
    fits = row.low <= found.accuracy <= row.high
    print(f"{name}: promised {row.accuracy:.2%} ({row.low:.2%} to {row.high:.2%}), found {found.accuracy:.2%}")
    return 0 if fits else 1


def main() -> int:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("add", help="rows of an exported run").add_argument("run", type=Path)
    verbs.add_parser("tables", help="write the tables of the documents anew")
    verbs.add_parser("reproduce", help="train a row's config again and compare").add_argument("row")
    arguments = parser.parse_args()
    try:
        if arguments.verb == "reproduce":
            return reproduce(arguments.row)
        if arguments.verb == "add":
            add(arguments.run)
        write_tables(read_results(RESULTS), documents())
    except (OSError, ValueError, UserError) as error:
        print(f"results.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
