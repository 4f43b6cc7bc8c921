"""What is reported: as Recognizer, which runs on the device, does it."""

import subprocess
import sys

import numpy as np
import pytest

from data_pipeline.labels import UNKNOWN
from speech_gru import Recognizer
from speech_gru.decision import decide

LABELS = ("ja", "nein", UNKNOWN)
PROBABILITIES = np.array([[0.5, 0.3, 0.2], [0.2, 0.6, 0.2], [0.4, 0.4, 0.2], [0.1, 0.1, 0.8]], np.float32)


@pytest.mark.parametrize(
    ("labels", "thresholds", "expected"),
    [
        (LABELS, {}, [0, 1, 0, 2]),
        (LABELS, {"ja": 0.5}, [0, 1, 2, 2]),  # just as probable as the threshold is enough
        (LABELS, {"ja": 0.51, "nein": 0.51}, [2, 1, 2, 2]),
        (LABELS, {"ja": 1.0, "nein": 1.0}, [2, 2, 2, 2]),
        (("ja", "nein", "doch"), {"ja": 1.0, "nein": 1.0}, [0, 1, 0, 2]),
    ],
)
def test_decisions(labels, thresholds, expected):
    assert decide(PROBABILITIES, labels, thresholds).tolist() == expected
    assert [int(decide(row, labels, thresholds)) for row in PROBABILITIES] == expected


def test_it_is_what_the_device_says(mirror):
    """`mirror` gives the samples as probabilities of ja, nein, _unknown_ and _silence_."""
    recognizer = Recognizer(mirror(thresholds={"ja": 0.5, "_silence_": 0.75}))
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), 200).astype(np.float32)
    decisions = decide(probabilities, recognizer.labels, recognizer.description.thresholds)
    heard = [recognizer.recognize(row) for row in probabilities]
    assert [recognizer.labels[index] for index in decisions] == [found.label for found in heard]
    assert [found.probability for found in heard] == probabilities[np.arange(200), decisions].tolist()
    assert (decisions != probabilities.argmax(axis=1)).any()


def test_a_device_can_import_it():
    code = "import sys, speech_gru.decision; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"tensorflow", "keras", "sklearn", "scipy", "pydantic"} & set(loaded)
