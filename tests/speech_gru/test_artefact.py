import hashlib
import json
import re

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from speech_gru import artefact
from speech_gru.artefact import Artefact, add_description, read_description

WORDS = Artefact(
    labels=("ja", "höher", "日本", "_unknown_"),
    sample_rate=16000,
    clip_samples=37,
    front_end={"kind": "mfcc", "mel_bins": 40, "high_hz": None},
    run="erster Versuch",
    version="0.1.0",
)


@pytest.fixture(scope="module")
def foreign() -> bytes:
    """A TFLite model that another program made: a softmax of 37 values."""
    import tensorflow as tf

    graph = tf.function(tf.nn.softmax, input_signature=[tf.TensorSpec((1, 37))])
    return tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()]).convert()


@pytest.fixture(scope="module")
def model(foreign) -> bytes:
    return add_description(foreign, WORDS)


def sealed(description: str, number: int = 1) -> bytes:
    """Something with a description and a digest that fits, as only somebody who means to deceive would make it."""
    content = b'\x1c\0\0\0TFL3{"speech_gru": %d, "sha256": "%s", %s\n' % (number, b"0" * 64, description.encode())
    return content.replace(b"0" * 64, hashlib.sha256(content).hexdigest().encode())


def refusal(content: bytes) -> str:
    with pytest.raises(UserError) as caught:
        read_description(content, "some.tflite")
    message = str(caught.value)
    assert message.startswith("some.tflite: ")
    return message


def test_round_trip(model):
    assert read_description(model, "model") == WORDS


LABELS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(labels=st.lists(LABELS, min_size=1, max_size=4), run=LABELS)
@settings(max_examples=30, deadline=None)
def test_round_trip_of_any_text(foreign, labels, run):
    description = Artefact(labels=tuple(labels), sample_rate=8000, clip_samples=1, run=run)
    assert read_description(add_description(foreign, description), "model") == description


def test_label_that_looks_like_a_description(foreign):
    label = '{"speech_gru": 1, "sha256": "' + "0" * 64 + '", '
    description = Artefact(labels=(label, "0" * 64), sample_rate=8000, clip_samples=1)
    assert read_description(add_description(foreign, description), "model") == description


def test_it_lies_in_the_flatbuffers_metadata(model):
    tree = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(model, 0))
    (entry,) = [entry for entry in tree.metadata if entry.name == b"speech_gru"]
    values = json.loads(tree.buffers[entry.buffer].data.tobytes())
    assert values["labels"] == list(WORDS.labels)
    assert values["front_end"] == WORDS.front_end


def test_the_graph_computes_as_before(foreign, model):
    audio = np.linspace(-1, 1, 37, dtype=np.float32)[np.newaxis]
    results = []
    for content in (foreign, model):
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], audio)
        interpreter.invoke()
        results.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    np.testing.assert_array_equal(*results)


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


def test_later_format(foreign, monkeypatch):
    monkeypatch.setattr(artefact, "FORMAT", 2)
    later = add_description(foreign, WORDS)
    monkeypatch.undo()
    assert "format 2, of a later speech_gru; this one reads 1" in refusal(later)
    assert "changed" in refusal(later + b"\0")


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
