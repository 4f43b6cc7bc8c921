import numpy as np
import pytest

from export.verify import ExportError, compare, saved_model_predictor, tflite_predictor

EXPECTED = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.5, 0.5, 0.0]], np.float32)


@pytest.fixture
def file(tmp_path):
    (tmp_path / "model.tflite").write_bytes(b"x" * 1500)
    return tmp_path / "model.tflite"


def changed(row: int, column: int, value: float) -> np.ndarray:
    found = EXPECTED.copy()
    found[row, column] = value
    return found


def test_agreement(file):
    agreement = compare(file, changed(0, 1, 0.203), EXPECTED, 0.01)
    assert (agreement.artefact, agreement.clips, agreement.equal_decisions) == ("model.tflite", 3, 3)
    assert agreement.largest_difference == pytest.approx(0.003, abs=1e-6)
    assert agreement.bytes == 1500


def test_size_of_a_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "one").write_bytes(b"x" * 10)
    (tmp_path / "deep" / "other").write_bytes(b"x" * 5)
    assert compare(tmp_path, EXPECTED, EXPECTED, 0.01).bytes == 15


def test_a_tie_may_be_decided_otherwise(file):
    assert compare(file, changed(2, 1, 0.50001), EXPECTED, 0.01).equal_decisions == 2


@pytest.mark.parametrize("value", [0.5, -0.5, np.nan, np.inf])
def test_disagreement(file, value):
    with pytest.raises(ExportError, match=r"model\.tflite differs from its model"):
        compare(file, changed(1, 2, value), EXPECTED, 0.01)


def test_decisions_are_counted(file):
    with pytest.raises(ExportError, match=r"by up to 0\.6 .* and in 1 of 3 decisions"):
        compare(file, changed(1, 2, 0.0), EXPECTED, 0.01)


def test_predictors_load_what_was_written(tiny_export):
    audio = np.random.default_rng(0).normal(0, 0.1, (3, 4000)).astype(np.float32)
    served = saved_model_predictor(tiny_export / "saved_model")(audio)
    assert served.shape == (3, 5)
    np.testing.assert_allclose(tflite_predictor(tiny_export / "model.tflite")(audio), served, atol=1e-5)
