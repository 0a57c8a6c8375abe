"""A simulated event camera that records a digit in three saccades, as N-MNIST's camera did.

An event camera's pixel reports changes of the logarithm of its light: an ON event (polarity 1) where it has
risen by a threshold since the pixel's last event, an OFF event (0) where it has fallen by one (Lichtsteiner,
Posch, Delbruck, IEEE J. Solid-State Circuits 43:566, 2008). A still image gives no events, so N-MNIST's camera
was moved: three small, quick turns of 100 ms each, along a triangle, before a screen that showed the digit
(Orchard, Jayawant, Cohen, Thakor, Front. Neurosci. 9:437, 2015).

`sensor` holds the camera's constants and the origin of each; `pixels` is the compiled part.
"""

import hashlib
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from ..geometry import SIDE
from ..io import PackedEvents
from . import pixels
from .digits import IMAGE_SIDE
from .sensor import SensorParams

#: Digits that one thread simulates at a time, and for how many events of each there is room at first.
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
    """Simulate what the sensor records of digit images.

    Parameters
    ----------
    images : uint8 array [N, 28, 28]
        Ink, 0 to 255, as MNIST has it.
    seed : int
        Chooses the sensor (its pixels' thresholds and refractory times) and all that is random. The events of
        digit n depend on the seed, on ``ids[n]`` and on its image alone, not on the other digits.
    ids : integer array [N], optional
        Numbers of the digits, 0 or more; 1..N by default.
    labels : integer array [N], optional
        Digits 0..9; 0 by default.
    params : SensorParams, optional
        The sensor; by default the one fitted to N-MNIST.
    progress : bool
        Show a progress bar.
    workers : int, optional
        Threads; by default as many as the process may use processors.

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
    """Simulate as `simulate` does, and hand over the recordings of `size` digits at a time.

    A caller that writes each part to a file needs the same memory for 60,000 digits as for 1,000. Together the parts
    are what `simulate` returns. Without images there is one empty part.

    Raises
    ------
    ValueError
        At once, as `simulate` does.

    Examples
    --------
    >>> for n, part in enumerate(simulate_chunks(images, ids=ids, labels=labels)):
    ...     write_recordings(part, folder)
    """
    images, ids, labels = _checked(images, ids, labels)
    params = SensorParams() if params is None else params
    workers = _processors() if workers is None else workers
    for name, value, least in (("seed", seed, -math.inf), ("workers", workers, 1), ("size", size, 1)):
        if not isinstance(value, int | np.integer) or value < least:
            expected = "a whole number" + (f" of at least {least}" if least == 1 else "")
            raise ValueError(f"{name}: expected {expected}, found {value!r}")
    if not isinstance(params, SensorParams):
        raise ValueError(f"params: expected SensorParams, found {type(params).__name__}")
    return _chunks(images, ids, labels, params, seed, progress, workers, size)


def _chunks(images, ids, labels, params, seed, progress, workers, size) -> Iterator[PackedEvents]:
    constants, path = pixels.constants(params), np.array(params.path, dtype=np.float64)
    thresholds, refractory, leaks, hot = _make_sensor(params, seed)
    states = _random_states(seed, ids)

    def run(some: slice) -> PackedEvents:
        room = ROOM
        counts = np.empty(len(images[some]), np.int64)
        while True:
            out = np.empty((len(counts), room), np.int64)
            pixels.record(images[some], states[some], path, constants, thresholds, refractory, leaks, hot, out, counts)
            if counts.max(initial=0) <= room:
                return _unpack(out, counts, labels[some], ids[some])
            room = int(counts.max())

    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(images), desc="simulating", unit="digit", disable=not progress) as bar,
    ):
        for start in range(0, max(len(images), 1), size):
            end = min(start + size, len(images))
            parts = []
            for part in pool.map(run, [slice(at, min(at + CHUNK, end)) for at in range(start, max(end, 1), CHUNK)]):
                parts.append(part)
                bar.update(len(part))
            yield PackedEvents.concatenate(parts)


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _checked(images, ids, labels) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    """Make the pixels of sensor number `seed`: thresholds [2, 34, 34] (OFF, ON), refractory times and leaks [34, 34],
    and which are hot."""
    rng = np.random.default_rng(_random_states(seed, ["sensor"])[0])
    off, on, dead, leak = rng.standard_normal((4, SIDE, SIDE))
    # A threshold far below the others would make a pixel that never stops.
    off = params.threshold_off * np.maximum(0.3, 1 + params.spread_off * off)
    on = params.threshold_on * np.maximum(0.3, 1 + params.spread_on * on)
    refractory = np.maximum(params.refractory * np.exp(params.refractory_spread * dead), params.reset)
    leak = params.leak * np.exp(params.leak_spread * leak - params.leak_spread**2 / 2)
    rows, columns = np.divmod(rng.choice(SIDE * SIDE, params.hot, replace=False), SIDE)
    return np.stack([off, on]), refractory, leak, rows << pixels.ROW_SHIFT | columns


def _random_states(seed: int, names) -> np.ndarray:
    """Make a start of random numbers for each name, well mixed: neighbours have nothing in common."""
    words = (hashlib.blake2b(f"{seed} {name}".encode(), digest_size=8).digest() for name in names)
    return np.array([int.from_bytes(word, "little") for word in words], dtype=np.uint64)


def _unpack(out: np.ndarray, counts: np.ndarray, labels: np.ndarray, ids: np.ndarray) -> PackedEvents:
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
