"""Test how recordings are divided into those to learn from and those to choose the epoch on."""

from types import SimpleNamespace

import numpy as np
import pytest

from nmnist_helpers.train import Settings
from nmnist_helpers.train.parts import evenly_spaced, learn_and_validate, split


@pytest.mark.parametrize("validation", [1 / 6, 20])
def test_split_is_fixed_disjoint_and_balanced(validation):
    labels = np.repeat(np.arange(10), 12)
    learn, validate = split(labels, validation)
    assert sorted([*learn, *validate]) == list(range(120))
    assert (np.bincount(labels[validate]) == 2).all()
    again = split(labels, validation)
    assert (learn == again[0]).all()
    assert (validate == again[1]).all()
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
