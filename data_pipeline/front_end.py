"""Raw audio -> MFCC or log-mel features: the one definition that training, evaluation and every artefact share."""

import math
from collections.abc import Iterable, Iterator

import keras
import numpy as np
from keras import ops

from data_pipeline.errors import UserError
from data_pipeline.settings import FrontEndSettings

DELTA_WIDTH = 9
_MIN_POWER = 1e-10
_DECIBELS = 10 / math.log(10)
# A feature that hardly varies over the training split isn't blown up: its deviation counts as 0.01 at least.
_MIN_VARIANCE = 1e-4
_ADAPT_BATCH = 128


def _hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Slaney's Auditory Toolbox (1998): linear up to 1 kHz (200/3 Hz a mel), from there 27 mels for a factor of 6.4."""
    hz = np.asarray(hz, np.float64)
    return np.where(hz < 1000, hz * 3 / 200, 15 + np.log(np.maximum(hz, 1000) / 1000) * 27 / np.log(6.4))


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))


def warp_hz(hz: np.ndarray, factor: float, nyquist: float) -> np.ndarray:
    """Frequencies `factor` times as high, up to 0.6 of the Nyquist frequency, which itself stays; a line in between.

    Vocal tract length perturbation (Jaitly & Hinton 2013, equation 1), whose 4800 Hz are that share of 8 kHz.
    """
    knee = 0.6 * nyquist * min(factor, 1) / factor
    slope = (nyquist - knee * factor) / (nyquist - knee)
    return np.where(hz <= knee, hz * factor, nyquist - slope * (nyquist - hz))


def mel_matrix(
    sample_rate: int, fft_size: int, mel_bins: int, low_hz: float, high_hz: float, warp: float = 1.0
) -> np.ndarray:
    """Triangular filters evenly spaced in mel, each of unit area over Hz: `librosa.filters.mel`, transposed.

    Args:
        warp: their edges lie so many times as high, see warp_hz.

    Returns:
        float32 (fft_size // 2 + 1, mel_bins), to be multiplied by power spectra from the left.
    """
    edges = _mel_to_hz(np.linspace(*_hz_to_mel([low_hz, high_hz]), mel_bins + 2))
    edges = warp_hz(edges, warp, sample_rate / 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    hz = np.linspace(0, sample_rate / 2, fft_size // 2 + 1)[:, None]
    triangles = np.maximum(0, np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre)))
    return (triangles * 2 / (high - low)).astype(np.float32)


def dct_matrix(mel_bins: int, coefficients: int) -> np.ndarray:
    """The first columns of the orthonormal DCT-II: float32 (mel_bins, coefficients)."""
    angle = np.pi / mel_bins * (np.arange(mel_bins)[:, None] + 0.5) * np.arange(coefficients)
    scale = np.where(np.arange(coefficients) == 0, np.sqrt(1 / mel_bins), np.sqrt(2 / mel_bins))
    return (np.cos(angle) * scale).astype(np.float32)


def delta_weights(order: int) -> np.ndarray:
    """Weights over DELTA_WIDTH frames that give the `order`th derivative of a least-squares polynomial of that degree.

    Savitzky & Golay (1964). float64 (DELTA_WIDTH,), the earliest frame first.
    """
    time = np.arange(DELTA_WIDTH) - DELTA_WIDTH // 2
    highest_power = np.linalg.pinv(np.vander(time, order + 1))[0]
    return highest_power * (1, 1, 2)[order]


@keras.saving.register_keras_serializable("speech_gru")
class FrontEnd(keras.layers.Layer):
    """Audio, float32 (batch, samples) in [-1, 1] -> features, float32 (batch, frames, feature_count).

    Equal to librosa with center=False: frames of `fft_size` samples every hop, a periodic Hann window centred in the
    frame, power spectrum, Slaney mel filters, decibels (`power_to_db` with top_db=None), orthonormal DCT-II, then
    `librosa.feature.delta` of width 9, appended along the feature axis. Always computes in float32.

    With `normalize`, each feature's mean is subtracted and its deviation divided out, as `adapt` found them; before
    `adapt` that changes nothing. The statistics are saved with the layer and loaded by `load_model` or `load_weights`;
    after `set_weights` call `layer.normalization.finalize_state()`: `keras.layers.Normalization` holds a constant copy.

    Args: `sample_rate` in Hz, any field of FrontEndSettings by its name, and the `name` of the layer.

    Raises:
        UserError: settings that don't fit each other or the sampling rate, or clips too short for them.
    """

    def __init__(self, *, sample_rate: int, **kwargs):
        fields = {name: kwargs.pop(name) for name in FrontEndSettings.model_fields if name in kwargs}
        super().__init__(**(kwargs | {"dtype": "float32", "trainable": False}))
        self.settings = settings = FrontEndSettings(**fields)
        self.sample_rate = sample_rate
        self.input_spec = keras.layers.InputSpec(ndim=2)
        window = round(settings.window_ms * sample_rate / 1000)
        self.hop = round(settings.hop_ms * sample_rate / 1000)
        self.fft_size = settings.fft_size or 1 << max(window - 1, 1).bit_length()
        self._check_frame(window)
        self._window = np.zeros(self.fft_size, np.float32)
        start = (self.fft_size - window) // 2
        self._window[start : start + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
        self._mel = self.mel_filters()
        self._dct = dct_matrix(settings.mel_bins, settings.coefficients)
        self.normalization = None
        if settings.normalize:
            self.normalization = keras.layers.Normalization(axis=-1, dtype="float32", name="normalization")
            # Built here, since what it builds in a graph (tf.data's, say) would be lost with that graph.
            self.normalization.build((None, None, self.feature_count))

    @classmethod
    def from_settings(cls, settings: FrontEndSettings, sample_rate: int) -> "FrontEnd":
        """The front end of a config's section, for audio of `sample_rate` Hz."""
        return cls(sample_rate=sample_rate, **settings.model_dump())

    def _check_frame(self, window: int) -> None:
        settings = self.settings
        if window < 2 or self.hop < 1:
            raise UserError(
                f"window_ms must give 2 samples or more and hop_ms at least 1; at {self.sample_rate} Hz they give "
                f"{window} ({settings.window_ms:g} ms) and {self.hop} ({settings.hop_ms:g} ms). Lengthen them."
            )
        if window > self.fft_size:
            raise UserError(
                f"window_ms must give at most fft_size = {self.fft_size} samples; {settings.window_ms:g} ms at "
                f"{self.sample_rate} Hz are {window}. Shorten window_ms, or leave fft_size out."
            )
        if self.fft_size & (self.fft_size - 1):
            raise UserError(
                f"fft_size must be a power of two, the only sizes that TFLite transforms; got {self.fft_size}. Take "
                f"{1 << self.fft_size.bit_length()}, or leave fft_size out: the window keeps its length."
            )

    def mel_filters(self, warp: float = 1.0) -> np.ndarray:
        """What power spectra are multiplied with: float32 (fft_size // 2 + 1, mel_bins).

        Args:
            warp: see mel_matrix.

        Raises:
            UserError: a band that holds no bin of the spectrum.
        """
        settings, nyquist = self.settings, self.sample_rate / 2
        high_hz = nyquist if settings.high_hz is None else settings.high_hz
        if not settings.low_hz < high_hz <= nyquist:
            raise UserError(
                f"low_hz and high_hz must lie between 0 and half the sampling rate, {nyquist:g} Hz, in this order; got "
                f"{settings.low_hz:g} and {high_hz:g}. Lower them, or leave high_hz out."
            )
        matrix = mel_matrix(self.sample_rate, self.fft_size, settings.mel_bins, settings.low_hz, high_hz, warp)
        empty = np.flatnonzero(matrix.max(axis=0) == 0)
        if empty.size:
            moved = "" if warp == 1 else f" once augment.vocal_tract has moved them by {warp:.2f}; narrow that range"
            raise UserError(
                f"each of the {settings.mel_bins} mel bands must hold a bin of the spectrum; with fft_size "
                f"{self.fft_size} at {self.sample_rate} Hz, {empty.size} hold none{moved}. Lower mel_bins or raise "
                "fft_size."
            )
        return matrix

    @property
    def feature_count(self) -> int:
        """Features of a frame, deltas included."""
        settings = self.settings
        return (settings.coefficients if settings.kind == "mfcc" else settings.mel_bins) * (1 + settings.deltas)

    def frame_count(self, samples: int) -> int:
        """Frames of a clip of so many samples. Raises UserError if they don't make one frame, or enough for deltas."""
        frames = 1 + (samples - self.fft_size) // self.hop
        needed = DELTA_WIDTH if self.settings.deltas else 1
        if frames < needed:
            raise UserError(
                f"a clip must have at least {self.fft_size + (needed - 1) * self.hop} samples, for {needed} frame(s) "
                f"with deltas: {self.settings.deltas}; got {samples}. Take longer clips, a shorter hop, or no deltas."
            )
        return frames

    def frames_within(self, samples):
        """Frames that lie within clips of so many samples, an int or integers of any backend; 0 where there is none."""
        frames = (samples - self.fft_size) // self.hop + 1
        return max(0, frames) if isinstance(frames, int) else ops.maximum(0, frames)

    def compute_output_shape(self, input_shape):
        batch, samples = input_shape
        return (batch, None if samples is None else self.frame_count(samples), self.feature_count)

    def build(self, input_shape):
        self.compute_output_shape(input_shape)  # for its error: Keras adds lines of its own to one that `call` raises

    def call(self, audio, response=None, filters=None):
        """Features of audio, heard as it is unless these are given.

        Args:
            response: each clip's power spectrum is multiplied with it: float32 (batch, fft_size // 2 + 1).
            filters: each clip's own in the place of `mel_filters()`: float32 (batch, fft_size // 2 + 1, mel_bins).
        """
        features = self._features(audio, response, filters)
        return features if self.normalization is None else self.normalization(features)

    @property
    def bin_hz(self) -> np.ndarray:
        """The frequencies of the power spectrum's bins, float64 (fft_size // 2 + 1,)."""
        return np.linspace(0, self.sample_rate / 2, self.fft_size // 2 + 1)

    def _features(self, audio, response=None, filters=None):
        """The features before normalisation."""
        if audio.shape[1] is not None:
            self.frame_count(audio.shape[1])
        frames = ops.multiply(ops.extract_sequences(audio, self.fft_size, self.hop), self._window)
        real, imaginary = self.transform(frames)
        power = ops.square(real) + ops.square(imaginary)
        if response is not None:
            power = power * response[:, None, :]
        mel = ops.matmul(power, self._mel if filters is None else filters)
        features = _DECIBELS * ops.log(ops.maximum(mel, _MIN_POWER))
        if self.settings.kind == "mfcc":
            features = ops.matmul(features, self._dct)
        deltas = (self._deltas(features, order) for order in range(1, self.settings.deltas + 1))
        return ops.concatenate([features, *deltas], axis=-1)

    def transform(self, frames):
        """The Fourier transform: (…, fft_size) -> real and imaginary parts, each (…, fft_size // 2 + 1)."""
        return ops.rfft(frames, self.fft_size)

    def _deltas(self, features, order: int):
        """`librosa.feature.delta(width=9, mode="interp", order=order)`."""
        kernel = np.tile(delta_weights(order).astype(np.float32)[:, None, None], (1, features.shape[-1], 1))
        inner = ops.depthwise_conv(features, kernel, padding="valid", data_format="channels_last")
        # The outermost 4 frames take the derivative of the edge's fit, the same all along: its degree is the order.
        edge = DELTA_WIDTH // 2
        return ops.concatenate([inner[:, :1]] * edge + [inner] + [inner[:, -1:]] * edge, axis=1)

    def adapt(self, audio: np.ndarray | Iterable) -> None:
        """Measures each feature's mean and variance. Without `normalize` there is nothing to do.

        Args:
            audio: float32 (clips, samples), or batches of it: a tf.data.Dataset, a generator.

        Raises:
            UserError: there are no clips.
        """
        if self.normalization is None:
            return
        count, total, squares = 0, 0.0, 0.0
        for batch in _batches(audio):
            features = ops.convert_to_numpy(self._features(ops.convert_to_tensor(np.asarray(batch, np.float32))))
            features = features.reshape(-1, self.feature_count).astype(np.float64)
            count, total, squares = count + len(features), total + features.sum(0), squares + np.square(features).sum(0)
        if count == 0:
            raise UserError("the features' mean and deviation need training clips; got none. Check the corpus.")
        mean = total / count
        self.normalization.adapt_mean.assign(mean)
        self.normalization.adapt_variance.assign(np.maximum(squares / count - mean**2, _MIN_VARIANCE))
        self.normalization.finalize_state()

    def get_config(self):
        return super().get_config() | {"sample_rate": self.sample_rate} | self.settings.model_dump()


def _batches(audio: np.ndarray | Iterable) -> Iterator:
    if not isinstance(audio, np.ndarray):
        return iter(audio)
    return (audio[start : start + _ADAPT_BATCH] for start in range(0, len(audio), _ADAPT_BATCH))
