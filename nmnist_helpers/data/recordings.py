"""Find recordings in the official layout in a folder or a zip archive, read them, and check them.

The layout is ``Train/<digit>/<id>.bin`` and ``Test/<digit>/<id>.bin``, as folders or inside ``Train.zip`` and
``Test.zip``. A file holds one recording: events of 5 bytes each, without a header (see `io.decode_2d`).
"""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np

from ..console import progress_bar
from ..files import atomic
from ..geometry import EVENT_BYTES, SIDE
from ..io import EVENT_ARRAYS, PackedEvents, decode_2d, encode_2d
from ..processes import count_processors
from .archive import MAX_MEMBER, ZipFile, kind_of, line_end_damage
from .layout import EXPECTED, is_litter
from .listing import escape, list_archive, list_folder


class Recordings:
    """The recordings of one split, sorted by digit, then by name. They are listed first and decoded only on request.

    Parameters
    ----------
    source : path-like
        The folder ``Train`` or ``Test``, or a zip archive of one or of both.
    split : 'Train' or 'Test', optional
        Which split to use if an archive contains both. By default it follows from the name of `source`.

    Attributes
    ----------
    names : list of str
        ``<digit>/<id>.bin`` of each recording.
    sizes : int64 array [N]
        Size of each file in bytes.
    labels : int64 array [N]
        Digit of each recording, from the name of its folder.
    ids : int64 array [N]
        Number in each file's name, or 0 if the name is not a number.

    Raises
    ------
    FileNotFoundError
        If there are no recordings.
    ValueError
        If a file or folder does not belong to the official layout, if two files of a digit have the same number, or if
        the size of a file is not that of a recording. The message names the file.
    """

    def __init__(self, source: str | os.PathLike, split: str | None = None):
        self.source = Path(source)
        self._archive = ZipFile(self.source) if self.source.is_file() else None
        found = list_folder(self.source) if self._archive is None else list_archive(self._archive, self.source, split)
        if not found:
            raise FileNotFoundError(f"{self.source}: {EXPECTED}, found no recordings")
        found.sort(key=lambda entry: entry[0])
        self.names = [name for name, *_ in found]
        self._members: list[str | int] = [member for _, member, _ in found]
        self.sizes = np.array([size for *_, size in found], dtype=np.int64)
        for before, name in pairwise(self.names):
            if name == before:
                raise ValueError(f"{self.source}: expected each recording once, found {name} twice")
        self.labels = np.array([int(name[0]) for name in self.names], dtype=np.int64)
        stems = [name[2:-4] for name in self.names]
        self.ids = np.array([int(s) if s.isascii() and s.isdigit() and len(s) < 19 else 0 for s in stems], np.int64)
        order = np.lexsort((self.labels, self.ids))
        ids, labels = self.ids[order], self.labels[order]
        again = np.flatnonzero((np.diff(ids) == 0) & (np.diff(labels) == 0) & (ids[1:] > 0))
        if again.size:  # the copies of a recording might be divided between training and validation
            first, second = order[again[0] : again[0] + 2]
            raise ValueError(
                f"{self.source}: expected each number of a digit once, found {self.names[first]} and"
                f" {self.names[second]}"
            )
        for n in np.flatnonzero((self.sizes == 0) | (self.sizes % EVENT_BYTES != 0) | (self.sizes > MAX_MEMBER))[:1]:
            self._check(int(n), int(self.sizes[n]))

    def __len__(self) -> int:
        return len(self.names)

    def close(self) -> None:
        """Close the archive, if the recordings are in one; reading a recording opens it again."""
        if self._archive is not None:
            self._archive.close()

    def where(self, n: int) -> str:
        """Return the path of recording `n` for messages."""
        member = self._members[n]
        if self._archive is None:
            return escape(os.path.join(self.source, str(member)))
        return f"{self.source}: {escape(self._archive.members[int(member)].filename)}"

    def _check(self, n: int, size: int, data: bytes | None = None) -> None:
        """Raise ValueError if no recording can have `size` bytes; the message describes what the file seems to be."""
        if size == 0:
            raise ValueError(f"{self.where(n)}: expected at least one event, found an empty file")
        if size > MAX_MEMBER:
            raise ValueError(f"{self.where(n)}: expected at most {MAX_MEMBER} bytes, found {size}: not a recording")
        if size % EVENT_BYTES:
            kind = kind_of(self._bytes(n) if data is None else data) or "truncated, or not a recording"
            raise ValueError(f"{self.where(n)}: expected a multiple of {EVENT_BYTES} bytes, found {size}: {kind}")

    def _bytes(self, n: int) -> bytes:
        if self._archive is not None:
            return self._archive.read(int(self._members[n]))
        with open(os.path.join(self.source, str(self._members[n])), "rb") as file:
            return file.read(MAX_MEMBER + 1)

    def read(self, n: int) -> bytes:
        """Return the bytes of recording `n` after checking their number."""
        data = self._bytes(n)
        self._check(n, len(data), data)
        return data

    def decode(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Decode recording `n` and sort its events by time.

        Returns
        -------
        x, y, p : uint8 arrays [E]
            Column, row and polarity (0 or 1).
        t : int32 array [E]
            Time in microseconds.

        Raises
        ------
        ValueError
            If the file is empty, is truncated, or has a pixel outside the sensor.
        """
        data = self.read(n)
        raw = np.frombuffer(data, dtype=np.uint8)
        for axis, values in (("x", raw[0::EVENT_BYTES]), ("y", raw[1::EVENT_BYTES])):
            if values.max() >= SIDE:
                event = int(np.argmax(values >= SIDE))
                raise ValueError(
                    f"{self.where(n)}: expected {axis} in 0..{SIDE - 1}, found {values[event]} in "
                    f"event {event}: {line_end_damage(data) or 'damaged, or not an N-MNIST recording'}"
                )
        x, y, p, t = decode_2d(data)
        if (t[1:] < t[:-1]).any():
            order = np.argsort(t, kind="stable")
            x, y, p, t = x[order], y[order], p[order], t[order]
        return x, y, p, t

    def pack(self, arrays: Mapping[str, np.ndarray] | None = None) -> PackedEvents:
        """Decode all recordings in parallel, with a progress bar if there are more than 1,000.

        Parameters
        ----------
        arrays : dict of arrays x, y, p (uint8) and t (int32), optional
            Arrays for the events, each as long as all recordings together. By default they are allocated.

        Returns
        -------
        PackedEvents
            `arrays` and the offsets, labels and ids of the recordings.
        """
        offsets = np.concatenate([[0], np.cumsum(self.sizes // EVENT_BYTES)])
        arrays = arrays or {name: np.empty(offsets[-1], dtype) for name, dtype in EVENT_ARRAYS.items()}
        x, y, p, t = events = [arrays[name] for name in EVENT_ARRAYS]

        def unpack(chunk: range) -> int:
            for n in chunk:
                decoded = self.decode(n)
                if len(decoded[0]) != offsets[n + 1] - offsets[n]:
                    raise ValueError(f"{self.where(n)}: expected the listed file, found a changed one")
                for array, values in zip(events, decoded, strict=True):
                    array[offsets[n] : offsets[n + 1]] = values
            return len(chunk)

        step = 64
        chunks = [range(i, min(i + step, len(self))) for i in range(0, len(self), step)]
        pool = ThreadPoolExecutor(count_processors())
        name = f"decoding {self.source.name}"
        try:
            with progress_bar(hidden=len(self) <= 1000, total=len(self), desc=name, unit="rec") as bar:
                for done in pool.map(unpack, chunks):
                    bar.update(done)
        finally:
            pool.shutdown(cancel_futures=True)
            self.close()
        return PackedEvents(x, y, p, t, offsets, self.labels, self.ids)


def fingerprint(source: Path) -> str:
    """Return a short text that changes if a recording is added, removed or rewritten.

    It is made from the size and the time of change of the archive, or of every file in the folder.
    """
    if source.is_file():
        stat = source.stat()
        return f"{stat.st_size} bytes, changed {stat.st_mtime_ns}"
    digest = hashlib.blake2b(digest_size=16)
    with os.scandir(source) as entries:
        places = sorted((entry.name, entry.is_dir()) for entry in entries if not is_litter(entry.name))
    for place, is_folder in places:
        digest.update(os.fsencode(f"{place}\0"))
        if not is_folder:
            continue  # `Recordings` will raise an error for a file at this place
        with os.scandir(source / place) as entries:
            files = sorted((entry.name, entry.stat()) for entry in entries if not is_litter(entry.name))
        for name, stat in files:
            digest.update(os.fsencode(f"{name} {stat.st_size} {stat.st_mtime_ns}\0"))
    return digest.hexdigest()


def write_recordings(events: PackedEvents, folder: str | os.PathLike) -> None:
    """Write recordings in N-MNIST's layout: ``<folder>/<digit>/<id>.bin``, with five digits in the id.

    Parameters
    ----------
    events : PackedEvents
        The recordings. Their ids must differ, because they become the files' names.
    folder : path-like
        Usually ``.../Train`` or ``.../Test``.

    Raises
    ------
    ValueError
        If two recordings have the same id, if one has no events, or if `PackedEvents.validate` raises it.
    """
    folder = Path(folder)
    events.validate()
    ids, times = np.unique(events.ids, return_counts=True)
    if (times > 1).any():
        raise ValueError(f"ids: expected each once, found {ids[times > 1][0]} {times.max()} times")
    if len(events) and events.counts.min() == 0:
        raise ValueError(
            f"recording {int(events.counts.argmin())}: expected at least one event, found none; a file would be empty"
        )
    for digit in np.unique(events.labels):
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
    for n in range(len(events)):
        with atomic(folder / str(events.labels[n]) / f"{events.ids[n]:05d}.bin", sync=False) as temporary:
            temporary.write_bytes(encode_2d(*events.recording(n)))
