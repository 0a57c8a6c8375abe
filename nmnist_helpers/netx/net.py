"""A `.net` file in memory, which can be listed, run and converted to trainable blocks."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ..block.spec import LayerSpec, as_specs
from ..network import Network
from ..spikes import Spikes
from ..table import Table
from ..tools import as_array
from .reader import read_network
from .simulator import Events, events_of, run_fast, run_input, run_reference

ENGINES = {"fast": run_fast, "reference": run_reference}
BATCH = 32  # number of recordings that run at a time
MAX_BYTES = 1 << 27  # limit on the dense output of a layer; fewer recordings run at a time if it is large

_OTHER_BINS = "a bin of another length than 1 ms holds 1 / sampling_time: train and run the network"


def load(path: str | os.PathLike, in_shape: tuple[int, int, int] | None = None) -> "Net":
    """Read and validate a `.net` file.

    Parameters
    ----------
    path : path-like
        A file written by `export_hdf5`, by `write_network` or by lava-dl.
    in_shape : (int, int, int), optional
        Channels, height and width of the input. Required if the file begins with a convolution and lacks this shape.

    Returns
    -------
    Net

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    NetFileError
        If the file is not a valid network, or if its input has another shape than `in_shape`. The message states the
        file, the layer and the field.
    ValueError
        If `in_shape` is not three whole numbers from 1.

    Examples
    --------
    >>> net = netx.load("Trained/best/network.net")
    >>> print(net)
    >>> spikes_out = net(spikes_in)  # [B, 2312, T] -> [B, 10, T], in integer arithmetic
    """
    return Net(read_network(path, in_shape), Path(path))


class Net(Table):
    """A network of integer layers.

    Parameters
    ----------
    layers : iterable of LayerSpec, or anything `write_network` takes
        From input to output.
    path : path-like, optional
        The file that the network was read from, for the listing.

    Attributes
    ----------
    layers : list of LayerSpec
        The layers from input to output.
    in_features, out_features : int
        Number of inputs and of output neurons.
    """

    def __init__(self, layers, path: str | os.PathLike | None = None) -> None:
        self.layers = as_specs(layers)
        self.path = path

    @property
    def in_features(self) -> int:
        """Number of inputs."""
        return self.layers[0].in_features

    @property
    def out_features(self) -> int:
        """Number of output neurons."""
        return self.layers[-1].out_features

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[LayerSpec]:
        return iter(self.layers)

    def __getitem__(self, index: int) -> LayerSpec:
        return self.layers[index]

    # -- run

    def __call__(self, spikes, engine: str = "fast"):
        """Return the output spikes of the last layer, computed in integer arithmetic.

        Parameters
        ----------
        spikes : array or tensor [B, in, T] or [B, C, H, W, T] of 0 and 1, or Spikes
            Input spikes over T time steps. For a network that begins with an input layer, any finite numbers.
        engine : {'fast', 'reference'}
            Compiled loops or plain NumPy. The results are identical.

        Returns
        -------
        array or tensor [B, out, T] of 0 and 1, or [B, C, H, W, T] if the last layer's output is a picture
            For an array, a uint8 array. For a tensor, a tensor of the same type on the same device. For `Spikes`, a
            float32 tensor.

        Raises
        ------
        ValueError
            If the input has the wrong shape or contains values other than 0 and 1.
        """
        return self._run(spikes, engine, last_only=True)[0]

    def all_layers(self, spikes, engine: str = "fast") -> list:
        """Return the output spikes of every layer, shifted and delayed; parameters as for calling the network."""
        return self._run(spikes, engine, last_only=False)

    def _run(self, spikes, engine: str, last_only: bool) -> list:
        if engine not in ENGINES:
            raise ValueError(f"engine: expected one of {sorted(ENGINES)}, found {engine!r}")
        parts, steps, restore_type = self._split_input(spikes)
        layers, results = self.layers, []
        for part in parts:
            sent = []
            if layers[0].type == "input":
                sent = [run_input(layers[0], part)]
                part = events_of(sent[0])
            sent += ENGINES[engine](layers[len(sent) :], part)
            results.append(sent[-1:] if last_only else sent)
        outputs = [np.concatenate(layer) for layer in zip(*results, strict=True)]
        shapes = [_output_shape(layer) for layer in (layers[-1:] if last_only else layers)]
        return [restore_type(out.reshape(len(out), *shape, steps)) for out, shape in zip(outputs, shapes, strict=True)]

    def _split_input(self, spikes):
        """Return the input in parts, its number of time steps, and a function that restores the caller's type."""
        is_spikes, is_tensor = isinstance(spikes, Spikes), isinstance(spikes, torch.Tensor)
        array = spikes if is_spikes else as_array(spikes)
        shape, first = tuple(array.shape), self.layers[0]
        if shape[1:-1] not in ((self.in_features,), first.in_shape) or 0 in shape:
            wanted = f"[B, {self.in_features}, T]"
            if first.type != "dense":
                wanted += f" or [B, {', '.join(map(str, first.in_shape))}, T]"
            raise ValueError(f"spikes: expected {wanted}, found shape {list(shape)}")
        steps = shape[-1]
        # the dense outputs of a layer and the drives of an input layer are stored for a whole part
        batch = max(1, min(BATCH, MAX_BYTES // (steps * max(layer.out_features for layer in self.layers))))
        starts = range(0, shape[0], batch)
        if is_spikes:
            if spikes.value != 1:
                raise ValueError(
                    f"spikes: expected spikes of value 1, found {spikes.value}: the chip has no others;"
                    f" {_OTHER_BINS} with an EventLoader of value=1, or with spikes.value = 1.0"
                )
            if first.type == "input":
                raise ValueError("spikes: expected an array or tensor for an input layer, found Spikes")
            spikes.verify()
            indptr, channel = spikes.indptr.cpu().numpy(), spikes.channel.cpu().numpy()
            parts = (_slice(indptr, channel, shape, b, batch) for b in starts)
            return parts, steps, lambda out: torch.from_numpy(out).float().to(spikes.channel.device)
        array = array.reshape(shape[0], -1, steps)
        numeric = array.dtype.kind in "biuf"
        if first.type == "input":
            if not numeric or not np.isfinite(array).all():
                raise ValueError(f"spikes: expected finite numbers, found {array.dtype} values")
            parts = (array[b : b + batch] for b in starts)
        else:
            if not numeric or not (array[array != 0] == 1).all():  # NaN is rejected too
                raise ValueError(
                    f"spikes: expected 0 and 1 only, found {array.dtype} values other than 0 and 1;"
                    f" {_OTHER_BINS} on (spikes > 0).float()"
                )
            parts = (events_of(array[b : b + batch]) for b in starts)
        if is_tensor:
            return parts, steps, lambda out: torch.from_numpy(out).to(spikes.device, spikes.dtype)
        return parts, steps, lambda out: out

    # -- list

    @property
    def title(self) -> str:  # type: ignore[override]  # a property, because the path may change
        """First line of the listing."""
        weights = sum(layer.weight.size for layer in self.layers)
        name = "network" if self.path is None else Path(self.path).name
        return f"{name}: {len(self)} layers, {weights:,} weights of 8 bits"

    def rows(self) -> list[dict[str, str]]:
        """Return the listing, one row per layer; block 1 is ``layer/0`` of the file."""
        has_bias = any(layer.bias is not None for layer in self.layers)
        return [
            {
                "block": str(index),
                "type": layer.type,
                "in": "x".join(map(str, layer.in_shape[:1] if layer.type == "dense" else layer.in_shape)),
                "out": "x".join(map(str, _output_shape(layer))),
                "weights": f"{layer.weight.min()}..{layer.weight.max()}",
                "zero": f"{100 * np.mean(layer.weight == 0):.1f} %",
                "delay": _span(layer.delay),
                "iDecay": _span(layer.i_decay),
                "vDecay": _span(layer.v_decay),
                "vThMant": str(layer.v_th_mant),
                **({"bias": _span(layer.bias)} if has_bias else {}),
            }
            for index, layer in enumerate(self.layers, 1)
        ]

    def __repr__(self) -> str:
        return f"<Net {' -> '.join(str(n) for n in [self.in_features, *(s.out_features for s in self.layers)])}>"

    # -- train further

    def to_blocks(self, **neuron_params) -> Network:
        """Return the network as trainable blocks; see `Network.from_layers`.

        Raises
        ------
        ValueError
            If an argument is one that the layers decide (such as ``threshold``), or if a layer has no block.
        """
        return Network.from_layers(self.layers, **neuron_params)


def _output_shape(layer: LayerSpec) -> tuple[int, ...]:
    """Return the shape of the layer's output without batch and time: [neurons] or [C, H, W]."""
    flat = layer.type == "dense" or (layer.type == "input" and layer.out_shape[1:] == (1, 1))
    return layer.out_shape[:1] if flat else layer.out_shape


def _slice(indptr: np.ndarray, channel: np.ndarray, shape: tuple[int, int, int], start: int, count: int) -> Events:
    """Return the recordings ``start : start + count`` of a batch of shape (B, C, T) as `Events`."""
    batch, channels, steps = shape
    stop = min(start + count, batch)
    rows = indptr[start * steps : stop * steps + 1]
    return Events(rows - rows[0], channel[rows[0] : rows[-1]], (stop - start, channels, steps))


def _span(value) -> str:
    if value is None:
        return "-"
    low, high = np.min(value), np.max(value)
    return str(low) if low == high else f"{low}..{high}"
