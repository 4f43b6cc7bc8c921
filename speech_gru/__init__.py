"""Train a recogniser of spoken commands on your own words, and run it on the device that listens."""

__version__ = "0.1.0"
__all__ = ["PhraseRecognizer", "Recognizer", "StreamingRecognizer"]


def __getattr__(name: str):
    if name == "Recognizer":  # only on demand: the command line's --help must not wait for LiteRT
        from speech_gru.recognizer import Recognizer

        return Recognizer
    if name == "StreamingRecognizer":
        from speech_gru.streaming import StreamingRecognizer

        return StreamingRecognizer
    if name == "PhraseRecognizer":
        from speech_gru.phrase_recognizer import PhraseRecognizer

        return PhraseRecognizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
