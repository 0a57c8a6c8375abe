"""A whole layer on the CPU: weights, neurons and axons in one pass over time in each direction."""

import numpy as np
import torch
from numba import get_num_threads

from ...spikes import Spikes
from ..common import LayerGradients, LayerTrace, State, Surrogate, raise_out_of_range
from ..constants import STATE_SCALE
from .arithmetic import f32, i32
from .backward import backward
from .events import fired_to_events
from .lanes import LANES
from .layout import by_chunks, flat, last_only, pad, padded
from .neuron import forward
from .product import check_inputs, input_gradient, is_sparse, product, weight_gradient


def layer_forward(
    spikes: Spikes | torch.Tensor,
    table: torch.Tensor,
    keep_i: torch.Tensor,
    keep_v: torch.Tensor,
    threshold: int,
    state: State,
    lag: torch.Tensor,
    kept: torch.Tensor | None = None,
    value: float = 1.0,
    need_grad: bool = True,
) -> LayerTrace:
    """As `nmnist_helpers.kernels.reference.layer_forward`."""
    sparse = is_sparse(spikes)
    batch, steps, outputs = check_inputs(spikes, table)
    width = padded(outputs)
    layout = by_chunks(steps, width) if need_grad else last_only(width)
    voltage = torch.empty(batch * layout[0], dtype=torch.int32)
    fired = np.empty((batch, steps, width // LANES), np.uint64)
    end = State(pad(state.current, copy=True), pad(state.voltage, copy=True))
    failed = forward(
        flat(None if sparse else pad(product(spikes, table))), flat(spikes.indptr if sparse else None, np.int32),
        flat(spikes.channel if sparse else None, np.int32), flat(pad(table) if sparse else None, np.int8),
        f32(spikes.value if sparse else STATE_SCALE), flat(pad(keep_i)), flat(pad(keep_v)), i32(threshold),
        flat(end.current), flat(end.voltage), flat(voltage), layout, fired, flat(None, np.uint8), flat(None, np.int32),
    )  # fmt: skip
    if failed:
        raise_out_of_range()
    out = Spikes(*fired_to_events(fired, lag, kept), (batch, outputs, steps), value)
    end = State(end.current[:, :outputs], end.voltage[:, :outputs])
    return LayerTrace(out, end, (voltage,) if need_grad else ())


def layer_backward(
    grad: torch.Tensor,
    saved: tuple[torch.Tensor, ...],
    spikes: Spikes | torch.Tensor,
    table: torch.Tensor,
    keep_i: torch.Tensor,
    keep_v: torch.Tensor,
    threshold: int,
    state: State,
    surrogate: Surrogate,
    lag: torch.Tensor,
    kept: torch.Tensor | None = None,
    value: float = 1.0,
    *,
    need_input: bool = True,
    need_weights: bool = True,
    need_decay: bool = True,
    need_delay: bool = True,
) -> LayerGradients:
    """As `nmnist_helpers.kernels.reference.layer_backward`; decays and delays cost nothing more, asked for or not."""
    batch, steps, outputs = grad.shape
    width = padded(outputs)
    # One task owns a chunk of the weights; where there are more threads than chunks, two passes keep them all busy.
    together = need_weights and is_sparse(spikes) and get_num_threads() <= width // LANES
    found = backward(
        grad, None, None, saved[0], by_chunks(steps, width), grad.shape, keep_i, keep_v, threshold, state, surrogate,
        STATE_SCALE, lag, kept, value,
        events=spikes if together else None, need_z=need_input or (need_weights and not together),
    )  # fmt: skip
    z = None if found.z is None else found.z[..., :outputs]
    weights = None if found.table is None else found.table[:, :outputs]
    if need_weights and not together:
        weights = weight_gradient(spikes, z)
    by_input = input_gradient(z, table) if need_input else None
    return LayerGradients(by_input, weights, found.current_decay, found.voltage_decay, found.delay)
