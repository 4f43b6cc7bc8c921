"""`prepare` and `train` as commands; the work itself is tested beside what does it."""

import errno
import os
import re
import signal
import time
from contextlib import contextmanager

import numpy as np
import pytest

from speech_gru.cli import console
from speech_gru.cli.training_progress import EpochPrinter
from speech_gru.run import load_run

INTERRUPTED = "speech-gru: interrupted; what was finished is kept, nothing is half-written\n"


@pytest.fixture
def shards(tmp_path):
    return tmp_path / "shards"


def test_prepare_twice(speech_gru, tiny_yaml, shards):
    arguments = ("prepare", tiny_yaml, "--set", f"corpus.shards={shards}")
    first, second = speech_gru(*arguments), speech_gru(*arguments)
    assert (first.code, second.code) == (0, 0)
    assert first.err == ""
    assert "höher" in first.out
    assert first.out.splitlines()[-1].endswith("were new, 0 set aside")
    assert " 0 were new, 0 set aside" in second.out.splitlines()[-1]


def test_prepare_sets_aside(speech_gru, tiny_yaml, write_tone, shards, tmp_path):
    for number in range(6):
        write_tone(f"words/mittel/s{number}_nohash_0.wav")
    (tmp_path / "words" / "mittel" / "s9_nohash_0.wav").write_bytes(b"")
    changes = (f"corpus.path={tmp_path / 'words'}", f"corpus.shards={shards}", "corpus.words=[mittel]")
    outcome = speech_gru("prepare", tiny_yaml, *(part for change in changes for part in ("--set", change)))
    assert outcome.code == 3
    last = outcome.out.splitlines()[-1]
    assert last == f"{shards}: 6 clips ready, 7 were new, 1 set aside; why: {shards / 'rejected.csv'}"


def test_labels_in_brackets_are_labels(capsys):
    table = console.new_table("label", "clips")
    table.add_row("[/b] :smile: [red]rot[/red]", "[3]")
    console.print_table(table)
    assert "[/b] :smile: [red]rot[/red]" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["prepare", "train"])
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.unit=3", "units"),
        ("training.learning_rate=-1", "learning_rate"),
        ("nonsense", "nonsense"),
    ],
)
def test_wrong_setting(speech_gru, tiny_yaml, verb, setting, message):
    outcome = speech_gru(verb, tiny_yaml, "--set", setting)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("speech-gru: ")
    assert message in outcome.err


def test_ctrl_c_in_prepare(speech_gru, tiny_yaml, shards, monkeypatch):
    @contextmanager
    def interrupting_bar(description):
        def progress(done, total):
            if done == 40:
                time.sleep(0.2)  # all threads are at work by then
                os.kill(os.getpid(), signal.SIGINT)

        yield progress

    arguments = ("prepare", tiny_yaml, "--set", f"corpus.shards={shards}")
    with monkeypatch.context() as patch:
        patch.setattr(console, "progress_bar", interrupting_bar)
        outcome = speech_gru(*arguments)
    assert outcome.code == 130
    assert outcome.err.endswith(INTERRUPTED)
    assert not list(shards.glob("*.tmp")) + list(shards.glob(".*.tmp"))
    assert speech_gru(*arguments).code == 0


def test_train_without_shards(speech_gru, tiny_yaml, shards, tmp_path):
    outcome = speech_gru("train", tiny_yaml, "--set", f"corpus.shards={shards}", "--out", tmp_path / "run")
    assert outcome.code == 2
    assert "run `speech-gru prepare` first" in outcome.err
    assert not (tmp_path / "run").exists()


LIGHT = (
    *("training.epochs=2", "training.warmup_epochs=0.5", "training.checkpoint_steps=3"),
    *("model.units=4", "model.layers=1", "model.pooling=last", "model.bidirectional=false"),
)


@pytest.fixture
def train(speech_gru, tiny_yaml, tmp_path):
    """A function that runs `train` with light settings into tmp_path/run."""
    settings = [argument for setting in LIGHT for argument in ("--set", setting)]
    return lambda *more: speech_gru("train", tiny_yaml, "--out", tmp_path / "run", *settings, *more)


def weights(folder) -> list[bytes]:
    return [weight.tobytes() for weight in load_run(folder).recognizer.get_layer("encoder_and_head").get_weights()]


@pytest.fixture
def at_step(monkeypatch):
    """A function that has another one called once, when a training's progress comes to a step."""

    def arrange(at: int, action) -> None:
        shown = EpochPrinter.step

        def step(self, number, told):
            shown(self, number, told)
            if number == at:
                monkeypatch.undo()
                action()

        monkeypatch.setattr(EpochPrinter, "step", step)

    return arrange


def test_train(train, tmp_path):
    run, outcome = tmp_path / "run", train()
    assert (outcome.code, outcome.err) == (0, "")
    for shown in (" train, ", "2 of 8 steps of 8 clips", "float32", "CPU", "Keras's loop (no GPU", str(run)):
        assert shown in outcome.out
    figures = r"loss \d+\.\d{4}, accuracy \d+\.\d\d%"
    for epoch in (1, 2):
        line = rf"^epoch {epoch}/2: {figures}; validation {figures}; [\d,]+ clips/s, \d+% of it waiting for data$"
        assert len(re.findall(line, outcome.out, re.MULTILINE)) == 1
    for shown in ("validation: accuracy", "test: accuracy"):
        assert shown in outcome.out
    assert outcome.out.splitlines()[-1].endswith(f"next: speech-gru export {run}")
    for name in ("config.yaml", "labels.txt", "model.keras", "metrics.json", "report/test/confusion.png"):
        assert (run / name).is_file(), name


def test_a_finished_run_is_measured_anew_and_left_alone(train, tmp_path):
    assert train().code == 0
    model, metrics = (tmp_path / "run" / name for name in ("model.keras", "metrics.json"))
    before, measured = model.read_bytes(), metrics.read_text(encoding="utf-8")
    metrics.unlink()
    outcome = train()
    assert outcome.code == 0
    assert "run: the run is finished; train into another folder, or delete this one, to train again" in outcome.out
    assert "epoch 1/2" not in outcome.out
    assert (model.read_bytes(), metrics.read_text(encoding="utf-8")) == (before, measured)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_train_goes_on_with_the_same_command(train, at_step, tmp_path, number, code):
    at_step(10, lambda: os.kill(os.getpid(), number))
    outcome = train()
    assert outcome.code == code
    assert outcome.err == (
        "\nspeech-gru: stopped after step 11; its state is saved, and the same command goes on from there\n"
    )
    run = tmp_path / "run"
    assert not list(run.rglob("*.tmp")) + list(run.rglob(".*.tmp"))
    assert not (run / "model.keras").exists()
    again = train()
    assert (again.code, again.err) == (0, "")
    assert "going on after step 11 of 16" in again.out
    assert "epoch 1/2" not in again.out
    assert "epoch 2/2" in again.out
    undisturbed = tmp_path / "undisturbed"
    assert train("--out", undisturbed).code == 0
    assert weights(run) == weights(undisturbed)


def test_evaluate_of_a_stopped_train(train, speech_gru, at_step, tmp_path):
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert train().code == 130
    assert "model.keras is missing" in speech_gru("evaluate", tmp_path / "run").err


def test_a_second_ctrl_c_ends_train_at_once(train, at_step):
    def twice() -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    at_step(10, twice)
    outcome = train()
    assert (outcome.code, outcome.err) == (130, "\n" + INTERRUPTED)
    assert train().code == 0


def test_a_train_that_diverges(train, tmp_path):
    outcome = train("--set", "training.learning_rate=1e38", "--set", "training.warmup_epochs=0")
    assert outcome.code == 1
    assert re.match(r"speech-gru: the training diverged at step 2: the loss is .*: \w+/s\d\d\.wav, ", outcome.err)
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "run" / "model.keras").exists()


def test_train_into_a_run_with_other_settings(train, at_step):
    at_step(3, lambda: os.kill(os.getpid(), signal.SIGINT))
    assert train().code == 130
    outcome = train("--set", "model.units=5")
    assert outcome.code == 2
    assert "run holds a run with other settings:\n  model.units: 4 there, 5 now\nGive another folder" in outcome.err


def test_train_on_a_full_disk(train, at_step, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    at_step(4, lambda: monkeypatch.setattr(np, "savez", full))
    outcome = train()
    assert outcome.code == 2
    assert re.fullmatch(r"speech-gru: \S+step-00000006\.npz can't be written: No space left on device\n", outcome.err)
    monkeypatch.undo()
    again = train()
    assert again.code == 0
    assert "going on after step 3 of 16" in again.out


def test_hosts_that_are_none(train, tmp_path, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    outcome = train()
    assert outcome.code == 2
    assert outcome.err.startswith('speech-gru: TF_CONFIG: expected {"cluster": {"worker": ["HOST:PORT", ...]}')
    assert not (tmp_path / "run").exists()
