"""What `evaluate` measures: a run or an exported file, seen through the same few properties."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipeline.corpus import SILENCE, UNKNOWN
from data_pipeline.errors import UserError
from data_pipeline.prepare import Prepared, prepare
from data_pipeline.settings import CorpusSettings
from speech_gru.artefact import inspect_file
from speech_gru.config import load_config
from speech_gru.evaluation import Predict
from speech_gru.lite_file import LiteFile
from speech_gru.recognizer import Recognizer
from speech_gru.report import predictor
from speech_gru.run import load_run
from speech_gru.streaming import StreamingRecognizer


@dataclass(frozen=True)
class Subject:
    """A recogniser to be measured."""

    predict: Predict
    labels: tuple[str, ...]
    sample_rate: int
    clip_samples: int
    report_folder: Path
    run: Path
    """The run directory it came from, if that is still there."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """By label, of a file that has some."""

    def shards(self) -> Path:
        """The clips that the run was trained with. Raises UserError if they are not known."""
        if not (self.run / "config.yaml").is_file():
            raise UserError(f"no clips to measure on: {self.run} is no run directory; give --shards or --corpus")
        return load_config(self.run / "config.yaml").corpus.shards


def load_subject(path: Path, *, keep_state: bool = False) -> Subject:
    """Loads a run directory or a .tflite file.

    Args:
        keep_state: a streaming file hears all clips as one stream; otherwise it begins anew with each clip.

    Raises:
        UserError: it is neither, or has no state to keep.
    """
    if keep_state and (path.is_dir() or inspect_file(path).kind != "stream"):
        raise UserError(f"{path}: only a streaming file has a state to keep")
    if path.is_dir():
        run = load_run(path)
        corpus = run.config.corpus
        return Subject(predictor(run), run.labels, corpus.sample_rate, corpus.clip_samples, path / "report", path)
    file = LiteFile(path)
    about = file.description
    # `export` puts the file into RUN/export/.
    return Subject(
        _stream_predictor(file, keep_state) if about.kind == "stream" else _clip_predictor(file),
        about.labels,
        about.sample_rate,
        about.clip_samples,
        path.parent / "report",
        path.resolve().parent.parent,
        about.thresholds,
    )


def _clip_predictor(file: LiteFile) -> Predict:
    recognizer = Recognizer(file)
    return lambda audio: np.stack([recognizer.probabilities(clip) for clip in audio])


def _stream_predictor(file: LiteFile, keep_state: bool) -> Predict:
    """What a stream says at each clip's end."""
    stream = StreamingRecognizer(file)

    def at_the_end(clip: np.ndarray) -> np.ndarray:
        if not keep_state:
            stream.reset()
        return stream.probabilities(clip)[-1]

    return lambda audio: np.stack([at_the_end(clip) for clip in audio])


def prepare_corpus(subject: Subject, corpus: Path, scratch: Path, progress) -> Prepared:
    """Prepares all clips of a folder or CSV as the test split in `scratch`/shards, with the recogniser's labels.

    Words that the recogniser doesn't know are `_unknown_`; if it has no such label, they are left out, with a note.

    Raises:
        UserError: no such corpus, or none of its clips can be used.
    """
    settings = CorpusSettings(
        path=corpus,
        shards=scratch / "shards",
        words=tuple(label for label in subject.labels if label not in (UNKNOWN, SILENCE)),
        unknown_share=1 if UNKNOWN in subject.labels else 0,
        silence_share=0,
        sample_rate=subject.sample_rate,
        clip_seconds=subject.clip_samples / subject.sample_rate,
    )
    try:
        return prepare(settings, progress, for_test=True)
    except UserError as error:
        rejected = settings.shards / "rejected.csv"
        if not rejected.is_file():
            raise
        reasons = rejected.read_text(encoding="utf-8").splitlines()[1:]  # `scratch` won't be there to look into
        raise UserError("\n".join([f"{corpus}: no clip could be used:", *reasons[:10]])) from error
