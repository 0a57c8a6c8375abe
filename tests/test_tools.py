"""Test PyTorch's own tools on a network: they give the same spikes or raise a clear error."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
import torch.nn.utils.prune as prune
from support.neurons import DYNAMICS

import nmnist_helpers as slayer
from nmnist_helpers import Network, Spikes


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = Network((16, 12), inputs=40, outputs=5).eval()
    for block in made.blocks:
        block.synapse.weight_g.data *= 8
    return made


@pytest.fixture
def x():
    return (torch.rand(2, 40, 30, generator=torch.Generator().manual_seed(1)) < 0.3).float()


def gradients(net, x):
    net.zero_grad()
    net(x).square().sum().backward()
    return [p.grad.clone() for p in net.parameters() if p.requires_grad]


def test_a_compiled_network_gives_the_same_spikes_and_gradients(net, x):
    expected, expected_grads = net(x), gradients(net, x)
    assert expected.any()
    compiled = torch.compile(net, backend="eager")
    assert torch.equal(compiled(x), expected)
    assert all(map(torch.equal, gradients(compiled, x), expected_grads))


@pytest.mark.parametrize("kind", ["fused", "mask", "conv"])
def test_autocast_changes_nothing(net, x, kind):
    if kind == "mask":
        net = slayer.block.cuba.Dense(DYNAMICS, 40, 16, mask=torch.ones(16, 40, dtype=torch.bool), weight_scale=9)
    if kind == "conv":
        net, x = slayer.block.cuba.Conv(DYNAMICS, 4, 5, 2, weight_scale=9, delay=True), x.reshape(2, 4, 5, 2, 30)
    net.eval()
    expected, expected_grads = net(x), gradients(net, x)
    assert expected.any()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net(x), expected)
        assert torch.equal(net(x.bfloat16()), expected)
        out = net(x)
        # The other kinds use torch's own products, whose backward pass must run outside autocast.
        if kind == "fused":
            assert all(map(torch.equal, gradients(net, x), expected_grads))
    net.zero_grad()
    out.square().sum().backward()
    assert all(map(torch.equal, [p.grad for p in net.parameters() if p.requires_grad], expected_grads))


@pytest.mark.parametrize("part", ["synapse", "neuron", "neuron.drop", "delay"])
def test_hooks_on_the_parts_of_a_block_are_called(net, x, part):
    expected, received = net(x), []
    block = net.blocks[0]
    handle = block.get_submodule(part).register_forward_hook(lambda module, args, out: received.append(out))
    assert torch.equal(net(x), expected)
    assert {type(out) for out in received} == {torch.Tensor}  # both hidden blocks share one dropout module
    handle.remove()
    assert block.fused


def test_hooks_on_hidden_blocks_receive_tensors(net, x):
    expected, received = net(x), []
    handles = [
        net.blocks[0].register_forward_hook(lambda module, args, out: received.append(out)),
        net.blocks[2].register_forward_pre_hook(lambda module, args: received.append(args[0])),
    ]
    assert torch.equal(net(x), expected)
    assert [(type(s), s.shape) for s in received] == [(torch.Tensor, (2, 16, 30)), (torch.Tensor, (2, 12, 30))]
    for handle in handles:
        handle.remove()
    assert isinstance(net.blocks[0](x, dense=False), Spikes)


def test_pruned_weights_stay_zero_and_the_others_learn():
    block = slayer.block.cuba.Dense(DYNAMICS, 60, 10, weight_scale=9)
    x = (torch.rand(4, 60, 40) < 0.2).float()
    prune.l1_unstructured(block.synapse, "weight", amount=0.5)
    removed = block.synapse.weight_mask == 0
    optimizer = torch.optim.SGD(block.parameters(), 0.1)
    before = block.synapse.weight_orig.detach().clone()
    for _ in range(2):
        optimizer.zero_grad()
        block(x).mean().backward()
        optimizer.step()
    assert torch.equal(block.synapse.weight_orig[removed], before[removed])
    assert not torch.equal(block.synapse.weight_orig, before)
    assert not block.synapse.quantised_weight()[removed].any()


@pytest.mark.parametrize(("tool", "name", "weight_norm"), [
    (lambda part, name: prune.random_unstructured(part, name, amount=0.5), "weight_v", True),
    (lambda part, name: prune.random_unstructured(part, name, amount=0.5), "weight", False),
    (torch.nn.utils.weight_norm, "weight", False),
    (torch.nn.utils.spectral_norm, "weight", False),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_an_export_has_the_weights_that_the_next_call_would_use(tool, name, weight_norm):
    """torch's tools make the weights in a call; the attributes are those of the last one."""
    block = slayer.block.cuba.Dense(DYNAMICS, 30, 10, weight_scale=9, weight_norm=weight_norm)
    tool(block.synapse, name)
    state = {key: value.clone() for key, value in block.state_dict().items()}
    with torch.no_grad():
        getattr(block.synapse, f"{name}_orig" if f"synapse.{name}_orig" in state else f"{name}_v").neg_()
    state = {key: value.clone() for key, value in block.state_dict().items()}
    exported = block.layer_spec().weight
    assert block.synapse.weight.requires_grad
    after = block.state_dict()
    assert all(torch.equal(after[key], value) for key, value in state.items() if not key.endswith(f".{name}"))
    block.eval()(torch.zeros(1, 30, 2))
    assert np.array_equal(exported, block.layer_spec().weight)
    assert exported.any()


@pytest.mark.parametrize("change", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net)),
                                    lambda net: copy.deepcopy(net).double()])  # fmt: skip
def test_copies_give_the_same_spikes_and_gradients(net, x, change):
    changed = change(net)
    expected = net(x)
    assert torch.equal(changed(x), expected)
    found, expected_grads = gradients(changed, x), gradients(net, x)
    for grad, expected_grad in zip(found, expected_grads, strict=True):
        torch.testing.assert_close(grad.float(), expected_grad)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_parameters_of_half_precision_compute_in_float32(net, x, kind):
    half = copy.deepcopy(net).to(kind)
    full = copy.deepcopy(half).float()
    assert torch.equal(half(x), full(x))
    gradients(half, x)
    assert all(p.grad.dtype == kind for p in half.parameters())


@pytest.mark.parametrize(("use", "message"), [
    (lambda net, x: torch.jit.trace(net, x), "found torch.jit.trace"),
    (lambda net, x: torch.jit.script(net), "found torch.jit.script"),
    (lambda net, x: torch.func.vmap(net)(x[None]), "found a transform of torch.func"),
    (lambda net, x: torch.func.grad(lambda v: net(v).sum())(x), "found a transform of torch.func"),
    (lambda net, x: torch.autograd.grad(net(x.requires_grad_()).sum(), x, create_graph=True),
     "found True: a spike's derivative"),
])  # fmt: skip
def test_unsupported_tools_raise_a_clear_error(net, x, use, message):
    with pytest.raises(RuntimeError, match=message):
        use(net, x)


def test_a_sparse_tensor_is_refused(net, x):
    with pytest.raises(TypeError, match=r"expected a dense tensor, found a sparse one; to_dense\(\) makes one"):
        net(x.to_sparse())


def test_weights_that_all_round_to_zero_give_a_single_warning():
    block = slayer.block.cuba.Dense(DYNAMICS, 5000, 3)
    x = torch.zeros(1, 5000, 2)
    with pytest.warns(UserWarning, match=r"none larger than 0\.0141\d: all round to zero.*larger weight_scale"):
        block(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        block(x)
        slayer.block.cuba.Dense(DYNAMICS, 5000, 3, weight_scale=3)(x)
        slayer.block.cuba.Dense(DYNAMICS, 5000, 3).eval()(x)


def test_the_warning_about_small_weights_names_the_limit_of_the_neurons_scale():
    block = slayer.block.cuba.Dense({**DYNAMICS, "scale": 16}, 2, 1)
    with torch.no_grad():
        block.synapse.weight.fill_(0.05)
    with pytest.warns(UserWarning, match=r"weights above 0\.0625, found none larger than 0\.05: all round to zero"):
        block(torch.zeros(1, 2, 2))
