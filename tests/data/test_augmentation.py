"""Test the augmentation of one recording: rotation, shift, optional changes and random numbers."""

import math
import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nmnist_helpers.data.augmentation import Augment, augment
from nmnist_helpers.data.draw import DX, DY, FLIP, IDENTITY, KEY, XX, XY, YX, YY, mix, warp
from nmnist_helpers.io import Event

GRID_X, GRID_Y = (a.reshape(-1) for a in np.meshgrid(np.arange(34), np.arange(34)))


def make_draw(angle_degrees=0.0, dx=0, dy=0, flip=0, key=0):
    angle = math.radians(angle_degrees)
    draw = np.zeros_like(IDENTITY)
    draw[XX] = draw[YY] = round(math.cos(angle) * 2**20)
    draw[YX] = round(math.sin(angle) * 2**20)
    draw[XY] = -draw[YX]
    draw[DX], draw[DY], draw[FLIP], draw[KEY] = dx, dy, flip, key
    return draw


def random_event(n=500, seed=0, low=8, high=26):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, 300_000, n)) / 1000
    return Event(rng.integers(low, high, n), rng.integers(low, high, n), rng.integers(0, 2, n), t)


@pytest.mark.parametrize("angle", [-5, -3.3, 0.2, 4.9, 5, 30, 90])
def test_events_rotate_about_the_centre(angle):
    ones = np.ones(len(GRID_X), dtype=int)
    dx, dy = 2, -3
    # Each event has a time of its own, which identifies its pixel after the rotation.
    x, y, _, t = Augment().apply(make_draw(angle, dx, dy), GRID_X, GRID_Y, ones, np.arange(len(GRID_X)))
    found = {int(round(k)): (int(a), int(b)) for a, b, k in zip(x, y, t, strict=True)}
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    compared = 0
    for k, (px, py) in enumerate(zip(GRID_X, GRID_Y, strict=True)):
        fx = 16.5 + cos * (px - 16.5) - sin * (py - 16.5)
        fy = 16.5 + sin * (px - 16.5) + cos * (py - 16.5)
        if min(abs(fx - math.floor(fx) - 0.5), abs(fy - math.floor(fy) - 0.5)) < 1e-4:
            continue  # on the edge between two pixels, where both are correct
        compared += 1
        expected = (math.floor(fx + 0.5) + dx, math.floor(fy + 0.5) + dy)
        inside = 0 <= expected[0] < 34 and 0 <= expected[1] < 34
        assert found.get(k) == (expected if inside else None), (px, py)
    assert compared > 1100


def test_a_rotation_by_90_degrees_maps_corners_to_corners():
    corner = Event([0, 33, 33, 0, 16], [0, 0, 33, 33, 17], [1] * 5, np.arange(5.0))
    x, y, _, _ = Augment().apply(make_draw(90), corner.x, corner.y, corner.c, corner.t)
    assert list(zip(x, y, strict=True)) == [(33, 0), (33, 33), (0, 33), (0, 0), (16, 16)]


def test_the_argument_is_not_changed_and_the_identity_returns_a_copy():
    event = random_event()
    originals = [a.copy() for a in (event.x, event.y, event.c, event.t)]
    augmented = augment(event)
    assert augmented is not event
    for array, original in zip((event.x, event.y, event.c, event.t), originals, strict=True):
        assert np.array_equal(array, original)
    same = Augment(max_angle=0, max_shift=0)(event)
    for array, original in zip((same.x, same.y, same.c, same.t), originals, strict=True):
        assert np.array_equal(array, original)
        assert not np.shares_memory(array, original)


def test_fractions_are_rounded_and_payloads_kept():
    event = Event([3.6, 10.5, 20.75], [5.6, 7.2, 8.9], [0, 1, 1], [1.0, 2.0, 3.0], payload=[7.0, 8.0, 9.0])
    event.extent = 2, 34, 34, 300.0
    same = Augment(max_angle=0, max_shift=0)(event)
    assert np.array_equal(same.to_tensor(dim=(2, 34, 34, 5)), event.to_tensor(dim=(2, 34, 34, 5)))
    assert same.extent == event.extent
    lost = Augment(max_angle=0, max_shift=0, event_dropout=0.5, rng=np.random.default_rng(0))(event)
    assert 0 < len(lost) < 3
    assert lost.p.tolist() == [6 + t for t in lost.t]


def test_events_that_leave_the_sensor_are_dropped():
    event = Event([0, 30, 33, 16], [5, 5, 5, 5], [1, 1, 0, 0], [1.0, 2.0, 3.0, 4.0])
    x, y, p, t = Augment().apply(make_draw(dx=3, dy=-5), event.x, event.y, event.c, event.t)
    assert x.tolist() == [3, 33, 19]
    assert y.tolist() == [0, 0, 0]
    assert p.tolist() == [1, 1, 0]
    assert t.tolist() == [1.0, 2.0, 4.0]


def test_a_warp_moves_grid_points_at_random_and_interpolates_between_them():
    """Compare with the definition in floating point: bilinear interpolation of the grid points' own moves."""
    largest, ones = 3.0, np.ones(len(GRID_X), dtype=int)
    nodes = np.empty((4, 4, 2, 4000))
    for key in range(4000):
        for j, i in np.ndindex(4, 4):
            nodes[j, i, :, key] = warp(key, Augment(max_warp=largest).warp_scale, 11 * i, 11 * j)
    nodes /= 2**21
    assert abs(nodes).max() < largest + 1e-5
    assert np.allclose(np.histogram(nodes, 10, (-largest, largest))[0] / nodes.size, 0.1, atol=0.005)
    correlation = np.corrcoef(nodes.reshape(32, -1))
    assert abs(correlation - np.eye(32)).max() < 0.08
    for key in range(3):
        x, y, _, t = Augment(max_warp=largest).apply(make_draw(key=key), GRID_X, GRID_Y, ones, np.arange(len(GRID_X)))
        found = {int(k): (a, b) for a, b, k in zip(x, y, t, strict=True)}
        grid = torch.from_numpy(nodes[..., key]).permute(2, 0, 1)[None]
        field = torch.nn.functional.interpolate(grid, size=34, mode="bilinear", align_corners=True)[0]
        moved_x, moved_y = np.stack([GRID_X, GRID_Y]) + field.reshape(2, -1).numpy()
        clear = (abs(moved_x % 1 - 0.5) > 1e-3) & (abs(moved_y % 1 - 0.5) > 1e-3)
        assert clear.mean() > 0.95
        for k in np.flatnonzero(clear):
            expected = (math.floor(moved_x[k] + 0.5), math.floor(moved_y[k] + 0.5))
            assert found.get(k) == (expected if 0 <= min(expected) and max(expected) < 34 else None), (key, k)


def test_digits_are_stretched_then_sheared_then_rotated():
    """Take the matrices of many draws apart: rotation, slant, width and height are uniform and independent."""
    uniform = np.random.default_rng(0).random((40_000, 5))
    draws = Augment(max_angle=20, max_stretch=0.3, max_shear=10).draws(uniform)
    plain = Augment(max_angle=20).draws(uniform)
    assert np.array_equal(draws[:, DX:], plain[:, DX:])
    matrix = draws[:, : YY + 1].reshape(-1, 2, 2) / 2**20
    angle = np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])
    assert np.allclose(angle, np.arctan2(plain[:, YX], plain[:, XX]), atol=1e-5)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)
    upright = turn @ matrix  # [[width, slant * height], [0, height]]
    assert abs(upright[:, 1, 0]).max() < 1e-5
    width, height = upright[:, 0, 0], upright[:, 1, 1]
    slant = upright[:, 0, 1] / height
    for values, middle, largest in ((width, 1, 0.3), (height, 1, 0.3), (slant, 0, math.tan(math.radians(10)))):
        low, high = middle - largest, middle + largest
        assert low - 1e-5 < values.min() < low + 0.001
        assert high - 0.001 < values.max() < high + 1e-5
        assert np.allclose(np.histogram(values, 10, (low, high))[0] / 4000, 1, atol=0.06)
    assert abs(np.corrcoef([angle, width, height, slant]) - np.eye(4)).max() < 0.02


def test_a_matrix_moves_pixels_about_the_centre():
    """Positive slants move the lower rows, whose numbers are larger, to the right."""
    draw = IDENTITY.copy()
    draw[[XX, XY, YX, YY]] = np.rint(np.array([1.25, 0.2, -0.1, 0.8]) * 2**20)
    x, y, _, t = Augment().apply(draw, GRID_X, GRID_Y, np.ones(len(GRID_X), dtype=int), np.arange(len(GRID_X)))
    kept = t.astype(int)
    u, v = GRID_X - 16.5, GRID_Y - 16.5
    exact = np.array([16.5 + 1.25 * u + 0.2 * v, 16.5 - 0.1 * u + 0.8 * v])
    inside = ((exact > -0.499) & (exact < 33.499)).all(0)
    assert 700 < inside.sum() <= len(kept)
    assert set(np.flatnonzero(inside)) <= set(kept)
    assert abs(exact[:, kept] - [x, y]).max() < 0.501


def test_draws_are_uniform_and_within_their_limits():
    draws = augment.draws(np.random.default_rng(0).random((90_000, 5)))
    angle = np.degrees(np.arctan2(draws[:, YX], draws[:, XX]))
    assert -5 <= angle.min() < -4.99
    assert 4.99 < angle.max() <= 5
    assert np.allclose(np.histogram(angle, 10, (-5, 5))[0] / 9000, 1, atol=0.06)
    for column in (DX, DY):
        values, counts = np.unique(draws[:, column], return_counts=True)
        assert values.tolist() == list(range(-4, 5))
        assert np.allclose(counts / 10_000, 1, atol=0.06)
    assert abs(np.corrcoef(draws[:, DX], draws[:, DY])[0, 1]) < 0.02
    assert not draws[:, FLIP].any()
    assert len(np.unique(draws[:, KEY])) > 89_900
    edge = augment.draws(np.array([[0, 0, np.nextafter(1, 0), 0, np.nextafter(1, 0)]]))[0]
    assert (edge[DX], edge[DY], edge[KEY]) == (-4, 4, 2**32 - 1)


def test_given_numbers_give_the_same_draw_in_every_version():
    """Otherwise a run could not be repeated later."""
    draws = Augment(max_angle=10, max_shift=4).draws([[0.75, 0, 0.999, 0.5, 0.5]])
    assert np.array_equal(draws, [make_draw(5, -4, 4, key=2**31)])


def test_mix_is_the_finaliser_of_murmurhash3():
    # Known values: MurmurHash3 (x86, 32 bit) of the empty string with these seeds.
    for seed, value in ((0, 0), (1, 0x514E28B7), (0xFFFFFFFF, 0x81F16F39)):
        assert mix(seed) == value
        assert int(mix(np.array([seed], dtype=np.int64))[0]) == value
        assert int(mix(torch.tensor([seed]))[0]) == value


def test_event_dropout_drops_events_independently():
    event = random_event(20_000)
    drop_events = Augment(max_angle=0, max_shift=0, event_dropout=0.3, rng=np.random.default_rng(1))
    first, second = drop_events(event), drop_events(event)
    for remaining in (first, second):
        assert abs(len(remaining.x) / 20_000 - 0.7) < 0.015
    assert not np.array_equal(first.t[:100], second.t[:100])
    # The two calls are independent: 0.7 of the events that one of them keeps are also kept by the other.
    share = len(np.intersect1d(first.t, second.t)) / len(np.unique(first.t))
    assert abs(share - 0.7) < 0.03
    assert len(Augment(event_dropout=1.0)(event).x) == 0


def test_time_jitter_is_nearly_normal_and_drops_negative_times():
    n = 40_000
    event = Event(np.full(n, 16), np.full(n, 16), np.ones(n, int), np.full(n, 100.0))
    moved = Augment(max_angle=0, max_shift=0, time_jitter=2.0, rng=np.random.default_rng(2))(event).t - 100
    assert len(moved) == n
    assert abs(moved.mean()) < 0.05
    assert abs(moved.std() - 2) < 0.03
    assert abs(moved).max() < 2 * 3.47
    assert 0.66 < (abs(moved) < 2).mean() < 0.70  # 0.683 in a normal distribution
    assert np.allclose(moved * 1000, np.rint(moved * 1000), atol=1e-6)  # whole microseconds
    early = Event(np.full(n, 16), np.full(n, 16), np.ones(n, int), np.zeros(n))
    remaining = Augment(max_angle=0, max_shift=0, time_jitter=2.0, rng=np.random.default_rng(3))(early)
    assert remaining.t.min() >= 0
    assert abs(len(remaining.t) / n - 0.5) < 0.02


def jittered(t):
    """Return the times of one event at `t` ms that a fixed draw moves to an earlier time: one, or none."""
    one = np.ones(1)
    return Augment(time_jitter=1).apply(make_draw(key=2), one, one, one, np.array([t]))[3].tolist()


def test_times_are_rounded_to_microseconds_before_they_are_moved():
    assert jittered(9.9999999) == jittered(10.0)


def test_an_event_that_is_moved_to_time_0_is_kept():
    earliest = round(10 - jittered(10.0)[0], 3)
    assert earliest > 0
    assert jittered(earliest) == [0]
    assert jittered(earliest - 0.001) == []


def test_polarity_flip_swaps_whole_recordings():
    event = random_event()
    flipped = Augment(max_angle=0, max_shift=0, polarity_flip=1.0)(event)
    assert np.array_equal(flipped.c, 1 - event.c)
    rng = np.random.default_rng(4)
    flip = Augment(max_angle=0, max_shift=0, polarity_flip=0.25, rng=rng)
    share = np.mean([np.array_equal(flip(event).c, 1 - event.c) for _ in range(800)])
    assert 0.2 < share < 0.3


def test_a_torch_seed_or_a_generator_makes_a_run_repeatable():
    event = random_event()

    def run(transform):
        return [transform(event) for _ in range(3)]

    torch.manual_seed(7)
    a = run(augment)
    torch.manual_seed(7)
    b = run(augment)
    c = run(augment)
    assert all(np.array_equal(e.x, f.x) and np.array_equal(e.y, f.y) for e, f in zip(a, b, strict=True))
    assert not all(np.array_equal(e.x, f.x) for e, f in zip(a, c, strict=True))
    state = torch.get_rng_state()
    a = run(Augment(rng=np.random.default_rng(1)))
    b = run(Augment(rng=np.random.default_rng(1)))
    assert all(np.array_equal(e.x, f.x) for e, f in zip(a, b, strict=True))
    assert torch.equal(state, torch.get_rng_state())


class OneEvent(torch.utils.data.Dataset):
    """A dataset of one event, augmented at each access; a sample is a checksum of the augmented pixels."""

    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 8

    def __getitem__(self, n):
        event = self.transform(random_event())
        return int((event.x * 34 + event.y).sum())


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_workers_with_a_generator_differ_from_each_other_and_from_epoch_to_epoch():
    def epochs(seed):
        torch.manual_seed(seed)
        dataset = OneEvent(Augment(rng=np.random.default_rng(0)))
        # Other workers could not import this module, in which the dataset is defined.
        loader = torch.utils.data.DataLoader(dataset, batch_size=1, num_workers=2, multiprocessing_context="fork")
        return [int(v) for _ in range(2) for v in loader]

    first = epochs(0)
    assert len(set(first)) >= 15, "workers or epochs drew the same numbers"
    assert first == epochs(0)


def test_a_worker_draws_from_the_given_generator(monkeypatch):
    monkeypatch.setattr(torch.utils.data, "get_worker_info", lambda: SimpleNamespace(seed=5))
    draws = [Augment(rng=np.random.default_rng(seed)).uniform().tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_angle": -1}, r"max_angle: expected 0\.\.180 degrees, found -1"),
        ({"max_shift": float("nan")}, r"max_shift: expected whole pixels in 0\.\.33, found nan"),
        ({"max_shift": float("inf")}, r"max_shift: expected whole pixels in 0\.\.33, found inf"),
        ({"max_shift": 1.5}, r"max_shift: expected whole pixels in 0\.\.33, found 1.5"),
        ({"event_dropout": 1.1}, r"event_dropout: expected a probability 0\.\.1, found 1.1"),
        ({"polarity_flip": -0.1}, r"polarity_flip: expected a probability 0\.\.1"),
        ({"max_warp": 11.5}, r"max_warp: expected 0\.\.11 pixels, found 11.5"),
        ({"max_stretch": 0.6}, r"max_stretch: expected 0\.\.0.5, found 0.6"),
        ({"max_shear": 46}, r"max_shear: expected 0\.\.45 degrees, found 46"),
        ({"time_jitter": float("nan")}, r"time_jitter: expected 0\.\.1000 ms, found nan"),
    ],
)
def test_invalid_parameters_raise(options, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("max_angle", 180),
        ("max_shift", 33),
        ("event_dropout", 1),
        ("polarity_flip", 1),
        ("time_jitter", 1000),
        ("max_warp", 11),
        ("max_stretch", 0.5),
        ("max_shear", 45),
    ],
)
def test_parameters_may_reach_their_limits(name, most):
    Augment(**{name: most})
    for wrong in (-1, most + 1):
        with pytest.raises(ValueError, match=f"{name}: expected .*, found {wrong}"):
            Augment(**{name: wrong})


def test_invalid_generators_and_events_raise():
    with pytest.raises(TypeError, match="rng: expected a numpy.random.Generator, found int"):
        Augment(rng=3)
    with pytest.raises(ValueError, match="expected an event on a 34 x 34 sensor"):
        augment(Event([1, 2], None, [0, 0], [0.0, 1.0]))
    with pytest.raises(ValueError, match=r"expected pixels 0\.\.33, found x 1\.\.34"):
        augment(Event([1, 34], [0, 0], [0, 0], [0.0, 1.0]))
    with pytest.raises(ValueError, match=r"polarity flip: expected polarities 0 and 1, found 0\.\.2"):
        Augment(polarity_flip=1)(Event([1, 3], [0, 0], [0, 2], [0.0, 1.0]))
    with pytest.raises(ValueError, match=r"uniform: expected shape \[n, 5\], found \(3, 4\)"):
        augment.draws(np.zeros((3, 4)))
    for number in (1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match="uniform: expected numbers of at least 0 and below 1, found others"):
            augment.draws(np.full((1, 5), number))
    with pytest.raises(TypeError, match="draws: expected int64, found float64"):
        augment.apply(np.zeros(8), *np.zeros((4, 1)))
    for width in (6, 9):
        with pytest.raises(ValueError, match=rf"draws: expected shape \[1, 8\], found \[1, {width}\]"):
            augment.apply(np.zeros(width, dtype=np.int64), *np.zeros((4, 1)))


@pytest.mark.parametrize("name", ["y", "polarities", "t"])
def test_arrays_of_other_lengths_are_not_repeated(name):
    arrays = {"x": [1, 2, 3], "y": [4, 5, 6], "polarities": [0, 1, 0], "t": [7.0, 8, 9]} | {name: [1]}
    with pytest.raises(ValueError, match=rf"augment: expected {name} of shape \[3\], like x, found \[1\]"):
        Augment().apply(IDENTITY, *map(np.array, arrays.values()))


@pytest.mark.parametrize("value", ["5", None])
def test_options_are_numbers(value):
    for name in ("max_angle", "max_shift", "event_dropout", "time_jitter", "max_warp"):
        with pytest.raises(ValueError, match=f"{name}: expected .*, found {value!r}"):
            Augment(**{name: value})
