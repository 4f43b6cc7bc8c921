"""What a phrase recogniser (a CTC head) is trained on, and how it is measured while it is trained."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from data_pipeline.clip_index import ClipIndex
from data_pipeline.compose import ComposedPhrases
from data_pipeline.dataset import read_labels, read_noise
from data_pipeline.front_end import FrontEnd
from data_pipeline.labels import PHRASE
from data_pipeline.manifest import read_manifest
from data_pipeline.phrases import (
    PhraseData,
    PhraseSource,
    RecordedPhrases,
    Speller,
    masked_features,
    open_recorded,
    open_usable,
    pad,
    padded_batches,
)
from speech_gru.config import Config
from speech_gru.objective import ctc_loss
from speech_gru.transcripts import Transcripts


def output_labels(config: Config) -> tuple[str, ...]:
    """The model's outputs: labels; for phrases the token table, which begins with the blank.

    Raises:
        UserError: nothing is prepared.
    """
    labels = read_labels(config.corpus.shards)
    if config.compose is None:
        return labels
    return ("", *(label for label in labels if not label.startswith("_")))


def token_kind(config: Config) -> str:
    """What the tokens of a phrase recogniser are, one of data_pipeline.tokens.KINDS."""
    return config.corpus.tokens or "words"


def training_phrases(config: Config, labels: tuple[str, ...], front_end: FrontEnd) -> RecordedPhrases | ComposedPhrases:
    """The phrases to learn from. Raises UserError if there are none, or none that can be learnt."""
    shards = config.corpus.shards
    if config.compose is not None:
        return ComposedPhrases(
            ClipIndex(shards, "train"), config.compose, config.corpus.sample_rate, config.seed, config.compose.phrases
        )
    fastest = config.augment.speed[1] if config.augment.speed else 1.0
    return open_usable(shards, Speller(labels, token_kind(config)), front_end, config.model.subsampling, fastest)


def measured_phrases(config: Config, split: str, shards: Path | None = None) -> PhraseSource:
    """A split's phrases, all of them, or so many composed ones. Raises UserError if there are none.

    Args:
        shards: other clips than those that the experiment trains on.
    """
    shards, rate = shards or config.corpus.shards, config.corpus.sample_rate
    if config.compose is None:
        return open_recorded(shards, split, rate)
    return ComposedPhrases(ClipIndex(shards, split), config.compose, rate, 0, config.compose.validation_phrases)


def known_words(config: Config, labels: tuple[str, ...]) -> tuple[str, ...]:
    """What may be said, for the decoding "words": the words that the training texts are made of; none of phonemes.

    Raises:
        UserError: the tokens are characters, and the training texts aren't there any more.
    """
    kind = token_kind(config)
    if kind != "characters":
        return labels[1:] if kind == "words" else ()
    texts = {row.text for row in read_manifest(config.corpus.shards) if row.split == "train" and row.label == PHRASE}
    return tuple(sorted({word for text in texts for word in text.split()}))


def least_samples(config: Config, front_end: FrontEnd) -> int:
    """Samples from which on audio has a step of the model; no GRU runs without any."""
    return front_end.fft_size + (config.model.subsampling - 1) * front_end.hop


def phrase_data(config: Config, labels: tuple[str, ...], front_end: FrontEnd, steps_per_epoch: int) -> PhraseData:
    """What the run learns from, step by step."""
    return PhraseData(
        training_phrases(config, labels, front_end),
        Speller(labels, token_kind(config)),
        front_end,
        config.augment,
        read_noise(config.corpus.shards),
        config.seed,
        config.training.batch_size,
        steps_per_epoch,
        views=2 if config.training.consistency else 1,
    )


class PhraseValidator:
    """Measures weights on the validation phrases, in float32 and on one device: what will be kept."""

    def __init__(self, config: Config, labels: tuple[str, ...], front_end: FrontEnd, model: keras.Model):
        self.labels, self.kind, self.model = labels, token_kind(config), model
        self.subsampling = config.model.subsampling
        self.spell, source = Speller(labels, self.kind), measured_phrases(config, "validation")
        self.batches, self.texts, self.origins = [], [], []
        shortest = least_samples(config, front_end)
        for batch in padded_batches(source, config.training.validation_batch_size, shortest):
            features, frames = masked_features(front_end, tf.constant(batch.audio), tf.constant(batch.samples))
            self.batches.append((features.numpy(), frames.numpy(), pad([self.spell(text) for text in batch.texts])))
            self.texts += batch.texts
            self.origins += batch.origins
        self.logits = tf.function(
            lambda features, frames: model([features, frames], training=False), reduce_retracing=True
        )
        self.losses = tf.function(ctc_loss, reduce_retracing=True)

    def __call__(self, weights: list[np.ndarray]) -> tuple[float, Transcripts]:
        """The mean of the loss, and what is recognised, with greedy decoding."""
        self.model.set_weights(weights)
        losses, log_probs = [], []
        for features, frames, tokens in self.batches:
            logits, steps = self.logits(features, frames), frames // self.subsampling
            losses.append(self.losses(logits, steps, *tokens).numpy())
            rows = tf.nn.log_softmax(logits).numpy()
            log_probs += [row[:count] for row, count in zip(rows, steps, strict=True)]
        found = Transcripts.decoded(self.labels, self.kind, self.origins, self.texts, log_probs)
        return float(np.concatenate(losses).mean()), found

    def graph(self) -> tf.Graph:
        """The model's, features to logits."""
        features = tf.TensorSpec((1, None, self.model.inputs[0].shape[2]), tf.float32)
        return self.logits.get_concrete_function(features, tf.TensorSpec((1,), tf.int32)).graph
