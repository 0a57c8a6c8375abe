"""This process among others: the processors that it may use, how others find it, and locks that it shares with them."""

import errno
import os
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .console import tell

#: Where the system tells the control groups of this process, and their quotas of processors.
GROUPS, CGROUP = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
#: Errors of file systems that have no locks, such as NFS without a lock service.
_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}


def count_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota_of_processors() -> int | None:
    """Return the number of processors that the quotas of a container or of systemd allow, or None without a quota.

    A quota may be that of any control group around this process. In a container, the groups seen from outside may not
    exist; its own is then the root.
    """
    try:
        groups = [line.split(":", 2)[1:] for line in GROUPS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        groups = [["", "/"]]
    allowed = []
    for controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = CGROUP / ("cpu" if controllers else "")  # version 1 has a folder for each controller
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            with suppress(OSError, ValueError):  # no such file; "max 100000"
                if controllers:
                    names = "cpu.cfs_quota_us", "cpu.cfs_period_us"  # the quota is -1 if there is none
                    quota, period = (int((folder / name).read_text(encoding="ascii")) for name in names)
                else:
                    quota, period = map(int, (folder / "cpu.max").read_text(encoding="ascii").split())
                if quota > 0:
                    allowed.append(max(1, -(-quota // period)))
            if folder == root:
                break
    return min(allowed, default=None)


def identify_machine() -> str:
    """Return a mark that two processes share only if they number processes alike, so that one can find the other.

    Two machines may have the same name, and containers on one machine number their processes themselves.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return f"{zlib.crc32(''.join(parts).encode()):08x}"


def is_running(process: int) -> bool:
    """Return whether a process of this number exists; True if that cannot be known."""
    if os.name == "nt":  # signal 0 would end the process there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def acquire(lock: FileLock, timeout: float = -1) -> None:
    """Acquire a lock. If the file system has none, return: running without a lock is better than not running at all.

    Raises
    ------
    filelock.Timeout
        If another process has held the lock for `timeout` seconds; the default is to wait without limit.
    """
    try:
        lock.acquire(timeout=timeout)
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


@contextmanager
def locked(path: str | os.PathLike, waiting_for: str = "") -> Iterator[None]:
    """Hold the lock file `path` during the block; if another process holds it, wait.

    The lock is released even if the process is killed.

    Parameters
    ----------
    path : path-like
        The lock file; its folder is made if it is missing.
    waiting_for : str
        End of the line ``waiting for another process <waiting_for>``, which is printed once if the lock is held.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        acquire(lock, timeout=0)
    except Timeout:
        tell(f"waiting for another process {waiting_for}", flush=True)
        acquire(lock)
    try:
        yield
    finally:
        lock.release()
