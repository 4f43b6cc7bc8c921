"""What `evaluate` measures: a run or an exported file, seen through the same few properties."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_pipeline.clip_index import ClipIndex
from data_pipeline.corpus import SILENCE, UNKNOWN
from data_pipeline.errors import UserError
from data_pipeline.labels import PHRASE
from data_pipeline.manifest import read_manifest
from data_pipeline.phrases import PhraseSource, RecordedPhrases
from data_pipeline.prepare import Prepared, prepare
from data_pipeline.settings import CorpusSettings
from data_pipeline.tokens import count_missing
from speech_gru.artefact import inspect_file
from speech_gru.config import Config, load_config
from speech_gru.evaluation import Predict
from speech_gru.lite_file import LiteFile
from speech_gru.phrase_recognizer import PhraseRecognizer
from speech_gru.phrase_training import known_words, least_samples, measured_phrases, token_kind
from speech_gru.recognizer import Recognizer
from speech_gru.report import phrase_predictor, predictor
from speech_gru.run import load_run
from speech_gru.shipped import FOLDER
from speech_gru.streaming import StreamingRecognizer
from speech_gru.transcripts import PredictPhrases
from speech_gru.utterance import UtteranceDecoder

LONGEST_PHRASE_SECONDS = 30.0
"""Longer recordings of a corpus are set aside."""


@dataclass(frozen=True)
class Subject:
    """A recogniser of single words to be measured."""

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
        return _own_config(self.run).corpus.shards

    def corpus_settings(self, corpus: Path, shards: Path) -> CorpusSettings:
        """How a corpus is prepared for it."""
        return CorpusSettings(
            path=corpus,
            shards=shards,
            words=tuple(label for label in self.labels if label not in (UNKNOWN, SILENCE)),
            unknown_share=1 if UNKNOWN in self.labels else 0,
            silence_share=0,
            sample_rate=self.sample_rate,
            clip_seconds=self.clip_samples / self.sample_rate,
        )


@dataclass(frozen=True)
class PhraseSubject:
    """A recogniser of phrases (a CTC head) to be measured."""

    predict: PredictPhrases
    decoder: UtteranceDecoder
    """Knows its labels, and what tokens they are."""
    sample_rate: int
    shortest: int
    """Samples that `predict` needs at least in a row."""
    report_folder: Path
    run: Path
    """The run directory it came from, if that is still there."""

    def phrases(self, split: str, shards: Path | None = None) -> PhraseSource:
        """A split's phrases: those of `shards`, or the run's own; composed of its words, if the run's are.

        Raises:
            UserError: they are not known, there are none, or only single words.
        """
        config = None if shards and not _has_config(self.run) else _own_config(self.run)
        shards = shards or config.corpus.shards
        clips = ClipIndex(shards, split)
        if any(row.label == PHRASE for row in clips.rows):
            return RecordedPhrases(clips, self.sample_rate)
        if config is None or config.compose is None:
            raise UserError(f"{shards} holds single words; expected phrases, prepared with corpus.tokens")
        return measured_phrases(config, split, shards)

    def corpus_settings(self, corpus: Path, shards: Path) -> CorpusSettings:
        """How a corpus is prepared for it."""
        language = {"language": _own_config(self.run).corpus.language} if _has_config(self.run) else {}
        return CorpusSettings(
            path=corpus,
            shards=shards,
            tokens=self.decoder.kind,
            silence_share=0,
            sample_rate=self.sample_rate,
            clip_seconds=LONGEST_PHRASE_SECONDS,
            **language,
        )


def _has_config(run: Path) -> bool:
    return (run / "config.yaml").is_file()


def _own_config(run: Path) -> Config:
    """The settings of a run. Raises UserError if it isn't there any more."""
    if not _has_config(run):
        raise UserError(f"no clips to measure on: {run} is no run directory; give --shards or --corpus")
    return load_config(run / "config.yaml")


def _report_folder(file: Path) -> Path:
    """Where a file's reports go: beside it, but of those that come with the package into the current folder."""
    return Path("report") if file.resolve().parent == FOLDER.resolve() else file.parent / "report"


def is_for_phrases(path: Path) -> bool:
    """Whether a run or a file has a CTC head. Raises UserError for what is no file of speech_gru."""
    if path.is_dir():
        return _has_config(path) and load_config(path / "config.yaml").model.head == "ctc"
    return inspect_file(path).head == "ctc"


def load_phrase_subject(path: Path, decoding: str | None = None) -> PhraseSubject:
    """Loads a run directory or a .tflite file with a CTC head.

    Args:
        decoding: of speech_gru.artefact.DECODINGS; None: as the file says, or as the run's files would.

    Raises:
        UserError: it is neither; or no words are known for the decoding "words".
    """
    if path.is_dir():
        run = load_run(path)
        kind, decoding = token_kind(run.config), decoding or run.config.export.decoding
        decoder = UtteranceDecoder(
            run.labels, kind, decoding, words=known_words(run.config, run.labels) if decoding == "words" else ()
        )
        shortest = least_samples(run.config, run.front_end)
        rate = run.config.corpus.sample_rate
        return PhraseSubject(phrase_predictor(run), decoder, rate, shortest, path / "report", path)
    file = LiteFile(path)
    recognizer = PhraseRecognizer(file, decoding=decoding)
    return PhraseSubject(
        _phrase_predictor(recognizer),
        recognizer.decode,
        recognizer.sample_rate,
        1,
        path.parent / "report",
        path.resolve().parent.parent,
    )


def _phrase_predictor(recognizer: PhraseRecognizer) -> PredictPhrases:
    nothing = np.zeros((0, len(recognizer.description.labels)), np.float32)

    def predict(audio: np.ndarray, samples: np.ndarray) -> list[np.ndarray]:
        clips = [row[:count] for row, count in zip(audio, samples, strict=True)]
        return [recognizer.log_probs(clip) if len(clip) else nothing for clip in clips]

    return predict


def load_subject(path: Path, *, keep_state: bool = False) -> Subject:
    """Loads a run directory or a .tflite file, for single words.

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
        _report_folder(path),
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


def prepare_corpus(subject: Subject | PhraseSubject, corpus: Path, scratch: Path, progress) -> Prepared:
    """Prepares all clips of a folder or CSV as the test split in `scratch`/shards, with the recogniser's labels.

    Words that the recogniser doesn't know are `_unknown_`; if it has no such label, they are left out, with a note. Of
    phrases a note tells which tokens it doesn't know.

    Raises:
        UserError: no such corpus, or none of its clips can be used.
    """
    settings = subject.corpus_settings(corpus, scratch / "shards")
    try:
        prepared = prepare(settings, progress, for_test=True)
    except UserError as error:
        rejected = settings.shards / "rejected.csv"
        if not rejected.is_file():
            raise
        reasons = rejected.read_text(encoding="utf-8").splitlines()[1:]  # `scratch` won't be there to look into
        raise UserError("\n".join([f"{corpus}: no clip could be used:", *reasons[:10]])) from error
    if isinstance(subject, PhraseSubject):
        decoder, texts = subject.decoder, (row.text for row in read_manifest(settings.shards))
        if missing := count_missing(texts, decoder.labels, decoder.kind):
            prepared.notes.append(f"the recogniser doesn't have these {decoder.kind}: {missing}")
    return prepared
