"""Test training with one thread, with two, and beside other threads; test tasks, helpers and a container's quota."""

import ctypes
import threading
import time

import numba
import numpy as np
import pytest
import torch
from support.neurons import sample

from nmnist_helpers import Network
from nmnist_helpers.jit import crew, tasks
from nmnist_helpers.loss import SpikeRate
from nmnist_helpers.spikes.convert import events_to_rows, rows_to_events


def train_network(threads: int, steps: int = 3) -> list[torch.Tensor]:
    """Train for some steps with the given number of threads; return the output of each step and the final weights."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    try:
        torch.manual_seed(0)
        net = Network((130, 70), inputs=200, outputs=10, neuron_params={"threshold": 0.3})
        optimizer = torch.optim.Adam(net.parameters(), 0.01, fused=True)
        error = SpikeRate(0.2, 0.03, reduction="sum")
        spikes, label = sample((8, 200, 60)), torch.arange(8)
        outputs = []
        for _ in range(steps):
            outputs.append(net(spikes))
            optimizer.zero_grad()
            error(outputs[-1], label).backward()
            optimizer.step()
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])
    return [*outputs, *net.parameters()]


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs at least two threads")
def test_one_thread_and_two_train_the_same_network():
    one, two = train_network(1), train_network(2)
    assert one[0].any()
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)


def test_training_is_exact_while_other_threads_convert_spikes():
    expected, found = train_network(2), [None] * 3

    def convert(index):
        found[index] = events_to_rows(*rows_to_events(rows), (4, 300, 500), 1.0, torch.uint8)

    rows = (torch.rand(4, 500, 300) < 0.1).to(torch.uint8)
    threads = [threading.Thread(target=convert, args=(index,)) for index in range(3)]
    for thread in threads:
        thread.start()
    again = train_network(2)
    for thread in threads:
        thread.join()
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert all(torch.equal(rows, other) for other in found)


def test_a_launch_of_few_tasks_does_not_change_the_number_of_threads():
    before = numba.get_num_threads()
    Network((64, 64), inputs=8)(sample((1, 8, 60)))
    assert numba.get_num_threads() == before


@tasks.tasks()
def inverse(task, divisor, out):
    out[task] = 60 // divisor[task]


def test_each_task_runs_once_and_a_failed_task_raises_an_error():
    out = np.zeros(6, np.int64)
    inverse(6, divisor=np.arange(1, 7), out=out)
    assert out.tolist() == [60, 30, 20, 15, 12, 10]
    with pytest.raises(RuntimeError, match="inverse: expected every task to end"):
        inverse(6, divisor=np.arange(6), out=out)


@tasks.tasks()
def meet(task, here, slow, met):
    """Wait until both tasks have begun, which two threads must do at the same time. Then task `slow` takes its time."""
    crew._add(here, 16 * task, np.int32(1))
    looks = 0
    while crew._read(here, 16 * (1 - task)) == 0 and looks < 1_000_000_000:
        looks += 1
    looks = 0
    while task == slow and looks < 20_000_000:
        looks += 1 + crew._read(here, 16 * task) // 2
    met[task] = crew._read(here, 16 * (1 - task))


@numba.njit
def wake(words):
    crew._futex(words, crew.JOBS, crew.WAKE, np.int32(9))


NEEDS_CREW = pytest.mark.skipif(crew.FUTEX is None, reason="needs Linux on x86-64 or aarch64")


@pytest.fixture
def helpers(monkeypatch):
    """Give the test a crew of its own that has several helpers, even if the suite has one thread per worker."""
    monkeypatch.setattr(tasks, "CREW", crew.Crew())
    monkeypatch.setattr(tasks.CREW, "_threads", lambda: 4)
    monkeypatch.setattr(crew, "_let_idle_threads_sleep", lambda: None)
    return tasks.CREW


@NEEDS_CREW
def test_a_helper_works_at_the_same_time_as_the_caller_who_waits_for_it(helpers):
    for slow in (0, 1) * 5:  # the helper has one of the two tasks
        met = np.zeros(2, np.int32)
        meet(2, here=np.zeros(32, np.int32), slow=slow, met=met)
        assert met.tolist() == [1, 1]
        assert helpers.words[crew.INSIDE] == crew.CLOSED
    assert helpers.number == 1
    assert helpers.words[crew.BUSY] == 0


@NEEDS_CREW
def test_helpers_sleep_between_jobs_and_wake(helpers):
    met = np.zeros(2, np.int32)
    meet(2, here=np.zeros(32, np.int32), slow=2, met=met)
    began = time.process_time()
    time.sleep(0.3)
    assert time.process_time() - began < 0.1
    met[:] = 0
    meet(2, here=np.zeros(32, np.int32), slow=2, met=met)
    assert met.tolist() == [1, 1]


@NEEDS_CREW
def test_a_helper_that_comes_late_does_not_enter(helpers):
    met = np.zeros(2, np.int32)
    meet(2, here=np.zeros(32, np.int32), slow=2, met=met)
    entered = []
    late = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(lambda *_: entered.append(1))
    helpers.job[0] = ctypes.cast(late, ctypes.c_void_p).value
    helpers.words[crew.JOBS] += 1  # a new job, which is closed already
    wake(helpers.words)
    time.sleep(0.1)
    assert not entered
    assert helpers.words[crew.INSIDE] == crew.CLOSED


@NEEDS_CREW
def test_nobody_waits_for_helpers_that_do_not_come(helpers, monkeypatch):
    """A helper that another program keeps from running is like one that does not exist."""
    monkeypatch.setattr(crew.threading.Thread, "start", lambda thread: None)
    out = np.zeros(6, np.int64)
    inverse(6, divisor=np.arange(1, 7), out=out)
    assert helpers.number == 3
    assert out.tolist() == [60, 30, 20, 15, 12, 10]


@NEEDS_CREW
def test_too_many_threads_leave_the_work_to_the_caller(helpers, monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(crew.threading.Thread, "start", fail)
    out = np.zeros(2, np.int64)
    inverse(2, divisor=np.arange(1, 3), out=out)
    assert out.tolist() == [60, 30]
    assert helpers.number == 0


@NEEDS_CREW
@pytest.mark.parametrize(
    ("processors", "threads", "quota", "running", "expected"),
    [
        (2, 2, None, 2, 4),
        (2, 2, None, 1, 2),
        (64, 64, None, 2, 68),
        (8, 2, None, 9, 2),
        (2, 1, None, 9, 1),
        (64, 64, 3, 99, 3),
        (2, 2, 2, 9, 2),
        (1, 4, None, 9, 1),
    ],
)
def test_more_threads_than_processors_where_other_programs_run(
    processors, threads, quota, running, expected, monkeypatch, tmp_path
):
    monkeypatch.setattr(crew.os, "sched_getaffinity", lambda _: set(range(processors)))
    monkeypatch.setattr(crew, "PROCESSORS", processors)
    monkeypatch.setattr(crew.numba, "get_num_threads", lambda: threads)
    monkeypatch.setattr(crew, "LOAD", tmp_path / "loadavg")
    some = crew.Crew()
    some.quota = quota
    assert some._threads() == min(threads, expected)  # no such file
    crew.LOAD.write_text(f"0.20 0.18 0.12 {running}/80 11206\n")
    some = crew.Crew()
    some.quota = quota
    for _ in range(crew.LOOKS - 1):
        assert some._threads() == min(threads, expected)
    assert some._threads() == expected


@NEEDS_CREW
def test_many_short_jobs_of_several_threads_are_complete(helpers):
    """Jobs follow each other so fast that helpers come late; callers compete for the crew."""
    wrong, ended = [], []

    def call(seed):
        divisor = np.random.default_rng(seed).integers(1, 61, 8)
        for number in [*range(1, 9)] * 500:
            out = np.zeros(9, np.int64)
            inverse(number, divisor=divisor, out=out)
            if out.tolist() != [*(60 // divisor[:number]), *[0] * (9 - number)]:
                wrong.append(out)
        ended.append(seed)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert sorted(ended) == [0, 1, 2]
    assert not wrong
    assert helpers.words[crew.INSIDE] == crew.CLOSED


@pytest.mark.parametrize("expected", [None, 2])
def test_threads_follow_the_quota_of_a_container(expected, monkeypatch):
    monkeypatch.setattr(tasks, "quota_of_processors", lambda: expected)
    monkeypatch.setattr(tasks, "CREW", crew.Crew())
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(tasks.numba, "set_num_threads", lambda number: None)
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    try:
        tasks.respect_quota()
        assert torch.get_num_threads() == (expected or 8)
        assert tasks.CREW.quota == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"OMP_NUM_THREADS": "3"}, 3),
        ({"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "5"}, None),
        ({"OMP_NUM_THREADS": "1", tasks.TORCHRUN: "a run"}, None),
        ({}, None),
    ],
)
def test_torchs_number_of_threads_is_that_of_the_kernels_too(variables, expected, monkeypatch):
    monkeypatch.setattr(tasks, "quota_of_processors", lambda: None)
    monkeypatch.setattr(tasks, "CREW", crew.Crew())
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", tasks.TORCHRUN):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    tasks.respect_quota()
    assert tasks.CREW.quota == expected
