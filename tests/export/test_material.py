"""What is read of a run before artefacts are made of it."""

import csv
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import yaml

from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from export import material
from export.errors import NotMadeError
from export.front_end import front_end_state
from export.number_format import FORMATS
from export.reference import classify, classify_stream
from export.tflite import operators
from speech_gru.artefact import Artefact


@pytest.fixture
def run(tiny_run):
    from speech_gru.run import load_run

    return load_run(tiny_run)


def test_the_model_and_its_clips(subject, run, tiny_shards):
    from data_pipeline.dataset import evaluation_batches

    clips, features = np.load(subject.material.clips), np.load(subject.material.features)
    batch = next(evaluation_batches(tiny_shards, "test", 4000, 100).as_numpy_iterator())
    np.testing.assert_array_equal(clips, batch["audio"])
    assert [run.labels[index] for index in subject.truth] == [label.decode() for label in batch["label"]]
    expected = run.recognizer(clips, training=False).numpy()
    np.testing.assert_allclose(subject.logits, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(classify(features, subject.material.encoder), expected, rtol=0, atol=1e-4)
    assert subject.facts.correct == (expected.argmax(axis=1) == subject.truth).sum()


def test_facts(subject, run, tiny_run, tiny_shards):
    facts = subject.facts
    assert (facts.run, facts.labels, facts.split) == (tiny_run.name, run.labels, "test")
    with (tiny_shards / "manifest.csv").open(encoding="utf-8") as file:
        rows = [(row["split"], row["label"]) for row in csv.DictReader(file)]
    assert {(split, label): count for split, of in facts.counts.items() for label, count in of.items()} == {
        key: rows.count(key) for key in rows
    }
    assert facts.parameters == run.recognizer.get_layer("encoder_and_head").count_params()
    assert facts.config["model"]["units"] == 8
    assert facts.metrics == {}  # `train` alone doesn't measure


def test_description(subject, run, tiny_run):
    about = subject.material.description
    assert about == material.describe_run(run)
    assert (about.labels, about.sample_rate, about.clip_samples) == (run.labels, 8000, 4000)
    assert about.front_end["coefficients"] == 10
    assert (about.run, about.thresholds, about.kind) == (tiny_run.name, {}, "clip")


def described(run, **export):
    """What a file of the run says with these settings of the section export."""
    changed = run.config.export.model_copy(update=export)
    return material.describe_run(replace(run, config=run.config.model_copy(update={"export": changed})))


def test_thresholds_are_of_words(run):
    assert described(run, threshold=0.6).thresholds == {"tief": 0.6, "mittel": 0.6, "höher": 0.6}


def test_a_word_may_have_a_threshold_of_its_own_or_none(run):
    own = described(run, threshold=0.6, thresholds={"mittel": 0.9, "höher": 0}).thresholds
    assert own == {"tief": 0.6, "mittel": 0.9}
    # Where the others have none a stream falls back on its own default for them.
    assert described(run, thresholds={"tief": 0.7}).thresholds == {"tief": 0.7}
    assert described(run, thresholds={"tief": 0}).thresholds == {}


@pytest.mark.parametrize("stranger", ["laut", "_unknown_"])
def test_a_threshold_of_no_word(run, stranger):
    message = rf"export\.thresholds has '{stranger}', which is none of .*; it knows: tief, mittel, höher\. Leave"
    with pytest.raises(UserError, match=message):
        described(run, thresholds={stranger: 0.5})


@pytest.mark.parametrize("export", [{"threshold": 0.6}, {"thresholds": {"tief": 0.6}}])
def test_a_threshold_without_unknown(run, export):
    message = r"threshold and export\.thresholds make unsure words _unknown_, .* it knows: tief, _silence_\. Pass --set"
    with pytest.raises(UserError, match=message):
        described(replace(run, labels=("tief", "_silence_")), **export)


def test_scores_with_thresholds(subject, run):
    export = run.config.export.model_copy(update={"threshold": 1.0})
    about = material.describe_run(replace(run, config=run.config.model_copy(update={"export": export})))
    right = subject.logits.argmax(axis=1) == subject.truth
    others = [index for index, label in enumerate(run.labels) if label.startswith("_")]
    words_become_unknown = right & np.isin(subject.truth, others) | (subject.truth == run.labels.index("_unknown_"))
    heard = np.isin(subject.logits.argmax(axis=1), others)
    found = material._scores(subject.logits, subject.truth, about)
    assert found["correct"] == right.sum()
    assert found["correct_with_thresholds"] == (right & heard | words_become_unknown & ~heard).sum()
    assert material._scores(subject.logits, subject.truth, subject.material.description) == {
        "correct": right.sum(),
        "clips": len(right),
    }


def test_ranges_are_of_training_clips(subject, run, tiny_shards):
    from data_pipeline.dataset import evaluation_batches

    batch = next(evaluation_batches(tiny_shards, "train", 4000, 1000).as_numpy_iterator())
    features = run.front_end(batch["audio"]).numpy()
    assert len(features) < material.CALIBRATION_CLIPS
    found = subject.material.ranges["features"]
    assert (found.low, found.high) == pytest.approx((features.min(), features.max()), rel=1e-4)


@pytest.mark.parametrize(("count", "expected"), [(2, [[0, 1, 2, 3], [4, 5, 6, 7]]), (9, [list(range(10))])])
def test_joined_clips(count, expected):
    assert material.joined(np.arange(10).reshape(5, 2), count).tolist() == expected


def test_what_streams_are_made_of(tiny_stream_run, tmp_path, monkeypatch):
    """Their states are also those of clips that follow others; so is what they are compared with."""
    from speech_gru.run import load_run

    monkeypatch.setattr(material, "start_on_cpu", lambda: None)
    found = material.gather(tiny_stream_run, None, (), tmp_path)
    content, front_end = found.material, load_run(tiny_stream_run).front_end
    audio = np.load(content.clips)[:8].reshape(-1)
    np.testing.assert_array_equal(content.joined_clips(), audio)
    np.testing.assert_allclose(content.joined_features, front_end(audio[None]).numpy()[0], rtol=0, atol=1e-5)
    expected = classify_stream(content.joined_features[None], content.encoder)[0]
    np.testing.assert_array_equal(found.stream_logits, expected)
    clips, streams = content.ranges_for(FORMATS["int8"]), content.ranges_for(FORMATS["int8"], streams=True)
    assert streams.keys() == clips.keys()
    assert all(streams[name] == streams[name].joined(clips[name]) for name in clips)
    assert any(streams[name].high > clips[name].high for name in clips if name.startswith("gru"))


def test_a_model_that_cannot_stream_has_nothing_for_streams(subject):
    assert subject.stream_logits is None
    with pytest.raises(NotMadeError, match="bidirectional"):
        subject.material.ranges_for(FORMATS["int8"], streams=True)


def test_it_can_be_sent_to_another_process(subject):
    again = pickle.loads(pickle.dumps(subject))
    assert again.facts == subject.facts
    np.testing.assert_array_equal(again.material.encoder.head, subject.material.encoder.head)
    assert again.material.clip_graph == subject.material.clip_graph


def test_shards_without_a_test_split_and_a_run_with_metrics(tiny_run, tiny_shards, tmp_path, monkeypatch):
    shutil.copytree(tiny_run, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").write_text('{"validation": {"accuracy": 0.5}}', encoding="utf-8")
    own = material.gather(tmp_path / "run", None, (), tmp_path).facts.counts
    monkeypatch.setattr(material, "start_on_cpu", lambda: None)
    shards = tmp_path / "shards"
    shutil.copytree(tiny_shards, shards, ignore=shutil.ignore_patterns("test-*"))
    with (shards / "manifest.csv").open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    with (shards / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *(row for row in rows if row[head.index("split")] != "test")])
    subject = material.gather(tmp_path / "run", shards, (), tmp_path)
    assert subject.facts.metrics == {"validation": {"accuracy": 0.5}}
    assert subject.facts.split == "validation"
    assert len(subject.logits) == subject.facts.clips == 27
    assert subject.facts.shards == "shards"
    assert subject.facts.counts == own, "the card tells of the clips that the run was trained with"
    assert sum(own["test"].values()) == 27


@pytest.fixture
def moved(tiny_run, tiny_shards, tmp_path, monkeypatch):
    """A run whose own clips are copies, in own/, that a test may change; other/ has them as they were."""
    monkeypatch.setattr(material, "start_on_cpu", lambda: None)
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    for name in ("own", "other"):
        shutil.copytree(tiny_shards, tmp_path / name)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config["corpus"]["shards"] = str(tmp_path / "own")
    (folder / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return folder


def test_ranges_are_of_the_runs_own_clips_whatever_the_proof_is_on(moved, tmp_path, subject):
    (tmp_path / "other" / "manifest.csv").rename(tmp_path / "manifest.csv")
    with pytest.raises(UserError, match="other holds no prepared clips"):
        material.gather(moved, tmp_path / "other", (), tmp_path)
    (tmp_path / "manifest.csv").rename(tmp_path / "other" / "manifest.csv")
    for file in (tmp_path / "other").glob("train-*"):
        file.unlink()  # whoever looked for them there would find none
    found = material.gather(moved, tmp_path / "other", (), tmp_path)
    assert found.material.ranges == subject.material.ranges
    assert (found.facts.shards, found.facts.counts) == ("other", subject.facts.counts)
    assert (subject.facts.shards, subject.facts.clips, subject.facts.noise) == ("", 27, True)


def test_the_runs_own_clips_are_gone(moved, tmp_path):
    shutil.rmtree(tmp_path / "own")
    with pytest.raises(UserError, match="own holds no prepared clips"):
        material.gather(moved, None, (), tmp_path)
    found = material.gather(moved, tmp_path / "other", (), tmp_path)
    assert (found.facts.counts, found.facts.noise, found.facts.clips) == ({}, None, 27)
    assert found.material.ranges_for(FORMATS["dynamic_range"]) == {}
    for name in ("int8", "int16x8"):
        with pytest.raises(NotMadeError) as caught:
            found.material.ranges_for(FORMATS[name])
        assert f"gone: expected them in {tmp_path / 'own'}; run `speech-gru prepare {moved / 'config.yaml'}`" in str(
            caught.value
        )


def test_clips_of_a_label_that_the_run_lacks(moved, tmp_path):
    labels = (moved / "labels.txt").read_text(encoding="utf-8")
    (moved / "labels.txt").write_text(labels.replace("tief", "hoch"), encoding="utf-8")
    with pytest.raises(UserError, match="the recogniser has no label tief; it knows: "):
        material.gather(moved, None, (), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        *('{"test": {', "[1]", '{"test": 1}', '{"test": {"labels": 1}}', '{"test": {"labels": {"ja": {}}}}'),
        '{"test": {"labels": {"ja": {"precision": "high", "recall": 1, "f1": 1, "clips": 1}}}}',
    ],
)
def test_damaged_metrics(tmp_path, content):
    (tmp_path / "metrics.json").write_text(content, encoding="utf-8")
    message = r"metrics\.json is damaged \(.*\): expected figures by split.* delete it, or run"
    with pytest.raises(UserError, match=message):
        material._read_metrics(tmp_path / "metrics.json")


def test_gpus_are_hidden_before_the_model_is_built(tiny_run, tmp_path, monkeypatch):
    """With one in sight, Keras puts cuDNN's GRU into the graph, which runs on no other device."""
    calls = []

    def load(folder):
        calls.append("load")
        raise UserError("enough")

    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr("speech_gru.run.load_run", load)
    with pytest.raises(UserError, match="enough"):
        material.gather(tiny_run, None, (), tmp_path)
    assert calls == [([], "GPU"), "load"]


def stream_of(random_case, bidirectional: bool = False, pooling: str = "attention", **settings):
    layer = FrontEnd(sample_rate=8000, **({"window_ms": 16, "hop_ms": 8, "mel_bins": 8, "coefficients": 5} | settings))
    encoder = random_case(bidirectional=bidirectional, pooling=pooling, subsampling=3).encoder
    about = Artefact(("a", "b", "c", "d"), 8000, 896)
    return material._stream(layer, front_end_state(layer), encoder, about)


@pytest.mark.parametrize(("pooling", "warmup"), [("attention", 4), ("mean", 4), ("last", 0)])
def test_a_stream(random_case, pooling, warmup):
    stream = stream_of(random_case, pooling=pooling)
    about = stream.description
    assert (about.kind, about.overlap_samples, about.chunk_samples, about.warmup_chunks) == ("stream", 64, 192, warmup)
    assert operators(stream.graph)["RFFT2D"] == 1


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"bidirectional": True}, r"bidirectional .* train with model\.bidirectional=false"),
        ({"deltas": 1}, r"train with front_end\.deltas=0"),
        ({"hop_ms": 16}, r"frames do not overlap; .* front_end\.hop_ms shorter than the frame"),
        ({"hop_ms": 20}, r"frames do not overlap; .* front_end\.hop_ms shorter than the frame"),
    ],
)
def test_a_model_that_cannot_stream(random_case, subject, settings, reason):
    without = replace(subject.material, stream=stream_of(random_case, **settings))
    with pytest.raises(NotMadeError, match=reason):
        without.require_stream()


def test_frames_that_overlap_by_little(random_case):
    assert stream_of(random_case, hop_ms=15.875).description.overlap_samples == 1
