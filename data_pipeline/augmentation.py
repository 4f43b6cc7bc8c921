"""What training does to clips and to features: batched, in a tf.data graph, and as a function of a seed.

Each augmentation is a layer called with its inputs and `seed`, int32 or int64 (2,); equal inputs and seeds give equal
outputs. Waveforms are float32 (batch, samples), features float32 (batch, frames, features); each clip has draws
of its own.
"""

import math
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from data_pipeline.front_end import FrontEnd
from data_pipeline.generated_noise import generated_noise
from data_pipeline.settings import AugmentSettings

Tensor = tf.Tensor


class _Augmentation(keras.layers.Layer):
    """Computes in float32 whatever the dtype policy, and trains nothing."""

    def __init__(self):
        super().__init__(dtype="float32", trainable=False)


def _on_cpu(array: np.ndarray) -> Tensor:
    """A tensor where tf.data runs; made outside of its graphs, which may not exceed 2 GB with their constants."""
    with tf.device("CPU"):
        return tf.constant(array)


def _uniform(inputs: Tensor, seed: Tensor, low: float, high: float) -> Tensor:
    """One draw from [low, high) for each clip of a batch: float32 (batch, 1)."""
    return tf.random.stateless_uniform((tf.shape(inputs)[0], 1), seed, low, high)


def _power(audio: Tensor) -> Tensor:
    """Mean power of each clip: (batch, 1)."""
    return tf.reduce_mean(tf.square(audio), axis=1, keepdims=True)


class TimeShift(_Augmentation):
    """Moves each clip by a whole number of samples in [-max_samples, max_samples]; zeros move in."""

    def __init__(self, max_samples: int):
        super().__init__()
        self.max_samples = max_samples

    def call(self, audio: Tensor, seed: Tensor) -> Tensor:
        clips = (tf.shape(audio)[0],)
        shift = tf.random.stateless_uniform(clips, seed, -self.max_samples, self.max_samples + 1, tf.int32)
        return _earlier(audio, shift)


def _earlier(audio: Tensor, shift: Tensor) -> Tensor:
    """Each clip moved towards its beginning by so many samples, int32 (batch,); zeros come in."""
    batch, samples = tf.unstack(tf.shape(audio))
    # A crop per clip of (samples, 1) "images": ten times as fast as a gather of samples.
    offsets = tf.stack([tf.cast(shift, tf.float32), tf.zeros((batch,))], axis=1)
    images = audio[:, :, None, None]
    moved = tf.image.extract_glimpse(images, (samples, 1), offsets, centered=False, normalized=False, noise="zero")
    return tf.ensure_shape(moved[:, :, 0, 0], audio.shape)


class Gain(_Augmentation):
    """Multiplies each clip by a factor drawn uniformly in decibels."""

    def __init__(self, low_db: float, high_db: float):
        super().__init__()
        self.low_db, self.high_db = low_db, high_db

    def call(self, audio: Tensor, seed: Tensor) -> Tensor:
        return audio * 10 ** (_uniform(audio, seed, self.low_db, self.high_db) / 20)


class Speed(_Augmentation):
    """Plays each clip faster (factor above 1, higher) or slower about its centre; the length stays, zeros come in.

    The factors are the multiples of 1/160 from `low` to `high` (both rounded to such), each as likely as the others. So
    each block of 160 output samples lies alike between the input samples, and is a matrix product with weights that are
    computed once: a Kaiser-windowed sinc of 16 zero crossings either way, that cuts off at the lower of the two Nyquist
    frequencies (Smith, Digital Audio Resampling, 2002).
    """

    _BLOCK = 160
    _CROSSINGS = 16
    _KAISER_BETA = 6.0

    def __init__(self, low: float, high: float):
        super().__init__()
        self._steps = np.arange(round(low * self._BLOCK), round(high * self._BLOCK) + 1, dtype=np.int32)
        factor = self._steps[:, None, None] / self._BLOCK
        cutoff = np.minimum(1, 1 / factor)
        self._reach = math.ceil(self._CROSSINGS / cutoff.min())
        taps = np.arange(-self._reach, math.ceil(self._BLOCK * factor.max()) + self._reach)[:, None]
        distance = (taps - factor * np.arange(self._BLOCK)) * cutoff
        window = np.i0(self._KAISER_BETA * np.sqrt(np.maximum(0, 1 - (distance / self._CROSSINGS) ** 2)))
        inside = np.abs(distance) < self._CROSSINGS
        weights = cutoff * np.sinc(distance) * window / np.i0(self._KAISER_BETA) * inside
        self._weights = _on_cpu(weights.astype(np.float32))  # (factors, taps, block)

    def call(self, audio: Tensor, seed: Tensor) -> Tensor:
        samples = tf.shape(audio)[1]
        drawn, step = self._draw(audio, seed)
        centre = tf.cast(samples - 1, tf.float32) / 2
        first = tf.cast(tf.round(centre * (1 - tf.cast(step, tf.float32) / self._BLOCK)), tf.int32)
        return tf.ensure_shape(self._play(audio, drawn, step, first, samples), audio.shape)

    def from_start(self, audio: Tensor, seed: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Plays each clip faster or slower about its first sample, to its end: no length stays as it is.

        Args:
            lengths: (batch,) int32, the clips' own; zeros come after.

        Returns: audio (batch, samples), as long as the slowest of the factors makes it, and the clips' new lengths.
        """
        drawn, step = self._draw(audio, seed)
        samples = tf.shape(audio)[1] * self._BLOCK // int(self._steps[0])
        played = self._play(audio, drawn, step, tf.zeros_like(step), samples)
        return played, tf.minimum(samples, lengths * self._BLOCK // step)

    @classmethod
    def shortened(cls, samples: int, factor: float) -> int:
        """How long so many samples are for `from_start`, played at the nearest factor that there is."""
        return samples * cls._BLOCK // round(factor * cls._BLOCK)

    def _draw(self, audio: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Each clip's factor, by its place among them and as input samples to a block: int32 (batch,) both."""
        drawn = tf.random.stateless_uniform((tf.shape(audio)[0],), seed, 0, len(self._steps), tf.int32)
        return drawn, tf.gather(self._steps, drawn)

    def _play(self, audio: Tensor, drawn: Tensor, step: Tensor, first: Tensor, length: Tensor) -> Tensor:
        """(batch, length) samples, of which the first is the input's sample `first`."""
        batch, samples = tf.unstack(tf.shape(audio))
        first = first[:, None] + step[:, None] * tf.range(-(-length // self._BLOCK))
        # Positions outside the clip read one of the zeros around it.
        taps = first[:, :, None] + tf.range(-self._reach, self._weights.shape[1] - self._reach)
        taps = tf.clip_by_value(taps + 1, 0, samples + 1)
        blocks_in = tf.gather(tf.pad(audio, ((0, 0), (1, 1))), taps, batch_dims=1)
        played = tf.matmul(blocks_in, tf.gather(self._weights, drawn))
        return tf.reshape(played, (batch, -1))[:, :length]


_ROW = 160
"""A cut of noise starts at a multiple of so many samples."""


class BackgroundNoise(_Augmentation):
    """Adds a random cut of noise to some of the clips, at a signal-to-noise ratio drawn uniformly in decibels.

    The ratio is that of the mean powers over the clip. A clip or a cut without power leaves the clip as it is.

    Args:
        noise: all noise, one recording after the other, (samples,), float32 or int16, at the clips' rate. Its level is
            of no matter. If shorter than a clip it is repeated.
        probability: share of the clips that get noise.
    """

    def __init__(self, noise: np.ndarray, probability: float, low_snr_db: float, high_snr_db: float):
        super().__init__()
        self.probability = probability
        self.low_snr_db, self.high_snr_db = low_snr_db, high_snr_db
        self._rows = _rows(noise)

    def call(self, audio: Tensor, seed: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`lengths`: int32 (batch,), the clips' own, after which come zeros; None: all as long as the batch."""
        cut_seed, chosen_seed, snr_seed = tf.unstack(tf.random.split(seed, 3))
        noise = _cut(self._rows, audio, cut_seed)
        if lengths is not None:  # so both powers are over the clip's own samples, but for a factor
            noise *= tf.sequence_mask(lengths, tf.shape(audio)[1], tf.float32)
        chosen = _uniform(audio, chosen_seed, 0, 1) < self.probability
        snr = 10 ** (_uniform(audio, snr_seed, self.low_snr_db, self.high_snr_db) / 10)
        level = tf.sqrt(tf.math.divide_no_nan(_power(audio), _power(noise) * snr))
        return audio + noise * tf.where(chosen, level, 0)


class FreshSilence(_Augmentation):
    """Replaces the clips of silence by other cuts, half from the recordings, half generated.

    A few recordings of noise are not all rooms there are: a recogniser that has heard no others takes a quiet one, or
    an animal's voice in it, for a word. See generated_noise.

    Args:
        noise: as for BackgroundNoise, int16.
        sample_rate: in Hz.
    """

    _LEVEL_DB = (-40.0, 0.0)

    def __init__(self, noise: np.ndarray, sample_rate: int):
        super().__init__()
        self._recorded, self._generated = _rows(noise), _rows(generated_noise(sample_rate))

    def call(self, audio: Tensor, seed: Tensor, silent: Tensor) -> Tensor:
        """`silent`: bool (batch,), which clips to replace."""
        recorded_seed, generated_seed, choice_seed, level_seed = tf.unstack(tf.random.split(seed, 4))
        places = tf.where(silent)[:, 0]  # few of a batch: the others' cuts needn't be made
        is_recorded = tf.gather(_uniform(audio, choice_seed, 0, 1) < 0.5, places)
        recorded = _cut(self._recorded, audio, recorded_seed, places)
        cut = tf.where(is_recorded, recorded, _cut(self._generated, audio, generated_seed, places))
        level = 10 ** (tf.gather(_uniform(audio, level_seed, *self._LEVEL_DB), places) / 20)
        return tf.tensor_scatter_nd_update(audio, places[:, None], cut * level / 32768.0)


class FreshUnknown(_Augmentation):
    """Replaces up to seven in ten clips of unknown words by words that nobody says, and by other speech.

    A corpus has few other words, and a recogniser that has heard no others takes most speech for a command. If there is
    other speech, two fifths of the new ones are cuts of it, each the louder of two. Of the rest two thirds are the
    beginning of one clip of the batch and the end of another, to a little beyond their middles, half of them with a
    piece of a third one's middle between. Such a word has several syllables, where words that stand alone mostly have
    one: else any longer word would be taken for a longer command. A third is played backwards.

    Args:
        sample_rate: in Hz.
        other_speech: speech that holds none of the words, all of one level, (samples,) int16; may be empty.
    """

    _REPLACED, _CUT, _JOINED = 0.7, 0.4, 2 / 3
    """Of the unknown clips, but for those drawn to be made of silence or of one command; of these, if there is other
    speech; and of the rest."""
    _OVERLAP_SECONDS = 0.01
    _BEYOND, _BETWEEN = (0.0, 0.12), (0.08, 0.2)
    """So far beyond its middle a half goes, and so long is a piece between: in seconds, or of a shorter clip shares."""

    def __init__(self, sample_rate: int, other_speech: np.ndarray):
        super().__init__()
        self.sample_rate = sample_rate
        self._speech = _rows(other_speech) if len(other_speech) else None

    def call(self, audio: Tensor, seed: Tensor, labels: Tensor, unknown: Tensor, silent: Tensor) -> Tensor:
        """Labels (batch,) of any type that can be compared; bool (batch,): which are unknown, which silent."""
        distance_seed, choice_seed, joint_seed, *cut_seeds = tf.unstack(tf.random.split(seed, 5))
        clips = tf.shape(audio)[0]
        others = 1 + tf.random.experimental.stateless_shuffle(tf.range(tf.maximum(1, clips - 1)), distance_seed)
        first, second, third = tf.unstack(tf.tile(others, [3])[:3])  # in a batch of one or two the same again

        def of(values, distance):
            return tf.roll(values, distance, axis=0)

        def differ(one, other):  # two pieces of one command may be that command
            return (of(labels, one) != of(labels, other)) | of(unknown, one)

        spoken = ~of(silent, first) & ~of(silent, second)
        choice = _uniform(audio, choice_seed, 0, 1)[:, 0]
        cut = 0.0 if self._speech is None else self._REPLACED * self._CUT
        joint = cut + (self._REPLACED - cut) * self._JOINED
        is_cut, made = unknown & (choice < cut), unknown & spoken & (choice >= cut)
        is_joined = made & differ(first, second) & (choice < joint)
        is_backwards = made & (choice >= joint) & (choice < self._REPLACED)
        # Few of a batch: the others' needn't be made.
        cuts, joined, backwards = (tf.where(chosen)[:, 0] for chosen in (is_cut, is_joined, is_backwards))
        may_be_between = differ(third, first) & differ(third, second) & ~of(silent, third)

        def levelled(distance, places):
            return _level(tf.gather(audio, tf.gather(of(tf.range(clips), distance), places)))

        parts = (levelled(distance, joined) for distance in (first, third, second))
        new = [
            (joined, self._joined(*parts, tf.gather(may_be_between, joined), joint_seed)),
            (backwards, levelled(first, backwards)[:, ::-1]),
        ]
        if self._speech is not None:
            one, two = (_cut(self._speech, audio, cut_seed, cuts) for cut_seed in cut_seeds)
            new.append((cuts, _level(tf.where(_power(one) >= _power(two), one, two))))
        places, words = (tf.concat(parts, axis=0) for parts in zip(*new, strict=True))
        return tf.tensor_scatter_nd_update(audio, places[:, None], words)

    def _joined(self, begin: Tensor, between: Tensor, end: Tensor, may_be_between: Tensor, seed: Tensor) -> Tensor:
        """Three batches of clips (n, samples) -> (n, samples): `begin` up to about the middle, `end` from there.

        Half of those that `may_be_between`, bool (n,), have a piece of `between` at that place.
        """
        place_seed, begin_seed, end_seed, chosen_seed, width_seed = tf.unstack(tf.random.split(seed, 5))
        samples = tf.cast(tf.shape(begin)[1], tf.float32)
        unit = tf.minimum(samples, self.sample_rate)
        place = _uniform(begin, place_seed, 0.35, 0.65) * samples
        before, after = (_uniform(begin, drawn, *self._BEYOND) * unit for drawn in (begin_seed, end_seed))
        has_piece = (_uniform(begin, chosen_seed, 0, 1) < 0.5) & may_be_between[:, None]
        half = tf.where(has_piece, _uniform(begin, width_seed, *self._BETWEEN) * unit / 2, 0)

        def moved(audio, middle):
            return _earlier(audio, -tf.cast(middle - samples / 2, tf.int32)[:, 0])

        def share_behind(edge):
            overlap = self._OVERLAP_SECONDS * self.sample_rate
            return tf.clip_by_value(0.5 + (tf.range(samples)[None] - edge) / overlap, 0, 1)

        begin, between = moved(begin, place - half - before), moved(between, place)
        end = moved(end, place + half + after)
        behind_begin, behind_between = share_behind(place - half), share_behind(place + half)
        return begin * (1 - behind_begin) + between * (behind_begin - behind_between) + end * behind_between


def _level(audio: Tensor) -> Tensor:
    """Each clip with a root mean square of 0.05; silence stays."""
    return tf.math.divide_no_nan(0.05 * audio, tf.sqrt(_power(audio)))


def _rows(noise: np.ndarray) -> Tensor:
    """Noise as (rows, 160), repeated if it is shorter than a row: a cut copies whole rows, which is quick."""
    return _on_cpu(np.resize(noise, max(1, len(noise) // _ROW) * _ROW).reshape(-1, _ROW))


def _cut(rows: Tensor, audio: Tensor, seed: Tensor, places: Tensor | None = None) -> Tensor:
    """A random cut of the noise for each clip: (batch, samples) float32 at the noise's own scale.

    Args:
        places: (n,) int64, the clips that need one; None: all.
    """
    batch, samples = tf.unstack(tf.shape(audio))
    needed, count = -(-samples // _ROW), tf.shape(rows)[0]
    start = tf.random.stateless_uniform((batch, 1), seed, 0, tf.maximum(1, count - needed + 1), tf.int32)
    start = start if places is None else tf.gather(start, places)
    noise = tf.gather(rows, (start + tf.range(needed)) % count)
    return tf.cast(tf.reshape(noise, (-1, needed * _ROW))[:, :samples], tf.float32)


class Microphone(_Augmentation):
    """Other microphones, as a power response that the front end multiplies the spectrum with (see FrontEnd).

    A chosen clip's response tilts by up to 10 dB at the Nyquist frequency and falls above a cutoff, drawn from 500 Hz
    to the Nyquist frequency, each octave as likely, by 12 to 96 dB an octave, to -50 dB at the lowest: from a good
    headset to a telephone in a pocket. The others' is 1.

    Args:
        probability: share of the clips that are chosen.
        bin_hz: frequencies of the spectrum's bins, (bins,).
    """

    _TILT_DB, _LOWEST_CUTOFF_HZ, _FALL_DB, _FLOOR_DB = 10.0, 500.0, (12.0, 96.0), -50.0

    def __init__(self, probability: float, bin_hz: np.ndarray):
        super().__init__()
        self.probability = probability
        self._share_of_nyquist = (bin_hz / bin_hz[-1]).astype(np.float32)
        self._octaves = np.log2(np.maximum(bin_hz, 1) / self._LOWEST_CUTOFF_HZ).astype(np.float32)

    def call(self, audio: Tensor, seed: Tensor) -> Tensor:
        """Gives the responses, (batch, bins); of `audio` only the number of clips counts."""
        chosen_seed, tilt_seed, cutoff_seed, fall_seed = tf.unstack(tf.random.split(seed, 4))
        tilt = _uniform(audio, tilt_seed, -self._TILT_DB, self._TILT_DB) * self._share_of_nyquist
        cutoff = _uniform(audio, cutoff_seed, 0, float(self._octaves[-1]))
        fall = _uniform(audio, fall_seed, *self._FALL_DB) * tf.maximum(0.0, self._octaves - cutoff)
        chosen = _uniform(audio, chosen_seed, 0, 1) < self.probability
        return tf.where(chosen, 10 ** (tf.maximum(tilt - fall, self._FLOOR_DB) / 10), 1.0)


class VocalTract(_Augmentation):
    """Other speakers: mel filters that read each clip as if its speaker's vocal tract were longer or shorter.

    Vocal tract length perturbation (Jaitly & Hinton 2013): formants move, tempo and pitch stay.

    Args:
        low, high: of the factors by which the tract is longer: a band reads frequencies so many times as high, so that
            formants look lower. Their logarithms are drawn evenly, in 33 steps.
        front_end: whose filters they are.

    Raises:
        UserError: see FrontEnd.mel_filters.
    """

    _FACTORS = 33

    def __init__(self, low: float, high: float, front_end: FrontEnd):
        super().__init__()
        factors = np.geomspace(low, high, self._FACTORS)
        self._filters = _on_cpu(np.stack([front_end.mel_filters(factor) for factor in factors]))

    def call(self, audio: Tensor, seed: Tensor) -> Tensor:
        """Gives the filters, (batch, bins, mel bins); of `audio` only the number of clips counts."""
        drawn = tf.random.stateless_uniform((tf.shape(audio)[0],), seed, 0, self._FACTORS, tf.int32)
        return tf.gather(self._filters, drawn)


def build_vocal_tract(settings: AugmentSettings, front_end: FrontEnd) -> VocalTract | None:
    """None if it is switched off. Raises UserError as VocalTract."""
    return None if settings.vocal_tract in (None, (1, 1)) else VocalTract(*settings.vocal_tract, front_end)


class SpecAugment(_Augmentation):
    """Masks stretches of time and of features with the clip's mean of each feature (Park et al. 2019, without warping).

    Each of the masks is 0 to so many frames or bins wide, every width as likely, and lies anywhere within the clip.
    """

    def __init__(self, time_masks: int, time_mask_frames: int, frequency_masks: int, frequency_mask_bins: int):
        super().__init__()
        self.time_masks, self.time_mask_frames = time_masks, time_mask_frames
        self.frequency_masks, self.frequency_mask_bins = frequency_masks, frequency_mask_bins

    def call(self, features: Tensor, seed: Tensor, lengths: Tensor | None = None) -> Tensor:
        """`lengths`: int32 (batch,), the clips' own frames, after which come zeros; None: all as many as the batch."""
        batch, frames, bins = tf.unstack(tf.shape(features))
        own = frames if lengths is None else lengths[:, None, None]
        time_seed, frequency_seed = tf.unstack(tf.random.split(seed, 2))
        time = self._masked(batch, frames, own, self.time_masks, self.time_mask_frames, time_seed)
        frequency = self._masked(batch, bins, bins, self.frequency_masks, self.frequency_mask_bins, frequency_seed)
        mean = tf.reduce_mean(features, axis=1, keepdims=True)
        if lengths is not None:
            mean *= tf.cast(frames / tf.maximum(own, 1), tf.float32)
        return tf.where(time[:, :, None] | frequency[:, None, :], mean, features)

    @staticmethod
    def _masked(batch: Tensor, places: Tensor, own: Tensor, masks: int, widest: int, seed: Tensor) -> Tensor:
        """Whether each place is under a mask, of which none leaves a clip's own places: bool (batch, places).

        Args:
            own: how many places each clip has of its own, () or (batch, 1, 1).
        """
        width_seed, start_seed = tf.unstack(tf.random.split(seed, 2))
        width = tf.random.stateless_uniform((batch, masks, 1), width_seed, 0, tf.minimum(widest, places) + 1, tf.int32)
        width = tf.minimum(width, own)
        starts = tf.cast(own - width + 1, tf.float32)
        start = tf.cast(tf.random.stateless_uniform((batch, masks, 1), start_seed) * starts, tf.int32)
        place = tf.range(places)
        return tf.reduce_any((place >= start) & (place < start + width), axis=1)


class Mixup(_Augmentation):
    """Mixes each clip and its label with another of the batch (Zhang et al. 2018), weighted by Beta(alpha, alpha)."""

    def __init__(self, alpha: float):
        super().__init__()
        self.alpha = alpha

    def call(self, features: Tensor, labels: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        """Labels are float32 (batch, classes), one-hot or already soft."""
        batch = tf.shape(features)[0]
        partner_seed, weight_seed = tf.unstack(tf.random.split(seed, 2))
        distance = tf.random.stateless_uniform((), partner_seed, 1, tf.maximum(batch, 2), tf.int32)
        gamma = tf.random.stateless_gamma((2, batch, 1), weight_seed, self.alpha)
        weight = gamma[0] / (gamma[0] + gamma[1])  # a Beta variable; neither Gamma variable is ever 0

        def mixed(values, weight):
            return weight * values + (1 - weight) * tf.roll(values, distance, axis=0)

        return mixed(features, weight[:, :, None]), mixed(labels, weight)


def build_waveform_augmentation(
    settings: AugmentSettings, sample_rate: int, noise: np.ndarray | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Speed, time shift, noise, gain as a function of (audio, seed); what is switched off is absent.

    Args:
        noise: see BackgroundNoise; None or empty: none is recorded. int16 with `generated_noise`.
    """
    parts = _waveform_parts(settings, sample_rate, noise)

    def augment(audio: Tensor, seed: Tensor) -> Tensor:
        for number, part in parts.items():
            audio = part(audio, tf.random.experimental.stateless_fold_in(seed, number))
        return audio

    return augment


def build_phrase_augmentation(
    settings: AugmentSettings, sample_rate: int, noise: np.ndarray | None = None, views: int = 1
) -> Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The same for clips of their own lengths: (audio, seed, lengths) -> audio, lengths; none is shifted.

    Arguments as above; lengths are int32 (batch,), and zeros come after.

    Args:
        views: so many of each clip come out, one after the other: of one speed, the rest drawn for each.
    """
    parts = _waveform_parts(settings.model_copy(update={"time_shift_ms": 0.0}), sample_rate, noise)
    speed = parts.pop(0, None)

    def augment(audio: Tensor, seed: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        if speed is not None:
            audio, lengths = speed.from_start(audio, tf.random.experimental.stateless_fold_in(seed, 0), lengths)
        audio, lengths = tf.repeat(audio, views, axis=0), tf.repeat(lengths, views)
        for number, part in parts.items():
            own_seed = tf.random.experimental.stateless_fold_in(seed, number)
            of_lengths = (lengths,) if isinstance(part, BackgroundNoise) else ()
            audio = part(audio, own_seed, *of_lengths)
        return audio, lengths

    return augment


def _waveform_parts(settings: AugmentSettings, sample_rate: int, noise: np.ndarray | None) -> dict[int, _Augmentation]:
    """By the number that its draws hang on: a part switched off leaves those of the others as they are."""
    parts = {}
    if settings.speed not in (None, (1, 1)):
        parts[0] = Speed(*settings.speed)
    if settings.time_shift_ms:
        parts[1] = TimeShift(round(settings.time_shift_ms * sample_rate / 1000))
    noise = np.zeros(0, np.int16) if noise is None else noise
    if settings.noise_probability and settings.generated_noise:
        noise = np.concatenate([noise, generated_noise(sample_rate)])
    if settings.noise_probability and len(noise):
        parts[2] = BackgroundNoise(noise, settings.noise_probability, *settings.snr_db)
    if settings.gain_db not in (None, (0, 0)):
        parts[3] = Gain(*settings.gain_db)
    return parts


def build_feature_augmentation(settings: AugmentSettings) -> Callable[..., tuple[Tensor, Tensor]]:
    """Mixup, then SpecAugment, as a function of (features, labels, seed); parts that are switched off are absent.

    A fourth argument are the clips' own frames, see SpecAugment; mixup takes all of them for equally long.
    """
    mixup = Mixup(settings.mixup) if settings.mixup else None
    spec_augment = None
    if settings.time_masks or settings.frequency_masks:
        spec_augment = SpecAugment(
            settings.time_masks, settings.time_mask_frames, settings.frequency_masks, settings.frequency_mask_bins
        )

    def augment(features: Tensor, labels: Tensor, seed: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if mixup is not None:
            features, labels = mixup(features, labels, tf.random.experimental.stateless_fold_in(seed, 10))
        if spec_augment is not None:
            features = spec_augment(features, tf.random.experimental.stateless_fold_in(seed, 11), lengths)
        return features, labels

    return augment
