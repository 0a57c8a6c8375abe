"""Test the options of blocks: masks, hooks, parts of the user's own, and their export."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from support import oracles
from support.blocks import dense_block, unfused_copy, weight_steps
from support.neurons import PARAMS, THRESHOLD, sample
from torch.nn.utils import parametrize

from nmnist_helpers import axon, netx, synapse
from nmnist_helpers.block import cuba
from nmnist_helpers.network import Network
from nmnist_helpers.neuron.norm import MeanOnlyBatchNorm
from nmnist_helpers.utils import quantize_hook_fx


def test_network_with_one_hidden_layer():
    shapes = [b.synapse.shape[:2] for b in Network(hidden=7, inputs=20, outputs=3).blocks]
    assert shapes == [(7, 20), (3, 7)]


def test_grad_norm_is_that_of_the_synapse():
    block = cuba.Dense(PARAMS, 6, 4, weight_norm=True)
    assert block.grad_norm == 0
    block(torch.ones(1, 6, 20)).sum().backward()
    g = block.synapse.weight_g
    assert block.grad_norm == pytest.approx(g.grad.norm().item() / g.numel())
    assert block.grad_norm > 0


def test_count_log_also_returns_the_mean_rate():
    block = dense_block(20, 10, dropout=0.3, count_log=True)
    x = sample((2, 20, 30))
    torch.manual_seed(0)
    spikes, rate = block(x)
    assert rate.item() == pytest.approx((spikes != 0).float().mean().item())
    assert rate > 0
    assert not rate.requires_grad
    torch.manual_seed(0)
    assert torch.equal(unfused_copy(block)(x)[0], spikes)


def test_parameters_are_in_lava_dls_order():
    block = dense_block(4, 3)
    last = [name.rpartition(".")[2] for name, _ in block.named_parameters()]
    assert last == ["scaled_current_decay", "scaled_voltage_decay", "delay", "weight_g", "weight_v"]
    assert [n.rpartition(".")[2] for n in block.state_dict()][:3] == ["current_decay", "voltage_decay", "delay"]


def test_layer_spec_holds_the_values_in_use():
    block = dense_block(12, 7)
    block.delay.delay.data[:2] = torch.tensor([-5.0, 80.0])
    spec = block.layer_spec()
    np.testing.assert_array_equal(spec.weight, 2 * weight_steps(block))
    np.testing.assert_array_equal(spec.delay, block.delay.delay.detach().clamp(0, 62).floor().numpy())
    assert spec.delay[:2].tolist() == [0, 62]
    assert (spec.i_decay, spec.v_decay, spec.v_th_mant) == (1024, 123, 80)
    assert block.shape == (7,)


@pytest.mark.parametrize("part", ["synapse", "neuron", "scale"])
def test_a_block_quantises_the_weights_of_a_part_that_takes_the_place_of_another(part):
    block, other = dense_block(20, 10, weight_norm=False), dense_block(20, 10, seed=1, weight_norm=False)
    if part == "synapse":
        block.synapse = synapse.Dense(20, 10, weight_scale=5)
        block.load_state_dict(other.state_dict())
    else:
        params = PARAMS if part == "neuron" else {**PARAMS, "scale": 16}
        other = cuba.Dense(params, 20, 10, weight_scale=5, delay=True)
        block.neuron = cuba.Dense(params, 20, 10).neuron
        other.load_state_dict(block.state_dict())
    assert block.quantised
    assert block.fused == other.fused == (part != "scale")
    x = sample((2, 20, 60), 0.3)
    assert torch.equal(block(x), other(x))
    assert other(x).any()


def test_what_takes_the_place_of_a_synapse_is_checked_and_keeps_its_own_hook():
    block = dense_block(20, 10)
    for name, wanted in (("synapse", "synapse.Synapse"), ("neuron", "neuron.cuba.Neuron")):
        before = getattr(block, name)
        with pytest.raises(TypeError, match=f"Dense: expected a {wanted}, found Linear"):
            setattr(block, name, torch.nn.Linear(20, 10))
        assert getattr(block, name) is before
        setattr(block, name, before)
    wrapped = torch.compile(block.synapse, backend="eager")
    block.synapse = wrapped
    assert block.synapse is wrapped
    block.synapse = synapse.Dense(20, 10, pre_hook_fx=torch.sign)
    assert block.synapse.pre_hook_fx is torch.sign


def test_blocks_work_with_another_default_type():
    x = sample((3, 20, 50), 0.2)
    block = dense_block(20, 12, weight_norm=False, delay=False)
    expected = block(x)
    expected.sum().backward()
    torch.set_default_dtype(torch.float64)
    try:
        twin = copy.deepcopy(block)
        twin.zero_grad()
        out = twin(x.double())
        out.sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(out, expected)
    assert torch.equal(twin.synapse.weight.grad, block.synapse.weight.grad)


@pytest.mark.parametrize("masked", [False, True])
def test_a_block_is_freed_with_its_last_name(masked):
    """Without a mask at once; a mask makes a cycle, which Python's collector finds."""
    block = cuba.Dense(PARAMS, 8, 4, mask=torch.ones(4, 8) if masked else None)
    freed = weakref.ref(block)
    del block
    if masked:
        gc.collect()
    assert freed() is None


# -- masks


@pytest.mark.parametrize("weight_norm", [True, False])
def test_mask_removes_synapses(weight_norm):
    torch.manual_seed(0)
    mask = torch.rand(10, 20) < 0.5
    block = cuba.Dense(PARAMS, 20, 10, weight_scale=6, weight_norm=weight_norm, mask=mask)
    x = sample((2, 20, 30), 0.3).requires_grad_()
    out = block(x)
    with torch.no_grad():
        w = block.synapse.weight.reshape(10, 20) * mask
    expected, _ = oracles.block(x.detach().numpy(), oracles.steps_of_weight(w), 3072, 3973, THRESHOLD)
    np.testing.assert_array_equal(out.detach().numpy(), expected)
    assert expected.any()
    out.sum().backward()
    if not weight_norm:
        assert (block.synapse.weight.grad.reshape(10, 20)[~mask] == 0).all()
        assert (block.synapse.weight.grad.reshape(10, 20)[mask] != 0).any()
    np.testing.assert_array_equal(block.layer_spec().weight, 2 * oracles.steps_of_weight(w))
    assert "mask" in block.state_dict()
    for shape in ((10, 19), (20, 10), (200,), (5, 40)):
        with pytest.raises(ValueError, match=r"expected a mask of \[10, 20\], found \[" + str(shape[0])):
            cuba.Dense(PARAMS, 20, 10, mask=torch.ones(shape))
    with pytest.raises(TypeError, match="expected a tensor as mask, found list"):
        cuba.Dense(PARAMS, 20, 10, mask=[[1] * 20] * 10)


def test_a_mask_may_have_the_shape_of_the_weights():
    mask = torch.rand(5, 2, 3, 4) < 0.5
    torch.manual_seed(0)
    block = cuba.Dense(PARAMS, (4, 3, 2), 5, weight_scale=9, mask=mask)
    for shape in ((5, 24), (5, 24, 1, 1, 1), (5, 2, 3, 4, 1)):
        torch.manual_seed(0)
        again = cuba.Dense(PARAMS, (4, 3, 2), 5, weight_scale=9, mask=mask.reshape(shape))
        assert torch.equal(again.synapse.quantised_weight(), block.synapse.quantised_weight())
    assert block.synapse.quantised_weight()[..., 0][mask].any()
    assert not block.synapse.quantised_weight()[..., 0][~mask].any()


def test_numbers_of_a_mask_are_factors_of_the_weights():
    factors = torch.tensor([1.0, 0.5, 0.0, -1.0]).expand(3, 4)
    block = dense_block(4, 3, mask=factors)
    expected = block.neuron.quantize_8bit(block.synapse.weight.detach().reshape(3, 4) * factors)
    assert torch.equal(block.synapse.quantised_weight().reshape(3, 4), expected)


def test_a_mask_can_be_set_later():
    torch.manual_seed(0)
    block = cuba.Dense(PARAMS, 30, 20, weight_scale=3)
    mask = torch.rand(20, 30) < 0.3
    x = sample((2, 30, 40), 0.2)
    full = block(x)
    masked = copy.deepcopy(block)
    masked.mask = mask.float().reshape(20, 30, 1, 1, 1)
    expected = cuba.Dense(PARAMS, 30, 20, mask=mask)
    expected.load_state_dict({**block.state_dict(), "mask": expected.mask})
    assert torch.equal(masked(x), expected(x))
    assert not torch.equal(masked(x), full)
    masked.synapse = copy.deepcopy(block.synapse)
    assert torch.equal(masked(x), expected(x))
    with pytest.raises(ValueError, match=r"expected a mask of \[20, 30\], found \[20, 3\]"):
        masked.mask = torch.ones(20, 3)
    masked.mask = None
    assert torch.equal(masked(x), full)


def test_a_copy_has_its_own_mask_and_hooks():
    block = cuba.Dense(PARAMS, 8, 4, mask=torch.ones(4, 8).bool())
    other = copy.deepcopy(block)
    other.mask.zero_()
    assert (other.synapse.hooked_weight() == 0).all()
    assert (block.synapse.hooked_weight() != 0).any()
    assert other.synapse.pre_hook_fx.__self__ is other.neuron
    plain = copy.deepcopy(cuba.Dense(PARAMS, 8, 4))
    assert plain.synapse.pre_hook_fx.__self__ is plain.neuron


# -- hooks and parts of the user's own


@pytest.mark.parametrize("later", [False, True])
def test_a_custom_pre_hook_is_applied_and_exported(later):
    hook = lambda w: w * 0 + 0.75  # noqa: E731
    block = cuba.Dense(PARAMS, 6, 3, **({} if later else {"pre_hook_fx": hook}))
    block.synapse.pre_hook_fx = hook
    assert not block.fused
    x = sample((2, 6, 20), 0.4)
    expected, _ = oracles.block(x.numpy(), np.full((3, 6), 24), 3072, 3973, THRESHOLD)
    np.testing.assert_array_equal(block(x).detach().numpy(), expected)
    np.testing.assert_array_equal(block.layer_spec().weight, np.full((3, 6), 48))


def test_weights_without_a_hook_are_not_quantised_and_not_exported():
    torch.manual_seed(0)
    block = cuba.Dense(PARAMS, 6, 3, pre_hook_fx=None)
    assert block.synapse.pre_hook_fx is None
    assert torch.equal(block.synapse.quantised_weight(), block.synapse.weight)
    with pytest.raises(ValueError, match=r"expected weights in steps of 1/32 for an export, found others"):
        block.layer_spec()
    with pytest.raises(ValueError, match="pre_hook_fx: expected a function, None or '8 bit', found '4 bit'"):
        cuba.Dense(PARAMS, 6, 3, pre_hook_fx="4 bit")


def test_lava_dls_quantisation_gives_the_spikes_and_the_file_of_the_built_in_one():
    torch.manual_seed(0)
    block = cuba.Dense(PARAMS, 30, 20, weight_scale=3)
    other = copy.deepcopy(block)
    other.synapse.pre_hook_fx = quantize_hook_fx
    x = sample((2, 30, 40), 0.2)
    assert block(x).any()
    assert torch.equal(block(x), other(x))
    np.testing.assert_array_equal(block.layer_spec().weight, other.layer_spec().weight)


def test_a_function_can_take_the_place_of_dropout():
    torch.manual_seed(0)
    block = cuba.Dense({**PARAMS, "dropout": lambda spikes: spikes * 0.5}, 30, 20, weight_scale=3)
    x = sample((2, 30, 40), 0.2)
    assert set(block(x).unique().tolist()) == {0.0, 0.5}


class Silent(axon.Delay):
    def forward(self, spikes):
        return 0 * super().forward(spikes)


class Leaky(cuba.Dense):
    def forward(self, spikes):
        return super().forward(spikes) + 0.1 * spikes.sum(1, keepdim=True)


class Doubled(synapse.Dense):
    def forward(self, spikes):
        return 2 * super().forward(spikes)


class Kept(cuba.Flatten):
    def forward(self, spikes):
        return super().forward(spikes)[:, :5]


class Hidden(cuba.Dense):
    def __init__(self, inputs):
        super().__init__(PARAMS, inputs, 3, weight_norm=True)


@pytest.mark.parametrize("found", ["its own forward", "its own synapse.forward"])
def test_a_block_or_synapse_with_its_own_forward_is_not_exported(found):
    own, instance = Leaky(PARAMS, 6, 3), cuba.Dense(PARAMS, 6, 3)
    if "synapse" in found:
        own = cuba.Dense(PARAMS, 6, 3)
        own.synapse = Doubled(6, 3)
    part = instance.synapse if "synapse" in found else instance
    part.forward = lambda spikes: 0 * type(part).forward(part, spikes)
    for block in (own, instance):
        with pytest.raises(ValueError, match=f"layer 0: .*a .net file can describe, found {found}$"):
            netx.as_specs([block])


def test_a_flatten_block_with_its_own_forward_is_not_exported():
    conv = cuba.Conv(PARAMS, 2, 3, 3)
    conv.input_shape = (2, 5, 6)
    with pytest.raises(ValueError, match="block.cuba.Kept: expected a block .* found its own forward"):
        netx.as_specs([conv, Kept()])


def test_a_subclass_without_its_own_forward_is_exported_as_the_block_that_it_is():
    torch.manual_seed(0)
    block = Hidden(6)
    expected = block.layer_spec()
    assert expected.type == "dense"
    plain = cuba.Dense(PARAMS, 6, 3, weight_norm=True)
    plain.load_state_dict(block.state_dict())
    assert plain.layer_spec() == expected
    hidden = Hidden(6)
    hidden.synapse = type("Weights", (synapse.Dense,), {})(6, 3)
    parametrize.register_parametrization(hidden.synapse, "weight", torch.nn.Tanh())
    assert hidden.layer_spec().type == "dense"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("weight_norm", [True, False])
def test_weights_that_are_not_finite_are_not_exported(bad, weight_norm):
    block = cuba.Dense(PARAMS, 6, 3, weight_norm=weight_norm)
    (block.synapse.weight_g if weight_norm else block.synapse.weight).data[0] = bad
    with pytest.raises(ValueError, match=r"expected finite weights, found (nan|inf) \(\d+ of \d+\)"):
        block.layer_spec()


@pytest.mark.parametrize("part", ["spike", "dynamics", "delay"])
def test_a_part_of_the_users_own_is_used(part):
    block = dense_block(20, 12)
    x = sample((3, 20, 50), 0.2)
    assert block(x).any()
    if part == "delay":
        block.delay = Silent(12)
    else:
        own = {"spike": lambda voltage: 0 * voltage, "dynamics": lambda z: (z, 0 * z)}
        setattr(block.neuron, part, own[part])
    assert not block(x).any()
    with pytest.raises(ValueError, match=r"a \.net file can describe, found (Silent|its own neuron\.(spike|dynamics))"):
        block.layer_spec()


def test_a_parametrised_decay_can_be_listed_and_exported(tmp_path):
    block = dense_block(20, 12)
    parametrize.register_parametrization(block.neuron, "scaled_current_decay", torch.nn.Softplus())
    decay = block.neuron.cx_current_decay
    assert f"iDecay={decay}" in repr(block)
    assert netx.load(netx.write_network(tmp_path / "a.net", [block]))[0].i_decay == decay


# -- export


@pytest.mark.parametrize(("options", "value", "exported"), [
    ({"max_delay": 5}, 9.0, 5), ({"max_delay": 62, "sampling_time": 2}, 9.0, 4), ({}, 62.5, 62)
])  # fmt: skip
def test_an_export_has_the_delays_that_the_block_applies(options, value, exported):
    block = cuba.Dense(PARAMS, 12, 5, delay=True)
    block.delay = axon.Delay(5, **options)
    block.delay.delay.data.fill_(value)
    assert block.layer_spec().delay.tolist() == [exported] * 5
    assert block.delay.delay.tolist() == [value] * 5


def test_delays_beyond_those_of_the_chip_are_not_exported():
    block = cuba.Dense(PARAMS, 12, 5, delay=True)
    block.delay = axon.Delay(5)
    block.delay.delay.data[2] = 100
    with pytest.raises(ValueError, match="expected delays of at most 62 steps for an export, found 100"):
        block.layer_spec()


def test_a_norm_of_16_bits_is_exported():
    block = dense_block(20, 12, neuron={"norm": MeanOnlyBatchNorm})
    x = sample((3, 20, 50), 0.2)
    block(x)
    bias = block.eval().layer_spec().bias
    assert np.array_equal(block.bfloat16().layer_spec().bias, bias)


def test_fractional_biases_are_not_exported():
    block = dense_block(20, 12, neuron={"norm": MeanOnlyBatchNorm})
    block(sample((3, 20, 50), 0.2))
    block.eval()
    block.layer_spec()
    block.neuron.norm.pre_hook_fx = lambda bias, descale=False: bias * 64 if descale else bias
    with pytest.raises(ValueError, match="bias: expected integers"):
        block.layer_spec()
