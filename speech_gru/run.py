"""The run directory: all that is needed to evaluate and to export a trained recogniser."""

import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import keras

from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from data_pipeline.settings import FrontEndSettings
from speech_gru.config import Config, load_config
from speech_gru.model import StackFrames, build_model, build_recognizer


@dataclass(frozen=True)
class Run:
    """A trained recogniser, in float32 whatever it was trained in."""

    folder: Path
    config: Config
    labels: tuple[str, ...]
    front_end: FrontEnd
    recognizer: keras.Model
    """Audio (batch, clip samples) float32 -> logits (batch, labels) float32."""


def load_run(folder: Path) -> Run:
    """Rebuilds a finished run's model from its settings and fills in the weights; nothing stored is executed.

    Raises:
        UserError: the folder holds no finished run, or its files are damaged or don't fit each other.
    """
    for name in ("config.yaml", "labels.txt", "model.keras"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no finished run: {name} is missing; `speech-gru train CONFIG` makes one")
    config = load_config(folder / "config.yaml")
    labels = _read_labels(folder / "labels.txt")
    front_end, recognizer = build_from_config(config, len(labels))
    _load_weights(recognizer, folder / "model.keras")
    return Run(folder, config, labels, front_end, recognizer)


def take_encoder(model: keras.Model, folder: Path, front_end: FrontEndSettings | None = None) -> None:
    """Gives `model` (see speech_gru.model.build_model) the weights of a finished run's encoder; its head stays.

    Args:
        front_end: the model's; None: whatever the run has.

    Raises:
        UserError: as load_run, or the run's encoder or front end is another one.
    """
    run = load_run(folder)
    if front_end not in (None, run.config.front_end):
        raise UserError(
            f"training.initial: {folder} has another front end: expected {front_end}, but there it is "
            f"{run.config.front_end}; give front_end the same settings as there"
        )
    ours, theirs = _encoder(model), _encoder(run.recognizer.get_layer("encoder_and_head"))
    for name in {**ours, **theirs}:
        needed, found = (_described(layers.get(name)) for layers in (ours, theirs))
        if needed != found:
            raise UserError(
                f"training.initial: {folder} has another encoder: expected {needed} in the layer {name}, but there is "
                f"{found}; give model and front_end the same settings as there"
            )
    for name, layer in ours.items():
        layer.set_weights(theirs[name].get_weights())


def _encoder(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers from the features to the top GRU's states that decide what it computes, by name."""
    kinds = ("stack_frames", "convolution_", "batch_norm_", "gru_", "bigru_")
    return {layer.name: layer for layer in model.layers if layer.name.startswith(kinds)}


def _described(layer: keras.layers.Layer | None) -> str:
    """What two encoders must have in common."""
    if layer is None:
        return "nothing"
    frames = layer.count if isinstance(layer, StackFrames) else getattr(layer, "strides", (1,))[0]
    shapes = ", ".join("x".join(map(str, weight.shape)) for weight in layer.weights) or "no numbers"
    return f"weights of {shapes}" + (f" at every {frames} frames" if frames > 1 else "")


def _read_labels(file: Path) -> tuple[str, ...]:
    try:
        labels = tuple(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} can't be read: {error}") from error
    if len(set(labels)) < max(2, len(labels)):
        raise UserError(f"{file}: expected two labels or more, each in a line of its own, got {len(labels)} lines")
    return labels


def _load_weights(model: keras.Model, file: Path) -> None:
    """Fills `model` with the numbers of a .keras file; its other parts, which can name code, aren't looked at."""
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
            if unpacked > file.stat().st_size:  # Keras doesn't compress; a bomb would unpack for hours
                raise ValueError(f"it would unpack to {unpacked:,} bytes")
            stored = _count_arrays(archive)
        expected = sum("seed_generator" not in variable.path for variable in model.variables)
        if stored != expected:  # Keras would leave out what the model lacks
            raise ValueError(f"expected {expected} arrays, got {stored}")
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Keras would leave as it is what the file lacks
            model.load_weights(file)
    except (ValueError, TypeError, OSError, KeyError, RuntimeError, UserWarning, zipfile.BadZipFile) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{file} doesn't hold the weights of the config.yaml and labels.txt beside it: {reason}"
        ) from error


def _count_arrays(archive: zipfile.ZipFile) -> int:
    """The weights' arrays in a .keras file, without the states of dropout and of an optimiser."""
    names = []
    with archive.open("model.weights.h5") as stream, h5py.File(stream) as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return sum("/seed_generator" not in name and "/optimizer/" not in name for name in names)


def build_from_config(config: Config, labels: int) -> tuple[FrontEnd, keras.Model]:
    """The front end and the recogniser of an experiment with fresh weights, under the dtype policy in force."""
    front_end = FrontEnd.from_settings(config.front_end, config.corpus.sample_rate)
    frames = front_end.frame_count(config.corpus.clip_samples)
    model = build_model(config.model, frames, front_end.feature_count, labels)
    return front_end, build_recognizer(front_end, model, config.corpus.clip_samples)
