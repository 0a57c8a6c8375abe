"""Recordings in the official layout: finding them in a folder or a zip archive, reading and checking them.

The layout is ``Train/<digit>/<id>.bin`` and ``Test/<digit>/<id>.bin``, as folders or inside ``Train.zip`` and
``Test.zip``. A recording is a run of 5-byte events without a header (see `io`).
"""

import hashlib
import os
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from ..files import atomic
from ..geometry import EVENT_BYTES, SIDE
from ..io import EVENT_ARRAYS, PackedEvents, decode_2d, encode_2d

#: No recording is near this size (the longest has some 10,000 events); what is larger is not a recording.
MAX_BYTES = 1 << 26
#: Left behind by file managers and archivers; everything else that is foreign is an error.
_LITTER = {"Thumbs.db", "desktop.ini", "__MACOSX"}
_EXPECTED = "expected <digit>/<id>.bin with digits 0 to 9"


def split_name(train: bool) -> str:
    return "Train" if train else "Test"


def _litter(name: str) -> bool:
    return name.startswith(".") or name in _LITTER


class Recordings:
    """The recordings of one split, listed in order of digit, then name. Nothing is decoded until asked for.

    Parameters
    ----------
    source : Path
        The folder ``Train`` or ``Test``, or its zip archive.

    Attributes
    ----------
    names : list of str
        ``<digit>/<id>.bin`` of each recording.
    sizes : int64 array [N]
        Bytes of each file.
    labels : int64 array [N]
        Digit, from the folder's name.
    ids : int64 array [N]
        The number in the file's name, 0 where it is not a number.

    Raises
    ------
    FileNotFoundError
        Where there is no recording.
    ValueError
        Where something is not a recording in the official layout; the message names it.
    """

    def __init__(self, source: str | os.PathLike):
        self.source = Path(source)
        self.is_zip = self.source.is_file()
        self._archive, self._archive_pid = None, None
        found = self._list_zip() if self.is_zip else self._list_folder()
        if not found:
            raise FileNotFoundError(f"{self.source}: no recordings inside; {_EXPECTED}")
        found.sort(key=lambda entry: entry[0])
        self.names = [name for name, *_ in found]
        self.members = [member for _, member, _ in found]
        self.sizes = np.array([size for *_, size in found], dtype=np.int64)
        for name, before in zip(self.names[1:], self.names, strict=False):
            if name == before:
                raise ValueError(f"{self.source}: {name} is there twice")
        self.labels = np.array([int(name[0]) for name in self.names], dtype=np.int64)
        stems = [name[2:-4] for name in self.names]
        self.ids = np.array([int(s) if s.isascii() and s.isdigit() and len(s) < 19 else 0 for s in stems], np.int64)
        self._check_sizes()

    def __len__(self) -> int:
        return len(self.names)

    def where(self, n: int) -> str:
        """Name of recording `n` for messages."""
        return f"{self.source}: {self.members[n]}" if self.is_zip else str(self.source / self.names[n])

    def _list_folder(self) -> list[tuple[str, str, int]]:
        found = []
        with os.scandir(self.source) as folders:
            for folder in folders:
                if _litter(folder.name):
                    continue
                if len(folder.name) != 1 or folder.name not in "0123456789" or not folder.is_dir():
                    raise ValueError(f"{folder.path}: does not belong here; {_EXPECTED}")
                with os.scandir(folder.path) as files:
                    for file in files:
                        if _litter(file.name):
                            continue
                        if not file.name.endswith(".bin") or not file.is_file():
                            raise ValueError(f"{file.path}: does not belong here; {_EXPECTED}")
                        name = f"{folder.name}/{file.name}"
                        found.append((name, name, file.stat().st_size))
        return found

    def _list_zip(self) -> list[tuple[str, str, int]]:
        found = []
        for member in self._open().infolist():
            parts = PurePosixPath(member.filename).parts
            if member.is_dir() or any(_litter(part) for part in parts):
                continue
            folder, file = parts[-2:] if len(parts) > 1 else ("", "")
            if len(folder) != 1 or folder not in "0123456789" or not file.endswith(".bin"):
                raise ValueError(f"{self.source}: member {member.filename!r} does not belong here; {_EXPECTED}")
            found.append((f"{folder}/{file}", member.filename, member.file_size))
        return found

    def _check_sizes(self) -> None:
        bad = np.flatnonzero((self.sizes == 0) | (self.sizes % EVENT_BYTES != 0) | (self.sizes > MAX_BYTES))
        if bad.size:
            self._check_size(int(bad[0]), int(self.sizes[bad[0]]))

    def _check_size(self, n: int, size: int) -> None:
        if size == 0:
            raise ValueError(f"{self.where(n)}: empty file, expected at least one event")
        if size > MAX_BYTES:
            raise ValueError(f"{self.where(n)}: {size} bytes, expected at most {MAX_BYTES}: not a recording")
        if size % EVENT_BYTES:
            raise ValueError(
                f"{self.where(n)}: {size} bytes, expected a multiple of {EVENT_BYTES}: truncated, or not a recording"
            )

    def _open(self) -> zipfile.ZipFile:
        # A forked process shares the file position of an open archive with its parent: each opens its own.
        if self._archive is None or self._archive_pid != os.getpid():
            try:
                self._archive, self._archive_pid = zipfile.ZipFile(self.source), os.getpid()
            except zipfile.BadZipFile as error:
                raise ValueError(
                    f"{self.source}: {self.source.stat().st_size} bytes that are not a complete zip "
                    f"archive ({error}): truncated, or not an archive"
                ) from error
        return self._archive

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_archive": None, "_archive_pid": None}

    def read(self, n: int) -> bytes:
        """Bytes of recording `n`, as many as there should be."""
        if self.is_zip:
            try:
                data = self._open().read(self.members[n])
            except (zipfile.BadZipFile, zipfile.zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
                raise ValueError(f"{self.where(n)}: cannot be unpacked ({error}): damaged archive") from error
        else:
            data = (self.source / self.names[n]).read_bytes()
        self._check_size(n, len(data))
        return data

    def decode(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Events of recording `n` in order of time: x, y, p (0..1) and t in microseconds.

        Raises
        ------
        ValueError
            Where the file is empty, truncated, or has a pixel outside the sensor.
        """
        data = self.read(n)
        raw = np.frombuffer(data, dtype=np.uint8)
        for axis, values in (("x", raw[0::EVENT_BYTES]), ("y", raw[1::EVENT_BYTES])):
            if values.max() >= SIDE:
                event = int(np.argmax(values >= SIDE))
                raise ValueError(
                    f"{self.where(n)}: event {event} has {axis} = {values[event]}, expected "
                    f"0..{SIDE - 1}: damaged, or not an N-MNIST recording"
                )
        x, y, p, t = decode_2d(data)
        if (t[1:] < t[:-1]).any():
            order = np.argsort(t, kind="stable")
            x, y, p, t = x[order], y[order], p[order], t[order]
        return x, y, p, t

    def pack(
        self,
        allocate: Callable[[str, int, np.dtype], np.ndarray] | None = None,
        workers: int | None = None,
        progress: bool = True,
    ) -> PackedEvents:
        """Decode all recordings, in parallel.

        Parameters
        ----------
        allocate : function (name, length, dtype) -> array, optional
            Where the event arrays go; memory by default.
        workers : int, optional
            Threads; by default one a processor.
        progress : bool
            Show a progress bar where there are more than 1,000 recordings.
        """
        allocate = allocate or (lambda name, length, dtype: np.empty(length, dtype))
        offsets = np.concatenate([[0], np.cumsum(self.sizes // EVENT_BYTES)])
        events = [allocate(name, int(offsets[-1]), np.dtype(dtype)) for name, dtype in EVENT_ARRAYS.items()]

        def unpack(chunk: range) -> int:
            for n in chunk:
                decoded = self.decode(n)
                if len(decoded[0]) != offsets[n + 1] - offsets[n]:
                    raise ValueError(f"{self.where(n)}: the file changed while it was read")
                for array, values in zip(events, decoded, strict=True):
                    array[offsets[n] : offsets[n + 1]] = values
            return len(chunk)

        step = 64
        chunks = [range(i, min(i + step, len(self))) for i in range(0, len(self), step)]
        pool = ThreadPoolExecutor(workers or os.cpu_count() or 1)
        try:
            bar = tqdm(
                total=len(self),
                desc=f"decoding {self.source.name}",
                unit="rec",
                disable=not progress or len(self) <= 1000,
            )
            with bar:
                for done in pool.map(unpack, chunks):
                    bar.update(done)
        finally:
            pool.shutdown(cancel_futures=True)
        return PackedEvents(*events, offsets, self.labels, self.ids)


def find(root: Path, train: bool) -> Path | None:
    """The folder or zip archive of a split under `root`, None where there is neither.

    A folder wins over an archive beside it.
    """
    name = split_name(train)
    for candidate in (root / name, root / f"{name}.zip"):
        if candidate.exists():
            return candidate
    return None


def fingerprint(source: Path) -> str:
    """A short text that changes when a recording comes, goes, or is written anew.

    Of an archive, its size and time of change; of a folder, those of every file in it.
    """
    if source.is_file():
        stat = source.stat()
        return f"{stat.st_size} bytes, changed {stat.st_mtime_ns}"
    digest = hashlib.blake2b(digest_size=16)
    with os.scandir(source) as entries:
        places = sorted((entry.name, entry.is_dir()) for entry in entries if not _litter(entry.name))
    for place, is_folder in places:
        digest.update(f"{place}\0".encode())
        if not is_folder:
            continue  # does not belong here: `Recordings` will say so
        with os.scandir(source / place) as entries:
            files = sorted((entry.name, entry.stat()) for entry in entries if not _litter(entry.name))
        for name, stat in files:
            digest.update(f"{name} {stat.st_size} {stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def write_recordings(events: PackedEvents, folder: str | os.PathLike, progress: bool = False) -> None:
    """Write recordings in N-MNIST's layout: ``<folder>/<digit>/<id>.bin``, the id with five figures.

    Parameters
    ----------
    events : PackedEvents
        Its ids are the files' names, so they must differ.
    folder : path-like
        Usually ``.../Train`` or ``.../Test``.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        Where two recordings have the same id, or one has no events.
    """
    folder = Path(folder)
    ids, times = np.unique(events.ids, return_counts=True)
    if (times > 1).any():
        raise ValueError(f"ids: expected each once, found {ids[times > 1][0]} {times.max()} times")
    if len(events) and events.counts.min() == 0:
        raise ValueError(f"recording {int(events.counts.argmin())} has no events; a file would be empty")
    for digit in np.unique(events.labels):
        (folder / str(digit)).mkdir(parents=True, exist_ok=True)
    for n in tqdm(range(len(events)), desc="writing", unit="rec", disable=not progress):
        with atomic(folder / str(events.labels[n]) / f"{events.ids[n]:05d}.bin", sync=False) as temporary:
            temporary.write_bytes(encode_2d(*events.recording(n)))
