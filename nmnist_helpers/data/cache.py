"""Packed recordings in one memory-mapped file: it opens at once, and each part is read when it is needed.

The file: 16 bytes of magic, then version, header length and the header's CRC-32 (three little-endian uint32),
the header (JSON), and the seven arrays of `PackedEvents`, each from a multiple of 4,096 bytes on. Where they
lie follows from the numbers of recordings and events alone.
"""

import json
import mmap
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..files import atomic, locked
from ..io import EVENT_ARRAYS, RECORDING_ARRAYS, PackedEvents
from ..paths import cache_folder

MAGIC = b"N-MNIST events\r\n"
VERSION = 2
SUFFIX = ".events"
_HEAD = struct.Struct("<16sIII")
_PAGE = 4096
#: Room for head and header.
_HEADER_ROOM = _PAGE
#: Check sums are taken block by block (bytes), so that all processors can work at them.
_BLOCK = 1 << 24
#: Files whose events this process has verified: (path, size, time of change, inode).
_verified: set[tuple] = set()


class CacheError(ValueError):
    """A cache file that cannot be used; the message says why."""


class MappedEvents(PackedEvents):
    """`PackedEvents` in a cache file. Read only; another process gets the file's name instead of the data."""

    path: Path
    key: dict
    stamp: tuple

    def __reduce__(self):
        return open_cache, (self.path, self.key, self.stamp)


def _layout(recordings: int, events: int) -> tuple[dict[str, tuple[int, int, np.dtype]], int]:
    """Array name -> (first byte, length, dtype), and the size of the whole file in bytes."""
    lengths = {"offsets": recordings + 1, "labels": recordings, "ids": recordings}
    place, layout = _HEADER_ROOM, {}
    for name, kind in (RECORDING_ARRAYS | EVENT_ARRAYS).items():
        dtype = np.dtype(kind).newbyteorder("<")
        length = lengths.get(name, events)
        layout[name] = (place, length, dtype)
        place += -(-length * dtype.itemsize // _PAGE) * _PAGE
    return layout, place


def _map(path: Path, layout: dict, write: bool) -> dict[str, np.ndarray]:
    with open(path, "r+b" if write else "rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_WRITE if write else mmap.ACCESS_READ)
    return {name: np.frombuffer(memory, dtype, length, place) for name, (place, length, dtype) in layout.items()}


def _crc(array: np.ndarray) -> int:
    """CRC-32 of the CRC-32s of an array's blocks."""
    data = array.view(np.uint8).data
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        sums = list(pool.map(lambda start: zlib.crc32(data[start : start + _BLOCK]), range(0, len(data), _BLOCK)))
    return zlib.crc32(np.array(sums, "<u4").tobytes())


def open_cache(path: str | os.PathLike, key: dict, verified: tuple | None = None) -> MappedEvents:
    """Open a cache file after checking every byte that will be used.

    The events are read and summed once in a process, and again where the file has another size, time of change or
    inode: about half a second for 1 GB that is in memory on two processors, else as long as the disk takes to read
    it. (The full training set has 1.7 GB.)

    Parameters
    ----------
    path : path-like
    key : dict of plain values
        What the recordings were made from; the file must have been written with an equal one.
    verified : tuple, optional
        ``stamp`` of a `MappedEvents` of this file, from the process that verified it.

    Raises
    ------
    CacheError
        Where the file is foreign, of another version, stale, truncated or damaged.
    FileNotFoundError
        Where there is no such file.
    """
    path = Path(path)
    with open(path, "rb") as file:
        found = os.fstat(file.fileno())
        first = file.read(_HEADER_ROOM)
    stamp = (str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ino)
    if len(first) < _HEAD.size or not first.startswith(MAGIC):
        raise CacheError(f"foreign: expected {MAGIC!r} at its start, found {first[: len(MAGIC)]!r}")
    _, version, length, crc = _HEAD.unpack_from(first)
    if version != VERSION:
        raise CacheError(f"another version: expected {VERSION}, found {version}")
    text = first[_HEAD.size : _HEAD.size + length]
    if len(text) != length or zlib.crc32(text) != crc:
        raise CacheError("damaged: its header does not match its check sum")
    header = json.loads(text)
    try:
        was, sums = header["key"], header["crc32"]
        layout, expected = _layout(int(header["recordings"]), int(header["events"]))
        changed = sorted(k for k in was.keys() | key.keys() if was.get(k) != key.get(k))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CacheError(f"damaged: its header is not understood ({error!r})") from error
    if changed:
        raise CacheError(f"stale: {', '.join(changed)} changed since it was written")
    if found.st_size != expected:
        raise CacheError(f"truncated: expected {expected} bytes, found {found.st_size}")
    arrays = _map(path, layout, write=False)
    for name in RECORDING_ARRAYS if stamp in _verified or stamp == verified else layout:
        if _crc(arrays[name]) != sums.get(name):
            raise CacheError(f"damaged: {name} does not match its check sum")
    _verified.add(stamp)
    mapped = MappedEvents(
        **{name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}
    )
    mapped.path, mapped.key, mapped.stamp = path, dict(key), stamp
    return mapped


def write_cache(
    path: str | os.PathLike, key: dict, recordings: int, events: int, fill: Callable[..., PackedEvents]
) -> None:
    """Write a cache file, atomically.

    Parameters
    ----------
    path : path-like
    key : dict of plain values
    recordings, events : int
        How many there will be.
    fill : function arrays -> PackedEvents
        ``arrays[name]`` is an array inside the file, to be filled; arrays that `fill` returns and that lie elsewhere
        are copied.

    Raises
    ------
    OSError
        Where the disk is too small or cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    layout, size = _layout(recordings, events)
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise OSError(
            f"{path.parent}: expected {size / 1e9:.2f} GB of room for the cache, found {free / 1e9:.2f} GB free"
        )
    with atomic(path) as temporary:
        with open(temporary, "r+b") as file:
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):
                # Now, with an error: a full disk under a memory map would end the process.
                os.posix_fallocate(file.fileno(), 0, size)
        sums = _fill(temporary, layout, fill)
        text = json.dumps({"key": key, "recordings": recordings, "events": events, "crc32": sums}).encode()
        if _HEAD.size + len(text) > _HEADER_ROOM:
            raise ValueError(
                f"cache: expected a header of at most {_HEADER_ROOM - _HEAD.size} bytes, found {len(text)}"
            )
        with open(temporary, "r+b") as file:
            file.write(_HEAD.pack(MAGIC, VERSION, len(text), zlib.crc32(text)) + text)


def _fill(temporary: Path, layout: dict, fill: Callable[..., PackedEvents]) -> dict[str, int]:
    """Let `fill` write the arrays; returns their check sums. The map ends with this function (Windows cares)."""
    arrays = _map(temporary, layout, write=True)
    filled = fill(arrays)
    for name, array in arrays.items():
        given = getattr(filled, name)
        if given.shape != array.shape:
            raise ValueError(f"cache: expected {name} as announced, {array.shape}, found {given.shape}")
        if not np.shares_memory(given, array):
            array[:] = given
    return {name: _crc(array) for name, array in arrays.items()}


def writable(folder: Path) -> bool:
    """Whether files may be made in `folder`, which need not exist yet.

    Tried and not guessed, as a read-only disk may say otherwise; but a folder without write permission is left
    alone even where, as for root, the system would let it pass.
    """
    there = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        if not there.stat().st_mode & 0o222:
            return False
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(folder / "probe"):
            pass
        (folder / "probe").unlink(missing_ok=True)
    except OSError:
        return False
    return True


def _may_write(path: Path) -> bool:
    # Whatever a `.cache` may allow that somebody left in read-only data: the data folder's rights decide.
    folder = path.parent
    if folder.name == ".cache" and folder.parent.exists() and not folder.parent.stat().st_mode & 0o222:
        return False
    return writable(folder)


def cache_files(root: Path, name: str) -> list[Path]:
    """Where the cache `name` of the data folder `root` may be, the better place first.

    In ``<root>/.cache``, or, where that cannot be written, in `paths.cache_folder` under a name that tells one data
    folder from another.
    """
    mark = zlib.crc32(str(root.resolve()).encode())
    return [root / ".cache" / (name + SUFFIX), cache_folder() / f"{name}-{mark:08x}{SUFFIX}"]


def cached(
    paths: list[Path], key: dict, make: Callable[[], tuple[int, int, Callable[..., PackedEvents]]]
) -> MappedEvents:
    """Open the first good cache of `paths`; where there is none, write one in the first folder that allows it.

    Parameters
    ----------
    paths : list of Path
        See `cache_files`.
    key : dict of plain values
        See `open_cache`.
    make : function -> (recordings, events, fill)
        Called only where the cache has to be written; see `write_cache`.

    Raises
    ------
    OSError
        Where no folder can be written, or the disk is too small.
    """
    for path in paths:
        try:
            return open_cache(path, key)
        except (CacheError, OSError):
            continue
    for path in paths:
        if not _may_write(path):
            continue
        # One process writes; the others wait and find it done.
        with locked(path.with_suffix(".lock"), f"that writes {path}"):
            try:
                return open_cache(path, key)
            except FileNotFoundError:
                pass
            except CacheError as error:
                print(f"{path}: {error}; writing it anew")
            write_cache(path, key, *make())
        return open_cache(path, key)
    raise OSError(f"expected a folder that can be written, found none: {', '.join(str(path.parent) for path in paths)}")
