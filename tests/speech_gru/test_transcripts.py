"""Error rates against cases counted by hand and a plain edit distance; what is written of them."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_gru.error_rates import count_errors, error_rate
from speech_gru.transcripts import (
    WORST_PHRASES,
    Transcripts,
    measure_transcripts,
    transcribe,
    write_transcripts,
)
from speech_gru.utterance import UtteranceDecoder

PHRASES = st.lists(st.text("ab ö", max_size=7).map(lambda text: " ".join(text.split())), min_size=1, max_size=5)


def made(*pairs: tuple[str, str], kind: str = "words") -> Transcripts:
    """Of (said, recognised)."""
    truth, guesses = zip(*pairs, strict=True)
    return Transcripts(kind, [f"{number}.wav" for number in range(len(pairs))], truth, guesses)


def edit_distance(first, second) -> int:
    """Levenshtein's, by the plain recurrence."""
    row = list(range(len(second) + 1))
    for index, one in enumerate(first, 1):
        before, row = row, [index]
        for place, other in enumerate(second, 1):
            row.append(min(before[place] + 1, row[-1] + 1, before[place - 1] + (one != other)))
    return row[-1]


class TestErrors:
    @pytest.mark.parametrize(
        ("said", "heard", "words", "characters"),
        [
            ("go left", "go left", (2, 0, 0, 0), (7, 0, 0, 0)),
            ("go left", "go right", (2, 1, 0, 0), None),
            ("go left now", "go now", (3, 0, 1, 0), (11, 0, 5, 0)),
            ("go", "go go", (1, 0, 0, 1), (2, 0, 0, 3)),
            ("go left", "", (2, 0, 2, 0), (7, 0, 7, 0)),
            ("", "go left", (0, 0, 0, 2), (0, 0, 0, 7)),
            ("", "", (0, 0, 0, 0), (0, 0, 0, 0)),
            ("Ja", "ja", (1, 1, 0, 0), (2, 1, 0, 0)),
            ("größe", "große", (1, 1, 0, 0), (5, 1, 0, 0)),
        ],
    )
    def test_by_hand(self, said, heard, words, characters):
        names = ("said", "substitutions", "deletions", "insertions")
        assert count_errors([said], [heard], "words") == dict(zip(names, words, strict=True))
        if characters:
            assert count_errors([said], [heard], "characters") == dict(zip(names, characters, strict=True))

    def test_rates_are_over_all_that_was_said(self):
        """Not the mean of the phrases' rates."""
        transcripts = made(("a b c d e f", "a b c d e f"), ("x", "y"), ("", "z"), ("u v", "u"))
        assert transcripts.word_error_rate == 3 / 9
        assert transcripts.accuracy == pytest.approx(6 / 9)
        assert transcripts.character_error_rate == 4 / 15  # y for x; z; " v"
        assert transcripts.exact == 1 / 4

    def test_a_rate_above_one_is_no_accuracy_below_zero(self):
        transcripts = made(("a", "b c d"))
        assert (transcripts.word_error_rate, transcripts.accuracy) == (3, 0)

    def test_nothing_said_at_all(self):
        assert made(("", "")).word_error_rate == 0
        assert made(("", "a b")).word_error_rate == 2
        assert (made(("", "")).exact, made(("", "a")).exact) == (1, 0)

    @settings(max_examples=100, deadline=None)
    @given(PHRASES, st.data())
    def test_errors_add_up_to_the_edit_distance(self, truth, data):
        guesses = data.draw(st.lists(PHRASES.map(lambda texts: texts[0]), min_size=len(truth), max_size=len(truth)))
        for kind, split in (("words", str.split), ("characters", list)):
            counts = count_errors(truth, guesses, kind)
            expected = sum(edit_distance(split(a), split(b)) for a, b in zip(truth, guesses, strict=True))
            said = sum(len(split(text)) for text in truth)
            assert counts["said"] == said
            assert error_rate(counts) == pytest.approx(expected / max(1, said))


class TestWorst:
    def test_those_with_the_most_wrong_words_come_first(self):
        transcripts = made(("a", "a"), ("a b", "a"), ("", "x y z"), ("a b c", "b c d"), ("c", "d"))
        assert transcripts.worst() == [2, 3, 1, 4]

    def test_at_most_fifty(self):
        assert made(*[("a", "b")] * 70).worst() == list(range(WORST_PHRASES))
        assert made(("a", "a")).worst() == []


class TestDecoded:
    @staticmethod
    def rows(*path: int, labels: int = 4) -> np.ndarray:
        return np.log(np.eye(labels, dtype=np.float32)[list(path)] * 0.9 + 0.02)

    def test_words_have_spaces_between_them(self):
        found = Transcripts.decoded(
            ("", "go", "left", "on"), "words", ["p", "q"], ["go left", ""], [self.rows(1, 1, 0, 2), self.rows(0, 0)]
        )
        assert (found.guesses, found.exact) == (["go left", ""], 1)
        assert (found.origins, found.truth, found.kind) == (["p", "q"], ["go left", ""], "words")

    def test_spaces_at_the_ends_of_characters_and_twice_in_a_row_are_no_errors(self):
        rows = self.rows(1, 2, 1, 0, 1, 3, 1)
        found = Transcripts.decoded(("", " ", "a", "b"), "characters", ["p"], ["a b"], [rows])
        assert found.guesses == ["a b"]

    def test_another_decoder(self):
        """The most probable path is silence in each step, but `a` has many paths."""
        rows = np.log(np.float32([[0.4, 0.3, 0.15, 0.15]] * 3))
        labels = ("", "a", "b", "c")
        assert Transcripts.decoded(labels, "words", ["p"], ["a"], [rows]).guesses == [""]
        decoder = UtteranceDecoder(labels, "words", "beam")
        assert Transcripts.decoded(labels, "words", ["p", "q"], ["a"] * 2, [rows] * 2, decoder).guesses == ["a", "a"]

    def test_a_clip_without_a_step_says_nothing(self):
        found = Transcripts.decoded(("", "go"), "words", ["p"], ["go"], [np.zeros((0, 2), np.float32)])
        assert found.guesses == [""]


@pytest.mark.parametrize("decoding", ["greedy", "beam", "words"])
def test_no_step_says_nothing_whatever_the_decoding(decoding):
    decoder = UtteranceDecoder(("", "go"), "words", decoding)
    assert decoder.text(np.zeros((0, 2), np.float32)) == ""
    assert decoder.text(np.log(np.float32([[0.1, 0.9]]))) == "go"
    assert decoder.text(np.log(np.float32([[0.9, 0.1]]))) == ""


class Source:
    """Phrases of different lengths, whose samples are their numbers."""

    texts = ("go left", "go", "left left", "")
    samples = (9, 5, 7, 2)

    def __len__(self):
        return len(self.texts)

    def size(self, epoch, number):
        return self.samples[number]

    def read(self, epoch, number):
        assert epoch == 0
        return np.full(self.samples[number], number + 1, np.int16), self.texts[number], f"{number}.wav"


def test_transcripts_are_in_the_sources_order_whatever_the_batches():
    labels, told, shapes = ("", "go", "left"), [], []

    def predict(audio, samples):
        shapes.append(audio.shape)
        rows = []
        for pcm, count in zip(audio, samples, strict=True):
            number = pcm[0] - 1
            assert (pcm[:count] == number + 1).all()
            assert not pcm[count:].any()
            path = [step for word in Source.texts[number].split() for step in (labels.index(word), 0)]
            rows.append(np.log(np.eye(3)[path] + 1e-9).reshape(-1, 3))
        return rows

    found = transcribe(Source(), labels, "words", predict, 4, batch_size=3, progress=lambda *done: told.append(done))
    assert tuple(found.guesses) == tuple(found.truth) == Source.texts
    assert found.origins == ["0.wav", "1.wav", "2.wav", "3.wav"]
    assert shapes == [(3, 7), (1, 9)], "the shortest first"
    assert told == [(3, 4), (4, 4)]


def test_what_is_written(tmp_path):
    transcripts = made(("go left", "go left"), ('say "a, b"', "say ä"), ("", "oh"))
    metrics = write_transcripts(transcripts, tmp_path)
    assert metrics == measure_transcripts(transcripts)
    assert json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8")) == metrics
    assert metrics == {
        "phrases": 3,
        "exact": 1 / 3,
        "accuracy": pytest.approx(1 - 3 / 5),
        "word_error_rate": 3 / 5,
        "character_error_rate": pytest.approx(8 / 17),
        "words": {"said": 5, "substitutions": 1, "deletions": 1, "insertions": 1},
        "characters": {"said": 17, "substitutions": 1, "deletions": 5, "insertions": 2},
    }
    header, rows = ["path", "said", "recognised"], [["0.wav", "go left", "go left"], ["1.wav", 'say "a, b"', "say ä"]]
    rows.append(["2.wav", "", "oh"])
    for name, expected in (("transcripts.csv", rows), ("worst.csv", [rows[1], rows[2]])):
        with (tmp_path / name).open(encoding="utf-8", newline="") as file:
            assert list(csv.reader(file)) == [header, *expected]
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.json", "transcripts.csv", "worst.csv"}
