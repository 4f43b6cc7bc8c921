import hashlib
import json
import os
import re
from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import audio
from data_pipeline.errors import UserError
from data_pipeline.settings import FrontEndSettings
from export.flatbuffer import Graph, ModelWriter
from speech_gru import artefact
from speech_gru.artefact import (
    FORMAT,
    Artefact,
    describe,
    front_end_digest,
    inspect_file,
    is_model,
    read_description,
    sign,
)

WORDS = Artefact(
    labels=("ja", "höher", "日本", "_unknown_"),
    sample_rate=16000,
    clip_samples=37,
    kind="stream",
    number_format="int16x8",
    chunk_samples=20,
    overlap_samples=17,
    warmup_chunks=5,
    thresholds={"ja": 0.5, "höher": 1},
    front_end={"kind": "mfcc", "mel_bins": 40, "high_hz": None},
    front_end_sha256="ab" * 32,
    run="erster Versuch",
    version="0.1.0",
)


def softmax(graph: Graph) -> None:
    audio = graph.input("audio", (1, 37))
    graph.output("probabilities", graph.apply("SOFTMAX", [audio], (1, 37), beta=1.0))


@pytest.fixture(scope="module")
def foreign() -> bytes:
    """A TFLite model that another program made: a softmax of 37 values."""
    writer = ModelWriter()
    softmax(writer.main)
    return writer.finish({"min_runtime_version": b"1.5.0"})


@pytest.fixture(scope="module")
def written(lite_model):
    """A function (description) -> that model with the description inside."""
    return lambda description: lite_model(description, softmax)


@pytest.fixture(scope="module")
def model(written) -> bytes:
    return written(WORDS)


def sealed(description: str, number: int = FORMAT) -> bytes:
    """Something with a description and a digest that fits, as only somebody who means to deceive would make it."""
    content = b'\x1c\0\0\0TFL3{"speech_gru": %d, "sha256": "%s", %s\n' % (number, b"0" * 64, description.encode())
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode())


def refusal(content: bytes) -> str:
    with pytest.raises(UserError) as caught:
        read_description(content, "some.tflite")
    message = str(caught.value)
    assert message.startswith("some.tflite: ")
    return message


def test_round_trip(model, tmp_path):
    assert read_description(model, "model") == WORDS
    (tmp_path / "wörter.tflite").write_bytes(model)
    assert inspect_file(tmp_path / "wörter.tflite") == inspect_file(str(tmp_path / "wörter.tflite")) == WORDS


def test_file_that_cant_be_read(tmp_path):
    with pytest.raises(UserError, match=r"none\.tflite: can't be read: No such file or directory; expected a \.tflite"):
        inspect_file(tmp_path / "none.tflite")
    with pytest.raises(UserError, match="can't be read: Is a directory"):
        inspect_file(tmp_path)


def test_which_files_are_models(model, tmp_path):
    files = {"model.bin": model, "cut": model[:8], "a.tflite": b"", "text.wav": b"RIFF", "empty": b"", "TFL3": b"TFL3"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert [name for name in files if is_model(tmp_path / name)] == ["model.bin", "cut", "a.tflite"]
    os.mkfifo(tmp_path / "pipe")
    assert [is_model(tmp_path / name) for name in ("none", "none.tflite", "", "pipe")] == [False, True, False, False]
    assert [is_model(name) for name in ("-", "x" * 5000)] == [False, False]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
LABELS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=8)


@given(
    labels=st.lists(LABELS, min_size=1, max_size=4, unique=True),
    run=TEXT,
    kind=st.sampled_from(artefact.KINDS),
    thresholds=st.dictionaries(TEXT, st.floats(0, 1)),
)
@settings(max_examples=30, deadline=None)
def test_round_trip_of_any_text(written, labels, run, kind, thresholds):
    description = Artefact(
        labels=tuple(labels),
        sample_rate=8000,
        clip_samples=1,
        kind=kind,
        chunk_samples=1,
        thresholds=thresholds,
        run=run,
    )
    assert read_description(written(description), "model") == description


@pytest.mark.parametrize("label", [f'{{"speech_gru": {FORMAT}, "sha256": "{"0" * 64}", ', '{"speech_gru": 1, "sha256"'])
def test_label_that_looks_like_a_description(written, label):
    description = Artefact(labels=(label, "0" * 64), sample_rate=8000, clip_samples=1)
    assert read_description(written(description), "model") == description


def test_it_lies_in_the_flatbuffers_metadata(model):
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    (entry,) = [entry for entry in tree.metadata if entry.name == b"speech_gru"]
    values = json.loads(tree.buffers[entry.buffer].data.tobytes())
    assert values["labels"] == list(WORDS.labels)
    assert values["front_end"] == WORDS.front_end


def test_digest_covers_the_whole_file(model):
    """As anybody can check it: SHA-256 of the file with zeros in the digest's place."""
    digest = re.search(rb'"sha256": "([0-9a-f]{64})"', model)[1]
    assert hashlib.sha256(model.replace(digest, b"0" * 64)).hexdigest() == digest.decode()


def test_any_truncation(model):
    for length in range(len(model)):
        assert re.search("not a TFLite file|cut off", refusal(model[:length]))


def test_any_changed_byte(model):
    for position in range(len(model)):
        changed = bytearray(model)
        changed[position] ^= 1 + position % 255
        assert re.search("not a TFLite file|changed or cut off|without speech_gru's", refusal(bytes(changed)))


def test_anything_appended(model):
    assert "changed" in refusal(model + b"\0")


def test_another_programs_file(foreign):
    assert "of another program" in refusal(foreign)


@given(st.binary(max_size=200))
def test_random_bytes(content):
    assert "not a TFLite file" in refusal(content[:4] + b"TFL2" + content)
    assert "of another program" in refusal(content[:4].ljust(4) + b"TFL3" + content)


def test_later_format(written, monkeypatch):
    monkeypatch.setattr(artefact, "FORMAT", FORMAT + 1)
    later = written(WORDS)
    monkeypatch.undo()
    assert f"format {FORMAT + 1}, of a later speech_gru; this one reads {FORMAT}: update it" in refusal(later)
    assert "changed" in refusal(later + b"\0")


def test_earlier_format():
    content = sealed('"labels": ["a"], "sample_rate": 8000, "clip_samples": 10, "head": "classification"}', number=1)
    found = read_description(content, "model")
    assert found == Artefact(labels=("a",), sample_rate=8000, clip_samples=10)
    assert (found.kind, found.thresholds) == ("clip", {})


def test_unknown_information_is_passed_over():
    content = sealed('"labels": ["a"], "sample_rate": 8000, "clip_samples": 10, "weather": "fine"}')
    assert read_description(content, "model") == Artefact(labels=("a",), sample_rate=8000, clip_samples=10)


@pytest.mark.parametrize(
    "description",
    [
        '"sample_rate": 8000, "clip_samples": 10}',
        '"labels": [], "sample_rate": 8000, "clip_samples": 10}',
        '"labels": "ab", "sample_rate": 8000, "clip_samples": 10}',
        '"labels": [1, 2], "sample_rate": 8000, "clip_samples": 10}',
        '"labels": ["a"], "clip_samples": 10}',
        '"labels": ["a"], "sample_rate": true, "clip_samples": 10}',
        '"labels": ["a"], "sample_rate": 8000, "clip_samples": -1}',
        '"labels": ["a"], "sample_rate": 8000, "clip_samples": 1e999}',
        '"labels": ["a"], "sample_rate": 8000, "clip_samples": ' + "9" * 10_000 + "}",
        '"labels": ' + "[" * 200_000 + "}",
        '"labels": ' + '{"a":' * 200_000 + "}",
        '"labels": ["a"], "sample_rate": 8000',
        '"labels": ["\\ud800\xff',
        "",
    ],
)
def test_deceitful_description(description):
    assert "its description is wrong" in refusal(sealed(description))


FIELDS = json.loads(describe(WORDS))
"""A right description, with the beginning's two values."""


def body(**changed) -> str:
    """The line of WORDS after its beginning, with some values changed."""
    values = {key: value for key, value in FIELDS.items() if key not in ("speech_gru", "sha256")}
    return json.dumps(values | changed, ensure_ascii=False)[1:]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("labels", [None, 3, "ja", [], ["ja", 3], [["ja"]], {"ja": 1}]),
        ("sample_rate", [None, "8000", 8000.0, True, 0, -1, [8000]]),
        ("clip_samples", [None, "37", 37.0, True, 0, -1, [37]]),
        ("chunk_samples", [None, "20", 20.0, True, -1, [20]]),
        ("overlap_samples", [None, "17", 17.0, True, -1, [17]]),
        ("warmup_chunks", [None, "5", 5.0, True, -1, [5]]),
        ("kind", [None, 3, "", "clips", ["clip"], {}]),
        ("thresholds", [None, 0.5, [0.5], {"ja": None}, {"ja": "0.5"}, {"ja": True}, {"ja": -0.1}, {"ja": 1.1}]),
        ("thresholds", [{"ja": float("nan")}, {"ja": float("inf")}, {"ja": [0.5]}]),
        ("front_end", [None, 3, "mfcc", ["mfcc"]]),
        ("front_end_sha256", [None, 3, ["ab"], {}]),
        ("number_format", [None, 3, ["int8"], {}]),
        ("head", [None, 3, [1], {}, "", "CTC"]),
        ("frame_samples", [None, "20", 20.0, True, -1, [20]]),
        ("hop_samples", [None, "20", 20.0, True, -1, [20]]),
        ("step_samples", [None, "20", 20.0, True, -1, [20]]),
        ("tokens", [None, 3, [1], {}]),
        ("decoding", [None, 3, [1], {}]),
        ("words", [None, 3, "ja", ["ja", 3], [["ja"]], {"ja": 1}, ["ja", "ja"], ["ja\n"]]),
        ("run", [None, 3, [1], {}]),
        ("version", [None, 3, [1], {}]),
    ],
)
def test_wrong_type_of_each_field(field, values):
    assert field in FIELDS
    assert read_description(sealed(body()), "model") == WORDS
    for value in values:
        message = refusal(sealed(body(**{field: value})))
        assert f"its description is wrong ({field}: expected " in message, value
        assert message.endswith("; export it again")
        assert len(message) < 300


@pytest.mark.parametrize(
    "label", ["ja\n", "\x1b[31mja", "\0", "j\ta", "\x7f", "ja\x85", "ja\x9b31m", "ja\u2028nein", "ja\u2029", "\ud800"]
)
def test_labels_without_control_characters(label):
    """A terminal would obey them; and lists of labels have a line for each."""
    message = refusal(sealed(json.dumps(json.loads("{" + body()) | {"labels": ["nein", label]})[1:]))
    reason = f"labels: expected words without control characters, got {label!a}"
    assert f"its description is wrong ({reason}); export it again" in message
    assert message.isprintable()


@pytest.mark.parametrize("label", ["می\u200cخواهم", "क्\u200dष", "\u200fא", "ja nein", ""])
def test_labels_of_any_script(label):
    assert read_description(sealed(body(labels=["ja", label])), "model").labels == ("ja", label)


def test_labels_differ():
    message = refusal(sealed(body(labels=["ja", "nein", "doch", "nein", "nein"])))
    assert "its description is wrong (labels: expected words that differ, got 'nein' 3 times); export it" in message
    assert "got 'nein' 2 times" in refusal(sealed(body(labels=["nein", "nein"])))


@pytest.mark.parametrize("chunk", [{}, {"chunk_samples": 0}])
def test_a_stream_has_chunks(chunk):
    values = {"labels": ["a"], "sample_rate": 8000, "clip_samples": 10, "kind": "stream", **chunk}
    assert "expected clip, stream, step, a stream with chunk_samples" in refusal(sealed(json.dumps(values)[1:]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


class TestCtc:
    clip: ClassVar = Artefact(
        **{"labels": ("", "a", " "), "sample_rate": 8000, "clip_samples": 8000, "head": "ctc", "tokens": "characters"},
        **{"frame_samples": 256, "hop_samples": 80, "step_samples": 320, "decoding": "words", "words": ("aa", "a a")},
    )
    stream: ClassVar = replace(clip, kind="stream", chunk_samples=320, overlap_samples=176)

    def test_round_trip(self):
        for about in (self.clip, self.stream, replace(self.clip, clip_samples=496), replace(self.clip, words=())):
            values = json.loads(describe(about))
            found = read_description(sealed(json.dumps(values | {"sha256": None})[1:]), "model")
            assert found == about

    @pytest.mark.parametrize(
        ("changed", "reason"),
        [
            ({"labels": ["a", ""]}, "labels: expected the blank, an empty label, and tokens after it"),
            ({"labels": [""]}, "labels: expected the blank, an empty label, and tokens after it"),
            ({"tokens": ""}, "tokens: expected one of words, characters, phonemes, got "),
            ({"tokens": "letters"}, "tokens: expected one of words, characters, phonemes, got letters"),
            ({"decoding": ""}, "decoding: expected one of greedy, beam, words, got "),
            ({"decoding": "fast"}, "decoding: expected one of greedy, beam, words, got fast"),
            ({"words": ["a", ""]}, "words: expected words, got an empty one"),
            ({"frame_samples": 0}, "step_samples: expected frame_samples and hop_samples above 0, and a multiple"),
            ({"hop_samples": 0}, "step_samples: expected "),
            ({"step_samples": 0}, "step_samples: expected "),
            ({"step_samples": 40}, "step_samples: expected "),
            ({"step_samples": 321}, "step_samples: expected "),
            ({"clip_samples": 495}, "clip_samples: expected a step's at least, 496, got 495"),
            ({"kind": "stream", "chunk_samples": 640, "overlap_samples": 176}, "chunk_samples: expected a step's, 320"),
            ({"kind": "stream", "chunk_samples": 320, "overlap_samples": 80}, "with an overlap of 176"),
        ],
    )
    def test_what_is_wrong(self, changed, reason):
        values = json.loads(describe(self.clip)) | {"sha256": None} | changed
        assert reason in refusal(sealed(json.dumps(values)[1:]))


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), JSON, min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_values_in_the_description(changed):
    """It is refused, or it is what it should be."""
    changed = {key: value for key, value in changed.items() if key not in ("speech_gru", "sha256")}
    try:
        found = read_description(sealed(body(**changed)), "model")
    except UserError:
        return
    for key, right in vars(WORDS).items():
        value = getattr(found, key)
        assert type(value) is type(right), key
    assert found.kind in artefact.KINDS
    assert all(0 <= value <= 1 for value in found.thresholds.values())


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_damage_to_the_description(data):
    line = body().encode()
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(line)))
        end = data.draw(st.integers(start, min(len(line), start + 20)))
        line = (
            line[:start]
            + data.draw(st.binary(max_size=6) | st.sampled_from([b'"', b"{", b"[", b"\n", b","]))
            + line[end:]
        )
    content = b'\x1c\0\0\0TFL3{"speech_gru": %d, "sha256": "%s", %s\n' % (FORMAT, b"0" * 64, line)
    content = content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode())
    with suppress(UserError):
        assert isinstance(read_description(content, "model"), Artefact)


def test_front_end_digest_changes_with_each_setting():
    before = FrontEndSettings().model_dump(mode="json")
    digest = front_end_digest(before, 16000)
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert front_end_digest(dict(reversed(before.items())), 16000) == digest, "the order is of no matter"
    digests = {front_end_digest({**before, key: "another"}, 16000) for key in before}
    digests |= {front_end_digest(before, 8000), front_end_digest({**before, "new": 1}, 16000)}
    assert len(digests - {digest}) == len(before) + 2


def test_signing_again_changes_nothing(model):
    assert sign(model) == model


def test_the_sampling_rates_are_those_that_audio_may_have():
    assert (artefact.LOWEST_RATE, artefact.HIGHEST_RATE) == (audio.LOWEST_RATE, audio.HIGHEST_RATE)
