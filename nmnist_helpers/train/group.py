"""The processes that train together: those that torchrun started, or a single one."""

import datetime
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress

import torch
import torch.distributed as dist

from ..data.loader import EventLoader

#: The longest time for which the other processes wait at the end of a run, while the first one tests the network.
LONGEST_TEST = datetime.timedelta(days=1)


def set_by_torchrun(name: str, default: int) -> int:
    """Return a number from the environment of a process that torchrun has started; without torchrun, the default."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise ValueError(f"{name}: expected a whole number, as torchrun sets it, found {text!r}")
    return int(text)


class Group:
    """The processes started by torchrun, or a single process; a context manager.

    Parameters
    ----------
    device : str
        Where to compute. 'auto' uses a GPU if there is one. Under torchrun, 'cuda' gives each process its own GPU.
    timeout : float
        Seconds to wait for the other processes.
    """

    def __init__(self, device: str = "auto", timeout: float = 300):
        self.size, self.rank = set_by_torchrun("WORLD_SIZE", 1), set_by_torchrun("RANK", 0)
        self.first = self.rank == 0
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and self.size > 1:
            rank, gpus = set_by_torchrun("LOCAL_RANK", 0), torch.cuda.device_count()
            if (found := max(rank + 1, set_by_torchrun("LOCAL_WORLD_SIZE", 1))) > gpus:
                raise ValueError(f"--nproc-per-node: expected at most {gpus}, the number of GPUs here, found {found}")
            device = f"cuda:{rank}"
        self.device, self.timeout = torch.device(device), timeout
        if self.device.index is not None and self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # Triton and NCCL use the current device
        if self.size > 1:
            _end_with_parent()
            wait = datetime.timedelta(seconds=timeout)
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo", timeout=wait)

    @property
    def device_name(self) -> str:
        """Name of the device: 'cpu', or the model of the GPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    def __enter__(self) -> "Group":
        if self.size > 1:
            self._all = dist.new_group(backend="gloo", timeout=LONGEST_TEST)
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()
        # torch has its own exception type for errors between processes, but Gloo raises a plain RuntimeError.
        if self.size > 1 and isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error)):
            raise ConnectionError(
                f"process {self.rank}: expected an answer from the other processes within {self.timeout:g} s, found"
                f" that one of them has ended or hangs ({str(error).splitlines()[0][:200]})"
            ) from error

    def sum_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Make every optimiser step use the summed gradients of all processes, as for one large batch.

        The gradients are summed because the loss is a sum over recordings (DistributedDataParallel would average
        them). All processes start with equal weights and take equal steps, so their weights stay equal.
        """
        if self.size > 1:
            optimizer.register_step_pre_hook(_sum_gradients)

    def batches(self, loader: EventLoader, epoch: int, drop_rest: bool) -> Iterator[tuple]:
        """Yield every `size`-th batch of an epoch; with `drop_rest`, all processes get equally many."""
        loader.set_epoch(epoch)
        count = self.steps(loader) * self.size if drop_rest else len(loader)
        for i in range(self.rank, count, self.size):
            yield loader.batch(i)

    def steps(self, loader: EventLoader) -> int:
        """Return the number of training batches per process and epoch."""
        return len(loader) // self.size

    def sum_statistic(self, stat) -> None:
        """Sum the current epoch's counts of a `LearningStat` over the processes, in place."""
        if self.size > 1:
            total = torch.tensor([stat.loss_sum, stat.correct_samples, stat.num_samples], dtype=torch.float64)
            total = total.to(self.device)
            dist.all_reduce(total)
            stat.loss_sum, stat.correct_samples = total[:2].tolist()
            stat.num_samples = int(total[2])

    def wait_for_all(self) -> None:
        """Wait until all processes have reached this point."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1, device=self.device))

    @contextmanager
    def end_together(self) -> Iterator[None]:
        """Wait at the end of the block, however long, until all processes have reached it or one has ended.

        Otherwise, if a process crashed at its end, torchrun would kill the first one, which may still be at work.
        """
        try:
            yield
        finally:
            if self.size > 1:
                # The result of the first process, or its error, is more important than the end of another.
                with suppress(RuntimeError) if self.first else nullcontext():
                    dist.barrier(group=self._all)


def _sum_gradients(optimizer: torch.optim.Optimizer, *_) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    works = [dist.all_reduce(p.grad, async_op=True) for p in parameters if p.grad is not None]
    for work in works:
        work.wait()


def _end_with_parent() -> None:
    """Exit as soon as the parent process has ended, because a killed torchrun leaves its processes running.

    On Windows this has no effect, because `os.getppid` does not change there when the parent ends.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        print("The torchrun that started this process has ended; this process ends too.", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
