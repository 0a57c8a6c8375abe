"""A simulated event camera looks at a digit in three saccades, as N-MNIST's camera did.

An event camera's pixel reports changes of the logarithm of its light: an ON event (polarity 1) where the log
intensity has risen by a threshold since the pixel's last event, an OFF event (0) where it has fallen by one
(Lichtsteiner, Posch, Delbruck, IEEE J. Solid-State Circuits 43:566, 2008). A still image gives no events, so
N-MNIST's camera was moved: three small, quick turns of about 100 ms each, along a triangle (Orchard et al.,
Front. Neurosci. 9:437, 2015).
"""

import hashlib
import math
import os
import tempfile
from dataclasses import astuple, dataclass
from pathlib import Path

import numba
import numpy as np
from tqdm import tqdm

from .digits import IMAGE_SIDE, load_sklearn_digits
from .packed import EVENT_ARRAYS, RECORDING_ARRAYS, SIDE, PackedEvents

#: Where the image's centre lies on the sensor over time: ms, then pixels right and down of (13.5, 13.5).
PATH = (
    (0, 0.2, 1.5), (10, 0.3, 1.5), (20, 0.3, 1.5), (30, 0.3, 2.0), (40, 0.3, 3.1), (50, 0.5, 4.5),
    (60, 1.1, 5.7), (70, 1.8, 6.2), (80, 2.1, 6.4), (90, 2.3, 6.3), (100, 2.4, 6.2), (110, 2.5, 6.2),
    (120, 2.6, 6.2), (130, 3.0, 6.0), (140, 3.6, 5.1), (150, 3.9, 4.1), (160, 4.3, 3.1), (170, 4.8, 2.2),
    (180, 5.1, 1.9), (190, 5.4, 1.8), (200, 5.6, 1.7), (210, 5.8, 1.6), (220, 5.9, 1.5), (230, 5.7, 1.5),
    (240, 5.0, 1.5), (250, 4.1, 1.4), (260, 3.0, 1.4), (270, 2.1, 1.3), (280, 1.5, 1.3), (290, 1.3, 1.4),
    (300, 1.3, 1.5), (310, 1.3, 1.5),
)  # fmt: skip


@dataclass(frozen=True)
class SensorParams:
    """What the simulated sensor is made of.

    Parameters
    ----------
    contrast : float
        How much brighter the paper is than full ink: the logarithm of the ratio.
    blur : float
        Width (standard deviation) of the optics' blur, pixels.
    threshold_on, threshold_off : float
        Change of log intensity that makes an event.
    spread : float
        Standard deviation of the thresholds from pixel to pixel, as a share of the threshold.
    refractory : float
        Dead time of a pixel after an event, microseconds.
    jitter : float
        Standard deviation of the events' times, microseconds.
    noise : float
        Background events per pixel and second.
    path : tuple of (ms, pixels, pixels)
        Where the image's centre is over time, to the right and down.
    """

    contrast: float = 1.6
    blur: float = 0.7
    threshold_on: float = 0.2
    threshold_off: float = 0.2
    spread: float = 0.15
    refractory: float = 1500.0
    jitter: float = 500.0
    noise: float = 1.0
    path: tuple = PATH


#: Image margin (pixels of paper) so that every place that a pixel can see is inside the grid.
MARGIN = 9
GRID = IMAGE_SIDE + 2 * MARGIN
#: Simulation step, microseconds.
STEP = 1000


@numba.njit(cache=True)
def _mix(state):
    """splitmix64 (Steele, Lea, Flood, OOPSLA 2014): 64 well-mixed bits from any 64-bit number."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@numba.njit(cache=True)
def _uniform(state):
    """The next number in (0, 1) of the generator whose counter is ``state[0]``."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    return (float(_mix(state[0]) >> np.uint64(11)) + 0.5) / 9007199254740992.0


@numba.njit(cache=True)
def _normal(state):
    """A standard normal number (Box and Muller)."""
    return math.sqrt(-2.0 * math.log(_uniform(state))) * math.cos(2.0 * math.pi * _uniform(state))


@numba.njit(cache=True)
def _log_light(image, contrast, kernel, grid):
    """Fill `grid` [GRID, GRID] with the log intensity of `image` [28, 28] after the optics' blur."""
    radius = len(kernel) // 2
    dark = 1.0 - math.exp(-contrast)
    rows = np.zeros((GRID, GRID), np.float32)
    for y in range(IMAGE_SIDE):
        for x in range(IMAGE_SIDE):
            if image[y, x] > 0:
                value = dark * image[y, x] / 255.0
                for k in range(-radius, radius + 1):
                    rows[y + MARGIN, x + MARGIN + k] += value * kernel[k + radius]
    grid[:] = 0.0
    for y in range(MARGIN - radius, MARGIN + IMAGE_SIDE + radius):
        for x in range(GRID):
            total = 0.0
            for k in range(-radius, radius + 1):
                total += rows[y + k, x] * kernel[k + radius]
            grid[y, x] = math.log(1.0 - total)


@numba.njit(cache=True)
def _one_digit(grid, place, weight, threshold, sensor, state, out):
    """Events of one digit as sortable keys in `out`; returns how many there were (it may be more than fit)."""
    refractory, jitter, noise = sensor
    steps = len(place)
    count = 0
    for y in range(SIDE):
        for x in range(SIDE):
            base = y * GRID + x
            on, off = threshold[0, y, x], threshold[1, y, x]
            reference = grid[0]
            before = reference
            ready = 0.0
            for step in range(steps):
                at = base + place[step]
                now = (weight[step, 0] * grid[at] + weight[step, 1] * grid[at + 1]
                       + weight[step, 2] * grid[at + GRID] + weight[step, 3] * grid[at + GRID + 1])
                if step == 0:
                    reference = now
                    before = now
                    continue
                while True:
                    if now - reference >= on:
                        level, polarity = reference + on, 1
                    elif reference - now >= off:
                        level, polarity = reference - off, 0
                    else:
                        break
                    # Where between the two steps the light passed the level.
                    span = now - before
                    part = (level - before) / span if span != 0.0 else 0.0
                    time = STEP * (step - 1 + min(max(part, 0.0), 1.0))
                    if time < ready:
                        if ready > STEP * step:
                            break
                        time = ready
                    reference = level
                    ready = time + refractory
                    time += jitter * _normal(state)
                    if time >= 0:
                        if count < len(out):
                            out[count] = (np.int64(time) << 13) | (polarity << 12) | (y << 6) | x
                        count += 1
                before = now
    time = 0.0
    rate = noise * SIDE * SIDE * 1e-6  # events a microsecond
    while rate > 0:
        time -= math.log(_uniform(state)) / rate
        if time >= STEP * (steps - 1):
            break
        if count < len(out):
            pixel = int(_uniform(state) * SIDE * SIDE)
            polarity = int(_uniform(state) * 2)
            out[count] = (np.int64(time) << 13) | (polarity << 12) | ((pixel // SIDE) << 6) | (pixel % SIDE)
        count += 1
    return count


@numba.njit(parallel=True, cache=True)
def _many_digits(images, states, contrast, kernel, place, weight, threshold, sensor, out, counts):
    for n in numba.prange(len(images)):
        grid = np.empty((GRID, GRID), np.float32)
        _log_light(images[n], contrast, kernel, grid)
        state = states[n : n + 1].copy()
        counts[n] = _one_digit(grid.reshape(-1), place, weight, threshold, sensor, state, out[n])
        if counts[n] <= out.shape[1]:
            out[n, : counts[n]].sort()


def _track(path: tuple) -> tuple[np.ndarray, np.ndarray]:
    """Where pixel (0, 0) looks in the grid, at every step: cell index [steps], bilinear weights [steps, 4]."""
    knots = np.asarray(path, dtype=np.float64)
    ms = np.arange(0, knots[-1, 0] * 1000 + 1, STEP) / 1000
    x, y = (MARGIN - np.interp(ms, knots[:, 0], knots[:, k]) for k in (1, 2))
    column, row = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    fx, fy = x - column, y - row
    weight = np.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], axis=1)
    return row * GRID + column, weight.astype(np.float32)


def simulate(images: np.ndarray, seed: int = 0, ids: np.ndarray | None = None, labels: np.ndarray | None = None,
             params: SensorParams = SensorParams(), progress: bool = False) -> PackedEvents:  # fmt: skip
    """What the simulated sensor records of digit images.

    Parameters
    ----------
    images : uint8 array [N, 28, 28]
        Ink, 0 to 255, as MNIST has it.
    seed : int
        Chooses the sensor (its pixels' thresholds) and the noise. Digit n's events depend on the seed, on
        ``ids[n]`` and on its image alone, not on the other digits.
    ids : integer array [N], optional
        1-based numbers of the digits; 1..N where not given.
    labels : integer array [N], optional
        Digits 0..9; 0 where not given.
    params : SensorParams
        The sensor.
    progress : bool
        Show a progress bar.

    Returns
    -------
    PackedEvents
        N recordings of about 300 ms.

    Raises
    ------
    ValueError
        Where images, ids or labels have another shape or type than expected.
    """
    images = np.ascontiguousarray(images)
    if images.ndim != 3 or images.shape[1:] != (IMAGE_SIDE, IMAGE_SIDE) or images.dtype != np.uint8:
        raise ValueError(f"images: expected uint8 [N, 28, 28], found {images.dtype} {list(images.shape)}")
    ids = np.arange(1, len(images) + 1) if ids is None else np.asarray(ids, dtype=np.int64)
    labels = np.zeros(len(images), np.int64) if labels is None else np.asarray(labels, dtype=np.int64)
    for name, array in (("ids", ids), ("labels", labels)):
        if array.shape != (len(images),):
            raise ValueError(f"{name}: expected one for each of {len(images)} images, found {list(array.shape)}")

    radius = math.ceil(3 * params.blur)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / params.blur) ** 2)
    kernel = (kernel / kernel.sum()).astype(np.float32)
    place, weight = _track(params.path)
    rng = np.random.default_rng(seed)
    threshold = np.empty((2, SIDE, SIDE), np.float32)
    for polarity, mean in enumerate((params.threshold_on, params.threshold_off)):
        threshold[polarity] = mean * np.maximum(0.3, 1 + params.spread * rng.standard_normal((SIDE, SIDE)))
    sensor = (params.refractory, params.jitter, params.noise)
    # Two rounds of mixing keep the streams of neighbouring ids and seeds apart.
    words = [int.from_bytes(hashlib.blake2b(f"{seed} {n}".encode(), digest_size=8).digest()) for n in ids.tolist()]
    states = np.array(words, dtype=np.uint64)

    parts, chunk, room = [], 256, 12_000
    bar = tqdm(total=len(images), desc="simulating", unit="digit", disable=not progress)
    for start in range(0, len(images), chunk):
        some = slice(start, start + chunk)
        while True:
            out = np.empty((len(images[some]), room), np.int64)
            counts = np.empty(len(out), np.int64)
            _many_digits(images[some], states[some], params.contrast, kernel, place, weight, threshold, sensor,
                         out, counts)  # fmt: skip
            if counts.max() <= room:
                break
            room = int(counts.max())
        keys = np.concatenate([row[:count] for row, count in zip(out, counts, strict=True)])
        parts.append(PackedEvents(
            x=(keys & 63).astype(np.uint8), y=(keys >> 6 & 63).astype(np.uint8), p=(keys >> 12 & 1).astype(np.uint8),
            t=(keys >> 13).astype(np.int32), offsets=np.concatenate([[0], np.cumsum(counts)]),
            labels=labels[some], ids=ids[some]))  # fmt: skip
        bar.update(len(out))
    bar.close()
    if not parts:
        none = {name: np.empty(0, dtype) for name, dtype in (EVENT_ARRAYS | RECORDING_ARRAYS).items()}
        return PackedEvents(**none | {"offsets": np.zeros(1, np.int64)})
    return PackedEvents.concatenate(parts)


def simulated_split(train: bool, seed: int = 0, cache: bool = True) -> PackedEvents:
    """Simulated recordings of scikit-learn's digits: the data there is where there are no recordings.

    Parameters
    ----------
    train : bool
        The training digits or the test digits; see `digits.load_sklearn_digits`.
    seed : int
        See `simulate`.
    cache : bool
        Keep the recordings in, and take them from, the user's cache folder (``XDG_CACHE_HOME`` or
        ``~/.cache``, there ``nmnist_helpers/``). A damaged file is replaced.

    Returns
    -------
    PackedEvents
    """
    images, labels, ids = load_sklearn_digits(bool(train))
    if not cache:
        return simulate(images, seed, ids, labels)
    # The name holds everything the recordings depend on, this file included.
    digest = hashlib.blake2b(digest_size=8)
    for part in (images.tobytes(), repr(astuple(SensorParams())).encode(), Path(__file__).read_bytes()):
        digest.update(part)
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nmnist_helpers"
    path = folder / f"simulated-{'train' if train else 'test'}-seed{seed}-{digest.hexdigest()}.npz"
    events = _load_npz(path)
    if events is None or len(events) != len(labels) or not np.array_equal(events.ids, ids):
        events = simulate(images, seed, ids, labels)
        _save_npz(path, events)
    return events


def _load_npz(path: Path) -> PackedEvents | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            return PackedEvents(**{name: file[name] for name in EVENT_ARRAYS | RECORDING_ARRAYS}).validate()
    except Exception:  # a cache is never worth an error: whatever is wrong with it, it is made anew
        return None


def _save_npz(path: Path, events: PackedEvents) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".npz")
    except OSError:
        return  # no place to keep a cache; simulating takes a second or two
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **{name: getattr(events, name) for name in EVENT_ARRAYS | RECORDING_ARRAYS})
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
