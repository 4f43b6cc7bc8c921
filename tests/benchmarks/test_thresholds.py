"""Each word's own threshold, on probabilities of which the best choice is plain."""

import shlex
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import thresholds
from benchmarks.thresholds import OWN_THRESHOLDS, own_thresholds
from speech_gru.config import load_config

LABELS = ("a", "b", "_unknown_")


def rows(label: int, probabilities: list[float]) -> np.ndarray:
    """(clips, 3): `label` with each of the probabilities."""
    found = np.array([[0.0, 0.0, 1 - probability] for probability in probabilities])
    found[:, label] = probabilities
    return found


@pytest.fixture
def heard():
    """100 clips of each word: of "a" half at 0.72 and half at 0.99, of "b" all at 0.99; and what they are."""
    right = np.concatenate([rows(0, [0.72] * 50 + [0.99] * 50), rows(1, [0.99] * 100)])
    return right, np.repeat([0, 1], 100)


def test_a_word_that_other_speech_is_taken_for_gets_the_higher_threshold(heard):
    other = np.concatenate([rows(1, [0.9] * 20), rows(2, [0.9] * 80)])
    own = own_thresholds(other, *heard, LABELS, 0.03)
    assert own["a"] <= 0.7
    assert own["b"] > 0.9


def test_of_two_words_the_one_that_loses_nothing_pays(heard):
    other = np.concatenate([rows(0, [0.8] * 5), rows(1, [0.8] * 5), rows(2, [0.9] * 90)])
    own = own_thresholds(other, *heard, LABELS, 0.06)
    assert own["a"] <= 0.7
    assert own["b"] > 0.8
    assert own_thresholds(other, *heard, LABELS, 0.01)["a"] > 0.8


def test_words_without_false_commands_have_the_lowest(heard):
    assert own_thresholds(rows(2, [0.9] * 10), *heard, LABELS, 0) == dict.fromkeys("ab", OWN_THRESHOLDS[0])


def test_a_word_without_clips_is_taken_to_lose_what_others_do(heard):
    other = np.concatenate([rows(0, [0.55]), rows(1, [0.55])])
    assert own_thresholds(other, *heard, LABELS, 0)["b"] < 0.7
    right, truth = heard
    assert own_thresholds(other, right[truth == 0], truth[truth == 0], LABELS, 0)["b"] < 0.7


def test_more_is_asked_than_thresholds_can_do(heard):
    own = own_thresholds(rows(0, [0.99] * 10), *heard, LABELS, 0)
    assert own.keys() == {"a", "b"}


def test_each_folder_is_measured_with_thresholds_in_which_it_had_no_say(heard):
    other = rows(0, [0.6] * 10 + [0.75] * 30)
    own = own_thresholds(other[:10], *heard, LABELS, 0)
    assert 0.6 < own["a"] <= 0.72  # which stops none of the other folder's
    assert thresholds.crossed_false_commands(other, np.repeat(["x", "y"], [10, 30]), *heard, LABELS, 0) == 30 / 40
    assert thresholds.crossed_false_commands(other, np.array(["x", "y"] * 20), *heard, LABELS, 0) == 0


def test_it_prints_a_setting_that_export_reads(monkeypatch, capsys, tmp_path):
    labels = ("yes", "1", "a, b", "_unknown_")
    monkeypatch.setattr(thresholds, "load_subject", lambda _: SimpleNamespace(labels=labels, thresholds={"yes": 0.9}))
    monkeypatch.setattr(thresholds, "files_without_commands", lambda *_: [Path("x/some.wav"), Path("y/some.wav")])
    other = np.array([[0.8, 0, 0, 0.2], [0, 0, 0, 1]], np.float32)
    monkeypatch.setattr(thresholds, "predict_files", lambda *_: other)
    clips = np.eye(4, dtype=np.float32)
    monkeypatch.setattr(thresholds, "predict_clips", lambda *_: (clips, np.arange(4)))
    command = ["", "some.tflite", "--other", str(tmp_path), "--shards", str(tmp_path), "--thresholds", "0"]
    monkeypatch.setattr(sys, "argv", [*command, "--false-commands", "0"])
    thresholds.main()
    *_, setting, expected = capsys.readouterr().out.splitlines()
    assert expected == "Chosen without a folder's clips, own thresholds leave 50.0% of them (2 folders)."
    option, override = shlex.split(setting)
    assert option == "--set"
    config = load_config("demo", [override, "corpus.words=[]"])
    assert config.export.thresholds == dict.fromkeys(labels[:3], 0.85)
    monkeypatch.setattr(thresholds, "files_without_commands", lambda *_: [Path("some.wav")] * 4)
    monkeypatch.setattr(thresholds, "predict_files", lambda *_: np.roll(clips, 1, axis=1))
    with pytest.raises(SystemExit):
        thresholds.main()
    printed = capsys.readouterr()
    assert "leave 75.0%; take more, or train otherwise" in printed.err
    assert "Chosen without" not in printed.out  # there is one folder
