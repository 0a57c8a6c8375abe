"""Test that an exported network gives the spikes of its blocks, and becomes blocks again."""

import os
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from support.layers import random_spikes, small_layers, spec
from support.neurons import FIXED

from nmnist_helpers import Network, netx
from nmnist_helpers.block import cuba
from nmnist_helpers.netx import LayerSpec, NetFileError
from nmnist_helpers.neuron.norm import MeanOnlyBatchNorm
from nmnist_helpers.spikes import Spikes


def random_blocks(rng, sizes=(20, 16, 12, 5), **kwargs):
    torch.manual_seed(int(rng.integers(1 << 30)))
    blocks = []
    for index in range(len(sizes) - 1):
        last = index == len(sizes) - 2
        block = cuba.Dense(FIXED, sizes[index], sizes[index + 1], weight_norm=True, delay=not last, **kwargs)
        with torch.no_grad():
            block.synapse.weight_g.mul_(5)
            if not last:
                block.delay.delay.uniform_(0, 12)
        blocks.append(block)
    return torch.nn.ModuleList(blocks)


def run_blocks(blocks, spikes):
    for block in blocks:
        spikes = block(spikes)
    return spikes.detach()


@pytest.mark.parametrize("shared", [True, False])
def test_the_file_gives_the_output_of_the_blocks(tmp_path, shared):
    rng = np.random.default_rng(17)
    blocks = random_blocks(rng)
    if not shared:
        blocks[1] = cuba.Dense(
            {**FIXED, "shared_param": False, "current_decay": (0.1, 0.6)}, 16, 12, weight_scale=6, delay=True
        )
    net = netx.load(netx.write_network(tmp_path / "a.net", blocks))
    spikes = torch.from_numpy(random_spikes(rng, (6, 20, 150))).float()
    expected = run_blocks(blocks, spikes)
    assert 0.01 < expected.mean() < 0.9
    assert torch.equal(net(spikes), expected)
    assert torch.equal(net(spikes, engine="reference"), expected)
    back = net.to_blocks()
    assert netx.as_specs(back) == net.layers
    assert torch.equal(run_blocks(back, spikes), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"i_decay": np.array([0, 4096])}, r"layers \[1\]: lava-dl's netx cannot set a current decay of 0"),
        ({"v_decay": 4096}, r"layers \[1\]: lava-dl's netx cannot set a voltage decay of 4096"),
        ({"v_decay": np.array([4096, 0])}, r"layers \[1\]: lava-dl's netx cannot set a voltage decay of 4096"),
    ],
)
def test_decays_that_the_chip_cannot_hold_cause_a_warning(tmp_path, changes, message):
    rng = np.random.default_rng(0)
    layers = [spec(rng, 3, 3, i_decay=4096, v_decay=0), spec(rng, 3, 2, **changes)]
    with pytest.warns(UserWarning, match=message) as caught:
        netx.write_network(tmp_path / "a.net", layers)
    assert len(caught) == 1
    assert netx.load(tmp_path / "a.net").layers == layers


def test_a_wrapped_network_is_exported_as_itself(tmp_path):
    net = Network(4, inputs=3, outputs=2)
    wrapped = torch.optim.swa_utils.AveragedModel(torch.nn.DataParallel(net))
    paths = netx.write_network(tmp_path / "a.net", net), netx.write_network(tmp_path / "b.net", wrapped)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_export_changes_no_block_and_equals_the_tutorials_export(tmp_path):
    rng = np.random.default_rng(18)
    blocks = random_blocks(rng)
    state = {key: value.clone() for key, value in blocks.state_dict().items()}
    before = netx.write_network(tmp_path / "before.net", blocks).read_bytes()  # before any forward
    run_blocks(blocks, torch.ones(2, 20, 10))
    handle = h5py.File(tmp_path / "tutorial.net", "w")
    layer = handle.create_group("layer")
    for i, b in enumerate(blocks):
        b.export_hdf5(layer.create_group(f"{i}"))
    handle.close()
    assert (tmp_path / "tutorial.net").read_bytes() == before
    assert all(torch.equal(value, state[key]) for key, value in blocks.state_dict().items())
    assert state.keys() == blocks.state_dict().keys()


def test_exported_weights_are_clamped_and_rounded(tmp_path):
    block = cuba.Dense(FIXED, 4, 1)
    with torch.no_grad():
        block.synapse.weight.copy_(torch.tensor([100.0, -100.0, 1 / 64, 3 / 64]).reshape(1, 4, 1, 1, 1))
    weight = netx.load(netx.write_network(tmp_path / "a.net", [block]))[0].weight
    assert weight.tolist() == [[254, -256, 0, 4]]  # halves are rounded to the even step


def test_an_export_to_a_path_points_to_the_right_function():
    block = cuba.Dense(FIXED, 4, 3)
    with pytest.raises(TypeError, match=r"expected an open h5py.Group, found str; see netx.write_network"):
        block.export_hdf5("a.net")


# -- recordings and the shipped networks


def recordings(count, **options):
    from nmnist_helpers import NMNISTDataset

    dataset = NMNISTDataset(train=False, **options)
    chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
    return torch.stack([dataset[int(i)][0] for i in chosen])


def assert_spike_exact(net, spikes):
    """Assert that the export equals the network in every block, spike for spike; return the last block's output."""
    net.eval()
    exported = netx.Net(net)
    with torch.no_grad():
        layers = zip(net.blocks, net(spikes, layers=True), strict=True)
        outputs = [out for block, out in layers if not isinstance(block, cuba.Flatten)]
        for expected, found in zip(outputs, exported.all_layers(spikes), strict=True):
            assert torch.equal(found, expected)
    return outputs[-1]


@pytest.mark.skipif(not os.environ.get("NMNIST_DATA"), reason="NMNIST_DATA is not set: no real recordings here")
def test_export_is_spike_exact_on_real_recordings():
    from nmnist_helpers import Network

    torch.manual_seed(0)
    net = Network()
    with torch.no_grad():
        for block, gain in zip(net.blocks, (2.5, 4, 4), strict=True):
            block.synapse.weight_g.mul_(gain)
        for block in net.blocks[:2]:
            block.delay.delay.uniform_(0, 62)
    assert assert_spike_exact(net, recordings(24, source="recorded")).sum() > 1000


@pytest.mark.parametrize("name", ["best", "cnn"])
def test_a_shipped_export_equals_its_checkpoint(name):
    from nmnist_helpers import TRAINED, ConvNetwork, Network
    from nmnist_helpers.checkpoint import load_checkpoint

    net = load_checkpoint(TRAINED / name / "network.pt", ConvNetwork() if name == "cnn" else Network())
    assert netx.load(TRAINED / name / "network.net").layers == netx.as_specs(net)
    assert assert_spike_exact(net, recordings(8)).any()


# -- blocks from a file


def test_blocks_from_a_file_can_be_trained(tmp_path):
    rng = np.random.default_rng(19)
    net = netx.load(netx.write_network(tmp_path / "a.net", small_layers(rng))).to_blocks(tau_grad=0.1)
    assert net.blocks[0].neuron.tau_grad == 0.1
    net(torch.from_numpy(random_spikes(rng, (4, 12, 60))).float()).sum().backward()
    assert net.blocks[0].synapse.weight.grad.abs().sum() > 0
    assert net.blocks[0].delay.delay.grad is not None
    net.export_hdf5(tmp_path / "b.net")
    assert (tmp_path / "b.net").read_bytes() == (tmp_path / "a.net").read_bytes()


@pytest.mark.parametrize(
    "given", [{"threshold": 5}, {"current_decay": 0.9, "voltage_decay": 0.1}, {"num_neurons": 9}, {"scale": 32}]
)
def test_blocks_take_no_argument_that_the_layers_decide(given):
    net = netx.Net(small_layers(np.random.default_rng(19)))
    for make in (net.to_blocks, lambda **params: Network.from_layers(net.layers, **params)):
        with pytest.raises(ValueError, match=f"no arguments that the layers decide, found {', '.join(given)}"):
            make(**given)


def test_a_bias_becomes_a_normalisation():
    rng = np.random.default_rng(20)
    layer = spec(rng, 12, 9, bias=2 * rng.integers(-20, 20, 9), delay=None)
    spikes = torch.from_numpy(random_spikes(rng, (3, 12, 60))).float()
    blocks = netx.Net([layer]).to_blocks().eval()
    assert torch.equal(blocks(spikes).detach(), netx.Net([layer])(spikes))


def test_a_normalisation_survives_a_round_trip(tmp_path):
    """Blocks made by `to_blocks` can be exported again; blocks with other normalisations cannot."""
    rng = np.random.default_rng(42)
    netx.write_network(tmp_path / "a.net", [spec(rng, 6, 3, bias=np.array([4, -30, 256]))])
    blocks = netx.load(tmp_path / "a.net").to_blocks()
    netx.write_network(tmp_path / "b.net", blocks)
    assert netx.load(tmp_path / "b.net").layers == netx.load(tmp_path / "a.net").layers
    for bias in (3, 300):  # x64; a quantised mean is even and in -256..254
        with pytest.raises(ValueError, match="layer 0: bias: .*found values that no normalisation yields"):
            netx.Net([spec(rng, 6, 3, bias=np.full(3, bias))]).to_blocks()

    class OtherNorm(MeanOnlyBatchNorm):
        pass

    block = cuba.Dense({**FIXED, "norm": OtherNorm}, 6, 3)
    with pytest.raises(ValueError, match="a .net file can describe, found OtherNorm"):
        netx.write_network(tmp_path / "c.net", [block])
    with h5py.File(tmp_path / "a.net", "a") as file:
        file["layer/0/neuron/weight_exp"] = 0.0
    netx.load(tmp_path / "a.net")
    with h5py.File(tmp_path / "a.net", "a") as file:
        file["layer/0/neuron/weight_exp"][()] = 2
    with pytest.raises(
        NetFileError, match="/layer/0/neuron/weight_exp: expected 0, the only supported value, found another"
    ):
        netx.load(tmp_path / "a.net")


def test_conv_and_pool_survive_a_round_trip_through_file_and_blocks(tmp_path):
    rng = np.random.default_rng(41)
    conv = spec(rng, 1, 1, type="conv", weight=2 * rng.integers(-40, 60, (3, 2, 2, 2)), in_shape=(2, 5, 6), delay=None)
    size = {"in_shape": (3, 4, 5), "stride": (2, 2)}
    pool = spec(rng, 1, 1, type="pool", weight=np.full((1, 1, 2, 2), 70), **size, delay=np.array([2, 0, 1]))
    layers = [conv, pool, spec(rng, 18, 4)]
    netx.write_network(tmp_path / "a.net", layers)
    with h5py.File(tmp_path / "a.net") as file:
        assert [file[f"layer/{i}/type"][0] for i in range(5)] == [b"input", b"conv", b"pool", b"flatten", b"dense"]
        assert file["layer/3/shape"][:].tolist() == [18, 1, 1]
    net = netx.load(tmp_path / "a.net")
    assert net.layers == layers
    assert [row["out"] for row in net.rows()] == ["3x4x5", "3x2x3", "4"]
    spikes = random_spikes(rng, (70, 2, 5, 6, 20))
    out = net(spikes)
    with torch.no_grad():
        out_of_blocks = net.to_blocks().eval()(torch.from_numpy(spikes).float())
    np.testing.assert_array_equal(out, out_of_blocks.numpy())
    np.testing.assert_array_equal(out, net(spikes.reshape(70, 60, 20)))
    np.testing.assert_array_equal(out, net(Spikes.from_dense(torch.from_numpy(spikes.reshape(70, 60, 20)).float())))
    assert out.any()
    with pytest.raises(ValueError, match=r"expected \[B, 60, T\] or \[B, 2, 5, 6, T\].*found shape \[1, 2, 6, 5, 9\]"):
        net(np.zeros((1, 2, 6, 5, 9)))
    with pytest.raises(ValueError, match=r"layer 1: in_shape: expected \(4, 4, 5\).*found \(3, 4, 5\)"):
        netx.Net([spec(rng, 1, 1, type="conv", weight=np.zeros((4, 2, 2, 2)), in_shape=(2, 5, 6), delay=None), pool])


def test_files_begin_with_pooling_or_with_an_input_layer(tmp_path):
    rng = np.random.default_rng(45)
    size = {"in_shape": (3, 4, 6), "stride": (2, 2)}
    pool = spec(rng, 1, 1, type="pool", weight=np.full((1, 1, 2, 2), 70), **size, delay=None)
    inputs = spec(rng, 1, 1, type="input", weight=np.full((1, 1, 1, 1), 64), in_shape=(3, 2, 3), delay=None)
    for first, types in ((pool, [b"input", b"pool", b"flatten", b"dense"]), (inputs, [b"input", b"flatten", b"dense"])):
        layers = [first, spec(rng, 18, 4)]
        path = netx.write_network(tmp_path / "a.net", layers)
        with h5py.File(path) as file:
            assert [file[f"layer/{i}/type"][0] for i in range(len(file["layer"]))] == types
        assert netx.load(path).layers == layers


def test_delays_of_zero_in_a_convolution_cause_no_warning(tmp_path, recwarn):
    conv = LayerSpec("conv", np.full((2, 2, 1, 1), 2), np.zeros(2), 1, 1, 80, in_shape=(2, 3, 4))
    netx.write_network(tmp_path / "a.net", [conv])
    assert not recwarn.list


def test_a_pool_whose_windows_do_not_fill_the_picture_equals_its_block():
    rng = np.random.default_rng(43)
    size = {"type": "pool", "weight": np.full((1, 1, 3, 3), 70), "in_shape": (1, 8, 7), "stride": (1, 1)}
    net = netx.Net([spec(rng, 1, 1, delay=None, **size)])
    spikes = torch.from_numpy(random_spikes(rng, (2, 1, 8, 7, 20))).float()
    with torch.no_grad():
        assert torch.equal(net.to_blocks().eval()(spikes), net(spikes))
    assert net(spikes).any()


def test_a_pool_with_a_decay_per_channel_becomes_a_block_and_one_with_a_bias_does_not():
    rng = np.random.default_rng(42)
    size = {"type": "pool", "weight": np.full((1, 1, 2, 2), 70), "in_shape": (3, 4, 6), "stride": (2, 2)}
    pool = replace(spec(rng, 1, 1, delay=None, **size), i_decay=np.array([100, 1000, 4000]))
    net = netx.Net([pool, spec(rng, 18, 4)])
    spikes = random_spikes(rng, (5, 3, 4, 6, 20))
    with torch.no_grad():
        out = net.to_blocks().eval()(torch.from_numpy(spikes).float())
    np.testing.assert_array_equal(out.numpy(), net(spikes))
    assert out.any()
    with pytest.raises(ValueError, match="layer 0: bias: expected none in a pooling layer, found one"):
        netx.Net([replace(pool, bias=np.zeros(3, int)), spec(rng, 18, 4)]).to_blocks()
