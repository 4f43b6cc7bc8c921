"""A phrase recogniser on tones: what is measured, learnt, shown and kept; and that a stop changes nothing."""

import csv
import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import speech_gru.training as training
from data_pipeline.errors import Interrupted, UserError
from data_pipeline.prepare import prepare
from speech_gru.config import Config, ModelSettings, load_config
from speech_gru.decoding import ctc_log_likelihood, greedy
from speech_gru.loop import Monitor
from speech_gru.model import build_model
from speech_gru.phrase_training import PhraseValidator, measured_phrases
from speech_gru.report import report_run
from speech_gru.run import load_run, take_encoder
from speech_gru.tensorboard import draw_results
from speech_gru.training import adapted_front_end
from speech_gru.transcripts import Transcripts
from trainings import At, KilledError, assert_same_weights, changed, kill, run, terminate

RATE = 8000
TONES = {"ja": 300, "nein": 900, "mehr": 2300}
"""Hz."""


def phrase(words: list[str], rng: np.random.Generator) -> np.ndarray:
    """Tones of 0.2 s with pauses of 0.05 to 0.15 s around them."""
    parts = [np.zeros(int(rng.uniform(0.05, 0.15) * RATE))]
    for word in words:
        tone = 0.4 * np.sin(2 * np.pi * TONES[word] * rng.uniform(0.97, 1.03) * np.arange(RATE // 5) / RATE)
        parts += [tone, np.zeros(int(rng.uniform(0.05, 0.15) * RATE))]
    audio = np.concatenate(parts)
    return audio + rng.normal(0, 0.005, len(audio))


@pytest.fixture(scope="module")
def phrase_config(tmp_path_factory, tiny_config) -> Config:
    """48 training, 9 validation and 9 test phrases of one to three words."""
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("phrases")
    with (root / "phrases.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "text", "speaker", "split"))
        for split, count in (("train", 48), ("validation", 9), ("test", 9)):
            for number in range(count):
                words = [str(word) for word in rng.choice(list(TONES), 1 + number % 3)]
                name = f"{split}{number:02}.wav"
                soundfile.write(root / name, phrase(words, rng), RATE, subtype="PCM_16")
                writer.writerow((name, " ".join(words), f"{split}{number}", split))
    config = Config(
        name="tones",
        seed=1,
        corpus={
            **{"path": root / "phrases.csv", "shards": root / "shards", "tokens": "words"},
            **{"sample_rate": RATE, "clip_seconds": 2, "silence_share": 0},
        },
        front_end=tiny_config.front_end,
        augment={"speed": [0.95, 1.05], "noise_probability": 0, "time_mask_frames": 1, "frequency_mask_bins": 1},
        model={"head": "ctc", "units": 8, "layers": 1, "subsampling": 2, "dropout": 0.1},
        training={"epochs": 2, "batch_size": 8, "learning_rate": 0.03, "ema": 0.6, "precision": "float32"}
        | {"warmup_epochs": 0.5, "checkpoint_steps": 2},
        tensorboard={"image_epochs": 1, "augmented_clips": 2, "scalar_steps": 1, "worst_clips": 3, "graph": True},
    )
    prepare(config.corpus)
    return config


class Recorder(Monitor):
    def __init__(self):
        self.predictions = []

    def epoch(self, epoch, figures, predictions):
        self.predictions.append(predictions)


@pytest.fixture(scope="module")
def trained(phrase_config, tmp_path_factory):
    """A run of 30 epochs, reported."""
    config = changed(phrase_config, "training", epochs=30)
    config = changed(config, "tensorboard", image_epochs=10)
    folder, recorder = tmp_path_factory.mktemp("trained") / "run", Recorder()
    history = run(config, folder, recorder)
    metrics = report_run(folder)
    return SimpleNamespace(config=config, folder=folder, history=history, told=recorder.predictions, metrics=metrics)


def read(folder, part: str) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard" / part), size_guidance={"tensors": 0}).Reload()


def curve(events: EventAccumulator, tag: str) -> dict[int, float]:
    """Step -> value."""
    return {event.step: float(make_ndarray(event.tensor_proto)) for event in events.Tensors(tag)}


def shown_text(events: EventAccumulator, tag: str) -> dict[int, str]:
    """Step -> text."""
    return {event.step: make_ndarray(event.tensor_proto).item().decode() for event in events.Tensors(tag)}


class TestTraining:
    def test_it_learns_what_is_said(self, trained):
        losses = [figures["loss"] for figures in trained.history]
        assert losses[-1] < losses[0] / 4
        assert trained.history[-1]["validation_loss"] < trained.history[0]["validation_loss"] / 4
        assert trained.history[-1]["accuracy"] > trained.history[0]["accuracy"]
        assert trained.metrics["test"]["word_error_rate"] < 0.2

    def test_the_figures_are_those_of_the_transcripts(self, trained):
        for figures, found in zip(trained.history, trained.told, strict=True):
            assert isinstance(found, Transcripts)
            assert figures["validation_accuracy"] == found.accuracy == max(0, 1 - found.word_error_rate)
            assert len(found.truth) == 9

    def test_the_run_directory(self, trained):
        assert {path.name for path in trained.folder.iterdir()} >= {
            *("config.yaml", "labels.txt", "model.keras", "metrics.json", "report", "tensorboard", "checkpoints")
        }
        assert load_config(trained.folder / "config.yaml") == trained.config
        assert (trained.folder / "labels.txt").read_text(encoding="utf-8") == "\nja\nmehr\nnein\n"
        assert load_run(trained.folder).labels == ("", "ja", "mehr", "nein")
        for split in ("validation", "test"):
            assert sorted(path.name for path in (trained.folder / "report" / split).iterdir()) == [
                *("metrics.json", "transcripts.csv", "worst.csv")
            ]
        stored = json.loads((trained.folder / "metrics.json").read_text(encoding="utf-8"))
        assert stored == trained.metrics

    def test_the_kept_weights_say_what_the_best_epochs_said(self, trained):
        best = max(trained.told, key=lambda found: found.accuracy)
        assert trained.metrics["validation"]["word_error_rate"] == best.word_error_rate
        with (trained.folder / "report" / "validation" / "transcripts.csv").open(encoding="utf-8", newline="") as file:
            rows = {row["path"]: (row["said"], row["recognised"]) for row in csv.DictReader(file)}
        assert rows == dict(zip(best.origins, zip(best.truth, best.guesses, strict=True), strict=True))


class TestTensorBoard:
    def test_error_rates_are_those_told(self, trained):
        events = read(trained.folder, "validation")
        for name in ("word_error_rate", "character_error_rate", "exact"):
            expected = {6 * epoch: getattr(found, name) for epoch, found in enumerate(trained.told, 1)}
            assert curve(events, f"phrases/{name}") == pytest.approx(expected)
        for part, name, figure in (("validation", "loss", "validation_loss"), ("train", "accuracy", "accuracy")):
            expected = {6 * epoch: figures[figure] for epoch, figures in enumerate(trained.history, 1)}
            assert curve(read(trained.folder, part), f"epochs/{name}") == pytest.approx(expected, rel=1e-6)

    def test_phrases_can_be_read(self, trained):
        texts = shown_text(read(trained.folder, "validation"), "results/phrases")
        assert list(texts) == [60, 120, 180]
        found = trained.told[-1]
        rows = [f"| {said} | {heard} |" for said, heard in zip(found.truth, found.guesses, strict=True)]
        assert texts[180].splitlines() == ["| said | recognised |", "| --- | --- |", *rows]

    def test_augmentation_and_graph_are_drawn(self, trained):
        events = read(trained.folder, "train")
        assert "features/before_and_after_augmentation" in events.Tags()["tensors"]
        assert events.Tags()["graph"]

    def test_what_is_kept(self, trained):
        for split in ("validation", "test"):
            rate = trained.metrics[split]["word_error_rate"]
            events = read(trained.folder, f"kept_{split}")
            assert curve(events, "phrases/word_error_rate") == pytest.approx({0: rate})
            assert curve(read(trained.folder, "kept"), f"final/{split}_word_error_rate") == pytest.approx({0: rate})
            assert len(shown_text(events, "results/phrases")[0].splitlines()) == 2 + 9

    def test_text_that_markdown_would_take_for_more(self, tmp_path):
        writer = tf.summary.create_file_writer(str(tmp_path / "tensorboard" / "x"))
        with writer.as_default(step=0):
            draw_results(Transcripts("characters", ["p"], ["a|b *c*"], ["ä_"]))
        writer.close()
        assert shown_text(read(tmp_path, "x"), "results/phrases")[0].endswith(r"| a\|b \*c\* | ä\_ |")


class TestWorstPhrases:
    def test_they_can_be_heard(self, trained, tmp_path, monkeypatch):
        """After a report with weights that recognise nothing, they are the longest ones."""
        folder = shutil.copytree(trained.folder, tmp_path / "run")
        (folder / "labels.txt").write_text("\nx\ny\nz\n", encoding="utf-8")
        metrics = report_run(folder)
        assert metrics["test"]["exact"] == 0
        source, events = measured_phrases(trained.config, "test"), read(folder, "kept_test")
        tags = sorted(tag for tag in events.Tags()["tensors"] if tag.startswith("worst/"))
        assert [tag[:8] for tag in tags] == ["worst/1:", "worst/2:", "worst/3:"]
        phrases = {origin: (pcm, text) for pcm, text, origin in (source.read(0, number) for number in range(9))}
        for tag in tags:
            pcm, text = phrases[tag.rpartition(": ")[2]]
            assert f": said {text}, recognised " in tag
            samples, rate = soundfile.read(io.BytesIO(events.Tensors(tag)[0].tensor_proto.string_val[0]), dtype="int16")
            assert (rate, len(text.split())) == (RATE, 3)
            np.testing.assert_allclose(samples, pcm, atol=1)


class TestValidator:
    def test_loss_and_transcripts_are_those_of_each_phrase_alone(self, trained):
        """However they are batched, and by another CTC and another decoder than training's."""
        kept = load_run(trained.folder)
        model = kept.recognizer.get_layer("encoder_and_head")
        source = measured_phrases(trained.config, "validation")
        losses, said = [], {}
        for number in range(len(source)):
            pcm, text, origin = source.read(0, number)
            logits = kept.recognizer([pcm[None] / np.float32(32768), np.array([len(pcm)], np.int32)]).numpy()[0]
            rows = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            losses.append(-ctc_log_likelihood(rows, [kept.labels.index(word) for word in text.split()]))
            said[origin] = (text, " ".join(kept.labels[token.index] for token in greedy(rows)))
        for batch_size in (4, 256):
            config = changed(trained.config, "training", validation_batch_size=batch_size)
            validator = PhraseValidator(config, kept.labels, kept.front_end, model)
            loss, found = validator(model.get_weights())
            assert loss == pytest.approx(np.mean(losses), rel=1e-3)
            assert dict(zip(found.origins, zip(found.truth, found.guesses, strict=True), strict=True)) == said

    def test_phrases_shorter_than_a_step(self, phrase_config):
        """Alone in their batch, too."""
        config = changed(changed(phrase_config, "model", subsampling=8), "training", validation_batch_size=1)
        front_end = adapted_front_end(config)

        class Short:
            def __len__(self):
                return 2

            def size(self, epoch, number):
                return number

            def read(self, epoch, number):
                return np.zeros((100, 4000)[number], np.int16), ("", "ja")[number], "x.wav"

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("speech_gru.phrase_training.measured_phrases", lambda *_: Short())
            model = build_model(config.model, 79, front_end.feature_count, 4)
            loss, found = PhraseValidator(config, ("", "ja", "mehr", "nein"), front_end, model)(model.get_weights())
        assert np.isfinite(loss)
        assert found.guesses[0] == ""


@pytest.mark.parametrize("consistency", [0.0, 0.2])
def test_a_stopped_run_ends_as_if_it_had_never_been_stopped(phrase_config, tmp_path, consistency):
    """With one view of each phrase, and with two, of which one is shown."""
    quiet = changed(phrase_config, "tensorboard", image_epochs=0, augmented_clips=1, graph=False)
    quiet = changed(quiet, "training", consistency=consistency)
    history = run(quiet, tmp_path / "whole")
    assert len(history) == 2
    for step, action in ((3, kill), (7, terminate)):
        with pytest.raises((KilledError, Interrupted)):
            run(quiet, tmp_path / "stopped", At(step, action))
        assert not (tmp_path / "stopped" / "model.keras").exists()
    assert run(quiet, tmp_path / "stopped") == history
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")


class TestInitial:
    """The classifier tiny_run has two bidirectional GRUs of 8 units over pairs of frames of 10 features."""

    SAME = {"head": "ctc", "units": 8, "layers": 2, "subsampling": 2}  # noqa: RUF012

    def test_the_encoder_is_the_classifiers_and_the_head_its_own(self, phrase_config, tiny_run, tmp_path, monkeypatch):
        config = changed(changed(phrase_config, "model", **self.SAME), "training", initial=tiny_run)
        learners, build = [], training.build_learner
        monkeypatch.setattr(training, "build_learner", lambda *given: learners.append(build(*given)) or learners[0])
        heads, take = [], training.take_encoder

        def taken(model, folder, front_end):
            heads.append(model.get_layer("head").get_weights())
            take(model, folder, front_end)

        monkeypatch.setattr(training, "take_encoder", taken)

        class Stop(Monitor):
            def before_step(self, step):
                raise KilledError

        with pytest.raises(KilledError):
            run(config, tmp_path / "run", Stop())
        theirs = load_run(tiny_run).recognizer.get_layer("encoder_and_head")
        for name in ("bigru_0", "bigru_1"):
            for one, two in zip(
                learners[0].model.get_layer(name).get_weights(), theirs.get_layer(name).get_weights(), strict=True
            ):
                np.testing.assert_array_equal(one, two)
        for one, two in zip(learners[0].model.get_layer("head").get_weights(), heads[0], strict=True):
            np.testing.assert_array_equal(one, two)

    @pytest.mark.parametrize(
        ("values", "features", "message"),
        [
            ({"units": 6}, 10, r"expected weights of 20x18, .* in the layer bigru_0, but there is weights of 20x24"),
            ({}, 12, r"expected weights of 24x24, .* in the layer bigru_0, but there is weights of 20x24"),
            ({"layers": 3}, 10, r"expected weights of .* in the layer bigru_2, but there is nothing"),
            ({"layers": 1}, 10, r"expected nothing in the layer bigru_1, but there is weights"),
            ({"bidirectional": False}, 10, r"in the layer gru_0, but there is nothing"),
            ({"subsampling": 4}, 5, r"no numbers at every 4 frames in the layer stack_frames, but .* every 2 frames"),
            (
                {"convolution_filters": 20},
                10,
                r"expected weights of .* in the layer convolution_0, but there is nothing",
            ),
            (
                {"stem_filters": (3,), "convolution_filters": 20},
                10,
                r"expected weights of 5x5x1x3 at every 2 frames in the layer convolution_0, but there is nothing",
            ),
        ],
    )
    def test_another_encoder_is_refused(self, tiny_run, values, features, message):
        model = build_model(ModelSettings(**self.SAME | values), 20, features, 4)
        before = model.get_weights()
        with pytest.raises(UserError, match=f"training.initial: .* has another encoder: .*{message}.*; give model and"):
            take_encoder(model, tiny_run)
        for one, two in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(one, two)

    def test_another_front_end_is_refused(self, tiny_run):
        settings = load_run(tiny_run).config.front_end
        other = settings.model_copy(update={"hop_ms": settings.hop_ms + 1})
        with pytest.raises(UserError, match=r"training\.initial: .* has another front end: expected .*hop_ms"):
            take_encoder(build_model(ModelSettings(**self.SAME), 20, 10, 4), tiny_run, other)

    def test_a_folder_without_a_run(self, phrase_config, tmp_path):
        model = build_model(phrase_config.model, 20, 10, 4)
        with pytest.raises(UserError, match="is no finished run"):
            take_encoder(model, tmp_path)
