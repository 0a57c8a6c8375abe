"""Test NIR graphs: exact round trips, and the effect of other integration methods."""

import math
import sys

import numpy as np
import pytest
import torch

from nmnist_helpers import netx, nir
from nmnist_helpers.netx import LayerSpec

nir_package = pytest.importorskip("nir", reason="the optional package nir is not installed")


def spec(rng, inputs, out, **changes):
    fields = {"delay": rng.integers(0, 12, out), "i_decay": 1024, "v_decay": 123, "v_th_mant": 80}
    return LayerSpec("dense", 2 * rng.integers(-9, 11, (out, inputs)), **{**fields, **changes})


def network(rng):
    decays = {"i_decay": rng.integers(500, 2000, 12), "v_decay": rng.integers(50, 900, 12)}
    return [
        spec(rng, 30, 20),
        spec(rng, 20, 12, **decays, bias=rng.integers(-3, 4, 12)),
        spec(rng, 12, 5, delay=None),
    ]


def random_spikes(rng, batch=8, inputs=30, steps=120):
    return (rng.random((batch, inputs, steps)) < 0.05).astype(np.uint8)


@pytest.mark.parametrize("form", nir.FORMS)
@pytest.mark.parametrize("dt", [1e-3, 1e-4, 0.7])
def test_round_trip_is_exact(tmp_path, form, dt):
    layers = network(np.random.default_rng(0))
    path = nir.write_nir(tmp_path / "new" / "a.nir", layers, dt=dt, form=form)
    assert nir.read_nir(path) == layers
    assert nir.from_nir(nir.to_nir(netx.Net(layers), dt=dt, form=form)) == layers
    assert [p.name for p in path.parent.iterdir()] == ["a.nir"]


def test_extreme_values_survive_a_round_trip(tmp_path):
    layer = LayerSpec("dense", [[-256, 254, 0]], [62], 4096, 1, 131071)
    assert nir.read_nir(nir.write_nir(tmp_path / "a.nir", [layer])) == [layer]
    layer = LayerSpec("dense", [[-256, 254, 0]], [62], 4095, 1, 0)
    path = nir.write_nir(tmp_path / "b.nir", [layer], form="exponential")
    assert nir.read_nir(path) == [layer]


def test_graph_parameters_follow_from_the_equations():
    layer = LayerSpec("dense", [[64, -32]], [3], 1024, 128, 80)
    graph = nir.to_nir([layer], dt=1e-3)
    assert list(graph.nodes) == ["input", "linear_0", "neuron_0", "delay_0", "output"]
    assert graph.nodes["linear_0"].weight.tolist() == [[1.0, -0.5]]
    neuron = graph.nodes["neuron_0"]
    assert neuron.tau_syn == pytest.approx([4e-3])  # the current loses a quarter per ms
    assert neuron.tau_mem == pytest.approx([32e-3])
    assert (neuron.w_in[0], neuron.r[0], neuron.v_threshold[0]) == pytest.approx((4, 32, 1.25))
    assert graph.nodes["delay_0"].delay == pytest.approx([4e-3])  # the one-step shift plus a learned delay of 3
    exponential = nir.to_nir([layer], form="exponential").nodes["neuron_0"]
    assert math.exp(-1e-3 / exponential.tau_syn[0]) == pytest.approx(0.75)
    assert math.exp(-1e-3 / exponential.tau_mem[0]) == pytest.approx(1 - 128 / 4096)


def run_without_truncation(layers, spikes):
    """Run the network in real numbers, without truncation to integers: I <- aI + z, V <- bV + I."""
    for layer in layers:
        a, b = (1 - np.broadcast_to(d, layer.out_features) / 4096 for d in (layer.i_decay, layer.v_decay))
        batch, _, steps = spikes.shape
        current, voltage = np.zeros((batch, layer.out_features)), np.zeros((batch, layer.out_features))
        out = np.zeros((batch, layer.out_features, steps))
        for t in range(steps):
            current = a * current + spikes[:, :, t] @ (layer.weight.T / 64)
            voltage = b * voltage + current + (0 if layer.bias is None else layer.bias / 64)
            fires = voltage > layer.v_th_mant / 64
            for bb, o in zip(*np.nonzero(fires), strict=True):
                arrives = t + 1 + (0 if layer.delay is None else layer.delay[o])
                if arrives < steps:
                    out[bb, o, arrives] = 1
            voltage[fires] = 0
        spikes = out
    return spikes


@pytest.mark.slow
@pytest.mark.parametrize("form", nir.FORMS)
def test_each_form_run_with_its_own_method_gives_our_steps(form):
    rng = np.random.default_rng(1)
    layers, spikes = network(rng), random_spikes(rng)
    expected = run_without_truncation(layers, spikes)
    assert 0.01 < expected.mean() < 0.6
    graph = nir.to_nir(layers, form=form)
    np.testing.assert_array_equal(nir.run_graph(graph, spikes, method=form), expected)
    np.testing.assert_array_equal(nir.run_graph(graph, torch.from_numpy(spikes), method=form), expected)


def test_only_the_truncation_to_integers_is_lost():
    rng = np.random.default_rng(2)
    layers, spikes = network(rng), random_spikes(rng, batch=30)
    exact = netx.Net(layers)(spikes)
    graph = nir.to_nir(layers)
    euler = nir.agreement(exact, nir.run_graph(graph, spikes))
    assert 0.7 < euler.spikes < 1  # some spikes come a step earlier or later
    assert euler.near > 0.9
    assert euler.counts < 0.5
    # With the other form's method or with substeps, the neurons leak at another rate.
    other = nir.agreement(exact, nir.run_graph(graph, spikes, method="exponential"))
    finer = nir.agreement(exact, nir.run_graph(graph, spikes, substeps=8))
    assert other.spikes < euler.spikes
    assert finer.spikes < euler.spikes


def test_substeps_approach_the_differential_equations():
    """With many substeps, a neuron first fires when the closed-form solution crosses the threshold."""
    layer = LayerSpec("dense", [[64]], None, 1024, 400, 80)
    node = nir.to_nir([layer]).nodes["neuron_0"]
    spikes = np.zeros((1, 1, 30), np.uint8)
    spikes[0, 0, 3] = 1
    node.v_threshold = np.array([2.0])
    tau_s, tau_m, ms = node.tau_syn[0], node.tau_mem[0], 1e-3

    def voltage(t):  # response to an input of 1 between 0 and 1 ms
        def step(t):  # response to an input of 1 from 0 on
            e_s, e_m = math.exp(-t / tau_s), math.exp(-t / tau_m)
            both = 1 - e_m - tau_s / (tau_s - tau_m) * (e_s - e_m)
            return node.w_in[0] * node.r[0] * both if t > 0 else 0.0

        return step(t) - step(t - ms)

    crossing = next(t for t in np.arange(0, 30, 0.001) if voltage(t * ms) > 2.0)
    graph = nir_package.NIRGraph.from_list(nir_package.Linear(weight=np.array([[1.0]])), node)
    for method in nir.FORMS:
        fine = nir.run_graph(graph, spikes, dt=ms, method=method, substeps=512)
        assert np.flatnonzero(fine[0, 0])[0] == 3 + int(crossing), method


def one_neuron(weight=254, threshold=64, delay=None, decay=4096):
    return nir.to_nir([LayerSpec("dense", [[weight]], delay, decay, decay, threshold)])


def one_spike(steps=12):
    spikes = np.zeros((1, 1, steps))
    spikes[..., 0] = 1
    return spikes


@pytest.mark.parametrize(("weight", "fires"), [(62, False), (66, True)])
def test_an_input_is_held_for_all_substeps_of_its_step(weight, fires):
    """With two substeps, a weight of 1 raises the current to 1/2 and 3/4, and with it the voltage to 1/4 and 1/2."""
    assert nir.run_graph(one_neuron(weight, threshold=32), one_spike(), substeps=2).any() == fires


@pytest.mark.parametrize(("weight", "fires"), [(64, False), (66, True)])
def test_a_voltage_equal_to_the_threshold_does_not_fire(weight, fires):
    assert nir.run_graph(one_neuron(weight), one_spike()).any() == fires


@pytest.mark.parametrize("substeps", [1, 4])
def test_a_delay_is_as_long_with_any_number_of_substeps(substeps):
    out = nir.run_graph(one_neuron(delay=[3]), one_spike(), substeps=substeps)
    assert out[0, 0].nonzero()[0][0] == 4


def test_the_voltage_is_reset_to_v_reset():
    graph, spikes = one_neuron(decay=2048, threshold=32), np.ones((1, 1, 12))
    before = nir.run_graph(graph, spikes).sum()
    graph.nodes["neuron_0"].v_reset[:] = -20
    assert nir.run_graph(graph, spikes).sum() < before


def test_without_metadata_a_step_is_one_millisecond():
    graph = one_neuron()
    graph.metadata = {}
    np.testing.assert_array_equal(nir.run_graph(graph, one_spike()), nir.run_graph(graph, one_spike(), dt=1e-3))
    assert nir.from_nir(graph) == nir.from_nir(one_neuron())


def test_delays_can_be_left_out():
    layers = network(np.random.default_rng(3))
    back = nir.from_nir(nir.to_nir(layers, delays=False))
    assert all(layer.delay is None for layer in back)
    np.testing.assert_array_equal(back[0].weight, layers[0].weight)


def test_what_nir_cannot_describe_is_refused(tmp_path):
    with pytest.raises(ValueError, match="layer 1: expected a decay above 0, found 0: its time constant"):
        nir.to_nir([LayerSpec("dense", [[2]], None, 1, 1, 80), LayerSpec("dense", [[2]], None, 1, 0, 80)])
    with pytest.raises(ValueError, match="layer 0: expected a decay below 4096, found 4096"):
        nir.write_nir(tmp_path / "a.nir", [LayerSpec("dense", [[2]], None, 4096, 1, 80)], form="exponential")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="form: expected one of.*found 'rk4'"):
        nir.to_nir(network(np.random.default_rng(4)), form="rk4")
    with pytest.raises(ValueError, match="dt: expected the length of a step in seconds.*found 0"):
        nir.to_nir(network(np.random.default_rng(4)), dt=0)


def graph_with(**changes):
    graph = nir.to_nir([LayerSpec("dense", [[64, -32]], [3], 1024, 128, 80)])
    for name, value in changes.items():
        node, field = name.split("__")
        setattr(graph.nodes[node], field, np.asarray(value))
    return graph


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linear_0__weight": [[0.3, 1.0]]}, r"node 'neuron_0': weight: .*found 9\.6 units of the chip at \[0, 0\]"),
        (
            {"linear_0__weight": [[9.0, 1.0]]},
            r"weight: expected integers in -128\.\.127, found 288 units of the chip",
        ),
        ({"linear_0__weight": [[np.nan, 1.0]]}, "weight: expected finite values, found others"),
        ({"neuron_0__tau_syn": [1e-4]}, "node 'neuron_0': .*found .* units of the chip"),
        ({"neuron_0__v_threshold": [1.3]}, r"v_threshold: .*found 83\.2 units"),
        ({"neuron_0__v_leak": [0.01]}, "v_leak: .*found"),
        ({"neuron_0__v_reset": [-1.0]}, "v_reset: expected 0"),
        ({"delay_0__delay": [0.1]}, "delay: .*found 99 units"),
        ({"delay_0__delay": [0.0]}, "delay: .*found -1 units"),
    ],
)
def test_values_that_the_chip_cannot_represent_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        nir.from_nir(graph_with(**changes))


def test_values_are_rounded_and_clamped_if_not_strict():
    graph = graph_with(linear_0__weight=[[0.3, 9.0]], neuron_0__v_threshold=[1.3], delay_0__delay=[2.3e-3])
    with pytest.warns(UserWarning, match="'neuron_0': weight: .*-128..127 units.*, found 1 of 2 outside, clamped$"):
        (layer,) = nir.from_nir(graph, strict=False)
    assert layer.weight.tolist() == [[20, 254]]
    assert (layer.v_th_mant, layer.delay.tolist()) == (83, [1])


def test_weights_that_vanish_are_counted_if_most_of_them_do(recwarn):
    nir.from_nir(graph_with(linear_0__weight=[[0.01, 0.5]]), strict=False)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="expected most weights to differ from 0, found 1 of 1 rounded to 0$"):
        nir.from_nir(graph_with(linear_0__weight=[[0.01, 0.0]]), strict=False)


def test_time_constants_below_a_step_are_reported():
    with pytest.warns(UserWarning, match="tau_syn: expected at least dt, found 1 of 1 below, clamped"):
        nir.from_nir(graph_with(neuron_0__tau_syn=[1e-4]), strict=False)


def test_an_assumed_length_of_a_step_is_named():
    graph = graph_with(linear_0__weight=[[0.3, 9.0]])
    with pytest.raises(ValueError, match="strict=False rounds and clamps it$"):
        nir.from_nir(graph)
    graph.metadata = {}
    with pytest.raises(ValueError, match="clamps it; the graph states no dt, so 0.001 s is assumed"):
        nir.from_nir(graph)
    with pytest.raises(ValueError, match="clamps it$"):
        nir.from_nir(graph, dt=1e-3)


def chain(*nodes):
    return nir_package.NIRGraph.from_list(*nodes, type_check=False)


def empty_chain():
    size = {"input": np.array([2])}, {"output": np.array([2])}
    nodes = {"input": nir_package.Input(input_type=size[0]), "output": nir_package.Output(output_type=size[1])}
    return nir_package.NIRGraph(nodes=nodes, edges=[("input", "output")], type_check=False)


def neuron(n=2, **changes):
    values = {name: np.ones(n) for name in ("tau_syn", "tau_mem", "r", "v_threshold")}
    return nir_package.CubaLIF(**{**values, "v_leak": np.zeros(n), **changes})


LINEAR = nir_package.Linear(weight=np.eye(2))


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (lambda: chain(LINEAR), "node 'linear': expected CubaLIF.*found nothing after it"),
        (lambda: chain(LINEAR, nir_package.Scale(scale=np.ones(2))), "node 'linear': .*found a Scale after it"),
        (lambda: chain(neuron()), "node 'cubalif': expected Linear or Affine.*found a CubaLIF"),
        (lambda: chain(nir_package.Affine(np.eye(2), np.ones(2)), neuron()), "node 'affine': expected no bias"),
        (lambda: chain(LINEAR, neuron(v_threshold=np.array([1.0, 2.0]))), "v_threshold: expected one value"),
    ],
)  # fmt: skip
def test_unsupported_graphs_raise(graph, message):
    with pytest.raises(ValueError, match=message):
        nir.from_nir(graph(), strict=False)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (empty_chain, "expected Linear or Affine nodes, found none between input and output"),
        (lambda: chain(LINEAR), "node 'linear': expected CubaLIF.*found nothing after it"),
        (lambda: chain(neuron()), "node 'cubalif': expected Linear or Affine.*found a CubaLIF"),
        (lambda: chain(LINEAR, neuron(), neuron()), "expected Linear or Affine.*found a CubaLIF"),
        (lambda: chain(nir_package.Affine(np.eye(2), np.ones(2)), neuron()), "node 'affine': expected no bias"),
        (lambda: chain(LINEAR, neuron(tau_syn=np.zeros(2))), "tau_syn: expected positive seconds, found 0"),
        (lambda: chain(LINEAR, neuron(tau_mem=-np.ones(2))), "tau_mem: expected positive seconds, found -1"),
    ],
)  # fmt: skip
def test_both_readers_refuse_a_graph_that_one_of_them_cannot_run(graph, message):
    for read in (lambda: nir.from_nir(graph(), strict=False), lambda: nir.run_graph(graph(), np.zeros((1, 2, 3)))):
        with pytest.raises(ValueError, match=message):
            read()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "midpoint"}, "method: expected one of .*found 'midpoint'"),
        ({"dt": -1e-3}, "dt: expected the length of a step in seconds, found -0.001"),
        ({"dt": 0.0}, "dt: expected the length of a step in seconds, found 0.0"),
        ({"substeps": 0}, "substeps: expected a whole number from 1, found 0"),
        ({"substeps": 1.5}, "substeps: expected a whole number from 1, found 1.5"),
        ({"spikes": np.zeros((0, 2, 3))}, "expected .* at least one recording, found shape"),
        ({"spikes": np.full((1, 2, 3), 0.5)}, "spikes: expected zeros and ones, found other numbers"),
        ({"spikes": np.full((1, 2, 3), np.nan)}, "spikes: expected zeros and ones, found other numbers"),
    ],
)
def test_invalid_arguments_of_run_graph_raise(options, message):
    with pytest.raises(ValueError, match=message):
        nir.run_graph(chain(LINEAR, neuron()), **{"spikes": np.zeros((1, 2, 3)), **options})
    with pytest.raises(ValueError, match="none of them 0"):
        nir.agreement(np.zeros((0, 3, 4)), np.zeros((0, 3, 4)))


def test_a_graph_runs_with_the_method_for_which_it_was_made():
    rng = np.random.default_rng(8)
    layers, spikes = network(rng), random_spikes(rng)
    for form in nir.FORMS:
        graph = nir.to_nir(layers, form=form)
        np.testing.assert_array_equal(nir.run_graph(graph, spikes), nir.run_graph(graph, spikes, method=form))


def test_clamping_a_decay_also_clamps_its_factor_of_the_weights():
    """A time constant of a tenth of a step: the current lasts for one step, as with that of a whole step."""
    short, whole = (chain(LINEAR, neuron(tau_syn=np.full(2, tau), tau_mem=np.full(2, 0.01))) for tau in (1e-4, 1e-3))
    assert nir.from_nir(short, strict=False) == nir.from_nir(whole, strict=False)


def test_graphs_other_than_a_chain_raise():
    graph = nir.to_nir(network(np.random.default_rng(5)))
    graph.edges.append(("linear_0", "delay_1"))
    with pytest.raises(ValueError, match="expected a chain of layers.*found a branch"):
        nir.from_nir(graph)
    graph = nir.to_nir(network(np.random.default_rng(5)))
    graph.edges.append(("output", "linear_1"))
    with pytest.raises(ValueError, match="'output' -> 'linear_1': expected a chain of layers, found a branch"):
        nir.from_nir(graph)
    graph = nir.to_nir(network(np.random.default_rng(5)))
    graph.edges.remove(("delay_0", "linear_1"))
    with pytest.raises(ValueError, match="expected one chain, found nodes outside it: delay_1, delay_2, linear_1"):
        nir.from_nir(graph)
    graph = nir.to_nir(network(np.random.default_rng(5)))
    graph.edges = [(source, "input" if target == "output" else target) for source, target in graph.edges]
    with pytest.raises(ValueError, match="expected a chain of layers, found a cycle"):
        nir.from_nir(graph)
    with pytest.raises(ValueError, match="node 'linear': expected CubaLIF, found a Scale after it"):
        nir.run_graph(chain(LINEAR, nir_package.Scale(scale=np.ones(2))), np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="node 'linear': expected 2 inputs, found 3"):
        nir.run_graph(chain(LINEAR, neuron()), np.zeros((1, 3, 3)))


def test_the_process_that_tries_a_file_has_one_thread(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "64")
    monkeypatch.setattr(nir.reader, "TRIAL", "import os, sys; sys.exit(os.environ['OPENBLAS_NUM_THREADS'] + ' thread')")
    (tmp_path / "a.nir").touch()
    with pytest.raises(ValueError, match="found 1 thread"):
        nir.read_nir(tmp_path / "a.nir")


@pytest.mark.slow
def test_damaged_files_raise_in_time(tmp_path, monkeypatch):
    path = nir.write_nir(tmp_path / "a.nir", [LayerSpec("dense", [[64, -32]], [3], 1024, 128, 80)])
    data = path.read_bytes()
    # An object of size zero in the heap of strings makes the HDF5 library read forever.
    heap = data.index(b"GCOL") + 16
    endless = data[:heap] + bytes(16) + data[heap + 16 :]
    for content, message in (
        (endless, "a.nir: expected a readable NIR file, found that reading it does not finish"),
        (data[: len(data) // 2], "a.nir: expected a readable NIR file, found OSError: "),
        (b"a text", "a.nir: expected a readable NIR file, found OSError: "),
        (data.replace(b"CubaLIF", b"CubaLIX"), "a.nir: expected a readable NIR file, found "),
    ):
        path.write_bytes(content)
        monkeypatch.setattr(nir.reader, "TRIAL_SECONDS", 1 if content is endless else 60)
        with pytest.raises(ValueError, match=message):
            nir.read_nir(path)
    with pytest.raises(FileNotFoundError, match="b.nir: expected a .nir file, found none"):
        nir.read_nir(tmp_path / "b.nir")
    with pytest.raises(ValueError, match="expected a .nir file, found something that is no regular file"):
        nir.read_nir(tmp_path)


def test_pool_layers_are_refused():
    layer = LayerSpec("pool", np.full((1, 1, 2, 2), 64), None, 1024, 128, 80, in_shape=(1, 4, 4), stride=(2, 2))
    with pytest.raises(ValueError, match="layer 0: expected a dense layer, found one of type 'pool'"):
        nir.to_nir([layer])


def test_agreement_of_two_outputs():
    a, b = np.zeros((2, 3, 4)), np.zeros((2, 3, 4))
    a[0, 1, 0] = a[0, 1, 1] = b[0, 1, 1] = 1  # sample 0: one of two spikes is missing, the answer is the same
    a[1, 2, 0] = b[1, 2, 0] = 1
    found = nir.agreement(a, torch.from_numpy(b))
    assert (found.answers, found.trains) == (1.0, 0.5)
    assert found.spikes == pytest.approx(2 * 2 / 5)
    assert found.near == 1.0  # the spike without a match has a partner in the next step
    assert found.counts == pytest.approx(1 / 6)
    assert nir.agreement(a, a) == nir.Agreement(1.0, 1.0, 1.0, 1.0, 0.0)
    assert nir.agreement(0 * a, 0 * a).spikes == 1.0
    with pytest.raises(
        ValueError, match=r"agreement: expected two arrays of the same shape.*found \[2, 3, 4\] and \[1, 3, 4\]"
    ):
        nir.agreement(a, a[:1])
    assert "equal trains 50.0 %" in str(found)


def test_missing_and_additional_spikes_do_not_cancel_out():
    a, b = np.zeros((2, 2, 1, 4))
    a[0, 0, 0] = b[1, 0, 0] = 1
    assert nir.agreement(a, b).counts == 1


def test_without_the_package_the_error_names_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ImportError, match="nir: expected the package nir, found none; pip install nir"):
        nir.to_nir(network(np.random.default_rng(6)))


def test_norse_agrees_with_the_graph(tmp_path):
    """Another library runs the file, by forward Euler in float32 and without delays, which norse does not support."""
    pytest.importorskip("norse", reason="norse, a second reader of NIR, is not installed")
    from norse.torch import from_nir

    rng = np.random.default_rng(7)
    layers, spikes = network(rng), random_spikes(rng)
    layers[1].bias = None  # norse applies the neuron's v_leak to the synapse as well
    graph = nir_package.read(str(nir.write_nir(tmp_path / "a.nir", layers, delays=False)))
    model, state, out = from_nir(graph, dt=1e-3), None, []
    with torch.no_grad():
        for t in range(spikes.shape[2]):
            fired, state = model(torch.from_numpy(spikes[:, :, t]).float(), state)
            out.append(fired)
    found = torch.stack(out, dim=2)
    assert found.any()
    simulated = nir.run_graph(graph, spikes)
    assert nir.agreement(found, simulated).spikes > 0.99
    for layer in layers:
        layer.delay = None
    exact = netx.Net(layers)(spikes)[:, :, len(layers) :]  # norse has no one-step shift between layers
    agreement = nir.agreement(exact, found[:, :, : -len(layers)])
    assert agreement.near > 0.7
    assert agreement.counts < 0.5


def test_a_delay_longer_than_the_recording_leaves_it_empty():
    rng = np.random.default_rng(0)
    layers = [spec(rng, 30, 5, delay=np.full(5, delay), v_th_mant=1) for delay in (3, 62)]
    spikes = random_spikes(rng, steps=40)
    short, long = (nir.run_graph(nir.to_nir([layer]), spikes) for layer in layers)
    assert short.any()
    assert not long.any()


def test_agreement_takes_tensors_of_16_bits():
    spikes = (torch.rand(3, 4, 20) < 0.3).to(torch.bfloat16)
    assert nir.agreement(spikes, spikes.float().numpy()).trains == 1
