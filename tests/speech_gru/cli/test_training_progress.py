"""What a line an epoch says of clips and of phrases."""

import numpy as np
import pytest

from speech_gru.cli.training_progress import EpochPrinter
from speech_gru.evaluation import Predictions
from speech_gru.transcripts import Transcripts

FIGURES = {"loss": 1.5, "accuracy": 0.25, "validation_loss": 1.25, "validation_accuracy": 0.75}
TIMING = {"clips_per_second": 1234.0, "data_wait_share": 0.1}


@pytest.mark.parametrize(
    ("predictions", "trained", "validated"),
    [
        (Predictions(("a", "b"), (), np.array([0]), np.eye(2)[:1]), "accuracy 25.00%", "accuracy 75.00%"),
        (
            Transcripts("words", "ab", ["a b", "c d"], ["a b", "c x y"]),
            "exact phrases 25.00%",
            "word error rate 50.00%",
        ),
    ],
)
def test_an_epochs_line_says_what_its_figures_are(capsys, predictions, trained, validated):
    printer = EpochPrinter(9, 10)
    printer.begin(0)
    printer.epoch(3, FIGURES | TIMING, predictions)
    printer.end()
    assert capsys.readouterr().out.strip() == (
        f"epoch 3/9: loss 1.5000, {trained}; validation loss 1.2500, {validated}; "
        "1,234 clips/s, 10% of it waiting for data"
    )
