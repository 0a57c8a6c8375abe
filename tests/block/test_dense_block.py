"""Compare dense blocks with the oracles, and their fused step with their separate parts."""

import copy
import functools

import numpy as np
import pytest
import torch
from support import oracles
from support.blocks import compare_gradients, dense_block, run, unfused_copy, weight_steps
from support.neurons import PARAMS, THRESHOLD, gradient_like, sample
from support.oracles import assert_close
from support.pairs import pairwise

from nmnist_helpers import kernels
from nmnist_helpers.block import cuba
from nmnist_helpers.kernels import cpu, reference
from nmnist_helpers.kernels.cpu.product import DENSE_FROM
from nmnist_helpers.kernels.reference.product import adds_in_usual_order
from nmnist_helpers.network import Network
from nmnist_helpers.neuron import Dropout
from nmnist_helpers.neuron.norm import MeanOnlyBatchNorm
from nmnist_helpers.spikes import Spikes


def run_oracle(block, x, kept=None, value=1.0):
    """Return the oracle's 0/1 output of a block, and its internal signals."""
    retain_i, retain_v = (oracles.keep_of(d.detach()) for d in (block.neuron.current_decay, block.neuron.voltage_decay))
    x = x.detach().numpy()
    return oracles.block(
        x, weight_steps(block), retain_i, retain_v, THRESHOLD, value_in=np.abs(x).max() or 1.0, kept=kept, value=value,
        shift=int(block.delay_shift), delay=None if block.delay is None else block.delay.delay.detach().numpy(),
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pairwise(
    sizes=[(3, 40, 30), (1, 70, 50), (2, 40, 1)],
    dropout=[None, 0.3],
    weight_norm=[True, False],
    channel_decays=[True, False],
)
def test_dense_block_matches_the_oracle(backend, dropout, weight_norm, channel_decays, sizes):
    block = dense_block(sizes[1], 33, dropout=dropout, weight_norm=weight_norm, channel_decays=channel_decays)
    x = sample(sizes)
    value = 1.0 if dropout is None else 1 / (1 - dropout)
    torch.manual_seed(7)
    kept = None if dropout is None else (torch.rand(sizes[0], 33) >= dropout).numpy()
    expected, inside = run_oracle(block, x, kept, value)
    grad = gradient_like((sizes[0], 33, sizes[2]))
    with kernels.using(backend):
        out, grads = run(block, x, grad, seed=7)
    np.testing.assert_array_equal(out.numpy(), (expected * np.float32(value)).astype(np.float32))
    assert sizes[2] == 1 or inside["spikes"].mean() > 0.02
    assert out.shape == (sizes[0], 33, sizes[2])

    retain_i, retain_v = (oracles.keep_of(d.detach()) for d in (block.neuron.current_decay, block.neuron.voltage_decay))
    wanted = oracles.block_gradient(
        grad.numpy(), x.numpy(), weight_steps(block), inside, expected, retain_i, retain_v, kept=kept, value=value,
        delay=block.delay.delay.detach().numpy(),
    )  # fmt: skip
    synapse = block.synapse
    by_v, by_g = oracles.straight_through(
        synapse.direction, synapse.weight_g if weight_norm else None, wanted["weight"]
    )
    assert_close(synapse.direction.grad, by_v)
    if weight_norm:
        assert_close(synapse.weight_g.grad, by_g)
    assert_close(grads["x"], wanted["x"])
    assert_close(grads["delay.delay"], wanted["delay"])
    for name in ("current_decay", "voltage_decay"):
        by_channel = wanted[name] if channel_decays else wanted[name].sum(keepdims=True)
        size = np.abs(wanted[name]).max()  # a sum over channels may cancel
        assert np.abs(grads[f"neuron.{name}"].numpy() - by_channel).max() <= 2e-5 * size * (1 if channel_decays else 5)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_tutorials_network_matches_the_oracle_in_training(backend):
    """Spikes are equal at every step; the factor of dropout scales the input of the next layer."""
    torch.manual_seed(1)
    net = Network(hidden=(60, 50), dropout=0.2, inputs=200, outputs=10)
    for b in net.blocks:
        b.synapse.weight_g.data *= 4
        if b.delay is not None:
            b.delay.delay.data.uniform_(0, 5)
    sizes = (4, 200, 80)
    x = sample(sizes, 0.03)
    torch.manual_seed(11)
    kept = [(torch.rand(4, n) >= 0.2).numpy() for n in (60, 50)]
    signal, fired = x.numpy(), []
    for i, b in enumerate(net.blocks):
        delay = None if b.delay is None else b.delay.delay.detach().numpy()
        signal, inside = oracles.block(
            signal, weight_steps(b), 3072, 4096 - 123, THRESHOLD, value_in=1.0 if i == 0 else 1 / (1 - 0.2),
            kept=kept[i] if i < 2 else None, delay=delay,
        )  # fmt: skip
        fired.append(inside["spikes"].mean())
    assert min(fired) > 0.01
    torch.manual_seed(11)
    with kernels.using(backend):
        layers = net(x, layers=True)
    np.testing.assert_array_equal(layers[-1].detach().numpy(), signal)
    assert layers[0].max().item() == np.float32(1.25)
    layers[-1].mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_weight_norm_is_rounded_as_by_torch_on_x86(backend, monkeypatch):
    """The first weight of each row lies halfway between two quantisation steps, so that the norm's last bit matters."""
    rng = np.random.default_rng(0)
    v = torch.from_numpy(rng.normal(size=(2000, 37)).astype(np.float32))
    edge = (torch.from_numpy(rng.integers(1, 60, 2000)) + 0.5) / 32  # the first weight of each row
    g = (edge / v[:, 0].abs() * v.norm(dim=1)).float()[:, None]
    if adds_in_usual_order():
        assert torch.equal(oracles.normed(v, g), torch._weight_norm(v, g, 0))
    expected = oracles.steps_of_weight(oracles.normed(v, g))
    other_norm = torch.norm_except_dim(v, 2, 0)
    assert (oracles.steps_of_weight(v * (g / other_norm)) != expected).any(1).sum() > 20  # else nothing is tested

    block = cuba.Dense(PARAMS, 37, 2000, weight_norm=True)
    block.synapse.weight_v.data.copy_(v.view(2000, 37, 1, 1, 1))
    block.synapse.weight_g.data.copy_(g.view(2000, 1, 1, 1, 1))
    twin = {"reference": reference, "cpu": cpu}[backend]
    used, original = [], twin.quantise
    monkeypatch.setattr(twin, "quantise", lambda *args: used.append(original(*args)) or used[-1])
    with kernels.using(backend):
        block(torch.zeros(1, 37, 1))
    np.testing.assert_array_equal(twin.weight_values(used[0]).numpy() * 32, expected)
    np.testing.assert_array_equal(block.layer_spec().weight, 2 * expected)


def test_order_inside_a_block():
    """The order is synapse, neuron, dropout, shift, delay: a spike at step t leaves at step t + 1 + floor(delay)."""
    block = cuba.Dense({**PARAMS, "dropout": Dropout(p=0.5)}, 1, 4, delay=True)
    block.synapse.weight.data.fill_(2.0)
    block.delay.delay.data = torch.tensor([0.0, 0.99, 3.5, 9.0])
    x = torch.zeros(1, 1, 10)
    x[..., 2] = 1
    torch.manual_seed(0)
    kept = torch.rand(1, 4) >= 0.5
    torch.manual_seed(0)
    out = block(x)[0]
    # With weight 2, the neuron fires at step 2, and again while its current decays: 2, 1.5, 1.1 ...
    first = [3, 3, 6, None]
    for c, start in enumerate(first):
        times = out[c].nonzero().flatten().tolist()
        assert (times[:1] or [None])[0] == (start if kept[0, c] else None)
    assert set(out.unique().tolist()) <= {0.0, 2.0}
    assert kept.any()
    assert not kept.all()
    unshifted = cuba.Dense(PARAMS, 1, 1, delay_shift=False)
    unshifted.synapse.weight.data.fill_(2.0)
    assert unshifted(x)[0, 0].nonzero()[0].item() == 2


def test_block_with_norm_matches_the_oracle():
    block = dense_block(20, 8, neuron={"norm": MeanOnlyBatchNorm}).eval()
    assert not block.fused
    block.neuron.norm.running_mean.uniform_(-0.2, 0.2)
    x = sample((2, 20, 40), 0.2)
    z = oracles.product(weight_steps(block), x.numpy())
    current, *_ = oracles.neuron(z, 3072, 0, oracles.NEVER)
    mean = oracles.steps_of_weight(block.neuron.norm.running_mean) / 32
    *_, spikes, _, _ = oracles.neuron((current / 4096 - mean[:, None]).astype(np.float32), 0, 3973, THRESHOLD)
    lag = 1 + np.floor(block.delay.delay.detach().numpy()).astype(int)
    np.testing.assert_array_equal(block(x).detach().numpy(), oracles.shifted(spikes, lag))
    assert spikes.any()


# -- the fused step and its parts


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"delay": False},
        {"delay": False, "delay_shift": False},
        {"weight_norm": False},
        {"dropout": 0.4},
        {"channel_decays": True, "dropout": 0.1},
        {"neuron": {"requires_grad": False}},
        {"weight_scale": 40},  # many weights beyond the clamp
    ],
    ids=str,
)
def test_fused_step_equals_its_parts(backend, options):
    block = dense_block(50, 20, seed=3, **options)
    parts = unfused_copy(block)
    x = sample((3, 50, 40))
    grad = gradient_like((3, 20, 40))
    with kernels.using(backend):
        out, grads = run(block, x, grad)
        unfused_out, unfused_grads = run(parts, x, grad)
    assert torch.equal(out, unfused_out)
    assert out.count_nonzero() > 20
    compare_gradients(grads, unfused_grads)


@pytest.mark.parametrize("density", [0.0, 0.01, 0.7 * DENSE_FROM, 1.5 * DENSE_FROM, 0.6, 1.0])
@pytest.mark.parametrize("value", [1.0, 1 / 0.95, 0.5])
def test_fused_step_equals_its_parts_at_every_density(density, value):
    block = dense_block(40, 18, seed=4, weight_scale=1 if density > 0.3 else 3)
    x = sample((2, 40, 30), density, value)
    grad = gradient_like((2, 18, 30))
    out, grads = run(block, x, grad)
    unfused_out, unfused_grads = run(unfused_copy(block), x, grad)
    assert torch.equal(out, unfused_out)
    compare_gradients(grads, unfused_grads)
    again, grads_of_events = run(copy.deepcopy(unfused_copy(block)).train(), Spikes.from_dense(x), grad)
    assert torch.equal(again, out)
    fused = copy.deepcopy(block)
    fused.zero_grad()
    found, found_grads = run(fused, Spikes.from_dense(x), grad)
    assert torch.equal(found, out)
    compare_gradients(found_grads, grads_of_events)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_graded_input_uses_the_dense_product(backend):
    """Input with many values uses the dense product. Its sums of multiples of 1/8 are exact and must be equal."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy((rng.integers(-3, 8, (3, 30, 25)) / 8 * (rng.random((3, 30, 25)) < 0.3)).astype(np.float32))
    assert Spikes.from_dense(x) is None
    block = dense_block(30, 16, seed=5)
    grad = gradient_like((3, 16, 25))
    with kernels.using(backend):
        out, grads = run(block, x, grad)
        unfused_out, unfused_grads = run(unfused_copy(block), x, grad)
    assert torch.equal(out, unfused_out)
    assert out.any()
    compare_gradients(grads, unfused_grads)
    z = np.einsum("oi,bit->bot", weight_steps(block) / 32, x.double().numpy()).astype(np.float32)
    *_, spikes, _, _ = oracles.neuron(z, 3072, 4096 - 123, THRESHOLD)
    lag = 1 + np.floor(block.delay.delay.detach().numpy()).astype(int)
    np.testing.assert_array_equal(out.numpy(), oracles.shifted(spikes, lag))


@pytest.mark.parametrize("sizes", [(1, 40, 30), (3, 40, 1), (1, 40, 1), (1, 1, 5), (2, 7, 300)], ids=str)
def test_fused_step_equals_its_parts_at_odd_sizes(sizes):
    for outputs in (1, 5, 129):
        # With a single input, the gradient of the weight norm's direction is zero and cannot be compared.
        block = dense_block(sizes[1], outputs, seed=6, weight_scale=8, weight_norm=sizes[1] > 1)
        x = sample(sizes, 0.2)
        grad = gradient_like((sizes[0], outputs, sizes[2]))
        out, grads = run(block, x, grad)
        unfused_out, unfused_grads = run(unfused_copy(block), x, grad)
        assert torch.equal(out, unfused_out)
        compare_gradients(grads, unfused_grads)


def test_chain_of_fused_blocks_equals_chain_of_parts():
    torch.manual_seed(2)
    net = Network(hidden=(40, 30), dropout=0.3, inputs=60, outputs=5)
    for b in net.blocks:
        b.synapse.weight_g.data *= 5
    parts = copy.deepcopy(net)
    for b in parts.blocks:
        b.synapse.pre_hook_fx = functools.partial(b.neuron.quantize_8bit)
    x = sample((3, 60, 50), 0.05)
    outs = []
    for n in (net, parts):
        torch.manual_seed(8)
        outs.append(n(x))
        outs[-1].square().sum().backward()
    assert torch.equal(*outs)
    assert outs[0].any()
    for p, q in zip(net.parameters(), parts.parameters(), strict=True):
        assert_close(p.grad, q.grad, 3e-5)


def test_inference_equals_training_and_stores_no_voltage(monkeypatch):
    block = dense_block(30, 20)
    x = sample((2, 30, 40))
    need_grad = []
    original = cpu.layer_forward
    monkeypatch.setattr(cpu, "layer_forward", lambda *a, **o: (need_grad.append(o["need_grad"]), original(*a, **o))[1])
    trained = block(x)
    with torch.no_grad():
        inferred = block(x)
    with torch.inference_mode():
        in_mode = block(x)
    assert need_grad == [True, False, False]
    assert trained.requires_grad
    assert not inferred.requires_grad
    assert torch.equal(trained, inferred)
    assert torch.equal(trained, in_mode)
