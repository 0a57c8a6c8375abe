"""Numba's `njit` for this package: where compiled code is stored, what is printed, and which process may launch it."""

import functools
import hashlib
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import filelock
import llvmlite
import numba
import numpy as np
from numba.core.caching import FunctionCache

from .paths import cache_folder

PREFIX = "nmnist_helpers-"
UNUSED_DAYS = 7  # a folder that no process has opened for so long is removed
PATIENCE = 300  # seconds to wait for another process that compiles

_config: Any = numba.config  # its settings come at run time
_local = threading.local()
_launches = threading.RLock()
_said: set[str] = set()
_launched = _forked = False
_notes: dict[tuple[Any, tuple], None] | None = None


def _after_fork() -> None:
    global _forked
    _forked = _launched  # the threads that the kernels run on stay with the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Noted(Exception):
    """A kernel was called while kernels are only noted (`noting`)."""


@contextmanager
def noting() -> Iterator[dict[tuple[Any, tuple], None]]:
    """Note which kernels are called, with which types, in order; none is compiled or run.

    For a process that has not run kernels yet. A kernel that starts threads returns None then, others raise `Noted`.
    """
    global _notes
    _notes = {}
    try:
        yield _notes
    finally:
        _notes = None


def _say(line: str) -> None:
    """Print a line to stderr, once per process."""
    if line not in _said:
        _said.add(line)
        print(f"nmnist_helpers: {line}", file=sys.stderr, flush=True)


def fingerprint() -> str:
    """Hash of all that compiled code depends on: the package's sources, and the versions beneath (Numba adds the CPU).

    Numba itself compares the file of the kernel alone, not those of the functions that the kernel calls.
    """
    digest = hashlib.sha256()
    for version in (numba.__version__, llvmlite.__version__, np.__version__, platform.python_version()):
        digest.update(version.encode() + b"\0")
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:20]


@functools.cache
def storage() -> Path | None:
    """Folder for this version's compiled code, or None (said once) where nothing can be written.

    It lies in ``NUMBA_CACHE_DIR`` if that is set, else in the user's cache folder.
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
    if "not stored" not in _said:
        _said.add("not stored")
        warnings.warn(
            f"{place}: expected a place for compiled kernels, found {error}; every process will compile them anew",
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
    """Numba's store of one kernel: one process compiles it, the others wait; a store that fails is done without."""

    def load_overload(self, sig, target_context):
        found = self._read(sig, target_context)
        if found is None and getattr(_local, "compiling", None):
            lock = Path(self.cache_path, f"{self._impl.filename_base}.lock")
            _local.compiling[-1].enter_context(_turn(filelock.FileLock(lock)))  # a new one: none survives a fork
            found = self._read(sig, target_context)  # another process may have been faster
            if found is None:
                _say("compiling its CPU kernels (once per installation, about 10 s) ...")
        return found

    def _read(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a damaged file may raise anything: begin anew
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn_not_stored(Path(self.cache_path), error)


@contextmanager
def _turn(lock: filelock.BaseFileLock) -> Iterator[None]:
    """Hold the lock of those who compile a kernel, as far as it can be had."""
    with ExitStack() as stack:
        try:
            try:
                stack.enter_context(lock.acquire(timeout=0))
            except filelock.Timeout:
                if not _said:
                    _say("waiting for another process that compiles the CPU kernels (about 10 s) ...")
                stack.enter_context(lock.acquire(timeout=PATIENCE))
        except (OSError, NotImplementedError, filelock.Timeout):
            pass  # without a lock the work may be done twice, which does no harm
        yield


def _stored(dispatcher, function: Callable) -> None:
    """Let a dispatcher read and write its compiled code in `storage`, and say when it compiles."""
    folder = storage()
    if folder is not None:
        chosen = _config.CACHE_DIR
        _config.CACHE_DIR = str(folder)
        try:
            cache = _Cache(function)
            if Path(cache.cache_path).is_relative_to(folder):
                dispatcher._cache = cache
        except (OSError, RuntimeError) as error:  # Numba's way to say that it found no place
            _warn_not_stored(folder, error)
        finally:
            _config.CACHE_DIR = chosen
    compile_one = dispatcher.compile

    @functools.wraps(compile_one)
    def compile_said(signature):
        if _notes is not None:
            _notes[dispatcher, tuple(signature)] = None
            raise Noted
        with ExitStack() as stack:
            if not hasattr(_local, "compiling"):
                _local.compiling = []
            _local.compiling.append(stack)
            try:
                if not isinstance(dispatcher._cache, _Cache):
                    _say("compiling its CPU kernels (in every process, about 10 s) ...")
                return compile_one(signature)
            finally:
                _local.compiling.pop()

    dispatcher.compile = compile_said


def _one_at_a_time() -> bool:
    """Whether launches must not overlap: Numba's own thread pool aborts the process if two threads use it."""
    try:
        return numba.threading_layer() == "workqueue"
    except ValueError:  # not known before the first launch
        return True


def check_process() -> None:
    """Raise in a child of ``os.fork`` whose parent ran kernels.

    Raises
    ------
    RuntimeError
        The child has the parent's memory but not its threads: a parallel kernel would wait for them for ever.
    """
    if _forked:
        raise RuntimeError(
            "nmnist_helpers.kernels: expected a process with threads of its own, found a child that os.fork made after"
            " the parent had run kernels; start processes with the method 'spawn' or 'forkserver', or fork earlier"
        )


def njit(*, threads: bool = False, **options) -> Callable:
    """Compile a function with Numba: its ``njit``, with the compiled code stored per version of this package.

    Parameters
    ----------
    threads : bool
        Whether it starts threads. Then it is called from Python alone; such functions run one at a time where Numba's
        thread pool demands it, and refuse to run where it is gone (`check_process`).
    **options
        Numba's.

    Returns
    -------
    callable
        The decorator.
    """
    store = options.pop("cache", True) and options.get("inline") != "always"

    def decorate(function: Callable) -> Callable:
        dispatcher = numba.njit(**options)(function)
        if not hasattr(dispatcher, "_cache"):  # NUMBA_DISABLE_JIT
            return dispatcher
        if store:
            _stored(dispatcher, function)
        if not threads:
            return dispatcher

        @functools.wraps(function)
        def launch(*arguments, **named):
            global _launched
            check_process()
            _launched = True
            with suppress(Noted), _launches if _one_at_a_time() else nullcontext():
                return dispatcher(*arguments, **named)

        launch.dispatcher = dispatcher  # type: ignore[attr-defined]  # functions take attributes
        return launch

    return decorate
