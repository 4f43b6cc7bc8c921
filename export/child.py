"""Work in a process of its own: what crashes there, a converter or a runtime, doesn't take the export with it."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import TypeVar

from data_pipeline.errors import UserError
from export.errors import ExportError
from speech_gru.signals import listening

Result = TypeVar("Result")
_PATIENCE = 10
"""Seconds that a process has to end by itself once it has answered."""


class _ChildError(Exception):
    """A child's stack trace, as text: the trace itself can't be sent."""


def in_child(function: Callable[..., Result], *arguments) -> Result:
    """What `function`, of a module's top level, returns. It must be picklable, as its arguments must.

    However this ends, by Ctrl-C too, the process ends before; if this process is killed, it ends after.

    Raises:
        ExportError: the process died (a crash in native code, or the system was out of memory), or `function` raised
            something else than the three below.
        UserError, OSError, ModuleNotFoundError: as `function` raises them.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(sender, function, arguments))
    try:
        with listening() as stop, _interrupt_blocked():  # half started, it would be left behind and complain
            process.start()
        if stop.number is not None:
            signal.raise_signal(stop.number)
        sender.close()  # or the pipe wouldn't end with the child
        result, error, trace = receiver.recv()
        process.join(_PATIENCE)
    except EOFError as ended:
        raise ExportError("its process died: a crash in native code, or no memory was left") from ended
    finally:
        receiver.close()
        if process.pid is not None:
            process.kill()
            process.join()
    if error is not None:
        raise error from _ChildError(trace)
    return result


@contextmanager
def _interrupt_blocked() -> Iterator[None]:
    """A process that is started in here never gets SIGINT, not even while it imports; this one needs `listening` too.

    A terminal sends it to the parent too, which then ends that process.
    """
    resource_tracker.ensure_running()  # which `start` would do otherwise, and let the signal through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(sender: Connection, function: Callable, arguments: tuple) -> None:
    """Sends what `function` returns, or the error and its trace."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        answer = function(*arguments), None, ""
    except (ExportError, UserError, OSError, ModuleNotFoundError) as error:
        answer = None, error, traceback.format_exc()
    except Exception as error:  # of a library that it calls, which may raise anything
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        answer = None, ExportError(reason), traceback.format_exc()
    sender.send(answer)


def _die_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
