"""Numba's `njit` for this package.

It stores compiled code, prints a line when it compiles, and prevents launches that would hang or abort the process.
"""

import functools
import gc
import hashlib
import os
import platform
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import llvmlite
import numba
import numpy as np
from numba.core.caching import FunctionCache
from tqdm import tqdm

from ..paths import cache_folder

PREFIX = "nmnist_helpers-"
UNUSED_DAYS = 7  # folders that no process has opened for this long are removed
LOCK_TIMEOUT = 300  # seconds to wait for another process that compiles

_config: Any = numba.config  # Numba defines its settings at run time
_local = threading.local()
_reported: set[str] = set()
_launched = _forked = False
_recorded: dict[tuple[Any, tuple], None] | None = None
_interrupts: list[tuple] = []  # that wait until a kernel is compiled
_on_interrupt: Any = None  # what they do then


def _after_fork() -> None:
    global _forked
    _forked = _launched  # the child has none of the threads on which the parent's kernels ran


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class NotRun(Exception):
    """A kernel was called, but not run, because of a `dry_run`."""


@contextmanager
def dry_run() -> Iterator[dict[tuple[Any, tuple], None]]:
    """Record the calls of kernels and the types of their arguments, in order, without compiling or running any.

    This only works in a process that has not run kernels yet. A kernel on threads (`tasks`) returns None, others raise
    `NotRun`.
    """
    global _recorded
    _recorded = {}
    try:
        yield _recorded
    finally:
        _recorded = None


def _print_once(line: str) -> None:
    """Print a line to stderr, above any progress bar, once per process."""
    if line not in _reported:
        _reported.add(line)
        if sys.stderr is not None:
            tqdm.write(f"nmnist_helpers: {line}", file=sys.stderr)
            sys.stderr.flush()


def fingerprint() -> str:
    """Return a hash of the package's sources and of the versions of Python, NumPy, Numba and llvmlite.

    These, and the CPU, which Numba checks, determine the compiled code. Numba itself would only check the file of the
    kernel, not the files of the functions that the kernel calls.
    """
    digest = hashlib.sha256()
    for version in (numba.__version__, llvmlite.__version__, np.__version__, platform.python_version()):
        digest.update(version.encode() + b"\0")
    root = Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:20]


@functools.cache
def storage() -> Path | None:
    """Return the folder for this version's compiled code, or None (with one warning) if it is not writable.

    It is in ``NUMBA_CACHE_DIR`` if that is set, otherwise in the user's cache folder.
    """
    home = Path(_config.CACHE_DIR) if _config.CACHE_DIR else cache_folder() / "kernels"
    try:
        folder = home / f"{PREFIX}{fingerprint()}"
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
        os.utime(folder)
    except OSError as error:
        _warn_not_stored(home, error)
        return None
    if new:
        _remove_unused(home, folder)
    return folder


def _warn_not_stored(place: Path, error: Exception) -> None:
    if "not stored" not in _reported:
        _reported.add("not stored")
        variable = "NUMBA_CACHE_DIR" if _config.CACHE_DIR else "XDG_CACHE_HOME"
        warnings.warn(
            f"{place}: expected a writable folder for compiled kernels, found {error};"
            f" every process will compile them anew; set {variable} to a folder that can be written",
            RuntimeWarning,
            stacklevel=2,
        )


def _remove_unused(home: Path, own: Path) -> None:
    """Remove the folders of other versions that no process has opened for `UNUSED_DAYS`."""
    for folder in home.glob(f"{PREFIX}*"):
        try:
            unused = time.time() - folder.stat().st_mtime > UNUSED_DAYS * 86400
        except OSError:
            continue
        if unused and folder != own:
            shutil.rmtree(folder, ignore_errors=True)


class _Cache(FunctionCache):
    """Numba's cache of one kernel: one process compiles it while others wait; errors of the cache do no harm."""

    def load_overload(self, sig, target_context):
        found = self._read(sig, target_context)
        if found is None and getattr(_local, "compiling", None):
            lock = Path(self.cache_path, f"{self._impl.filename_base}.lock")
            # The lock object is created here, so that no forked child inherits it.
            _local.compiling[-1].enter_context(_hold_lock(filelock.FileLock(lock)))
            found = self._read(sig, target_context)  # another process may have compiled it meanwhile
            if found is None:
                _print_once("compiling CPU kernels, which are kept for the next time (about 10 s) ...")
        return found

    def _read(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a damaged file may raise anything: discard it
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn_not_stored(Path(self.cache_path), error)


@contextmanager
def _hold_lock(lock: filelock.BaseFileLock) -> Iterator[None]:
    """Hold the lock on compiling a kernel, or continue without it if it cannot be acquired."""
    with ExitStack() as stack:
        try:
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except filelock.Timeout:
                if not _reported:  # otherwise this process has printed that it compiles kernels itself
                    _print_once("waiting for another process that is compiling the CPU kernels (about 10 s) ...")
                with _interrupts_act():
                    stack.enter_context(lock.acquire(timeout=LOCK_TIMEOUT))
        except (OSError, NotImplementedError, filelock.Timeout):
            pass  # without the lock, two processes may compile the same kernel, which does no harm
        yield


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep Python from looking for garbage: it would take a fifth of the time, and nearly all objects are in use."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _keep_interrupt(*signal_and_frame) -> None:
    _interrupts.append(signal_and_frame)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Let Ctrl-C wait until a kernel is compiled: an exception in the middle leaves Numba and LLVM damaged.

    Later calls in this process would then fail or wait forever.
    """
    global _on_interrupt
    usual = signal.getsignal(signal.SIGINT)
    if not _in_main_thread() or not callable(usual) or usual is _keep_interrupt:  # one kernel may need another
        yield
        return
    _on_interrupt = usual
    signal.signal(signal.SIGINT, _keep_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        _interrupt_if_asked()


@contextmanager
def _interrupts_act() -> Iterator[None]:
    """Let Ctrl-C act while this process waits for another one."""
    if not _in_main_thread() or signal.getsignal(signal.SIGINT) is not _keep_interrupt:
        yield
        return
    signal.signal(signal.SIGINT, _on_interrupt)
    try:
        _interrupt_if_asked()
        yield
    finally:
        signal.signal(signal.SIGINT, _keep_interrupt)


def _interrupt_if_asked() -> None:
    if _interrupts:
        signal_and_frame = _interrupts[-1]
        _interrupts.clear()
        _on_interrupt(*signal_and_frame)


def _enable_cache(dispatcher, function: Callable) -> None:
    """Make a dispatcher use the cache in `storage`, report when it compiles, and respect `dry_run`."""
    folder = storage()
    if folder is not None:
        original = _config.CACHE_DIR
        _config.CACHE_DIR = str(folder)
        try:
            cache = _Cache(function)
            if Path(cache.cache_path).is_relative_to(folder):
                dispatcher._cache = cache
        except (OSError, RuntimeError) as error:  # Numba found no folder to write to
            _warn_not_stored(folder, error)
        finally:
            _config.CACHE_DIR = original
    compile_one = dispatcher.compile

    @functools.wraps(compile_one)
    def compile_and_report(signature):
        if _recorded is not None:
            _recorded[dispatcher, tuple(signature)] = None
            raise NotRun
        with ExitStack() as stack:
            if not hasattr(_local, "compiling"):
                _local.compiling = []
            _local.compiling.append(stack)
            try:
                if not isinstance(dispatcher._cache, _Cache):
                    _print_once("compiling CPU kernels, in every process (about 10 s) ...")
                with _interrupts_wait(), _no_collection():
                    return compile_one(signature)
            finally:
                _local.compiling.pop()

    dispatcher.compile = compile_and_report


def check_process() -> None:
    """Raise in a child of ``os.fork`` whose parent ran kernels.

    Raises
    ------
    RuntimeError
        In such a child. It has the parent's memory but not its threads, for which it could wait forever.
    """
    if _forked:
        raise RuntimeError(
            "nmnist_helpers.kernels: expected a process with threads of its own, found a child that os.fork made after"
            " the parent had run kernels; start processes with the method 'spawn' or 'forkserver' (DataLoader:"
            " multiprocessing_context='spawn'), or fork earlier"
        )


def begin_launch() -> None:
    """Note that this process runs a kernel on threads; raise as `check_process` does."""
    global _launched
    check_process()
    _launched = True


def njit(**options) -> Callable:
    """Compile a function with Numba's ``njit``, and store the compiled code for this version of the package.

    Parameters
    ----------
    **options
        Options of Numba's ``njit``.

    Returns
    -------
    callable
        The decorator.
    """
    store = options.get("inline") != "always"

    def decorate(function: Callable) -> Callable:
        # No C code calls the kernels, and an entry for it would take time to compile.
        dispatcher = numba.njit(**{"no_cfunc_wrapper": True, **options})(function)
        if store and hasattr(dispatcher, "_cache"):  # NUMBA_DISABLE_JIT leaves a plain function
            _enable_cache(dispatcher, function)
        return dispatcher

    return decorate
