"""Number of operations of an inference, counted for the spikes of real recordings."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from ..netx import LayerSpec, Net
from ..pictures import palette
from ..spikes import Spikes
from ..table import Table
from ..tools import as_array


@dataclass
class LayerOperations:
    """Operations of one layer, as means per recording.

    Attributes
    ----------
    spikes_in, spikes_out : float
        Number of input and output spikes of the layer.
    synaptic : float
        Synaptic operations: the sum over all input spikes of the number of neurons that the spike reaches.
    synaptic_nonzero : float
        The same, without synapses of weight zero, which the chip does not need to store.
    dense : float
        Multiply-accumulates of the layer in dense computation: synapses x time steps.
    updates : float
        Neuron updates: neurons x time steps, in spiking and in dense computation.
    """

    name: str
    inputs: int
    neurons: int
    spikes_in: float = 0.0
    spikes_out: float = 0.0
    synaptic: float = 0.0
    synaptic_nonzero: float = 0.0
    dense: float = 0.0
    updates: float = 0.0


@dataclass
class Operations(Table):
    """Operations of a network, layer by layer, as a table that can be printed or shown in a notebook."""

    layers: list[LayerOperations]
    recordings: int
    steps: float
    title: str = field(init=False)

    def __post_init__(self) -> None:
        self.title = f"operations per inference, mean of {self.recordings} recordings of {self.steps:g} steps"

    @property
    def synaptic(self) -> float:
        """Synaptic operations of all layers."""
        return sum(layer.synaptic for layer in self.layers)

    @property
    def dense(self) -> float:
        """Dense multiply-accumulates of all layers."""
        return sum(layer.dense for layer in self.layers)

    def rows(self) -> list[dict[str, str]]:
        """Return one row per layer and a last row for the whole network."""
        total = LayerOperations("all", self.layers[0].inputs, sum(layer.neurons for layer in self.layers))
        total.spikes_in, total.spikes_out = self.layers[0].spikes_in, self.layers[-1].spikes_out
        for name in ("synaptic", "synaptic_nonzero", "dense", "updates"):
            setattr(total, name, sum(getattr(layer, name) for layer in self.layers))
        return [
            {
                "block": layer.name,
                "in": str(layer.inputs),
                "neurons": str(layer.neurons),
                "spikes in": f"{layer.spikes_in:,.0f}",
                "spikes out": f"{layer.spikes_out:,.0f}",
                "synaptic ops": f"{layer.synaptic:,.0f}",
                "non-zero": f"{layer.synaptic_nonzero:,.0f}",
                "dense MACs": f"{layer.dense:,.0f}",
                "ratio": f"{layer.dense / layer.synaptic:,.0f}x" if layer.synaptic else "-",
                "neuron updates": f"{layer.updates:,.0f}",
            }
            for layer in [*self.layers, total]
        ]


def count_operations(network, spikes) -> Operations:
    """Count the operations of each layer for given input spikes.

    Parameters
    ----------
    network : Net, or anything `netx.write_network` takes
        The network. Blocks are quantised for the count, without changing them.
    spikes : array, tensor or Spikes, or an iterable of such (or of tuples that begin with one)
        Input spikes of 0 and 1, [B, in, T] or [B, C, H, W, T]. A DataLoader is accepted too.

    Returns
    -------
    Operations
        Means per recording.

    Raises
    ------
    ValueError
        If there is no recording, or if the spikes do not fit the network.

    Examples
    --------
    >>> print(count_operations(netx.load("Trained/best/network.net"), spikes))
    """
    net = network if isinstance(network, Net) else Net(network)
    layers = [LayerOperations(str(i), spec.in_features, spec.out_features) for i, spec in enumerate(net, 1)]
    fan_out = [(_fan_out(spec, np.ones_like(spec.kernel)), _fan_out(spec, spec.kernel != 0)) for spec in net]
    recordings = total_steps = 0
    for batch in _batches(spikes):
        sent = [_spikes_per_channel(out) for out in net.all_layers(batch)]
        arriving = [_spikes_per_channel(batch), *sent[:-1]]
        count, steps = batch.shape[0], batch.shape[-1]
        recordings, total_steps = recordings + count, total_steps + count * steps
        for layer, (every, nonzero), spikes_in, spikes_out in zip(layers, fan_out, arriving, sent, strict=True):
            layer.spikes_in += spikes_in.sum()
            layer.spikes_out += spikes_out.sum()
            layer.synaptic += spikes_in @ every
            layer.synaptic_nonzero += spikes_in @ nonzero
            layer.dense += count * steps * every.sum()
            layer.updates += count * steps * layer.neurons
    if not recordings:
        raise ValueError("spikes: expected at least one recording, found none")
    for layer in layers:
        for name in ("spikes_in", "spikes_out", "synaptic", "synaptic_nonzero", "dense", "updates"):
            setattr(layer, name, float(getattr(layer, name) / recordings))
    return Operations(layers, recordings, total_steps / recordings)


def _batches(spikes) -> Iterable:
    if isinstance(spikes, Spikes | torch.Tensor | np.ndarray):
        return [spikes]
    return (item[0] if isinstance(item, tuple | list) else item for item in spikes)


def _spikes_per_channel(spikes) -> np.ndarray:
    """Return the number of spikes of each input or neuron, over all recordings and time steps."""
    if isinstance(spikes, Spikes):
        return np.bincount(spikes.channel.cpu().numpy(), minlength=spikes.shape[1])
    array = as_array(spikes)
    return np.count_nonzero(array.reshape(len(array), -1, array.shape[-1]), axis=(0, 2))


def _fan_out(spec: LayerSpec, kernel: np.ndarray) -> np.ndarray:
    """Return the number of synapses of each input, int64 [in]; `kernel` is 1 for each weight that counts, else 0."""
    groups = spec.kernel_groups
    of_channel = kernel.reshape(groups, -1, *kernel.shape[1:]).sum(axis=1).reshape(-1, *kernel.shape[2:])
    inside = []  # per axis, bool [kernel positions, pixels]: whether a window has this pixel at this kernel position
    for axis in (0, 1):
        at = np.arange(spec.in_shape[1 + axis]) + spec.padding[axis]
        at = at - spec.dilation[axis] * np.arange(kernel.shape[2 + axis])[:, None]
        window, remainder = np.divmod(at, spec.stride[axis])
        inside.append((remainder == 0) & (window >= 0) & (window < spec.out_shape[1 + axis]))
    return np.einsum("cij,iy,jx->cyx", of_channel, *(s.astype(np.int64) for s in inside)).ravel()


def plot_operations(operations: Operations, ax=None):
    """Plot synaptic operations and dense multiply-accumulates of each layer as bars on a logarithmic axis."""
    import matplotlib.pyplot as plt

    ax = plt.gca() if ax is None else ax
    place = np.arange(len(operations.layers))
    kinds = (("dense", "dense multiply-accumulates", palette.LIGHT), ("synaptic", "synaptic operations", palette.INK))
    for shift, (name, label, color) in zip((-0.2, 0.2), kinds, strict=True):
        heights = [getattr(layer, name) for layer in operations.layers]
        bars = ax.bar(place + shift, heights, 0.4, label=label, color=color)
        ax.bar_label(bars, [f"{bar.get_height():,.0f}" for bar in bars], fontsize=8)
    ax.set_yscale("log")
    ax.set_xticks(place, [f"block {layer.name}\n{layer.inputs} \u00d7 {layer.neurons}" for layer in operations.layers])
    ax.set_ylabel("operations per inference")
    ax.legend()
    return ax
