"""Test the export, the reader and the integer simulator, the latter against an oracle in exact fractions."""

import os
from dataclasses import replace
from fractions import Fraction

import h5py
import numpy as np
import pytest
import torch
from support.neurons import FIXED

from nmnist_helpers import Network, netx
from nmnist_helpers.block import cuba, hdf5
from nmnist_helpers.netx import LayerSpec, NetFileError
from nmnist_helpers.netx.simulator import END
from nmnist_helpers.neuron.norm import MeanOnlyBatchNorm
from nmnist_helpers.spikes import Spikes


def spec(rng, inputs, out, **changes):
    fields = {
        "type": "dense",
        "weight": 2 * rng.integers(-60, 61, (out, inputs)),
        "delay": rng.integers(0, 63, out),
        "i_decay": 1024,
        "v_decay": 123,
        "v_th_mant": 80,
    }
    return LayerSpec(**{**fields, **changes})


def small_layers(rng):
    return [
        spec(rng, 12, 9),
        spec(rng, 9, 8, i_decay=rng.integers(0, 4097, 8), v_decay=rng.integers(0, 4097, 8)),
        spec(rng, 8, 4, delay=None),
    ]


def random_spikes(rng, shape, rate=0.2):
    return (rng.random(shape) < rate).astype(np.uint8)


# -- the oracle: the network's equations in fractions and Python integers, one neuron and one step at a time


def oracle_layer(layer, spikes):
    batch, inputs, steps = spikes.shape
    out = np.zeros((batch, layer.out_features, steps), np.uint8)
    for b in range(batch):
        for o in range(layer.out_features):
            du, dv = (int(np.broadcast_to(d, layer.out_features)[o]) for d in (layer.i_decay, layer.v_decay))
            lag = 1 + (0 if layer.delay is None else int(layer.delay[o]))
            bias = 0 if layer.bias is None else Fraction(int(layer.bias[o]), 64)
            current = after_reset = 0  # x4096
            for t in range(steps):
                z = sum(Fraction(int(layer.weight[o, i]), 64) for i in range(inputs) if spikes[b, i, t])
                current = int(Fraction(current * (4096 - du), 4096)) + int(4096 * z)  # int() rounds toward zero
                while current > END:
                    current -= 2 * END
                while current <= -END:
                    current += 2 * END
                voltage = int(Fraction(after_reset * (4096 - dv), 4096)) + int(current + 4096 * bias)
                voltage = sorted([1 - END, voltage, END - 1])[1]
                after_reset = voltage
                if Fraction(voltage, 4096) > Fraction(layer.v_th_mant, 64):
                    after_reset = 0
                    if t + lag < steps:
                        out[b, o, t + lag] = 1
    return out


def oracle(layers, spikes):
    for layer in layers:
        spikes = oracle_layer(layer, spikes)
    return spikes


@pytest.mark.parametrize("engine", ["fast", "reference"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"delay": None},
        {"i_decay": 0, "v_decay": 0},
        {"i_decay": 4096, "v_decay": 4096},
        {"i_decay": 1, "v_decay": 4095},
        {"i_decay": np.arange(7) * 600, "v_decay": np.arange(7)[::-1] * 500},
        {"i_decay": 1024, "v_decay": np.arange(7) * 600},
        {"bias": np.array([0, 5, -300, 4095, -4096, 1, -1])},
        {"v_th_mant": 0},
        {"v_th_mant": 4000},
        {"weight": -2 * np.arange(35).reshape(7, 5)},
        {"delay": np.full(7, 62)},
        {"delay": np.arange(7.0)},
    ],
    ids=lambda c: "-".join(c) or "plain",
)
def test_simulator_agrees_with_fractions(engine, changes):
    rng = np.random.default_rng(1)
    layer = spec(rng, 5, 7, **{"delay": rng.integers(0, 10, 7), **changes})
    spikes = random_spikes(rng, (2, 5, 60), 0.3)
    np.testing.assert_array_equal(netx.Net([layer])(spikes, engine=engine), oracle_layer(layer, spikes))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 3, 1), (2, 1, 40), (3, 5, 63), (35, 5, 7)])
def test_engines_agree_on_odd_sizes(shape):
    rng = np.random.default_rng(2)
    layers = [spec(rng, shape[1], 1, delay=None), spec(rng, 1, 6, delay=rng.integers(0, 5, 6)), spec(rng, 6, 3)]
    spikes = random_spikes(rng, shape, 0.5)
    expected = netx.Net(layers).all_layers(spikes, engine="reference")
    for fast, reference in zip(netx.Net(layers).all_layers(spikes), expected, strict=True):
        np.testing.assert_array_equal(fast, reference)
    np.testing.assert_array_equal(expected[-1], oracle(layers, spikes))


def test_stack_of_layers_agrees_with_fractions():
    rng = np.random.default_rng(3)
    layers = small_layers(rng)
    for layer in layers[:2]:
        layer.delay = rng.integers(0, 8, layer.out_features)
    spikes = random_spikes(rng, (2, 12, 80))
    expected = oracle(layers, spikes)
    assert 0.01 < expected.mean() < 0.9  # a silent network would prove nothing
    np.testing.assert_array_equal(netx.Net(layers)(spikes), expected)


def test_a_voltage_exactly_at_threshold_does_not_fire():
    exact = LayerSpec("dense", [[80]], None, 4096, 4096, 80)  # one spike lifts V to 80 * 64
    above = LayerSpec("dense", [[82]], None, 4096, 4096, 80)
    spike = np.ones((1, 1, 3), np.uint8)
    for engine in ("fast", "reference"):
        assert netx.Net([exact])(spike, engine=engine).tolist() == [[[0, 0, 0]]]
        assert netx.Net([above])(spike, engine=engine).tolist() == [[[0, 1, 1]]]


def test_negative_states_are_truncated_toward_zero():
    # After an inhibitory spike, I is -128, -64, ..., -1, 0. V sums I and ends at -255. If I were rounded down, it would
    # stay at -1 forever, and V would fall so far that the later excitatory spike could not make the neuron fire.
    layer = LayerSpec("dense", [[-2, 4]], None, 2048, 0, 0)
    spikes = np.zeros((1, 2, 340), np.uint8)
    spikes[0, 0, 0] = spikes[0, 1, 330] = 1
    for engine in ("fast", "reference"):
        out = netx.Net([layer])(spikes, engine=engine)
        np.testing.assert_array_equal(out, oracle_layer(layer, spikes))
        assert out[0, 0, 331] == 1


# -- input and output


def test_every_kind_of_input_gives_the_same_output():
    rng = np.random.default_rng(4)
    net = netx.Net(small_layers(rng))
    dense = random_spikes(rng, (40, 12, 30))  # more recordings than are simulated at a time
    expected = net(dense)
    assert expected.dtype == np.uint8
    assert expected.shape == (40, 4, 30)
    assert expected.any()
    np.testing.assert_array_equal(net(dense.astype(bool)), expected)
    np.testing.assert_array_equal(net(dense.astype(np.float64)), expected)
    tensor = torch.from_numpy(dense).float()
    for given in (tensor, Spikes.from_dense(tensor)):
        out = net(given)
        assert out.dtype == torch.float32
        np.testing.assert_array_equal(out.numpy(), expected)
    assert net(tensor.to(torch.bool)).dtype == torch.bool


@pytest.mark.parametrize(
    ("spikes", "message"),
    [
        (np.zeros((2, 11, 5)), r"spikes: expected \[B, 12, T\].*found shape \[2, 11, 5\]"),
        (np.zeros((12, 5)), r"spikes: expected \[B, 12, T\].*found shape \[12, 5\]"),
        (np.zeros((0, 12, 5)), r"spikes: .*found shape \[0, 12, 5\]"),
        (np.full((1, 12, 5), 0.5), "values other than 0 and 1"),
        (np.full((1, 12, 5), np.nan), "values other than 0 and 1"),
        (np.full((1, 12, 5), "a"), "values other than 0 and 1"),
    ],
)
def test_wrong_input_raises(spikes, message):
    with pytest.raises(ValueError, match=message):
        netx.Net(small_layers(np.random.default_rng(5)))(spikes)


def test_spikes_worth_more_than_one_are_refused():
    spikes = Spikes.from_dense(torch.ones(1, 12, 3))
    spikes.value = 2.0
    with pytest.raises(ValueError, match=r"expected spikes of value 1, found 2\.0"):
        netx.Net(small_layers(np.random.default_rng(5)))(spikes)


@pytest.mark.parametrize(
    ("kind", "remedy"), [(Spikes.from_dense, r"spikes\.value = 1\.0"), (np.asarray, r"\(spikes > 0\)\.float\(\)")]
)
def test_bins_of_another_length_are_named(kind, remedy):
    with pytest.raises(ValueError, match=f"holds 1 / sampling_time: train and run the network (on|with) {remedy}"):
        netx.Net(small_layers(np.random.default_rng(5)))(kind(torch.full((1, 12, 3), 0.5)))


def test_unknown_engine_raises():
    with pytest.raises(ValueError, match="engine: expected one of.*found 'torch'"):
        netx.Net(small_layers(np.random.default_rng(5)))(np.zeros((1, 12, 3)), engine="torch")


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_voltages_stop_at_24_bits(engine):
    """Inhibition lowers the voltage by 400 a step, excitation raises it by 396.875; the lowest voltage is -2048."""
    layer = LayerSpec("dense", np.repeat([[-256, 254]], 100, 1), None, 4096, 0, 0)
    spikes = np.zeros((1, 200, 40), np.uint8)
    spikes[0, :100, :20] = spikes[0, 100:, 20:] = 1
    out = netx.Net([layer])(spikes, engine=engine)
    np.testing.assert_array_equal(out, oracle_layer(layer, spikes))
    assert out.argmax() == 20 + 6  # 6 x 396.875 > 2048; from -8000 it would take 21 steps


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_currents_wrap_around_at_24_bits(engine):
    layer = LayerSpec("dense", np.repeat([[254], [-256]], 100, 1), None, 1, 100, 100_000)
    spikes = np.ones((1, 100, 60), np.uint8)
    out = netx.Net([layer])(spikes, engine=engine)
    np.testing.assert_array_equal(out, oracle_layer(layer, spikes))
    assert out[0, 0].any()
    assert not out[0, 0, 10:20].all()  # the current rises at every step, but the chip's becomes negative
    assert out[0, 1].any()  # although all spikes inhibit


# -- the file


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
        ({"type": "conv"}, "weight: expected .out, in / groups, height, width..*found shape .1, 2."),
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


def test_consecutive_layers_must_match(tmp_path):
    rng = np.random.default_rng(12)
    with pytest.raises(ValueError, match="layer 1: weight: expected 9 inputs from the layer before, found 8"):
        netx.write_network(tmp_path / "a.net", [spec(rng, 12, 9), spec(rng, 8, 4)])
    with pytest.raises(ValueError, match="expected 1 to 256 layers, found 0"):
        netx.write_network(tmp_path / "a.net", [])
    with pytest.raises(ValueError, match="layer 0: expected a block.*found a Linear"):
        netx.write_network(tmp_path / "a.net", [torch.nn.Linear(2, 2)])


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


# -- reading files without a valid network (see also test_hostile_files.py)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a .net file, found none"):
        netx.load(tmp_path / "none.net")
    with pytest.raises(NetFileError, match="no regular file"):
        netx.load(tmp_path)


def test_consecutive_layers_of_a_file_must_match(tmp_path):
    rng = np.random.default_rng(15)
    with h5py.File(tmp_path / "a.net", "w") as file:
        netx.write_layer(file.create_group("layer/0"), spec(rng, 3, 2))
        netx.write_layer(file.create_group("layer/1"), spec(rng, 3, 2))
    with pytest.raises(NetFileError, match=r"a\.net: .*layer 1: weight: expected 2 inputs.*found 3"):
        netx.load(tmp_path / "a.net")


# -- listing


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


# -- blocks


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


def test_blocks_from_a_file_can_be_trained(tmp_path):
    rng = np.random.default_rng(19)
    net = netx.load(netx.write_network(tmp_path / "a.net", small_layers(rng))).to_blocks(tau_grad=0.1)
    assert net.blocks[0].neuron.tau_grad == 0.1
    net(torch.from_numpy(random_spikes(rng, (4, 12, 60))).float()).sum().backward()
    assert net.blocks[0].synapse.weight.grad.abs().sum() > 0
    assert net.blocks[0].delay.delay.grad is not None
    net.export_hdf5(tmp_path / "b.net")
    assert (tmp_path / "b.net").read_bytes() == (tmp_path / "a.net").read_bytes()


def test_a_bias_becomes_a_normalisation():
    rng = np.random.default_rng(20)
    layer = spec(rng, 12, 9, bias=2 * rng.integers(-20, 20, 9), delay=None)
    spikes = torch.from_numpy(random_spikes(rng, (3, 12, 60))).float()
    blocks = netx.Net([layer]).to_blocks().eval()
    assert torch.equal(blocks(spikes).detach(), netx.Net([layer])(spikes))


# -- the tutorial's network on recordings


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


# -- convolution and pooling


def sum_of_weights(layer, spikes):
    """Return the sums of weights x 64 as int64 [B, out, H, W, T], computed one weight at a time from the definition."""
    batch, channels, height, width, steps = spikes.shape
    out, rows, columns = layer.out_shape
    total = np.zeros((batch, out, rows, columns, steps), np.int64)
    inputs, outputs = channels // layer.kernel_groups, out // layer.kernel_groups
    for o, y, x in np.ndindex(out, rows, columns):
        for i, ky, kx in np.ndindex(layer.kernel.shape[1:]):
            row = y * layer.stride[0] - layer.padding[0] + ky * layer.dilation[0]
            column = x * layer.stride[1] - layer.padding[1] + kx * layer.dilation[1]
            if 0 <= row < height and 0 <= column < width:
                channel = o // outputs * inputs + i
                total[:, o, y, x] += int(layer.kernel[o, i, ky, kx]) * spikes[:, channel, row, column].astype(int)
    return total


@pytest.mark.parametrize(
    "geometry",
    [
        {},
        {"padding": (1, 2)},
        {"stride": (2, 3)},
        {"dilation": (2, 1), "padding": (3, 0)},
        {"groups": 2, "stride": (1, 2), "padding": (0, 1), "dilation": (1, 2)},
        {"type": "pool", "stride": (3, 2)},
        {"type": "pool", "stride": (3, 2), "padding": (1, 1)},
        {"type": "pool", "stride": (1, 1), "dilation": (1, 2)},
    ],
    ids=str,
)
def test_conv_and_pool_match_their_definition(geometry):
    rng = np.random.default_rng(40)
    pool = geometry.get("type") == "pool"
    shape = (1, 1, 3, 2) if pool else (6, 4 // geometry.get("groups", 1), 3, 2)
    channels = 4 if pool else 6
    changes = {"delay": rng.integers(0, 9, channels), "i_decay": rng.integers(0, 4097, channels), "v_decay": 300}
    layer = spec(
        rng,
        1,
        1,
        **{"type": "conv", "weight": 2 * rng.integers(-40, 60, shape), "in_shape": (4, 8, 7)} | changes | geometry,
    )
    spikes = random_spikes(rng, (2, 4, 8, 7, 30), 0.15)
    expected = fire(layer, sum_of_weights(layer, spikes))
    for engine in ("fast", "reference"):
        found = netx.Net([layer])(spikes, engine=engine)
        assert found.shape == (2, *layer.out_shape, 30)
        np.testing.assert_array_equal(found, expected)
    assert found.any()


def fire(layer, total):
    out = np.zeros(total.shape, np.uint8)
    steps = total.shape[-1]
    for b, c, y, x in np.ndindex(total.shape[:-1]):
        du, dv = (int(np.broadcast_to(d, layer.channels)[c]) for d in (layer.i_decay, layer.v_decay))
        current = voltage = 0
        for t in range(steps):
            current = int(Fraction(current * (4096 - du), 4096)) + 64 * int(total[b, c, y, x, t])
            voltage = int(Fraction(voltage * (4096 - dv), 4096)) + current
            if voltage > 64 * layer.v_th_mant:
                voltage = 0
                if t + 1 + layer.delay[c] < steps:
                    out[b, c, y, x, t + 1 + layer.delay[c]] = 1
    return out


def test_a_stride_of_three_numbers_is_refused():
    for name in ("stride", "padding", "dilation"):
        with pytest.raises(ValueError, match=rf"{name}: expected one number or two, found \(1, 2, 3\)"):
            LayerSpec("conv", np.zeros((3, 2, 2, 2)), None, 1024, 123, 80, in_shape=(2, 5, 6), **{name: (1, 2, 3)})


def test_conv_and_pool_survive_a_round_trip_through_file_and_blocks(tmp_path):
    rng = np.random.default_rng(41)
    conv = spec(rng, 1, 1, type="conv", weight=2 * rng.integers(-40, 60, (3, 2, 2, 2)), in_shape=(2, 5, 6), delay=None)
    size = {"in_shape": (3, 4, 5), "stride": (2, 2)}
    pool = spec(rng, 1, 1, type="pool", weight=np.full((1, 1, 2, 2), 70), **size, delay=np.array([2, 0, 1]))
    layers = [conv, pool, spec(rng, 18, 4)]
    netx.write_network(tmp_path / "a.net", layers)
    with h5py.File(tmp_path / "a.net") as file:
        assert [file[f"layer/{i}/type"][0] for i in range(5)] == [b"input", b"conv", b"pool", b"flatten", b"dense"]
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


def test_an_affine_layer_is_named(tmp_path):
    rng = np.random.default_rng(0)
    path = netx.write_network(tmp_path / "a.net", [spec(rng, 4, 3)])
    with h5py.File(path, "r+") as file:
        file["layer/0/neuron/vThMant"][...] = (1 << 18) - 1
    with pytest.raises(NetFileError, match="found lava-dl's Affine"):
        netx.load(path)


def test_an_export_to_a_path_points_to_the_right_function():
    block = cuba.Dense(FIXED, 4, 3)
    with pytest.raises(TypeError, match=r"expected an open h5py.Group, found str; see netx.write_network"):
        block.export_hdf5("a.net")
