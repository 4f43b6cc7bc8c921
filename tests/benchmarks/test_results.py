"""docs/results.csv, its tables and its configs agree."""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from speech_gru.config import differences, dump_config, load_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def results():
    specification = importlib.util.spec_from_file_location("results", ROOT / "benchmarks" / "results.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_documents_hold_what_the_file_says(results):
    rows = results.read_results(results.RESULTS)
    assert rows
    for document in results.documents():
        text = document.read_text(encoding="utf-8")
        assert results.with_tables(text, rows) == text, f"{document.name}: run `python benchmarks/results.py tables`"


def test_a_table_that_is_out_of_date_is_noticed(results):
    rows = results.read_results(results.RESULTS)
    old = f"text\n\n<!-- results: {rows[0].config} -->\n| old |\n{results.END}\nmore\n"
    new = results.with_tables(old, rows)
    assert "| old |" not in new
    assert new.startswith("text\n\n<!-- results: ")
    assert new.endswith(f"\n{results.END}\nmore\n")
    assert f"{100 * rows[0].accuracy:.2f} %" in new
    assert results.with_tables(new, rows) == new


class TestCommand:
    def test_of_a_shipped_experiment(self, results):
        assert results.training_command(load_config("an4")) == "speech-gru train an4"

    def test_what_is_set_otherwise_is_in_it(self, results):
        settings = ["seed=2", "training.initial=runs/with a blank", "corpus.words=[a, ü]", "augment.speed=null"]
        command = results.training_command(load_config("demo", settings))
        program, verb, name, *given = shlex.split(command)
        assert (program, verb, name, given[::2]) == ("speech-gru", "train", "demo", ["--set"] * 4)
        assert differences(load_config("demo", settings), load_config("demo", given[1::2])) == {}
        assert differences(load_config("demo"), load_config("demo", given[1::2])).keys() == {
            *("seed", "training.initial", "corpus.words", "augment.speed")
        }

    @pytest.mark.parametrize("folder", ["1", "null", "runs/x # y", "a: b", "[x]", "ü 'quoted'"])
    def test_a_text_comes_back_as_it_is(self, results, folder):
        config = load_config("demo", [f"training.initial={json.dumps(folder)}"])
        settings = results.settings_of(results.training_command(config))
        assert load_config("demo", settings).training.initial == config.training.initial

    @pytest.mark.parametrize(
        "command",
        ["", "speech-gru train", "speech-gru train a --out b", "speech-gru train a --set", "speech-gru export a"],
    )
    def test_others_are_none(self, results, command):
        with pytest.raises(ValueError, match="expected `speech-gru train CONFIG` and --set KEY=VALUE, got"):
            results.settings_of(command)

    def test_of_an_experiment_that_isnt_shipped(self, results, run, capsys, monkeypatch):
        text = (run / "config.yaml").read_text().replace("name: demo", "name: mine")
        (run / "config.yaml").write_text(text)
        monkeypatch.setattr("sys.argv", ["results.py", "add", str(run)])
        assert results.main() == 2
        assert "results.py: mine: " in capsys.readouterr().err


def test_a_table_of_all(results):
    rows = results.read_results(results.RESULTS)
    text = results.with_tables(f"<!-- results -->\n{results.END}\n", rows)
    assert text.count("\n") == 4 + len(rows)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["<!-- results -->", "| old |", "text"], "line 2: a table begins; expected <!-- end of results --> after it"),
        (
            ["<!-- results -->", "<!-- results: a -->", "<!-- end of results -->"],
            "line 3: .* got '<!-- results: a -->'",
        ),
        (["text", "<!-- end of results -->"], "line 3: expected .* in turn, got '<!-- end of results -->'"),
    ],
)
def test_a_table_without_its_end_or_beginning(results, lines, message, tmp_path):
    """The text after it would be taken for the table, and lost."""
    (tmp_path / "right.md").write_text("<!-- results -->\n| old |\n<!-- end of results -->\n")
    (tmp_path / "wrong.md").write_text("\n".join(["# Title", *lines, "much text"]))
    files = [tmp_path / "right.md", tmp_path / "wrong.md"]
    before = [file.read_text() for file in files]
    with pytest.raises(ValueError, match=rf"wrong\.md: {message}"):
        results.write_tables(results.read_results(results.RESULTS), files)
    assert [file.read_text() for file in files] == before, "the right one isn't written either"


@pytest.fixture
def run(tmp_path):
    """What an exported run's directory holds of its figures."""
    folder = tmp_path / "run"
    (folder / "export").mkdir(parents=True)
    figures = {"accuracy": 0.9, "accuracy_interval": [0.8, 0.95]}
    artefacts = [
        {"artefact": "float32", "status": "proven", "bytes": 1000, **figures},
        {"artefact": "int8", "status": "failed"},
    ]
    report = {"split": "test", "model": {"parameters": 10, "multiply_adds": 20}, "artefacts": artefacts}
    (folder / "export" / "export_report.json").write_text(json.dumps(report))
    (folder / "metrics.json").write_text(json.dumps({"test": figures}))
    (folder / "config.yaml").write_text(dump_config(load_config("demo", ["seed=3"])))
    return folder


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [
        ("0123456789abcdef0123456789abcdef01234567\n", "0123456"),
        ("0123456789abcdef0123456789abcdef01234567+dirty\n", "0123456+dirty"),
        (f"{'a' * 40}\n{'b' * 40}\n", "aaaaaaa, bbbbbbb"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_rows_commit_is_the_trainings(results, run, recorded, shown, tmp_path, monkeypatch, capsys):
    """Not that of the checkout in which it is added."""
    if recorded is not None:
        (run / "commit.txt").write_text(recorded)
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.csv")
    results.add(run)
    rows = results.read_results(tmp_path / "results.csv")
    assert [(row.name, row.commit) for row in rows] == [("demo/3/model", shown), ("demo/3/float32", shown)]
    assert ("commit.txt names no commit" in capsys.readouterr().err) == (shown == "")


WORDS = {"said": 200, "substitutions": 12, "deletions": 5, "insertions": 3}


def test_the_interval_of_words(results):
    """Wilson's, of 180 of 200 words."""
    p, z = 0.9, 1.959964
    centre = (p + z * z / 400) / (1 + z * z / 200)
    width = z / (1 + z * z / 200) * (p * (1 - p) / 200 + z * z / 160000) ** 0.5
    assert results.word_interval(WORDS) == pytest.approx((centre - width, centre + width), abs=1e-6)


def test_more_errors_than_words(results):
    low, high = results.word_interval({"said": 2, "substitutions": 2, "deletions": 0, "insertions": 9})
    assert (low, 0 < high < 1) == (0, True)


def test_rows_of_a_phrase_run(results, run):
    """Its model's interval isn't in its metrics; it is that of the words."""
    figures = {"phrases": 50, "accuracy": 0.9, "word_error_rate": 0.1, "words": WORDS}
    (run / "metrics.json").write_text(json.dumps({"validation": {}, "test": figures}))
    model, file = results.results_of_run(run)
    low, high = results.word_interval(WORDS)
    assert (model.name, model.accuracy, model.low, model.high) == ("demo/3/model", 0.9, round(low, 4), round(high, 4))
    assert (file.name, file.low, file.high, file.bytes) == ("demo/3/float32", 0.8, 0.95, 1000)
    assert (model.split, model.parameters, model.multiply_adds) == ("test", 10, 20)


def test_each_row_has_its_config(results):
    for row in results.read_results(results.RESULTS):
        assert load_config(row.config).name == row.config
        assert row.low <= row.accuracy <= row.high
        assert row.config in row.command


def test_rows_have_names_of_their_own(results):
    names = [row.name for row in results.read_results(results.RESULTS)]
    assert len(set(names)) == len(names)


def test_written_and_read(results, tmp_path):
    rows = results.read_results(results.RESULTS)
    results.write_results(rows, tmp_path / "results.csv")
    assert results.read_results(tmp_path / "results.csv") == rows


def test_rows_of_an_earlier_training_go(results, run, tmp_path, monkeypatch):
    """Also those of artefacts that the later one has none of; those of other seeds stay."""
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.csv")
    (new,) = [item for item in results.results_of_run(run) if item.artefact == "model"]
    stale, other = replace(new, artefact="int8"), replace(new, seed=new.seed + 1)
    results.write_results([stale, other], results.RESULTS)
    results.add(run)
    names = {item.name for item in results.read_results(results.RESULTS)}
    assert stale.name not in names
    assert {new.name, other.name} <= names


def test_rows_of_another_command_give_way_with_a_word(results, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.csv")
    results.add(run)
    assert "take the place" not in capsys.readouterr().err
    config = load_config("demo", ["seed=3", "training.epochs=9"])
    (run / "config.yaml").write_text(dump_config(config))
    results.add(run)
    assert "take the place of those of `speech-gru train demo --set seed=3`" in capsys.readouterr().err
    assert {row.command for row in results.read_results(results.RESULTS)} == {results.training_command(config)}


def test_reproduce_of_a_row_whose_experiment_is_gone(results, run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.csv")
    row = replace(results.results_of_run(run)[0], config="gone", command="speech-gru train gone")
    results.write_results([row], results.RESULTS)
    monkeypatch.setattr("sys.argv", ["results.py", "reproduce", "gone/3/model"])
    assert results.main() == 2
    assert "results.py: gone: " in capsys.readouterr().err


def test_reproduce_asks_for_a_row_that_is_there(results, capsys):
    assert results.reproduce("nothing/0/model") == 2
    assert "nothing/0/model: no such row in results.csv; expected one of: an4/0/model, " in capsys.readouterr().err


def test_reproduce_without_any_rows(results, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.csv")
    assert results.reproduce("nothing/0/model") == 2
    assert "expected one of: none" in capsys.readouterr().err


class TestReproduce:
    @pytest.fixture
    def told(self, results, run, tmp_path, monkeypatch):
        """Has the run's rows in the file; gives the run's figures to what is trained anew; returns the commands."""
        monkeypatch.setattr(results, "RESULTS", tmp_path / "results.csv")
        results.add(run)
        commands, codes, given = [], {}, []

        def execute(command, **options):
            verb = command[3]
            commands.append(verb)
            given.append(command[4:])
            if verb == "train" and Path(out := command[command.index("--out") + 1]).is_absolute():  # the row's own
                shutil.copytree(run, out)
            return subprocess.CompletedProcess(command, codes.get(verb, 0))

        monkeypatch.setattr(results.subprocess, "run", execute)
        return commands, codes, given

    def test_a_row(self, results, told, capsys):
        assert results.reproduce("demo/3/float32") == 0
        assert told[0] == ["prepare", "train", "export"]
        prepared, (*trained, out, _), _ = told[2]
        assert prepared == trained == ["demo", "--set", "seed=3"]
        assert out == "--out"
        assert "promised 90.00% (80.00% to 95.00%), found 90.00%" in capsys.readouterr().out

    def test_the_runs_that_it_needs_are_trained_first(self, results, told, tmp_path, monkeypatch):
        monkeypatch.setattr(results, "ROOT", tmp_path)
        monkeypatch.setattr(results, "SHIPPED", tmp_path)

        def load(name, settings=()):
            return load_config(tmp_path / f"{name}.yaml" if isinstance(name, str) else name, settings)

        monkeypatch.setattr(results, "load_config", load)
        needs = {"demo": "{initial: runs/first}", "first": "{teachers: [runs/second, runs/mine]}", "second": "{}"}
        for name, training in needs.items():
            (tmp_path / f"{name}.yaml").write_text(f"corpus: {{path: a, shards: b}}\ntraining: {training}\n")
        assert results.missing_runs("demo") == {  # no experiment is called mine
            "runs/second": ["second", "--out", "runs/second"],
            "runs/first": ["first", "--out", "runs/first"],
        }
        seeded = results.missing_runs("demo", ["training.initial=runs/second_3"])
        assert seeded == {"runs/second_3": ["second", "--set", "seed=3", "--out", "runs/second_3"]}
        assert results.reproduce("demo/3/float32") == 0
        assert told[0] == ["prepare", "train"] * 2 + ["prepare", "train", "export"]
        (tmp_path / "runs" / "first").mkdir(parents=True)
        (tmp_path / "runs" / "first" / "model.keras").touch()
        assert results.missing_runs("demo") == {}

    def test_clips_set_aside_are_no_failure(self, results, told):
        told[1]["prepare"] = 3
        assert results.reproduce("demo/3/model") == 0

    @pytest.mark.parametrize("verb", ["prepare", "train", "export"])
    def test_a_step_that_fails(self, results, told, verb, capsys):
        told[1][verb] = 1
        assert results.reproduce("demo/3/model") == 1
        assert re.search(f"demo/3/model: `speech-gru {verb} .*` ended with exit code 1", capsys.readouterr().err)

    def test_an_artefact_that_isnt_proven_any_more(self, results, told, run, capsys):
        report = run / "export" / "export_report.json"
        report.write_text(report.read_text().replace("proven", "failed"))
        assert results.reproduce("demo/3/float32") == 1
        assert "demo/3/float32: the new run has no proven float32" in capsys.readouterr().err


def test_what_cant_be_added(results, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["results.py", "add", str(tmp_path / "none")])
    assert results.main() == 2
    assert "results.py: [Errno 2] No such file" in capsys.readouterr().err
