"""Test training in several processes."""

import os
import subprocess
import sys

import pytest
import torch
from support.runs import SMALL, resume, start

from nmnist_helpers.checkpoint import load_tree
from nmnist_helpers.train.group import Group, dist


@pytest.mark.parametrize("rank", [0, 1])
def test_each_process_has_its_own_gpu(monkeypatch, rank):
    chosen, backends = [], []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: backends.append(backend))
    assert Group("auto").device == torch.device("cuda", rank)
    assert chosen == [torch.device("cuda", rank)]
    assert Group("cpu").device == torch.device("cpu")
    assert backends == ["nccl", "gloo"], "NCCL cannot sum tensors on the CPU"


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("LOCAL_RANK", "1", "--nproc-per-node: expected at most 1, the number of GPUs here, found 2"),
        ("WORLD_SIZE", "two", "WORLD_SIZE: expected a whole number, as torchrun sets it, found 'two'"),
    ],
)
def test_what_torchrun_says_is_checked(monkeypatch, variable, text, message):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(variable, text)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=message):
        Group("auto")


needs_distributed = pytest.mark.skipif(not dist.is_available(), reason="this torch has no distributed package")


@pytest.mark.slow
@needs_distributed
def test_two_processes_take_the_step_of_one_with_twice_the_batch(tmp_path):
    # After one step, Adam's first moments are a tenth of the gradient. Its step would not show the gradient's size.
    options = ["--validation", "12", "--epochs", "1", "--dropout", "0"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += ["-m", "nmnist_helpers.train", *SMALL, *options, "--batch-size", "14", "--device", "cpu"]
    environment = os.environ | ({"USE_LIBUV": "0"} if os.name == "nt" else {})  # as --help says
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "two")], env=environment, stderr=subprocess.PIPE, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-2000:]
    start(tmp_path / "one", *options, "--batch-size", "28")
    one, two = (load_tree(tmp_path / name / "checkpoint.pt") for name in ("one", "two"))
    assert one["moments"][0]["step"] == 1
    scales = []
    for index, moments in one["moments"].items():
        scales.append(float(moments["exp_avg"].abs().max()))
        assert (two["moments"][index]["exp_avg"] - moments["exp_avg"]).abs().max() <= 1e-5 * scales[-1]
    assert max(scales) > 0
    assert one["curves"]["training"]["accuracy_log"] == two["curves"]["training"]["accuracy_log"]
    assert one["curves"]["validation"] == two["curves"]["validation"]
    with pytest.raises(ValueError, match="expected the processes of this run, 2, found 1"):
        resume(tmp_path / "two", "--epochs", 2)


SLOW_TEST = """
import os, sys, time
from nmnist_helpers import train

def finish(loop):
    time.sleep(4)  # longer than --timeout
    print("tested", flush=True)
    if sys.argv.pop() == "fails":
        raise OSError("disk full")
    return {}

train.loop.Loop.finish = finish
options = sys.argv[1:-1]
try:
    train.main(options)
finally:
    os.write(1, f"process {os.environ['RANK']} ends\\n".encode())  # at once: both processes write to one pipe
"""


@pytest.mark.slow
@needs_distributed
@pytest.mark.parametrize("how", ["ends", "fails"])
def test_processes_wait_for_the_test_at_the_end(tmp_path, how):
    (tmp_path / "slow_test.py").write_text(SLOW_TEST)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(tmp_path / "slow_test.py"), *SMALL, "--epochs", "1", "--device", "cpu", "--timeout", "3"]
    environment = os.environ | ({"USE_LIBUV": "0"} if os.name == "nt" else {})
    run = subprocess.run(
        [*command, "--out", str(tmp_path / "run"), how], env=environment, capture_output=True, text=True, timeout=300
    )
    assert (run.returncode == 0) == (how == "ends"), run.stderr[-2000:]
    lines = [line for line in run.stdout.splitlines() if line.startswith(("tested", "process"))]
    assert lines[0] == "tested"
    assert sorted(lines[1:]) == ["process 0 ends", "process 1 ends"]


# PARENT acts as torchrun; CHILD, the process that it starts, waits in the group for the other processes.
PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


CHILD = """
import time
from nmnist_helpers.train import group

def join(*_, **__):
    print("waits", flush=True)
    time.sleep(120)

group.dist.init_process_group = join
group.Group("cpu")
"""


@pytest.mark.slow
@needs_distributed
@pytest.mark.skipif(os.name == "nt", reason="os.getppid does not change on Windows")
def test_a_process_ends_with_the_torchrun_that_started_it():
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": "0"}
    command = [sys.executable, "-c", PARENT, CHILD]
    run = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.stdout.readline() == "waits\n"
    run.kill()
    output, _ = run.communicate(timeout=60)  # the child's output ends with the child
    assert output == "The torchrun that started this process has ended; this process ends too.\n"
