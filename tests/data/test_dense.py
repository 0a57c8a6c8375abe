"""Test that torch's DataLoader stacks samples into batches of the same values that remember their events."""

import copy
import multiprocessing
import pickle
import random
from copy import deepcopy

import numpy as np
import pytest
import torch
from support import fake_nmnist
from torch.utils.data import DataLoader, Subset, default_collate

from nmnist_helpers.data import dense
from nmnist_helpers.data.augmentation import Augment
from nmnist_helpers.data.dataset import NMNISTDataset
from nmnist_helpers.spikes import Spikes, remembered

EVERYTHING = Augment(
    max_angle=20, event_dropout=0.2, time_jitter=3, polarity_flip=0.5, max_warp=3, max_stretch=0.3, max_shear=10
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    fake_nmnist.write_folder(root, "Train", fake_nmnist.make(0, per_digit=2, count=200))
    return root


def dataset(root, **options):
    return NMNISTDataset(root, **options)


def stack_samples(data, indices):
    spikes, labels = zip(*[data[index] for index in indices], strict=True)
    return torch.stack(spikes), torch.tensor(labels)


@pytest.mark.parametrize("transform", [None, EVERYTHING])
@pytest.mark.parametrize("sampling_time", [1, 2])
def test_a_batch_is_the_stack_of_its_samples(root, transform, sampling_time):
    data = dataset(root, transform=transform, sampling_time=sampling_time)
    indices = [3, 3, 19, -1, 0]
    torch.manual_seed(0)
    expected, labels = stack_samples(data, indices)
    torch.manual_seed(0)
    batch = data.__getitems__(indices)
    after = torch.rand(1)
    for n, (spike, label) in enumerate(batch):
        assert type(spike) is torch.Tensor
        assert torch.equal(spike, expected[n])
        assert label == labels[n]
    assert torch.equal(batch[-1][0], expected[-1])
    assert len(batch[1:3]) == 2
    found = default_collate(batch)
    assert type(found) is list
    assert type(found[0]) is torch.Tensor
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], labels)
    assert found[1].dtype == torch.int64
    # The batch remembers the events of its samples.
    events = remembered(found[0])
    assert torch.equal(events.dense(), expected)
    assert events.value == 1 / sampling_time
    # A batch draws as many random numbers as its samples do one by one.
    torch.manual_seed(0)
    stack_samples(data, indices)
    assert torch.equal(torch.rand(1), after)
    with pytest.raises(IndexError, match="recording: expected one of 20, found number 20"):
        data.__getitems__([0, 20])
    assert len(data.__getitems__([])) == 0


def hide_off_events(batch):
    for spikes, _ in batch:
        spikes[:1156] = 0
    return default_collate(batch)


def swap_and_relabel(batch):
    batch.sort(key=lambda sample: -sample[1])
    batch[0] = (batch[0][0], 77)
    return default_collate(batch)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_batch_may_be_changed_before_it_is_collated(root, workers):
    data = dataset(root)
    expected, labels = stack_samples(data, range(8))
    loader = DataLoader(data, batch_size=8, num_workers=workers, collate_fn=hide_off_events)
    spikes, found = next(iter(loader))
    expected[:, :1156] = 0
    assert torch.equal(spikes, expected)
    assert torch.equal(found, labels)
    spikes, found = next(iter(DataLoader(data, batch_size=8, num_workers=workers, collate_fn=swap_and_relabel)))
    order = sorted(range(8), key=lambda n: -labels[n])
    assert torch.equal(spikes, stack_samples(data, order)[0])
    assert found.tolist() == [77, *labels[order].tolist()[1:]]


def double(batch):
    batch[0][0].mul_(2)


def add_a_spike(batch):
    batch[0][0].view(-1)[(batch[0][0] == 0).view(-1).nonzero()[0]] = 1


def relabel(batch):
    batch[1] = (batch[1][0], 77)


@pytest.mark.parametrize("change", [double, add_a_spike, relabel])
def test_every_change_of_a_sample_reaches_the_collated_and_the_pickled_batch(root, change):
    batch = dataset(root).__getitems__(range(3))
    plain = [(spikes.clone(), label) for spikes, label in dataset(root).__getitems__(range(3))]
    change(batch)
    change(plain)
    for changed in (batch, pickle.loads(pickle.dumps(batch))):
        spikes, labels = default_collate(changed)
        assert torch.equal(spikes, torch.stack([spikes for spikes, _ in plain]))
        assert labels.tolist() == [label for _, label in plain]


def test_a_batch_is_a_list(root):
    data = dataset(root)
    labels = [int(data.labels[n]) for n in range(4)]

    def batch():
        return data.__getitems__(range(4))

    def found(samples):
        samples = list(samples)
        assert all(isinstance(sample, tuple) and sample[0].shape == (2312, 300) for sample in samples)
        return [label for _, label in samples]

    assert isinstance(batch(), list)
    assert found(batch() + batch()) == found([*batch(), *batch()]) == 2 * labels
    assert found([batch()[0]] + batch()) == [labels[0], *labels]  # noqa: RUF005
    assert batch()[-1][1] == labels[-1]
    assert torch.equal(batch()[-1][0], batch()[3][0])
    assert found(list(batch())) == found(batch().copy()) == found(batch()[:]) == labels
    assert found(reversed(batch())) == labels[::-1]
    assert found(copy.copy(batch())) == found(pickle.loads(pickle.dumps(batch()))) == labels
    shuffled = batch()
    random.Random(0).shuffle(shuffled)
    assert sorted(found(shuffled)) == sorted(labels)
    assert not torch.equal(default_collate(shuffled)[0], default_collate(batch())[0])
    shorter = batch()
    last = shorter.pop()
    assert (len(shorter), last[1]) == (3, labels[-1])
    del shorter[0]
    shorter.append(last)
    assert found(shorter) == labels[1:]
    assert default_collate(shorter)[1].tolist() == labels[1:]
    read = batch()
    assert read[0] is read[0]


def test_samples_of_several_batches_are_stacked(root):
    data = dataset(root)
    pairs = [*data.__getitems__([1, 2]), *data.__getitems__([3])]
    spikes, labels = default_collate(pairs)
    assert torch.equal(spikes, stack_samples(data, [1, 2, 3])[0])
    assert labels.tolist() == stack_samples(data, [1, 2, 3])[1].tolist()


def test_other_transforms_and_uncached_recordings_are_stacked_without_events(root):
    def move(event):
        event.x = event.x + 0.4
        return event

    for data in (dataset(root, transform=move), dataset(root, cache=False)):
        (spikes, labels), *_ = DataLoader(data, batch_size=4)
        assert torch.equal(spikes, stack_samples(data, range(4))[0])
        assert remembered(spikes) is None


def collate_to_dict(batch):
    return {"spikes": torch.stack([spike for spike, _ in batch]), "labels": [label for _, label in batch]}


def halve(batch):
    """Collate a batch and change it, in the worker process."""
    spikes, labels = default_collate(batch)
    spikes.mul_(0.5)
    return spikes, labels


def change_through_numpy(batch):
    spikes, labels = default_collate(batch)
    spikes.numpy()[0] = 7
    return spikes + 0, spikes.sum(), np.asarray(spikes).max(), spikes


@pytest.mark.parametrize(
    "context", [None, *(pytest.param(name, marks=pytest.mark.slow) for name in ("fork", "spawn", "forkserver"))]
)
def test_workers_send_the_events(root, context):
    if context not in (None, *multiprocessing.get_all_start_methods()):
        pytest.skip(f"this system has no start method {context}")
    data = Subset(dataset(root, transform=EVERYTHING), [5, 4, 3, 2, 1, 0])
    workers = {} if context is None else {"num_workers": 1, "multiprocessing_context": context}

    def run(collate=None):
        torch.manual_seed(4)
        return list(DataLoader(data, batch_size=3, collate_fn=collate, **workers))

    batches = run()
    if context in ("spawn", "forkserver"):  # importing torch takes seconds there; the rest is as with fork
        for spikes, _ in batches:
            assert torch.equal(remembered(spikes).dense(), spikes)
            assert spikes.shape == (3, 2312, 300)
        assert [label for _, labels in batches for label in labels.tolist()] == data.dataset.labels[5::-1].tolist()
        return
    references = run(collate_to_dict)
    assert len(batches) == 2
    for (spikes, labels), expected in zip(batches, references, strict=True):
        assert type(spikes) is torch.Tensor
        assert torch.equal(spikes, expected["spikes"])
        assert labels.tolist() == expected["labels"]
        assert torch.equal(remembered(spikes).dense(), spikes)
    for (spikes, _), expected in zip(run(halve), references, strict=True):
        assert type(spikes) is torch.Tensor
        assert torch.equal(spikes, 0.5 * expected["spikes"])
        assert remembered(spikes) is None
    for (same, total, largest, spikes), expected in zip(run(change_through_numpy), references, strict=True):
        expected["spikes"][0] = 7
        assert torch.equal(same, expected["spikes"])
        assert torch.equal(spikes, expected["spikes"])
        assert (total, largest) == (expected["spikes"].sum(), 7)


def test_memory_is_reused_when_nothing_refers_to_it(monkeypatch):
    monkeypatch.setattr(dense, "_buffers", [])
    spikes = Spikes.from_dense((torch.rand(3, 5, 7) < 0.3).float())
    expected = spikes.dense()

    def make():
        return dense.make_dense(spikes.indptr, spikes.channel, spikes.shape, spikes.value)

    first = make()
    address = first.data_ptr()
    first += 1  # must not show when the memory is reused
    view = first[1, 2]
    del first
    second = make()
    assert second.data_ptr() != address  # a view still refers to the first batch
    assert torch.equal(second, expected)
    del view
    third = make()
    assert third.data_ptr() == address
    assert torch.equal(third, expected)
    array = second.numpy()
    del second
    fourth = make()
    fourth += 5
    assert np.array_equal(array, expected)
    assert torch.equal(third, expected)
    assert len(dense._buffers) == 2


@pytest.mark.slow
def test_a_workers_batch_can_be_read_in_every_way(root):
    dataset = NMNISTDataset(root)
    spikes = dataset.__getitems__(range(4)).spikes
    expected = spikes.dense()
    for read in (
        lambda x: x.numpy(),
        lambda x: x.tolist(),
        deepcopy,
        torch.from_dlpack,
        lambda x: x.share_memory_(),
        lambda x: torch.tensor([]).set_(x.untyped_storage(), 0, x.shape),
    ):
        assert torch.equal(torch.as_tensor(read(dense._LazyBatch(spikes))), expected)
