"""Describe a block in hardware units, or say why a `.net` file cannot describe it."""

from typing import TYPE_CHECKING, Any

import torch

from ..kernels.constants import MAX_DELAY, WEIGHT_SCALE
from ..neuron import cuba
from ..neuron.norm import MeanOnlyBatchNorm
from ..tools import as_array, overridden
from .spec import LayerSpec

if TYPE_CHECKING:
    from .base import Block


def spec_of(block: "Block", geometry: dict[str, Any]) -> LayerSpec:
    """Return a block in hardware units; `geometry` has the fields of `LayerSpec` that describe where its weights are.

    Raises
    ------
    ValueError
        If the file format cannot describe the block.
    """
    name, neuron = f"block.cuba.{type(block).__name__}", block.neuron
    if neuron.w_scale != WEIGHT_SCALE:
        raise ValueError(f"{name}: expected scale={WEIGHT_SCALE} for an export, found {neuron.w_scale}")
    methods = [method for method in ("forward", "dynamics", "spike") if overridden(neuron, cuba.Neuron, method)]
    found = ["its own forward"] if overridden(block, _own_class(block), "forward") else []
    found += [f"its own neuron.{method}" for method in methods]
    if overridden(block.synapse, _own_class(block.synapse), "forward"):
        found.append("its own synapse.forward")
    if not block.delay_shift:
        found.append("delay_shift=False")
    if type(neuron.norm) not in (type(None), MeanOnlyBatchNorm):
        found.append(type(neuron.norm).__name__)
    if not block.plain_delay:
        found.append(type(block.delay).__name__)
    if found:
        raise ValueError(f"{name}: expected a block that a .net file can describe, found {', '.join(found)}")
    fields = {"type": _own_class(block).__name__.lower(), **geometry}
    bias = None if neuron.norm is None else as_array(neuron.norm.bias)  # `LayerSpec` refuses fractions
    if block.delay is not None and not block.delay.sized:
        raise ValueError(f"{name}: expected a forward pass first, found delays of unknown number")
    steps = None if block.delay is None else torch.floor(block.delay.in_steps().detach())
    if steps is not None and steps.max() > MAX_DELAY:
        raise ValueError(f"{name}: expected delays of at most {MAX_DELAY} steps for an export, found {steps.max():g}")
    synapses = block.synapse
    scaled = synapses.quantised_weight() * WEIGHT_SCALE
    length = [synapses.weight_g] if synapses.weight_norm_enabled else []
    for weight in (synapses.direction, *length, scaled):  # the 8 bits hide an infinite weight
        if not torch.isfinite(weight).all():
            bad = weight[~torch.isfinite(weight)]
            raise ValueError(f"{name}: expected finite weights, found {bad[0].item()} ({len(bad)} of {weight.numel()})")
    if not torch.equal(scaled, scaled.round()):
        raise ValueError(f"{name}: expected weights in steps of 1/32 for an export, found others; see pre_hook_fx")
    integers = scaled.to(torch.int64).cpu().numpy()
    return LayerSpec(
        weight=integers.reshape(fields.pop("weight_shape", integers.shape[:-1])),
        delay=None if steps is None else steps.to(torch.int64).cpu().numpy(),
        i_decay=neuron.cx_current_decay,
        v_decay=neuron.cx_voltage_decay,
        v_th_mant=neuron.v_th_mant,
        bias=bias,
        **fields,
    )


def _own_class(part: torch.nn.Module) -> type:
    """Return the class of this package that a block or a synapse belongs to; a user's class may inherit from it."""
    package = __name__.partition(".")[0] + "."
    return next((kind for kind in type(part).__mro__ if kind.__module__.startswith(package)), torch.nn.Module)
