"""Test that networks saved and exported by lava-dl give the same output here, spike for spike.

``golden/`` (74 kB) was made with lava-dl d825ac5 and lava b6822fb: 72-40-30-10 CUBA neurons with weight norm, learned
delays, learned decays and dropout. ``network.pt`` is its state_dict, ``network.net`` its export; ``spikes.npz`` holds
input spikes ``x``, the output ``torch_y`` of lava-dl's model in evaluation mode, and ``loihi_y``, the output of lava's
netx on its simulator of the chip for one of the inputs.

``pictures`` and ``input`` (70 kB) were made with lava-dl 0.6.0: a network of its Conv, Pool, Flatten and Dense blocks
with weight norm, groups, strides, dilation, learned delays, decays and a mean-only normalisation, and one that begins
with its Input block. ``x`` is the input, ``y<i>`` the output of block i.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from nmnist_helpers import netx
from nmnist_helpers.block import cuba
from nmnist_helpers.checkpoint import load_checkpoint
from nmnist_helpers.network import NEURON_PARAMS, Network
from nmnist_helpers.neuron.norm import MeanOnlyBatchNorm

GOLDEN = Path(__file__).with_name("golden")


@pytest.fixture(scope="module")
def spikes():
    with np.load(GOLDEN / "spikes.npz") as file:
        return dict(file)


def test_checkpoint_gives_the_output_of_lava_dl(spikes):
    net = load_checkpoint(GOLDEN / "network.pt", neuron_params={"threshold": 1.25}).eval()
    with torch.no_grad():
        output = net(torch.from_numpy(spikes["x"]).float())
    np.testing.assert_array_equal(output.numpy(), spikes["torch_y"])
    exported = netx.load(GOLDEN / "network.net")
    assert exported.layers == netx.as_specs(net)


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_export_gives_the_output_of_lava_dl_and_of_the_chip(spikes, engine):
    output = netx.load(GOLDEN / "network.net")(spikes["x"], engine=engine)
    np.testing.assert_array_equal(output, spikes["torch_y"])
    np.testing.assert_array_equal(output[spikes["loihi_sample"]], spikes["loihi_y"])
    assert spikes["loihi_y"].any()


def pictures_network():
    """Return the network ``pictures``, made with the arguments that its blocks had in lava-dl."""
    normed = {**NEURON_PARAMS, "norm": MeanOnlyBatchNorm}
    return Network.from_blocks(
        [
            cuba.Conv(NEURON_PARAMS, 2, 4, (3, 2), (1, 2), (1, 0), (2, 1), 2, weight_norm=True, delay=True),
            cuba.Pool(NEURON_PARAMS, (2, 3), weight_scale=1.1),
            cuba.Conv(normed, 4, 3, 2),
            cuba.Flatten(),
            cuba.Dense(NEURON_PARAMS, 6, 5, weight_norm=True, delay=True),
        ]
    )


@pytest.mark.parametrize(
    ("name", "in_shape", "with_neurons"), [("pictures", (2, 8, 11), [0, 1, 2, 4]), ("input", None, [0, 1])]
)
@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_every_kind_of_layer_gives_the_output_of_lava_dl(name, in_shape, with_neurons, engine):
    net = netx.load(GOLDEN / f"{name}.net", in_shape)
    with np.load(GOLDEN / f"{name}.npz") as file:
        for layer, index in zip(net.all_layers(file["x"], engine=engine), with_neurons, strict=True):
            np.testing.assert_array_equal(layer, file[f"y{index}"])
            assert layer.any()


def test_conv_blocks_give_the_output_of_lava_dl(tmp_path):
    """Blocks are made from the checkpoint and from the export, and both give the same export again."""
    exported = netx.load(GOLDEN / "pictures.net", (2, 8, 11))
    from_file = load_checkpoint(GOLDEN / "pictures.pt", pictures_network()).eval()
    with np.load(GOLDEN / "pictures.npz") as file:
        spikes, output = torch.from_numpy(file["x"]).float(), file["y4"]
    for net in (from_file, exported.to_blocks().eval()):
        with torch.no_grad():
            np.testing.assert_array_equal(net(spikes).numpy(), output)
        assert netx.as_specs(net) == exported.layers
        net.export_hdf5(tmp_path / "again.net")
        assert netx.load(tmp_path / "again.net").layers == exported.layers


def test_single_blocks_export_the_same_as_in_lava_dl(tmp_path):
    """The file has lava-dl's members with lava-dl's values; types and axes of length 1 are not compared."""
    import h5py

    net = load_checkpoint(GOLDEN / "pictures.pt", pictures_network()).eval()
    with pytest.raises(ValueError, match="expected a forward pass first, which shows the size of the picture, found"):
        net.blocks[0].layer_spec()
    assert net.blocks[0].shape is None
    net(torch.zeros(1, 2, 8, 11, 3))
    assert [tuple(b.shape) for b in net.blocks] == [(4, 6, 5), (4, 3, 2), (3, 2, 1), (6, 1, 1), (5,)]
    with h5py.File(tmp_path / "a.net", "w") as ours, h5py.File(GOLDEN / "pictures.net") as theirs:
        for index, block in enumerate(net.blocks):
            block.export_hdf5(ours.create_group(f"layer/{index}"))
        members = {}
        for name, file in (("ours", ours), ("theirs", theirs)):
            found = members[name] = {}
            file.visititems(lambda key, item, found=found: found.update({key: item}) if "type" not in key else None)
        assert members["ours"].keys() == members["theirs"].keys()
        for key, item in members["theirs"].items():
            if isinstance(item, h5py.Dataset):
                np.testing.assert_array_equal(np.squeeze(members["ours"][key][()]), np.squeeze(item[()]), key)
