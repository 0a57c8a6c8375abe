"""Fetch one large file over HTTP: resume broken transfers, and check the file before it gets its name."""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..console import progress_bar
from ..files import named, replace
from ..processes import locked

#: A browser's name: some hosts answer 403 to the name that `requests` sends.
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_BLOCK = 1 << 16


class DownloadError(OSError):
    """No mirror delivered the file; the message lists what each one answered."""


class _MirrorError(Exception):
    """A mirror cannot deliver the file; another one may."""


class _WrongRangeError(_MirrorError):
    """A mirror cannot continue a part that is here."""


class _Interrupted(Exception):
    """A transfer broke off and can be resumed."""


@dataclass(frozen=True)
class Downloader:
    """A downloader that resumes broken transfers, including those of an earlier process.

    Parameters
    ----------
    progress : bool
        Show a progress bar.
    retries : int
        Number of successive attempts without progress after which a mirror is given up.
    timeout : float
        Seconds without a byte after which a connection counts as broken.
    pause : float
        Seconds before the second attempt; doubled before each further one.
    least_rate : float
        Bytes per second. A connection that is slower for twice `timeout` counts as broken, and as an attempt without
        progress.
    """

    progress: bool = True
    retries: int = 4
    timeout: float = 30
    pause: float = 1
    least_rate: float = 1000

    def fetch(self, url: str, part: Path, size: int) -> None:
        """Fetch about `size` bytes to the file `part`; the bytes that it holds already are not fetched again."""
        best, tries = _size(part), 0
        with progress_bar(
            hidden=not self.progress, desc=part.name[1:-5], unit="B", unit_scale=True, initial=best
        ) as bar:
            while True:
                try:
                    return self._transfer(url, part, size, bar)
                except _Interrupted as error:
                    have = _size(part)
                    enough = self.least_rate * self.timeout  # fewer bytes, if below 0.1 % of the file, are no progress
                    tries = tries + 1 if have <= best or have - best < min(enough, size / 1000) else 0
                    best = max(best, have)
                    if tries >= self.retries:
                        raise _MirrorError(f"{error}; given up after {tries} attempts without progress") from error
                    time.sleep(self.pause * 2 ** max(0, tries - 1))

    def _transfer(self, url: str, part: Path, size: int, bar: tqdm) -> None:
        """Fetch the rest of the file over one connection.

        Raise `_Interrupted` if another attempt may succeed, and `_MirrorError` if the mirror cannot deliver the file.
        """
        import requests
        import urllib3

        have = _size(part)
        headers = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        try:
            response = requests.get(url, headers=headers, stream=True, timeout=self.timeout)
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _Interrupted(f"no connection ({error})") from None
        except (requests.RequestException, ValueError, urllib3.exceptions.HTTPError) as error:
            raise _MirrorError(f"request failed ({error})") from None
        with response:
            if response.status_code == 416 and have:
                # The server has no byte after those of `part`. If the length is right, the MD5 is checked next.
                if response.headers.get("Content-Range", "").strip() == f"bytes */{have}":
                    return
                part.unlink()
                raise _Interrupted("the part on this disk is longer than the mirror's file")
            if response.status_code in (408, 425, 429) or response.status_code >= 500:
                raise _Interrupted(f"answered {response.status_code} {response.reason}")
            if response.status_code not in (200, 206):
                raise _MirrorError(f"answered {response.status_code} {response.reason}")
            kind = response.headers.get("Content-Type", "").partition(";")[0]
            if kind in ("text/html", "application/xhtml+xml"):
                raise _MirrorError(f"answered with a web page ({kind})")
            start, total = _start_and_length(response, have)
            if total is not None and total > 2 * size:
                raise _MirrorError(f"announces {total} bytes, expected about {size}")
            bar.total, bar.n = size if total is None else total, start
            with open(part, "r+b" if start else "wb", buffering=0) as file:
                file.seek(start)
                file.truncate()
                self._copy(response.raw, file, start, 2 * size, bar)
        if _size(part) < (0.9 * size if total is None else total):
            raise _Interrupted(f"cut off after {_size(part)} of {total or f'about {size}'} bytes")

    def _copy(self, body, file, place: int, limit: int, bar: tqdm) -> None:
        """Write the body to `file` from byte `place` on, as it arrives; raise if it exceeds `limit` bytes."""
        import urllib3

        began, since = time.monotonic(), place
        read = getattr(body, "read1", body.read)  # urllib3 has read1 since 2.2; read waits until the block is full
        while True:
            try:
                block = read(_BLOCK)
            except (OSError, ValueError, urllib3.exceptions.HTTPError) as error:
                raise _Interrupted(f"cut off after {place} bytes ({error})") from None
            if not block:
                return
            if place == 0 and block.lstrip()[:1] == b"<":
                raise _MirrorError(f"answered with a web page (it begins with {block[:16]!r})")
            file.write(block)
            place += len(block)
            bar.update(len(block))
            if place > limit:
                file.truncate(0)
                raise _MirrorError(f"too long: more than {limit} bytes")
            if (passed := time.monotonic() - began) > 2 * self.timeout:
                if place - since < self.least_rate * passed:
                    raise _Interrupted(f"too slow: {(place - since) / passed:.0f} bytes a second")
                began, since = time.monotonic(), place


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _start_and_length(response, have: int) -> tuple[int, int | None]:
    """Return where in the file the body begins, and the length of the whole file, or None if it is unknown."""
    text = response.headers.get("Content-Length", "")
    length = int(text) if text.isdecimal() and len(text) < 19 else None
    if response.status_code == 200:
        return 0, length  # the whole file, even if only a part was requested
    span = response.headers.get("Content-Range", "")
    unit, _, rest = span.partition(" ")
    first, _, whole = rest.partition("/")
    if unit != "bytes" or first.partition("-")[0] != str(have):
        raise _WrongRangeError(f"asked for bytes from {have} on, answered with {span!r}")
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
    """Fetch a file from the first mirror that delivers it completely.

    The bytes that have arrived are kept in ``.<name>.part`` beside the file until their MD5 has been checked. The part
    that a broken transfer has left is continued, from the next mirror or in a later call. If another process is
    fetching the same file, the call waits for it.

    Parameters
    ----------
    urls : sequence of str
        URLs of the file, tried in this order.
    target : path-like
        The file gets this path when its MD5 has been checked. A file that exists already is checked and not changed.
    md5 : str
        The expected MD5.
    size : int
        Approximate size in bytes; more than twice as many are refused.
    check : function path -> object, optional
        Further check of a file with the right MD5; raises ValueError.
    downloader : Downloader, optional
        For other timeouts or numbers of attempts than the default ones.

    Returns
    -------
    Path
        `target`.

    Raises
    ------
    DownloadError
        If no mirror delivered the file, or if `target` exists with another MD5.
    OSError
        If the disk has too little space.
    """
    import pooch

    target, downloader = Path(target), downloader or Downloader()
    part = target.with_name(f".{target.name}.part")
    if _is_complete(target, md5):
        return target
    with locked(target.with_name(f".{target.name}.lock"), f"that fetches {target}"):
        if _is_complete(target, md5):
            return target
        free = shutil.disk_usage(target.parent).free
        if free < size - _size(part):
            raise OSError(
                f"{target}: expected {(size - _size(part)) / 1e9:.2f} GB of room, found {free / 1e9:.2f} GB free"
            )
        faults = []
        for url in urls:
            # If the MD5 of a resumed file is wrong, the old part may be the reason: try once more from the beginning.
            for first_try in (True, False):
                resumed = first_try and _size(part) > 0
                try:
                    with named(target):
                        downloader.fetch(url, part, size)
                        found = pooch.file_hash(str(part), "md5")
                        if found != md5:
                            part.unlink()
                            raise ValueError(f"expected md5 {md5}, found {found}")
                        replace(part, target)
                    if check is not None:
                        check(target)
                    return target
                except _MirrorError as error:
                    faults.append(f"{url}: {error}")
                    if not (resumed and isinstance(error, _WrongRangeError)):
                        break
                    part.unlink(missing_ok=True)  # this mirror may deliver the file from the beginning
                except ValueError as error:  # another MD5, or from `check`
                    faults.append(f"{url}: {'md5 as expected, but ' if target.exists() else ''}{error}")
                    target.unlink(missing_ok=True)
                    if not resumed:
                        break
        raise DownloadError(
            f"{target.name}: expected a mirror that delivers it, found none\n"
            + "\n".join(f"  {fault}" for fault in faults)
        )


def _is_complete(target: Path, md5: str) -> bool:
    import pooch

    if not target.exists():
        return False
    found = pooch.file_hash(str(target), "md5")
    if found != md5:
        raise DownloadError(f"{target}: expected md5 {md5}, found {found}: incomplete, or another file; move it away")
    return True
