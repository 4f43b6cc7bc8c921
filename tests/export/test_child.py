"""Work in a process of its own, and every way in which it can end."""

import os

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
