"""Helper threads, which share a kernel's tasks with the thread that calls it (Linux only).

The caller opens a job, wakes helpers, and works on the tasks itself. When no task is left, it closes the job and waits
only for helpers that have entered it. OpenMP's threads would all have to begin and end first, even if another program
keeps one of them from running. Since nobody waits for a late helper, there are more threads than processors while other
programs are running: if one of them takes the processor of one thread, the others go on with the tasks.
"""

import os
import platform
import sys
import threading
from collections import deque
from contextlib import suppress

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .compiled import NotRun, njit

#: Number of Linux's system call ``futex``, with which threads wait for a change of a word in memory and wake others.
FUTEX = {"x86_64": 202, "aarch64": 98}.get(platform.machine()) if sys.platform == "linux" else None
WAIT, WAKE = 128, 129  # operations of ``futex``, for threads of one process
#: Words that all threads share, a cache line apart. The first counts the jobs. The second counts the helpers that are
#: in a job (or are looking whether it is open), and has a bit that is set while no job is open. The third is 1 while a
#: thread has the crew.
JOBS, INSIDE, BUSY, WORDS = 0, 16, 32, 48
CLOSED = np.int32(1 << 30)
ONE = np.int32(1)
SPINS = 2_000  # looks at a word before a thread goes to sleep: a few microseconds, less than waking it would take
EXTRA = 4  # at most this many more threads than there are processors, while other programs are running
LOAD = "/proc/loadavg"  # its fourth field begins with the number of threads that are running or ready to run
PROCESSORS = os.cpu_count() or 1  # asked once: the answer takes 30 microseconds, and a step asks 20 times
LOOKS = 16  # this many launches in a row must have found another program running
LONG, POINTER = ir.IntType(64), ir.IntType(8).as_pointer()
ON_THREAD = ir.FunctionType(ir.VoidType(), [POINTER] * 4)  # what a thread runs; the fourth pointer is for our use


def _place(context, builder, array_type, array, at):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [at])


def _make_atomic(name: str):
    """Return an intrinsic that changes ``words[at]`` in one step, for all threads to see, and returns its old value."""

    def typing(typingctx, words, at, value):
        def codegen(context, builder, sig, args):
            words, at, value = args
            return builder.atomic_rmw(name, _place(context, builder, sig.args[0], words, at), value, "seq_cst")

        return types.int32(words, types.int64, types.int32), codegen

    typing.__name__ = f"_{name}"
    return intrinsic(typing)


_add, _and, _or = map(_make_atomic, ("add", "and", "or"))


@intrinsic
def _read(typingctx, words, at):
    """Return ``words[at]`` as it is now, whichever thread wrote it."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(_place(context, builder, sig.args[0], *args), "seq_cst", 4)

    return types.int32(words, types.int64), codegen


@intrinsic
def _futex(typingctx, words, at, operation, value):
    """Sleep if ``words[at] == value`` (WAIT), or wake `value` threads that do (WAKE).

    A thread may also wake without a cause, so it must look at the word again.
    """

    def codegen(context, builder, sig, args):
        words, at, operation, value = args
        place = _place(context, builder, sig.args[0], words, at)
        kind = ir.FunctionType(LONG, [LONG, place.type, *[LONG] * 5])
        call = cgutils.get_or_insert_function(builder.module, kind, "syscall")
        builder.call(call, [LONG(FUTEX), place, operation, builder.sext(value, LONG), *[LONG(0)] * 3])
        return context.get_dummy_value()

    return types.none(words, types.int64, types.int64, types.int32), codegen


@intrinsic
def _call(typingctx, work, data):
    """Call the function at address `work`, an `ON_THREAD`, with `data` as its fourth pointer."""

    def codegen(context, builder, sig, args):
        work, data = args
        none = POINTER(None)
        function = builder.inttoptr(work, ON_THREAD.as_pointer())
        builder.call(function, [none, none, none, builder.inttoptr(data, POINTER)])
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), codegen


@njit(nogil=True)
def _help(words, job):
    """Take part in one job after the other, forever (the program of a helper)."""
    seen = np.int32(0)
    while True:
        spins = 0
        while _read(words, JOBS) == seen and spins < SPINS:
            spins += 1
        if _read(words, JOBS) == seen:
            _futex(words, JOBS, WAIT, seen)
            continue
        seen = _read(words, JOBS)
        if _read(words, INSIDE) & CLOSED:
            continue
        if _add(words, INSIDE, ONE) & CLOSED == 0:
            _call(job[0], job[1])
        if _add(words, INSIDE, -ONE) == CLOSED | ONE:  # the last one out
            _futex(words, INSIDE, WAKE, ONE)


@njit(no_cpython_wrapper=True)
def lead(words, job, helpers, work, data):
    """Run ``work(data)`` on this thread and on helpers; return when all threads that have begun have ended.

    Parameters
    ----------
    words, job
        Those of the `Crew`.
    helpers : int
        How many sleeping helpers to wake; those that are awake help, too. With 0, or while the crew works for another
        thread, nobody helps.
    work, data : int
        Addresses of a function (`ON_THREAD`) and of its data.
    """
    # Taken and given back in compiled code, in which no interrupt can come between.
    mine = helpers > 0 and _or(words, BUSY, ONE) == 0
    if mine:
        job[0], job[1] = work, data
        _and(words, INSIDE, ~CLOSED)
        _add(words, JOBS, ONE)
        _futex(words, JOBS, WAKE, np.int32(helpers))
    _call(work, data)
    if mine:
        inside, spins = _or(words, INSIDE, CLOSED) | CLOSED, 0
        while inside != CLOSED:
            if spins > SPINS:
                _futex(words, INSIDE, WAIT, inside)
            spins += 1
            inside = _read(words, INSIDE)
        _and(words, BUSY, ~ONE)


def _let_idle_threads_sleep() -> None:
    """Make idle threads of torch's OpenMP sleep after a microsecond, if it was loaded with its usual settings.

    Otherwise, they spin for some milliseconds and block processors that the kernels' threads need. GNU's OpenMP reads
    its environment variables only when it is loaded. But it also lets threads sleep early if there are more of them
    than processors, even if some have nothing to do. So one more team is made, by a thread that then sleeps forever.
    """
    if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & set(os.environ) or torch.get_num_threads() < 2:
        return
    made = threading.Event()

    def make_team():
        torch.zeros(1 << 20).add_(1)  # so many numbers that torch uses all threads
        made.set()
        threading.Event().wait()

    threading.Thread(target=make_team, name=__name__, daemon=True).start()
    made.wait(timeout=1)


class Crew:
    """The helpers of this process, and the memory in which they find their jobs."""

    quota: int | None = None  # at most this many threads; Numba's own limit would hold for a single thread that calls

    def __init__(self) -> None:
        self.words, self.job = np.zeros(WORDS, np.int32), np.zeros(2, np.int64)
        self.words[INSIDE] = CLOSED
        self.growing = threading.Lock()
        self.number = 0
        self.running: deque[int] = deque([0] * LOOKS, LOOKS)  # threads of the whole system, at the last launches
        self.load = -1  # stays open, because opening it takes ten times as long as reading it
        with suppress(OSError):
            self.load = os.open(LOAD, os.O_RDONLY)

    def recruit(self, tasks: int) -> int:
        """Return how many helpers to wake for a number of tasks."""
        helpers = min(tasks, self._threads()) - 1 if tasks > 1 else 0
        if helpers > self.number:
            with self.growing, suppress(NotRun):
                self._grow(helpers)
        return helpers

    def _threads(self) -> int:
        """Return how many threads may work together, the caller included."""
        threads, processors = numba.get_num_threads(), len(os.sched_getaffinity(0))
        if processors == 1:
            return 1
        if self.quota is not None:
            return min(threads, self.quota)
        if threads == processors and self._crowded(threads):  # fewer threads are the user's choice
            threads += min(threads, EXTRA)
        return threads

    def _crowded(self, threads: int) -> bool:
        """Return whether other programs leave too few processors for the threads."""
        try:
            self.running.append(int(os.pread(self.load, 80, 0).split()[3].partition(b"/")[0]))
        except (OSError, ValueError, IndexError):
            return False
        others = min(self.running) - 1  # the caller is running, too; helpers and torch's threads are at times
        return others + threads > PROCESSORS

    def _grow(self, number: int) -> None:
        """Start helpers until there are `number`, or as many as the system allows."""
        if not self.number:
            _help.compile((numba.typeof(self.words), numba.typeof(self.job)))
        while self.number < number:
            helper = threading.Thread(target=_help, args=(self.words, self.job), name=__name__, daemon=True)
            try:
                helper.start()
            except RuntimeError:  # too many threads
                return
            self.number += 1
            if self.number == 1:
                _let_idle_threads_sleep()


CREW = Crew()
