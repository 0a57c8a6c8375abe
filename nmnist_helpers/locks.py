"""One process at a time: a lock that ends with the process that holds it."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt


def _take(handle: int) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        # Any other fault: a file system that knows no locks. Going on without is better than waiting for ever.
        return error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
    return True


@contextmanager
def locked(path: str | os.PathLike, said: str = "", timeout: float | None = None) -> Iterator[None]:
    """Hold the lock file `path`, waiting for another process that does.

    The file stays behind, empty: to remove it would let a third process in beside a waiting second.

    Parameters
    ----------
    path : path-like
        The lock file; its folder is made if it is missing.
    said : str
        Printed once if there is somebody to wait for.
    timeout : float, optional
        Seconds to wait; without it, as long as it takes.

    Raises
    ------
    TimeoutError
        Where the lock was not to be had in `timeout`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        start, waited = time.monotonic(), False
        while not _take(handle):
            if said and not waited:
                print(said)
            waited = True
            if timeout is not None and time.monotonic() - start > timeout:
                raise TimeoutError(f"{path}: held by another process for more than {timeout:g} s")
            time.sleep(0.1)
        yield
    finally:
        os.close(handle)  # lets go of the lock, too
