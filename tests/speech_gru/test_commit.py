import subprocess

import pytest

from speech_gru import commit
from speech_gru.commit import current_commit, record_commit, recorded_commits


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with a commit; returns a function that runs git in it."""
    root = tmp_path / "checkout"
    root.mkdir()

    def git(*words: str) -> str:
        who = ["-c", "user.name=Some One", "-c", "user.email=some@one.example"]
        done = subprocess.run(["git", *who, *words], cwd=root, capture_output=True, encoding="utf-8", check=True)
        return done.stdout.strip()

    git("init", "--quiet")
    (root / "code.py").write_text("1")
    git("add", "code.py")
    git("commit", "--quiet", "--message", "first")
    monkeypatch.setattr(commit, "ROOT", root)
    return git


def test_a_clean_checkout(checkout):
    assert current_commit() == checkout("rev-parse", "HEAD")
    assert len(current_commit()) == 40


def test_changed_files(checkout):
    (commit.ROOT / "notes.txt").write_text("not the code's")
    assert not current_commit().endswith("+dirty")
    (commit.ROOT / "code.py").write_text("2")
    assert current_commit() == checkout("rev-parse", "HEAD") + "+dirty"


def test_outside_a_checkout(checkout, tmp_path, monkeypatch):
    """Installed into an environment that lies in another project's checkout, too."""
    installed = commit.ROOT / "environment" / "site-packages"
    installed.mkdir(parents=True)
    monkeypatch.setattr(commit, "ROOT", installed)
    assert current_commit() == ""


def test_without_git_or_a_commit(checkout, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert current_commit() == ""
    checkout("update-ref", "-d", "HEAD")
    assert current_commit() == ""


def test_all_commits_that_trained_a_run_are_recorded(tmp_path, monkeypatch):
    assert recorded_commits(tmp_path) is None
    for name in ("a1", "a1", "b2+dirty", "", "a1"):
        monkeypatch.setattr(commit, "current_commit", lambda name=name: name)
        record_commit(tmp_path)
    assert recorded_commits(tmp_path) == ["a1", "b2+dirty"]


def test_a_run_of_installed_code(tmp_path, monkeypatch):
    monkeypatch.setattr(commit, "current_commit", lambda: "")
    record_commit(tmp_path)
    assert recorded_commits(tmp_path) == []
