"""A network that lava-dl trained, saved and exported: its answers are ours, spike for spike.

``golden/`` (74 kB) was made with lava-dl d825ac5 and lava b6822fb: 72-40-30-10 CUBA neurons with weight norm, learned
delays, learned decays and dropout. ``network.pt`` is its state_dict, ``network.net`` its export; ``spikes.npz`` holds
input spikes ``x``, the answers ``torch_y`` of lava-dl's model in evaluation mode, and ``loihi_y``, what lava's netx
answers to one of the inputs on its simulator of the chip.

``pictures`` and ``input`` (70 kB) were made with lava-dl 0.6.0: a network of its Conv, Pool, Flatten and Dense blocks
with weight norm, groups, strides, dilation, learned delays, decays and a mean-only normalisation, and one that begins
with its Input block. ``x`` is the input, ``y<i>`` what block i sends on.
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


def test_the_checkpoint_answers_as_lava_dl_did(spikes):
    net = load_checkpoint(GOLDEN / "network.pt", neuron_params={"threshold": 1.25}).eval()
    with torch.no_grad():
        answer = net(torch.from_numpy(spikes["x"]).float())
    np.testing.assert_array_equal(answer.numpy(), spikes["torch_y"])
    exported = netx.load(GOLDEN / "network.net")
    assert exported.layers == netx.as_specs(net)


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_the_export_answers_as_lava_dl_and_the_chip_did(spikes, engine):
    answer = netx.load(GOLDEN / "network.net")(spikes["x"], engine=engine)
    np.testing.assert_array_equal(answer, spikes["torch_y"])
    np.testing.assert_array_equal(answer[spikes["loihi_sample"]], spikes["loihi_y"])
    assert spikes["loihi_y"].any()


def pictures_network():
    """The blocks of ``pictures``, as its author wrote them down for lava-dl."""
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
def test_every_kind_of_layer_answers_as_lava_dl_did(name, in_shape, with_neurons, engine):
    net = netx.load(GOLDEN / f"{name}.net", in_shape)
    with np.load(GOLDEN / f"{name}.npz") as file:
        for layer, index in zip(net.all_layers(file["x"], engine=engine), with_neurons, strict=True):
            np.testing.assert_array_equal(layer, file[f"y{index}"])
            assert layer.any()


def test_blocks_of_pictures_answer_as_lava_dl_did(tmp_path):
    """From its checkpoint and from its export; and back to a file, which lacks nothing."""
    exported = netx.load(GOLDEN / "pictures.net", (2, 8, 11))
    from_file = load_checkpoint(GOLDEN / "pictures.pt", pictures_network()).eval()
    with np.load(GOLDEN / "pictures.npz") as file:
        spikes, answer = torch.from_numpy(file["x"]).float(), file["y4"]
    for net in (from_file, exported.to_blocks().eval()):
        with torch.no_grad():
            np.testing.assert_array_equal(net(spikes).numpy(), answer)
        assert netx.as_specs(net) == exported.layers
        net.export_hdf5(tmp_path / "again.net")
        assert netx.load(tmp_path / "again.net").layers == exported.layers


def test_blocks_export_one_by_one_as_lava_dl_does(tmp_path):
    """The same members of the file with the same values, but for what lava-dl stores in another type."""
    import h5py

    net = load_checkpoint(GOLDEN / "pictures.pt", pictures_network()).eval()
    with pytest.raises(ValueError, match="expected a forward pass before the export, found none"):
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
