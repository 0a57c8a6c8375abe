"""Test what the reader and the writer of network files accept."""

import os
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from support.layers import small_layers, spec
from support.neurons import FIXED

from nmnist_helpers import netx
from nmnist_helpers.block import cuba, hdf5
from nmnist_helpers.netx import LayerSpec, NetFileError


def test_file_has_the_layout_that_lavas_netx_reads(tmp_path):
    rng = np.random.default_rng(6)
    layers = small_layers(rng)
    with h5py.File(netx.write_network(tmp_path / "a.net", layers)) as file:
        assert list(file) == ["layer"]
        assert sorted(file["layer"]) == ["0", "1", "2"]
        group = file["layer/1"]
        assert set(group) == {"type", "shape", "inFeatures", "outFeatures", "weight", "delay", "neuron"}
        assert set(group["neuron"]) == {"type", "iDecay", "vDecay", "vThMant", "refDelay", "gradedSpike"}
        assert "delay" not in file["layer/2"]
        # lava's netx reads ASCII strings, by [0] from datasets that have a shape and by [()] from scalars.
        assert group["type"].dtype == "S10"
        assert group["type"].shape == (1,)
        assert group["type"][0].decode("ascii") == "dense"
        assert group["neuron/type"][()].decode("ascii") == "CUBA"
        assert np.prod(group["shape"][()]) == 8
        assert group["shape"].shape == (1,)
        assert (group["inFeatures"][()], group["outFeatures"][()]) == (9, 8)
        assert group["weight"].dtype == np.float32
        assert group["weight"].compression == "gzip"
        np.testing.assert_array_equal(group["weight"][()].astype(int), layers[1].weight)
        assert group["delay"].dtype == np.float32
        np.testing.assert_array_equal(group["delay"][()], layers[1].delay)
        np.testing.assert_array_equal(group["neuron/iDecay"][()] - 1, layers[1].i_decay - 1)
        assert file["layer/0/neuron/iDecay"][()] - 1 == 1023
        assert file["layer/0/neuron/vDecay"][()] == 123
        assert group["neuron/vThMant"][()] == 80
        assert group["neuron/refDelay"][()] == 1
        assert group["neuron/gradedSpike"].dtype == bool
        assert not group["neuron/gradedSpike"][()]


def test_round_trip(tmp_path):
    layers = small_layers(np.random.default_rng(7))
    layers[2] = spec(np.random.default_rng(8), 8, 4, bias=[1, -4096, 4095, 0])
    assert netx.load(netx.write_network(tmp_path / "a.net", layers)).layers == layers
    layers[0].weight[0, 0] += 2
    assert netx.load(tmp_path / "a.net").layers != layers


def test_a_missing_delay_is_not_a_delay_of_zero():
    missing, zero = (LayerSpec("dense", [[2]], delay, 0, 0, 80) for delay in (None, [0]))
    assert missing != zero


def test_files_in_lava_dls_own_layout_are_read(tmp_path):
    """The file is uncompressed; the neuron's type has variable length, and a shared decay is a one-element array."""
    layers = small_layers(np.random.default_rng(9))
    with h5py.File(tmp_path / "lava.net", "w") as file:
        for index, layer in enumerate(layers):
            group = file.create_group(f"layer/{index}")
            group.create_dataset("type", (1,), "S10", [b"dense"])
            group.create_dataset("shape", data=np.array([layer.out_features]))
            group.create_dataset("inFeatures", data=layer.in_features)
            group.create_dataset("outFeatures", data=layer.out_features)
            group.create_dataset("weight", data=layer.weight.astype(np.float32))
            if layer.delay is not None:
                group.create_dataset("delay", data=layer.delay.astype(np.float32))
            decays = {"iDecay": np.atleast_1d(layer.i_decay), "vDecay": layer.v_decay}
            for name, value in {"type": "CUBA", **decays, "vThMant": 80, "refDelay": 1}.items():
                group.create_dataset(f"neuron/{name}", data=value)
            group.create_dataset("neuron/gradedSpike", data=False)
    assert netx.load(tmp_path / "lava.net").layers == layers


def test_a_weight_in_many_chunks_is_read(tmp_path):
    layers = small_layers(np.random.default_rng(10))
    netx.write_network(tmp_path / "a.net", layers)
    with h5py.File(tmp_path / "a.net", "a") as file:
        weight = file["layer/0/weight"][()]  # 9 x 12: the chunks at the edges are incomplete
        del file["layer/0/weight"]
        file["layer/0"].create_dataset("weight", data=weight, chunks=(4, 5), compression="gzip")
    assert netx.load(tmp_path / "a.net").layers == layers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"stride": (2, 2)},
            r"type: expected no stride, padding, dilation or groups, found \(\(2, 2\), .* for 'dense'",
        ),
        ({"groups": 2}, "type: expected no stride, padding, dilation or groups"),
        ({"weight": [[1, 2]]}, r"weight: expected even integers in -256\.\.254.*found 1 at \[0, 0\] \(1 of 2 are"),
        ({"weight": [[2, 256]]}, r"weight: .*found 256 at \[0, 1\]"),
        ({"weight": [[-258, 0]]}, r"weight: .*found -258 at \[0, 0\]"),
        ({"weight": [[0.5, 2]]}, r"weight: .*found 0\.5 at"),
        ({"weight": [[np.nan, 2]]}, "weight: .*found nan at"),
        ({"weight": [[2, np.inf]]}, "weight: .*found inf at"),
        ({"weight": [2, 4]}, r"weight: expected \[out, in\].*found shape \(2,\)"),
        ({"weight": np.zeros((0, 3))}, r"weight: .*found shape \(0, 3\)"),
        ({"weight": [[True]]}, "weight: .*found values of type bool"),
        ({"weight": [["2"]]}, "weight: .*found values of type <U1"),
        ({"delay": [63]}, r"delay: expected integers in 0\.\.62, found 63 at \[0\]"),
        ({"delay": [-1]}, "delay: .*found -1 at"),
        ({"delay": [0.5]}, r"delay: .*found 0\.5 at"),
        ({"delay": [1, 2]}, r"delay: expected \[1\], one for each channel.*found shape \(2,\)"),
        ({"delay": 3}, r"delay: expected \[1\], one for each channel.*found shape \(\)"),
        ({"i_decay": 4097}, r"i_decay: expected an integer in 0\.\.4096.*found 4097"),
        ({"i_decay": -1}, "i_decay: .*found -1"),
        ({"i_decay": 0.25}, r"i_decay: .*found 0\.25"),
        ({"v_decay": float("nan")}, "v_decay: .*found nan"),
        ({"v_decay": [1, 2]}, r"v_decay: expected \[1\], one for each channel, or a single.*found shape \(2,\)"),
        ({"v_th_mant": -1}, r"v_th_mant: expected an integer in 0\.\.131071.*found -1"),
        ({"v_th_mant": 1 << 17}, "v_th_mant: .*found 131072"),
        ({"v_th_mant": None}, "v_th_mant: .*found None"),
        ({"ref_delay": 2}, "ref_delay: expected 1, the only supported value.*found 2"),
        ({"bias": [5000]}, "bias: .*found 5000 at"),
        ({"bias": [4096]}, "bias: .*found 4096 at"),
        ({"weight": np.zeros((1, 1048577))}, "weight: expected 1 to 1048576 neurons and inputs, found 1 neurons"),
        (
            {"type": "pool", "weight": np.zeros((2, 1, 2, 2)), "in_shape": (1, 4, 4)},
            r"weight: expected \[1, 1, height, width\].*found shape \(2, 1, 2, 2\)",
        ),
        (
            {"type": "conv", "weight": np.zeros((1, 1, 1, 1)), "in_shape": (4, 4)},
            r"in_shape: expected \(channels, height, width\), found \(4, 4\)",
        ),
        ({"type": "conv"}, "weight: expected .out, in / groups, height, width..*found shape .1, 2."),
        (
            {"type": "conv", "weight": np.zeros((3, 1, 2, 2)), "in_shape": (2, 4, 4), "groups": 2},
            r"weight: expected .* for 2 input channels, found shape \(3, 1, 2, 2\) in 2 groups",
        ),
        (
            {"type": "conv", "weight": np.zeros((1, 1, 5, 5)), "in_shape": (1, 4, 4)},
            "weight: expected 1 to 1048576 neurons and inputs, found 0 neurons",
        ),
    ],
)
def test_every_rule_of_a_layer_is_checked(changes, message):
    good = {"type": "dense", "weight": [[2, 4]], "delay": [3], "i_decay": 1024, "v_decay": 123, "v_th_mant": 80}
    LayerSpec(**good)
    with pytest.raises(ValueError, match=message):
        LayerSpec(**{**good, **changes})


def test_rules_are_checked_again_on_write(tmp_path):
    layers = small_layers(np.random.default_rng(11))
    layers[1].weight[2, 3] = 7
    with pytest.raises(ValueError, match=r"layer 1: weight: .*found 7 at \[2, 3\]"):
        netx.write_network(tmp_path / "a.net", layers)
    with h5py.File(tmp_path / "b.net", "w") as file:
        with pytest.raises(ValueError, match=r"weight: .*found 7 at \[2, 3\]"):
            netx.write_layer(file, layers[1])
        assert len(file) == 0  # checked before anything is written
    assert os.listdir(tmp_path) == ["b.net"]


def test_rules_are_checked_again_when_a_network_is_made_of_layers():
    layers = small_layers(np.random.default_rng(11))
    layers[1].weight[2, 3] = 7
    with pytest.raises(ValueError, match=r"layer 1: weight: .*found 7 at \[2, 3\]"):
        netx.Net(layers)


def test_consecutive_layers_must_match(tmp_path):
    rng = np.random.default_rng(12)
    with pytest.raises(ValueError, match="layer 1: weight: expected 9 inputs from the layer before, found 8"):
        netx.write_network(tmp_path / "a.net", [spec(rng, 12, 9), spec(rng, 8, 4)])
    pictures = [
        spec(rng, 1, 1, type="conv", weight=np.zeros((1, shape[0], 1, 1)), in_shape=shape, delay=None)
        for shape in ((1, 4, 4), (4, 2, 2))
    ]
    with pytest.raises(ValueError, match=r"layer 1: in_shape: expected \(1, 4, 4\) .*, found \(4, 2, 2\)"):
        netx.write_network(tmp_path / "a.net", pictures)
    inputs = LayerSpec("input", np.full((1, 1, 1, 1), 64), None, 1024, 123, 80, in_shape=(2, 1, 1))
    with pytest.raises(ValueError, match="layer 1: type: expected 'input' only as the first layer"):
        netx.write_network(tmp_path / "a.net", [spec(rng, 3, 2), inputs])
    with pytest.raises(ValueError, match="expected 1 to 256 layers, found 0"):
        netx.write_network(tmp_path / "a.net", [])
    with pytest.raises(ValueError, match="layer 0: expected a block.*found Linear"):
        netx.write_network(tmp_path / "a.net", [torch.nn.Linear(2, 2)])


def test_consecutive_layers_of_a_file_must_match(tmp_path):
    rng = np.random.default_rng(15)
    with h5py.File(tmp_path / "a.net", "w") as file:
        netx.write_layer(file.create_group("layer/0"), spec(rng, 3, 2))
        netx.write_layer(file.create_group("layer/1"), spec(rng, 3, 2))
    with pytest.raises(NetFileError, match=r"a\.net: .*layer 1: weight: expected 2 inputs.*found 3"):
        netx.load(tmp_path / "a.net")


def test_a_block_that_the_format_cannot_describe_is_refused(tmp_path):
    with pytest.raises(ValueError, match="layer 0: .*a .net file can describe, found delay_shift=False"):
        netx.write_network(tmp_path / "a.net", [cuba.Dense(FIXED, 3, 2, delay_shift=False)])
    assert not (tmp_path / "a.net").exists()


def test_a_group_that_is_not_empty_is_refused(tmp_path):
    rng = np.random.default_rng(13)
    with h5py.File(tmp_path / "a.net", "w") as file:
        netx.write_layer(file.create_group("0"), spec(rng, 3, 2))
        with pytest.raises(ValueError, match=r"group /0: expected an empty group.*found \[.*'weight'\] in it"):
            netx.write_layer(file["0"], spec(rng, 3, 2))


def test_a_stride_of_three_numbers_is_refused():
    for name in ("stride", "padding", "dilation"):
        with pytest.raises(ValueError, match=rf"{name}: expected one number or two, found \(1, 2, 3\)"):
            LayerSpec("conv", np.zeros((3, 2, 2, 2)), None, 1024, 123, 80, in_shape=(2, 5, 6), **{name: (1, 2, 3)})


def test_an_affine_layer_is_named(tmp_path):
    rng = np.random.default_rng(0)
    path = netx.write_network(tmp_path / "a.net", [spec(rng, 4, 3)])
    with h5py.File(path, "r+") as file:
        file["layer/0/neuron/vThMant"][...] = (1 << 18) - 1
    with pytest.raises(NetFileError, match="found lava-dl's Affine"):
        netx.load(path)


def test_writing_is_atomic(tmp_path, monkeypatch):
    rng = np.random.default_rng(14)
    path = netx.write_network(tmp_path / "a.net", [spec(rng, 3, 2)])
    before = path.read_bytes()
    real = hdf5.write_layer

    def write_and_fail(group, layer):
        real(group, layer)
        raise OSError("disk full")

    monkeypatch.setattr(hdf5, "write_layer", write_and_fail)
    with pytest.raises(OSError, match="disk full"):
        netx.write_network(path, [spec(rng, 4, 2)])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.net"]
    monkeypatch.undo()
    netx.write_network(tmp_path / "new" / "a.net", [spec(rng, 3, 2)])
    assert os.listdir(tmp_path / "new") == ["a.net"]


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a .net file, found none"):
        netx.load(tmp_path / "none.net")
    with pytest.raises(NetFileError, match="no regular file"):
        netx.load(tmp_path)


def test_listing(tmp_path):
    layers = small_layers(np.random.default_rng(16))
    net = netx.load(netx.write_network(tmp_path / "<b>.net", layers))
    text = str(net)
    assert "3 layers, 212 weights of 8 bits" in text
    assert len({len(line) for line in text.splitlines()[1:]}) == 1  # columns are aligned
    row = text.splitlines()[2].split()
    assert row == [
        *("1", "dense", "12", "9"),
        f"{layers[0].weight.min()}..{layers[0].weight.max()}",
        *(f"{100 * (layers[0].weight == 0).mean():.1f}", "%"),
        f"{layers[0].delay.min()}..{layers[0].delay.max()}",
        *("1024", "123", "80"),
    ]
    page = net._repr_html_()
    assert page.count("<tr>") == 4
    assert "&lt;b&gt;.net" in page
    assert "<b>" not in page
    assert repr(net) == "<Net 12 -> 9 -> 8 -> 4>"
    assert len(net) == 3
    assert net[1] == layers[1]
    assert list(net) == layers
    layers[1] = spec(np.random.default_rng(16), 9, 8, bias=np.arange(8))
    assert [row["bias"] for row in netx.Net(layers).rows()] == ["-", "0..7", "-"]


def test_the_shape_of_the_input_must_fit_the_file(tmp_path):
    path = netx.write_network(tmp_path / "a.net", small_layers(np.random.default_rng(7)))  # 12 inputs
    for shape in ("a", (3, 4), 12, (3, 4, 1, 1)):
        with pytest.raises(ValueError, match=r"in_shape: expected \(channels, height, width\), found"):
            netx.load(path, in_shape=shape)
    with pytest.raises(ValueError, match="in_shape: expected a whole number from 1, found 0"):
        netx.load(path, in_shape=(12, 1, 0))
    with pytest.raises(NetFileError, match=r"in_shape: expected \(12, 1, 1\), found \(9, 9, 9\)"):
        netx.load(path, in_shape=(9, 9, 9))
    assert netx.load(path, in_shape=(3, 2, 2)).layers == netx.load(path).layers
    conv = LayerSpec("conv", np.full((2, 2, 1, 1), 2), None, 1, 1, 80, in_shape=(2, 3, 4))
    path = netx.write_network(tmp_path / "b.net", [conv])
    with pytest.raises(NetFileError, match=r"in_shape: expected \(2, 3, 4\), found \(2, 4, 3\)"):
        netx.load(path, in_shape=(2, 4, 3))
    assert netx.load(path, in_shape=(2, 3, 4)).layers == [conv]


def test_the_input_shape_of_a_first_convolution_without_stride_is_inferred(tmp_path):
    geometry = {"in_shape": (4, 6, 7), "padding": (1, 0), "dilation": (2, 1), "groups": 2}
    conv = LayerSpec("conv", np.full((4, 2, 3, 2), 2), None, 1, 1, 80, **geometry)
    strided = replace(conv, stride=(1, 2))  # several widths give the same output
    for name, layer in (("a.net", conv), ("b.net", strided)):
        with h5py.File(tmp_path / name, "w") as file:
            netx.write_layer(file.create_group("layer/0"), layer)
    assert netx.load(tmp_path / "a.net").layers == [conv]
    with pytest.raises(NetFileError, match=r"/layer/0: expected an input layer before it, or in_shape for netx\.load"):
        netx.load(tmp_path / "b.net")
    assert netx.load(tmp_path / "b.net", in_shape=(4, 6, 7)).layers == [strided]


def test_an_input_layer_without_weight_has_the_weight_1(tmp_path):
    rng = np.random.default_rng(17)
    inputs = LayerSpec("input", np.full((1, 1, 1, 1), 64), None, 1024, 123, 80, in_shape=(3, 1, 1))
    path = netx.write_network(tmp_path / "a.net", [inputs, spec(rng, 3, 2)])
    with h5py.File(path, "a") as file:
        del file["layer/0/weight"]
    assert netx.load(path)[0] == inputs


def test_netxs_other_name_of_the_neuron_is_read(tmp_path):
    layers = small_layers(np.random.default_rng(18))
    with h5py.File(netx.write_network(tmp_path / "a.net", layers), "a") as file:
        file["layer/0/neuron/type"][...] = b"LOIHI"
    assert netx.load(tmp_path / "a.net").layers == layers


def test_a_chunk_that_was_stored_without_compression_is_read(tmp_path):
    """The HDF5 library leaves out a filter that makes a chunk no smaller, and notes this in the chunk's mask."""
    layers = small_layers(np.random.default_rng(19))
    with h5py.File(netx.write_network(tmp_path / "a.net", layers), "a") as file:
        weight = file["layer/0/weight"][()]
        del file["layer/0/weight"]
        data = file["layer/0"].create_dataset("weight", weight.shape, "f4", chunks=weight.shape, compression="gzip")
        data.id.write_direct_chunk((0, 0), weight.tobytes(), filter_mask=1)
    assert netx.load(tmp_path / "a.net").layers == layers


def test_a_flatten_layer_must_have_the_size_of_the_picture(tmp_path):
    rng = np.random.default_rng(20)
    conv = LayerSpec("conv", np.full((2, 2, 1, 1), 2), None, 1, 1, 80, in_shape=(2, 3, 4))
    path = netx.write_network(tmp_path / "a.net", [conv, spec(rng, 24, 2)])
    with h5py.File(path, "a") as file:
        file["layer/2/shape"][0] = 25
    with pytest.raises(NetFileError, match=r"/layer/2/shape: expected 24 neurons as in the layer before, found \[25,"):
        netx.load(path)


def test_a_single_block_goes_into_a_list(tmp_path):
    block = cuba.Dense(FIXED, 4, 3)
    for take in (netx.Net, lambda block: netx.write_network(tmp_path / "a.net", block)):
        with pytest.raises(ValueError, match="found Dense; a single block goes into a list"):
            take(block)
