"""Work in a process of its own, and every way in which it can end."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from data_pipeline.errors import UserError
from export.child import in_child
from export.errors import ExportError, NotMadeError


def test_what_is_returned_and_where_it_ran():
    assert in_child(divmod, 7, 2) == (3, 1)
    assert in_child(os.getpid) != os.getpid()


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ("from data_pipeline.errors import UserError; raise UserError('no clips')", UserError, "no clips"),
        ("from export.errors import ExportError; raise ExportError('differs')", ExportError, "differs"),
        ("from export.errors import NotMadeError; raise NotMadeError('no use')", NotMadeError, "no use"),
        ("raise OSError(28, 'No space left on device')", OSError, r"\[Errno 28\] No space left on device"),
        ("open('/no/such/file')", FileNotFoundError, "No such file"),
    ],
)
def test_known_errors_come_as_they_are(code, kind, message):
    with pytest.raises(kind, match=f"{message}") as caught:
        in_child(exec, code)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (r"raise ValueError('\nthe reason\nand much more')", "ValueError: the reason"),
        ("{}['key']", "KeyError: 'key'"),
        ("assert False", "AssertionError: "),
    ],
)
def test_other_errors_are_told_in_a_line(code, message):
    with pytest.raises(ExportError) as caught:
        in_child(exec, code)
    assert str(caught.value) == message
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("code", ["import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "import os; os._exit(0)"])
def test_a_process_that_dies(code):
    with pytest.raises(ExportError, match="its process died: a crash in native code, or no memory was left"):
        in_child(exec, code)


def test_a_stack_trace_comes_along():
    with pytest.raises(UserError) as caught:
        in_child(exec, "from data_pipeline.errors import UserError\nraise UserError('no clips')")
    assert 'File "<string>", line 2' in str(caught.value.__cause__)


FOREVER = """
import sys, time
from export.child import in_child

CODE = "import os, time; open({file!r}, 'w').write(str(os.getpid())); time.sleep(600)"
if __name__ == "__main__":
    in_child(exec, CODE.format(file=sys.argv[1]))
"""


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_it_ends_with_its_parent(tmp_path, number):
    (tmp_path / "forever.py").write_text(FOREVER)
    command = [sys.executable, str(tmp_path / "forever.py"), str(tmp_path / "child")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    parent = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        child = wait_for(lambda: (tmp_path / "child").is_file() and (tmp_path / "child").read_text())
        parent.send_signal(number)
        parent.wait(10)
        assert wait_for(lambda: not is_there(int(child)))
    finally:
        parent.kill()
        parent.wait()


BLOCKED = """
import signal
from export.child import in_child

BLOCKED = signal.pthread_sigmask(signal.SIG_BLOCK, ())  # as the child imports this, before it is told what to do

def blocked():
    return BLOCKED

if __name__ == "__main__":
    print(BLOCKED == in_child(blocked) - {signal.SIGINT}, signal.SIGINT in in_child(blocked))
    print(BLOCKED == signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_a_terminals_interrupt_never_reaches_it(tmp_path):
    """Not even while it imports. In a process of its own, in which nothing was started before."""
    (tmp_path / "blocked.py").write_text(BLOCKED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(tmp_path / "blocked.py")]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.split() == ["True", "True", "True"]


def wait_for(found, seconds: float = 30):
    """What `found` gives as soon as that is true."""
    end = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return result


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_while_the_process_is_started(number, monkeypatch, capfd):
    """Between its birth and what it is told to do: it ends, and says nothing of it."""
    context, started = multiprocessing.get_context("spawn"), []
    launch = context.Process._Popen

    def interrupted(process):
        os.kill(os.getpid(), number)
        started.append(launch(process))
        return started[-1]

    def stop(number, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(context.Process, "_Popen", staticmethod(interrupted))
    before = signal.signal(number, stop)
    try:
        with pytest.raises(KeyboardInterrupt):
            in_child(time.sleep, 60)
        assert signal.getsignal(number) is stop
    finally:
        signal.signal(number, before)
    assert [process.poll() for process in started] == [-signal.SIGKILL]
    assert capfd.readouterr().err == ""
