"""Give the tests of downloads a local server and an environment without proxies."""

import threading
from http.server import ThreadingHTTPServer

import pytest
from support.servers import QUICK, Handler, make_archive, urls, zip_bytes

import nmnist_helpers.data.download as download_module
from nmnist_helpers.data.download import Archive


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


@pytest.fixture
def clean_environment(monkeypatch, tmp_path):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "NMNIST_MIRRORS", "NMNIST_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def small_archives(tmp_path, server, monkeypatch):
    """Replace the official archives with small ones; only the training archive, which is returned, is on the server."""
    train = make_archive(server, zip_bytes(tmp_path), "good")
    test = Archive("Test", "0" * 32, 100, tuple(urls(server, "missing")), (1,) * 10)
    monkeypatch.setattr(download_module.download, "__defaults__", (None, None, False, (train, test), QUICK))
    return train
