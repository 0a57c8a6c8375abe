"""Test how compiled kernels are stored and reported, and how kernels run in threads and forked processes."""

import gc
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from numba import types
from numba.extending import intrinsic
from support.processes import python

import nmnist_helpers
from nmnist_helpers import kernels
from nmnist_helpers.jit import compiled
from nmnist_helpers.kernels import backend

PACKAGE = Path(nmnist_helpers.__file__).parent
KERNEL = """
from .helper import plus
from .jit.compiled import njit

@njit(parallel=False)
def answer(x):
    return plus(x)
"""
HELPER = """
from .jit.compiled import njit

@njit(inline="always")
def plus(x):
    return x + {0}
"""
PRINT_ANSWER = "from small.kernel import answer; print(answer(1))"
NO_FILE_GROWS = (  # as on a full disk; the error is EFBIG instead of ENOSPC
    "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
    " resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); "
)


@pytest.fixture
def small_package(tmp_path) -> Path:
    """Write a package of two kernels, stored like those of `nmnist_helpers`, and return its folder."""
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "jit").mkdir()
    for name in ("jit/__init__.py", "jit/compiled.py", "paths.py"):
        shutil.copy(PACKAGE / name, folder / name)
    (folder / "__init__.py").touch()
    (folder / "kernel.py").write_text(KERNEL)
    (folder / "helper.py").write_text(HELPER.format(1))
    return folder


def run(code: str, small_package: Path | None = None, options: tuple[str, ...] = (), **environment) -> tuple[str, str]:
    """Run code in a Python process that must succeed; return its standard output and standard error."""
    paths = [str(PACKAGE.parent), *([str(small_package.parent)] if small_package else [])]
    if small_package:
        environment = {"NUMBA_CACHE_DIR": None, **environment}
    return python(code, options, **{"PYTHONPATH": os.pathsep.join(paths), **environment})


COMPILING = "nmnist_helpers: compiling CPU kernels, which are kept"


@pytest.mark.slow
def test_an_edit_of_a_helper_recompiles_its_caller(small_package):
    environment = {"XDG_CACHE_HOME": str(small_package.parent / "cache")}
    answer, errors = run(PRINT_ANSWER, small_package, **environment)
    assert answer == "2"
    assert errors.count(COMPILING) == 1
    answer, errors = run(PRINT_ANSWER, small_package, **environment)
    assert answer == "2"
    assert errors == ""  # the kernels are stored, so nothing is compiled or reported
    (small_package / "helper.py").write_text(HELPER.format(20))  # of another size: Python compares sizes and seconds
    answer, errors = run(PRINT_ANSWER, small_package, **environment)
    assert answer == "21"
    assert COMPILING in errors


@pytest.mark.slow
def test_only_unused_folders_of_this_package_are_removed(small_package):
    home = small_package.parent / "numba"
    environment = {"NUMBA_CACHE_DIR": str(home)}  # a folder that the user has set
    run(PRINT_ANSWER, small_package, **environment)
    (first,) = home.iterdir()
    abandoned, foreign = home / f"{compiled.PREFIX}abandoned", home / "foreign"
    for folder in (abandoned, foreign):
        folder.mkdir()
        os.utime(folder, (0, 0))
    (small_package / "helper.py").write_text(HELPER.format(50))
    assert run(PRINT_ANSWER, small_package, **environment)[0] == "51"
    assert first.exists()
    assert foreign.exists()
    assert not abandoned.exists()


@pytest.mark.slow
@pytest.mark.parametrize("obstacle", ["a file in the way", "full disk"])
def test_kernels_compile_without_a_writable_folder(small_package, obstacle):
    cache, code = small_package.parent / "cache", PRINT_ANSWER
    if obstacle == "full disk":
        pytest.importorskip("resource", reason="this system has no limit for the size of files")
        code = NO_FILE_GROWS + code
    else:
        cache.write_text("")
    answer, errors = run(code, small_package, XDG_CACHE_HOME=str(cache))
    assert answer == "2"
    assert errors.count("expected a writable folder for compiled kernels, found") == 1
    assert not list(small_package.parent.rglob("*.nbi"))


@pytest.mark.slow
def test_damaged_files_are_replaced(small_package):
    environment = {"NUMBA_CACHE_DIR": str(small_package.parent / "numba")}
    run(PRINT_ANSWER, small_package, **environment)
    for path in (small_package.parent / "numba").rglob("*.nb?"):
        path.write_bytes(path.read_bytes()[:7] + b"damaged")
    assert run(PRINT_ANSWER, small_package, **environment)[0] == "2"
    assert COMPILING not in run(PRINT_ANSWER, small_package, **environment)[1]  # the kernels have been stored again


@pytest.mark.slow
def test_two_processes_compile_the_kernels_only_once(small_package):
    environment = {"NUMBA_CACHE_DIR": str(small_package.parent / "numba")}
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(run(PRINT_ANSWER, small_package, **environment))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer for answer, _ in found] == ["2", "2"]
    assert sum(errors.count(COMPILING) for _, errors in found) == 1


STEP = """
import torch
from nmnist_helpers.block.cuba import Dense
block = Dense({"threshold": 1.25, "current_decay": 0.25, "voltage_decay": 0.03}, 4, 2)
def step(): block(torch.ones(1, 4, 3)).sum().backward()
def infer():  # compiled in half the time
    with torch.no_grad():
        return block(torch.ones(1, 4, 3))
"""


SETTINGS_AND_FORKS = f"""
import os, numba
before = dict(vars(numba.config))
import nmnist_helpers.netx
print("unchanged" if vars(numba.config) == before else "changed", flush=True)
{STEP}
def step_in_a_child():
    if os.fork() == 0:
        try:
            step()
            print("ran", flush=True)
        except RuntimeError as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()

if hasattr(os, "fork"):
    step_in_a_child()
    step()
    step_in_a_child()
"""


@pytest.fixture(scope="module")
def settings_and_forks() -> list[str]:
    """Run SETTINGS_AND_FORKS; return lines on Numba's settings and on children forked before and after a kernel."""
    return run(SETTINGS_AND_FORKS)[0].splitlines()


INTERRUPTED = """
import contextlib, os, signal, threading, time
from nmnist_helpers.jit import compiled

@contextlib.contextmanager
def interrupt():
    signal.raise_signal(signal.SIGINT)
    yield
compiled._no_collection = interrupt
"""
CALL = """
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores SIGINT
begin = time.monotonic()
try:
    kernel(1)
except KeyboardInterrupt:
    print("interrupted", len(kernel.signatures), time.monotonic() - begin < 60)
print(kernel(1), signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_an_interrupt_waits_until_a_kernel_is_compiled(tmp_path):
    """With an exception in the middle of it, Numba and LLVM would be damaged: later calls failed or waited forever."""
    code = INTERRUPTED + "inner = compiled.njit()(lambda x: x + 1)\nkernel = compiled.njit()(lambda x: inner(x))" + CALL
    assert run(code, NUMBA_CACHE_DIR=str(tmp_path))[0] == "interrupted 1 True\n2 True"


def test_an_interrupt_acts_while_another_process_compiles(small_package):
    code = """
import filelock, signal, threading, time
from pathlib import Path
from small.kernel import answer as kernel
cache = kernel._cache
other = filelock.FileLock(Path(cache.cache_path, f"{cache._impl.filename_base}.lock"))
other.acquire()
threading.Timer(1, signal.raise_signal, [signal.SIGINT]).start()
""" + CALL.replace("print(kernel", "other.release()\nprint(kernel")
    assert run(code, small_package)[0] == "interrupted 0 True\n2 True"


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_while_a_kernel_compiles(enabled):
    seen = []

    @intrinsic
    def look(typingctx):
        seen.append(gc.isenabled())
        return types.int64(), lambda context, builder, signature, arguments: context.get_constant(types.int64, 1)

    @compiled.njit()
    def kernel():
        return look()

    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        assert kernel() == 1
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
    assert seen
    assert not any(seen)


@pytest.mark.slow
def test_an_import_does_not_change_numbas_settings(settings_and_forks):
    assert settings_and_forks[0] == "unchanged"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_forked_before_the_first_kernel_can_run_kernels(settings_and_forks):
    assert settings_and_forks[1] == "ran"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_forked_after_a_kernel_raises(settings_and_forks):
    assert "expected a process with threads of its own, found a child that os.fork made" in settings_and_forks[2]
    assert "(DataLoader: multiprocessing_context='spawn')" in settings_and_forks[2]


@pytest.mark.slow
def test_threads_may_share_numbas_own_pool():
    """Where there are no helpers of our own, kernels run on Numba's threads."""
    code = (
        "import platform; platform.machine = lambda: 'other'\n"
        + STEP
        + """
import threading
threads = [threading.Thread(target=lambda: [infer() for _ in range(50)]) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
import numba
from nmnist_helpers.jit import crew
print(crew.FUTEX, crew.CREW.number, numba.threading_layer())
"""
    )
    assert run(code, NUMBA_THREADING_LAYER="workqueue")[0] == "None 0 workqueue"


@pytest.mark.slow
def test_the_package_runs_without_docstrings_and_assertions():
    # Without docstrings Numba compiles everything anew. A backward pass would take as long again, so it is omitted.
    code = STEP + "infer()\n"
    code += "from nmnist_helpers import __main__\nprint(__main__.main(['train', '--epochs', '0', '--out', 'nowhere']))"
    answer, errors = run(code, options=("-OO",))
    assert answer == "1"
    assert errors.endswith("--epochs: expected a whole number from 1, found 0\n")


def test_threads_choose_their_twins_independently():
    """The threads' `using` blocks overlap; neither affects the other thread, and no choice remains afterwards."""
    cpu = torch.device("cpu")
    entered, left = threading.Event(), threading.Event()
    resolved = []

    def choose_reference():
        with kernels.using("reference"):
            entered.set()
            left.wait(10)
            resolved.append(backend.resolve(cpu))

    thread = threading.Thread(target=choose_reference)
    with kernels.using("cpu"):
        thread.start()
        entered.wait(10)
        assert backend.resolve(cpu) == "cpu"
    left.set()
    thread.join()
    assert resolved == ["reference"]
    assert backend.resolve(cpu) == "cpu"
