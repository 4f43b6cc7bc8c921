"""What passes and what doesn't, and the report of it."""

import json
from dataclasses import fields, replace
from types import SimpleNamespace

import numpy as np
import pytest

from export.material import Subject
from export.proof import Proof, judge, report
from export.verify import Reading
from speech_gru.artefact import Artefact

CLIPS = 200


@pytest.fixture
def subject_of(make_facts):
    """A function of a number of clips -> a Subject whose model gets all but ten right."""

    def make(clips: int = CLIPS, **config) -> Subject:
        truth = np.arange(clips) % 3
        decisions = np.where(np.arange(clips) < 10, (truth + 1) % 3, truth)
        facts = make_facts({"export": config}, correct=clips - 10)
        material = SimpleNamespace(description=Artefact(facts.labels, 16000, 16000))
        return Subject(material, facts, 4 * np.eye(3, dtype=np.float32)[decisions], truth, None)

    return make


def reading(logits: np.ndarray) -> Reading:
    return Reading(logits, 1.25, "clip", {"TANH": 3})


def with_lost(subject: Subject, lost: int) -> np.ndarray:
    """The model's logits, but for so many more clips that are wrong."""
    logits = subject.logits.copy()
    logits[10 : 10 + lost] = np.roll(logits[10 : 10 + lost], 1, axis=1)
    return logits


def test_the_figures(subject_of):
    subject = subject_of()
    proof = judge("int8", "model_int8.tflite", reading(with_lost(subject, 1)), subject, "int8")
    assert (proof.artefact, proof.file, proof.stream) == ("int8", "model_int8.tflite", None)
    assert (proof.clips, proof.equal_decisions, proof.correct) == (200, 199, 189)
    assert proof.accuracy == 189 / 200
    assert proof.largest_difference == 4
    assert (proof.latency_ms, proof.latency_of, proof.operators) == (1.25, "clip", {"TANH": 3})
    p, z = 189 / 200, 1.959964
    centre = (p + z * z / 400) / (1 + z * z / 200)
    width = z / (1 + z * z / 200) * np.sqrt(p * (1 - p) / 200 + z * z / 160000)
    np.testing.assert_allclose(proof.accuracy_interval, (centre - width, centre + width), atol=1e-6)


@pytest.mark.parametrize(("difference", "status"), [(0.0009, "proven"), (-0.0009, "proven"), (0.002, "failed")])
@pytest.mark.parametrize("at", [0, 199])
def test_float32_is_judged_by_its_logits(subject_of, difference, status, at):
    subject = subject_of()
    logits = subject.logits.copy()
    logits[at, 1] += difference
    proof = judge("float32", "model.tflite", reading(logits), subject, "float32")
    assert proof.status == status
    assert proof.largest_difference == pytest.approx(abs(difference), rel=1e-3)
    assert ("differ by up to 0.002 (export.logits_tolerance is 0.001)" in proof.reason) == (status == "failed")


def test_the_tolerance_is_the_configs(subject_of):
    subject = subject_of(logits_tolerance=0.01)
    assert judge("float32", "f", reading(subject.logits + 0.005), subject, "float32").status == "proven"


def test_float32_may_not_lose_what_other_formats_may(subject_of):
    subject = subject_of()
    assert judge("float32", "f", reading(with_lost(subject, 1)), subject, "float32").status == "failed"


@pytest.mark.parametrize(
    ("clips", "number_format", "lost", "status"),
    [
        (200, "int8", 1, "proven"),  # 0.5 points of 0.3, but one clip is always allowed
        (200, "int8", 2, "failed"),
        (1000, "int8", 3, "proven"),
        (1000, "int8", 4, "failed"),
        (1000, "dynamic_range", 3, "proven"),
        (1000, "float16", 1, "proven"),
        (1000, "float16", 2, "failed"),
        (3000, "int16x8", 3, "proven"),
        (3000, "int16x8", 4, "failed"),
    ],
)
def test_smaller_formats_are_judged_by_their_accuracy(subject_of, clips, number_format, lost, status):
    subject = subject_of(clips)
    proof = judge("any", "any", reading(with_lost(subject, lost)), subject, number_format)
    assert proof.status == status
    assert (f"it gets {lost} fewer of {clips} clips right than its model" in proof.reason) == (status == "failed")
    assert (f"export.accuracy_loss.{number_format}" in proof.reason) == (status == "failed")


def test_what_is_better_than_its_model_passes(subject_of):
    subject = subject_of()
    logits = subject.logits.copy()
    logits[:3] = 4 * np.eye(3, dtype=np.float32)[subject.truth[:3]]
    proof = judge("int8", "f", reading(logits), subject, "int8")
    assert (proof.status, proof.correct, proof.equal_decisions) == ("proven", 193, 197)


@pytest.mark.parametrize(("others", "status"), [(15, "proven"), (16, "failed")])
def test_what_decides_otherwise_too_often_fails_however_many_it_gets_right(subject_of, others, status):
    """It gets as many right as its model, but not the same ones."""
    subject = subject_of(500, accuracy_loss={"int8": 0.3})
    logits = subject.logits.copy()
    logits[: others // 2] = 4 * np.eye(3, dtype=np.float32)[subject.truth[: others // 2]]
    for clip in range(20, 20 + others - others // 2):
        logits[clip] = np.roll(logits[clip], 1)
    proof = judge("int8", "f", reading(logits), subject, "int8")
    assert subject.facts.correct - proof.correct <= 1
    assert (proof.status, proof.equal_decisions) == (status, 500 - others)
    expected = f"it decides {others} of 500 clips otherwise than its model; 10 times export.accuracy_loss.int8 allow 15"
    assert proof.reason == (expected if status == "failed" else "")


def in_a_stream(subject: Subject, stream: np.ndarray, expected: np.ndarray, number_format: str) -> Proof:
    """The proof of what says the model's logits of each clip, and these of a stream."""
    said = replace(reading(subject.logits), stream_logits=stream)
    return judge("any", "any", said, replace(subject, stream_logits=expected), number_format)


@pytest.mark.parametrize(
    ("number_format", "wrong", "difference", "status"),
    [
        ("float32", 0, 0.0009, "proven"),
        ("float32", 0, 0.002, "failed"),
        ("int8", 15, 0, "proven"),
        ("int8", 16, 0, "failed"),
        ("int8", 0, np.nan, "failed"),
    ],
)
def test_a_stream_that_goes_on(subject_of, number_format, wrong, difference, status):
    expected = 4 * np.eye(3, dtype=np.float32)[np.arange(300) % 3]
    found = expected.copy()
    found[50 : 50 + wrong] = np.roll(found[50 : 50 + wrong], 1, axis=1)
    found[299, 0] += np.float32(difference)
    proof = in_a_stream(subject_of(), found, expected, number_format)
    assert (proof.status, proof.equal_decisions) == (status, 200)
    if np.isnan(difference):
        assert proof.stream["largest_difference"] is None
    else:
        assert proof.stream["largest_difference"] == pytest.approx(4 if wrong else difference, rel=1e-3)
        assert (proof.stream["steps"], proof.stream["equal_decisions"]) == (300, 300 - wrong)
    if wrong == 16:
        assert proof.reason.startswith("it decides 16 of 300 steps of a stream over several clips otherwise")
        assert proof.reason.endswith("5 % allow 15")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("number_format", ["float32", "int8"])
def test_logits_that_are_not_finite(subject_of, value, number_format):
    subject = subject_of(logits_tolerance=1e30)
    logits = subject.logits.copy()
    logits[5, 2] = value
    proof = judge("any", "any", reading(logits), subject, number_format)
    assert (proof.status, proof.reason) == ("failed", "its logits aren't finite")


def test_a_files_thresholds(subject_of):
    """`Recognizer` reports an unsure word as unknown: some wrong ones become right by that, some right ones wrong."""
    subject = subject_of()
    facts = replace(subject.facts, thresholds={"ja": 0.9, "nein": 0.9})
    subject = replace(subject, facts=facts)
    logits = subject.logits.copy()
    logits[30:40] *= 0.5  # two thirds sure
    decisions = logits.argmax(axis=1)
    decisions[30:40] = 2
    expected = int((decisions == subject.truth).sum())
    proof = judge("int8", "model_int8.tflite", reading(logits), subject, "int8")
    assert (proof.correct, proof.correct_with_thresholds) == (190, expected)
    assert expected < 190
    assert proof.accuracy_with_thresholds == expected / 200
    low, high = proof.interval_with_thresholds
    assert low < expected / 200 < high


@pytest.mark.parametrize("file", ["saved_model", "model.onnx", "micro"])
def test_files_that_have_no_thresholds(subject_of, file):
    subject = subject_of()
    subject = replace(subject, facts=replace(subject.facts, thresholds={"ja": 0.9}))
    assert judge("any", file, reading(subject.logits), subject, "int8").correct_with_thresholds is None


@pytest.fixture
def phrase_subject(make_facts) -> Subject:
    """Ten phrases "a b" in four steps: the model hears the first one as "a a", the second as "a"."""
    sizes = {"frame_samples": 400, "hop_samples": 160, "step_samples": 160}
    about = Artefact(("", "a", "b"), 16000, 16000, head="ctc", tokens="words", **sizes)
    heard = np.array([[1, 0, 1, 0], [1, 0, 0, 0], *[[1, 0, 2, 0]] * 8])
    facts = make_facts(clips=20, correct=18)
    return Subject(SimpleNamespace(description=about), facts, log_probs_of(heard), np.array(["a b"] * 10), None)


def log_probs_of(heard: np.ndarray) -> np.ndarray:
    """(phrases, steps) of tokens -> log-probabilities."""
    logits = 4 * np.eye(3, dtype=np.float32)[heard]
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def test_phrases_are_judged_by_their_words(phrase_subject):
    proof = judge("int8", "model_int8.tflite", reading(phrase_subject.logits), phrase_subject, "int8")
    assert (proof.status, proof.clips, proof.correct, proof.accuracy) == ("proven", 20, 18, 0.9)
    assert (proof.equal_decisions, proof.decisions) == (19, 19), "the model hears one word less than was said"
    assert (proof.largest_difference, proof.correct_with_thresholds) == (0, None)


@pytest.mark.parametrize(("others", "status"), [(1, "proven"), (2, "failed")])
def test_phrases_heard_otherwise(phrase_subject, others, status):
    """Of a few words, one may differ, whatever the points allow. Here each phrase has one more, which nobody said."""
    logits = phrase_subject.logits.copy()
    logits[2 : 2 + others, 3] = log_probs_of(np.array([[1]]))[0, 0]
    proof = judge("int8", "f", reading(logits), phrase_subject, "int8")
    assert (proof.status, proof.equal_decisions, proof.correct) == (status, 19 - others, 18 - others)
    expected = f"it decides {others} of 19 words otherwise than its model; 10 times export.accuracy_loss.int8 allow 1"
    assert proof.reason == (expected if status == "failed" else "")


def test_the_report(subject_of):
    subject = subject_of()
    proofs = [
        judge("float32", "model.tflite", reading(subject.logits), subject, "float32"),
        judge("int8", "model_int8.tflite", reading(with_lost(subject, 9)), subject, "int8"),
        Proof("onnx", "model.onnx", "not made", "tf2onnx isn't installed"),
    ]
    found = json.loads(json.dumps(report(subject.facts, proofs), allow_nan=False))
    assert found["model"] == {"parameters": 123456, "multiply_adds": 7654321, "correct": 190}
    assert (found["run"], found["split"], found["shards"], found["clips"]) == ("mine", "test", "", 200)
    assert [item["status"] for item in found["artefacts"]] == ["proven", "failed", "not made"]
    assert found["artefacts"][2]["reason"] == "tf2onnx isn't installed"
    assert all(item.keys() == {field.name for field in fields(Proof)} for item in found["artefacts"])
    assert found["artefacts"][0]["operators"] == {"TANH": 3}
    assert found["weights"] == "abc"
