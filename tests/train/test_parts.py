"""Test how recordings are divided into those to learn from and those to choose the epoch on."""

from types import SimpleNamespace

import numpy as np
import pytest

from nmnist_helpers.train import Settings
from nmnist_helpers.train.parts import evenly_spaced, fingerprint, learn_and_validate, split


@pytest.mark.parametrize("validation", [1 / 6, 20])
def test_split_is_fixed_disjoint_and_balanced(validation):
    labels = np.repeat(np.arange(10), 12)
    learn, validate = split(labels, validation)
    assert sorted([*learn, *validate]) == list(range(120))
    assert (np.bincount(labels[validate]) == 2).all()
    again = split(labels, validation)
    assert (learn == again[0]).all()
    assert (validate == again[1]).all()
    assert (np.diff(learn) > 0).all()
    assert (np.diff(validate) > 0).all()
    assert all(map(np.array_equal, split(labels.tolist(), validation), again))


@pytest.mark.parametrize(
    ("labels", "validation"),
    [([0, 0, 1], 1), ([0, 0, 1, 1], 3), ([0, 0, 1, 1], 0.1), ([], 1), ([0] * 500 + [1] * 2, 5)],
)
def test_split_needs_a_recording_of_each_digit_in_both_parts(labels, validation):
    with pytest.raises(ValueError, match="--recordings, --validation: expected both parts to have a recording of each"):
        split(np.array(labels), validation)


@pytest.mark.parametrize("most", [50, 60, 64, 599])
def test_evenly_spaced_recordings_have_every_digit_equally_often(most):
    labels = np.repeat(np.arange(10), 60)  # recordings are sorted by digit
    chosen = evenly_spaced(len(labels), most)
    assert len(np.unique(chosen)) == len(chosen) == most
    counts = np.bincount(labels[chosen], minlength=10)
    assert counts.max() - counts.min() <= 1
    for all_of_them in (None, 600, 601):
        assert (evenly_spaced(600, all_of_them) == np.arange(600)).all()


class AllOfMnist:
    """A stand-in for a dataset that simulates all of MNIST, with its digits in random order."""

    source = "simulated"

    def __init__(self):
        self.packed = SimpleNamespace(ids=np.random.default_rng(0).permutation(60_000) + 1)

    def __len__(self):
        return 60_000


@pytest.mark.parametrize(
    ("options", "most", "sizes"),
    [
        ({}, 5000, (55_000, 5000)),
        ({"validation": 0.05}, 3000, (57_000, 3000)),
        ({"recordings": 6000}, 13_000, (5000, 1000)),
    ],
)
def test_the_first_digits_of_mnist_are_for_validation(options, most, sizes):
    dataset = AllOfMnist()
    learn, validate = learn_and_validate(dataset, Settings(**options))
    assert (len(learn), len(validate)) == sizes
    ids = dataset.packed.ids
    assert 1100 < ids[validate].max() < ids[learn].min() <= most + 1
    assert (learn[:-1] < learn[1:]).all()


def test_all_digits_of_mnist_cannot_be_for_validation():
    with pytest.raises(ValueError, match="validation: expected fewer than the 60000 recordings, found 60000"):
        learn_and_validate(AllOfMnist(), Settings(validation=60_000))


class Some:
    """A stand-in for a dataset of recordings that are sorted by digit."""

    def __init__(self, count, source="recorded"):
        self.source, self.labels = source, np.arange(count) * 10 // count
        ids, counts = np.arange(count) + 1, 4000 + np.arange(count) % 7
        self.packed = SimpleNamespace(labels=self.labels, ids=ids, counts=counts)

    def __len__(self):
        return len(self.labels)


def test_only_simulated_digits_are_divided_by_their_numbers():
    """The official recordings are as many as the digits of MNIST."""
    dataset = Some(60_000)
    _, validate = learn_and_validate(dataset, Settings())
    assert np.bincount(dataset.labels[validate]).tolist() == [500] * 10


def test_both_parts_come_from_the_recordings_that_are_used():
    dataset = Some(600)
    learn, validate = learn_and_validate(dataset, Settings(recordings=100))
    assert sorted([*learn, *validate]) == evenly_spaced(600, 100).tolist()
    assert len(validate) == 17, "a sixth, rounded up"


def test_other_recordings_have_another_fingerprint():
    learn, validate = np.arange(30), np.arange(30, 40)
    found = {fingerprint(Some(40), learn, validate), fingerprint(Some(40, "simulated"), learn, validate)}
    for column in ("labels", "ids", "counts"):
        dataset = Some(40)
        getattr(dataset.packed, column)[7] += 1
        found.add(fingerprint(dataset, learn, validate))
    found |= {fingerprint(Some(40), learn, validate[:0]), fingerprint(Some(40), learn[:0], learn)}
    assert len(found) == 7
    assert fingerprint(Some(40), learn, validate) in found
