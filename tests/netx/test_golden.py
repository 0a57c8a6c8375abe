"""A network that lava-dl trained, saved and exported: its answers are ours, spike for spike.

``golden/`` (74 kB) was made with lava-dl d825ac5 and lava b6822fb: 72-40-30-10 CUBA neurons with weight norm, learned
delays, learned decays and dropout. ``network.pt`` is its state_dict, ``network.net`` its export; ``spikes.npz`` holds
input spikes ``x``, the answers ``torch_y`` of lava-dl's model in evaluation mode, and ``loihi_y``, what lava's netx
answers to one of the inputs on its simulator of the chip.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from nmnist_helpers import netx
from nmnist_helpers.checkpoint import load_checkpoint

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
