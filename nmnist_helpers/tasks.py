"""Kernels that run as many small tasks, shared among the threads while they run."""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import get_num_threads, prange, types
from numba.extending import intrinsic

from .compiled import njit

CGROUP = Path("/sys/fs/cgroup")
_config: Any = numba.config  # its settings come at run time


def respect_quota() -> None:
    """Use no more threads than a container may use processors, unless an environment variable says how many."""
    try:
        most, period = (CGROUP / "cpu.max").read_text().split()
        processors = max(1, -(-int(most) // int(period)))
    except (OSError, ValueError):  # no such limit: "max 100000"
        return
    if processors < torch.get_num_threads() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(processors)
    if processors < _config.NUMBA_NUM_THREADS and "NUMBA_NUM_THREADS" not in os.environ:
        numba.set_num_threads(processors)


@intrinsic
def _take(typingctx, counter):
    """The value of ``counter[0]``, which becomes one more: no two threads get the same."""

    def codegen(context, builder, sig, args):
        place = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), codegen


def _share(counter, tasks, threads, *arguments):
    for _ in prange(threads):
        task = _take(counter)
        while task < tasks:
            body(task, *arguments)  # type: ignore[name-defined]  # noqa: F821  # a global of each copy of this function
            task = _take(counter)


def tasks(**options) -> Callable:
    """Compile a function ``f(task, ...)`` and let threads share its tasks.

    Whichever thread is free takes the next task. With a fixed share for each, all threads wait for the one whose core
    another program uses. A task writes to places of its own, so that results do not depend on who runs it.

    Parameters
    ----------
    **options
        As for `njit`.

    Returns
    -------
    callable
        The decorator. What it returns is called as ``f(number_of_tasks, argument=..., ...)``.
    """

    def decorate(function: Callable) -> Callable:
        name = f"{function.__module__}.{function.__qualname__}"
        compiled = njit(**options)(function)
        share = FunctionType(_share.__code__, {**globals(), "body": compiled}, name)
        share.__module__, share.__qualname__ = __name__, name  # the name under which the compiled code is stored
        launch = njit(parallel=True, **options)(share)
        names = list(inspect.signature(function).parameters)[1:]

        @functools.wraps(function)
        def run(number: int, **arguments: Any) -> None:
            most = get_num_threads()
            threads = max(1, min(number, most))
            numba.set_num_threads(threads)  # more would be woken for nothing
            try:
                launch(np.zeros(1, np.int64), number, threads, *(arguments[name] for name in names))
            finally:
                numba.set_num_threads(most)

        return run

    return decorate
