"""Test the statistics that compare simulated recordings with real ones."""

import gzip
import os
import struct

import numpy as np
import pytest

from nmnist_helpers import calibrate
from nmnist_helpers.camera import compare, digits, simulator
from nmnist_helpers.data import recordings
from nmnist_helpers.data.recordings import Recordings
from nmnist_helpers.io import PackedEvents

RNG = np.random.default_rng(1)


def pack(recordings, ids=None):
    """Return the PackedEvents of recordings that are lists of (x, y, p, t)."""
    flat = np.array([event for recording in recordings for event in recording]).reshape(-1, 4)
    offsets = np.concatenate([[0], np.cumsum([len(recording) for recording in recordings])]).astype(np.int64)
    count = len(recordings)
    ids = np.arange(1, count + 1) if ids is None else np.array(ids)
    x, y, p = (flat[:, k].astype(np.uint8) for k in range(3))
    return PackedEvents(x, y, p, flat[:, 3].astype(np.int32), offsets, np.zeros(count, np.int64), ids).validate()


SMALL = pack([
    [(1, 2, 1, 100), (1, 2, 0, 5_100), (1, 2, 0, 6_000), (3, 2, 1, 6_000), (1, 2, 1, 101_999)],
    [(1, 2, 1, 102_000), (33, 33, 0, 215_999), (33, 33, 1, 216_000), (0, 0, 1, 339_999)],
])  # fmt: skip


def test_profile_counts_events_in_bins_of_10_ms():
    found = compare.profile(SMALL)
    expected = np.zeros((2, 34))
    for _, _, p, t in ((1, 2, 1, 100), (1, 2, 0, 5_100), (1, 2, 0, 6_000), (3, 2, 1, 6_000), (1, 2, 1, 101_999),
                       (1, 2, 1, 102_000), (33, 33, 0, 215_999), (33, 33, 1, 216_000), (0, 0, 1, 339_999)):  # fmt: skip
        expected[p, t // 10_000] += 0.5
    np.testing.assert_array_equal(found, expected)
    assert compare.profile(SMALL, 1.0).shape == (2, 340)


def test_event_maps_count_by_saccade_polarity_and_pixel():
    maps = compare.event_maps(SMALL)
    assert maps.shape == (2, 3, 2, 34, 34)
    assert maps[0, 0, 1, 2, 1] == 2
    assert maps[0, 0, 0, 2, 1] == 2
    assert maps[0, 0, 1, 2, 3] == 1
    assert maps[1, 1, 1, 2, 1] == 1
    assert maps[1, 1, 0, 33, 33] == 1
    assert maps[1, 2, 1, 33, 33] == 1
    assert maps[1, 2, 1, 0, 0] == 1
    assert maps.sum() == 9


def test_map_correlation_is_pearsons():
    first, second = RNG.random((2, 4, 3, 34, 34))
    found = compare.map_correlation(first, second)
    for i in range(4):
        for j in range(3):
            expected = np.corrcoef(first[i, j].ravel(), second[i, j].ravel())[0, 1]
            assert found[i, j] == pytest.approx(expected, abs=1e-9)
    assert compare.map_correlation(first, 3 * first + 1) == pytest.approx(1)
    assert (compare.map_correlation(first, np.ones_like(first)) == 0).all()


def test_intervals_are_grouped_by_polarities():
    found = compare.intervals(SMALL)
    # Pixel (1, 2) of recording 0: ON at 100 us, OFF at 5100 and 6000, ON at 101999; (33, 33) of recording 1: OFF, ON.
    assert [times.tolist() for times in found] == [[900], [1, 95_999], [5_000], []]


def test_overlap_is_the_common_area_of_two_histograms():
    first = np.exp(RNG.uniform(np.log(300), np.log(1000), 50_000))
    assert compare.overlap(first, first) == pytest.approx(1)
    assert compare.overlap(first, first * 100) == 0
    half = np.concatenate([first, first * 100])
    assert compare.overlap(first, half) == pytest.approx(0.5, abs=0.01)


def test_noise_floor_counts_only_pixels_far_from_ink():
    images = np.zeros((2, 28, 28), np.uint8)
    images[:, 10:18, 10:18] = 255
    ink, still = (14, 16), (33, 0)
    events = pack([
        [(*ink, 0, 10), (*still, 1, 20), (*still, 0, 500_000)],
        [(*ink, 1, 10), (*ink, 1, 999_999), (*still, 1, 1_000_000)],
    ])  # fmt: skip
    rate, on = compare.noise_floor(events, images)
    assert on == pytest.approx(2 / 3)
    # The rate is 3 events / (1.5 s * still pixels). Most pixels are still, but none that the moving square reaches.
    pixels = 3 / rate / 1.5
    assert 34 * 34 / 2 < pixels < 34 * 34 - 12 * 12
    assert pixels == pytest.approx(round(pixels))


def test_noise_floor_follows_the_path_of_the_camera():
    images = np.zeros((2, 28, 28), np.uint8)
    images[:, 10, 10] = 255  # the camera moves further down than to the right
    below, right = (12, 21, 1, 10), (21, 12, 0, 1_000)
    _, on = compare.noise_floor(pack([[below, right]] * 2), images)
    assert on == 0


def test_spread_in_time_gives_quantiles_of_each_saccade():
    times = [*range(10_000, 20_000, 100), *range(110_000, 120_000, 100)]
    found = compare.spread_in_time(pack([[(0, 0, 1, t) for t in times]]))
    np.testing.assert_allclose(found[0], [10.495, 14.95, 19.405])
    np.testing.assert_allclose(found[1], [110.495, 114.95, 119.405])
    assert np.isnan(found[2]).all()


def test_an_event_at_a_limit_belongs_to_the_later_saccade():
    found = compare.spread_in_time(pack([[(0, 0, 1, 102_000)], [(0, 0, 1, 216_000)]]))
    assert np.isnan(found[0]).all()
    assert found[1:, 1].tolist() == [102, 216]


FOUR_AND_TWO = pack([
    [(1, 2, 1, 1_000), (1, 2, 0, 5_000), (1, 2, 0, 6_000), (3, 2, 1, 7_000)],
    [(1, 2, 1, 103_000), (33, 33, 0, 300_000)],
])  # fmt: skip
TWO_AND_ONE = pack([[(1, 2, 1, 2_000), (1, 2, 1, 4_000)], [(1, 2, 1, 103_000)]])


@pytest.mark.parametrize(
    ("name", "recorded", "simulated"),
    [
        ("events per recording", 3, 1.5),
        ("  standard deviation", 1, 0.5),
        ("ON share, %", 50, 100),
        ("ON events in saccade 1", 1, 1),
        ("OFF events in saccade 1", 1, 0),
        ("OFF events in saccade 3", 0.5, 0),
        ("saccade 1: 50 % of events by, ms", 5.5, 3),
        ("last event, 50 % quantile, ms", 153.5, 53.5),
        ("OFF-OFF intervals per recording", 0.5, 0),
        ("ON-ON intervals per recording", 0, 0.5),
        ("  50 % quantile, ms", np.nan, 2),  # of ON-ON, the last one
        ("  ON share, %", 50, 100),  # of the noise floor
    ],
)
def test_a_row_shows_both_values(name, recorded, simulated):
    rows = compare.compare(FOUR_AND_TWO, TWO_AND_ONE, np.zeros((2, 28, 28), np.uint8))
    row = {row.name: row for row in rows}[name]
    assert (row.recorded, row.simulated) == pytest.approx((recorded, simulated), nan_ok=True)


@pytest.mark.parametrize(
    ("recorded", "simulated", "more_events", "more_on"),
    [(FOUR_AND_TWO, TWO_AND_ONE, -50, 50), (TWO_AND_ONE, FOUR_AND_TWO, 100, -50)],
)
def test_too_many_and_too_few_events_both_miss_the_target(recorded, simulated, more_events, more_on):
    rows = {row.name: row for row in compare.compare(recorded, simulated)}
    for name, value in (("events per recording", more_events), ("ON share, %", more_on)):
        assert rows[name].value == value
        assert not rows[name].met


@pytest.mark.parametrize("value", [0.84, 0.85, 0.89, 0.9, 0.98, 0.99])
def test_correlations_are_held_to_their_targets(monkeypatch, value):
    monkeypatch.setattr(np, "corrcoef", lambda pair: np.full((2, 2), value))
    monkeypatch.setattr(compare, "map_correlation", lambda first, second: np.full(first.shape[:-2], value))
    held = [row for row in compare.compare(FOUR_AND_TWO, TWO_AND_ONE) if row.target.startswith(">=")]
    assert [row.target for row in held] == [">= 0.85", ">= 0.99", ">= 0.90", ">= 0.90"]
    assert [row.met for row in held] == [value >= float(row.target[3:]) for row in held]


def test_the_maps_of_a_saccade_are_compared_with_those_of_the_same_saccade():
    """OFF events are at the same pixel in the first saccade only, ON events in the last one only."""
    both = []
    for places in (((5, 6), (5, 6), (5, 6)), ((5, 1), (1, 2), (1, 6))):
        events = [(x, x, p, 1_000 + 110_000 * k) for k, pair in enumerate(places) for p, x in enumerate(pair)]
        both.append(pack([events, [*events, events[-1]]]))
    found = [row.value for row in compare.compare(*both) if row.name.startswith("  saccade")]
    assert found == pytest.approx([1, 0, 0, 0, 0, 1], abs=0.01)


@pytest.fixture(scope="module")
def simulated():
    images, labels, ids = digits.load_digits(False)
    return images[:20], simulator.simulate(images[:20], 0, ids[:20], labels[:20])


def test_a_sensor_agrees_with_itself_and_not_with_another(simulated, capsys):
    images, events = simulated
    rows = compare.compare(events, events, images)
    assert [row.met for row in rows if row.target.startswith(("within", ">="))] == [True] * 6
    other = simulator.simulate(images[:, ::-1], 0, events.ids, events.labels,
                             simulator.SensorParams(threshold_on=0.3, threshold_off=0.15))  # fmt: skip
    missed = {row.name for row in compare.compare(events, other) if row.met is False}
    assert {"OFF event map, correlation", "ON event map, correlation", "ON share, %"} <= missed
    other_seed = simulator.simulate(images, 9, events.ids, events.labels)
    by_name = {row.name: row for row in compare.compare(events, other_seed, images)}
    assert by_name["10-ms profile, correlation"].value > 0.98
    assert by_name["OFF event map, correlation"].value > 0.9
    assert by_name["noise floor, events per pixel and s"].recorded == pytest.approx(0.42, abs=0.1)
    capsys.readouterr()
    compare.print_table(compare.compare(events, other))
    out = capsys.readouterr().out
    assert out.splitlines()[0].split() == ["recorded", "simulated", "agreement", "target"]
    assert f"{events.counts.mean():.0f}" in out
    assert "within 1 point  NO" in out
    assert {row.target.split()[0] for row in rows if row.target} == {"within", ">="}


def test_recordings_that_do_not_match_raise(simulated):
    images, events = simulated
    with pytest.raises(ValueError, match="expected the same ids in the same order, .* found 20 recordings and 19"):
        compare.compare(events, events.select(np.arange(19)))
    with pytest.raises(ValueError, match="in the same order"):
        compare.compare(events, events.select(np.arange(20)[::-1]))
    with pytest.raises(ValueError, match="at least two, found 1 recordings and 1 simulations"):
        compare.compare(events.select([0]), events.select([0]))
    with pytest.raises(ValueError, match="compare: expected an image for each of 20 recordings, found 3"):
        compare.compare(events, events, images[:3])
    empty = PackedEvents.concatenate([events.select(range(19)), events_without(events.select([19]))])
    with pytest.raises(ValueError, match="expected events in each recording, found none in simulated recording 19"):
        compare.compare(events, empty)


def events_without(events):
    return PackedEvents(
        *(events.x[:0], events.y[:0], events.p[:0], events.t[:0]), np.zeros(2, np.int64), events.labels, events.ids
    )


def test_recordings_of_one_polarity_are_compared(simulated, capsys):
    _, events = simulated
    kept = events.p == 1
    offsets = np.concatenate([[0], np.cumsum(kept)])[events.offsets]
    on = PackedEvents(*(getattr(events, name)[kept] for name in "xypt"), offsets, events.labels, events.ids)
    compare.print_table(compare.compare(events, on))
    assert "OFF-OFF intervals" in capsys.readouterr().out


@pytest.fixture
def paired_files(simulated, tmp_path, monkeypatch):
    """Write simulated recordings in the official layout, and MNIST files of the digits that they show."""
    images, events = simulated
    recordings.write_recordings(simulator.simulate(images, 5, labels=events.labels), tmp_path / "Test")
    monkeypatch.setattr(digits, "MNIST_FILES", {True: (*digits.MNIST_FILES[True][:2], 20)})
    header = struct.pack(">IIII", 0x0803, 20, 28, 28)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images.tobytes()))
    header = struct.pack(">II", 0x0801, 20)
    labels = events.labels.astype(np.uint8)
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + labels.tobytes()))
    return tmp_path, labels


def test_the_command_prints_the_comparison(paired_files, capsys):
    folder, _ = paired_files
    calibrate.main(["--recordings", str(folder / "Test"), "--mnist", str(folder)])
    out = capsys.readouterr().out
    assert "events per recording" in out
    assert "noise floor" in out
    assert "NO" not in out


def test_the_command_obeys_its_options(paired_files, monkeypatch, capsys):
    folder, _ = paired_files
    load, simulate, given = calibrate.load_mnist, calibrate.simulate, []

    def load_mnist(path, train):
        given.append(train)
        return load(path, train=True)

    def simulate_digits(images, seed, *rest):
        given.append(seed)
        return simulate(images, seed, *rest)

    monkeypatch.setattr(calibrate, "load_mnist", load_mnist)
    monkeypatch.setattr(calibrate, "simulate", simulate_digits)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(folder))
    calibrate.main(["--recordings=~/Test", "--mnist", str(folder), "--mnist-test", "--seed", "7"])
    assert given == [False, 7]
    assert "events per recording" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="--recordings: expected a folder or an archive, found no .*nowhere"):
        calibrate.main(["--recordings", str(folder / "nowhere")])
    file = next((folder / "Test").rglob("00001.bin"))
    file.rename(file.with_name("00000.bin"))
    with pytest.raises(ValueError, match="expected file names 1 to 20, found 0 to 20"):
        calibrate.main(["--recordings", str(folder / "Test"), "--mnist", str(folder)])


def test_the_command_refuses_recordings_of_other_digits(paired_files):
    folder, labels = paired_files
    header = struct.pack(">II", 0x0801, 20)
    wrong = ((labels + 1) % 10).astype(np.uint8)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(header + wrong.tobytes()))
    with pytest.raises(ValueError, match="under the same numbers, found others; give --mnist-test if"):
        calibrate.main(["--recordings", str(folder / "Test"), "--mnist", str(folder)])
    (folder / "Test" / "0").mkdir(exist_ok=True)
    (folder / "Test" / "0" / "00021.bin").write_bytes(bytes([1, 1, 0, 0, 1]))
    with pytest.raises(ValueError, match="expected file names 1 to 20, found 1 to 21"):
        calibrate.main(["--recordings", str(folder / "Test"), "--mnist", str(folder)])


@pytest.mark.skipif(
    not (os.environ.get("NMNIST_DATA") and os.environ.get("NMNIST_TEST_MNIST")),
    reason="NMNIST_DATA and NMNIST_MNIST do not name paired recordings and MNIST's files",
)
def test_calibration_holds_on_real_recordings():
    recorded = Recordings(os.path.join(os.environ["NMNIST_DATA"], "Test")).pack()
    if len(recorded) > 1000:
        pytest.skip("the full test set shows MNIST's test digits")
    images, labels, _ = digits.load_mnist(os.environ["NMNIST_TEST_MNIST"], train=True)
    shown = images[recorded.ids - 1]
    np.testing.assert_array_equal(labels[recorded.ids - 1], recorded.labels)
    rows = compare.compare(recorded, simulator.simulate(shown, 0, recorded.ids, recorded.labels), shown)
    assert [row.name for row in rows if row.met is False] == []
    overlaps = [row.value for row in rows if row.name == "  overlap of the distributions"]
    assert len(overlaps) == 4
    assert min(overlaps) > 0.93
