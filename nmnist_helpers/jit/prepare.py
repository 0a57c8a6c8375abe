"""Helper processes that compile the kernels of a training step while the first imports, reads and compiles as well.

Numba compiles in only one thread of a process. If the code for this version is not stored yet, `start` starts one
process, or three if there are enough processors, which compile the step's kernels from the last to the first. The
process that trains needs them from the first to the last. They meet in the middle: one process compiles a kernel while
the others wait for it (`compiled`).

Nothing depends on these processes. Without them, the first compiles all kernels itself.
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

from .compiled import storage

_config: Any = numba.config  # Numba defines its settings at run time
CHILD = "NMNIST_PREPARES"  # environment variable that is set in these processes only
# They end soon, so Python need not look for garbage, which would take a fifth of the time (`compiled`).
CODE = (
    "import gc, json, sys; gc.disable(); sys.path[:] = json.loads(sys.argv[1]);"
    " from nmnist_helpers.train import step_kernels; step_kernels.main(*map(int, sys.argv[2:]))"
)
DONE = "training"  # file beside the stored code, which exists once all kernels of a step are stored


@functools.cache
def _acquire_lock(folder: Path) -> filelock.BaseFileLock | None:
    """Return a lock that this process then holds until it ends, or None if another process holds it."""
    lock = filelock.FileLock(folder / "training.lock")
    try:
        lock.acquire(timeout=0)
    except (OSError, NotImplementedError, filelock.Timeout):
        return None
    return lock


@functools.cache
def start() -> list[subprocess.Popen]:
    """Start the processes if they are useful, once; they end with this process.

    Returns
    -------
    list of subprocess.Popen
        Empty if the kernels are stored already, if they cannot be stored, if another process has started some, if there
        is only one processor (`numba.config.NUMBA_NUM_THREADS`), if Numba's compiler is disabled, or if Python cannot
        be started. Empty in such a process, too.
    """
    processors = _config.NUMBA_NUM_THREADS
    no_python = not sys.executable or getattr(sys, "frozen", False)
    if _config.DISABLE_JIT or processors < 2 or CHILD in os.environ or no_python:
        return []
    folder = storage()
    if folder is None or (folder / DONE).exists() or _acquire_lock(folder) is None:
        return []
    number = 1 if processors < 4 else 3
    environment = os.environ | {CHILD: "1", "NUMBA_CACHE_DIR": str(folder.parent)}
    places, processes = json.dumps([str(place) for place in sys.path]), []
    with suppress(OSError):
        for share in range(number):
            process = subprocess.Popen(
                [sys.executable, "-c", CODE, places, str(share), str(number)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
            processes.append(process)
            threading.Thread(target=process.wait, daemon=True).start()
    return processes
