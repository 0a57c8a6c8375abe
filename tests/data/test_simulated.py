"""Simulated splits and their cache."""

import zipfile

import numpy as np
import pytest

from nmnist_helpers.camera.sensor import SensorParams
from nmnist_helpers.data import simulated


def same(first, second):
    names = ("x", "y", "p", "t", "offsets", "labels", "ids")
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names)


@pytest.fixture
def few_digits(monkeypatch, tmp_path):
    """Eight digits a part, and a cache of our own."""
    whole = simulated.load_sklearn_digits
    monkeypatch.setattr(simulated, "load_sklearn_digits", lambda train: tuple(array[:8] for array in whole(train)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "nmnist_helpers"


def test_split_is_cached(few_digits, monkeypatch):
    first = simulated.simulated_split(True)
    assert len(first) == 8
    assert [file.name for file in few_digits.iterdir()] == [simulated.cache_file(True).name]
    other = simulated.simulated_split(False)
    assert not set(first.ids) & set(other.ids)
    assert not same(first, simulated.simulated_split(True, seed=1))

    def never(*_):
        raise AssertionError("simulated again")

    monkeypatch.setattr(simulated, "simulate", never)
    assert same(simulated.simulated_split(True), first)
    assert same(simulated.simulated_split(False), other)


@pytest.mark.parametrize("harm", ["truncated", "one byte", "empty", "other arrays", "invalid events", "a folder"])
def test_damaged_cache_is_made_anew(few_digits, harm):
    first = simulated.simulated_split(True)
    path = simulated.cache_file(True)
    data = path.read_bytes()
    if harm == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif harm == "one byte":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "other arrays":
        np.savez(path, x=np.zeros(3))
    elif harm == "invalid events":
        arrays = {name: getattr(first, name) for name in ("y", "p", "t", "offsets", "labels", "ids")}
        np.savez(path, x=first.x + np.uint8(40), **arrays)
    else:
        path.unlink()
        path.mkdir()
    assert same(simulated.simulated_split(True), first)
    if harm != "a folder":  # which cannot be replaced, but does no harm either
        assert zipfile.ZipFile(path).testzip() is None
        assert same(simulated.simulated_split(True), first)
    assert len(list(few_digits.iterdir())) == 1  # no temporary file stays


def test_cache_of_other_constants_has_another_name(few_digits, monkeypatch):
    before = simulated.cache_file(True)
    assert before != simulated.cache_file(False)
    assert before != simulated.cache_file(True, seed=1)
    monkeypatch.setattr(simulated, "SensorParams", lambda: SensorParams(contrast=1.5))
    assert simulated.cache_file(True) != before


def test_no_place_for_a_cache(few_digits, monkeypatch, tmp_path):
    expected = simulated.simulated_split(True, cache=False)
    assert not few_digits.exists()
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert same(simulated.simulated_split(True), expected)
