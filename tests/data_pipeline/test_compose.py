"""Phrases of words' clips: seen in clips of sines, a frequency a word, so that each says where it went."""

import csv
from collections import Counter

import numpy as np
import pytest
import soundfile
import tensorflow as tf

from data_pipeline.clip_index import ClipIndex
from data_pipeline.compose import ComposedPhrases, add_noise, audible, split_noise, write_phrases
from data_pipeline.errors import UserError
from data_pipeline.labels import SILENCE, UNKNOWN
from data_pipeline.manifest import Row, write_rows
from data_pipeline.settings import ComposeSettings, CorpusSettings
from data_pipeline.shards import encode_clip

RATE = 8000
HERTZ = {"an": 500, "aus": 1000, "licht": 2000, UNKNOWN: 3000}
"""What a word's clips sound like."""


def sine(hertz: float, seconds: float, amplitude: float = 0.25) -> np.ndarray:
    """int16 (samples,)."""
    time = np.arange(round(seconds * RATE)) / RATE
    return np.round(32767 * amplitude * np.sin(2 * np.pi * hertz * time)).astype(np.int16)


def word_clip(label: str, number: int) -> np.ndarray:
    """1 s, of which 0.2 s from 0.3 s on are a sine: (samples,) int16."""
    clip = np.zeros(RATE, np.int16)
    clip[int(0.3 * RATE) : int(0.5 * RATE)] = sine(HERTZ[label], 0.2, 0.05 * (number + 1))
    return clip


def hum() -> np.ndarray:
    return sine(50, 1, 0.001)


def write_shards(folder, labels, split="train", clips=3):
    """Shards of so many clips of each label."""
    path = folder / f"{split}-00000.tfrecord"
    folder.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        rows = []
        for label in labels:
            for number in range(clips):
                pcm = hum() if label == SILENCE else word_clip(label if label in HERTZ else "an", number)
                name = f"{label}/{number}.wav"
                writer.write(encode_clip(pcm, label=label, text="", speaker="", path=name))
                rows.append(Row(name, label, split, label=label, seconds=1))
    write_rows(path.with_suffix(".csv"), rows)
    write_rows(folder / "manifest.csv", rows)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_shards(tmp_path_factory.mktemp("compose") / "shards", [*HERTZ, SILENCE])


def compose(shards, count=50, seed=0, **settings) -> ComposedPhrases:
    settings = {"unknown_probability": 0, **settings}
    return ComposedPhrases(ClipIndex(shards, "train"), ComposeSettings(**settings), RATE, seed, count)


def heard(audio: np.ndarray) -> list[str]:
    """The words in a phrase, by the strongest frequency of each stretch that isn't silent."""
    loud = np.abs(audio.astype(float)) > 100
    # A sine passes zero: a stretch ends where 20 ms are quiet.
    places = np.flatnonzero(loud)
    stretches = np.split(places, np.flatnonzero(np.diff(places) > 0.02 * RATE) + 1) if len(places) else []
    words = []
    for stretch in stretches:
        part = audio[stretch[0] : stretch[-1] + 1].astype(float)
        hertz = np.abs(np.fft.rfft(part * np.hanning(len(part)))).argmax() * RATE / len(part)
        words.append(min(HERTZ, key=lambda label: abs(HERTZ[label] - hertz)))
    return words


class TestAudible:
    def test_the_word_with_50_ms_around_it(self):
        clip = np.zeros(RATE, np.float32)
        clip[2400:4000] = sine(500, 0.2)
        word = audible(clip, RATE)
        assert len(word) == 1600 + 2 * 400
        np.testing.assert_array_equal(word[400:2000], clip[2400:4000])
        assert not word[:400].any()

    @pytest.mark.parametrize(("below_db", "is_kept"), [(24, True), (26, False)])
    def test_what_is_25_db_below_the_loudest_is_not_heard(self, below_db, is_kept):
        clip = sine(500, 1, 0.5 * 10 ** (-below_db / 20)).astype(np.float32)
        clip[4000:4800] = sine(500, 0.1, 0.5)
        assert len(audible(clip, RATE)) == (8000 if is_kept else 800 + 2 * 400)

    def test_faded_in_and_out(self):
        word = audible(np.full(RATE, 1000, np.float32), RATE)
        assert len(word) == RATE
        np.testing.assert_allclose(word[:80], np.linspace(0, 1000, 80), rtol=1e-5)
        np.testing.assert_allclose(word[-80:], np.linspace(1000, 0, 80), rtol=1e-5)
        assert (word[80:-80] == 1000).all()

    def test_the_clip_itself_is_left_as_it_is(self):
        clip = np.full(RATE, 1000, np.float32)
        audible(clip, RATE)
        assert (clip == 1000).all()

    @pytest.mark.parametrize("samples", [0, 1, 79, 80, 81, 200])
    def test_clips_that_are_short_or_silent(self, samples):
        assert len(audible(np.zeros(samples, np.float32), RATE)) == samples


class TestPhrases:
    def test_what_is_heard_is_what_the_text_says(self, shards):
        phrases = compose(shards, words=(1, 4), gap_ms=(50, 300))
        for number in range(len(phrases)):
            audio, text, origin = phrases.read(0, number)
            assert audio.dtype == np.int16
            assert heard(audio) == text.split() == [path.split("/")[0] for path in origin.split()]
            assert phrases.size(0, number) == len(text.split())

    def test_a_function_of_seed_epoch_and_number(self, shards):
        first, again = compose(shards, seed=3), compose(shards, seed=3)
        audio, *said = first.read(1, 7)
        first.read(0, 0)
        same, *said_again = again.read(1, 7)
        np.testing.assert_array_equal(audio, same)
        assert said == said_again
        others = [compose(shards, seed=4).read(1, 7), first.read(2, 7), first.read(1, 8)]
        assert all(len(audio) != len(other) or (audio != other).any() for other, _, _ in others)

    def test_each_word_is_as_likely_however_many_clips_it_has(self, tmp_path):
        folder = write_shards(tmp_path / "shards", ["an"], clips=30)
        write_shards(folder, ["aus"], split="more", clips=1)
        for suffix in (".tfrecord", ".csv"):
            (folder / f"more-00000{suffix}").rename(folder / f"train-00001{suffix}")
        phrases = compose(folder, words=(4, 4))
        counts = Counter(" ".join(phrases.read(0, number)[1] for number in range(250)).split())
        assert counts.total() == 1000
        assert abs(counts["an"] - 500) < 5 * np.sqrt(250)

    def test_how_many_words(self, shards):
        counts = Counter(len(compose(shards, words=(2, 4)).read(0, number)[1].split()) for number in range(600))
        assert set(counts) == {2, 3, 4}
        assert all(abs(count - 200) < 5 * np.sqrt(600 * 2 / 9) for count in counts.values())

    def test_silence_is_as_loud_as_its_clip(self, shards):
        phrases = compose(shards, words=(0, 1), gap_ms=(0, 0))
        drawn = [phrases.read(0, number) for number in range(40)]
        silent = [audio for audio, text, _ in drawn if not text]
        assert 5 < len(silent) < 35
        edge = np.zeros(RATE // 10)
        for audio in silent:
            np.testing.assert_array_equal(audio, np.concatenate([edge, hum(), edge]))

    def test_silence_of_a_corpus_without_any(self, tmp_path):
        phrases = compose(write_shards(tmp_path / "shards", ["an"]), words=(0, 1), gap_ms=(100, 100))
        silent = [audio for audio, text, _ in (phrases.read(0, number) for number in range(20)) if not text]
        assert silent
        for audio in silent:
            np.testing.assert_array_equal(audio, np.zeros(RATE))

    def test_other_speech_has_no_text(self, shards):
        phrases = compose(shards, words=(3, 3), gap_ms=(50, 50), unknown_probability=0.3)
        unknown = 0
        for number in range(200):
            audio, text, _ = phrases.read(0, number)
            words = heard(audio)
            unknown += words.count(UNKNOWN)
            assert text.split() == [word for word in words if word != UNKNOWN]
            assert len(words) == phrases.size(0, number) == 3
        assert abs(unknown - 180) < 5 * np.sqrt(600 * 0.3 * 0.7)

    def test_no_other_speech_in_the_corpus(self, tmp_path):
        phrases = compose(write_shards(tmp_path / "shards", ["an"]), words=(2, 2), unknown_probability=1)
        assert phrases.read(0, 0)[1] == "an an"

    def test_levels(self, shards):
        """A clip is cut to 0.2 s of sine with 50 ms of zeros on both sides: its mean power is 2/3 of the sine's."""
        low, high = -6.0, 6.0
        phrases = compose(shards, words=(1, 1), gap_ms=(0, 0), level_db=(low, high))
        edge, levels = RATE // 10, []
        for number in range(200):
            audio = phrases.read(0, number)[0][edge:-edge].astype(float)
            assert len(audio) == round(0.3 * RATE)
            levels.append(20 * np.log10(np.sqrt(np.mean(audio**2)) / 32768 / 0.05))
        assert low - 0.05 < min(levels) < low + 0.5
        assert high - 0.5 < max(levels) < high + 0.05
        assert abs(np.mean(levels)) < 5 * (high - low) / np.sqrt(12 * 200)

    def test_gaps(self, shards):
        """Three gaps, each 100 to 300 ms; two words of 0.3 s, 0.1 s before and after."""
        phrases = compose(shards, words=(2, 2), gap_ms=(100, 300))
        seconds = [len(phrases.read(0, number)[0]) / RATE - 0.8 for number in range(300)]
        assert 0.3 <= min(seconds) < 0.4
        assert 0.8 < max(seconds) <= 0.9 + 2 / RATE
        assert abs(np.mean(seconds) - 0.6) < 5 * np.sqrt(3 * 0.2**2 / 12 / 300)

    def test_no_words(self, tmp_path):
        with pytest.raises(UserError, match="no clips of words; expected a folder a word"):
            compose(write_shards(tmp_path / "shards", [SILENCE]))

    def test_a_label_of_two_words(self, tmp_path):
        with pytest.raises(UserError, match="got 'licht an', several words of a phrase; call it 'licht-an'"):
            compose(write_shards(tmp_path / "shards", ["an", "licht an"]))


class TestGrammar:
    def test_its_sentences_are_said(self, shards):
        grammar = {"befehl": ("licht <schalter>", "an [an]"), "schalter": ("an", "aus")}
        phrases = compose(shards, grammar=grammar, words=(2, 2), gap_ms=(50, 100))
        drawn = [phrases.read(0, number) for number in range(120)]
        assert {text for _, text, _ in drawn} == {"licht an", "licht aus", "an", "an an"}
        assert all(heard(audio) == text.split() for audio, text, _ in drawn)
        assert phrases.read(1, 5)[1:] == compose(shards, grammar=grammar).read(1, 5)[1:]

    def test_other_speech_in_a_word_s_place(self, shards):
        phrases = compose(shards, grammar={"a": ("licht an",)}, unknown_probability=0.5, gap_ms=(50, 100))
        assert {phrases.read(0, number)[1] for number in range(60)} == {"licht an", "licht", "an", ""}

    def test_a_sentence_without_words_is_silence(self, shards):
        phrases = compose(shards, grammar={"a": ("[an]",)})
        assert {phrases.read(0, number)[2].split("/")[0] for number in range(60)} == {"an", SILENCE}

    def test_letters_in_two_parts_are_the_same(self, tmp_path):
        folder = write_shards(tmp_path / "shards", ["höher"])
        phrases = compose(folder, grammar={"gro\u0308ße": ("<größe2>",), "gr\u00f6ße2": ("ho\u0308her",)})
        assert phrases.read(0, 0)[1] == "höher"

    @pytest.mark.parametrize(
        ("grammar", "message"),
        [
            ({}, "expected a rule at least, got none"),
            ({"a": ()}, "rule <a>: expected a list of alternatives"),
            ({"a": ("licht <b>",)}, "rule <a> refers to <b>"),
            ({"a": ("licht [<a>]",)}, ".* got <a> -> <a>"),
            ({"a": ("an",), "b": ("aus [",)}, "rule <b>: .* each bracket closed"),
            ({"a": ("an [lihct]",)}, "no train clip is of the word 'lihct'; the nearest is 'licht'"),
            ({"a": ("an",), "b": ("xyz",)}, "no train clip is of the word 'xyz'; it has: an, aus, licht"),
            ({"a": (UNKNOWN,)}, "no train clip is of the word '_unknown_'"),
        ],
    )
    def test_is_checked_at_once(self, shards, grammar, message):
        with pytest.raises(UserError, match=f"compose.grammar: {message}"):
            compose(shards, grammar=grammar)


class TestNoise:
    @pytest.mark.parametrize("snr_db", [-5, 0, 20])
    @pytest.mark.parametrize("samples", [1000, 50000])
    def test_its_level(self, snr_db, samples):
        audio = sine(500, 1, 0.1)
        noise = np.random.default_rng(0).normal(0, 20, samples).astype(np.float32)
        added = add_noise(audio, [noise], snr_db, np.random.default_rng(1)).astype(float) - audio
        ratio = np.mean(audio.astype(float) ** 2) / np.mean(added**2)
        assert 10 * np.log10(ratio) == pytest.approx(snr_db, abs=0.02)

    def test_which_cut_is_a_matter_of_chance(self):
        noise = [np.random.default_rng(number).normal(0, 3000, 20000).astype(np.int16) for number in range(2)]
        cuts = {add_noise(sine(500, 1), noise, 0, np.random.default_rng(seed)).tobytes() for seed in (0, 0, 1, 2)}
        assert len(cuts) == 3

    def test_silence_counts_as_a_word(self):
        noise = np.random.default_rng(0).normal(0, 3000, 20000).astype(np.int16)
        added = add_noise(np.zeros(RATE, np.int16), [noise], 10, np.random.default_rng(1)) / 32768
        assert 20 * np.log10(np.sqrt(np.mean(added**2)) / 0.05) == pytest.approx(-10, abs=0.05)

    def test_noise_without_power(self):
        audio = sine(500, 1)
        np.testing.assert_array_equal(add_noise(audio, [np.zeros(99, np.int16)], 0, np.random.default_rng(1)), audio)

    def test_a_split_has_its_own_stretch(self, tmp_path):
        (tmp_path / "_background_noise_").mkdir()
        ramp = np.arange(10 * RATE, dtype=np.float32) / (10 * RATE)
        soundfile.write(tmp_path / "_background_noise_" / "ramp.wav", ramp, RATE, subtype="FLOAT")
        settings = CorpusSettings(
            path=tmp_path, shards="shards", sample_rate=RATE, validation_share=0.2, test_share=0.1
        )
        for split, low, high in (("train", 0, 0.7), ("validation", 0.7, 0.9), ("test", 0.9, 1)):
            [noise] = split_noise(settings, split)
            assert noise.dtype == np.int16
            assert len(noise) == pytest.approx((high - low) * 10 * RATE, abs=0.002 * RATE)
            assert noise.min() / 32768 == pytest.approx(low, abs=1e-3)
            assert noise.max() / 32768 == pytest.approx(high, abs=1e-3)

    def test_none(self, tmp_path):
        settings = CorpusSettings(path=tmp_path, shards="shards")
        with pytest.raises(UserError, match="has no noise recordings for the test split; give --noise"):
            split_noise(settings, "test")
        (tmp_path / "_background_noise_").mkdir()
        (tmp_path / "_background_noise_" / "text.wav").write_text("text")
        with pytest.raises(UserError, match=r"for the test split \(noise: .*text.wav"):
            split_noise(settings, "test")


class TestWriting:
    def test_files_and_texts(self, shards, tmp_path):
        phrases, ticks = compose(shards, count=12, words=(0, 2)), []
        write_phrases(phrases, tmp_path / "out", "test", RATE, progress=lambda *tick: ticks.append(tick))
        with (tmp_path / "out" / "manifest.csv").open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        assert header == ["path", "text", "split"]
        assert ticks == [(done, 12) for done in range(13)]
        for number, (name, text, split) in enumerate(rows):
            audio, expected, _ = phrases.read(0, number)
            assert (name, text, split) == (f"{number:05d}.wav", expected or SILENCE, "test")
            read, rate = soundfile.read(tmp_path / "out" / name, dtype="int16")
            assert (rate, soundfile.info(tmp_path / "out" / name).subtype) == (RATE, "PCM_16")
            np.testing.assert_array_equal(read, audio)
        assert number == 11
        assert SILENCE in {text for _, text, _ in rows}

    def test_noise_is_a_function_of_the_seed(self, shards, tmp_path):
        noise = [np.random.default_rng(0).normal(0, 1, 3 * RATE).astype(np.float32)]
        written = []
        for index, seed in enumerate((0, 0, 1)):
            out = tmp_path / str(index)
            write_phrases(compose(shards, count=3), out, "test", RATE, seed=seed, noise=noise, snr_db=5)
            written.append([path.read_bytes() for path in sorted(out.iterdir())])
        assert written[0] == written[1] != written[2]

    def test_an_empty_folder_will_do_and_no_other(self, shards, tmp_path):
        (tmp_path / "empty").mkdir()
        write_phrases(compose(shards, count=2), tmp_path / "empty", "test", RATE)
        assert len(list((tmp_path / "empty").iterdir())) == 3
        (tmp_path / "file").touch()
        for taken in ("empty", "file"):
            with pytest.raises(UserError, match="exists and isn't an empty folder; give a new one"):
                write_phrases(compose(shards, count=2), tmp_path / taken, "test", RATE)

    def test_an_interrupted_run_leaves_nothing(self, shards, tmp_path):
        def interrupt(done, total):
            if done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_phrases(compose(shards, count=9), tmp_path / "out", "test", RATE, progress=interrupt)
        assert not list(tmp_path.iterdir())
