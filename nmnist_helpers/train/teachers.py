"""Learning from trained networks: their spike rates are targets beside those of the label.

The method is knowledge distillation (Hinton, Vinyals and Dean, 2015; on logits instead of probabilities: Ba and
Caruana, 2014). The rates of a trained network tell more than the label: that a 4 resembles a 9, and how clearly it is
a 4.
"""

from collections.abc import Sequence

import torch

from ..checkpoint import CheckpointError, load_checkpoint
from ..classifier import Rate
from ..geometry import CHANNELS
from ..network import ConvNetwork
from ..spikes import Spikes

#: Weight of the squared distance from the teachers' rates; the loss from the label has the weight 1.
WEIGHT = 1.0


class Pupil(torch.nn.Module):
    """A network in training that also returns how far its rates are from those of its teachers.

    Parameters
    ----------
    net : torch.nn.Module
        The network that learns.
    teachers : sequence of torch.nn.Module
        Networks with the same inputs and outputs. They are no part of this module, so that nothing changes them.
    """

    def __init__(self, net: torch.nn.Module, teachers: Sequence[torch.nn.Module]):
        super().__init__()
        self.net, self.teachers = net, tuple(teachers)

    def forward(self, input: torch.Tensor | Spikes) -> tuple[torch.Tensor, torch.Tensor]:
        """Return output spikes [B, 10, T], and the distance, a scalar.

        The distance is that between the network's rates (spikes per time step) and the mean of the teachers' rates,
        squared and summed over recordings and classes, as in `SpikeRate`.
        """
        output = self.net(input)
        with torch.no_grad():
            wanted = torch.stack([Rate.rate(teacher(input)) for teacher in self.teachers]).mean(0)
        return output, ((Rate.rate(output) - wanted) ** 2).sum()


def load_teacher(path: str) -> torch.nn.Module:
    """Load a trained network, either a `ConvNetwork` or one of dense blocks, for inference.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file holds no such network.
    ValueError
        If the network does not read recordings of digits.
    """
    try:
        net = load_checkpoint(path, ConvNetwork())
    except CheckpointError:
        net = load_checkpoint(path)
    net.eval()
    try:
        with torch.no_grad():
            found = list(net(torch.zeros(1, CHANNELS, 1)).shape)
    except ValueError as error:
        raise ValueError(f"--teachers: {path}: {error}") from error
    if found != [1, 10, 1]:
        raise ValueError(f"--teachers: {path}: expected a network with 10 outputs, found {found[1]}")
    return net
