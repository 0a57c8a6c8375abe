"""Test `Event`, and events as tensors and back."""

import numpy as np
import pytest
import torch
from support.events import random_events

from nmnist_helpers import io
from nmnist_helpers.io import Event, tensor_to_event


def test_an_event_stores_its_arguments():
    event = Event([3, 1], [0, 2], [1, 1], [0.5, 7.25])
    assert (event.dim, event.graded, event.p, len(event)) == (2, False, None, 2)
    assert event.c.tolist() == [1, 1]  # without OFF events, ON events stay ON
    assert event.t.tolist() == [0.5, 7.25]
    assert repr(event) == "Event(2-D, 2 events, 0.5..7.25 ms)"
    graded = Event([1.0], None, [0], [2], payload=[3.5])
    assert (graded.dim, graded.y, graded.graded, graded.p.tolist()) == (1, None, True, [3.5])
    assert graded.x.dtype == np.int64


def test_an_event_copies_its_arguments():
    c = np.array([1, 1])
    event = Event(np.array([1, 2]), None, c, np.array([0, 1]))
    event.c[0] = 0
    assert c.tolist() == [1, 1]
    payload = np.array([1.5, 2.5])
    Event([1, 2], None, c, [0, 1], payload).p[0] = 0
    assert payload.tolist() == [1.5, 2.5]


@pytest.mark.parametrize(("arguments", "message"), [
    (([1, 2], [1], [0, 0], [0, 0]), r"expected y of shape \[2\], like t, found \[1\]"),
    (([1, 2], None, [0, 0], [0]), r"expected x of shape \[1\], like t, found \[2\]"),
    (([1, 2], None, [0, 0], [0, 1], [1]), r"expected payload of shape \[2\]"),
    (([[1, 2]], None, [[0, 0]], [[0, 1]]), r"expected x of shape \[2\], like t, found \[1, 2\]"),
    (([0, 2], None, [0, 0], [0, float("nan")]), "expected finite t, found nan"),
    (([0, float("inf")], None, [0, 0], [0, 1]), "expected finite x, found inf"),
    ((["a", "b"], None, [0, 0], [0, 1]), "expected numbers for x, found <U1"),
    (([1, 2], None, [0, 0j], [0, 1]), "expected numbers for c, found complex128"),
    (([1, 2], None, [0, 0], [0, 1], [1, float("nan")]), "expected finite payload, found nan"),
    (([1, 2], None, [0, 0], [0, 1], ["a", "b"]), "expected numbers for payload, found <U1"),
    (([1, 2], None, [0, 0], [0, 1], [None, 1]), "expected numbers for payload, found object"),
    (([1, 2], None, [0, 0], [0, 1], [1, 1j]), "expected numbers for payload, found complex128"),
])  # fmt: skip
def test_invalid_events_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        Event(*arguments)


# -- tensors


def reference_tensor(event, shape, sampling_time, mode):
    out = np.zeros(shape)
    for i in range(len(event)):
        t = int(np.rint(event.t[i] / sampling_time))
        if 0 <= t < shape[3]:
            at = (event.c[i], 0 if event.y is None else event.y[i], event.x[i], t)
            value = 1 / sampling_time if event.p is None else event.p[i]
            out[at] = value if mode == "OR" and event.p is None else out[at] + value
    return out


@pytest.mark.parametrize("mode", ["OR", "SUM"])
@pytest.mark.parametrize("sampling_time", [1, 2, 0.5])
@pytest.mark.parametrize("graded", [False, True])
def test_fill_tensor_matches_the_reference(mode, sampling_time, graded):
    event = random_events(800, width=3)
    if graded:
        event.p = np.random.default_rng(1).random(800)
    shape = (2, 3, 3, 100)
    expected = reference_tensor(event, shape, sampling_time, mode)
    assert (expected > 1 / sampling_time).any() == (mode == "SUM" and not graded) or graded  # some events coincide
    array = np.zeros(shape)
    assert event.fill_tensor(array, sampling_time, binning_mode=mode) is array
    np.testing.assert_allclose(array, expected)
    tensor = torch.zeros(shape)
    assert event.fill_tensor(tensor, sampling_time, binning_mode=mode.lower()) is tensor
    np.testing.assert_allclose(tensor, expected, rtol=1e-6)
    short = torch.zeros(shape, dtype=torch.bfloat16)
    assert event.fill_tensor(short, sampling_time, binning_mode=mode) is short
    np.testing.assert_allclose(short.float(), expected, rtol=0.01)


def test_fill_tensor_writes_through_a_strided_view():
    base = torch.zeros(2, 4, 34, 34, 2)
    event = random_events(100)
    event.t = event.t / 200
    event.fill_tensor(base[:, 1, :, :, :].expand(2, 34, 34, 2)[..., 0:2])
    assert base.sum() == reference_tensor(event, (2, 34, 34, 2), 1, "OR").sum()


@pytest.mark.parametrize(("factor", "shift"), [(1000, 0), (1000, 400_000), (1, 800), (1, -400)])
def test_times_that_miss_the_tensor_are_reported(factor, shift):
    event = random_events()
    event.t = factor * event.t + shift
    with pytest.warns(UserWarning, match=r"expected times in 0\.\.299.5 ms, found .* of 500 events are left out: are"):
        event.to_tensor(dim=(2, 34, 34, 300))


def test_times_that_are_left_out_on_purpose_are_not_reported(recwarn):
    event = random_events()
    event.to_tensor(dim=(2, 34, 34, 10))  # the first 10 ms of 300
    event.fill_tensor(torch.zeros(2, 34, 34, 2), random_shift=True)
    event.t = event.t + 9.6 - event.t.min()
    Event(*([a[0]] for a in (event.x, event.y, event.c, event.t))).to_tensor(dim=(2, 34, 34, 10))  # the last half bin
    gap = Event([0, 0], [0, 0], [0, 0], [-5, 30])
    assert not gap.to_tensor(dim=(1, 1, 1, 10)).any()
    assert not recwarn.list


def test_times_are_rounded_half_to_even():
    event = Event([0] * 5, None, [0] * 5, [0.5, 1.5, 2.5, 3.49, 4.51])
    assert np.flatnonzero(event.to_tensor(dim=(1, 1, 8))).tolist() == [0, 2, 3, 5]


def fill_both(event, tensor, *args, **kwargs):
    """Fill a tensor and an equally large array, which must agree, and return the indices of their nonzero entries."""
    array = np.zeros(tuple(tensor.shape))
    event.fill_tensor(array, *args, **kwargs)
    event.fill_tensor(tensor, *args, **kwargs)
    np.testing.assert_allclose(tensor, array, rtol=1e-6)
    return np.argwhere(array).tolist()


def test_events_outside_the_tensor_are_left_out():
    event = Event([1, 2], [2, 3], [0, 1], [1.0, 2.0])
    event.x = event.x - 2  # as an augmentation may do; -1 must not mean the last column
    assert fill_both(event, torch.zeros(2, 5, 5, 4)) == [[1, 3, 0, 2]]
    event = Event([0, 1, 0], [0, 0, 1], [0, 1, 0], [-0.6, 3, 9.5])
    assert event.to_tensor(dim=(2, 2, 2, 10)).sum() == 1  # bins -1 and 10 are outside
    for dim in ((1, 2, 2, 5), (2, 2, 1, 5)):
        assert not event.to_tensor(dim=dim).any()
    far = Event([1e300, 2**63, -(2**62), 1], [0] * 4, [0] * 4, [1, 1, 1, 1e300])
    assert not far.to_tensor(dim=(1, 2, 2, 2)).any()
    with pytest.raises(ValueError, match="expected at most 2.32 entries, .* pass dim"):
        far.to_tensor()


@pytest.mark.parametrize("mode", ["OR", "SUM"])
def test_fractional_pixels_are_rounded_half_to_even_with_their_payloads(mode):
    event = Event([0.5, 1.5, 2.4, -0.5, -0.6, 3.5], [0] * 6, [0] * 6, [0] * 6, payload=[1, 2, 3, 4, 5, 6])
    expected = [5, 0, 5, 0]  # payloads are added; 0.5 and -0.5 are rounded to 0, 1.5 and 2.4 to 2
    assert event.to_tensor(dim=(1, 1, 4, 1), binning_mode=mode).ravel().tolist() == expected
    event.c, event.y = np.array([0, 0.4, 0.6, 0, 0, 0]), [0.0, 0.2, 0, 0, 0, 0]
    with pytest.warns(UserWarning, match="expected channels 0..0, found 0..1; 1 of 6 events are left out"):
        assert event.to_tensor(dim=(1, 1, 4, 1), binning_mode=mode).ravel().tolist() == [5, 0, 2, 0]
    event.x = event.x * np.nan
    with pytest.raises(ValueError, match="expected numbers for x, found nan"):
        event.to_tensor(dim=(1, 1, 4, 1))


def test_one_dimensional_events_of_one_polarity_fit_one_channel():
    on = Event([3, 1, 199], None, [1, 1, 1], [4, 6, 1999])
    assert fill_both(on, torch.zeros(1, 1, 200, 2000)) == [[0, 0, 1, 6], [0, 0, 3, 4], [0, 0, 199, 1999]]
    assert fill_both(on, torch.zeros(2, 1, 200, 2000))[0] == [1, 0, 1, 6]
    both = Event([3, 1], None, [1, 0], [4, 6])
    camera = Event([3, 1], [0, 0], [1, 1], [4, 6])  # two-dimensional ON events are not stored as OFF
    for event, expected in ((both, [[0, 0, 1, 6]]), (camera, [])):
        with pytest.warns(UserWarning, match="events are left out"):
            assert fill_both(event, torch.zeros(1, 1, 200, 20)) == expected


def test_rounded_rounds_pixels_and_drops_negative_ones():
    event = Event([0.6, -1, 5], [1, 2, 3.5], [0, 1, 1], [1, 2, 3], [7, 8, 9])
    shown = event.rounded()
    assert (shown.x.tolist(), shown.y.tolist(), shown.t.tolist(), shown.p.tolist()) == ([1, 5], [1, 4], [1, 3], [7, 9])
    assert shown.x.dtype == np.int64


def test_to_tensor_is_just_large_enough():
    event = Event([3, 1], [0, 2], [1, 0], [4, 6])
    assert event.to_tensor().shape == (2, 3, 4, 7)
    assert event.to_tensor(sampling_time=2).shape == (2, 3, 4, 4)
    line = Event([3, 1], None, [1, 0], [4, 6])
    assert line.to_tensor().shape == (2, 4, 7)
    assert line.to_tensor(dim=(2, 1, 5, 9)).shape == (2, 1, 5, 9)
    assert Event([], [], [], []).to_tensor().shape == (1, 1, 1, 1)


def test_to_tensor_has_room_for_rounded_pixels():
    tensor = Event([0.0, 3.6], [0, 0], [0, 0], [0, 1]).to_tensor()
    assert np.argwhere(tensor).tolist() == [[0, 0, 0, 0], [0, 0, 4, 1]]


def test_random_shift_moves_all_events_equally_within_the_tensor():
    event = Event([0, 0], None, [0, 0], [0, 4])
    starts = set()
    for seed in range(40):
        np.random.seed(seed)  # noqa: NPY002 (users set this seed)
        bins = np.flatnonzero(event.fill_tensor(np.zeros((1, 1, 1, 8)), random_shift=True))
        assert bins[1] - bins[0] == 4
        starts.add(int(bins[0]))
    assert starts == {0, 1, 2, 3}


def test_random_shift_fills_a_short_tensor_from_any_part_of_the_recording():
    event = Event(np.arange(10), None, np.zeros(10), np.arange(10))
    starts = set()
    for seed in range(60):
        np.random.seed(seed)  # noqa: NPY002 (users set this seed)
        _, neuron, bins = np.nonzero(event.fill_tensor(np.zeros((1, 1, 10, 7)), random_shift=True)[:, 0])
        assert bins.tolist() == list(range(7))
        starts.add(int(neuron[0]))
    assert starts == {0, 1, 2, 3}


def test_random_shift_leaves_out_events_at_very_large_times():
    assert not Event([0], None, [0], [1e300]).fill_tensor(np.zeros((1, 1, 1, 8)), random_shift=True).any()


def test_fill_tensor_refuses_invalid_arguments():
    event = random_events(3)
    with pytest.raises(ValueError, match="binning_mode 'OR' or 'SUM', found 'max'"):
        event.fill_tensor(np.zeros((2, 34, 34, 5)), binning_mode="max")
    with pytest.raises(ValueError, match=r"expected a tensor \[C, H, W, T\], found \[2, 34, 5\]"):
        event.fill_tensor(np.zeros((2, 34, 5)))
    with pytest.raises(ValueError, match="sampling_time: expected a positive number of ms, found 0"):
        event.to_tensor(sampling_time=0)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("shape", [(2, 5, 6, 40), (1, 10, 40)])
@pytest.mark.parametrize("sampling_time", [1, 2, 0.1])
def test_tensor_to_event_and_back(kind, shape, sampling_time):
    tensor = (np.random.default_rng(3).random(shape) < 0.1) * np.float32(1 / sampling_time)
    event = tensor_to_event(kind(tensor), sampling_time)
    assert event.dim == len(shape) - 2
    assert not event.graded
    assert (np.diff(event.t) >= 0).all()
    assert event.extent == (shape[0], shape[1] if len(shape) == 4 else 1, shape[-2], shape[-1] * sampling_time)
    np.testing.assert_array_equal(event.to_tensor(sampling_time, dim=shape), tensor)


def test_tensor_to_event_keeps_other_values_as_payload():
    tensor = np.zeros((1, 2, 3))
    tensor[0, 1, 2], tensor[0, 0, 1] = -2.5, 1
    event = tensor_to_event(tensor)
    assert event.graded
    assert (event.x.tolist(), event.t.tolist(), event.p.tolist()) == ([0, 1], [1, 2], [1, -2.5])


def test_tensor_to_event_accepts_tensors_without_spikes_or_off_events():
    silent = tensor_to_event(torch.zeros(1, 10, 30))
    assert len(silent) == 0
    assert silent.extent == (1, 1, 10, 30)
    tensor = np.zeros((2, 4, 4, 5))
    tensor[1, 2, 3, 4] = 1
    assert tensor_to_event(tensor).c.tolist() == [1]


def test_tensor_to_event_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"expected \[C, H, W, T\] or \[C, N, T\], found \[3, 4\]"):
        tensor_to_event(np.zeros((3, 4)))


def test_a_tensor_of_whole_numbers_must_hold_the_values():
    event = Event([1, 2], [1, 2], [0, 1], [1.0, 2.0])
    assert event.fill_tensor(np.zeros((2, 10, 10, 10), np.uint8)).sum() == 2
    with pytest.raises(ValueError, match=r"expected a tensor that can hold 0\.5, found uint8; use float32"):
        event.fill_tensor(np.zeros((2, 10, 10, 10), np.uint8), sampling_time=2)
    graded = Event([1, 2], [1, 2], [0, 1], [1.0, 2.0], payload=[1, 300])
    with pytest.raises(ValueError, match="can hold 300, found uint8"):
        graded.fill_tensor(np.zeros((2, 10, 10, 10), np.uint8))


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64, np.float16, np.float32])
def test_spikes_of_every_type_become_events(kind):
    spikes = np.array([[[0, 1, 0, 1]]], kind)
    event = io.tensor_to_event(spikes, sampling_time=0.001)
    np.testing.assert_allclose(event.t, [0.001, 0.003])
    np.testing.assert_array_equal(event.p, [1, 1])  # not 1 / sampling_time
    assert io.tensor_to_event(spikes).p is None


@pytest.mark.parametrize("time", [0, -1, float("nan"), float("inf")])
def test_an_impossible_sampling_time_raises_an_error(time):
    with pytest.raises(ValueError, match="sampling_time: expected a positive number of ms"):
        io.tensor_to_event(np.ones((1, 1, 2)), sampling_time=time)


def test_channels_outside_the_tensor_are_reported():
    """lava-dl lets the lowest channel become 0; here channels keep their numbers."""
    for channels, left in (([1, 2, 1], 1), ([-1, 1, -1], 2)):
        event = Event([1, 2, 3], [4, 5, 6], channels, [0, 1, 2])
        with pytest.warns(UserWarning, match=rf"expected channels 0..1, found .*; {left} of 3 events are left out"):
            assert event.to_tensor(dim=(2, 10, 10, 5)).sum() == 3 - left
    with pytest.warns(UserWarning, match="expected channels 0..0, found 1..1; 3 of 3 events are left out"):
        Event([1, 2, 3], [4, 5, 6], [1, 1, 1], [0, 1, 2]).to_tensor(dim=(1, 10, 10, 5))


def test_packed_events_can_be_compared():
    packed = io.PackedEvents(*(np.zeros(2, kind) for kind in io.EVENT_ARRAYS.values()), *(np.zeros(2, int),) * 3)
    assert packed == packed
    assert packed != io.PackedEvents(**vars(packed))
