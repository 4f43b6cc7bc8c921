"""The run directory: all that is needed to evaluate, to export and to go on."""

from dataclasses import dataclass
from pathlib import Path

import keras

from data_pipeline.errors import UserError
from data_pipeline.front_end import FrontEnd
from speech_gru.config import Config, load_config
from speech_gru.model import build_model, build_recognizer


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
        UserError: the folder holds no finished run.
    """
    for name in ("config.yaml", "labels.txt", "model.keras"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no finished run: {name} is missing; `speech-gru train CONFIG` makes one")
    config = load_config(folder / "config.yaml")
    labels = tuple((folder / "labels.txt").read_text(encoding="utf-8").splitlines())
    front_end, recognizer = build_from_config(config, len(labels))
    try:
        recognizer.load_weights(folder / "model.keras")
    except (ValueError, OSError, KeyError) as error:
        raise UserError(
            f"{folder / 'model.keras'} doesn't hold the weights of {folder / 'config.yaml'}: {error}"
        ) from error
    return Run(folder, config, labels, front_end, recognizer)


def build_from_config(config: Config, labels: int) -> tuple[FrontEnd, keras.Model]:
    """The front end and the recogniser of an experiment with fresh weights, under the dtype policy in force."""
    front_end = FrontEnd.from_settings(config.front_end, config.corpus.sample_rate)
    frames = front_end.frame_count(config.corpus.clip_samples)
    model = build_model(config.model, frames, front_end.feature_count, labels)
    return front_end, build_recognizer(front_end, model, config.corpus.clip_samples)
