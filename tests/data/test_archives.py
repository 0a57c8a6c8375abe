"""Test that archives changed by downloads, cloud folders, file managers or git are read, or refused with a reason."""

import gzip
import io
import os
import struct
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from support import fake_nmnist

from nmnist_helpers.data.archive import ZipFile
from nmnist_helpers.data.dataset import NMNISTDataset
from nmnist_helpers.data.download import unpack_archive
from nmnist_helpers.data.layout import find
from nmnist_helpers.data.recordings import Recordings

RECORDINGS = {split: fake_nmnist.make(seed, per_digit=2) for seed, split in enumerate(("Train", "Test"))}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


def zip_of(members, method=zipfile.ZIP_DEFLATED):
    """Return the bytes of a zip archive with the members {name: bytes}."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def members(split, prefix):
    return {f"{prefix}{name}": fake_nmnist.to_bytes(events) for name, events in RECORDINGS[split].items()}


def write_files(root, files):
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


TRAIN, TEST = (zip_of(members(split, f"{split}/")) for split in ("Train", "Test"))
BOTH = zip_of(
    members("Train", "N-MNIST/Train/") | members("Test", "N-MNIST/Test/") | {"__MACOSX/N-MNIST/._Train": b"x"}
)
READABLE = {
    "as published": {"Train.zip": TRAIN, "Test.zip": TEST},
    "zipped again in a folder": {
        "Train.zip": zip_of(members("Train", "N-MNIST/Train/")), "Test.zip": zip_of(members("Test", "N-MNIST/Test/")),
    },
    "digits at the top": {"Train.zip": zip_of(members("Train", "")), "Test.zip": zip_of(members("Test", "./"))},
    "one archive": {"N-MNIST.zip": BOTH},
    "one archive under both names": {"Train.zip": BOTH, "Test.zip": BOTH},
    "Mendeley's folder": {"468j46mzdv-1/Train.zip": TRAIN, "468j46mzdv-1/Test.zip": TEST},
    "a folder in between": members("Train", "N-MNIST/Train/") | members("Test", "N-MNIST/Test/"),
    "a folder in a folder": members("Train", "Train/Train/") | members("Test", "Test/N-MNIST/Test/"),
    "other letter case": members("Train", "train/") | {"TEST.ZIP": zip_of(members("Test", "TEST/"))},
    "a browser's copies": {"Train (1).zip": TRAIN, "Test-2.zip": TEST},
    "macOS litter": {
        "Train.zip": zip_of(members("Train", "Train/") | {"__MACOSX/Train/0/._1.bin": b"x", "Train/.DS_Store": b"x"}),
    } | members("Test", "Test/") | {"Test/3/._00001.bin": b"x", "Test/.DS_Store": b"x"}
    | ({} if os.name == "nt" else {"Test/3/Icon\r": b""}),  # Windows allows no such name
    "Windows litter": {
        "Train.zip": zip_of({name.replace("/", "\\"): data for name, data in members("Train", "Train/").items()}),
    } | members("Test", "Test/") | {"Test/Thumbs.db": b"x", "Test/3/desktop.ini": b"x", "Test/THUMBS.DB": b"x"},
    "suffixes in capitals": {
        name.replace(".bin", ".BIN"): data for split in RECORDINGS for name, data in members(split, f"{split}/").items()
    },
    "not compressed": {"Train.zip": zip_of(members("Train", "Train/"), zipfile.ZIP_STORED), "Test.zip": TEST},
}  # fmt: skip


@pytest.mark.parametrize("case", READABLE)
@pytest.mark.parametrize("cache", [True, False])
def test_every_common_layout_is_read(tmp_path, case, cache):
    root = tmp_path / "data"
    write_files(root, READABLE[case])
    for split, recordings in RECORDINGS.items():
        dataset = NMNISTDataset(root, train=split == "Train", cache=cache)
        assert dataset.source == "recorded"
        packed = dataset.packed.validate()
        assert packed.ids.tolist() == [int(name[2:7]) for name in sorted(recordings)]
        for n, name in enumerate(sorted(recordings)):
            assert list(zip(*packed.recording(n), strict=True)) == recordings[name]


def test_the_path_may_name_an_archive_of_both_splits(tmp_path):
    (tmp_path / "mine.zip").write_bytes(BOTH)
    for split, recordings in RECORDINGS.items():
        assert len(NMNISTDataset(tmp_path / "mine.zip", train=split == "Train")) == len(recordings)


def tar_bytes(mode):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, data in members("Train", "Train/").items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def zip_with_invalid_utf8():
    """Return an archive that marks a member's name as UTF-8, although the name is not valid UTF-8."""
    data = zip_of({"Train/1/0000\u00e9.bin": bytes(5)})
    return data.replace("\u00e9".encode(), b"\xff\xff")


def set_field(offset, value, size=2):
    """Return TRAIN with a field changed in every entry of its list of members; `offset` and `size` are in bytes."""
    data, entry = bytearray(TRAIN), 0
    while (entry := TRAIN.find(b"PK\x01\x02", entry)) >= 0:
        data[entry + offset : entry + offset + size] = value.to_bytes(size, "little")
        entry += 4
    return bytes(data)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1010000000\n"
TWICE = "Train/3/0008.bin", "Train/4/8.bin", "Train/3/8.bin"
UNREADABLE = {
    "tar": ("Train.zip", tar_bytes("w"), "a tar archive"),
    "tar.gz named zip": ("Train.zip", tar_bytes("w:gz"), "a gzip file"),
    "rar": ("Train.zip", b"Rar!\x1a\x07\x01\0" + bytes(99), "a rar archive"),
    "7z": ("Train.zip", b"7z\xbc\xaf'\x1c" + bytes(99), "a 7z archive"),
    "gz": ("Train.zip", gzip.compress(bytes(99)), "a gzip file"),
    "web page": ("Train.zip", b"\n<!DOCTYPE html><html>log in</html>", "a web page"),
    "web page with a byte-order mark": ("Train.zip", b"\xef\xbb\xbf<html>", "a web page"),
    "git-lfs": ("Train.zip", LFS, "git lfs pull"),
    "empty": ("Train.zip", b"", "an empty file"),
    "zeros": ("Train.zip", bytes(9999), "only zeros"),
    "cut off": ("Train.zip", TRAIN[:-30], "a zip archive that is cut off"),
    "converted line ends": ("Train.zip", TRAIN.replace(b"\n", b"\r\n"), "line ends were converted"),
    "text that begins with PK": ("Train.zip", b"PKW list", "a file that begins with b'PKW list'"),
    "unknown format": ("Train.zip", b"hello", "a file that begins with b'hello'"),
    "unfinished, Chrome": ("Train.zip.crdownload", TRAIN[:99], "an unfinished download"),
    "unfinished, Firefox": ("Train.zip.part", TRAIN[:99], "an unfinished download"),
    "unfinished, Safari": ("train.zip.download", TRAIN[:99], "an unfinished download"),
    "iCloud placeholder": (".Train.zip.icloud", b"bplist00", "an iCloud placeholder"),
    "tar.gz suffix": ("Train.tar.gz", tar_bytes("w:gz"), "unpack this file"),
    "7z suffix": ("Train.7z", b"7z", "unpack this file"),
    "archive in an archive": ("nmnist.zip", zip_of({"Train.zip": TRAIN}), "unpack this archive once"),
    "the other split": ("Train.zip", TEST, "expected recordings under train, found them under test"),
    "the folder of a split": ("4/00001.bin", bytes(5), None),
    "one number twice": ("Train.zip", zip_of(dict.fromkeys(TWICE, bytes(5))), "3/0008.bin and 3/8.bin"),
    "copied recording": ("Train/1/00001 (1).bin", bytes(5), "found a copy that a cloud folder"),
    "conflicted copy": ("Train/1/00001 (Jo's conflicted copy).bin", bytes(5), "found a copy that a cloud folder"),
    "a recording converted by git": ("Train/1/00001.bin", b"\1\2\r\n\0" * 9 + b"\r\n", "line ends were converted"),
    "a placeholder of git-lfs": ("Train/1/00001.bin", LFS + b"\n\n", "git lfs pull"),
    "a placeholder of a cloud folder": ("Train/1/00001.bin", bytes(0), "empty file"),
    "not UTF-8": ("Train.zip", zip_with_invalid_utf8(), "expected a complete zip archive"),
    "encrypted": ("Train.zip", set_field(8, 1), "without encryption, found one with a password"),
    "bzip2": ("Train.zip", zip_of({"Train/1/00001.bin": bytes(5)}, zipfile.ZIP_BZIP2), "stored or deflated"),
    "lzma": ("Train.zip", zip_of({"Train/1/00001.bin": bytes(5)}, zipfile.ZIP_LZMA), "stored or deflated"),
    "NUL in a name": ("Train.zip", TRAIN.replace(b"\0\0Train/0/", b"\0\0\0rain/0/"), "inside the archive's own folder"),
    "newer zip version": ("Train.zip", set_field(6, 99), "Train.zip"),
    "unknown compression": ("Train.zip", set_field(10, 97), "stored or deflated member, found compression method 97"),
    "all members at one offset": ("Train.zip", set_field(42, 0, 4), "damaged archive"),
    "overlapping members": ("Train.zip", set_field(20, 2**31, 4), "do not overlap, found .* a zip bomb"),
    "huge members": ("Train.zip", set_field(24, 2**31, 4), "expected at most 100 times .* a zip bomb"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable_files_are_refused_with_a_reason(tmp_path, case):
    name, data, message = UNREADABLE[case]
    write_files(tmp_path, {name: data})
    if message is None:
        write_files(tmp_path, {"5/00002.bin": bytes(5)})
        message = "expected the folder that holds Train and Test, found the digits' folders 4, 5"
    with pytest.raises(ValueError, match=message) as caught:
        NMNISTDataset(tmp_path)
    assert str(tmp_path) in str(caught.value)
    str(caught.value).encode()  # the message can be printed


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="all names are Unicode on this system")
def test_file_names_that_are_not_utf8_can_be_printed(tmp_path):
    folder = os.fsencode(tmp_path / "Train" / "1")
    os.makedirs(folder)
    with open(folder + b"/\xff.txt", "wb"):
        pass
    with pytest.raises(
        ValueError, match=r"\\udcff\.txt: expected <digit>/<id>.bin with digits 0 to 9, found something else"
    ) as caught:
        Recordings(tmp_path / "Train")
    str(caught.value).encode()
    os.rename(folder + b"/\xff.txt", folder + b"/\xff.bin")
    with open(folder + b"/\xff.bin", "wb") as file:
        file.write(bytes(5))
    assert NMNISTDataset(tmp_path).packed.ids.tolist() == [0]


def test_a_long_list_of_members_is_not_read(tmp_path):
    path = tmp_path / "Train.zip"
    with open(path, "wb") as file:  # its end record announces a list of 20 MB; the file is sparse
        file.seek(20_000_000)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 20_000_000, 0, 0))
    with pytest.raises(ValueError, match="expected a list of members of at most .* bytes, found 20000000"):
        ZipFile(path)


def test_folders_are_preferred_to_archives_and_plain_names_to_copies(tmp_path):
    write_files(tmp_path, {"Train (1).zip": TRAIN, "Train.zip.part": b"", "Train.zip": TRAIN})
    assert find(tmp_path, True) == tmp_path / "Train.zip"
    (tmp_path / "Train" / "3").mkdir(parents=True)
    assert find(tmp_path, True) == tmp_path / "Train"
    assert find(tmp_path, False) is None


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_a_link_to_its_own_folder_is_ignored(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "N-MNIST").symlink_to(".")
    assert find(tmp_path / "data", True) is None
    write_files(tmp_path, {"other/Train.zip": TRAIN})
    (tmp_path / "data" / "nmnist").symlink_to("../other")
    assert find(tmp_path / "data", True) == tmp_path / "data" / "nmnist" / "Train.zip"


def test_an_archive_of_both_splits_needs_the_splits_name(tmp_path):
    (tmp_path / "N-MNIST.zip").write_bytes(BOTH)
    with pytest.raises(ValueError, match="found Train and Test; unpack it and name the folder of one, or pass split"):
        Recordings(tmp_path / "N-MNIST.zip")
    assert len(Recordings(tmp_path / "N-MNIST.zip", "Test")) == 20


def test_a_flipped_bit_of_an_archive_never_changes_an_event(tmp_path):
    good = [Recordings(write_train(tmp_path, TRAIN)).read(n) for n in range(20)]
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(TRAIN), 150):
        data = bytearray(TRAIN)
        data[place] ^= 1 << int(rng.integers(8))
        write_train(tmp_path, bytes(data))
        found, message = read_all(tmp_path / "Train.zip")
        assert set(found) <= set(good)  # a name or a date may differ, but no event
        assert message is None or "Train.zip" in message


def read_all(path):
    try:
        files = Recordings(path)
        return [files.read(n) for n in range(len(files))], None
    except (ValueError, FileNotFoundError) as error:
        return [], str(error)


def write_train(folder, data):
    (folder / "Train.zip").write_bytes(data)
    return folder / "Train.zip"


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system does not list the open files")
def test_archives_are_closed(tmp_path):
    path = write_train(tmp_path, TRAIN)

    def is_open():
        return str(path) in [os.path.realpath(f"/proc/self/fd/{file}") for file in os.listdir("/proc/self/fd")]

    files = Recordings(path)
    first = files.read(0)
    assert is_open()
    files.close()
    assert not is_open()
    assert files.read(0) == first
    files.pack()
    assert not is_open()
    unpack_archive(path, tmp_path / "Train")
    assert not is_open()


def test_this_package_is_not_taken_for_a_collection_of_recordings(tmp_path):
    (tmp_path / "nmnist_helpers" / "train").mkdir(parents=True)
    (tmp_path / "nmnist_helpers" / "__init__.py").touch()
    assert find(tmp_path, True) is None
    (tmp_path / "nmnist_helpers" / "__init__.py").unlink()
    assert find(tmp_path, True) == tmp_path / "nmnist_helpers" / "train"
