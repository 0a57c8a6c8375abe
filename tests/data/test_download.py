"""Downloading from servers that do everything wrong, all of them on this machine."""

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
    """What to do is in the address: /<name of a method>/..."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        try:
            getattr(self, "go_" + self.path.split("/")[1])(server.body)
        except (BrokenPipeError, ConnectionResetError):
            pass

    @property
    def start(self):
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(wanted[1]) if wanted else None

    def say(self, status, body=b"", length=None, kind="application/zip", **headers):
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

    def ranged(self, body, upto=None):
        """The right answer; with `upto`, the line is cut after that many bytes of it."""
        start = self.start
        if start is not None and start >= len(body):
            return self.say(416, Content_Range=f"bytes */{len(body)}")
        rest = body[start or 0 :]
        headers = {} if start is None else {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        self.say(200 if start is None else 206, rest[:upto], len(rest), **headers)
        if upto is not None and upto < len(rest):
            self.hang_up()

    def go_good(self, body):
        self.ranged(body)

    def go_cuts(self, body):  # a third of the file at each connection
        self.ranged(body, len(body) // 3 + 1)

    def go_cuts_at_once(self, body):
        self.say(200, b"", len(body))
        self.hang_up()

    def go_cuts_and_knows_no_ranges(self, body):
        self.say(200, body[: len(body) // 2], len(body))
        self.hang_up()

    def go_no_ranges(self, body):  # whole file, whatever was asked for
        self.say(200, body)

    def go_no_length(self, body):
        self.close_connection = True
        self.say(200, body, length=False)

    def go_no_length_cut(self, body):
        self.close_connection = True
        self.say(200, body[: len(body) // 2], length=False)

    def go_too_long(self, body):  # says more than it has
        start = self.start
        if start is not None and start >= len(body):
            return self.say(416, Content_Range=f"bytes */{len(body)}")
        self.say(
            200 if start is None else 206,
            body[start or 0 :],
            len(body) + 100 - (start or 0),
            **({} if start is None else {"Content_Range": f"bytes {start}-{len(body) + 99}/{len(body) + 100}"}),
        )
        self.hang_up()

    def go_too_short(self, body):  # says less than it has
        self.close_connection = True
        self.say(200, body, len(body) - 50)

    def go_wrong_range(self, body):
        if self.start is None:
            return self.go_cuts(body)
        self.say(206, body, Content_Range=f"bytes 0-{len(body) - 1}/{len(body)}")

    def go_odd_range(self, body):
        if self.start is None:
            return self.go_cuts(body)
        self.say(206, body[self.start :], Content_Range="leftovers")

    def go_unsatisfied(self, body):
        if self.start is None:
            return self.ranged(body)
        self.say(416, Content_Range=f"bytes */{len(body)}")

    def go_forbidden(self, body):
        self.say(403, b"no")

    def go_browsers(self, body):
        if "Mozilla" not in self.headers["User-Agent"] or "Python" in self.headers["User-Agent"]:
            return self.say(403, b"no")
        self.ranged(body)

    def go_missing(self, body):
        self.say(404, b"gone")

    def go_page(self, body):
        self.say(200, b"<html>please log in</html>", kind="text/html; charset=utf-8")

    def go_hidden_page(self, body):  # a page that says it is a zip
        self.say(200, b"<html>" + b"x" * len(body))

    def go_other(self, body):  # right length, another content
        self.say(200, body[:-9] + b"different")

    def go_busy(self, body):
        self.server.busy -= 1
        if self.server.busy >= 0:
            return self.say(503, b"later")
        self.ranged(body)

    def go_huge(self, body):
        self.say(200, body, 10**15)

    def go_endless(self, body):
        self.close_connection = True
        self.say(200, b"PK", length=False)
        while True:
            self.wfile.write(bytes(1 << 16))

    def go_silent(self, body):
        self.say(200, body[:1000], len(body))
        self.wfile.flush()
        self.server.release.wait(20)

    def go_drips(self, body):  # never silent for long, and never done
        self.say(200, body[:1000], len(body))
        while not self.server.release.wait(0.02):
            self.wfile.write(b"x")
            self.wfile.flush()

    def go_slow(self, body):
        self.server.bodies += 1
        self.say(200, b"", len(body))
        for i in range(0, len(body), len(body) // 10):
            self.wfile.write(body[i : i + len(body) // 10])
            self.wfile.flush()
            time.sleep(0.05)

    def go_redirect(self, body):
        self.say(302, Location="/good/again")

    def go_loop(self, body):
        self.say(302, Location="/loop/again")

    def go_to_file(self, body):
        self.say(302, Location=self.server.file_url)

    def go_to_ftp(self, body):
        self.say(302, Location="ftp://127.0.0.1/Train.zip")

    def go_garbage(self, body):
        self.wfile.write(b"\x00\xff nonsense\r\n\r\n" + body)
        self.hang_up()


@pytest.fixture
def server():
    served = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.daemon_threads = True
    served.requests, served.busy, served.bodies, served.release = [], 2, 0, threading.Event()
    served.body = b""
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield served
    served.release.set()
    served.shutdown()
    served.server_close()


@pytest.fixture(autouse=True)
def clean_surroundings(monkeypatch, tmp_path):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "NMNIST_MIRRORS", "NMNIST_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def zip_bytes(tmp_path, seed=0, split="Train"):
    return fake_nmnist.write_zip(tmp_path / f"made-{seed}", split, fake_nmnist.make(seed, count=300)).read_bytes()


def url(server, *ways):
    return [f"http://127.0.0.1:{server.server_port}/{way}/Train.zip" for way in ways]


def archive_of(server, body, *ways, split="Train", per_digit=(2,) * 10):
    server.body = body
    return Archive(split, hashlib.md5(body).hexdigest(), len(body), tuple(url(server, *ways)), per_digit)


def get(tmp_path, archive, downloader=QUICK):
    return fetch(archive.urls, tmp_path / "Train.zip", archive.md5, archive.size, downloader=downloader)


def no_leftovers(folder: Path):
    return not [p.name for p in folder.iterdir() if p.is_file() and not p.name.endswith(".lock")]


@pytest.mark.parametrize(
    "way", ["good", "cuts", "no_ranges", "no_length", "too_long", "redirect", "browsers", "busy", "unsatisfied"]
)
def test_it_arrives_in_the_end(tmp_path, server, way):
    archive = archive_of(server, zip_bytes(tmp_path), way)
    target = get(tmp_path, archive)
    assert target.read_bytes() == server.body
    assert not (tmp_path / ".Train.zip.part").exists()
    agents = {headers["User-Agent"] for _, headers in server.requests}
    assert len(agents) == 1
    assert agents.pop().startswith("Mozilla/")


def test_a_cut_transfer_is_resumed_where_it_broke(tmp_path, server):
    archive = archive_of(server, zip_bytes(tmp_path), "cuts")
    get(tmp_path, archive)
    starts = [headers.get("Range") for _, headers in server.requests]
    third = len(server.body) // 3 + 1
    assert starts == [None, f"bytes={third}-", f"bytes={2 * third}-"]


def test_a_later_call_and_another_mirror_go_on_from_the_part(tmp_path, server):
    archive = archive_of(server, zip_bytes(tmp_path), "good")
    (tmp_path / ".Train.zip.part").write_bytes(server.body[:1234])
    assert get(tmp_path, archive).read_bytes() == server.body
    assert [headers.get("Range") for _, headers in server.requests] == ["bytes=1234-"]


@pytest.mark.parametrize("way", ["good", "no_ranges", "unsatisfied"])
@pytest.mark.parametrize("extra", [-100, 0, 70])
def test_a_part_of_something_else_is_thrown_away(tmp_path, server, way, extra):
    archive = archive_of(server, zip_bytes(tmp_path), way)
    (tmp_path / ".Train.zip.part").write_bytes(b"PK" + bytes(len(server.body) - 2 + extra))
    assert get(tmp_path, archive).read_bytes() == server.body


def test_a_whole_part_needs_no_transfer(tmp_path, server):
    archive = archive_of(server, zip_bytes(tmp_path), "good")
    (tmp_path / ".Train.zip.part").write_bytes(server.body)
    assert get(tmp_path, archive).read_bytes() == server.body


REFUSED = {
    "forbidden": "answered 403",
    "missing": "answered 404",
    "page": r"answered with a web page \(text/html\)",
    "hidden_page": r"answered with a web page \(it begins with b'<html>",
    "other": r"expected md5:[0-9a-f]{32} but got [0-9a-f]{32}",
    "too_short": r"expected md5:[0-9a-f]{32} but got",
    "huge": "announces 1000000000000000 bytes, expected about",
    "endless": "too long: more than",
    "loop": "request failed .*30 redirects",
    "to_file": "request failed .*No connection adapters .*file:",
    "to_ftp": "request failed .*No connection adapters .*ftp:",
    "garbage": "given up after 4 attempts",
    "cuts_at_once": r"cut off after 0 bytes .*given up after 4 attempts without progress",
    "cuts_and_knows_no_ranges": "given up after 4 attempts without progress",
    "no_length_cut": r"cut off after \d+ of about \d+ bytes; given up",
    "silent": r"cut off after .*timed out.*given up",
    "drips": r"too slow: \d+ bytes a second; given up after 4 attempts",
}


@pytest.mark.parametrize("way", [*list(REFUSED)[:-1], pytest.param("drips", marks=pytest.mark.slow)])
def test_a_bad_mirror_is_told_and_the_next_one_serves(tmp_path, server, way):
    archive = archive_of(server, zip_bytes(tmp_path), way, "good")
    secret = tmp_path / "secret"
    secret.write_bytes(server.body)
    server.file_url = secret.as_uri()
    patience = replace(QUICK, timeout=0.2) if way in ("silent", "drips") else QUICK
    with pytest.raises(DownloadError, match=REFUSED[way]):
        get(tmp_path, replace(archive, urls=archive.urls[:1]), patience)
    assert not (tmp_path / "Train.zip").exists()
    assert get(tmp_path, archive, patience).read_bytes() == server.body


@pytest.mark.parametrize("way", ["wrong_range", "odd_range"])
def test_a_wrong_range_is_not_glued_on(tmp_path, server, way):
    archive = archive_of(server, zip_bytes(tmp_path), way)
    with pytest.raises(DownloadError, match=r"asked for bytes from \d+ on, answered with '(bytes 0|leftovers)"):
        get(tmp_path, archive)
    assert not (tmp_path / "Train.zip").exists()
    archive = archive_of(server, server.body, way, "good")
    assert get(tmp_path, archive).read_bytes() == server.body


def test_nobody_answers(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"no connection .*given up after 4 attempts"):
        fetch([f"http://127.0.0.1:{port}/x"], tmp_path / "a.zip", "0" * 32, 10, downloader=QUICK)
    with pytest.raises(DownloadError, match=r"nothing: request failed .*No scheme supplied"):
        fetch(["nothing"], tmp_path / "a.zip", "0" * 32, 10, downloader=QUICK)


def test_every_mirror_is_listed_with_its_fault(tmp_path, server):
    archive = archive_of(server, zip_bytes(tmp_path), "forbidden", "missing", "page")
    with pytest.raises(DownloadError) as caught:
        get(tmp_path, archive)
    lines = str(caught.value).splitlines()
    assert lines[0] == "Train.zip: expected a mirror that delivers it, found none"
    assert [line.strip().split(": ", 1)[0] for line in lines[1:]] == list(archive.urls)


def test_another_file_of_that_name_is_left_alone(tmp_path, server):
    archive = archive_of(server, zip_bytes(tmp_path), "good")
    (tmp_path / "Train.zip").write_bytes(b"my own work")
    with pytest.raises(DownloadError, match=r"Train\.zip: expected md5 [0-9a-f]{32}, found .*; move it away"):
        get(tmp_path, archive)
    assert (tmp_path / "Train.zip").read_bytes() == b"my own work"
    assert not server.requests


def test_a_small_disk_is_noticed_before_the_transfer(tmp_path, server, monkeypatch):
    archive = archive_of(server, zip_bytes(tmp_path), "good")

    class Usage:
        free = archive.size // 2

    monkeypatch.setattr(fetch_module.shutil, "disk_usage", lambda path: Usage)
    with pytest.raises(OSError, match=r"Train\.zip: expected .* GB of room, found .* GB free"):
        get(tmp_path, archive)
    assert not server.requests


# A bare package: the real one takes seconds to import torch.
SCRIPT = """
import sys, types
bare = types.ModuleType("nmnist_helpers")
bare.__path__ = ["nmnist_helpers"]
sys.modules["nmnist_helpers"] = bare
from nmnist_helpers.data.fetch import Downloader, fetch
url, target, md5, size = sys.argv[1:]
fetch([url], target, md5, int(size), downloader=Downloader(progress=False, timeout=15))
"""


def test_two_processes_at_once(tmp_path, server):
    archive = archive_of(server, zip_bytes(tmp_path), "slow")
    command = [sys.executable, "-c", SCRIPT, *archive.urls, str(tmp_path / "Train.zip"), archive.md5, str(archive.size)]
    here = Path(__file__).resolve().parents[2]
    runs = [
        subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for run in runs:
        _, errors = run.communicate(timeout=60)
        assert run.returncode == 0, errors
    assert (tmp_path / "Train.zip").read_bytes() == server.body
    assert server.bodies == 1, "both fetched it"


def test_a_killed_process_leaves_a_part_to_go_on_from(tmp_path, server):
    archive = archive_of(server, zip_bytes(tmp_path), "silent", "good")
    command = [sys.executable, "-c", SCRIPT, archive.urls[0], str(tmp_path / "Train.zip"), archive.md5,
               str(archive.size)]  # fmt: skip
    run = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[2])
    part = tmp_path / ".Train.zip.part"
    end = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size) and time.monotonic() < end:
        time.sleep(0.02)
    run.kill()
    run.wait()
    left = part.stat().st_size
    assert left == 1000
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
def official(tmp_path, server, monkeypatch):
    """Stand-ins for the official archives; the server serves the training archive."""
    train = archive_of(server, zip_bytes(tmp_path), "good")
    test = Archive("Test", "0" * 32, 100, tuple(url(server, "missing")), (1,) * 10)
    monkeypatch.setattr(download_module.download, "__defaults__", (None, None, False, (train, test), QUICK))
    return train


def test_dataset_downloads_its_split(tmp_path, server, official, capsys):
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


def test_unchanged_archives_are_not_summed_again(tmp_path, official, monkeypatch):
    download(tmp_path, train=True)

    def never(*_):
        raise AssertionError("summed again")

    monkeypatch.setattr(pooch, "file_hash", never)
    download(tmp_path, train=True)
    os.utime(tmp_path / "Train.zip", ns=(1, 1))
    with pytest.raises(AssertionError, match="summed again"):
        download(tmp_path, train=True)


def test_the_way_by_hand_is_told(tmp_path, official):
    with pytest.raises(DownloadError) as caught:
        download(tmp_path, train=False, downloader=QUICK)
    message = str(caught.value)
    for part in ("answered 404", "To fetch it by hand", "Test.zip", "0" * 32, str(tmp_path), "mendeley.com"):
        assert part in message


def test_archives_put_there_by_hand_are_taken(tmp_path, server, official):
    (tmp_path / "Train.zip").write_bytes(server.body)
    assert download(tmp_path, train=True) == [tmp_path / "Train.zip"]
    assert not server.requests


def test_read_only_archives_are_taken_and_nothing_is_written(tmp_path, server, official):
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


def test_folders_that_are_there_are_counted_and_left(tmp_path, server, official, capsys):
    fake_nmnist.write_folder(tmp_path, "Train", fake_nmnist.make(4, per_digit=1))
    assert download(tmp_path, train=True) == [tmp_path / "Train"]
    assert "10 recordings, of the digits 0 to 9 1, 1, 1, 1, 1, 1, 1, 1, 1, 1; the official archive has 20" in (
        capsys.readouterr().out
    )
    assert not server.requests


def test_mirrors_of_ones_own_come_first(tmp_path, server, official, monkeypatch):
    base = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("NMNIST_MIRRORS", f"{base}/missing {base}/good/mine/")
    download(tmp_path, train=True)
    assert [path for path, _ in server.requests] == ["/missing/Train.zip", "/good/mine/Train.zip"]


def test_wrong_counts_are_refused(tmp_path, server):
    archive = archive_of(server, zip_bytes(tmp_path), "good", per_digit=(2,) * 9 + (3,))
    with pytest.raises(DownloadError, match=r"md5 as expected, but .*expected 21 recordings, .*\[2, 2, .*, found 20, "):
        download(tmp_path, archives=[archive], downloader=QUICK)
    assert not (tmp_path / "Train.zip").exists()


# Unpacking


def test_unpack(tmp_path, server, official):
    (folder,) = download(tmp_path / "data", train=True, unpack=True)
    assert folder == tmp_path / "data" / "Train"
    with zipfile.ZipFile(io.BytesIO(server.body)) as archive:
        inside = {m.filename: archive.read(m) for m in archive.infolist() if not m.is_dir()}
    outside = {f"Train/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in folder.rglob("*.bin")}
    assert outside == inside
    assert len(NMNISTDataset(tmp_path / "data")) == 20
    assert [p.name for p in folder.parent.iterdir() if p.is_dir() and p.name.startswith(".Train")] == []
    with pytest.raises(FileExistsError, match="Train: expected no such folder yet, found one"):
        unpack_archive(tmp_path / "data" / "Train.zip", folder)


def evil_zip(path, *members):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Train/1/00001.bin", bytes(5))
        for name, data in members:
            archive.writestr(name, data)
    return path


def linked():
    info = zipfile.ZipInfo("Train/1/00002.bin")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, b"/etc/passwd"


EVIL = {
    "parent": ("Train/../../1/00009.bin", bytes(5)),
    "deep parent": ("../1/00009.bin", bytes(5)),
    "absolute": ("/tmp/1/00009.bin", bytes(5)),
    "backslash": ("Train\\1\\..\\..\\00009.bin", bytes(5)),
    "drive": ("C:/1/00009.bin", bytes(5)),
    "link": linked(),
}


@pytest.mark.parametrize("case", EVIL)
def test_members_that_lead_outside(tmp_path, server, case):
    (tmp_path / "work" / "data").mkdir(parents=True)
    evil = evil_zip(tmp_path / "work" / "data" / "evil.zip", EVIL[case])
    before = sorted(p for p in tmp_path.rglob("*"))
    expected = r"inside the archive's own folder, found|a link or a device"
    with pytest.raises(ValueError, match=expected):
        unpack_archive(evil, tmp_path / "work" / "data" / "Train")
    archive = archive_of(server, evil.read_bytes(), "good", per_digit=(0, 2) + (0,) * 8)
    with pytest.raises(ValueError, match=expected):
        check_archive(evil, archive)
    assert sorted(p for p in tmp_path.rglob("*")) == before
    # And as a download whose md5 is right: it never gets its name.
    with pytest.raises(DownloadError, match=expected):
        download(tmp_path / "work" / "data", archives=[archive], unpack=True, downloader=QUICK)
    assert no_leftovers(tmp_path / "work")
    assert not (tmp_path / "work" / "data" / "Train.zip").exists()
    assert not (tmp_path / "work" / "data" / "Train").exists()


def test_truncated_archive_with_the_right_md5(tmp_path, server):
    body = zip_bytes(tmp_path)
    archive = archive_of(server, body[: len(body) // 2], "good")
    with pytest.raises(DownloadError, match="md5 as expected, but .*expected a complete zip archive"):
        download(tmp_path / "data", archives=[archive], downloader=QUICK)
    assert not (tmp_path / "data" / "Train.zip").exists()


def test_damage_while_unpacking_leaves_nothing(tmp_path):
    path = fake_nmnist.write_zip(tmp_path, "Train", fake_nmnist.make(0, count=300))
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"Train/\d/\d+\.bin': expected a member that can be unpacked"):
        unpack_archive(path, tmp_path / "Train")
    assert not [p for p in tmp_path.iterdir() if p.is_dir()]


def test_a_bomb_is_refused(tmp_path):
    path = tmp_path / "Train.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(12):
            archive.writestr(f"Train/1/0000{n}.bin", bytes(10_000_000))
    with pytest.raises(ValueError, match="expected at most 100 times its .* bytes when unpacked, .* found 120000000"):
        unpack_archive(path, tmp_path / "Train")


def test_a_member_longer_than_it_says_is_refused(tmp_path):
    # The size in the archive's directory is a lie: 5 bytes said, 5,000 packed.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("Train/1/00001.bin", np.zeros(5000, np.uint8).tobytes())
    data = buffer.getvalue().replace((5000).to_bytes(4, "little"), (5).to_bytes(4, "little"))
    (tmp_path / "Train.zip").write_bytes(data)
    with pytest.raises(ValueError, match=r"00001\.bin': expected a member that can be unpacked"):
        unpack_archive(tmp_path / "Train.zip", tmp_path / "Train")
    assert not (tmp_path / "Train").exists()


def test_a_small_disk_is_noticed_before_unpacking(tmp_path, monkeypatch):
    path = fake_nmnist.write_zip(tmp_path, "Train", fake_nmnist.make(0))

    class Usage:
        free = 1000

    monkeypatch.setattr(download_module.shutil, "disk_usage", lambda p: Usage)
    with pytest.raises(OSError, match=r"GB of room to unpack Train\.zip, found .* GB free"):
        unpack_archive(path, tmp_path / "Train")
    assert not (tmp_path / "Train").exists()


def test_command_passes_its_options_on(monkeypatch, tmp_path, capsys):
    seen = []

    def fake(root, train, unpack):
        seen.append((root, train, unpack))
        return [tmp_path / "Test.zip"]

    monkeypatch.setattr(download_module, "download", fake)
    download_module.main([str(tmp_path), "--test", "--unpack"])
    download_module.main([])
    assert seen == [(str(tmp_path), False, True), (None, None, False)]
    assert "Test.zip" in capsys.readouterr().out
