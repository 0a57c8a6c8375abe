"""What an inference costs on spiking hardware: operations, memory, and time until the answer stands.

Counted on the integer network, from the spikes of real recordings. A spike that arrives at a layer costs one
synaptic operation (an addition) for each neuron that it reaches, so the work follows the spikes; a dense
network multiplies every weight at every step, spikes or not.
"""

import html
import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch

from .netx import LayerSpec, Net, as_specs
from .spikes import Spikes


class _Table:
    """A listing for the terminal and for a notebook: `rows` gives one dictionary of text for each line."""

    title = ""

    def rows(self) -> list[dict[str, str]]:
        raise NotImplementedError

    def __str__(self) -> str:
        rows = self.rows()
        lines = [list(rows[0])] + [list(row.values()) for row in rows]
        width = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = ["  ".join(cell.rjust(w) for cell, w in zip(line, width, strict=True)) for line in lines]
        return "\n".join([self.title, *text])

    def _repr_html_(self) -> str:
        rows = self.rows()
        head = "".join(f"<th>{html.escape(title)}</th>" for title in rows[0])
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row.values()) + "</tr>" for row in rows
        )
        return f"<table><caption>{html.escape(self.title)}</caption><tr>{head}</tr>{body}</table>"


# -- operations


@dataclass
class LayerOperations:
    """Work of one layer, mean per recording.

    Attributes
    ----------
    spikes_in, spikes_out : float
        Spikes that arrive at the layer within the recording, and that it sends on.
    synaptic : float
        Synaptic operations: arriving spikes times neurons reached.
    synaptic_nonzero : float
        The same without the synapses of weight zero, which the chip need not store.
    dense : float
        Multiply-accumulates of the same layer run densely: inputs x neurons x steps.
    updates : float
        Neuron updates: neurons x steps. Both ways have them.
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
class Operations(_Table):
    """Work of a network, layer by layer; `print` it, or leave it at the end of a notebook cell."""

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
        """The listing, the last line for the whole network."""
        total = LayerOperations("all", self.layers[0].inputs, sum(layer.neurons for layer in self.layers))
        total.spikes_in, total.spikes_out = self.layers[0].spikes_in, self.layers[-1].spikes_out
        for name in ("synaptic", "synaptic_nonzero", "dense", "updates"):
            setattr(total, name, sum(getattr(layer, name) for layer in self.layers))
        return [
            {
                "layer": layer.name,
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
    """Count the operations of each layer on real spikes.

    Parameters
    ----------
    network : Net, or anything `netx.write_network` takes
        The network; blocks are quantised for it and stay as they are.
    spikes : array or tensor [B, in, T] or Spikes, or an iterable of such (or of tuples that begin with one)
        Input spikes, 0 and 1; a DataLoader will do.

    Returns
    -------
    Operations
        Means per recording.

    Raises
    ------
    ValueError
        If there is no recording, or the spikes do not fit the network.

    Examples
    --------
    >>> print(count_operations(netx.load("Trained/network.net"), spikes))
    """
    net = network if isinstance(network, Net) else Net(network)
    layers = [LayerOperations(str(i), spec.in_features, spec.out_features) for i, spec in enumerate(net)]
    reached = [(spec.weight != 0).sum(axis=0) for spec in net]  # neurons that a spike of each input reaches
    recordings = total_steps = 0
    for batch in _batches(spikes):
        sent = [_per_channel(out) for out in net.all_layers(batch)]
        arriving = [_per_channel(batch), *sent[:-1]]
        count, _, steps = batch.shape
        recordings, total_steps = recordings + count, total_steps + count * steps
        for layer, spec, hits, come, go in zip(layers, net, reached, arriving, sent, strict=True):
            layer.spikes_in += come.sum()
            layer.spikes_out += go.sum()
            layer.synaptic += come.sum() * spec.out_features
            layer.synaptic_nonzero += come @ hits
            layer.dense += count * steps * spec.weight.size
            layer.updates += count * steps * spec.out_features
    if not recordings:
        raise ValueError("spikes: found no recording, expected at least one")
    for layer in layers:
        for name in ("spikes_in", "spikes_out", "synaptic", "synaptic_nonzero", "dense", "updates"):
            setattr(layer, name, float(getattr(layer, name) / recordings))
    return Operations(layers, recordings, total_steps / recordings)


def _batches(spikes) -> Iterable:
    if isinstance(spikes, Spikes | torch.Tensor | np.ndarray):
        return [spikes]
    return (item[0] if isinstance(item, tuple | list) else item for item in spikes)


def _per_channel(spikes) -> np.ndarray:
    """How many spikes each channel has, over all recordings and steps."""
    if isinstance(spikes, Spikes):
        return np.bincount(spikes.channel.cpu().numpy(), minlength=spikes.shape[1])
    array = spikes.detach().cpu().numpy() if isinstance(spikes, torch.Tensor) else np.asarray(spikes)
    return array.sum(axis=(0, 2), dtype=np.int64)


# -- memory


@dataclass
class LayerMemory:
    """Bytes that one layer's parameters take.

    Attributes
    ----------
    weights : int
        Weights at 8 bits each.
    nonzero : int
        Those that are not zero.
    float32 : int
        The same weights as they are trained.
    delays : int
        Delays at 6 bits, rounded up to bytes.
    decays : int
        Decays at 12 bits, shared ones once, rounded up to bytes.
    """

    name: str
    weights: int
    nonzero: int
    float32: int
    delays: int
    decays: int


@dataclass
class Memory(_Table):
    """Memory of a network's parameters, layer by layer."""

    layers: list[LayerMemory]
    title: str = "memory of the parameters, bytes"

    @property
    def weights(self) -> int:
        """Bytes of all weights at 8 bits."""
        return sum(layer.weights for layer in self.layers)

    @property
    def total(self) -> int:
        """Bytes of all parameters."""
        return sum(layer.weights + layer.delays + layer.decays for layer in self.layers)

    def rows(self) -> list[dict[str, str]]:
        """The listing, the last line for the whole network."""
        names = ("weights", "nonzero", "float32", "delays", "decays")
        total = LayerMemory("all", **{name: sum(getattr(layer, name) for layer in self.layers) for name in names})
        return [
            {
                "layer": layer.name,
                "weights, 8 bit": f"{layer.weights:,}",
                "of these not zero": f"{layer.nonzero:,}",
                "weights, float32": f"{layer.float32:,}",
                "delays, 6 bit": f"{layer.delays:,}",
                "decays, 12 bit": f"{layer.decays:,}",
            }
            for layer in [*self.layers, total]
        ]


def count_memory(network) -> Memory:
    """Memory that the parameters of `network` (as for `count_operations`) take on the chip."""
    return Memory([_layer_memory(str(i), spec) for i, spec in enumerate(as_specs(network))])


def _layer_memory(name: str, spec: LayerSpec) -> LayerMemory:
    decays = sum(np.size(decay) for decay in (spec.i_decay, spec.v_decay))
    return LayerMemory(
        name=name,
        weights=spec.weight.size,
        nonzero=int(np.count_nonzero(spec.weight)),
        float32=4 * spec.weight.size,
        delays=0 if spec.delay is None else math.ceil(6 * spec.delay.size / 8),
        decays=math.ceil(12 * decays / 8),
    )


# -- time


NO_ANSWER = -1


@dataclass
class Latency(_Table):
    """How the answer comes about over time.

    Attributes
    ----------
    accuracy : float array [T]
        Share of right answers after 1, 2, ... T steps; where no output has fired yet, there is no answer.
    answered : float array [T]
        Share of recordings with an answer.
    stable : int array [B]
        Steps until the answer no longer changes, `NO_ANSWER` where there is none to the end.
    title : str
    """

    accuracy: np.ndarray
    answered: np.ndarray
    stable: np.ndarray
    title: str = "the answer over time"

    @property
    def final(self) -> float:
        """Accuracy after all steps."""
        return float(self.accuracy[-1])

    def steps_within(self, margin: float = 0.01) -> int:
        """Steps after which the accuracy stays within `margin` (a share) of the final one."""
        off = np.flatnonzero(np.abs(self.accuracy - self.final) > margin)
        return int(off[-1]) + 2 if len(off) else 1

    def rows(self) -> list[dict[str, str]]:
        """The listing."""
        stable = self.stable[self.stable != NO_ANSWER]
        steps = [f"{np.percentile(stable, q):.0f}" if len(stable) else "-" for q in (50, 90, 100)]
        values = {
            "recordings": str(len(self.stable)),
            "accuracy after all steps": f"{100 * self.final:.1f} %",
            "without an answer": str(np.count_nonzero(self.stable == NO_ANSWER)),
            "steps until half of the answers stand": steps[0],
            "steps until 90 % of them stand": steps[1],
            "steps until all of them stand": steps[2],
            "steps until within 1 point of the final accuracy": str(self.steps_within(0.01)),
        }
        return [{"": name, f"of {len(self.accuracy)} steps": value} for name, value in values.items()]


def answers_over_time(spikes_out) -> np.ndarray:
    """The class with most spikes so far, at every step.

    Parameters
    ----------
    spikes_out : array or tensor [B, classes, T]
        Output spikes.

    Returns
    -------
    int array [B, T]
        The first of the classes that share the lead, as `classifier.Rate`; `NO_ANSWER` before any spike.
    """
    array = spikes_out.detach().cpu().numpy() if isinstance(spikes_out, torch.Tensor) else np.asarray(spikes_out)
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"spikes_out: found shape {list(array.shape)}, expected [B, classes, T]")
    counts = np.cumsum(array != 0, axis=2)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), NO_ANSWER)


def latency(spikes_out, labels) -> Latency:
    """Accuracy over time, and the steps until each answer stands.

    Parameters
    ----------
    spikes_out : array or tensor [B, classes, T]
        Output spikes.
    labels : array or tensor [B]
        True classes.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    answers = answers_over_time(spikes_out)
    labels = np.asarray(labels.cpu() if isinstance(labels, torch.Tensor) else labels)
    if labels.shape != answers.shape[:1]:
        raise ValueError(f"labels: found shape {list(labels.shape)}, expected [{len(answers)}], one a recording")
    changes = answers != answers[:, -1:]
    last_change = np.where(changes.any(axis=1), answers.shape[1] - changes[:, ::-1].argmax(axis=1), 0)
    stable = np.where(answers[:, -1] == NO_ANSWER, NO_ANSWER, last_change + 1)
    right = answers == labels[:, None]
    return Latency(right.mean(axis=0), (answers != NO_ANSWER).mean(axis=0), stable)


# -- pictures


def plot_operations(operations: Operations, ax=None):
    """Bars of synaptic operations beside dense multiply-accumulates, for each layer, on a logarithmic axis."""
    import matplotlib.pyplot as plt

    ax = plt.gca() if ax is None else ax
    place = np.arange(len(operations.layers))
    for shift, name, label in ((-0.2, "dense", "dense multiply-accumulates"), (0.2, "synaptic", "synaptic operations")):
        bars = ax.bar(place + shift, [getattr(layer, name) for layer in operations.layers], 0.4, label=label)
        ax.bar_label(bars, [f"{bar.get_height():,.0f}" for bar in bars], fontsize=8)
    ax.set_yscale("log")
    ax.set_xticks(place, [f"layer {layer.name}\n{layer.inputs} x {layer.neurons}" for layer in operations.layers])
    ax.set_ylabel("operations per inference")
    ax.legend()
    return ax


def plot_latency(timing: Latency, ax=None, step_ms: float = 1.0):
    """Accuracy and share of recordings with an answer, over time in ms."""
    import matplotlib.pyplot as plt

    ax = plt.gca() if ax is None else ax
    time = np.arange(1, len(timing.accuracy) + 1) * step_ms
    ax.plot(time, 100 * timing.answered, color="0.6", label="with an answer")
    ax.plot(time, 100 * timing.accuracy, label="right")
    stable = timing.steps_within(0.01) * step_ms
    ax.axvline(stable, ls=":", color="k", label=f"within 1 point from {stable:g} ms on")
    ax.set_xlabel("time (ms)")
    ax.set_ylabel("recordings (%)")
    ax.set_ylim(0, 102)
    ax.legend()
    return ax
