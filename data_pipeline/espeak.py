"""The little of libespeak-ng (C API, speak_lib.h) that making a corpus needs, through ctypes: text in, samples out."""

import ctypes
import os
import re
from functools import cache
from pathlib import Path

import numpy as np

from data_pipeline.errors import UserError

SAMPLE_RATE = 22050
_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
_IPA = 2
_PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "range": 4}
_LANGUAGE_SWITCH = re.compile(r"\([a-z]{2,3}(-[a-z0-9]+)*\)")
"""Where a voice says a foreign word in its language, such as (en); no phoneme."""
_OTHER_ALPHABETS = {"en-shaw", "fa-latn"}
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def _package():
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(
            'speech and phonemes need the package espeakng-loader of the extra [synth]: pip install ".[synth]"'
        ) from None
    return espeakng_loader


def accents(language: str) -> dict[str, str]:
    """The voices that speak `language`, as {accent: voice file}, such as {"en-gb": "gmw/en", "en-us": "gmw/en-US"}.

    A voice is named by its file: espeak-ng finds `en-gb` by language, but not with a variant (`en-gb+f1`).

    Args:
        language: a language (`en`) for all its accents, or one accent (`en-us`).

    Raises:
        UserError: espeakng-loader isn't installed; no voice speaks the language.
    """
    folder, language = Path(_package().get_data_path(), "lang"), language.lower()
    found, known = {}, set()
    for file in sorted((path for path in folder.rglob("*") if path.is_file()), key=Path.as_posix):
        lines = map(str.split, file.read_text(encoding="utf-8").splitlines())
        tags = [line[1].lower() for line in lines if line[:1] == ["language"]]
        known.add(tags[0].split("-")[0])
        spoken = any(tag == language or tag.startswith(f"{language}-") for tag in tags)
        if spoken and (tags[0] == language or tags[0] not in _OTHER_ALPHABETS):
            found.setdefault(tags[0], file.relative_to(folder).as_posix())
    if not found:
        raise UserError(
            f"no voice of espeak-ng speaks {language!r}; expected an accent such as en-us or one of these languages: "
            + ", ".join(sorted(known))
        )
    return found


@cache
def _shared() -> "Espeak":
    return Espeak()


@cache
def _first_voice(accent: str) -> str:
    """Looking for it reads a hundred files, which isn't for each of a corpus's texts."""
    return next(iter(accents(accent).values()))


def phonemes(text: str, accent: str) -> str:
    """The phonemes of a text as an accent such as en-us says them, in IPA without stress, with spaces between them.

    Raises:
        UserError: espeakng-loader isn't installed or can't be loaded, or no voice speaks the accent.
    """
    return _shared().phonemes(text, _first_voice(accent))


class Espeak:
    """The synthesiser. The library keeps its state in globals: one object a process, one thread.

    Flutter and phases run on from one utterance to the next, whatever the seed: the same calls in the same order give
    the same samples only in a fresh process.

    Raises:
        UserError: the library or its data can't be loaded.
    """

    def __init__(self):
        package = _package()
        try:
            self._library = ctypes.CDLL(package.get_library_path())
        except OSError as error:
            raise UserError(f"espeak-ng can't be loaded: {error}; reinstall espeakng-loader") from error
        self._chunks = []
        self._callback = _Callback(self._collect)
        home = Path(package.get_data_path()).parent
        if self._library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(home), _DONT_EXIT) != SAMPLE_RATE:
            raise UserError(
                f"espeak-ng can't read its data in {home}; it truncates paths of more than about 140 characters, "
                "so install speech-gru in a virtual environment with a shorter path"
            )
        self._library.espeak_SetSynthCallback(self._callback)
        self._library.espeak_Info.restype = ctypes.c_char_p
        self.version = self._library.espeak_Info(None).decode()

    def say(self, text: str, voice: str, seed: int, **parameters: float) -> np.ndarray:
        """Speaks `text`.

        Args:
            text: of any length, without markup.
            voice: a voice file and perhaps a variant, `gmw/en-US+f3`.
            seed: of the noise in it, 0 to 2**31 - 1.
            parameters: `rate` in words a minute (80 to 450), `volume` (100 is full), `pitch` and `range` of the
                pitch (0 to 99, 50 is the voice's own); rounded; what isn't given stays as it was.

        Returns:
            int16 [samples] at 22,050 Hz, silence before and after included.

        Raises:
            ValueError: there is no such voice.
        """
        # Each time, even if the voice stays: it empties the echo, in which the word before still hangs.
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice}")
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        for name, value in parameters.items():
            self._library.espeak_SetParameter(_PARAMETERS[name], round(value), 0)
        self._chunks.clear()
        data = text.encode() + b"\0"
        if self._library.espeak_Synth(data, ctypes.c_size_t(len(data)), 0, 0, 0, _UTF8, None, None):
            raise RuntimeError(f"espeak-ng failed on {text!r}")
        return np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.int16)

    def phonemes(self, text: str, voice: str) -> str:
        """The phonemes of a text, in IPA without stress, with spaces between them. Raises ValueError as `say`."""
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice}")
        self._library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        rest, clauses = ctypes.c_char_p(text.encode()), []
        while rest.value is not None:  # a clause at a time; none is left then
            said = self._library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA | ord("_") << 8)
            clauses.append((said or b"").decode())
        spaced = " ".join(clauses).translate({ord("_"): " ", ord("ˈ"): "", ord("ˌ"): ""})
        return " ".join(_LANGUAGE_SWITCH.sub(" ", spaced).split())

    def _collect(self, samples, count, _events) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0
