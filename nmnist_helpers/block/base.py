"""The base class of all blocks: synapse, neuron, dropout, one-step shift and learned delay, in this order."""

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from ..axon import Delay
from ..axon import delay as shift
from ..jit import prepare
from ..jit.compiled import check_process
from ..kernels.backend import twin
from ..kernels.common import Axon, Membrane
from ..kernels.constants import MAX_DELAY, WEIGHT_SCALE
from ..kernels.functions import CubaLayer, LayerCall, quantise_all
from ..kernels.integers import lag_of
from ..kernels.window import Window
from ..lava import absent
from ..neuron import Dropout, cuba
from ..spikes import Spikes, attach
from ..synapse import Synapse
from ..tools import NoScript, exact, hooked, overridden
from .export import spec_of
from .learning import warn_if_gradients_end, warn_if_weights_vanish
from .spec import LayerSpec

if TYPE_CHECKING:
    import h5py


#: Parts that can be replaced, with what the message about a wrong one names, and what a block needs of each.
_PARTS = {
    "synapse": ("synapse.Synapse", ("check", "direction", "pre_hook_fx")),
    "neuron": ("neuron.cuba.Neuron", ("quantize_8bit",)),
}
EIGHT_BIT = "8 bit"  # the default of `pre_hook_fx` stands for the neuron's own `quantize_8bit`


class _Constants(NamedTuple):
    """Values that depend on a block's parameters alone, not on its input."""

    parameters: tuple  # tensor arguments of `CubaLayer`, from the weights to the delays
    membrane: Membrane
    weights: torch.Tensor | None  # quantised weights; only in a frozen block
    lags: dict[int, torch.Tensor]  # for recordings of so many steps: shift plus whole delay in steps, int32 [neurons]


class Block(NoScript, torch.nn.Module):
    """A synapse, a neuron, dropout, a one-step shift and a learned delay, applied in this order.

    Parameters
    ----------
    neuron_params : dict
        Arguments of `nmnist_helpers.neuron.cuba.Neuron`.
    synapses : Synapse
        The weights.
    pre_hook_fx : callable, EIGHT_BIT or None
        The hook of the weights: a function, the neuron's 8-bit quantisation, or none.
    channels : int, optional
        Number of output channels, which sizes the parameters of neuron and delay; None if the first input decides it.
    delay : bool
        Learn one delay per channel, 0..62 time steps.
    delay_shift : bool
        Shift the output by one time step, because a spike on the chip arrives one step after it is fired.
    count_log : bool
        Return (spikes, share of bins that hold a spike) instead of the spikes alone.
    """

    weights_seen = ends_seen = False  # see `learning`

    def __init__(
        self,
        neuron_params: dict,
        synapses: Synapse,
        pre_hook_fx: Callable | str | None,
        channels: int | None,
        delay: bool,
        delay_shift: bool,
        count_log: bool,
    ):
        super().__init__()
        check_process()
        prepare.start()
        params = dict(neuron_params)
        if channels is not None:
            params.setdefault("num_neurons", channels)
        self.neuron = cuba.Neuron(**params)
        self.delay = Delay(channels, max_delay=MAX_DELAY) if delay else None
        self.synapse = synapses  # set after the delay, so that parameters come in lava-dl's order
        self.input_shape: tuple[int, ...] | None = None  # (channels, height, width), known after a forward pass
        if pre_hook_fx == EIGHT_BIT:
            pre_hook_fx = self.neuron.quantize_8bit
        if isinstance(pre_hook_fx, str):
            raise ValueError(f"pre_hook_fx: expected a function, None or {EIGHT_BIT!r}, found {pre_hook_fx!r}")
        self.synapse.pre_hook_fx = pre_hook_fx
        self._freezers: weakref.WeakSet = weakref.WeakSet()  # see `freeze`
        self._frozen: dict[tuple, _Constants] = {}  # constants, kept while `_freezers` is not empty
        self.delay_shift = delay_shift
        self.count_log = count_log

    def __setattr__(self, name: str, value) -> None:
        if name not in _PARTS or name not in self.__dict__.get("_modules", {}):  # not a part, or the first one
            super().__setattr__(name, value)
            return
        wanted, needed = _PARTS[name]
        if not all(hasattr(value, attribute) for attribute in needed):
            raise TypeError(f"{type(self).__name__}: expected a {wanted}, found {type(value).__name__}")
        quantised = self.quantised
        super().__setattr__(name, value)
        if quantised and (name == "neuron" or value.pre_hook_fx is None):
            self.synapse.pre_hook_fx = self.neuron.quantize_8bit  # the 8 bits are the block's choice

    def __getstate__(self) -> dict:
        # A copy is not frozen: leaving `Network.frozen` clears only the original's constants.
        return {name: value for name, value in self.__dict__.items() if name not in ("_freezers", "_frozen")}

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        self._freezers, self._frozen = weakref.WeakSet(), {}

    @exact
    def forward(self, spikes: torch.Tensor | Spikes):
        """Return the output spikes for input spikes; both are [B, C, T] or [B, C, H, W, T]."""
        check_process()
        warn_if_weights_vanish(self)
        self.input_shape = tuple(spikes.shape[1:-1])
        return self._add_rate(self._apply_axon(self.neuron(self.synapse(spikes))))

    @property
    def quantised(self) -> bool:
        """Whether the hook of the weights is the neuron's own 8-bit quantisation."""
        return self.synapse.pre_hook_fx == self.neuron.quantize_8bit

    @property
    def fused(self) -> bool:
        """Whether the whole block runs as one fused step that calls none of its parts."""
        neuron = self.neuron
        parts = self.synapse, neuron, neuron.drop, self.delay
        return (
            self.quantised
            and not neuron.persistent_state  # the fused step cannot take delayed spikes from the last call
            and type(neuron) is cuba.Neuron
            and not any(map(hooked, parts))
            and neuron.norm is None
            and neuron.w_scale == WEIGHT_SCALE
            and type(neuron.drop) in (type(None), Dropout)
            and self.plain_delay
        )

    @property
    def plain_delay(self) -> bool:
        """Whether there is no delay, or one of the package's own."""
        return self.delay is None or not overridden(self.delay, Delay, "forward")

    def _run_fused(
        self, spikes: torch.Tensor | Spikes, events: Spikes | None, channels: int, window: Window | None, dense: bool
    ):
        """Run the block as one fused step; `events` lists the same spikes, or is None if their values differ."""
        check_process()  # before torch's own threads are used, which the process may lack too
        warn_if_weights_vanish(self)
        neuron, batch, device = self.neuron, spikes.shape[0], self.synapse.direction.device
        places = 1 if window is None else window.places
        constants = self._constants(channels, places, spikes.shape[-1], device)
        kept, value = None, 1.0
        drop = cast(Dropout | None, neuron.drop)
        if drop is not None:
            kept, value = drop.draw(batch, channels * places, device), drop.value
        call = LayerCall(
            spikes=events,
            membrane=constants.membrane,
            state=neuron.start(batch, channels * places),
            axon=Axon(constants.lags[spikes.shape[-1]], kept, value),
            need_grad=torch.is_grad_enabled(),  # inside an autograd function gradients always appear disabled
            dense=dense or self.count_log,
            window=window,
            weights=constants.weights,
        )
        source = spikes.source if isinstance(spikes, Spikes) else spikes
        rows, out, end = CubaLayer.apply(source, *constants.parameters, call)
        neuron.store(end)
        out.picture = None if window is None else window.outputs
        if window is not None and call.dense:
            rows = rows.unflatten(2, window.outputs)
        rows = rows.movedim(1, -1)
        if call.dense:
            return self._add_rate(attach(rows, out))
        out.source = rows
        return out

    def _constants(self, channels: int, places: int, steps: int, device: torch.device) -> "_Constants":
        """Compute what depends on the parameters alone; a frozen block does this only once."""
        cache = self._frozen if self._freezers and not torch.is_grad_enabled() else None
        synapses, neuron = self.synapse, self.neuron
        constants_of_neuron = neuron.v_th_mant, neuron.surrogate, self.delay_shift
        # Each back end lays its weights out in its own way.
        key = channels, places, device, twin(device), *constants_of_neuron
        constants = None if cache is None else cache.get(key)
        if constants is None:
            direction: torch.Tensor = synapses.direction
            length: torch.Tensor | None = synapses.weight_g if synapses.weight_norm_enabled else None
            if len(direction) != channels:  # pooling has one kernel for all channels
                direction = direction.expand(channels, *direction.shape[1:])
                length = None if length is None else length.expand(channels, *length.shape[1:])
            decays = neuron.decays()
            if self.delay is not None and not self.delay.sized:
                self.delay.draw(channels)
            delays = None if self.delay is None else self.delay.steps()
            membrane = neuron.membrane(decays, channels, places)  # all neurons of a channel share its constants
            weights = None if cache is None else quantise_all(direction, length).table
            constants = _Constants((direction, length, *decays, delays), membrane, weights, {})
            if cache is not None:
                cache[key] = constants
        if steps not in constants.lags:
            lag = lag_of(constants.parameters[-1], self.delay_shift, channels, steps, device)
            constants.lags[steps] = lag.repeat_interleave(places) if places > 1 else lag
        return constants

    def freeze(self, holder: object) -> None:
        """Compute constants only once from now on, without gradients, until `thaw` is called with the same object.

        Several may freeze a block. It refers to them weakly: one that is gone without `thaw` is forgotten.
        """
        if not self._freezers:
            self._frozen = {}
        self._freezers.add(holder)

    def thaw(self, holder: object) -> None:
        """Undo `freeze`."""
        self._freezers.discard(holder)
        if not self._freezers:
            self._frozen = {}  # their memory

    @property
    def delay_buffer(self) -> torch.Tensor | None:
        """With persistent state, the spikes that are not delivered yet (lava-dl's name). None discards them."""
        return self.neuron.on_the_way

    @delay_buffer.setter
    def delay_buffer(self, value: None) -> None:
        if value is not None:
            raise ValueError(f"delay_buffer: expected None, found a {type(value).__name__}")
        self.neuron.on_the_way = None

    @property
    def shape(self) -> torch.Size | None:
        """Shape of the output without batch and time; for a picture, None before the first forward pass."""
        return self.neuron.shape

    @property
    def grad_norm(self) -> float:
        """Norm of the weights' gradient; see `nmnist_helpers.synapse.Synapse.grad_norm`."""
        return self.synapse.grad_norm

    def layer_spec(self, in_shape: tuple[int, int, int] | None = None) -> LayerSpec:
        """Return the block in hardware units, as `nmnist_helpers.netx` writes it.

        Parameters
        ----------
        in_shape : (int, int, int), optional
            Channels, height and width of the input; by default those of the last forward pass.

        Raises
        ------
        ValueError
            If the file format cannot describe the block, or if the input shape of a picture is not known yet.
        """
        return spec_of(self, self._geometry(in_shape or self.input_shape))

    def _geometry(self, in_shape: tuple[int, ...] | None) -> dict[str, Any]:
        """Return the fields of `LayerSpec` that describe the geometry of the layer."""
        raise NotImplementedError

    def export_hdf5(self, handle: "h5py.Group") -> None:
        """Write the block into an open HDF5 group in the layout of lava's netx, without changing the block."""
        from .hdf5 import write_layer  # h5py is needed for this alone

        write_layer(handle, self.layer_spec())

    def _apply_axon(self, spikes: torch.Tensor) -> torch.Tensor:
        """Shift and delay the spikes; with persistent state, also deliver those pending from the last call."""
        longest = 0
        if self.neuron.persistent_state:
            longest = int(self.delay_shift) + (0 if self.delay is None else self.delay.longest())
        if not longest:
            return self._shift_and_delay(spikes)
        warn_if_gradients_end(self, spikes)
        before = self.neuron.on_the_way
        if before is None or before.shape[:-1] != spikes.shape[:-1]:
            before = spikes.new_zeros(*spikes.shape[:-1], longest)
        spikes = torch.cat([before, spikes], -1)
        self.neuron.on_the_way = spikes[..., -longest:].detach()
        return self._shift_and_delay(spikes)[..., before.shape[-1] :]

    def _shift_and_delay(self, spikes: torch.Tensor) -> torch.Tensor:
        if self.delay_shift:
            spikes = shift(spikes, 1)
        return spikes if self.delay is None else self.delay(spikes)

    def _add_rate(self, spikes: torch.Tensor):
        if not self.count_log:
            return spikes
        return spikes, (spikes.detach() > 0).float().mean()


__getattr__ = absent(__name__)
