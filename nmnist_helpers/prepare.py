"""A second process that compiles the kernels of a training step while the first one imports, reads and compiles, too.

Numba compiles with one thread of a process. Where code for this version is not stored yet, `start` starts a process
that goes through the step's kernels from the last to the first; whoever trains needs them from the first to the last.
They meet in the middle: each kernel is compiled by one of them and waited for by the other (`compiled`).

Nothing depends on the second process. Without it the first compiles all kernels itself.
"""

import functools
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock
import numba

from .compiled import Noted, noting, storage

_config: Any = numba.config  # its settings come at run time
CHILD = "NMNIST_PREPARES"  # an environment variable that only the second process has
CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from nmnist_helpers import prepare; prepare.main()"
DONE = "training"  # a file beside the stored code: all kernels of a step are there


@functools.cache
def _first(folder: Path) -> filelock.BaseFileLock | None:
    """A lock that one process holds until it ends, for all others of this machine; None for the others."""
    lock = filelock.FileLock(folder / "training.lock")
    try:
        lock.acquire(timeout=0)
    except (OSError, NotImplementedError, filelock.Timeout):
        return None
    return lock


@functools.cache
def start() -> subprocess.Popen | None:
    """Start the second process where it is of use, once; it ends with this one.

    Returns
    -------
    subprocess.Popen or None
        None where the kernels are stored, nothing can be stored, another process has started one, or there is but
        one processor (`numba.config.NUMBA_NUM_THREADS`).
    """
    no_python = not sys.executable or getattr(sys, "frozen", False)
    if _config.DISABLE_JIT or _config.NUMBA_NUM_THREADS < 2 or CHILD in os.environ or no_python:
        return None
    folder = storage()
    if folder is None or (folder / DONE).exists() or _first(folder) is None:
        return None
    environment = os.environ | {CHILD: "1", "NUMBA_CACHE_DIR": str(folder.parent)}
    command = [sys.executable, "-c", CODE, json.dumps([str(place) for place in sys.path])]
    try:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except OSError:
        return None
    threading.Thread(target=process.wait, daemon=True).start()
    return process


def main() -> None:
    """What the second process does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for dispatcher, types in reversed(list(step_kernels())):
        dispatcher.compile(types)
    folder = storage()
    if folder is not None:
        (folder / DONE).touch()


def _end_with_parent() -> None:
    os.read(0, 1)  # nothing comes, until the other end is closed
    os._exit(0)


def step_kernels() -> list[tuple]:
    """The kernels of a training step of the tutorial's network, in the order in which they are called.

    A step is taken in which no kernel runs.

    Returns
    -------
    list of (dispatcher, types of the arguments)
    """
    import numpy as np
    import torch

    from .data.loader import EventLoader
    from .io import PackedEvents
    from .loss import SpikeRate
    from .network import Network
    from .spikes import Spikes

    some = {name: np.zeros(1, kind) for name, kind in (("x", "u1"), ("y", "u1"), ("p", "u1"), ("t", "i4"))}
    recordings = PackedEvents(**some, offsets=np.array([0, 1]), labels=np.zeros(1, int), ids=np.ones(1, int))
    net = Network()
    with noting() as notes:
        with suppress(Noted):
            EventLoader(recordings).batch(0)
        indptr, channel = torch.zeros(301, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
        out = net(Spikes(indptr, channel, (1, 2312, 300)))
        SpikeRate(0.2, 0.03)(out, torch.zeros(1, dtype=torch.long)).backward()
    return list(notes)
