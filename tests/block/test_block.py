"""Compare dense blocks with the oracles, and their fused step with their separate parts."""

import copy
import functools
import gc
import operator
import weakref

import numpy as np
import pytest
import torch
from support import oracles
from support.neurons import PARAMS, THRESHOLD, gradient_like, sample
from support.oracles import assert_close
from support.pairs import pairwise
from torch.nn.utils import parametrize

from nmnist_helpers import axon, kernels, netx
from nmnist_helpers.block import cuba
from nmnist_helpers.kernels import cpu, reference
from nmnist_helpers.kernels.cpu.product import DENSE_FROM
from nmnist_helpers.kernels.reference.product import adds_in_usual_order
from nmnist_helpers.network import Network
from nmnist_helpers.neuron import Dropout
from nmnist_helpers.neuron.norm import MeanOnlyBatchNorm
from nmnist_helpers.spikes import Spikes, remembered
from nmnist_helpers.utils import quantize_hook_fx


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


def run_oracle(block, x, kept=None, value=1.0):
    """Return the oracle's 0/1 output of a block, and its internal signals."""
    retain_i, retain_v = (oracles.keep_of(d.detach()) for d in (block.neuron.current_decay, block.neuron.voltage_decay))
    x = x.detach().numpy()
    return oracles.block(
        x, weight_steps(block), retain_i, retain_v, THRESHOLD, value_in=np.abs(x).max() or 1.0, kept=kept, value=value,
        shift=int(block.delay_shift), delay=None if block.delay is None else block.delay.delay.detach().numpy(),
    )  # fmt: skip


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


# -------------------------------------------------------------------------------------------- against the oracle


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


# ------------------------------------------------------------------------------------ the fused step and its parts


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


def compare_gradients(grads, expected):
    assert grads.keys() == expected.keys()
    for name, found in grads.items():
        if expected[name] is None:
            assert found is None, name
        else:
            assert_close(found, expected[name], 3e-5)


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


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_input_and_gradient_of_any_layout(layout):
    block = dense_block(20, 12, seed=1)
    x, grad = sample((4, 20, 30)), gradient_like((4, 12, 30))
    if layout == "expanded":
        x, grad = x[:1].expand(4, -1, -1), grad[:, :, :1].expand(-1, -1, 30)
    expected_out, expected = run(copy.deepcopy(block), x.contiguous(), grad.contiguous())
    if layout == "transposed":
        x, grad = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (x, grad))
    elif layout == "strided":
        x, grad = (torch.stack([t, t], 3)[..., 1] for t in (x, grad))
    assert not x.is_contiguous()
    out, grads = run(block, x.requires_grad_(), grad)
    assert torch.equal(out, expected_out)
    assert grads.keys() == expected.keys()
    compare_gradients({k: g for k, g in grads.items() if k != "x"}, {k: g for k, g in expected.items() if k != "x"})


@pairwise(grad=[True, False], delay=[True, False], delay_shift=[True, False])
def test_chunks_with_persistent_state_equal_the_whole(grad, delay, delay_shift):
    """The neurons continue from their last state, and delayed spikes arrive in the next call."""
    options = {"delay": delay, "delay_shift": delay_shift}
    whole = dense_block(20, 12, seed=1, **options)
    block = dense_block(20, 12, seed=1, neuron={"persistent_state": True}, **options)
    if whole.delay is not None:
        for b in (whole, block):
            b.delay.delay.data.copy_(torch.tensor([0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 61, 62]) + 0.5)
    x = sample((3, 20, 150), 0.2)
    with torch.set_grad_enabled(grad):
        expected = whole(x)
        assert expected[:, -1, -30:].any()  # the channel with the longest delay spikes, too
        for sizes in ([75, 75], [7, 1, 142], [70] + [1] * 80):
            block.neuron.reset_state()
            assert torch.equal(torch.cat([block(part) for part in x.split(sizes, 2)], -1), expected)
    assert torch.equal(block(x[:2]), whole(x[:2]))  # a batch of another size starts at rest


def test_delays_beyond_those_of_the_chip_survive_between_calls():
    whole, block = (dense_block(20, 12, seed=1, neuron={"persistent_state": p}, delay=True) for p in (False, True))
    for b in (whole, block):
        b.delay.max_delay = None
        b.delay.delay.data.fill_(100.5)
    x = sample((3, 20, 150), 0.2)
    expected = whole(x)
    assert expected.any()
    assert torch.equal(torch.cat([block(part) for part in x.split([50, 70, 30], 2)], -1), expected)
    block.delay = axon.Delay(12, max_delay=0)
    block.delay_shift = False
    block(x)
    assert block.neuron.on_the_way.numel() < x.numel()  # nothing is under way any more


def set_to_zero(neuron):
    neuron.current_state = 0
    neuron.voltage_state = 0


def set_to_zero_in_place(neuron):
    neuron.current_state.zero_()
    neuron.voltage_state[:] = 0.0


@pytest.mark.parametrize("reset", [set_to_zero, set_to_zero_in_place, type(dense_block(1, 1).neuron).reset_state])
def test_setting_the_states_to_zero_discards_the_spikes_under_way(reset):
    block = dense_block(20, 12, neuron={"persistent_state": True}, delay=True).eval()
    block.delay.delay.data.fill_(20.5)
    x = sample((3, 20, 50), 0.2)
    first = block(x)
    assert not torch.equal(block(x), first)
    reset(block.neuron)
    assert torch.equal(block(x), first)


def test_without_a_delay_buffer_no_spike_is_under_way():
    block = dense_block(20, 12, neuron={"persistent_state": True}, delay=True).eval()
    block.delay.delay.data.fill_(20.5)
    block(sample((3, 20, 50), 0.2))
    assert block.delay_buffer.any()
    block.delay_buffer = None
    assert not block(torch.zeros(3, 20, 20)).any()
    with pytest.raises(ValueError, match="delay_buffer: expected None, found a Tensor"):
        block.delay_buffer = torch.zeros(3)


def test_a_parametrised_decay_can_be_listed_and_exported(tmp_path):
    block = dense_block(20, 12)
    parametrize.register_parametrization(block.neuron, "scaled_current_decay", torch.nn.Softplus())
    decay = block.neuron.cx_current_decay
    assert f"iDecay={decay}" in repr(block)
    assert netx.load(netx.write_network(tmp_path / "a.net", [block]))[0].i_decay == decay


def test_chunks_of_a_convolution_with_persistent_state_equal_the_whole():
    torch.manual_seed(2)
    block = cuba.Conv({**PARAMS, "persistent_state": True}, 2, 3, 3, weight_scale=5, delay=True)
    block.delay.delay.data.copy_(torch.tensor([0.5, 9.5, 40.5]))
    x = sample((2, 2, 6, 5, 90), 0.3)
    expected = block(x)
    block.neuron.reset_state()
    assert torch.equal(torch.cat([block(part) for part in x.split([31, 59], -1)], -1), expected)
    assert expected[:, 2].any()
    assert "on_the_way" not in "".join(block.state_dict())


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


def test_gradients_of_two_forward_passes_add_up():
    block = dense_block(20, 10)
    x, grad = sample((2, 20, 30)), gradient_like((2, 10, 30))
    _, once = run(copy.deepcopy(block), x, grad)
    first, second = block(x), block(x)
    (first * grad).sum().backward(retain_graph=True)
    (second * grad).sum().backward()
    del once["x"]
    for name, grad_once in once.items():
        assert_close(operator.attrgetter(name)(block).grad, 2 * grad_once)


def test_an_output_remembers_its_events():
    block = dense_block(20, 10, dropout=0.2)
    out = block(sample((2, 20, 30)))
    events = remembered(out)
    assert events.value == 1.25
    assert torch.equal(events.dense(), out.detach())
    changed = block(sample((2, 20, 30))).mul_(2)  # a change in place is allowed, has a gradient and discards the events
    assert remembered(changed) is None
    changed.sum().backward()
    assert block.delay.delay.grad is not None


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("second", [{}, {"pre_hook_fx": lambda w, descale=False: w}], ids=["fused", "in parts"])
def test_spikes_between_blocks_carry_the_gradient(backend, second):
    """Blocks that exchange `Spikes` instead of dense tensors give the same output and gradients."""
    first, second = dense_block(20, 70, dropout=0.2), dense_block(70, 8, seed=2, **second)
    parameters = [*first.parameters(), *second.parameters()]
    x, grad = sample((2, 20, 30), density=0.3), gradient_like((2, 8, 30))
    with kernels.using(backend):
        found = []
        for between in (lambda x: first(x), lambda x: first(x, dense=False), lambda x: first(x, dense=False).dense()):
            torch.manual_seed(0)
            out = second(between(x))
            found.append((out, *torch.autograd.grad(out, parameters, grad)))
        assert isinstance(first(x, dense=False), Spikes)
    assert all(g.any() for g in found[0])
    for others in found[1:]:
        for plain, other in zip(found[0], others, strict=True):
            assert torch.equal(plain, other)


def test_spikes_between_blocks_free_their_memory_at_once():
    """No reference cycle keeps the voltages (20 MB in training) until the garbage collector runs."""
    gc.collect()
    gc.disable()
    try:
        spikes = dense_block(20, 10)(sample((2, 20, 30)), dense=False)
        watched = weakref.ref(spikes)
        assert spikes.source.grad_fn is not None
        del spikes
        assert watched() is None
    finally:
        gc.enable()


def test_a_dense_tensor_between_blocks_is_freed_before_the_backward_pass():
    """The next block keeps its spikes only: for 32 recordings, a tensor of 512 neurons takes 20 MB."""
    first, second = dense_block(20, 12), dense_block(12, 8, seed=2)
    between = first(sample((2, 20, 30)))
    watched = weakref.ref(between)
    out = second(between)
    del between
    assert watched() is None
    out.sum().backward()
    assert first.synapse.weight_v.grad.any()


def test_a_change_in_place_between_blocks_takes_effect():
    first, second = dense_block(20, 12), dense_block(12, 8, seed=2)
    x = sample((2, 20, 30))
    with torch.no_grad():
        between = first(x)
        assert between.any()
        between.zero_()
        assert not second(between).any()


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64])
def test_input_of_other_dtypes_gives_the_same_output(kind):
    block = dense_block(20, 10)
    x = sample((2, 20, 30))
    assert torch.equal(block(x.to(kind)), block(x))
    graded = torch.arange(1200).reshape(2, 20, 30) % 3
    assert kind == torch.bool or torch.equal(block(graded.to(kind)), block(graded.float()))


# ------------------------------------------------------------------------------------------------------- options


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


def test_a_copy_has_its_own_mask_and_hooks():
    block = cuba.Dense(PARAMS, 8, 4, mask=torch.ones(4, 8).bool())
    other = copy.deepcopy(block)
    other.mask.zero_()
    assert (other.synapse.hooked_weight() == 0).all()
    assert (block.synapse.hooked_weight() != 0).any()
    assert other.synapse.pre_hook_fx.__self__ is other.neuron
    plain = copy.deepcopy(cuba.Dense(PARAMS, 8, 4))
    assert plain.synapse.pre_hook_fx.__self__ is plain.neuron


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


@pytest.mark.parametrize("masked", [False, True])
def test_a_block_is_freed_with_its_last_name(masked):
    """Without a mask at once; a mask makes a cycle, which Python's collector finds."""
    block = cuba.Dense(PARAMS, 8, 4, mask=torch.ones(4, 8) if masked else None)
    freed = weakref.ref(block)
    del block
    if masked:
        gc.collect()
    assert freed() is None


def test_a_function_can_take_the_place_of_dropout():
    torch.manual_seed(0)
    block = cuba.Dense({**PARAMS, "dropout": lambda spikes: spikes * 0.5}, 30, 20, weight_scale=3)
    x = sample((2, 30, 40), 0.2)
    assert set(block(x).unique().tolist()) == {0.0, 0.5}


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


def test_dense_block_flattens_input_with_five_axes():
    block = dense_block((4, 3, 2), 9)  # width, height, channels
    x = sample((2, 2, 3, 4, 25), 0.2)
    out = block(x)
    assert out.shape == (2, 9, 1, 1, 25)
    assert torch.equal(out[:, :, 0, 0], block(x.reshape(2, 24, 25)))
    assert out.any()


def test_layer_spec_holds_the_values_in_use():
    block = dense_block(12, 7)
    block.delay.delay.data[:2] = torch.tensor([-5.0, 80.0])
    spec = block.layer_spec()
    np.testing.assert_array_equal(spec.weight, 2 * weight_steps(block))
    np.testing.assert_array_equal(spec.delay, block.delay.delay.detach().clamp(0, 62).floor().numpy())
    assert spec.delay[:2].tolist() == [0, 62]
    assert (spec.i_decay, spec.v_decay, spec.v_th_mant) == (1024, 123, 80)
    assert block.shape == (7,)


def test_wrong_input_raises():
    block = cuba.Dense(PARAMS, 6, 4)
    with pytest.raises(ValueError, match=r"with 6 neurons, found \[2, 5, 3\]"):
        block(torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match=r"with 6 neurons, found \[2, 5, 3\]"):
        block(Spikes.from_dense(torch.zeros(2, 5, 3)))
    for empty in (torch.zeros(0, 6, 3), torch.zeros(2, 6, 0)):
        with pytest.raises(ValueError, match="no empty axis"):
            block(empty)
        with pytest.raises(ValueError, match="no empty axis"), kernels.using("reference"):
            block(empty)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_raise(backend, bad):
    x = sample((2, 6, 10), 0.3)
    wrong = x.clone()
    wrong[1, 2, 3] = bad
    with kernels.using(backend):
        for weight_norm in (True, False):
            block = cuba.Dense(PARAMS, 6, 4, weight_norm=weight_norm, delay=True)
            with pytest.raises(OverflowError, match="not finite"):
                block(wrong)
        block.synapse.weight.data[2, 3] = float("nan")
        with pytest.raises(OverflowError, match="weights: expected finite numbers, found NaN"):
            block(x)
        block = cuba.Dense(PARAMS, 6, 4, delay=True)
        block.delay.delay.data[0] = float("nan")
        with pytest.raises(OverflowError, match="delay: expected finite numbers, found NaN"):
            block(x)


def test_parameters_are_in_lava_dls_order():
    block = dense_block(4, 3)
    last = [name.rpartition(".")[2] for name, _ in block.named_parameters()]
    assert last == ["scaled_current_decay", "scaled_voltage_decay", "delay", "weight_g", "weight_v"]
    assert [n.rpartition(".")[2] for n in block.state_dict()][:3] == ["current_decay", "voltage_decay", "delay"]


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


class Silent(axon.Delay):
    def forward(self, spikes):
        return 0 * super().forward(spikes)


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
