"""Test the CUBA neuron: integer dynamics, decays, states, normalisation and surrogate gradient."""

import copy

import numpy as np
import pytest
import torch
from support import oracles
from support.neurons import FIXED, THRESHOLD
from support.oracles import assert_close

from nmnist_helpers import kernels, synapse
from nmnist_helpers.neuron import Dropout
from nmnist_helpers.neuron.cuba import Neuron, neuron_params
from nmnist_helpers.neuron.norm import MeanOnlyBatchNorm

BACKENDS = pytest.mark.parametrize("backend", ["reference", "cpu"])


@pytest.fixture(autouse=True)
def _use_backend(request):
    name = request.node.callspec.params.get("backend", "auto") if hasattr(request.node, "callspec") else "auto"
    with kernels.using(name):
        yield


def drive(sizes, seed=0, spread=0.5):
    return np.random.default_rng(seed).normal(0.1, spread, sizes).astype(np.float32)


def retentions(neuron):
    return (oracles.keep_of(d.detach().numpy()) for d in (neuron.current_decay, neuron.voltage_decay))


@BACKENDS
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 5, 40), (3, 4, 2, 3, 21)], ids=str)
def test_dynamics_and_spikes_match_the_oracle(backend, shared, sizes):
    torch.manual_seed(0)
    decays = {} if shared else {"current_decay": (0.05, 0.9), "voltage_decay": (0.01, 0.2)}
    neuron = Neuron(**{**FIXED, **decays}, shared_param=shared, num_neurons=sizes[1])
    assert neuron.current_decay.shape == ((1,) if shared else (sizes[1],))
    z = drive(sizes)
    flat = z.reshape(sizes[0], -1, sizes[-1])
    retain_i, retain_v = (np.repeat(k, flat.shape[1] // len(k)) for k in retentions(neuron))
    current, voltage, spikes, *_ = oracles.neuron(flat, retain_i, retain_v, THRESHOLD)
    found_current, found_voltage = neuron.dynamics(torch.from_numpy(z))
    np.testing.assert_array_equal(found_current.detach().numpy() * 4096, current.reshape(sizes))
    np.testing.assert_array_equal(found_voltage.detach().numpy() * 4096, voltage.reshape(sizes))
    for found in (neuron.spike(found_voltage), neuron(torch.from_numpy(z))):
        np.testing.assert_array_equal(found.detach().numpy(), spikes.reshape(sizes))
    assert sizes == (1, 1, 1) or 0.02 < spikes.mean() < 0.9


@BACKENDS
@pytest.mark.parametrize("decay", [0, 1023.5, 1024.5, 1025.4, 4096, -3, 5000])
def test_decays_are_rounded_half_to_even_and_clamped(backend, decay):
    neuron = Neuron(**FIXED).eval()
    neuron.current_decay.data.fill_(decay)
    z = drive((2, 3, 30))
    current, _ = neuron.dynamics(torch.from_numpy(z))
    expected = {1023.5: 1024, 1024.5: 1024, 1025.4: 1025, -3: 0, 5000: 4096}.get(decay, decay)
    oracle, *_ = oracles.neuron(z, 4096 - expected, 4096 - 123, THRESHOLD)
    np.testing.assert_array_equal(current.detach().numpy() * 4096, oracle)
    assert neuron.cx_current_decay == expected


@pytest.mark.parametrize(("threshold", "mantissa"), [(1.25, 80), (1.26, 80), (1.2656, 80), (1.266, 81), (1 / 64, 1)])
def test_threshold_is_truncated_to_an_integer(threshold, mantissa):
    neuron = Neuron(**{**FIXED, "threshold": threshold})
    assert neuron.v_th_mant == mantissa
    assert neuron.threshold == mantissa / 64
    z = torch.tensor([[[mantissa / 64], [mantissa / 64 + 1 / 4096]]])
    assert neuron(z).flatten().tolist() == [0, 1]


@BACKENDS
def test_voltage_at_the_threshold_neither_fires_nor_resets(backend):
    neuron = Neuron(**{**FIXED, "current_decay": 1.0, "voltage_decay": 0.0})
    z = torch.zeros(1, 1, 5)
    z[..., 0], z[..., 3] = 1.25, 1 / 4096
    _, voltage = neuron.dynamics(z)
    assert (voltage.flatten() * 4096).tolist() == [5120, 5120, 5120, 5121, 0]
    assert neuron(z).flatten().tolist() == [0, 0, 0, 1, 0]


# -------------------------------------------------------------------------------------------------------- state


def test_a_state_of_one_neuron_is_not_spread_over_another_batch():
    neuron = Neuron(**FIXED, persistent_state=True)
    neuron(torch.full((1, 1, 20), 0.5))
    assert not neuron(torch.zeros(5, 1, 20)).any()


class Halve(torch.nn.Module):
    """A norm that does not need the number of channels."""

    def __init__(self):
        super().__init__()

    def forward(self, current):
        return current / 2


def halve(**options):
    assert options == {"num_features": 3}
    return Halve()


@pytest.mark.parametrize("norm", [Halve, lambda: Halve(), halve])
def test_a_norm_need_not_take_the_number_of_channels(norm):
    z = torch.full((1, 3, 10), 1.0)
    halved, whole = Neuron(**FIXED, norm=norm, num_neurons=3), Neuron(**FIXED)
    assert torch.equal(halved.dynamics(z)[0], whole.dynamics(z)[0] / 2)


@BACKENDS
@pytest.mark.parametrize("norm", [None, MeanOnlyBatchNorm])
def test_chunks_with_persistent_state_equal_the_whole(backend, norm):
    z = torch.from_numpy(drive((2, 6, 50)))
    whole = Neuron(**FIXED, norm=norm, num_neurons=6).eval()
    chunked = Neuron(**FIXED, norm=norm, num_neurons=6, persistent_state=True).eval()
    expected = whole(z)
    found = torch.cat([chunked(part) for part in z.split([1, 19, 30], dim=2)], 2)
    assert torch.equal(found, expected)
    assert not torch.equal(chunked(z), expected)  # it continues from its last state
    chunked.reset_state()
    assert torch.equal(chunked(z), expected)
    assert torch.equal(whole(z), expected)


def test_persistent_state_starts_anew_with_another_shape_and_is_not_saved():
    neuron = Neuron(**FIXED, persistent_state=True)
    z = torch.from_numpy(drive((3, 4, 20)))
    first = neuron(z)
    assert neuron.current_state.shape == (3, 4)
    assert torch.equal(neuron(z[:2]), first[:2])
    assert neuron.state_dict().keys() == {"current_decay", "voltage_decay"}
    copied = copy.deepcopy(neuron)
    assert torch.equal(copied(z[:2]), neuron(z[:2]))


def test_persistent_state_of_a_picture_starts_anew_with_a_picture_of_another_shape():
    neuron = Neuron(**FIXED, persistent_state=True)
    tall, wide = (torch.from_numpy(drive((2, *shape, 20))) for shape in ((3, 4, 6), (3, 6, 4)))
    neuron(tall)
    assert neuron.current_state.any()
    assert torch.equal(neuron(wide), Neuron(**FIXED)(wide))


@BACKENDS
def test_persistent_state_enters_the_gradients_of_the_decays(backend):
    neuron = Neuron(**FIXED, persistent_state=True, requires_grad=True)
    z = drive((2, 3, 30))
    neuron(torch.from_numpy(z[..., :10]))
    i0, r0 = (np.rint(4096 * state.numpy()) for state in (neuron.current_state, neuron.voltage_state))
    assert np.abs(i0).min() > 0
    grad = np.random.default_rng(3).normal(size=(2, 3, 20))
    neuron(torch.from_numpy(z[..., 10:])).backward(oracles.tensor(grad))
    retain_i, retain_v = retentions(neuron)
    i, v, s, *_ = oracles.neuron(z[..., 10:], retain_i, retain_v, THRESHOLD, i0, r0)
    _, by_current, by_voltage = oracles.neuron_gradient(grad, i, v, s, retain_i, retain_v, oracles.surrogate(v), i0, r0)
    assert neuron.current_decay.grad.item() == pytest.approx(by_current.sum(), rel=1e-4)
    assert neuron.voltage_decay.grad.item() == pytest.approx(by_voltage.sum(), rel=1e-4)


@pytest.mark.parametrize("fed_back", [True, False])
def test_gradients_reach_earlier_calls_only_through_spikes_that_are_fed_back(fed_back):
    torch.manual_seed(0)
    neuron = Neuron(**FIXED, persistent_state=True)
    weights = synapse.Dense(3, 3, weight_scale=3, pre_hook_fx=neuron.quantize_8bit)
    z = (0.6 * torch.rand(1, 3, 20)).requires_grad_()
    spikes = torch.zeros(1, 3, 1)
    for t in range(20):
        spikes = neuron(z[..., t : t + 1] + (weights(spikes) if fed_back else 0))
    spikes.sum().backward()
    assert z.grad[..., -1].any()
    assert z.grad[..., :-1].any() == fed_back


# ---------------------------------------------------------------------------------------------------- gradients


@BACKENDS
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("sizes", [(2, 5, 1), (1, 1, 30), (3, 6, 40), (2, 3, 2, 2, 20)], ids=str)
def test_gradients_of_input_and_decays(backend, shared, sizes):
    torch.manual_seed(1)
    decays = {} if shared else {"current_decay": (0.05, 0.9), "voltage_decay": (0.01, 0.2)}
    neuron = Neuron(**{**FIXED, **decays}, shared_param=shared, num_neurons=sizes[1], requires_grad=True)
    z = torch.from_numpy(drive(sizes)).requires_grad_()
    grad = np.random.default_rng(2).normal(size=sizes)
    neuron(z).backward(oracles.tensor(grad))
    flat = z.detach().reshape(sizes[0], -1, sizes[-1]).numpy()
    inner = flat.shape[1] // sizes[1]
    retain_i, retain_v = (np.repeat(k, flat.shape[1] // len(k)) for k in retentions(neuron))
    i, v, s, *_ = oracles.neuron(flat, retain_i, retain_v, THRESHOLD)
    expected = oracles.neuron_gradient(grad.reshape(flat.shape), i, v, s, retain_i, retain_v, oracles.surrogate(v))
    assert_close(z.grad, expected[0].reshape(sizes))
    for parameter, by_channel in zip((neuron.current_decay, neuron.voltage_decay), expected[1:], strict=True):
        wanted = by_channel.sum(keepdims=True) if shared else by_channel.reshape(-1, inner).sum(1)
        assert_close(parameter.grad, wanted, 3e-5)


@BACKENDS
def test_gradients_of_current_and_voltage(backend):
    neuron = Neuron(**FIXED, requires_grad=True)
    sizes = (2, 4, 25)
    z = torch.from_numpy(drive(sizes)).requires_grad_()
    by_i, by_v, by_s = (np.random.default_rng(k).normal(size=sizes) for k in range(3))
    current, voltage = neuron.dynamics(z)
    spikes = neuron.spike(voltage)
    sum((x * oracles.tensor(g)).sum() for x, g in ((current, by_i), (voltage, by_v), (spikes, by_s))).backward()
    retain_i, retain_v = retentions(neuron)
    i, v, s, *_ = oracles.neuron(z.detach().numpy(), retain_i, retain_v, THRESHOLD)
    expected = oracles.neuron_gradient(
        by_s, i, v, s, retain_i, retain_v, oracles.surrogate(v), grad_voltage=by_v, grad_current=by_i
    )
    assert_close(z.grad, expected[0])
    assert neuron.current_decay.grad.item() == pytest.approx(expected[1].sum(), rel=1e-4)
    assert neuron.voltage_decay.grad.item() == pytest.approx(expected[2].sum(), rel=1e-4)


@pytest.mark.parametrize(("tau_grad", "scale_grad", "threshold"), [(0.03, 3, 1.25), (1, 1, 1.25), (0.1, 0.5, 10.1)])
def test_surrogate(tau_grad, scale_grad, threshold):
    neuron = Neuron(threshold, 0.25, 0.03, tau_grad=tau_grad, scale_grad=scale_grad)
    v = torch.linspace(-30, 30, 301).reshape(1, 1, -1).requires_grad_()
    neuron.spike(v).sum().backward()
    mantissa = int(threshold * 64)
    expected = oracles.surrogate(v.detach().double() * 4096, mantissa * 64, tau_grad, scale_grad)
    assert_close(v.grad, expected)
    if threshold == 1.25 and tau_grad == 0.03:
        assert neuron.surrogate.tau == pytest.approx(3.75)
        assert neuron.surrogate.gain == pytest.approx(0.3 / 7.5)


def test_decays_have_no_gradient_by_default():
    neuron = Neuron(**FIXED)
    z = torch.from_numpy(drive((1, 2, 9))).requires_grad_()
    neuron(z).sum().backward()
    assert z.grad is not None
    assert neuron.current_decay.grad is None
    assert not neuron.current_decay.requires_grad


def test_two_forwards_then_one_backward():
    """Each forward pass clamps learned decays in place, which must not invalidate the graph of an earlier pass."""
    neuron = Neuron(**FIXED, requires_grad=True)
    z = torch.from_numpy(drive((2, 3, 20)))
    neuron(z).sum().backward()
    once = neuron.current_decay.grad.clone()
    neuron.current_decay.grad = None
    (neuron(z).sum() + neuron(z).sum()).backward()
    assert_close(neuron.current_decay.grad, 2 * once)


def test_learned_decays_are_clamped_in_training_only():
    neuron = Neuron(**FIXED, requires_grad=True)
    neuron.current_decay.data.fill_(-50.0)
    neuron.voltage_decay.data.fill_(9000.0)
    neuron.eval()(torch.zeros(1, 1, 2))
    assert neuron.current_decay.item() == -50
    neuron.train()(torch.zeros(1, 1, 2))
    assert (neuron.current_decay.item(), neuron.voltage_decay.item()) == (0, 4096)


# ------------------------------------------------------------------------------------------------ normalisation


def quantised_mean(x):
    """Return a mean as the norm subtracts it: quantised like a weight."""
    return oracles.steps_of_weight(x) / 32


def run_with_norm(z, retain_i, retain_v, normalise):
    """Integrate and normalise the current, then integrate the voltage; return all signals."""
    current, *_ = oracles.neuron(z, retain_i, 0, oracles.NEVER)
    normed = normalise((current / 4096).astype(np.float32)).astype(np.float32)
    _, voltage, spikes, *_ = oracles.neuron(normed, 0, retain_v, THRESHOLD)
    return current, normed, voltage, spikes


@BACKENDS
def test_mean_only_norm_in_training_and_evaluation(backend):
    sizes = (3, 5, 40)
    neuron = Neuron(**FIXED, norm=MeanOnlyBatchNorm, num_neurons=5, requires_grad=True)
    z = drive(sizes)
    retain_i, retain_v = retentions(neuron)
    means = []

    def subtract_batch_mean(x):
        means.append(x.astype(np.float64).mean((0, 2)))
        return x - quantised_mean(means[-1])[None, :, None].astype(np.float32)

    _, normed, voltage, spikes = run_with_norm(z, retain_i, retain_v, subtract_batch_mean)
    current_found, voltage_found = neuron.dynamics(torch.from_numpy(z))
    np.testing.assert_array_equal(current_found.detach().numpy(), normed)
    np.testing.assert_array_equal(voltage_found.detach().numpy() * 4096, voltage)
    assert spikes.any()
    assert_close(neuron.norm.running_mean, 0.1 * means[0])
    np.testing.assert_array_equal(neuron(torch.from_numpy(z)).detach().numpy(), spikes)
    assert_close(neuron.norm.running_mean, 0.19 * means[0])

    neuron.eval()
    running = neuron.norm.running_mean.numpy().copy()
    _, _, voltage, spikes = run_with_norm(
        z, retain_i, retain_v, lambda x: x - quantised_mean(running)[None, :, None].astype(np.float32)
    )
    np.testing.assert_array_equal(neuron.dynamics(torch.from_numpy(z))[1].detach().numpy() * 4096, voltage)
    np.testing.assert_array_equal(neuron(torch.from_numpy(z)).detach().numpy(), spikes)
    np.testing.assert_array_equal(neuron.norm.running_mean.numpy(), running)
    np.testing.assert_array_equal(neuron.norm.bias.numpy(), -quantised_mean(running) * 64)
    neuron.norm.reset_parameters()
    assert (neuron.norm.running_mean == 0).all()


def test_a_norm_without_updates_subtracts_its_running_mean_in_training():
    norm = MeanOnlyBatchNorm(1)
    norm.running_mean.fill_(0.25)
    norm.update = False
    assert norm(torch.ones(1, 1, 3)).tolist() == [[[0.75] * 3]]
    assert norm.running_mean.item() == 0.25


@BACKENDS
def test_mean_only_norm_gradients(backend):
    """The gradient passes through both linear filters and the mean, whose transposes are applied here in float64."""
    sizes = (2, 3, 25)
    neuron = Neuron(**FIXED, norm=MeanOnlyBatchNorm, num_neurons=3, requires_grad=True)
    z = torch.from_numpy(drive(sizes)).requires_grad_()
    grad = np.random.default_rng(1).normal(size=sizes)
    neuron(z).backward(oracles.tensor(grad))
    retain_i, retain_v = retentions(neuron)
    current, _, v, s = run_with_norm(
        z.detach().numpy(), retain_i, retain_v, lambda x: x - quantised_mean(x.mean((0, 2)))[None, :, None]
    )
    at_voltage = oracles.filtered_back(grad * oracles.surrogate(v), retain_v)
    at_current = at_voltage - at_voltage.mean((0, 2), keepdims=True)
    at_z = oracles.filtered_back(at_current, retain_i)
    assert_close(z.grad, at_z)
    before = np.concatenate([np.zeros((2, 3, 1)), current[..., :-1]], 2) / 4096
    assert neuron.current_decay.grad.item() == pytest.approx(-(at_z * before).sum() / 4096, rel=1e-4)
    reset = np.where(s, 0, v)
    before = np.concatenate([np.zeros((2, 3, 1)), reset[..., :-1]], 2) / 4096
    assert neuron.voltage_decay.grad.item() == pytest.approx(-(at_voltage * before).sum() / 4096, rel=1e-4)


def test_norm_requires_the_right_number_of_channels():
    with pytest.raises(
        ValueError, match="MeanOnlyBatchNorm: expected num_features, the number of channels, found None"
    ):
        MeanOnlyBatchNorm()
    with pytest.raises(ValueError, match="num_features: expected a whole number from 1, found 0"):
        MeanOnlyBatchNorm(0)
    for momentum in (2, -1, float("nan")):
        with pytest.raises(ValueError, match=f"MeanOnlyBatchNorm: expected a momentum in 0..1, found {momentum}"):
            MeanOnlyBatchNorm(4, momentum)
    with pytest.raises(ValueError, match=r"MeanOnlyBatchNorm: expected 4 channels, found input \[2, 5, 3\]"):
        MeanOnlyBatchNorm(4)(torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="expected num_neurons with norm or shared_param=False"):
        Neuron(**FIXED, norm=MeanOnlyBatchNorm)


# ------------------------------------------------------------------------------------------- hardware, arguments


def test_device_params_of_the_tutorial():
    neuron = Neuron(**FIXED)
    expected = {"type": "CUBA", "iDecay": 1024, "vDecay": 123, "vThMant": 80, "refDelay": 1, "gradedSpike": False}
    assert neuron.device_params == expected
    back = neuron_params(neuron.device_params)
    assert back == {"threshold": 1.25, "current_decay": 0.25, "voltage_decay": 123 / 4096}
    assert Neuron(**back).device_params == expected


def test_channels_draw_their_own_decays():
    torch.manual_seed(0)
    ranged = Neuron(1.25, (0.2, 0.4), (0.0, 0.1), shared_param=False, num_neurons=2000)
    for decay, low, high in ((ranged.current_decay, 0.2, 0.4), (ranged.voltage_decay, 0.0, 0.1)):
        values = decay.detach() / 4096
        assert low <= values.min() < low + 0.001
        assert high - 0.001 < values.max() <= high
    near = Neuron(**FIXED, shared_param=False, num_neurons=500).current_decay.detach() / 4096
    assert near.min() >= 0.2475
    assert near.max() <= 0.2525
    assert len(near.unique()) > 400
    assert ranged.device_params["iDecay"].shape == (2000,)


def test_decays_drawn_near_one_do_not_exceed_it():
    neuron = Neuron(1.25, 1.0, 1.0, shared_param=False, num_neurons=200)
    assert neuron.current_decay.max() <= 4096


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threshold": 0}, "expected a positive threshold, found 0"),
        ({"threshold": -1.0}, "expected a positive threshold, found -1.0"),
        ({"threshold": float("nan")}, "expected a positive threshold, found nan"),
        ({"threshold": float("inf")}, "expected a positive threshold, found inf"),
        ({"tau_grad": 0}, "expected a positive tau_grad, found 0"),
        ({"tau_grad": -0.03}, "expected a positive tau_grad, found -0.03"),
        ({"scale": 0}, "expected a positive scale, found 0"),
        ({"threshold": 0.01}, "expected a threshold of at least 1/64 and below 262144, found 0.01"),
        ({"threshold": 262144}, "expected a threshold of at least 1/64 and below 262144, found 262144"),
        ({"current_decay": (0.1, 0.2)}, r"expected current_decay to be a number \(shared_param=True\)"),
        ({"shared_param": False}, "expected num_neurons with norm or shared_param=False"),
        ({"shared_param": False, "num_neurons": 3, "voltage_decay": (0.1, 1.2)}, "expected voltage_decay in 0..1"),
        (
            {"shared_param": False, "num_neurons": 3, "voltage_decay": (0, 0, 0)},
            "voltage_decay to be a number or a pair",
        ),
    ],
)
def test_wrong_arguments_raise(changes, message):
    with pytest.raises(ValueError, match=message):
        Neuron(**{**FIXED, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 0.05}, r"expected a module as dropout, such as neuron.Dropout\(0.05\), found 0.05"),
        ({"dropout": Dropout}, "expected a module as dropout, .* found <class"),
        ({"norm": MeanOnlyBatchNorm(3)}, "expected a class or a function as norm, found a MeanOnlyBatchNorm"),
    ],
)
def test_a_class_and_its_module_are_told_apart(changes, message):
    with pytest.raises(TypeError, match=message):
        Neuron(**FIXED, num_neurons=3, **changes)


def test_wrong_input_raises():
    with pytest.raises(ValueError, match=r"expected input \[B, C, ..., T\], found \[3, 4\]"):
        Neuron(**FIXED)(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"expected 5 channels, found input \[2, 4, 3\]"):
        Neuron(**FIXED, num_neurons=5)(torch.zeros(2, 4, 3))
    with pytest.raises(ValueError, match="no side empty"):
        Neuron(**FIXED)(torch.zeros(2, 4, 0))


@BACKENDS
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e5])
def test_runaway_values_raise(backend, bad):
    z = torch.zeros(2, 3, 9)
    z[1, 2, 4] = bad
    with pytest.raises(OverflowError, match="check weights, decays, delays and input for NaN, Inf and runaway values"):
        Neuron(**FIXED)(z)


def test_nan_decay_raises():
    neuron = Neuron(**FIXED)
    neuron.voltage_decay.data.fill_(float("nan"))
    with pytest.raises(OverflowError, match="decay: expected finite numbers, found NaN"):
        neuron(torch.zeros(1, 1, 3))


def test_dropout_drops_neurons_for_the_whole_duration():
    torch.manual_seed(3)
    neuron = Neuron(**FIXED, dropout=Dropout(p=0.5))
    z = torch.from_numpy(drive((20, 10, 30)))
    bare = Neuron(**FIXED)(z)
    torch.manual_seed(4)
    dropped = neuron(z)
    torch.manual_seed(4)
    kept = torch.rand(20, 10) >= 0.5
    assert torch.equal(dropped, bare * kept[..., None] * 2)
    assert torch.equal(neuron.eval()(z), bare)


def test_other_scales():
    """Weights and threshold are integers in units of 1/scale; the units of the states are 64 times finer."""
    neuron = Neuron(**FIXED, scale=1 << 5)
    assert (neuron.v_th_mant, neuron.s_scale) == (40, 2048)
    z = drive((2, 3, 40))
    i, v, s, *_ = oracles.neuron(z, *retentions(neuron), 40 * 64, scale=2048)
    current, voltage = neuron.dynamics(torch.from_numpy(z))
    np.testing.assert_array_equal(current.detach().numpy() * 2048, i)
    np.testing.assert_array_equal(voltage.detach().numpy() * 2048, v)
    np.testing.assert_array_equal(neuron(torch.from_numpy(z)).detach().numpy(), s)


def test_a_state_may_be_set_to_one_number_or_to_one_for_each_neuron():
    z = torch.zeros(2, 3, 4)

    def voltage(**states):
        neuron = Neuron(**FIXED, persistent_state=True)
        for name, value in states.items():
            setattr(neuron, name, value)
        return neuron.dynamics(z)[1]

    full = voltage(current_state=torch.ones(2, 3), voltage_state=torch.zeros(2, 3))
    assert full.any()
    assert torch.equal(voltage(current_state=torch.ones(2, 3)), full)
    assert torch.equal(voltage(current_state=torch.ones(3), voltage_state=torch.zeros(3)), full)
    assert torch.equal(voltage(current_state=1.0), full)
    with pytest.raises(ValueError, match=r"expected voltage_state of 3 neurons, found \[2\]"):
        voltage(voltage_state=torch.ones(2))


@pytest.mark.parametrize("value", [0.25, np.float32(0.25)])
def test_a_decay_that_is_assigned_counts_4096ths(value):
    neuron = Neuron(**FIXED)
    before = neuron.current_decay.item()
    with pytest.raises(ValueError, match="expected current_decay x 4096, found 0.25; 1024 stands for 0.25"):
        neuron.current_decay = value
    assert neuron.current_decay.item() == before
    for right in (1024, 0, 1, 4096, torch.tensor([0.3]), torch.tensor(0.3)):  # a learned decay may be less than a step
        neuron.current_decay = right
        assert neuron.current_decay.item() == pytest.approx(float(right))


def test_decays_of_channels_that_are_assigned_as_fractions_are_reported(recwarn):
    params = {**FIXED, "shared_param": False, "num_neurons": 5}
    fractions = torch.linspace(0.1, 0.5, 5)
    with pytest.raises(ValueError, match=r"to be a number or a pair \(lowest, highest\), found tensor.*shared_param"):
        Neuron(**{**params, "current_decay": fractions})
    neuron, other = Neuron(**params), Neuron(**params)
    neuron.current_decay = 4096 * fractions
    assert neuron.cx_current_decay.tolist() == [410, 819, 1229, 1638, 2048]
    neuron.scaled_voltage_decay.data.fill_(1e-4)  # learned decays may all be less than a step
    other.load_state_dict(neuron.state_dict())
    other.voltage_decay = neuron.voltage_decay
    other.voltage_decay = torch.zeros(5)
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"expected current_decay x 4096, found 0\.1\.\.0\.5; 1024 stands for 0\.25"):
        neuron.current_decay = fractions


@pytest.mark.parametrize("value", [1e6, -262145, float("nan"), float("inf"), torch.tensor([0, 3e5])])
def test_a_state_that_does_not_fit_is_refused(value):
    neuron = Neuron(**FIXED, persistent_state=True)
    with pytest.raises(ValueError, match="expected voltage_state of at most 262144, found"):
        neuron.voltage_state = value
    assert neuron.voltage_state.item() == 0


def test_invalid_constants_raise():
    for scale in (64.9, 0.5):
        with pytest.raises(ValueError, match=f"expected a whole number as scale, found {scale}"):
            Neuron(**FIXED, scale=scale)
    with pytest.raises(ValueError, match=r"expected current_decay to be a number or a pair .* see shared_param"):
        Neuron(1.25, np.array([[0.1], [0.2]]), 0.03, shared_param=False, num_neurons=2)
    neuron = Neuron(**FIXED)
    neuron.current_decay = float("nan")
    with pytest.raises(ValueError, match="expected finite decays, found"):
        _ = neuron.device_params
    assert "iDecay=nan, vDecay=123" in repr(neuron)


@pytest.mark.parametrize("given", [torch.full((3,), 1.25), [1.25, 1.25], None, torch.nn.Parameter(torch.tensor(1.25))])
@pytest.mark.parametrize("name", ["threshold", "tau_grad", "scale_grad"])
def test_a_constant_is_one_number_that_is_not_learned(name, given):
    neuron = Neuron(**FIXED)
    message = f"expected one number as {name}, which is not learned, found "
    with pytest.raises(ValueError, match=message):
        Neuron(**{**FIXED, name: given})
    with pytest.raises(ValueError, match=message):
        setattr(neuron, name, given)
    setattr(neuron, name, torch.tensor([1.5]))
    assert (getattr(neuron, name), type(getattr(neuron, name))) == (1.5, float)


def test_the_bias_of_a_norm_without_rounding_is_in_hardware_units():
    norm = MeanOnlyBatchNorm(2)
    norm.running_mean.fill_(0.5)
    assert norm.bias.tolist() == [-32, -32]


def test_wrong_ranges_and_numbers_of_neurons_are_refused():
    with pytest.raises(ValueError, match=r"expected voltage_decay as a pair \(lowest, highest\), found \(0.4, 0.1\)"):
        Neuron(**{**FIXED, "voltage_decay": (0.4, 0.1)}, shared_param=False, num_neurons=3)
    for number in (0, 2.5):
        with pytest.raises(ValueError, match=f"num_neurons: expected a whole number from 1, found {number}"):
            Neuron(**FIXED, num_neurons=number)


class Readout(Neuron):
    def spike(self, voltage):
        return voltage


class Deaf(Neuron):
    def dynamics(self, z):
        return super().dynamics(0 * z)


def test_overridden_dynamics_and_spike_functions_are_used():
    z = torch.tensor(drive((2, 5, 30), spread=3.0))
    plain = Neuron(**FIXED)
    voltage = plain.dynamics(z)[1]
    assert torch.equal(Readout(**FIXED)(z), voltage)
    assert plain(z).any()
    assert not Deaf(**FIXED)(z).any()
    plain.spike = lambda voltage: 2 * voltage
    assert torch.equal(plain(z), 2 * voltage)


def test_lava_dls_attributes_can_be_read_and_set():
    neuron = Neuron(**{**FIXED, "tau_grad": 0.5})
    width = neuron.tau_rho
    assert (neuron._threshold, width, neuron.scale_rho) == (neuron.threshold, 0.5 * neuron.threshold, neuron.scale_grad)
    neuron._threshold = 4.0  # lava-dl's programs; the surrogate keeps its width
    assert (neuron.v_th_mant, neuron.threshold, neuron.tau_rho) == (256, 4.0, width)
    neuron.tau_rho, neuron.scale_rho = 0.01, 5
    assert (neuron.surrogate.tau, neuron.scale_grad) == (pytest.approx(1.0), 5)
    neuron.threshold = 2
    assert neuron.surrogate.tau == pytest.approx(0.5)
    z = torch.tensor(drive((2, 5, 30), spread=3.0))
    assert torch.equal(neuron(z), Neuron(**{**FIXED, "threshold": 2})(z))
    for bad in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected a threshold"):
            neuron.threshold = bad


def test_a_spike_function_of_lava_dl_may_use_threshold_eps():
    neuron = Neuron(**FIXED)
    voltage = neuron.threshold + torch.arange(-2, 3) / 4096
    assert torch.equal((voltage >= neuron.threshold + neuron.threshold_eps).float(), neuron.spike(voltage))
    neuron.threshold_eps = 0.02 / neuron.s_scale  # as in programs that define it themselves
    assert neuron.threshold_eps == 0.02 / 4096
