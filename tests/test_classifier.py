"""Compare the classifiers with directly computed sums."""

import math

import numpy as np
import pytest
import torch

from nmnist_helpers.classifier import MovingWindow, Rate
from nmnist_helpers.spikes import Spikes


def spikes(batch=3, classes=4, steps=17, seed=0):
    return (np.random.default_rng(seed).random((batch, classes, steps)) < 0.3).astype(np.float32)


def moving_rate(s, window):
    """Return the rate over the last `window` steps, at every step."""
    out = np.zeros(s.shape)
    for t in range(s.shape[-1]):
        out[..., t] = s[..., max(0, t - window + 1) : t + 1].sum(-1) / window
    return out


def test_rate_and_prediction():
    s = spikes()
    counts = s.sum(-1)
    np.testing.assert_allclose(Rate.rate(torch.from_numpy(s)), counts / 17, rtol=1e-6)
    expected = counts.argmax(1)
    assert Rate.predict(torch.from_numpy(s)).tolist() == expected.tolist()
    assert Rate()(torch.from_numpy(s)).tolist() == expected.tolist()


def test_first_of_equal_rates_wins_and_silence_is_class_0():
    s = torch.zeros(2, 3, 5)
    s[0, 1, 2] = s[0, 2, 4] = 1
    assert Rate.predict(s).tolist() == [1, 0]


@pytest.mark.parametrize("value", [1 / (1 - 0.05), 0.1])
def test_the_value_of_spikes_changes_no_answer(value):
    """Equally many spikes give equal rates, although sums of such values depend on their order in float32."""
    spikes = (torch.rand(64, 10, 300) < 0.3).float()
    for chosen in (Rate(), MovingWindow(5), MovingWindow(20)):
        assert torch.equal(chosen(spikes * value), chosen(spikes))


def test_spikes_may_have_any_type():
    spikes = torch.rand(4, 10, 30) < 0.3
    for kind in (torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64):
        for chosen in (Rate(), MovingWindow(5)):
            assert torch.equal(
                chosen.rate(spikes.to(kind)), chosen.rate(spikes.double()).to(chosen.rate(spikes.to(kind)))
            )
    assert Rate.rate(spikes.half()).dtype == torch.float16


def test_spatial_axes_count_as_classes():
    s = torch.from_numpy(spikes(2, 6, 9))
    assert torch.equal(Rate.predict(s.reshape(2, 1, 2, 3, 9)), Rate.predict(s))


@pytest.mark.parametrize("mode", ["probability", "softmax", "logsoftmax"])
def test_confidence(mode):
    s = spikes(seed=1)
    rate = s.sum(-1, dtype=np.float64) / 17
    soft = np.array([[math.exp(r) / sum(math.exp(q) for q in row) for r in row] for row in rate])
    expected = {"probability": rate / (rate.sum(1, keepdims=True) + 1e-6), "softmax": soft, "logsoftmax": np.log(soft)}
    np.testing.assert_allclose(Rate.confidence(torch.from_numpy(s), mode), expected[mode], rtol=1e-5)


def test_confidence_of_silent_outputs_is_finite():
    assert Rate.confidence(torch.zeros(1, 3, 4)).tolist() == [[0, 0, 0]]


def test_eps_is_added_to_the_sum_of_the_rates():
    s = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])  # rates 1/2 and 0
    assert Rate.confidence(s, eps=0.5).tolist() == [[0.5, 0]]
    assert MovingWindow(1, eps=1.0).confidence(s)[..., 0].tolist() == [[0.5, 0]]


@pytest.mark.parametrize("window", [1, 5, 17, 40])
def test_moving_window_matches_direct_sums(window):
    s = spikes(seed=2)
    classifier = MovingWindow(window)
    expected = moving_rate(s, window)
    np.testing.assert_allclose(classifier.rate(torch.from_numpy(s)), expected, rtol=1e-6)
    # Among classes with equal rates, the first one is predicted, with float32 rates as with exact counts.
    best = np.rint(expected * window).argmax(1)
    assert (classifier(torch.from_numpy(s)).numpy() == best).all()
    confidence = expected / (expected.sum(1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(classifier.confidence(torch.from_numpy(s)), confidence, rtol=1e-5, atol=1e-7)


def test_moving_window_takes_its_mode_at_construction_or_at_the_call():
    s = torch.from_numpy(spikes())
    a = MovingWindow(4, mode="softmax").confidence(s)
    assert torch.equal(a, MovingWindow(4).confidence(s, "softmax"))
    torch.testing.assert_close(a.sum(1), torch.ones(3, 17))
    torch.testing.assert_close(MovingWindow(4, mode="logsoftmax").confidence(s).exp(), a)
    assert MovingWindow(4).rate(s.double()).dtype == torch.float64


def test_moving_window_gradient_covers_the_window():
    s = torch.zeros(1, 1, 6, requires_grad=True)
    MovingWindow(3).rate(s)[0, 0, 3].backward()
    np.testing.assert_allclose(s.grad[0, 0], [0, 1 / 3, 1 / 3, 1 / 3, 0, 0], rtol=1e-6)


def test_wrong_arguments_raise():
    with pytest.raises(ValueError, match=r"Rate: expected spikes \[B, C, T\], found \[3, 4\]"):
        Rate.predict(torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"found \[1, 2, 0\]"):
        Rate.rate(torch.zeros(1, 2, 0))
    with pytest.raises(ValueError, match="expected a mode of probability, softmax, logsoftmax, found 'max'"):
        Rate.confidence(torch.zeros(1, 2, 3), "max")
    with pytest.raises(ValueError, match="at least one step, found 0"):
        MovingWindow(0)
    with pytest.raises(ValueError, match="found 'max'"):
        MovingWindow(3, mode="max")


def test_moving_window_sums_half_precision_in_float32():
    spikes = (torch.rand(1, 2, 3000, generator=torch.Generator().manual_seed(0)) < 0.9).float()
    assert torch.equal(MovingWindow(10).rate(spikes.bfloat16()), MovingWindow(10).rate(spikes))


def test_other_values_than_tensors_and_numbers_raise():
    spikes = Spikes.from_dense(torch.ones(1, 2, 3))
    with pytest.raises(TypeError, match=r"Rate: expected a tensor \[B, C, T\], found Spikes; dense\(\) makes one"):
        Rate.predict(spikes)
    for window in (float("inf"), float("nan"), 1.5, 0):
        with pytest.raises(ValueError, match="MovingWindow: expected a window of at least one step"):
            MovingWindow(window)


@pytest.mark.parametrize("eps", [-1, float("nan"), "1", None])
def test_eps_is_not_negative(eps):
    with pytest.raises(ValueError, match="confidence: expected an eps of at least 0, found"):
        Rate.confidence(torch.ones(1, 2, 3), eps=eps)
    with pytest.raises(ValueError, match="MovingWindow: expected an eps of at least 0, found"):
        MovingWindow(3, eps=eps)
