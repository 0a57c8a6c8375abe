"""Digit images: scikit-learn's brought to MNIST's look, and MNIST's own files read strictly."""

import gzip
import hashlib
import os
import struct

import numpy as np
import pytest

from nmnist_helpers.camera import digits


def centre_of_mass(image):
    image = image.astype(float)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    return (y * image).sum() / image.sum(), (x * image).sum() / image.sum()


def box(image):
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


def test_split_is_fixed_disjoint_and_stratified():
    train, test = (digits.load_sklearn_digits(part) for part in (True, False))
    assert (len(train[0]), len(test[0])) == (1442, 355)
    assert sorted([*train[2], *test[2]]) == list(range(1, 1798))
    for digit in range(10):
        of_class = (train[1] == digit).sum() + (test[1] == digit).sum()
        assert (test[1] == digit).sum() == of_class // 5
    # These digits, and no others: whoever trained on the one part may be tested on the other for ever.
    assert hashlib.sha256(test[2].astype("<i8").tobytes()).hexdigest().startswith("bc7e647dc478609a")


def test_labels_and_ids_belong_to_the_images():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images, labels, ids = digits.load_sklearn_digits(False)
    np.testing.assert_array_equal(labels, bunch.target[ids - 1])
    for n in range(0, len(images), 40):
        small = bunch.images[ids[n] - 1]
        np.testing.assert_array_equal(images[n], digits.to_mnist_look(small / 16))
        # Shrunk onto its own ink's box, the big image resembles the small one.
        big = images[n].astype(float)
        rows, columns = np.flatnonzero(big.any(1)), np.flatnonzero(big.any(0))
        r, c = np.flatnonzero((small > 4).any(1)), np.flatnonzero((small > 4).any(0))
        y = np.linspace(rows[0], rows[-1], len(range(r[0], r[-1] + 1))).round().astype(int)
        x = np.linspace(columns[0], columns[-1], len(range(c[0], c[-1] + 1))).round().astype(int)
        cut = small[r[0] : r[-1] + 1, c[0] : c[-1] + 1]
        assert np.corrcoef(big[np.ix_(y, x)].ravel(), cut.ravel())[0, 1] > 0.5


def test_images_look_like_mnist():
    images = digits.load_sklearn_digits(True)[0]
    assert images.dtype == np.uint8
    assert images.shape[1:] == (28, 28)
    sizes = np.array([box(image) for image in images])
    assert (sizes.max(axis=1) <= 20).all()
    assert np.mean(sizes.max(axis=1) >= 19) > 0.95
    off = np.array([centre_of_mass(image) for image in images]) - 13.5
    assert np.abs(off).max() < 1
    assert (images.max(axis=(1, 2)) > 240).all()
    # MNIST's training digits: 33.3 of 255 on average, 47 % of the inked pixels between 30 and 225.
    assert 28 < images.mean() < 39
    assert 0.35 < ((images > 30) & (images < 225)).sum() / (images > 30).sum() < 0.6


def test_shared_arrays_cannot_be_changed():
    images, labels, ids = digits.load_sklearn_digits(True)
    for array in (images, labels, ids):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize("shape", [(30, 9), (9, 30), (8, 8)])
def test_a_bar_is_scaled_to_the_box_and_centred(shape):
    small = np.zeros((40, 40))
    small[2 : 2 + shape[0], 1 : 1 + shape[1]] = 1
    image = digits.to_mnist_look(small)
    height, width = box(image)
    assert max(height, width) == 20
    assert abs(height / width - shape[0] / shape[1]) < 0.25 * shape[0] / shape[1]
    np.testing.assert_allclose(centre_of_mass(image), 13.5, atol=0.51)


def test_no_ink_is_an_error():
    with pytest.raises(ValueError, match=r"expected an image \[H, W\] with some ink"):
        digits.to_mnist_look(np.zeros((8, 8)))
    with pytest.raises(ValueError, match=r"found shape \(2, 8, 8\)"):
        digits.to_mnist_look(np.ones((2, 8, 8)))


def idx(array, magic=None):
    """An idx file as its description has it, written by hand."""
    magic = (0x0801 if array.ndim == 1 else 0x0803) if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 28, 28), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 12, dtype=np.uint8)


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
@pytest.mark.parametrize("array", [IMAGES, LABELS])
def test_idx_is_read_back(tmp_path, pack, array):
    (tmp_path / "file").write_bytes(pack(idx(array)))
    read = digits.read_idx(tmp_path / "file")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected an idx file, found 0 bytes"),
        (idx(IMAGES)[:12], r"expected idx magic|expected .* bytes"),
        (idx(IMAGES)[:-1], r"expected 9424 bytes for 12 entries, found 9423"),
        (idx(IMAGES) + b"\0", r"expected 9424 bytes for 12 entries, found 9425"),
        (idx(LABELS)[:-3], r"expected 20 bytes for 12 entries, found 17"),
        (idx(IMAGES, magic=0x0D03), r"expected idx magic 0x00000803 .* found 0x00000d03"),
        (idx(IMAGES[:, :20]), "expected images of 28x28, found 20x28"),
        (struct.pack(">IIII", 0x0803, 0xFFFFFFFF, 28, 28), "for 4294967295 entries, found 16"),
        (gzip.compress(idx(IMAGES))[:-20], "damaged gzip file"),
        (gzip.compress(idx(IMAGES))[:-8] + b"12345678", "damaged gzip file"),
        (b"\x1f\x8b" + b"nonsense" * 4, "damaged gzip file"),
        (gzip.compress(bytes(2**26 + 5)), "more than 67108864 bytes, no file of MNIST"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, data, message):
    (tmp_path / "broken-file").write_bytes(data)
    with pytest.raises(ValueError, match=rf"broken-file: .*({message})"):
        digits.read_idx(tmp_path / "broken-file")


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A folder with the official names and 12 digits instead of 60,000."""
    monkeypatch.setattr(digits, "MNIST_FILES", {part: (*names[:2], 12) for part, names in digits.MNIST_FILES.items()})
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    return tmp_path


def test_mnist_by_argument_and_by_environment(small_mnist, monkeypatch):
    images, labels, ids = digits.load_mnist(small_mnist, train=True)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(ids, np.arange(1, 13))
    assert labels.dtype == ids.dtype == np.int64
    monkeypatch.setenv("NMNIST_MNIST", str(small_mnist))
    np.testing.assert_array_equal(digits.load_mnist()[0], IMAGES)


def test_missing_mnist_says_what_and_where(small_mnist, monkeypatch):
    with pytest.raises(FileNotFoundError, match=rf"no t10k-images-idx3-ubyte\.gz .* in {small_mnist}"):
        digits.load_mnist(small_mnist, train=False)
    monkeypatch.delenv("NMNIST_MNIST", raising=False)
    with pytest.raises(FileNotFoundError, match="set NMNIST_MNIST to the folder with train-images"):
        digits.load_mnist()


def test_mnist_that_does_not_fit_together(small_mnist):
    file = small_mnist / "train-labels-idx1-ubyte"
    file.write_bytes(idx(LABELS[:11]))
    with pytest.raises(ValueError, match="expected 12 images and labels, found 12 and 11"):
        digits.load_mnist(small_mnist)
    file.write_bytes(idx(LABELS + np.uint8(10)))
    with pytest.raises(ValueError, match=r"train-labels.*: expected labels 0\.\.9, found 1\d"):
        digits.load_mnist(small_mnist)
    file.write_bytes(idx(IMAGES))
    with pytest.raises(ValueError, match=r"expected images \[N, 28, 28\] and labels \[N\]"):
        digits.load_mnist(small_mnist)


@pytest.mark.skipif(not os.environ.get("NMNIST_MNIST"), reason="NMNIST_MNIST names no folder with MNIST's files")
def test_the_real_files():
    images, labels, _ = digits.load_mnist(train=False)
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
