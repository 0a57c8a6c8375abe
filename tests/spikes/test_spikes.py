"""Test spikes as lists of events and as dense tensors, and the events that a dense tensor remembers."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch
from support.pairs import pairwise

import nmnist_helpers as slayer
from nmnist_helpers.spikes import DenseSpikes, Spikes, attach, remembered

SIZES = [(1, 1, 1), (3, 7, 5), (2, 8, 16), (2, 130, 3), (1, 5, 300)]


def random_dense(sizes, density=0.2, value=1.0, seed=0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy((rng.random(sizes) < density).astype(np.float32)) * value


def spike_positions(spikes: Spikes) -> list[tuple[int, int, int]]:
    """Return (b, t, c) of every spike in the order of the list."""
    steps = spikes.shape[2]
    rows = np.repeat(np.arange(len(spikes.indptr) - 1), np.diff(spikes.indptr.numpy()))
    return [(int(r) // steps, int(r) % steps, int(c)) for r, c in zip(rows, spikes.channel, strict=True)]


def test_gradients_flow_back_from_events_to_the_dense_tensor():
    dense = random_dense((2, 5, 7), 0.3, 1.0).requires_grad_()
    scaled = 2 * dense
    Spikes.from_dense(scaled).dense().sum().backward()
    assert (dense.grad == 2).all()
    assert Spikes.from_dense(scaled.detach()).source is None
    assert DenseSpikes.from_events(Spikes.from_dense(scaled)).dense().requires_grad
    with torch.no_grad():
        assert Spikes.from_dense(scaled).source is None


@pairwise(sizes=SIZES, density=[0, 0.05, 0.5, 1], value=[1.0, 1 / 0.95, -2.5])
def test_dense_to_events_and_back(sizes, density, value):
    dense = random_dense(sizes, density, value)
    spikes = Spikes.from_dense(dense)
    batch, channels, steps = sizes
    expected = [(b, t, c) for b in range(batch) for t in range(steps) for c in range(channels) if dense[b, c, t] != 0]
    assert spike_positions(spikes) == expected
    assert spikes.count == len(expected)
    for form in (spikes, DenseSpikes.from_events(spikes)):
        assert form.density == pytest.approx(len(expected) / dense.numel())
    assert spikes.shape == sizes
    assert len(spikes) == batch
    if expected:
        assert spikes.value == pytest.approx(value, rel=1e-7)
    assert torch.equal(spikes.dense(), dense)
    rows = spikes.rows(torch.uint8, value=1)
    assert rows.dtype == torch.uint8
    again = Spikes.from_rows(rows, spikes.value)
    assert torch.equal(again.indptr, spikes.indptr)
    assert torch.equal(again.channel, spikes.channel)
    assert spikes.indptr.dtype == spikes.channel.dtype == torch.int32


def test_events_do_not_depend_on_layout_and_type():
    dense = random_dense((4, 9, 14))
    expected = spike_positions(Spikes.from_dense(dense))
    strided = torch.zeros(4, 18, 28)[:, ::2, ::2]
    strided.copy_(dense)
    swapped = dense.transpose(1, 2).contiguous().transpose(1, 2)
    forms = [strided, swapped, *(dense.to(t) for t in (torch.bool, torch.uint8, torch.int64, torch.half, torch.double))]
    for form in forms:
        assert spike_positions(Spikes.from_dense(form)) == expected, form.dtype
    rows = strided.transpose(1, 2).to(torch.uint8)
    assert spike_positions(Spikes.from_rows(rows)) == expected


def test_graded_spikes_have_no_events():
    dense = random_dense((3, 5, 8), 0.3)
    assert Spikes.from_dense(dense) is not None
    at = dense.nonzero()
    within = dense.clone()
    within[tuple(at[0])] = 2.0  # two values in one sample
    assert Spikes.from_dense(within) is None
    between = dense.clone()
    between[2] *= 3  # two values, one per sample
    assert Spikes.from_dense(between) is None
    graded = torch.arange(12).reshape(1, 3, 4)  # integers can be graded too
    assert Spikes.from_dense(graded) is None
    dense[tuple(at[-1])] = float("nan")
    assert Spikes.from_dense(dense) is None


def test_wrong_shapes_raise():
    with pytest.raises(ValueError, match=r"expected a tensor \[B, C, T\], found torch.float32 \[3, 4\]"):
        Spikes.from_dense(torch.zeros(3, 4))
    for make in (
        lambda: Spikes.from_dense(torch.zeros(2, 0, 5)),
        lambda: Spikes.from_rows(torch.zeros(2, 5, 0).byte()),
    ):
        with pytest.raises(ValueError, match="expected at least one channel, found shape"):
            make()


def test_to_the_same_device_is_the_same_object():
    spikes = Spikes.from_dense(random_dense((2, 3, 4)))
    assert spikes.to("cpu") is spikes
    assert spikes.device == torch.device("cpu")


@pytest.mark.parametrize("kind", [lambda spikes: spikes, DenseSpikes.from_events], ids=["list", "bytes"])
@pytest.mark.parametrize(
    ("use", "error", "name"),
    [
        (lambda x: x[0], TypeError, "indexing"),
        (list, TypeError, "indexing"),
        (np.asarray, TypeError, "NumPy"),
        (lambda x: np.float32(2) * x, TypeError, "NumPy"),
        (lambda x: x.float(), AttributeError, "float"),
        (lambda x: x.mean(), AttributeError, "mean"),
        (slayer.utils.event_rate, TypeError, "indexing"),
        (slayer.io.tensor_to_event, TypeError, "NumPy"),
        (lambda x: slayer.axon.delay(x, 2), AttributeError, "reshape"),
        (slayer.neuron.cuba.Neuron(1.25, 0.25, 0.03), AttributeError, "float"),
    ],
)
def test_operations_of_tensors_point_to_dense(kind, use, error, name):
    spikes = kind(Spikes.from_dense(random_dense((2, 3, 4))))
    message = rf"^{name}: expected a tensor \[B, C, T\], found {type(spikes).__name__}; dense\(\) makes one$"
    with pytest.raises(error, match=message):
        use(spikes)


@pytest.mark.parametrize("kind", [lambda spikes: spikes, DenseSpikes.from_events], ids=["list", "bytes"])
def test_other_unknown_names_are_the_usual_errors(kind):
    spikes = kind(Spikes.from_dense(random_dense((2, 3, 4))))
    for name in ("nothing", "_version", "__array_interface__", "__torch_function__"):
        with pytest.raises(AttributeError, match=f"object has no attribute '{name}'"):
            getattr(spikes, name)
    for same in (copy.copy(spikes), copy.deepcopy(spikes), pickle.loads(pickle.dumps(spikes)), spikes.cpu()):
        assert type(same) is type(spikes)
        assert torch.equal(same.dense(), spikes.dense())


def test_a_dense_tensor_remembers_its_events():
    spikes = Spikes.from_dense(random_dense((2, 3, 4)))
    dense = spikes.dense()
    assert remembered(dense) is spikes
    assert Spikes.from_dense(dense) is spikes
    assert remembered(dense.clone()) is None
    assert remembered(torch.zeros(2)) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.add_(1),
        lambda x: x.__setitem__((0, 0, 0), 1 - x[0, 0, 0].item()),
        lambda x: x[1].mul_(2),  # through a view
        lambda x: x.transpose(0, 1).zero_(),
    ],
)
def test_a_tensor_that_is_changed_in_place_forgets_its_events(change):
    dense = Spikes.from_dense(random_dense((2, 3, 4), 0.5)).dense()
    change(dense)
    assert remembered(dense) is None
    found = Spikes.from_dense(dense)
    assert found is None or torch.equal(found.dense(), dense)


def test_copies_and_saved_files_do_not_remember_events():
    """If copies or saved files took the events along, later changes would not invalidate them."""
    dense = Spikes.from_dense(random_dense((2, 3, 4), 0.5)).dense()
    copied = copy.deepcopy(dense)
    assert remembered(copied) is None
    file = io.BytesIO()
    torch.save(dense, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    assert torch.equal(loaded, dense)
    assert remembered(loaded) is None
    assert remembered(dense) is not None


def test_events_are_released_with_their_tensor():
    from nmnist_helpers.spikes import batch

    before = len(batch._events)
    tensors = [Spikes.from_dense(random_dense((2, 3, 4), seed=i)).dense() for i in range(5)]
    assert len(batch._events) == before + 5
    del tensors
    assert len(batch._events) == before


def test_events_of_inference_tensors_are_not_remembered():
    """Torch does not count the changes of these tensors, so their events could become outdated unnoticed."""
    with torch.inference_mode():
        dense = random_dense((2, 3, 4))
        spikes = Spikes.from_dense(dense)
        assert remembered(attach(dense, spikes)) is None
        dense.zero_()
        assert Spikes.from_dense(dense).count == 0
