"""Compare simulated recordings with real ones of the same digits: compute statistics of both, and print a table.

All functions take `PackedEvents`. For `compare`, both must contain the same digits in the same order::

    recorded = Recordings('nmnist/Test').pack()
    images, labels, _ = load_mnist('mnist', train=False)    # recording <id> of Test shows MNIST's test digit <id>
    shown = images[recorded.ids - 1]
    print_table(compare(recorded, simulate(shown, ids=recorded.ids, labels=recorded.labels), shown))

The same from the shell: ``python -m nmnist_helpers camera --recordings nmnist/Test --mnist mnist
--mnist-test``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..geometry import PIXELS, SIDE
from ..io import PackedEvents
from .digits import IMAGE_SIDE
from .path import PATH, SACCADES

#: Edges of the histogram of times between two events of a pixel (microseconds), equally spaced in the logarithm.
INTERVAL_EDGES = np.geomspace(200, 300_000, 61)
#: Ink up to this many pixels away (distance along rows plus distance along columns) may affect a pixel.
NEAR = 4
POLARITY_PAIRS = ("OFF-OFF", "OFF-ON", "ON-OFF", "ON-ON")


def profile(events: PackedEvents, bin_ms: float = 10.0) -> np.ndarray:
    """Return the mean number of events per recording in each time bin, float [2, bins]: OFF and ON, 0 to 340 ms."""
    bins = int(np.ceil(SACCADES[-1] / bin_ms))
    index = np.minimum((events.t / (1000 * bin_ms)).astype(np.int64), bins - 1) + bins * events.p.astype(np.int64)
    return np.bincount(index, minlength=2 * bins).reshape(2, bins) / max(len(events), 1)


def _recording_of(events: PackedEvents) -> np.ndarray:
    return np.repeat(np.arange(len(events)), events.counts)


def event_maps(events: PackedEvents) -> np.ndarray:
    """Count the events of each pixel, float32 [N, 3, 2, 34, 34]: saccade, polarity (OFF, ON), row, column."""
    saccade = np.searchsorted(np.array(SACCADES[1:-1]) * 1000, events.t, side="right")
    index = (_recording_of(events) * 3 + saccade) * 2 + events.p
    index = (index * SIDE + events.y) * SIDE + events.x
    counts = np.bincount(index, minlength=len(events) * 6 * PIXELS)
    return counts.astype(np.float32).reshape(len(events), 3, 2, SIDE, SIDE)


def map_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Compute Pearson's correlation over the last two axes; it is 0 if one of the maps is constant."""
    first = first - first.mean(axis=(-2, -1), keepdims=True)
    second = second - second.mean(axis=(-2, -1), keepdims=True)
    scale = np.sqrt((first**2).sum(axis=(-2, -1)) * (second**2).sum(axis=(-2, -1)))
    return np.divide((first * second).sum(axis=(-2, -1)), scale, out=np.zeros_like(scale), where=scale > 0)


def intervals(events: PackedEvents) -> list[np.ndarray]:
    """Return the sorted times (microseconds) between successive events of a pixel, for each of `POLARITY_PAIRS`."""
    pixel = (_recording_of(events) * SIDE + events.y) * SIDE + events.x
    order = np.lexsort((events.t, pixel))
    same = np.diff(pixel[order]) == 0
    pair = 2 * events.p[order][:-1] + events.p[order][1:]
    between = np.diff(events.t[order])
    return [np.sort(between[same & (pair == k)]) for k in range(4)]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Compute the common area, 0 to 1, of the histograms of two sets of times (microseconds)."""
    shares = [np.histogram(np.clip(times, *INTERVAL_EDGES[[0, -1]]), INTERVAL_EDGES)[0] for times in (first, second)]
    return float(np.minimum(*(share / max(share.sum(), 1) for share in shares)).sum())


def noise_floor(events: PackedEvents, images: np.ndarray) -> tuple[float, float]:
    """Measure the noise floor, at pixels that are never near ink.

    Parameters
    ----------
    events : PackedEvents
    images : uint8 array [N, 28, 28]
        The digit that each recording shows.

    Returns
    -------
    rate : float
        Events per pixel and second.
    on : float
        Fraction of ON events among them.
    """
    path = np.unique(np.round(PATH).astype(int), axis=0)
    pad = 12
    near = np.zeros((len(images), SIDE + 2 * pad, SIDE + 2 * pad), dtype=bool)
    ink = images > 0
    reach = range(-NEAR, NEAR + 1)
    for right, down in {(r + i, d + j) for r, d in path for i in reach for j in reach if abs(i) + abs(j) <= NEAR}:
        near[:, pad + down : pad + down + IMAGE_SIDE, pad + right : pad + right + IMAGE_SIDE] |= ink
    still = ~near[:, pad : pad + SIDE, pad : pad + SIDE]
    chosen = still[_recording_of(events), events.y, events.x]
    ends = events.t[events.offsets[1:] - 1] * 1e-6
    seconds = (still.sum(axis=(1, 2)) * ends).sum()
    return float(chosen.sum() / seconds), float(events.p[chosen].mean()) if chosen.any() else 0.0


def spread_in_time(events: PackedEvents) -> np.ndarray:
    """Return the times (ms) by which 5, 50 and 95 per cent of each saccade's events have occurred, float [3, 3].

    A late 5 % quantile shows latency; a late 95 % quantile shows that pixels go on firing after the movement.
    """
    times = [np.sort(events.t[(events.t >= 1000 * a) & (events.t < 1000 * b)]) for a, b in pairwise(SACCADES)]
    return np.array([np.quantile(t, (0.05, 0.5, 0.95)) / 1000 if len(t) else np.full(3, np.nan) for t in times])


@dataclass(frozen=True)
class Row:
    """One line of the comparison; `value` measures the agreement, and `met` states whether it reaches `target`."""

    name: str
    recorded: float | None = None
    simulated: float | None = None
    value: float | None = None
    target: str = ""
    met: bool | None = None


def compare(recorded: PackedEvents, simulated: PackedEvents, images: np.ndarray | None = None) -> list[Row]:
    """Compare statistics of real recordings with those of simulated ones of the same digits.

    Parameters
    ----------
    recorded, simulated : PackedEvents
        Recordings with the same ids in the same order.
    images : uint8 array [N, 28, 28], optional
        The digits that they show. With them, the noise floor is compared too.

    Returns
    -------
    list of Row

    Raises
    ------
    ValueError
        If the ids differ, if there are fewer than two recordings or one has no events, or if `images` has another
        length.
    """
    if len(recorded) < 2 or not np.array_equal(recorded.ids, simulated.ids):
        found = f"{len(recorded)} recordings and {len(simulated)} simulations"
        raise ValueError(f"compare: expected the same ids in the same order, at least two, found {found}")
    if images is not None and len(images) != len(recorded):
        raise ValueError(f"compare: expected an image for each of {len(recorded)} recordings, found {len(images)}")
    both = recorded, simulated
    for name, events in (("recorded", recorded), ("simulated", simulated)):
        if events.counts.min() == 0:
            empty = int(events.counts.argmin())
            raise ValueError(f"compare: expected events in each recording, found none in {name} recording {empty}")
    counts = [events.counts.astype(np.float64) for events in both]
    means = [float(count.mean()) for count in counts]
    on = [100 * float(events.p.mean()) for events in both]
    profiles = [profile(events).sum(axis=0) for events in both]
    maps = [event_maps(events) for events in both]
    overall = map_correlation(*(m.sum(axis=1) for m in maps)).mean(axis=0)
    by_saccade = map_correlation(*maps).mean(axis=0)

    excess = 100 * (means[1] / means[0] - 1)
    same_profile, same_counts = (np.corrcoef(np.stack(pair)).item(1) for pair in (profiles, counts))
    rows: list[Row] = []

    def add(name: str, pair=(None, None), value: float | None = None, target: str = "", met: bool | None = None):
        rows.append(Row(name, pair[0], pair[1], value, target, met))

    add("events per recording", means, excess, "within 2 %", abs(excess) <= 2)
    add("  standard deviation", [count.std() for count in counts])
    add("  correlation over recordings", value=same_counts, target=">= 0.85", met=same_counts >= 0.85)
    add("ON share, %", on, on[1] - on[0], "within 1 point", abs(on[1] - on[0]) <= 1)
    add("10-ms profile, correlation", value=same_profile, target=">= 0.99", met=same_profile >= 0.99)
    for p, name in enumerate(("OFF", "ON")):
        value = float(overall[p])
        add(f"{name} event map, correlation", value=value, target=">= 0.90", met=value >= 0.9)
        for k in range(3):
            add(f"  saccade {k + 1}", value=float(by_saccade[k, p]))
    for k in range(3):
        for p, name in enumerate(("OFF", "ON")):
            add(f"{name} events in saccade {k + 1}", [m[:, k, p].sum() / len(m) for m in maps])
    times = [spread_in_time(events) for events in both]
    for k in range(3):
        for j, share in enumerate((5, 50, 95)):
            add(f"saccade {k + 1}: {share} % of events by, ms", [t[k, j] for t in times])
    last = [events.t[events.offsets[1:] - 1] / 1000 for events in both]
    for share in (5, 50, 95):
        add(f"last event, {share} % quantile, ms", [np.percentile(t, share) for t in last])
    gaps = [intervals(events) for events in both]
    for name, *pair in zip(POLARITY_PAIRS, *gaps, strict=True):
        first, second = pair
        add(f"{name} intervals per recording", [len(t) / len(recorded) for t in pair])
        add("  overlap of the distributions", value=overlap(first, second))
        for share in (5, 50, 95):
            add(f"  {share} % quantile, ms", [np.percentile(t, share) / 1000 if len(t) else np.nan for t in pair])
    if images is not None:
        floors = [noise_floor(events, images) for events in both]
        add("noise floor, events per pixel and s", [rate for rate, _ in floors])
        add("  ON share, %", [100 * share for _, share in floors])
    return rows


def print_table(rows: Sequence[Row]) -> None:
    """Print the rows that `compare` returns as a table."""
    print(f"{'':36s}{'recorded':>10s}{'simulated':>11s}{'agreement':>11s}  target")
    for row in rows:
        cells = (f"{x:{width}.{2 if abs(x) < 1000 else 0}f}" if x is not None else " " * width
                 for x, width in ((row.recorded, 10), (row.simulated, 11)))  # fmt: skip
        value = "" if row.value is None else f"{row.value:.3f}"
        mark = "" if row.met is None else "  yes" if row.met else "  NO"
        print(f"{row.name:36s}{''.join(cells)}{value:>11s}  {row.target}{mark}".rstrip())
