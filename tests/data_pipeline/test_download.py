"""data_pipeline.download against a server on this machine that breaks off, lies, and hands out hostile archives."""

import contextlib
import gzip
import hashlib
import io
import random
import re
import shutil
import struct
import tarfile
import threading
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.download import ARCHIVES, Archive, download
from data_pipeline.errors import UserError

CLIPS = {f"{word}/{i}.wav": random.Random(f"{word}{i}").randbytes(3000) for word in ("yes", "no") for i in range(20)}


def member(name, content=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(content)
    return info, content


def packed(*members):
    """Bytes of a .tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.PAX_FORMAT) as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


GOOD = packed(member("./", kind=tarfile.DIRTYPE), *(member(f"./{name}", data) for name, data in CLIPS.items()))


class Site:
    """What the server does, and what it was asked: each of `asked` is [Range, If-Range, status, bytes sent]."""

    def __init__(self):
        self.url = ""
        self.body = GOOD
        self.etag = '"one"'
        self.ranges = self.if_range = True
        self.cuts = []
        """Bytes after which the first, second ... answer breaks off."""
        self.codes = []
        """Status of the first, second ... answer in place of the file."""
        self.promise = "truth"
        """Content-Length: "truth", None for no such header, or a number."""
        self.content_range = "bytes {}-{}/{}"
        self.asked = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        site = self.server.site
        asked = [self.headers["Range"], self.headers["If-Range"], 200, 0]
        site.asked.append(asked)
        start, total = 0, len(site.body)
        if site.codes:
            return self.send_error(site.codes.pop(0))
        if site.ranges and asked[0] and (asked[1] in (None, site.etag) or not site.if_range):
            start, asked[2] = int(asked[0][6:-1]), 206
        if start >= total:
            asked[2] = 416
        self.send_response(asked[2])
        length = max(total - start, 0) if site.promise == "truth" else site.promise
        headers = {"ETag": site.etag, "Content-Length": 0 if asked[2] == 416 else length}
        if asked[2] == 206:
            headers["Content-Range"] = site.content_range.format(start, total - 1, total)
        if asked[2] == 416:
            headers["Content-Range"] = f"bytes */{total}"
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        body = site.body[start:]
        asked[3] = len(body[: site.cuts.pop(0)] if site.cuts else body)
        with contextlib.suppress(OSError):
            self.wfile.write(body[: asked[3]])

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def site(server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server.site = Site()
    server.site.url = f"http://127.0.0.1:{server.server_port}/clips.tar.gz"
    return server.site


def archive_of(site, body=None, size=0):
    body = site.body if body is None else body
    return Archive("clips", site.url, hashlib.sha256(body).hexdigest(), len(body) if size == 0 else size)


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def get(site, folder, **options):
    return download(options.pop("archive", None) or archive_of(site), folder, **{"waits": (0, 0), **options})


def stages(calls, stop_at=None):
    """A `progress` that records (stage, done, total), and is interrupted in a stage once something is done there."""

    @contextlib.contextmanager
    def progress(stage):
        def report(done, total):
            calls.append((stage, done, total))
            if stage == stop_at and done >= (0 if stage == "Unpacking" else 1):
                raise KeyboardInterrupt

        yield report

    return progress


def test_whole_archive_arrives_unpacked_and_nothing_else_stays(site, tmp_path):
    calls = []
    target = get(site, tmp_path / "deep" / "data", progress=stages(calls))
    assert target == tmp_path / "deep" / "data" / "clips"
    assert files(target) == CLIPS
    assert list(target.parent.iterdir()) == [target]
    assert [asked[:2] for asked in site.asked] == [[None, None]]
    assert list(dict.fromkeys(stage for stage, _, _ in calls)) == ["Downloading", "Checking", "Unpacking"]
    for stage in ("Downloading", "Checking", "Unpacking"):
        done = [call[1] for call in calls if call[0] == stage]
        assert done == sorted(done)
        assert done[-1] == len(GOOD)
    assert {total for _, _, total in calls} == {len(GOOD)}


def test_what_is_there_is_not_fetched_again(site, tmp_path):
    get(site, tmp_path)
    get(site, tmp_path)
    assert len(site.asked) == 1


@pytest.mark.parametrize("size", [0, None], ids=["length known", "length unknown"])
def test_broken_transfer_goes_on_by_itself_without_fetching_twice(site, tmp_path, size):
    site.cuts = [30_000, 40_000]
    target = get(site, tmp_path, archive=archive_of(site, size=size))
    assert files(target) == CLIPS
    assert [asked[0] for asked in site.asked] == [None, "bytes=30000-", "bytes=70000-"]
    assert [asked[1] for asked in site.asked] == [None, '"one"', '"one"']
    assert sum(asked[3] for asked in site.asked) == len(GOOD)


def test_the_next_run_goes_on_where_a_broken_one_stopped(site, tmp_path):
    site.cuts = [50_000]
    with pytest.raises(UserError, match=r"50000 bytes of .* is in .*clips.tar.gz.part.* the same command goes on"):
        get(site, tmp_path, waits=())
    assert (tmp_path / "clips.tar.gz.part").read_bytes() == GOOD[:50_000]
    assert files(get(site, tmp_path)) == CLIPS
    assert sum(asked[3] for asked in site.asked) == len(GOOD)


def test_attempts_that_bring_more_do_not_count_as_failures(site, tmp_path):
    site.cuts = [10_000] * 8
    assert files(get(site, tmp_path, waits=(0,))) == CLIPS


def test_gives_up_after_attempts_that_bring_nothing(site, tmp_path):
    site.cuts = [10_000] + [0] * 100
    with pytest.raises(UserError, match="10000 bytes"):
        get(site, tmp_path, waits=(0, 0, 0))
    assert len(site.asked) == 4, "the first, and one after each wait"


def test_server_that_ignores_range_sends_all_again(site, tmp_path):
    site.ranges, site.cuts = False, [50_000]
    assert files(get(site, tmp_path)) == CLIPS
    assert [asked[2] for asked in site.asked] == [200, 200]


@pytest.mark.parametrize("size", [0, None], ids=["length known", "length unknown"])
def test_file_that_changed_meanwhile_is_fetched_from_its_start(site, tmp_path, size):
    site.body, site.etag, site.cuts = GOOD[::-1], '"old"', [50_000]
    with pytest.raises(UserError, match="goes on"):
        get(site, tmp_path, waits=())
    site.body, site.etag = GOOD, '"new"'
    assert files(get(site, tmp_path, archive=archive_of(site, size=size))) == CLIPS
    assert site.asked[-1] == ["bytes=50000-", '"old"', 200, len(GOOD)]


def test_changed_file_is_noticed_where_the_server_ignores_if_range(site, tmp_path):
    (tmp_path / "clips.tar.gz.part").write_bytes(b"x" * 1000)
    (tmp_path / "clips.tar.gz.part.etag").write_text('"old"')
    site.if_range = False
    assert files(get(site, tmp_path)) == CLIPS
    assert [asked[2] for asked in site.asked] == [206, 200]


@pytest.mark.parametrize("content_range", ["bytes 0-{1}/{2}", "bytes {0}-{1}/7", "nonsense"])
def test_wrong_content_range_starts_over(site, tmp_path, content_range):
    (tmp_path / "clips.tar.gz.part").write_bytes(GOOD[:1000])
    site.content_range = content_range
    assert files(get(site, tmp_path)) == CLIPS
    assert [asked[0] for asked in site.asked] == ["bytes=1000-", None]


def test_more_on_the_disk_than_the_server_has_starts_over(site, tmp_path):
    for size in (0, None):
        (tmp_path / "clips.tar.gz.part").write_bytes(b"x" * (len(GOOD) + 5))
        assert files(get(site, tmp_path, archive=archive_of(site, size=size))) == CLIPS
        shutil.rmtree(tmp_path / "clips")
    assert [asked[2] for asked in site.asked] == [200, 416, 200]


@pytest.mark.parametrize("size", [0, None], ids=["length known", "length unknown"])
def test_complete_part_is_not_fetched_again(site, tmp_path, size):
    (tmp_path / "clips.tar.gz.part").write_bytes(GOOD)
    assert files(get(site, tmp_path, archive=archive_of(site, size=size))) == CLIPS
    assert sum(asked[3] for asked in site.asked) == 0


def test_weak_etag_is_not_sent_back(site, tmp_path):
    site.etag, site.cuts = 'W/"one"', [50_000]
    assert files(get(site, tmp_path)) == CLIPS
    assert site.asked[1][:3] == ["bytes=50000-", None, 206]


@pytest.mark.parametrize("code", [500, 503, 429])
def test_passing_fault_of_the_server_is_tried_again(site, tmp_path, code):
    site.codes = [code]
    assert files(get(site, tmp_path)) == CLIPS


@pytest.mark.parametrize("code", [403, 404])
def test_refusal_is_final(site, tmp_path, code):
    site.codes = [code]
    with pytest.raises(UserError, match=f"the server answered {code} .*check the address"):
        get(site, tmp_path)
    assert len(site.asked) == 1


def test_nobody_answers(site, tmp_path, monkeypatch):
    waited = []
    monkeypatch.setattr("time.sleep", waited.append)
    dead = Archive("clips", "http://127.0.0.1:9/x.tar.gz", "0" * 64, 10)  # the discard port
    with pytest.raises(UserError, match=r"refused.*Nothing has come"):
        download(dead, tmp_path, waits=(1, 2, 4))
    assert waited == [1, 2, 4]


@pytest.mark.parametrize("url", ["file:///etc/passwd", "clips.tar.gz", "http://", "http://[::1", "http://a:b/c"])
def test_no_address(tmp_path, url):
    with pytest.raises(UserError, match=r"address|can't be fetched"):
        download(Archive("clips", url, "0" * 64), tmp_path, waits=())


def test_server_has_a_file_of_another_length(site, tmp_path):
    with pytest.raises(UserError, match=f"should have {len(GOOD) + 1} bytes, but has {len(GOOD)}"):
        get(site, tmp_path, archive=archive_of(site, size=len(GOOD) + 1))
    assert files(tmp_path) == {}


def test_server_sends_less_than_it_promised(site, tmp_path):
    site.promise = len(GOOD)
    archive = archive_of(site)
    site.body = GOOD[:60_000]
    with pytest.raises(UserError, match="can't be fetched"):
        get(site, tmp_path, archive=archive)
    assert not (tmp_path / "clips").exists()


@pytest.mark.parametrize("size", [0, None], ids=["length known", "length unknown"])
def test_server_sends_more_than_was_expected(site, tmp_path, size):
    archive = archive_of(site, size=size)
    site.promise, site.body = None, GOOD + b"x" * 100_000
    with pytest.raises(UserError, match=r"more than the .* bytes that were expected"):
        get(site, tmp_path, archive=archive, max_bytes=len(GOOD))
    assert list(tmp_path.iterdir()) == []


def test_endless_body_is_stopped(site, tmp_path, monkeypatch):
    sent = []

    def endless(self):
        self.send_response(200)
        self.end_headers()
        with contextlib.suppress(OSError):
            while len(sent) < 1000:
                sent.append(self.wfile.write(b"x" * 65536))

    monkeypatch.setattr(Handler, "do_GET", endless)
    with pytest.raises(UserError, match="more than the 200000 bytes"):
        get(site, tmp_path, archive=archive_of(site, size=None), max_bytes=200_000)
    assert len(sent) < 1000
    assert list(tmp_path.iterdir()) == []


def test_no_length_from_the_server(site, tmp_path):
    site.promise = None
    assert files(get(site, tmp_path, archive=archive_of(site, size=None))) == CLIPS


def test_wrong_checksum_removes_the_file_so_that_the_next_run_starts_afresh(site, tmp_path):
    archive = archive_of(site)
    site.body = GOOD[:-1] + b"x"
    with pytest.raises(UserError, match=f"instead of {archive.sha256}; it was removed"):
        get(site, tmp_path, archive=archive)
    assert list(tmp_path.iterdir()) == []
    site.body = GOOD
    assert files(get(site, tmp_path, archive=archive)) == CLIPS


def test_archive_put_there_by_hand_is_used_and_kept(site, tmp_path):
    given = tmp_path / "clips.tar.gz"
    given.write_bytes(GOOD)
    assert files(get(site, tmp_path)) == CLIPS
    assert given.read_bytes() == GOOD
    assert site.asked == []


def test_wrong_archive_put_there_by_hand_is_refused_and_kept(site, tmp_path):
    (tmp_path / "clips.tar.gz").write_bytes(b"other")
    with pytest.raises(UserError, match=r"SHA-256 is .* remove it"):
        get(site, tmp_path)
    assert (tmp_path / "clips.tar.gz").read_bytes() == b"other"


@pytest.mark.parametrize("stage", ["Downloading", "Checking", "Unpacking"])
def test_interrupted_run_is_gone_on_with(site, tmp_path, stage):
    with pytest.raises(KeyboardInterrupt):
        get(site, tmp_path, progress=stages([], stop_at=stage))
    assert {path.name for path in tmp_path.iterdir()} == {"clips.tar.gz.part", "clips.tar.gz.part.etag"}
    kept = (tmp_path / "clips.tar.gz.part").stat().st_size
    assert 0 < kept <= len(GOOD)
    site.asked.clear()
    assert files(get(site, tmp_path)) == CLIPS
    assert sum(asked[3] for asked in site.asked) == len(GOOD) - kept


def test_remains_of_a_killed_unpacking_are_cleared_away(site, tmp_path):
    (tmp_path / ".clips.unpacking" / "yes").mkdir(parents=True)
    (tmp_path / ".clips.unpacking" / "yes" / "half.wav").write_bytes(b"half")
    assert files(get(site, tmp_path)) == CLIPS


def test_folder_that_cannot_be_made(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.* can't be written: (Not a directory|File exists)"):
        get(site, tmp_path / "file")
    with pytest.raises(UserError, match=r"file.* can't be written: Not a directory"):
        get(site, tmp_path / "file" / "data")
    assert site.asked == []


def test_file_in_place_of_the_target(site, tmp_path):
    (tmp_path / "clips").write_text("mine")
    with pytest.raises(UserError, match=r"clips.* can't be written"):
        get(site, tmp_path)
    assert (tmp_path / "clips").read_text() == "mine"


def test_room_is_looked_for_before_anything_is_fetched(site, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 2.4 * len(GOOD)))
    with pytest.raises(UserError, match=r"needs .* of free space, but has .*; make room"):
        get(site, tmp_path)
    assert files(tmp_path) == {}
    (tmp_path / "clips.tar.gz.part").write_bytes(GOOD[: len(GOOD) // 5])
    get(site, tmp_path)


def test_disk_fills_up_while_unpacking(site, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(UserError, match="can't be written: No space left on device"):
            get(site, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"clips.tar.gz.part", "clips.tar.gz.part.etag"}
    assert files(get(site, tmp_path)) == CLIPS


def sparse():
    """A header of the old GNU form that claims a file of a terabyte in no bytes at all."""
    info, _ = member("huge.wav", kind=tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(format=tarfile.GNU_FORMAT))
    header[483:495] = tarfile.itn(1 << 40, 12, tarfile.GNU_FORMAT)
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(header[:148] + b" " * 8 + header[156:])[0]
    return gzip.compress(bytes(header) + bytes(1024))


def negative():
    """A header whose length is minus one kilobyte (base 256), which sends old versions of tarfile round in circles."""
    header = bytearray(member("a.wav")[0].tobuf(format=tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 4 + struct.pack(">q", -1024)
    header[148:156] = b"%06o\0 " % tarfile.calc_chksums(header[:148] + b" " * 8 + header[156:])[0]
    return gzip.compress(bytes(header) * 3 + bytes(1024))


HOSTILE = {
    "parent": (packed(member("good/a.wav", b"a"), member("../escape.wav", b"x")), "'../escape.wav'"),
    "parent inside": (packed(member("a/../../escape.wav", b"x")), "escape.wav"),
    "parent folder": (packed(member("../escape", kind=tarfile.DIRTYPE)), "'../escape'"),
    "absolute": (packed(member("/tmp/escape.wav", b"x")), "'/tmp/escape.wav'"),
    "drive": (packed(member("C:escape.wav", b"x")), "'C:escape.wav'"),
    "backslash": (packed(member("..\\escape.wav", b"x")), "escape.wav"),
    "nul": (packed(member("ä\0b", b"x")), "a path that could lead out"),
    "deep": (packed(member("a/" * 1500 + "x.wav", b"x")), "a path that could lead out"),
    "symlink": (packed(member("link", kind=tarfile.SYMTYPE, link="..")), "'link', which is neither"),
    "symlink used": (
        packed(member("link", kind=tarfile.SYMTYPE, link=".."), member("link/escape.wav", b"x")),
        "'link', which is neither",
    ),
    "hard link": (packed(member("link", kind=tarfile.LNKTYPE, link="../secret")), "'link', which is neither"),
    "device": (packed(member("null", kind=tarfile.CHRTYPE)), "'null', which is neither"),
    "block device": (packed(member("disk", kind=tarfile.BLKTYPE)), "'disk', which is neither"),
    "pipe": (packed(member("pipe", kind=tarfile.FIFOTYPE)), "'pipe', which is neither"),
    "sparse": (sparse(), "'huge.wav', which is neither"),
    "bomb": (packed(member("good.wav", b"a"), member("zeros.wav", bytes(5_000_000))), "unpacks to more than 1.00 MB"),
    "bomb behind the end": (
        gzip.compress(gzip.decompress(packed(member("a.wav"))) + bytes(5_000_000)),
        "unpacks to more",
    ),
    "bomb as a header": (packed(member("n" * 3_000_000, b"x")), "isn't a sound"),
    "many": (packed(*(member(f"{i}.wav") for i in range(101))), "more than 100 files and folders"),
    "negative length": (negative(), "isn't a sound"),
    "truncated": (GOOD[: len(GOOD) // 2], "isn't a sound"),
    "damaged": (GOOD[:50_000] + bytes(1000) + GOOD[51_000:], "isn't a sound"),
    "not gzip": (b"<html>Sign in to the network</html>", "isn't a sound"),
    "not tar": (gzip.compress(b"<html>" * 1000), "isn't a sound"),
    "no files": (packed(), "holds no files|isn't a sound"),
    "nothing": (gzip.compress(b""), "isn't a sound"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_or_damaged_archive_is_refused_and_leaves_nothing(site, tmp_path, kind):
    site.body, reason = HOSTILE[kind]
    folder = tmp_path / "a" / "data"
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(UserError, match=reason):
        get(site, folder, max_bytes=1_000_000, max_members=100)
    assert {path.name for path in folder.iterdir()} == {"clips.tar.gz.part", "clips.tar.gz.part.etag"}
    assert {path.name for path in tmp_path.iterdir()} == {"a", "secret"}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 3071), st.integers(0, 255)), min_size=1, max_size=20))
def test_any_change_of_a_tar_gives_its_files_or_a_user_error(tmp_path, changes):
    raw = bytearray(gzip.decompress(packed(member("yes/ä.wav", b"a" * 600), member("no/b.wav", b"b")))[:3072])
    for position, value in changes:
        raw[position] = value
    body = gzip.compress(bytes(raw) + bytes(1024), 1)
    folder = tmp_path / "data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "clips.tar.gz").write_bytes(body)
    with contextlib.suppress(UserError):
        download(Archive("clips", "http://127.0.0.1:9/", hashlib.sha256(body).hexdigest()), folder, max_bytes=10_000)
    assert {path.name for path in folder.iterdir()} <= {"clips", "clips.tar.gz"}
    assert list(tmp_path.iterdir()) == [folder]


def test_published_archives():
    assert set(ARCHIVES) == {"v0.01", "v0.02"}
    for version, archive in ARCHIVES.items():
        assert archive.url.startswith("https://")
        assert archive.url.endswith(f"/{archive.name}.tar.gz")
        assert archive.name == f"speech_commands_{version}"
        assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
        assert archive.size > 10**9
