"""Compiled code: never stale, stored where it may be, said when it is made; threads and forks."""

import os
import shutil
import threading
from pathlib import Path

import pytest
import torch
from support.processes import python

import nmnist_helpers
from nmnist_helpers import compiled, kernels
from nmnist_helpers.kernels import backend

PACKAGE = Path(nmnist_helpers.__file__).parent
KERNEL = """
from .helper import plus
from .compiled import njit

@njit(parallel=False)
def answer(x):
    return plus(x)
"""
HELPER = """
from .compiled import njit

@njit(inline="always")
def plus(x):
    return x + {0}
"""
ASK = "from small.kernel import answer; print(answer(1))"


@pytest.fixture
def small(tmp_path) -> Path:
    """A package of two kernels that is stored as this one is."""
    folder = tmp_path / "small"
    folder.mkdir()
    for name in ("compiled.py", "paths.py"):
        shutil.copy(PACKAGE / name, folder / name)
    (folder / "__init__.py").touch()
    (folder / "kernel.py").write_text(KERNEL)
    (folder / "helper.py").write_text(HELPER.format(1))
    return folder


def run(code: str, small: Path | None = None, options: tuple[str, ...] = (), **environment) -> tuple[str, str]:
    """Output and errors of a Python process that must end well."""
    paths = [str(PACKAGE.parent), *([str(small.parent)] if small else [])]
    if small:
        environment = {"NUMBA_CACHE_DIR": None, **environment}
    return python(code, options, **{"PYTHONPATH": os.pathsep.join(paths), **environment})


SAID = "nmnist_helpers: compiling its CPU kernels (once per installation"


@pytest.mark.slow
def test_an_edit_of_a_helper_is_seen(small):
    place = {"XDG_CACHE_HOME": str(small.parent / "cache")}
    answer, said = run(ASK, small, **place)
    assert answer == "2"
    assert said.count(SAID) == 1
    answer, said = run(ASK, small, **place)
    assert answer == "2"
    assert said == ""  # stored: nothing to compile, nothing to say
    (small / "helper.py").write_text(HELPER.format(2))
    answer, said = run(ASK, small, **place)
    assert answer == "3"
    assert SAID in said


@pytest.mark.slow
def test_old_folders_go_and_those_in_use_stay(small):
    home = small.parent / "numba"
    place = {"NUMBA_CACHE_DIR": str(home)}  # what the user chose is respected
    run(ASK, small, **place)
    (first,) = home.iterdir()
    abandoned, foreign = home / f"{compiled.PREFIX}abandoned", home / "foreign"
    for folder in (abandoned, foreign):
        folder.mkdir()
        os.utime(folder, (0, 0))
    (small / "helper.py").write_text(HELPER.format(5))
    assert run(ASK, small, **place)[0] == "6"
    assert first.exists()
    assert foreign.exists()
    assert not abandoned.exists()


@pytest.mark.slow
@pytest.mark.parametrize("why", ["a file in the way", "full disk"])
def test_where_nothing_can_be_written_it_compiles_all_the_same(small, why):
    place = small.parent / "cache"
    if why == "full disk":
        place = Path("/dev/full")
    else:
        place.write_text("")
    answer, said = run(ASK, small, XDG_CACHE_HOME=str(place))
    assert answer == "2"
    assert said.count("expected a writable folder for compiled kernels, found") == 1
    assert not list(small.rglob("*.nbi"))


@pytest.mark.slow
def test_damaged_files_are_made_anew(small):
    place = {"NUMBA_CACHE_DIR": str(small.parent / "numba")}
    run(ASK, small, **place)
    for path in (small.parent / "numba").rglob("*.nb?"):
        path.write_bytes(path.read_bytes()[:7] + b"damaged")
    assert run(ASK, small, **place)[0] == "2"
    assert SAID not in run(ASK, small, **place)[1]  # and stored again


@pytest.mark.slow
def test_processes_compile_once_together(small):
    place = {"NUMBA_CACHE_DIR": str(small.parent / "numba")}
    found = []
    threads = [threading.Thread(target=lambda: found.append(run(ASK, small, **place))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer for answer, _ in found] == ["2", "2"]
    assert sum(said.count(SAID) for _, said in found) == 1


STEP = """
import torch
from nmnist_helpers.block.cuba import Dense
block = Dense({"threshold": 1.25, "current_decay": 0.25, "voltage_decay": 0.03}, 4, 2)
def step(): block(torch.ones(1, 4, 3)).sum().backward()
"""


SETTINGS_AND_FORKS = f"""
import os, numba
before = dict(vars(numba.config))
import nmnist_helpers.netx
print("as they were" if vars(numba.config) == before else "changed", flush=True)
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
def said() -> list[str]:
    """What one process says of Numba's settings and of two children, made before and after its first kernel."""
    return run(SETTINGS_AND_FORKS)[0].splitlines()


@pytest.mark.slow
def test_the_users_own_numba_is_left_alone(said):
    """A process that imports the package has Numba's settings as they were."""
    assert said[0] == "as they were"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_child_that_is_forked_before_the_first_kernel_runs_them(said):
    assert said[1] == "ran"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_says_why_it_cannot_run_kernels(said):
    assert "expected a process with threads of its own, found a child that os.fork made" in said[2]


@pytest.mark.slow
def test_threads_may_share_numbas_own_pool():
    code = (
        STEP
        + """
import threading
threads = [threading.Thread(target=lambda: [step() for _ in range(50)]) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
import numba
print(numba.threading_layer())
"""
    )
    assert run(code, NUMBA_THREADING_LAYER="workqueue")[0] == "workqueue"


@pytest.mark.slow
def test_it_runs_without_docstrings_and_assertions():
    # Forwards: without docstrings Numba compiles everything anew, and the way back would take as long again.
    code = STEP + "with torch.no_grad():\n    block(torch.ones(1, 4, 3))\n"
    code += "from nmnist_helpers import __main__\nprint(__main__.main(['train', '--epochs', '0', '--out', 'nowhere']))"
    answer, said = run(code, options=("-OO",))
    assert answer == "1"
    assert said.endswith("--epochs: expected a whole number from 1, found 0\n")


def test_two_threads_choose_their_twins_apart():
    """One thread's block ends inside the other's: neither sees the other's choice, nothing is left chosen."""
    cpu = torch.device("cpu")
    entered, left = threading.Event(), threading.Event()
    seen = []

    def other():
        with kernels.using("reference"):
            entered.set()
            left.wait(10)
            seen.append(backend.resolve(cpu))

    thread = threading.Thread(target=other)
    with kernels.using("cpu"):
        thread.start()
        entered.wait(10)
        assert backend.resolve(cpu) == "cpu"
    left.set()
    thread.join()
    assert seen == ["reference"]
    assert backend.resolve(cpu) == "cpu"
