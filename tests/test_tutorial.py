"""Run the program of lava-dl's tutorial, cell by cell, with one changed import, little data and one epoch."""

import os

import h5py
import matplotlib
import numpy as np
import pytest
import torch
from IPython import display
from PIL import Image
from torch.utils.data import DataLoader, Subset

import nmnist_helpers as slayer
from nmnist_helpers import NMNISTDataset, augment

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib import animation  # noqa: E402


class Network(torch.nn.Module):
    """The tutorial's network, as a lava-dl user writes it."""

    def __init__(self):
        super().__init__()
        neuron_params = {
            "threshold": 1.25,
            "current_decay": 0.25,
            "voltage_decay": 0.03,
            "tau_grad": 0.03,
            "scale_grad": 3,
            "requires_grad": True,
        }
        neuron_params_drop = {**neuron_params, "dropout": slayer.neuron.Dropout(p=0.05)}
        self.blocks = torch.nn.ModuleList(
            [
                slayer.block.cuba.Dense(neuron_params_drop, 34 * 34 * 2, 512, weight_norm=True, delay=True),
                slayer.block.cuba.Dense(neuron_params_drop, 512, 512, weight_norm=True, delay=True),
                slayer.block.cuba.Dense(neuron_params, 512, 10, weight_norm=True),
            ]
        )

    def forward(self, spike):
        for block in self.blocks:
            spike = block(spike)
        return spike

    def grad_flow(self, path):
        grad = [b.synapse.grad_norm for b in self.blocks if hasattr(b, "synapse")]
        plt.figure()
        plt.semilogy(grad)
        plt.savefig(path + "gradFlow.png")
        plt.close()
        return grad

    def export_hdf5(self, filename):
        with h5py.File(filename, "w") as h:
            layer = h.create_group("layer")
            for i, b in enumerate(self.blocks):
                b.export_hdf5(layer.create_group(f"{i}"))


@pytest.fixture
def folder(tmp_path, monkeypatch, few_digits):
    monkeypatch.chdir(tmp_path)
    os.makedirs("Trained")
    os.makedirs("gifs")
    return tmp_path


def gif_frames(path):
    with Image.open(path) as gif:
        return gif.n_frames


def test_the_tutorial_runs_with_one_changed_import(folder, capsys):
    torch.manual_seed(4)
    np.random.seed(4)  # noqa: NPY002 (as in the tutorial)
    trained_folder = "Trained"
    device = torch.device("cpu")
    net = Network().to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.001)

    training_set = Subset(NMNISTDataset(train=True, transform=augment, source="simulated"), range(64))
    testing_set = Subset(NMNISTDataset(train=False, source="simulated"), range(32))
    train_loader = DataLoader(dataset=training_set, batch_size=32, shuffle=True)
    test_loader = DataLoader(dataset=testing_set, batch_size=32, shuffle=True)

    # Input gifs as in the tutorial, but at a lower resolution: 34 x 34 pixels do not need 300 dpi.
    for i in range(1):
        spike_tensor, label = testing_set[np.random.randint(len(testing_set))]  # noqa: NPY002
        spike_tensor = spike_tensor.reshape(2, 34, 34, -1)
        event = slayer.io.tensor_to_event(spike_tensor.cpu().data.numpy())
        anim = event.anim(plt.figure(figsize=(5, 5)), frame_rate=60)
        anim.save(f"gifs/input{i}.gif", animation.PillowWriter(fps=24), dpi=30)
    assert gif_frames("gifs/input0.gif") > 10
    event.show(plt.figure(), frame_rate=24)
    plt.close("all")

    error = slayer.loss.SpikeRate(true_rate=0.2, false_rate=0.03, reduction="sum").to(device)
    stats = slayer.utils.LearningStats()
    assistant = slayer.utils.Assistant(net, error, optimizer, stats, classifier=slayer.classifier.Rate.predict)

    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    epochs = 1
    for epoch in range(epochs):
        for input, label in train_loader:
            assistant.train(input, label)
        print(f"\r[Epoch {epoch:2d}/{epochs}] {stats}", end="")
        for input, label in test_loader:
            assistant.test(input, label)
        print(f"\r[Epoch {epoch:2d}/{epochs}] {stats}", end="")

        stats_str = str(stats).replace("| ", "\n")
        print(f"[Epoch {epoch:2d}/{epochs}]\n{stats_str}")
        if stats.testing.best_accuracy:
            torch.save(net.state_dict(), trained_folder + "/network.pt")
        stats.update()
        stats.save(trained_folder + "/")
        flow = net.grad_flow(trained_folder + "/")
    printed = capsys.readouterr().out
    assert "Train" in printed
    assert "Test" in printed
    assert "accuracy" in printed
    assert len(flow) == 3
    assert all(g > 0 for g in flow)
    assert os.path.exists("Trained/gradFlow.png")
    for name, p in net.named_parameters():
        assert not torch.equal(before[name], p), f"{name} did not learn"

    stats.plot(figsize=(15, 5))
    plt.close("all")

    net.load_state_dict(torch.load(trained_folder + "/network.pt"))
    net.export_hdf5(trained_folder + "/network.net")
    with h5py.File("Trained/network.net") as exported:
        assert list(exported["layer"]) == ["0", "1", "2"]
        assert exported["layer/0/weight"].shape == (512, 2312)
        assert exported["layer/0/type"][0] == b"dense"

    net.eval()
    output = net(input.to(device))
    for i in range(1):
        inp_event = slayer.io.tensor_to_event(input[i].cpu().data.numpy().reshape(2, 34, 34, -1))
        out_event = slayer.io.tensor_to_event(output[i].cpu().data.numpy().reshape(1, 10, -1))
        inp_anim = inp_event.anim(plt.figure(figsize=(5, 5)), frame_rate=60)
        out_anim = out_event.anim(plt.figure(figsize=(10, 5)), frame_rate=60)
        inp_anim.save(f"gifs/inp{i}.gif", animation.PillowWriter(fps=24), dpi=30)
        out_anim.save(f"gifs/out{i}.gif", animation.PillowWriter(fps=24), dpi=30)
    assert sorted(os.listdir("gifs")) == ["inp0.gif", "input0.gif", "out0.gif"]
    assert gif_frames("gifs/out0.gif") > 10
    gif_td = lambda gif: f'<td> <img src="{gif}" alt="Drawing" style="height: 250px;"/> </td>'  # noqa: E731
    table = display.HTML("<table><tr>" + gif_td("gifs/inp0.gif") + gif_td("gifs/out0.gif") + "</tr></table>")
    assert "gifs/out0.gif" in table.data
    plt.close("all")
