"""The processes that train together: those that torchrun started, or a single one."""

import datetime
import os
import sys
import threading
import time
from collections.abc import Iterator

import torch
import torch.distributed as dist

from ..data.loader import EventLoader


class Group:
    """The processes of a torchrun, or one process alone; use it in ``with``.

    Parameters
    ----------
    device : str
        Where to compute. 'auto' takes a GPU where there is one; under torchrun 'cuda' gives each process its own.
    timeout : float
        Seconds to wait for another process.
    """

    def __init__(self, device: str = "auto", timeout: float = 300):
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self.first = self.rank == 0
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and self.size > 1:
            device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        self.device, self.timeout = torch.device(device), timeout
        if self.device.index is not None and self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # Triton and NCCL go by the present device
        if self.size > 1:
            _end_with_parent()
            wait = datetime.timedelta(seconds=timeout)
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo", timeout=wait)

    def __enter__(self) -> "Group":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()
        # torch has a type of its own for what goes wrong between processes, but Gloo raises the general one.
        if self.size > 1 and isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error)):
            raise ConnectionError(
                f"process {self.rank}: expected an answer of the others within {self.timeout:g} s, found that one of"
                f" them has ended or stands still ({str(error).splitlines()[0][:200]})"
            ) from error

    def join(self, optimizer: torch.optim.Optimizer) -> None:
        """Let every step of the optimizer use the gradient of all processes' batches together, as one large batch.

        The gradients are added up, because the loss is a sum over recordings (DistributedDataParallel would take
        their mean). The processes begin with equal weights and take equal steps, so these stay equal.
        """
        if self.size > 1:
            optimizer.register_step_pre_hook(_add_up_gradients)

    def batches(self, loader: EventLoader, epoch: int, drop_rest: bool) -> Iterator[tuple]:
        """This process's batches of an epoch: every `size`-th one; for training the same number on each."""
        loader.set_epoch(epoch)
        count = self.steps(loader) * self.size if drop_rest else len(loader)
        for i in range(self.rank, count, self.size):
            yield loader.batch(i)

    def steps(self, loader: EventLoader) -> int:
        """Batches of each process in an epoch of training."""
        return len(loader) // self.size

    def add_up(self, stat) -> None:
        """Sum a running statistic over the processes."""
        if self.size > 1:
            total = torch.tensor([stat.loss_sum, stat.correct_samples, stat.num_samples], dtype=torch.float64)
            total = total.to(self.device)
            dist.all_reduce(total)
            stat.loss_sum, stat.correct_samples, stat.num_samples = total[0].item(), int(total[1]), int(total[2])

    def meet(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1, device=self.device))


def _add_up_gradients(optimizer: torch.optim.Optimizer, *_) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    works = [dist.all_reduce(p.grad, async_op=True) for p in parameters if p.grad is not None]
    for work in works:
        work.wait()


def _end_with_parent() -> None:
    """End this process when the one that started it has ended: a killed torchrun leaves its processes behind."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        print("The torchrun that started this process has ended: so does this process.", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
