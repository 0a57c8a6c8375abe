"""Test downloads from a local server that imitates the faults of real ones."""

import hashlib
import io
import os
import re
import socket
import stat
import subprocess
import sys
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
from support import fake_nmnist

import nmnist_helpers.data.download as download_module
import nmnist_helpers.data.fetch as fetch_module
from nmnist_helpers.data.dataset import NMNISTDataset
from nmnist_helpers.data.download import ARCHIVES, Archive, DownloadError, check_archive, download, unpack_archive
from nmnist_helpers.data.fetch import Downloader, fetch

QUICK = Downloader(progress=False, pause=0.01, timeout=2)


class Handler(BaseHTTPRequestHandler):
    """A handler that answers a request for ``/<name>/...`` with its method ``go_<name>``."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        try:
            getattr(self, "go_" + self.path.split("/")[1])(server.body)
        except OSError:  # the client has closed the connection; the kind of error depends on the system
            pass

    @property
    def start(self):
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(match[1]) if match else None

    def reply(self, status, body=b"", length=None, kind="application/zip", **headers):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not False:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def hang_up(self):
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def reply_with_range(self, body, upto=None):
        """Reply correctly, also to range requests; with `upto`, close the connection after that many bytes."""
        start = self.start
        if start is not None and start >= len(body):
            return self.reply(416, Content_Range=f"bytes */{len(body)}")
        rest = body[start or 0 :]
        headers = {} if start is None else {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        self.reply(200 if start is None else 206, rest[:upto], len(rest), **headers)
        if upto is not None and upto < len(rest):
            self.hang_up()

    def go_good(self, body):
        self.reply_with_range(body)

    def go_cuts(self, body):  # sends a third of the file per connection
        self.reply_with_range(body, len(body) // 3 + 1)

    def go_cuts_at_once(self, body):
        self.reply(200, b"", len(body))
        self.hang_up()

    def go_cuts_without_ranges(self, body):
        self.reply(200, body[: len(body) // 2], len(body))
        self.hang_up()

    def go_no_ranges(self, body):  # sends the whole file, whatever was requested
        self.reply(200, body)

    def go_no_length(self, body):
        self.close_connection = True
        self.reply(200, body, length=False)

    def go_no_length_cut(self, body):
        self.close_connection = True
        self.reply(200, body[: len(body) // 2], length=False)

    def go_too_long(self, body):  # announces more bytes than it sends
        start = self.start
        if start is not None and start >= len(body):
            return self.reply(416, Content_Range=f"bytes */{len(body)}")
        self.reply(
            200 if start is None else 206,
            body[start or 0 :],
            len(body) + 100 - (start or 0),
            **({} if start is None else {"Content_Range": f"bytes {start}-{len(body) + 99}/{len(body) + 100}"}),
        )
        self.hang_up()

    def go_too_short(self, body):  # announces fewer bytes than it sends
        self.close_connection = True
        self.reply(200, body, len(body) - 50)

    def go_wrong_range(self, body):
        if self.start is None:
            return self.go_cuts(body)
        self.reply(206, body, Content_Range=f"bytes 0-{len(body) - 1}/{len(body)}")

    def go_no_continuation(self, body):
        if self.start is None:
            return self.go_good(body)
        self.reply(206, body, Content_Range=f"bytes 0-{len(body) - 1}/{len(body)}")

    def go_odd_range(self, body):
        if self.start is None:
            return self.go_cuts(body)
        self.reply(206, body[self.start :], Content_Range="leftovers")

    def go_unsatisfied(self, body):
        if self.start is None:
            return self.reply_with_range(body)
        self.reply(416, Content_Range=f"bytes */{len(body)}")

    def go_forbidden(self, body):
        self.reply(403, b"no")

    def go_browsers(self, body):
        if "Mozilla" not in self.headers["User-Agent"] or "Python" in self.headers["User-Agent"]:
            return self.reply(403, b"no")
        self.reply_with_range(body)

    def go_missing(self, body):
        self.reply(404, b"gone")

    def go_page(self, body):
        self.reply(200, b"<html>please log in</html>", kind="text/html; charset=utf-8")

    def go_hidden_page(self, body):  # a page with the content type of a zip archive
        self.reply(200, b"<html>" + b"x" * len(body))

    def go_other(self, body):  # the right length, but other content
        self.reply(200, body[:-9] + b"different")

    def go_busy(self, body):
        self.server.busy -= 1
        if self.server.busy >= 0:
            return self.reply(503, b"later")
        self.reply_with_range(body)

    def go_huge(self, body):
        self.reply(200, body, 10**15)

    def go_endless(self, body):
        self.close_connection = True
        self.reply(200, b"PK", length=False)
        while True:
            self.wfile.write(bytes(1 << 16))

    def go_silent(self, body):
        self.reply(200, body[:1000], len(body))
        self.wfile.flush()
        self.server.release.wait(20)

    def go_drips(self, body):  # never pauses for long and never finishes
        self.reply(200, body[:1000], len(body))
        while not self.server.release.wait(0.02):
            self.wfile.write(b"x")
            self.wfile.flush()

    def go_slow(self, body):
        self.server.bodies += 1
        self.reply(200, b"", len(body))
        for i in range(0, len(body), len(body) // 10):
            self.wfile.write(body[i : i + len(body) // 10])
            self.wfile.flush()
            time.sleep(0.05)

    def go_redirect(self, body):
        self.reply(302, Location="/good/again")

    def go_loop(self, body):
        self.reply(302, Location="/loop/again")

    def go_to_file(self, body):
        self.reply(302, Location=self.server.file_url)

    def go_to_ftp(self, body):
        self.reply(302, Location="ftp://127.0.0.1/Train.zip")

    def go_garbage(self, body):
        self.wfile.write(b"\x00\xff nonsense\r\n\r\n" + body)
        self.hang_up()


@pytest.fixture
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    httpd.requests, httpd.busy, httpd.bodies, httpd.release = [], 2, 0, threading.Event()
    httpd.body = b""
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield httpd
    httpd.release.set()
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "NMNIST_MIRRORS", "NMNIST_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def zip_bytes(tmp_path, seed=0, split="Train"):
    return fake_nmnist.write_zip(tmp_path / f"made-{seed}", split, fake_nmnist.make(seed, count=300)).read_bytes()


def urls(server, *behaviours):
    return [f"http://127.0.0.1:{server.server_port}/{behaviour}/Train.zip" for behaviour in behaviours]


def make_archive(server, body, *behaviours, split="Train", per_digit=(2,) * 10):
    server.body = body
    return Archive(split, hashlib.md5(body).hexdigest(), len(body), tuple(urls(server, *behaviours)), per_digit)


def get(tmp_path, archive, downloader=QUICK):
    return fetch(archive.urls, tmp_path / "Train.zip", archive.md5, archive.size, downloader=downloader)


def has_no_files(folder: Path):
    return not [p.name for p in folder.iterdir() if p.is_file() and not p.name.endswith(".lock")]


@pytest.mark.parametrize(
    "behaviour", ["good", "cuts", "no_ranges", "no_length", "too_long", "redirect", "browsers", "busy", "unsatisfied"]
)
def test_the_file_arrives_despite_faults_of_the_server(tmp_path, server, behaviour):
    archive = make_archive(server, zip_bytes(tmp_path), behaviour)
    target = get(tmp_path, archive)
    assert target.read_bytes() == server.body
    assert not (tmp_path / ".Train.zip.part").exists()
    agents = {headers["User-Agent"] for _, headers in server.requests}
    assert len(agents) == 1
    assert agents.pop().startswith("Mozilla/")


def test_a_file_is_fetched_with_an_old_urllib3(tmp_path, server, monkeypatch):
    """urllib3 has had `HTTPResponse.read1` since 2.2, and requests allows older versions."""
    for name in ("BaseHTTPResponse", "HTTPResponse"):
        monkeypatch.delattr(f"urllib3.response.{name}.read1", raising=False)
    test_the_file_arrives_despite_faults_of_the_server(tmp_path, server, "good")


def test_a_transfer_is_resumed_where_it_broke_off(tmp_path, server):
    archive = make_archive(server, zip_bytes(tmp_path), "cuts")
    get(tmp_path, archive)
    starts = [headers.get("Range") for _, headers in server.requests]
    third = len(server.body) // 3 + 1
    assert starts == [None, f"bytes={third}-", f"bytes={2 * third}-"]


def test_a_part_on_the_disk_is_continued(tmp_path, server):
    archive = make_archive(server, zip_bytes(tmp_path), "good")
    (tmp_path / ".Train.zip.part").write_bytes(server.body[:1234])
    assert get(tmp_path, archive).read_bytes() == server.body
    assert [headers.get("Range") for _, headers in server.requests] == ["bytes=1234-"]


@pytest.mark.parametrize("behaviour", ["good", "no_ranges", "unsatisfied"])
@pytest.mark.parametrize("extra", [-100, 0, 70])
def test_a_part_of_another_file_is_replaced(tmp_path, server, behaviour, extra):
    archive = make_archive(server, zip_bytes(tmp_path), behaviour)
    (tmp_path / ".Train.zip.part").write_bytes(b"PK" + bytes(len(server.body) - 2 + extra))
    assert get(tmp_path, archive).read_bytes() == server.body


def test_a_complete_part_is_accepted(tmp_path, server):
    archive = make_archive(server, zip_bytes(tmp_path), "good")
    (tmp_path / ".Train.zip.part").write_bytes(server.body)
    assert get(tmp_path, archive).read_bytes() == server.body


def test_an_interrupt_after_the_transfer_keeps_the_part(tmp_path, server, monkeypatch):
    archive = make_archive(server, zip_bytes(tmp_path), "good")
    root = tmp_path / "data"

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pooch, "file_hash", interrupt)
        with pytest.raises(KeyboardInterrupt):
            get(root, archive)
    assert sorted(p.name for p in root.iterdir() if p.suffix != ".lock") == [".Train.zip.part"]
    assert get(root, archive).read_bytes() == server.body
    assert server.requests[-1][1].get("Range") == f"bytes={len(server.body)}-"  # nothing was fetched again


REFUSED = {
    "forbidden": "answered 403",
    "missing": "answered 404",
    "page": r"answered with a web page \(text/html\)",
    "hidden_page": r"answered with a web page \(it begins with b'<html>",
    "other": r"expected md5 [0-9a-f]{32}, found [0-9a-f]{32}",
    "too_short": r"expected md5 [0-9a-f]{32}, found",
    "huge": "announces 1000000000000000 bytes, expected about",
    "endless": "too long: more than",
    "loop": "request failed .*30 redirects",
    "to_file": "request failed .*No connection adapters .*file:",
    "to_ftp": "request failed .*No connection adapters .*ftp:",
    "garbage": "given up after 4 attempts",
    "cuts_at_once": r"cut off after 0 bytes .*given up after 4 attempts without progress",
    "cuts_without_ranges": "given up after 4 attempts without progress",
    "no_length_cut": r"cut off after \d+ of about \d+ bytes; given up",
    "silent": r"cut off after .*timed out.*given up",
    "drips": r"too slow: \d+ bytes a second; given up after 4 attempts",
}


@pytest.mark.parametrize(
    "behaviour", [*list(REFUSED)[:-2], *(pytest.param(name, marks=pytest.mark.slow) for name in ("silent", "drips"))]
)
def test_a_bad_mirror_is_reported_and_the_next_one_used(tmp_path, server, behaviour):
    archive = make_archive(server, zip_bytes(tmp_path), behaviour, "good")
    secret = tmp_path / "secret"
    secret.write_bytes(server.body)
    server.file_url = secret.as_uri()
    downloader = replace(QUICK, timeout=0.1) if behaviour in ("silent", "drips") else QUICK
    with pytest.raises(DownloadError, match=REFUSED[behaviour]):
        get(tmp_path, replace(archive, urls=archive.urls[:1]), downloader)
    assert not (tmp_path / "Train.zip").exists()
    assert get(tmp_path, archive, downloader).read_bytes() == server.body


@pytest.mark.parametrize("behaviour", ["wrong_range", "odd_range"])
def test_a_reply_with_a_wrong_range_is_not_appended(tmp_path, server, behaviour):
    archive = make_archive(server, zip_bytes(tmp_path), behaviour)
    with pytest.raises(DownloadError, match=r"asked for bytes from \d+ on, answered with '(bytes 0|leftovers)"):
        get(tmp_path, archive)
    assert not (tmp_path / "Train.zip").exists()
    archive = make_archive(server, server.body, behaviour, "good")
    assert get(tmp_path, archive).read_bytes() == server.body


def test_a_part_that_the_mirror_does_not_continue_is_fetched_anew(tmp_path, server):
    archive = make_archive(server, zip_bytes(tmp_path), "no_continuation")
    (tmp_path / ".Train.zip.part").write_bytes(server.body[:1000])
    assert get(tmp_path, archive).read_bytes() == server.body


def test_unreachable_and_invalid_urls_raise(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"no connection .*given up after 4 attempts"):
        fetch([f"http://127.0.0.1:{port}/x"], tmp_path / "a.zip", "0" * 32, 10, downloader=QUICK)
    with pytest.raises(DownloadError, match=r"nothing: request failed .*No scheme supplied"):
        fetch(["nothing"], tmp_path / "a.zip", "0" * 32, 10, downloader=QUICK)


def test_every_mirror_is_listed_with_its_fault(tmp_path, server):
    archive = make_archive(server, zip_bytes(tmp_path), "forbidden", "missing", "page")
    with pytest.raises(DownloadError) as caught:
        get(tmp_path, archive)
    lines = str(caught.value).splitlines()
    assert lines[0] == "Train.zip: expected a mirror that delivers it, found none"
    assert [line.strip().split(": ", 1)[0] for line in lines[1:]] == list(archive.urls)


def test_an_existing_file_with_another_md5_is_not_changed(tmp_path, server):
    archive = make_archive(server, zip_bytes(tmp_path), "good")
    (tmp_path / "Train.zip").write_bytes(b"my own work")
    with pytest.raises(DownloadError, match=r"Train\.zip: expected md5 [0-9a-f]{32}, found .*; move it away"):
        get(tmp_path, archive)
    assert (tmp_path / "Train.zip").read_bytes() == b"my own work"
    assert not server.requests


def test_too_little_disk_space_raises_before_the_transfer(tmp_path, server, monkeypatch):
    archive = make_archive(server, zip_bytes(tmp_path), "good")

    class Usage:
        free = archive.size // 2

    monkeypatch.setattr(fetch_module.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(OSError, match=r"Train\.zip: expected .* GB of room, found .* GB free"):
        get(tmp_path, archive)
    assert not server.requests


# The script imports an empty package, because the real one imports torch, which takes seconds.
SCRIPT = """
import sys, types
bare = types.ModuleType("nmnist_helpers")
bare.__path__ = ["nmnist_helpers"]
sys.modules["nmnist_helpers"] = bare
from nmnist_helpers.data.fetch import Downloader, fetch
url, target, md5, size = sys.argv[1:]
fetch([url], target, md5, int(size), downloader=Downloader(progress=False, timeout=15))
"""


@pytest.mark.slow
def test_only_one_of_two_processes_fetches_the_file(tmp_path, server):
    archive = make_archive(server, zip_bytes(tmp_path), "slow")
    command = [sys.executable, "-c", SCRIPT, *archive.urls, str(tmp_path / "Train.zip"), archive.md5, str(archive.size)]
    root = Path(__file__).resolve().parents[2]
    runs = [
        subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
    assert (tmp_path / "Train.zip").read_bytes() == server.body
    assert server.bodies == 1, "both fetched the file"


def test_the_part_left_by_a_killed_process_is_continued(tmp_path, server):
    archive = make_archive(server, zip_bytes(tmp_path), "silent", "good")
    command = [sys.executable, "-c", SCRIPT, archive.urls[0], str(tmp_path / "Train.zip"), archive.md5,
               str(archive.size)]  # fmt: skip
    run = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2])
    part = tmp_path / ".Train.zip.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.kill()
    run.wait()
    size = part.stat().st_size
    assert size == 1000
    get(tmp_path, replace(archive, urls=archive.urls[1:]))
    assert (tmp_path / "Train.zip").read_bytes() == server.body
    assert server.requests[-1][1].get("Range") == "bytes=1000-"


# The official archives


def test_official_archives_are_as_published():
    train, test = ARCHIVES
    assert (train.name, test.name) == ("Train.zip", "Test.zip")
    assert (sum(train.per_digit), sum(test.per_digit)) == (60_000, 10_000)
    assert train.md5 == "20959b8e626244a1b502305a9e6e2031"
    assert test.md5 == "69ca8762b2fe404d9b9bad1103e97832"
    for archive in ARCHIVES:
        assert all(u.startswith("https://data.mendeley.com/") and u.endswith("/file_downloaded") for u in archive.urls)


@pytest.fixture
def small_archives(tmp_path, server, monkeypatch):
    """Replace the official archives with small ones; only the training archive, which is returned, is on the server."""
    train = make_archive(server, zip_bytes(tmp_path), "good")
    test = Archive("Test", "0" * 32, 100, tuple(urls(server, "missing")), (1,) * 10)
    monkeypatch.setattr(download_module.download, "__defaults__", (None, None, False, (train, test), QUICK))
    return train


def test_dataset_downloads_its_split(tmp_path, server, small_archives, capsys):
    root = tmp_path / "data"
    dataset = NMNISTDataset(root, train=True, download=True)
    out = capsys.readouterr().out
    assert "Frontiers in Neuroscience 9:437, 2015" in out
    assert "CC BY-SA 4.0" in out
    assert "Train.zip: 20 recordings, as expected; of the digits 0 to 9 2, 2, 2, 2, 2, 2, 2, 2, 2, 2" in out
    assert dataset.source == "recorded"
    assert len(dataset) == 20
    assert (root / "Train.zip").read_bytes() == server.body
    requests = len(server.requests)
    NMNISTDataset(root, train=True, download=True)
    assert len(server.requests) == requests
    assert "Frontiers" not in capsys.readouterr().out


def test_the_md5_of_an_unchanged_archive_is_not_computed_again(tmp_path, small_archives, monkeypatch):
    download(tmp_path, train=True)

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(pooch, "file_hash", fail)
    download(tmp_path, train=True)
    os.utime(tmp_path / "Train.zip", ns=(1, 1))
    with pytest.raises(AssertionError, match="computed again"):
        download(tmp_path, train=True)


def test_the_error_explains_how_to_fetch_the_archive_by_hand(tmp_path, small_archives):
    with pytest.raises(DownloadError) as caught:
        download(tmp_path, train=False, downloader=QUICK)
    message = str(caught.value)
    for part in ("answered 404", "To fetch it by hand", "Test.zip", "0" * 32, str(tmp_path), "mendeley.com"):
        assert part in message


def test_archives_fetched_by_hand_are_used(tmp_path, server, small_archives):
    (tmp_path / "Train.zip").write_bytes(server.body)
    assert download(tmp_path, train=True) == [tmp_path / "Train.zip"]
    assert not server.requests


@pytest.mark.skipif(os.name == "nt", reason="chmod does not protect a folder on Windows")
def test_archives_in_read_only_folders_are_used_and_missing_ones_raise(tmp_path, server, small_archives):
    root = tmp_path / "data"
    root.mkdir()
    (root / "Train.zip").write_bytes(server.body)
    root.chmod(0o555)
    try:
        assert len(NMNISTDataset(root, download=True)) == 20
        (root / "Train.zip").unlink()
        with pytest.raises(PermissionError, match=r"cannot be written\. To fetch it by hand"):
            download(root, train=True)
    finally:
        root.chmod(0o755)


def test_recordings_in_existing_folders_are_counted_and_kept(tmp_path, server, small_archives, capsys):
    fake_nmnist.write_folder(tmp_path, "Train", fake_nmnist.make(4, per_digit=1))
    assert download(tmp_path, train=True) == [tmp_path / "Train"]
    assert "10 recordings, of the digits 0 to 9 1, 1, 1, 1, 1, 1, 1, 1, 1, 1; the official archive has 20" in (
        capsys.readouterr().out
    )
    assert not server.requests


def test_mirrors_of_the_environment_variable_are_tried_first(tmp_path, server, small_archives, monkeypatch):
    base = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NMNIST_MIRRORS", f"{base}/missing {base}/good/mine/")
    download(tmp_path, train=True)
    assert [path for path, _ in server.requests] == ["/missing/Train.zip", "/good/mine/Train.zip"]


def test_archives_with_wrong_numbers_of_recordings_are_refused(tmp_path, server):
    archive = make_archive(server, zip_bytes(tmp_path), "good", per_digit=(2,) * 9 + (3,))
    with pytest.raises(DownloadError, match=r"md5 as expected, but .*expected 21 recordings, .*\[2, 2, .*, found 20, "):
        download(tmp_path, archives=[archive], downloader=QUICK)
    assert not (tmp_path / "Train.zip").exists()


# Unpacking


def test_unpacked_recordings_equal_those_in_the_archive(tmp_path, server, small_archives):
    (folder,) = download(tmp_path / "data", train=True, unpack=True)
    assert folder == tmp_path / "data" / "Train"
    with zipfile.ZipFile(io.BytesIO(server.body)) as archive:
        packed = {m.filename: archive.read(m) for m in archive.infolist() if not m.is_dir()}
    unpacked = {f"Train/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in folder.rglob("*.bin")}
    assert unpacked == packed
    assert len(NMNISTDataset(tmp_path / "data")) == 20
    assert [p.name for p in folder.parent.iterdir() if p.is_dir() and p.name.startswith(".Train")] == []
    with pytest.raises(FileExistsError, match="Train: expected no such folder yet, found one"):
        unpack_archive(tmp_path / "data" / "Train.zip", folder)


def write_malicious_zip(path, *members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Train/1/00001.bin", bytes(5))
        for name, data in members:
            archive.writestr(name, data)
    return path


def link_member():
    info = zipfile.ZipInfo("Train/1/00002.bin")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, b"/etc/passwd"


MALICIOUS = {
    "parent": ("Train/../../1/00009.bin", bytes(5)),
    "deep parent": ("../1/00009.bin", bytes(5)),
    "absolute": ("/tmp/1/00009.bin", bytes(5)),
    "backslash": ("Train\\1\\..\\..\\00009.bin", bytes(5)),
    "drive": ("C:/1/00009.bin", bytes(5)),
    "link": link_member(),
}


@pytest.mark.parametrize("case", MALICIOUS)
def test_members_outside_the_folder_are_refused(tmp_path, server, case):
    (tmp_path / "work" / "data").mkdir(parents=True)
    archive_path = write_malicious_zip(tmp_path / "work" / "data" / "evil.zip", MALICIOUS[case])
    before = sorted(p for p in tmp_path.rglob("*"))
    expected = r"inside the archive's own folder, found|a link or a device"
    with pytest.raises(ValueError, match=expected):
        unpack_archive(archive_path, tmp_path / "work" / "data" / "Train")
    archive = make_archive(server, archive_path.read_bytes(), "good", per_digit=(0, 2) + (0,) * 8)
    with pytest.raises(ValueError, match=expected):
        check_archive(archive_path, archive)
    assert sorted(p for p in tmp_path.rglob("*")) == before
    # Such an archive is also refused as a download with the right MD5, before it gets its final name.
    with pytest.raises(DownloadError, match=expected):
        download(tmp_path / "work" / "data", archives=[archive], unpack=True, downloader=QUICK)
    assert has_no_files(tmp_path / "work")
    assert not (tmp_path / "work" / "data" / "Train.zip").exists()
    assert not (tmp_path / "work" / "data" / "Train").exists()


def test_a_truncated_archive_with_the_right_md5_is_refused(tmp_path, server):
    body = zip_bytes(tmp_path)
    archive = make_archive(server, body[: len(body) // 2], "good")
    with pytest.raises(DownloadError, match="md5 as expected, but .*expected a complete zip archive"):
        download(tmp_path / "data", archives=[archive], downloader=QUICK)
    assert not (tmp_path / "data" / "Train.zip").exists()


def test_the_folder_of_a_killed_process_is_removed(tmp_path):
    path = fake_nmnist.write_zip(tmp_path, "Train", fake_nmnist.make(0))
    for name in (".Train.0123abcd", ".Train.89efdead", ".Test.01234567", ".Train.mine"):
        (tmp_path / name / "0").mkdir(parents=True)
    unpack_archive(path, tmp_path / "Train")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == [".Test.01234567", ".Train.mine", "Train"]


def test_unpacking_a_damaged_archive_leaves_no_folder(tmp_path):
    path = fake_nmnist.write_zip(tmp_path, "Train", fake_nmnist.make(0, count=300))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"Train/\d/\d+\.bin': expected a member that can be unpacked"):
        unpack_archive(path, tmp_path / "Train")
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "Train.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(12):
            archive.writestr(f"Train/1/0000{n}.bin", bytes(10_000_000))
    with pytest.raises(ValueError, match="expected at most 100 times its .* bytes when unpacked, .* found 120000000"):
        unpack_archive(path, tmp_path / "Train")


def test_a_member_longer_than_announced_is_refused(tmp_path):
    # The archive announces 5 bytes for a member of 5,000.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Train/1/00001.bin", np.zeros(5000, np.uint8).tobytes())
    data = buffer.getvalue().replace((5000).to_bytes(4, "little"), (5).to_bytes(4, "little"))
    (tmp_path / "Train.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"00001\.bin': expected a member that can be unpacked"):
        unpack_archive(tmp_path / "Train.zip", tmp_path / "Train")
    assert not (tmp_path / "Train").exists()


def test_too_little_disk_space_raises_before_unpacking(tmp_path, monkeypatch):
    path = fake_nmnist.write_zip(tmp_path, "Train", fake_nmnist.make(0))

    class Usage:
        free = 1000

    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda p: Usage)
    with pytest.raises(OSError, match=r"GB of room to unpack Train\.zip, found .* GB free"):
        unpack_archive(path, tmp_path / "Train")
    assert not (tmp_path / "Train").exists()


def test_the_command_passes_its_options_on(monkeypatch, tmp_path, capsys):
    calls = []

    def record_call(root, train, unpack):
        calls.append((root, train, unpack))
        return [tmp_path / "Test.zip"]

    monkeypatch.setattr(download_module, "download", record_call)
    download_module.main([str(tmp_path), "--test", "--unpack"])
    download_module.main([])
    assert calls == [(str(tmp_path), False, True), (None, None, False)]
    assert "Test.zip" in capsys.readouterr().out
