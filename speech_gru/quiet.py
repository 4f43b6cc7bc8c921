"""Keeps the chatter of TensorFlow and LiteRT at their start off standard error; neither offers a switch for it."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

_CHATTER = re.compile(rb"INFO: |I\d{4} \d\d:\d\d:|WARNING: All log messages before absl::InitializeLog\(\)")


@contextmanager
def quiet_start() -> Iterator[None]:
    """Holds back what native code writes to standard error while the block runs; then passes on all but information.

    For a short block: the whole process has one standard error.
    """
    with ExitStack() as stack:
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
            kept = os.dup(2)
        except OSError:
            pass  # no place to hold it, or no standard error
        else:
            stack.callback(os.close, kept)
            stack.callback(_pass_on, held, kept)
            os.dup2(held.fileno(), 2)
        yield


def _pass_on(held: BinaryIO, stderr: int) -> None:
    os.dup2(stderr, 2)
    held.seek(0)
    for line in held:
        if not _CHATTER.match(line):
            os.write(2, line)


def start_tensorflow() -> None:
    """Imports TensorFlow without its greetings and its advice to developers."""
    from speech_gru.memory import few_arenas

    few_arenas()
    with quiet_start():
        import tensorflow  # noqa: F401

    from absl import logging

    logging.set_verbosity(logging.ERROR)
