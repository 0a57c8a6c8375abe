"""Keep packed recordings in one memory-mapped cache file: it opens at once, and parts are read when they are needed.

The file begins with 16 magic bytes, then the version, the header's length and the header's CRC-32 (three little-endian
uint32), then the header (JSON). The seven arrays of `PackedEvents` follow, each at a multiple of 4,096 bytes. Their
places are computed from the numbers of recordings and events.
"""

import json
import mmap
import os
import shutil
import struct
import traceback
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..files import atomic
from ..io import EVENT_ARRAYS, RECORDING_ARRAYS, PackedEvents
from ..processes import count_processors

MAGIC = b"N-MNIST events\r\n"
VERSION = 2
SUFFIX = ".events"
_HEAD = struct.Struct("<16sIII")
_PAGE = 4096
#: Bytes reserved for the fixed head (`_HEAD`) and the JSON header.
_HEADER_BYTES = _PAGE
#: Checksums are computed for blocks of this many bytes, in parallel.
_BLOCK = 1 << 24
#: Files whose events this process has verified: (path, size, time of change, inode).
_verified: set[tuple] = set()


class CacheError(ValueError):
    """A cache file cannot be used; the message gives the reason."""


class MappedEvents(PackedEvents):
    """`PackedEvents` in a cache file, read-only. Pickling stores the path of the file instead of the data.

    If an array or the file has been replaced, pickling stores the data and gives `PackedEvents`.

    Attributes
    ----------
    path : Path
        The file.
    key : dict
        See `open_cache`.
    stamp : tuple
        Path, size, time of change and inode of the file when it was verified.
    """

    path: Path
    key: dict
    stamp: tuple
    #: The arrays of the file; none if the object was not made by `open_cache`.
    _mapped: tuple[np.ndarray, ...] = ()

    def _arrays(self) -> tuple[np.ndarray, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    def is_unchanged(self) -> bool:
        """Return whether all arrays are still those of the file. (Their contents are checked and cannot be changed.)"""
        return [id(array) for array in self._arrays()] == [id(array) for array in self._mapped]

    def __reduce__(self):
        if self.is_unchanged() and _stamp(self.path) == self.stamp:
            return open_cache, (self.path, self.key, self.stamp)
        return PackedEvents, self._arrays()


def _stamp(path: Path, file: BinaryIO | None = None) -> tuple:
    """Return path, size, time of change and inode of a file, which may be open; () if there is no such file."""
    try:
        found = os.stat(path if file is None else file.fileno())
    except OSError:
        return ()
    return str(path.absolute()), found.st_size, found.st_mtime_ns, found.st_ino


def _layout(recordings: int, events: int) -> tuple[dict[str, tuple[int, int, np.dtype]], int]:
    """Return a dict, array name -> (first byte, length, dtype), and the size of the whole file in bytes."""
    lengths = {"offsets": recordings + 1, "labels": recordings, "ids": recordings}
    place, layout = _HEADER_BYTES, {}
    for name, kind in (RECORDING_ARRAYS | EVENT_ARRAYS).items():
        dtype = np.dtype(kind).newbyteorder("<")
        length = lengths.get(name, events)
        layout[name] = (place, length, dtype)
        place += -(-length * dtype.itemsize // _PAGE) * _PAGE
    return layout, place


def _map(file: BinaryIO, layout: dict, access: int) -> dict[str, np.ndarray]:
    memory = mmap.mmap(file.fileno(), 0, access=access)
    return {name: np.frombuffer(memory, dtype, length, place) for name, (place, length, dtype) in layout.items()}


def _crc(array: np.ndarray) -> int:
    """Return the CRC-32 of the CRC-32s of an array's blocks."""
    data = array.view(np.uint8).data
    with ThreadPoolExecutor(min(8, count_processors())) as pool:
        sums = list(pool.map(lambda start: zlib.crc32(data[start : start + _BLOCK]), range(0, len(data), _BLOCK)))
    return zlib.crc32(np.array(sums, "<u4").tobytes())


def _read_header(file: BinaryIO, key: dict) -> tuple[dict, dict]:
    """Return the layout and the checksums of a cache file; raise CacheError if its header or its size is wrong."""
    first = file.read(_HEADER_BYTES)
    if len(first) < _HEAD.size or not first.startswith(MAGIC):
        raise CacheError(f"not a cache file: expected {MAGIC!r} at its start, found {first[: len(MAGIC)]!r}")
    _, version, length, crc = _HEAD.unpack_from(first)
    if version != VERSION:
        raise CacheError(f"another version: expected {VERSION}, found {version}")
    text = first[_HEAD.size : _HEAD.size + length]
    if len(text) != length or zlib.crc32(text) != crc:
        raise CacheError("damaged: its header does not match its checksum")
    header = json.loads(text)
    try:
        written, sums = header["key"], header["crc32"]
        layout, expected = _layout(int(header["recordings"]), int(header["events"]))
        changed = sorted(k for k in written.keys() | key.keys() if written.get(k) != key.get(k))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CacheError(f"damaged: its header cannot be read ({error!r})") from error
    if changed:
        raise CacheError(f"stale: {', '.join(changed)} changed since it was written")
    if (size := os.fstat(file.fileno()).st_size) != expected:
        raise CacheError(f"truncated: expected {expected} bytes, found {size}")
    return layout, sums


def open_cache(path: str | os.PathLike, key: dict, verified: tuple | None = None) -> MappedEvents:
    """Open a cache file after checking every byte that will be used.

    The checksums of the events are computed once per process, and again if the file's size, time of change or inode
    differs. With two processors this takes about half a second for 1 GB in the system's file cache, and otherwise as
    long as the disk needs. (The full training set has 1.7 GB.)

    Parameters
    ----------
    path : path-like
    key : dict of plain values
        Describes what the recordings were made from. It must equal the key with which the file was written.
    verified : tuple, optional
        ``stamp`` of a `MappedEvents` of this file, if another process has already verified the events.

    Raises
    ------
    CacheError
        If the file is not a cache file, has another version or another key, or is truncated or damaged.
    FileNotFoundError
        If there is no such file.
    """
    path = Path(path)
    with open(path, "rb") as file:  # another process may replace the file meanwhile, so it is opened only once
        stamp = _stamp(path, file)
        layout, sums = _read_header(file, key)
        arrays = _map(file, layout, mmap.ACCESS_READ)
    for name in RECORDING_ARRAYS if stamp in _verified or stamp == verified else layout:
        if _crc(arrays[name]) != sums.get(name):
            raise CacheError(f"damaged: {name} does not match its checksum")
    _verified.add(stamp)
    mapped = MappedEvents(
        **{name: array.astype(array.dtype.newbyteorder("="), copy=False) for name, array in arrays.items()}
    )
    mapped.path, mapped.key, mapped.stamp, mapped._mapped = path, dict(key), stamp, mapped._arrays()
    return mapped


def write_cache(
    path: str | os.PathLike, key: dict, recordings: int, events: int, fill: Callable[..., PackedEvents]
) -> None:
    """Write a cache file atomically.

    Parameters
    ----------
    path : path-like
    key : dict of plain values
        See `open_cache`.
    recordings, events : int
        Numbers of recordings and of events that `fill` will return.
    fill : function arrays -> PackedEvents
        Makes the recordings. It may write them to ``arrays[name]``, which are the arrays inside the file. Returned
        arrays with other memory are copied into the file.

    Raises
    ------
    OSError
        If the disk has too little space or cannot be written.
    ValueError
        If `fill` returns arrays of other lengths, or the key is too long for the header.
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
                # Reserve the space now: a full disk raises an error here, but kills a process that writes to a map.
                os.posix_fallocate(file.fileno(), 0, size)
        sums = _fill(temporary, layout, fill)
        text = json.dumps({"key": key, "recordings": recordings, "events": events, "crc32": sums}).encode()
        if _HEAD.size + len(text) > _HEADER_BYTES:
            raise ValueError(
                f"cache: expected a header of at most {_HEADER_BYTES - _HEAD.size} bytes, found {len(text)}"
            )
        with open(temporary, "r+b") as file:
            file.write(_HEAD.pack(MAGIC, VERSION, len(text), zlib.crc32(text)) + text)


def _fill(temporary: Path, layout: dict, fill: Callable[..., PackedEvents]) -> dict[str, int]:
    """Call `fill` with the arrays of the file and return the arrays' checksums.

    The memory map is closed when this function returns or raises, because Windows can neither rename nor delete a
    mapped file.
    """
    with open(temporary, "r+b") as file:
        arrays = _map(file, layout, mmap.ACCESS_WRITE)
    try:
        filled = fill(arrays)
    except BaseException as error:
        # Until the error is handled, its traceback keeps the variables of `fill`, and with them the map.
        traceback.clear_frames(error.__traceback__)
        arrays.clear()
        raise
    for name, array in arrays.items():
        given = getattr(filled, name)
        if given.shape != array.shape:
            raise ValueError(f"cache: expected {name} of the announced shape {array.shape}, found {given.shape}")
        if not np.shares_memory(given, array):
            array[:] = given
    return {name: _crc(array) for name, array in arrays.items()}
