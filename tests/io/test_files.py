"""Test the files of events: .bin of one and two dimensions, and .npy."""

import gzip
import os
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from support.events import random_events

from nmnist_helpers import io
from nmnist_helpers.io import Event

EVENTS = [(0, 0, 0, 0), (33, 7, 1, 1), (255, 254, 1, 2**23 - 1), (12, 34, 0, 65_536), (1, 2, 1, 300_001)]


def encode_event(first, second, p, t):
    """Encode one event in the 5-byte format, without the package's code."""
    return bytes([first, second]) + ((p << 23) | t).to_bytes(3, "big")


def test_decode_2d_reads_the_format():
    x, y, p, t = io.decode_2d(b"".join(encode_event(*event) for event in EVENTS))
    assert list(zip(x.tolist(), y.tolist(), p.tolist(), t.tolist(), strict=True)) == EVENTS
    assert [a.dtype for a in (x, y, p, t)] == [np.uint8, np.uint8, np.uint8, np.int32]


def test_encode_2d_writes_the_format():
    columns = [np.array(column) for column in zip(*EVENTS, strict=True)]
    assert io.encode_2d(*columns) == b"".join(encode_event(*event) for event in EVENTS)
    assert io.encode_2d(*[np.zeros(0)] * 4) == b""


@pytest.mark.parametrize(("event", "message"), [
    ((256, 0, 0, 0), r"x: expected 0\.\.255, found 256"),
    ((0, -1, 0, 0), r"y: expected 0\.\.255, found -1"),
    ((0, 0, 2, 0), r"polarity: expected 0\.\.1, found 2"),
    ((0, 0, 0, 2**23), r"t: expected 0\.\.8388607, found 8388608"),
])  # fmt: skip
def test_encode_2d_refuses_values_out_of_range(event, message):
    with pytest.raises(ValueError, match=message):
        io.encode_2d(*[np.array([value]) for value in event])


def test_decode_2d_refuses_an_incomplete_event():
    with pytest.raises(ValueError, match="5 bytes an event, found 7 bytes"):
        io.decode_2d(bytes(7))


def assert_same(a, b):
    assert a.dim == b.dim
    for name in ("x", "y", "c", "t"):
        if getattr(a, name) is not None:
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_2d_files_survive_a_round_trip(tmp_path):
    event = random_events(1000)
    io.encode_2d_spikes(tmp_path / "a.bin", event)
    back = io.read_2d_spikes(str(tmp_path / "a.bin"))
    assert_same(back, event)
    assert (tmp_path / "a.bin").stat().st_size == 5000


def test_a_file_without_off_events_keeps_its_polarity(tmp_path):
    (tmp_path / "on.bin").write_bytes(encode_event(3, 4, 1, 1500) + encode_event(5, 6, 1, 2500))
    event = io.read_2d_spikes(tmp_path / "on.bin")
    assert event.c.tolist() == [1, 1]
    assert event.t.tolist() == [1.5, 2.5]


def test_1d_files_survive_a_round_trip(tmp_path):
    (tmp_path / "a.bin").write_bytes(encode_event(0x12, 0x34, 1, 70_000))
    event = io.read_1d_spikes(tmp_path / "a.bin")
    assert (event.dim, event.x.tolist(), event.c.tolist(), event.t.tolist()) == (1, [0x1234], [1], [70.0])
    event = random_events(1000, dim=1, width=65536)
    for kind in (np.int64, np.int32, np.uint16, np.float32):  # a transform may change the type
        event.x = event.x.astype(kind)
        io.encode_1d_spikes(tmp_path / "b.bin", event)
        assert_same(io.read_1d_spikes(tmp_path / "b.bin"), event)


def test_bin_file_errors_name_the_file(tmp_path):
    path = tmp_path / "bad.bin"
    path.write_bytes(b"")
    for read in (io.read_2d_spikes, io.read_1d_spikes):
        with pytest.raises(ValueError, match=r"bad\.bin: .*empty file"):
            read(path)
    path.write_bytes(bytes(13))
    with pytest.raises(ValueError, match=r"bad\.bin: expected 5 bytes an event, found 13 bytes"):
        io.read_2d_spikes(path)
    with pytest.raises(FileNotFoundError):
        io.read_2d_spikes(tmp_path / "none.bin")
    with pytest.raises(ValueError, match=r"new\.bin: expected 2-D events, found 1-D"):
        io.encode_2d_spikes(tmp_path / "new.bin", random_events(dim=1))
    with pytest.raises(ValueError, match=r"new\.bin: expected 1-D events, found 2-D"):
        io.encode_1d_spikes(tmp_path / "new.bin", random_events())
    with pytest.raises(ValueError, match=r"new\.bin: expected events, found none"):
        io.encode_2d_spikes(tmp_path / "new.bin", Event([], [], [], []))
    with pytest.raises(ValueError, match=r"new\.bin: x: expected 0\.\.255, found 256"):
        io.encode_2d_spikes(tmp_path / "new.bin", Event([256], [0], [0], [0]))
    with pytest.raises(ValueError, match=r"new\.bin: neuron: expected 0\.\.65535, found 65536"):
        io.encode_1d_spikes(tmp_path / "new.bin", Event([65536], None, [0], [0]))
    with pytest.raises(ValueError, match=r"new\.bin: t: expected 0\.\.8388607"):
        io.encode_1d_spikes(tmp_path / "new.bin", Event([1], None, [0], [8388.608]))
    with pytest.raises(ValueError, match=r"new\.bin: t: expected 0\.\.8388607, found 1e\+19\.\.1e\+19"):
        io.encode_2d_spikes(tmp_path / "new.bin", Event([1], [1], [0], [1e16]))
    with pytest.raises(ValueError, match=r"new\.bin: y: expected whole numbers 0\.\.255, found 0\.5"):
        io.encode_2d_spikes(tmp_path / "new.bin", Event([1], [0.5], [0], [1]))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.bin"]  # no incomplete file is left


@pytest.mark.parametrize("first", [b"PK\3\4\0", b"\x1f\x8b\x08\0\0", b"<html", b"\x89HDF\0"])
def test_an_event_may_begin_like_a_file_of_another_kind(tmp_path, first):
    data = first + bytes([first[0], first[1], first[2] | 128, 255, 255])
    (tmp_path / "a.bin").write_bytes(data)
    assert io.read_2d_spikes(tmp_path / "a.bin").x.tolist() == [first[0]] * 2
    assert io.read_1d_spikes(tmp_path / "a.bin").x.tolist() == [first[0] << 8 | first[1]] * 2


def zip_archive():
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a"), bytes(100))  # dated 1980: two workers must make the same
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "data", "message"), [
    ("a.bs3", bytes(35), "found three-dimensional spikes"),
    ("a.BSN", bytes(35), "found numbers of spikes"),
    ("a.aedat", bytes(35), "found another camera format"),
    ("a.npy", bytes(35), "read_np_spikes"),
    ("a.bin", b"\x93NUMPY" + bytes(34), "found a NumPy file"),
    ("a.bin", zip_archive(), "found a zip archive"),
    ("a.bin", gzip.compress(bytes(range(99)), mtime=0), "found a gzip file"),
    ("a.bin", zip_archive()[:30], "found a zip archive"),
    ("a.bin", gzip.compress(bytes(range(99)), mtime=0)[:10], "found a gzip file"),
    ("a.bin", b"#!AER-DAT3.1\r\n" + bytes(26), "found an .aedat file"),
    ("a.bin", b"<!DOCTYPE html>" + bytes(5), "found a web page"),
    ("a.bin", "<html><head><title>Gr\u00f6\u00dfe</title>".encode("latin-1"), "found a web page"),
    ("a.bin", "<html><title>Gr\u00f6\u00dfe</title>".encode(), "found a web page"),
])  # fmt: skip
def test_files_of_another_kind_are_refused(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    for read in (io.read_1d_spikes, io.read_2d_spikes):
        with pytest.raises(ValueError, match=rf"{name}: expected .*{message}"):
            read(tmp_path / name)


def test_slayers_suffixes_determine_the_dimension(tmp_path):
    for name in ("a.bs1", "a.bs2"):
        (tmp_path / name).write_bytes(encode_event(0x12, 0x34, 1, 70_000))
    assert io.read_1d_spikes(tmp_path / "a.bs1").x.tolist() == [0x1234]
    assert io.read_2d_spikes(tmp_path / "a.bs2").x.tolist() == [0x12]
    with pytest.raises(ValueError, match=r"a\.bs2: .*two-dimensional spikes: read_2d_spikes"):
        io.read_1d_spikes(tmp_path / "a.bs2")
    with pytest.raises(ValueError, match=r"a\.bs1: .*one-dimensional spikes: read_1d_spikes"):
        io.read_2d_spikes(tmp_path / "a.bs1")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "kept.bin"
    io.encode_2d_spikes(path, random_events(10))
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="disk full"):
        io.encode_2d_spikes(path, random_events(20))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["kept.bin"]


# -- .npy files


@pytest.mark.parametrize("time_unit", [0, -1, float("nan"), float("inf")])
def test_times_in_an_impossible_unit_raise_an_error(tmp_path, time_unit):
    np.save(tmp_path / "a.npy", np.ones((1, 4)))
    with pytest.raises(ValueError, match="time_unit: expected a positive number of seconds"):
        io.read_np_spikes(tmp_path / "a.npy", time_unit=time_unit)
    with pytest.raises(ValueError, match="time_unit: expected a positive number of seconds"):
        io.encode_np_spikes(tmp_path / "b.npy", io.read_np_spikes(tmp_path / "a.npy"), time_unit=time_unit)
    assert not (tmp_path / "b.npy").exists()


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("time_unit", [1e-3, 1e-6])
def test_npy_files_survive_a_round_trip(tmp_path, dim, time_unit):
    event = random_events(dim=dim)
    io.encode_np_spikes(tmp_path / "a.npy", event, time_unit=time_unit)
    columns = np.load(tmp_path / "a.npy")
    assert columns.shape == (500, dim + 2)
    np.testing.assert_allclose(columns[:, -1] * time_unit, event.t / 1000, rtol=1e-12)
    back = io.read_np_spikes(tmp_path / "a.npy", time_unit=time_unit)
    back.t = np.round(back.t, 6)
    assert_same(back, event)


def test_npy_columns_in_another_order_and_named_fields_are_read(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[5.0, 1, 2, 3]]))
    event = io.read_np_spikes(tmp_path / "a.npy", fmt="txyp")
    assert (event.x[0], event.y[0], event.c[0], event.t[0]) == (1, 2, 3, 5.0)
    np.save(tmp_path / "b.npy", np.array([(7, 1, 2)], dtype=[("t", "i8"), ("x", "i2"), ("p", "i1")]))
    event = io.read_np_spikes(tmp_path / "b.npy", fmt="xpt")
    assert (event.dim, event.x[0], event.c[0], event.t[0]) == (1, 1, 2, 7)


def test_npy_errors_name_the_file(tmp_path):
    path = tmp_path / "bad.npy"
    np.save(path, np.zeros((4, 5)))
    with pytest.raises(ValueError, match=r"bad\.npy: expected an array \[N, 4\] .* found \[4, 5\]"):
        io.read_np_spikes(path)
    path.write_bytes(b"not numpy")
    with pytest.raises(ValueError, match=r"bad\.npy: expected a \.npy file"):
        io.read_np_spikes(path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"bad\.npy: expected a \.npy file of plain numbers"):
        io.read_np_spikes(path)
    for wrong in (np.zeros((4, 4), "<U3"), np.zeros((4, 4), complex), np.zeros((4, 4), "M8[s]")):
        np.save(path, wrong)
        with pytest.raises(ValueError, match=r"bad\.npy: expected a number for each 'x'"):
            io.read_np_spikes(path)
    np.save(path, np.full((2, 4), np.nan))
    with pytest.raises(ValueError, match=r"bad\.npy: Event: expected finite x"):
        io.read_np_spikes(path)
    np.savez(tmp_path / "a.npz", np.zeros((2, 4)))
    with pytest.raises(ValueError, match=r"a\.npz: expected a \.npy file"):
        io.read_np_spikes(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="a permutation of 'xypt' or 'xpt', found 'xyz'"):
        io.read_np_spikes(path, fmt="xyz")


@pytest.mark.parametrize("shape", ["(10**15, 4)", "(4, 4)", "(-1, 4)", "((((", "(2**62, 4)", "'a'"])
def test_npy_files_with_an_impossible_shape_are_refused(tmp_path, shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))
    with pytest.raises(ValueError, match=r"a\.npy: expected a \.npy file of plain numbers"):
        io.read_np_spikes(tmp_path / "a.npy")


# -- real recordings


RECORDINGS = os.environ.get("NMNIST_DATA")


@pytest.mark.skipif(not RECORDINGS, reason="NMNIST_DATA names no folder of recordings")
def test_a_real_recording_survives_a_round_trip(tmp_path):
    path = sorted(Path(RECORDINGS).glob("Test/*/*.bin"))[0]
    event = io.read_2d_spikes(path)
    assert 1000 < len(event) < 8000
    assert max(event.x.max(), event.y.max()) == 33
    assert 290 < event.t.max() < 340
    io.encode_2d_spikes(tmp_path / path.name, event)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


# -- arguments


def test_messages_name_the_neuron_and_the_fields(tmp_path):
    for x, found in (([1.5], "whole numbers, found 1.5"), ([-1], r"0\.\.65535, found -1\.\.-1")):
        with pytest.raises(ValueError, match=f"neuron: expected {found}"):
            io.encode_1d_spikes(tmp_path / "a.bin", Event(x, None, [0], [0.0]))
    event = Event([1], None, [0], [0.0])
    for x, found in (
        ([np.nan], r"0\.\.65535, found nan"),
        (["1"], "numbers, found <U1"),
        ([1j], "numbers, found comp"),
    ):
        event.x = np.array(x)
        with pytest.raises(ValueError, match=f"neuron: expected {found}"):
            io.encode_1d_spikes(tmp_path / "a.bin", event)
    fields = np.zeros(3, [(name, np.int64) for name in "xypt"])
    np.save(tmp_path / "a.npy", fields)
    with pytest.raises(ValueError, match="expected no field y for fmt 'xpt'"):
        io.read_np_spikes(tmp_path / "a.npy", "xpt")
    assert io.read_np_spikes(tmp_path / "a.npy").dim == 2


@pytest.mark.parametrize("name", ["x", "y", "polarity"])
def test_arrays_of_other_lengths_are_not_repeated(tmp_path, name):
    arrays = {"x": [1, 2, 3], "y": [4, 5, 6], "polarity": [0, 1, 0], "t": [7, 8, 9]}
    for wrong in ([1], 1, [0, 1]):
        given = arrays | {name: wrong}
        with pytest.raises(ValueError, match=rf"{name}: expected shape \[3\], like t, found \{list(np.shape(wrong))}"):
            io.encode_2d(*given.values())
    event = Event(arrays["x"], None, arrays["polarity"], arrays["t"])
    event.x = np.array([1])
    with pytest.raises(ValueError, match=r"a\.bs1: x: expected shape \[3\], like t, found \[1\]"):
        io.encode_1d_spikes(tmp_path / "a.bs1", event)


@pytest.mark.parametrize("time", ["1", None, [1, 2]])
def test_times_are_single_numbers(time, tmp_path):
    event = Event([1], [1], [0], [0.0])
    with pytest.raises(ValueError, match="sampling_time: expected a positive number of ms, found"):
        event.to_tensor(time)
    with pytest.raises(ValueError, match="time_unit: expected a positive number of seconds, found"):
        io.encode_np_spikes(tmp_path / "a.npy", event, time_unit=time)
    with pytest.raises(ValueError, match="frame_rate: expected a positive number"):
        event.anim(frame_rate=time)
