"""The program of a helper process that `prepare` starts: compile the kernels of a training step."""

import os
import threading
from contextlib import suppress

import numpy as np
import torch

from ..data.loader import EventLoader
from ..geometry import CHANNELS
from ..io import EVENT_ARRAYS, PackedEvents
from ..jit.compiled import NotRun, dry_run, storage
from ..jit.prepare import DONE
from ..loss import SpikeRate
from ..network import Network
from ..spikes import Spikes


def main(share: int, number: int) -> None:
    """Compile the kernels of a training step (the program of a helper process).

    The helpers are numbered from 0 to ``number - 1``. Number `share` begins with its part of the kernels, and then
    compiles those that nobody has compiled yet.
    """
    threading.Thread(target=_end_with_parent, daemon=True).start()
    kernels = list(step_kernels())[::-1]
    for dispatcher, types in kernels[share::number] + kernels:  # those that are compiled already take no time
        dispatcher.compile(types)
    folder = storage()
    if folder is not None:
        (folder / DONE).touch()


def _end_with_parent() -> None:
    os.read(0, 1)  # the parent writes nothing, so this returns only when it has ended
    os._exit(0)


def step_kernels() -> list[tuple]:
    """Return the kernels of a training step of the tutorial's network, in the order of their calls.

    They are recorded in a dry run of the step.

    Returns
    -------
    list of (dispatcher, types of its arguments)
    """
    event = {name: np.zeros(1, kind) for name, kind in EVENT_ARRAYS.items()}
    recordings = PackedEvents(**event, offsets=np.array([0, 1]), labels=np.zeros(1, int), ids=np.ones(1, int))
    net = Network()
    with dry_run() as calls:
        with suppress(NotRun):
            EventLoader(recordings).batch(0)
        indptr, channel = torch.zeros(301, dtype=torch.int32), torch.zeros(0, dtype=torch.int32)
        out = net(Spikes(indptr, channel, (1, CHANNELS, 300)))
        SpikeRate(0.2, 0.03)(out, torch.zeros(1, dtype=torch.long)).backward()
    return list(calls)
