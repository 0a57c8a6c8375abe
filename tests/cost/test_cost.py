"""Test the counts of operations, the memory and the answers over time."""

import math

import matplotlib
import numpy as np
import pytest
import torch

from nmnist_helpers import cost, netx
from nmnist_helpers.netx import LayerSpec
from nmnist_helpers.netx.simulator import _drives, events_of
from nmnist_helpers.spikes import Spikes
from nmnist_helpers.table import Table

matplotlib.use("Agg")


def network(rng):
    def layer(inputs, out, delay):
        weight = 2 * rng.integers(-60, 61, (out, inputs))
        weight[rng.random(weight.shape) < 0.3] = 0
        return LayerSpec("dense", weight, rng.integers(0, 9, out) if delay else None, 1024, 123, 80)

    return netx.Net([layer(15, 9, True), layer(9, 7, True), layer(7, 4, False)])


def random_spikes(rng, batch=6, steps=40):
    return (rng.random((batch, 15, steps)) < 0.2).astype(np.uint8)


def count_one_by_one(net, spikes):
    """Count operations in a loop over all spikes, and return a dict of counts for each layer."""
    counts = []
    for spec, out in zip(net, net.all_layers(spikes), strict=True):
        layer = {"spikes_in": 0, "spikes_out": int(out.sum()), "synaptic": 0, "synaptic_nonzero": 0}
        for _, channel, _ in zip(*np.nonzero(spikes), strict=True):
            layer["spikes_in"] += 1
            for neuron in range(spec.out_features):
                layer["synaptic"] += 1
                layer["synaptic_nonzero"] += int(spec.weight[neuron, channel] != 0)
        counts.append(layer)
        spikes = out
    return counts


def test_operations_equal_a_count_spike_by_spike():
    rng = np.random.default_rng(0)
    net, spikes = network(rng), random_spikes(rng)
    found = cost.count_operations(net, spikes)
    for layer, expected in zip(found.layers, count_one_by_one(net, spikes), strict=True):
        for name, value in expected.items():
            assert getattr(layer, name) == pytest.approx(value / 6), name
    assert [layer.dense for layer in found.layers] == [15 * 9 * 40, 9 * 7 * 40, 7 * 4 * 40]
    assert [layer.updates for layer in found.layers] == [9 * 40, 7 * 40, 4 * 40]
    assert found.synaptic == pytest.approx(sum(layer.synaptic for layer in found.layers))
    assert found.dense == (15 * 9 + 9 * 7 + 7 * 4) * 40
    assert 0 < found.layers[2].synaptic < found.layers[2].dense


def test_an_input_layer_has_one_synapse_per_input():
    inputs = LayerSpec("input", np.full((1, 1, 1, 1), 64), None, 1024, 123, 80, in_shape=(15, 1, 1))
    spikes = random_spikes(np.random.default_rng(3))
    layer = cost.count_operations(netx.Net([inputs]), spikes).layers[0]
    assert layer.synaptic == layer.synaptic_nonzero == layer.spikes_in == pytest.approx(spikes.sum() / 6)
    assert layer.dense == 15 * 40


def test_inputs_without_any_spike_are_counted():
    rng = np.random.default_rng(4)
    net, spikes = network(rng), torch.from_numpy(random_spikes(rng)).float()
    spikes[:, -3:] = 0
    assert cost.count_operations(net, Spikes.from_dense(spikes)) == cost.count_operations(net, spikes)


def test_the_answer_is_the_class_with_the_most_spikes_whatever_their_value():
    spikes = np.zeros((1, 2, 3))
    spikes[0, 0, 0], spikes[0, 1, 1:] = 4, 1.5  # one spike, then two
    assert cost.answers_over_time(spikes).tolist() == [[0, 0, 1]]


def test_every_form_of_input_gives_the_same_counts():
    rng = np.random.default_rng(1)
    net, spikes = network(rng), random_spikes(rng)
    expected = cost.count_operations(net, spikes)
    tensor = torch.from_numpy(spikes).float()
    labels = torch.zeros(2)
    loader = [(tensor[:2], labels), (tensor[2:4], labels), [tensor[4:], labels]]
    for given in (tensor, Spikes.from_dense(tensor), loader, iter([tensor[:5], tensor[5:]])):
        assert cost.count_operations(net, given) == expected
    assert cost.count_operations(net.to_blocks(), spikes) == expected


def test_wrong_input_raises():
    with pytest.raises(ValueError, match="spikes: expected at least one recording, found none"):
        cost.count_operations(network(np.random.default_rng(2)), [])
    with pytest.raises(ValueError, match=r"spikes: expected \[B, 15, T\].*found shape \[1, 3, 2\]"):
        cost.count_operations(network(np.random.default_rng(2)), np.zeros((1, 3, 2)))


def test_the_table_of_operations_adds_up_the_blocks():
    layers = [LayerSpec("dense", np.full(shape, 64), None, 0, 0, 32) for shape in ((3, 2), (1, 3))]
    rows = cost.count_operations(netx.Net(layers), np.ones((1, 2, 10))).rows()
    for column, expected in {
        "spikes in": ["20", "27", "20"],
        "spikes out": ["27", "8", "8"],
        "synaptic ops": ["60", "27", "87"],
        "dense MACs": ["60", "30", "90"],
        "neuron updates": ["30", "10", "40"],
    }.items():
        assert [row[column] for row in rows] == expected, column


def test_the_ratio_compares_synaptic_with_dense_operations():
    layer = LayerSpec("dense", np.full((3, 2), 64), None, 0, 0, 32)
    for spikes, ratio in ((np.ones((1, 2, 10)), "1x"), (np.eye(10)[None, :2], "10x")):
        assert cost.count_operations([layer], spikes).rows()[0]["ratio"] == ratio


def test_memory_of_weights_delays_and_decays():
    net = network(np.random.default_rng(3))
    net.layers[1].i_decay = np.full(7, 100)
    found = cost.count_memory(net)
    assert [layer.weights for layer in found.layers] == [135, 63, 28]
    assert [layer.float32 for layer in found.layers] == [540, 252, 112]
    assert [layer.delays for layer in found.layers] == [math.ceil(54 / 8), math.ceil(42 / 8), 0]
    assert [layer.decays for layer in found.layers] == [3, 12, 3]
    assert [layer.nonzero for layer in found.layers] == [np.count_nonzero(spec.weight) for spec in net]
    assert found.total == 226 + 7 + 6 + 18


def test_bytes_of_decays_are_rounded_up():
    layer = LayerSpec("dense", [[64], [64]], None, [1, 2], 3, 80)
    assert cost.count_memory([layer]).layers[0].decays == 5  # three decays of 12 bits


def trains(*answers, classes=3):
    """Return spikes [B, classes, T]; each argument lists the class that fires at every step, or None for no spike."""
    out = np.zeros((len(answers), classes, len(answers[0])))
    for b, steps in enumerate(answers):
        for t, c in enumerate(steps):
            if c is not None:
                out[b, c, t] = 1
    return out


def test_answers_over_time():
    out = trains([None, 2, 1, 1, None], [None] * 5, [0, 0, 0, 0, 0])
    assert cost.answers_over_time(out).tolist() == [[-1, 2, 1, 1, 1], [-1] * 5, [0] * 5]  # a tie: the first class


def test_the_final_answer_equals_that_of_the_classifier():
    from nmnist_helpers import classifier

    out = torch.rand(40, 10, 60, generator=torch.Generator().manual_seed(5)) < 0.1
    expected = classifier.Rate.predict(out.float()).numpy()
    np.testing.assert_array_equal(cost.answers_over_time(out)[:, -1], expected)


def test_answers_over_time_refuses_wrong_shapes():
    with pytest.raises(ValueError, match=r"spikes_out: expected \[B, classes, T\].*found shape \[3, 5\]"):
        cost.answers_over_time(np.zeros((3, 5)))


def test_tables_and_plot():
    import matplotlib.pyplot as plt

    rng = np.random.default_rng(6)
    net, spikes = network(rng), random_spikes(rng)
    operations = cost.count_operations(net, spikes)
    for table in (operations, cost.count_memory(net)):
        lines = str(table).splitlines()
        assert len({len(line) for line in lines[1:]}) == 1  # columns are aligned
        assert table._repr_html_().count("<tr>") == len(lines) - 1
    assert "mean of 6 recordings of 40 steps" in str(operations)
    assert f"{operations.layers[0].synaptic:,.0f}" in str(operations).splitlines()[2]
    assert [row["block"] for row in operations.rows()] == ["1", "2", "3", "all"]
    figure, ax = plt.subplots()
    cost.plot_operations(operations, ax)
    heights = [getattr(layer, name) for name in ("dense", "synaptic") for layer in operations.layers]
    assert [bar.get_height() for bar in ax.patches] == heights
    plt.close(figure)


def test_the_texts_of_a_table_are_no_html():
    class Letters(Table):
        title = "<a>"

        def rows(self):
            return [{"<b>": "<c>"}]

    shown = Letters()._repr_html_()
    assert all(f"&lt;{letter}&gt;" in shown and f"<{letter}>" not in shown for letter in "abc")


def test_operations_of_a_convolution_equal_those_of_the_equivalent_dense_layer():
    """The equivalent dense layer is built by applying the synapses of the convolution to each input alone."""
    rng = np.random.default_rng(5)
    weight = 2 * rng.integers(-1, 2, (4, 1, 3, 2))
    common = {"delay": None, "i_decay": 0, "v_decay": 0, "v_th_mant": 80, "in_shape": (2, 5, 7)}
    for layer in (
        LayerSpec("conv", weight, groups=2, stride=(2, 1), padding=(1, 0), dilation=(1, 2), **common),
        LayerSpec("pool", np.full((1, 1, 2, 3), 64), stride=(2, 3), **common),
    ):
        columns = []  # of the dense weights: the input of all neurons for one spike in a channel
        for channel in range(layer.in_features):
            spike = np.zeros((1, layer.in_features, 1), np.uint8)
            spike[0, channel] = 1
            drive = next(iter(_drives(layer, events_of(spike))))
            columns.append(drive[0] // 64)
        dense = LayerSpec("dense", np.array(columns).T, None, 0, 0, 80)
        spikes = (rng.random((3, layer.in_features, 9)) < 0.3).astype(np.uint8)
        found, expected = (cost.count_operations([spec], spikes).layers[0] for spec in (layer, dense))
        assert found.synaptic_nonzero == expected.synaptic_nonzero > 0
        assert (found.spikes_in, found.updates) == (expected.spikes_in, expected.updates)
        assert found.synaptic_nonzero <= found.synaptic < expected.synaptic


@pytest.mark.parametrize("value", [math.nan, math.inf, "1"])
def test_answers_over_time_need_finite_numbers(value):
    with pytest.raises(ValueError, match="spikes_out: expected finite numbers, found"):
        cost.answers_over_time(np.array([[[0, value, 0]]]))
