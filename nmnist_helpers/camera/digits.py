"""Images of handwritten digits, 28x28, ink bright on black: what the simulated sensor looks at.

Two sources. The digits that ship inside scikit-learn (1,797 of them, 8x8, from the UCI archive) need no
download and are brought to the look of MNIST. MNIST itself is read from its four idx files.
"""

import gzip
import os
import struct
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

#: Side of a digit image in pixels, and of the box that MNIST fits its digits into.
IMAGE_SIDE = 28
INK_BOX = 20
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


def to_mnist_look(small: np.ndarray) -> np.ndarray:
    """Bring one small grey image of a digit to the look of MNIST.

    MNIST's recipe (LeCun et al., 1998): the ink's bounding box is scaled, aspect kept, to fit 20x20, and put
    into 28x28 so that the centre of the ink's mass lies at the centre of the image.

    Parameters
    ----------
    small : float array [H, W]
        Ink, 0 (paper) to 1.

    Returns
    -------
    uint8 array [28, 28]
        Ink, 0 to 255.

    Raises
    ------
    ValueError
        Where the image has no ink.
    """
    small = np.asarray(small, dtype=np.float32)
    if small.ndim != 2 or not small.max() > 0:
        raise ValueError(f"expected an image [H, W] with some ink, found shape {small.shape} and no ink")
    # Smooth interpolation first, on a fine grid with a margin of paper around, the bounding box after: the
    # strokes' edges then lie between the coarse pixels, where the grey values say.
    fine = 8
    padded = np.pad(small, 1)
    height, width = (fine * side for side in padded.shape)
    smooth = np.asarray(Image.fromarray(padded).resize((width, height), Image.Resampling.BICUBIC))
    # A soft threshold turns the blurred 8x8 strokes into strokes with flat tops and short edges, as MNIST's.
    ink = np.clip((smooth / smooth.max() - 0.3) / 0.35, 0, 1)
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    factor = INK_BOX / max(ink.shape)
    size = [max(1, round(side * factor)) for side in ink.shape]
    ink = np.asarray(Image.fromarray(ink).resize((size[1], size[0]), Image.Resampling.BOX))
    # Centre of mass to the middle of the image, to the nearest whole pixel (as in MNIST).
    y, x = ((ink.sum(axis=axis) @ np.arange(ink.shape[1 - axis])) / ink.sum() for axis in (1, 0))
    centre = (IMAGE_SIDE - 1) / 2
    top = int(np.clip(round(centre - y), 0, IMAGE_SIDE - ink.shape[0]))
    left = int(np.clip(round(centre - x), 0, IMAGE_SIDE - ink.shape[1]))
    image = np.zeros((IMAGE_SIDE, IMAGE_SIDE), dtype=np.uint8)
    image[top : top + ink.shape[0], left : left + ink.shape[1]] = np.rint(255 * np.clip(ink, 0, 1))
    return image


@lru_cache(maxsize=2)
def load_sklearn_digits(train: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The digits inside scikit-learn, brought to 28x28, in a fixed split.

    The split is stratified and never changes: of each class, in the order in which scikit-learn has them,
    every fifth digit is a test digit. 1,442 train, 355 test.

    Parameters
    ----------
    train : bool
        Which part.

    Returns
    -------
    images : uint8 array [N, 28, 28]
    labels : int64 array [N]
    ids : int64 array [N]
        1-based place in scikit-learn's list. No digit is in both parts.
    """
    from sklearn.datasets import load_digits  # costs a second to import; only simulated data needs it

    bunch = load_digits()
    small, labels = bunch.images / 16, bunch.target.astype(np.int64)
    rank = np.empty(len(labels), dtype=np.int64)  # place of each digit within its own class
    for digit in range(10):
        rank[labels == digit] = np.arange((labels == digit).sum())
    test = rank % TEST_EVERY == TEST_EVERY - 1
    chosen = np.flatnonzero(~test if train else test)
    images = np.stack([to_mnist_look(small[n]) for n in chosen])
    arrays = images, labels[chosen], chosen + 1
    for array in arrays:
        array.flags.writeable = False  # the cache hands the same arrays to everyone
    return arrays


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
            raise ValueError(f"{path}: damaged gzip file ({error})") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path}: more than {MAX_BYTES} bytes, no file of MNIST")
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


def load_mnist(path: str | os.PathLike | None = None, train: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """MNIST from its idx files.

    Parameters
    ----------
    path : path-like, optional
        Folder with the official files (``train-images-idx3-ubyte.gz`` ... or the same without ``.gz``); else
        the environment variable ``NMNIST_MNIST``.
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
    folder = path if path is not None else os.environ.get("NMNIST_MNIST")
    if not folder:
        raise FileNotFoundError(
            "MNIST: no folder given; pass path or set NMNIST_MNIST to the folder with "
            f"{MNIST_FILES[train][0]} and {MNIST_FILES[train][1]}"
        )
    folder = Path(folder).expanduser()
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


def _packed_or_not(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / name.removesuffix(".gz")):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"MNIST: no {name} (nor the same without .gz) in {folder}")
