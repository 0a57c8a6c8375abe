"""Kernels that run as many small tasks, shared among the threads while they run."""

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
ON_EACH = ir.FunctionType(ir.VoidType(), [POINTER] * 4)
PARALLEL_FOR = ir.FunctionType(ir.VoidType(), [POINTER] * 5 + [LONG] * 3)
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


def _sharing(function: Callable, options: dict) -> Callable:
    """An intrinsic ``share(tasks, threads, arguments)``: threads call ``function(task, *arguments)`` for all tasks.

    It returns 1 if a task raised an exception, which cannot leave its thread, else 0.

    Numba's ``prange`` would do, but compiles a loop's body three times, and compilation is most of the time before the
    first training step. This compiles it once. It runs on the same threads: ``numba_parallel_for`` is what Numba itself
    calls for ``prange``. It calls a function of four pointers on each thread, of which the last is ours.
    """
    flags = Flags()
    cpu_target.options.parse_as_flags(flags, options)

    def share(typingctx, number, threads, arguments):
        of_body = types.none(types.int64, *arguments.types)

        def codegen(context, builder, sig, given):
            number, threads, arguments = given
            body = context.compile_subroutine(builder, function, of_body, flags=flags, caching=False)
            shared = [ZERO, ZERO, number, *cgutils.unpack_tuple(builder, arguments)]
            data = cgutils.alloca_once(builder, ir.LiteralStructType([value.type for value in shared]))
            for i, value in enumerate(shared):
                builder.store(value, cgutils.gep_inbounds(builder, data, 0, i))
            on_each = ir.Function(builder.module, ON_EACH, f"{builder.function.name}.on_each")
            on_each.linkage = "internal"
            _take_tasks(context, on_each, data.type, body.fndesc, of_body)
            launch = cgutils.get_or_insert_function(builder.module, PARALLEL_FOR, "numba_parallel_for")
            calls = cgutils.alloca_once_value(builder, threads)  # one of each thread
            on_each, calls, given = (builder.bitcast(pointer, POINTER) for pointer in (on_each, calls, data))
            builder.call(launch, [on_each, NONE, calls, NONE, given, ZERO, ZERO, threads])
            return builder.load(cgutils.gep_inbounds(builder, data, 0, 1))

        return types.int64(number, threads, arguments), codegen

    return intrinsic(share)


def _take_tasks(context, on_each: ir.Function, shared: ir.Type, body, of_body) -> None:
    """Write what a thread does: count the shared counter up, and call the body with the number that it had.

    `shared` is the counter, whether a task failed, the number of tasks, and the arguments.
    """
    builder = ir.IRBuilder(on_each.append_basic_block("entry"))
    data = builder.bitcast(on_each.args[3], shared)
    places = range(len(shared.pointee.elements))
    counter, failed, *given = (cgutils.gep_inbounds(builder, data, 0, i) for i in places)
    number, *arguments = map(builder.load, given)
    take, run, end = map(on_each.append_basic_block, ("take", "run", "end"))
    builder.branch(take)
    builder.position_at_end(take)
    task = builder.atomic_rmw("add", counter, ONE, "monotonic")  # no two threads get the same
    builder.cbranch(builder.icmp_signed("<", task, number), run, end)
    builder.position_at_end(run)
    status, _ = context.call_internal_no_propagate(builder, body, of_body, [task, *arguments])
    with cgutils.if_unlikely(builder, status.is_error):
        builder.store(ONE, failed)
    builder.branch(take)
    builder.position_at_end(end)
    builder.ret_void()


def _launch(number, threads, *arguments):
    return share(number, threads, arguments)  # type: ignore[name-defined]  # noqa: F821  # a global of each copy of this function


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
        The decorator. What it returns is called as ``f(number_of_tasks, argument=..., ...)``. It raises RuntimeError if
        a task raised an exception.
    """

    def decorate(function: Callable) -> Callable:
        name = f"{function.__module__}.{function.__qualname__}"
        copy = FunctionType(_launch.__code__, {**globals(), "share": _sharing(function, options)}, name)
        copy.__module__, copy.__qualname__ = __name__, name  # the name under which the compiled code is stored
        launch = njit(threads=True, nogil=True, **options)(copy)
        names = list(inspect.signature(function).parameters)[1:]

        @functools.wraps(function)
        def run(number: int, **arguments: Any) -> None:
            most = get_num_threads()
            threads = max(1, min(number, most))  # more would be woken for nothing
            failed = launch(number, threads, *(arguments[given] for given in names))
            if threads < most:  # Numba takes the number of a launch for that of all later ones
                numba.set_num_threads(most)
            if failed:
                raise RuntimeError(f"{name}: expected every task to end, found one that failed; is the memory full?")

        return run

    return decorate
