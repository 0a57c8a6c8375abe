"""Test the one-step shift, learned delays and dropout."""

import copy

import numpy as np
import pytest
import torch
from support import oracles
from support.neurons import PARAMS
from support.oracles import assert_close

from nmnist_helpers import axon
from nmnist_helpers.block import cuba
from nmnist_helpers.neuron import Dropout
from nmnist_helpers.utils.time import shift


def signal(sizes, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=sizes).astype(np.float32))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 5, 9), (3, 4, 2, 3, 7)], ids=str)
@pytest.mark.parametrize("steps", [0, 1, 3, 20])
def test_shift_and_its_gradient_match_the_oracle(sizes, steps):
    x = signal(sizes).requires_grad_()
    y = axon.delay(x, steps)
    flat = x.detach().reshape(sizes[0], -1, sizes[-1]).numpy()
    np.testing.assert_array_equal(y.detach().numpy(), oracles.shifted(flat, steps).reshape(sizes))
    grad = signal(sizes, 1)
    y.backward(grad)
    back = oracles.shifted_back(grad.reshape(flat.shape).numpy(), steps)
    np.testing.assert_array_equal(x.grad.numpy(), back.reshape(sizes))


def test_shift_defaults_to_one_step_and_uses_the_sampling_time():
    x = signal((1, 2, 8))
    assert torch.equal(axon.delay(x)[..., 1:], x[..., :-1])
    assert (axon.delay(x)[..., 0] == 0).all()
    assert torch.equal(axon.delay(x, 6, sampling_time=2), axon.delay(x, 3))


def test_ms_are_whole_steps_where_their_quotient_is_a_little_smaller():
    x = torch.zeros(1, 1, 60)
    x[..., 0] = 1
    learned = axon.Delay(1, sampling_time=0.1).eval()
    for steps in range(1, 50):
        ms = steps / 10
        learned.delay.data.fill_(ms)
        for shifted in (axon.delay(x, ms, 0.1), shift(x, ms, 0.1), shift(x, torch.tensor(ms), 0.1), learned(x)):
            assert shifted.nonzero()[0, 2] == steps
    learned.delay.data.fill_(1.29)
    assert learned(x).nonzero()[0, 2] == 12


@pytest.mark.parametrize(("ms", "sampling_time", "steps"), [(-2, 1, -2), (-2, 2, -1), (-2, 0.5, -4), (-1.3, 0.1, -13)])
def test_a_negative_shift_moves_a_signal_to_earlier_steps(ms, sampling_time, steps):
    x = torch.zeros(1, 1, 60)
    x[..., 30] = 1
    for shifted in (axon.delay(x, ms, sampling_time), shift(x, ms, sampling_time)):
        assert shifted.nonzero()[0, 2] == 30 + steps


def test_impossible_times_raise():
    x = torch.ones(1, 1, 5)
    for sampling_time in (0, -1, float("nan"), float("inf")):
        for use in (axon.delay, shift, lambda x, _, time: axon.Delay(1, sampling_time=time)):
            with pytest.raises(ValueError, match="sampling_time: expected a positive number of ms"):
                use(x, 1, sampling_time)
    for ms in (float("nan"), float("inf"), "1", None):
        with pytest.raises(ValueError, match="expected a finite delay_val"):
            axon.delay(x, ms)
    for scale in (-1, float("nan"), "1"):
        with pytest.raises(ValueError, match="Delay: expected a grad_scale of at least 0, found"):
            axon.Delay(2, grad_scale=scale)
    with pytest.raises(ValueError, match=r"num_features: expected a whole number from 1, found 3\.0"):
        axon.Delay(3.0)
    with pytest.raises(ValueError, match=r"delay: expected one number, found 3; utils\.time\.shift takes several"):
        axon.delay(torch.zeros(1, 3, 5), torch.tensor([1.0, 2, 3]))
    assert torch.equal(axon.delay(torch.ones(1, 1, 3), torch.tensor([1.0])), torch.tensor([[[0.0, 1, 1]]]))
    with pytest.raises(ValueError, match="expected a max_delay of at least 0 ms, found -1"):
        axon.Delay(1, max_delay=-1)
    with pytest.raises(ValueError, match="shift: expected finite shifts, found nan"):
        shift(x, float("nan"))


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 6, 20), (2, 3, 2, 2, 15)], ids=str)
def test_learned_delay_and_its_gradient_match_the_oracle(sizes):
    layer = axon.Delay(sizes[1], max_delay=62)
    delays = np.random.default_rng(2).uniform(0, 12, sizes[1]).astype(np.float32)
    delays[0] = 2.0
    layer.delay.data = torch.from_numpy(delays.copy())
    x = signal(sizes).requires_grad_()
    y = layer(x)
    inner = x[0, 0, ..., 0].numel()
    flat = x.detach().reshape(sizes[0], -1, sizes[-1]).numpy()
    lag = np.repeat(np.floor(delays).astype(int), inner)
    expected = oracles.shifted(flat, lag)
    np.testing.assert_array_equal(y.detach().numpy(), expected.reshape(sizes))

    grad = signal(sizes, 1)
    y.backward(grad)
    flat_grad = grad.reshape(flat.shape).numpy()
    np.testing.assert_array_equal(x.grad.numpy(), oracles.shifted_back(flat_grad, lag).reshape(sizes))
    by_delay = oracles.delay_gradient(flat_grad.astype(float), expected.astype(float)).reshape(sizes[1], inner).sum(1)
    assert_close(layer.delay.grad, by_delay)


def test_delay_gradient_has_the_right_sign():
    """More delay reduces the loss of an early spike, so its gradient is negative; that of a late spike is positive."""
    for at, sign in ((4, -1), (12, 1)):
        layer = axon.Delay(1)
        layer.delay.data.fill_(0.0)
        x = torch.zeros(1, 1, 20)
        x[..., at] = 1
        time = torch.arange(20.0)
        target = torch.exp(-((time - 8) ** 2) / 30)  # a smooth target around step 8
        (layer(x) * -target).sum().backward()
        assert np.sign(layer.delay.grad.item()) == sign


@pytest.mark.parametrize("size_is_known", [True, False])
def test_initial_delays_are_uniform_between_0_and_1(size_is_known):
    layer = axon.Delay(5000 if size_is_known else None)
    layer(torch.zeros(1, 5000, 2))
    assert layer.delay.shape == layer.shape == (5000,)
    d = layer.delay.detach()
    assert d.min() >= 0
    assert d.max() < 1
    assert d.mean().item() == pytest.approx(0.5, abs=0.02)
    assert d.std().item() == pytest.approx(12**-0.5, abs=0.02)


def test_a_delay_has_at_least_one_channel():
    with pytest.raises(ValueError, match="Delay: num_features: expected a whole number from 1, found 0"):
        axon.Delay(0)


def test_delays_are_clamped_to_their_range():
    layer = axon.Delay(4, max_delay=62)
    outside = torch.tensor([-3.0, 61.5, 62.9, 1e9])
    layer.delay.data = outside.clone()
    layer.eval()
    assert torch.floor(layer.steps()).tolist() == [0, 61, 62, 62]
    assert torch.equal(layer.delay.detach(), outside)  # evaluation changes no parameter
    layer.train()
    assert torch.floor(layer.steps()).tolist() == [0, 61, 62, 62]
    assert layer.delay.tolist() == [0, 61.5, 62, 62]
    free = axon.Delay(1)
    free.delay.data.fill_(100.0)
    assert free.steps().item() == 100


def test_sampling_time_and_gradient_scale():
    layer = axon.Delay(1, sampling_time=2, grad_scale=10)
    layer.delay.data.fill_(5.0)  # 5 ms: two whole steps of 2 ms
    x = torch.zeros(1, 1, 8)
    x[..., 1] = 1
    y = layer(x)
    assert y[0, 0].nonzero().item() == 3
    grad = signal((1, 1, 8), 3)
    y.backward(grad)
    by_steps = oracles.delay_gradient(grad.numpy(), y.detach().numpy())
    assert_close(layer.delay.grad, 10 * by_steps / 2)


def test_the_longest_delay_is_counted_in_steps():
    assert axon.Delay(1, sampling_time=0.5, max_delay=62).longest() == 124


def test_nan_delay_raises():
    layer = axon.Delay(3)
    layer.delay.data[1] = float("nan")
    with pytest.raises(OverflowError, match="delay: expected finite numbers, found NaN"):
        layer(torch.zeros(1, 3, 4))


def test_wrong_channels_raise():
    with pytest.raises(ValueError, match=r"with C = 3, found \[1, 4, 5\]"):
        axon.Delay(3)(torch.zeros(1, 4, 5))
    with pytest.raises(ValueError, match=r"with C = 3, found \[3, 5\]"):
        axon.Delay(3)(torch.zeros(3, 5))


# ------------------------------------------------------------------------------------------------------ dropout


def test_dropout_removes_whole_trains_and_scales_the_others():
    torch.manual_seed(0)
    drop = Dropout(p=0.2)
    x = torch.ones(40, 50, 6)
    y = drop(x)
    per_neuron = y[..., 0]
    assert (y == per_neuron[..., None]).all()  # the same for the whole duration
    assert set(per_neuron.unique().tolist()) == {0.0, np.float32(1.25)}
    assert (per_neuron == 0).float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert not (per_neuron == per_neuron[:1]).all()  # every sample has its own dropout
    assert (x == 1).all()  # the input is not changed
    images = drop(torch.ones(10, 4, 5, 5, 3))
    assert 0 < (images[..., 0] == 0).float().mean() < 0.5
    assert (images == images[..., :1]).all()


def test_dropout_gradient_has_the_same_mask_and_factor():
    torch.manual_seed(1)
    x = torch.rand(4, 6, 5, requires_grad=True)
    y = Dropout(p=0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, (y.detach() != 0).float() * 2)


@pytest.mark.parametrize("drop", [Dropout(p=0.0), Dropout(p=0.9).eval()])
def test_inactive_dropout_returns_its_input(drop):
    x = torch.ones(3, 4, 5)
    assert drop(x) is x
    assert drop.value == 1
    assert drop.draw(3, 4, x.device) is None


def test_dropout_uses_the_mask_of_draw():
    drop = Dropout(p=0.3)
    torch.manual_seed(5)
    kept = drop.draw(7, 9, torch.device("cpu"))
    torch.manual_seed(5)
    assert torch.equal(drop(torch.ones(7, 9, 2)), (kept.float() / (1 - 0.3))[..., None].expand(-1, -1, 2))


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_dropout_refuses_invalid_probabilities(p):
    with pytest.raises(ValueError, match=r"expected a probability p in \[0, 1\), found"):
        Dropout(p=p)


def test_a_delay_without_a_size_takes_it_from_the_first_input():
    layer = axon.Delay(max_delay=62)
    assert layer.shape is None
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(torch.ones(2, 3, 10)).sum().backward()
    assert layer.shape == (3,)
    assert 0 <= layer.delay.min() <= layer.delay.max() < 1
    before = layer.delay.detach().clone()
    optimizer.step()
    assert not torch.equal(before, layer.delay)  # the optimiser updates the layer's own parameter


def test_a_pooling_block_with_delays_has_its_parameters_at_once():
    torch.manual_seed(0)
    pool = cuba.Pool(PARAMS, 2, delay=True)
    optimizer = torch.optim.SGD(pool.parameters(), lr=0.1)
    assert sum(parameter.numel() for parameter in pool.parameters()) > 0
    before = {name: value.clone() for name, value in pool.state_dict().items()}
    pool.load_state_dict(before)
    other = copy.deepcopy(pool)
    pool(torch.ones(1, 3, 4, 4, 20)).sum().backward()
    optimizer.step()
    assert pool.delay.delay.shape == pool.delay.delay.grad.shape == (3,)
    other.load_state_dict(pool.state_dict())
    assert torch.equal(other.delay.delay, pool.delay.delay)


def test_one_delay_is_kept_for_one_channel():
    torch.manual_seed(0)
    delay = axon.Delay()
    value = delay.delay.item()
    delay(torch.ones(1, 1, 5))
    assert (delay.delay.item(), delay.shape) == (value, (1,))


def test_a_delay_without_a_size_keeps_loaded_values():
    layer = axon.Delay()
    layer.load_state_dict({"delay": torch.tensor([3.5, 0.0])})
    assert torch.equal(layer(torch.eye(6)[:1].expand(1, 2, 6)), torch.eye(6)[[3, 0]][None])
    with pytest.raises(ValueError, match=r"with C = any, found \[2, 3\]"):
        axon.Delay()(torch.ones(2, 3))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_delays_drawn_at_a_first_input_without_gradients_can_learn_later(mode):
    layer, x = axon.Delay(), signal((2, 5, 9))
    with mode():
        layer(x)
    layer(x).square().sum().backward()
    assert layer.delay.grad.any()
