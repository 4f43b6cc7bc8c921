"""Figures against hand-made cases and textbook formulas; the report's files as others will read them."""

import csv
import json
import math
import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from speech_gru.evaluation import (
    Predictions,
    confusion_figure,
    measure,
    picture,
    predict_split,
    worst_clips,
    worst_indices,
    write_report,
)

LABELS = ("ja", "nein", "vielleicht")


def predictions(truth, guesses, sureness=None, labels=LABELS) -> Predictions:
    """Clips c0, c1, ... whose guess has the given probability (0.9)."""
    sureness = np.full(len(truth), 0.9) if sureness is None else np.array(sureness)
    probabilities = np.repeat((1 - sureness[:, None]) / (len(labels) - 1), len(labels), axis=1)
    probabilities[np.arange(len(truth)), guesses] = sureness
    paths = tuple(f"{labels[t]}/c{index}.wav" for index, t in enumerate(truth))
    return Predictions(labels, paths, np.array(truth), probabilities.astype(np.float32))


def wilson(correct: int, clips: int) -> tuple[float, float]:
    """Wilson 1927, as statsmodels.stats.proportion.proportion_confint(method="wilson") computes it."""
    z, share = 1.959963984540054, correct / clips
    centre = (share + z**2 / (2 * clips)) / (1 + z**2 / clips)
    half = z * math.sqrt(share * (1 - share) / clips + z**2 / (4 * clips**2)) / (1 + z**2 / clips)
    return centre - half, centre + half


class TestPredictions:
    def test_guess_accuracy_and_confusions_of_a_hand_made_case(self):
        made = predictions([0, 0, 1, 2, 2], [0, 1, 1, 0, 2])
        assert made.guesses.tolist() == [0, 1, 1, 0, 2]
        assert made.accuracy == 0.6
        assert made.confusions.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]

    def test_labels_that_nobody_said_or_heard_have_rows_and_columns(self):
        assert predictions([1], [1]).confusions.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
        assert predictions([1], [1]).accuracy == 1
        assert predictions([2], [0]).accuracy == 0


class TestMeasure:
    @pytest.mark.parametrize(
        ("correct", "clips", "low", "high"),
        [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (96, 100, 0.9016, 0.9843)],
    )
    def test_the_interval_is_wilsons_as_published(self, correct, clips, low, high):
        truth = [0] * clips
        guesses = [0] * correct + [1] * (clips - correct)
        metrics = measure(predictions(truth, guesses))
        assert (metrics["correct"], metrics["clips"]) == (correct, clips)
        assert metrics["accuracy"] == correct / clips
        assert metrics["accuracy_interval"] == pytest.approx([low, high], abs=6e-5)

    @settings(max_examples=25, deadline=None)
    @given(st.integers(1, 5000).flatmap(lambda clips: st.tuples(st.integers(0, clips), st.just(clips))))
    def test_the_interval_is_wilsons_formula(self, counts):
        correct, clips = counts
        metrics = measure(predictions([0] * clips, [0] * correct + [1] * (clips - correct)))
        assert metrics["accuracy_interval"] == pytest.approx(wilson(correct, clips), abs=1e-9)

    def test_figures_of_a_hand_made_confusion_matrix(self):
        #            ja nein vielleicht   (recognised)
        # ja          3    1    0
        # nein        2    4    0
        # vielleicht  0    0    0         nobody said it, nobody heard it
        truth = [0] * 4 + [1] * 6
        guesses = [0, 0, 0, 1, 0, 0, 1, 1, 1, 1]
        metrics = measure(predictions(truth, guesses))
        assert metrics["accuracy"] == 0.7
        assert metrics["labels"]["ja"] == pytest.approx(
            {"precision": 3 / 5, "recall": 3 / 4, "f1": 2 * 0.6 * 0.75 / 1.35, "clips": 4}
        )
        assert metrics["labels"]["nein"] == pytest.approx(
            {"precision": 4 / 5, "recall": 4 / 6, "f1": 8 / 11, "clips": 6}
        )
        assert metrics["labels"]["vielleicht"] == {"precision": 0, "recall": 0, "f1": 0, "clips": 0}
        assert metrics["confusions"] == [("nein", "ja", 2), ("ja", "nein", 1)]

    def test_all_right(self):
        metrics = measure(predictions([0, 1, 2], [0, 1, 2]))
        assert metrics["accuracy"] == 1
        assert metrics["confusions"] == []


class TestThresholds:
    WITH_UNKNOWN = ("ja", "nein", "_unknown_")

    def test_both_accuracies(self):
        """An unsure word is reported as unknown: here a wrong word of an unknown clip, and a right word."""
        made = predictions([0, 0, 2, 2, 1], [0, 0, 0, 1, 1], [0.9, 0.5, 0.6, 0.9, 0.9], self.WITH_UNKNOWN)
        made = replace(made, thresholds={"ja": 0.7, "nein": 0.7})
        assert made.decisions.tolist() == [0, 2, 2, 1, 1]
        metrics = measure(made)
        assert (metrics["correct"], metrics["accuracy"], metrics["false_commands"]) == (3, 0.6, 1.0)
        found = metrics["with_thresholds"]
        assert (found["correct"], found["accuracy"], found["false_commands"]) == (3, 0.6, 0.5)
        assert found["accuracy_interval"] == pytest.approx(wilson(3, 5))

    def test_without_them_there_is_one_accuracy(self):
        made = predictions([0, 2], [0, 1], labels=self.WITH_UNKNOWN)
        assert made.decisions.tolist() == made.guesses.tolist()
        assert "with_thresholds" not in measure(made)

    def test_they_come_with_the_predictions(self, tiny_shards):
        labels = TestPredictSplit.LABELS
        made = predict_split(TestPredictSplit.loudest, labels, tiny_shards, "test", 4000, thresholds={"tief": 0.3})
        assert made.thresholds == {"tief": 0.3}
        quiet = made.probabilities[:, 1] < 0.3
        assert quiet.any()
        assert (made.decisions[quiet] == labels.index("_unknown_")).all()
        assert (made.decisions[~quiet] == labels.index("tief")).all()


class TestWorstClips:
    def test_the_surest_mistakes_come_first(self):
        found = worst_clips(predictions([0, 1, 2, 0], [1, 1, 0, 2], [0.5, 1.0, 0.99, 0.7]))
        assert found == [
            ("vielleicht/c2.wav", "vielleicht", "ja", 0.99),
            ("ja/c3.wav", "ja", "vielleicht", 0.7),
            ("ja/c0.wav", "ja", "nein", 0.5),
        ]

    def test_equals_keep_their_order_and_fifty_are_enough(self):
        found = worst_clips(predictions([0] * 60, [1] * 60))
        assert [path for path, *_ in found] == [f"ja/c{index}.wav" for index in range(50)]

    def test_they_are_the_indices_of_the_wrong_clips(self):
        assert worst_indices(predictions([0, 1, 2, 0], [1, 1, 0, 2], [0.5, 1.0, 0.99, 0.7])).tolist() == [2, 3, 0]
        assert worst_indices(predictions([0, 1], [0, 1])).tolist() == []


class TestReport:
    def test_the_files_are_what_they_say(self, tmp_path):
        labels = ("höher", "是的", "$x^$", "a,b", '"')
        made = predictions([0, 1, 2, 3, 4, 4], [0, 1, 2, 0, 4, 3], labels=labels)
        metrics = write_report(made, tmp_path / "new" / "report")
        folder = tmp_path / "new" / "report"
        text = (folder / "metrics.json").read_text(encoding="utf-8")
        assert json.loads(text) == json.loads(json.dumps(metrics))
        assert "höher" in text
        assert "是的" in text
        with (folder / "worst.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
        assert rows[0] == ["path", "truth", "guess", "probability"]
        assert rows[1:] == [["a,b/c3.wav", "a,b", "höher", "0.9"], ['"/c5.wav', '"', "a,b", "0.9"]]
        assert sorted(path.name for path in folder.iterdir()) == ["confusion.png", "metrics.json", "worst.csv"]

    @pytest.mark.parametrize(("count", "pixels"), [(2, (300, 400)), (19, (1000, 1100)), (150, (4000, 4000))])
    def test_the_picture_grows_with_the_labels_but_not_without_end(self, tmp_path, count, pixels):
        labels = tuple(f"label {index}" for index in range(count))
        write_report(predictions([0, 1], [0, 0], labels=labels), tmp_path)
        content = (tmp_path / "confusion.png").read_bytes()
        assert content.startswith(b"\x89PNG\r\n\x1a\n")
        width, height = struct.unpack(">II", content[16:24])
        assert width == height
        assert pixels[0] <= width <= pixels[1]

    def test_the_picture_shows_counts_and_shares(self):
        figure = confusion_figure(LABELS, np.array([[3, 1, 0], [0, 1, 0], [0, 0, 0]]))
        axes = figure.axes[0]
        cells = {(text.get_position(), text.get_text(), text.get_color()) for text in axes.texts}
        # Position is (guess, truth); dark cells have white figures.
        assert cells == {((0, 0), "3", "white"), ((1, 0), "1", "black"), ((1, 1), "1", "white")}
        assert axes.images[0].get_array().tolist() == [[0.75, 0.25, 0], [0, 1, 0], [0, 0, 0]]
        assert [tick.get_text() for tick in axes.get_yticklabels()] == list(LABELS)
        assert axes.get_title() == "4 of 5 clips right: 80.0%"
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("recognised", "said")

    def test_the_png_is_the_figures_pixels(self, tmp_path):
        from matplotlib.image import imread

        made = predictions([0, 0, 0, 0, 1], [0, 0, 0, 1, 1])
        write_report(made, tmp_path)
        pixels = picture(confusion_figure(LABELS, made.confusions))
        assert (pixels.dtype, pixels.shape[2]) == (np.uint8, 4)
        np.testing.assert_array_equal(np.round(imread(tmp_path / "confusion.png") * 255), pixels)

    def test_a_picture_is_what_was_drawn(self):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(3, 2), dpi=50, facecolor=(1, 0, 0))
        assert picture(figure).shape == (100, 150, 4)
        assert (picture(figure) == [255, 0, 0, 255]).all()

    def test_no_clips_no_division_by_zero(self):
        figure = confusion_figure(LABELS, np.zeros((3, 3), int))
        assert figure.axes[0].get_title() == "0 of 0 clips right: 0.0%"

    def test_no_report_where_nothing_can_be_written(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="can't be written"):
            write_report(predictions([0], [0]), tmp_path / "file" / "report")


class TestPredictSplit:
    LABELS = ("höher", "tief", "mittel", "_unknown_", "_silence_", "never said")

    @staticmethod
    def loudest(audio: np.ndarray) -> np.ndarray:
        """A predictor that can be recomputed: everything is `tief`, the surer the louder."""
        probabilities = np.zeros((len(audio), 6), np.float32)
        probabilities[:, 1] = np.abs(audio).max(axis=1)
        return probabilities

    def test_clips_labels_and_probabilities_belong_together(self, tiny_shards, tiny_corpus):
        import soundfile

        done = []
        made = predict_split(
            self.loudest, self.LABELS, tiny_shards, "test", 4000, batch_size=7, progress=lambda n, _: done.append(n)
        )
        assert len(made.paths) == len(made.truth) == len(made.probabilities) == done[-1] == 27
        spoken = [index for index, path in enumerate(made.paths) if not path.startswith("_")]
        assert len(spoken) == 24
        for index in spoken:
            word = made.paths[index].split("/")[0]
            assert self.LABELS[made.truth[index]] == {"sirene": "_unknown_"}.get(word, word)
            samples, _ = soundfile.read(tiny_corpus / made.paths[index], dtype="float32")
            assert made.probabilities[index, 1] == np.abs(samples).max()

    def test_a_label_that_the_recogniser_lacks(self, tiny_shards):
        with pytest.raises(UserError, match="has no label _silence_, höher; it knows: tief, mittel, _unknown_"):
            predict_split(self.loudest, ("tief", "mittel", "_unknown_"), tiny_shards, "test", 4000)

    @pytest.mark.parametrize("split", ["tset", "", "../test"])
    def test_a_split_without_clips(self, tiny_shards, split):
        with pytest.raises(UserError, match="clips"):
            predict_split(self.loudest, self.LABELS, tiny_shards, split, 4000)

    def test_clips_of_another_length(self, tiny_shards):
        with pytest.raises(UserError, match="expected clips of 8000 samples, but they have 4000"):
            predict_split(self.loudest, self.LABELS, tiny_shards, "test", 8000)

    def test_no_shards_at_all(self, tmp_path):
        with pytest.raises(UserError, match="speech-gru prepare"):
            predict_split(self.loudest, self.LABELS, tmp_path, "test", 4000)
