"""Kernels that run as many small tasks, shared among threads while they run.

Whichever thread is free takes the next task, and nobody waits for a thread that has taken none: where other programs
use the cores, the threads that get some time do all the work. With Numba's own parallel loops, each thread has a fixed
share, and all wait until the last one has had its turn. These threads also cost less to compile for, can be started
by several threads of a program at once, and are started anew in a process that was forked.
"""

import functools
import inspect
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import FunctionType

import numpy as np
import torch
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from .compiled import Noted, njit

CGROUP = Path("/sys/fs/cgroup")


def threads() -> int:
    """Threads that share a kernel's tasks: as many as torch uses."""
    return torch.get_num_threads()


def respect_quota() -> None:
    """Let torch use no more threads than a container may use processors, unless ``OMP_NUM_THREADS`` says how many."""
    try:
        most, period = (CGROUP / "cpu.max").read_text().split()
        processors = max(1, -(-int(most) // int(period)))
    except (OSError, ValueError):  # no such limit: "max 100000"
        return
    if processors < torch.get_num_threads() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(processors)


class _Job:
    """A kernel's call, for helpers to join until it is closed."""

    def __init__(self, call: Callable, arguments: tuple, helpers: int):
        self.call, self.arguments = call, arguments
        self.tickets = [None] * helpers  # who gets one joins in; taking one is atomic
        self.finished: SimpleQueue = SimpleQueue()

    def join(self) -> None:
        try:
            self.tickets.pop()
        except IndexError:
            return  # too late
        error = None
        try:
            self.call(*self.arguments)
        except BaseException as found:
            error = found
        self.finished.put(error)

    def close(self, helpers: int) -> None:
        """Let nobody join any more, and wait for those who did."""
        joined = helpers
        while True:
            try:
                self.tickets.pop()
            except IndexError:
                break
            joined -= 1
        errors = [self.finished.get() for _ in range(joined)]
        for error in errors:
            if error is not None:
                raise error


class _Helpers:
    """Threads that wait for jobs."""

    def __init__(self):
        self.jobs: SimpleQueue = SimpleQueue()
        self.number = 0
        self.starting = threading.Lock()

    def ask(self, job: _Job, number: int) -> None:
        with self.starting:
            while self.number < number:
                threading.Thread(target=self.serve, name="nmnist_helpers", daemon=True).start()
                self.number += 1
        for _ in range(number):
            self.jobs.put(job)

    def serve(self) -> None:
        while True:
            self.jobs.get().join()  # no name for the job: it would keep the arguments in memory until the next


_helpers = _Helpers()


def _after_fork() -> None:
    global _helpers
    if _helpers.number:
        torch.set_num_threads(1)  # the threads stay with the parent, torch's own too: it would wait for them for ever
    _helpers = _Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@intrinsic
def _take(typingctx, counter):
    """The value of ``counter[0]``, which becomes one more: no two threads get the same."""

    def codegen(context, builder, sig, args):
        place = context.make_array(sig.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(counter), codegen


def _share(counter, tasks, *arguments):
    task = _take(counter)
    while task < tasks:
        body(task, *arguments)  # type: ignore[name-defined]  # noqa: F821  # a global of each copy of this function
        task = _take(counter)


def tasks(**options) -> Callable:
    """Compile a function ``f(task, ...)`` and let threads share its tasks.

    A task writes to places of its own, so that results do not depend on who runs it.

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
        share = FunctionType(_share.__code__, {**globals(), "body": njit(**options)(function)}, name)
        share.__module__, share.__qualname__ = __name__, name  # the name under which the compiled code is stored
        compiled = njit(nogil=True)(share)
        names = list(inspect.signature(function).parameters)[1:]

        @functools.wraps(function)
        def run(number: int, **named) -> None:
            call: tuple = (np.zeros(1, np.int64), number, *(named.pop(name) for name in names))
            if named:
                raise TypeError(f"{name}: expected {', '.join(names)}, found {', '.join(named)} too")
            helpers = min(number, threads()) - 1
            # The first call of a process compiles or loads the code, which is one thread's work.
            if helpers < 1 or not compiled.signatures:
                with suppress(Noted):
                    compiled(*call)
                return
            job = _Job(compiled, call, helpers)
            try:
                _helpers.ask(job, helpers)
                compiled(*call)
            finally:
                job.close(helpers)

        return run

    return decorate
