"""Test which twin of the kernels runs: the choice by argument, by environment variable, and by device."""

import pytest
import torch
from support.neurons import DYNAMICS, FIXED
from support.oracles import assert_close

from nmnist_helpers import kernels
from nmnist_helpers.block.cuba import Dense
from nmnist_helpers.kernels import backend, cpu, reference


@pytest.fixture
def patch(monkeypatch):
    """Remove every choice of a twin before and after the test; return `monkeypatch`."""
    monkeypatch.delenv(backend.ENVIRONMENT, raising=False)
    kernels.use(None)
    yield monkeypatch
    kernels.use(None)


CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


def test_switch_by_argument_and_environment(patch):
    assert backend.resolve(CPU) == "cpu"
    kernels.use("reference")
    assert backend.resolve(CPU) == "reference"
    assert backend.resolve(CUDA) == "reference"
    with kernels.using("cpu"):
        assert backend.resolve(CPU) == "cpu"
        with kernels.using("auto"):
            assert backend.resolve(CPU) == "cpu"
    assert backend.resolve(CPU) == "reference"
    kernels.use(None)
    patch.setenv(backend.ENVIRONMENT, "reference")
    assert backend.resolve(CPU) == "reference"
    with kernels.using("cpu"):  # the argument takes precedence over the environment
        assert backend.resolve(CPU) == "cpu"
    assert backend.resolve(CPU) == "reference"


def test_using_restores_the_choice_after_an_error(patch):
    def fail():
        with kernels.using("reference"):
            raise KeyError("x")

    pytest.raises(KeyError, fail)
    assert backend.resolve(CPU) == "cpu"


def test_switch_refuses_unknown_names(patch):
    with pytest.raises(ValueError, match="kernels.use: expected one of auto, reference, .*, found 'fast'"):
        kernels.use("fast")
    with pytest.raises(ValueError, match="found 'numba'"), kernels.using("numba"):
        pass
    assert backend.resolve(CPU) == "cpu"
    patch.setenv(backend.ENVIRONMENT, "slow")
    with pytest.raises(ValueError, match="environment variable NMNIST_BACKEND: expected one of .*, found 'slow'"):
        backend.resolve(CPU)


def test_an_unavailable_choice_raises(patch):
    patch.setenv("TRITON_INTERPRET", "0")
    kernels.use("cpu")
    with pytest.raises(RuntimeError, match="back end 'cpu': expected tensors on the CPU, found them on cuda:0"):
        backend.resolve(CUDA)
    kernels.use("gpu")
    with pytest.raises(
        RuntimeError, match="back end 'gpu': expected (tensors on a CUDA device, found them on cpu|the package triton)"
    ):
        backend.resolve(CPU)
    with pytest.raises(RuntimeError, match="back end 'gpu': expected"):
        Dense(DYNAMICS, 4, 2)(torch.zeros(1, 4, 3))
    patch.setattr(backend.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="expected the package triton, found none"):
        backend.resolve(CUDA)
    kernels.use("auto")
    assert backend.resolve(CUDA) == "reference"


@pytest.mark.parametrize("name", ["reference", "cpu"])
def test_the_chosen_twin_is_the_one_that_runs(patch, name):
    ran = []
    for twin in (reference, cpu):
        original = twin.layer_forward
        patch.setattr(twin, "layer_forward", lambda *a, t=twin, f=original, **o: (ran.append(t), f(*a, **o))[1])
    with kernels.using(name):
        Dense(DYNAMICS, 4, 2)(torch.zeros(1, 4, 3))
    assert ran == [{"reference": reference, "cpu": cpu}[name]]


def test_backward_runs_on_the_twin_of_its_forward(patch):
    """Each twin stores the weights in its own layout, which another twin's backward pass would read transposed."""
    torch.manual_seed(0)
    block = Dense(FIXED, 8, 8, weight_scale=4)
    x = (torch.rand(2, 8, 20) < 0.4).float().requires_grad_()
    inside, outside = [], []
    for name in ("cpu", "reference"):
        with kernels.using(name):
            inside.append(torch.autograd.grad(block(x).square().sum(), x)[0])
            out = block(x)
        with kernels.using({"cpu": "reference", "reference": "cpu"}[name]):
            outside.append(torch.autograd.grad(out.square().sum(), x)[0])
    assert inside[0].abs().max() > 0
    for found in (inside[1], *outside):
        assert_close(found, inside[0])
