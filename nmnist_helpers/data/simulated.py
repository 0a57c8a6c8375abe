"""Simulated recordings: the data there is where there are no recordings, made once and kept in the user's cache."""

import hashlib
import os
from pathlib import Path

import numpy as np

from ..camera import digits, path, pixels, sensor, simulator
from ..camera.digits import load_sklearn_digits
from ..camera.sensor import SensorParams
from ..camera.simulator import simulate
from ..files import atomic
from ..io import EVENT_ARRAYS, RECORDING_ARRAYS, PackedEvents


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
    if not cache:
        images, labels, ids = load_sklearn_digits(bool(train))
        return simulate(images, seed, ids, labels)
    place = cache_file(train, seed)
    events = _load(place)
    if events is None:
        events = simulated_split(train, seed, cache=False)
        _save(place, events)
    return events


def cache_file(train: bool, seed: int = 0) -> Path:
    """Where `simulated_split` keeps its recordings. The name holds what they depend on: change that, and they are
    made anew."""
    digest = hashlib.blake2b(repr(SensorParams()).encode(), digest_size=8)
    for module in (digits, path, pixels, sensor, simulator):
        digest.update(Path(module.__file__).read_bytes())
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "nmnist_helpers"
    return folder / f"simulated-{'train' if train else 'test'}-seed{seed}-{digest.hexdigest()}.npz"


def _load(place: Path) -> PackedEvents | None:
    """The recordings in `place`; None where it is not there or not whole. (npz files carry checksums.)"""
    try:
        with np.load(place, allow_pickle=False) as file:
            return PackedEvents(**{name: file[name] for name in EVENT_ARRAYS | RECORDING_ARRAYS}).validate()
    except Exception:  # whatever is wrong with a cache, the remedy is the same: make it anew
        return None


def _save(place: Path, events: PackedEvents) -> None:
    try:
        with atomic(place) as temporary:
            np.savez(temporary, **{name: getattr(events, name) for name in EVENT_ARRAYS | RECORDING_ARRAYS})
    except OSError:
        pass  # no place for a cache: next time it takes a second again
