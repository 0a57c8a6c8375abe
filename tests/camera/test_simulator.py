"""The simulated event camera: against the physics that it claims, its determinism, its cache, its files."""

import math
from dataclasses import replace

import numpy as np
import pytest
from support.fake_nmnist import same

from nmnist_helpers.camera import digits, pixels, simulator
from nmnist_helpers.camera.path import BURSTS, PATH, PATH_STEP, PAUSES, SACCADES
from nmnist_helpers.camera.sensor import SensorParams
from nmnist_helpers.data import recordings
from nmnist_helpers.data.recordings import Recordings
from nmnist_helpers.geometry import SIDE
from nmnist_helpers.io import PackedEvents

#: A sensor in which nothing is left to chance but where each pixel starts.
PLAIN = SensorParams(
    spread_on=0, spread_off=0, noise=0, refractory=1.0, refractory_spread=0, reset=0, leak=0, background=0, hot=0,
    delay=(0, 0, 0), delay_spread=(0, 0, 0), duration_spread=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def some():
    images, labels, ids = digits.load_digits(False)
    chosen = np.linspace(0, len(images) - 1, 12).astype(int)
    return images[chosen], labels[chosen], ids[chosen]


# Determinism


def test_events_depend_on_seed_and_id_alone(some):
    images, labels, ids = some
    every = simulator.simulate(images, 3, ids, labels).validate()
    np.testing.assert_array_equal(every.ids, ids)
    np.testing.assert_array_equal(every.labels, labels)
    assert same(every, simulator.simulate(images, 3, ids, labels, workers=1))
    for n in (0, 5, 11):
        assert same(every.select([n]), simulator.simulate(images[n : n + 1], 3, ids[n : n + 1], labels[n : n + 1]))
    back = simulator.simulate(images[::-1], 3, ids[::-1], labels[::-1])
    assert same(every, back.select(np.arange(12)[::-1]))
    assert not same(every, simulator.simulate(images, 4, ids, labels))


def test_the_same_image_under_two_ids_is_two_recordings(some):
    image = some[0][:1]
    first, second = (simulator.simulate(image, ids=[n], params=SensorParams(delay_spread=(0, 0, 0))) for n in (1, 2))
    assert first.counts[0] != second.counts[0] or not np.array_equal(first.t, second.t)
    assert abs(int(first.counts[0]) - int(second.counts[0])) < 0.1 * first.counts[0]


def test_chunks_and_room_do_not_show(some, monkeypatch):
    images, labels, ids = some
    expected = simulator.simulate(images, 0, ids, labels)
    monkeypatch.setattr(simulator, "CHUNK", 5)
    monkeypatch.setattr(simulator, "ROOM", 100)
    assert same(expected, simulator.simulate(images, 0, ids, labels))


def test_parts_together_are_the_whole(some):
    images, labels, ids = some
    expected = simulator.simulate(images, 0, ids, labels)
    parts = [*simulator.simulate_chunks(images, 0, ids, labels, size=5)]
    assert [len(part) for part in parts] == [5, 5, 2]
    assert same(expected, PackedEvents.concatenate(parts))
    (whole,) = simulator.simulate_chunks(images, 0, ids, labels)
    assert same(expected, whole)


def test_parts_are_simulated_when_they_are_asked_for(some, monkeypatch):
    simulated = []
    record = pixels.record
    monkeypatch.setattr(pixels, "record", lambda images, *rest: (simulated.append(len(images)), record(images, *rest)))
    parts = simulator.simulate_chunks(some[0], size=4)
    assert simulated == []
    next(parts)
    assert sum(simulated) == 4


def test_bursts_begin_when_the_image_moves():
    """The image is fastest after each burst's beginning and slowest in the pause before."""
    speed = [np.hypot(*np.subtract(place(ms + 5), place(ms))) for ms in range(0, 310)]
    for begin, (start, end) in zip(BURSTS[1:], PAUSES, strict=True):
        assert start < begin <= end
        assert max(speed[int(start) : int(begin)]) < 0.5 * max(speed[int(begin) : int(begin) + 40])
    assert all(begin <= burst < end for begin, burst, end in zip(SACCADES[:3], BURSTS, SACCADES[1:], strict=True))


def test_nothing_to_simulate():
    events = simulator.simulate(np.empty((0, 28, 28), np.uint8)).validate()
    assert len(events) == 0
    assert len(events.t) == 0


# Physics


def light(image, params, right, down):
    """Log light of all pixels [34, 34], computed the long way: sums of small squares of screen and sensor."""
    fine = 8
    axis = (np.arange(28 * fine) + 0.5) / fine - 14  # place of each sub-square on the screen, pixels
    ink = np.kron((image / 255.0) ** params.gamma, np.ones((fine, fine)))
    y, x = np.meshgrid(axis, axis, indexing="ij")
    x, y, ink = x[ink > 0], y[ink > 0], ink[ink > 0]
    at_x = params.zoom * x - params.tilt * y + right
    at_y = params.zoom * y + params.tilt * x + down
    pixel = np.arange(SIDE) - 13.5
    bell_x = np.exp(-0.5 * ((pixel[:, None] - at_x) / params.blur) ** 2)
    bell_y = np.exp(-0.5 * ((pixel[:, None] - at_y) / params.blur) ** 2)
    taken = (bell_y * ink) @ bell_x.T / (2 * math.pi * params.blur**2 * fine**2)
    return np.log(1 - (1 - math.exp(-params.contrast)) * np.minimum(taken, 1))


def place(ms):
    """The path at `ms`, straight from knot to knot."""
    knots = np.array(PATH)
    times = np.arange(len(knots)) * PATH_STEP
    return np.interp(ms, times, knots[:, 0]), np.interp(ms, times, knots[:, 1])


def test_events_add_up_to_the_change_of_log_light(some):
    images, _, ids = some
    on, off = PLAIN.threshold_on, PLAIN.threshold_off
    events = simulator.simulate(images, 0, ids, params=PLAIN)
    changed = 0
    for n in (1, 6, 9):
        x, y, p, t = events.recording(n)
        start = light(images[n], PLAIN, *place(0))
        for ms in (35, 60, 95, 140, 165, 208, 240, 262, 300):
            sofar = t < 1000 * ms
            total = np.zeros((SIDE, SIDE))
            np.add.at(total, (y[sofar], x[sofar]), np.where(p[sofar], on, -off))
            now = light(images[n], PLAIN, *place(ms))
            # A pixel is never further than a threshold from its next event, now or at the start; 0.03 is for
            # the grid and for the path's roundness.
            assert np.abs(total - (now - start)).max() < on + off + 0.03, (n, ms)
            changed += (np.abs(now - start) > 0.8).sum()
    assert changed > 2000  # there was something to follow


def test_ink_that_arrives_is_off_and_ink_that_leaves_on():
    image = np.zeros((28, 28), np.uint8)
    image[10:14, 4:24] = 255  # a bar across, which the first saccade moves down by five pixels
    events = simulator.simulate(np.stack([image] * 20), params=PLAIN)
    first = events.t < 90_000
    y, p = events.y[first].astype(int), events.p[first]
    below, above = (y >= 18) & (y <= 20), (y >= 11) & (y <= 13)
    assert p[below].mean() < 0.05
    assert p[above].mean() > 0.95
    assert min(below.sum(), above.sum()) > 20 * 3 * 10


def test_thresholds_scale_the_number_of_events(some):
    images, _, ids = some
    few, many = (
        simulator.simulate(images, 0, ids, params=replace(PLAIN, threshold_on=s, threshold_off=s)).counts.mean()
        for s in (0.2, 0.1)
    )
    assert 1.9 < many / few < 2.4


def test_a_pixel_keeps_silent_for_the_refractory_time(some):
    images, _, ids = some
    events = simulator.simulate(images, 0, ids, params=replace(PLAIN, refractory=4000.0))
    gaps = []
    for n in range(len(events)):
        x, y, _, t = events.recording(n)
        pixel = y.astype(int) * SIDE + x
        order = np.lexsort((t, pixel))
        gaps.append(np.diff(t[order])[np.diff(pixel[order]) == 0])
    gaps = np.concatenate(gaps)
    assert gaps.min() >= 3999  # times are whole microseconds
    assert np.mean(gaps < 4100) > 0.05  # it was in the way
    free = simulator.simulate(images, 0, ids, params=PLAIN)
    assert free.counts.sum() > events.counts.sum()


def test_reset_loses_changes(some):
    images, _, ids = some
    counts = [simulator.simulate(images, 0, ids, params=replace(PLAIN, refractory=r, reset=r)).counts.sum()
              for r in (1.0, 500.0, 2000.0)]  # fmt: skip
    assert counts[0] > 1.03 * counts[1] > 1.05 * counts[2]


def test_latency_moves_all_events(some):
    images, _, ids = some
    plain, late = (simulator.simulate(images, 0, ids, params=replace(PLAIN, latency=us)) for us in (0.0, 700.0))
    for n in range(len(images)):
        (x, y, _p, t), other = plain.recording(n), late.recording(n)
        keep = t + 700 < 1000 * PLAIN.duration
        np.testing.assert_allclose(t[keep] + 700, other[3], atol=1)
        np.testing.assert_array_equal(np.sort(x[keep].astype(int) * 34 + y[keep]),
                                      np.sort(other[0].astype(int) * 34 + other[1]))  # fmt: skip


def test_delays_shift_the_saccades(some):
    images, _, ids = some
    early, late = (
        simulator.simulate(images, 0, ids, params=replace(PLAIN, delay=(0, shift, 0))) for shift in (-4.0, 4.0)
    )

    def middle(events, begin, end):
        return np.median(events.t[(events.t > begin * 1000) & (events.t < end * 1000)]) / 1000

    assert middle(late, 0, 85) == pytest.approx(middle(early, 0, 85), abs=0.3)
    assert middle(late, 115, 195) - middle(early, 115, 195) == pytest.approx(8, abs=2.5)
    assert middle(late, 222, 300) == pytest.approx(middle(early, 222, 300), abs=0.3)


def test_an_empty_image_gives_the_noise_floor():
    params = SensorParams(leak_spread=0, hot=0)
    events = simulator.simulate(np.zeros((200, 28, 28), np.uint8), params=params).validate()
    seconds = params.duration * 1e-3
    on, off = (events.p == 1).sum(), (events.p == 0).sum()
    pixels_seconds = 200 * SIDE * SIDE * seconds
    # Leaks are spread evenly over a cycle of 1/leak, background is Poisson: 5 standard deviations of a count.
    for found, rate in ((on, params.leak + params.background / 2), (off, params.background / 2)):
        assert abs(found - rate * pixels_seconds) < 5 * math.sqrt(rate * pixels_seconds) + 0.01 * found
    per_pixel = np.bincount(events.y.astype(int) * SIDE + events.x, minlength=SIDE * SIDE)
    assert per_pixel.min() > 0  # everywhere
    assert abs(np.corrcoef(np.arange(len(events.t)) % 2, events.t)[0, 1]) < 0.1
    silent = simulator.simulate(np.zeros((3, 28, 28), np.uint8), params=replace(params, leak=0, background=0))
    assert silent.counts.tolist() == [0, 0, 0]


def test_leaks_and_hot_pixels():
    blank = np.zeros((300, 28, 28), np.uint8)
    events = simulator.simulate(blank, params=SensorParams(background=0, hot=2, hot_rate=60.0, duration_spread=0))
    seconds = 300 * SensorParams().duration * 1e-3
    rate = np.bincount(events.y.astype(int) * SIDE + events.x, minlength=SIDE * SIDE) / seconds
    hot = np.argsort(rate)[-2:]
    np.testing.assert_allclose(rate[hot], 60, atol=5)
    others = np.delete(rate, hot)
    assert others.mean() == pytest.approx(SensorParams().leak, rel=0.06)
    # A logarithm's spread of 0.5 puts half of the pixels between 0.71 and 1.4 of the median.
    low, middle, high = np.percentile(others, [25, 50, 75])
    assert low / middle == pytest.approx(0.71, abs=0.07)
    assert high / middle == pytest.approx(1.4, abs=0.12)


def test_a_path_of_ones_own_stays_inside():
    wild = ((-2.0, 8.5), (8.5, -2.0)) * 31
    image = np.full((2, 28, 28), 255, np.uint8)
    simulator.simulate(image, params=SensorParams(path=wild)).validate()
    still = simulator.simulate(image, params=replace(PLAIN, path=((3.0, 3.0), (3.0, 3.0))))
    assert still.counts.tolist() == [0, 0]


def test_leak_favours_on(some):
    images, _, ids = some
    shares = [simulator.simulate(images, 0, ids, params=replace(PLAIN, leak=leak)).p.mean() for leak in (0.0, 2.0)]
    assert shares[1] > shares[0] + 0.02


def test_path_passes_through_its_knots():
    path = np.array(PATH)
    for k in (0, 7, 20, 40, 61):
        assert pixels.displacement(path, np.zeros(3), k * PATH_STEP) == pytest.approx(PATH[k])
    assert pixels.displacement(path, np.array([3.0, 0, 0]), 7 * PATH_STEP + 3) == pytest.approx(PATH[7])
    assert pixels.displacement(path, np.zeros(3), 999.0) == pytest.approx(PATH[-1])


def test_recordings_look_like_nmnist():
    """The figures of real N-MNIST recordings, roughly: these are other digits."""
    images, labels, ids = digits.load_digits(False)
    events = simulator.simulate(images[:100], 0, ids[:100], labels[:100])
    assert 3500 < events.counts.mean() < 4700  # 4,108
    assert 0.49 < events.p.mean() < 0.51  # 49.97 %
    last = events.t[events.offsets[1:] - 1] / 1000
    assert 297 < last.min() < last.max() < 336
    real = [17, 65, 152, 244, 293, 302, 238, 108, 29, 23, 36, 53, 110, 192, 244, 252, 226, 124, 49, 38, 51, 28, 20,
            154, 227, 250, 239, 165, 117, 51, 10, 1]  # fmt: skip
    found = np.bincount(events.t // 10_000, minlength=32)[:32]
    assert np.corrcoef(real, found)[0, 1] > 0.98


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contrast": 0}, "contrast: expected 0.01 to 10, found 0"),
        ({"blur": float("nan")}, "blur: expected 0.05 to 0.75, found nan"),
        ({"noise": -0.1}, "noise: expected 0 to 0.25, found -0.1"),
        ({"reset": 2000.0}, "reset: expected 0 to 1370, found 2000"),
        ({"refractory": float("inf")}, "refractory: expected 1 to inf, found inf"),
        ({"tilt": float("nan")}, "tilt: expected -0.1 to 0.1, found nan"),
        ({"delay": (0, 0)}, r"delay: expected three numbers, one for each saccade, found \(0, 0\)"),
        ({"delay_spread": (0, 0, -1)}, "delay_spread: expected 0 to 20, found -1"),
        ({"delay": 3.0}, r"delay: expected three numbers, one for each saccade, found 3.0"),
        ({"gamma": "one"}, r"gamma: expected a number, found 'one'"),
        ({"leak": (1, 2)}, r"leak: expected a number, found \(1, 2\)"),
        ({"hot": 1.5}, "hot: expected a whole number, found 1.5"),
        ({"path": ((0, 0), (0, 30))}, "path: expected -2 to 8.5, found 30"),
        ({"path": ((0, 0),)}, r"path: expected two or more knots \(right, down\)"),
        ({"path": ((0, 0), (0, 1, 2))}, r"path: expected two or more knots \(right, down\)"),
    ],
)
def test_impossible_sensors(change, message):
    with pytest.raises(ValueError, match=message):
        SensorParams(**change)


BLANK = np.zeros((3, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": BLANK.astype(float)}, r"images: expected uint8 \[N, 28, 28\], found float64 \[3, 28, 28\]"),
        ({"images": BLANK[0]}, r"images: expected uint8 \[N, 28, 28\], found uint8 \[28, 28\]"),
        ({"images": BLANK, "ids": [1, 2]}, r"ids: expected an integer for each of 3 images, found int64 \[2\]"),
        ({"images": BLANK, "ids": [1, 2, -3]}, "ids: expected 0 or more, found -3"),
        ({"images": BLANK, "labels": [1.0, 2.0, 3.0]}, "labels: expected an integer .* found float64"),
        ({"images": BLANK, "labels": [1, 2, 10]}, r"labels: expected digits 0\.\.9, found 1\.\.10"),
        ({"images": BLANK, "workers": 0}, "workers: expected a whole number of at least 1, found 0"),
        ({"images": BLANK, "seed": 1.5}, "seed: expected a whole number, found 1.5"),
        ({"images": BLANK, "params": {"blur": 1}}, "params: expected SensorParams, found dict"),
    ],
)
def test_impossible_images(arguments, message):
    for function in (simulator.simulate, simulator.simulate_chunks):  # the second before its first part is asked for
        with pytest.raises(ValueError, match=message):
            function(**arguments)


def test_parts_need_a_size():
    with pytest.raises(ValueError, match="size: expected a whole number of at least 1, found 0"):
        simulator.simulate_chunks(BLANK, size=0)


# The official layout


def test_official_layout_round_trip(some, tmp_path):
    images, labels, ids = some
    events = simulator.simulate(images, 0, ids, labels)
    recordings.write_recordings(events, tmp_path / "Test")
    names = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.bin"))
    assert names == sorted(f"Test/{label}/{n:05d}.bin" for label, n in zip(labels, ids, strict=True))
    back = Recordings(tmp_path / "Test").pack()
    assert same(back, events.select(np.lexsort((ids, labels))))


def test_recordings_that_cannot_be_files(some, tmp_path):
    images = some[0]
    twice = simulator.simulate(images[:3], ids=[4, 7, 4])
    with pytest.raises(ValueError, match="ids: expected each once, found 4 2 times"):
        recordings.write_recordings(twice, tmp_path)
    silent = simulator.simulate(BLANK, params=replace(PLAIN))
    with pytest.raises(ValueError, match="recording 0: expected at least one event, found none"):
        recordings.write_recordings(silent, tmp_path)
    assert not list(tmp_path.rglob("*.bin"))


def test_progress_is_shown(some, capsys):
    simulator.simulate(some[0], progress=True)
    assert "simulating: 100%" in capsys.readouterr().err
    simulator.simulate(some[0])
    assert capsys.readouterr().err == ""
