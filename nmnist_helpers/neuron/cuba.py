"""The current-based leaky integrate-and-fire (CUBA) neuron, in the integers of the Loihi chip."""

import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..checks import whole_number
from ..kernels.common import Membrane, State, Surrogate
from ..kernels.constants import DECAY_SCALE, NEVER, WEIGHT_SCALE
from ..kernels.functions import NeuronStep, SpikeFunction
from ..kernels.integers import retention_of
from ..lava import public
from ..tools import as_array, exact, overridden
from ..utils.quantize import quantize_hook_fx
from .lava_names import LavaNames
from .stored import NeuronStorage, constant

SCALE_GRAD_UNIT = 0.1  # SLAYER's units, in which scale_grad = 1 and tau_grad = 1 are good starting values
TAU_GRAD_UNIT = 100
MAX_THRESHOLD = 1 << 24  # 2**30 in state units, more than any state reaches; `netx` checks the chip's limit of 17 bits


def neuron_params(device_params: dict, scale: int = WEIGHT_SCALE, p_scale: int = DECAY_SCALE) -> dict:
    """Return the constructor arguments of the neuron that `device_params` describes.

    Parameters
    ----------
    device_params : dict
        ``vThMant``, ``iDecay`` and ``vDecay`` (both x 4096), as returned by `Neuron.device_params`.
    scale : int
        Number of integer threshold units per real unit.
    p_scale : int
        Number of integer decay units per real unit.

    Returns
    -------
    dict
        ``threshold``, ``current_decay``, ``voltage_decay``.
    """
    return {
        "threshold": device_params["vThMant"] / scale,
        "current_decay": device_params["iDecay"] / p_scale,
        "voltage_decay": device_params["vDecay"] / p_scale,
    }


def _make_norm(norm: Callable, channels: int | None) -> Any:
    if isinstance(norm, torch.nn.Module):
        raise TypeError(f"Neuron: expected a class or a function as norm, found a {type(norm).__name__}")
    parameters = inspect.signature(norm).parameters
    if "num_features" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return norm()
    return norm(num_features=channels)


class Neuron(LavaNames, NeuronStorage):
    r"""CUBA neuron with a synaptic current and a membrane voltage, both leaky and both stored as integers.

    .. math::
        I[t] &= (1 - \alpha_I)\, I[t-1] + z[t] \\
        V[t] &= (1 - \alpha_V)\, R[t-1] + I[t] \\
        s[t] &= V[t] > \vartheta, \qquad R[t] = (1 - s[t])\, V[t]

    States are stored as integers x 4096 and truncated toward zero after every product, as on the chip.

    Parameters
    ----------
    threshold : float
        Firing threshold, one number for all channels, which is not learned; ``trunc(scale * threshold) / scale`` is
        used. A voltage equal to the threshold does not fire.
    current_decay, voltage_decay : float or (float, float)
        Fraction of the current and of the voltage that is lost in a time step, 0..1. With ``shared_param=False``, the
        decay of each channel is drawn from a range (lowest, highest); a single number then means a range of +-1 %.
    tau_grad, scale_grad : float
        Width and area of the surrogate derivative
        ``scale / (2 tau) * exp(-|V - threshold| / tau)``, with ``tau = 100 * tau_grad * threshold``
        and ``scale = 0.1 * scale_grad``.
    scale : int
        Number of integer weight units per real unit; the states use 64 times as many.
    norm : callable, optional
        Class of a normalisation between current and voltage, or a function that makes one. It is called with the
        argument ``num_features`` if it has one.
    dropout : torch.nn.Module, optional
        Module applied to the spikes.
    shared_param : bool
        Use one pair of decays for all channels (True), or one pair per channel (False). To choose those of the
        channels, assign them x 4096: ``neuron.current_decay = 4096 * torch.linspace(0.1, 0.5, 5)``.
    persistent_state : bool
        Start each call from the state in which the previous call ended, as long as the input shape stays the same.
        Bin a whole recording first, then cut it: if pieces were binned one by one, the events of each last half bin
        would be lost. Gradients end where a call begins (truncated backpropagation through time), so learn in pieces of
        many steps: if each call has one step, a block learns nothing, because its spikes arrive in the next call.
    requires_grad : bool
        Whether the decays are trained.
    graded_spike : bool
        Must be False: spikes with a value other than 0 and 1 are not supported.
    num_neurons : int, optional
        Number of channels. Required with ``shared_param=False`` and with `norm`; blocks pass it automatically.

    Attributes
    ----------
    current_decay, voltage_decay : tensor [1] or [C]
        The decays x 4096, as in lava-dl: 1024 for 0.25. They can be read, assigned and changed in place, and
        `state_dict` contains them. `parameters` instead returns ``scaled_current_decay`` and ``scaled_voltage_decay``,
        which are the decays x 4, so that one step size suits decays and weights.
    current_state, voltage_state : tensor [B, C, ...]
        With `persistent_state`, the state at the end of the last call, in real units; a single zero before the first.
        Setting a whole one to 0, by assignment or in place (not in `torch.inference_mode`), also discards the spikes
        that a block's axon has not delivered yet, as `reset_state` does.
    shape : torch.Size or None
        Shape [C, ...] of the last input, without batch and time.

    Raises
    ------
    ValueError
        If a decay lies outside 0..1, if `threshold`, `tau_grad`, `scale_grad` or `scale` is not positive and finite,
        if `threshold` is out of range, or if `num_neurons` is required and missing.
    TypeError
        If `dropout` is no module or function, or if `norm` is a module instead of its class.
    OverflowError
        In a call, if the input is not finite, or if a state leaves the range of +-262144.

    Notes
    -----
    Shrestha and Orchard, "SLAYER: Spike layer error reassignment in time", NeurIPS 2018;
    Davies et al., "Loihi: a neuromorphic manycore processor", IEEE Micro 38(1), 2018.
    """

    def __init__(
        self,
        threshold: float,
        current_decay: float | tuple[float, float],
        voltage_decay: float | tuple[float, float],
        tau_grad: float = 1,
        scale_grad: float = 1,
        scale: int = WEIGHT_SCALE,
        norm: Callable | None = None,
        dropout: torch.nn.Module | None = None,
        shared_param: bool = True,
        persistent_state: bool = False,
        requires_grad: bool = False,
        graded_spike: bool = False,
        num_neurons: int | None = None,
    ):
        super().__init__()
        given = {"threshold": threshold, "tau_grad": tau_grad, "scale_grad": scale_grad, "scale": scale}
        for name, value in given.items():
            if not 0 < constant(name, value) < float("inf"):
                raise ValueError(f"Neuron: expected a positive {name}, found {value}")
        if scale != int(scale):
            raise ValueError(f"Neuron: expected a whole number as scale, found {scale}")
        if graded_spike:
            raise ValueError("Neuron: expected graded_spike=False, found True: spikes here are 0 or 1")
        self.p_scale = DECAY_SCALE
        self.w_scale = int(scale)
        self.s_scale = int(scale) << 6
        #: What lava-dl's own `spike`, which fires at equality, adds to the threshold: a hundredth of a state's unit.
        self.threshold_eps = 0.01 / self.s_scale
        self.tau_grad, self.scale_grad = tau_grad, scale_grad
        self.threshold = threshold
        self.shared_param, self.persistent_state, self.requires_grad = shared_param, persistent_state, requires_grad
        self.num_neurons = None if num_neurons is None else whole_number("Neuron: num_neurons", num_neurons, 1)
        if (norm is not None or not shared_param) and num_neurons is None:
            raise ValueError(
                "Neuron: expected num_neurons with norm or shared_param=False, found None; it is the number of channels"
            )
        self.create_parameters(
            self._initial_decay("current_decay", current_decay), self._initial_decay("voltage_decay", voltage_decay)
        )
        self.norm: Any = None
        if norm is not None:
            self.norm = _make_norm(norm, num_neurons)
            if hasattr(self.norm, "pre_hook_fx"):
                self.norm.pre_hook_fx = self.quantize_8bit
        if dropout is not None and (isinstance(dropout, type) or not callable(dropout)):
            raise TypeError(f"Neuron: expected a module as dropout, such as neuron.Dropout(0.05), found {dropout}")
        self.drop = dropout
        self.debug = self.complex = False  # exist in lava-dl; have no effect here
        self.graded_spike = False

    @property
    def threshold(self) -> float:
        """The threshold in use, a multiple of 1/scale. The width of the surrogate derivative follows it."""
        return self.v_th_mant / self.w_scale

    @threshold.setter
    def threshold(self, value: float) -> None:
        mantissa = int(value * self.w_scale) if 0 < value < float("inf") else 0
        if not 1 <= mantissa < MAX_THRESHOLD:
            raise ValueError(
                f"Neuron: expected a threshold of at least 1/{self.w_scale} and below {MAX_THRESHOLD / self.w_scale:g},"
                f" found {value}"
            )
        self.v_th_mant = mantissa

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.scaled_current_decay.device

    @property
    def surrogate(self) -> Surrogate:
        """The surrogate derivative of the spike function, in real units."""
        tau = self.tau_grad * self.threshold * TAU_GRAD_UNIT
        return Surrogate(tau, self.scale_grad * SCALE_GRAD_UNIT / (2 * tau))

    @property
    def device_params(self) -> dict:
        """The neuron in hardware units: decays x 4096, threshold x 64."""
        return {
            "type": "CUBA",
            "iDecay": self.cx_current_decay,
            "vDecay": self.cx_voltage_decay,
            "vThMant": self.v_th_mant,
            "refDelay": 1,
            "gradedSpike": False,
        }

    @property
    def cx_current_decay(self):
        """Current decay x 4096: an int, or an int array [C] if ``shared_param`` is False."""
        return self._integer_decay(self.current_decay)

    @property
    def cx_voltage_decay(self):
        """Voltage decay x 4096: an int, or an int array [C] if ``shared_param`` is False."""
        return self._integer_decay(self.voltage_decay)

    def _integer_decay(self, decay: torch.Tensor):
        if not torch.isfinite(decay).all():
            raise ValueError(f"Neuron: expected finite decays, found {decay.detach().tolist()}")
        integers = as_array(torch.round(decay.detach().clamp(0, self.p_scale))).astype(int)
        return int(integers[0]) if self.shared_param else integers

    def quantize_8bit(self, weight: torch.Tensor, descale: bool = False) -> torch.Tensor:
        """Quantise weights to 8 bits: ``clamp(round(32 w) / 32, -4, 254/64)`` for the usual scale of 64.

        In general, the results are even multiples of ``1/scale`` from ``-256/scale`` to ``254/scale``. With `descale`,
        they are multiplied by `scale`, which makes them even integers. The gradient passes straight through the
        rounding and is zero outside the clamp.
        """
        return quantize_hook_fx(weight, self.w_scale, 7, descale)

    def membrane(self, decays: Sequence[torch.Tensor], channels: int, places: int = 1) -> Membrane:
        """Return the kernels' constants for `channels` x `places` neurons, given `decays` of current and voltage."""
        current, voltage = (retention_of(decay, channels, places) for decay in decays)
        threshold = self.v_th_mant * (self.s_scale // self.w_scale)
        return Membrane(current, voltage, threshold, self.surrogate, self.s_scale)

    def _save_to_state_dict(self, destination, prefix: str, keep_vars: bool) -> None:
        """Save the constants as metadata, which `load_checkpoint` reads and torch ignores."""
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]]["neuron_params"] = {
                "threshold": self.threshold,
                "tau_grad": float(self.tau_grad),
                "scale_grad": float(self.scale_grad),
                "requires_grad": bool(self.requires_grad),
            }

    def _load_from_state_dict(self, state_dict, prefix, metadata, *args) -> None:
        super()._load_from_state_dict(state_dict, prefix, metadata, *args)
        params = metadata.get("neuron_params")
        saved = params.get("threshold") if isinstance(params, dict) else None
        if isinstance(saved, int | float) and saved != self.threshold:
            warnings.warn(
                f"load_state_dict: {prefix[:-1] or 'Neuron'}: expected the saved threshold {saved:g}, found"
                f" {self.threshold:g}, which stays; assign {saved:g} to the neuron's threshold",
                stacklevel=prefix.count(".") + 4,  # where load_state_dict was called
            )

    def _run(self, z: torch.Tensor, need_current: bool):
        """Return (spikes, voltage, current), each of z's shape [B, C, ..., T]; current is None unless needed."""
        if z.dim() < 3:
            raise ValueError(f"Neuron: expected input [B, C, ..., T], found {list(z.shape)}")
        if self.num_neurons is not None and z.shape[1] != self.num_neurons:
            raise ValueError(f"Neuron: expected {self.num_neurons} channels, found input {list(z.shape)}")
        self.shape = z.shape[1:-1]
        inner = math.prod(z.shape[2:-1])
        channels = z.shape[1] * inner
        decays = self.decays()

        def to_input_shape(rows):
            return None if rows is None else rows.transpose(1, 2).reshape(z.shape)

        rows = z.reshape(z.shape[0], channels, z.shape[-1]).transpose(1, 2)
        membrane, start = self.membrane(decays, z.shape[1], inner), self.start(z.shape[0], channels)
        if self.norm is None:
            *outputs, end = NeuronStep.apply(rows, *decays, membrane, start, need_current)
            self.store(end)
            return tuple(to_input_shape(x) for x in outputs)
        # A norm between the integrators splits them into two neuron steps: the first retains no voltage and never
        # fires, the second retains no current.
        zero_retention, zero_state = torch.zeros_like(membrane.current_retention), torch.zeros_like(start.current)
        integrator = membrane._replace(voltage_retention=zero_retention, threshold=NEVER)
        begin = State(start.current, zero_state)
        _, current, _, first = NeuronStep.apply(rows, decays[0], None, integrator, begin, False)
        current = self.norm(to_input_shape(current))
        normed = current.reshape(z.shape[0], channels, z.shape[-1]).transpose(1, 2)
        membrane, begin = membrane._replace(current_retention=zero_retention), State(zero_state, start.voltage)
        spikes, voltage, _, second = NeuronStep.apply(normed, None, decays[1], membrane, begin, False)
        self.store(State(first.current, second.voltage))
        return to_input_shape(spikes), to_input_shape(voltage), current

    @exact
    def dynamics(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the current and the voltage (before the reset) for a dendrite input.

        Parameters
        ----------
        z : float tensor [B, C, ..., T]
            Weighted spikes.

        Returns
        -------
        current, voltage : float tensors [B, C, ..., T]
            Real units, multiples of 1/4096. With `norm`, the current is normalised.
        """
        _, voltage, current = self._run(z.float(), need_current=True)
        return current, voltage

    def spike(self, voltage: torch.Tensor) -> torch.Tensor:
        """Return spikes: 1 where the voltage exceeds the threshold, else 0; then apply dropout."""
        spikes = SpikeFunction.apply(voltage, self.threshold, self.surrogate)
        return spikes if self.drop is None else self.drop(spikes)

    @exact
    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return spikes [B, C, ..., T] for a dendrite input of the same shape.

        If `dynamics` or `spike` is overridden, these two are called; otherwise both run as one step.
        """
        if overridden(self, Neuron, "dynamics", "spike"):
            return self.spike(self.dynamics(z)[1])
        spikes, _, _ = self._run(z.float(), need_current=False)
        return spikes if self.drop is None else self.drop(spikes)

    def extra_repr(self) -> str:
        i_decay, v_decay = (
            self._integer_decay(decay) if torch.isfinite(decay).all() else math.nan
            for decay in (self.current_decay, self.voltage_decay)
        )
        return f"threshold={self.threshold}, iDecay={i_decay}, vDecay={v_decay}, requires_grad={self.requires_grad}"


__dir__ = public(__name__)

__all__ = ["Neuron", "neuron_params"]
