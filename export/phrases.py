"""What export.material gathers of a run with a CTC head: phrases, their log-probabilities, the files' description."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.errors import UserError
from export.encoder import Encoder
from export.reference import Ranges, transcribe
from speech_gru.artefact import Artefact

if TYPE_CHECKING:  # a process that writes or measures a file starts without Keras
    from data_pipeline.phrases import PhraseSource
    from speech_gru.run import Run

CLIPS, FEATURES = "clips.npy", "features.npy"
PROOF_PHRASES = 500
"""So many phrases at most an artefact is proven on."""
CALIBRATION_PHRASES, _BATCH = 512, 32


def describe_phrases(run: Run, clip: Artefact) -> Artefact:
    """What the float32 file for clips says about itself.

    Args:
        clip: what a classifier's file would say.

    Raises:
        UserError: a threshold, which phrases don't have; a window without a step; no words for the decoding "words".
    """
    from speech_gru.phrase_training import known_words, least_samples, token_kind

    config = run.config
    if config.export.threshold or config.export.thresholds:
        raise UserError("export.threshold and thresholds are for single words; leave them out with model.head: ctc")
    seconds, least = config.export.window_seconds, least_samples(config, run.front_end)
    window = round(seconds * config.corpus.sample_rate)
    if window < least:
        raise UserError(
            f"export.window_seconds: expected {least / config.corpus.sample_rate:g} at least, in which the model makes "
            f"a step, got {seconds:g}"
        )
    words = known_words(config, run.labels) if config.export.decoding == "words" else ()
    if config.export.decoding == "words" and not words:
        raise UserError("export.decoding: words needs texts of words, and these are phonemes; take greedy or beam")
    return replace(
        clip,
        clip_samples=window,
        head="ctc",
        frame_samples=run.front_end.fft_size,
        hop_samples=run.front_end.hop,
        step_samples=run.front_end.hop * config.model.subsampling,
        tokens=token_kind(config),
        decoding=config.export.decoding,
        words=words,
    )


def predict_phrases(
    run: Run, shards: Path, split: str, description: Artefact, scratch: Path
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The model's log-probabilities (phrases, steps, labels), the texts and the samples of each, as in Subject.

    Writes the phrases that fit into a window, and their features, into `scratch`.

    Raises:
        UserError: no phrases, or none in which something is said fits.
    """
    from data_pipeline.phrases import padded_batches
    from speech_gru.phrase_training import least_samples, measured_phrases
    from speech_gru.report import phrase_predictor

    window, shortest = description.clip_samples, least_samples(run.config, run.front_end)
    source, predict = _Some(measured_phrases(run.config, split, shards), PROOF_PHRASES), phrase_predictor(run)
    clips, samples, texts, rows = [], [], [], []
    for batch in padded_batches(source, _BATCH, window):
        fits = (batch.samples <= window) & (batch.samples >= shortest)
        clips.append(batch.audio[fits, :window])
        samples.append(batch.samples[fits])
        texts += [text for text, is_fit in zip(batch.texts, fits, strict=True) if is_fit]
        rows += predict(clips[-1], samples[-1]) if fits.any() else []
    if not any(text.strip() for text in texts):
        raise UserError(f"{shards}: no {split} phrase with a word fits into export.window_seconds; raise it")
    audio = np.concatenate(clips).astype(np.float32) / 32768
    np.save(scratch / CLIPS, audio)
    np.save(scratch / FEATURES, np.concatenate([run.front_end(clip[None]).numpy() for clip in audio]))
    return stack_rows(rows), np.array([" ".join(text.split()) for text in texts]), np.concatenate(samples)


class _Some:
    """Not more than `count` of a source's phrases, of all lengths alike."""

    def __init__(self, source: PhraseSource, count: int):
        self._source = source
        by_length = np.argsort([source.size(0, number) for number in range(len(source))], kind="stable")
        self._numbers = by_length[np.linspace(0, len(source) - 1, min(count, len(source))).astype(int)].tolist()

    def __len__(self) -> int:
        return len(self._numbers)

    def size(self, epoch: int, number: int) -> float:
        return self._source.size(epoch, self._numbers[number])

    def read(self, epoch: int, number: int) -> tuple[np.ndarray, str, str]:
        return self._source.read(epoch, self._numbers[number])


def stack_rows(rows: list[np.ndarray]) -> np.ndarray:
    """(phrases, steps, labels) float32 of each phrase's (steps, labels), zero behind the shorter ones."""
    stacked = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), np.float32)
    for place, row in zip(stacked, rows, strict=True):
        place[: len(row)] = row
    return stacked


def phrase_ranges(run: Run, encoder: Encoder, streams: bool) -> Ranges:
    """See export.material: of training phrases. A stream goes on behind each of them, in silence or with the next."""
    import tensorflow as tf

    from data_pipeline.phrases import masked_features, padded_batches
    from speech_gru.phrase_training import training_phrases

    ranges, source = Ranges(), _Some(training_phrases(run.config, run.labels, run.front_end), CALIBRATION_PHRASES)
    for batch in padded_batches(source, _BATCH, run.front_end.fft_size):
        features, frames = masked_features(run.front_end, tf.constant(batch.audio), tf.constant(batch.samples))
        transcribe(features.numpy(), encoder, ranges, None if streams else frames.numpy())
        if streams:  # one after the other, too: a state goes where no single phrase takes it
            joined = np.concatenate([row[:count] for row, count in zip(batch.audio, batch.samples, strict=True)])
            if len(joined) >= run.front_end.fft_size:
                features = run.front_end(joined[None].astype(np.float32) / 32768)
                transcribe(features.numpy(), encoder, ranges)
    return ranges
