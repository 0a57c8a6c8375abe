"""Test the second process, which compiles the kernels of a training step, and that nothing depends on it."""

import os
import sys

import numba
import pytest
from support.processes import python

from nmnist_helpers import compiled, prepare

STEP = """
import numpy as np, torch
from nmnist_helpers import EventLoader, Network, prepare
from nmnist_helpers.io import PackedEvents
from nmnist_helpers.loss import SpikeRate
process = prepare.start()
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
@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2 and (os.cpu_count() or 1) < 2, reason="needs two processors")
def test_the_second_process_compiles_all_kernels_of_a_step(tmp_path):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "numba")}
    assert run(STEP.format(wait=True, step=True), **environment) == ("done", "")  # this process compiled nothing
    stored = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    assert stored
    (done,) = tmp_path.rglob("training")
    assert max(stored.values()) <= done.stat().st_mtime_ns, "the step compiled a kernel that the second process had not"
    code = "from nmnist_helpers import prepare; prepare.start(); " + STEP.format(wait=False, step=True)
    assert run(code, **environment) == ("done", "")  # everything is stored: no process is started, nothing is reported


@pytest.mark.slow
def test_a_second_process_that_fails_does_no_harm(tmp_path):
    failing = "import nmnist_helpers.prepare as p; p.CODE = 'import sys; sys.exit(3)'\n"
    out, errors = run(failing + STEP.format(wait=True, step=False), NUMBA_CACHE_DIR=str(tmp_path / "numba"))
    assert out == "done"
    assert errors.count("compiling CPU kernels") == 1


@pytest.mark.parametrize("reason", ["one processor", "is the second process", "no storage", "no interpreter"])
def test_start_returns_none_where_a_second_process_is_useless(reason, monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 1 if reason == "one processor" else 2)
    monkeypatch.setattr(prepare, "storage", lambda: None if reason == "no storage" else tmp_path)
    monkeypatch.setattr(prepare.subprocess, "Popen", lambda *a, **k: pytest.fail("started"))
    if reason == "is the second process":
        monkeypatch.setenv(prepare.CHILD, "1")
    if reason == "no interpreter":
        monkeypatch.setattr(sys, "executable", "")
    assert prepare.start.__wrapped__() is None


def test_a_kernel_that_is_called_in_a_dry_run_does_not_run():
    @compiled.njit()
    def function(x):
        return x + 1

    with compiled.dry_run() as calls, pytest.raises(compiled.NotRun):
        function(1)
    assert list(calls) == [(function, (numba.int64,))]
    assert function(1) == 2
