"""Test EventLoader: the spikes of its batches, made by Numba or by tensor operations, and its repeatable order."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from support import fake_nmnist
from torch.utils.data import ConcatDataset, DataLoader, Subset, random_split

from nmnist_helpers.data.augmentation import Augment, augment
from nmnist_helpers.data.binning import bin_edges, bin_of, rasterise
from nmnist_helpers.data.cache import open_cache, write_cache
from nmnist_helpers.data.dataset import NMNISTDataset
from nmnist_helpers.data.device import DeviceEvents
from nmnist_helpers.data.draw import KEY
from nmnist_helpers.data.loader import EventLoader
from nmnist_helpers.io import Event, PackedEvents
from nmnist_helpers.spikes import Spikes

N = 70
EVERYTHING = Augment(
    max_angle=20, event_dropout=0.2, time_jitter=3, polarity_flip=0.5, max_warp=3, max_stretch=0.3, max_shear=10
)


def pack(recordings, labels):
    columns = [np.array(column) for column in zip(*(e for r in recordings for e in r), strict=True)]
    x, y, p, t = (c.astype(d) for c, d in zip(columns, (np.uint8, np.uint8, np.uint8, np.int32), strict=True))
    offsets = np.cumsum([0] + [len(r) for r in recordings])
    return PackedEvents(x, y, p, t, offsets, np.array(labels), np.arange(1, len(labels) + 1)).validate()


@pytest.fixture(scope="module")
def recordings():
    rng = np.random.default_rng(5)
    recordings = [fake_nmnist.events(rng, int(rng.integers(1, 900))) for _ in range(N)]
    recordings[3] = [(7, 8, 1, 2500)] * 40  # forty events of one pixel at the same time
    recordings[4] = [(7, 8, 1, 400_000)]  # no event within the sample
    return recordings


@pytest.fixture(scope="module")
def packed(recordings):
    return pack(recordings, [n % 10 for n in range(N)])


def spike_sets(spikes: Spikes):
    """Return the set of (channel, bin) of each sample, after checking that the rows are valid."""
    batch, channels, bins = spikes.shape
    assert channels == 2312
    assert spikes.indptr.dtype == spikes.channel.dtype == torch.int32
    indptr, channel = spikes.indptr.tolist(), spikes.channel.tolist()
    assert indptr[0] == 0
    assert indptr[-1] == len(channel)
    sets = [set() for _ in range(batch)]
    for row in range(batch * bins):
        channels_of_row = channel[indptr[row] : indptr[row + 1]]
        assert all(a < b for a, b in zip(channels_of_row, channels_of_row[1:], strict=False)), "not increasing"
        sets[row // bins].update((c, row % bins) for c in channels_of_row)
    return sets


IMPLEMENTATIONS = [pytest.param(False, id="numba"), pytest.param(True, id="tensors")]


@pytest.mark.parametrize("on_device", IMPLEMENTATIONS)
@pytest.mark.parametrize(("sampling_time", "sample_length"), [(1, 300), (2, 100), (0.25, 20), (7, 300)])
def test_batches_contain_the_spikes_of_their_recordings(packed, recordings, sampling_time, sample_length, on_device):
    loader = EventLoader(packed, 32, sampling_time=sampling_time, sample_length=sample_length, on_device=on_device)
    bins = int(sample_length / sampling_time)
    count = 0
    for spikes, labels in loader:
        assert spikes.shape == (len(labels), 2312, bins)
        assert spikes.value == 1 / sampling_time
        for found in spike_sets(spikes):
            assert found == fake_nmnist.spikes(recordings[count], bins, sampling_time)
            count += 1
        assert labels.dtype == torch.int64
        assert labels.tolist() == [n % 10 for n in range(count - len(labels), count)]
    assert count == N
    assert len(loader) == 3


@pytest.mark.parametrize(
    "options",
    [{}, {"on_device": True}, {"transform": lambda event: event}],
    ids=["compiled", "on a device", "one by one"],
)
def test_the_value_of_a_spike_can_be_chosen(packed, options):
    given, usual = (
        EventLoader(packed, 16, sampling_time=10, value=value, **options).batch(0)[0] for value in (1, None)
    )
    assert (given.value, usual.value) == (1.0, 0.1)
    assert torch.equal(given.dense(), 10 * usual.dense())
    for value in (0, -1, float("nan"), float("inf"), "1"):
        with pytest.raises(ValueError, match=f"value: expected a positive number, found {value!r}"):
            EventLoader(packed, 16, value=value)


@pytest.mark.parametrize("sampling_time", [1, 2, 0.5, 0.3, 0.001, 1 / 3, 7.7, 0.0001])
def test_bin_edges_agree_with_rounding(sampling_time):
    edges = bin_edges(400, sampling_time)
    t = np.arange(min(400_000, int(390 * sampling_time * 1000) + 3))
    by_edges = np.searchsorted(edges, t)
    inside = bin_of(t, sampling_time) < 400
    assert np.array_equal(by_edges[inside], bin_of(t, sampling_time)[inside])
    assert (by_edges[~inside] == 400).all()


@pytest.mark.parametrize("on_device", IMPLEMENTATIONS)
@pytest.mark.parametrize("transform", [augment, EVERYTHING], ids=["tutorial", "everything"])
def test_augmented_batches_equal_augmented_recordings(packed, transform, on_device):
    loader = EventLoader(packed, 32, shuffle=True, seed=3, transform=transform, on_device=on_device)
    _, order, draws = loader._epoch_plan(0)
    place, lost = 0, 0
    for spikes, _ in loader:
        for found in spike_sets(spikes):
            x, y, p, t = packed.recording(int(order[place]))
            new = transform.apply(draws[place].numpy(), x, y, p, t / 1000)
            expected = {
                (int(c) * 1156 + int(b) * 34 + int(a), round(k)) for a, b, c, k in zip(*new, strict=True) if k < 299.5
            }
            assert found == expected
            lost += len(t) - len(new[0])
            place += 1
    assert place == N
    assert lost > 0, "no event left the sensor, so the test shows little"


@pytest.mark.parametrize("cap", [None, 100])
@pytest.mark.parametrize("transform", [False, augment, EVERYTHING], ids=["plain", "tutorial", "everything"])
def test_both_implementations_agree_spike_by_spike(packed, transform, cap):
    options = {"shuffle": True, "transform": transform, "max_events": cap}
    pair = [EventLoader(packed, 16, on_device=on_device, **options) for on_device in (False, True)]
    for (a, labels_a), (b, labels_b) in zip(*pair, strict=True):
        assert torch.equal(a.indptr, b.indptr)
        assert torch.equal(a.channel, b.channel)
        assert torch.equal(labels_a, labels_b)
        assert a.value == b.value


@pytest.mark.gpu
@pytest.mark.parametrize("transform", [augment, EVERYTHING], ids=["tutorial", "everything"])
def test_gpu_agrees_with_cpu(packed, transform):
    pair = [EventLoader(packed, 16, shuffle=True, transform=transform, device=device) for device in ("cpu", "cuda")]
    for (a, labels_a), (b, labels_b) in zip(*pair, strict=True):
        assert b.channel.is_cuda
        assert labels_b.is_cuda
        assert torch.equal(a.indptr, b.indptr.cpu())
        assert torch.equal(a.channel, b.channel.cpu())
        assert torch.equal(labels_a, labels_b.cpu())


def batch_contents(loader):
    return [(labels.tolist(), spikes.indptr.tolist(), spikes.channel.tolist()) for spikes, labels in loader]


def test_an_epoch_depends_only_on_its_seed_and_number(packed):
    a, b = (EventLoader(packed, 16, shuffle=True, seed=1, transform=augment) for _ in range(2))
    first, second = batch_contents(a), batch_contents(a)
    assert first != second
    b.set_epoch(1)
    assert batch_contents(b) == second
    b.set_epoch(0)
    assert batch_contents(b) == first
    assert batch_contents(EventLoader(packed, 16, shuffle=True, seed=2, transform=augment)) != first
    # For every batch size, each recording is used once and augmented in the same way.
    single = EventLoader(packed, 1, shuffle=True, seed=1, transform=augment)
    channels_of_singles = [channel for _, _, channels in batch_contents(single) for channel in channels]
    assert channels_of_singles == [channel for _, _, channels in first for channel in channels]
    ids = packed.ids[a._epoch_plan(0)[1].numpy()]
    assert sorted(ids) == list(range(1, N + 1))
    assert ids.tolist() != sorted(ids)


def test_a_seed_gives_the_same_order_and_augmentation_in_every_version(packed):
    """Otherwise a run could not be repeated later. Order and augmentation have generators of their own."""
    _, order, draws = EventLoader(packed, shuffle=True, seed=5, transform=augment)._epoch_plan(2)
    for_order, for_draws = (np.random.default_rng([5, 2, k]) for k in range(2))
    assert np.array_equal(order, for_order.permutation(N))
    assert np.array_equal(draws, augment.draws(for_draws.random((N, 5))))


@pytest.mark.parametrize("on_device", [False, True])
def test_a_change_of_the_augmentation_counts_at_once(packed, on_device):
    moves = Augment(90, 10)
    loader = EventLoader(packed, 8, transform=moves, on_device=on_device)
    before = next(iter(loader))[0].dense()
    moves.max_angle = moves.max_shift = 0
    loader.set_epoch(0)
    plain = next(iter(EventLoader(packed, 8, transform=False)))[0].dense()
    assert not torch.equal(before, plain)
    assert torch.equal(next(iter(loader))[0].dense(), plain)
    mirror = lambda event: Event(33 - event.x, event.y, event.c, event.t)  # noqa: E731
    mirrored = plain.reshape(8, 2, 34, 34, -1).flip(3).flatten(1, 3)
    for transform, expected in ((None, plain), (mirror, mirrored)):
        loader = EventLoader(packed, 8, transform=Augment(90, 10), on_device=on_device)
        next(iter(loader))
        loader.transform = transform
        loader.set_epoch(0)
        assert torch.equal(next(iter(loader))[0].dense(), expected)


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("transform", [None, lambda event: event], ids=["plain", "slow"])
def test_a_change_of_the_bins_counts_at_once(packed, on_device, transform):
    loader = EventLoader(packed, 8, on_device=on_device, transform=transform)
    for sampling_time, sample_length in ((2, 300), (2, 100), (0.5, 60), (1, 120)):
        loader.sampling_time, loader.sample_length = sampling_time, sample_length
        same = EventLoader(packed, 8, sampling_time=loader.sampling_time, sample_length=loader.sample_length)
        found, expected = loader.batch(0)[0], same.batch(0)[0]
        assert loader.bins == found.shape[2] == int(loader.sample_length / loader.sampling_time)
        assert found.value == 1 / loader.sampling_time
        assert torch.equal(found.dense(), expected.dense())
    loader.sampling_time = 0
    with pytest.raises(ValueError, match="sampling_time: expected a positive number of ms, found 0"):
        loader.batch(0)


def test_an_unfinished_epoch_counts_as_an_epoch(packed):
    loader = EventLoader(packed, 16, shuffle=True, transform=augment)
    fresh = EventLoader(packed, 16, shuffle=True, transform=augment)
    for _ in loader:
        break
    fresh.set_epoch(1)
    assert batch_contents(loader) == batch_contents(fresh)


@pytest.mark.parametrize("stop", [0, 1, 3, 4, 5])
def test_a_resumed_epoch_yields_the_remaining_batches(packed, stop):
    options = {"batch_size": 16, "shuffle": True, "seed": 4, "transform": augment}
    uninterrupted = EventLoader(packed, **options)
    epochs = [batch_contents(uninterrupted) for _ in range(3)]
    interrupted = EventLoader(packed, **options)
    batch_contents(interrupted)
    state, yielded = interrupted.state_dict() if stop == 0 else None, []
    for k, (spikes, labels) in enumerate(interrupted):
        if k == stop:
            break
        yielded.append((labels.tolist(), spikes.indptr.tolist(), spikes.channel.tolist()))
        state = interrupted.state_dict()
    state = pickle.loads(pickle.dumps(state))
    resumed = EventLoader(packed, **options)
    resumed.load_state_dict(state)
    rest = batch_contents(resumed)
    if stop == 5:  # the epoch was finished, so the next one starts
        assert yielded == epochs[1]
        assert rest == epochs[2]
    else:
        assert yielded + rest == epochs[1]
        assert batch_contents(resumed) == epochs[2]


def test_a_state_of_another_loader_is_refused(packed):
    loader = EventLoader(packed, 16, shuffle=True)
    state = loader.state_dict()
    with pytest.raises(ValueError, match="batch_size: expected 8 as in this loader, found 16"):
        EventLoader(packed, 8, shuffle=True).load_state_dict(state)
    with pytest.raises(ValueError, match="seed: expected 1 as in this loader, found 0"):
        EventLoader(packed, 16, shuffle=True, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="max_events: expected 10000 as in this loader, found None"):
        EventLoader(packed, 16, shuffle=True, max_events=10_000).load_state_dict(state)
    with pytest.raises(
        ValueError, match=r"transform: expected Augment\(max_angle=5, .*\) as in this loader, found None"
    ):
        EventLoader(packed, 16, shuffle=True, transform=Augment()).load_state_dict(state)
    other = EventLoader(packed, 16, shuffle=True, transform=str)
    with pytest.raises(ValueError, match="transform: expected str as in this loader, found Augment"):
        other.load_state_dict(EventLoader(packed, 16, shuffle=True, transform=Augment()).state_dict())
    with pytest.raises(ValueError, match="sampling_time: expected 2 as in this loader, found 1"):
        EventLoader(packed, 16, shuffle=True, sampling_time=2, sample_length=600).load_state_dict(state)
    with pytest.raises(ValueError, match=r"value: expected 2\.0 as in this loader, found 1\.0"):
        EventLoader(packed, 16, shuffle=True, value=2).load_state_dict(state)
    with pytest.raises(ValueError, match="bins: expected 100 as in this loader, found 300"):
        EventLoader(packed, 16, shuffle=True, sample_length=100).load_state_dict(state)
    first, second = (EventLoader(Subset(packed, range(n, n + 20))) for n in (0, 20))
    with pytest.raises(
        ValueError, match="recordings_sha256: expected [0-9a-f]{16} as in this loader, found [0-9a-f]{16} "
    ):
        second.load_state_dict(first.state_dict())
    EventLoader(packed.select(range(20))).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match="recordings_sha256"):
        EventLoader(packed.select(range(20, 40))).load_state_dict(first.state_dict())
    with pytest.raises(ValueError, match=r"position in 0\.\.5, found 0, 6"):
        loader.load_state_dict(state | {"position": 6})


def test_a_state_of_recordings_with_other_events_is_refused():
    one, two = (EventLoader(pack([[(7, 8, 1, 2500)] * count], [3])) for count in (1, 2))
    with pytest.raises(ValueError, match="recordings_sha256: expected"):
        two.load_state_dict(one.state_dict())


def test_subsets_and_drop_last_select_the_recordings(packed, recordings):
    class Holder(torch.utils.data.Dataset):
        packed, transform, sampling_time, sample_length = None, augment, 2, 200

        def __len__(self):
            return N

    holder = Holder()
    holder.packed = packed
    inner = Subset(holder, [9, 4, 60, 3, 30])
    loader = EventLoader(Subset(inner, [4, 0, 2]), 2, transform=False)
    assert loader.bins == 100
    spikes = [s for batch, _ in loader for s in spike_sets(batch)]
    assert spikes == [fake_nmnist.spikes(recordings[n], 100, 2) for n in (30, 9, 60)]
    assert [labels.tolist() for _, labels in loader] == [[0, 9], [0]]
    assert EventLoader(inner).transform is augment
    assert len(EventLoader(inner, 2)) == 3
    assert [len(labels) for _, labels in EventLoader(inner, 2, drop_last=True)] == [2, 2]
    part, rest = random_split(holder, [40, 30], torch.Generator().manual_seed(0))
    assert len(EventLoader(part).index) == 40
    assert not set(EventLoader(part).index) & set(EventLoader(rest).index)


def test_max_events_is_reported_and_spread_evenly(packed, recordings, capsys):
    plain = EventLoader(packed, 32)
    assert capsys.readouterr().out == ""
    assert plain.dropped_events == 0
    loader = EventLoader(packed, 32, max_events=150)
    counts = np.array([len(r) for r in recordings])
    dropped = int(np.maximum(counts - 150, 0).sum())
    over = int((counts > 150).sum())
    out = capsys.readouterr().out
    assert f"max_events=150 drops {dropped} of {counts.sum()} events" in out
    assert f"from {over} of {N} recordings" in out
    assert (loader.dropped_events, loader.capped_recordings) == (dropped, over)
    sets = [found for spikes, _ in loader for found in spike_sets(spikes)]
    for found, recording in zip(sets, recordings, strict=True):
        n = len(recording)
        kept = [e for k, e in enumerate(recording) if n <= 150 or (k + 1) * 150 // n > k * 150 // n]
        assert len(kept) == min(n, 150)
        assert found == fake_nmnist.spikes(kept, 300)


def test_events_from_user_code_are_checked(packed):
    """Many cameras write -1 for OFF (255 as uint8). Without the check, such events would be dropped silently."""
    wrong = packed.select(range(4))
    wrong.p[wrong.p == 0] = 255
    with pytest.raises(ValueError, match=r"p: expected 0\.\.1, found 255 in recording \d"):
        EventLoader(Subset(wrong, [1, 2]), 2)


def test_changed_events_of_a_cache_file_are_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake_nmnist.write_folder(tmp_path / "data", "Train", fake_nmnist.make(2))
    dataset = NMNISTDataset(tmp_path / "data")
    part = dataset.packed.concatenate([dataset.packed.select([0, 1])])
    part.labels = np.array([0, 77])
    events = dataclasses.replace(dataset.packed, labels=dataset.labels + 70)
    dataset.packed.labels = dataset.labels + 70
    for wrong in (part, events, dataset.packed, dataset):
        with pytest.raises(ValueError, match=r"labels: expected digits 0\.\.9, found \d+\.\.7\d"):
            EventLoader(wrong, 2)


def test_torchs_dataloader_yields_the_same_batches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fake_nmnist.write_folder(tmp_path / "data", "Train", fake_nmnist.make(2))
    dataset = NMNISTDataset(tmp_path / "data", sampling_time=2, sample_length=200)
    for (dense, labels), (spikes, same) in zip(DataLoader(dataset, batch_size=8), EventLoader(dataset, 8), strict=True):
        assert torch.equal(dense, spikes.dense())
        assert torch.equal(labels, same)


def test_any_function_can_be_the_transform(packed, recordings):
    def mirror(event):
        return Event(33 - event.x, event.y, event.c, event.t)

    loader = EventLoader(packed, 16, transform=mirror, max_events=200)
    sets = [found for spikes, _ in loader for found in spike_sets(spikes)]
    for found, recording in zip(sets, recordings, strict=True):
        n = len(recording)
        kept = [e for k, e in enumerate(recording) if n <= 200 or (k + 1) * 200 // n > k * 200 // n]
        assert found == fake_nmnist.spikes([(33 - x, y, p, t) for x, y, p, t in kept], 300)


def test_damaged_events_are_refused_and_never_written_out_of_bounds(packed, monkeypatch):
    damaged = packed.select(range(6))
    damaged.x[5], damaged.y[6], damaged.p[7], damaged.t[8] = 255, 255, 255, -5
    valid = [n for n in range(len(damaged.x)) if n not in (5, 6, 7, 8)]
    with pytest.raises(ValueError, match=r"x: expected 0\.\.33, found 255"):
        EventLoader(damaged)
    monkeypatch.setattr(PackedEvents, "validate", lambda _: None)  # as if the check were missing
    found = [s for spikes, _ in EventLoader(damaged) for s in spike_sets(spikes)]
    n = int(np.searchsorted(damaged.offsets, 5, side="right")) - 1
    first, last = damaged.offsets[n], damaged.offsets[n + 1]
    rows = [k for k in valid if first <= k < last]
    recording = [tuple(int(a[k]) for a in (damaged.x, damaged.y, damaged.p, damaged.t)) for k in rows]
    assert found[n] == fake_nmnist.spikes(recording, 300)
    with pytest.raises(
        ValueError, match=r"expected pixels 0\.\.33, polarity 0\.\.1 and times from 0, found x up to 255"
    ):
        EventLoader(damaged, on_device=True)


@pytest.mark.parametrize("shape", [(2, 6), (3, 8), (8,)])
def test_draws_of_another_shape_raise(packed, shape):
    index, draws, edges = np.array([0, 1]), np.zeros(shape, dtype=np.int64), bin_edges(300, 1)
    with pytest.raises(ValueError, match=r"draws: expected shape \[2, 8\], found"):
        rasterise(packed, index, draws, edges)
    with pytest.raises(ValueError, match=r"draws: expected shape \[2, 8\], found"):
        DeviceEvents(packed, "cpu").rasterise(*(torch.from_numpy(a) for a in (index, draws, edges)))


def test_keys_of_successive_recordings_are_unrelated(packed):
    # With dropout, two recordings with the same events must not lose the same ones.
    copies = packed.select([10] * 20)
    draws = EVERYTHING.draws(np.random.default_rng(0).random((20, 5)))
    assert len(set(draws[:, KEY])) == 20
    loader = EventLoader(copies, 20, transform=Augment(max_angle=0, max_shift=0, event_dropout=0.5))
    (spikes, _), *_ = loader
    assert len({frozenset(s) for s in spike_sets(spikes)}) == 20


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size: expected a whole number from 1, found 0"),
        ({"batch_size": float("nan")}, ValueError, "batch_size: expected a whole number from 1, found nan"),
        ({"max_events": 0}, ValueError, "max_events: expected a whole number from 1, found 0"),
        ({"max_events": 2.5}, ValueError, "max_events: expected a whole number from 1, found 2.5"),
        ({"max_events": "3"}, ValueError, "max_events: expected a whole number from 1, found '3'"),
        ({"seed": -1}, ValueError, "seed: expected a whole number from 0, found -1"),
        ({"seed": 0.5}, ValueError, "seed: expected a whole number from 0, found 0.5"),
        ({"transform": 5}, TypeError, "transform: expected an Augment or a function, found int"),
        (
            {"batch_size": 100, "drop_last": True},
            ValueError,
            "drop_last: expected at least batch_size=100 recordings, found 70",
        ),
    ],
)
def test_invalid_parameters_raise(packed, options, error, message):
    with pytest.raises(error, match=message):
        EventLoader(packed, **options)


def test_invalid_datasets_and_batch_numbers_raise(packed):
    with pytest.raises(TypeError, match="expected an NMNISTDataset, a Subset of one, or PackedEvents, found list"):
        EventLoader([1, 2])
    with pytest.raises(TypeError, match=r"found list; PackedEvents are N-MNIST's .34 x 34 pixels.*Event\.to_tensor"):
        EventLoader([1, 2])
    with pytest.raises(
        TypeError, match=r"found ConcatDataset; PackedEvents.concatenate\(\[a.packed, b.packed\]\) joins"
    ):
        EventLoader(ConcatDataset([packed, packed]))
    with pytest.raises(ValueError, match="expected at least one recording, found none"):
        EventLoader(packed.select([]))
    with pytest.raises(IndexError, match="batch: expected one of 3, found number 9"):
        EventLoader(packed).batch(9)
    with pytest.raises(ValueError, match="epoch: expected a whole number from 0, found -1"):
        EventLoader(packed).batch(0, -1)
    with pytest.raises(ValueError, match="epoch: expected a whole number from 0, found 1.9"):
        EventLoader(packed).set_epoch(1.9)
    with pytest.raises(ValueError, match="state: expected a result of state_dict, found none of epoch, position"):
        EventLoader(packed).load_state_dict(EventLoader(packed)._identity())


@pytest.mark.parametrize(
    "change",
    [
        {"max_angle": 30},
        {"max_shift": 1},
        {"polarity_flip": 1},
        {"max_stretch": 0.3},
        {"max_shear": 20},
        {"max_warp": 2},
        {"event_dropout": 0.5},
        {"time_jitter": 3},
    ],
)
def test_a_transform_that_is_set_later_counts_at_once(packed, change):
    loader = EventLoader(packed, 16, shuffle=True, transform=Augment())
    before, _ = loader.batch(1)
    loader.transform = Augment(**change)
    after, _ = loader.batch(1)
    expected, _ = EventLoader(packed, 16, shuffle=True, transform=Augment(**change)).batch(1)
    assert torch.equal(after.dense(), expected.dense())
    assert not torch.equal(after.dense(), before.dense())
    loader.transform = False  # as in the constructor
    plain, _ = EventLoader(packed, 16, shuffle=True, transform=False).batch(1)
    assert torch.equal(loader.batch(1)[0].dense(), plain.dense())


def test_the_plan_of_an_epoch_is_read_once(packed):
    """Between two reads, another thread may replace the plan with that of another epoch."""
    loader = EventLoader(packed, 8, shuffle=True, seed=3, transform=augment)
    other, second = loader.batch(0, 1)[0].channel, loader._plan
    expected, first = loader.batch(0, 0)[0].channel, loader._plan
    assert not torch.equal(expected, other)

    class Shared(EventLoader):
        plans = iter([first, first, second, second])

        @property
        def _plan(self):
            return next(self.plans)

        @_plan.setter
        def _plan(self, plan):
            pass

    shared = Shared(packed, 8, shuffle=True, seed=3, transform=augment)
    for _ in range(2):
        assert torch.equal(shared.batch(0, 0)[0].channel, expected)


@pytest.mark.parametrize("numbers", [np.arange(N) < 3, torch.arange(N) < 3, [True, False], [1.5, 3.0]])
def test_masks_and_fractions_are_no_numbers_of_recordings(packed, numbers):
    with pytest.raises(TypeError, match="recordings: expected whole numbers, found"):
        EventLoader(Subset(packed, numbers), 2)


def test_loaders_of_one_cache_share_the_events_on_the_device(tmp_path, packed):
    write_cache(tmp_path / "a.events", {}, len(packed), len(packed.x), lambda arrays: packed)
    mapped = open_cache(tmp_path / "a.events", {})
    first, second = (EventLoader(Subset(mapped, [n]), on_device=True) for n in (1, 2))
    assert first._events is second._events
    mapped.x = np.zeros_like(mapped.x)
    assert EventLoader(mapped, on_device=True)._events is not first._events


def test_events_are_shared_on_each_device_alone(tmp_path, packed):
    write_cache(tmp_path / "a.events", {}, len(packed), len(packed.x), lambda arrays: packed)
    mapped = open_cache(tmp_path / "a.events", {})
    found = [DeviceEvents.of(mapped, torch.device(name)) for name in ("cpu", "meta")]
    assert [events.words.device.type for events in found] == ["cpu", "meta"]


@pytest.mark.parametrize("last", [2**19 - 1, 2**19, 2**20 - 1])
def test_late_events_keep_their_times_on_the_device(last):
    words = DeviceEvents(pack([[(33, 33, 1, 3), (7, 8, 1, last)]], [0]), "cpu").words
    assert (words >> 12).tolist() == [3, last]
    assert words.dtype == (torch.int32 if last < 2**19 else torch.int64)


def test_all_events_are_copied_in_chunks(packed, monkeypatch):
    expected = DeviceEvents(packed, "cpu").words
    monkeypatch.setattr("nmnist_helpers.data.device.CHUNK", 100)
    assert torch.equal(DeviceEvents(packed, "cpu").words, expected)
    other = dataclasses.replace(packed, x=packed.x.copy())
    other.x[-1] = 34
    with pytest.raises(ValueError, match=r"expected pixels 0\.\.33, polarity 0\.\.1 .* found x up to 34"):
        DeviceEvents(other, "cpu")
