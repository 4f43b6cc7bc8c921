"""Files with a CTC head against the encoder in NumPy; utterances and searches in rows made by hand."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from speech_gru import Recognizer, StreamingRecognizer
from speech_gru.artefact import Artefact
from speech_gru.decoding import greedy
from speech_gru.lite_file import LiteFile, steps_of
from speech_gru.phrase_recognizer import Found, PhraseRecognizer, TextStream, Word, _place_to_cut, _Utterances

RATE, FRAME, HOP, STEP, WINDOW = 8000, 256, 80, 320, 16000
LABELS = ("", "a", "b", "c", "d", " ")
SIZES = {"frame_samples": FRAME, "hop_samples": HOP, "step_samples": STEP}


@dataclass(frozen=True)
class Made:
    """A file with random weights, and what it was made of."""

    path: object
    front_end: object
    encoder: object

    def rows(self, samples: np.ndarray) -> np.ndarray:
        """The log-probabilities of the whole, (steps, tokens), by the reference."""
        from export.reference import transcribe

        if len(samples) < FRAME + 3 * HOP:
            return np.zeros((0, len(LABELS)), np.float32)
        logits = transcribe(self.front_end(samples[None]).numpy(), self.encoder)[0]
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


@pytest.fixture(scope="module")
def make(audio, tmp_path_factory) -> Callable[..., Made]:
    """A function (kind, whether it is bidirectional) -> Made."""
    import keras

    from data_pipeline.front_end import FrontEnd
    from data_pipeline.settings import FrontEndSettings
    from export.encoder import read_encoder
    from export.front_end import convert_front_end, front_end_state
    from export.number_format import FORMATS
    from export.reference import Ranges
    from export.tflite import write_clip, write_stream
    from speech_gru.config import ModelSettings
    from speech_gru.model import build_model

    settings = FrontEndSettings(kind="log_mel", window_ms=32, hop_ms=10, normalize=False, mel_bins=20)
    front_end = FrontEnd.from_settings(settings, RATE)
    assert (front_end.fft_size, front_end.hop) == (FRAME, HOP)
    frames = front_end.frame_count(WINDOW)
    folder = tmp_path_factory.mktemp("phrases")

    def write(kind: str, bidirectional: bool) -> Made:
        model_settings = ModelSettings(
            head="ctc",
            units=6,
            bidirectional=bidirectional,
            convolution_filters=8,
            convolution_layers=2,
            subsampling=4,
        )
        keras.utils.set_random_seed(5)
        model = build_model(model_settings, frames, 20, len(LABELS))
        set_weights(model, front_end(audio[None]).numpy()[0], bidirectional)
        encoder = read_encoder(model, model_settings, frames)
        about = Artefact(LABELS, RATE, WINDOW, head="ctc", tokens="characters", **SIZES)
        state, form = front_end_state(front_end), FORMATS["float32"]
        if kind == "clip":
            content = write_clip(encoder, convert_front_end(state, WINDOW), form, Ranges(), about)
        else:
            about = replace(about, kind="stream", chunk_samples=STEP, overlap_samples=FRAME - HOP)
            content = write_stream(encoder, convert_front_end(state, FRAME - HOP + STEP), form, Ranges(), about)
        path = folder / f"{kind}-{bidirectional}.tflite"
        path.write_bytes(content)
        return Made(path, front_end, encoder)

    return write


def set_weights(model, features: np.ndarray, bidirectional: bool) -> None:
    """Random ones, of a model whose memory is short and which says something else from step to step.

    Args:
        features: (frames, 20), for the statistics of the batch normalisation, without which the GRU would be saturated.
    """
    rng = np.random.default_rng(1)
    for index, channels in enumerate((20, 8)):
        model.get_layer(f"convolution_{index}").set_weights([0.1 * rng.normal(size=(5, channels, 8))])
    model.get_layer("head").set_weights([rng.normal(0, 1.5, (12 if bidirectional else 6, 6)), np.zeros(6)])
    (kernel,) = model.get_layer("convolution_0").get_weights()
    sums = np.einsum("fiw,wio->fo", np.lib.stride_tricks.sliding_window_view(features, 5, axis=0), kernel)
    for weight in model.weights:
        if weight.path.endswith("batch_norm_0/moving_mean"):
            weight.assign(sums.mean(axis=0))
        elif weight.path.endswith("batch_norm_0/moving_variance"):
            weight.assign(sums.var(axis=0))
        elif "gru" in weight.path and weight.path.endswith("bias"):
            update_gate = np.zeros(weight.shape)
            update_gate[0, :6] = -3
            weight.assign(update_gate)


@pytest.fixture(scope="module")
def forwards(make) -> Made:
    return make("clip", False)


@pytest.fixture(scope="module")
def both(make) -> Made:
    return make("clip", True)


@pytest.fixture(scope="module")
def stream(make) -> Made:
    return make("stream", False)


@pytest.fixture(scope="module")
def audio() -> np.ndarray:
    """6 s of tones that come and go, in noise."""
    rng = np.random.default_rng(0)
    time = np.arange(6 * RATE) / RATE
    tones = sum(np.sin(2 * np.pi * hz * time) * (np.sin(2 * np.pi * rate * time) > 0.3) for hz, rate in HZ)
    return (0.1 * tones + rng.normal(0, 0.02, len(time))).astype(np.float32)


HZ = ((300, 1.1), (900, 1.7), (2000, 2.3))


class TestLogProbs:
    @pytest.mark.parametrize("name", ["forwards", "both"])
    @pytest.mark.parametrize(
        "samples", [1, FRAME - 1, FRAME, FRAME + 3 * HOP - 1, FRAME + 3 * HOP, 9000, WINDOW - 1, WINDOW]
    )
    def test_of_a_clip_are_the_references(self, request, audio, name, samples):
        made = request.getfixturevalue(name)
        recognizer, clip = PhraseRecognizer(made.path), audio[3000 : 3000 + samples]
        found, expected = recognizer.log_probs(clip), made.rows(clip)
        assert (found.shape, found.dtype) == ((steps_of(samples, recognizer.description), 6), np.float32)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-5)

    def test_what_is_recognised_differs_from_step_to_step(self, forwards, both, audio):
        """Or the comparisons would prove nothing."""
        for made in (forwards, both):
            rows = made.rows(audio)
            assert len(set(rows.argmax(axis=1))) > 2
            assert rows.std(axis=0).max() > 0.3

    @pytest.mark.parametrize("name", ["forwards", "both"])
    @pytest.mark.parametrize("samples", [WINDOW + 1, WINDOW + 8000, 40011, 48000])
    def test_of_longer_audio_are_about_those_of_the_whole(self, request, audio, name, samples):
        """A window's edges don't count, and what lies beyond them is soon of little effect."""
        made = request.getfixturevalue(name)
        recognizer = PhraseRecognizer(made.path)
        found, expected = recognizer.log_probs(audio[:samples]), made.rows(audio[:samples])
        assert len(found) == len(expected) == steps_of(samples, recognizer.description)
        np.testing.assert_allclose(found, expected, atol=0.02)
        assert np.abs(found - expected).mean() < 5e-4

    @pytest.mark.parametrize("samples", [100, FRAME - HOP + STEP, 8000, 20011])
    def test_of_a_stream_are_the_references(self, stream, audio, samples):
        recognizer = PhraseRecognizer(stream.path)
        found = recognizer.log_probs(audio[:samples])
        assert len(found) == steps_of(samples, recognizer.description)
        np.testing.assert_allclose(found, stream.rows(audio[:samples])[: len(found)], atol=1e-4)

    @pytest.mark.parametrize("name", ["both", "stream"])
    @settings(max_examples=15, deadline=None)
    @given(data=st.data())
    def test_how_audio_is_cut_is_of_no_matter(self, request, audio, name, data):
        recognizer = PhraseRecognizer(request.getfixturevalue(name).path)
        count = data.draw(st.integers(1, 40000))
        cuts = sorted({*data.draw(st.lists(st.integers(1, count), max_size=8)), count})
        rows = recognizer.rows()
        for _ in range(2):  # another stream begins after the end
            parts = [rows.feed(part) for part in np.split(audio[:count], cuts[:-1]) if len(part)]
            found = np.concatenate([*parts, rows.finish()])
            np.testing.assert_array_equal(found, recognizer.log_probs(audio[:count]))

    def test_streams_beside_each_other(self, stream, audio):
        recognizer = PhraseRecognizer(stream.path)
        one, other = recognizer.rows(), recognizer.rows()
        found = [
            (one.feed(audio[start : start + 999]), other.feed(audio[::-1][start : start + 999])) for start in PARTS
        ]
        for number, samples in ((0, audio), (1, audio[::-1])):
            rows = np.concatenate([pair[number] for pair in found])
            np.testing.assert_array_equal(rows, recognizer.log_probs(samples[: PARTS[-1] + 999]))

    @pytest.mark.parametrize("name", ["both", "stream"])
    def test_memory_does_not_grow(self, request, name):
        rows = PhraseRecognizer(request.getfixturevalue(name).path).rows()
        for _ in range(20):
            rows.feed(np.zeros(RATE, np.float32))
            kept = rows._waiting
            assert len(kept) <= WINDOW
            assert kept.base is None or kept.base.size <= WINDOW

    def test_pcm(self, forwards, audio):
        recognizer, pcm = PhraseRecognizer(forwards.path), np.round(audio[:9000] * 32768).astype(np.int16)
        np.testing.assert_array_equal(recognizer.log_probs(pcm), recognizer.log_probs(pcm / np.float32(32768)))

    @pytest.mark.parametrize("samples", [np.zeros(0), np.zeros((2, 9)), np.zeros(9, np.int32), np.full(9, np.nan)])
    def test_samples_that_are_none(self, forwards, stream, samples):
        for made in (forwards, stream):
            rows = PhraseRecognizer(made.path).rows()
            with pytest.raises(UserError, match="expected"):
                rows.feed(samples)


PARTS = range(0, 9000, 999)


class Given:
    """In the place of Rows: those that are given, one for each 320 samples."""

    def __init__(self, rows: np.ndarray):
        self.rows, self.place, self.samples = rows, 0, 0

    def feed(self, samples: np.ndarray) -> np.ndarray:
        self.samples += len(samples)
        start, self.place = self.place, self.samples // STEP
        return self.rows[start : self.place]

    def finish(self) -> np.ndarray:
        return self.rows[:0]


def path(text: str, labels: tuple[str, ...] = LABELS) -> np.ndarray:
    """Rows in which each of the text's tokens is the most probable one, a `-` the blank."""
    indices = [0 if token == "-" else labels.index(token) for token in text]
    return np.log(np.eye(len(labels), dtype=np.float32)[indices] * 0.88 + 0.02)


@pytest.fixture
def says(lite_model, copied, tmp_path, monkeypatch):
    """A function (rows, **description) -> (PhraseRecognizer that hears these rows, samples enough for them)."""

    def write(
        rows: np.ndarray, decoding: str | None = None, words=None, **values
    ) -> tuple[PhraseRecognizer, np.ndarray]:
        about = {"labels": LABELS, "tokens": "characters", "clip_samples": FRAME - HOP + STEP, **values}
        about = Artefact(**{"sample_rate": RATE, "head": "ctc", **SIZES, **about})

        def build(graph):
            from export.flatbuffer import Form

            graph.input("audio", (1, about.clip_samples))
            graph.input("samples", (1, 1), Form("int32"))
            for name in ("probabilities", "logits"):
                graph.output(name, copied(graph, graph.constant(np.zeros((1, len(about.labels)), np.float32))))

        (tmp_path / "model.tflite").write_bytes(lite_model(about, build))
        recognizer = PhraseRecognizer(tmp_path / "model.tflite", decoding=decoding, words=words)
        monkeypatch.setattr(recognizer, "rows", lambda: Given(rows))
        return recognizer, np.zeros(max(1, len(rows) * STEP), np.float32)

    return write


SECOND = "-" * 25
"""A step takes 0.04 s."""


class TestWords:
    def test_with_their_times(self, says):
        recognizer, audio = says(path("--aab-  c-dd--"))
        assert recognizer.step_seconds == 0.04
        found = recognizer.words(audio)
        assert found == [
            Word("ab", pytest.approx(0.08), pytest.approx(0.2), pytest.approx(0.9)),
            Word("cd", pytest.approx(0.32), pytest.approx(0.48), pytest.approx(0.9)),
        ]
        assert recognizer.transcribe(audio) == "ab cd"

    @pytest.mark.parametrize("decoding", ["greedy", "beam", "words"])
    def test_utterances_end_with_a_pause_whatever_the_decoding(self, says, decoding):
        rows = path("--ab" + SECOND + SECOND + "cd" + SECOND + "-")
        recognizer, audio = says(rows, decoding, ("ab", "cd"))
        found = recognizer.words(audio)
        assert [word.text for word in found] == ["ab", "cd"]
        assert [word.start for word in found] == pytest.approx([0.08, 54 * 0.04])
        assert [word.end for word in found] == pytest.approx([0.16, 56 * 0.04])

    def test_they_are_told_as_soon_as_the_pause_is_over(self, says):
        recognizer, audio = says(path("a" + SECOND + "b"))
        stream = recognizer.stream()
        assert stream.feed(audio[: 25 * STEP]) == []
        (word,) = stream.feed(audio[25 * STEP : 26 * STEP])
        assert (word.text, word.start) == ("a", 0)
        assert stream.feed(audio[26 * STEP :]) == []
        (word,) = stream.finish()
        assert (word.text, word.start) == ("b", pytest.approx(26 * 0.04))

    def test_a_shorter_pause_ends_none(self, says):
        recognizer, audio = says(path("a" + SECOND[1:] + "b"))
        assert recognizer.transcribe(audio) == "ab"

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("ab cd"), st.integers(1, 3), st.integers(0, 60)), max_size=8), st.data())
    def test_nothing_is_lost_however_audio_is_cut(self, parts, data):
        rows = path("".join(token * count + "-" * pause for token, count, pause in parts) or "-")
        expected = "".join(LABELS[token.index] for token in greedy(rows)).replace(" ", "")
        with pytest.MonkeyPatch.context():
            stream = bare_stream(rows)
            cuts = data.draw(st.lists(st.integers(0, len(rows)), max_size=5).map(sorted))
            found = []
            for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
                found += stream._decode(rows[start:end])
            found += stream._end()
            assert "".join(word.text for word in found) == expected
            times = [time for word in found for time in (word.start, word.end)]
            assert times == sorted(times)
            assert times == [] or (times[0] >= 0 and times[-1] <= len(rows) * 0.04 + 1e-9)

    def test_tokens_that_are_words(self, says):
        labels = ("", "turn", "left")
        rows = np.log(np.float32([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8], [0.1, 0.2, 0.7]]))
        recognizer, audio = says(rows, labels=labels, tokens="words")
        assert recognizer.transcribe(audio) == "turn left"
        assert [(word.start, word.end) for word in recognizer.words(audio)] == [
            (0, pytest.approx(0.04)),
            (pytest.approx(0.08), pytest.approx(0.16)),
        ]

    def test_tokens_that_are_phonemes(self, says):
        recognizer, audio = says(path("aˈ-", ("", "a", "ˈ")), labels=("", "a", "ˈ"), tokens="phonemes")
        assert recognizer.transcribe(audio) == "a ˈ"

    @pytest.mark.parametrize("text", ["", "-", "---", SECOND * 5, " ", "- - "])
    @pytest.mark.parametrize("decoding", ["greedy", "beam"])
    def test_silence(self, says, text, decoding):
        recognizer, audio = says(path(text) if text else path("-")[:0], decoding)
        assert recognizer.words(audio) == []
        assert recognizer.transcribe(audio) == ""

    def test_half_an_hour_of_silence_is_not_kept(self):
        stream = bare_stream(path("-"))
        for _ in range(1800):
            assert stream._decode(path(SECOND)) == []
        assert len(stream._utterances._rows) <= 26
        (word,) = stream._decode(path("a")) + stream._end()
        assert (word.text, word.start) == ("a", pytest.approx(1800))

    def test_the_next_stream_begins_at_zero(self):
        stream = bare_stream(path("-"))
        for _ in range(2):
            (word,) = stream._decode(path(SECOND + SECOND + "--a")) + stream._end()
            assert word.start == pytest.approx(52 * 0.04)


def bare_stream(rows: np.ndarray) -> TextStream:
    """A TextStream whose `_decode` is given rows by hand."""
    from types import SimpleNamespace

    from speech_gru.utterance import UtteranceDecoder

    recognizer = SimpleNamespace(
        rows=lambda: Given(rows),
        step_seconds=0.04,
        description=Artefact(LABELS, RATE, WINDOW, tokens="characters", head="ctc"),
        decode=UtteranceDecoder(LABELS, "characters"),
    )
    return TextStream(recognizer)


class TestUtterances:
    @staticmethod
    def cut(text: str, pause: int = 3, longest: int = 10) -> list[tuple[str, int]]:
        """Utterances as texts, with the numbers of their first rows."""
        utterances = _Utterances(pause, longest)
        found = [item for row in path(text) for item in utterances.feed(row)] + utterances.finish()
        names = ("-", *LABELS[1:])
        return [("".join(names[index] for index in rows.argmax(axis=1)), first) for rows, first in found]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", []),
            ("-----", []),
            ("a", [("a", 0)]),
            ("--a-", [("--a-", 0)]),
            ("-----a--", [("---a--", 2)]),  # of the silence before, a pause stays
            ("a---b", [("a---", 0), ("b", 4)]),
            ("a--b---", [("a--b---", 0)]),
            ("a---" * 3, [("a---", 0), ("a---", 4), ("a---", 8)]),
            ("abcdabcdab" + "cd", [("abcdabcdab", 0), ("cd", 10)]),  # too long, and never silent
            ("ab-cdab--cda", [("ab-cdab-", 0), ("-cda", 8)]),
            ("ab--cdabc-da", [("ab--cdabc-", 0), ("da", 10)]),  # not in the first half
            ("abcdabcda--", [("abcdabcda-", 0)]),
        ],
    )
    def test_by_hand(self, text, expected):
        assert self.cut(text) == expected

    @settings(max_examples=200, deadline=None)
    @given(st.text("ab--", max_size=80), st.integers(1, 4), st.integers(2, 12))
    def test_each_token_is_in_one(self, text, pause, longest):
        longest = max(longest, 2 * pause + 2)
        end = 0
        for said, first in self.cut(text, pause, longest):
            assert set(said) != {"-"}
            assert 0 < len(said) <= longest
            assert text[first : first + len(said)] == said
            assert set(text[end:first]) <= {"-"}
            end = first + len(said)
        assert set(text[end:]) <= {"-"}

    def test_where_to_cut(self):
        assert _place_to_cut(path("a-----ab")) == 5
        assert _place_to_cut(path("abab")) == 4
        assert _place_to_cut(path("aba-b--b")) == 6


class TestDecodings:
    def test_beam_finds_what_greedy_misses(self, says):
        """In three rows the path of blanks is the best, but all paths of `a` together are more probable."""
        rows = np.log(np.float32([[0.4, 0.3, 0.29, 0.004, 0.003, 0.003]] * 3))
        for decoding, expected in (("greedy", ""), ("beam", "a")):
            recognizer, audio = says(rows, decoding)
            assert recognizer.transcribe(audio) == expected

    def test_only_the_files_words(self, says):
        for text, expected in (("ab-cd", "ab cd"), ("ab c-", "ab cd"), ("-aa-", "ab"), ("a-b- -c-d- ab", "ab cd ab")):
            recognizer, audio = says(path(text), decoding="words", words=("ab", "cd"))
            assert recognizer.transcribe(audio) in (expected, "ab", "ab cd", "ab ab")
            assert set(recognizer.transcribe(audio).split()) <= {"ab", "cd"}

    def test_as_the_file_says(self, says):
        recognizer, audio = says(path("aabb"))
        assert (recognizer.decode.decoding, recognizer.transcribe(audio)) == ("greedy", "ab")

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            ({"decoding": "fast"}, "decoding: expected one of greedy, beam, words, got 'fast'"),
            ({"decoding": "words"}, "needs words that may be said, and there are none"),
            ({"decoding": "words", "words": ["ax"]}, "phrase 'ax' needs characters that the token table lacks: 'x'"),
            ({"decoding": "words", "words": "ab"}, "words: expected several texts, such as a list, got the text 'ab'"),
            ({"decoding": "words", "words": ["ab"], "tokens": "phonemes"}, "needs tokens that spell words"),
        ],
    )
    def test_what_is_wrong(self, says, arguments, reason):
        with pytest.raises(UserError) as caught:
            says(path("a"), **arguments)
        assert reason in str(caught.value)

    def test_a_beam_without_width(self, forwards):
        with pytest.raises(UserError, match="expected width from 1, got 0"):
            PhraseRecognizer(forwards.path, decoding="beam", width=0)

    def test_words_of_a_table_of_words_are_all_of_them(self, says):
        rows = np.log(np.float32([[0.1, 0.8, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]]))
        recognizer, audio = says(rows, decoding="words", labels=("", "turn", "left"), tokens="words")
        assert recognizer.transcribe(audio) == "turn left"


class TestFind:
    def test_phrases_with_score_start_and_end(self, says):
        recognizer, audio = says(path(SECOND + "-ab c-" + SECOND + SECOND + "d ab-"))
        found = recognizer.find(audio, ["ab", "ab c", "dd"])
        assert [(item.phrase, round(item.start / 0.04), round(item.end / 0.04)) for item in found] == [
            ("ab", 26, 28),
            ("ab c", 26, 30),
            ("ab", 83, 85),
        ]
        assert isinstance(found[0], Found)
        assert all(item.score == pytest.approx(0, abs=1e-6) for item in found)

    @pytest.mark.parametrize(
        ("rows", "places"),
        [
            ("abc ab", [4]),  # not in a longer word that begins so,
            ("cab ab", [4]),  # nor in one that ends so
            ("ab ab-- -ab", [0, 3, 9]),
            ("c" + "-" * 10 + "ab" + "-" * 10 + "c", [11]),  # a pause is a space
            ("c" + "-" * 5 + "ab", []),
        ],
    )
    def test_whole_words(self, says, rows, places):
        recognizer, audio = says(path(rows))
        found = recognizer.find(audio, ["ab"])
        assert [round(item.start / 0.04) for item in found] == places
        assert [round(item.end / 0.04) for item in found] == [place + 2 for place in places]
        search = recognizer.search(["ab"])
        pieces = [item for start in range(0, len(audio), 100) for item in search.feed(audio[start : start + 100])]
        assert pieces + search.finish() == found

    def test_the_threshold(self, says):
        recognizer, audio = says(path("-ab-"))
        assert recognizer.find(audio, ["ac"]) == []
        (found,) = recognizer.find(audio, ["ac"], threshold=-3)
        assert found.score == pytest.approx(np.log(0.02 / 0.9) / 3, abs=0.01)  # a, c, the space behind
        with pytest.raises(UserError, match="at most 0, got 1"):
            recognizer.find(audio, ["a"], threshold=1)

    def test_they_are_told_while_audio_goes_on(self, says):
        recognizer, audio = says(path("-ab-" + SECOND + SECOND + SECOND))
        search = recognizer.search(["ab"])
        found = [(number, item) for number in range(79) for item in search.feed(audio[number * STEP :][:STEP])]
        ((number, item),) = found
        assert number < 40
        assert item.phrase == "ab"
        assert search.finish() == []

    @pytest.mark.parametrize(
        ("phrases", "reason"),
        [
            (["ab", "xay"], "phrase 'xay' needs characters that the token table lacks: 'x', 'y'"),
            ([""], "expected a phrase of characters, got ''"),
            ([], "expected token sequences by phrase, one at least"),
            ("ab", "phrases: expected several texts, such as a list, got the text 'ab'"),
        ],
    )
    def test_what_is_wrong(self, says, phrases, reason):
        recognizer, audio = says(path("a"))
        with pytest.raises(UserError) as caught:
            recognizer.find(audio, phrases)
        assert reason in str(caught.value)


class TestOtherFiles:
    def test_each_says_what_to_use_instead(self, forwards, stream, mirror):
        for made in (forwards, stream):
            for other in (Recognizer, StreamingRecognizer):
                with pytest.raises(UserError, match=r"a file for phrases \(head 'ctc'\); PhraseRecognizer runs it"):
                    other(made.path)
        for kind in ("clip", "stream"):
            with pytest.raises(UserError, match=r"a file for single words .*; Recognizer runs it, or StreamingRec"):
                PhraseRecognizer(mirror(kind=kind))

    def test_a_graph_of_another_description(self, forwards, tmp_path):
        with pytest.raises(UserError, match=r"none\.tflite: can't be read"):
            PhraseRecognizer(tmp_path / "none.tflite")
        (tmp_path / "cut.tflite").write_bytes(forwards.path.read_bytes()[:-8])
        with pytest.raises(UserError, match="changed or cut off"):
            PhraseRecognizer(tmp_path / "cut.tflite")

    def test_one_that_is_loaded_already(self, forwards, audio):
        file = LiteFile(forwards.path)
        one, other = PhraseRecognizer(file), PhraseRecognizer(file, decoding="beam")
        np.testing.assert_array_equal(one.log_probs(audio), other.log_probs(audio))
        assert one.sample_rate == RATE
