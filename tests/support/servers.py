"""A local web server that imitates the faults of real ones, and archives to fetch from it."""

import hashlib
import re
import socket
import time
from http.server import BaseHTTPRequestHandler

from nmnist_helpers.data.download import Archive
from nmnist_helpers.data.fetch import Downloader
from support import fake_nmnist

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


def zip_bytes(tmp_path, seed=0, split="Train"):
    return fake_nmnist.write_zip(tmp_path / f"made-{seed}", split, fake_nmnist.make(seed, count=300)).read_bytes()


def urls(server, *behaviours):
    return [f"http://127.0.0.1:{server.server_port}/{behaviour}/Train.zip" for behaviour in behaviours]


def make_archive(server, body, *behaviours, split="Train", per_digit=(2,) * 10):
    server.body = body
    return Archive(split, hashlib.md5(body).hexdigest(), len(body), tuple(urls(server, *behaviours)), per_digit)
