"""Test transfers from a local server that imitates the faults of real ones."""

import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pooch
import pytest
from support.servers import QUICK, make_archive, zip_bytes

import nmnist_helpers.data.fetch as fetch_module
from nmnist_helpers.data.download import DownloadError
from nmnist_helpers.data.fetch import fetch

pytestmark = pytest.mark.usefixtures("clean_environment")


def get(tmp_path, archive, downloader=QUICK):
    return fetch(archive.urls, tmp_path / "Train.zip", archive.md5, archive.size, downloader=downloader)


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
