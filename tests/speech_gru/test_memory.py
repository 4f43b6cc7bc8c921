"""What is told of memory, and how much of it glibc's threads may hold on to."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import tensorflow as tf

from speech_gru.memory import used_memory

COUNT_ARENAS = """
import ctypes, re, sys, threading
from speech_gru.memory import few_arenas
libc = ctypes.CDLL(None)
if not hasattr(libc, "malloc_info"):
    sys.exit("no glibc")
few_arenas()
barrier, kept = threading.Barrier(30), []
def allocate():
    barrier.wait()
    kept.append([bytes(2000) for _ in range(2000)])
threads = [threading.Thread(target=allocate) for _ in range(30)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info.argtypes = (ctypes.c_int, ctypes.c_void_p)
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(ctypes.c_void_p(file))
print(len(re.findall("<heap nr=", open(sys.argv[1]).read())))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc, which Linux has")
def test_memory_is_told_in_megabytes(monkeypatch):
    def pretend(gpus: list) -> None:
        monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)

    pretend([])
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    peak, now = (int(status[name].removesuffix("kB")) * 1024 / 1e6 for name in ("VmHWM", "VmRSS"))  # kB of 1024 bytes
    assert used_memory() == {"host_peak": pytest.approx(peak, rel=0.01), "host": pytest.approx(now, rel=0.05)}
    pretend([SimpleNamespace()])
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda device: {"current": 1, "peak": 7_500_000})
    assert used_memory()["gpu_peak"] == 7.5
    monkeypatch.setattr("speech_gru.memory._STATM", Path("/nowhere"))  # as on macOS
    assert used_memory().keys() == {"host_peak", "gpu_peak"}


@pytest.mark.parametrize(("given", "most"), [(None, max(1, (os.cpu_count() or 1) // 4)), ("3", 3)])
def test_threads_share_arenas(tmp_path, given, most):
    environment = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    environment |= {"MALLOC_ARENA_MAX": given} if given else {}
    command = [sys.executable, "-c", COUNT_ARENAS, str(tmp_path / "malloc_info.xml")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if "no glibc" in done.stderr:
        pytest.skip("needs glibc, whose arenas these are")
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout) <= most


GIVE_BACK = """
import ctypes, resource, sys
from pathlib import Path
from speech_gru.memory import give_back_free
if not hasattr(ctypes.CDLL(None), "malloc_trim"):
    sys.exit("no glibc")
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
blocks = [bytearray(b"x" * 100_000) for _ in range(1000)]
blocks[:-1] = []  # the last one keeps the heap from shrinking
before = resident()
give_back_free()
print(before - resident())
"""


def test_free_memory_is_given_back():
    environment = {**os.environ, "PYTHONMALLOC": "malloc", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run([sys.executable, "-c", GIVE_BACK], capture_output=True, text=True, env=environment)
    if "no glibc" in done.stderr:
        pytest.skip("needs glibc, which holds on to it")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50e6
