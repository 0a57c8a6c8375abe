"""Write files atomically: complete or not at all."""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .paths import hint_for
from .processes import identify_machine, is_running

#: A temporary file that is this old (seconds) was left by a killed process, possibly on another machine.
ABANDONED = 24 * 3600
#: If a write fails while fewer bytes than this are free, the disk counts as full, whatever error the library raised.
_NEARLY_FULL = 1 << 16
_FULL_ERRORS = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)}
#: This machine in the names of temporary files: ``.<stem>.<machine>-<process>-<random>.tmp<suffix>``.
_MACHINE = identify_machine()
_swept: set[Path] = set()


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Raise an error that names `path` and the reason if the file system refuses to write it (no space, no permission).

    Errors about other files, and all other errors, are not changed.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        number, other = getattr(error, "errno", None), getattr(error, "filename", None)
        if other is not None:
            other = Path(os.fsdecode(other))
            if other not in (path, *path.parents) and not other.name.startswith(f".{path.stem[:40]}."):
                raise
        if number in _FULL_ERRORS or (number is None and _free(path.parent) < _NEARLY_FULL):
            free = f"{_free(path.parent) / 1e6:.1f} MB free in {path.parent}"
            refusal: OSError = OSError(f"{path}: disk full: the file needs more than the {free}")
            refusal.errno = errno.ENOSPC
        elif number == errno.EFBIG:
            refusal = OSError(f"{path}: expected room for the file, found a limit on the size of files")
            refusal.errno = number
        elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
            # On Windows, the error's own words may be that another program has the file open.
            reason = getattr(error, "strerror", None) or os.strerror(number)
            refusal = PermissionError(f"{path}: expected a folder that can be written, found: {reason}")
            refusal.errno = number
        elif number in (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP):
            refusal = OSError(f"{path}: expected the name of a file in a folder, found: {os.strerror(number)}")
            refusal.errno = number
        else:
            raise
        raise refusal from error


def _free(folder: Path) -> int:
    """Return the number of free bytes on the disk of `folder`, which need not exist."""
    there = next((place for place in (folder, *folder.parents) if place.exists()), folder)
    try:
        return shutil.disk_usage(there).free
    except OSError:
        return _NEARLY_FULL


def size_of(path: Path, kind: str, most: int, error: type[ValueError] = ValueError) -> int:
    """Return the size of a file in bytes; raise `error` if it is not a regular file or has more than `most` bytes.

    (Reading a pipe would block.) A missing file raises FileNotFoundError. `kind`, such as ``.pt``, is for the messages.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: expected a {kind} file, found none{hint_for(path)}")
    if not path.is_file():
        raise error(f"{path}: expected a {kind} file, found something that is no regular file")
    size = path.stat().st_size
    if size > most:
        raise error(f"{path}: expected a {kind} file of at most {most} bytes, found {size}")
    return size


@contextmanager
def atomic(path: str | os.PathLike, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary file that replaces `path` if the block succeeds, and is removed if the block raises an error.

    Parameters
    ----------
    path : path-like
        The file to be written; its folder is made if it is missing. If it is a symbolic link, the link is kept, and the
        file to which it points is replaced.
    sync : bool
        Flush the file to the disk before it is renamed, so that a power failure leaves either the old or the new file.
        Use False for many small files that can be made again.

    Yields
    ------
    Path
        The temporary file. It has the suffix of `path`, because some libraries choose the format by the suffix.

    Raises
    ------
    OSError
        If the disk is full; the message names the file.
    PermissionError
        If the folder cannot be written.
    IsADirectoryError
        If `path` is a folder.

    Examples
    --------
    >>> with atomic('network.pt') as temporary:
    ...     torch.save(net.state_dict(), temporary)
    """
    given = Path(path)
    path = Path(os.path.realpath(given))
    with named(path):
        is_folder = path.is_dir()
    if is_folder:
        raise IsADirectoryError(f"{given}: expected the name of a file, found a folder")
    name = f".{path.stem[:40]}.{_MACHINE}-{os.getpid()}-{secrets.token_hex(4)}.tmp{path.suffix}"
    temporary = path.parent / name
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.parent not in _swept:
            sweep(path.parent)
            _swept.add(path.parent)
        # Unlike `tempfile`, os.open() applies the process's umask. (The umask cannot be read without changing it.)
        os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            yield temporary
            if sync:
                _sync(temporary)
            replace(temporary, path)
            if sync:
                _sync(path.parent)
        finally:
            with suppress(PermissionError):  # Windows, while the file is open: `sweep` removes it later
                temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Flush a file to the disk; for a folder, flush its list of names if the file system can do that."""
    is_folder = path.is_dir()
    if is_folder:
        if os.name == "nt":
            return
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            return  # the folder may be writable but not readable
    else:
        handle = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(handle)
    except OSError as error:
        # EINVAL means that the file system does not support it. For a folder, there are several such errors.
        if error.errno in _FULL_ERRORS | {errno.EIO} or not (is_folder or error.errno == errno.EINVAL):
            raise
    finally:
        os.close(handle)


def replace(temporary: str | os.PathLike, path: str | os.PathLike) -> None:
    """Rename a file or a folder; try again if Windows refuses because another program (a virus scanner) has it open."""
    for pause in (0.05, 0.1, 0.2, 0.4, None):
        try:
            return os.replace(temporary, path)
        except PermissionError:
            if os.name != "nt" or pause is None:
                raise
            time.sleep(pause)


def sweep(folder: str | os.PathLike) -> None:
    """Remove the temporary files that killed processes left in a folder.

    A file is removed if it is a day old, or if it was written on this machine by a process that no longer exists.
    `atomic` calls this for each folder once per process, before it first writes there.
    """
    for left in Path(folder).glob(".*.tmp*"):
        machine, _, rest = left.name.rpartition(".tmp")[0].rpartition(".")[2].partition("-")
        process = rest.partition("-")[0]
        if len(machine) != 8 or not process.isdecimal():
            continue
        try:
            old = time.time() - left.stat().st_mtime > ABANDONED
            if old or (machine == _MACHINE and not is_running(int(process))):
                left.unlink()
        except OSError:
            pass  # removed by another process meanwhile, or not removable by this user
