"""Blocks of CUBA neurons: the layers from which networks are built."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import synapse
from ..axon import Delay
from ..axon import delay as shift
from ..kernels.common import Axon
from ..kernels.constants import MAX_DELAY, WEIGHT_SCALE
from ..kernels.functions import CubaLayer, LayerCall, lag_of
from ..lava import absent
from ..neuron import Dropout, cuba
from ..neuron.norm import MeanOnlyBatchNorm
from ..spikes import Spikes, attach
from ..tools import NoScript, exact, hooked
from .spec import LayerSpec

if TYPE_CHECKING:
    import h5py


class Block(NoScript, torch.nn.Module):
    """Synapse, neuron, dropout, one-step shift and learned delay, one after the other.

    Parameters
    ----------
    neuron_params : dict
        Arguments of `nmnist_helpers.neuron.cuba.Neuron`.
    synapses : synapse.Synapse
        The weights; 8-bit quantisation becomes their hook unless they bring one of their own.
    channels : int, optional
        Number of output channels, for the neuron's and the delay's parameters; None where the input says it.
    delay : bool
        Learn a delay per channel, 0..62 steps.
    delay_shift : bool
        Shift the output by one step, as a spike on the chip arrives one step later.
    count_log : bool
        Return (spikes, share of bins that spiked) instead of the spikes alone.
    """

    def __init__(
        self,
        neuron_params: dict,
        synapses: synapse.Synapse,
        channels: int | None,
        delay: bool,
        delay_shift: bool,
        count_log: bool,
    ):
        super().__init__()
        params = dict(neuron_params)
        if channels is not None:
            params.setdefault("num_neurons", channels)
        self.neuron = cuba.Neuron(**params)
        self.delay = Delay(channels, max_delay=MAX_DELAY) if delay else None
        self.synapse = synapses  # after the delay: the order in which lava-dl lists the parameters
        self.quantised = synapses.pre_hook_fx is None
        self.input_shape: tuple[int, ...] | None = None  # (channels, height, width), known after a forward pass
        if self.synapse.pre_hook_fx is None:
            self.synapse.pre_hook_fx = self.neuron.quantize_8bit
        self.delay_shift = delay_shift
        self.count_log = count_log
        self.weights_seen = False

    @exact
    def forward(self, spikes: torch.Tensor | Spikes):
        """Spikes in, spikes out: [B, C, T] or [B, C, H, W, T]."""
        self._look_at_weights()
        self.input_shape = tuple(spikes.shape[1:-1])
        return self._counted(self._axon(self.neuron(self.synapse(spikes))))

    @property
    def shape(self) -> torch.Size | None:
        """Shape of the output without batch and time; None before the first input."""
        return self.neuron.shape

    @property
    def grad_norm(self) -> float:
        """As `nmnist_helpers.synapse.Synapse.grad_norm`."""
        return self.synapse.grad_norm

    def layer_spec(self, in_shape: tuple[int, int, int] | None = None) -> LayerSpec:
        """The block in hardware units: what `nmnist_helpers.netx` writes.

        Parameters
        ----------
        in_shape : (int, int, int), optional
            Channels, height and width of the input; those of the last forward pass if not given.

        Raises
        ------
        ValueError
            For a block that does what the file cannot say, or a convolution whose input is not known yet.
        """
        name, neuron = f"block.cuba.{type(self).__name__}", self.neuron
        if not self.quantised or neuron.w_scale != WEIGHT_SCALE:
            raise ValueError(f"{name}: only blocks with the built-in 8-bit quantisation can be exported")
        if not self.delay_shift or type(neuron.norm) not in (type(None), MeanOnlyBatchNorm):
            found = "delay_shift=False" if not self.delay_shift else type(neuron.norm).__name__
            raise ValueError(f"{name}: the file has no way to say {found}; such a block cannot be exported")
        fields = {"type": type(self).__name__.lower(), **self._geometry(in_shape or self.input_shape)}
        bias = None if neuron.norm is None else neuron.norm.bias.to(torch.int64).cpu().numpy()
        steps = None if self.delay is None else torch.floor(self.delay.delay.detach().clamp(0, MAX_DELAY))
        weight = (self.synapse.quantised_weight() * WEIGHT_SCALE).to(torch.int64).cpu().numpy()
        return LayerSpec(
            weight=weight.reshape(fields.pop("weight_shape", weight.shape[:-1])),
            delay=None if steps is None else steps.to(torch.int64).cpu().numpy(),
            i_decay=neuron.cx_current_decay,
            v_decay=neuron.cx_voltage_decay,
            v_th_mant=neuron.v_th_mant,
            bias=bias,
            **fields,
        )

    def _geometry(self, in_shape: tuple[int, ...] | None) -> dict:
        """What a picture's layer has beyond a dense one's."""
        if in_shape is None:
            raise ValueError(f"block.cuba.{type(self).__name__}: expected a forward pass before, found no input yet")
        synapses = self.synapse
        pairs = {name: getattr(synapses, name)[:2] for name in ("stride", "padding", "dilation")}
        return {"in_shape": in_shape, "groups": getattr(synapses, "groups", 1), **pairs}

    def export_hdf5(self, handle: "h5py.Group") -> None:
        """Write the block into an open HDF5 group, as lava's netx reads it; the block stays as it is."""
        from .hdf5 import write_layer  # h5py is needed for this alone

        write_layer(handle, self.layer_spec())

    def _look_at_weights(self) -> None:
        """Warn, once in training, where all weights round to zero."""
        if not self.training or self.weights_seen:
            return
        self.weights_seen = True
        if self.quantised and not self.synapse.quantised_weight().any():
            largest = self.synapse.weight.detach().abs().max().item()
            warnings.warn(
                f"block.cuba.{type(self).__name__}: expected weights above {1 / WEIGHT_SCALE}, found none larger than"
                f" {largest:.2g}: all round to zero, so that no spike passes and nothing can learn; choose a larger"
                " weight_scale",
                stacklevel=4,
            )

    def _axon(self, spikes: torch.Tensor) -> torch.Tensor:
        """Shift and delay; with persistent state, spikes that were on their way when the last call ended arrive."""
        longest = int(self.delay_shift) + (0 if self.delay is None else MAX_DELAY)
        if not self.neuron.persistent_state or not longest:
            return self._moved(spikes)
        before = self.neuron.on_the_way
        if before is None or before.shape[:-1] != spikes.shape[:-1]:
            before = spikes.new_zeros(*spikes.shape[:-1], longest)
        spikes = torch.cat([before, spikes], -1)
        self.neuron.on_the_way = spikes[..., -longest:].detach()
        return self._moved(spikes)[..., longest:]

    def _moved(self, spikes: torch.Tensor) -> torch.Tensor:
        if self.delay_shift:
            spikes = shift(spikes, 1)
        return spikes if self.delay is None else self.delay(spikes)

    def _counted(self, spikes: torch.Tensor):
        if not self.count_log:
            return spikes
        return spikes, (spikes.detach() > 0).float().mean()


class Dense(Block):
    """Fully connected CUBA block.

    Parameters
    ----------
    neuron_params : dict
        Arguments of `nmnist_helpers.neuron.cuba.Neuron`.
    in_neurons : int or tuple of int
        Number of inputs; (width, height, channels) for inputs [B, C, H, W, T].
    out_neurons : int
        Number of neurons.
    weight_scale : float
        Factor on the initial weights.
    weight_norm : bool
        Learn length and direction of each neuron's weights apart.
    pre_hook_fx : callable, optional
        Replaces the 8-bit quantisation of the weights.
    delay : bool
        Learn a delay per neuron, 0..62 steps.
    delay_shift : bool
        Shift the output by one step.
    mask : bool tensor [out, in], optional
        False removes a synapse.
    count_log : bool
        Also return the share of bins that spiked.

    Examples
    --------
    >>> block = Dense({'threshold': 1.25, 'current_decay': 0.25, 'voltage_decay': 0.03}, 20, 10)
    >>> block(torch.ones(1, 20, 30)).shape
    torch.Size([1, 10, 30])

    Notes
    -----
    With the built-in quantisation and no norm, product, neuron and axon run as one fused step
    (`nmnist_helpers.kernels.functions.CubaLayer`); otherwise one after the other. Both give the same.
    """

    def __init__(
        self,
        neuron_params: dict,
        in_neurons: int | tuple[int, ...],
        out_neurons: int,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable | None = None,
        delay: bool = False,
        delay_shift: bool = True,
        mask: torch.Tensor | None = None,
        count_log: bool = False,
    ):
        weights = synapse.Dense(in_neurons, out_neurons, weight_scale, weight_norm, pre_hook_fx)
        super().__init__(neuron_params, weights, out_neurons, delay, delay_shift, count_log)
        self.neuron.shape = torch.Size([out_neurons])
        if mask is not None:
            if mask.numel() != self.synapse.direction.numel():
                raise ValueError(
                    f"block.cuba.Dense: expected a mask of {list(self.synapse.shape[:2])}, found {list(mask.shape)}"
                )
            mask = mask.reshape(self.synapse.shape).to(self.synapse.direction.dtype)
        self.register_buffer("mask", mask)
        if mask is not None:
            self.unmasked_hook = self.synapse.pre_hook_fx
            self.synapse.pre_hook_fx = self._masked  # a method, so that a copy of the block uses its own mask

    def _masked(self, weight: torch.Tensor, **options) -> torch.Tensor:
        """The weights' hook of a block with a mask."""
        return self.unmasked_hook(weight * self.mask, **options)

    @property
    def fused(self) -> bool:
        """Whether the whole block runs as one step, without a look at its parts."""
        neuron = self.neuron
        parts = self.synapse, neuron, neuron.drop, self.delay
        return (
            self.quantised
            and not neuron.persistent_state  # spikes on their way would have to enter
            and type(self.synapse) is synapse.Dense
            and type(neuron) is cuba.Neuron
            and not any(map(hooked, parts))
            and self.mask is None
            and neuron.norm is None
            and neuron.w_scale == WEIGHT_SCALE
            and (neuron.drop is None or isinstance(neuron.drop, Dropout))
        )

    @exact
    def forward(self, spikes: torch.Tensor | Spikes, dense: bool = True):
        """Spikes [B, in, T] (dense or `Spikes`) to spikes [B, out, T].

        With `dense` False the output may come as `Spikes`: the next block needs no more, and the numbers, nearly all
        of them zero, are never written. Gradients flow through them as through a tensor.
        """
        self.synapse.check(spikes.shape)
        if not self.fused or len(spikes.shape) == 5:
            return super().forward(spikes)
        self._look_at_weights()
        synapses, neuron = self.synapse, self.neuron
        direction = synapses.direction
        listed = isinstance(spikes, Spikes)
        given = spikes.source if listed else spikes.float()
        events = spikes if listed else Spikes.from_dense(given)
        (batch, _, steps), channels, device = spikes.shape, synapses.out_channels, direction.device
        decays = neuron.decays()
        delays = None if self.delay is None else self.delay.steps()
        kept, value = None, 1.0
        if neuron.drop is not None:
            kept, value = neuron.drop.draw(batch, channels, device), neuron.drop.value
        call = LayerCall(
            spikes=events,
            membrane=neuron.membrane(decays, channels),
            state=neuron.start(batch, channels),
            axon=Axon(lag_of(delays, self.delay_shift, channels, steps, device), kept, value),
            need_grad=torch.is_grad_enabled(),  # inside the function it would always be off
            dense=dense or self.count_log,
        )
        length = synapses.weight_g if synapses.weight_norm_enabled else None
        rows, out, end = CubaLayer.apply(given, direction, length, *decays, delays, call)
        neuron.store(end)
        if call.dense:
            return self._counted(attach(rows.transpose(1, 2), out))
        out.source = rows.transpose(1, 2)
        return out

    def _geometry(self, in_shape: tuple[int, ...] | None) -> dict:
        return {"weight_shape": (self.synapse.out_channels, -1)}


class Conv(Block):
    """Convolutional CUBA block; input [B, C, H, W, T].

    Parameters
    ----------
    neuron_params : dict
        Arguments of `nmnist_helpers.neuron.cuba.Neuron`.
    in_features, out_features, kernel_size, stride, padding, dilation, groups
        As in `nmnist_helpers.synapse.Conv`.
    weight_scale, weight_norm, pre_hook_fx, delay, delay_shift, count_log
        As in `Dense`; delays are per channel.
    """

    def __init__(
        self,
        neuron_params: dict,
        in_features: int,
        out_features: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable | None = None,
        delay: bool = False,
        delay_shift: bool = True,
        count_log: bool = False,
    ):
        weights = synapse.Conv(
            in_features, out_features, kernel_size, stride, padding, dilation, groups,
            weight_scale, weight_norm, pre_hook_fx,
        )  # fmt: skip
        super().__init__(neuron_params, weights, out_features, delay, delay_shift, count_log)


class Pool(Block):
    """Pooling CUBA block: sums over windows, then neurons; input [B, C, H, W, T].

    Parameters
    ----------
    neuron_params : dict
        Arguments of `nmnist_helpers.neuron.cuba.Neuron`; `norm` is left out.
    kernel_size, stride, padding, dilation
        As in `nmnist_helpers.synapse.Pool`.
    weight_scale, weight_norm, pre_hook_fx, delay, delay_shift, count_log
        As in `Dense`; delays are per channel.
    """

    def __init__(
        self,
        neuron_params: dict,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        weight_scale: float = 1,
        weight_norm: bool = False,
        pre_hook_fx: Callable | None = None,
        delay: bool = False,
        delay_shift: bool = True,
        count_log: bool = False,
    ):
        weights = synapse.Pool(kernel_size, stride, padding, dilation, weight_scale, weight_norm, pre_hook_fx)
        params = {**neuron_params, "norm": None}
        super().__init__(params, weights, None, delay, delay_shift, count_log)


class Flatten(torch.nn.Module):
    """[B, C, H, W, T] to [B, C * H * W, T].

    Parameters
    ----------
    count_log : bool
        Return (spikes, None), to stand among blocks that count.
    """

    def __init__(self, count_log: bool = False):
        super().__init__()
        self.count_log = count_log
        self.shape: list[int] | None = None  # known after a forward pass

    def forward(self, spikes: torch.Tensor):
        """Flatten all axes but batch and time."""
        self.shape = [math.prod(spikes.shape[1:-1]), 1, 1]
        flat = spikes.reshape(spikes.shape[0], -1, spikes.shape[-1])
        return (flat, None) if self.count_log else flat

    def layer_spec(self, in_shape: tuple[int, ...] | None = None) -> None:
        """None: the block has no neurons, and the layers before and after it know their shapes."""

    def export_hdf5(self, handle: "h5py.Group") -> None:
        """Write the block into an open HDF5 group, as lava's netx reads it."""
        from .hdf5 import write_shape  # h5py is needed for this alone

        if self.shape is None:
            raise ValueError("block.cuba.Flatten: expected a forward pass before, found no input yet")
        write_shape(handle, "flatten", tuple(self.shape))


def from_specs(layers: Iterable[LayerSpec], neuron_params: dict) -> Iterator[torch.nn.Module]:
    """Blocks that quantise to exactly the integers of `layers`; `neuron_params` say what the layers do not.

    Raises
    ------
    ValueError
        For a layer that no block can be: an input layer, pooling with decays or delays of its own for each channel,
        a bias that is no quantised mean.
    """
    before = None
    for index, layer in enumerate(layers):
        if before is not None and before.type != "dense" and layer.type == "dense":
            yield Flatten()
        try:
            yield _from_spec(layer, neuron_params)
        except (TypeError, ValueError) as error:
            raise ValueError(f"layer {index}: {error}") from error
        before = layer


@torch.no_grad()
def _from_spec(layer: LayerSpec, neuron_params: dict) -> Block:
    params = {
        **neuron_params,
        "threshold": layer.v_th_mant / WEIGHT_SCALE,
        "current_decay": 0.0,  # both follow below, in whole steps
        "voltage_decay": 0.0,
        "shared_param": np.ndim(layer.i_decay) == 0 and np.ndim(layer.v_decay) == 0,
    }
    if layer.bias is not None:
        params["norm"] = MeanOnlyBatchNorm
    pairs = {name: getattr(layer, name) for name in ("stride", "padding", "dilation")}
    delay = {} if layer.delay is None else {"delay": True}
    if layer.type == "dense":
        block = Dense(params, layer.in_features, layer.out_features, **delay)
    elif layer.type == "conv":
        size = layer.weight.shape[2:]
        block = Conv(params, layer.in_shape[0], layer.channels, size, groups=layer.groups, **pairs, **delay)
    elif layer.type == "pool" and layer.bias is None:
        block = Pool(params, layer.weight.shape[2:], **pairs, **delay)
    else:
        raise ValueError(f"type: expected a layer for which there is a block, found {layer.type!r}")
    synapses, neuron = block.synapse, block.neuron
    synapses.weight.copy_(torch.from_numpy(layer.weight / WEIGHT_SCALE).reshape(synapses.weight.shape))
    for parameter, decay in ((neuron.current_decay, layer.i_decay), (neuron.voltage_decay, layer.v_decay)):
        parameter.copy_(torch.as_tensor(np.asarray(decay), dtype=torch.float32).expand(parameter.shape))
    if layer.delay is not None:
        # Half a step on top, away from the edges of floor(): the first small update moves no spike by itself.
        block.delay.delay.copy_(torch.from_numpy(layer.delay) + 0.5)
    if layer.bias is not None:
        neuron.norm.running_mean.copy_(torch.from_numpy(-layer.bias / WEIGHT_SCALE))
        if not np.array_equal(neuron.norm.bias.cpu().numpy(), layer.bias):
            raise ValueError("bias: expected even integers in -254..256, found values that no normalisation has")
    return block


__getattr__ = absent(__name__)
