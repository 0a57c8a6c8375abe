"""Test fetching MNIST from a local server."""

import gzip
import hashlib
import struct
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

import nmnist_helpers.data.mnist as mnist
from nmnist_helpers.camera.digits import read_idx
from nmnist_helpers.data.fetch import Downloader, DownloadError

QUICK = Downloader(progress=False, pause=0)


class QuietHandler(SimpleHTTPRequestHandler):
    """Serve a folder without logging the requests."""

    def log_message(self, *args):
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Serve two small idx files in place of `mnist.FILES`; yield the URL, the served folder and the images."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    contents = {
        "train-images-idx3-ubyte.gz": struct.pack(">IIII", 0x803, 3, 28, 28) + images.tobytes(),
        "train-labels-idx1-ubyte.gz": struct.pack(">II", 0x801, 3) + bytes([5, 0, 4]),
    }
    files = {}
    for name, content in contents.items():
        data = gzip.compress(content)
        (folder / name).write_bytes(data)
        files[name] = (hashlib.md5(data).hexdigest(), len(data))
    monkeypatch.setattr(mnist, "FILES", files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=folder))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder, images
    server.shutdown()
    server.server_close()


def test_files_are_fetched_once(mirror, tmp_path):
    url, served, images = mirror
    folder = mnist.download_mnist(tmp_path / "new" / "mnist", [f"{url}/missing", url], QUICK)
    assert (read_idx(folder / "train-images-idx3-ubyte.gz") == images).all()
    assert read_idx(folder / "train-labels-idx1-ubyte.gz").tolist() == [5, 0, 4]
    for file in served.iterdir():
        file.unlink()
    assert mnist.download_mnist(folder, [url], QUICK) == folder  # no file is fetched again


def test_wrong_md5_is_refused(mirror, tmp_path):
    url, served, _ = mirror
    (served / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"something else, of about that length"))
    by_hand = r"(?s)train-labels.*To fetch by hand what is missing.*save them in .*mnist as they are"
    with pytest.raises(DownloadError, match=by_hand) as caught:
        mnist.download_mnist(tmp_path / "mnist", [url], QUICK)
    present = {file.name for file in (tmp_path / "mnist").iterdir()}
    assert "train-labels-idx1-ubyte.gz" not in present
    listed = str(caught.value).partition("what is missing")[2]
    assert {name for name in mnist.FILES if name in listed} == set(mnist.FILES) - present


def test_a_file_where_the_folder_should_be_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file: expected a folder for MNIST, found a file"):
        mnist.download_mnist(tmp_path / "file")


def test_the_command_prints_the_folder(mirror, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mnist, "download_mnist", lambda folder: folder)
    mnist.main([str(tmp_path)])
    assert str(tmp_path) in capsys.readouterr().out


def test_official_files_have_the_names_that_the_reader_expects():
    from nmnist_helpers.camera.digits import MNIST_FILES

    assert {name for *names, _ in MNIST_FILES.values() for name in names} == set(mnist.FILES)
