import shlex
import sys

import pytest
import soundfile
from typer.testing import CliRunner

from data_pipeline.corpus import read_corpus
from data_pipeline.errors import UserError
from speech_gru.cli import app


def run(*arguments: object):
    return CliRunner().invoke(app, ["synth", *map(str, arguments)])


def test_corpus_summary_and_next_command(tmp_path):
    pytest.importorskip("espeakng_loader", reason="needs the extra [synth]")
    load_config = pytest.importorskip("speech_gru.config").load_config
    out = tmp_path / "my words"
    result = run("go", "été", "--unknown-words", "tree, house", *("--voices", 3, "--takes", 2, "--out", out))
    assert result.exit_code == 0, result.output
    assert "2 words and 2 more for _unknown_, 24 s" in result.stdout
    assert soundfile.info(next((out / "été").iterdir())).frames == 16000

    command = shlex.split(result.stdout.rpartition("Next: ")[2])
    assert command[:3] == ["speech-gru", "prepare", "demo"]
    corpus = read_corpus(load_config("demo", [*command[4::2], "corpus.unknown_share=1"]).corpus)
    assert set(corpus.labels) == {"go", "été", "_unknown_", "_silence_"}
    spoken = [clip for clip in corpus.clips if clip.label != "_silence_"]
    assert {split: sum(clip.split == split for clip in spoken) for split in ("train", "validation", "test")} == {
        "train": 8,
        "validation": 8,
        "test": 8,
    }
    assert not corpus.rejected


def test_user_errors(tmp_path, monkeypatch):
    assert isinstance(run("go", "GO", "--out", tmp_path / "corpus").exception, UserError)
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    assert 'pip install ".[synth]"' in str(run("go", "--out", tmp_path / "corpus").exception)
    assert not list(tmp_path.iterdir())
