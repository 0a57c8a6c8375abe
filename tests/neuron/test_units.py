"""Test that decays and states are read and written in lava-dl's units, whatever units they are stored in."""

import copy
import io

import pytest
import torch
from support.neurons import DYNAMICS

from nmnist_helpers.neuron.cuba import Neuron


def neuron(**options):
    return Neuron(**DYNAMICS, requires_grad=True, **options)


def test_a_decay_is_read_and_saved_times_4096():
    n = neuron()
    assert n.current_decay.item() == 1024
    assert n.scaled_current_decay.item() == 1
    assert [name for name, _ in n.named_parameters()] == ["scaled_current_decay", "scaled_voltage_decay"]
    state = n.state_dict()
    assert list(state) == ["current_decay", "voltage_decay"]
    assert state["current_decay"].item() == 1024
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)  # plain tensors, which load without this package
    assert type(loaded["current_decay"]) is torch.Tensor
    assert loaded["current_decay"].item() == 1024


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_dict_loads_what_lava_dl_saved(assign):
    n = neuron()
    n.load_state_dict({"current_decay": torch.tensor([512.5]), "voltage_decay": torch.tensor([7.0])}, assign=assign)
    assert (n.current_decay.item(), n.voltage_decay.item()) == (512.5, 7)
    assert n.scaled_current_decay.requires_grad
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"voltage_decay\""):
        n.load_state_dict({"current_decay": torch.tensor([512.5])})
    with pytest.raises(RuntimeError, match=r"size mismatch for current_decay"):
        n.load_state_dict({"current_decay": torch.ones(3), "voltage_decay": torch.tensor([7.0])})


@pytest.mark.parametrize("write", [
    lambda n: setattr(n, "current_decay", 512.0),
    lambda n: setattr(n, "current_decay", torch.nn.Parameter(torch.tensor([512.0]))),
    lambda n: n.current_decay.data.fill_(512),
    lambda n: n.current_decay.data.mul_(0.5),
    lambda n: n.current_decay.data.__setitem__(0, 512),
    lambda n: setattr(n.current_decay, "data", torch.tensor([512.0])),
    lambda n: n.current_decay.detach().copy_(torch.tensor([512.0])),
    lambda n: torch.nn.init.constant_(n.current_decay, 512),
    lambda n: n.state_dict()["current_decay"].copy_(torch.tensor([512.0])),
    lambda n: n.current_decay.data[:1].fill_(512),
    lambda n: n.current_decay.data.view(-1).__setitem__(0, 512),
    lambda n: n.current_decay.data.split(1)[0].mul_(0.5),
    lambda n: torch._foreach_mul_([n.current_decay.data], 0.5),
    lambda n: torch.mul(torch.tensor([256.0]), 2, out=n.current_decay.data),
])  # fmt: skip
def test_every_way_to_write_a_decay_changes_it(write):
    n = neuron()
    write(n)
    assert n.current_decay.item() == 512
    assert n.cx_current_decay == 512
    assert n.scaled_current_decay.item() == 0.5
    assert n.scaled_current_decay.requires_grad


def test_a_view_follows_its_owner():
    neuron = Neuron(1.25, 0.25, 0.03, requires_grad=True)
    view, state = neuron.current_decay, neuron.state_dict()
    with torch.no_grad():
        neuron.scaled_current_decay.sub_(0.1)
        assert view.item() == state["current_decay"].item() == neuron.current_decay.item() < 1024
        view.clamp_(0, 4096)
    assert neuron.current_decay.item() == pytest.approx(1024 - 102.4)


@pytest.mark.parametrize("read", [
    lambda decay: torch.zeros(1).copy_(decay),
    lambda decay: torch.zeros(1).add_(decay),
    lambda decay: torch.zeros(1).mul_(0.5).add_(decay, alpha=1.0),
    lambda decay: torch.stack([decay])[0],
    lambda decay: torch.maximum(torch.zeros(1), decay),
    lambda decay: torch.add(torch.zeros(1), decay, out=torch.zeros(1)),
    lambda decay: torch._foreach_add([torch.zeros(1)], [decay])[0],
])  # fmt: skip
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_reading_a_view_that_was_taken_earlier_gives_new_values_and_changes_nothing(read, mode):
    """It was written back with its old values if a function changed another argument in place."""
    n = neuron()
    decay = n.current_decay
    n.scaled_current_decay.data.fill_(0.5)
    with mode():
        assert read(decay).item() == 512
    assert n.current_decay.item() == 512


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_view_can_be_changed_in_place_in_either_mode(mode):
    n = neuron()
    with mode():
        n.current_decay.mul_(0.5)
        n.voltage_decay.data[0] = 7
    assert (n.current_decay.item(), n.voltage_decay.item()) == (512, 7)


def test_parts_of_a_view_can_be_changed_in_place_without_gradients():
    n = Neuron(1, (0.25, 0.5), (0.1, 0.2), shared_param=False, num_neurons=4, requires_grad=True)
    before = n.current_decay.detach().clone()
    with torch.no_grad():
        for decay in n.current_decay:
            decay.mul_(0.5)
        first, second = n.voltage_decay.split(2)
        first.fill_(1)
        second.fill_(3)
    torch.testing.assert_close(n.current_decay.detach(), before / 2)
    assert n.voltage_decay.tolist() == [1, 1, 3, 3]


def test_changes_that_would_be_lost_raise():
    array = neuron().current_decay.detach().numpy()
    with pytest.raises(ValueError, match="read-only"):
        array[:] = 5
    model, other = neuron(), neuron()
    other.current_decay = 5
    with pytest.raises(ValueError, match="expected the names of named_parameters.*found current_decay"):
        torch.func.functional_call(model, other.state_dict(), (torch.zeros(1, 1, 4),))
    assert model.current_decay.item() == 1024
    torch.func.functional_call(model, dict(other.named_parameters()), (torch.zeros(1, 1, 4),))
    assert model.current_decay.item() == 1024


def test_gradients_can_be_changed_in_place_and_have_hooks():
    n = neuron()
    n.current_decay.register_hook(lambda grad: grad + 1)
    (3 * n.current_decay).sum().backward()
    assert n.current_decay.grad.item() == 4
    torch.nn.utils.clip_grad_norm_([n.current_decay], 2)
    assert n.scaled_current_decay.grad.item() == pytest.approx(2 * 1024)
    n.current_decay.grad[:1].mul_(0.5)
    assert n.scaled_current_decay.grad.item() == pytest.approx(1024)
    n.current_decay.grad.zero_()
    assert n.scaled_current_decay.grad.item() == 0


def test_the_state_of_a_parametrised_decay_can_be_saved():
    n = neuron()
    torch.nn.utils.parametrize.register_parametrization(n, "scaled_current_decay", torch.nn.Identity())
    n(torch.zeros(1, 1, 4))
    state = n.state_dict()
    assert state["parametrizations.scaled_current_decay.original"].item() == 1
    assert state["voltage_decay"].item() == n.voltage_decay.item() > 0


def test_gradients_with_respect_to_a_view():
    view = Neuron(1.25, 0.25, 0.03, requires_grad=True).current_decay
    assert torch.autograd.grad((3 * view).sum(), view)[0].item() == 3
    other = torch.ones(1, requires_grad=True)
    assert [grad.item() for grad in torch.autograd.grad((other * view).sum(), [view, other])] == [1, 1024]
    with torch.no_grad():
        assert view.requires_grad


def test_a_function_of_two_views_returns_views_of_each():
    n = neuron()
    n.current_decay.data.view_as(n.voltage_decay).fill_(7)
    assert n.current_decay.item() == 7
    current, voltage = torch.broadcast_tensors(n.current_decay.data, n.voltage_decay.data)
    voltage.fill_(5)
    assert (current.item(), n.voltage_decay.item()) == (7, 5)


@pytest.mark.slow
def test_compiled_code_may_read_and_change_a_decay():
    n = neuron()
    penalty = torch.compile(lambda: (n.current_decay / 4096).mean(), backend="eager")
    assert penalty().item() == 0.25
    n.current_decay = 2048
    assert penalty().item() == 0.5
    for write in (
        lambda: n.current_decay.data.fill_(512),
        lambda: n.current_decay.detach().fill_(512),
        lambda: torch.nn.init.constant_(n.current_decay, 512),
    ):
        n.current_decay = 2048
        torch.compile(write, backend="eager")()
        assert n.current_decay.item() == 512


def test_gradients_are_in_the_units_that_are_read():
    n = neuron()
    (3 * n.current_decay).sum().backward()
    assert n.current_decay.grad.item() == 3
    assert n.scaled_current_decay.grad.item() == 3 * 1024
    n.current_decay.grad = None
    assert n.scaled_current_decay.grad is None
    n.current_decay.requires_grad_(False)
    assert not n.scaled_current_decay.requires_grad
    n.current_decay.requires_grad = True
    assert n.scaled_current_decay.requires_grad


def test_a_gradient_that_is_assigned_is_in_the_units_that_are_read():
    n = neuron()
    n.current_decay.grad = torch.tensor([3.0])
    assert n.current_decay.grad.item() == 3
    assert n.scaled_current_decay.grad.item() == 3 * 1024


def test_results_of_operations_are_plain_tensors():
    n = neuron()
    for made in (n.current_decay + 1, n.current_decay.clone(), torch.cat([n.current_decay, n.voltage_decay])):
        assert type(made) is torch.Tensor
    assert type(copy.deepcopy(n.current_decay.detach())) is torch.Tensor
    assert "1024" in repr(n.current_decay)


def test_copies_of_several_views_hold_the_values_of_each():
    """A view lives on the heap only as long as it is read: an address must not stand for two of them."""
    n = neuron()
    for _ in range(100):
        state = n.state_dict()
        copied = copy.deepcopy(state)
        assert {name: x.item() for name, x in copied.items()} == {name: x.item() for name, x in state.items()}
    one, other = copy.deepcopy([n.current_decay, n.current_decay])
    assert one.is_leaf
    assert one.requires_grad
    assert one.item() == other.item() == n.current_decay.item()
    x = n.current_decay
    one, other = copy.deepcopy([x, x])
    assert one is other


def test_states_are_in_real_units_and_start_at_zero():
    n = neuron(persistent_state=True)
    assert n.shape is None
    assert n.current_state.tolist() == n.voltage_state.tolist() == [0]
    z = torch.full((2, 3, 4, 5), 0.25)
    current, _ = n.dynamics(z)
    assert n.shape == (3, 4)
    assert torch.equal(n.current_state, current[..., -1])
    again, _ = n.dynamics(z)
    assert not torch.equal(again, current)
    n.current_state *= 0  # lava-dl's own programs reset it like this
    n.voltage_state.zero_()
    assert torch.equal(n.dynamics(z)[0], current)
    n.current_state = torch.full((2, 3, 4), 0.5)
    assert n.dynamics(torch.zeros_like(z))[0][..., 0].unique().tolist() == [0.5 * 0.75]


def test_a_state_is_rounded_to_4096ths():
    n = neuron(persistent_state=True)
    n.current_state = 0.3
    assert n.current_state.item() == 1229 / 4096
    n.current_state.fill_(0.6)
    assert n.current_state.item() == 2458 / 4096


def test_states_are_contiguous():
    """The kernels pad the channels of a state; a view of the padded numbers would have other strides."""
    n = neuron(persistent_state=True)
    n(torch.rand(2, 12, 5))
    state = n.current_state
    assert n.current_units.is_contiguous()
    assert torch.equal(state.view(-1), state.flatten())
    assert torch.equal(torch.as_strided(state, (12,), (1,), 12), state[1])


def test_lava_dls_minor_properties():
    n = neuron(graded_spike=False)
    assert (n.weight_exponent, n.ref_delay, n.v_th_mant, n.scale) == (0, 1, 80, 64)
    with pytest.raises(ValueError, match="expected graded_spike=False, found True"):
        neuron(graded_spike=True)
