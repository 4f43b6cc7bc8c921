"""Every format in, every reason for refusal, and resampling against exact signals and soxr."""

import io
import os
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_pipeline import audio
from data_pipeline.audio import AudioError, fit_length, from_pcm16, load_audio, resample, to_pcm16
from data_pipeline.errors import UserError

RATE = 16000


def tone(rate: int = RATE, seconds: float = 1.0, hz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, samples)


def encoded(samples, rate: int = RATE, container: str = "WAV", subtype: str = "PCM_16", **options) -> bytes:
    file = io.BytesIO()
    sf.write(file, samples, rate, format=container, subtype=subtype, **options)
    return file.getvalue()


def load(content: bytes, rate: int = RATE, **limits) -> np.ndarray:
    return load_audio(io.BytesIO(content), rate, **limits)


def with_data_size(wav: bytes, size: int) -> bytes:
    at = wav.index(b"data") + 4
    return wav[:at] + size.to_bytes(4, "little") + wav[at + 4 :]


def with_total_samples(flac: bytes, total: int) -> bytes:
    """STREAMINFO's 36-bit count of samples (RFC 9639, section 8.2) replaced."""
    at = flac.index(b"fLaC") + 8 + 10
    field = int.from_bytes(flac[at : at + 8], "big")
    return flac[:at] + (field >> 36 << 36 | total).to_bytes(8, "big") + flac[at + 8 :]


class TestFormats:
    @pytest.mark.parametrize(
        ("container", "subtype", "tolerance"),
        [
            ("WAV", "PCM_U8", 1 / 128),
            ("WAV", "PCM_16", 1 / 2**15),
            ("WAV", "PCM_24", 1 / 2**23),
            ("WAVEX", "PCM_24", 1 / 2**23),
            ("WAV", "PCM_32", 1e-7),
            ("WAV", "FLOAT", 1e-7),
            ("WAV", "DOUBLE", 1e-7),
            ("RF64", "PCM_16", 1 / 2**15),
            ("FLAC", "PCM_S8", 1 / 128),
            ("FLAC", "PCM_16", 1 / 2**15),
            ("FLAC", "PCM_24", 1 / 2**23),
            ("OGG", "VORBIS", 0.03),
            ("OGG", "OPUS", 0.03),
            ("MP3", "MPEG_LAYER_III", 0.03),
        ],
    )
    def test_round_trip(self, container, subtype, tolerance):
        samples = load(encoded(tone(), container=container, subtype=subtype))
        assert samples.dtype == np.float32
        assert samples.shape == (RATE,)
        np.testing.assert_allclose(samples[500:-500], tone()[500:-500], atol=tolerance)

    def test_big_endian_wav(self):
        np.testing.assert_allclose(load(encoded(tone(), endian="BIG")), tone(), atol=1 / 2**15)

    def test_24_bit_96_khz_stereo(self):
        channels = np.stack([tone(96000), tone(96000, hz=1000)], axis=1)
        samples = load(encoded(channels, 96000, subtype="PCM_24"))
        expected = (tone() + tone(hz=1000)) / 2
        np.testing.assert_allclose(samples[200:-200], expected[200:-200], atol=1e-4)

    @pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100])
    def test_rates(self, rate):
        samples = load(encoded(tone(rate), rate))
        assert samples.shape == (RATE,)
        np.testing.assert_allclose(samples[200:-200], tone()[200:-200], atol=2e-4)

    def test_channels_are_averaged(self):
        channels = np.stack([tone(), -tone(), tone(), tone()], axis=1)
        np.testing.assert_allclose(load(encoded(channels, subtype="FLOAT")), tone() / 2, atol=1e-6)

    def test_overshoot_is_clipped(self):
        samples = load(encoded(3 * tone(), subtype="FLOAT"))
        np.testing.assert_allclose(samples, np.clip(3 * tone(), -1, 1), atol=1e-6)

    def test_one_sample(self):
        np.testing.assert_array_equal(load(encoded([0.5])), [0.5])

    @pytest.mark.parametrize("name", ["é 語 🎤.WAV", b"caf\xe9.wav"])
    def test_names(self, tmp_path, name):
        path = os.path.join(tmp_path, os.fsdecode(name))
        try:
            with open(path, "wb") as file:
                file.write(encoded(tone()))
        except OSError:
            pytest.skip("this file system takes no such name")
        assert load_audio(path, RATE).shape == (RATE,)

    @pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x80000000, 0xFFFFFFFF])
    def test_wav_of_a_streaming_writer(self, size):
        wav = encoded(tone())
        np.testing.assert_array_equal(load(with_data_size(wav, size)), load(wav))

    def test_chunks_around_the_samples(self):
        wav = encoded(tone())
        at = wav.index(b"data")
        extra = b"LIST\x05\0\0\0hello\0"  # of odd size, so padded
        np.testing.assert_array_equal(load(wav[:at] + extra + wav[at:] + extra), load(wav))

    def test_flac_of_a_streaming_writer(self):
        flac = encoded(tone(), container="FLAC")
        np.testing.assert_array_equal(load(with_total_samples(flac, 0)), load(flac))

    @pytest.mark.parametrize(
        ("container", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")]
    )
    def test_id3_tag_in_front(self, container, subtype):
        content = encoded(tone(), container=container, subtype=subtype)
        tag = b"ID3\x04\0\0\0\0\x02\x10" + bytes(2 * 128 + 16)
        np.testing.assert_array_equal(load(tag + content), load(content))

    def test_two_id3_tags(self):
        mp3 = encoded(tone(), container="MP3", subtype="MPEG_LAYER_III")
        np.testing.assert_array_equal(load(2 * (b"ID3\x04\0\0\0\0\0\x10" + bytes(16)) + mp3), load(mp3))

    def test_file_object_anywhere_and_left_open(self):
        file = io.BytesIO(encoded(tone()))
        file.seek(100)
        assert load_audio(file, RATE).shape == (RATE,)
        assert not file.closed

    def test_blocks_make_no_difference(self, monkeypatch):
        flac = encoded(np.stack([tone(), tone()], axis=1), container="FLAC")
        whole = load(flac)
        monkeypatch.setattr(audio, "_BLOCK_VALUES", 1000)
        np.testing.assert_array_equal(load(flac), whole)

    @settings(max_examples=25, deadline=None)
    @given(arrays(np.int16, st.integers(1, 300)))
    def test_16_bit_is_lossless(self, pcm):
        pcm[0] = -32768  # not silent
        np.testing.assert_array_equal(to_pcm16(load(encoded(pcm))), pcm)


def refused(content: bytes, reason: str, **limits) -> None:
    with pytest.raises(AudioError, match=reason):
        load(content, **limits)


class TestRefusals:
    def test_is_a_users_mistake(self):
        assert issubclass(AudioError, UserError)

    def test_missing(self, tmp_path):
        for path in (tmp_path, tmp_path / "none.wav", "nul\0.wav"):
            with pytest.raises(AudioError, match=r"^missing: there is no such file$"):
                load_audio(path, RATE)

    def test_unreadable(self, tmp_path, monkeypatch):
        path = tmp_path / "locked.wav"
        path.write_bytes(encoded(tone()))

        def denied(*_):
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("builtins.open", denied)  # root may read anything
        with pytest.raises(AudioError, match=r"^unreadable: Permission denied$"):
            load_audio(path, RATE)

    @pytest.mark.parametrize("suffix", ["wav", "mp3", "vox", "au", "raw", "opus"])
    def test_text(self, tmp_path, suffix):
        """libsndfile takes any content for audio where the file is called .vox, .au or .snd."""
        path = tmp_path / f"clip.{suffix}"
        path.write_text("not a sound\n" * 1000)
        with pytest.raises(AudioError, match=r"^not audio: expected WAV, FLAC, Ogg or MP3$"):
            load_audio(path, RATE)

    def test_film(self):
        refused(b"RIFF\x24\0\0\0AVI LIST" + bytes(100), "^not audio: ")

    @pytest.mark.parametrize(
        ("name", "container", "subtype", "family"),
        [
            ("a.wav", "FLAC", "PCM_16", "FLAC"),
            ("a.MP3", "WAV", "PCM_16", "WAV"),
            ("a.flac", "OGG", "VORBIS", "Ogg"),
            ("a.opus", "MP3", "MPEG_LAYER_III", "MP3"),
            ("a.raw", "WAV", "PCM_16", "WAV"),
        ],
    )
    def test_misnamed(self, tmp_path, name, container, subtype, family):
        path = tmp_path / name
        path.write_bytes(encoded(tone(), container=container, subtype=subtype))
        with pytest.raises(AudioError, match=f"^misnamed: {path.suffix.lower()}, but its content is {family}$"):
            load_audio(path, RATE)

    @pytest.mark.parametrize("name", ["a", "a.bin", "a.oga", "a.wave"])
    def test_not_misnamed(self, tmp_path, name):
        ogg = name.endswith("oga")
        path = tmp_path / name
        path.write_bytes(encoded(tone(), container="OGG", subtype="VORBIS") if ogg else encoded(tone()))
        assert load_audio(path, RATE).shape == (RATE,)

    def test_empty(self):
        refused(b"", "^empty: 0 bytes$")
        refused(encoded([]), "^empty: it holds no samples$")

    def test_truncated_wav(self):
        wav = encoded(tone())
        header = wav.index(b"data") + 8
        refused(wav[: header + 2 * 6560], r"^truncated: 0\.41 s of 1\.00 s are there$")
        refused(wav[:-2], "^truncated: 1.00 s of 1.00 s are there$")
        refused(wav[: header - 1], "^truncated: it ends before the samples$")
        refused(wav[:30], "^truncated: it ends before the samples$")
        stereo = encoded(np.stack([tone(44100)] * 2, axis=1), 44100, subtype="FLOAT")
        refused(stereo[: len(stereo) // 2], r"^truncated: 0\.50 s of 1\.00 s are there$")

    @pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
    def test_truncated_ogg(self, subtype):
        ogg = encoded(noise(5 * RATE), container="OGG", subtype=subtype)
        last_page = ogg.rindex(b"OggS")
        assert last_page > ogg.index(b"OggS", 4000)  # several pages hold samples
        refused(ogg[:last_page], "^truncated: the last Ogg page is not the stream's end$")
        refused(ogg[: last_page + 2], "^truncated: the last Ogg page is not the stream's end$")
        for cut in (last_page + 5, last_page + 27, last_page + 60, len(ogg) - 1, len(ogg) // 2, 40):
            refused(ogg[:cut], "^truncated: the last Ogg page is cut$")
        assert len(load(ogg + b"TAG" + bytes(125))) == 5 * RATE  # a tag behind the end is none of our business

    def test_truncated_flac(self):
        flac = encoded(noise(2 * RATE), container="FLAC")
        for cut in (*range(50, len(flac), len(flac) // 20), len(flac) - 1):
            refused(flac[:cut], "^truncated")
        refused(with_total_samples(flac, 4 * RATE), r"^truncated: 2\.00 s of 4\.00 s are there$")

    @pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
    def test_truncated_mp3(self, mode):
        options = {"bitrate_mode": mode, "compression_level": 0.5}
        mp3 = encoded(noise(2 * RATE), container="MP3", subtype="MPEG_LAYER_III", **options)
        assert len(load(mp3)) == 2 * RATE
        for cut in (0.3, 0.5, 0.9):
            refused(mp3[: int(cut * len(mp3))], r"^truncated: \d\.\d\d s of 2\.00 s are there$")

    def test_mp3_without_frame_count(self):
        """No promise, so nothing to hold it to: the decoder's estimate may be off by a frame."""
        options = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
        mp3 = encoded(noise(44100), 44100, "MP3", "MPEG_LAYER_III", **options)
        second_frame = mp3.index(mp3[:2], 4)
        assert abs(len(load(mp3[second_frame:], 44100)) - 44100) < 3 * 1152

    def test_damaged(self):
        flac = bytearray(encoded(noise(2 * RATE), container="FLAC"))
        middle = slice(len(flac) // 2, len(flac) // 2 + 2000)
        flac[middle] = bytes(2000)
        refused(bytes(flac), "^truncated or damaged: flac decoder lost sync$")
        unknown_codec = bytearray(encoded(tone()))
        unknown_codec[20] = 0x77
        refused(bytes(unknown_codec), "^truncated or damaged: Error in WAV")

    def test_reason_holds_no_path(self, tmp_path):
        path = tmp_path / "clip.flac"
        path.write_bytes(b"fLaC" + bytes(100))
        with pytest.raises(AudioError) as caught:
            load_audio(path, RATE)
        assert "clip" not in str(caught.value)

    @pytest.mark.parametrize("rate", [1, 999, 768_001])
    def test_impossible_rate(self, rate):
        refused(encoded(tone(), rate), f"^impossible sampling rate: {rate} Hz, expected 1000 to 768000 Hz$")

    def test_length(self):
        wav = encoded(tone())
        refused(wav, r"^too short: 1\.00 s, at least 1\.5 s are needed$", min_seconds=1.5)
        refused(wav, r"^too long: 1\.00 s, at most 0\.5 s are allowed$", max_seconds=0.5)
        assert load(wav, min_seconds=1.0, max_seconds=1.0).shape == (RATE,)

    @pytest.mark.parametrize(
        ("container", "subtype", "seconds"),
        [
            ("WAV", "PCM_16", 600),
            ("FLAC", "PCM_16", 600),
            ("OGG", "VORBIS", 30),
            ("OGG", "OPUS", 30),
            ("MP3", "MPEG_LAYER_III", 30),
        ],
    )
    def test_too_long_is_known_without_decoding(self, monkeypatch, container, subtype, seconds):
        class CountingFile(io.BytesIO):
            taken = 0

            def read(self, size=-1):
                content = super().read(size)
                self.taken += len(content)
                return content

            def readinto(self, buffer):
                taken = super().readinto(buffer)
                self.taken += taken
                return taken

        def decoded(*_, **__):
            pytest.fail("samples were decoded")

        monkeypatch.setattr(audio._SequentialFile, "read", decoded)
        file = CountingFile(encoded(np.tile(noise(8000), seconds), 8000, container, subtype))
        with pytest.raises(AudioError, match=f"^too long: {seconds}.00 s, at most 29 s are allowed$"):
            load_audio(file, RATE, max_seconds=29)
        assert file.taken < 300_000

    def test_too_long_of_unknown_length_is_not_decoded_to_its_end(self, monkeypatch):
        monkeypatch.setattr(audio, "_BLOCK_VALUES", 1000)
        flac = with_total_samples(encoded(tone(), container="FLAC"), 0)
        refused(flac, r"^too long: 0\.12 s, at most 0\.1 s are allowed$", max_seconds=0.1)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
    def test_not_finite(self, value):
        samples = np.stack([tone(), -tone()], axis=1)
        samples[77] = value, -value
        refused(encoded(samples, subtype="DOUBLE"), "^not finite: ")
        refused(encoded(samples[:, 0], subtype="DOUBLE"), "^not finite: ")

    def test_out_of_range(self):
        refused(encoded(32768 * tone(), subtype="FLOAT"), r"^out of range: the peak is 16384, ")

    def test_silent(self):
        refused(encoded(np.zeros(RATE)), r"^silent: the peak is 0\.0e\+00, at least 0\.0001 is needed$")
        refused(encoded(np.full(RATE, 0.9e-4), subtype="FLOAT"), "^silent: ")
        refused(encoded(np.stack([tone(), -tone()], axis=1)), "^silent: ")
        assert load(encoded(np.full(RATE, 1.1e-4), subtype="FLOAT")).shape == (RATE,)

    def test_order(self, tmp_path):
        """A short, silent, truncated FLAC called .wav has the first of these four faults."""
        path = tmp_path / "a.wav"
        path.write_bytes(encoded(np.zeros(3 * RATE), container="FLAC")[:-10])
        with pytest.raises(AudioError, match=r"^misnamed"):
            load_audio(path, RATE, min_seconds=5)
        path = path.rename(tmp_path / "a.flac")
        with pytest.raises(AudioError, match=r"^too short"):
            load_audio(path, RATE, min_seconds=5)
        with pytest.raises(AudioError, match=r"^truncated"):
            load_audio(path, RATE)


MAGICS = [b"", b"RIFF\xff\0\0\0WAVE", b"RIFF\0\0\0\0WAVEdata", b"OggS\0\4", b"fLaC", b"ID3", b"\xff\xfb"]
SEEDS = [
    encoded(tone(seconds=0.2)),
    encoded(np.stack([tone(seconds=0.2)] * 2, axis=1), subtype="FLOAT"),
    encoded(tone(seconds=0.2), container="FLAC"),
    encoded(tone(seconds=0.2), container="OGG", subtype="VORBIS"),
    encoded(tone(seconds=0.2), container="OGG", subtype="OPUS"),
    encoded(tone(seconds=0.2), container="MP3", subtype="MPEG_LAYER_III"),
]


class TestHostileFiles:
    def check(self, content: bytes) -> None:
        try:
            samples = load(content, max_seconds=60)
        except AudioError:
            return
        assert samples.dtype == np.float32
        assert np.abs(samples).max() <= 1

    @settings(max_examples=60, deadline=None)
    @given(
        st.sampled_from(MAGICS),
        st.binary(max_size=400),
    )
    def test_random_bytes(self, magic, content):
        self.check(magic + content)

    @settings(max_examples=60, deadline=None)
    @given(
        st.sampled_from(SEEDS),
        st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), min_size=1, max_size=4),
        st.floats(0.9, 1.1),
    )
    def test_broken_headers(self, content, changes, share):
        broken = bytearray(content[: int(share * len(content))])
        for position, value in changes:
            broken[position] = value
        self.check(bytes(broken))

    def test_zeros_are_no_endless_chunks(self):
        class CountingFile(io.BytesIO):
            seeks = 0

            def seek(self, *args):
                self.seeks += 1
                return super().seek(*args)

        file = CountingFile(b"RIFF\0\0\0\0WAVE" + bytes(1_000_000))
        with pytest.raises(AudioError):
            load_audio(file, RATE)
        assert file.seeks < 10_000


class TestRealSpeech:
    def test_against_soundfile(self, shared_data):
        for path in sorted((shared_data / "speech_commands" / "yes").glob("*.opus"))[:20]:
            expected, rate = sf.read(path, dtype="float32")
            assert rate == RATE
            np.testing.assert_array_equal(load_audio(path, RATE), np.clip(expected, -1, 1))

    def test_threads(self, shared_data):
        paths = sorted((shared_data / "an4" / "audio").rglob("*.opus"))[:12]
        alone = [load_audio(path, 8000) for path in paths]
        with ThreadPoolExecutor(4) as pool:
            for samples, expected in zip(pool.map(lambda path: load_audio(path, 8000), paths), alone, strict=True):
                np.testing.assert_array_equal(samples, expected)


def band_limited(rate: int, to_rate: int, seconds: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Periodic noise up to 0.9 of the lower Nyquist frequency at both rates: the same Fourier series, sampled twice."""
    rng = np.random.default_rng(rate)
    bins = int(0.9 * min(rate, to_rate) / 2 * seconds)
    series = np.zeros(bins, complex)
    series[20:] = rng.standard_normal(bins - 20) + 1j * rng.standard_normal(bins - 20)
    signals = [np.fft.irfft(series, each * seconds) * each for each in (rate, to_rate)]
    peak = np.abs(signals[0]).max()
    return signals[0] / peak, signals[1] / peak


class TestResample:
    @pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
    def test_pass_band_is_exact(self, rate):
        signal, expected = band_limited(rate, RATE)
        np.testing.assert_allclose(resample(signal, rate, RATE)[500:-500], expected[500:-500], atol=3e-5)

    @pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
    def test_against_soxr(self, rate):
        soxr = pytest.importorskip("soxr")
        signal = band_limited(rate, RATE)[0].astype(np.float32)
        expected = soxr.resample(signal, rate, RATE, quality="VHQ")
        np.testing.assert_allclose(resample(signal, rate, RATE)[800:-800], expected[800:-800], atol=1e-3)

    @pytest.mark.parametrize("rate", [22050, 44100, 48000, 96000])
    @pytest.mark.parametrize("hz", [8010, 8500, 9500, 10900])
    def test_aliases(self, rate, hz):
        aliases = resample(2 * tone(rate, hz=hz), rate, RATE)[500:-500]
        assert np.abs(aliases).max() < 1e-4  # -80 dB

    @pytest.mark.parametrize("rate", [8000, 11025])
    def test_images(self, rate):
        """Nothing above the Nyquist frequency of the input."""
        result = resample(2 * tone(rate, seconds=2, hz=0.44 * rate), rate, RATE)[500:-500]
        spectrum = np.abs(np.fft.rfft(result * np.blackman(len(result)))) / (len(result) * 0.42 / 2)
        hz = np.fft.rfftfreq(len(result), 1 / RATE)
        assert spectrum[hz > rate / 2].max() < 1e-4

    def test_linear_phase(self):
        impulse = np.zeros(2001)
        impulse[900] = 1
        result = resample(impulse, 48000, RATE)
        assert np.argmax(result) == 300
        np.testing.assert_allclose(result[300:400], result[300:200:-1], atol=1e-7)

    def test_constant(self):
        np.testing.assert_allclose(resample(np.ones(44100), 44100, RATE)[200:-200], 1, atol=1e-6)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 500), st.sampled_from([1000, 8000, 11025, 16000, 44100, 44101, 767_999]))
    def test_length(self, samples, rate):
        for from_rate, to_rate in ((rate, RATE), (RATE, rate)):
            result = resample(np.ones(samples, np.float32), from_rate, to_rate)
            assert result.dtype == np.float32
            assert result.shape == (-(-samples * to_rate // from_rate),)

    @pytest.mark.parametrize("rate", [44101, 32010, 15996])
    def test_odd_rates(self, rate):
        """A matrix of bounded size, and a tone that is out by less than 0.1 %."""
        result = resample(tone(rate, seconds=2, hz=1000), rate, RATE)[:RATE] * np.hanning(RATE)
        assert np.argmax(np.abs(np.fft.rfft(result))) == 1000  # bins of 1 Hz
        assert audio._resampling_matrix(rate, RATE)[0].size < 2**21

    def test_odd_rate_of_a_long_signal(self):
        """The approximated ratio ends before the samples do."""
        assert resample(np.ones(600_000), RATE, 15996).shape == (599_850,)

    def test_same_rate(self):
        samples = tone().astype(np.float32)
        assert resample(samples, RATE, RATE) is samples

    def test_memory_is_bounded(self):
        samples = np.ones(48000 * 60, np.float32)
        resample(samples[:100], 48000, RATE)  # the matrix is made once
        tracemalloc.start()
        result = resample(samples, 48000, RATE)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < samples.nbytes + result.nbytes + 10_000_000
        np.testing.assert_allclose(result[200:-200], 1, atol=1e-6)


class TestFitLength:
    @settings(max_examples=50, deadline=None)
    @given(arrays(np.int16, st.integers(1, 60)), st.integers(1, 40))
    def test_greatest_energy(self, samples, length):
        fitted = fit_length(samples, length)
        assert fitted.shape == (length,)
        assert fitted.dtype == np.int16
        if length <= len(samples):
            starts = range(len(samples) - length + 1)
            start = max(starts, key=lambda start: sum(int(value) ** 2 for value in samples[start : start + length]))
            np.testing.assert_array_equal(fitted, samples[start : start + length])

    @pytest.mark.parametrize(
        ("length", "expected"), [(3, [1, 2, 3]), (4, [1, 2, 3, 0]), (5, [0, 1, 2, 3, 0]), (6, [0, 1, 2, 3, 0, 0])]
    )
    def test_padding(self, length, expected):
        fitted = fit_length(np.array([1, 2, 3], np.float32), length)
        assert fitted.dtype == np.float32
        np.testing.assert_array_equal(fitted, expected)

    def test_nothing_at_all(self):
        np.testing.assert_array_equal(fit_length(np.zeros(0, np.float32), 3), [0, 0, 0])

    def test_energy_is_summed_in_double_precision(self):
        samples = np.full(200_000, 1.0, np.float32)
        samples[150_000] = 1.001
        assert 150_000 - 100 < np.argmax(samples == fit_length(samples, 100).max()) <= 150_000
        assert fit_length(samples, 100).max() == np.float32(1.001)


class TestPcm16:
    def test_rounding_and_saturation(self):
        samples = np.array([0, 0.6, -0.6, 32766.4, 32767.6, 40000, -32768, -40000], np.float32) / 32768
        np.testing.assert_array_equal(to_pcm16(samples), [0, 1, -1, 32766, 32767, 32767, -32768, -32768])
        assert to_pcm16(samples).dtype == np.int16

    def test_every_value_comes_back(self):
        pcm = np.arange(-32768, 32768).astype(np.int16)
        samples = from_pcm16(pcm)
        assert samples.dtype == np.float32
        assert (samples[0], samples[-1]) == (-1, 32767 / 32768)
        np.testing.assert_array_equal(to_pcm16(samples), pcm)
