import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.dataset import evaluation_batches
from data_pipeline.errors import UserError
from speech_gru import StreamingRecognizer
from speech_gru.subject import Subject, load_subject, prepare_corpus


@pytest.fixture(scope="module")
def run(tiny_run, tiny_export, tmp_path_factory):
    """A run directory with its export."""
    folder = tmp_path_factory.mktemp("subject") / "run"
    shutil.copytree(tiny_run, folder)
    shutil.copytree(tiny_export, folder / "export")
    return folder


@pytest.fixture
def listener(tmp_path):
    """Makes a recogniser of some labels that is never asked to recognise."""
    return lambda *labels: Subject(None, labels, 8000, 4000, tmp_path / "report", tmp_path / "run")


def nothing(done, total):
    pass


def test_run_and_file_look_alike(run, tiny_shards):
    one, other = load_subject(run), load_subject(run / "export" / "model.tflite")
    assert one.labels == other.labels
    assert "höher" in one.labels
    assert (one.sample_rate, one.clip_samples) == (other.sample_rate, other.clip_samples) == (8000, 4000)
    assert one.shards() == other.shards() == tiny_shards
    assert one.report_folder == run / "report"
    assert other.report_folder == run / "export" / "report"
    audio = np.random.default_rng(0).normal(0, 0.1, (3, 4000)).astype(np.float32)
    np.testing.assert_allclose(one.predict(audio), other.predict(audio), atol=1e-5)


def test_file_without_its_run(run, tmp_path):
    file = shutil.copy(run / "export" / "model.tflite", tmp_path / "model.tflite")
    with pytest.raises(UserError, match="is no run directory; give --shards or --corpus"):
        load_subject(file).shards()


def test_corpus_is_prepared_as_the_recogniser_hears_it(listener, tiny_corpus, tmp_path):
    prepared = prepare_corpus(listener("tief", "höher", "_unknown_"), tiny_corpus, tmp_path, nothing)
    assert {key: count.clips for key, count in prepared.counts.items()} == {
        ("test", "tief"): 28,
        ("test", "höher"): 28,
        ("test", "_unknown_"): 56,
    }
    assert prepared.rejected == []


def test_words_it_cant_know_are_left_out_with_a_note(listener, tiny_corpus, tmp_path):
    prepared = prepare_corpus(listener("tief", "höher"), tiny_corpus, tmp_path, nothing)
    assert {key: count.clips for key, count in prepared.counts.items()} == {("test", "tief"): 28, ("test", "höher"): 28}
    assert any("56" in note for note in prepared.notes), prepared.notes


def test_no_clip_can_be_used(listener, tmp_path):
    (tmp_path / "words" / "tief").mkdir(parents=True)
    for number in range(12):
        (tmp_path / "words" / "tief" / f"{number:02}.wav").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        prepare_corpus(listener("tief"), tmp_path / "words", tmp_path, nothing)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path / 'words'}: no clip could be used:"
    assert lines[1] == "tief/00.wav,empty: 0 bytes"
    assert len(lines) == 11


def test_no_such_corpus(listener, tmp_path):
    with pytest.raises(UserError, match="doesn't exist"):
        prepare_corpus(listener("tief"), tmp_path / "none", tmp_path, nothing)


def test_reports_on_a_file_that_comes_with_the_package_stay_out_of_it(tiny_export, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("speech_gru.subject.FOLDER", tiny_export)
    assert load_subject(tiny_export / "model.tflite").report_folder == Path("report")
    monkeypatch.setattr("speech_gru.subject.FOLDER", tmp_path)
    assert load_subject(tiny_export / "model.tflite").report_folder == tiny_export / "report"


class TestStreams:
    @pytest.fixture
    def clips(self, tiny_shards):
        """(27, 4000): the test clips."""
        return next(evaluation_batches(tiny_shards, "test", 4000, 64).as_numpy_iterator())["audio"]

    @pytest.fixture
    def file(self, tiny_stream_run):
        return tiny_stream_run / "export" / "stream.tflite"

    def test_it_begins_anew_with_each_clip(self, file, clips):
        """So it says what the clip file says; in which order and by how many the clips come is of no matter."""
        stream, whole = load_subject(file), load_subject(file.with_name("model.tflite"))
        assert (stream.labels, stream.sample_rate, stream.clip_samples) == (whole.labels, 8000, 4000)
        assert (stream.report_folder, stream.run) == (whole.report_folder, whole.run)
        expected = whole.predict(clips)
        assert len(set(expected.argmax(axis=1))) == 5
        np.testing.assert_allclose(stream.predict(clips), expected, atol=1e-4)
        parts = [stream.predict(part) for part in (clips[20:][::-1], clips[:20][::-1])]
        np.testing.assert_allclose(np.concatenate(parts)[::-1], expected, atol=1e-4)

    def test_with_its_state_kept_all_clips_are_one_stream(self, file, clips):
        stream = load_subject(file, keep_state=True)
        found = np.concatenate([stream.predict(clips[:9]), stream.predict(clips[9:])])
        said = StreamingRecognizer(file).probabilities(clips.reshape(-1))
        # Chunks of 400 samples with 56 before the first; a clip is ten chunks.
        ends = 456 + 400 * np.arange(len(said))
        last = [int((ends <= 4000 * number).sum()) - 1 for number in range(1, len(clips) + 1)]
        np.testing.assert_allclose(found, said[last], atol=1e-6)
        anew = load_subject(file).predict(clips)
        np.testing.assert_allclose(found[0], anew[0], atol=1e-6)
        assert (np.abs(found - anew).max(axis=1) > 1e-3).sum() > 20, "what was heard before has an effect"

    def test_whatever_else_has_no_state_to_keep(self, run, file):
        for path in (run, file.parent.parent, file.with_name("model.tflite")):
            with pytest.raises(UserError, match="only a streaming file has a state to keep") as caught:
                load_subject(path, keep_state=True)
            assert str(caught.value).startswith(f"{path}: ")
        with pytest.raises(UserError, match="can't be read"):
            load_subject(file.with_name("none.tflite"), keep_state=True)
