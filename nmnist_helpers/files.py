"""Files that appear whole or not at all, and locks that one process at a time can hold."""

import errno
import os
import secrets
import shutil
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

#: A temporary file this old (seconds) was left by a process that was killed, whatever machine it ran on.
ABANDONED = 24 * 3600
#: Where less is free (bytes) when a write fails, the disk is full, even if the library that wrote says otherwise.
_FULL = 1 << 16
_DISK_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
#: Marks temporary files: ``.<stem>.<machine>-<process>-<random>.tmp<suffix>``.
_MACHINE = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_swept: set[Path] = set()


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name the file, and the reason, where the file system refuses to write `path`: a full disk, no rights, ...

    Errors about other files, and all other errors, pass as they are.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        number, other = getattr(error, "errno", None), getattr(error, "filename", None)
        if other is not None:
            other = Path(os.fsdecode(other))
            if other not in (path, *path.parents) and not other.name.startswith(f".{path.stem[:40]}."):
                raise
        if number in _DISK_FULL or (number is None and _free(path.parent) < _FULL):
            said: OSError = OSError(f"{path}: disk full ({_free(path.parent) / 1e6:.1f} MB free in {path.parent})")
            said.errno = errno.ENOSPC
        elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
            said = PermissionError(f"{path}: expected a folder that can be written, found: {os.strerror(number)}")
            said.errno = number
        elif number in (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP):
            said = OSError(f"{path}: expected the name of a file in a folder, found: {os.strerror(number)}")
            said.errno = number
        else:
            raise
        raise said from error


def _free(folder: Path) -> int:
    """Bytes that are free where `folder` is or would be."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    try:
        return shutil.disk_usage(there).free
    except OSError:
        return _FULL


def size_of(path: Path, kind: str, most: int, error: type[ValueError] = ValueError) -> int:
    """Return the size of a regular file; raise `error` for another kind (a pipe would block) or beyond `most` bytes."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a {kind} file, found none")
    if not path.is_file():
        raise error(f"{path}: expected a {kind} file, found something that is no regular file")
    size = path.stat().st_size
    if size > most:
        raise error(f"{path}: expected a {kind} file of at most {most} bytes, found {size}")
    return size


@contextmanager
def atomic(path: str | os.PathLike, sync: bool = True) -> Iterator[Path]:
    """Write to a temporary file that takes the place of `path` when the block ends well, and vanishes otherwise.

    Parameters
    ----------
    path : path-like
        The file to be written; its folder is made if it is missing. Where it is a symbolic link, the file that the
        link names is replaced, and the link stays.
    sync : bool
        Wait until the disk has the file before it takes its name, so that a power cut leaves the old file or the
        new one. False for many small files that can be made again.

    Yields
    ------
    Path
        Where to write. It keeps the suffix, so that writers that go by it do as they would.

    Raises
    ------
    OSError
        Where the disk is full; the message names the file.
    PermissionError
        Where the folder cannot be written.

    Examples
    --------
    >>> with atomic('Trained/network.pt') as temporary:
    ...     torch.save(net.state_dict(), temporary)
    """
    given = Path(path)
    path = Path(os.path.realpath(given))
    if path.is_dir():
        raise IsADirectoryError(f"{given}: expected the name of a file, found a folder")
    name = f".{path.stem[:40]}.{_MACHINE}-{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}"
    temporary = path.parent / name
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in _swept:
            sweep(path.parent)
            _swept.add(path.parent)
        # Unlike `tempfile`, open() leaves the rights to the process's umask, which no thread has to read and restore.
        os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            yield temporary
            if sync:
                _sync(temporary)
            _replace(temporary, path)
            if sync:
                _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder where the system can do that."""
    if path.is_dir():
        if os.name == "nt":
            return
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            return  # a folder may be written and not read
    else:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot
            raise
    finally:
        os.close(handle)


def _replace(temporary: Path, path: Path) -> None:
    """Rename. Windows refuses while another program (a virus scanner) has the file open for a moment."""
    for pause in (0.05, 0.1, 0.2, 0.4, None):
        try:
            return os.replace(temporary, path)
        except PermissionError:
            if os.name != "nt" or pause is None:
                raise
            time.sleep(pause)


def sweep(folder: str | os.PathLike) -> None:
    """Remove the temporary files that killed processes left in a folder.

    A file goes if the process that wrote it ran on this machine and is no more, or if it is a day old. `atomic`
    sweeps each folder once a process, before it writes there for the first time.
    """
    for left in Path(folder).glob(".*.tmp*"):
        machine, _, rest = left.name.rpartition(".tmp")[0].rpartition(".")[2].partition("-")
        process = rest.partition("-")[0]
        if len(machine) != 8 or not process.isdecimal():
            continue
        try:
            old = time.time() - left.stat().st_mtime > ABANDONED
            if old or (machine == _MACHINE and not _runs(int(process))):
                left.unlink()
        except OSError:
            pass  # gone already, or not ours


def _runs(process: int) -> bool:
    if os.name == "nt":  # signal 0 would end the process there
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


@contextmanager
def locked(path: str | os.PathLike, waiting_for: str = "") -> Iterator[None]:
    """Hold the lock file `path`, after waiting for another process that does. The lock ends with the process.

    Parameters
    ----------
    path : path-like
        The lock file; its folder is made if it is missing.
    waiting_for : str
        If the lock is held, ``waiting for another process <waiting_for>`` is printed once.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process {waiting_for}", flush=True)
        lock.acquire()
    except NotImplementedError:
        pass  # a file system without locks: to go on is better than to wait for ever
    try:
        yield
    finally:
        lock.release()
