"""Settings of the data: which clips, which features, which augmentation. One class a section of an experiment."""

import os
import unicodedata
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from data_pipeline.labels import CONTROLS


def normalize_text(text: str) -> str:
    """How words are compared: composed Unicode (NFC), one space for any white space, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


UserPath = Annotated[Path, AfterValidator(lambda path: Path(os.path.expanduser(path)))]
"""`~` is the home directory here too: no shell expands it in a YAML file or after `--set KEY=`."""
Word = Annotated[str, AfterValidator(normalize_text)]
Share = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(gt=0)]
Range = tuple[float, float]


class Settings(BaseModel):
    """Base of all sections: unknown keys are errors, values can't be changed after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class CorpusSettings(Settings):
    """Where the clips are, and what becomes of them."""

    path: UserPath
    """A folder with a sub-folder a word, or a CSV manifest (`path,label|text,speaker,split`)."""
    shards: UserPath
    """The folder that `prepare` writes: shards, manifest.csv, rejected.csv."""
    words: tuple[Word, ...] = ()
    """The words to tell apart; all others become `_unknown_`. Empty: every word of the corpus is one."""
    tokens: Literal["words", "characters", "phonemes"] | None = None
    """What phrases are made of, for `model.head: ctc`; phonemes are espeak-ng's. Null: a clip is a word."""
    language: str = "en-us"
    """Whose phonemes."""
    unknown_share: Share = 1.0
    """At most this share of a split's speech is `_unknown_`; a hash of the paths says which clips are left out."""
    silence_share: Share = 0.1
    """`_silence_` clips as a share of a split's clips; cut from the noise recordings. 0: none are cut."""
    noise: tuple[UserPath, ...] = ()
    """Folders or files of noise recordings, beside the corpus's own `_background_noise_`."""
    other_speech: tuple[UserPath, ...] = ()
    """Recordings of speech that holds none of the words, for `augment.fresh_unknown`: folders, files, or CSVs
    (`path,text,speaker`), of which those are taken whose speaker trains and whose text has none of the words."""
    train_also: tuple[UserPath, ...] = ()
    """Further corpora, folders of words or CSVs, whose clips are trained with, whatever they say of splits: recordings
    that nothing shall be measured on, or what `speech-gru synth` made. Their noise recordings aren't taken, nor are
    clips of validation_speakers and test_speakers. Words that `path` lacks are `_unknown_` unless `words` has them."""
    sample_rate: Annotated[int, Field(ge=8000, le=48000)] = 16000
    """Samples a second; every clip is resampled to it."""
    clip_seconds: Annotated[float, Field(ge=0.01, le=30)] = 1.0
    """Clips are fitted to this length: a longer one cut to its loudest stretch, a shorter one padded on both sides.
    Phrases (`tokens`) keep their length, and those that are longer are set aside."""
    min_seconds: Annotated[float, Field(ge=0)] = 0.1
    """Shorter clips are set aside."""
    max_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Longer clips are set aside."""
    validation_share: Share = 0.1
    test_share: Share = 0.1
    """Shares of the speakers for clips whose split is given nowhere."""
    validation_speakers: tuple[Word, ...] = ()
    test_speakers: tuple[Word, ...] = ()
    """All clips of these speakers are in that split, whatever the corpus says."""

    @property
    def clip_samples(self) -> int:
        """Samples of a fitted clip."""
        return round(self.clip_seconds * self.sample_rate)

    @property
    def measured_speakers(self) -> frozenset[str]:
        """Those who are named to be measured on: no clip of theirs may train."""
        return frozenset((*self.validation_speakers, *self.test_speakers))

    @model_validator(mode="after")
    def _check(self):
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share and test_share leave nothing to train on; their sum must be below 1")
        if self.silence_share >= 1:
            raise ValueError("silence_share must be below 1")
        if self.min_seconds > self.max_seconds:
            raise ValueError(f"min_seconds ({self.min_seconds:g}) can't exceed max_seconds ({self.max_seconds:g})")
        if both := sorted(set(self.validation_speakers) & set(self.test_speakers)):
            raise ValueError(f"both validation_speakers and test_speakers have {', '.join(both)}")
        if "" in self.words:
            raise ValueError("one of the words is empty")
        if unprintable := [word for word in self.words if CONTROLS.search(word)]:
            raise ValueError(f"words: expected words without control characters, got {unprintable[0]!a}")
        if self.tokens and self.words:
            raise ValueError("words are for clips of a word each; with tokens leave them out, the texts say them")
        for reserved in ("_unknown_", "_silence_", "_background_noise_"):
            if reserved in self.words:
                raise ValueError(f"{reserved} is made by `prepare` and can't be one of the words")
        doubled = sorted({word for word in self.words if self.words.count(word) > 1})
        if doubled:
            raise ValueError(f"words given twice: {', '.join(doubled)}")
        return self


class FrontEndSettings(Settings):
    """Raw audio -> features, as librosa defines them (Slaney mel, orthonormal DCT-II, no centring)."""

    kind: Literal["mfcc", "log_mel"] = "mfcc"
    window_ms: Milliseconds = 32.0
    hop_ms: Milliseconds = 20.0
    fft_size: Annotated[int, Field(gt=0)] | None = None
    """Samples of a frame; the window is centred in it. None: the next power of two that holds the window."""
    mel_bins: Annotated[int, Field(ge=1, le=256)] = 40
    coefficients: Annotated[int, Field(ge=1, le=256)] = 40
    """MFCCs kept; of no effect on log_mel."""
    low_hz: Annotated[float, Field(ge=0)] = 20.0
    high_hz: Annotated[float, Field(gt=0)] | None = None
    """Upper edge of the highest band. None: half the sampling rate."""
    deltas: Annotated[int, Field(ge=0, le=2)] = 0
    """1 appends first differences over time, 2 the second ones too (librosa.feature.delta, width 9)."""
    normalize: bool = True
    """Subtract each feature's mean and divide by its standard deviation over the training split."""

    @model_validator(mode="after")
    def _check(self):
        if self.kind == "mfcc" and self.coefficients > self.mel_bins:
            raise ValueError(f"coefficients ({self.coefficients}) can't exceed mel_bins ({self.mel_bins})")
        if self.high_hz is not None and self.high_hz <= self.low_hz:
            raise ValueError(f"high_hz ({self.high_hz:g}) must be above low_hz ({self.low_hz:g})")
        return self


class ComposeSettings(Settings):
    """Phrases made of single words' clips while training, for `model.head: ctc` on a corpus of words."""

    words: tuple[Annotated[int, Field(ge=0, le=16)], Annotated[int, Field(ge=1, le=16)]] = (1, 4)
    """So many words make a phrase, each number as likely; 0: silence."""
    grammar: dict[str, tuple[str, ...]] | None = None
    """Rules whose sentences are said instead, the first rule's; see docs/phrases.md. Null: any words in any order."""
    gap_ms: Range = (0.0, 400.0)
    """Between two words."""
    level_db: Range = (-6.0, 6.0)
    """Of each word, against the others."""
    unknown_probability: Share = 0.1
    """In a word's place comes one of `_unknown_`, of which the text says nothing."""
    phrases: Annotated[int, Field(ge=1)] = 10000
    """In an epoch."""
    validation_phrases: Annotated[int, Field(ge=1)] = 1000
    """Made of validation clips, the same in each epoch."""

    @model_validator(mode="after")
    def _check(self):
        for name in ("words", "gap_ms", "level_db"):
            _ascending(name, getattr(self, name))
        if self.gap_ms[0] < 0:
            raise ValueError(f"gap_ms: expected times from 0, got {self.gap_ms[0]:g}")
        return self


def _ascending(name: str, value: Range) -> None:
    if value[0] > value[1]:
        raise ValueError(f"{name}: the first value ({value[0]:g}) must not exceed the second ({value[1]:g})")


class AugmentSettings(Settings):
    """What training does to a clip, drawn afresh at each step. Zero or null switches a part off."""

    time_shift_ms: Annotated[float, Field(ge=0)] = 100.0
    """The clip is moved by up to this much either way; zeros move in."""
    gain_db: Range | None = (-10.0, 6.0)
    speed: Range | None = (0.9, 1.1)
    """Resampling: 1.1 is ten per cent faster and that much higher."""
    vocal_tract: Range | None = None
    """Formants are moved as those of a speaker of another size, while tempo and pitch stay: 1.1 is a vocal tract that
    is a tenth longer, with lower formants."""
    microphone_probability: Share = 0.0
    """Share of the clips that are heard through another microphone, from a good one to one in a pocket."""
    noise_probability: Share = 0.7
    """Share of the clips that get background noise."""
    snr_db: Range = (0.0, 25.0)
    """Signal-to-noise ratio of those clips."""
    generated_noise: bool = False
    """That noise is cut from four minutes of generated noise, too, as if they were one more recording."""
    fresh_silence: bool = True
    """Training's `_silence_` is cut anew at each step: half from the noise recordings, half from generated noise."""
    fresh_unknown: bool = False
    """Up to seven tenths of training's `_unknown_` are made anew at each step: pieces of other clips joined, clips
    played backwards, cuts of `corpus.other_speech`. For words that no corpus has."""
    time_masks: Annotated[int, Field(ge=0)] = 2
    time_mask_frames: Annotated[int, Field(ge=1)] = 8
    frequency_masks: Annotated[int, Field(ge=0)] = 2
    frequency_mask_bins: Annotated[int, Field(ge=1)] = 5
    """SpecAugment: so many masks, each of 0 to so many frames or bins."""
    stream_clips: Annotated[int, Field(ge=1)] = 1
    """At every other step so many clips follow each other as one stream, each to be recognised: there it isn't silent
    before a word, and the state never begins anew. For models that aren't bidirectional."""
    pause_ms: Range = (0.0, 0.0)
    """At every other step, in place of a shift, a pause of such a length comes before each phrase, and one after it,
    with the sound of the recording's own quietest moment. `snr_db` is then that over pauses too. For recorded phrases
    (`corpus.tokens`)."""
    mixup: Annotated[float, Field(ge=0)] = 0.0
    """Alpha of the Beta distribution that the mixing weights are drawn from."""

    @model_validator(mode="after")
    def _check(self):
        for name in ("gain_db", "speed", "vocal_tract", "snr_db", "pause_ms"):
            if getattr(self, name) is not None:
                _ascending(name, getattr(self, name))
        for name in ("speed", "vocal_tract"):
            factors = getattr(self, name)
            if factors is not None and (factors[0] < 0.5 or factors[1] > 2):
                raise ValueError(f"{name} must lie between 0.5 and 2, got {factors[0]:g} to {factors[1]:g}")
        if self.pause_ms[0] < 0:
            raise ValueError(f"pause_ms: expected times from 0, got {self.pause_ms[0]:g}")
        return self
