"""Small synthetic recordings in N-MNIST's official layout, and a slow reference implementation of binning."""

import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np

#: Attributes of `PackedEvents` that are arrays.
ARRAYS = ("x", "y", "p", "t", "offsets", "labels", "ids")


def events(rng, count, last=310_000):
    """Return random events sorted by time, as tuples of Python integers: x, y, p and t in microseconds."""
    t = sorted(int(v) for v in rng.integers(0, last, count))
    x, y, p = (rng.integers(0, top, count).tolist() for top in (34, 34, 2))
    return list(zip(x, y, p, t, strict=True))


def to_bytes(recording):
    """Encode events in the official format of 5 bytes per event, without the package's code."""
    out = bytearray()
    for x, y, p, t in recording:
        out += bytes([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255])
    return bytes(out)


def make(seed=0, per_digit=2, digits=range(10), count=60, first_id=1):
    """Return recordings as {'5/00007.bin': events}, not sorted by name."""
    rng = np.random.default_rng(seed)
    names = [f"{digit}/{first_id + 10 * k + digit:05d}.bin" for k in range(per_digit) for digit in digits]
    return {name: events(rng, count + int(rng.integers(0, 20))) for name in reversed(names)}


def write_folder(root: Path, split: str, recordings) -> Path:
    for name, recording in recordings.items():
        path = root / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(recording if isinstance(recording, bytes) else to_bytes(recording))
    return root / split


def write_zip(root: Path, split: str, recordings, extra=()) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(root / f"{split}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{split}/", "")
        for name, recording in recordings.items():
            archive.writestr(f"{split}/{name}", recording if isinstance(recording, bytes) else to_bytes(recording))
        for name, data in extra:
            archive.writestr(name, data)
    return root / f"{split}.zip"


def spikes(recording, bins, sampling_time=1):
    """Return the set of (channel, time bin) of a recording, from exact fractions that `round` rounds half to even."""
    step = Fraction(sampling_time) * 1000
    placed = {(p * 1156 + y * 34 + x, round(Fraction(t) / step)) for x, y, p, t in recording}
    return {(channel, k) for channel, k in placed if k < bins}


def same(first, second) -> bool:
    """Return whether two `PackedEvents` hold equal arrays."""
    return all(np.array_equal(getattr(first, name), getattr(second, name)) for name in ARRAYS)
