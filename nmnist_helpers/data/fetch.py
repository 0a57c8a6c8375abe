"""Fetch one large file over HTTP: resume broken transfers, and check the file before it gets its name."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..files import locked, named

#: Some hosts answer 403 to Python's own name.
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_BLOCK = 1 << 20


class DownloadError(OSError):
    """No mirror gave the file; the message says what each answered."""


class _Refused(Exception):
    """This mirror will not do."""


class _Cut(Exception):
    """The transfer broke off and can be resumed."""


@dataclass(frozen=True)
class Downloader:
    """A downloader for `pooch` that resumes broken transfers, also those of an earlier process.

    What has arrived stays in ``.<name>.part`` beside the file.

    Parameters
    ----------
    progress : bool
        Show a progress bar.
    retries : int
        Attempts in a row that bring nothing new, after which a mirror is given up.
    timeout : float
        Seconds without a byte after which a connection counts as cut.
    pause : float
        Seconds before the second attempt; doubles with each further one.
    least_rate : float
        Bytes a second; a connection that is slower for twice `timeout` counts as cut and as an attempt that
        brought nothing new.
    """

    progress: bool = True
    retries: int = 4
    timeout: float = 30
    pause: float = 1
    least_rate: float = 1000

    def to(self, part: Path, size: int) -> Callable:
        """The function that `pooch.retrieve` calls: fetch about `size` bytes by way of the file `part`."""

        def download(url: str, output_file: str, pooch: object) -> None:
            self._bring(url, part, size)
            os.replace(part, output_file)

        return download

    def _bring(self, url: str, part: Path, size: int) -> None:
        best, tries = _size(part), 0
        with tqdm(desc=part.name[1:-5], unit="B", unit_scale=True, disable=not self.progress, initial=best) as bar:
            while True:
                try:
                    return self._transfer(url, part, size, bar)
                except _Cut as cut:
                    have = _size(part)
                    enough = self.least_rate * self.timeout  # less than this in an attempt is nothing new
                    tries = tries + 1 if have <= best or have - best < min(enough, size / 1000) else 1
                    best = max(best, have)
                    if tries >= self.retries:
                        raise _Refused(f"{cut}; given up after {tries} attempts that brought nothing new") from cut
                    time.sleep(self.pause * 2 ** (tries - 1))

    def _transfer(self, url: str, part: Path, size: int, bar: tqdm) -> None:
        """One connection. Returns where the server says that this was all."""
        import requests
        import urllib3

        have = _size(part)
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            response = requests.get(url, headers=headers, stream=True, timeout=self.timeout)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _Cut(f"no connection ({error})") from None
        except (requests.RequestException, ValueError, urllib3.exceptions.HTTPError) as error:
            raise _Refused(f"cannot be asked ({error})") from None
        with response:
            if response.status_code == 416 and have:
                # Nothing after what is here: all of it, or more than there is. The sum will tell.
                if response.headers.get("Content-Range", "").strip() == f"bytes */{have}":
                    return
                part.unlink()
                raise _Cut("the part here is longer than the file there")
            if response.status_code in (408, 425, 429) or response.status_code >= 500:
                raise _Cut(f"answered {response.status_code} {response.reason}")
            if response.status_code not in (200, 206):
                raise _Refused(f"answered {response.status_code} {response.reason}")
            kind = response.headers.get("Content-Type", "").partition(";")[0]
            if kind in ("text/html", "application/xhtml+xml"):
                raise _Refused(f"answered with a web page ({kind})")
            start, total = _extent(response, have)
            if total is not None and total > 2 * size:
                raise _Refused(f"announces {total} bytes, expected about {size}")
            bar.total, bar.n = size if total is None else total, start
            with open(part, "r+b" if start else "wb", buffering=0) as file:
                file.seek(start)
                file.truncate()
                self._copy(response.raw, file, start, 2 * size, bar)
        if _size(part) < (0.9 * size if total is None else total):
            raise _Cut(f"cut off after {_size(part)} of {total or f'about {size}'} bytes")

    def _copy(self, body, file, place: int, limit: int, bar: tqdm) -> None:
        """Body into `file` from `place` on, as it comes."""
        import urllib3

        began, since = time.monotonic(), place
        while True:
            try:
                block = body.read1(_BLOCK)
            except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
                raise _Cut(f"cut off after {place} bytes ({error})") from None
            if not block:
                return
            if place == 0 and block.lstrip()[:1] == b"<":
                raise _Refused(f"answered with a web page (it begins with {block[:16]!r})")
            file.write(block)
            place += len(block)
            bar.update(len(block))
            if place > limit:
                file.truncate(0)
                raise _Refused(f"does not end: more than {limit} bytes")
            if (passed := time.monotonic() - began) > 2 * self.timeout:
                if place - since < self.least_rate * passed:
                    raise _Cut(f"too slow: {(place - since) / passed:.0f} bytes a second")
                began, since = time.monotonic(), place


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _extent(response, have: int) -> tuple[int, int | None]:
    """Where in the file the body begins, and the length of the whole file if it is said."""
    said = response.headers.get("Content-Length", "")
    length = int(said) if said.isdecimal() and len(said) < 19 else None
    if response.status_code == 200:
        return 0, length  # the whole file, whatever was asked for
    span = response.headers.get("Content-Range", "")
    unit, _, rest = span.partition(" ")
    first, _, whole = rest.partition("/")
    if unit != "bytes" or first.partition("-")[0] != str(have):
        raise _Refused(f"asked for bytes from {have} on, answered with {span!r}")
    if whole.isdecimal() and len(whole) < 19:
        return have, int(whole)
    return have, None if length is None else have + length


def fetch(
    urls: Sequence[str],
    target: str | os.PathLike,
    md5: str,
    size: int,
    check: Callable[[Path], object] | None = None,
    downloader: Downloader | None = None,
) -> Path:
    """Fetch a file from the first mirror that delivers it whole.

    Another mirror, or a later call, goes on from what a broken transfer left. Another process that fetches the
    same file is waited for.

    Parameters
    ----------
    urls : sequence of str
        Mirrors, tried in this order.
    target : path-like
        Where the file goes, once its MD5 is right. A file that is there already is checked and left.
    md5 : str
        What the MD5 must be.
    size : int
        About how many bytes; twice as many are not accepted.
    check : function path -> object, optional
        Further check of a file with the right MD5; raises ValueError.
    downloader : Downloader, optional
        Where the usual patience will not do.

    Raises
    ------
    DownloadError
        Where no mirror gave the file, or the file that is there has another MD5.
    OSError
        Where the disk is too small.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    target, downloader = Path(target), downloader or Downloader()
    part = target.with_name(f".{target.name}.part")
    if _is_there(target, md5):
        return target
    with locked(target.with_name(f".{target.name}.lock"), f"that fetches {target}"):
        if _is_there(target, md5):
            return target
        free = shutil.disk_usage(target.parent).free
        if free < size - _size(part):
            raise OSError(
                f"{target}: expected {(size - _size(part)) / 1e9:.2f} GB of room, found {free / 1e9:.2f} GB free"
            )
        faults = []
        for url in urls:
            # Two chances: a part that came from elsewhere may be what spoils the sum.
            for chance in (True, False):
                resumed = chance and _size(part) > 0
                try:
                    with named(target):
                        pooch.retrieve(
                            url, f"md5:{md5}", target.name, target.parent, downloader=downloader.to(part, size)
                        )
                    if check is not None:
                        check(target)
                    return target
                except _Refused as refused:
                    faults.append(f"{url}: {refused}")
                    break
                except ValueError as error:  # from pooch: another MD5, and the file is gone; or from the check
                    said = f"md5 as expected, but {error}" if target.exists() else str(error).split(". ")[0]
                    faults.append(f"{url}: {said}")
                    target.unlink(missing_ok=True)
                    if not resumed:
                        break
        raise DownloadError(
            f"{target.name}: expected a mirror that delivers it, found none\n"
            + "\n".join(f"  {fault}" for fault in faults)
        )


def _is_there(target: Path, md5: str) -> bool:
    import pooch

    if not target.exists():
        return False
    found = pooch.file_hash(str(target), "md5")
    if found != md5:
        raise DownloadError(f"{target}: expected md5 {md5}, found {found}: incomplete, or another file; move it away")
    return True
