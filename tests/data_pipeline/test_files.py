"""Nothing half-written is ever seen, and nothing that lies in a folder is overlooked."""

import errno
import os
from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from data_pipeline.files import files_under, leads_outside, name_fault, printable, write_text, written_aside


def listing(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


class TestWrittenAside:
    def test_folders_are_made_and_nothing_else_is_left(self, tmp_path):
        write_text(tmp_path / "a" / "b" / "c.txt", "ä\n")
        assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "ä\n".encode()
        assert listing(tmp_path) == ["a", "a/b", "a/b/c.txt"]

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
    def test_a_failure_leaves_the_old_file(self, tmp_path, error):
        def fail() -> None:
            with written_aside(tmp_path / "file") as aside:
                aside.write_text("half of the n")
                raise error

        write_text(tmp_path / "file", "old")
        with pytest.raises(error):
            fail()
        assert listing(tmp_path) == ["file"]
        assert (tmp_path / "file").read_text() == "old"

    def test_the_old_file_stays_until_the_end(self, tmp_path):
        write_text(tmp_path / "file", "old")
        with written_aside(tmp_path / "file") as aside:
            aside.write_text("new")
            assert (tmp_path / "file").read_text() == "old"
        assert (tmp_path / "file").read_text() == "new"

    def test_the_data_is_on_the_disk_before_the_rename(self, tmp_path, monkeypatch):
        calls = []
        monkeypatch.setattr(os, "fsync", lambda descriptor: calls.append("fsync"))
        replace = Path.replace
        monkeypatch.setattr(Path, "replace", lambda self, target: calls.append("rename") or replace(self, target))
        write_text(tmp_path / "file", "new")
        assert calls == ["fsync", "rename"]

    def test_a_whole_folder(self, tmp_path):
        def write(name: str, error: type | None) -> None:
            with written_aside(tmp_path / name) as aside:
                aside.mkdir()
                (aside / "file").write_text("new")
                if error:
                    raise error

        write("folder", None)
        with pytest.raises(ValueError):  # noqa: PT011 - there is no message
            write("other", ValueError)
        assert listing(tmp_path) == ["folder", "folder/file"]

    def test_a_file_in_place_of_the_folder(self, tmp_path):
        (tmp_path / "taken").write_text("mine")
        with pytest.raises(UserError, match=r"taken.file can't be written: (File exists|Not a directory)"):
            write_text(tmp_path / "taken" / "file", "text")
        assert (tmp_path / "taken").read_text() == "mine"

    def test_a_full_disk(self, tmp_path):
        write_text(tmp_path / "file", "old")
        with (
            pytest.raises(UserError, match="file can't be written: No space left on device"),
            written_aside(tmp_path / "file"),
        ):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        assert (tmp_path / "file").read_text() == "old"

    def test_an_unreadable_input_is_not_blamed_on_the_output(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="input"), written_aside(tmp_path / "file"):
            (tmp_path / "elsewhere" / "input").read_bytes()
        assert listing(tmp_path) == []

    def test_a_name_with_which_the_block_goes_on(self, tmp_path):
        with pytest.raises(UserError, match="model can't be written"), written_aside(tmp_path / "model") as aside:
            aside.with_suffix(".keras").read_bytes()


class TestFilesUnder:
    def test_order_and_form_of_the_names(self, tmp_path):
        for name in ("b/2", "b/10", "a/ä/x", "c", ".hidden"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        assert list(files_under(tmp_path, [])) == [".hidden", "c", "a/ä/x", "b/10", "b/2"]

    def test_linked_folders_are_reported_and_not_entered(self, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "secret").touch()
        (tmp_path / "root").mkdir()
        (tmp_path / "root" / "out").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
        rejected = []
        assert list(files_under(tmp_path / "root", rejected)) == []
        assert [name for name, _ in rejected] == ["loop", "out"]

    def test_unreadable_folders_are_reported(self, tmp_path, monkeypatch):
        for name in ("a/file", "locked/file"):
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).touch()
        scandir = os.scandir

        def refuse(folder):
            if Path(folder).name == "locked":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
            return scandir(folder)

        monkeypatch.setattr(os, "scandir", refuse)
        rejected = []
        assert list(files_under(tmp_path, rejected)) == ["a/file"]
        assert rejected == [("locked", "unreadable: Permission denied")]


def test_what_leads_outside(tmp_path):
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path)
    (root / "inner link").symlink_to(root / "inner")
    for name in ("..", ".", "../rooted", "inner/../../x", "link/x", "/etc/passwd", ""):
        assert leads_outside(root / name, root), name
    for name in ("inner", "nothing", "inner/../inner/x", "inner link/x", str(root / "x")):
        assert not leads_outside(root / name, root), name


@pytest.mark.parametrize("name", ["yes/a.wav", "ja ja/ä ö.wav", "да/日本.wav", "a\u00a0b", "a,\"b'"])
def test_names_that_can_stand_in_a_list(name):
    assert name_fault(name) == ""
    assert printable(name) == name


@pytest.mark.parametrize(
    ("name", "shown"), [("a\nb", r"a\nb"), ("a\x00", r"a\x00"), (os.fsdecode(b"\xe9.wav"), r"\udce9.wav")]
)
def test_names_that_can_not(name, shown):
    assert name_fault(name)
    assert printable(name) == shown
    assert printable(name).encode()
