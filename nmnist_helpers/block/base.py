"""The block: synapse, neuron, dropout, one-step shift and learned delay, one after the other."""

import warnings
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from .. import prepare
from ..axon import Delay
from ..axon import delay as shift
from ..kernels.common import Axon, Membrane
from ..kernels.constants import MAX_DELAY, WEIGHT_SCALE
from ..kernels.functions import CubaLayer, LayerCall, lag_of, quantise_all, twin
from ..kernels.window import Window
from ..neuron import Dropout, cuba
from ..neuron.norm import MeanOnlyBatchNorm
from ..spikes import Spikes, attach
from ..synapse import Synapse
from ..tools import NoScript, exact, hooked
from .spec import LayerSpec

if TYPE_CHECKING:
    import h5py


class _Constants(NamedTuple):
    """What follows from a block's parameters: those that `CubaLayer` takes, and what the kernels need of them."""

    parameters: tuple
    membrane: Membrane
    lag: torch.Tensor
    weights: torch.Tensor | None  # where the block is frozen


class Block(NoScript, torch.nn.Module):
    """Synapse, neuron, dropout, one-step shift and learned delay, one after the other.

    Parameters
    ----------
    neuron_params : dict
        Arguments of `nmnist_helpers.neuron.cuba.Neuron`.
    synapses : Synapse
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

    frozen: dict[tuple, _Constants] | None = None  # constants by sizes, device and twin, within `Network.frozen`

    def __init__(
        self,
        neuron_params: dict,
        synapses: Synapse,
        channels: int | None,
        delay: bool,
        delay_shift: bool,
        count_log: bool,
    ):
        super().__init__()
        prepare.start()
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

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "frozen"}  # nobody would thaw a copy

    @exact
    def forward(self, spikes: torch.Tensor | Spikes):
        """Spikes in, spikes out: [B, C, T] or [B, C, H, W, T]."""
        self._look_at_weights()
        self.input_shape = tuple(spikes.shape[1:-1])
        return self._counted(self._axon(self.neuron(self.synapse(spikes))))

    @property
    def fused(self) -> bool:
        """Whether the whole block runs as one step, without calls of its parts."""
        neuron = self.neuron
        parts = self.synapse, neuron, neuron.drop, self.delay
        return (
            self.quantised
            and not neuron.persistent_state  # spikes on their way would have to enter
            and type(neuron) is cuba.Neuron
            and not any(map(hooked, parts))
            and neuron.norm is None
            and neuron.w_scale == WEIGHT_SCALE
            and (neuron.drop is None or isinstance(neuron.drop, Dropout))
        )

    def _step(
        self, spikes: torch.Tensor | Spikes, events: Spikes | None, channels: int, window: Window | None, dense: bool
    ):
        """The whole block as one step; `events` are the spikes as events, None where they have no common value."""
        self._look_at_weights()
        neuron, batch, device = self.neuron, spikes.shape[0], self.synapse.direction.device
        places = 1 if window is None else window.places
        now = self._constants(channels, places, spikes.shape[-1], device)
        kept, value = None, 1.0
        drop = cast(Dropout | None, neuron.drop)
        if drop is not None:
            kept, value = drop.draw(batch, channels * places, device), drop.value
        call = LayerCall(
            spikes=events,
            membrane=now.membrane,
            state=neuron.start(batch, channels * places),
            axon=Axon(now.lag, kept, value),
            need_grad=torch.is_grad_enabled(),  # inside the function it would always be off
            dense=dense or self.count_log,
            window=window,
            weights=now.weights,
        )
        given = spikes.source if isinstance(spikes, Spikes) else spikes
        rows, out, end = CubaLayer.apply(given, *now.parameters, call)
        neuron.store(end)
        out.picture = None if window is None else window.outputs
        rows = rows.movedim(1, -1)
        if call.dense:
            return self._counted(attach(rows, out))
        out.source = rows
        return out

    def _constants(self, channels: int, places: int, steps: int, device: torch.device) -> "_Constants":
        """What a step computes from the parameters alone; a frozen block computes it once."""
        lasting = None if torch.is_grad_enabled() else self.frozen
        key = channels, places, steps, device, twin(device)  # each twin has a form of its own for weights
        if lasting is not None and key in lasting:
            return lasting[key]
        synapses, neuron = self.synapse, self.neuron
        direction: torch.Tensor = synapses.direction
        length: torch.Tensor | None = synapses.weight_g if synapses.weight_norm_enabled else None
        if len(direction) != channels:  # pooling: one kernel for all channels
            direction = direction.expand(channels, *direction.shape[1:])
            length = None if length is None else length.expand(channels, *length.shape[1:])
        decays = neuron.decays()
        if self.delay is not None and not self.delay.sized:
            self.delay.draw(channels)
        delays = None if self.delay is None else self.delay.steps()
        membrane = neuron.membrane(decays, channels, places)  # a channel's neurons share its constants
        lag = lag_of(delays, self.delay_shift, channels, steps, device)
        lag = lag.repeat_interleave(places) if places > 1 else lag
        weights = None if lasting is None else quantise_all(direction, length).table
        found = _Constants((direction, length, *decays, delays), membrane, lag, weights)
        if lasting is not None:
            lasting[key] = found
        return found

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
            raise ValueError(f"{name}: expected the built-in 8-bit quantisation for an export, found another")
        if not self.delay_shift or type(neuron.norm) not in (type(None), MeanOnlyBatchNorm):
            found = "delay_shift=False" if not self.delay_shift else type(neuron.norm).__name__
            raise ValueError(f"{name}: expected a block that a .net file can describe, found {found}")
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

    def _geometry(self, in_shape: tuple[int, ...] | None) -> dict[str, Any]:
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
                f" {largest:.4g}: all round to zero, so that no spike passes and nothing can learn; choose a larger"
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
