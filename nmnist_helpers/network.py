"""The tutorial's network: 2312-512-512-10 CUBA neurons with learned delays and decays."""

import os
from collections.abc import Sequence

import torch

from . import block
from .neuron import Dropout
from .packed import CHANNELS
from .spikes import Spikes

NEURON_PARAMS = {
    "threshold": 1.25,
    "current_decay": 0.25,
    "voltage_decay": 0.03,
    "tau_grad": 0.03,
    "scale_grad": 3,
    "requires_grad": True,
}


class Network(torch.nn.Module):
    """Two hidden layers with dropout and delays, one output layer.

    Parameters
    ----------
    hidden : int or sequence of int
        Neurons in the hidden layers.
    dropout : float
        Probability with which a hidden neuron is silenced for a sample.
    inputs, outputs : int
        Input channels and classes.
    neuron_params : dict, optional
        Changes to `NEURON_PARAMS`.

    Examples
    --------
    >>> net = Network()
    >>> net(torch.zeros(1, 2312, 300)).shape
    torch.Size([1, 10, 300])
    """

    def __init__(
        self,
        hidden: int | Sequence[int] = (512, 512),
        dropout: float = 0.05,
        inputs: int = CHANNELS,
        outputs: int = 10,
        neuron_params: dict | None = None,
    ):
        super().__init__()
        params = {**NEURON_PARAMS, **(neuron_params or {})}
        with_dropout = {**params, "dropout": Dropout(p=dropout)}
        sizes = [inputs, *((hidden,) if isinstance(hidden, int) else hidden)]
        self.blocks = torch.nn.ModuleList(
            block.cuba.Dense(with_dropout, before, after, weight_norm=True, delay=True)
            for before, after in zip(sizes, sizes[1:], strict=False)
        )
        self.blocks.append(block.cuba.Dense(params, sizes[-1], outputs, weight_norm=True))

    def forward(self, spikes: torch.Tensor | Spikes, layers: bool = False):
        """Spikes [B, 2312, T], dense or `Spikes`, to output spikes [B, 10, T].

        With `layers`, a list of every block's output spikes instead, all dense. Without, hidden blocks hand on
        `Spikes`, which is also what a hook on them sees.
        """
        outputs = []
        for b in self.blocks:
            spikes = b(spikes, dense=layers or b is self.blocks[-1])
            outputs.append(spikes)
        return outputs if layers else outputs[-1]

    def grad_flow(self, path: str | os.PathLike | None = None) -> list[float]:
        """Gradient norm of every block's weights; with `path`, a folder, also a picture ``gradFlow.png`` there."""
        grad = [b.synapse.grad_norm for b in self.blocks]
        if path is not None:
            import matplotlib.pyplot as plt

            from .files import atomic

            fig, ax = plt.subplots()
            ax.semilogy(grad, "o-")
            ax.set(xlabel="block", ylabel="gradient norm", xticks=range(len(grad)))
            with atomic(os.path.join(path, "gradFlow.png")) as temporary:
                fig.savefig(temporary)
            plt.close(fig)
        return grad

    def export_hdf5(self, filename: str | os.PathLike) -> None:
        """Write the network for hardware; see `nmnist_helpers.netx`."""
        from . import netx

        netx.write_network(filename, self)
