"""Kernels that consist of many small tasks: each thread takes the next task when it is free."""

import functools
import inspect
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext, suppress
from types import FunctionType
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.compiler import Flags
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from ..processes import quota_of_processors
from .compiled import NotRun, begin_launch, njit
from .crew import CREW, FUTEX, LONG, ON_THREAD, POINTER, lead

TORCHRUN = "TORCHELASTIC_RUN_ID"  # environment variable that is set in torchrun's processes
PARALLEL_FOR = ir.FunctionType(ir.VoidType(), [POINTER] * 5 + [LONG] * 3)
_config: Any = numba.config  # Numba defines its settings at run time
_numba_lock = threading.RLock()


def respect_quota() -> None:
    """Limit the threads to ``OMP_NUM_THREADS`` and to a quota of processors, such as that of a container.

    The kernels' threads are not limited if ``NUMBA_NUM_THREADS`` sets their number, and torch's not by the quota if
    ``OMP_NUM_THREADS`` does. A number of 1 that torchrun has set for its processes means nothing.
    """
    chosen = os.environ.get("OMP_NUM_THREADS")
    by_torchrun = chosen == "1" and TORCHRUN in os.environ
    if chosen is not None and not by_torchrun and "NUMBA_NUM_THREADS" not in os.environ:
        CREW.quota = torch.get_num_threads()
    processors = quota_of_processors()
    if processors is None:
        return
    if processors < torch.get_num_threads() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(processors)
    if "NUMBA_NUM_THREADS" not in os.environ:
        CREW.quota = min(processors, CREW.quota or processors)
        if processors < _config.NUMBA_NUM_THREADS:
            numba.set_num_threads(processors)


def _make_share(function: Callable, options: dict) -> Callable:
    """Return an intrinsic ``share(state, number, arguments)``, with which threads share ``function(task, *arguments)``.

    It returns the addresses of a function for each thread (`ON_THREAD`) and of its data. These exist until the caller
    returns. Together, the threads run the tasks 0 to ``number - 1``. ``state[0]``, 0 at first, is the next task.
    ``state[1]`` becomes 1 if a task raises an exception, which cannot leave its thread.

    Numba's ``prange`` would also work, but it compiles a loop's body three times, and most of the time before the first
    training step is spent on compilation. Here the body is compiled once.
    """
    flags = Flags()
    cpu_target.options.parse_as_flags(flags, options)

    def share(typingctx, state, number, arguments):
        body_type = types.none(types.int64, *arguments.types)

        def codegen(context, builder, sig, given):
            state, number, arguments = given
            body = context.compile_subroutine(builder, function, body_type, flags=flags, caching=False)
            state = context.make_array(sig.args[0])(context, builder, state).data
            shared = [state, number, *cgutils.unpack_tuple(builder, arguments)]
            data = cgutils.alloca_once(builder, ir.LiteralStructType([value.type for value in shared]))
            for i, value in enumerate(shared):
                builder.store(value, cgutils.gep_inbounds(builder, data, 0, i))
            work = ir.Function(builder.module, ON_THREAD, f"{builder.function.name}.work")
            work.linkage = "internal"
            _write_work(context, work, data.type, body.fndesc, body_type)
            addresses = [builder.ptrtoint(pointer, LONG) for pointer in (work, data)]
            return context.make_tuple(builder, sig.return_type, addresses)

        return types.UniTuple(types.int64, 2)(state, number, arguments), codegen

    return intrinsic(share)


def _write_work(context, work: ir.Function, shared: ir.Type, body, body_type) -> None:
    """Write the code of a thread: repeatedly take a task number from the shared counter and call the body with it.

    `shared` points to the address of the state (see `_make_share`), the number of tasks, and the arguments.
    """
    builder = ir.IRBuilder(work.append_basic_block("entry"))
    data = builder.bitcast(work.args[3], shared)
    places = range(len(shared.pointee.elements))
    counter, number, *arguments = (builder.load(cgutils.gep_inbounds(builder, data, 0, i)) for i in places)
    failed = cgutils.gep_inbounds(builder, counter, 1)
    take, run, end = map(work.append_basic_block, ("take", "run", "end"))
    builder.branch(take)
    builder.position_at_end(take)
    task = builder.atomic_rmw("add", counter, LONG(1), "monotonic")  # no two threads get the same number
    builder.cbranch(builder.icmp_signed("<", task, number), run, end)
    builder.position_at_end(run)
    status, _ = context.call_internal_no_propagate(builder, body, body_type, [task, *arguments])
    with cgutils.if_unlikely(builder, status.is_error):
        builder.store(LONG(1), failed)
    builder.branch(take)
    builder.position_at_end(end)
    builder.ret_void()


@intrinsic
def _use_numbas_threads(typingctx, work, data, threads):
    """Run ``work(data)`` on Numba's threads, as ``prange`` would."""

    def codegen(context, builder, sig, args):
        work, data, threads = args
        launch = cgutils.get_or_insert_function(builder.module, PARALLEL_FOR, "numba_parallel_for")
        calls = builder.bitcast(cgutils.alloca_once_value(builder, threads), POINTER)  # one call per thread
        work, data, none = builder.inttoptr(work, POINTER), builder.inttoptr(data, POINTER), POINTER(None)
        builder.call(launch, [work, none, calls, none, data, LONG(0), LONG(0), threads])
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), codegen


# `share` is a global of each copy of these functions.
def _launch_with_crew(state, number, helpers, words, job, *arguments):
    work, data = share(state, number, arguments)  # type: ignore[name-defined]  # noqa: F821
    lead(words, job, helpers, work, data)


def _launch_with_numba(state, number, threads, *arguments):
    work, data = share(state, number, arguments)  # type: ignore[name-defined]  # noqa: F821
    _use_numbas_threads(work, data, threads)


def _run_with_crew(launch: Callable, state: np.ndarray, number: int, arguments: list) -> None:
    launch(state, number, CREW.recruit(number), CREW.words, CREW.job, *arguments)


def _run_with_numba(launch: Callable, state: np.ndarray, number: int, arguments: list) -> None:
    available = numba.get_num_threads()
    threads = max(1, min(number, available, CREW.quota or available))  # more threads would be woken in vain
    with _numba_lock if _needs_lock() else nullcontext():
        launch(state, number, threads, *arguments)
    if threads < available:  # Numba would use this launch's number for all later ones
        numba.set_num_threads(available)


def _needs_lock() -> bool:
    """Return whether launches must not overlap: Numba's own thread pool aborts the process if two threads use it."""
    try:
        return numba.threading_layer() == "workqueue"
    except ValueError:  # not known before the first launch
        return True


def tasks(**options) -> Callable:
    """Compile a function ``f(task, ...)`` whose tasks are shared among threads.

    A thread that is free takes the next task. With a fixed share for each thread, all would wait for the one whose core
    is busy with another program. A task must write to memory of its own; results then do not depend on the thread.

    Parameters
    ----------
    **options
        Options of `njit`.

    Returns
    -------
    callable
        The decorator. The function is then called as ``f(number_of_tasks, argument=..., ...)``. It raises RuntimeError
        if a task raised an exception.
    """

    def decorate(function: Callable) -> Callable:
        # The name becomes a part of a file's path, for which Windows allows 259 characters.
        name = f"{function.__module__.removeprefix('nmnist_helpers.')}.{function.__qualname__}"
        launcher, start = (_launch_with_crew, _run_with_crew) if FUTEX else (_launch_with_numba, _run_with_numba)
        copy = FunctionType(launcher.__code__, {**globals(), "share": _make_share(function, options)}, name)
        copy.__module__, copy.__qualname__ = __name__, name  # the name under which the compiled code is stored
        launch = njit(nogil=True, **options)(copy)
        names = list(inspect.signature(function).parameters)[1:]

        @functools.wraps(function)
        def run(number: int, **arguments: Any) -> None:
            begin_launch()
            state = np.zeros(2, np.int64)
            given = [arguments[argument] for argument in names]
            with suppress(NotRun):
                start(launch, state, number, given)
            if state[1]:
                raise RuntimeError(f"{name}: expected every task to end, found one that failed; is the memory full?")

        return run

    return decorate
