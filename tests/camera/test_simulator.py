"""Test the simulated event camera: its determinism, its physics, its errors and its files."""

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

#: A sensor without random effects, except for the initial state of each pixel.
PLAIN = SensorParams(
    spread_on=0, spread_off=0, noise=0, refractory=1.0, refractory_spread=0, reset=0, leak=0, background=0, hot=0,
    delay=(0, 0, 0), delay_spread=(0, 0, 0), duration_spread=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def twelve_digits():
    images, labels, ids = digits.load_digits(False)
    chosen = np.linspace(0, len(images) - 1, 12).astype(int)
    return images[chosen], labels[chosen], ids[chosen]


# Determinism


def test_events_depend_only_on_seed_id_and_image(twelve_digits):
    images, labels, ids = twelve_digits
    events = simulator.simulate(images, 3, ids, labels).validate()
    np.testing.assert_array_equal(events.ids, ids)
    np.testing.assert_array_equal(events.labels, labels)
    assert same(events, simulator.simulate(images, 3, ids, labels, workers=1))
    for n in (0, 5, 11):
        assert same(events.select([n]), simulator.simulate(images[n : n + 1], 3, ids[n : n + 1], labels[n : n + 1]))
    reversed_events = simulator.simulate(images[::-1], 3, ids[::-1], labels[::-1])
    assert same(events, reversed_events.select(np.arange(12)[::-1]))
    assert not same(events, simulator.simulate(images, 4, ids, labels))


def test_the_same_image_with_two_ids_gives_two_recordings(twelve_digits):
    image = twelve_digits[0][:1]
    first, second = (simulator.simulate(image, ids=[n], params=SensorParams(delay_spread=(0, 0, 0))) for n in (1, 2))
    assert first.counts[0] != second.counts[0] or not np.array_equal(first.t, second.t)
    assert abs(int(first.counts[0]) - int(second.counts[0])) < 0.1 * first.counts[0]


def test_chunk_and_buffer_sizes_do_not_change_the_events(twelve_digits, monkeypatch):
    images, labels, ids = twelve_digits
    expected = simulator.simulate(images, 0, ids, labels)
    monkeypatch.setattr(simulator, "CHUNK", 5)
    monkeypatch.setattr(simulator, "ROOM", 100)
    assert same(expected, simulator.simulate(images, 0, ids, labels))


def test_concatenated_parts_equal_the_whole(twelve_digits):
    images, labels, ids = twelve_digits
    expected = simulator.simulate(images, 0, ids, labels)
    parts = [*simulator.simulate_chunks(images, 0, ids, labels, size=5)]
    assert [len(part) for part in parts] == [5, 5, 2]
    assert same(expected, PackedEvents.concatenate(parts))
    (whole,) = simulator.simulate_chunks(images, 0, ids, labels)
    assert same(expected, whole)


def test_parts_are_simulated_when_they_are_requested(twelve_digits, monkeypatch):
    simulated = []
    record = pixels.record
    monkeypatch.setattr(pixels, "record", lambda images, *rest: (simulated.append(len(images)), record(images, *rest)))
    parts = simulator.simulate_chunks(twelve_digits[0], size=4)
    assert simulated == []
    next(parts)
    assert sum(simulated) == 4


def test_bursts_begin_when_the_image_moves():
    """The image moves fast when a burst begins, and slowly in the pause before it."""
    speed = [np.hypot(*np.subtract(image_position(ms + 5), image_position(ms))) for ms in range(0, 310)]
    for begin, (start, end) in zip(BURSTS[1:], PAUSES, strict=True):
        assert start < begin <= end
        assert max(speed[int(start) : int(begin)]) < 0.5 * max(speed[int(begin) : int(begin) + 40])
    assert all(begin <= burst < end for begin, burst, end in zip(SACCADES[:3], BURSTS, SACCADES[1:], strict=True))


def test_no_images_give_no_recordings():
    events = simulator.simulate(np.empty((0, 28, 28), np.uint8)).validate()
    assert len(events) == 0
    assert len(events.t) == 0


# Physics


def log_light(image, params, right, down):
    """Return the log light of all pixels [34, 34], computed slowly as sums over small squares of the screen."""
    fine = 8
    axis = (np.arange(28 * fine) + 0.5) / fine - 14  # centre of each small square on the screen, pixels
    ink = np.kron((image / 255.0) ** params.gamma, np.ones((fine, fine)))
    y, x = np.meshgrid(axis, axis, indexing="ij")
    x, y, ink = x[ink > 0], y[ink > 0], ink[ink > 0]
    at_x = params.zoom * x - params.tilt * y + right
    at_y = params.zoom * y + params.tilt * x + down
    pixel = np.arange(SIDE) - 13.5
    bell_x = np.exp(-0.5 * ((pixel[:, None] - at_x) / params.blur) ** 2)
    bell_y = np.exp(-0.5 * ((pixel[:, None] - at_y) / params.blur) ** 2)
    absorbed = (bell_y * ink) @ bell_x.T / (2 * math.pi * params.blur**2 * fine**2)
    return np.log(1 - (1 - math.exp(-params.contrast)) * np.minimum(absorbed, 1))


def image_position(ms):
    """Return the position of the image at a time, interpolated linearly between the knots of the path."""
    knots = np.array(PATH)
    times = np.arange(len(knots)) * PATH_STEP
    return np.interp(ms, times, knots[:, 0]), np.interp(ms, times, knots[:, 1])


def test_events_add_up_to_the_change_of_log_light(twelve_digits):
    images, _, ids = twelve_digits
    on, off = PLAIN.threshold_on, PLAIN.threshold_off
    events = simulator.simulate(images, 0, ids, params=PLAIN)
    large_changes = 0
    for n in (2, 6, 10):
        x, y, p, t = events.recording(n)
        start = log_light(images[n], PLAIN, *image_position(0))
        for ms in (35, 60, 95, 140, 165, 208, 240, 262, 300):
            earlier = t < 1000 * ms
            total = np.zeros((SIDE, SIDE))
            np.add.at(total, (y[earlier], x[earlier]), np.where(p[earlier], on, -off))
            current = log_light(images[n], PLAIN, *image_position(ms))
            # Both now and at the start, a pixel is less than a threshold away from its next event. 0.03 allows for
            # the finite size of the small squares and for the curvature of the path.
            assert np.abs(total - (current - start)).max() < on + off + 0.03, (n, ms)
            large_changes += (np.abs(current - start) > 0.8).sum()
    assert large_changes > 2000  # there were large changes to follow


def test_arriving_ink_causes_off_events_and_leaving_ink_on_events():
    image = np.zeros((28, 28), np.uint8)
    image[10:14, 4:24] = 255  # a horizontal bar, which the first saccade moves down by five pixels
    events = simulator.simulate(np.stack([image] * 20), params=PLAIN)
    first = events.t < 90_000
    y, p = events.y[first].astype(int), events.p[first]
    below, above = (y >= 18) & (y <= 20), (y >= 11) & (y <= 13)
    assert p[below].mean() < 0.05
    assert p[above].mean() > 0.95
    assert min(below.sum(), above.sum()) > 20 * 3 * 10


def test_thresholds_scale_the_number_of_events(twelve_digits):
    images, _, ids = twelve_digits
    few, many = (
        simulator.simulate(images, 0, ids, params=replace(PLAIN, threshold_on=s, threshold_off=s)).counts.mean()
        for s in (0.2, 0.1)
    )
    assert 1.9 < many / few < 2.4


def test_a_pixel_is_silent_during_the_refractory_time(twelve_digits):
    images, _, ids = twelve_digits
    events = simulator.simulate(images, 0, ids, params=replace(PLAIN, refractory=4000.0))
    gaps = []
    for n in range(len(events)):
        x, y, _, t = events.recording(n)
        pixel = y.astype(int) * SIDE + x
        order = np.lexsort((t, pixel))
        gaps.append(np.diff(t[order])[np.diff(pixel[order]) == 0])
    gaps = np.concatenate(gaps)
    assert gaps.min() >= 3999  # times are whole microseconds
    assert np.mean(gaps < 4100) > 0.05  # it did delay events
    free = simulator.simulate(images, 0, ids, params=PLAIN)
    assert free.counts.sum() > events.counts.sum()


def test_changes_during_the_reset_are_lost(twelve_digits):
    images, _, ids = twelve_digits
    counts = [simulator.simulate(images, 0, ids, params=replace(PLAIN, refractory=r, reset=r)).counts.sum()
              for r in (1.0, 500.0, 2000.0)]  # fmt: skip
    assert counts[0] > 1.03 * counts[1] > 1.05 * counts[2]


def test_latency_delays_all_events(twelve_digits):
    images, _, ids = twelve_digits
    plain, late = (simulator.simulate(images, 0, ids, params=replace(PLAIN, latency=us)) for us in (0.0, 700.0))
    for n in range(len(images)):
        (x, y, _p, t), other = plain.recording(n), late.recording(n)
        keep = t + 700 < 1000 * PLAIN.duration
        np.testing.assert_allclose(t[keep] + 700, other[3], atol=1)
        np.testing.assert_array_equal(np.sort(x[keep].astype(int) * 34 + y[keep]),
                                      np.sort(other[0].astype(int) * 34 + other[1]))  # fmt: skip


def test_delays_shift_the_saccades(twelve_digits):
    images, _, ids = twelve_digits
    early, late = (
        simulator.simulate(images, 0, ids, params=replace(PLAIN, delay=(0, shift, 0))) for shift in (-4.0, 4.0)
    )

    def median_time(events, begin, end):
        return np.median(events.t[(events.t > begin * 1000) & (events.t < end * 1000)]) / 1000

    assert median_time(late, 0, 85) == pytest.approx(median_time(early, 0, 85), abs=0.3)
    assert median_time(late, 115, 195) - median_time(early, 115, 195) == pytest.approx(8, abs=2.5)
    assert median_time(late, 222, 300) == pytest.approx(median_time(early, 222, 300), abs=0.3)


def test_an_empty_image_gives_the_noise_floor():
    params = SensorParams(leak_spread=0, hot=0)
    events = simulator.simulate(np.zeros((200, 28, 28), np.uint8), params=params).validate()
    seconds = params.duration * 1e-3
    on, off = (events.p == 1).sum(), (events.p == 0).sum()
    pixels_seconds = 200 * SIDE * SIDE * seconds
    # Leaks are spread evenly over a period of 1/leak; the background is Poisson. 5 standard deviations are allowed.
    for found, rate in ((on, params.leak + params.background / 2), (off, params.background / 2)):
        assert abs(found - rate * pixels_seconds) < 5 * math.sqrt(rate * pixels_seconds) + 0.01 * found
    per_pixel = np.bincount(events.y.astype(int) * SIDE + events.x, minlength=SIDE * SIDE)
    assert per_pixel.min() > 0  # every pixel has noise
    early, _ = np.histogram(events.t, bins=10, range=(0, 200_000))  # microseconds; every recording lasts longer
    assert abs(early - early.mean()).max() < 5 * math.sqrt(early.mean())  # noise does not depend on the time
    silent = simulator.simulate(np.zeros((3, 28, 28), np.uint8), params=replace(params, leak=0, background=0))
    assert silent.counts.tolist() == [0, 0, 0]


def test_leaks_and_hot_pixels_have_their_rates():
    blank = np.zeros((300, 28, 28), np.uint8)
    events = simulator.simulate(blank, params=SensorParams(background=0, hot=2, hot_rate=60.0, duration_spread=0))
    seconds = 300 * SensorParams().duration * 1e-3
    rate = np.bincount(events.y.astype(int) * SIDE + events.x, minlength=SIDE * SIDE) / seconds
    hot = np.argsort(rate)[-2:]
    np.testing.assert_allclose(rate[hot], 60, atol=5)
    others = np.delete(rate, hot)
    assert others.mean() == pytest.approx(SensorParams().leak, rel=0.06)
    # If the logarithm has a standard deviation of 0.5, half of the pixels have 0.71 to 1.4 times the median.
    low, middle, high = np.percentile(others, [25, 50, 75])
    assert low / middle == pytest.approx(0.71, abs=0.07)
    assert high / middle == pytest.approx(1.4, abs=0.12)


def test_extreme_paths_are_simulated_and_constant_ones_cause_no_events():
    extreme = ((-2.0, 8.5), (8.5, -2.0)) * 31
    image = np.full((2, 28, 28), 255, np.uint8)
    simulator.simulate(image, params=SensorParams(path=extreme)).validate()
    still = simulator.simulate(image, params=replace(PLAIN, path=((3.0, 3.0), (3.0, 3.0))))
    assert still.counts.tolist() == [0, 0]


def test_leak_increases_the_share_of_on_events(twelve_digits):
    images, _, ids = twelve_digits
    shares = [simulator.simulate(images, 0, ids, params=replace(PLAIN, leak=leak)).p.mean() for leak in (0.0, 2.0)]
    assert shares[1] > shares[0] + 0.02


def test_path_passes_through_its_knots():
    path = np.array(PATH)
    for k in (0, 7, 20, 40, 61):
        assert pixels.displacement(path, np.zeros(3), k * PATH_STEP) == pytest.approx(PATH[k])
    assert pixels.displacement(path, np.array([3.0, 0, 0]), 7 * PATH_STEP + 3) == pytest.approx(PATH[7])
    assert pixels.displacement(path, np.zeros(3), 999.0) == pytest.approx(PATH[-1])


def test_recordings_look_like_nmnist():
    """The statistics are close to those of real recordings, but not equal, because these are other digits."""
    images, labels, ids = digits.load_digits(False)
    events = simulator.simulate(images[:100], 0, ids[:100], labels[:100])
    assert 3500 < events.counts.mean() < 4700  # N-MNIST: 4,108
    assert 0.49 < events.p.mean() < 0.51  # N-MNIST: 49.97 %
    last = events.t[events.offsets[1:] - 1] / 1000
    assert 297 < last.min() < last.max() < 336
    real = [17, 65, 152, 244, 293, 302, 238, 108, 29, 23, 36, 53, 110, 192, 244, 252, 226, 124, 49, 38, 51, 28, 20,
            154, 227, 250, 239, 165, 117, 51, 10, 1]  # fmt: skip
    found = np.bincount(events.t // 10_000, minlength=32)[:32]
    assert np.corrcoef(real, found)[0, 1] > 0.98


# Invalid input


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
def test_invalid_sensors_raise(change, message):
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
def test_invalid_arguments_raise(arguments, message):
    for function in (simulator.simulate, simulator.simulate_chunks):  # both raise at the call
        with pytest.raises(ValueError, match=message):
            function(**arguments)


def test_an_invalid_size_of_parts_raises():
    with pytest.raises(ValueError, match="size: expected a whole number of at least 1, found 0"):
        simulator.simulate_chunks(BLANK, size=0)


# The official layout


def test_recordings_survive_a_round_trip_in_the_official_layout(twelve_digits, tmp_path):
    images, labels, ids = twelve_digits
    events = simulator.simulate(images, 0, ids, labels)
    recordings.write_recordings(events, tmp_path / "Test")
    names = sorted(file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.bin"))
    assert names == sorted(f"Test/{label}/{n:05d}.bin" for label, n in zip(labels, ids, strict=True))
    back = Recordings(tmp_path / "Test").pack()
    assert same(back, events.select(np.lexsort((ids, labels))))


def test_recordings_that_cannot_be_written_raise(twelve_digits, tmp_path):
    images = twelve_digits[0]
    twice = simulator.simulate(images[:3], ids=[4, 7, 4])
    with pytest.raises(ValueError, match="ids: expected each once, found 4 2 times"):
        recordings.write_recordings(twice, tmp_path)
    silent = simulator.simulate(BLANK, params=replace(PLAIN))
    with pytest.raises(ValueError, match="recording 0: expected at least one event, found none"):
        recordings.write_recordings(silent, tmp_path)
    assert not list(tmp_path.rglob("*.bin"))


def test_progress_is_shown_on_request(twelve_digits, capsys):
    simulator.simulate(twelve_digits[0], progress=True)
    assert "simulating: 100%" in capsys.readouterr().err
    simulator.simulate(twelve_digits[0])
    assert capsys.readouterr().err == ""
