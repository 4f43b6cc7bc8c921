"""Being asked to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class StopSignal:
    """Notes SIGINT and SIGTERM, so that the loop can save before it ends. A second one ends it at once."""

    number: int | None = None

    def note(self, number: int, frame) -> None:
        """The handler."""
        if self.number is not None:
            raise KeyboardInterrupt
        self.number = number


@contextmanager
def listening() -> Iterator[StopSignal]:
    """Listens for signals while the block runs; deaf outside the main thread, where Python allows no handlers."""
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
