"""`compose` from prepared clips to files that `prepare` takes as a corpus of phrases."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_pipeline import compose as module
from data_pipeline.clip_index import ClipIndex
from data_pipeline.grammar import Sentences
from data_pipeline.prepare import prepare
from data_pipeline.settings import ComposeSettings, CorpusSettings
from speech_gru.config import load_config

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "phrases.md"
WORDS = {"tief", "mittel", "höher"}


def texts(folder) -> dict[str, str]:
    with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["text"] for row in csv.DictReader(file)}


def samples(folder, name: str) -> np.ndarray:
    audio, rate = soundfile.read(folder / name)
    assert rate == 8000
    return audio


def test_phrases_to_evaluate_with(speech_gru, tiny_yaml, tmp_path):
    out = tmp_path / "my phrases"
    outcome = speech_gru("compose", tiny_yaml, "--out", out, "--count", 30)
    assert outcome.code == 0, outcome.err
    assert f"{out}: 30 phrases and manifest.csv\n" in outcome.out
    assert f"evaluate MODEL --corpus '{out}/manifest.csv'" in outcome.out
    said = texts(out)
    assert sorted(path.name for path in out.iterdir()) == sorted([*said, "manifest.csv"])
    assert {word for text in said.values() for word in text.split()} - {"_silence_"} == WORDS
    assert {len(text.split()) for text in said.values()} <= {1, 2, 3, 4}

    settings = CorpusSettings(
        **{"path": out / "manifest.csv", "shards": tmp_path / "shards", "tokens": "words", "sample_rate": 8000},
        **{"clip_seconds": 10, "silence_share": 0},
    )
    assert prepare(settings, for_test=True).rejected == []
    clips = ClipIndex(tmp_path / "shards", "test")
    assert {row.path: row.text for row in clips.rows} == {
        name: "" if text == "_silence_" else text for name, text in said.items()
    }
    for number, row in enumerate(clips.rows):
        np.testing.assert_array_equal(clips.read(number) / 32768, samples(out, row.path))


def test_the_split_s_clips_alone(speech_gru, tiny_yaml, tmp_path, monkeypatch):
    origins, read = set(), module.ComposedPhrases.read

    def spied(self, epoch, number):
        phrase = read(self, epoch, number)
        origins.update(phrase[2].split())
        return phrase

    monkeypatch.setattr(module.ComposedPhrases, "read", spied)
    assert speech_gru("compose", tiny_yaml, "--out", tmp_path / "out", "--count", 40, "--split", "validation").code == 0
    speakers = {name.split("/")[1] for name in origins if not name.startswith("_")}
    assert speakers == {f"s{number}.wav" for number in range(16, 22)}  # see tiny_corpus


def test_the_experiment_s_settings(speech_gru, tiny_yaml, tmp_path):
    ctc = ("--set", "model.head=ctc", "--set", "compose.unknown_probability=0")
    grammar = "compose.grammar={a: ['tief <b>', mittel], b: [höher]}"
    outcome = speech_gru("compose", tiny_yaml, "--out", tmp_path / "out", "--count", 20, *ctc, "--set", grammar)
    assert outcome.code == 0, outcome.err
    assert set(texts(tmp_path / "out").values()) == {"tief höher", "mittel"}
    grammar = "compose.grammar={a: [mitel]}"
    outcome = speech_gru("compose", tiny_yaml, "--out", tmp_path / "other", *ctc, "--set", grammar)
    assert outcome.code == 2
    assert "compose.grammar: no test clip is of the word 'mitel'; the nearest is 'mittel'" in outcome.err
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("own", [True, False])
def test_noise(speech_gru, tiny_yaml, tmp_path, own):
    (tmp_path / "noise").mkdir()
    soundfile.write(tmp_path / "noise" / "hum.wav", 0.1 * np.sin(np.arange(16000)), 16000)  # at another rate
    options = [] if own else ["--noise", tmp_path / "noise"]
    for name, more in (("plain", []), ("noisy", ["--snr", 10, *options]), ("again", ["--snr", 10, *options])):
        assert speech_gru("compose", tiny_yaml, "--out", tmp_path / name, "--count", 8, *more).code == 0
    assert texts(tmp_path / "plain") == texts(tmp_path / "noisy")
    for name in texts(tmp_path / "plain"):
        plain, noisy = samples(tmp_path / "plain", name), samples(tmp_path / "noisy", name)
        if plain.any():
            assert 10 * np.log10(np.mean(plain**2) / np.mean((noisy - plain) ** 2)) == pytest.approx(10, abs=0.1)
        assert (tmp_path / "noisy" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        spectrum = np.abs(np.fft.rfft(noisy - plain))
        is_tone = spectrum.max() > 20 * np.median(spectrum)
        assert is_tone != own


def test_another_seed(speech_gru, tiny_yaml, tmp_path):
    for seed in (0, 1):
        assert speech_gru("compose", tiny_yaml, "--out", tmp_path / str(seed), "--count", 8, "--seed", seed).code == 0
    assert texts(tmp_path / "0") != texts(tmp_path / "1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", 0], "a --count of at least 1"),
        (["--seed", -1], "a --seed of at least 0"),
        (["--noise", "noise"], "--noise needs a signal-to-noise ratio too; add --snr"),
        (["--snr", "nan"], "expected a --snr between -100 and 100 dB, got nan"),
        (["--snr", 3, "--noise", "nowhere"], "nowhere: no recordings of noise"),
        (["--set", "corpus.shards=nowhere"], "nowhere holds no prepared clips"),
    ],
)
def test_wrong_use(speech_gru, tiny_yaml, tmp_path, options, message):
    outcome = speech_gru("compose", tiny_yaml, "--out", tmp_path / "out", *options)
    assert (outcome.code, message in outcome.err) == (2, True), outcome
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_empty(speech_gru, tiny_yaml, tmp_path):
    outcome = speech_gru("compose", tiny_yaml, "--out", tmp_path, "--count", 2)
    assert outcome.code == 2
    assert f"{tmp_path} exists and isn't an empty folder; give a new one" in outcome.err


def test_interrupted(speech_gru, tiny_yaml, tmp_path, monkeypatch):
    written, write = [], soundfile.write

    def interrupt(path, *arguments, **options):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *arguments, **options)

    monkeypatch.setattr(soundfile, "write", interrupt)
    assert speech_gru("compose", tiny_yaml, "--out", tmp_path / "out", "--count", 9).code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_the_document_s_experiments(tmp_path):
    found = re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "a.yaml").write_text(found[0], encoding="utf-8")
    (tmp_path / "b.yaml").write_text(found[1], encoding="utf-8")
    assert load_config(tmp_path / "a.yaml").corpus.tokens == "characters"
    lights = load_config(tmp_path / "b.yaml")
    assert set(Sentences(lights.compose.grammar, "command").words) == set(lights.corpus.words)


def test_the_document_s_defaults():
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`|none) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    defaults = ComposeSettings().model_dump(mode="json")
    assert {name for name, _ in rows} == set(defaults)
    for name, value in rows:
        assert value == ("" if defaults[name] is None else str(defaults[name]).replace(".0", ""))
