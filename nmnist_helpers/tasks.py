"""Kernels that consist of many small tasks: each thread takes the next task when it is free."""

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import torch
from llvmlite import ir
from numba import get_num_threads, types
from numba.core import cgutils
from numba.core.compiler import Flags
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from .compiled import njit

CGROUP = Path("/sys/fs/cgroup")
LONG, POINTER = ir.IntType(64), ir.IntType(8).as_pointer()
ZERO, ONE, NONE = ir.Constant(LONG, 0), ir.Constant(LONG, 1), ir.Constant(POINTER, None)
THREAD_FUNCTION = ir.FunctionType(ir.VoidType(), [POINTER] * 4)
PARALLEL_FOR = ir.FunctionType(ir.VoidType(), [POINTER] * 5 + [LONG] * 3)
_config: Any = numba.config  # Numba defines its settings at run time


def respect_quota() -> None:
    """Limit the threads to a container's quota of processors, unless an environment variable sets their number."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text(encoding="ascii").split()
        processors = max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):  # no quota: no such file, or "max 100000"
        return
    if processors < torch.get_num_threads() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(processors)
    if processors < _config.NUMBA_NUM_THREADS and "NUMBA_NUM_THREADS" not in os.environ:
        numba.set_num_threads(processors)


def _make_share(function: Callable, options: dict) -> Callable:
    """Return an intrinsic ``share(number, threads, arguments)``, which runs ``function(task, *arguments)`` on threads.

    It runs the tasks 0 to ``number - 1``. It returns 1 if a task raised an exception, which cannot leave its thread,
    and 0 otherwise.

    Numba's ``prange`` would also work, but it compiles a loop's body three times, and most of the time before the first
    training step is spent on compilation. Here the body is compiled once. It runs on the same threads as ``prange``,
    through Numba's ``numba_parallel_for``: on each thread, this calls a function with four pointers, the last of which
    is free for our use.
    """
    flags = Flags()
    cpu_target.options.parse_as_flags(flags, options)

    def share(typingctx, number, threads, arguments):
        body_type = types.none(types.int64, *arguments.types)

        def codegen(context, builder, sig, given):
            number, threads, arguments = given
            body = context.compile_subroutine(builder, function, body_type, flags=flags, caching=False)
            shared = [ZERO, ZERO, number, *cgutils.unpack_tuple(builder, arguments)]
            data = cgutils.alloca_once(builder, ir.LiteralStructType([value.type for value in shared]))
            for i, value in enumerate(shared):
                builder.store(value, cgutils.gep_inbounds(builder, data, 0, i))
            on_each = ir.Function(builder.module, THREAD_FUNCTION, f"{builder.function.name}.on_each")
            on_each.linkage = "internal"
            _write_thread_code(context, on_each, data.type, body.fndesc, body_type)
            launch = cgutils.get_or_insert_function(builder.module, PARALLEL_FOR, "numba_parallel_for")
            calls = cgutils.alloca_once_value(builder, threads)  # one call per thread
            on_each, calls, given = (builder.bitcast(pointer, POINTER) for pointer in (on_each, calls, data))
            builder.call(launch, [on_each, NONE, calls, NONE, given, ZERO, ZERO, threads])
            return builder.load(cgutils.gep_inbounds(builder, data, 0, 1))

        return types.int64(number, threads, arguments), codegen

    return intrinsic(share)


def _write_thread_code(context, on_each: ir.Function, shared: ir.Type, body, body_type) -> None:
    """Write the code of a thread: repeatedly take a task number from the shared counter and call the body with it.

    `shared` points to the counter, the flag for a failed task, the number of tasks, and the arguments.
    """
    builder = ir.IRBuilder(on_each.append_basic_block("entry"))
    data = builder.bitcast(on_each.args[3], shared)
    places = range(len(shared.pointee.elements))
    counter, failed, *given = (cgutils.gep_inbounds(builder, data, 0, i) for i in places)
    number, *arguments = map(builder.load, given)
    take, run, end = map(on_each.append_basic_block, ("take", "run", "end"))
    builder.branch(take)
    builder.position_at_end(take)
    task = builder.atomic_rmw("add", counter, ONE, "monotonic")  # no two threads get the same number
    builder.cbranch(builder.icmp_signed("<", task, number), run, end)
    builder.position_at_end(run)
    status, _ = context.call_internal_no_propagate(builder, body, body_type, [task, *arguments])
    with cgutils.if_unlikely(builder, status.is_error):
        builder.store(ONE, failed)
    builder.branch(take)
    builder.position_at_end(end)
    builder.ret_void()


def _launch(number, threads, *arguments):
    return share(number, threads, arguments)  # type: ignore[name-defined]  # noqa: F821  # a global of each copy of this function


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
        name = f"{function.__module__.removeprefix(f'{__package__}.')}.{function.__qualname__}"
        copy = FunctionType(_launch.__code__, {**globals(), "share": _make_share(function, options)}, name)
        copy.__module__, copy.__qualname__ = __name__, name  # the name under which the compiled code is stored
        launch = njit(threads=True, nogil=True, **options)(copy)
        names = list(inspect.signature(function).parameters)[1:]

        @functools.wraps(function)
        def run(number: int, **arguments: Any) -> None:
            available = get_num_threads()
            threads = max(1, min(number, available))  # more threads would be woken in vain
            failed = launch(number, threads, *(arguments[given] for given in names))
            if threads < available:  # Numba would use this launch's number for all later ones
                numba.set_num_threads(available)
            if failed:
                raise RuntimeError(f"{name}: expected every task to end, found one that failed; is the memory full?")

        return run

    return decorate
