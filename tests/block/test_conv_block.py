"""Compare the Conv, Pool and Flatten blocks with the oracle and with torch."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import oracles
from support.neurons import PARAMS, THRESHOLD, gradient_like, sample
from support.oracles import assert_close

from nmnist_helpers import ConvNetwork, Spikes, axon, kernels, netx
from nmnist_helpers.block import cuba
from nmnist_helpers.neuron import Dropout
from nmnist_helpers.synapse.picture import OfPicture


def oracle_spikes(z, threshold=THRESHOLD):
    """Return the neuron oracle's spikes for an input of shape [B, C, H, W, T]."""
    flat = z.reshape(z.shape[0], -1, z.shape[-1])
    return oracles.neuron(flat, 3072, 3973, threshold)[2].reshape(z.shape)


@pytest.mark.parametrize("weight_norm", [True, False])
def test_conv_block_matches_the_oracle(weight_norm):
    torch.manual_seed(0)
    block = cuba.Conv(PARAMS, 2, 5, 3, stride=2, padding=1, weight_scale=8, weight_norm=weight_norm, delay=True)
    block.delay.delay.data.uniform_(0, 4)
    assert block.delay.delay.shape == (5,)
    x = sample((2, 2, 8, 7, 20), 0.2).requires_grad_()
    out = block(x)
    v = block.synapse.direction.detach()
    w = oracles.normed(v, block.synapse.weight_g.detach()) if weight_norm else v
    steps = torch.from_numpy(oracles.steps_of_weight(w)).double() / 32
    z = F.conv3d(x.detach().double(), steps, None, (2, 2, 1), (1, 1, 0)).float().numpy()
    spikes = oracle_spikes(z)
    lag = np.repeat(1 + np.floor(block.delay.delay.detach().numpy()).astype(int), z.shape[2] * z.shape[3])
    expected = oracles.shifted(spikes.reshape(2, -1, 20), lag).reshape(z.shape)
    np.testing.assert_array_equal(out.detach().numpy(), expected)
    assert expected.any()
    out.backward(gradient_like(out.shape))
    for name, parameter in block.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name
    assert x.grad.any()


def test_conv_block_gradients():
    """The neuron's gradient comes from the oracle; torch's convolution propagates it to the quantised weights."""
    torch.manual_seed(0)
    block = cuba.Conv(PARAMS, 2, 4, 3, weight_scale=6)
    x = sample((2, 2, 6, 6, 15), 0.2)
    out = block(x)
    grad = gradient_like(out.shape)
    out.backward(grad)
    w = (torch.from_numpy(oracles.steps_of_weight(block.synapse.weight.detach())).double() / 32).requires_grad_()
    z = F.conv3d(x.double(), w)
    flat = z.detach().numpy().reshape(2, -1, 15)
    i, v, s, *_ = oracles.neuron(flat.astype(np.float32), 3072, 3973, THRESHOLD)
    back = oracles.shifted_back(grad.numpy().reshape(flat.shape).astype(np.float64), 1)
    grad_z, by_current, by_voltage = oracles.neuron_gradient(back, i, v, s, 3072, 3973, oracles.surrogate(v))
    z.backward(torch.from_numpy(grad_z.reshape(z.shape)))
    assert_close(block.synapse.weight.grad, w.grad)
    assert block.neuron.current_decay.grad.item() == pytest.approx(by_current.sum(), rel=1e-4)
    assert block.neuron.voltage_decay.grad.item() == pytest.approx(by_voltage.sum(), rel=1e-4)


def test_pool_block_matches_the_oracle():
    block = cuba.Pool(PARAMS, 2, weight_scale=1.1)
    x = sample((2, 3, 5, 6, 20), 0.3)
    padded = F.pad(x, (0, 0, 0, 0, 0, 1)).reshape(2, 3, 3, 2, 3, 2, 20).sum((3, 5))
    z = padded.numpy() * np.float32(35 / 32)  # 1.1 quantised
    expected = oracles.shifted(oracle_spikes(z).reshape(2, -1, 20), 1).reshape(z.shape)
    np.testing.assert_array_equal(block(x).detach().numpy(), expected)
    assert expected.any()
    assert block.state_dict()["synapse.weight"].shape == (1, 1, 2, 2, 1)


def test_chain_of_conv_pool_flatten_and_dense():
    torch.manual_seed(3)
    net = torch.nn.Sequential(
        cuba.Conv(PARAMS, 2, 4, 3, padding=1, weight_scale=6, weight_norm=True, delay=True),
        cuba.Pool(PARAMS, 2, weight_scale=1.5),
        cuba.Flatten(),
        cuba.Dense(PARAMS, 4 * 4 * 4, 10, weight_scale=6, weight_norm=True),
    )
    x = sample((2, 2, 8, 8, 30), 0.3)
    out = net(x)
    assert out.shape == (2, 10, 30)
    assert out.any()
    out.sum().backward()
    assert all((p.grad != 0).any() for p in net.parameters() if p.requires_grad)
    flat, count = cuba.Flatten(count_log=True)(x)
    assert torch.equal(flat, x.reshape(2, -1, 30))
    assert count is None


def test_first_input_determines_shapes_and_delays():
    x = sample((2, 3, 8, 6, 20), 0.3)
    conv, pool, flat = cuba.Conv(PARAMS, 3, 4, 3, weight_scale=3), cuba.Pool(PARAMS, 2, delay=True), cuba.Flatten()
    dense = cuba.Dense(PARAMS, 24, 5)
    assert (conv.shape, pool.shape, flat.shape, dense.shape) == (None, None, None, (5,))
    dense(flat(pool(conv(x))))
    assert (conv.shape, pool.shape, dense.shape) == ((4, 6, 4), (4, 3, 2), (5,))
    assert list(flat.shape) == [24, 1, 1]
    assert pool.delay.shape == (4,)  # one for each channel; the first input determines their number


def test_decays_per_channel_need_num_neurons():
    with pytest.raises(ValueError, match="expected num_neurons with norm or shared_param=False"):
        cuba.Pool({**PARAMS, "shared_param": False}, 2)


# ------------------------------------------------------------------------------------------------- the fused step


def blocks():
    torch.manual_seed(2)
    params = {**PARAMS, "dropout": Dropout(p=0.1)}
    per_channel = {**params, "shared_param": False}
    return torch.nn.Sequential(
        cuba.Conv(per_channel, 2, 5, (3, 4), (2, 1), 1, weight_scale=8, weight_norm=True, delay=True),
        cuba.Conv(params, 5, 10, 3, groups=5, weight_scale=6),
        cuba.Pool(params, 2, weight_scale=1.5, delay=True),
        cuba.Flatten(),
        cuba.Dense(params, 60, 4, weight_scale=4),
    )


def run(net, x):
    torch.manual_seed(7)  # drop the same neurons in every run
    out = net(x)
    out.backward(gradient_like(out.shape))
    return [out.detach(), x.grad, *(p.grad for p in net.parameters() if p.requires_grad)]


def test_fused_step_equals_its_parts(monkeypatch):
    nets = [blocks(), blocks()]
    x = sample((2, 2, 9, 8, 40), 0.15)
    for net in nets:
        net[0].delay.delay.data.uniform_(0, 4)
        net[2].delay.draw(10)
    nets[1].load_state_dict(nets[0].state_dict())
    found = run(nets[0], x.clone().requires_grad_())
    monkeypatch.setattr(OfPicture, "window", lambda *_: None)
    expected = run(nets[1], x.clone().requires_grad_())
    assert torch.equal(found[0], expected[0])
    assert expected[0].any()
    for grad, expected_grad in zip(found[1:], expected[1:], strict=True):
        assert_close(grad, expected_grad)


def test_events_between_blocks_equal_dense_tensors():
    """Blocks that exchange events instead of dense tensors give the same spikes and gradients."""
    x = sample((2, 2, 9, 8, 40), 0.15)
    dense, sparse = blocks(), blocks()
    for net in (dense, sparse):
        torch.manual_seed(3)
        net[2].delay.draw(10)
    expected = run(dense, x.clone().requires_grad_())
    torch.manual_seed(7)
    spikes = Spikes.from_dense(x.flatten(1, 3)).as_picture((2, 9, 8))
    for block in sparse:
        spikes = block(spikes) if block is sparse[3] else block(spikes, dense=False)
    assert isinstance(spikes, Spikes)
    out = spikes.dense()
    out.backward(gradient_like(out.shape))
    assert torch.equal(out.detach(), expected[0])
    grads = [p.grad for p in sparse.parameters() if p.requires_grad]
    for grad, expected_grad in zip(grads, expected[2:], strict=True):
        assert_close(grad, expected_grad)


@pytest.mark.parametrize("value", [-0.3, 0.7])
def test_spikes_of_one_value_give_the_same_with_and_without_fusion(value):
    """A common value is applied after the sums, which stay exact."""
    torch.manual_seed(0)
    x = value * sample((4, 4, 12, 12, 30), 0.3)
    fused = cuba.Conv(PARAMS, 4, 6, 5, weight_scale=8).eval()
    parts = cuba.Conv({**PARAMS, "persistent_state": True}, 4, 6, 5, weight_scale=8).eval()
    parts.load_state_dict(fused.state_dict())
    before = fused.synapse(x)
    assert torch.equal(before, fused.synapse(x / value) * torch.tensor(value))
    assert torch.equal(fused(x), parts(x))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("layer", ["Conv", "Pool"])
def test_an_output_may_be_changed_in_place(backend, layer):
    torch.manual_seed(0)
    block = cuba.Conv(PARAMS, 2, 4, 3, weight_scale=6) if layer == "Conv" else cuba.Pool(PARAMS, 2)
    x, grads = sample((2, 2, 6, 6, 15), 0.3), []
    with kernels.using(backend):
        for change in (lambda y: 2 * y, lambda y: y.mul_(2)):
            block.zero_grad()
            y = block(x)
            spikes = y.detach().clone()
            change(y).square().sum().backward()
            grads.append([p.grad.clone() for p in block.parameters() if p.requires_grad])
        assert torch.equal(y, 2 * spikes)
    assert spikes.any()
    assert any(grad.any() for grad in grads[0])
    for by_copy, in_place in zip(*grads, strict=True):
        assert torch.equal(by_copy, in_place)


def test_a_picture_of_the_wrong_size_is_refused():
    spikes = Spikes.from_dense(sample((1, 12, 5), 0.5))
    with pytest.raises(ValueError, match=r"synapse.Conv: expected input \[B, 2, H, W, T\], found \[1, 12, 5\]"):
        cuba.Conv(PARAMS, 2, 4, 3)(spikes)
    with pytest.raises(ValueError, match=r"expected input \[B, 2, H, W, T\], found \[1, 3, 2, 2, 5\]"):
        cuba.Conv(PARAMS, 2, 4, 3)(spikes.as_picture((3, 2, 2)))


def test_exported_conv_network_equals_the_model(tmp_path):
    """The model, its exported file in both engines, and the blocks made from the file agree spike for spike."""
    torch.manual_seed(1)
    net = ConvNetwork(channels=(4, 6), neuron_params={"threshold": 0.5}).eval()
    for block, channels in ((net[0], 4), (net[1], 6), (net[-1], 10)):
        block.delay = axon.Delay(channels, max_delay=62)
        block.delay.delay.data.uniform_(0, 9)
    x = sample((2, 2312, 60), 0.03)
    with torch.no_grad():
        layers = net(x, layers=True)
        assert torch.equal(net(Spikes.from_dense(x)), layers[-1])
    assert all(out.any() for out in layers)
    assert sum(p.numel() for n, p in ConvNetwork().named_parameters() if "weight_v" in n) < 100_000
    ConvNetwork().export_hdf5(tmp_path / "untrained.net")  # before any forward pass
    with pytest.warns(UserWarning, match=r"layers \[0, 1\]: lava-dl's netx ignores the delays of convolutions"):
        net.export_hdf5(tmp_path / "network.net")
    exported = netx.load(tmp_path / "network.net")
    expected = [out for b, out in zip(net, layers, strict=True) if not isinstance(b, cuba.Flatten)]
    for engine in ("fast", "reference"):
        for found, out in zip(exported.all_layers(x, engine), expected, strict=True):
            assert torch.equal(found, out)
    with torch.no_grad():
        assert torch.equal(exported.to_blocks()(Spikes.from_dense(x)), layers[-1])


def test_a_neuron_with_more_inputs_than_its_state_can_hold_is_refused():
    block = cuba.Conv(PARAMS, 1 << 16, 1, 1, weight_scale=100)
    with pytest.raises(ValueError, match="convolution: expected at most 65535 inputs of a neuron, found 65536"):
        block(torch.ones(1, 1 << 16, 1, 1, 2))
