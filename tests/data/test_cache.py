"""Test that cache files are written completely or not at all, checked when opened, and replaced if unusable."""

import copy
import dataclasses
import json
import os
import pickle
import struct
import threading
import time
import weakref
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from support import fake_nmnist
from support.fake_nmnist import ARRAYS, same

import nmnist_helpers.data.cache as cache_module
import nmnist_helpers.data.event_file as event_file
from nmnist_helpers import paths
from nmnist_helpers.data import recordings
from nmnist_helpers.data.cache import cache_files, cached
from nmnist_helpers.data.dataset import NMNISTDataset
from nmnist_helpers.data.event_file import CacheError, MappedEvents, open_cache, write_cache
from nmnist_helpers.io import PackedEvents

KEY = {"recordings": "abc", "source": "Train"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def root(tmp_path):
    fake_nmnist.write_folder(tmp_path / "data", "Train", fake_nmnist.make(0, per_digit=3))
    return tmp_path / "data"


@pytest.fixture
def packed(root):
    return NMNISTDataset(root, cache=False).packed


def write_events(path, packed, key=KEY):
    write_cache(path, key, len(packed), len(packed.x), lambda arrays: packed)


def test_events_survive_a_round_trip(tmp_path, packed):
    path = tmp_path / "some.events"
    write_events(path, packed)
    mapped = open_cache(path, KEY)
    assert same(mapped, packed)
    assert isinstance(mapped, PackedEvents)
    assert mapped.validate() is mapped
    for name in ARRAYS:
        assert getattr(mapped, name).dtype == getattr(packed, name).dtype
        assert not getattr(mapped, name).flags.writeable
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["some.events"]


def test_the_file_has_the_documented_layout(tmp_path, packed):
    path = tmp_path / "some.events"
    write_events(path, packed)
    data = path.read_bytes()
    magic, version, length, crc = struct.unpack_from("<16sIII", data)
    assert (magic, version) == (b"N-MNIST events\r\n", 2)
    text = data[28 : 28 + length]
    assert zlib.crc32(text) == crc
    header = json.loads(text)
    assert header["key"] == KEY
    assert (header["recordings"], header["events"]) == (30, len(packed.x))
    place = 4096
    for name, size in (("offsets", 8), ("labels", 8), ("ids", 8), ("x", 1), ("y", 1), ("p", 1), ("t", 4)):
        array = getattr(packed, name)
        assert data[place : place + array.size * size] == array.tobytes(), name
        # The CRC-32 of the blocks' CRC-32s; each of these arrays fits in one block of 2^24 bytes.
        assert header["crc32"][name] == zlib.crc32(struct.pack("<I", zlib.crc32(array.tobytes())))
        place += -(-array.size * size // 4096) * 4096
    assert len(data) == place


def test_a_pickle_contains_the_path_instead_of_the_data(tmp_path, packed):
    path = tmp_path / "some.events"
    write_events(path, packed)
    mapped = open_cache(path, KEY)
    data = pickle.dumps(mapped)
    assert len(data) < 1000
    assert same(pickle.loads(data), packed)
    assert isinstance(pickle.loads(data), MappedEvents)


def test_a_pickle_contains_arrays_that_were_replaced(tmp_path, packed):
    path = tmp_path / "some.events"
    write_events(path, packed)
    mapped = open_cache(path, KEY)
    mapped.labels = mapped.labels % 2
    other = dataclasses.replace(open_cache(path, KEY), ids=packed.ids + 1)
    for changed in (mapped, other, PackedEvents.concatenate([open_cache(path, KEY)])):
        assert same(pickle.loads(pickle.dumps(changed)), changed)
        assert same(copy.deepcopy(changed), changed)
        assert not isinstance(pickle.loads(pickle.dumps(changed)), MappedEvents)
    assert type(MappedEvents.concatenate([mapped])) is PackedEvents


@pytest.mark.parametrize("change", ["rewritten", "removed"])
def test_a_pickle_contains_the_data_if_the_file_is_no_longer_the_same(tmp_path, packed, change):
    path = tmp_path / "some.events"
    write_events(path, packed)
    mapped = open_cache(path, KEY)
    if change == "removed":
        path.unlink()
    else:
        write_events(path, packed, KEY | {"recordings": "others"})
    assert same(pickle.loads(pickle.dumps(mapped)), packed)


def test_a_file_that_is_replaced_while_it_is_opened_is_not_mixed_with_the_new_one(tmp_path, packed, monkeypatch):
    path, read_header = tmp_path / "some.events", event_file._read_header
    write_events(path, packed)

    def read_and_replace(file, key):
        found = read_header(file, key)
        path.rename(tmp_path / "old.events")
        path.write_bytes(b"another file")
        return found

    monkeypatch.setattr(event_file, "_read_header", read_and_replace)
    assert same(open_cache(path, KEY), packed)


def test_recordings_are_decoded_into_memory_if_another_process_replaces_the_cache(root, packed, monkeypatch, capsys):
    def write_and_replace(path, key, *arguments):
        write_cache(path, key | {"recordings": "as another machine sees them"}, *arguments)

    monkeypatch.setattr(cache_module, "write_cache", write_and_replace)
    assert same(NMNISTDataset(root).packed, packed)
    assert "no cache (" in capsys.readouterr().out


def test_the_users_folder_is_used_if_the_lock_belongs_to_another_user(root, packed, monkeypatch):
    def refuse(path, *arguments):
        if root in path.parents:
            raise PermissionError(f"Permission denied: {path}")
        return locked(path, *arguments)

    locked = cache_module.locked
    monkeypatch.setattr(cache_module, "locked", refuse)
    found = NMNISTDataset(root).packed
    assert same(found, packed)
    assert root not in found.path.parents


def test_a_recording_that_may_not_be_read_is_reported_and_read_once(tmp_path):
    calls = []

    def make():
        calls.append(1)
        raise PermissionError("Train/3/00001.bin")

    with pytest.raises(PermissionError, match="00001"):
        cache_module.cached([tmp_path / "a.events", tmp_path / "other" / "a.events"], {}, make)
    assert len(calls) == 1


def overwrite(path, place, data):
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(data)


def edit_header(path, change):
    """Change the header of a cache file and compute its checksum again."""
    data = path.read_bytes()
    _, _, length, _ = struct.unpack_from("<16sIII", data)
    header = json.loads(data[28 : 28 + length])
    change(header)
    text = json.dumps(header).encode()
    overwrite(path, 0, struct.pack("<16sIII", b"N-MNIST events\r\n", 2, len(text), zlib.crc32(text)) + text)


def add_events(header):
    header["events"] += 4096


DAMAGE = {
    "another format": (
        lambda p: p.write_bytes(b"PK\x03\x04" + bytes(9000)),
        "not a cache file: expected b'.*' at its start, found b'PK",
    ),
    "empty": (lambda p: p.write_bytes(b""), "not a cache file"),
    "short": (lambda p: p.write_bytes(p.read_bytes()[:20]), "not a cache file"),
    "another version": (lambda p: overwrite(p, 16, struct.pack("<I", 7)), "another version: expected 2, found 7"),
    "changed header": (lambda p: overwrite(p, 40, b"#"), "damaged: its header does not match"),
    "truncated header": (lambda p: p.write_bytes(p.read_bytes()[:100]), "damaged: its header does not match"),
    "huge header length": (lambda p: overwrite(p, 20, b"\xff\xff\xff\x7f"), "damaged: its header does not match"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-1]), r"truncated: expected -?\d+ bytes, found \d+"),
    "trailing byte": (lambda p: p.write_bytes(p.read_bytes() + b"x"), r"truncated: expected -?\d+ bytes, found \d+"),
    "changed labels": (lambda p: overwrite(p, 8192, b"\x09"), "damaged: labels does not match its checksum"),
    "changed offsets": (lambda p: overwrite(p, 4096 + 8, b"\xff\xff"), "damaged: offsets does not match its checksum"),
    "too many events": (lambda p: edit_header(p, add_events), "truncated"),
    "no event count": (lambda p: edit_header(p, lambda h: h.pop("events")), "damaged: its header cannot be read"),
    "negative event count": (lambda p: edit_header(p, lambda h: h.update(events=-5)), "truncated|damaged"),
    "no checksums": (lambda p: edit_header(p, lambda h: h.update(crc32={})), "damaged: offsets does not match"),
    "list as key": (lambda p: edit_header(p, lambda h: h.update(key=[1])), "damaged: its header cannot be read"),
    "stale": (lambda p: edit_header(p, lambda h: h["key"].update(recordings="old")), "stale: recordings changed"),
    "of fewer things": (lambda p: edit_header(p, lambda h: h["key"].pop("source")), "stale: source changed"),
    "of more things": (lambda p: edit_header(p, lambda h: h["key"].update(more=1)), "stale: more changed"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_an_unusable_cache_is_reported_and_replaced(tmp_path, packed, case, capsys):
    damage, message = DAMAGE[case]
    path = tmp_path / "some.events"
    write_events(path, packed)
    open_cache(path, KEY)
    damage(path)
    with pytest.raises(CacheError, match=message):
        open_cache(path, KEY)
    made = []

    def make():
        made.append(1)
        return len(packed), len(packed.x), lambda arrays: packed

    assert same(cached([path], KEY, make), packed)
    out = capsys.readouterr().out
    assert str(path) in out
    assert out.endswith("; writing it anew\n")
    assert same(cached([path], KEY, make), packed)
    assert made == [1]
    assert capsys.readouterr().out == ""


def test_every_flipped_bit_is_detected(tmp_path, packed):
    path = tmp_path / "some.events"
    write_events(path, packed)
    good, rng = path.read_bytes(), np.random.default_rng(0)
    header = np.arange(28 + struct.unpack_from("<16sIII", good)[2])
    regions, start = [header], 4096
    for name in ("offsets", "labels", "ids", "x", "y", "p", "t"):
        size = getattr(packed, name).nbytes
        regions.append(np.arange(start, start + size))
        start += -(-size // 4096) * 4096
    for number in range(160):
        data, position = bytearray(good), int(rng.choice(regions[number % len(regions)]))
        data[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        os.utime(path, ns=(1, 10**18 + number))
        with pytest.raises(CacheError, match="not a cache file|another version|damaged"):
            open_cache(path, KEY)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system limits no process to processors")
def test_only_processors_that_the_process_may_use_are_counted(root, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    asked = []
    for module in (event_file, recordings):
        pool = module.ThreadPoolExecutor
        monkeypatch.setattr(module, "ThreadPoolExecutor", lambda n, pool=pool: asked.append(n) or pool(n))
    NMNISTDataset(root, cache=False).packed  # noqa: B018
    event_file._crc(np.arange(20))
    assert asked == [2, 2]


def test_checksums_are_computed_in_blocks(monkeypatch):
    monkeypatch.setattr(event_file, "_BLOCK", 7)
    array = np.arange(20, dtype=np.uint8)
    blocks = [zlib.crc32(array[i : i + 7].tobytes()) for i in (0, 7, 14)]
    assert event_file._crc(array) == zlib.crc32(struct.pack("<3I", *blocks))


def test_events_are_verified_once_per_process_and_after_a_change(tmp_path, packed, monkeypatch):
    path = tmp_path / "some.events"
    write_events(path, packed)
    summed = []
    crc = event_file._crc
    monkeypatch.setattr(event_file, "_crc", lambda array: (summed.append(array.nbytes), crc(array))[1])
    mapped = open_cache(path, KEY)
    assert len(summed) == 7  # all arrays
    open_cache(path, KEY)
    assert len(summed) == 7 + 3  # only the three arrays of the recordings
    pickled = pickle.dumps(mapped)
    monkeypatch.setattr(event_file, "_verified", set())  # as in another process
    pickle.loads(pickled)
    assert len(summed) == 7 + 3 + 3
    os.utime(path, ns=(1, 1))
    pickle.loads(pickled)
    assert len(summed) == 7 + 3 + 3 + 7


def cache_file(root):
    return root / ".cache" / "nmnist-train-folder.events"


def test_the_dataset_decodes_its_recordings_once(root, packed, monkeypatch, capsys):
    first = NMNISTDataset(root)
    assert isinstance(first.packed, MappedEvents)
    assert same(first.packed, packed)
    assert cache_file(root).exists()
    assert len(pickle.dumps(first)) < 2000

    def fail(*args, **options):
        raise AssertionError("decoded again")

    monkeypatch.setattr("nmnist_helpers.data.recordings.Recordings.decode", fail)
    assert same(NMNISTDataset(root).packed, packed)
    capsys.readouterr()


@pytest.mark.parametrize("change", ["content", "added", "removed", "renamed"])
def test_a_change_of_the_recordings_makes_the_cache_stale(root, change, capsys):
    before = NMNISTDataset(root).packed
    file = root / "Train" / "4" / "00005.bin"
    if change == "content":  # the length stays the same
        file.write_bytes(bytes(len(file.read_bytes())))
        os.utime(file, ns=(1, file.stat().st_mtime_ns + 1_000_000))
    elif change == "added":
        (file.parent / "99999.bin").write_bytes(bytes(5))
    elif change == "removed":
        file.unlink()
    else:  # the order stays the same
        file.rename(file.parent / "00006.bin")
    capsys.readouterr()
    after = NMNISTDataset(root).packed
    assert "stale: recordings changed since it was written; writing it anew" in capsys.readouterr().out
    assert not same(before, after)
    assert same(after, NMNISTDataset(root, cache=False).packed)


def test_a_change_of_the_archive_makes_the_cache_stale(tmp_path, capsys):
    archive = fake_nmnist.write_zip(tmp_path / "data", "Train", fake_nmnist.make(0))
    NMNISTDataset(tmp_path / "data")
    assert (tmp_path / "data" / ".cache" / "nmnist-train-zip.events").exists()
    fake_nmnist.write_zip(tmp_path / "data", "Train", fake_nmnist.make(1))
    os.utime(archive, ns=(1, archive.stat().st_mtime_ns + 1_000_000))
    capsys.readouterr()
    fresh = NMNISTDataset(tmp_path / "data").packed
    assert "writing it anew" in capsys.readouterr().out
    assert same(fresh, NMNISTDataset(tmp_path / "data", cache=False).packed)


@pytest.mark.skipif(os.name == "nt", reason="chmod does not protect a folder on Windows")
def test_the_cache_of_read_only_data_is_in_the_users_folder(root, tmp_path, packed):
    root.chmod(0o555)
    try:
        for _ in range(2):
            assert same(NMNISTDataset(root).packed, packed)
        assert not (root / ".cache").exists()
    finally:
        root.chmod(0o755)
    files = list((tmp_path / "xdg" / "nmnist_helpers").glob("*.events"))
    assert len(files) == 1
    assert files == [cache_files(root, "nmnist-train-folder")[1]]
    # Another data folder has another cache file.
    assert cache_files(tmp_path / "other", "nmnist-train-folder")[1] != files[0]


@pytest.mark.skipif(os.name == "nt", reason="chmod does not protect a folder on Windows")
def test_an_existing_cache_folder_in_read_only_data_is_not_written_to(root, packed):
    (root / ".cache").mkdir()
    root.chmod(0o555)
    try:
        assert same(NMNISTDataset(root).packed, packed)
        assert not list((root / ".cache").iterdir())
    finally:
        root.chmod(0o755)


def test_recordings_are_decoded_into_memory_if_no_folder_is_writable(root, packed, monkeypatch, capsys):
    monkeypatch.setattr(cache_module, "writable", lambda folder: False)
    dataset = NMNISTDataset(root)
    assert same(dataset.packed, packed)
    assert "no cache (expected a folder that can be written, found none" in capsys.readouterr().out


def test_a_disk_with_too_little_space_is_reported_before_writing(root, packed, monkeypatch, capsys):
    class Usage:
        free = 1000

    monkeypatch.setattr(event_file.shutil, "disk_usage", lambda path: Usage)
    dataset = NMNISTDataset(root)
    assert same(dataset.packed, packed)
    assert "GB of room for the cache, found" in capsys.readouterr().out
    assert not list((root / ".cache").glob("*.events"))


def test_an_interrupted_write_leaves_no_file_and_keeps_the_old_one(tmp_path, packed):
    path = tmp_path / "some.events"

    def interrupt(arrays):
        arrays["x"][:] = 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cache(path, KEY, len(packed), len(packed.x), interrupt)
    assert not [p for p in tmp_path.iterdir() if p.is_file()]
    write_events(path, packed)
    with pytest.raises(KeyboardInterrupt):
        write_cache(path, KEY, len(packed), len(packed.x), interrupt)
    assert same(open_cache(path, KEY), packed), "the old file was not kept"


def test_a_folder_that_windows_marks_is_not_protected(tmp_path, monkeypatch):
    """Windows marks Downloads and other folders as read-only, although files can be written there."""
    folder = tmp_path / "Downloads"
    folder.mkdir()
    folder.chmod(0o555)
    assert paths.is_protected(folder) == (os.name != "nt")
    monkeypatch.setattr(paths, "os", SimpleNamespace(name="nt"))
    assert not paths.is_protected(folder)
    folder.chmod(0o755)


def test_the_map_is_closed_if_the_recordings_cannot_be_made(tmp_path, packed, monkeypatch):
    """Windows cannot remove a mapped file, and the error's traceback would keep the map."""
    maps = []

    class Map(event_file.mmap.mmap):
        def __init__(self, *_, **__):
            maps.append(weakref.ref(self))

    def fail(arrays):
        column = arrays["x"]
        raise ValueError(f"not {len(column)} events")

    monkeypatch.setattr(event_file.mmap, "mmap", Map)
    with pytest.raises(ValueError, match="events") as caught:
        write_cache(tmp_path / "a.events", KEY, len(packed), len(packed.x), fail)
    assert caught.tb is not None
    assert [made() for made in maps] == [None]


def test_arrays_of_another_length_than_announced_are_refused(tmp_path, packed):
    with pytest.raises(ValueError, match=r"expected x of the announced shape \(\d+,\), found"):
        write_cache(tmp_path / "a.events", KEY, len(packed), len(packed.x) + 1, lambda arrays: packed)
    assert not (tmp_path / "a.events").exists()


def test_a_key_that_is_too_long_for_the_header_is_refused(tmp_path, packed):
    with pytest.raises(ValueError, match="expected a header of at most 4068 bytes, found"):
        write_events(tmp_path / "a.events", packed, {"source": "a" * 4096})
    assert not (tmp_path / "a.events").exists()


def test_one_thread_writes_while_the_others_wait(tmp_path, packed):
    path, made, found = tmp_path / "some.events", [], []

    def make():
        made.append(1)
        time.sleep(0.3)
        return len(packed), len(packed.x), lambda arrays: packed

    threads = [threading.Thread(target=lambda: found.append(cached([path], KEY, make))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]
    assert len(found) == 4
    assert all(same(events, packed) for events in found)


def test_recordings_are_selected_and_concatenated(packed):
    rows = [5, 0, 5, 29]
    selected = packed.select(rows).validate()
    assert len(selected) == 4
    for k, n in enumerate(rows):
        assert all(np.array_equal(a, b) for a, b in zip(selected.recording(k), packed.recording(n), strict=True))
    assert selected.labels.tolist() == packed.labels[rows].tolist()
    assert same(packed.select(packed.labels == 3), packed.select(np.flatnonzero(packed.labels == 3)))
    parts = [packed.select(range(7)), packed.select([]), packed.select(range(7, 30))]
    assert same(PackedEvents.concatenate(parts).validate(), packed)
    for low, high in ((3, 30), (-1, 3)):
        with pytest.raises(IndexError, match=rf"recordings: expected numbers 0\.\.29, found {low}\.\.{high}"):
            packed.select([low, high])
    with pytest.raises(IndexError, match="mask: expected shape"):
        packed.select(np.array([True, False]))
    with pytest.raises(IndexError, match="recording: expected one of 30, found number 30"):
        packed.recording(30)
    with pytest.raises(ValueError, match="at least one PackedEvents, found none"):
        PackedEvents.concatenate([])


def change_array(packed, name, change):
    changed = packed.select(range(3))
    array = getattr(changed, name)
    setattr(changed, name, change(array))
    return changed


def setter(index, value):
    def change(array):
        array = array.copy()
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("x", setter(70, 34), r"x: expected 0\.\.33, found 34 in recording \d \(event \d+\)"),
        ("y", setter(70, 34), r"y: expected 0\.\.33, found 34 in recording \d \(event \d+\)"),
        ("p", setter(0, 2), r"p: expected 0\.\.1, found 2 in recording 0 \(event 0\)"),
        ("t", setter(1, 1 << 23), r"t: expected 0\.\.8388607, found 8388608"),
        (
            "t",
            setter(0, 8_000_000),
            r"t: expected times that never decrease, found \d+ us after 8000000 us in recording 0 \(event 1\)",
        ),
        ("t", lambda a: a.astype(np.int64), "t: expected a flat int32 array, found int64"),
        ("y", lambda a: a[:-1], "y: expected .* events, like x"),
        ("labels", setter(1, 10), r"labels: expected digits 0\.\.9.*; PackedEvents are N-MNIST's .*Event\.to_tensor"),
        ("offsets", setter(1, 10_000), "offsets: expected them to rise from 0 to"),
        ("offsets", lambda a: a[:-1], "expected 3 ids and 4 offsets for 3 labels, found 3 and 3"),
        ("ids", setter(0, -1), "ids: expected 0 or more, found -1"),
    ],
)
def test_validate_names_the_invalid_array(packed, name, change, message):
    with pytest.raises(ValueError, match=message):
        change_array(packed, name, change).validate()
