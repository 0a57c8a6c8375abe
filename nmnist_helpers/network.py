"""The tutorial's network of 2312-512-512-10 CUBA neurons with learned delays and decays, and a convolutional one."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

import numpy as np
import torch

from . import block
from .block.spec import LayerSpec
from .checks import is_number, whole_number
from .geometry import CHANNELS, SIDE
from .neuron import Dropout
from .spikes import Spikes
from .tools import NoScript, hooked

NEURON_PARAMS = {
    "threshold": 1.25,
    "current_decay": 0.25,
    "voltage_decay": 0.03,
    "tau_grad": 0.03,
    "scale_grad": 3,
    "requires_grad": True,
}
# Parameters that an exported file does not contain.
TRAINING_PARAMS = {name: NEURON_PARAMS[name] for name in ("tau_grad", "scale_grad", "requires_grad")}


def _takes_events(b: torch.nn.Module) -> bool:
    """Return whether a block takes `Spikes`: one of ours, without hooks (which expect tensors) or its own forward."""
    ours = block.cuba.Dense.forward, block.cuba.OfPicture.forward, block.cuba.Flatten.forward
    return getattr(type(b), "forward", None) in ours and not hooked(b)


class _Freezer:
    """Stands for a ``with`` block of `Network.frozen`."""


class Network(NoScript, torch.nn.Module):
    """A dense network: by default, two hidden layers with dropout and learned delays, and an output layer.

    Parameters
    ----------
    hidden : int or sequence of int
        Number of neurons in each hidden layer.
    dropout : float
        Probability with which a hidden neuron is silenced for a whole sample.
    inputs, outputs : int
        Number of input channels and of classes.
    neuron_params : dict, optional
        Values that override those of `NEURON_PARAMS`.

    Raises
    ------
    ValueError
        If a number of neurons is not a whole number from 1, or if `dropout` or one of `neuron_params` is out of range;
        in a call, if the input does not fit.
    OverflowError
        In a call, if input or weights are not finite, or if a state leaves +-262144.

    Examples
    --------
    >>> net = Network()
    >>> net(torch.zeros(1, 2312, 300)).shape
    torch.Size([1, 10, 300])
    """

    blocks: torch.nn.ModuleList
    PICTURE: tuple[int, int, int] | None = None  # as which a first convolution sees flat input

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
        layers = [hidden] if is_number(hidden) else cast(Sequence, hidden)
        sizes: list[Any] = [inputs]
        sizes += [whole_number("Network: hidden", size, 1) for size in layers]
        self.blocks = torch.nn.ModuleList(
            block.cuba.Dense(with_dropout, before, after, weight_norm=True, delay=True)
            for before, after in pairwise(sizes)
        )
        outputs = whole_number("Network: outputs", outputs, 1)
        self.blocks.append(block.cuba.Dense(params, sizes[-1], outputs, weight_norm=True))

    @classmethod
    def from_blocks(cls, blocks: Iterable[torch.nn.Module]) -> "Network":
        """Return a network of the given blocks, ordered from input to output.

        Raises
        ------
        ValueError
            If there are none.
        """
        net = cls.__new__(cls)
        torch.nn.Module.__init__(net)
        net.blocks = torch.nn.ModuleList(blocks)
        if not len(net.blocks):
            raise ValueError("Network.from_blocks: expected at least one block, found none")
        return net

    @classmethod
    def from_layers(cls, layers: Iterable[LayerSpec], **neuron_params) -> "Network":
        """Return a trainable network whose blocks quantise to exactly the integers of `layers`.

        Parameters
        ----------
        layers : iterable of LayerSpec
            From input to output.
        **neuron_params
            Neuron arguments that layers do not contain: ``tau_grad``, ``scale_grad``, ``requires_grad``, ``dropout``...
            The defaults are those of the tutorial.

        Returns
        -------
        Network
            A network without weight normalisation, because layers do not store g and v separately. Half a time step is
            added to each delay, which ``floor`` removes again, so that a first small update moves no spike.

        Raises
        ------
        ValueError
            If an argument is one that the layers decide (such as ``threshold`` or a decay), or if a layer has no block.
        """
        specs = list(layers)
        net = cls.from_blocks(block.cuba.from_specs(specs, {**TRAINING_PARAMS, **neuron_params}))
        if isinstance(net[0], block.cuba.OfPicture):
            net.PICTURE = specs[0].in_shape
        return net

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[torch.nn.Module]:
        return iter(self.blocks)

    def __getitem__(self, index: int) -> torch.nn.Module:
        return self.blocks[index]

    def forward(self, spikes: torch.Tensor | Spikes, layers: bool = False):
        """Return output spikes [B, 10, T] for input spikes [B, 2312, T], either dense or `Spikes`.

        A network that begins with a convolution reshapes its input to a picture; it also accepts pictures directly.
        With `layers`, return a list of the output spikes of every block instead, all dense. Without it, hidden blocks
        exchange `Spikes`, unless one of them has a hook or a `forward` of its own, because these expect tensors.
        """
        first, outputs = self.blocks[0], []
        usual = first.input_shape if isinstance(first, block.cuba.OfPicture) else None
        if usual is not None and len(spikes.shape) == 3:
            spikes = self._as_picture(spikes, usual)
        try:
            takes = [*map(_takes_events, self.blocks), False]  # nothing follows the last block
            for i, b in enumerate(self.blocks):
                if getattr(b, "count_log", False) and i + 1 < len(self.blocks):
                    raise ValueError(
                        "Network: expected count_log=False in all blocks but the last, found a block that also returns"
                        " its rate; use a module with a forward of its own"
                    )
                sparse = not layers and takes[i] and takes[i + 1]
                spikes = b(spikes, dense=False) if sparse and isinstance(b, block.cuba.Block) else b(spikes)
                if isinstance(spikes, Spikes) and (layers or not takes[i + 1]):
                    spikes = spikes.dense()
                outputs.append(spikes)
        except Exception:
            if isinstance(first, block.cuba.OfPicture):
                first.input_shape = usual  # that of a picture which the network cannot read would stay otherwise
            raise
        return outputs if layers else outputs[-1]

    def _as_picture(self, spikes: torch.Tensor | Spikes, usual: tuple[int, ...]):
        """Reshape flat spikes [B, C * H * W, T] to the network's own picture, or to that of the last call."""
        for picture in (self.PICTURE, usual):
            if picture is not None and math.prod(picture) == spikes.shape[1]:
                shape = cast(tuple[int, int, int], picture)
                return spikes.as_picture(shape) if isinstance(spikes, Spikes) else spikes.unflatten(1, shape)
        raise ValueError(f"Network: expected input [B, {math.prod(usual)}, T] or a picture, found {list(spikes.shape)}")

    @contextmanager
    def frozen(self) -> Iterator["Network"]:
        """Speed up inference within a ``with`` block: weights are quantised only once, not in every forward pass.

        This is useful for recordings that arrive one by one. Gradients are disabled. Results stay the same, but a
        change of a weight, decay or delay within the ``with`` block has no effect until its end. (Blocks with
        persistent state, a mask, a norm, hooks or a hook of their own are computed as always: not faster, and with
        every change.)

        Examples
        --------
        >>> net = Network().eval()
        >>> with net.frozen():
        ...     net(torch.zeros(1, 2312, 300)).shape
        torch.Size([1, 10, 300])
        """
        parts = [part for part in self.modules() if isinstance(part, block.cuba.Block)]
        me = _Freezer()  # several threads may be inside, and an interrupt may prevent that one leaves
        try:
            for part in parts:
                part.freeze(me)
            with torch.no_grad():
                yield self
        finally:
            for part in parts:
                part.thaw(me)

    def grad_flow(self, path: str | os.PathLike | None = None) -> list[float]:
        """Return the gradient norm of each block's weights; with a folder `path`, also plot it as ``gradFlow.png``."""
        grad = [cast(Any, b).synapse.grad_norm for b in self.blocks if hasattr(b, "synapse")]
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
        """Write the network as a `.net` file; see `nmnist_helpers.block.hdf5.write_network`.

        In the file every input spike has the value 1: a network that was trained in bins of another length than 1 ms
        must have been trained on these, too (see `sampling_time` of `NMNISTDataset`).
        """
        from .block.hdf5 import write_network  # h5py is needed for this alone

        write_network(filename, self)


class ConvNetwork(Network):
    """A convolutional network: two convolutional layers, a hidden dense layer and an output layer.

    The first layer convolves the 34 x 34 pixels of both polarities with 5 x 5 kernels and stride 3. The second layer
    convolves the output of the first with 3 x 3 kernels and stride 2. All layers but the last have dropout. The hidden
    dense layer has delays.

    Parameters
    ----------
    channels : (int, int)
        Number of channels of the two convolutional layers.
    hidden : int
        Number of neurons of the hidden dense layer.
    dropout : float
        Probability with which a hidden neuron is silenced for a whole sample.
    outputs : int
        Number of classes.
    neuron_params : dict, optional
        Values that override those of `NEURON_PARAMS`.

    Raises
    ------
    ValueError, OverflowError
        As for `Network`.

    Examples
    --------
    >>> net = ConvNetwork()
    >>> net(torch.zeros(1, 2312, 300)).shape
    torch.Size([1, 10, 300])
    """

    PICTURE = (2, SIDE, SIDE)

    def __init__(
        self,
        channels: tuple[int, int] = (16, 32),
        hidden: int = 128,
        dropout: float = 0.05,
        outputs: int = 10,
        neuron_params: dict | None = None,
    ):
        torch.nn.Module.__init__(self)
        params = {**NEURON_PARAMS, **(neuron_params or {})}
        with_dropout = {**params, "dropout": Dropout(p=dropout)}
        if np.shape(channels) != (2,):
            raise ValueError(f"ConvNetwork: expected two numbers of channels, found {channels!r}")
        first, second = (whole_number("ConvNetwork: channels", number, 1) for number in channels)
        hidden = whole_number("ConvNetwork: hidden", hidden, 1)
        outputs = whole_number("ConvNetwork: outputs", outputs, 1)
        # Neurons of a convolution have few synapses; twice the usual weights make them fire about as often as others.
        # They have no delays, because lava-dl's netx ignores those of convolutions: the chip would give other spikes.
        options: dict[str, Any] = {"weight_norm": True, "weight_scale": 2}
        self.blocks = torch.nn.ModuleList(
            [
                block.cuba.Conv(with_dropout, 2, first, 5, stride=3, **options),  # to 10 x 10
                block.cuba.Conv(with_dropout, first, second, 3, stride=2, **options),  # to 4 x 4
                block.cuba.Flatten(),
                block.cuba.Dense(with_dropout, second * 4 * 4, hidden, weight_norm=True, delay=True),
                block.cuba.Dense(params, hidden, outputs, weight_norm=True),
            ]
        )
        cast(Any, self.blocks[0]).input_shape = self.PICTURE  # allows an export before the first forward pass
