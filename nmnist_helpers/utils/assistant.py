"""One call per batch: forward pass, loss and statistics; in training, also backward pass and optimiser step."""

import math
from collections.abc import Callable

import torch

from ..checks import as_number
from ..spikes import Spikes
from .stats import LearningStat, LearningStats


class Assistant:
    """A helper that trains, tests and validates a network, one batch at a time.

    Parameters
    ----------
    net : torch.nn.Module
        The network.
    error : callable
        ``error(output, target)`` returns the loss, a scalar tensor.
    optimizer : torch.optim.Optimizer or None
        None if the network is not trained.
    stats : LearningStats, optional
        Statistics to which losses and correct answers are added.
    classifier : callable, optional
        ``classifier(output)`` returns classes [B]. Without it, correct answers are not counted (regression).
    count_log : bool
        Whether the network returns its spike counts as its last value. `train`, `test` and `valid` then do so too.
    lam : float, optional
        Weight of a second loss, which the network returns after its output. It is added in training; the statistics
        leave it out.

    Raises
    ------
    ValueError
        If the optimizer has none of the network's parameters: it would train nothing.
    TypeError
        If `classifier` is a class; in a call, if the input or the targets are not tensors.

    Examples
    --------
    >>> assistant = Assistant(net, error, optimizer, stats, classifier=Rate.predict)
    >>> for input, label in train_loader:
    ...     output = assistant.train(input, label)
    >>> for input, label in test_loader:
    ...     output = assistant.test(input, label)
    >>> stats.update()
    """

    def __init__(
        self,
        net: torch.nn.Module,
        error: Callable,
        optimizer: torch.optim.Optimizer | None,
        stats: LearningStats | None = None,
        classifier: Callable | None = None,
        count_log: bool = False,
        lam: float | None = None,
    ):
        self.net, self.error, self.optimizer = net, error, optimizer
        learned = [p for group in getattr(optimizer, "param_groups", []) for p in group["params"]]
        if learned and not {id(p) for p in net.parameters()} & {id(p) for p in learned}:
            raise ValueError("Assistant: expected an optimizer of the network's parameters, found one of others")
        if isinstance(classifier, type):
            name = classifier.__name__
            raise TypeError(f"Assistant: expected a function or {name}(), found the class {name}")
        self.stats, self.classifier = stats, classifier
        self.count_log, self.lam = count_log, lam
        self._device: torch.device | None = None

    @property
    def device(self) -> torch.device | None:
        """Where inputs are moved to: by default to the network's parameters (None if it has none)."""
        parameter = next(self.net.parameters(), None)
        return self._device or (None if parameter is None else parameter.device)

    @device.setter
    def device(self, device: torch.device | str | None) -> None:
        self._device = None if device is None else torch.device(device)

    def train(self, input: torch.Tensor | Spikes, target: torch.Tensor):
        """Train on one batch.

        Parameters
        ----------
        input : tensor [B, ..., T] or Spikes
            Like `target`, it is moved to the network's device if necessary.
        target : tensor
            Classes [B], or whatever `error` expects.

        Returns
        -------
        tensor, or (tensor, count) with `count_log`
            The network's output.

        Raises
        ------
        FloatingPointError
            If the loss is infinite or not a number. The parameters are then unchanged.
        """
        if self.optimizer is None:
            raise ValueError("Assistant.train: expected an optimizer, found None")
        self.net.train()
        output, count, loss, total, target = self._forward(input, target)
        self.optimizer.zero_grad()
        total.backward()  # before the loss is read, so that a GPU is busy while the host waits
        self._log("training", output, target, loss, total)
        self.optimizer.step()
        return (output, count) if self.count_log else output

    def test(self, input: torch.Tensor | Spikes, target: torch.Tensor):
        """Test on one batch without gradients; parameters and results are those of `train`."""
        return self._evaluate("testing", input, target)

    def valid(self, input: torch.Tensor | Spikes, target: torch.Tensor):
        """Validate on one batch without gradients; parameters and results are those of `train`."""
        return self._evaluate("validation", input, target)

    def reduce_lr(self, factor: float = 10 / 3) -> None:
        """Divide the step size of every parameter group by `factor`.

        Raises
        ------
        ValueError
            If `factor` is not positive and finite, or if there is no optimiser.
        """
        if not 0 < as_number(factor) < math.inf:
            raise ValueError(f"reduce_lr: expected a positive factor, found {factor!r}")
        if self.optimizer is None:
            raise ValueError("Assistant.reduce_lr: expected an optimizer, found None")
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] / factor
        steps = ", ".join(f"{float(group['lr']):g}" for group in self.optimizer.param_groups)
        print(f"step size divided by {factor:g}: now {steps}")

    def _evaluate(self, part: str, input, target):
        self.net.eval()
        with torch.no_grad():
            output, count, loss, total, target = self._forward(input, target)
            self._log(part, output, target, loss, total)
        return (output, count) if self.count_log else output

    def _forward(self, input, target):
        device = self.device
        if not isinstance(target, torch.Tensor):
            raise TypeError(f"Assistant: expected a tensor of targets, found {type(target).__name__}")
        if device is not None:
            if not hasattr(input, "to"):
                raise TypeError(f"Assistant: expected a tensor or Spikes as input, found {type(input).__name__}")
            input, target = input.to(device, non_blocking=True), target.to(device, non_blocking=True)
        returned, count, net_loss = self.net(input), None, None
        wanted = 1 + (self.lam is not None) + self.count_log
        if wanted > 1:
            if not isinstance(returned, tuple | list) or len(returned) != wanted:
                found = len(returned) if isinstance(returned, tuple | list) else 1
                raise ValueError(f"Assistant: expected {wanted} values from the network, found {found}")
            returned = list(returned)
            count = returned.pop() if self.count_log else None
            net_loss = returned.pop() if self.lam is not None else None
            returned = returned[0]
        loss = self.error(returned, target)
        if not isinstance(loss, torch.Tensor):
            raise TypeError(f"Assistant: expected an error that returns a tensor, found {type(loss).__name__}")
        if loss.dim() != 0:
            raise ValueError(f"Assistant: expected an error that returns one number, found shape {list(loss.shape)}")
        total = loss if net_loss is None else loss + self.lam * net_loss
        return returned, count, loss, total, target

    def _log(self, part: str, output, target, loss, total) -> None:
        """Check the loss and add it to the statistics of `part`; all numbers come from the device in one transfer."""
        classifier = None if self.stats is None else self.classifier
        correct = torch.zeros_like(loss)
        if classifier is not None:
            answer = classifier(output.detach())
            if answer.shape != target.shape:
                raise ValueError(
                    f"Assistant: expected targets of the shape that the classifier returns, {list(answer.shape)}, found"
                    f" {list(target.shape)}; repeat them in time for a classifier with a moving window, or leave out"
                    " the classifier if they are not classes"
                )
            correct = (answer == target).sum() / math.prod(answer.shape[1:])  # over time, shares of the samples
        wide = torch.promote_types(loss.dtype, torch.float32)  # counts of a batch are exact in float32
        loss, total, correct = torch.stack([v.detach().to(wide) for v in (loss, total, correct)]).tolist()
        if not math.isfinite(total) or not math.isfinite(loss):
            raise FloatingPointError(f"{part}: expected a finite loss, found {total if math.isfinite(loss) else loss}")
        if self.stats is None:
            return
        stat: LearningStat = getattr(self.stats, part)
        batch = output.shape[0]
        stat.num_samples += batch
        stat.loss_sum += loss * batch
        if classifier is not None:
            stat.correct_samples += correct
