"""Streams: a small model with random weights, exported, and files whose graph can be checked by hand."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import UserError
from speech_gru.artefact import Artefact
from speech_gru.lite_file import LiteFile
from speech_gru.recognizer import Recognizer
from speech_gru.streaming import Detection, StreamingRecognizer

CLIP = 2500
AUDIO = np.random.default_rng(0).normal(0, 0.1, 6000) * np.linspace(0.2, 2, 6000) * np.sin(np.arange(6000) ** 1.3)
AUDIO = np.round(AUDIO * 32768).astype(np.int16)


class Exported(NamedTuple):
    """The same model as two files."""

    clip: LiteFile
    stream: LiteFile


MODELS = {
    "convolutions": (8, {"convolution_filters": 5, "convolution_layers": 2, "subsampling": 2}),
    "frames stacked": (6, {"layers": 2, "subsampling": 3, "pooling": "last"}),
    "frames side by side": (
        16,
        {"convolution_filters": 5, "convolution_kernel": 2, "subsampling": 2, "pooling": "mean"},
    ),
}
"""hop_ms for frames of 16 ms, and settings of the model. The last has neither overlap nor a past to convolve."""


@pytest.fixture(scope="module", params=MODELS)
def exported(request, tmp_path_factory) -> Exported:
    from speech_gru.quiet import start_tensorflow

    start_tensorflow()
    from data_pipeline.front_end import FrontEnd
    from data_pipeline.settings import FrontEndSettings
    from export.encoder import read_encoder
    from export.front_end import convert_front_end, front_end_state
    from export.number_format import FORMATS
    from export.reference import Ranges
    from export.tflite import write_clip, write_stream
    from speech_gru.config import ModelSettings
    from speech_gru.model import build_model

    hop_ms, values = MODELS[request.param]
    front_end = FrontEnd.from_settings(FrontEndSettings(mel_bins=8, coefficients=6, window_ms=16, hop_ms=hop_ms), 8000)
    features = np.array(front_end(AUDIO[None].astype(np.float32) / 32768))
    model_settings = ModelSettings(units=6, bidirectional=False, **{"layers": 1, **values})
    frames = front_end.frame_count(CLIP)
    model = build_model(model_settings, frames, front_end.feature_count, 3)
    rng = np.random.default_rng(1)
    for layer in model.layers:
        positive = "batch_norm" in layer.name  # variances are
        weights = [rng.normal(0, 0.6, weight.shape) for weight in layer.get_weights()]
        layer.set_weights([np.abs(weight) + 0.3 if positive else weight for weight in weights])
    state = front_end_state(front_end)
    mean, variance = features.mean((0, 1)), features.var((0, 1))
    state = replace(state, mean=mean.reshape(state.mean.shape), variance=variance.reshape(state.variance.shape))
    encoder = read_encoder(model, model_settings, frames)
    overlap, chunk = front_end.fft_size - front_end.hop, encoder.subsampling * front_end.hop
    clip = Artefact(labels=("a", "b", "c"), sample_rate=8000, clip_samples=CLIP)
    stream = replace(clip, kind="stream", chunk_samples=chunk, overlap_samples=overlap, warmup_chunks=encoder.steps)
    folder = tmp_path_factory.mktemp("exported")
    for name, write, samples, description in (
        ("clip", write_clip, CLIP, clip),
        ("stream", write_stream, overlap + chunk, stream),
    ):
        content = write(encoder, convert_front_end(state, samples), FORMATS["float32"], Ranges(), description)
        (folder / f"{name}.tflite").write_bytes(content)
    return Exported(LiteFile(folder / "clip.tflite"), LiteFile(folder / "stream.tflite"))


@pytest.fixture(scope="module", params=["stream", "clip"])
def file(request, exported) -> LiteFile:
    """A file for streams, and one for clips, which is run on a window that slides."""
    return getattr(exported, request.param)


@pytest.fixture(scope="module")
def whole(file) -> np.ndarray:
    """What the audio gives in one piece."""
    rows = StreamingRecognizer(file).logits(AUDIO)
    assert rows.dtype == np.float32
    assert np.ptp(rows, axis=0).min() > 0.05, "rows that are all alike prove nothing"
    return rows


def pieces(samples: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    return [piece for piece in np.split(samples, sorted(cuts)) if len(piece)]


CUTS = st.lists(st.integers(0, len(AUDIO)), max_size=20) | st.integers(150, 3000).map(
    lambda size: list(range(0, len(AUDIO), size))
)


@given(cuts=CUTS)
@settings(max_examples=20, deadline=None)
def test_any_cutting_of_the_audio_gives_the_same(file, whole, cuts):
    stream = StreamingRecognizer(file)
    rows = np.concatenate([stream.logits(piece) for piece in pieces(AUDIO, cuts)])
    np.testing.assert_allclose(rows, whole, rtol=0, atol=1e-5)


def test_sample_by_sample(file, whole):
    """The first output comes when its last sample is there, each further one as soon."""
    stream = StreamingRecognizer(file)
    about = file.description
    first = about.overlap_samples + about.chunk_samples if about.kind == "stream" else about.clip_samples
    step = stream.latency_samples
    assert step == (about.chunk_samples if about.kind == "stream" else 800)
    given, rows = 0, []
    for end in (first - 1, first, first + step - 1, first + step, first + step + 1, first + 2 * step):
        rows.append(len(stream.logits(AUDIO[given:end])))
        given = end
    assert rows == [0, 1, 0, 1, 0, 1]
    assert len(whole) == 1 + (len(AUDIO) - first) // step
    assert stream.logits(AUDIO[:1]).shape == (0, 3)


def test_logits_at_a_clips_end_are_those_of_the_clip(exported):
    recognizer, stream = Recognizer(exported.clip), StreamingRecognizer(exported.stream)
    found = []
    for start in (0, 1234, len(AUDIO) - CLIP):
        clip = AUDIO[start : start + CLIP]
        stream.reset()
        found.append(stream.logits(clip)[-1])
        np.testing.assert_allclose(found[-1], recognizer.logits(clip), rtol=0, atol=1e-4)
    assert np.ptp(found, axis=0).max() > 0.05


@pytest.mark.parametrize("hop", [100, 777, 2500, 9999])
def test_a_file_for_clips_runs_on_a_window_that_slides(exported, hop):
    rows = StreamingRecognizer(exported.clip, hop_seconds=hop / 8000).logits(AUDIO)
    starts = range(0, len(AUDIO) - CLIP + 1, min(hop, CLIP))
    expected = [Recognizer(exported.clip).logits(AUDIO[start : start + CLIP]) for start in starts]
    np.testing.assert_allclose(rows, expected, rtol=0, atol=1e-5)


def test_probabilities_are_those_of_the_logits(file, whole):
    odds = np.exp(whole)
    found = StreamingRecognizer(file).probabilities(AUDIO)
    np.testing.assert_allclose(found, odds / odds.sum(axis=1, keepdims=True), atol=1e-6)


def test_streams_side_by_side(file, whole):
    one, other = StreamingRecognizer(file), StreamingRecognizer(file)
    backwards = StreamingRecognizer(file).logits(AUDIO[::-1])
    rows, other_rows = [], []
    for start in range(0, len(AUDIO), 333):
        rows.append(one.logits(AUDIO[start : start + 333]))
        other_rows.append(other.logits(AUDIO[::-1][start : start + 333]))
    np.testing.assert_allclose(np.concatenate(rows), whole, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(other_rows), backwards, rtol=0, atol=1e-5)


@pytest.mark.parametrize("before", [1, 150, 2600, 5999])
def test_reset_begins_anew(file, whole, before):
    stream = StreamingRecognizer(file)
    stream.logits(AUDIO[::-1][:before])
    stream.reset()
    np.testing.assert_allclose(stream.logits(AUDIO), whole, rtol=0, atol=1e-5)


def test_int16_and_float_agree(file, whole):
    for dtype in (np.float32, np.float64):
        found = StreamingRecognizer(file).logits((AUDIO / 32768).astype(dtype))
        np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5)


def sizes(stream: StreamingRecognizer) -> dict[str, list]:
    """Of all that a stream holds."""
    held = {}
    for name, value in vars(stream).items():
        items = value if isinstance(value, (list, tuple)) else [value]
        held[name] = [item.shape if isinstance(item, np.ndarray) else None for item in items]
    assert sum(shape is not None for items in held.values() for shape in items) >= 2
    return held


def test_nothing_grows_over_a_long_stream(file):
    stream = StreamingRecognizer(file, threshold=0.1, smoothing_seconds=0.5)
    stream.detect(AUDIO)
    before = sizes(stream)
    for _ in range(10):
        stream.detect(AUDIO)
        stream.logits(AUDIO[:777])
    assert sizes(stream) == before


def test_samples_are_left_as_they_were(file):
    samples = AUDIO / np.float32(32768)
    before = samples.copy()
    StreamingRecognizer(file).logits(samples)
    np.testing.assert_array_equal(samples, before)


def test_the_state_is_carried_as_the_file_says(lite_model, copied, tmp_path):
    """By hand: logits = all chunks so far + the sample before each of them."""

    def build(graph):
        audio, before, total = (graph.input(*item) for item in (("a", (1, 2)), ("s0", (1, 1)), ("s1", (1, 2))))
        logits = graph.apply("ADD", [graph.apply("ADD", [audio, total], (1, 2)), before], (1, 2))
        for name, tensor in (("p", copied(graph, audio)), ("l", copied(graph, logits)), ("n0", copied(graph, before))):
            graph.output(name, tensor)
        graph.output("n1", logits)

    about = Artefact(("a", "b"), 8000, 8, kind="stream", chunk_samples=2, overlap_samples=1)
    (tmp_path / "sum.tflite").write_bytes(lite_model(about, build))
    stream = StreamingRecognizer(tmp_path / "sum.tflite")
    samples = np.arange(1, 9) / 16
    expected = np.cumsum([[1 + 2, 1 + 3], [3 + 4, 3 + 5], [5 + 6, 5 + 7]], axis=0) / 16
    np.testing.assert_allclose(stream.logits(samples), expected, rtol=1e-6)
    stream.reset()
    np.testing.assert_allclose(stream.logits(samples), expected, rtol=1e-6)


WINDOW = 4 / 8000
"""Seconds of an output of `mirror`, whose four samples are the probabilities of ja, nein, _unknown_ and _silence_."""
JA, NEIN, UNKNOWN, SILENCE = np.eye(4, dtype=np.float32)


def listener(path, *, smoothing: int = 1, pause: int = 0, **options) -> StreamingRecognizer:
    """Smoothing and pause in outputs."""
    return StreamingRecognizer(
        path, hop_seconds=WINDOW, smoothing_seconds=smoothing * WINDOW, pause_seconds=pause * WINDOW, **options
    )


def heard(stream: StreamingRecognizer, *rows) -> list[tuple[str, int]]:
    """(label, number of the output, from 1) of what is detected."""
    found = stream.detect(np.concatenate(rows).astype(np.float32))
    before = stream.description.overlap_samples
    return [(item.label, round((item.seconds * 8000 - before) / 4)) for item in found]


@pytest.fixture(scope="module")
def mirror_file(mirror) -> LiteFile:
    return LiteFile(mirror())


class TestDetect:
    def test_a_detection(self, mirror):
        found = listener(mirror()).detect(np.float32([0.1, 0.2, 0, 0, 0.1, 0.875, 0, 0.025]))
        assert found == [Detection("nein", 0.875, 8 / 8000)]

    def test_threshold(self, mirror):
        rows = [0.74 * JA, 0.75 * JA, 0.76 * NEIN]
        assert heard(listener(mirror(), threshold=0.75), *rows) == [("ja", 2), ("nein", 3)]
        assert heard(listener(mirror()), 0.69 * JA, 0.71 * JA) == [("ja", 2)]
        assert heard(listener(mirror(), threshold=1), JA, 0.99 * JA) == [("ja", 1)]

    def test_the_files_thresholds(self, mirror):
        path = mirror(thresholds={"ja": 0.9})
        assert heard(listener(path), 0.8 * JA, 0.71 * NEIN, 0.95 * JA) == [("nein", 2), ("ja", 3)]
        assert heard(listener(path), 0.69 * NEIN) == [], "it has none for this word"
        path = mirror(thresholds={"ja": 0.25, "nein": 0})
        assert heard(listener(path), 0.2 * JA, 0.3 * JA, 0.1 * NEIN) == [("ja", 2), ("nein", 3)]

    def test_a_threshold_that_is_given_wins_over_the_files(self, mirror):
        path = mirror(thresholds={"ja": 0.9, "nein": 0.2})
        assert heard(listener(path, threshold=0.5), 0.6 * JA, 0.4 * NEIN, 0.5 * NEIN) == [("ja", 1), ("nein", 3)]
        assert heard(listener(path, threshold=0), 0.1 * JA, 0.1 * NEIN) == [("ja", 1), ("nein", 2)]

    def test_the_mean_over_the_smoothing_counts(self, mirror):
        stream = listener(mirror(), smoothing=2, threshold=0.75)
        assert heard(stream, JA, 0 * JA, JA, 0.4 * JA, 0.6 * JA, 0.9 * JA) == [("ja", 6)]
        found = listener(mirror(), smoothing=3, threshold=0.5).detect(np.concatenate([JA, 0.5 * JA, 0.3 * JA]))
        assert found == [Detection("ja", pytest.approx(0.6), pytest.approx(12 / 8000))]

    def test_nothing_before_the_smoothing_is_filled(self, mirror):
        stream = listener(mirror(), smoothing=4, threshold=0.1)
        assert heard(stream, JA, JA, JA) == []
        assert heard(stream, JA) == [("ja", 4)]

    def test_nothing_in_the_pause_after_a_detection(self, mirror):
        assert heard(listener(mirror(), pause=3), JA, NEIN, NEIN, 0 * JA, NEIN) == [("ja", 1), ("nein", 5)]
        assert heard(listener(mirror(), pause=3), JA, 0 * JA, JA, JA, JA) == [("ja", 1), ("ja", 4)]

    def test_another_word_is_detected_at_the_pauses_end(self, mirror):
        assert heard(listener(mirror(), pause=3), JA, NEIN, NEIN, NEIN, NEIN) == [("ja", 1), ("nein", 4)]

    @pytest.mark.parametrize("pause", [0, 3])
    def test_a_word_that_stays_is_one_detection(self, mirror, pause):
        assert heard(listener(mirror(), pause=pause), *[JA] * 20) == [("ja", 1)]

    def test_it_is_detected_again_once_it_fell_below_its_threshold(self, mirror):
        rows = [JA, 0.76 * JA, 0.9 * JA, 0.74 * JA, 0.9 * JA, 0.9 * JA]
        assert heard(listener(mirror(), threshold=0.75), *rows) == [("ja", 1), ("ja", 5)]
        stream = listener(mirror(), smoothing=2, threshold=0.75)
        assert heard(stream, JA, JA, 0.6 * JA, JA, 0 * JA, JA, JA) == [("ja", 2), ("ja", 7)], "the mean counts"

    def test_it_may_fall_in_the_pause_beside_another_and_unheard(self, mirror):
        assert heard(listener(mirror(), pause=3), JA, 0 * JA, 0 * JA, 0 * JA, JA) == [("ja", 1), ("ja", 5)]
        assert heard(listener(mirror()), JA, NEIN, NEIN, JA) == [("ja", 1), ("nein", 2), ("ja", 4)]
        both = 0.5 * JA + 0.4 * NEIN
        assert heard(listener(mirror(), threshold=0.4), JA, NEIN, both, NEIN) == [("ja", 1), ("nein", 2), ("ja", 3)]
        stream = listener(mirror())
        assert heard(stream, JA) == [("ja", 1)]
        stream.logits(0 * JA)
        assert heard(stream, JA) == [("ja", 3)]

    def test_nothing_before_a_stream_has_warmed_up(self, mirror):
        stream = listener(mirror(kind="stream", warmup_chunks=3))
        assert heard(stream, [0.5], *[JA] * 4) == [("ja", 3)]
        stream.reset()
        assert heard(stream, [0.5], JA, JA) == []
        assert heard(stream, JA) == [("ja", 3)]

    @pytest.mark.parametrize("label", [UNKNOWN, SILENCE])
    def test_no_word_is_no_detection(self, mirror, label):
        assert heard(listener(mirror(), threshold=0), *[label] * 3) == []
        assert heard(listener(mirror(), threshold=0.1), 0.4 * JA + 0.6 * label) == [], "the word isn't the best"
        assert heard(listener(mirror(), threshold=0.1), 0.6 * JA + 0.4 * label) == [("ja", 1)]

    def test_a_file_without_words(self, lite_model, copied, tmp_path):
        def build(graph):
            audio = graph.input("audio", (1, 2))
            graph.output("probabilities", copied(graph, audio))
            graph.output("logits", copied(graph, audio))

        path = tmp_path / "wordless.tflite"
        path.write_bytes(lite_model(Artefact(("_unknown_", "_silence_"), 8000, 2), build))
        assert StreamingRecognizer(path, threshold=0).detect(np.ones(4000, np.float32)) == []

    def test_reset_forgets_the_pause_and_what_was_smoothed(self, mirror):
        stream = listener(mirror(), smoothing=2, pause=100)
        assert heard(stream, JA, JA, JA) == [("ja", 2)]
        stream.reset()
        assert heard(stream, 0 * JA, JA, JA) == [("ja", 3)]
        stream.reset()
        assert heard(stream, JA, JA) == [("ja", 2)], "and that the word hadn't fallen"

    def test_what_logits_were_asked_of_counts_as_well(self, mirror):
        stream = listener(mirror(), smoothing=2)
        stream.detect(np.concatenate([JA, JA]))
        stream.reset()
        stream.logits(np.concatenate([NEIN, NEIN]))
        assert heard(stream, NEIN) == [("nein", 3)]

    @given(cuts=st.lists(st.integers(0, 400), max_size=20))
    @settings(max_examples=30, deadline=None)
    def test_any_cutting_gives_the_same_detections(self, mirror_file, cuts):
        samples = np.random.default_rng(3).dirichlet([0.3] * 4, 100).astype(np.float32).ravel()
        options = {"smoothing": 3, "pause": 4, "threshold": 0.4}
        expected = listener(mirror_file, **options).detect(samples)
        assert len(expected) > 5
        stream = listener(mirror_file, **options)
        assert [item for piece in pieces(samples, cuts) for item in stream.detect(piece)] == expected


@pytest.mark.parametrize("method", ["logits", "probabilities", "detect"])
@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((4, 1), np.float32), r"one channel of samples.*\(4, 1\)"),
        (np.zeros(0, np.float32), r"got shape \(0,\)"),
        (np.zeros(4, np.int32), "got int32"),
        (np.float32([0, np.nan]), "peak of nan"),
        (np.float32([0, np.inf]), "peak of inf"),
        (np.float32([0, 12000]), "PCM must come as int16"),
    ],
)
def test_bad_samples_are_refused_and_leave_the_stream_as_it_was(mirror, samples, message, method):
    stream = listener(mirror())
    stream.logits(JA[:3])
    with pytest.raises(UserError, match=message):
        getattr(stream, method)(samples)
    np.testing.assert_allclose(stream.logits(np.float32([0.5])), [[10, 0, 0, 5]])


@pytest.mark.parametrize(
    "options",
    [
        *({"hop_seconds": value} for value in (0, -0.1, float("nan"), float("inf"))),
        *({"threshold": value} for value in (-0.1, 1.1, float("nan"))),
        *({"smoothing_seconds": value} for value in (-0.1, float("nan"), float("inf"))),
        *({"pause_seconds": value} for value in (-0.1, float("nan"), float("inf"))),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["clip", "stream"])
def test_bad_settings(mirror, options, kind):
    with pytest.raises(UserError, match=r"expected hop_seconds above 0, threshold from 0 to 1, .* got "):
        StreamingRecognizer(mirror(kind=kind), **options)


def test_file_for_microcontrollers(lite_model, copied, tmp_path):
    def build(graph):
        graph.output("logits", copied(graph, graph.input("features", (1, 4))))

    about = Artefact(("a", "b", "c", "d"), 8000, 8, kind="step")
    (tmp_path / "step.tflite").write_bytes(lite_model(about, build))
    with pytest.raises(UserError, match=r"step\.tflite: a file of kind 'step'; expected one for streams or clips"):
        StreamingRecognizer(tmp_path / "step.tflite")


def test_labels(mirror):
    stream = StreamingRecognizer(str(mirror(kind="stream")))
    assert stream.labels == ("ja", "nein", "_unknown_", "_silence_") == stream.description.labels
