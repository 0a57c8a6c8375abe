"""Fetch one large file over HTTP and trust nothing: resumed when cut, checked before it takes its name."""

import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from ..locks import locked

#: Some hosts answer 403 to Python's own name.
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
_BLOCK = 1 << 20


class DownloadError(OSError):
    """No mirror gave the file; the message says what each answered."""


class _Refused(Exception):
    """This mirror will not do: go on to the next. `spoiled`: what has come of it is worth nothing."""

    def __init__(self, why: str, spoiled: bool = False):
        super().__init__(why)
        self.spoiled = spoiled


class _Cut(Exception):
    """The transfer broke off: resume."""


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follow redirections to http and https alone."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if not newurl.lower().startswith(("http://", "https://")):
            raise _Refused(f"redirects to {newurl[:80]!r}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def md5_of(path: Path) -> str:
    """MD5 of a file, 32 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def fetch(
    urls: Sequence[str],
    target: str | os.PathLike,
    md5: str,
    size: int,
    magic: bytes = b"",
    check: Callable[[Path], None] | None = None,
    progress: bool = True,
    retries: int = 4,
    timeout: float = 30,
    pause: float = 1.0,
) -> Path:
    """Fetch a file from the first mirror that gives it whole.

    What has come of a broken transfer stays in ``.<name>.part`` and is gone on from, also by a later call and
    from another mirror. Another process that fetches the same file is waited for.

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
    magic : bytes
        How the file begins; tells a web page from a file at the first block.
    check : function path -> None, optional
        Further check before the file takes its name; raises ValueError.
    progress : bool
        Show a progress bar.
    retries : int
        Attempts in a row at one mirror that bring nothing new.
    timeout : float
        Seconds without a byte after which a connection counts as cut.
    pause : float
        Seconds before the second attempt; doubles with each further one.

    Raises
    ------
    DownloadError
        Where no mirror gave the file, or the file that is there has another MD5.
    OSError
        Where the disk is too small.
    """
    target = Path(target)
    part = target.with_name(f".{target.name}.part")
    if _there(target, md5):
        return target
    with locked(target.with_name(f".{target.name}.lock"), f"{target.name}: waiting for another process to fetch it"):
        if _there(target, md5):
            return target
        have = part.stat().st_size if part.exists() else 0
        free = shutil.disk_usage(target.parent).free
        if free < size - have:
            raise OSError(
                f"{target.parent}: {free / 1e9:.2f} GB free, {target.name} needs {(size - have) / 1e9:.2f} GB"
            )
        faults = []
        for url in urls:
            # Two chances: a part that came from elsewhere may be what spoils the sum.
            for _ in range(2):
                resumed = part.exists() and part.stat().st_size > 0
                try:
                    try:
                        _fetch_part(url, part, size, magic, progress, retries, timeout, pause, target.name)
                    except _Refused:
                        # A server that is wrong about the length may have given all of it.
                        if not (part.exists() and md5_of(part) == md5):
                            raise
                    _check_part(part, md5, check)
                except _Refused as refused:
                    faults.append(f"{url}: {refused}")
                    if part.exists() and refused.spoiled:
                        part.unlink()
                        if resumed:
                            continue
                    break
                os.replace(part, target)
                return target
        raise DownloadError(f"{target.name}: no mirror gave it\n" + "\n".join(f"  {fault}" for fault in faults))


def _there(target: Path, md5: str) -> bool:
    """Whether the file is there already; an error where another one has its name."""
    if not target.exists():
        return False
    found = md5_of(target)
    if found != md5:
        raise DownloadError(f"{target}: md5 {found}, expected {md5}: incomplete, or another file; move it away")
    return True


def _check_part(part: Path, md5: str, check: Callable[[Path], None] | None) -> None:
    found = md5_of(part)
    if found != md5:
        raise _Refused(f"{part.stat().st_size} bytes with md5 {found}, expected {md5}", spoiled=True)
    if check is not None:
        try:
            check(part)
        except ValueError as error:
            raise _Refused(f"md5 as expected, but {error}", spoiled=True) from error


def _fetch_part(url, part, size, magic, progress, retries, timeout, pause, name) -> None:
    """Bring `part` to its full length, resuming as often as that leads on."""
    best, tries = (part.stat().st_size if part.exists() else 0), 0
    with tqdm(desc=name, unit="B", unit_scale=True, disable=not progress, initial=best, total=size) as bar:
        while True:
            try:
                return _transfer(url, part, size, magic, timeout, bar)
            except _Cut as cut:
                have = part.stat().st_size if part.exists() else 0
                best, tries = (have, 1) if have > best else (best, tries + 1)
                if tries >= retries:
                    raise _Refused(f"{cut}; given up after {tries} attempts that brought nothing new") from cut
                time.sleep(pause * 2 ** (tries - 1))


def _transfer(url: str, part: Path, size: int, magic: bytes, timeout: float, bar: tqdm) -> None:
    """One connection. Returns where the server says that this was all."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    opener = urllib.request.build_opener(_WebOnly)
    try:
        response = opener.open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:
            # Nothing after what is here: all of it, or more than there is. The sum will tell.
            if error.headers.get("Content-Range", "").strip() == f"bytes */{have}":
                return
            part.unlink()
            raise _Cut("the part here is longer than the file there") from None
        if error.code in (408, 425, 429) or error.code >= 500:
            raise _Cut(f"answered {error.code} {error.reason}") from None
        raise _Refused(f"answered {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"no connection ({getattr(error, 'reason', None) or error})") from None
    except ValueError as error:
        raise _Refused(f"not an address ({error})") from None
    with response:
        start, total = _extent(response, have)
        if total is not None and total > 2 * size:
            raise _Refused(f"announces {total} bytes, expected about {size}")
        if total is not None:
            bar.total = total
        kind = response.headers.get_content_type()
        if kind in ("text/html", "application/xhtml+xml"):
            raise _Refused(f"answered with a web page ({kind})")
        with open(part, "r+b" if start else "wb", buffering=0) as file:
            file.seek(start)
            file.truncate()
            bar.n = start
            place = _copy(response, file, start, 2 * size, magic, bar)
        if total is not None and place < total:
            raise _Cut(f"cut off after {place} of {total} bytes")
        if total is None and place < 0.9 * size:
            raise _Cut(f"cut off after {place} of about {size} bytes")


def _extent(response, have: int) -> tuple[int, int | None]:
    """Where in the file the body begins, and the length of the whole file if it is said."""
    length = response.headers.get("Content-Length", "")
    length = int(length) if length.isascii() and length.isdigit() else None
    if response.status != 206:
        return 0, length  # the whole file again, asked for or not
    said = response.headers.get("Content-Range", "")
    try:
        unit, _, rest = said.strip().partition(" ")
        span, _, total = rest.partition("/")
        start = int(span.partition("-")[0])
    except ValueError:
        start, unit, total = -1, "", ""
    if unit != "bytes" or start != have:
        raise _Refused(f"asked for bytes from {have} on, answered with {said!r}", spoiled=True)
    whole = int(total) if total.isascii() and total.isdigit() else None
    if whole is None and length is not None:
        whole = have + length
    return start, whole


def _copy(response, file, place: int, limit: int, magic: bytes, bar: tqdm) -> int:
    """Body into `file` from `place` on; returns where it ended."""
    first = place == 0
    while True:
        try:
            block = response.read1(_BLOCK) if not first else response.read(max(len(magic), 1))
        except http.client.IncompleteRead as error:
            file.write(error.partial)
            raise _Cut(f"cut off after {place + len(error.partial)} bytes") from None
        except (OSError, http.client.HTTPException) as error:
            raise _Cut(f"cut off after {place} bytes ({error})") from None
        if first and block and not block.startswith(magic):
            file.truncate(0)
            raise _Refused(f"answered with something else (it begins with {block[:16]!r})")
        first = False
        if not block:
            return place
        file.write(block)
        place += len(block)
        bar.update(len(block))
        if place > limit:
            raise _Refused(f"does not end: more than {limit} bytes", spoiled=True)
