"""A corpus goes into shards whole, once, and whatever happens on the way leaves nothing half-done."""

import csv
import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tensorflow as tf
import yaml

from data_pipeline import prepare as module
from data_pipeline.corpus import SILENCE, UNKNOWN, Clip, Corpus
from data_pipeline.errors import UserError
from data_pipeline.manifest import read_manifest
from data_pipeline.prepare import prepare
from data_pipeline.settings import CorpusSettings
from data_pipeline.shards import check_shard, decode_pcm, shard_files
from data_pipeline.splits import SPLITS

RATE, SECONDS = 16000, 0.2
EXPECTED: dict[tuple[str, ...], Counter] = {}
"""By the words: what the corpus below gives in a run that is not interrupted."""
NAMES = [f"{word}/s{number}_nohash_0.wav" for word in ("yes", "no", "left") for number in range(8)]


def tone(seconds: float, rate: int, hz: float = 440) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No waiting for the disk: a power cut isn't tested here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("pristine")
    for number, name in enumerate(NAMES):
        (root / name).parent.mkdir(exist_ok=True)
        soundfile.write(root / name, tone(SECONDS, RATE, 200 + 100 * number), RATE)
    (root / "_background_noise_").mkdir()
    soundfile.write(root / "_background_noise_" / "hum.wav", tone(4, RATE, 50), RATE)
    (root / "validation_list.txt").write_text("".join(f"{name}\n" for name in NAMES if "/s6_" in name))
    (root / "testing_list.txt").write_text("".join(f"{name}\n" for name in NAMES if "/s7_" in name))
    return root


@pytest.fixture
def corpus(pristine, tmp_path) -> Path:
    """24 clips of three words by eight speakers, and 4 s of noise."""
    return shutil.copytree(pristine, tmp_path / "corpus")


@pytest.fixture
def settings(corpus, tmp_path) -> CorpusSettings:
    return CorpusSettings(path=corpus, shards=tmp_path / "shards", clip_seconds=SECONDS)


@pytest.fixture
def decoded(monkeypatch) -> list[str]:
    """What is decoded while the test runs: words and file names, and the noise recording's for a cut."""
    calls = []

    def count(function):
        def counted(path, *arguments, **options):
            calls.append("/".join(Path(path).parts[-2:]))
            return function(path, *arguments, **options)

        return counted

    monkeypatch.setattr(module, "load_audio", count(module.load_audio))
    monkeypatch.setattr(module, "read_stretch", count(module.read_stretch))
    return calls


@pytest.fixture
def small_shards(monkeypatch):
    """Eight clips a shard, so that there are five."""
    monkeypatch.setattr(module, "CLIPS_PER_SHARD", 8)


def records(shard: str) -> Iterator[bytes]:
    """A TFRecord file's records: length (8 bytes), checksum (4), record, checksum (4)."""
    data, position = Path(shard).read_bytes(), 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 8], "little")
        yield data[position + 12 : position + 12 + length]
        position += length + 16


def content(folder: Path) -> Counter:
    """All that the shards say and hold, whatever shard it is in."""
    counter = Counter()
    for split in SPLITS:
        for shard in shard_files(folder, split):
            for record in records(shard):
                features = tf.train.Example.FromString(record).features.feature
                counter[(split, *(features[name].bytes_list.value[0] for name in sorted(features)))] += 1
    return counter


def fresh(settings: CorpusSettings) -> Counter:
    """What a run in a new folder gives."""
    other = settings.model_copy(update={"shards": settings.shards.with_name("fresh")})
    prepare(other)
    return content(other.shards)


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def assert_whole(folder: Path) -> None:
    """No file is half-written: each table has a shard with its clips, and manifest.csv lists all of them or isn't."""
    finished = [shard for split in SPLITS for shard in shard_files(folder, split)]
    for shard in finished:
        rows = [row for row in module.read_rows(Path(shard).with_suffix(".csv")) if not row.reason]
        features = [tf.train.Example.FromString(record).features.feature for record in records(shard)]
        assert [row.path for row in rows] == [feature["path"].bytes_list.value[0].decode() for feature in features]
        assert check_shard(shard)[0] == len(rows)
    if (folder / "manifest.csv").is_file():
        assert sum(check_shard(shard)[0] for shard in finished) == len(list(read_manifest(folder)))


def rejected(folder: Path) -> dict[str, str]:
    with (folder / "rejected.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file)}


class TestOnce:
    def test_what_it_makes(self, settings, corpus):
        prepared = prepare(settings)
        assert prepared.labels == ("left", "no", "yes", SILENCE)
        assert (settings.shards / "labels.txt").read_text() == "left\nno\nyes\n_silence_\n"
        assert (prepared.new, prepared.rejected, rejected(settings.shards)) == (26, [], {})
        train = prepared.counts["train", "yes"]
        assert (train.clips, train.seconds, len(train.speakers)) == (6, pytest.approx(6 * SECONDS), 6)
        assert {key[0]: count.clips for key, count in prepared.counts.items() if key[1] == SILENCE} == {"train": 2}
        rows = {row.path: row for row in read_manifest(settings.shards) if row.label != SILENCE}
        assert set(rows) == set(NAMES)
        for name, row in rows.items():
            data = (corpus / name).read_bytes()
            assert (row.sha256, row.size) == (hashlib.sha256(data).hexdigest(), len(data))
        assert np.load(settings.shards / "noise.npy").shape == (4 * RATE * 0.8,)
        assert_whole(settings.shards)

    def test_the_audio_is_that_of_the_files(self, settings, corpus):
        prepare(settings)
        seen = 0
        for split in SPLITS:
            for shard in shard_files(settings.shards, split):
                for record in records(shard):
                    features = tf.train.Example.FromString(record).features.feature
                    said = {
                        name: value.bytes_list.value[0].decode() for name, value in features.items() if name != "audio"
                    }
                    if said["label"] != SILENCE:
                        pcm, _ = soundfile.read(corpus / said["path"], dtype="int16")
                        np.testing.assert_array_equal(decode_pcm(record), pcm)
                        assert said["path"] == f"{said['label']}/{said['speaker']}_nohash_0.wav"
                        seen += 1
        assert seen == len(NAMES)

    def test_silence_is_cut_from_the_noise(self, settings, corpus):
        prepare(settings)
        noise, _ = soundfile.read(corpus / "_background_noise_" / "hum.wav")
        rows = {(row.split, row.start): row for row in read_manifest(settings.shards) if row.label == SILENCE}
        cuts = [
            decode_pcm(record)
            for shard in shard_files(settings.shards, "train")
            for record in records(shard)
            if tf.train.Example.FromString(record).features.feature["label"].bytes_list.value[0] == SILENCE.encode()
        ]
        expected = [
            noise[int(row.start * RATE) :][: int(SECONDS * RATE)] * row.gain * 32768
            for row in rows.values()
            if row.split == "train"
        ]
        assert len(cuts) == len(expected) == 2
        for cut in cuts:
            assert min(np.abs(cut - wanted).max() for wanted in expected) <= 1

    def test_inputs_stay_as_they_are(self, settings, corpus):
        (corpus / "yes" / "broken.wav").write_text("text")
        before = snapshot(corpus)
        prepare(settings)
        prepare(settings)
        assert snapshot(corpus) == before

    def test_progress(self, settings, small_shards):
        calls = []
        prepare(settings, lambda *call: calls.append(call))
        assert calls == [(done, 26) for done in range(27)]
        prepare(settings, lambda *call: calls.append(call))
        assert calls[27:] == [(0, 0)]

    def test_any_number_of_threads_gives_the_same(self, settings, small_shards, monkeypatch):
        results = []
        for threads in (1, 8):
            monkeypatch.setattr(os, "cpu_count", lambda threads=threads: threads)
            folder = settings.shards.with_name(f"by {threads}")
            prepare(settings.model_copy(update={"shards": folder}))
            results.append({path.name: path.read_bytes() for path in folder.iterdir()})
        assert results[0] == results[1]

    def test_shards_hold_all_words(self, settings, monkeypatch):
        monkeypatch.setattr(module, "CLIPS_PER_SHARD", 10)
        prepare(settings)
        first = module.read_rows(settings.shards / "train-00000.csv")
        assert {row.word for row in first} >= {"yes", "no", "left"}

    def test_for_test(self, settings, tmp_path):
        prepared = prepare(settings.model_copy(update={"words": ("yes", "maybe"), "silence_share": 0}), for_test=True)
        assert prepared.labels == ("yes", UNKNOWN)
        assert {key: count.clips for key, count in prepared.counts.items()} == {
            ("test", "yes"): 8,
            ("test", UNKNOWN): 16,
        }
        assert prepared.notes == ["'maybe' is no label: it has no usable clip"]

    def test_non_ascii_all_the_way(self, tmp_path, write_clips):
        names = ["да/я_nohash_0.wav", "si\u0301/日本_nohash_0.wav", "turn  off/ä ö_nohash_0.wav"]
        prepared = prepare(CorpusSettings(path=write_clips(*names), shards=tmp_path / "шарды", silence_share=0))
        assert prepared.labels == ("sí", "turn off", "да")
        assert {row.path for row in read_manifest(tmp_path / "шарды")} == set(names)
        assert (tmp_path / "шарды" / "labels.txt").read_text(encoding="utf-8").split("\n") == [
            "sí",
            "turn off",
            "да",
            "",
        ]


def write_bad(name: str, path: Path) -> None:
    if name == "text":
        path.write_text("not a sound\n" * 100)
    elif name == "empty":
        path.touch()
    elif name == "one sample":
        soundfile.write(path, [0.5], RATE)
    elif name == "ten minutes":
        soundfile.write(path, tone(600, 8000), 8000, subtype="PCM_U8")
    elif name == "NaN":
        soundfile.write(path, np.full(RATE, np.nan), RATE, subtype="FLOAT")
    elif name == "silent":
        soundfile.write(path, np.zeros(RATE), RATE)
    elif name == "truncated":
        soundfile.write(path, tone(1, RATE), RATE)
        path.write_bytes(path.read_bytes()[:20000])
    elif name == "missing":
        path.symlink_to(path.with_name("gone.wav"))
    elif name == "fifo":
        os.mkfifo(path)


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("text", "not audio"),
            ("empty", "empty: 0 bytes"),
            ("one sample", "too short"),
            ("ten minutes", "too long: 600.00 s, at most 60 s"),
            ("NaN", "not finite"),
            ("silent", "silent"),
            ("truncated", "truncated"),
            ("missing", "missing"),
            ("fifo", "missing"),
        ],
    )
    def test_files_that_are_set_aside(self, settings, corpus, name, reason):
        path = corpus / "yes" / f"{name}.wav"
        write_bad(name, path)
        prepared = prepare(settings)
        [(rejected_path, why)] = prepared.rejected
        assert rejected_path == f"yes/{name}.wav"
        assert why.startswith(reason)
        assert rejected(settings.shards) == {rejected_path: why}
        assert {row.path for row in read_manifest(settings.shards) if row.label != SILENCE} == set(NAMES)

    @pytest.mark.parametrize(
        ("rate", "channels", "subtype"), [(8000, 1, "PCM_16"), (96000, 2, "PCM_24"), (44100, 6, "FLOAT")]
    )
    def test_other_forms_of_good_audio(self, tmp_path, rate, channels, subtype):
        (tmp_path / "corpus" / "yes").mkdir(parents=True)
        samples = np.repeat(tone(1, rate)[:, None], channels, axis=1)
        soundfile.write(tmp_path / "corpus" / "yes" / "a.wav", samples, rate, subtype=subtype)
        settings = CorpusSettings(path=tmp_path / "corpus", shards=tmp_path / "shards", silence_share=0)
        prepare(settings)
        [shard] = [shard for split in SPLITS for shard in shard_files(settings.shards, split)]
        [record] = records(shard)
        pcm = decode_pcm(record)
        assert pcm.shape == (RATE,)
        np.testing.assert_allclose(pcm[500:-500], 32768 * tone(1, RATE)[500:-500], atol=40)

    def test_a_file_that_goes_away_while_it_is_read(self, settings, corpus, monkeypatch):
        def vanish(path):
            if path.endswith("s0_nohash_0.wav"):
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
            return "0" * 64

        with monkeypatch.context() as patch:
            patch.setattr(module, "_sha256", vanish)
            assert [why[:11] for _, why in prepare(settings).rejected] == ["unreadable:"] * 3
        again = prepare(settings)  # the files are as they were, but readable now
        assert (again.new, again.rejected) == (3, [])

    def test_what_can_not_be_read_is_tried_again(self, settings, corpus, decoded):
        path = corpus / "yes" / "link.wav"
        path.symlink_to(corpus / "yes" / "target.flac")
        assert [name for name, _ in prepare(settings).rejected] == ["yes/link.wav"]
        decoded.clear()
        soundfile.write(corpus / "yes" / "target.flac", tone(1, RATE), RATE)
        assert prepare(settings).rejected == [("yes/link.wav", "misnamed: .wav, but its content is FLAC")]
        assert sorted(decoded) == ["yes/link.wav", "yes/target.flac"]

    def test_nothing_usable(self, tmp_path, write_clips):
        root = write_clips("yes/a.wav")
        (root / "yes" / "a.wav").write_text("text")
        with pytest.raises(UserError, match=r"none of the 1 clips could be used; .*rejected.csv says why"):
            prepare(CorpusSettings(path=root, shards=tmp_path / "shards"))
        assert rejected(tmp_path / "shards") == {"yes/a.wav": "not audio: expected WAV, FLAC, Ogg or MP3"}
        assert not (tmp_path / "shards" / "manifest.csv").exists()

    def test_every_row_of_a_manifest_is_accounted_for(self, settings, corpus, tmp_path):
        (corpus / "text.wav").write_text("text")
        rows = [*NAMES, NAMES[0], "gone.wav", "../x.wav", "", "text.wav"]
        (corpus / "clips.csv").write_text("path,label,speaker\n" + "".join(f"{row},yes,anna\n" for row in rows))
        prepared = prepare(settings.model_copy(update={"path": corpus / "clips.csv", "silence_share": 0}))
        assert len(list(read_manifest(settings.shards))) == len(NAMES)
        assert [path for path, _ in prepared.rejected] == ["../x.wav", "gone.wav", "line 29", "text.wav", NAMES[0]]

    def test_noise_that_can_not_be_read(self, settings, corpus):
        (corpus / "_background_noise_" / "text.wav").write_text("text")
        nan = np.full(4 * RATE, np.nan, np.float32)
        soundfile.write(corpus / "_background_noise_" / "nan.wav", nan, RATE, subtype="FLOAT")
        prepared = prepare(settings)
        notes = [note for note in prepared.notes if note.startswith("noise: ")]
        assert len(notes) == 2
        assert "text.wav left out" in notes[0]
        assert "nan.wav left out of the augmentation" in notes[1]
        assert len(prepared.rejected) == 1  # the cut from nan.wav
        assert len(np.load(settings.shards / "noise.npy")) == 4 * RATE * 0.8


class TestNotes:
    def notes(self, tmp_path, write_clips, *names: str, lists=(), **values) -> list[str]:
        root = write_clips(*names)
        for name, clips in lists:
            (root / name).write_text("\n".join(clips))
        values = {"silence_share": 0, **values}
        return prepare(CorpusSettings(path=root, shards=tmp_path / "shards", **values)).notes

    def test_a_word_with_one_clip_or_one_speaker(self, tmp_path, write_clips):
        names = [
            "yes/a_nohash_0.wav",
            "no/a_nohash_0.wav",
            "no/a_nohash_1.wav",
            "up/a_nohash_0.wav",
            "up/b_nohash_0.wav",
        ]
        notes = self.notes(tmp_path, write_clips, *names, validation_share=0, test_share=0)
        assert notes == [
            "'no' has a single speaker: how well others are recognised can't be measured",
            "'yes' has a single clip: it can be trained or tested, not both",
            "the validation split is empty",
            "the test split is empty",
        ]

    def test_a_word_that_is_only_tested(self, tmp_path, write_clips):
        names = [f"{word}/{who}_nohash_0.wav" for word in ("yes", "no") for who in "abcd"]
        lists = [("testing_list.txt", names[:4]), ("validation_list.txt", names[4:5])]
        assert "'yes' has no clip to train on" in self.notes(tmp_path, write_clips, *names, lists=lists)

    def test_a_speaker_in_two_splits(self, tmp_path, write_clips):
        names = [f"yes/{who}_nohash_{take}.wav" for who in "abcde" for take in (0, 1)]
        lists = [("testing_list.txt", names[1:9:2]), ("validation_list.txt", names[9:])]
        notes = self.notes(tmp_path, write_clips, *names, lists=lists)
        assert "5 speakers are in several splits (a, b, c, ...): figures on them will flatter" in notes

    def test_a_recording_in_two_splits(self, settings, corpus):
        (corpus / NAMES[7]).write_bytes((corpus / NAMES[0]).read_bytes())
        assert any(note.startswith("1 recordings are in two splits") for note in prepare(settings).notes)

    def test_a_word_without_a_usable_clip(self, settings, corpus):
        for path in (corpus / "no").iterdir():
            path.write_text("text")
        prepared = prepare(settings)
        assert prepared.labels == ("left", "yes", SILENCE)
        assert "'no' is no label: it has no usable clip" in prepared.notes


class TestAgain:
    def test_nothing_new(self, settings, decoded):
        first = prepare(settings)
        before = {path: path.stat().st_mtime_ns for path in settings.shards.glob("*.tfrecord")}
        decoded.clear()
        second = prepare(settings)
        assert (second.new, decoded) == (0, [])
        assert (second.labels, second.counts, second.notes) == (first.labels, first.counts, first.notes)
        assert {path: path.stat().st_mtime_ns for path in settings.shards.glob("*.tfrecord")} == before

    @pytest.mark.usefixtures("small_shards")
    def test_an_added_file(self, settings, write_clips, decoded):
        prepare(settings)
        before = {path.name: path.read_bytes() for path in settings.shards.glob("*.tfrecord")}
        decoded.clear()
        write_clips("yes/s9_nohash_0.wav", seconds=SECONDS)
        assert prepare(settings).new == 1
        assert decoded == ["yes/s9_nohash_0.wav"]
        assert before.items() <= {path.name: path.read_bytes() for path in settings.shards.glob("*.tfrecord")}.items()
        assert content(settings.shards) == fresh(settings)

    def test_a_changed_file(self, settings, corpus, decoded):
        prepare(settings)
        decoded.clear()
        soundfile.write(corpus / "no" / "s3_nohash_0.wav", tone(0.3, RATE), RATE)
        prepare(settings)
        assert decoded == ["no/s3_nohash_0.wav"]
        assert content(settings.shards) == fresh(settings)
        assert_whole(settings.shards)

    def test_a_removed_file(self, settings, corpus, decoded):
        prepare(settings)
        decoded.clear()
        (corpus / "no" / "s3_nohash_0.wav").unlink()
        prepared = prepare(settings)
        assert decoded == []
        assert prepared.counts["train", "no"].clips == 5
        assert content(settings.shards) == fresh(settings)
        assert_whole(settings.shards)

    def test_a_bad_file_that_is_mended(self, settings, corpus, decoded):
        path = corpus / "no" / "s3_nohash_0.wav"
        good = path.read_bytes()
        path.write_text("text")
        assert len(prepare(settings).rejected) == 1
        decoded.clear()
        path.write_bytes(good)
        assert prepare(settings).rejected == []
        assert decoded == ["no/s3_nohash_0.wav"]
        assert content(settings.shards) == fresh(settings)

    def test_a_changed_list_of_words_relabels_without_decoding(self, settings, corpus, decoded):
        (corpus / "no" / "s3_nohash_0.wav").write_text("text")
        rejected_before = prepare(settings).rejected
        decoded.clear()
        settings = settings.model_copy(update={"words": ("yes",)})
        prepared = prepare(settings)
        assert decoded == []
        assert prepared.labels == ("yes", UNKNOWN, SILENCE)
        assert prepared.counts["train", UNKNOWN].clips == 11
        assert [name for name, _ in prepared.rejected] == ["no/s3_nohash_0.wav"]
        assert prepared.rejected == rejected_before
        assert content(settings.shards) == fresh(settings)
        assert_whole(settings.shards)

    def test_a_changed_split_list(self, settings, corpus, decoded):
        prepare(settings)
        decoded.clear()
        (corpus / "testing_list.txt").write_text("yes/s0_nohash_0.wav\n")
        prepare(settings)
        assert set(decoded) >= {"yes/s0_nohash_0.wav", "yes/s7_nohash_0.wav", "no/s7_nohash_0.wav"}
        assert "yes/s1_nohash_0.wav" not in decoded
        assert content(settings.shards) == fresh(settings)

    def test_a_changed_share_of_silence(self, settings, decoded):
        prepare(settings)
        decoded.clear()
        settings = settings.model_copy(update={"silence_share": 0.5})
        assert prepare(settings).counts["train", SILENCE].clips == 18
        assert set(decoded) == {"_background_noise_/hum.wav"}
        assert content(settings.shards) == fresh(settings)

    @pytest.mark.parametrize("change", [{"clip_seconds": 0.1}, {"sample_rate": 8000}, {"max_seconds": 30.0}])
    def test_changed_settings_of_the_audio(self, settings, decoded, change):
        prepare(settings)
        decoded.clear()
        settings = settings.model_copy(update=change)
        assert prepare(settings).new == len(decoded) == 26
        assert content(settings.shards) == fresh(settings)

    def test_another_version_of_the_shards(self, settings, decoded, monkeypatch):
        prepare(settings)
        decoded.clear()
        monkeypatch.setattr(module, "FORMAT", module.FORMAT + 1)
        prepare(settings)
        assert len(decoded) == 26

    @pytest.mark.usefixtures("small_shards")
    @pytest.mark.parametrize("words", [(), ("no",)])
    @pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "gone", "table cut", "table of another"])
    def test_a_damaged_shard_is_made_anew(self, settings, decoded, damage, words):
        prepare(settings)
        decoded.clear()
        shard = settings.shards / "train-00001.tfrecord"
        table, data = shard.with_suffix(".csv"), bytearray(shard.read_bytes())
        names = {row.path for row in module.read_rows(table)}
        data[len(data) // 2] ^= 1
        if damage == "table cut":
            table.write_bytes(table.read_bytes()[:-60])
        elif damage == "table of another":
            table.write_text("path,label\n")
        elif damage == "gone":
            shard.unlink()
        else:
            shard.write_bytes({"cut": data[:-9], "emptied": b"", "flipped": data}[damage])
        prepared = prepare(settings.model_copy(update={"words": words}))
        if damage == "flipped" and not words:
            return  # unseen until it is read: looking at every byte would make each second run as slow as training
        assert set(decoded) == {"/".join(name.split("/")[-2:]) for name in names}
        assert prepared.new == 8
        assert_whole(settings.shards)

    def test_repeated_changes_leave_no_rubbish(self, settings):
        for words in ((), ("yes",), ("no", "yes"), ()):
            settings = settings.model_copy(update={"words": words})
            prepare(settings)
        assert content(settings.shards) == fresh(settings)
        names = {path.name for path in settings.shards.iterdir()}
        assert names == {path.name for path in settings.shards.with_name("fresh").iterdir()}


def interrupted_rename(number: int, after: bool) -> Callable:
    """In place of Path.replace: Ctrl-C before or after the rename of that number."""
    targets, replace = [], Path.replace

    def interrupt(self, target):
        targets.append(target)
        if len(targets) - 1 != number:
            return replace(self, target)
        if after:
            replace(self, target)
        raise KeyboardInterrupt

    return interrupt


@pytest.mark.usefixtures("small_shards")
class TestInterrupted:
    def finish(self, settings: CorpusSettings, decoded: list[str]) -> None:
        """Runs again, and checks that only what was missing is decoded."""
        assert_whole(settings.shards)
        ready = sum(check_shard(shard)[0] for split in SPLITS for shard in shard_files(settings.shards, split))
        decoded.clear()
        prepared = prepare(settings)
        assert prepared.new == len(decoded) == 26 - ready
        if settings.words not in EXPECTED:
            EXPECTED[settings.words] = fresh(settings)
        assert content(settings.shards) == EXPECTED[settings.words]
        assert not [path for path in settings.shards.iterdir() if path.suffix == ".tmp"]
        assert_whole(settings.shards)

    @pytest.mark.parametrize("clip", [0, 1, 2, 9, 26])
    def test_by_ctrl_c_at_any_clip(self, settings, decoded, clip):
        def interrupt(done: int, total: int) -> None:
            if done == clip:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            prepare(settings, interrupt)
        self.finish(settings, decoded)

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("rename", [0, 1, 2, 7, 11, 12, 13, 14, 15, 16])
    def test_at_any_rename(self, settings, decoded, monkeypatch, rename, after):
        """They are 17: settings.json, 5 shards and their tables, two of samples, corpus.json, three tables of all."""
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", interrupted_rename(rename, after))
            with pytest.raises(KeyboardInterrupt):
                prepare(settings)
        self.finish(settings, decoded)

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("rename", [0, 1, 4])
    @pytest.mark.parametrize("back", [False, True])
    def test_while_labels_change(self, settings, decoded, monkeypatch, rename, after, back):
        """And whether the user then goes on or goes back."""
        prepare(settings)
        changed = settings.model_copy(update={"words": ("yes",)})
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", interrupted_rename(rename, after))
            with pytest.raises(KeyboardInterrupt):
                prepare(changed)
        self.finish(settings if back else changed, decoded)

    def test_by_a_failure_in_one_thread(self, settings, decoded, monkeypatch):
        encode, calls = module.encode_clip, []

        def fail(pcm, **said):
            calls.append(said["path"])
            if len(calls) == 6:
                raise RuntimeError("a bug")
            time.sleep(0.1)
            return encode(pcm, **said)

        with monkeypatch.context() as patch:
            patch.setattr(module, "encode_clip", fail)
            with pytest.raises(RuntimeError, match="a bug"):
                prepare(settings)
        assert len(calls) < 11  # the other threads stopped
        self.finish(settings, decoded)

    def test_leftovers_of_a_killed_run(self, settings, decoded):
        settings.shards.mkdir()
        for name in (".settings.json.77.tmp", ".train-00000.tfrecord.77.tmp"):
            (settings.shards / name).write_text("half")
        self.finish(settings, decoded)

    def test_by_signals(self, settings, corpus, tmp_path, decoded):
        """Ctrl-C and SIGKILL in the midst of the command itself, while it writes."""
        program = (
            "import os, time\n"
            "from data_pipeline import prepare\n"
            "load = prepare.load_audio\n"
            "prepare.CLIPS_PER_SHARD, decoded = 8, []\n"
            "def slow(path, *arguments, **options):\n"
            "    decoded.append(path)\n"
            "    if len(decoded) > 16: os.write(1, b'ready\\n'); time.sleep(2)\n"
            "    return load(path, *arguments, **options)\n"
            "prepare.load_audio = slow\n"
            "from speech_gru.cli import main\n"
            "main()\n"
        )
        runs = []
        for number in (signal.SIGKILL, signal.SIGINT):
            folder, config = tmp_path / number.name, tmp_path / f"{number.name}.yaml"
            values = {"path": str(corpus), "shards": str(folder), "clip_seconds": SECONDS}
            config.write_text(yaml.safe_dump({"corpus": values}))
            command = [sys.executable, "-c", program, "prepare", str(config)]
            root = Path(module.__file__).parents[1]
            run = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            runs.append((number, folder, run))
        for number, _, run in runs:
            with run:
                assert run.stdout.readline() == "ready\n"
                run.send_signal(number)
                _, errors = run.communicate(timeout=60)
            assert run.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
            assert ("speech-gru: interrupted" in errors) == (number == signal.SIGINT)
            assert "Traceback" not in errors
        for number, folder, _ in runs:
            assert bool(list(folder.glob(".*.tmp"))) == (number == signal.SIGKILL)
            self.finish(settings.model_copy(update={"shards": folder}), decoded)


class TestFolder:
    @pytest.mark.parametrize("below", ["", "deeper/down"])
    def test_a_file_in_its_place(self, settings, tmp_path, below):
        (tmp_path / "taken").write_text("mine")
        with pytest.raises(UserError, match="taken"):
            prepare(settings.model_copy(update={"shards": tmp_path / "taken" / below}))
        assert (tmp_path / "taken").read_text() == "mine"

    def test_a_folder_with_other_things(self, settings, decoded):
        settings.shards.mkdir()
        (settings.shards / "train-00000.csv").write_text("mine")
        with pytest.raises(UserError, match="holds other files; give an empty or a new folder"):
            prepare(settings)
        assert decoded == []
        assert [path.read_text() for path in settings.shards.iterdir()] == ["mine"]

    def test_files_of_others_in_the_folder_stay(self, settings):
        prepare(settings)
        for name in ("notes.txt", "notes.csv", "train.csv", "my.tmp", ".hidden"):
            (settings.shards / name).write_text("mine")
        prepare(settings.model_copy(update={"clip_seconds": 0.1}))
        for name in ("notes.txt", "notes.csv", "train.csv", "my.tmp", ".hidden"):
            assert (settings.shards / name).read_text() == "mine"

    @pytest.mark.parametrize("inner", ["", "shards", "yes/shards"])
    def test_a_folder_in_the_corpus(self, settings, corpus, inner):
        before = snapshot(corpus)
        with pytest.raises(UserError, match="lies in the corpus"):
            prepare(settings.model_copy(update={"shards": corpus / inner}))
        assert snapshot(corpus) == before

    def test_a_full_disk(self, settings, monkeypatch):
        """The shard's temporary file leads to /dev/full, which takes nothing."""
        prepare(settings)
        (settings.shards / "train-00000.csv").unlink()
        (settings.shards / f".train-00000.tfrecord.{os.getpid()}.tmp").symlink_to("/dev/full")
        with monkeypatch.context() as patch:
            patch.setattr(module, "_finished_shards", lambda *arguments: [])  # which would delete it
            with pytest.raises(UserError, match=r"train-00000.tfrecord can't be written: .*No space left on device"):
                prepare(settings)
        assert not (settings.shards / "manifest.csv").exists()
        prepare(settings)
        assert_whole(settings.shards)

    @pytest.mark.parametrize("name", ["settings.json", "train-00000.csv", "noise.npy", "manifest.csv"])
    def test_a_disk_that_fills_up(self, settings, name, monkeypatch):
        replace = Path.replace

        def fill(self, target):
            if Path(target).name == name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self))
            return replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", fill)
            with pytest.raises(UserError, match=f"{name} can't be written: No space left on device"):
                prepare(settings)
        assert not (settings.shards / "manifest.csv").exists()
        prepare(settings)
        assert_whole(settings.shards)

    def test_a_folder_that_can_not_be_listed(self, settings, monkeypatch):
        def refuse(self):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

        settings.shards.mkdir()
        monkeypatch.setattr(Path, "iterdir", refuse)
        with pytest.raises(UserError, match="shards: Permission denied"):
            prepare(settings)


def test_memory_grows_by_a_row_a_clip(tmp_path, monkeypatch):
    """Of a clip no more stays than its row; its audio, 20 kB here, doesn't."""

    def peak(clips: int) -> int:
        def read_corpus(settings, for_test):
            made = (f"yes/speaker{number}_nohash_0.wav" for number in range(clips))
            return Corpus(
                tmp_path, [Clip(name, "yes", "train", name[4:-13], "yes", "yes") for name in made], ("yes",), {}
            )

        monkeypatch.setattr(module, "read_corpus", read_corpus)
        tracemalloc.start()
        prepare(CorpusSettings(path="corpus", shards=tmp_path / str(clips), clip_seconds=0.625))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    monkeypatch.setattr(module, "CLIPS_PER_SHARD", 64)
    monkeypatch.setattr(module, "load_audio", lambda path, rate, **limits: np.full(rate // 2, 0.1, np.float32))
    monkeypatch.setattr(module, "_sha256", lambda path: hashlib.sha256(path.encode()).hexdigest())
    few, many = peak(100), peak(1100)
    assert (many - few) / 1000 < 2000


def test_real_speech(shared_data, tmp_path):
    """Two words of the shared corpus, in Opus, with its own noise."""
    names = ("wow", "dog", "_background_noise_")
    for name in names:
        shutil.copytree(shared_data / "speech_commands" / name, tmp_path / "corpus" / name)
    prepared = prepare(CorpusSettings(path=tmp_path / "corpus", shards=tmp_path / "shards"))
    clips = [path for name in names[:2] for path in (tmp_path / "corpus" / name).iterdir()]
    rows = list(read_manifest(tmp_path / "shards"))
    assert sum(row.label != SILENCE for row in rows) == len(clips) - len(prepared.rejected)
    assert {row.label for row in rows} == {"wow", "dog", SILENCE}
    assert all(0.2 < row.seconds <= 1.1 for row in rows)
    assert_whole(tmp_path / "shards")


class TestPhrases:
    """Clips with texts: lengths are kept, and the token table is made of the training texts."""

    ROWS = (
        ("a.wav", "licht an", "anna", "train", 0.5),
        ("b.wav", "licht  aus", "bert", "train", 0.3),
        ("c.wav", "höher an", "cleo", "validation", 0.7),
        ("d.wav", "höher an", "dora", "test", 0.4),
        ("e.wav", "an an", "emil", "train", 1.2),
    )
    """Path, text, speaker, split, seconds; the last is too long."""

    @pytest.fixture
    def write(self, tmp_path) -> Callable[..., CorpusSettings]:
        def write(kind: str, rows=self.ROWS, **settings) -> CorpusSettings:
            folder = tmp_path / "corpus"
            folder.mkdir(exist_ok=True)
            for name, _, _, _, seconds in rows:
                if not (folder / name).is_file():
                    soundfile.write(folder / name, tone(seconds, RATE), RATE)
            with (folder / "texts.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([("path", "text", "speaker", "split"), *(row[:4] for row in rows)])
            settings = {"clip_seconds": 1, "silence_share": 0, **settings}
            return CorpusSettings(path=folder / "texts.csv", shards=tmp_path / "shards", tokens=kind, **settings)

        return write

    def labels(self, settings) -> list[str]:
        return (settings.shards / "labels.txt").read_text(encoding="utf-8").split("\n")

    def held(self, settings) -> dict[str, tuple[str, str, int]]:
        """By path: split, text, samples of all clips in the shards."""
        found = {}
        for split, audio, label, path, _, text in content(settings.shards):
            assert label == b"_phrase_"
            found[path.decode()] = split, text.decode(), len(audio) // 2
        return found

    @pytest.mark.parametrize(
        ("kind", "table"), [("words", ["", "an", "aus", "licht"]), ("characters", ["", *" achilnstu"])]
    )
    def test_clips_texts_and_tokens(self, write, kind, table):
        settings = write(kind)
        prepared = prepare(settings)
        assert self.held(settings) == {
            "a.wav": ("train", "licht an", RATE // 2),
            "b.wav": ("train", "licht aus", RATE * 3 // 10),
            "c.wav": ("validation", "höher an", RATE * 7 // 10),
            "d.wav": ("test", "höher an", RATE * 4 // 10),
        }
        assert self.labels(settings) == [*table, ""]
        assert prepared.rejected == [("e.wav", "too long: 1.20 s, at most 1 s are allowed")]
        missing = {"words": "'höher' (2)", "characters": "'e' (2), 'r' (2), 'ö' (2)"}[kind]
        [note] = [note for note in prepared.notes if "can't be recognised" in note]
        assert Counter(note.partition(": ")[2].split(", ")) == Counter(missing.split(", "))
        assert note.startswith(f"no training clip has these {kind}")
        assert {key: count.clips for key, count in prepared.counts.items()} == {
            ("train", "_phrase_"): 2,
            ("validation", "_phrase_"): 1,
            ("test", "_phrase_"): 1,
        }

    def test_phonemes(self, write):
        pytest.importorskip("espeakng_loader", reason="needs the extra [synth]")
        rows = (
            ("a.wav", "church", "anna", "train", 0.5),
            ("b.wav", "...", "bert", "train", 0.5),
            ("c.wav", "judge", "cleo", "validation", 0.5),
        )
        settings = write("phonemes", rows, language="en-gb", silence_share=0.4)
        prepared = prepare(settings)
        assert self.labels(settings) == ["", "tʃ", "ɜː", ""]
        assert {path: text for path, (_, text, _) in self.held(settings).items()} == {
            "a.wav": "tʃ ɜː tʃ",
            "c.wav": "dʒ ʌ dʒ",
        }
        assert prepared.rejected == [("b.wav", "its text has no phonemes: '...'")]
        assert any("these phonemes, which can't be recognised: 'dʒ' (2), 'ʌ' (1)" in note for note in prepared.notes)

    def test_a_second_run_decodes_nothing(self, write, decoded):
        settings = write("characters")
        assert prepare(settings).new == len(decoded) == 5
        again = prepare(settings)
        assert (again.new, len(decoded)) == (0, 5)
        assert again.rejected == [("e.wav", "too long: 1.20 s, at most 1 s are allowed")]

    def test_a_text_that_changes_is_changed_without_decoding(self, write, decoded):
        prepare(write("words"))
        rows = [(name, "höher aus" if name == "b.wav" else text, *rest) for name, text, *rest in self.ROWS]
        settings = write("words", rows)
        before = len(decoded)
        prepared = prepare(settings)
        assert (prepared.new, len(decoded)) == (0, before)
        assert self.held(settings)["b.wav"] == ("train", "höher aus", RATE * 3 // 10)
        assert self.labels(settings) == ["", "an", "aus", "höher", "licht", ""]
        assert not [note for note in prepared.notes if "recognised" in note]

    def test_another_kind_of_token_decodes_nothing(self, write):
        prepare(write("words"))
        settings = write("characters")
        assert prepare(settings).new == 0
        assert " " in self.labels(settings)

    def test_clips_of_words_are_not_phrases(self, write):
        """Fitted to one length there, they are decoded again."""
        prepare(write("words"))
        assert prepare(write(None)).new == 5

    def test_longer_clips_once_they_may_be(self, write):
        prepare(write("words"))
        settings = write("words", clip_seconds=2)
        assert prepare(settings).rejected == []
        assert self.held(settings)["e.wav"] == ("train", "an an", RATE * 12 // 10)
        assert prepare(write("words", clip_seconds=2, max_seconds=1)).rejected[0][1].endswith("at most 1 s are allowed")

    def test_speakers_in_the_splits_that_the_settings_say(self, write):
        settings = write("words", validation_speakers=["anna"], test_speakers=["cleo"])
        prepare(settings)
        splits = {path: split for path, (split, _, _) in self.held(settings).items()}
        assert splits == {"a.wav": "validation", "b.wav": "train", "c.wav": "test", "d.wav": "test"}

    def test_speakers_that_are_not_there(self, write):
        with pytest.raises(UserError, match="test_speakers: the corpus has no clip of nina, nora"):
            prepare(write("words", test_speakers=["nora", "nina", "anna"]))

    def test_silence_keeps_its_length_too(self, write, tmp_path):
        write("words")
        (tmp_path / "corpus" / "_background_noise_").mkdir()
        soundfile.write(tmp_path / "corpus" / "_background_noise_" / "n.wav", tone(30, RATE), RATE)
        rows = (*self.ROWS, ("s.wav", "_silence_", "sara", "train", 0.25))
        settings = write("words", rows, silence_share=0.5)
        prepare(settings)
        silent = [
            (text, len(audio) // 2) for _, audio, label, _, _, text in content(settings.shards) if label != b"_phrase_"
        ]
        assert sorted(silent) == [(b"", RATE // 4)] + [(b"", RATE)] * (len(silent) - 1)
        assert len(silent) > 2
        assert self.labels(settings) == ["", "an", "aus", "licht", ""]

    def test_speech_without_a_text_is_left_out(self, write):
        prepared = prepare(write("characters", (*self.ROWS, ("u.wav", "_unknown_", "uwe", "train", 0.25))))
        assert "1 clips of _unknown_ left out: nothing says what is spoken there" in prepared.notes
        assert sum(count.clips for count in prepared.counts.values()) == 4

    def test_for_a_test_the_table_is_of_all_texts(self, write):
        settings = write("words")
        prepared = prepare(settings, for_test=True)
        assert self.labels(settings) == ["", "an", "aus", "höher", "licht", ""]
        assert {split for split, _ in prepared.counts} == {"test"}


def test_clips_of_another_corpus_train_too(settings, corpus, tmp_path):
    more = shutil.copytree(corpus / "yes", tmp_path / "more" / "yes").parent
    (more / "yes" / "broken.wav").write_bytes(b"no audio")
    prepare(settings)
    both = settings.model_copy(update={"train_also": (more,)})
    prepare(both)
    added = {row.path: row for row in read_manifest(both.shards) if row.path.startswith("../")}
    assert added.keys() == {f"../more/yes/{path.name}" for path in (corpus / "yes").iterdir()}
    assert {(row.split, row.label) for row in added.values()} == {("train", "yes")}
    assert {clip[0] for clip in content(both.shards) - fresh(settings)} == {"train"}
    assert content(both.shards) == fresh(both)
    assert "../more/yes/broken.wav" in rejected(both.shards)
    assert prepare(both).new == 0
    with pytest.raises(UserError, match="lies in the corpus"):
        prepare(both.model_copy(update={"shards": more / "shards"}))


def test_a_word_that_is_never_measured_is_told(settings, tmp_path, write_clips):
    more = write_clips("stop/x_nohash_0.wav", "stop/y_nohash_0.wav", folder="more")
    words = ("yes", "no", "left", "stop")
    notes = prepare(settings.model_copy(update={"train_also": (more,), "words": words})).notes
    assert "'stop' has clips to train on alone: how well it is recognised can't be measured" in notes
