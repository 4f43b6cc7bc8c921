"""`prepare` and `train` as commands; the work itself is tested beside what does it."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest

from speech_gru.cli import console

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


def test_train(speech_gru, tiny_yaml, tmp_path):
    settings = ("training.epochs=2", "training.warmup_epochs=0.5")
    run = tmp_path / "run"
    outcome = speech_gru("train", tiny_yaml, "--out", run, *(part for one in settings for part in ("--set", one)))
    assert outcome.code == 0
    for shown in (" train, ", "2 of 8 steps of 8 clips", "float32", "validation: accuracy", "test: accuracy"):
        assert shown in outcome.out
    assert outcome.out.splitlines()[-1].endswith(f"next: speech-gru export {run}")
    for name in ("config.yaml", "labels.txt", "model.keras", "metrics.json", "report/test/confusion.png"):
        assert (run / name).is_file(), name


def test_ctrl_c_in_train(speech_gru, tiny_yaml, tmp_path):
    run = tmp_path / "run"

    def interrupt_when_training() -> None:
        deadline = time.monotonic() + 60
        while not list(run.glob("tensorboard/**/events*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt_when_training)
    thread.start()
    outcome = speech_gru("train", tiny_yaml, "--out", run, "--set", "training.epochs=5000")
    thread.join()
    assert outcome.code == 130
    assert outcome.err.endswith(INTERRUPTED)
    assert not list(run.rglob("*.tmp"))
    assert "model.keras is missing" in speech_gru("evaluate", run).err
