"""How much memory the process takes."""

import ctypes
import os
import sys
from pathlib import Path

_M_ARENA_MAX = -8
"""Of glibc's malloc.h."""
_STATM = Path("/proc/self/statm")


def few_arenas() -> None:
    """Lets glibc have an arena for four cores instead of eight for each. To be called before threads are started.

    Each of TensorFlow's threads would hold on to the largest batches that it ever made: a third more memory after 30
    epochs. Elsewhere than on glibc there is nothing to do. MALLOC_ARENA_MAX in the environment goes first.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        _call_libc("mallopt", _M_ARENA_MAX, max(1, (os.cpu_count() or 1) // 4))


def give_back_free() -> None:
    """Has glibc give back what it holds on to of freed memory: an arena's free pages between others', too."""
    _call_libc("malloc_trim", ctypes.c_size_t(0))


def _call_libc(name: str, *arguments) -> None:
    """Nothing where there is no such function."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), name):
        getattr(library, name)(*arguments)


def used_memory() -> dict[str, float]:
    """Megabytes: host_peak, of this process at most so far; host, now, on Linux; gpu_peak, of the first GPU."""
    import resource

    import tensorflow as tf

    unit = 1 if sys.platform == "darwin" else 1024
    used = {"host_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}
    if _STATM.exists():
        used["host"] = int(_STATM.read_text().split()[1]) * resource.getpagesize() / 1e6
    if tf.config.list_logical_devices("GPU"):
        used["gpu_peak"] = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6
    return used
