"""Read and write files of events (.bin, .npy) as `Event`."""

import errno
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..checks import as_number
from ..files import atomic
from ..geometry import EVENT_BYTES, MAX_TIME
from .event import Event

#: Maximum size of a file of events in bytes; a larger one is refused before it fills the memory.
MAX_BYTES = 1 << 30
#: Endings of files that are not .bin files of the expected kind, even if their length is a multiple of 5 bytes.
_OTHER = {
    ".bs3": "three-dimensional spikes (7 bytes an event)",
    ".bsn": "numbers of spikes",
    **dict.fromkeys((".npy", ".npz"), "a NumPy file: read_np_spikes reads .npy"),
    **dict.fromkeys((".aedat", ".aedat4", ".dat", ".raw", ".h5", ".hdf5", ".mat"), "another camera format"),
    **dict.fromkeys((".csv", ".txt", ".json", ".zip", ".gz", ".pt", ".net"), "a file of another kind"),
}
_OTHER_1D = {**_OTHER, ".bs2": "two-dimensional spikes: read_2d_spikes"}
_OTHER_2D = {**_OTHER, ".bs1": "one-dimensional spikes: read_1d_spikes"}


def _is_zip(data: bytes) -> bool:
    """Return whether version and method of the first member are possible, even if the archive is cut off."""
    return len(data) >= 10 and data[4] <= 63 and data[5] <= 19 and data[8] in (0, 8, 9, 12, 14, 93, 95) and not data[9]


def _is_gzip(data: bytes) -> bool:
    """Return whether flags, level and operating system of the header are possible."""
    return len(data) >= 10 and data[3] < 32 and data[8] in (0, 2, 4) and (data[9] <= 13 or data[9] == 255)


def _is_text(data: bytes) -> bool:
    """Return whether the first bytes are text, at least three quarters of it in ASCII."""
    first = data[:64]
    others = [byte for byte in first if not (32 <= byte < 127 or byte in b"\t\n\r")]
    return all(byte >= 128 for byte in others) and 4 * len(others) <= len(first)


#: First bytes of other kinds of files -> the kind, and a check of the rest, since an event may have the same bytes.
_MAGIC: dict[bytes, tuple[str, Callable[[bytes], bool]]] = {
    b"\x93NUMPY": ("a NumPy file: read_np_spikes reads .npy", bool),
    b"PK\x03\x04": ("a zip archive", _is_zip),
    b"\x1f\x8b\x08": ("a gzip file", _is_gzip),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", bool),
    b"#!AER-DAT": ("an .aedat file", bool),
    b"<!DOCTYPE": ("a web page", bool),
    b"<html": ("a web page", _is_text),
    b"version https://git-lfs": ("a placeholder of git-lfs; fetch the file itself with git lfs pull", bool),
}


def decode_2d(data: bytes | bytearray | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Decode a 2-D spike file with 5 bytes per event: x, y, then 1 bit polarity and 23 bits time, big-endian.

    Returns
    -------
    x, y, p : uint8 arrays [N]
    t : int32 array [N]
        Microseconds.

    Raises
    ------
    ValueError
        If the length is not a multiple of 5.
    """
    raw = np.frombuffer(data, np.uint8)
    if len(raw) % EVENT_BYTES:
        raise ValueError(f"events: expected {EVENT_BYTES} bytes an event, found {len(raw)} bytes in all (truncated?)")
    columns = raw.reshape(-1, EVENT_BYTES)
    high = columns[:, 2].astype(np.int32)
    t = ((high & 127) << 16) | (columns[:, 3].astype(np.int32) << 8) | columns[:, 4]
    return columns[:, 0].copy(), columns[:, 1].copy(), (high >> 7).astype(np.uint8), t


def encode_2d(x: np.ndarray, y: np.ndarray, p: np.ndarray, t: np.ndarray) -> bytes:
    """Encode 2-D events as the bytes of a file, the inverse of `decode_2d`; `t` is in microseconds.

    Raises
    ------
    ValueError
        If the arrays differ in length, or if a value is not a whole number or does not fit into its bits.
    """
    shape = np.shape(t)
    for name, values, most in (("x", x, 255), ("y", y, 255), ("polarity", p, 1), ("t", t, MAX_TIME - 1)):
        values = np.asarray(values)
        if values.ndim != 1 or values.shape != shape:
            raise ValueError(f"{name}: expected shape [{math.prod(shape)}], like t, found {list(values.shape)}")
        if len(values) and not (values.min() >= 0 and values.max() <= most):
            raise ValueError(f"{name}: expected 0..{most}, found {values.min():.15g}..{values.max():.15g}")
        if values.dtype.kind == "f" and (values != np.rint(values)).any():
            found = values[values != np.rint(values)][0]
            raise ValueError(f"{name}: expected whole numbers 0..{most}, found {found}")
    t = np.asarray(t, np.int64)
    columns = np.empty((len(t), EVENT_BYTES), np.uint8)
    columns[:, 0], columns[:, 1] = x, y
    columns[:, 2] = (np.asarray(p, np.int64) << 7) | (t >> 16)
    columns[:, 3], columns[:, 4] = (t >> 8) & 255, t & 255
    return columns.tobytes()


def _read(filename: str | os.PathLike, other: dict[str, str]) -> bytes:
    """Return the bytes of a .bin file; raise ValueError if its name, size or content shows another kind of file."""
    suffix = Path(filename).suffix.lower()
    if suffix in other:
        raise ValueError(f"{filename}: expected a file of {EVENT_BYTES} bytes an event, found {other[suffix]}")
    with open(filename, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    if not data:
        raise ValueError(f"{filename}: expected {EVENT_BYTES} bytes an event, found an empty file")
    if len(data) > MAX_BYTES:
        raise ValueError(f"{filename}: expected at most {MAX_BYTES} bytes, found more")
    for magic, (kind, check) in _MAGIC.items():
        if data.startswith(magic) and check(data):
            raise ValueError(f"{filename}: expected {EVENT_BYTES} bytes an event, found {kind}")
    if len(data) % EVENT_BYTES:
        raise ValueError(f"{filename}: expected {EVENT_BYTES} bytes an event, found {len(data)} bytes (truncated?)")
    return data


def _write(filename: str | os.PathLike, event: Event, dim: int, high, low) -> None:
    """Write events to a .bin file, with the bytes `high` and `low` [N] as the first two of each event."""
    if event.dim != dim:
        raise ValueError(f"{filename}: expected {dim}-D events, found {event.dim}-D ones")
    if not len(event):
        raise ValueError(f"{filename}: expected events, found none (an empty file counts as a damaged one)")
    t = np.rint(np.asarray(event.t, np.float64) * 1000)  # a float, whose range `encode_2d` can check
    try:
        data = encode_2d(high, low, event.c, t)
    except ValueError as error:
        raise ValueError(f"{filename}: {error}") from None
    with atomic(filename) as temporary:
        temporary.write_bytes(data)


def read_2d_spikes(filename: str | os.PathLike) -> Event:
    """Read a .bin file of an event camera (N-MNIST's format, see `decode_2d`); times are converted to ms.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is empty, longer than `MAX_BYTES`, or of another kind, or if its length is not a multiple of 5.
    """
    x, y, p, t = decode_2d(_read(filename, _OTHER_2D))
    return Event(x, y, p, t / 1000)


def encode_2d_spikes(filename: str | os.PathLike, td_event: Event) -> None:
    """Write 2-D events (times in ms) to a .bin file, the inverse of `read_2d_spikes`; payloads are not written.

    Raises
    ------
    ValueError
        If there are no events, if their arrays differ in length, or if a value is outside the format's range: x and y
        0..255, polarity 0 or 1, times below 8388.608 ms.
    """
    _write(filename, td_event, 2, td_event.x, td_event.y)


def read_1d_spikes(filename: str | os.PathLike) -> Event:
    """Read a .bin file of 1-D spikes: as in `read_2d_spikes`, but a 16-bit neuron index takes the place of x and y.

    Raises
    ------
    FileNotFoundError, ValueError
        Under the same conditions as `read_2d_spikes`.
    """
    high, low, p, t = decode_2d(_read(filename, _OTHER_1D))
    return Event((high.astype(np.int64) << 8) | low, None, p, t / 1000)


def encode_1d_spikes(filename: str | os.PathLike, td_event: Event) -> None:
    """Write 1-D events (times in ms) to a .bin file, the inverse of `read_1d_spikes`; payloads are not written.

    Raises
    ------
    ValueError
        If there are no events, if their arrays differ in length, or if a value is outside the format's range: neurons
        0..65535 (whole numbers), channel 0 or 1, times below 8388.608 ms.
    """
    x = np.asarray(td_event.x)
    if x.dtype.kind not in "biuf":
        raise ValueError(f"{filename}: neuron: expected numbers, found {x.dtype}")
    if len(x) and not (x.min() >= 0 and x.max() <= 65535):
        raise ValueError(f"{filename}: neuron: expected 0..65535, found {x.min()}..{x.max()}")
    whole = x.astype(np.int64)
    if (x != whole).any():
        raise ValueError(f"{filename}: neuron: expected whole numbers, found {x[x != whole][0]}")
    high, low = np.divmod(whole, 256)
    _write(filename, td_event, 1, high, low)


def read_np_spikes(filename: str | os.PathLike, fmt: str = "xypt", time_unit: float = 1e-3) -> Event:
    """Read events from a .npy file: an array [N, 4] (or [N, 3] for 'xpt'), or one with named fields.

    Parameters
    ----------
    filename : path-like
        The .npy file; pickled objects are refused.
    fmt : str
        Meaning of the columns: 'x', 'y', 'p' (polarity or channel) and 't' in any order. Without 'y' the events are
        1-D. With 'xypt', a file that has three columns, or fields without 'y', is read as 'xpt'.
    time_unit : float
        Unit of the file's times in seconds: 1e-3 for ms, 1e-6 for microseconds.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not a .npy file of numbers, or if its shape or fields do not match `fmt`.
    """
    if sorted(fmt) not in (sorted("xypt"), sorted("xpt")):
        raise ValueError(f"read_np_spikes: expected fmt to be a permutation of 'xypt' or 'xpt', found {fmt!r}")
    _check_unit(time_unit)
    array = _load_npy(filename)
    if array.dtype.names and fmt == "xpt" and "y" in array.dtype.names:
        raise ValueError(f"{filename}: expected no field y for fmt 'xpt', found {array.dtype.names}; use 'xypt'")
    if fmt == "xypt" and (
        array.ndim == 2 and array.shape[1] == 3 or array.dtype.names and "y" not in array.dtype.names
    ):
        fmt = "xpt"
    if array.dtype.names:
        missing = set(fmt) - set(array.dtype.names)
        if missing or array.ndim != 1:
            raise ValueError(f"{filename}: expected fields {fmt!r}, found {array.dtype.names} {list(array.shape)}")
        column = {name: array[name] for name in fmt}
    elif array.ndim == 2 and array.shape[1] == len(fmt):
        column = {name: array[:, i] for i, name in enumerate(fmt)}
    else:
        raise ValueError(f"{filename}: expected an array [N, {len(fmt)}] for {fmt!r}, found {list(array.shape)}")
    for name, values in column.items():
        if values.ndim != 1 or values.dtype.kind not in "biuf":
            raise ValueError(f"{filename}: expected a number for each {name!r}, found {values.dtype}")
    try:
        t = np.asarray(column["t"], np.float64) * (time_unit * 1e3)
        return Event(column["x"], column.get("y"), column["p"], t)
    except ValueError as error:
        raise ValueError(f"{filename}: {error}") from None


def _check_unit(time_unit: float) -> None:
    if not 0 < as_number(time_unit) < math.inf:
        raise ValueError(f"time_unit: expected a positive number of seconds, found {time_unit!r}")


def _load_npy(filename: str | os.PathLike) -> np.ndarray:
    """Load a .npy file. It is memory-mapped first, so that a wrong header cannot cause a large allocation."""
    with open(filename, "rb") as file:
        head = file.read(8)
        size = os.fstat(file.fileno()).st_size
    if not head.startswith(b"\x93NUMPY") or size > MAX_BYTES:
        found = f"one that begins with {head!r}" if size <= MAX_BYTES else f"{size} bytes"
        raise ValueError(f"{filename}: expected a .npy file of at most {MAX_BYTES} bytes, found {found}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.array(np.load(filename, mmap_mode="r", allow_pickle=False))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        cause: Exception = error
    except Exception as error:  # the header is parsed as Python, so any exception is possible
        cause = error
    reason = " ".join(str(cause).split())[:200]
    raise ValueError(f"{filename}: expected a .npy file of plain numbers, found another file ({reason})") from cause


def encode_np_spikes(filename: str | os.PathLike, td_event: Event, fmt: str = "xypt", time_unit: float = 1e-3) -> None:
    """Write events to a .npy file, the inverse of `read_np_spikes`: float64 columns in the order of `fmt`.

    Raises
    ------
    ValueError
        If `fmt` does not name each column once, or if `time_unit` is not positive.
    """
    wanted = "xypt" if td_event.dim == 2 else "xpt"
    if td_event.dim == 1 and fmt == "xypt":
        fmt = "xpt"
    if sorted(fmt) != sorted(wanted):
        raise ValueError(f"encode_np_spikes: expected fmt to be a permutation of {wanted!r}, found {fmt!r}")
    _check_unit(time_unit)
    t = np.asarray(td_event.t, np.float64) / (time_unit * 1e3)
    column = {"x": td_event.x, "y": td_event.y, "p": td_event.c, "t": t}
    array = np.stack([np.asarray(column[name], np.float64) for name in fmt], 1)
    with atomic(filename) as temporary, open(temporary, "wb") as file:
        np.save(file, array)
