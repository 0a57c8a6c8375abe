"""The tutorial's network of 2312-512-512-10 CUBA neurons with learned delays and decays, and a convolutional one."""

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, cast

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
# The same for time steps of 10 ms, those of a convolutional network.
CONV_NEURON_PARAMS = {**NEURON_PARAMS, "current_decay": 0.5, "voltage_decay": 0.2}
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
    SAMPLING_TIME: float = 1  # length of the time step in ms for which the decays are chosen

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
            added to each delay, which ``floor`` removes again, so that a first small update moves no spike. Layers do
            not say how long a time step is: if it is 10 ms, set ``net.SAMPLING_TIME = 10``.

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

        In the file every input spike has the value 1. A network with another time step than 1 ms must therefore be
        trained with this value (`EventLoader(value=1)`). The file does not say how long a time step is.
        """
        from .block.hdf5 import write_network  # h5py is needed for this alone

        write_network(filename, self)


class ConvNetwork(Network):
    """A convolutional network: by default, three convolutional layers with dropout, and an output layer.

    Each convolution has stride 2: its picture has fewer than half as many rows and columns as its input. The first has
    kernels of 5 x 5 pixels, for both polarities, the others of 3 x 3 neurons. The 34 x 34 pixels become 15 x 15, 7 x 7
    and 3 x 3 neurons in each channel.

    The network's time step is 10 ms (`SAMPLING_TIME`), so a recording has 30 steps. An `EventLoader` makes such batches
    with ``sampling_time=net.SAMPLING_TIME, value=1``.

    Parameters
    ----------
    channels : sequence of int
        Number of channels of each convolutional layer; one to four layers.
    dropout : float
        Probability with which a neuron of a convolutional layer is silenced for a whole sample.
    outputs : int
        Number of classes.
    neuron_params : dict, optional
        Values that override those of `CONV_NEURON_PARAMS`.

    Raises
    ------
    ValueError, OverflowError
        As for `Network`.

    Examples
    --------
    >>> net = ConvNetwork()
    >>> net(torch.zeros(1, 2312, 30)).shape
    torch.Size([1, 10, 30])
    """

    PICTURE = (2, SIDE, SIDE)
    SAMPLING_TIME = 10

    def __init__(
        self,
        channels: Sequence[int] = (28, 56, 112),
        dropout: float = 0.05,
        outputs: int = 10,
        neuron_params: dict | None = None,
    ):
        torch.nn.Module.__init__(self)
        params = {**CONV_NEURON_PARAMS, **(neuron_params or {})}
        with_dropout = {**params, "dropout": Dropout(p=dropout)}
        if is_number(channels) or not 1 <= len(channels) <= 4:
            raise ValueError(f"ConvNetwork: expected one to four numbers of channels, found {channels!r}")
        numbers = [whole_number("ConvNetwork: channels", number, 1) for number in channels]
        outputs = whole_number("ConvNetwork: outputs", outputs, 1)
        # With the usual weights, the neurons of the later blocks would be silent at first; with twice these, they fire
        # about as often as those of a dense network. They have no delays, because lava-dl's netx ignores those of
        # convolutions: the chip would give other spikes.
        options: dict[str, Any] = {"stride": 2, "weight_norm": True, "weight_scale": 2}
        self.blocks, side = torch.nn.ModuleList(), self.PICTURE[1]
        for before, after in pairwise([self.PICTURE[0], *numbers]):
            kernel = 3 if len(self.blocks) else 5
            self.blocks.append(block.cuba.Conv(with_dropout, before, after, kernel, **options))
            side = (side - kernel) // 2 + 1
        self.blocks.append(block.cuba.Flatten())
        self.blocks.append(block.cuba.Dense(params, numbers[-1] * side * side, outputs, weight_norm=True))
        cast(Any, self.blocks[0]).input_shape = self.PICTURE  # allows an export before the first forward pass
