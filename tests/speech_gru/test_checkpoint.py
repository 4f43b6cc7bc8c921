"""Checkpoints: all of a state comes back bit for bit, or nothing of it does and the one before is taken."""

import errno
import json
import os
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest

from data_pipeline.errors import UserError
from speech_gru.checkpoint import list_checkpoints, restore_newest, save_checkpoint

STATE = {"step": 7, "name": "höher", "loss": 0.1 + 0.2, "history": [{"accuracy": 1 / 3}], "none": None}
VALUES = {
    "kernel": np.array([[np.pi, -0.0, 1e-45], [np.inf, -3e38, np.nan]], np.float32),
    "seed_generator_state": np.array([2**32 - 1, 7], np.uint32),
    "iteration": np.array(2**31 - 1, np.int32),
    "scale": np.array(2.0**15, np.float32),
    "flag": np.array([True, False]),
}


@pytest.fixture
def variables() -> list[keras.Variable]:
    return [keras.Variable(value, dtype=value.dtype.name, name=name) for name, value in VALUES.items()]


@pytest.fixture
def kernel() -> list[keras.Variable]:
    return [keras.Variable(np.zeros((2, 3), np.float32), name="kernel")]


def save(folder: Path, step: int, variables) -> Path:
    """A checkpoint whose state tells its step."""
    return save_checkpoint(folder, step, variables, {"step": step})


def restored_step(folder: Path, variables, said: list[str] | None = None) -> int | None:
    found = restore_newest(folder, variables, lambda state: None, [].append if said is None else said.append)
    return found and found[1]["step"]


def test_all_comes_back_bit_for_bit(variables, tmp_path):
    path = save_checkpoint(tmp_path / "new" / "folder", 7, variables, STATE)
    assert path == tmp_path / "new" / "folder" / "step-00000007.npz"
    arrays, state = restore_newest(path.parent, variables, lambda state: None, pytest.fail)
    assert state == STATE
    for array, value in zip(arrays, VALUES.values(), strict=True):
        assert (array.dtype, array.shape, array.tobytes()) == (value.dtype, value.shape, value.tobytes())


def test_the_newest_two_are_kept(kernel, tmp_path):
    (tmp_path / "best.npz").write_text("mine")
    for step in (9, 10, 99_999_999, 100_000_000):  # the last name is longer, and sorts before the others as text
        save(tmp_path, step, kernel)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-100000000.npz", "step-99999999.npz"]
    assert {path.name for path in tmp_path.iterdir()} == {"best.npz", "step-100000000.npz", "step-99999999.npz"}
    assert restored_step(tmp_path, kernel) == 100_000_000


def test_other_files_are_no_checkpoints(kernel, tmp_path):
    assert restore_newest(tmp_path / "missing", kernel, pytest.fail, pytest.fail) is None
    for name in (".step-00000001.npz.123.tmp", "step-x.npz", "step-00000001.npz.bak", "best.npz"):
        (tmp_path / name).write_text("")
    assert restore_newest(tmp_path, kernel, pytest.fail, pytest.fail) is None


def members(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def rewrite(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def swap_bytes(path: Path, old: bytes, new: bytes) -> None:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(np.random.default_rng(0).bytes(3000)),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "cut in half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "other numbers": lambda path: swap_bytes(path, np.float32(7).tobytes(), np.float32(8).tobytes()),
    "no state": lambda path: rewrite(path, {key: a for key, a in members(path).items() if key != "state"}),
    "state of no JSON": lambda path: rewrite(path, members(path) | {"state": np.frombuffer(b"{'a", np.uint8)}),
    "another shape": lambda path: rewrite(path, members(path) | {"0000 kernel": np.zeros((3, 2), np.float32)}),
    "a variable more": lambda path: rewrite(path, members(path) | {"0001 bias": np.zeros(3, np.float32)}),
    "another variable": lambda path: rewrite(
        path, {key.replace("kernel", "bias"): array for key, array in members(path).items()}
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over_for_the_one_before(damage, kernel, tmp_path):
    kernel[0].assign(np.full((2, 3), 7))
    save(tmp_path, 5, kernel)
    newest, said = save(tmp_path, 6, kernel), []
    assert restored_step(tmp_path, kernel, said) == 6
    DAMAGES[damage](newest)
    assert restored_step(tmp_path, kernel, said) == 5
    assert len(said) == 1
    assert said[0].startswith(f"{newest} is damaged (")
    assert newest.with_name(f"{newest.name}.damaged").exists()
    assert restored_step(tmp_path, kernel, said) == 5
    assert len(said) == 1  # it isn't said again


def test_where_all_are_damaged_nothing_is_thrown_away(kernel, tmp_path):
    paths, said = [save(tmp_path, step, kernel) for step in (5, 6)], []
    for path in paths:
        DAMAGES["cut off"](path)
    with pytest.raises(UserError, match=r"all checkpoints are damaged; delete the run's folder to start anew"):
        restored_step(tmp_path, kernel, said)
    assert [line.partition(" ")[0] for line in said] == [str(paths[1]), str(paths[0])]
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000006.npz", "step-00000005.npz"]


def test_another_runs_is_refused_before_its_arrays_are_looked_at(kernel, variables, tmp_path):
    save(tmp_path, 5, variables)

    def refuse(state: dict) -> None:
        raise UserError(f"of step {state['step']}")

    with pytest.raises(UserError, match="of step 5"):
        restore_newest(tmp_path, kernel, refuse, pytest.fail)


def test_what_cant_be_read_is_no_damage(kernel, tmp_path):
    path = save(tmp_path, 5, kernel)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"step-00000005\.npz can't be read: Is a directory"):
        restored_step(tmp_path, kernel)


def test_no_flipped_bit_gives_other_numbers(kernel, tmp_path):
    kernel[0].assign([[1, -2, 3], [1e-3, 5e20, -6]])
    path = save_checkpoint(tmp_path, 6, kernel, STATE)
    content, refused = path.read_bytes(), 0
    for bit in range(0, 8 * len(content), 3):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            found = restore_newest(tmp_path, kernel, lambda state: None, lambda line: None)
        except UserError:
            refused += 1
        else:  # a bit that says nothing, such as the file's date
            np.testing.assert_array_equal(found[0][0], kernel[0].numpy())
            assert found[1] == STATE
    assert refused > 8 * len(content) / 3 / 2


class Spy:
    """Leaves a file behind if it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_are_refused(kernel, tmp_path):
    path, trace, said = save(tmp_path, 6, kernel), tmp_path / "trace", []
    rewrite(path, members(path) | {"0000 kernel": np.array([[Spy(trace)] * 3] * 2, dtype=object)})
    with pytest.raises(UserError, match="damaged"):
        restored_step(tmp_path, kernel, said)
    assert "allow_pickle" in said[0]
    path.write_bytes(np.array([Spy(trace)], dtype=object).dumps())
    with pytest.raises(UserError, match="damaged"):
        restored_step(tmp_path, kernel, said)
    assert not trace.exists()


def full(*arguments, **keywords):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestWhereNothingCanBeWritten:
    @pytest.mark.parametrize("place", ["np.savez", "os.fsync", "os.replace"])
    def test_a_full_disk_leaves_the_earlier_ones(self, place, kernel, tmp_path, monkeypatch):
        save(tmp_path, 5, kernel)
        newest = save(tmp_path, 6, kernel)
        before = newest.read_bytes()
        with monkeypatch.context() as patch:
            owner, name = {"np.savez": (np, "savez"), "os.fsync": (os, "fsync"), "os.replace": (Path, "replace")}[place]
            patch.setattr(owner, name, full)
            with pytest.raises(UserError, match=r"step-00000007\.npz can't be written: No space left on device"):
                save(tmp_path, 7, kernel)
        assert {path.name for path in tmp_path.iterdir()} == {"step-00000005.npz", "step-00000006.npz"}
        assert newest.read_bytes() == before
        assert restored_step(tmp_path, kernel) == 6

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
    def test_a_device_that_is_truly_full(self, kernel, tmp_path):
        save(tmp_path, 6, kernel)
        (tmp_path / f".step-00000007.npz.{os.getpid()}.tmp").symlink_to("/dev/full")
        with pytest.raises(UserError, match=r"step-00000007\.npz can't be written: No space left on device"):
            save(tmp_path, 7, kernel)
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000006.npz"]

    def test_a_file_in_the_folders_place(self, kernel, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"file/checkpoints/step-00000001\.npz can't be written"):
            save(tmp_path / "file" / "checkpoints", 1, kernel)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_without_the_right_to_write(self, kernel, tmp_path):
        save(tmp_path, 5, kernel)
        tmp_path.chmod(0o500)
        try:
            with pytest.raises(UserError, match=r"step-00000006\.npz can't be written: Permission denied"):
                save(tmp_path, 6, kernel)
        finally:
            tmp_path.chmod(0o700)
        assert restored_step(tmp_path, kernel) == 5


def test_the_state_is_text_that_can_be_read_without_us(variables, tmp_path):
    path = save_checkpoint(tmp_path, 7, variables, STATE)
    assert json.loads(members(path)["state"].tobytes()) == STATE
    copy = shutil.copy(path, tmp_path / "copy.zip")
    shutil.unpack_archive(copy, tmp_path / "unpacked")
    assert np.load(tmp_path / "unpacked" / "0001 seed_generator_state.npy").tolist() == [2**32 - 1, 7]
