"""Runs with a CTC head: what is gathered of them, and their artefacts end to end. Their weights are random."""

import csv
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf

from data_pipeline.errors import UserError
from data_pipeline.phrases import masked_features, open_recorded, padded_batches
from data_pipeline.prepare import prepare
from data_pipeline.settings import ComposeSettings
from export import material, matrix, phrases
from export.errors import NotMadeError
from export.number_format import FORMATS
from export.reference import Range, Ranges, classify_stream, transcribe
from speech_gru import PhraseRecognizer
from speech_gru.artefact import Artefact, inspect_file
from speech_gru.phrase_recognizer import log_softmax
from speech_gru.phrase_training import training_phrases
from speech_gru.run import Run, load_run

RATE, WINDOW = 8000, 8000
TEXTS = ("ab", "a b", "b a ab", "ba")
SECONDS = {"train": np.linspace(0.4, 1.3, 12), "validation": [0.5] * 3, "test": [0.3, 0.5, 0.7, 0.9, 1.0, 1.4]}
"""Of each split's phrases; the last of the test's is longer than a window."""


def write_corpus(folder: Path) -> None:
    """phrases.csv and its recordings: chirps in noise."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    with (folder / "phrases.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "text", "speaker", "split"))
        for split, lengths in SECONDS.items():
            for number, seconds in enumerate(lengths):
                time = np.arange(round(seconds * RATE)) / RATE
                audio = 0.4 * np.sin(2 * np.pi * (300 * time + (1 + number) * 300 * time**2))
                soundfile.write(folder / f"{split}{number}.wav", audio + rng.normal(0, 0.05, len(time)), RATE)
                writer.writerow((f"{split}{number}.wav", TEXTS[number % 4], f"{split}{number}", split))


@pytest.fixture(scope="module")
def make_run(tmp_path_factory):
    """A function (whether it is bidirectional) -> the directory of a run that knows characters."""
    from speech_gru.config import Config

    root = tmp_path_factory.mktemp("phrase_runs")
    write_corpus(root / "corpus")

    def make(bidirectional: bool) -> Path:
        folder = root / f"run-{bidirectional}"
        corpus = {"path": root / "corpus" / "phrases.csv", "shards": root / "shards", "tokens": "characters"}
        config = Config(
            name="tiny",
            corpus={**corpus, "sample_rate": RATE, "clip_seconds": 2, "silence_share": 0},
            front_end={"kind": "log_mel", "window_ms": 16, "hop_ms": 8, "mel_bins": 6},
            model={"head": "ctc", "units": 6, "layers": 1, "subsampling": 4, "bidirectional": bidirectional},
            export={"window_seconds": WINDOW / RATE, "accuracy_loss": {"int8": 5}},
        )
        if folder.exists():
            return folder
        prepare(config.corpus)
        write_run(folder, config, ("", " ", "a", "b"))
        return folder

    return make


def write_run(folder: Path, config, labels: tuple[str, ...]) -> None:
    """What a training leaves, with random weights."""
    from speech_gru.config import dump_config
    from speech_gru.run import build_from_config
    from speech_gru.training import _save

    front_end, recognizer = build_from_config(config, len(labels))
    front_end.adapt(np.random.default_rng(1).normal(0, 0.2, (8, RATE)).astype(np.float32))
    model, rng = recognizer.get_layer("encoder_and_head"), np.random.default_rng(2)
    model.set_weights([rng.normal(0, 0.8, weight.shape) for weight in model.get_weights()])
    folder.mkdir()
    (folder / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    _save(recognizer, folder / "model.keras")


@pytest.fixture(scope="module")
def gathered(make_run, tmp_path_factory):
    """A function (whether the run is bidirectional) -> what `gather` makes of it, in this process."""
    found = {}

    def gather(bidirectional: bool) -> material.Subject:
        if bidirectional not in found:
            found[bidirectional] = gather_here(make_run(bidirectional), tmp_path_factory.mktemp("gathered"))
        return found[bidirectional]

    return gather


def gather_here(run: Path, scratch: Path, *overrides: str, shards: Path | None = None) -> material.Subject:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "start_on_cpu", lambda: None)
        return material.gather(run, shards, overrides, scratch)


@pytest.fixture
def run(make_run) -> Run:
    return load_run(make_run(False))


def changed(run: Run, section: str, **values) -> Run:
    part = getattr(run.config, section).model_copy(update=values)
    return replace(run, config=run.config.model_copy(update={section: part}))


# What is gathered


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_model_and_the_phrases(gathered, make_run, bidirectional):
    subject, run = gathered(bidirectional), load_run(make_run(bidirectional))
    content = subject.material
    assert content.samples.tolist() == [2400, 4000, 5600, 7200, 8000], "the one that is longer is left out"
    assert subject.truth.tolist() == ["ab", "a b", "b a ab", "ba", "ab"]
    clips, features = np.load(content.clips), np.load(content.features)
    assert clips.shape == (5, WINDOW)
    np.testing.assert_array_equal(clips[0, :2400], recorded(run)[0] / np.float32(32768))
    assert not clips[0, 2400:].any()
    frames = (content.samples - 128) // 64 + 1
    reference = log_softmax_of(transcribe(features, content.encoder, frames=frames))
    expected = run.recognizer([clips, content.samples], training=False).numpy()
    for found, same, keras_logits, steps in zip(subject.logits, reference, expected, frames // 4, strict=True):
        np.testing.assert_allclose(found[:steps], log_softmax(keras_logits[:steps]), rtol=0, atol=1e-5)
        np.testing.assert_allclose(found[:steps], same[:steps], rtol=0, atol=1e-4)
        assert not found[steps:].any()


def recorded(run: Run) -> list[np.ndarray]:
    """The test phrases, the shortest first."""
    source = open_recorded(run.config.corpus.shards, "test", RATE)
    return sorted((source.read(0, number)[0] for number in range(len(source))), key=len)


def log_softmax_of(logits: np.ndarray) -> np.ndarray:
    return np.stack([log_softmax(rows) for rows in logits])


def test_facts(gathered, run):
    subject = gathered(False)
    facts, heard = subject.facts, material.decisions(subject.logits, subject.material.description)
    assert any(heard), "weights that say nothing would prove nothing"
    assert (facts.clips, facts.correct) == (8, material.count_right(heard, subject.truth)[0])
    assert (facts.split, facts.labels, facts.thresholds) == ("test", run.labels, {})
    assert facts.counts == {"train": {"_phrase_": 12}, "validation": {"_phrase_": 3}, "test": {"_phrase_": 6}}
    steps, model = 31, run.recognizer.get_layer("encoder_and_head")
    assert facts.multiply_adds == steps * (24 * 18 + 6 * 18 + 6 * 4)
    assert facts.parameters == model.count_params()


def test_the_description(gathered, run):
    about = gathered(False).material.description
    assert about == material.describe_run(run)
    assert (about.head, about.tokens, about.decoding, about.words) == ("ctc", "characters", "greedy", ())
    assert (about.labels, about.sample_rate, about.clip_samples) == (("", " ", "a", "b"), RATE, WINDOW)
    assert (about.frame_samples, about.hop_samples, about.step_samples) == (128, 64, 256)


def test_what_streams_are_made_of(gathered):
    subject = gathered(False)
    content = subject.material
    about = content.require_stream().description
    assert (about.kind, about.chunk_samples, about.overlap_samples, about.warmup_chunks) == ("stream", 256, 64, 0)
    clips = np.load(content.clips)
    whole = np.concatenate([clip[:count] for clip, count in zip(clips, content.samples, strict=True)])
    np.testing.assert_array_equal(content.joined_clips(), whole)
    expected = classify_stream(content.joined_features[None], content.encoder)[0]
    np.testing.assert_allclose(subject.stream_logits, log_softmax(expected), rtol=0, atol=1e-6)
    assert len(expected) == ((len(whole) - 128) // 64 + 1) // 4


def test_a_bidirectional_encoder_cannot_stream(gathered):
    subject = gathered(True)
    assert subject.stream_logits is None
    with pytest.raises(NotMadeError, match=r"bidirectional.*; PhraseRecognizer runs model\.tflite on windows"):
        subject.material.require_stream()


def test_it_can_be_sent_to_another_process(gathered):
    again = pickle.loads(pickle.dumps(gathered(False)))
    np.testing.assert_array_equal(again.truth, gathered(False).truth)
    np.testing.assert_array_equal(again.material.samples, gathered(False).material.samples)


@pytest.mark.parametrize("seconds", [0.039, 0.016, 0.001])
def test_a_window_without_a_step(make_run, tmp_path, seconds):
    message = rf"export\.window_seconds: expected 0\.04 at least, in which the model makes a step, got {seconds}"
    with pytest.raises(UserError, match=message):
        gather_here(make_run(False), tmp_path, f"export.window_seconds={seconds}")


@pytest.mark.parametrize("seconds", [0.25, 0.04])
def test_no_phrase_fits(make_run, tmp_path, seconds):
    with pytest.raises(
        UserError, match=r"shards: no test phrase with a word fits into export\.window_seconds; raise it"
    ):
        gather_here(make_run(False), tmp_path, f"export.window_seconds={seconds}")


def test_of_many_phrases_some_of_all_lengths_are_chosen(make_run, tmp_path, monkeypatch):
    monkeypatch.setattr(phrases, "PROOF_PHRASES", 3)
    subject = gather_here(make_run(False), tmp_path, "export.window_seconds=2")
    assert subject.material.samples.tolist() == [2400, 5600, 11200]


@pytest.fixture(scope="module")
def composed_run(tiny_config, tmp_path_factory) -> Path:
    """A run whose phrases are composed of the words of tiny_config."""
    from speech_gru.config import Config
    from speech_gru.phrase_training import output_labels

    values = tiny_config.model_dump(mode="json") | {
        "compose": {"phrases": 40, "validation_phrases": 12, "words": (0, 3), "unknown_probability": 0},
        "model": {"head": "ctc", "units": 6, "layers": 1, "subsampling": 2, "bidirectional": False},
        "export": {"window_seconds": 4},
    }
    folder, config = tmp_path_factory.mktemp("composed") / "run", Config(**values)
    write_run(folder, config, output_labels(config))
    return folder


def test_composed_phrases(composed_run, tmp_path, monkeypatch):
    """Of the proof and of the ranges: some of all numbers of words, not the shortest alone."""
    monkeypatch.setattr(phrases, "PROOF_PHRASES", 5)
    monkeypatch.setattr(phrases, "CALIBRATION_PHRASES", 7)
    subject = gather_here(composed_run, tmp_path)
    assert len(subject.truth) == 5
    assert {len(text.split()) for text in subject.truth} >= {0, 1, 3}
    assert subject.facts.clips == sum(len(text.split()) for text in subject.truth)
    assert set(subject.facts.counts["test"]) == {*tiny_words(subject), "_unknown_", "_silence_"}
    about = subject.material.description
    assert (about.tokens, about.labels[0]) == ("words", "")
    run = load_run(composed_run)
    source = phrases._Some(training_phrases(run.config, run.labels, run.front_end), 7)
    assert sorted(source.size(0, number) for number in range(7))[::6] == [1, 3], "silence is one clip, too"
    features = [run.front_end(audio_of(source, number)).numpy() for number in range(7)]
    highest = max(item.max() for item in features)
    assert subject.material.ranges["features"].high == pytest.approx(highest, rel=1e-4)


def tiny_words(subject: material.Subject) -> tuple[str, ...]:
    return subject.facts.labels[1:]


def audio_of(source, number: int) -> np.ndarray:
    return source.read(0, number)[0][None] / np.float32(32768)


def test_only_silence(composed_run, tmp_path):
    """Accuracy is of words; nobody said any."""
    folder = shutil.copytree(composed_run, tmp_path / "run")
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(
        config.replace("unknown_probability: 0.0", "unknown_probability: 1.0"), encoding="utf-8"
    )
    with pytest.raises(UserError, match="no test phrase with a word fits"):
        gather_here(folder, tmp_path)


def test_words_have_thresholds_but_phrases_do_not(make_run, tmp_path):
    for setting in ("export.threshold=0.5", "export.thresholds={ab: 0.5}"):
        with pytest.raises(UserError, match=r"threshold and thresholds are for single words; .* model\.head: ctc"):
            gather_here(make_run(False), tmp_path, setting)


def test_the_words_of_the_training_texts(run):
    about = material.describe_run(changed(run, "export", decoding="words"))
    assert (about.decoding, about.words) == ("words", ("a", "ab", "b", "ba"))


def test_words_that_phrases_are_composed_of(run):
    config = run.config.model_copy(update={"compose": ComposeSettings()})
    words = replace(changed(replace(run, config=config), "export", decoding="words"), labels=("", "ja", "nein"))
    words = changed(words, "corpus", tokens=None)
    about = material.describe_run(words)
    assert (about.tokens, about.words) == ("words", ("ja", "nein"))


def test_phonemes_are_not_words(run):
    phonemes = changed(changed(run, "export", decoding="words"), "corpus", tokens="phonemes")
    with pytest.raises(UserError, match=r"export\.decoding: words needs texts of words, and these are phonemes"):
        material.describe_run(phonemes)
    assert material.describe_run(changed(phonemes, "export", decoding="beam")).words == ()


# What is right


def test_decisions():
    about = Artefact(("", " ", "a", "b"), RATE, WINDOW, head="ctc", tokens="characters")
    heard = np.array([[2, 2, 0, 2, 1, 3], [0, 1, 3, 1, 1, 0], [0, 0, 0, 0, 0, 0]])
    logits = np.log(np.full((3, 6, 4), 0.1) + 0.6 * np.eye(4)[heard])
    logits[1, 4:] = 0  # behind the clip's end
    assert material.decisions(logits, about).tolist() == ["aa b", "b", ""]


@pytest.mark.parametrize(
    ("decided", "expected", "right"),
    [
        (["a b", "c"], ["a b", "c"], (3, 3)),
        (["a c", "c"], ["a b", "c"], (2, 3)),  # one replaced
        (["a", "c d"], ["a b", "c"], (1, 3)),  # one left out, one put in
        (["x y z x y z", "c"], ["a b", "c"], (0, 3)),  # more errors than words
        (["", ""], ["", "c"], (0, 1)),
    ],
)
def test_words_that_are_right(decided, expected, right):
    assert material.count_right(np.array(decided), np.array(expected)) == right


def test_labels_that_are_right():
    assert material.count_right(np.array([0, 1, 2]), np.array([0, 2, 2])) == (2, 3)


# Ranges


def training_ranges(run: Run, encoder, is_masked: bool) -> Ranges:
    ranges, source = Ranges(), open_recorded(run.config.corpus.shards, "train", RATE)
    for batch in padded_batches(source, 32, 128):
        features, frames = masked_features(run.front_end, tf.constant(batch.audio), tf.constant(batch.samples))
        transcribe(features.numpy(), encoder, ranges, frames.numpy() if is_masked else None)
        if not is_masked:
            one_stream = np.concatenate([pcm[:own] for pcm, own in zip(batch.audio, batch.samples, strict=True)])
            transcribe(run.front_end(one_stream[None] / np.float32(32768)).numpy(), encoder, ranges)
    return ranges


@pytest.mark.parametrize("streams", [False, True])
def test_ranges_are_of_training_phrases(gathered, run, streams):
    """A stream's also of phrases that follow each other."""
    content = gathered(False).material
    found, expected = content.ranges_for(FORMATS["int8"], streams), training_ranges(run, content.encoder, not streams)
    assert found.keys() == expected.keys()
    for name, each in found.items():
        np.testing.assert_allclose(values_of(each), values_of(expected[name]), rtol=1e-4, atol=1e-4, err_msg=name)


def values_of(item: Range) -> list[float]:
    return [item.low, item.high, item.usual_low, item.usual_high]


def test_the_runs_own_phrases_are_gone(make_run, tmp_path):
    folder = shutil.copytree(make_run(False), tmp_path / "run")
    own = load_run(folder).config.corpus.shards
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    (folder / "config.yaml").write_text(config.replace(f"shards: {own}\n", f"shards: {tmp_path}\n"), encoding="utf-8")
    with pytest.raises(UserError, match="holds no prepared clips"):
        gather_here(folder, tmp_path)
    subject = gather_here(folder, tmp_path, shards=own)
    assert (subject.facts.shards, subject.facts.counts, subject.facts.clips) == ("shards", {}, 8)
    with pytest.raises(NotMadeError, match="those are gone: expected them in"):
        subject.material.ranges_for(FORMATS["int8"])


# End to end


def export_here(run: Path, out: Path, *only: str, overrides: tuple[str, ...] = ()) -> dict:
    """The proofs of artefacts made in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix, "in_child", lambda function, *arguments: function(*arguments))
        for module in (material, matrix):
            patch.setattr(module, "start_on_cpu", lambda **_: None)
        proofs = matrix.export_run(run, out, only=only, overrides=overrides)
    return {proof.artefact: proof for proof in proofs}


@pytest.fixture(scope="module")
def exported(make_run, tmp_path_factory):
    """Folder and proofs of a run that can stream."""
    out = tmp_path_factory.mktemp("exported")
    return out, export_here(make_run(False), out, "saved_model", "float32", "int16x8", "stream_float32", "micro")


def test_artefacts(exported, gathered):
    _, proofs = exported
    for proof in proofs.values():
        assert (proof.status, proof.reason, proof.clips) == ("proven", "", 8)
    heard = material.decisions(gathered(False).logits, gathered(False).material.description)
    words = sum(len(text.split()) for text in heard)
    for name in ("saved_model", "float32", "stream_float32"):
        proof = proofs[name]
        assert proof.largest_difference < 1e-4
        assert (proof.equal_decisions, proof.decisions, proof.correct) == (words, words, gathered(False).facts.correct)
    assert proofs["float32"].latency_of == "1 s window"
    assert proofs["stream_float32"].latency_of == "32 ms chunk"
    assert proofs["stream_float32"].stream["equal_decisions"] == proofs["stream_float32"].stream["steps"] > 100


def test_the_files_hear_what_the_model_hears(exported, gathered, run):
    out, _ = exported
    heard = material.decisions(gathered(False).logits, gathered(False).material.description)
    for name in ("model.tflite", "stream.tflite"):
        recognizer = PhraseRecognizer(out / name)
        assert [recognizer.transcribe(audio) for audio in recorded(run)[:5]] == heard.tolist()
    assert inspect_file(out / "stream.tflite").kind == "stream"


def test_report_and_card(exported):
    out, _ = exported
    found = json.loads((out / "export_report.json").read_text(encoding="utf-8"))
    assert (found["split"], found["clips"]) == ("test", 8)
    assert [item["artefact"] for item in found["artefacts"]] == [
        *("saved_model", "float32", "int16x8", "stream_float32", "micro")
    ]
    card = (out / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "On the 8 words in phrases of at most 1 s of the test split" in card
    assert "speech_gru.PhraseRecognizer(file)" in card
    assert "speech-gru recognize model.tflite some.wav" in card


def test_a_file_that_says_words_of_the_training_texts_alone(make_run, run, tmp_path):
    proofs = export_here(make_run(False), tmp_path, "float32", overrides=("export.decoding=words",))
    assert proofs["float32"].status == "proven"
    recognizer, greedy = (
        PhraseRecognizer(tmp_path / "model.tflite", decoding=decoding) for decoding in (None, "greedy")
    )
    heard, spelled = (
        {word for audio in recorded(run) for word in item.transcribe(audio).split()} for item in (recognizer, greedy)
    )
    assert heard
    assert heard <= {"a", "ab", "b", "ba"}
    assert not spelled <= {"a", "ab", "b", "ba"}


def test_weights_are_those_of_the_run(make_run, run):
    """What the tests above say holds only if they are read back."""
    model = run.recognizer.get_layer("encoder_and_head")
    assert isinstance(model, keras.Model)
    assert np.std(model.get_weights()[0]) == pytest.approx(0.8, rel=0.2)
