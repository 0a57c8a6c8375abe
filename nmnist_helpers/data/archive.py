"""Read zip archives of unknown origin safely: sizes are limited, and an error names every fault."""

import errno
import io
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

#: Maximum size of a member in bytes. N-MNIST's longest recording has about 50,000.
MAX_MEMBER = 1 << 23
#: Maximum unpacked size of all members together in bytes. N-MNIST's training set has 1.2 GB.
MAX_TOTAL = 1 << 33
#: Maximum number of unpacked bytes per byte of the archive. N-MNIST has fewer than 2.
MAX_RATIO = 100
#: Maximum size of the list of members (zip's central directory) in bytes. N-MNIST's has about 5 MB.
MAX_LIST = 1 << 24

#: First bytes -> description of other files that are sometimes found under the name of an archive or a recording.
_KINDS = {
    b"Rar!": "a rar archive",
    b"7z\xbc\xaf'\x1c": "a 7z archive",
    b"\x1f\x8b": "a gzip file (a .tar.gz?)",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"version https://git-lfs": "a placeholder of git-lfs; fetch the file itself with git lfs pull",
    b"<": "a web page; the download link answered with a page and not with the file",
    b"%PDF": "a PDF",
    b"\x89PNG": "a picture",
    b"\x93NUMPY": "a .npy file",
    b"\x89HDF": "an HDF5 file",
    b"PK\x07\x08": "a part of a zip archive in several files",
    b"PK\x03\x04": "a zip archive that is cut off or damaged; fetch it again",
}


def kind_of(head: bytes) -> str:
    """Return a description of a file from its first bytes (1 MB is enough), or an empty string if they are unknown."""
    if not head:
        return "an empty file (a download that never began, or a placeholder of a cloud folder)"
    if not head.strip(b"\0"):
        return "only zeros (a download that never finished, or a placeholder of a cloud folder)"
    if damage := line_end_damage(head):
        return damage
    if head[257:262] == b"ustar":
        return "a tar archive"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:40]
    return next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), "")


def line_end_damage(data: bytes) -> str:
    """Return a description of the damage if a program converted the line ends of binary data, else an empty string."""
    feeds, pairs = data.count(b"\n"), data.count(b"\r\n")
    if (feeds >= 4 and feeds == pairs) or (pairs == 0 and feeds >= 1000 and len(data) >= 1 << 18):
        return "a binary file whose line ends were converted as if it were text (by git or FTP); fetch it again"
    return ""


class _LimitedReader(io.BufferedReader):
    """A file that raises BadZipFile if `zipfile` reads more bytes at once than a list of members may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = MAX_LIST + 1 if size is None or size < 0 else size
        if wanted > MAX_LIST + 1:
            raise zipfile.BadZipFile(f"expected a list of members of at most {MAX_LIST} bytes, found {wanted}")
        data = super().read(wanted)
        if len(data) > MAX_LIST:
            raise zipfile.BadZipFile(f"expected a list of members of at most {MAX_LIST} bytes, found more")
        return data


@contextmanager
def _translate_errors(where: str) -> Iterator[None]:
    """Turn every error of `zipfile` and of the decompressors into a ValueError; add `where` to errors of the disk."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise type(error)(f"{where}: {os.strerror(error.errno)}") from error
        reason = str(error) or type(error).__name__
        raise ValueError(
            f"{where}: expected a member that can be unpacked, found a damaged archive ({reason})"
        ) from error


class ZipFile:
    """A zip archive of recordings, or of other small files.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    members : list of zipfile.ZipInfo
        All files inside, without the folders.
    names : list of tuple of str
        The parts of each member's name: its folders and its file name.

    Raises
    ------
    ValueError
        If the file is not a zip archive, if a member is a link or a device or would be unpacked outside the target
        folder, or if the members overlap or unpack to more than the limits above. The message names the file and the
        reason.
    """

    def __init__(self, path: Path):
        self.path = path
        self._open_file: zipfile.ZipFile | None = None
        self._process = 0
        self.members = [m for m in self._open().infolist() if not m.filename.replace("\\", "/").endswith("/")]
        self.names = [self._name_parts(member) for member in self.members]
        size, packed = path.stat().st_size, sum(member.compress_size for member in self.members)
        total = sum(member.file_size for member in self.members)
        if packed > size:
            raise ValueError(
                f"{path}: expected members that do not overlap, found {packed} packed bytes in {size}: a zip bomb"
            )
        if total > min(MAX_TOTAL, MAX_RATIO * max(size, 1 << 20)):
            raise ValueError(f"{path}: expected at most {MAX_RATIO} times its {size} bytes when unpacked, and at most "
                             f"{MAX_TOTAL} bytes, found {total}: a zip bomb")  # fmt: skip

    def _name_parts(self, member: zipfile.ZipInfo) -> tuple[str, ...]:
        """Return the parts of a member's name; raise if it is a link or would be unpacked outside the target folder."""
        name = member.orig_filename.replace("\\", "/")  # some Windows programs write backslashes
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if posix.is_absolute() or windows.drive or windows.root or ".." in posix.parts or "\0" in name:
            raise ValueError(f"{self.path}: expected members inside the archive's own folder, found {name!r}")
        if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise ValueError(f"{self.path}: expected files and folders only, found {name!r}, a link or a device")
        return posix.parts

    def _open(self) -> zipfile.ZipFile:
        # A forked process shares an open file's position with its parent, so each process opens the archive itself.
        if self._open_file is None or self._process != os.getpid():
            file = _LimitedReader(io.FileIO(self.path))
            try:
                self._open_file, self._process = zipfile.ZipFile(file), os.getpid()
            except Exception as error:
                file.seek(0)
                head = file.read(1 << 20)
                file.close()
                if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                    raise type(error)(f"{self.path}: {os.strerror(error.errno)}") from error
                found = kind_of(head) or f"a file that begins with {head[:8]!r}"
                raise ValueError(
                    f"{self.path}: expected a complete zip archive, found {self.path.stat().st_size} bytes, {found} "
                    f"({error})"
                ) from error
        return self._open_file

    def close(self) -> None:
        """Close the file; reading a member opens it again."""
        if self._open_file is not None and self._process == os.getpid():
            file = self._open_file.fp
            self._open_file.close()
            if file is not None:  # `zipfile` leaves open what it has not opened itself
                file.close()
        self._open_file = None

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open_file": None, "_process": 0}

    def read(self, n: int) -> bytes:
        """Return the bytes of member `n`; raise ValueError if it cannot be unpacked or has a wrong size or checksum."""
        member = self.members[n]
        where = f"{self.path}: {member.filename!r}"
        if member.flag_bits & 1:
            raise ValueError(f"{where}: expected a member without encryption, found one with a password")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{where}: expected a stored or deflated member, found compression method "
                             f"{member.compress_type}; pack it again as a plain zip")  # fmt: skip
        if member.file_size > MAX_MEMBER:
            raise ValueError(f"{where}: expected at most {MAX_MEMBER} bytes, found {member.file_size}")
        with _translate_errors(where), self._open().open(member) as file:
            data = file.read(member.file_size + 1)  # + 1: zipfile checks the checksum only at the end
        if len(data) != member.file_size:
            raise ValueError(f"{where}: expected {member.file_size} bytes, found {len(data)}: damaged archive")
        return data
