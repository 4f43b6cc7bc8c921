import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import synth
from data_pipeline.errors import UserError
from data_pipeline.synth import UNKNOWN_WORDS, VARIANTS, synthesize

pytest.importorskip("espeakng_loader", reason="needs the extra [synth]")

WORDS, UNKNOWN, VOICES, TAKES = ("music", "louder", "turn on"), ("tree",), 10, 2


def clips_of(corpus: Path) -> dict[str, np.ndarray]:
    paths = sorted(path for path in corpus.glob("[!_]*/*.wav"))
    return {path.relative_to(corpus).as_posix(): soundfile.read(path, dtype="float32")[0] for path in paths}


def speaker_of(name: str) -> str:
    return re.fullmatch(r".+/(.+)_nohash_\d+\.wav", name).group(1)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, synth.Synthesized, list]:
    out, reported = tmp_path_factory.mktemp("synth") / "new" / "corpus", []
    result = synthesize(
        WORDS, out, unknown_words=UNKNOWN, voices=VOICES, takes=TAKES, seed=5, progress=lambda *at: reported.append(at)
    )
    return out, result, reported


def test_every_clip_is_there_and_heard(made):
    out, result, reported = made
    clips = clips_of(out)
    assert len(clips) == (len(WORDS) + len(UNKNOWN)) * VOICES * TAKES == sum(result.clips.values())
    assert {name.split("/")[0] for name in clips} == {*WORDS, *UNKNOWN}
    assert reported[0] == (0, len(clips))
    assert reported[-1] == (len(clips), len(clips))
    assert result.seconds == len(clips)
    for name, clip in clips.items():
        info = soundfile.info(out / name)
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (16000, 1, "PCM_16", 16000), name
        heard = np.flatnonzero(np.abs(clip) > 0.1 * np.abs(clip).max())
        assert 0.02 < np.abs(clip).max() <= 1, name
        assert 0.1 < (heard[-1] - heard[0]) / 16000 < 0.96, name


def test_words_lie_at_different_places_in_noise_that_is_never_digital_silence(made):
    starts = []
    for clip in clips_of(made[0]).values():
        starts.append(np.flatnonzero(np.abs(clip) > 0.1 * np.abs(clip).max())[0])
        assert (clip != 0).mean() > 0.5
        assert np.abs(clip[[0, -1]]).max() < 0.1
    assert np.ptp(starts) > 3000
    assert len(set(starts)) > 0.8 * len(starts)


def test_no_voice_is_in_two_splits(made):
    out, result, _ = made
    lists = {split: (out / f"{split}_list.txt").read_text().splitlines() for split in ("validation", "testing")}
    clips = clips_of(out)
    names = {"validation": set(lists["validation"]), "test": set(lists["testing"])}
    names["train"] = clips.keys() - names["validation"] - names["test"]
    assert all(names.values())
    assert names["validation"] | names["test"] <= clips.keys()
    assert {split: len(of_split) for split, of_split in names.items()} == result.clips
    speakers = {split: {speaker_of(name) for name in of_split} for split, of_split in names.items()}
    assert {split: len(of_split) for split, of_split in speakers.items()} == result.speakers
    variants = [{speaker.split("+")[1] for speaker in of_split} for of_split in speakers.values()]
    assert len(set.union(*variants)) == sum(map(len, variants))


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 400), st.integers(1, 9), st.integers(0, 2**32))
def test_any_cast_has_distinct_speakers_and_no_variant_in_two_splits(voices, accents, seed):
    cast = synth._cast({f"xx-{i}": f"family/xx-{i}" for i in range(accents)}, voices, seed)
    assert len({speaker.name for speaker in cast}) == voices
    assert len({speaker.voice for speaker in cast}) == min(voices, accents * len(VARIANTS))
    splits = {}
    for speaker in cast:
        splits.setdefault(speaker.voice.split("+")[1], set()).add(speaker.split)
    assert all(len(of_variant) == 1 for of_variant in splits.values())
    assert {split for of_variant in splits.values() for split in of_variant} == set(synth.SPLITS)


def test_the_seed_settles_every_byte(made, tmp_path):
    out, _, _ = made
    synth_again = {"unknown_words": UNKNOWN, "voices": VOICES, "takes": TAKES}
    synthesize(WORDS, tmp_path / "same", seed=5, **synth_again)
    synthesize(WORDS, tmp_path / "other", seed=6, **synth_again)
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(tmp_path / "same") for path in (tmp_path / "same").rglob("*.*"))
    for file in files:
        assert (out / file).read_bytes() == (tmp_path / "same" / file).read_bytes(), file
    assert clips_of(tmp_path / "other").keys() != clips_of(out).keys()


def test_takes_and_voices_differ_by_more_than_noise(made):
    clips = {name: clip for name, clip in clips_of(made[0]).items() if name.startswith("music/")}
    spectra = [np.abs(np.fft.rfft(clip)) for clip in clips.values()]  # the place doesn't show in them
    spectra = np.array([spectrum / np.linalg.norm(spectrum) for spectrum in spectra])
    similar = spectra @ spectra.T - np.eye(len(spectra))
    assert similar.max() < 0.99


def test_a_word_is_more_like_itself_in_another_voice_than_like_another_word(made):
    import librosa

    def features(clip):
        """12 MFCCs, normalised, at 24 moments of the word: tempo and loudness don't show in them."""
        spoken, _ = librosa.effects.trim(clip, top_db=25, frame_length=512, hop_length=160)
        mfcc = librosa.feature.mfcc(y=spoken, sr=16000, n_mfcc=13, n_fft=512, hop_length=160, n_mels=40)[1:]
        mfcc = (mfcc - mfcc.mean(1, keepdims=True)) / mfcc.std(1, keepdims=True)
        return mfcc[:, np.linspace(0, mfcc.shape[1] - 1, 24).round().astype(int)]

    clips = {name: features(clip) for name, clip in clips_of(made[0]).items() if name.endswith("_0.wav")}
    right = 0
    for name in clips:
        voices = [other for other in clips if speaker_of(other) != speaker_of(name)]
        nearest = min(voices, key=lambda other: np.linalg.norm(clips[other] - clips[name]))
        right += nearest.split("/")[0] == name.split("/")[0]
    assert right > 0.7 * len(clips)  # by chance: 0.25


def test_noise_recordings(made):
    from scipy.signal import welch

    noises = {path.stem: soundfile.read(path)[0] for path in (made[0] / "_background_noise_").iterdir()}
    assert noises.keys() == {
        *("white_noise", "pink_noise", "brown_noise", "mains_hum_50hz", "mains_hum_60hz", "babble"),
    }
    for name, noise in noises.items():
        assert noise.size == 20 * 16000, name
        assert np.sqrt(np.mean(noise**2)) == pytest.approx(0.1, rel=0.01), name
    for name, slope in (("white_noise", 0), ("pink_noise", -1), ("brown_noise", -2)):
        frequencies, power = welch(noises[name], 16000, nperseg=4096)
        audible = (frequencies > 60) & (frequencies < 6000)
        fitted = np.polyfit(np.log(frequencies[audible]), np.log(power[audible]), 1)[0]
        assert fitted == pytest.approx(slope, abs=0.1), name
    for hertz in (50, 60):
        frequencies, power = welch(noises[f"mains_hum_{hertz}hz"], 16000, nperseg=16000)
        assert power[hertz:1001:hertz].sum() > 20 * power[hertz + 25 : 1001 : hertz].sum()
    loudness = np.sqrt(np.mean(noises["babble"].reshape(-1, 8000) ** 2, axis=1))
    assert loudness.min() > 0.03  # people talk all the time


def test_readme_says_what_it_is(made):
    text = (made[0] / "README.txt").read_text(encoding="utf-8")
    for expected in (
        "doesn't stand for people",
        "GPL-3.0-or-later",
        "music, louder, turn on",
        "seed: 5",
        "espeak-ng: 1.",
    ):
        assert expected in text
    assert all(speaker_of(name) in text for name in clips_of(made[0]))


def test_long_words_are_spoken_faster_or_their_clips_are_longer(tmp_path):
    made = synthesize(
        ["extraordinary", "up"],
        tmp_path / "corpus",
        unknown_words=[],
        voices=3,
        takes=1,
        seconds=0.45,
        language="en-us",
    )
    lengths = {name: clip.size for name, clip in clips_of(tmp_path / "corpus").items()}
    assert sum(lengths.values()) / 16000 == pytest.approx(made.seconds)
    assert all(length == 7200 for name, length in lengths.items() if name.startswith("up/"))
    # 0.7 to 1 s at the usual rate
    assert all(7200 <= length < 10000 for name, length in lengths.items() if name.startswith("extraordinary/"))
    assert not (tmp_path / "corpus" / "_background_noise_" / "babble.wav").exists()  # of what?


def test_other_languages_and_alphabets(tmp_path):
    synthesize(["Straße", "привет"], tmp_path / "de", unknown_words=["Haus"], voices=3, takes=1, language="de")
    assert {"Straße", "привет", "Haus"} <= {path.name for path in (tmp_path / "de").iterdir()}
    assert "Straße/" in (tmp_path / "de" / "testing_list.txt").read_text(encoding="utf-8")


def test_default_unknown_words_are_never_the_chosen_ones():
    words, unknown_words = synth._checked(["House", "stop"], None, "en-gb")
    assert words == ("House", "stop")
    assert set(unknown_words) == set(UNKNOWN_WORDS) - {"house"}


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ([], {}, "at least one word"),
        (["go", ""], {}, "'' can't be a word"),
        (["go "], {}, "'go ' can't be a word"),
        (["!"], {}, "'!' can't be a word"),
        (["go\nstop"], {}, "can't be a word"),
        (["../go"], {}, "can't be a word"),
        (["a/b"], {}, "can't be a word"),
        (["a\\b"], {}, "can't be a word"),
        (["_unknown_"], {}, "can't be a word"),
        ([".hidden"], {}, "can't be a word"),
        (["go", "GO"], {}, "'go' and 'GO' are both given"),
        (["go", "go"], {}, "both given"),
        (["caf\u00e9", "cafe\u0301"], {}, "both given"),
        (["go"], {"unknown_words": ["Go"]}, "both given"),
        (["los"], {"language": "de"}, "are English"),
        (["go"], {"language": "xx", "unknown_words": []}, "no voice of espeak-ng speaks 'xx'"),
        (["go"], {"voices": 2}, "got 2 voices"),
        (["go"], {"takes": 0}, "got .* 0 takes"),
        (["go"], {"seed": -1}, "got .* seed -1"),
        (["go"], {"seconds": float("nan")}, "got .* nan seconds"),
    ],
)
def test_what_can_not_be_used_is_refused_before_any_work(tmp_path, words, options, message):
    with pytest.raises(UserError, match=message):
        synthesize(words, tmp_path / "corpus", **options)
    assert not list(tmp_path.iterdir())


def test_a_silent_word_is_named_and_nothing_is_left(tmp_path):
    with pytest.raises(UserError, match="says nothing for '①'"):
        synthesize(["go", "①"], tmp_path / "corpus", unknown_words=[], voices=3, takes=1)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept_unless_empty(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    for out in (tmp_path / "full", tmp_path / "full" / "mine.txt"):
        with pytest.raises(UserError, match="isn't an empty folder"):
            synthesize(["go"], out)
    with pytest.raises(UserError, match="can't be written"):
        synthesize(["go"], tmp_path / "full" / "mine.txt" / "below")
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine.txt"]
    (tmp_path / "empty").mkdir()
    synthesize(["go"], tmp_path / "empty", unknown_words=[], voices=3, takes=1)
    assert len(clips_of(tmp_path / "empty")) == 3


def test_an_interruption_leaves_nothing(tmp_path):
    def interrupt(done, total):
        if done:
            assert any(tmp_path.rglob("*.wav"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(["go"], tmp_path / "corpus", voices=20, takes=1, progress=interrupt)
    assert not list(tmp_path.iterdir())
