"""Google's Speech Commands: fetched so that a broken transfer goes on, checked, unpacked so that nothing escapes."""

import gzip
import hashlib
import http.client
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from data_pipeline.errors import UserError

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each new attempt after a transfer broke off; an attempt that brought more data starts them afresh."""
MAX_BYTES = 16 << 30
"""No archive is longer than this, packed or unpacked."""
MAX_MEMBERS = 500_000
"""No archive holds more files and folders."""
_MAX_DEPTH = 8
_BLOCK = 1 << 20
_TIMEOUT = 30
_UNPACKED_RATIO = 1.5
"""Room that the unpacked files take, by the archive's length: v0.02 is 105,829 files of 32 KiB from 2.43 GB."""

Report = Callable[[int, int | None], object]
"""Called with (done, total) in bytes; total is None while unknown."""
Progress = Callable[[str], AbstractContextManager[Report]]
"""Called with a stage's description."""


@dataclass(frozen=True)
class Archive:
    """A .tar.gz on a server: the folder it becomes, its address, its SHA-256 (hex) and its length (None: unknown)."""

    name: str
    url: str
    sha256: str
    size: int | None = None


_SERVER = "https://storage.googleapis.com/download.tensorflow.org/data"
# SHA-256: pytorch/audio, torchaudio/datasets/speechcommands.py, _CHECKSUMS (both versions). Length and, in agreement,
# SHA-256 of v0.02: tensorflow/datasets, tensorflow_datasets/url_checksums/speech_commands.txt. Length of v0.01: the
# Content-Length of Google's server, as wget logged it in a public notebook.
ARCHIVES = {
    "v0.01": Archive(
        "speech_commands_v0.01",
        f"{_SERVER}/speech_commands_v0.01.tar.gz",
        "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
        1_489_096_277,
    ),
    "v0.02": Archive(
        "speech_commands_v0.02",
        f"{_SERVER}/speech_commands_v0.02.tar.gz",
        "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
        2_428_923_189,
    ),
}
"""Warden 2018, https://arxiv.org/abs/1804.03209; licence CC BY 4.0."""


class _BrokeOffError(Exception):
    """The transfer failed in a way that another attempt may mend."""


def _silent(description: str) -> AbstractContextManager[Report]:
    return nullcontext(lambda done, total: None)


def download(
    archive: Archive,
    folder: str | Path,
    progress: Progress = _silent,
    *,
    waits: Sequence[float] = WAITS,
    max_bytes: int = MAX_BYTES,
    max_members: int = MAX_MEMBERS,
) -> Path:
    """Fetches, checks and unpacks `archive` into `folder`/`archive.name`; returns that path.

    Does nothing where that folder exists. What has come is in `NAME.tar.gz.part` until all is unpacked, so that an
    interrupted call is gone on with by the next. A `NAME.tar.gz` put into `folder` by hand is used, and left as it is.

    Args:
        progress: called with the description of each stage; gives a context manager that yields a function to be
            called with (done, total) in bytes.
        waits: seconds to wait before each further attempt.
        max_bytes, max_members: an archive with more is refused.

    Raises:
        UserError: the server can't be reached, sends something else than the archive, or breaks off too often; the
            archive is hostile or damaged; the disk is full or can't be written.
    """
    target = Path(folder) / archive.name
    try:
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{archive.name}.tar.gz.part")
        packed = _checked(archive, part, progress, waits, max_bytes)
        with progress("Unpacking") as report:
            _unpack(packed, target, report, max_bytes, max_members)
        _discard(part)
    except OSError as error:
        raise UserError(f"{error.filename or target} can't be written: {error.strerror or error}") from error
    return target


def _checked(archive: Archive, part: Path, progress: Progress, waits: Sequence[float], max_bytes: int) -> Path:
    """The archive that was put there by hand, or `part` once all of it is fetched; its checksum is right."""
    given = part.with_suffix("")
    packed = given if given.is_file() else part
    if packed is part:
        with progress("Downloading") as report:
            _fetch(archive, part, report, waits, max_bytes)
    with progress("Checking") as report:
        found = _sha256(packed, report)
    if found == archive.sha256:
        return packed
    advice = "remove it, and the same command fetches the right one"
    if packed is part:
        _discard(part)
        advice = "it was removed: give the same command again, or a mirror's address"
    raise UserError(
        f"{packed} isn't the archive that was expected: its SHA-256 is {found} instead of {archive.sha256}; {advice}"
    )


def _fetch(archive: Archive, part: Path, report: Report, waits: Sequence[float], max_bytes: int) -> None:
    """Fetches all of the archive into `part`, going on from what is there; tries again where it breaks off."""
    most, left = _length(part), iter(waits)
    while True:
        try:
            return _transfer(archive, part, report, max_bytes)
        except _BrokeOffError as error:
            reason = error
        have = _length(part)
        if have > most:
            most, left = have, iter(waits)
        wait = next(left, None)
        if wait is None:
            of = f" of {_readable(archive.size)}" if archive.size else ""
            kept = f"{_readable(have)}{of} is in {part}, and the same command goes on from there"
            raise UserError(f"{archive.url} can't be fetched: {reason}. {kept if have else 'Nothing has come.'}")
        time.sleep(wait)


def _transfer(archive: Archive, part: Path, report: Report, max_bytes: int) -> None:
    """One request: appends to `part`, or starts over where the server can't or won't go on from there."""
    have = _length(part)
    if have and have == archive.size:
        return
    if archive.size and have > archive.size:
        _discard(part)
        have = 0
    with _request(archive, part, have) as response:
        if response.status == 416 and archive.size is None and response.headers["Content-Range"] == f"bytes */{have}":
            return  # nothing was missing
        if response.status == 200:
            have, total = 0, response.length
            if total is not None and archive.size not in (None, total):
                raise UserError(
                    f"{archive.url} isn't the archive that was expected: it should have {archive.size} bytes, but has "
                    f"{total}; try again, or give a mirror's address"
                )
        else:
            total = _length_if_same(response, part, have, archive.size)
            if total is None:
                _discard(part)
                raise _BrokeOffError(f"the server couldn't go on from there ({response.status} {response.reason})")
        total = archive.size or total
        _need_room(part.parent, (1 + _UNPACKED_RATIO) * (total or 0) - have)
        _receive(response, part, have, total, report, max_bytes)


def _request(archive: Archive, part: Path, have: int) -> http.client.HTTPResponse | urllib.error.HTTPError:
    """The server's answer to a request for the bytes from `have` on, or for all if the file has changed (If-Range)."""
    if not archive.url.lower().startswith(("http://", "https://")):
        raise UserError(f"expected an address that begins with https:// or http://, got {archive.url}")
    headers = {"User-Agent": "speech-gru", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if etag := _etag(part):
            headers["If-Range"] = etag
    try:
        return urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:
            return error
        error.close()
        answer = f"the server answered {error.code} {error.reason}"
        if error.code >= 500 or error.code in (408, 429):
            raise _BrokeOffError(answer) from error
        raise UserError(f"{archive.url} can't be fetched: {answer}; check the address") from error
    except (http.client.InvalidURL, ValueError) as error:
        raise UserError(f"{archive.url} isn't an address: {error}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _BrokeOffError(str(getattr(error, "reason", error)) or type(error).__name__) from error


def _length_if_same(response, part: Path, have: int, size: int | None) -> int | None:
    """Length of the whole file if the answer goes on, from byte `have`, with the file that `part` began; else None."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers["Content-Range"] or "")
    etag = _etag(part)
    if not span or int(span[1]) != have or (etag and response.headers["ETag"] not in (None, etag)):
        return None
    total = int(span[2])
    return total if size in (None, total) else None


def _receive(response, part: Path, have: int, total: int | None, report: Report, max_bytes: int) -> None:
    """Writes what the server sends, from byte `have` on, and stops it where it sends more than `total`."""
    limit = max_bytes if total is None else total
    with part.open("ab" if have else "wb") as file:
        if not have:
            # A weak tag (W/"...") names files that are alike, not the same bytes; RFC 9110 bars it from If-Range.
            etag = response.headers["ETag"] or ""
            _etag_file(part).write_text(etag if etag.startswith('"') else "", encoding="utf-8")
        report(have, total)
        while have <= limit and (block := _read(response)):
            file.write(block)
            have += len(block)
            report(have, total)
    if have > limit:
        _discard(part)
        raise UserError(
            f"the server sends more than the {limit} bytes that were expected; what came was removed: try again, or "
            "give a mirror's address"
        )
    if total is not None and have < total:
        raise _BrokeOffError("the connection was closed")


def _read(response) -> bytes:
    try:
        return response.read1(_BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _BrokeOffError(str(error) or type(error).__name__) from error


def _etag_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.etag")


def _etag(part: Path) -> str:
    """The ETag of the file that `part` is the beginning of; empty if its server gave none."""
    file = _etag_file(part)
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _etag_file(part).unlink(missing_ok=True)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _sha256(path: Path, report: Report) -> str:
    digest, done, total = hashlib.sha256(), 0, _length(path)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            done += len(block)
            report(done, total)
    return digest.hexdigest()


def _need_room(folder: Path, needed: float) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} needs {_readable(needed)} of free space, but has {_readable(free)}; make room or choose a "
            "folder on another disk"
        )


def _readable(count: float) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:.2f} {name}"
    return f"{count:.0f} bytes"


def _unpack(packed: Path, target: Path, report: Report, max_bytes: int, max_members: int) -> None:
    """Unpacks a .tar.gz into the new folder `target`: into a folder beside it, renamed when all is there.

    The archive is trusted in nothing. Only plain files and folders are made, and only their names are taken from the
    archive; as there are no links, no name leads elsewhere. tarfile's own extraction isn't used: its `data` filter is
    missing from some patch releases of Python 3.10 and 3.11, and lets links in.
    """
    _need_room(target.parent, _UNPACKED_RATIO * _length(packed))
    aside = target.with_name(f".{target.name}.unpacking")
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
    try:
        aside.mkdir()
        _extract(packed, aside, report, max_bytes, max_members)
        aside.rename(target)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError, RecursionError) as error:
        raise UserError(f"{packed} isn't a sound .tar.gz archive: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _extract(packed: Path, folder: Path, report: Report, max_bytes: int, max_members: int) -> None:
    total, count, reported = _length(packed), 0, 0
    with packed.open("rb") as file, gzip.open(file) as stream:
        report(0, total)
        bounded = _Bounded(stream, max_bytes)
        with tarfile.open(fileobj=bounded, mode="r:") as tar:
            for count, member in enumerate(iter(tar.next, None), 1):
                if count > max_members:
                    raise UserError(f"{packed} holds more than {max_members} files and folders; that is refused")
                _make(tar, member, folder)
                tar.members.clear()  # or tarfile keeps a kilobyte for each
                if file.tell() >= reported + _BLOCK:
                    reported = file.tell()
                    report(reported, total)
        while bounded.read(_BLOCK):
            pass  # gzip compares its checksum at the very end
    if not count:
        raise UserError(f"{packed} holds no files")
    report(total, total)


class _Bounded:
    """The tar stream as tarfile reads it: forward alone, `limit` bytes at most, and no header longer than a block.

    Without it a few kilobytes of gzip fill the disk or, as one long header, the memory; and a header of negative
    length sends older versions of tarfile round in circles.
    """

    def __init__(self, stream: BinaryIO, limit: int):
        self._stream, self._limit = stream, limit
        self.tell = stream.tell

    def _check(self, end: int) -> None:
        if end > self._limit:
            raise UserError(f"the archive unpacks to more than {_readable(self._limit)}; that is refused")

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _BLOCK:
            raise tarfile.ReadError(f"a header claims {count} bytes")
        block = self._stream.read(count)
        self._check(self.tell())
        return block

    def seek(self, position: int) -> None:
        if position < self.tell():
            raise tarfile.ReadError("a header claims a negative length")
        self._check(position)
        self._stream.seek(position)


def _make(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    """Makes the file or folder that `member` is, or refuses it."""
    name, parts = repr(member.name[:100]), PurePosixPath(member.name).parts
    # A backslash or a colon would lead elsewhere on Windows.
    if member.name.startswith("/") or ".." in parts or len(parts) > _MAX_DEPTH or set(member.name) & set("\\:\0"):
        raise UserError(f"the archive holds {name}, a path that could lead out of the folder; that is refused")
    path = folder.joinpath(*parts)
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
    elif member.isreg() and not member.issparse():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tar.extractfile(member) as source, path.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 16)
    else:
        raise UserError(f"the archive holds {name}, which is neither a file nor a folder; that is refused")
