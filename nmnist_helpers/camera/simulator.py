"""Simulate an event camera that records a digit in three saccades, as N-MNIST's camera did.

A pixel of an event camera reports changes of the logarithm of its light. It fires an ON event (polarity 1) if the
logarithm has risen by a threshold since its last event, and an OFF event (0) if it has fallen by a threshold
(Lichtsteiner, Posch, Delbruck, IEEE J. Solid-State Circuits 43:566, 2008). A still image causes no events, so N-MNIST's
camera was moved: in front of a screen that showed the digit, it made three small, quick turns of 100 ms each, along a
triangle (Orchard, Jayawant, Cohen, Thakor, Front. Neurosci. 9:437, 2015).

`sensor` contains the camera's constants and the origin of each; `pixels` is the compiled part.
"""

import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..console import progress_bar
from ..geometry import SIDE
from ..io import PackedEvents
from ..processes import count_processors
from . import pixels
from .digits import IMAGE_SIDE
from .sensor import SensorParams

#: Number of digits that a thread simulates at a time, and number of events of each for which memory is first allocated.
CHUNK, ROOM = 64, 8_000


def simulate(
    images: np.ndarray,
    seed: int = 0,
    ids: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    params: SensorParams | None = None,
    progress: bool = False,
    workers: int | None = None,
) -> PackedEvents:
    """Simulate the recordings of digit images.

    Parameters
    ----------
    images : uint8 array [N, 28, 28]
        Ink from 0 to 255, as in MNIST.
    seed : int
        Determines the sensor (its pixels' thresholds, refractory times and leaks) and all random numbers. The events of
        digit n depend only on the seed, on ``ids[n]`` and on its image, not on the other digits.
    ids : integer array [N], optional
        Numbers of the digits, 0 or more; by default 1..N.
    labels : integer array [N], optional
        Digits 0..9, by default 0. They are only copied to the result.
    params : SensorParams, optional
        Constants of the sensor; by default those fitted to N-MNIST.
    progress : bool
        Show a progress bar.
    workers : int, optional
        Number of threads; by default the number of processors that the process may use.

    Returns
    -------
    PackedEvents
        N recordings of about 308 ms.

    Raises
    ------
    ValueError
        If an argument has another shape, type or range than expected.

    Examples
    --------
    >>> images, labels, ids = load_mnist('MNIST', train=True)
    >>> events = simulate(images[:1000], ids=ids[:1000], labels=labels[:1000])
    """
    return PackedEvents.concatenate([*simulate_chunks(images, seed, ids, labels, params, progress, workers)])


def simulate_chunks(
    images: np.ndarray,
    seed: int = 0,
    ids: np.ndarray | None = None,
    labels: np.ndarray | None = None,
    params: SensorParams | None = None,
    progress: bool = False,
    workers: int | None = None,
    size: int = 1024,
) -> Iterator[PackedEvents]:
    """Simulate as `simulate` does, but yield the recordings of `size` digits at a time.

    A caller that writes each part to a file needs no more memory for 60,000 digits than for 1,000. Concatenated, the
    parts are equal to the result of `simulate`. Without images there is one empty part.

    Raises
    ------
    ValueError
        As `simulate` does, at the call and not at the first iteration.

    Examples
    --------
    >>> for n, part in enumerate(simulate_chunks(images, ids=ids, labels=labels)):
    ...     write_recordings(part, folder)
    """
    images, ids, labels = _check_inputs(images, ids, labels)
    params = SensorParams() if params is None else params
    workers = count_processors() if workers is None else workers
    for name, value, least in (("seed", seed, -math.inf), ("workers", workers, 1), ("size", size, 1)):
        if not isinstance(value, int | np.integer) or value < least:
            expected = "a whole number" + (f" of at least {least}" if least == 1 else "")
            raise ValueError(f"{name}: expected {expected}, found {value!r}")
    if not isinstance(params, SensorParams):
        raise ValueError(f"params: expected SensorParams, found {type(params).__name__}")
    return _simulate_chunks(images, ids, labels, params, seed, progress, workers, size)


def _simulate_chunks(images, ids, labels, params, seed, progress, workers, size) -> Iterator[PackedEvents]:
    constants, path = pixels.constants(params), np.array(params.path, dtype=np.float64)
    thresholds, refractory, leaks, hot = _make_sensor(params, seed)
    states = _random_states(seed, ids)

    def run(rows: slice) -> PackedEvents:
        room = ROOM
        inks = images[rows].copy()  # Numba would compile `record` once more for images that are read-only
        counts = np.empty(len(inks), np.int64)
        while True:
            out = np.empty((len(counts), room), np.int64)
            pixels.record(inks, states[rows], path, constants, thresholds, refractory, leaks, hot, out, counts)
            if counts.max(initial=0) <= room:
                break
            room = int(counts.max())
        for events, count in zip(out, counts, strict=True):
            events[:count].sort()
        return _decode_events(out, counts, labels[rows], ids[rows])

    with (
        ThreadPoolExecutor(workers) as pool,
        progress_bar(hidden=not progress, total=len(images), desc="simulating", unit="digit") as bar,
    ):
        for start in range(0, max(len(images), 1), size):
            end = min(start + size, len(images))
            parts = []
            for part in pool.map(run, [slice(at, min(at + CHUNK, end)) for at in range(start, max(end, 1), CHUNK)]):
                parts.append(part)
                bar.update(len(part))
            yield PackedEvents.concatenate(parts)


def _check_inputs(images, ids, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    images = np.ascontiguousarray(images)
    if images.ndim != 3 or images.shape[1:] != (IMAGE_SIDE, IMAGE_SIDE) or images.dtype != np.uint8:
        raise ValueError(f"images: expected uint8 [N, 28, 28], found {images.dtype} {list(images.shape)}")
    arrays = []
    for name, array, default in (("ids", ids, np.arange(1, len(images) + 1)), ("labels", labels, 0 * images[:, 0, 0])):
        array = np.asarray(default if array is None else array)
        if array.shape != (len(images),) or array.dtype.kind not in "iu":
            expected = f"expected an integer for each of {len(images)} images"
            raise ValueError(f"{name}: {expected}, found {array.dtype} {list(array.shape)}")
        arrays.append(array.astype(np.int64))
    ids, labels = arrays
    if len(ids) and ids.min() < 0:
        raise ValueError(f"ids: expected 0 or more, found {ids.min()}")
    if len(labels) and not 0 <= labels.min() <= labels.max() <= 9:
        raise ValueError(f"labels: expected digits 0..9, found {labels.min()}..{labels.max()}")
    return images, ids, labels


def _make_sensor(params: SensorParams, seed: int) -> tuple[np.ndarray, ...]:
    """Draw the constants of the sensor's pixels for `seed`.

    Return thresholds [2, 34, 34] (OFF, ON), refractory times [34, 34], leaks [34, 34] and codes of the hot pixels [H].
    """
    rng = np.random.default_rng(_random_states(seed, ["sensor"])[0])
    off, on, dead, leak = rng.standard_normal((4, SIDE, SIDE))
    # A pixel with a threshold far below the others would fire all the time.
    off = params.threshold_off * np.maximum(0.3, 1 + params.spread_off * off)
    on = params.threshold_on * np.maximum(0.3, 1 + params.spread_on * on)
    refractory = np.maximum(params.refractory * np.exp(params.refractory_spread * dead), params.reset)
    leak = params.leak * np.exp(params.leak_spread * leak - params.leak_spread**2 / 2)
    rows, columns = np.divmod(rng.choice(SIDE * SIDE, params.hot, replace=False), SIDE)
    return np.stack([off, on]), refractory, leak, rows << pixels.ROW_SHIFT | columns


def _random_states(seed: int, names) -> np.ndarray:
    """Return an initial random state (uint64) for each name; a hash makes the states of similar names unrelated."""
    words = (hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(word, "little") for word in words], dtype=np.uint64)


def _decode_events(out: np.ndarray, counts: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> PackedEvents:
    events = out[np.arange(out.shape[1]) < counts[:, None]]
    return PackedEvents(
        x=(events & 63).astype(np.uint8),
        y=(events >> pixels.ROW_SHIFT & 63).astype(np.uint8),
        p=(events >> pixels.POLARITY_SHIFT & 1).astype(np.uint8),
        t=(events >> pixels.TIME_SHIFT).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        labels=labels,
        ids=ids,
    )
