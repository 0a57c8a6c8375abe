"""Test that invalid lists of spikes are refused before compiled code reads them."""

import numpy as np
import pytest
import torch
from support.neurons import DYNAMICS

from nmnist_helpers.block.cuba import Dense, Pool
from nmnist_helpers.netx import LayerSpec, Net
from nmnist_helpers.spikes import DenseSpikes, Spikes, remembered


def ints(*numbers) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


INDPTR, CHANNEL, SHAPE = ints(0, 2, 2, 3, 5), ints(0, 4, 2, 1, 3), (2, 5, 2)
LAYER = LayerSpec("dense", np.full((3, 5), 2), None, 1024, 123, 80)

INVALID = {
    "channel far outside": ({"channel": ints(0, 10**8, 2, 1, 3)}, "channels from 0 to 4, found 0..100000000"),
    "channel just outside": ({"channel": ints(0, 5, 2, 1, 3)}, "channels from 0 to 4, found 0..5"),
    "channel below 0": ({"channel": ints(-1, 4, 2, 1, 3)}, "channels from 0 to 4, found -1..4"),
    "channel twice in a row": ({"channel": ints(4, 4, 2, 1, 3)}, "increase within a row, found 4 before 4 in row 0"),
    "channels that fall": ({"channel": ints(0, 4, 2, 3, 1)}, "increase within a row, found 3 before 1 in row 3"),
    "falling indptr": ({"indptr": ints(0, 3, 2, 3, 5)}, "rise from 0 to 5, .*decreases in between"),
    "indptr that begins late": ({"indptr": ints(1, 2, 2, 3, 5)}, "rise from 0 to 5, .*from 1 to 5"),
    "too few channels": ({"channel": ints(0, 4, 2, 1)}, "rise from 0 to 4, .*from 0 to 5"),
    "indptr of another length": ({"indptr": ints(0, 2, 5)}, r"B \* T \+ 1 = 5 entries of indptr .*, found 3"),
    "64-bit channels": ({"channel": CHANNEL.long()}, r"channel as a contiguous int32 tensor .*found torch.int64 \[5\]"),
    "float indptr": ({"indptr": INDPTR.float()}, "indptr as a contiguous int32 tensor .*found torch.float32"),
    "strided channels": ({"channel": torch.stack([CHANNEL, CHANNEL], 1)[:, 0]}, "channel as a contiguous int32"),
    "NumPy channels": ({"channel": CHANNEL.numpy()}, "channel as a contiguous int32 tensor .*found ndarray"),
    "another device": ({"channel": CHANNEL.to("meta")}, "on one device, found cpu and meta"),
    "two axes": ({"shape": (2, 10)}, r"a shape \(B, C, T\) of whole numbers from 0, found \(2, 10\)"),
    "a negative size": ({"shape": (-2, 5, -2)}, r"a shape \(B, C, T\) of whole numbers"),
    "a size of 64 bits": ({"shape": (2, 2**40, 2)}, r"B \* T and C below 2\*\*31"),
    "value NaN": ({"value": float("nan")}, "a finite value of a spike other than 0, found nan"),
    "value 0": ({"value": 0}, "a finite value of a spike other than 0, found 0"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_list_is_refused(name):
    invalid, message = INVALID[name]
    valid = {"indptr": INDPTR, "channel": CHANNEL, "shape": SHAPE}
    assert Spikes(**valid).count == 5
    with pytest.raises(ValueError, match=f"Spikes: expected .*{message}"):
        Spikes(**{**valid, **invalid})


@pytest.mark.parametrize("part", ["indptr", "channel"])
def test_a_list_that_was_changed_in_place_is_checked_again(part):
    spikes = Spikes(INDPTR.clone(), CHANNEL.clone(), SHAPE)
    block = Dense(DYNAMICS, 5, 3)
    block(spikes)
    getattr(spikes, part)[1] = 10**8
    with pytest.raises(ValueError, match="Spikes: expected"):
        block(spikes)


CHANGES = {
    "channels in place": lambda spikes: spikes.channel.add_(50),
    "other channels": lambda spikes: setattr(spikes, "channel", spikes.channel * 10**7),
    "another indptr": lambda spikes: setattr(spikes, "indptr", spikes.indptr[:-1].contiguous()),
    "another shape": lambda spikes: setattr(spikes, "shape", (3, 5, 2)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("made", ["checked", "trusted"])
def test_a_changed_list_is_checked_again_wherever_it_is_read(made, change):
    readers = (Dense(DYNAMICS, 5, 3), Spikes.dense, Spikes.rows, lambda spikes: spikes.to("meta"), Net([LAYER]))
    for read in readers:
        spikes = Spikes(INDPTR.clone(), CHANNEL.clone(), SHAPE)
        if made == "trusted":
            spikes = Spikes.from_dense(spikes.dense().clone())
        read(spikes)
        CHANGES[change](spikes)
        with pytest.raises(ValueError, match="Spikes: expected"):
            read(spikes)


@pytest.mark.parametrize("picture", [(1, 2, 2), (3, 3, 3), (4, 1), "411", (2.0, 1, 2), (4, 1, 0)])
def test_a_picture_has_as_many_pixels_as_the_spikes_have_channels(picture):
    """Compiled code would read outside the picture."""
    spikes = Spikes.from_dense(torch.ones(1, 5, 3))
    message = "expected a picture .* of 5 pixels, found"
    with pytest.raises(ValueError, match=message):
        Spikes(spikes.indptr, spikes.channel, spikes.shape, picture=picture)
    with pytest.raises(ValueError, match=message):
        spikes.as_picture(picture)
    spikes.picture = picture
    with pytest.raises(ValueError, match=message):
        Pool({"threshold": 1, "current_decay": 1, "voltage_decay": 1}, 1)(spikes)


def test_a_source_has_the_size_of_the_spikes():
    spikes = Spikes.from_dense(torch.ones(1, 5, 3))
    with pytest.raises(ValueError, match=r"expected a source of shape \(1, 5, 3\), found \[3\]"):
        Spikes(spikes.indptr, spikes.channel, spikes.shape, source=torch.zeros(3))


def test_spikes_can_be_made_in_inference_mode():
    with torch.inference_mode():
        spikes = Spikes(INDPTR.clone(), CHANNEL.clone(), SHAPE)
        assert torch.equal(Spikes.from_dense(spikes.dense()).dense(), spikes.dense())


def test_bytes_above_1_count_as_one_spike():
    rows = torch.tensor([[[0, 255, 2, 0, 1, 0, 0, 0, 0, 7]]], dtype=torch.uint8)
    assert Spikes.from_rows(rows).channel.tolist() == [1, 2, 4, 9]
    with pytest.raises(ValueError, match=r"Spikes.from_rows: expected a uint8 tensor \[B, T, C\], found torch.float32"):
        Spikes.from_rows(rows.float())


@pytest.mark.parametrize("form", [Spikes, DenseSpikes])
@pytest.mark.parametrize("access", ["numpy", "data"])
@pytest.mark.parametrize("change", ["added", "removed", "moved", "another value"])
def test_a_change_that_torch_does_not_count_is_detected(form, access, change):
    rng = np.random.default_rng(0)
    events = form.from_rows(torch.from_numpy((rng.random((2, 30, 9)) < 0.2).astype(np.uint8)), 0.5)
    dense = events.dense()
    assert remembered(dense) is events
    (on, off) = ((dense != 0).nonzero()[7].tolist(), (dense == 0).nonzero()[100].tolist())
    view = dense.numpy() if access == "numpy" else dense.data
    if change != "removed":
        view[tuple(off)] = 0.5
    if change in ("removed", "moved"):
        view[tuple(on)] = 0
    if change == "another value":
        view[tuple(off)], view[tuple(on)] = 0, 0.25
    assert remembered(dense) is None
    found = Spikes.from_dense(dense)
    assert found is None if change == "another value" else torch.equal(found.dense(), dense)
