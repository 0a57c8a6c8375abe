"""A whole training step as one CUDA graph: recorded once, then replayed with one launch.

A step of the tutorial's network is some hundred small kernels, and launching one takes the host longer than
running it takes the GPU. A graph is launched as a whole.
"""

from collections.abc import Callable
from copy import deepcopy

import torch

from .spikes import DenseSpikes, Spikes


def _on_device(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Bring what changes between steps onto the device, where a replay reads it afresh."""
    for group in optimizer.param_groups:
        if "capturable" in group and not group["capturable"]:
            raise ValueError(
                f"GraphedStep: expected {type(optimizer).__name__}(..., capturable=True), found capturable=False;"
                " the count of steps has to be kept on the GPU"
            )
        if "capturable" in group and not isinstance(group["lr"], torch.Tensor):
            group["lr"] = torch.tensor(float(group["lr"]), device=device)


class _Before:
    """Everything a training step changes, as it is now, to be put back in place."""

    def __init__(self, net: torch.nn.Module, optimizer: torch.optim.Optimizer, device: torch.device):
        self.net, self.optimizer, self.device = net, optimizer, device
        self.tensors = [(t, t.detach().clone()) for t in (*net.parameters(), *net.buffers())]
        self.state = deepcopy(optimizer.state_dict()["state"])
        self.random = torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()

    def put_back(self) -> None:
        """Same addresses, old values: a graph that was recorded in between stays valid."""
        with torch.no_grad():
            for tensor, value in self.tensors:
                tensor.copy_(value)
            for number, state in self.optimizer.state_dict()["state"].items():
                for name, value in state.items():
                    if isinstance(value, torch.Tensor):
                        before = self.state.get(number, {}).get(name)
                        value.zero_() if before is None else value.copy_(before)
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(self.random, self.device)
        else:
            torch.set_rng_state(self.random)


class GraphedStep:
    """Forward, loss, backward and optimiser for batches of one fixed shape, replayed as a CUDA graph.

    Recording leaves the network and the optimiser as they were: the few steps that it takes are undone.

    Parameters
    ----------
    net : torch.nn.Module
        On the GPU, in the mode (training or evaluation) that the steps are to have.
    error : callable
        ``error(output, target)`` gives the loss.
    optimizer : torch.optim.Optimizer
        Without `capturable` (SGD) or with ``capturable=True`` (Adam). The step size becomes a tensor on the GPU:
        torch's schedulers write into it; by hand use `set_lr`.
    spikes : Spikes
        A batch of the shape to come. Its `value` is the value of all batches.
    target : tensor
        Its target.
    warm_up : int
        Steps before recording, in which kernels are compiled and memory is set aside.
    record : bool
        False runs every step launch by launch, on any device: the same interface, for comparison.

    Attributes
    ----------
    spikes : DenseSpikes
        The batch that the next `replay` learns from. Write into ``spikes.data`` ([B, T, P] bytes) to do without
        the copy, as ``nmnist_helpers.kernels.gpu.raster.rasterise(..., out=step.spikes.data)`` does.
    target : tensor
        Its target.
    loss, output : tensors
        Of the last step. The next replay overwrites them.

    Raises
    ------
    RuntimeError
        If the network is not on a CUDA device.
    ValueError
        If the optimiser keeps its count of steps on the host, a neuron has persistent state, or a batch has
        another shape.

    Examples
    --------
    >>> optimizer = torch.optim.Adam(net.parameters(), fused=True, capturable=True)
    >>> step = GraphedStep(net, SpikeRate(0.2, 0.03), optimizer, *loader.batch(0))
    >>> for spikes, label in loader:
    ...     output, loss = step(spikes, label)
    >>> kernels.gpu.check()  # a state that left its range is found here, not in the step
    """

    def __init__(
        self,
        net: torch.nn.Module,
        error: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        optimizer: torch.optim.Optimizer,
        spikes: Spikes,
        target: torch.Tensor,
        warm_up: int = 3,
        record: bool = True,
    ):
        self.net, self.error, self.optimizer = net, error, optimizer
        self.device = next(net.parameters()).device
        if record and self.device.type != "cuda":
            raise RuntimeError(
                f"GraphedStep: expected a network on a CUDA device, found it on {self.device};"
                " record=False runs the same steps launch by launch"
            )
        if warm_up < 1:
            raise ValueError(f"GraphedStep: expected at least one step of warm-up, found {warm_up}")
        if any(getattr(module, "persistent_state", False) for module in net.modules()):
            raise ValueError("GraphedStep: expected persistent_state=False, found a neuron that keeps its state")
        if record:
            _on_device(optimizer, self.device)
        batch, channels, steps = spikes.shape
        width = spikes.data.shape[2] if isinstance(spikes, DenseSpikes) else -(-channels // 64) * 64
        data = torch.zeros(batch, steps, width, dtype=torch.uint8, device=self.device)
        self.spikes = DenseSpikes(data, channels, spikes.value)
        self.target = target.to(self.device, copy=True)
        self.output = self.loss = None
        self._fill(spikes, target)
        self._graph = torch.cuda.CUDAGraph() if record else None
        if record:
            self._record(warm_up)

    def _record(self, warm_up: int) -> None:
        before = _Before(self.net, self.optimizer, self.device)
        with torch.cuda.device(self.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # a first step allocates and compiles, which a recording must not
                for _ in range(warm_up):
                    self._step()
            torch.cuda.current_stream().wait_stream(stream)
            # Without gradients from before, the recorded backward writes them; with, it would add to them.
            self.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(self._graph):
                self._forward_and_on()
        before.put_back()

    def _forward_and_on(self) -> None:
        # A new object around the same bytes: a list of spikes that somebody worked out before is out of date.
        batch = DenseSpikes(self.spikes.data, self.spikes.shape[1], self.spikes.value)
        output = self.net(batch)
        loss = self.error(output, self.target)
        loss.backward()
        self.optimizer.step()
        self.output, self.loss = output.detach(), loss.detach()

    def _step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self._forward_and_on()

    def _fill(self, spikes: Spikes, target: torch.Tensor) -> None:
        if spikes.shape != self.spikes.shape or spikes.value != self.spikes.value:
            raise ValueError(
                f"GraphedStep: expected spikes {self.spikes.shape} worth {self.spikes.value}, found {spikes.shape}"
                f" worth {spikes.value}; the last batch of an epoch may be smaller (drop_last=True leaves it out)"
            )
        if target.shape != self.target.shape:
            raise ValueError(f"GraphedStep: expected targets {list(self.target.shape)}, found {list(target.shape)}")
        rows = spikes.data[..., : spikes.shape[1]] if isinstance(spikes, DenseSpikes) else spikes.rows(torch.uint8, 1)
        self.spikes.data[..., : spikes.shape[1]].copy_(rows, non_blocking=True)
        self.target.copy_(target, non_blocking=True)

    def set_lr(self, lr: float) -> None:
        """Change the step size of every parameter group."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(lr)
            else:
                if self._graph is not None:
                    raise ValueError(f"GraphedStep: {type(self.optimizer).__name__} has its step size recorded")
                group["lr"] = lr

    def replay(self) -> tuple[torch.Tensor, torch.Tensor]:
        """One step on what `spikes` and `target` hold now; returns output and loss (overwritten by the next)."""
        if self._graph is None:
            self._step()
        else:
            self._graph.replay()
        return self.output, self.loss

    def __call__(self, spikes: Spikes, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy a batch in, then `replay`."""
        self._fill(spikes, target)
        return self.replay()
