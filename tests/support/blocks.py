"""Dense blocks of every kind, and a pass forward and backward through one."""

import copy
import functools
import operator

import numpy as np
import torch

from nmnist_helpers.block import cuba
from nmnist_helpers.neuron import Dropout
from nmnist_helpers.spikes import Spikes
from support import oracles
from support.neurons import PARAMS
from support.oracles import assert_close


def dense_block(inputs, outputs, seed=0, dropout=None, channel_decays=False, weight_norm=True, delay=True, **options):
    torch.manual_seed(seed)
    params = dict(PARAMS, **options.pop("neuron", {}))
    if dropout is not None:
        params["dropout"] = Dropout(p=dropout)
    if channel_decays:
        params.update(current_decay=(0.1, 0.6), voltage_decay=(0.01, 0.2), shared_param=False)
    options.setdefault("weight_scale", 5)
    block = cuba.Dense(params, inputs, outputs, weight_norm=weight_norm, delay=delay, **options)
    if weight_norm:
        block.synapse.weight_g.data *= torch.rand_like(block.synapse.weight_g) + 0.5
    if delay:
        block.delay.delay.data.uniform_(0, 6)
    return block


def weight_steps(block) -> np.ndarray:
    """Return a block's quantised weights x 32 as int64 [out, in], computed by torch's weight norm and the oracle."""
    synapse = block.synapse
    with torch.no_grad():
        w = oracles.normed(synapse.weight_v, synapse.weight_g) if synapse.weight_norm_enabled else synapse.weight
    return oracles.steps_of_weight(w.detach()).reshape(w.shape[0], -1)


def unfused_copy(block):
    """Return a copy of a block that runs synapse, neuron, dropout and axon one after the other."""
    other = copy.deepcopy(block)
    other.synapse.pre_hook_fx = functools.partial(other.neuron.quantize_8bit)
    assert block.fused
    assert not other.fused
    return other


def run(block, x, grad, seed=0):
    """Return a block's output, and the gradients of its parameters and of x."""
    torch.manual_seed(seed)
    x = x if isinstance(x, Spikes) else x.detach().clone().requires_grad_()
    out = block(x)
    out.backward(grad)
    names = [name.replace("scaled_", "") for name, _ in block.named_parameters()]  # decays are read x4096
    grads = {name: operator.attrgetter(name)(block).grad for name in names}
    if not isinstance(x, Spikes):
        grads["x"] = x.grad
    return out.detach(), grads


def compare_gradients(grads, expected):
    assert grads.keys() == expected.keys()
    for name, found in grads.items():
        if expected[name] is None:
            assert found is None, name
        else:
            assert_close(found, expected[name], 3e-5)
