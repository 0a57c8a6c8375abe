"""Test the processes that compile the kernels of a training step, and that nothing depends on them."""

import sys

import numba
import pytest
from support.processes import python

from nmnist_helpers.jit import compiled, prepare

STEP = """
import numpy as np, torch
from nmnist_helpers import EventLoader, Network
from nmnist_helpers.jit import prepare
from nmnist_helpers.io import PackedEvents
from nmnist_helpers.loss import SpikeRate
processes = prepare.start()
print(len(processes))
for process in processes:
    if {wait}:
        process.wait()
events = {{name: np.zeros(1, kind) for name, kind in (("x", "u1"), ("y", "u1"), ("p", "u1"), ("t", "i4"))}}
packed = PackedEvents(**events, offsets=np.array([0, 1]), labels=np.zeros(1, int), ids=np.ones(1, int))
for spikes, label in EventLoader(packed):
    if {step}:
        SpikeRate(0.2, 0.03)(Network()(spikes), label).backward()
print("done")
"""


def run(code: str, **environment) -> tuple[str, str]:
    return python(code, **{"NUMBA_NUM_THREADS": "2", **environment})


@pytest.mark.slow
@pytest.mark.parametrize("processors", [2, 4])
def test_one_or_three_processes_compile_all_kernels_of_a_step(tmp_path, processors):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "numba"), "NUMBA_NUM_THREADS": str(processors)}
    assert run(STEP.format(wait=True, step=True), **environment) == (f"{processors - 1}\ndone", "")
    stored = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    assert stored
    (done,) = tmp_path.rglob("training")
    assert max(stored.values()) <= done.stat().st_mtime_ns, "the step compiled a kernel that the helpers had not"
    code = "from nmnist_helpers.jit import prepare; prepare.start(); " + STEP.format(wait=False, step=True)
    assert run(code, **environment) == ("0\ndone", "")  # everything is stored


@pytest.mark.slow
def test_a_helper_process_that_fails_does_no_harm(tmp_path):
    failing = "import nmnist_helpers.jit.prepare as p; p.CODE = 'import sys; sys.exit(3)'\n"
    out, errors = run(failing + STEP.format(wait=True, step=False), NUMBA_CACHE_DIR=str(tmp_path / "numba"))
    assert out == "1\ndone"
    assert errors.count("compiling CPU kernels") == 1


@pytest.mark.parametrize("reason", ["one processor", "is a helper", "no storage", "no interpreter"])
def test_no_helper_is_started_where_it_is_useless(reason, monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 1 if reason == "one processor" else 2)
    monkeypatch.setattr(prepare, "storage", lambda: None if reason == "no storage" else tmp_path)
    monkeypatch.setattr(prepare.subprocess, "Popen", lambda *a, **k: pytest.fail("started"))
    if reason == "is a helper":
        monkeypatch.setenv(prepare.CHILD, "1")
    if reason == "no interpreter":
        monkeypatch.setattr(sys, "executable", "")
    assert prepare.start.__wrapped__() == []


def test_a_kernel_that_is_called_in_a_dry_run_does_not_run():
    @compiled.njit()
    def function(x):
        return x + 1

    with compiled.dry_run() as calls, pytest.raises(compiled.NotRun):
        function(1)
    assert list(calls) == [(function, (numba.int64,))]
    assert function(1) == 2
