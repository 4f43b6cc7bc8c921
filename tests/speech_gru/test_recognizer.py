import io
import shutil
import threading

import numpy as np
import pytest
import soundfile

from data_pipeline.audio import AudioError
from data_pipeline.errors import UserError
from speech_gru import Recognizer, lite_file, recognizer, streaming
from speech_gru.artefact import Artefact
from speech_gru.lite_file import LiteFile


@pytest.fixture(scope="module")
def model(tiny_export):
    return tiny_export / "model.tflite"


@pytest.fixture(scope="module")
def clips(tiny_shards) -> np.ndarray:
    """(clips, 4000) float32 of the test split."""
    from data_pipeline.dataset import evaluation_batches

    return next(evaluation_batches(tiny_shards, "test", 4000, 100).as_numpy_iterator())["audio"]


@pytest.fixture(scope="module")
def energy_model(lite_model):
    """A function (description) -> 4 samples -> softmax(their squares): a recogniser that can be checked by hand."""

    def build(graph):
        audio = graph.input("audio", (1, 4))
        squares = graph.apply("MUL", [audio, audio], (1, 4))
        graph.output("probabilities", graph.apply("SOFTMAX", [squares], (1, 4), beta=1.0))
        graph.output("logits", squares)

    return lambda description: lite_model(description, build)


@pytest.fixture(scope="module")
def energy(energy_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("energy") / "grüße.tflite"
    path.write_bytes(energy_model(Artefact(labels=("a", "b", "c", "d"), sample_rate=8000, clip_samples=4)))
    return path


def test_it_says_what_the_keras_model_says(model, clips, tiny_run):
    import keras

    from speech_gru.run import load_run

    expected = keras.ops.softmax(load_run(tiny_run).recognizer(clips)).numpy()
    assert expected.max(axis=1).mean() > 0.5, "a model that knows nothing proves nothing"
    recognizer = Recognizer(model)
    found = np.stack([recognizer.probabilities(clip) for clip in clips])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_logits_are_those_of_the_probabilities(model, clips, energy):
    recognizer = Recognizer(model)
    for clip in clips[:5]:
        logits = recognizer.logits(clip)
        assert (logits.shape, logits.dtype) == ((5,), np.float32)
        odds = np.exp(logits - logits.max())
        np.testing.assert_allclose(recognizer.probabilities(clip), odds / odds.sum(), atol=1e-6)
    np.testing.assert_allclose(Recognizer(energy).logits(np.array([0.5, 0, 0, 2])), [0.25, 0, 0, 4])


def test_description(model, tiny_run):
    recognizer = Recognizer(str(model))
    assert recognizer.labels == tuple((tiny_run / "labels.txt").read_text(encoding="utf-8").split())
    assert "höher" in recognizer.labels
    assert recognizer.sample_rate == 8000
    assert recognizer.description.front_end["mel_bins"] == 16
    assert recognizer.description.run == tiny_run.name


def test_ranking(model, clips):
    recognizer = Recognizer(model)
    for clip in clips[:3]:
        heard = recognizer.recognize(clip)
        probabilities = [probability for _, probability in heard.ranking]
        assert (heard.label, heard.probability) == heard.ranking[0]
        assert sorted(probabilities, reverse=True) == probabilities
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert dict(heard.ranking) == dict(zip(recognizer.labels, recognizer.probabilities(clip).tolist(), strict=True))


class TestThresholds:
    """`mirror` gives the samples as probabilities of ja, nein, _unknown_ and _silence_."""

    @pytest.mark.parametrize(
        ("samples", "expected"),
        [
            ([0.75, 0.05, 0.2, 0], ("ja", 0.75)),  # at the threshold
            ([0.74, 0.05, 0.2, 0], ("_unknown_", 0.2)),
            ([0.1, 0.5, 0.3, 0.1], ("nein", 0.5)),  # without a threshold
            ([0.1, 0.1, 0.1, 0.4], ("_silence_", 0.4)),
            ([0.1, 0.1, 0.4, 0.1], ("_unknown_", 0.4)),
        ],
    )
    def test_a_word_below_its_own_is_unknown(self, mirror, samples, expected):
        heard = Recognizer(mirror(thresholds={"ja": 0.75})).recognize(np.float32(samples))
        assert (heard.label, heard.probability) == (expected[0], pytest.approx(expected[1]))
        assert heard.ranking[0][1] == pytest.approx(max(samples)), "the ranking stays as it is"
        assert heard.ranking[0][0] == ("ja", "nein", "_unknown_", "_silence_")[int(np.argmax(samples))]

    def test_without_unknown_there_is_nothing_else_to_say(self, mirror):
        path = mirror(labels=("ja", "nein", "doch", "_silence_"), thresholds={"ja": 0.75})
        assert Recognizer(path).recognize(np.float32([0.4, 0.3, 0.2, 0.1])).label == "ja"

    def test_without_thresholds_the_most_probable_is_taken(self, mirror):
        assert Recognizer(mirror()).recognize(np.float32([0.3, 0.2, 0.25, 0.25])).label == "ja"


def test_other_kinds_are_told_where_they_run(mirror):
    with pytest.raises(UserError, match=r"mirror\.tflite: a file of kind 'stream', not for whole clips; .*Streaming"):
        Recognizer(mirror(kind="stream"))


def test_int16_and_float_of_any_precision_agree(model, clips):
    recognizer = Recognizer(model)
    pcm = np.round(clips[0] * 32768).astype(np.int16)
    expected = recognizer.probabilities(pcm)
    np.testing.assert_array_equal(recognizer.probabilities(pcm / np.float32(32768)), expected)
    np.testing.assert_array_equal(recognizer.probabilities(pcm / np.float64(32768)), expected)
    np.testing.assert_array_equal(recognizer.probabilities(np.repeat(pcm, 2)[::2]), expected)


@pytest.mark.parametrize(
    ("samples", "heard"),
    [
        ([0.1, 0.2, 0.9, 0.3], [0.1, 0.2, 0.9, 0.3]),
        ([0.9, 0.5], [0, 0.9, 0.5, 0]),
        ([0.9, 0.5, 0.4], [0.9, 0.5, 0.4, 0]),
        ([0.9], [0, 0.9, 0, 0]),
        ([0, 0.1, 0.2, 0.9, 0.3, 0, 0], [0.1, 0.2, 0.9, 0.3]),
        ([0.5, 0.1, 0, 0, 0, 0, 0.5, 0.2], [0, 0, 0.5, 0.2]),
        ([0.5] * 6, [0.5] * 4),
    ],
    ids=["exact", "padded on both sides", "odd: the end gets more", "one sample", "loudest", "louder end", "equals"],
)
def test_clips_of_other_lengths(energy, samples, heard):
    exponentials = np.exp(np.square(heard))
    found = Recognizer(energy).probabilities(np.array(samples, np.float32))
    np.testing.assert_allclose(found, exponentials / exponentials.sum(), atol=1e-6)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((4, 2)), r"one channel of samples.*\(4, 2\)"),
        (np.zeros((1, 4), np.float32), r"\(1, 4\)"),
        (np.float32(0.5), r"got shape \(\)"),
        (np.zeros(0, np.float32), r"got shape \(0,\)"),
        ([], r"got shape \(0,\)"),
        (np.zeros(4, np.int32), "got int32"),
        (np.zeros(4, np.uint8), "got uint8"),
        (np.zeros(4, bool), "got bool"),
        (np.zeros(4, complex), "got complex128"),
        (["a", "b"], "got <U1"),
        (np.array([0, np.nan, 0, 0]), "peak of nan"),
        (np.array([0, 0, -np.inf, 0], np.float32), "peak of inf"),
        (np.array([0.0, -12000.0, 0, 0]), "peak of 12000; PCM must come as int16"),
    ],
)
def test_bad_samples(energy, samples, message):
    recognizer = Recognizer(energy)
    with pytest.raises(UserError, match=message):
        recognizer.recognize(samples)


def test_samples_are_left_as_they_were(energy):
    samples = np.array([0.1, 0.2, 0.9, 0.3, 0.1], np.float32)
    before = samples.copy()
    Recognizer(energy).recognize(samples)
    np.testing.assert_array_equal(samples, before)


def test_results_outlive_the_next_clip(energy):
    recognizer = Recognizer(energy)
    first = recognizer.probabilities(np.array([0.9, 0, 0, 0]))
    kept = first.copy()
    recognizer.probabilities(np.array([0, 0, 0, 0.9]))
    np.testing.assert_array_equal(first, kept)


def test_several_side_by_side(model, energy, clips):
    alone = Recognizer(model).probabilities(clips[0])
    one, other, two = Recognizer(model), Recognizer(energy), Recognizer(model)
    for _ in range(2):
        np.testing.assert_array_equal(one.probabilities(clips[0]), alone)
        assert other.recognize(np.array([0, 0, 0.9, 0])).label == "c"
        assert not np.array_equal(two.probabilities(clips[1]), alone)


def test_several_on_one_file(model, clips):
    file = LiteFile(model)
    both = [Recognizer(file), Recognizer(file)]
    for _ in range(2):
        for one, clip in zip(both, clips, strict=False):
            np.testing.assert_array_equal(one.probabilities(clip), Recognizer(model).probabilities(clip))
    assert both[0].description is both[1].description


def test_one_a_thread(model, clips):
    expected = [Recognizer(model).probabilities(clip) for clip in clips[:4]]
    found = [[] for _ in expected]

    def work(index: int) -> None:
        recognizer = Recognizer(model)
        found[index] = [recognizer.probabilities(clips[index]) for _ in range(20)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for results, one in zip(found, expected, strict=True):
        assert len(results) == 20
        for result in results:
            np.testing.assert_array_equal(result, one)


def test_threads(model, clips, monkeypatch):
    asked = []

    def interpreter(num_threads, **arguments):
        asked.append(num_threads)
        return original(num_threads=num_threads, **arguments)

    original = lite_file.Interpreter
    monkeypatch.setattr(lite_file, "Interpreter", interpreter)
    one, two = (Recognizer(model, threads=threads).probabilities(clips[0]) for threads in (1, 2))
    assert asked == [1, 2]
    np.testing.assert_allclose(two, one, atol=1e-6)
    with pytest.raises(UserError, match="threads: expected 1 or more, got 0"):
        Recognizer(model, threads=0)


def test_load(energy, tmp_path):
    stereo = np.stack([np.full(1600, 0.5), np.full(1600, -0.25)], axis=1)
    soundfile.write(tmp_path / "ä.flac", stereo, 16000)
    recognizer = Recognizer(energy)
    samples = recognizer.load(tmp_path / "ä.flac")
    assert samples.shape == (800,)
    assert samples[400] == pytest.approx(0.125, abs=1e-3)
    np.testing.assert_array_equal(recognizer.load(io.BytesIO((tmp_path / "ä.flac").read_bytes())), samples)
    with pytest.raises(AudioError, match="missing"):
        recognizer.load(tmp_path / "none.wav")


class TestBadFiles:
    """What is no whole artefact of ours never reaches the interpreter."""

    @pytest.fixture(autouse=True)
    def interpreter(self, monkeypatch):
        def forbidden(**arguments):
            raise AssertionError("the interpreter was given the file")

        monkeypatch.setattr(lite_file, "Interpreter", forbidden)

    @pytest.mark.parametrize("kept", [0, 3, 8, 1000, -1])
    def test_truncated(self, model, tmp_path, kept):
        path = tmp_path / "cut.tflite"
        path.write_bytes(model.read_bytes()[:kept])
        with pytest.raises(UserError, match=r"cut\.tflite: .*(not a TFLite file|cut off)"):
            Recognizer(path)

    def test_changed(self, model, tmp_path):
        content = bytearray(model.read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "changed.tflite").write_bytes(content)
        with pytest.raises(UserError, match=r"changed\.tflite: the file was changed or cut off"):
            Recognizer(tmp_path / "changed.tflite")

    def test_random_bytes(self, tmp_path):
        (tmp_path / "random.tflite").write_bytes(np.random.default_rng(0).bytes(5000))
        with pytest.raises(UserError, match="not a TFLite file"):
            Recognizer(tmp_path / "random.tflite")

    def test_not_there(self, tmp_path):
        with pytest.raises(UserError, match=r"none\.tflite: can't be read: No such file"):
            Recognizer(tmp_path / "none.tflite")
        with pytest.raises(UserError, match=r"can't be read: Is a directory; expected a \.tflite file"):
            Recognizer(tmp_path)


def test_no_flatbuffer_behind_a_right_description(energy, tmp_path, monkeypatch):
    """Made to deceive: LiteRT's own check must refuse it."""
    description = Recognizer(energy).description
    monkeypatch.setattr(lite_file, "read_description", lambda content, name: description)
    for offset in (b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff\xff\xff"):
        (tmp_path / "offset.tflite").write_bytes(offset + energy.read_bytes()[4:])
        with pytest.raises(UserError, match="LiteRT can't run it"):
            Recognizer(tmp_path / "offset.tflite")


@pytest.mark.parametrize(("labels", "clip_samples"), [(("a", "b", "c"), 4), (("a", "b", "c", "d"), 10**12)])
def test_description_of_another_graph(energy_model, tmp_path, labels, clip_samples):
    path = tmp_path / "model.tflite"
    path.write_bytes(energy_model(Artefact(labels=labels, sample_rate=8000, clip_samples=clip_samples)))
    with pytest.raises(UserError, match="doesn't fit its description"):
        Recognizer(path)


def test_the_file_isnt_needed_once_loaded(energy, tmp_path):
    path = shutil.copy(energy, tmp_path / "model.tflite")
    recognizer = Recognizer(path)
    path.write_bytes(b"")
    assert recognizer.recognize(np.array([0.9, 0, 0, 0])).label == "a"


def test_it_can_be_imported_from_the_package():
    import speech_gru

    assert speech_gru.Recognizer is recognizer.Recognizer
    assert speech_gru.StreamingRecognizer is streaming.StreamingRecognizer
    with pytest.raises(AttributeError, match="has no attribute 'Recogniser'"):
        _ = speech_gru.Recogniser
