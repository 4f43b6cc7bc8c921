"""Distillation: what teachers say of a batch, who can be one, and that a student learns from them."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from data_pipeline.dataset import evaluation_batches
from data_pipeline.errors import UserError
from speech_gru.config import Config, dump_config, load_config
from speech_gru.objective import ClassificationObjective, DistillationObjective, build_objective
from speech_gru.run import load_run
from speech_gru.teachers import Teachers, teachers_digest
from speech_gru.training import adapted_front_end, plan_training
from trainings import At, KilledError, assert_same_weights, changed, kill, run


@pytest.fixture(scope="module")
def student_config(light_config, tiny_run) -> Config:
    """tiny_run teaches the light experiment."""
    return changed(light_config, "training", teachers=[tiny_run])


@pytest.fixture(scope="module")
def labels(tiny_run) -> tuple[str, ...]:
    return load_run(tiny_run).labels


@pytest.fixture(scope="module")
def front_end(tiny_config):
    return adapted_front_end(tiny_config)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_they_say_the_mean_of_their_probabilities(tiny_run, tiny_stream_run, tiny_config, labels, front_end):
    config = changed(tiny_config, "training", teachers=[tiny_run, tiny_stream_run])
    frames = front_end.frame_count(config.corpus.clip_samples)
    features = np.random.default_rng(0).normal(size=(3, frames, front_end.feature_count)).astype(np.float32)
    expected = np.mean(
        [
            softmax(load_run(folder).recognizer.get_layer("encoder_and_head").predict(features, verbose=0))
            for folder in (tiny_run, tiny_stream_run)
        ],
        axis=0,
    )
    teachers = Teachers(config, labels, front_end)
    np.testing.assert_allclose(teachers(features), expected, atol=1e-6)
    in_stream = np.pad(features, ((0, 0), (0, 20 - frames), (0, 0))).reshape(1, 3 * 20, -1)
    np.testing.assert_allclose(teachers(in_stream), expected, atol=1e-6)


def test_the_loss_is_shared_between_label_and_teachers():
    rng = np.random.default_rng(1)
    logits, said = rng.normal(size=(4, 3)).astype(np.float32), softmax(rng.normal(size=(4, 3))).astype(np.float32)
    labels, weights = np.eye(3, dtype=np.float32)[[0, 2, 1, 1]], np.float32([1, 2, 0, 1])
    log_probs = np.log(softmax(logits))
    hard, soft = -((0.9 * labels + 0.1 / 3) * log_probs).sum(axis=1), -(said * log_probs).sum(axis=1)
    objective = DistillationObjective(0.1, lambda features: tf.constant(said), 0.25)
    losses, correct = objective(lambda features, training: tf.constant(logits), None, labels, weights)
    np.testing.assert_allclose(losses, (0.75 * hard + 0.25 * soft) * weights, rtol=1e-5)
    np.testing.assert_array_equal(correct, logits.argmax(axis=1) == labels.argmax(axis=1))


def test_the_objective_distils_if_there_are_teachers(student_config):
    assert type(build_objective(student_config)) is ClassificationObjective
    objective = build_objective(student_config, lambda features: None)
    assert isinstance(objective, DistillationObjective)
    assert objective.share == student_config.training.distillation


def test_a_student_learns_what_its_teacher_says_and_the_teacher_nothing(student_config, tiny_run, labels, tmp_path):
    """Labels count for nothing here, and the teacher calls each thing by the next one's name."""
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_run, teacher)
    recognizer = load_run(tiny_run).recognizer
    head = recognizer.get_layer("encoder_and_head").get_layer("head")
    head.set_weights([np.roll(weight, 1, axis=-1) for weight in head.get_weights()])
    recognizer.save(teacher / "model.keras")
    before = (teacher / "model.keras").read_bytes()
    config = changed(student_config, "training", epochs=12, learning_rate=0.05, distillation=1, teachers=[teacher])
    figures = run(config, tmp_path / "run")
    assert figures[-1]["validation_accuracy"] < 0.2
    student, config = load_run(tmp_path / "run"), student_config.corpus
    right, count = 0, 0
    for batch in evaluation_batches(config.shards, "test", config.clip_samples, 32):
        said = student.recognizer(batch["audio"]).numpy().argmax(axis=1)
        truth = [labels.index(label.decode()) for label in batch["label"].numpy()]
        right, count = right + ((said - truth) % len(labels) == 1).sum(), count + len(truth)
    assert right / count > 0.8
    assert (teacher / "model.keras").read_bytes() == before


def test_a_stopped_run_ends_as_if_it_had_never_been_stopped(student_config, tmp_path):
    history = run(student_config, tmp_path / "whole")
    for at in (4, 9):
        with pytest.raises(KilledError):
            run(student_config, tmp_path / "stopped", At(at, kill))
    assert run(student_config, tmp_path / "stopped") == history
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")


def test_a_run_does_not_go_on_with_a_teacher_that_has_changed(student_config, tiny_run, tiny_stream_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "teacher")
    config = changed(student_config, "training", teachers=[tmp_path / "teacher"])
    with pytest.raises(KilledError):
        run(config, tmp_path / "run", At(4, kill))
    model = load_run(tiny_run).recognizer
    weights = model.get_weights()
    model.set_weights([*weights[:-1], weights[-1] + 1])
    model.save(tmp_path / "teacher" / "model.keras")
    assert teachers_digest([tmp_path / "teacher"]) != teachers_digest([tiny_run])
    with pytest.raises(UserError, match=r"the run began with other data or precision, .*teachers: "):
        run(config, tmp_path / "run")


class TestRefused:
    def refused(self, config, labels, front_end, match):
        with pytest.raises(UserError, match=match):
            Teachers(config, labels, front_end)

    def test_no_finished_run(self, student_config, labels, front_end, tmp_path):
        config = changed(student_config, "training", teachers=[tmp_path])
        self.refused(config, labels, front_end, "is no finished run")
        for setting in ({"teachers": [tmp_path]}, {"teachers": (), "initial": tmp_path}):
            config = changed(student_config, "training", **setting)
            with pytest.raises(UserError, match=r"training\.initial, teachers: .* is no finished run; train it first"):
                plan_training(config)

    def test_other_labels(self, student_config, labels, front_end):
        self.refused(
            student_config, [*labels[:-1], "neu"], front_end, r"differs in labels: expected .*neu, but there it is "
        )

    @pytest.mark.parametrize(
        ("section", "values", "named"),
        [
            ("front_end", {"hop_ms": 20}, "front_end: expected .*hop_ms=20"),
            ("corpus", {"clip_seconds": 0.6}, r"corpus.clip_seconds: expected 0\.6, but there it is 0\.5"),
            ("corpus", {"sample_rate": 16000}, "corpus.sample_rate: expected 16000, but there it is 8000"),
        ],
    )
    def test_other_features(self, student_config, labels, front_end, section, values, named):
        self.refused(changed(student_config, section, **values), labels, front_end, f"differs in {named}")

    def test_a_recogniser_of_phrases(self, student_config, labels, front_end, tiny_run, monkeypatch):
        other = load_run(tiny_run)
        phrases = other.config.model_copy(update={"model": other.config.model.model_copy(update={"head": "ctc"})})
        monkeypatch.setattr(
            "speech_gru.teachers.load_run", lambda folder: type(other)(**vars(other) | {"config": phrases})
        )
        self.refused(
            student_config, labels, front_end, "differs in model.head: expected classification, but there it is ctc"
        )

    def test_features_of_another_corpus(self, student_config, labels, tiny_config):
        other = adapted_front_end(tiny_config)
        other.normalization.adapt_mean.assign(other.normalization.adapt_mean + 1)
        self.refused(student_config, labels, other, "were normalised with another corpus; train the teacher on")


def test_the_config_reads_them_back(student_config, tmp_path):
    (tmp_path / "config.yaml").write_text(dump_config(student_config), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml").training.teachers == student_config.training.teachers
