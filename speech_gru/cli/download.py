"""`speech-gru download`: Google's Speech Commands."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Version(str, Enum):
    """The versions that Google published; data_pipeline.download.ARCHIVES has the same keys."""

    V1 = "v0.01"
    V2 = "v0.02"


def download(
    version: Annotated[Version, typer.Argument(help="v0.02: 2.4 GB, 35 words. v0.01: 1.5 GB, 30 words.")] = Version.V2,
    out: Annotated[Path, typer.Option(help="The folder that gets a folder speech_commands_VERSION.")] = Path("data"),
    url: Annotated[str | None, typer.Option(help="Address of a mirror's .tar.gz.", show_default=False)] = None,
    sha256: Annotated[
        str | None,
        typer.Option(help="With --url: SHA-256 of its archive, if not the one Google published.", show_default=False),
    ] = None,
) -> None:
    """Download Google's Speech Commands: 100,000 one-second clips of spoken words.

    Their licence is CC BY 4.0. An interrupted download goes on where it stopped
    when the same command is given again. The archive is checked against its
    published checksum, unpacked and removed; have 2.5 times its size free.
    Without a connection, put speech_commands_VERSION.tar.gz into the folder
    yourself: it is then used and kept.

    [bold]Example:[/bold]  speech-gru download v0.02 --out data
    """
    import functools
    import shlex

    from data_pipeline.download import download as download_archive
    from speech_gru.cli.console import progress_bar

    archive = _archive(version.value, url, sha256)
    was_there = (out / archive.name).is_dir()
    path = download_archive(archive, out, functools.partial(progress_bar, bytes_unit=True))
    print(f"{path} {'was there already; nothing was done' if was_there else 'is ready'}")
    print("Licence: CC BY 4.0; cite Warden 2018, https://arxiv.org/abs/1804.03209")
    print(f"Next: speech-gru prepare CONFIG --set {shlex.quote(f'corpus.path={path}')}")


def _archive(version: str, url: str | None, sha256: str | None):
    """The published archive, or a mirror's: the same bytes unless another checksum is given."""
    import dataclasses
    import re

    from data_pipeline.download import ARCHIVES
    from data_pipeline.errors import UserError

    archive = ARCHIVES[version]
    if sha256 is not None:
        if url is None:
            raise UserError("--sha256 goes with --url; the published archive's checksum is known")
        if not re.fullmatch("[0-9a-fA-F]{64}", sha256):
            raise UserError(f"--sha256: expected 64 hexadecimal digits, got {sha256!r}")
        if sha256.lower() != archive.sha256:
            archive = dataclasses.replace(archive, sha256=sha256.lower(), size=None)
    return dataclasses.replace(archive, url=url or archive.url)
