"""Compare losses with their formulas in float64, and gradients with finite differences."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_classifier import moving_rate, spikes

from nmnist_helpers.loss import SpikeMax, SpikeRate, SpikeTime

LABEL = [2, 0, 3]


def rate_loss(rate, label, true=0.2, false=0.03):
    """Return the squared error of rates [B, C] or [B, C, T] for labels [B] or [B, T]."""
    total = 0.0
    for b in range(rate.shape[0]):
        for c in range(rate.shape[1]):
            hit = np.asarray(label)[b] == c  # one value, or one per time step
            total += np.sum((rate[b, c] - np.where(hit, true, false)) ** 2)
    return total


@pytest.mark.parametrize(("reduction", "divisor"), [("sum", 1), ("mean", 12)])
def test_spike_rate_matches_its_formula(reduction, divisor):
    s = spikes()
    expected = rate_loss(s.mean(-1, dtype=np.float64), LABEL) / divisor
    found = SpikeRate(0.2, 0.03, reduction=reduction)(torch.from_numpy(s), torch.tensor(LABEL))
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_spike_rate_has_no_factor_one_half():
    assert SpikeRate(1, 0)(torch.zeros(1, 2, 5), torch.tensor([1])).item() == 1.0


@pytest.mark.parametrize(("reduction", "divisor"), [("sum", 1), ("mean", 12 * 17)])
def test_spike_rate_with_a_moving_window(reduction, divisor):
    s = spikes(seed=4)
    error = SpikeRate(0.2, 0.03, moving_window=6, reduction=reduction)
    found = error(torch.from_numpy(s), torch.tensor(LABEL))
    assert found.item() == pytest.approx(rate_loss(moving_rate(s, 6), LABEL) / divisor, rel=1e-5)
    steps = np.random.default_rng(1).integers(0, 4, (3, 17))
    found = error(torch.from_numpy(s), torch.from_numpy(steps))
    assert found.item() == pytest.approx(rate_loss(moving_rate(s, 6), steps) / divisor, rel=1e-5)


def test_spike_rate_collapses_spatial_axes():
    s = torch.from_numpy(spikes(3, 4, 9))
    error, label = SpikeRate(0.2, 0.03), torch.tensor(LABEL)
    assert error(s.reshape(3, 1, 2, 2, 9), label) == error(s, label)


def test_spike_rate_gradient_is_equal_at_every_step():
    s = torch.from_numpy(spikes()).requires_grad_()
    SpikeRate(0.2, 0.03)(s, torch.tensor(LABEL)).backward()
    rate = s.detach().numpy().mean(-1, dtype=np.float64)
    target = np.where(np.arange(4) == np.array(LABEL)[:, None], 0.2, 0.03)
    expected = np.repeat((2 * (rate - target) / 17)[..., None], 17, -1)
    np.testing.assert_allclose(s.grad, expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("mode", ["probability", "softmax", "logsoftmax"])
@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_spike_max_matches_its_formula(mode, window, reduction):
    s = spikes(seed=5)
    rate = s.mean(-1, dtype=np.float64)[..., None] if window is None else moving_rate(s, window)
    terms = []
    for b, label in enumerate(LABEL):
        for r in rate[b].T:
            weight = [q + 1e-6 for q in r] if mode == "probability" else [math.exp(q) for q in r]
            terms.append(-math.log(weight[label] / sum(weight)))
    expected = sum(terms) if reduction == "sum" else sum(terms) / len(terms)
    found = SpikeMax(mode=mode, moving_window=window, reduction=reduction)(torch.from_numpy(s), torch.tensor(LABEL))
    assert found.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_spike_max_scales_rates_and_smooths_labels(window, reduction):
    s = spikes(seed=5)
    rate = s.mean(-1, dtype=np.float64)[..., None] if window is None else moving_rate(s, window)
    terms = []
    for b, label in enumerate(LABEL):
        for r in rate[b].T:
            likelihood = np.log(np.exp(12 * r) / np.exp(12 * r).sum())
            terms.append(-0.9 * likelihood[label] - 0.1 * likelihood.mean())
    expected = sum(terms) if reduction == "sum" else sum(terms) / len(terms)
    error = SpikeMax(window, "softmax", reduction, scale=12, label_smoothing=0.1)
    assert error(torch.from_numpy(s), torch.tensor(LABEL)).item() == pytest.approx(expected, rel=1e-5)


def test_spike_max_is_close_to_the_likelihood_of_the_confidence():
    s = torch.from_numpy(spikes(seed=6))
    confidence = s.mean(-1).double() / (s.mean(-1).double().sum(1, keepdim=True) + 1e-6)
    expected = -torch.log(confidence[torch.arange(3), torch.tensor(LABEL)]).sum()
    assert SpikeMax()(s, torch.tensor(LABEL)).item() == pytest.approx(expected.item(), abs=1e-3)


def test_spike_max_adds_eps_to_every_rate():
    s = torch.tensor([[[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]])  # rates 1/2, 1 and 0
    assert SpikeMax(eps=0.1)(s, torch.tensor([0])).item() == pytest.approx(-math.log(0.6 / 1.8))


@pytest.mark.parametrize("window", [None, 4])
def test_spike_max_and_its_gradient_are_finite_where_the_true_class_is_silent(window):
    s = torch.from_numpy(spikes())
    s[:, 1] = 0
    s[2] = 0  # a sample without any spikes
    s.requires_grad_()
    loss = SpikeMax(moving_window=window)(s, torch.tensor([1, 1, 1]))
    loss.backward()
    assert math.isfinite(loss.item())
    assert loss.item() > 0
    assert torch.isfinite(s.grad).all()


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_spike_time_matches_its_formula(order, reduction):
    a, b = spikes(2, 3, 40, seed=7), spikes(2, 3, 40, seed=8)
    length, tau = 12, 5.0
    once = [math.exp(-k / tau) for k in range(length)]
    response = once
    for _ in range(order - 1):
        response = [sum(response[j] * once[k - j] for j in range(k + 1)) for k in range(length)]
    filtered = np.zeros(a.shape)
    for t in range(40):
        for k in range(min(length, t + 1)):
            filtered[..., t] += response[k] * (a - b).astype(np.float64)[..., t - k]
    expected = (filtered**2).sum() if reduction == "sum" else (filtered**2).mean()
    error = SpikeTime(time_constant=tau, length=length, filter_order=order, reduction=reduction)
    assert error(torch.from_numpy(a), torch.from_numpy(b)).item() == pytest.approx(expected, rel=1e-5)


def test_spike_time_default_filter_and_causality():
    error = SpikeTime()
    pulse = torch.zeros(1, 1, 150)
    pulse[0, 0, 20] = 1
    found = error.filter(pulse)[0, 0].numpy()
    expected = [math.exp(-(t - 20) / 5) if 20 <= t < 120 else 0.0 for t in range(150)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [1, 7, 64, 100])
def test_spike_time_filter_equals_a_convolution(length):
    error = SpikeTime(time_constant=8, length=length, filter_order=2)
    for steps in (1, 30, 64, 129):
        s = torch.rand(2, 3, steps, generator=torch.Generator().manual_seed(steps), requires_grad=True)
        direct = F.conv1d(F.pad(s.reshape(6, 1, -1), (length - 1, 0)), error.response.flip(0).view(1, 1, -1))
        weight = torch.rand(2, 3, steps)
        found = error.filter(s)
        torch.testing.assert_close(found, direct.view_as(s), rtol=1e-5, atol=1e-5)
        grads = [torch.autograd.grad((out.view_as(s) * weight).sum(), s)[0] for out in (found, direct)]
        torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("error", [
    lambda s: SpikeTime(4, 9, 2)(s, torch.ones(2, 3, 11, dtype=torch.float64)),
    lambda s: SpikeRate(0.2, 0.03, moving_window=3)(s, torch.tensor([0, 2])),
    lambda s: SpikeMax(moving_window=3)(s, torch.tensor([0, 2])),
    lambda s: SpikeMax(None, "softmax")(s, torch.tensor([0, 2])),
])  # fmt: skip
def test_gradients_against_finite_differences(error):
    s = torch.rand(2, 3, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    assert torch.autograd.gradcheck(error, s.requires_grad_())


@pytest.mark.parametrize("error", [SpikeRate(0.2, 0.03), SpikeMax()])
def test_wrong_labels_and_shapes_raise(error):
    name = type(error).__name__
    s = torch.zeros(3, 4, 5)
    with pytest.raises(ValueError, match=rf"{name}: expected labels in 0\.\.3, found 0\.\.4"):
        error(s, torch.tensor([0, 4, 1]))
    with pytest.raises(ValueError, match=rf"{name}: expected labels in 0\.\.3, found -1\.\.2"):
        error(s, torch.tensor([0, 2, -1]))
    with pytest.raises(ValueError, match=rf"{name}: expected labels \[3\], found \[2\]"):
        error(s, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=rf"{name}: expected labels \[3\], found \[3, 5\]"):
        error(s, torch.zeros(3, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=rf"{name}: expected whole numbers as labels, found torch.float32"):
        error(s, torch.zeros(3))
    with pytest.raises(ValueError, match=rf"{name}: expected spikes \[B, C, T\], found \[3, 4\]"):
        error(s[..., 0], torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("window", [None, 6])
def test_without_a_reduction_each_loss_is_returned(window):
    s = torch.from_numpy(np.random.default_rng(0).random((3, 4, 17)) < 0.3).float()
    label, desired = torch.tensor([0, 1, 2]), s.roll(1, -1)
    steps = () if window is None else (17,)
    for kind, target, shape, options in (
        (SpikeRate, label, (3, 4, *steps), {"true_rate": 0.2, "false_rate": 0.03, "moving_window": window}),
        (SpikeMax, label, (3, *steps), {"moving_window": window}),
        (SpikeTime, desired, (3, 4, 17), {}),
    ):
        losses = kind(reduction="none", **options)(s, target)
        assert losses.shape == shape
        torch.testing.assert_close(losses.sum(), kind(reduction="sum", **options)(s, target))
        torch.testing.assert_close(losses.mean(), kind(reduction="mean", **options)(s, target))


def test_wrong_settings_raise():
    with pytest.raises(ValueError, match=r"true_rate in 0\.\.1 spikes per step, found 1\.5"):
        SpikeRate(1.5, 0)
    with pytest.raises(ValueError, match="false_rate in .* found nan"):
        SpikeRate(0.5, float("nan"))
    for make in (
        lambda r: SpikeRate(1, 0, reduction=r),
        lambda r: SpikeMax(reduction=r),
        lambda r: SpikeTime(reduction=r),
    ):
        with pytest.raises(ValueError, match="expected reduction 'sum', 'mean' or 'none', found 'max'"):
            make("max")
    with pytest.raises(ValueError, match="a mode of probability, softmax, logsoftmax, found 'likelihood'"):
        SpikeMax(mode="likelihood")
    with pytest.raises(ValueError, match="a window of at least one step, found 'softmax'"):
        SpikeMax("softmax")
    with pytest.raises(ValueError, match="positive time_constant, length and filter_order, found 0, 100, 1"):
        SpikeTime(time_constant=0)
    with pytest.raises(ValueError, match=r"trains of one shape, found \[1, 2, 3\] and \[1, 2, 4\]"):
        SpikeTime()(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4))


def test_swapped_target_rates_are_reported():
    for true, false in ((0, 1), (0.2, 0.2)):
        with pytest.warns(UserWarning, match=f"expected true_rate above false_rate, found {true:g} and {false:g}"):
            SpikeRate(true, false)


def test_target_rates_may_be_tensors_of_one_number():
    found = SpikeRate(torch.tensor(0.25), torch.tensor(0.125))(torch.from_numpy(spikes()), LABEL)
    assert found == SpikeRate(0.25, 0.125)(torch.from_numpy(spikes()), LABEL)


def test_losses_have_an_empty_state_dict():
    for error in (SpikeTime(), SpikeRate(0.2, 0.03, moving_window=5), SpikeMax()):
        assert not error.state_dict()


def test_spike_time_of_whole_numbers_equals_that_of_floats():
    trains = [(torch.rand(2, 3, 40, generator=torch.Generator().manual_seed(k)) < 0.3).float() for k in (0, 1)]
    expected = SpikeTime()(*trains)
    for kind in (torch.int64, torch.uint8, torch.bool):
        torch.testing.assert_close(SpikeTime()(*(train.to(kind) for train in trains)), expected)


def test_spike_time_refuses_an_array():
    train = torch.zeros(2, 3, 40)
    with pytest.raises(TypeError, match="SpikeTime: expected a tensor, found ndarray"):
        SpikeTime()(train, train.numpy())


@pytest.mark.parametrize("error", [SpikeRate(0.2, 0.03), SpikeMax()])
def test_labels_may_be_a_list_or_an_array(error):
    trains = torch.from_numpy(spikes())
    expected = error(trains, torch.tensor(LABEL))
    assert error(trains, LABEL) == error(trains, np.array(LABEL)) == expected


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_spike_max_refuses_numbers_out_of_range(value):
    for name in ("eps", "scale"):
        with pytest.raises(ValueError, match=f"SpikeMax: expected a positive {name}, found {value}"):
            SpikeMax(mode="softmax", **{name: value})
    if value:
        with pytest.raises(ValueError, match=rf"SpikeMax: expected label_smoothing in 0\.\.1, found {value}"):
            SpikeMax(mode="softmax", label_smoothing=value)
    for given in ({"scale": 2}, {"label_smoothing": 0.1}):
        with pytest.raises(ValueError, match="expected mode 'softmax' for scale and label_smoothing"):
            SpikeMax(**given)
