"""Test NMNISTDataset: the official layout, binning, transforms, the choice of the source, and errors."""

import multiprocessing
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from support import fake_nmnist
from torch.utils.data import DataLoader

from nmnist_helpers.camera.digits import load_mnist
from nmnist_helpers.data.augmentation import Augment, augment
from nmnist_helpers.data.binning import time_bins
from nmnist_helpers.data.dataset import NMNISTDataset
from nmnist_helpers.data.download import download
from nmnist_helpers.data.loader import EventLoader
from nmnist_helpers.data.recordings import Recordings, write_recordings
from nmnist_helpers.io import Event, PackedEvents
from nmnist_helpers.paths import ROOT, writable


@pytest.fixture(scope="module")
def user_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("user-cache")


@pytest.fixture(autouse=True)
def clean_environment(user_cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(user_cache))
    monkeypatch.delenv("NMNIST_DATA", raising=False)
    monkeypatch.delenv("NMNIST_MNIST", raising=False)


@pytest.fixture
def root(tmp_path):
    fake_nmnist.write_folder(tmp_path / "data", "Train", fake_nmnist.make(0, per_digit=3))
    fake_nmnist.write_folder(tmp_path / "data", "Test", fake_nmnist.make(1))
    return tmp_path / "data"


def dense_tensor(recording, bins=300, sampling_time=1):
    dense = torch.zeros(2312, bins)
    for channel, k in fake_nmnist.spikes(recording, bins, sampling_time):
        dense[channel, k] = 1 / sampling_time
    return dense


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_the_official_layout_is_read(tmp_path, kind, cache):
    recordings = fake_nmnist.make(3, per_digit=3)
    write = fake_nmnist.write_folder if kind == "folder" else fake_nmnist.write_zip
    write(tmp_path / "data", "Train", recordings)
    dataset = NMNISTDataset(tmp_path / "data", train=True, cache=cache)
    names = sorted(recordings)
    assert dataset.source == "recorded"
    assert len(dataset) == 30
    assert dataset.labels.tolist() == [int(name[0]) for name in names]
    for n in (0, 7, 29, -1):
        spike, label = dataset[n]
        assert spike.shape == (2312, 300)
        assert spike.dtype == torch.float32
        assert label == int(names[n][0])
        assert isinstance(label, int)
        assert torch.equal(spike, dense_tensor(recordings[names[n]]))
    packed = dataset.packed.validate()
    assert packed.ids.tolist() == [int(name[2:7]) for name in names]
    x, y, p, t = packed.recording(4)
    assert list(zip(x, y, p, t, strict=True)) == recordings[names[4]]
    with pytest.raises(IndexError, match="recording: expected one of 30, found number 30"):
        dataset[30]


@pytest.mark.parametrize(("sampling_time", "sample_length", "bins"), [(1, 300, 300), (2, 100, 50), (0.5, 40, 80)])
def test_times_round_half_to_even_and_late_events_are_dropped(tmp_path, sampling_time, sample_length, bins):
    step = int(sampling_time * 1000)
    # Half-way between two bins, 1 us beside that, around the end of the last bin, and after it.
    times = [0, step // 2, step // 2 + 1, 3 * step // 2, 5 * step // 2, 7 * step // 2, 7 * step // 2 - 1]
    times += [(2 * bins - 1) * step // 2 - 1, (2 * bins - 1) * step // 2, bins * step, 8_000_000]
    recording = [(k % 34, 5, k % 2, t) for k, t in enumerate(times)]
    fake_nmnist.write_folder(tmp_path, "Train", {"4/00001.bin": recording})
    dataset = NMNISTDataset(tmp_path, sampling_time=sampling_time, sample_length=sample_length)
    assert torch.equal(dataset[0][0], dense_tensor(recording, bins, sampling_time))
    assert dataset[0][0].shape == (2312, bins)


def test_unordered_times_are_sorted(tmp_path):
    recording = [(1, 2, 1, 900), (3, 4, 0, 100), (5, 6, 1, 900), (7, 8, 0, 50)]
    fake_nmnist.write_folder(tmp_path, "Train", {"0/00001.bin": recording})
    x, _, _, t = NMNISTDataset(tmp_path).packed.validate().recording(0)
    assert t.tolist() == [50, 100, 900, 900]
    assert x.tolist() == [7, 3, 1, 5]


def test_simultaneous_events_of_unordered_recordings_keep_their_order(tmp_path):
    times = np.random.default_rng(0).integers(0, 5, 200).tolist()
    recording = [(k % 34, k // 34, 1, t) for k, t in enumerate(times)]
    fake_nmnist.write_folder(tmp_path, "Train", {"0/00001.bin": recording})
    found = NMNISTDataset(tmp_path, cache=False).packed.recording(0)
    assert list(zip(*found, strict=True)) == sorted(recording, key=lambda event: event[3])


def test_a_transform_gets_an_event_with_times_in_ms(root):
    events = []

    def only_on(event):
        events.append(event)
        on = event.c == 1
        return Event(event.x[on], event.y[on], event.c[on], event.t[on])

    dataset = NMNISTDataset(root, transform=only_on)
    plain = NMNISTDataset(root)
    spike, _ = dataset[0]
    assert torch.equal(spike[1156:], plain[0][0][1156:])
    assert not spike[:1156].any()
    x, _, _, t = plain.packed.recording(0)
    assert isinstance(events[0], Event)
    assert events[0].t.tolist() == [v / 1000 for v in t.tolist()]
    assert events[0].x.tolist() == x.tolist()
    assert not NMNISTDataset(root, transform=lambda e: Event(e.x * 0 + 40, e.y, e.c, e.t))[0][0].any()
    for wrong, found in ((lambda e: None, "NoneType"), (lambda e: Event(e.x, None, e.c, e.t), "a 1-D one")):
        with pytest.raises(ValueError, match=f"transform: expected it to return .* found {found}"):
            NMNISTDataset(root, transform=wrong)[0]
    with pytest.raises(TypeError, match="transform: expected a function"):
        NMNISTDataset(root, transform=3)


def test_fractional_pixels_are_rounded_and_those_off_the_sensor_dropped(root):
    """A transform may return such pixels, as lava-dl's `augment` does."""

    def rotate(event):
        x, y = event.x - 16.5, event.y - 16.5
        event.x, event.y = 0.8 * x - 0.6 * y + 13, 0.6 * x + 0.8 * y + 16.5
        return event

    dataset = NMNISTDataset(root, transform=rotate)
    expected = torch.zeros(2, 34, 34, 300)
    for x, y, p, t in zip(*dataset.packed.recording(0), strict=True):
        x, y = float(x) - 16.5, float(y) - 16.5
        x, y = round(0.8 * x - 0.6 * y + 13), round(0.6 * x + 0.8 * y + 16.5)
        if 0 <= x < 34 and 0 <= y < 34 and round(t / 1000) < 300:
            expected[p, y, x, round(t / 1000)] = 1
    assert 20 < expected.sum() < len(dataset.packed.recording(0)[0])
    assert torch.equal(dataset[0][0], expected.reshape(2312, 300))


def test_one_line_names_the_source(root, tmp_path, capsys, few_digits):
    NMNISTDataset(root, train=False)
    out = capsys.readouterr().out
    assert out == "N-MNIST Test: 20 real recordings from data/Test\n"
    simulated = NMNISTDataset(tmp_path / "nothing", train=False)
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert f"{len(simulated)} simulated recordings" in out
    assert str(tmp_path / "nothing") in out
    assert "download=True" in out
    assert "Train.zip" in out
    assert "NMNIST_DATA" in out


def test_the_projects_data_folder_is_printed_as_a_relative_path(monkeypatch, capsys, few_digits):
    monkeypatch.setattr("nmnist_helpers.paths.ROOT", ROOT / "no-such-folder")
    monkeypatch.setattr("nmnist_helpers.data.dataset.ROOT", ROOT / "no-such-folder")
    NMNISTDataset(train=False)
    assert "(no recordings in data)" in capsys.readouterr().out


def test_data_root_comes_from_the_environment(root, monkeypatch, few_digits):
    monkeypatch.setenv("NMNIST_DATA", str(root))
    assert NMNISTDataset(train=False).source == "recorded"
    assert NMNISTDataset(train=False, source="simulated").source == "simulated"


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected at least one event, found an empty file"),
        (fake_nmnist.to_bytes([(1, 1, 0, 5), (2, 2, 1, 9)])[:-2], "expected a multiple of 5 bytes, found 8: truncated"),
        (fake_nmnist.to_bytes([(1, 1, 0, 5), (34, 2, 1, 9)]), r"expected x in 0\.\.33, found 34 in event 1"),
        (fake_nmnist.to_bytes([(1, 1, 0, 5), (2, 34, 1, 9)]), r"expected y in 0\.\.33, found 34 in event 1"),
        (b"\x89PNG\r\n\x1a\n" + bytes(92), r"expected x in 0\.\.33, found 137 in event 0: damaged, or not"),
    ],
)
def test_errors_name_the_damaged_recording(tmp_path, kind, data, message):
    recordings = fake_nmnist.make(0) | {"3/00003.bin": data}
    write = fake_nmnist.write_folder if kind == "folder" else fake_nmnist.write_zip
    write(tmp_path, "Train", recordings)
    with pytest.raises(ValueError, match=rf"00003\.bin: {message}"):
        NMNISTDataset(tmp_path)
    assert not list(tmp_path.glob(".cache/*.events")), "an incomplete cache was left behind"


def test_without_a_cache_a_damaged_recording_raises_when_it_is_read(root):
    (root / "Train/3/00003.bin").write_bytes(bytes([40, 1, 0, 0, 0]))
    dataset = NMNISTDataset(root, cache=False)
    dataset[0]
    with pytest.raises(ValueError, match=r"3.00003\.bin: expected x in 0\.\.33, found 40 in event 0"):
        list(dataset)


@pytest.mark.parametrize("name", ["Train/notes.txt", "Train/10/00001.bin", "Train/x/00001.bin", "Train/5/picture.png"])
def test_errors_name_unexpected_files(root, name):
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(bytes(5))
    named = name if name.count("/") == 1 or "5/" in name else os.path.dirname(name)
    named = named.replace("/", r"[\\/]")
    with pytest.raises(ValueError, match=f"{named}: expected <digit>/<id>.bin .*, found something else"):
        NMNISTDataset(root)


def test_missing_and_empty_folders_raise(tmp_path, root):
    with pytest.raises(
        FileNotFoundError, match=r"expected a folder Train or an archive Train\.zip in .*no such folder"
    ):
        NMNISTDataset(tmp_path / "nowhere", source="recorded")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="found an empty folder"):
        NMNISTDataset(tmp_path / "empty", source="recorded")
    (tmp_path / "empty" / "Train" / "3").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="Train: expected <digit>/<id>.bin .*, found no recordings"):
        NMNISTDataset(tmp_path / "empty")
    for file in sorted((root / "Test").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (root / "Test").rmdir()
    with pytest.raises(FileNotFoundError, match=r"expected a folder Test .*; found Train alone"):
        NMNISTDataset(root, train=False)


def test_errors_name_damaged_archives(tmp_path):
    archive = fake_nmnist.write_zip(tmp_path, "Train", fake_nmnist.make(0))
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(
        ValueError,
        match=rf"Train\.zip: expected a complete zip archive, found {len(data) // 2} bytes, a zip archive that is cut",
    ):
        NMNISTDataset(tmp_path)
    damaged = bytearray(data)
    damaged[200:260] = bytes(60)
    archive.write_bytes(damaged)
    with pytest.raises(
        ValueError,
        match=r"Train\.zip: 'Train/\d/\d+\.bin': expected a member that can be unpacked, found a damaged archive",
    ):
        NMNISTDataset(tmp_path)
    fake_nmnist.write_zip(tmp_path, "Train", {"1/00001.bin": bytes(5)}, extra=[("Train/readme.md", b"hello")])
    with pytest.raises(ValueError, match=r"Train\.zip: expected <digit>/<id>.bin .*, found 'Train/readme.md'"):
        NMNISTDataset(tmp_path)
    fake_nmnist.write_zip(tmp_path, "Train", {"1/00001.bin": bytes(5)}, extra=[("N-MNIST/Train/1/00001.bin", bytes(5))])
    with pytest.raises(ValueError, match=r"Train\.zip: expected each recording once, found 1/00001\.bin twice"):
        NMNISTDataset(tmp_path)
    fake_nmnist.write_zip(tmp_path, "Train", {"1/00001.bin": bytes(5)}, extra=[("other/1/00002.bin", bytes(5))])
    with pytest.raises(ValueError, match=r"Train\.zip: expected all recordings under Train or Test, found some beside"):
        NMNISTDataset(tmp_path)


@pytest.mark.parametrize("name", ["N-MNIST.zip", "digits.zip"])
def test_an_archive_that_names_no_split_is_not_taken_for_both(tmp_path, name):
    with zipfile.ZipFile(tmp_path / name, "w") as archive:
        archive.writestr("3/00001.bin", bytes([1, 1, 128, 0, 1]))
    root = tmp_path if name == "N-MNIST.zip" else tmp_path / name
    for train in (True, False):
        with pytest.raises(ValueError, match=rf"{name}: expected folders Train and Test inside, or an archive named"):
            NMNISTDataset(root, train=train)


def test_a_change_of_the_bins_counts_at_once(root):
    dataset = NMNISTDataset(root)
    dataset.sampling_time, dataset.sample_length = 2, 100
    same = NMNISTDataset(root, sampling_time=2, sample_length=100)
    assert dataset.bins == 50
    assert torch.equal(dataset[0][0], same[0][0])


def test_a_truth_value_is_no_number_of_a_recording(root):
    for index in (True, np.bool_(False)):
        with pytest.raises(TypeError, match="recording: expected a whole number, found"):
            NMNISTDataset(root)[index]


def test_the_length_of_a_sample_is_a_number(root):
    with pytest.raises(ValueError, match="sample_length / sampling_time: expected 1 to 2\\^20 bins, found '300' ms"):
        NMNISTDataset(root, sample_length="300")


def test_numbers_of_recordings_are_whole(root):
    dataset = NMNISTDataset(root)
    for wrong in (1.5, "1", slice(0, 3)):
        with pytest.raises(TypeError, match="recording: expected a whole number, found"):
            dataset[wrong]
    assert dataset[np.int64(1)][1] == dataset[1][1]
    with pytest.raises(IndexError, match="recordings: expected whole numbers or a mask, found float64"):
        dataset.packed.select([0.9, 1.7])


@pytest.mark.parametrize("number", [30, -31])
def test_a_batch_holds_no_numbers_beyond_the_recordings(root, number):
    with pytest.raises(IndexError, match=f"expected one of 30, found number {number}"):
        next(iter(DataLoader(NMNISTDataset(root), batch_size=2, sampler=[0, number])))


@pytest.mark.parametrize("load", [load_mnist, lambda train: download(".", train=train)])
def test_a_split_is_true_or_false(load):
    with pytest.raises(ValueError, match="train: expected True or False, found 'test'"):
        load(train="test")


def test_a_file_of_the_user_survives_the_test_for_permissions(tmp_path):
    (tmp_path / "probe").write_text("mine")
    assert writable(tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("probe", "mine")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "real"}, "source: expected one of auto, recorded, simulated, found 'real'"),
        ({"sampling_time": 0}, "sampling_time: expected a positive number of ms, found 0"),
        ({"sampling_time": float("nan")}, "sampling_time: expected a positive number of ms"),
        ({"sample_length": 0.5}, "expected 1 to 2.20 bins"),
    ],
)
def test_invalid_parameters_raise(root, options, message):
    with pytest.raises(ValueError, match=message):
        NMNISTDataset(root, **options)


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_workers_and_pickles_give_the_same_samples(tmp_path, kind, cache):
    recordings = fake_nmnist.make(0)
    write = fake_nmnist.write_folder if kind == "folder" else fake_nmnist.write_zip
    write(tmp_path, "Train", recordings)
    dataset = NMNISTDataset(tmp_path, cache=cache)
    samples = [dataset[n] for n in range(len(dataset))]
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[5][0], samples[5][0])
    batches = list(DataLoader(dataset, batch_size=6, num_workers=2))
    assert torch.equal(torch.cat([spike for spike, _ in batches]), torch.stack([spike for spike, _ in samples]))
    assert torch.cat([label for _, label in batches]).tolist() == [label for _, label in samples]


class ArchiveOfParent(torch.utils.data.Dataset):
    """A dataset whose samples are 1 in a process that reads from the archive opened by its parent, else 0."""

    def __init__(self, files):
        self.files, self.archive = files._archive, files._archive._open()

    def __len__(self):
        return 4

    def __getitem__(self, n):
        return int(self.files._open() is self.archive)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
def test_each_worker_opens_the_archive_itself(tmp_path):
    # Forked processes share the position in an open file: each would change where the others read.
    fake_nmnist.write_zip(tmp_path, "Train", fake_nmnist.make(0))
    dataset = ArchiveOfParent(NMNISTDataset(tmp_path, cache=False)._files)
    assert [dataset[n] for n in range(4)] == [1] * 4
    loader = DataLoader(dataset, batch_size=1, num_workers=2, multiprocessing_context="fork")
    assert torch.cat(list(loader)).tolist() == [0] * 4


def test_workers_augment_differently_and_repeatably(root):
    # All samples are the same recording, so only the augmentation can make them differ.
    dataset = NMNISTDataset(root, transform=augment)
    repeated = torch.utils.data.Subset(dataset, [0] * 8)

    def run(seed):
        torch.manual_seed(seed)
        return torch.cat([spike for spike, _ in DataLoader(repeated, batch_size=2, num_workers=2)])

    first, again, other = run(1), run(1), run(2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({spike.numpy().tobytes() for spike in first}) == 8


def find_real_root():
    root = os.environ.get("NMNIST_DATA")
    return Path(root) if root and (Path(root) / "Train").exists() else None


REAL_ROOT = find_real_root()


@pytest.mark.skipif(REAL_ROOT is None, reason="NMNIST_DATA names no folder of real recordings")
def test_real_recordings_have_the_known_statistics(tmp_path):
    # These limits come from statistics that were computed without this package.
    dataset = NMNISTDataset(REAL_ROOT, source="recorded")
    packed: PackedEvents = dataset.packed.validate()
    assert 300 < packed.t.max() / 1000 < 340
    assert 3900 < packed.counts.mean() < 4300
    assert 0.49 < packed.p.mean() < 0.51
    files = sorted((REAL_ROOT / "Train").rglob("*.bin"))
    assert len(dataset) == len(files)
    for n in (0, len(files) // 2):
        raw = files[n].read_bytes()
        recording = [
            (raw[i], raw[i + 1], raw[i + 2] >> 7, (raw[i + 2] & 127) << 16 | raw[i + 3] << 8 | raw[i + 4])
            for i in range(0, len(raw), 5)
        ]
        assert torch.equal(dataset[n][0], dense_tensor(recording))
        assert dataset[n][1] == int(files[n].parent.name)


class OnEvents(NMNISTDataset):
    """ON events alone, and whether the digit is odd."""

    def __getitem__(self, index):
        spike, label = super().__getitem__(index)
        return spike[1156:], label % 2


class Silent(Augment):
    def __call__(self, event):
        event = super().__call__(event)
        return Event(event.x, event.y, event.c * 0, event.t)


def test_a_subclass_makes_its_own_samples(root):
    dataset = OnEvents(root)
    spikes, labels = next(iter(DataLoader(dataset, batch_size=4)))
    assert spikes.shape == (4, 1156, dataset.bins)
    assert labels.max() <= 1
    assert torch.equal(spikes[1], dataset[1][0])
    with pytest.raises(TypeError, match="found the subclass OnEvents, which makes its samples itself"):
        EventLoader(dataset, 4)


def test_a_subclass_of_augment_is_called(root):
    dataset = NMNISTDataset(root, transform=Silent(max_shift=0, max_angle=0))
    for spikes, _ in (next(iter(DataLoader(dataset, batch_size=4))), EventLoader(dataset, 4).batch(0)):
        dense = spikes if isinstance(spikes, torch.Tensor) else spikes.dense()
        assert dense[:, :1156].any()
        assert not dense[:, 1156:].any()


def test_an_archive_of_the_other_split_is_refused(tmp_path):
    archive = tmp_path / "Train.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name, data in (("0/00002.bin", bytes([1, 2, 128, 0, 0])), ("1/00003.bin", bytes([3, 4, 0, 0, 9]))):
            file.writestr(name, data)
    assert len(NMNISTDataset(archive, train=True))
    with pytest.raises(ValueError, match=r"Train\.zip: expected recordings of Test, found an archive of Train"):
        NMNISTDataset(archive, train=False)


@pytest.mark.parametrize("train", ["Test", "False", None, 2])
def test_the_part_is_true_or_false(train):
    with pytest.raises(ValueError, match="train: expected True or False, found"):
        NMNISTDataset(train=train)


def test_many_recordings_are_decoded_without_standard_error(tmp_path, monkeypatch):
    """It is None in a program without a console, such as pythonw."""
    fake_nmnist.write_folder(tmp_path, "Train", {f"0/{n}.bin": bytes(5) for n in range(1, 1002)})
    monkeypatch.setattr("sys.stderr", None)
    assert len(Recordings(tmp_path / "Train").pack()) == 1001


@pytest.mark.parametrize(("label", "x", "message"), [(12, 1, "labels: expected digits"), (3, 200, "x: expected 0..33")])
def test_recordings_that_could_not_be_read_back_are_not_written(tmp_path, label, x, message):
    one = np.array([x, 1], np.uint8)
    packed = PackedEvents(one, one, one // 2, one.astype(np.int32) * 0, np.array([0, 2]), *np.array([[label], [7]]))
    with pytest.raises(ValueError, match=message):
        write_recordings(packed, tmp_path / "Train")
    assert not (tmp_path / "Train").exists()


def test_an_empty_recording_among_others_is_not_written(tmp_path):
    one, zero = np.ones(1, np.uint8), np.zeros(1, np.int32)
    packed = PackedEvents(one, one, one, zero, np.array([0, 1, 1]), np.array([3, 3]), np.array([1, 2]))
    with pytest.raises(ValueError, match="recording 1: expected at least one event, found none"):
        write_recordings(packed, tmp_path / "Train")


def test_samples_that_last_too_long_are_refused():
    with pytest.raises(ValueError, match=r"sample_length: expected at most 1099511627776 ms, found 1e\+18"):
        time_bins(1e18, 1e18)


def test_a_sample_has_up_to_2_to_the_20_bins():
    assert time_bins(2**20, 1) == 2**20
    with pytest.raises(ValueError, match=r"expected 1 to 2\^20 bins, found 1048577 ms"):
        time_bins(2**20 + 1, 1)
