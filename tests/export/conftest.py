"""Models with random weights over all that a model can be, a small front end, and what an export of tiny_run gives."""

from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

LABELS = ("ja", "nein", "_unknown_", "_silence_")
RATE, SAMPLES, FRAMES, FEATURES = 8000, 896, 13, 5
WINDOW, FRAME, HOP, STEP = 4000, 128, 64, 256
"""Samples of half a second, the most that models of phrases look at together; of a frame; to the next; of a step."""

GRID = {
    f"{'both' if both else 'forwards'}-{filters or 'no'}_filters-by_{subsampling}-{pooling}": {
        "bidirectional": both,
        "convolution_filters": filters,
        "subsampling": subsampling,
        "pooling": pooling,
    }
    for both, filters, subsampling, (place, pooling) in product(
        (False, True), (0, 6), (1, 3), enumerate(("attention", "mean", "last"))
    )
    if (both + (filters > 0) + (subsampling > 1) + place) % 2 == 0
}
"""Half of all combinations, in which any two settings meet in all ways, and so do two with each pooling."""
GRID |= {
    f"{'both' if both else 'forwards'}-stem-by_{subsampling}": {
        "bidirectional": both,
        "stem_filters": stem,
        "convolution_filters": 6,
        "subsampling": subsampling,
    }
    for both, subsampling, stem in (
        (False, 4, (3, 4, 4)),
        (False, 3, (3,)),
        (True, 2, (3, 4, 4)),
        (True, 4, (4, 4)),
        (True, 6, (3, 4, 5)),
    )
}
"""And stems that halve the frames twice, once and never, with and without a sum."""
CTC_GRID = {
    f"{'both' if both else 'forwards'}-{filters or 'no'}_filters": {
        "bidirectional": both,
        "convolution_filters": filters,
    }
    for both, filters in product((False, True), (0, 8))
}
CTC_GRID |= {
    f"{'both' if both else 'forwards'}-stem": {
        "bidirectional": both,
        "stem_filters": (3, 4, 4),
        "convolution_filters": 8,
    }
    for both in (False, True)
}


@dataclass(frozen=True)
class Case:
    """A Keras model with random weights, and what is read from it."""

    settings: Any
    model: Any
    encoder: Any


def _random_weight(path: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    name = path.rpartition("/")[2]
    if name in ("moving_variance", "gamma"):
        return rng.uniform(0.5, 2, shape)
    if name in ("bias", "beta", "moving_mean"):
        return rng.normal(0, 0.3, shape)
    return rng.normal(0, 1.5 / np.sqrt(np.prod(shape[:-1])), shape)


@pytest.fixture(scope="session")
def random_case():
    """A function of a model's settings and its number of frames -> Case."""
    from export.encoder import read_encoder
    from speech_gru.config import ModelSettings
    from speech_gru.model import build_model

    @cache
    def make(frames: int = FRAMES, **changed) -> Case:
        defaults = {"units": 7, "layers": 2, "convolution_layers": 3, "convolution_kernel": 4}
        settings = ModelSettings(**(defaults | changed))
        model = build_model(settings, frames, FEATURES, len(LABELS))
        rng = np.random.default_rng(len(str(changed)))
        model.set_weights([_random_weight(weight.path, weight.shape, rng) for weight in model.weights])
        return Case(settings, model, read_encoder(model, settings, frames))

    return make


@pytest.fixture(scope="session", params=GRID.values(), ids=GRID)
def case(request, random_case) -> Case:
    """Each model of the grid."""
    return random_case(**request.param)


@pytest.fixture(scope="session", params=[key for key in GRID if key.startswith("forwards")])
def stream_case(request, random_case) -> Case:
    """Each model of the grid that can stream."""
    return random_case(**GRID[request.param])


@pytest.fixture(scope="session")
def ctc_case(random_case):
    """A function of what is changed in the model's settings -> Case with a CTC head, for windows of WINDOW samples."""
    frames = (WINDOW - FRAME) // HOP + 1
    fixed = {"head": "ctc", "units": 6, "convolution_layers": 2, "subsampling": STEP // HOP}
    return lambda **changed: random_case(frames=frames, **(fixed | changed))


@pytest.fixture(scope="session", params=CTC_GRID.values(), ids=CTC_GRID)
def phrase_case(request, ctc_case) -> Case:
    """Each of the models with a CTC head."""
    return ctc_case(**request.param)


@pytest.fixture(scope="session", params=[key for key in CTC_GRID if key.startswith("forwards")])
def phrase_stream_case(request, ctc_case) -> Case:
    """Each of them that can stream."""
    return ctc_case(**CTC_GRID[request.param])


@pytest.fixture(scope="session")
def clips() -> np.ndarray:
    """(80, SAMPLES) float32: chirps in noise, of many loudnesses."""
    rng = np.random.default_rng(3)
    time = np.arange(SAMPLES) / RATE
    begin, slope, loud = (
        rng.uniform(100, 2000, (80, 1)),
        rng.uniform(-5e3, 1e4, (80, 1)),
        rng.uniform(0.05, 0.6, (80, 1)),
    )
    chirps = np.sin(2 * np.pi * (begin * time + slope * time**2))
    return (loud * (chirps + rng.normal(0, 0.2, chirps.shape))).astype(np.float32)


@pytest.fixture(scope="session")
def front_end(clips):
    """A FrontEnd that gives FRAMES x FEATURES for SAMPLES, normalised over `clips`."""
    from data_pipeline.front_end import FrontEnd

    layer = FrontEnd(sample_rate=RATE, window_ms=16, hop_ms=8, mel_bins=8, coefficients=FEATURES)
    layer.adapt(clips)
    return layer


@pytest.fixture(scope="session")
def features(front_end, clips) -> np.ndarray:
    """Of `clips`."""
    return front_end(clips).numpy()


class Phrases(NamedTuple):
    """Clips of their own lengths."""

    audio: np.ndarray
    """(clips, WINDOW) float32, zero behind each clip's end."""
    samples: np.ndarray
    """(clips,) int32."""
    features: np.ndarray
    """(clips, frames, FEATURES) of the whole windows."""
    frames: np.ndarray
    """(clips,) int32, each clip's own."""

    @property
    def steps(self) -> np.ndarray:
        return self.frames // (STEP // HOP)


@pytest.fixture(scope="session")
def phrase_front_end(clips):
    """A FrontEnd with frames of FRAME samples every HOP, normalised over `clips`."""
    from data_pipeline.front_end import FrontEnd

    layer = FrontEnd(sample_rate=RATE, kind="log_mel", window_ms=16, hop_ms=8, mel_bins=FEATURES)
    layer.adapt(clips)
    assert (layer.fft_size, layer.hop) == (FRAME, HOP)
    return layer


@pytest.fixture(scope="session")
def phrases(clips, phrase_front_end) -> Phrases:
    """Of a whole window, a sample less, with the last step's last sample and without it, down to no frame at all."""
    lengths = [4000, 3999, 3904, 3903, 3000, 2049, 1500, FRAME + STEP - HOP, FRAME + STEP - HOP - 1, FRAME - 1, 1]
    samples = np.array(lengths, np.int32)
    audio = clips[: 5 * len(lengths)].reshape(len(lengths), -1)[:, :WINDOW].copy()
    audio[np.arange(WINDOW) >= samples[:, None]] = 0
    frames = np.maximum(0, (samples - FRAME) // HOP + 1)
    return Phrases(audio, samples, phrase_front_end(audio).numpy(), frames)


@pytest.fixture(scope="session")
def phrase_logits(phrases):
    """A function of a Case -> the Keras model's logits of `phrases`, each of as many steps as are within it."""

    def logits(case: Case) -> list[np.ndarray]:
        found = case.model([phrases.features, phrases.frames]).numpy()
        return [rows[:steps] for rows, steps in zip(found, phrases.steps, strict=True)]

    return logits


@pytest.fixture(scope="session")
def converted_phrases(phrase_front_end):
    """A function of a number of samples -> the TFLite graph of `phrase_front_end` for them."""
    from export.front_end import convert_front_end, front_end_state

    return cache(partial(convert_front_end, front_end_state(phrase_front_end)))


@pytest.fixture(scope="session")
def write_phrase_file(converted_phrases, phrases, phrase_front_end):
    """A function (case, kind, name of a number format) -> the content of a .tflite file with a CTC head."""
    from export.number_format import FORMATS
    from export.reference import Ranges, transcribe
    from export.tflite import write_clip, write_step, write_stream
    from speech_gru.artefact import Artefact

    sizes = {"frame_samples": FRAME, "hop_samples": HOP, "step_samples": STEP}
    about = Artefact(("", "a", "b", " "), RATE, WINDOW, head="ctc", tokens="characters", **sizes)

    def write(case: Case, kind: str = "clip", number_format: str = "float32") -> bytes:
        form, ranges = FORMATS[number_format], Ranges()
        transcribe(phrases.features, case.encoder, ranges, phrases.frames if kind == "clip" else None)
        if kind != "clip":  # a stream goes on behind a phrase
            transcribe(phrase_front_end(phrases.audio[:2].reshape(1, -1)).numpy(), case.encoder, ranges)
        chunk = {} if kind == "clip" else {"chunk_samples": STEP, "overlap_samples": FRAME - HOP}
        made = replace(about, kind=kind, number_format=number_format, **chunk)
        if kind == "clip":
            return write_clip(case.encoder, converted_phrases(WINDOW), form, ranges, made)
        if kind == "step":
            return write_step(case.encoder, form, ranges, made)
        return write_stream(case.encoder, converted_phrases(FRAME - HOP + STEP), form, ranges, made)

    return write


@pytest.fixture(scope="session")
def converted(front_end):
    """A function of a number of samples -> the front end's TFLite graph for them."""
    from export.front_end import convert_front_end, front_end_state

    return cache(partial(convert_front_end, front_end_state(front_end)))


@pytest.fixture(scope="session")
def describe_case():
    """A function (case, kind, number format) -> the Artefact that a file of it carries."""
    from speech_gru.artefact import Artefact

    def describe(case: Case, kind: str, number_format: str) -> Artefact:
        chunk = {"chunk_samples": 64 * case.encoder.subsampling, "overlap_samples": 64} if kind != "clip" else {}
        return Artefact(LABELS, RATE, SAMPLES, kind, number_format, **chunk)

    return describe


@pytest.fixture(scope="session")
def ranges_of(features):
    """A function of an encoder -> the Ranges of its activations over the first 64 clips."""
    from export.reference import Ranges, classify

    def measure(encoder) -> Ranges:
        ranges = Ranges()
        classify(features[:64], encoder, ranges)
        return ranges

    return measure


@pytest.fixture(scope="session")
def write_file(converted, describe_case, ranges_of):
    """A function (case, kind, name of a number format) -> a .tflite file's content."""
    from export.number_format import FORMATS
    from export.tflite import write_clip, write_step, write_stream

    def write(case: Case, kind: str = "clip", number_format: str = "float32") -> bytes:
        form, about = FORMATS[number_format], describe_case(case, kind, number_format)
        ranges = ranges_of(case.encoder)
        if kind == "clip":
            return write_clip(case.encoder, converted(SAMPLES), form, ranges, about)
        if kind == "step":
            return write_step(case.encoder, form, ranges, about)
        graph = converted(about.overlap_samples + about.chunk_samples)
        return write_stream(case.encoder, graph, form, ranges, about)

    return write


class Exported(NamedTuple):
    """What `export_run` made of a run."""

    folder: Path
    proofs: dict


@pytest.fixture(scope="session")
def full_export(tiny_run, tmp_path_factory) -> Exported:
    """All kinds of tiny_run, each in a process of its own. Copy the folder before you write into it."""
    from export.matrix import export_run

    folder = tmp_path_factory.mktemp("full") / "new" / "export"
    return Exported(folder, {proof.artefact: proof for proof in export_run(tiny_run, folder)})


@pytest.fixture(scope="session")
def subject(tiny_run, tmp_path_factory):
    """What `gather` makes of tiny_run, in this process."""
    from export import material

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "start_on_cpu", lambda: None)
        return material.gather(tiny_run, None, (), tmp_path_factory.mktemp("subject"))


@pytest.fixture
def make_facts():
    """A function of what is changed in them -> Facts of a run on 200 test clips."""
    from export.material import Facts
    from speech_gru.config import Config

    def make(config: dict | None = None, **changed) -> Facts:
        settings = {"name": "x", "corpus": {"path": "data/my words/", "shards": "s"}, **(config or {})}
        counts = {
            split: {"ja": clips // 2, "_unknown_": clips // 2} for split, clips in (("train", 600), ("test", 200))
        }
        labels = ("ja", "nein", "_unknown_")
        defaults = {
            "run": "mine",
            "weights": "abc",
            "config": Config(**settings).model_dump(mode="json"),
            "labels": labels,
        }
        sizes = {"parameters": 123456, "multiply_adds": 7654321, "counts": counts, "metrics": {}, "split": "test"}
        sizes |= {"shards": "", "clips": 200, "noise": True}
        return Facts(**(defaults | sizes | {"correct": 190} | changed))

    return make
