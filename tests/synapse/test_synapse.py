"""Test the weights: initial values, normalisation, quantisation, products, and gradients."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import oracles
from support.neurons import DYNAMICS, sample
from support.oracles import assert_close

from nmnist_helpers import synapse
from nmnist_helpers.block.cuba import Dense
from nmnist_helpers.neuron.cuba import Neuron
from nmnist_helpers.spikes import Spikes

quantise = Neuron(**DYNAMICS).quantize_8bit


def test_initial_weights_are_uniform():
    torch.manual_seed(0)
    plain, scaled = synapse.Dense(400, 300), synapse.Dense(400, 300, weight_scale=3)
    assert plain.weight.shape == (300, 400, 1, 1, 1)
    for layer, bound in ((plain, 1 / 20), (scaled, 3 / 20)):
        w = layer.weight.detach()
        assert 0.999 * bound < w.abs().max() <= bound
        assert w.mean().abs() < bound / 100
        assert w.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)  # uniform
    normed = synapse.Dense(400, 300, weight_norm=True)
    assert normed.weight_g.shape == (300, 1, 1, 1, 1)
    assert_close(normed.weight_g.flatten(), normed.weight_v.detach().flatten(1).norm(dim=1), 1e-6)
    assert_close(normed.weight, normed.weight_v, 1e-6)
    assert dict(normed.named_parameters()).keys() == {"weight_g", "weight_v"}


def test_quantisation_matches_the_oracle():
    rng = np.random.default_rng(0)
    w = np.concatenate([rng.normal(0, 2, 20000), (rng.integers(-150, 150, 2000) + 0.5) / 32, [-4.1, 4.1, 254 / 64]])
    w = w.astype(np.float32)
    for w_in in (torch.from_numpy(w), torch.from_numpy(w).requires_grad_()):
        found = quantise(w_in).detach().numpy()
        np.testing.assert_array_equal(found * 32, oracles.steps_of_weight(w))
        hardware = quantise(w_in, descale=True).detach().numpy()
        np.testing.assert_array_equal(hardware, 2 * oracles.steps_of_weight(w))
    assert hardware.min() == -256
    assert hardware.max() == 254


def test_quantisation_gradient_is_straight_through_and_zero_outside():
    w = torch.tensor([-300.0, -4.02, -4.0, -3.99, 0.013, 3.96, 3.98, 4.0, 9.0], requires_grad=True)
    factors = torch.arange(1.0, 10.0)
    (quantise(w) * factors).sum().backward()
    # In steps of 1/32, -4.02 rounds to -129 and is outside the range; 3.98 rounds to 127 and is inside.
    inside = torch.tensor([0, 0, 1, 1, 1, 1, 1, 0, 0])
    assert torch.equal(w.grad, factors * inside)


@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("value", [1.0, 1 / 0.95])
def test_dense_product_and_gradients_match_the_oracle(weight_norm, value):
    torch.manual_seed(0)
    layer = synapse.Dense(60, 30, weight_scale=8, weight_norm=weight_norm, pre_hook_fx=quantise)
    if weight_norm:
        layer.weight_g.data *= torch.rand_like(layer.weight_g) * 3
    x = (sample((3, 60, 12), 0.2) * value).requires_grad_()
    z = layer(x)
    v, g = layer.direction, layer.weight_g if weight_norm else None
    steps = oracles.steps_of_weight(oracles.normed(v, g).detach() if weight_norm else v.detach()).reshape(30, 60)
    np.testing.assert_array_equal(z.detach().numpy(), oracles.product(steps, x.detach(), value))
    np.testing.assert_array_equal(layer.quantised_weight().reshape(30, 60).numpy() * 32, steps)
    np.testing.assert_array_equal(layer(Spikes.from_dense(x)).detach().numpy(), z.detach().numpy())

    grad = torch.from_numpy(np.random.default_rng(1).normal(size=z.shape).astype(np.float32))
    z.backward(grad)
    by_v, by_g = oracles.straight_through(v, g, oracles.weight_gradient(grad, x.detach()))
    assert_close(v.grad, by_v)
    if weight_norm:
        assert_close(g.grad, by_g)
    assert_close(x.grad, np.einsum("oi,bot->bit", steps / 32, grad.numpy()))
    p = layer.weight_g if weight_norm else layer.weight
    assert layer.grad_norm == pytest.approx(float(p.grad.norm()) / p.numel())


def test_grad_norm_before_a_backward_pass_is_zero():
    assert synapse.Dense(3, 2).grad_norm == 0


def test_dense_takes_images():
    torch.manual_seed(1)
    layer = synapse.Dense((5, 4, 3), 7)  # width, height, channels
    assert layer.weight.shape == (7, 3, 4, 5, 1)
    x = sample((2, 3, 4, 5, 6), 0.5)
    z = layer(x)
    assert z.shape == (2, 7, 1, 1, 6)
    expected = torch.einsum("ochw,bchwt->bot", layer.weight[..., 0], x)
    assert_close(z[:, :, 0, 0], expected)
    assert synapse.Dense((5, 4), 7).weight.shape == (7, 1, 4, 5, 1)


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.float64])
def test_dense_takes_other_dtypes(kind):
    layer = synapse.Dense(6, 4)
    x = sample((2, 6, 5), 0.2)
    assert torch.equal(layer(x.to(kind)), layer(x))


def test_weight_norm_can_be_switched_on_and_off():
    torch.manual_seed(2)
    layer = synapse.Dense(9, 4)
    before = layer.weight.detach().clone()
    layer.enable_weight_norm()
    layer.enable_weight_norm()  # a second call changes nothing
    assert sorted(n for n, _ in layer.named_parameters()) == ["weight_g", "weight_v"]
    assert_close(layer.weight, before, 1e-6)
    layer.weight_g.data *= 2
    layer.disable_weight_norm()
    layer.disable_weight_norm()
    assert [n for n, _ in layer.named_parameters()] == ["weight"]
    assert_close(layer.weight, 2 * before, 1e-6)
    layer(sample((1, 9, 3), 0.2)).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("weight_norm", [True, False])
def test_convolution_equals_torchs(weight_norm):
    torch.manual_seed(3)
    layer = synapse.Conv(
        4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2), groups=2, weight_scale=5,
        weight_norm=weight_norm, pre_hook_fx=quantise,
    )  # fmt: skip
    x = sample((2, 4, 9, 8, 5), 0.3)
    v = layer.direction.detach()
    w = oracles.normed(v, layer.weight_g.detach()) if weight_norm else v
    steps = torch.from_numpy(oracles.steps_of_weight(w)).double()
    expected = F.conv3d(x.double(), steps, None, (2, 1, 1), (1, 0, 0), (1, 2, 1), 2) / 32
    np.testing.assert_array_equal(layer(x).detach().numpy(), expected.numpy())
    assert layer.direction.abs().max() <= 5 / (2 * 3 * 2) ** 0.5


def test_pooling_sums_windows():
    layer = synapse.Pool(2, weight_scale=1.5)
    x = sample((2, 3, 5, 4, 6), 0.4)
    z = layer(x)
    padded = F.pad(x, (0, 0, 0, 0, 0, 1))
    expected = 1.5 * padded.reshape(2, 3, 3, 2, 2, 2, 6).sum((3, 5))
    assert torch.equal(z, expected)
    assert not layer.weight.requires_grad
    strided = synapse.Pool((2, 2), stride=1)(x)
    assert strided.shape == (2, 3, 5, 3, 6)  # a row of zeros below fills the last window
    assert strided[1, 2, 1, 1, 3] == x[1, 2, 1:3, 1:3, 3].sum()


def test_wrong_sizes_raise():
    with pytest.raises(ValueError, match="in_neurons: expected a whole number from 1, found 0"):
        synapse.Dense(0, 3)
    with pytest.raises(ValueError, match="out_neurons: expected a whole number from 1, found -1"):
        synapse.Dense(3, -1)
    with pytest.raises(ValueError, match="expected one to three sizes as in_neurons"):
        synapse.Dense((1, 2, 3, 4), 3)
    with pytest.raises(ValueError, match=r"no empty axis, found \[0, 3, 8, 8, 5\]"):
        synapse.Conv(3, 2, 3)(torch.zeros(0, 3, 8, 8, 5))
    with pytest.raises(ValueError, match=r"with 6 neurons, found \[2, 5, 3\]"):
        synapse.Dense(6, 2)(torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match=r"with 6 neurons, found \[2, 6\]$"):
        synapse.Dense(6, 2)(torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"found \[2, 1, 6, 3\]; spikes\.flatten\(1, -2\) joins the axes"):
        synapse.Dense(6, 2)(torch.zeros(2, 1, 6, 3))
    with pytest.raises(ValueError, match=r"expected input \[B, 3, H, W, T\], found \[2, 4, 8, 8, 5\]"):
        synapse.Conv(3, 2, 3)(torch.zeros(2, 4, 8, 8, 5))
    with pytest.raises(ValueError, match="expected stride to be one int or two"):
        synapse.Conv(3, 2, 3, stride=(1, 2, 3))
    with pytest.raises(ValueError, match=r"synapse.Pool: expected input \[B, C, H, W, T\], found \[2, 4, 8\]"):
        synapse.Pool(2)(torch.zeros(2, 4, 8))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 2}, "multiples of groups=2, found 3 and 4"),
        ({"groups": 3}, "multiples of groups=3, found 3 and 4"),
        ({"groups": 0}, "groups: expected a whole number from 1, found 0"),
        ({"stride": 0}, "stride: expected a whole number from 1, found 0"),
        ({"dilation": (1, 0)}, "dilation: expected a whole number from 1, found 0"),
        ({"padding": -1}, "padding: expected a whole number from 0, found -1"),
        ({"kernel_size": 2.5}, "kernel_size: expected a whole number from 1, found 2.5"),
    ],
)
def test_an_impossible_convolution_raises(options, message):
    """Uneven groups would let the kernels read outside their arrays."""
    with pytest.raises(ValueError, match=message):
        synapse.Conv(**{"in_features": 3, "out_features": 4, "kernel_size": 3, **options})


def test_sizes_may_be_numpys_whole_numbers():
    dense = synapse.Dense(np.prod((2, 3)), np.int64(4))
    assert dense.shape == (4, 6, 1, 1, 1)
    conv = synapse.Conv(np.int32(2), np.int64(4), np.int64(3), stride=np.array([2, 1]), padding=np.array(1))
    assert (conv.shape, conv.stride) == ((4, 2, 3, 3, 1), (2, 1, 1))
    assert {type(size) for size in (dense.in_neurons, dense.out_channels, *conv.kernel_size, *conv.stride)} == {int}


def test_weight_norm_of_zero_weights_keeps_the_product_and_can_learn():
    layer = synapse.Dense(6, 4)
    layer.weight.data[2] = 0
    x = torch.ones(1, 6, 3)
    before = layer(x)
    layer.enable_weight_norm()
    torch.testing.assert_close(layer(x), before)
    assert not layer(x)[0, 2].any()
    layer(x).sum().backward()
    assert layer.weight_g.grad[2] != 0
    silent = synapse.Dense(6, 4, weight_scale=0, weight_norm=True)
    assert not silent(x).any()
    silent.disable_weight_norm()
    assert not silent.weight.any()


def test_switching_weight_norm_keeps_requires_grad():
    pool = synapse.Pool(2, weight_norm=True)
    assert not any(p.requires_grad for p in pool.parameters())
    pool.disable_weight_norm()
    assert not pool.weight.requires_grad


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", [3, 5])
def test_convolutions_on_a_gpu_add_exactly(kernel):
    """Sums of quantised weights need no rounding, but some of cuDNN's algorithms (FFT) would round them."""
    layer = synapse.Conv(16, 32, kernel, padding=1, weight_scale=3, pre_hook_fx=quantise)
    spikes = sample((2, 16, 20, 20, 50), 0.1)
    with torch.no_grad():
        expected = layer(spikes)
        assert torch.equal(layer.cuda()(spikes.cuda()).cpu(), expected)


def test_weights_are_not_assigned_under_weight_normalisation():
    layer = synapse.Dense(4, 3, weight_norm=True)
    with pytest.raises(AttributeError, match=r"expected weight_g and weight_v, .* call disable_weight_norm\(\) first"):
        layer.weight = torch.nn.Parameter(torch.ones(3, 4, 1, 1, 1))
    layer.disable_weight_norm()
    layer.weight = torch.nn.Parameter(torch.ones(3, 4, 1, 1, 1))
    assert (layer.weight == 1).all()


@pytest.mark.parametrize("change", [
    lambda w: torch.nn.init.xavier_uniform_(w), lambda w: torch.nn.init.normal_(w, 0, 3),
    lambda w: w.data.mul_(2), lambda w: w.data[0].zero_(), lambda w: w.data.__setitem__(0, 1.0),
    lambda w: w.detach().copy_(torch.ones(())), lambda w: w.flatten()[:2].clamp_(1),
    lambda w: w.data.split(1)[0].zero_(), lambda w: torch.add(w.detach(), 1, out=w),
    lambda w: setattr(w, "data", torch.ones(2, 3, 1, 1, 1)),
])  # fmt: skip
def test_weights_are_not_changed_in_place_under_weight_normalisation(change):
    layer = synapse.Dense(3, 2, weight_norm=True)
    before = layer.weight.clone()
    with torch.no_grad(), pytest.raises(AttributeError, match="expected weight_g and weight_v.* found a change"):
        change(layer.weight)
    assert torch.equal(layer.weight, before)
    layer.disable_weight_norm()
    with torch.no_grad():
        change(layer.weight)
    assert not torch.equal(layer.weight, before)


def test_normalised_weights_are_read_like_any_tensor():
    layer = synapse.Dense(3, 2, weight_norm=True)
    weight = layer.weight
    assert {type(x) for x in (weight.clone(), weight + 1, weight.sum(), weight.max(0)[0])} == {torch.Tensor}
    assert {type(x) for x in (copy.deepcopy(weight), pickle.loads(pickle.dumps(weight.detach())))} == {torch.Tensor}
    assert repr(weight) == repr(weight * 1).replace("MulBackward0", "AliasBackward0")
    weight.detach().numpy()[0] = 1  # the caller's own array
    assert not torch.equal(layer.weight, weight)
    assert f"{weight.sum():.2f} {weight[0, 0, 0, 0, 0]:.2f}" == f"{weight.sum().item():.2f} 1.00"
    own = torch.nn.Parameter(weight.detach())
    assert own.is_leaf
    torch.optim.SGD([own], 0.1)
    decay = torch.compile(lambda layer: layer.weight.norm(), backend="eager")
    assert decay(layer) == layer.weight.norm()
    (layer.weight * torch.arange(6.0).view(2, 3, 1, 1, 1)).sum().backward()
    assert layer.weight_v.grad.any()
    assert layer.weight_g.grad.any()


def test_attributes_of_lava_dls_synapses():
    for layer in (synapse.Dense(4, 3), synapse.Conv(2, 3, 1), synapse.Pool(1)):
        assert layer.bias is None
        assert (layer.kernel_size, layer.stride, layer.padding, layer.dilation, layer.groups) == (
            (1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1,
        )  # fmt: skip
        layer._pre_hook_fx = quantise
        assert layer.pre_hook_fx == quantise
        with pytest.raises(ValueError, match="expected no bias, found one"):
            layer.bias = torch.nn.Parameter(torch.ones(3))
        layer.bias = None


@pytest.mark.parametrize(
    ("layer", "height"), [(synapse.Conv(2, 3, 5, padding=1, dilation=2), 6), (synapse.Pool(9, padding=1), 3)]
)
def test_a_kernel_larger_than_the_picture_is_refused(layer, height):
    with pytest.raises(ValueError, match="expected at least 9 rows, padded, found 8"):
        layer(torch.zeros(1, 2, height, 20, 3))


def test_a_row_of_zeros_under_weight_normalisation_is_named():
    block = Dense(DYNAMICS, 3, 2, weight_norm=True)
    block.synapse.weight_v.data[0] = 0
    with pytest.raises(OverflowError, match="weights: .*; or a row of weight_v is all zeros"):
        block(torch.ones(1, 3, 4))
