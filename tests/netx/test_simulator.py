"""Compare the integer simulator with an oracle in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from support.layers import oracle, oracle_layer, random_spikes, small_layers, spec

from nmnist_helpers import netx
from nmnist_helpers.netx import LayerSpec
from nmnist_helpers.spikes import Spikes


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


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_states_at_the_limits_of_24_bits(engine):
    """Inhibition takes the voltage to its limit, -(2**23 - 1); one current of 2**23, which fits, lifts it to 1."""
    lift = np.append(np.full(516, 254), 8)  # together 2**23 / 64
    layer = LayerSpec("dense", [np.append(lift, np.full(256, -256))], None, 4096, 0, 0)
    spikes = np.zeros((1, 773, 6), np.uint8)
    spikes[0, 517:, :3] = spikes[0, :517, 3] = 1
    assert netx.Net([layer])(spikes, engine=engine).tolist() == [[[0, 0, 0, 0, 1, 0]]]


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_a_picture_of_one_row_matches_its_definition(engine):
    rng = np.random.default_rng(44)
    layer = spec(
        rng, 1, 1, type="conv", weight=2 * rng.integers(-40, 60, (3, 2, 1, 2)), in_shape=(2, 1, 6), delay=np.arange(3)
    )
    spikes = random_spikes(rng, (2, 2, 1, 6, 30), 0.3)
    expected = fire(layer, sum_of_weights(layer, spikes))
    np.testing.assert_array_equal(netx.Net([layer])(spikes, engine=engine), expected)
    assert expected.any()


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_an_input_layer_clamps_its_numbers(engine):
    """Its weight is 1: an input adds 64 times the number in the file's units, at most 254 and at least -256."""
    values = np.array([[[9.0, 0], [-9, 9]]])
    for threshold, expected in ((253, [[[0, 1], [0, 0]]]), (254, [[[0, 0], [0, 0]]])):
        layer = LayerSpec("input", np.full((1, 1, 1, 1), 64), None, 4096, 4096, threshold, in_shape=(2, 1, 1))
        assert netx.Net([layer])(values, engine=engine).tolist() == expected
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="spikes: expected finite numbers"):
            netx.Net([layer])(np.full((1, 2, 3), value), engine=engine)
    with pytest.raises(ValueError, match="expected an array or tensor for an input layer, found Spikes"):
        netx.Net([layer])(Spikes.from_dense(torch.ones(1, 2, 3)), engine=engine)


# -- input


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


def test_a_list_of_spikes_that_was_changed_is_checked():
    spikes = Spikes.from_dense(torch.ones(1, 12, 3))
    spikes.channel[-1] = 12_000  # compiled loops would read the weights of this input from foreign memory
    with pytest.raises(ValueError, match="channel"):
        netx.Net(small_layers(np.random.default_rng(5)))(spikes)


def test_recordings_of_any_length_run_at_least_one_at_a_time(monkeypatch):
    rng = np.random.default_rng(4)
    net, spikes = netx.Net(small_layers(rng)), random_spikes(rng, (3, 12, 30))
    expected = net(spikes)
    monkeypatch.setattr("nmnist_helpers.netx.net.MAX_BYTES", 1)
    np.testing.assert_array_equal(net(spikes), expected)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (Spikes.from_dense, r"an EventLoader of value=1, or with spikes\.value = 1\.0"),
        (np.asarray, r"\(spikes > 0\)\.float\(\)"),
    ],
)
def test_bins_of_another_length_are_named(kind, remedy):
    with pytest.raises(ValueError, match=f"holds 1 / sampling_time: train and run the network (on|with) {remedy}"):
        netx.Net(small_layers(np.random.default_rng(5)))(kind(torch.full((1, 12, 3), 0.5)))


def test_unknown_engine_raises():
    with pytest.raises(ValueError, match="engine: expected one of.*found 'torch'"):
        netx.Net(small_layers(np.random.default_rng(5)))(np.zeros((1, 12, 3)), engine="torch")
