"""Fixtures that all tests share."""

import signal
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

# A shell's background job ignores Ctrl-C and its children inherit that: the tests that send it would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
TONES = {"tief": 250, "mittel": 700, "höher": 1900}
"""The words of the tiny corpus, spoken by sine generators: Hz."""

SLOW_FILES = (
    "test_many_devices.py",
    "test_matrix.py",
    "test_phrase_training.py",
    "test_tensorboard.py",
    "test_training.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow files come first, so that several processes are done at about the same time."""
    items.sort(key=lambda item: item.path.name not in SLOW_FILES)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real speech beside the checkout; the test is skipped where there is none."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"needs the real speech in {SHARED_DATA.name}/ beside the checkout, which isn't there")
    return SHARED_DATA


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory) -> Path:
    """A folder of words: 28 clips of 0.5 s at 8 kHz for each of three tones and a sweep, and 12 s of noise.

    16 clips of a word are for training, 6 each for validation and test.
    """
    rng, root, rate = np.random.default_rng(0), tmp_path_factory.mktemp("tiny_corpus"), 8000
    time = np.arange(rate // 2) / rate
    lists = {"validation_list.txt": [], "testing_list.txt": []}
    for word in (*TONES, "sirene"):
        (root / word).mkdir()
        for speaker in range(28):
            pitch = rng.uniform(0.95, 1.05)
            phase = 2 * np.pi * pitch * (TONES[word] * time if word in TONES else 300 * time + 3000 * time**2)
            clip = rng.uniform(0.2, 0.8) * np.sin(phase + rng.uniform(0, 6)) + rng.normal(0, 0.01, len(time))
            soundfile.write(root / word / f"s{speaker:02}.wav", clip, rate, subtype="PCM_16")
            if speaker >= 16:
                lists["validation_list.txt" if speaker < 22 else "testing_list.txt"].append(f"{word}/s{speaker:02}.wav")
    for name, clips in lists.items():
        (root / name).write_text("\n".join(clips), encoding="utf-8")
    (root / "_background_noise_").mkdir()
    soundfile.write(root / "_background_noise_" / "hiss.wav", rng.normal(0, 0.05, 12 * rate), rate, subtype="PCM_16")
    return root


@pytest.fixture(scope="session")
def tiny_config(tiny_corpus, tmp_path_factory):
    """An experiment on the tiny corpus that learns it within seconds; its shards are prepared.

    The labels are tief, mittel, höher, _unknown_ (the sweep) and _silence_.
    """
    from data_pipeline.prepare import prepare
    from speech_gru.config import Config

    config = Config(
        name="tiny",
        seed=1,
        corpus={
            "path": tiny_corpus,
            "shards": tmp_path_factory.mktemp("tiny") / "shards",
            "words": tuple(TONES),
            "sample_rate": 8000,
            "clip_seconds": 0.5,
        },
        front_end={"window_ms": 32, "hop_ms": 25, "mel_bins": 16, "coefficients": 10},
        augment={"speed": None, "time_mask_frames": 2, "frequency_mask_bins": 1},
        model={"units": 8, "layers": 2, "subsampling": 2},
        training={"epochs": 8, "batch_size": 8, "learning_rate": 0.02, "ema": 0.8, "precision": "float32"},
    )
    prepare(config.corpus)
    return config


@pytest.fixture(scope="session")
def tiny_shards(tiny_config) -> Path:
    """The prepared shards of the tiny corpus."""
    return tiny_config.corpus.shards


@pytest.fixture(scope="session")
def tiny_run(tiny_config, tmp_path_factory) -> Path:
    """A finished run directory, trained on the tiny corpus. Copy it before you write into it."""
    from speech_gru.training import plan_training, train

    folder = tmp_path_factory.mktemp("tiny_run") / "run"
    train(tiny_config, plan_training(tiny_config), folder, report=lambda line: None)
    return folder


@pytest.fixture
def write_clips(tmp_path):
    """A function that writes WAV clips, each a tone of its own, by name into a folder, which it returns."""

    def write(*names: str, folder: str = "corpus", seconds: float = 0.2, rate: int = 16000) -> Path:
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            hz = 200 + zlib.crc32(name.encode()) % 3000
            soundfile.write(path, 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate), rate)
        return tmp_path / folder

    return write


@pytest.fixture(scope="session")
def tiny_export(tiny_run, tmp_path_factory) -> Path:
    """What `export` makes of tiny_run, in a folder: saved_model/ and model.tflite. Copy it before you write into it."""
    from export.matrix import export_run

    folder = tmp_path_factory.mktemp("tiny_export") / "export"
    export_run(tiny_run, folder, only=("saved_model", "float32"))
    return folder


@pytest.fixture(scope="session")
def tiny_stream_run(tiny_config, tmp_path_factory) -> Path:
    """As tiny_run, of a model that can stream, trained on streams of clips; export/ has what streams, too."""
    from export import material, matrix
    from speech_gru.config import Config
    from speech_gru.training import plan_training, train

    values = tiny_config.model_dump()
    values["model"] |= {"bidirectional": False, "pooling": "mean"}
    values["augment"] |= {"stream_clips": 2}
    config = Config.model_validate(values)
    folder = tmp_path_factory.mktemp("tiny_stream_run") / "run"
    train(config, plan_training(config), folder, report=lambda line: None)
    with pytest.MonkeyPatch.context() as patch:  # in this process, which is faster
        patch.setattr(matrix, "in_child", lambda function, *arguments: function(*arguments))
        patch.setattr(material, "start_on_cpu", lambda: None)
        matrix.export_run(folder, folder / "export", only=("float32", "stream_float32"))
    return folder
