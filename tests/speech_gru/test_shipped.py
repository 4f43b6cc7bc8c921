"""The trained models that come with the package, on real speech."""

import re
from pathlib import Path

import numpy as np
import pytest

from speech_gru import Recognizer, StreamingRecognizer
from speech_gru.artefact import inspect_file
from speech_gru.shipped import CLIP_MODEL, STREAM_MODEL

MODELS = {"clip": CLIP_MODEL, "stream": STREAM_MODEL}
CLIPS = 40

if missing := [path.name for path in MODELS.values() if not path.is_file()]:
    pytest.skip(f"speech_gru/models/ lacks {' and '.join(missing)}: not trained yet", allow_module_level=True)


@pytest.fixture(params=MODELS)
def kind(request) -> str:
    return request.param


def words(kind: str) -> tuple[str, ...]:
    return tuple(label for label in inspect_file(MODELS[kind]).labels if not label.startswith("_"))


@pytest.fixture
def clips(shared_data, kind) -> list[tuple[str, Path]]:
    """(word, file): test clips, of each word as many as of any other, or one more."""
    root, by_word = shared_data / "speech_commands", {word: [] for word in words(kind)}
    for name in (root / "testing_list.txt").read_text(encoding="utf-8").split():
        word = name.partition("/")[0]
        if word in by_word:
            by_word[word].append(root / name)
    rounds = zip(*([(word, path) for path in paths[:3]] for word, paths in by_word.items()), strict=True)
    return [clip for turn in rounds for clip in turn][:CLIPS]


def test_it_says_what_it_is(kind):
    about = inspect_file(MODELS[kind])
    assert about.kind == kind
    assert about.sample_rate == 16000
    assert len(about.labels) == 19
    assert set(about.labels) - set(words(kind)) == {"_unknown_", "_silence_"}


def test_both_know_the_same_labels():
    assert inspect_file(CLIP_MODEL).labels == inspect_file(STREAM_MODEL).labels


def test_its_card_lies_beside_it(kind):
    card = MODELS[kind].with_suffix(".md").read_text(encoding="utf-8")
    assert card.startswith("#")
    for word in words(kind):
        assert re.search(rf"\b{word}\b", card), word


def test_together_they_are_small():
    assert sum(path.stat().st_size for path in MODELS.values()) < 1_500_000


def test_the_package_takes_them_along():
    """What `pip install` copies is named in setup.cfg."""
    listed = (Path(__file__).parents[2] / "setup.cfg").read_text(encoding="utf-8")
    (patterns,) = re.findall(r"^speech_gru = (.*)$", listed, re.MULTILINE)
    folder = CLIP_MODEL.parents[1]
    taken = {path for pattern in patterns.split(", ") for path in folder.glob(pattern)}
    assert taken == {path.with_suffix(suffix) for path in MODELS.values() for suffix in (".tflite", ".md")}


@pytest.mark.parametrize("verb", ["recognize", "listen"])
def test_the_help_names_its_words(verb, monkeypatch, capsys):
    from speech_gru.cli import main

    monkeypatch.setattr("sys.argv", ["speech-gru", verb, "--help"])
    with pytest.raises(SystemExit):
        main()
    text = " ".join(re.sub(r"[│╭╰─╮╯]", " ", capsys.readouterr().out).split())
    listed = re.search(r"The model that comes with speech_gru knows: ([a-z ]+)\.", text)[1].split()
    kind = "clip" if verb == "recognize" else "stream"
    assert len(listed) == 17
    assert sorted(listed) == sorted(words(kind))


def share_right(recognise, clips) -> float:
    assert len(clips) == CLIPS
    assert len({word for word, _ in clips}) == 17
    return np.mean([recognise(path) == word for word, path in clips])


@pytest.mark.parametrize("kind", ["clip"], indirect=True)
def test_it_recognises_clips(clips):
    recognizer = Recognizer()
    assert share_right(lambda path: recognizer.recognize(recognizer.load(path)).label, clips) >= 0.9


@pytest.mark.parametrize("kind", ["stream"], indirect=True)
def test_it_recognises_what_goes_by(clips):
    """What it says at the end of each clip."""
    stream, loader = StreamingRecognizer(), Recognizer()

    def recognise(path: Path) -> str:
        stream.reset()
        return stream.labels[stream.probabilities(loader.load(path))[-1].argmax()]

    assert share_right(recognise, clips) >= 0.9


@pytest.mark.parametrize("kind", ["stream"], indirect=True)
def test_in_a_stream_silence_is_no_word_and_words_are_heard(clips):
    """Each clip amid three seconds of faint noise; heard in its second or, as means lag behind, in the next."""
    rng, loader, heard = np.random.default_rng(0), Recognizer(), []
    for _, path in clips[:17]:
        audio = rng.normal(0, 1e-3, 3 * 16000).astype(np.float32)
        clip = loader.load(path)
        audio[16000 : 16000 + len(clip)] += clip
        heard.append([(item.label, item.seconds) for item in StreamingRecognizer().detect(audio)])
    assert all(1 <= seconds <= 3 for found in heard for _, seconds in found)
    right = [word in [label for label, _ in found] for (word, _), found in zip(clips, heard, strict=False)]
    assert np.mean(right) >= 0.7


@pytest.mark.parametrize("kind", MODELS, indirect=True)
def test_a_word_is_detected_as_often_as_it_is_said(clips, kind):
    """Once, and twice with half a second and more between, amid faint noise."""
    rng, loader, stream = np.random.default_rng(0), Recognizer(), StreamingRecognizer(MODELS[kind])
    found = []
    for word, path in clips[:17]:
        clip = loader.load(path)
        for starts in ((1,), (1, 2.5)):
            audio = rng.normal(0, 1e-3, 5 * 16000).astype(np.float32)
            for start in starts:
                audio[int(start * 16000) :][: len(clip)] += clip
            stream.reset()
            found.append((word, len(starts), [item.label for item in stream.detect(audio)]))
    heard = [item for item in found if item[0] in item[2]]  # some are taken for others, or lie below the threshold
    assert len(heard) >= 0.7 * len(found)
    assert [item for item in heard if item[2].count(item[0]) > item[1]] == []
    fewer = [item for item in heard if item[2].count(item[0]) < item[1]]
    assert len(fewer) <= 1, "in other noise one near the threshold may lie below it"
