"""Test what blocks take and give: any layout and type, events, parts of a long recording."""

import copy
import gc
import operator
import weakref

import pytest
import torch
from support.blocks import compare_gradients, dense_block, run
from support.neurons import PARAMS, gradient_like, sample
from support.oracles import assert_close
from support.pairs import pairwise

from nmnist_helpers import axon, kernels
from nmnist_helpers.block import cuba
from nmnist_helpers.spikes import Spikes, remembered


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_input_and_gradient_of_any_layout(layout):
    block = dense_block(20, 12, seed=1)
    x, grad = sample((4, 20, 30)), gradient_like((4, 12, 30))
    if layout == "expanded":
        x, grad = x[:1].expand(4, -1, -1), grad[:, :, :1].expand(-1, -1, 30)
    expected_out, expected = run(copy.deepcopy(block), x.contiguous(), grad.contiguous())
    if layout == "transposed":
        x, grad = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (x, grad))
    elif layout == "strided":
        x, grad = (torch.stack([t, t], 3)[..., 1] for t in (x, grad))
    assert not x.is_contiguous()
    out, grads = run(block, x.requires_grad_(), grad)
    assert torch.equal(out, expected_out)
    assert grads.keys() == expected.keys()
    compare_gradients({k: g for k, g in grads.items() if k != "x"}, {k: g for k, g in expected.items() if k != "x"})


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64])
def test_input_of_other_dtypes_gives_the_same_output(kind):
    block = dense_block(20, 10)
    x = sample((2, 20, 30))
    assert torch.equal(block(x.to(kind)), block(x))
    graded = torch.arange(1200).reshape(2, 20, 30) % 3
    assert kind == torch.bool or torch.equal(block(graded.to(kind)), block(graded.float()))


def test_dense_block_flattens_input_with_five_axes():
    block = dense_block((4, 3, 2), 9)  # width, height, channels
    x = sample((2, 2, 3, 4, 25), 0.2)
    out = block(x)
    assert out.shape == (2, 9, 1, 1, 25)
    assert torch.equal(out[:, :, 0, 0], block(x.reshape(2, 24, 25)))
    assert out.any()


def test_wrong_input_raises():
    block = cuba.Dense(PARAMS, 6, 4)
    with pytest.raises(ValueError, match=r"with 6 neurons, found \[2, 5, 3\]"):
        block(torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match=r"with 6 neurons, found \[2, 5, 3\]"):
        block(Spikes.from_dense(torch.zeros(2, 5, 3)))
    for empty in (torch.zeros(0, 6, 3), torch.zeros(2, 6, 0)):
        with pytest.raises(ValueError, match="no empty axis"):
            block(empty)
        with pytest.raises(ValueError, match="no empty axis"), kernels.using("reference"):
            block(empty)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_raise(backend, bad):
    x = sample((2, 6, 10), 0.3)
    wrong = x.clone()
    wrong[1, 2, 3] = bad
    with kernels.using(backend):
        for weight_norm in (True, False):
            block = cuba.Dense(PARAMS, 6, 4, weight_norm=weight_norm, delay=True)
            with pytest.raises(OverflowError, match="not finite"):
                block(wrong)
        block.synapse.weight.data[2, 3] = float("nan")
        with pytest.raises(OverflowError, match="weights: expected finite numbers, found NaN"):
            block(x)
        block = cuba.Dense(PARAMS, 6, 4, delay=True)
        block.delay.delay.data[0] = float("nan")
        with pytest.raises(OverflowError, match="delay: expected finite numbers, found NaN"):
            block(x)


# -- persistent state


@pytest.mark.filterwarnings("ignore:.*gradients end where a call begins")
@pairwise(grad=[True, False], delay=[True, False], delay_shift=[True, False])
def test_chunks_with_persistent_state_equal_the_whole(grad, delay, delay_shift):
    """The neurons continue from their last state, and delayed spikes arrive in the next call."""
    options = {"delay": delay, "delay_shift": delay_shift}
    whole = dense_block(20, 12, seed=1, **options)
    block = dense_block(20, 12, seed=1, neuron={"persistent_state": True}, **options)
    if whole.delay is not None:
        for b in (whole, block):
            b.delay.delay.data.copy_(torch.tensor([0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 61, 62]) + 0.5)
    x = sample((3, 20, 150), 0.2)
    with torch.set_grad_enabled(grad):
        expected = whole(x)
        assert expected[:, -1, -30:].any()  # the channel with the longest delay spikes, too
        for sizes in ([75, 75], [7, 1, 142], [70] + [1] * 80):
            block.neuron.reset_state()
            assert torch.equal(torch.cat([block(part) for part in x.split(sizes, 2)], -1), expected)
    assert torch.equal(block(x[:2]), whole(x[:2]))  # a batch of another size starts at rest


def test_chunks_of_a_convolution_with_persistent_state_equal_the_whole():
    torch.manual_seed(2)
    block = cuba.Conv({**PARAMS, "persistent_state": True}, 2, 3, 3, weight_scale=5, delay=True)
    block.delay.delay.data.copy_(torch.tensor([0.5, 9.5, 40.5]))
    x = sample((2, 2, 6, 5, 90), 0.3)
    expected = block(x)
    block.neuron.reset_state()
    assert torch.equal(torch.cat([block(part) for part in x.split([31, 59], -1)], -1), expected)
    assert expected[:, 2].any()
    assert "on_the_way" not in "".join(block.state_dict())


@pytest.mark.filterwarnings("ignore:.*gradients end where a call begins")
def test_delays_beyond_those_of_the_chip_survive_between_calls():
    whole, block = (dense_block(20, 12, seed=1, neuron={"persistent_state": p}, delay=True) for p in (False, True))
    for b in (whole, block):
        b.delay.max_delay = None
        b.delay.delay.data.fill_(100.5)
    x = sample((3, 20, 150), 0.2)
    expected = whole(x)
    assert expected.any()
    assert torch.equal(torch.cat([block(part) for part in x.split([50, 70, 30], 2)], -1), expected)
    block.delay = axon.Delay(12, max_delay=0)
    block.delay_shift = False
    block(x)
    assert block.neuron.on_the_way.numel() < x.numel()  # nothing is under way any more


def set_to_zero_in_place(neuron):
    neuron.current_state.zero_()
    neuron.voltage_state[:] = 0.0


def set_to_zero(neuron):
    neuron.current_state = 0
    neuron.voltage_state = 0


@pytest.mark.parametrize("reset", [set_to_zero, set_to_zero_in_place, type(dense_block(1, 1).neuron).reset_state])
def test_setting_the_states_to_zero_discards_the_spikes_under_way(reset):
    block = dense_block(20, 12, neuron={"persistent_state": True}, delay=True).eval()
    block.delay.delay.data.fill_(20.5)
    x = sample((3, 20, 50), 0.2)
    first = block(x)
    assert not torch.equal(block(x), first)
    reset(block.neuron)
    assert torch.equal(block(x), first)


def test_another_change_of_a_state_keeps_the_spikes_under_way():
    block = dense_block(20, 12, neuron={"persistent_state": True}, delay=True).eval()
    block.delay.delay.data.fill_(20.5)
    block(sample((3, 20, 50), 0.2))
    block.neuron.voltage_state.mul_(0.5)
    assert block(torch.zeros(3, 20, 20)).any()


def test_without_a_delay_buffer_no_spike_is_under_way():
    block = dense_block(20, 12, neuron={"persistent_state": True}, delay=True).eval()
    block.delay.delay.data.fill_(20.5)
    block(sample((3, 20, 50), 0.2))
    assert block.delay_buffer.any()
    block.delay_buffer = None
    assert not block(torch.zeros(3, 20, 20)).any()
    with pytest.raises(ValueError, match="delay_buffer: expected None, found a Tensor"):
        block.delay_buffer = torch.zeros(3)


@pytest.mark.parametrize(("steps", "learns"), [(1, False), (2, True)])
def test_pieces_of_one_step_are_reported_because_they_cannot_learn(steps, learns, recwarn):
    """A gradient reaches the weights only if a spike arrives in the call in which it was fired."""
    block = dense_block(20, 12, neuron={"persistent_state": True}, delay=False)
    pieces = sample((3, 20, 40), 0.3).split(steps, 2)
    with torch.no_grad():
        torch.cat([block(piece) for piece in pieces], -1)
    block.neuron.reset_state()
    assert not recwarn.list
    torch.cat([block(piece) for piece in pieces], -1).sum().backward()
    assert block.synapse.weight_v.grad.any().item() == learns
    assert ["found one step" in str(one.message) for one in recwarn.list] == [True] * (1 - learns)


# -- between blocks


def test_gradients_of_two_forward_passes_add_up():
    block = dense_block(20, 10)
    x, grad = sample((2, 20, 30)), gradient_like((2, 10, 30))
    _, once = run(copy.deepcopy(block), x, grad)
    first, second = block(x), block(x)
    (first * grad).sum().backward(retain_graph=True)
    (second * grad).sum().backward()
    del once["x"]
    for name, grad_once in once.items():
        assert_close(operator.attrgetter(name)(block).grad, 2 * grad_once)


def test_an_output_remembers_its_events():
    block = dense_block(20, 10, dropout=0.2)
    out = block(sample((2, 20, 30)))
    events = remembered(out)
    assert events.value == 1.25
    assert torch.equal(events.dense(), out.detach())
    changed = block(sample((2, 20, 30))).mul_(2)  # a change in place is allowed, has a gradient and discards the events
    assert remembered(changed) is None
    changed.sum().backward()
    assert block.delay.delay.grad is not None


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("second", [{}, {"pre_hook_fx": lambda w, descale=False: w}], ids=["fused", "in parts"])
def test_spikes_between_blocks_carry_the_gradient(backend, second):
    """Blocks that exchange `Spikes` instead of dense tensors give the same output and gradients."""
    first, second = dense_block(20, 70, dropout=0.2), dense_block(70, 8, seed=2, **second)
    parameters = [*first.parameters(), *second.parameters()]
    x, grad = sample((2, 20, 30), density=0.3), gradient_like((2, 8, 30))
    with kernels.using(backend):
        found = []
        for between in (lambda x: first(x), lambda x: first(x, dense=False), lambda x: first(x, dense=False).dense()):
            torch.manual_seed(0)
            out = second(between(x))
            found.append((out, *torch.autograd.grad(out, parameters, grad)))
        assert isinstance(first(x, dense=False), Spikes)
    assert all(g.any() for g in found[0])
    for others in found[1:]:
        for plain, other in zip(found[0], others, strict=True):
            assert torch.equal(plain, other)


def test_spikes_between_blocks_free_their_memory_at_once():
    """No reference cycle keeps the voltages (20 MB in training) until the garbage collector runs."""
    gc.collect()
    gc.disable()
    try:
        spikes = dense_block(20, 10)(sample((2, 20, 30)), dense=False)
        watched = weakref.ref(spikes)
        assert spikes.source.grad_fn is not None
        del spikes
        assert watched() is None
    finally:
        gc.enable()


def test_a_dense_tensor_between_blocks_is_freed_before_the_backward_pass():
    """The next block keeps its spikes only: for 32 recordings, a tensor of 512 neurons takes 20 MB."""
    first, second = dense_block(20, 12), dense_block(12, 8, seed=2)
    between = first(sample((2, 20, 30)))
    watched = weakref.ref(between)
    out = second(between)
    del between
    assert watched() is None
    out.sum().backward()
    assert first.synapse.weight_v.grad.any()


def test_a_change_in_place_between_blocks_takes_effect():
    first, second = dense_block(20, 12), dense_block(12, 8, seed=2)
    x = sample((2, 20, 30))
    with torch.no_grad():
        between = first(x)
        assert between.any()
        between.zero_()
        assert not second(between).any()
