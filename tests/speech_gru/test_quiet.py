import os

import pytest

from speech_gru.quiet import quiet_start


def test_information_is_held_back_and_the_rest_is_not(capfd):
    os.write(2, b"before\n")
    with quiet_start():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")
        os.write(2, b"ERROR: no memory\nINFO:root:of somebody's program\n")
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n")
        os.write(2, b"I0000 00:00:1795450463.747998   21313 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"W0000 00:00:1795450463.747998   21313 port.cc:153] a warning\nno end of line")
        assert capfd.readouterr().err == "before\n"
    os.write(2, b"after\n")
    assert capfd.readouterr().err == (
        "ERROR: no memory\nINFO:root:of somebody's program\n"
        "W0000 00:00:1795450463.747998   21313 port.cc:153] a warning\nno end of lineafter\n"
    )


def test_what_was_said_before_a_failure_comes_out(capfd):
    def fail() -> None:
        with quiet_start():
            os.write(2, b"the reason\n")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail()
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "the reason\nafter\n"


def test_nothing_is_leaked(capfd):
    def next_descriptor() -> int:
        descriptor = os.dup(0)
        os.close(descriptor)
        return descriptor

    before = next_descriptor()
    with quiet_start():
        pass
    assert next_descriptor() == before


def test_without_a_place_for_temporary_files(capfd, monkeypatch):
    def no_place():
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr("tempfile.TemporaryFile", no_place)
    with quiet_start():
        os.write(2, b"INFO: said\n")
    assert capfd.readouterr().err == "INFO: said\n"
