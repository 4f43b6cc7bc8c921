"""`speech-gru download`: what it hands on, prints and refuses. The work itself is tested in test_download.py."""

import hashlib
import io
import tarfile

import pytest
import typer
from typer.testing import CliRunner

from data_pipeline.download import ARCHIVES
from data_pipeline.errors import UserError
from speech_gru.cli import download as verb

URL = "http://127.0.0.1:9/clips.tar.gz"


@pytest.fixture
def run():
    app = typer.Typer(rich_markup_mode="rich")
    app.command("download")(verb.download)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def asked(monkeypatch):
    """The archive and folder of each call of data_pipeline.download.download, which fetches nothing here."""
    calls = []

    def download(archive, folder, progress):
        calls.append((archive, folder))
        return folder / archive.name

    monkeypatch.setattr("data_pipeline.download.download", download)
    return calls


def test_versions_are_those_of_the_table():
    assert {version.value for version in verb.Version} == set(ARCHIVES)


def test_defaults(run, asked):
    result = run()
    assert result.exit_code == 0, result.output
    assert [(archive, str(folder)) for archive, folder in asked] == [(ARCHIVES["v0.02"], "data")]


def test_mirror_must_send_the_published_bytes(run, asked):
    run("v0.01", "--url", URL)
    archive, published = asked[0][0], ARCHIVES["v0.01"]
    assert (archive.url, archive.sha256, archive.size) == (URL, published.sha256, published.size)


def test_mirror_with_a_checksum_of_its_own(run, asked):
    run("--url", URL, "--sha256", "AB" * 32)
    assert (asked[0][0].sha256, asked[0][0].size) == ("ab" * 32, None)
    run("--url", URL, "--sha256", ARCHIVES["v0.02"].sha256.upper())
    assert asked[1][0].size == ARCHIVES["v0.02"].size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sha256", "ab" * 32], "--sha256 goes with --url"),
        (["--url", URL, "--sha256", "abc"], "expected 64 hexadecimal digits, got 'abc'"),
    ],
)
def test_wrong_use(run, asked, options, message):
    result = run(*options)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert asked == []


def test_unknown_version_names_the_known_ones(run):
    result = run("v0.03")
    assert result.exit_code == 2
    assert "v0.01" in result.output
    assert "v0.02" in result.output


def test_says_where_it_is_whose_it_is_and_what_comes_next(run, tmp_path):
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            tar.addfile(tarfile.TarInfo("yes/a.wav"))
        body = buffer.getvalue()
    out = tmp_path / "my data"
    out.mkdir()
    (out / "speech_commands_v0.02.tar.gz").write_bytes(body)
    command = ["--out", out, "--url", URL, "--sha256", hashlib.sha256(body).hexdigest()]
    first, second = run(*command), run(*command)
    assert (out / "speech_commands_v0.02" / "yes" / "a.wav").is_file()
    assert f"{out}/speech_commands_v0.02 is ready" in first.stdout
    assert f"{out}/speech_commands_v0.02 was there already; nothing was done" in second.stdout
    for result in (first, second):
        assert result.exit_code == 0
        assert "CC BY 4.0" in result.stdout
        assert f"speech-gru prepare CONFIG --set 'corpus.path={out}/speech_commands_v0.02'" in result.stdout


def test_help_teaches(run):
    text = " ".join(run("--help").output.split())
    assert "speech-gru download v0.02 --out data" in text
    assert "CC BY 4.0" in text
