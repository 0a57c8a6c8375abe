"""The training step of the loop: launched kernel by kernel, or recorded once as a CUDA graph and replayed."""

from collections.abc import Callable
from typing import cast

import torch
from torch.optim.swa_utils import AveragedModel

from ..spikes import DenseSpikes
from ..utils import Assistant, LearningStats

WARM_UP = 3  # calls before the recording: they compile kernels and allocate the state of the optimiser
READ_EVERY = 32  # steps from one transfer of the statistics to the next; the host waits for each


class Trainer(Assistant):
    """An `Assistant` that also updates the average of the weights, if there is one, after every step."""

    average: AveragedModel | None = None

    def train(self, input, target):
        """Train on one batch, as `Assistant.train` does."""
        output = super().train(input, target)
        if self.average is not None:
            self.average.update_parameters(self.net)
        return output

    def read(self) -> None:
        """Bring the statistics of the epoch up to date; call it before `LearningStats.update`. Here: do nothing."""


class CapturedCall:
    """A function's work on a GPU, recorded as a CUDA graph.

    The first calls run the function. The next one records it, and this and all later ones replay the graph. The
    function must always use the same memory, and it must not wait for the device. It is not kept, since it may refer to
    the owner of the recording: a cycle would keep the graph's memory alive.
    """

    def __init__(self, device: torch.device):
        self._device, self._calls = device, 0
        self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, function: Callable[[], None]) -> None:
        if self._calls < WARM_UP:
            self._calls += 1
            # on the stream of the recording, since autograd remembers the stream on which it first adds a gradient
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                function()
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
            return
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                function()
            self._graph = graph
        self._graph.replay()


class CapturedTrainer(Trainer):
    """A `Trainer` for a GPU that records its step as a CUDA graph and replays it for every batch.

    The host takes several times as long to launch the kernels of a step one by one as the GPU takes to run them. A
    graph is launched by a single call. Weights and statistics are bit-identical to those of a `Trainer`.

    The optimiser must be fused. A step size that changes must be a tensor, because a number would be recorded. The
    network's buffers must not change, since the average does not follow them.

    The statistics are read every `READ_EVERY` steps and by `read`. After a loss that is not finite, no step changes the
    network's weights any more, and the next reading raises the error.
    """

    stats: LearningStats
    optimizer: torch.optim.Optimizer

    def __init__(self, net, error, optimizer, stats: LearningStats, classifier: Callable):
        super().__init__(net, error, optimizer, stats, classifier)
        device = cast(torch.device, self.device)
        self._totals = torch.zeros(2, dtype=torch.float64, device=device)  # sum of losses, number of correct answers
        self._failed = torch.zeros((), device=device)  # NaN after a loss that is not finite, else 0
        self._steps = 0  # of all epochs
        self._samples = 0  # in this epoch
        self._reported = 0  # samples of this epoch that `stats` counts already
        self._record_or_replay = CapturedCall(device)
        self._input: DenseSpikes | None = None

    def train(self, input, target: torch.Tensor) -> None:
        """Train on one batch. Nothing is returned, since the next step uses the memory of the output again.

        Parameters
        ----------
        input : DenseSpikes of shape (B, C, T)
            The step is recorded for shape and value of the first batch. Other batches are trained on without it.
        target : int64 tensor [B]

        Raises
        ------
        FloatingPointError
            If a loss since the last reading was infinite or not a number.
        """
        if self._input is None:
            self._input = DenseSpikes(torch.empty_like(input.data), input.shape[1], input.value)
            self._target = torch.empty_like(target)
        spikes = self._input
        if self._reported and not self.stats.training.num_samples:  # an epoch begins
            self._samples = self._reported = 0
            self._totals.zero_()
        if (input.data.shape, input.shape, input.value) == (spikes.data.shape, spikes.shape, spikes.value):
            spikes.data.copy_(input.data)
            self._target.copy_(target)
            self._record_or_replay(lambda: self._step(spikes, self._target))
        else:
            self._step(input, target)
        self._steps += 1
        self._samples += len(target)
        if self.average is not None:
            self.average.n_averaged += 1
        if self._steps % READ_EVERY == 0:
            self.read()

    def _step(self, input: DenseSpikes, target: torch.Tensor) -> None:
        """Take one step without waiting for the device."""
        self.net.train()
        # a new object, since a step may keep results for its backward pass in it
        spikes = DenseSpikes(input.data, input.shape[1], input.value)
        output, _, loss, _, _ = self._forward(spikes, target)
        self.optimizer.zero_grad()
        loss.backward()
        # The same sums as those of `Assistant`, which adds Python's floats: float64 numbers.
        self._totals[0].add_(loss.detach(), alpha=len(target))
        self._totals[1].add_((cast(Callable, self.classifier)(output.detach()) == target).sum())
        self._failed.add_(loss.detach() * 0)  # 0 for a finite loss, else NaN, which stays NaN from then on
        # A fused optimiser leaves its step out if this is 1 (torch has it for the scaling of gradients).
        self.optimizer.found_inf = self._failed.isnan().float()  # type: ignore[attr-defined]
        for group in self.optimizer.param_groups:  # torch warns if this is set outside a recording
            group["capturable"] = spikes.data.is_cuda and torch.cuda.is_current_stream_capturing()
        self.optimizer.step()
        if self.average is not None:
            averages, weights = ([p.detach() for p in net.parameters()] for net in (self.average, self.net))
            if self.average.n_averaged:
                cast(Callable, self.average.multi_avg_fn)(averages, weights, self.average.n_averaged)
            else:
                torch._foreach_copy_(averages, weights)

    def read(self) -> None:
        """Wait for the device, and bring the statistics of the epoch up to date."""
        total, correct = self._totals.tolist()
        if self._failed.item() != 0:
            raise FloatingPointError("training: expected finite losses, found one that is infinite or not a number")
        stat = self.stats.training
        stat.loss_sum, stat.correct_samples, stat.num_samples = total, int(correct), self._samples
        self._reported = self._samples
