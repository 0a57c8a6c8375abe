"""Test quantised weights and products in Triton: exact for spikes, within 1e-5 for gradients and graded rows."""

import numpy as np
import pytest
import torch
from support import oracles
from support.oracles import assert_close

from nmnist_helpers.kernels import cpu, gpu
from nmnist_helpers.kernels.common import Axon, Membrane, State, Surrogate
from nmnist_helpers.kernels.constants import MAX_INPUTS
from nmnist_helpers.kernels.functions import Normalise, normalise
from nmnist_helpers.kernels.gpu import matmul as matmul_module
from nmnist_helpers.kernels.gpu.weight import padded
from nmnist_helpers.spikes import DenseSpikes, Spikes

FORMS = pytest.mark.parametrize("form", ["list", "bytes", "padded bytes"])


def weights(shape, device, seed=0):
    """Return random quantised weights x 32, -128..127, as a NumPy array and as the kernels' table of the weights."""
    steps = np.random.default_rng(seed).integers(-128, 128, shape)
    return steps, gpu.quantise(oracles.tensor(steps / 32).to(device), torch.ones(shape[0], device=device))


def convert_spikes(form, x, value, device):
    """Convert spikes x [B, C, T] to a form that a layer accepts."""
    events = Spikes.from_dense(oracles.tensor(x))
    events.value = value
    if form == "list":
        return events.to(device)
    width = padded(x.shape[1]) if "padded" in form else None
    return DenseSpikes.from_events(events, width).to(device)


@pytest.mark.parametrize("shape", [(1, 1), (33, 70), (5, 1030)], ids=str)
def test_quantise_agrees_with_the_cpu_twin(device, shape):
    rng = np.random.default_rng(1)
    v = rng.normal(0, 2.5, shape).astype(np.float32)
    v.flat[: min(9, v.size)] = [0, 0.5 / 32, 1.5 / 32, 2.5 / 32, -0.5 / 32, 127.5 / 32, -128.5 / 32, 9, -9][: v.size]
    factor = torch.from_numpy(rng.uniform(0.3, 1.7, shape[0]).astype(np.float32))
    factor[0] = 1
    table = gpu.quantise(torch.from_numpy(v).to(device), factor.to(device))
    assert table.dtype == torch.bfloat16
    assert table.shape == shape
    found = gpu.weight_values(table).cpu()
    assert torch.equal(found, cpu.weight_values(cpu.quantise(torch.from_numpy(v), factor)))
    np.testing.assert_array_equal(found.numpy() * 32, oracles.steps_of_weight(v * factor.numpy()[:, None]))
    padding = table.as_strided((shape[0], padded(shape[1])), (table.stride(0), 1))[:, shape[1] :]
    assert (padding == 0).all()


def scaled_by_gpu_norms(v, g):
    return Normalise.apply(v, g, gpu.norms(v.detach()).view_as(g))


@pytest.mark.parametrize("columns", [1, 4, 7, 8, 37, 50, 514, 2312])
def test_norms_equal_those_on_the_cpu_to_the_last_bit(device, columns):
    v = torch.from_numpy(np.random.default_rng(columns).normal(0, 0.1, (40, columns)).astype(np.float32))
    v[5] = 0
    expected = cpu.norms(v)
    if columns > 50:  # else nothing is tested
        assert not torch.equal(v.double().norm(dim=1).float(), expected)
    assert torch.equal(gpu.norms(v.to(device)).cpu(), expected)

    g = torch.from_numpy(np.random.default_rng(0).uniform(0.5, 2, (40, 1)).astype(np.float32))
    pairs = []
    for scale, where in ((normalise, "cpu"), (scaled_by_gpu_norms, device)):
        inputs = [x.to(where).requires_grad_() for x in (v[6:], g[6:])]
        weights = scale(*inputs)
        (weights * torch.arange(columns, device=where)).sum().backward()
        pairs.append([x.detach().cpu() for x in (weights, inputs[0].grad, inputs[1].grad)])
    assert torch.equal(pairs[0][0], pairs[1][0])
    for wanted, found in zip(pairs[0][1:], pairs[1][1:], strict=True):
        assert_close(found, wanted)


def test_nan_weights_are_found_by_check(device):
    v = torch.zeros(3, 4)
    v[2, 1] = float("nan")
    table = gpu.quantise(v.to(device), torch.ones(3, device=device))
    assert gpu.weight_values(table).isnan().sum() == 1
    spikes = DenseSpikes(torch.ones(1, 2, 4, dtype=torch.uint8, device=device))
    zeros = torch.zeros(3, dtype=torch.int32, device=device)
    state = State(*torch.zeros(2, 1, 3, dtype=torch.int32, device=device))
    membrane = Membrane(zeros, zeros, 5120, Surrogate(3.75, 0.04))
    gpu.layer_forward(spikes, table, membrane, state, Axon(zeros))
    with pytest.raises(OverflowError):
        gpu.check()


@pytest.mark.parametrize("weight_norm", [True, False])
def test_quantise_gradient(device, weight_norm):
    rng = np.random.default_rng(2)
    shape = (7, 1100)  # more than one block per row
    v = torch.from_numpy(rng.normal(0, 0.3, shape).astype(np.float32))
    v[0, :4] = torch.tensor([127.49, 127.5, -128.5, -128.51]) / 32  # only the first and the third round into the range
    g = torch.from_numpy(rng.uniform(0.5, 40, (7, 1)).astype(np.float32)) if weight_norm else None
    norm = v.norm(dim=1) if weight_norm else None
    factor = g.flatten() / norm if weight_norm else torch.ones(7)
    grad = rng.normal(size=shape).astype(np.float32)
    device_arguments = [None if x is None else x.to(device) for x in (v, factor, norm, torch.from_numpy(grad))]
    by_v, by_g = gpu.quantise_gradient(*device_arguments)
    expected_v, expected_g = oracles.straight_through(v, g, grad)
    if weight_norm:
        assert_close(by_v.cpu(), expected_v)
        assert_close(by_g.cpu().reshape(-1, 1), expected_g)
    else:
        np.testing.assert_array_equal(by_v.cpu().numpy(), expected_v.astype(np.float32))
        np.testing.assert_array_equal(by_v[0, :4].cpu().numpy() != 0, [True, False, True, False])
        assert by_g is None
    strided = device_arguments[3].t().contiguous().t()  # the layout that the product over events returns
    again = gpu.quantise_gradient(*device_arguments[:3], strided)
    assert torch.equal(again[0], by_v)


def random_spikes(rng, sizes) -> np.ndarray:
    """Return random spikes, sparser in large arrays, because the interpreter is slow for each spike of a list."""
    return (rng.random(sizes) < (0.05 if np.prod(sizes) < 1000 else 0.02)).astype(np.float32)


@FORMS
@pytest.mark.parametrize(
    ("sizes", "outputs", "value"),
    [((2, 37, 5), 10, 1.0), ((2, 37, 5), 10, 1 / 0.95), ((3, 140, 23), 70, 1.0)],
    ids=str,
)
def test_product_is_exact(device, form, sizes, outputs, value):
    x = random_spikes(np.random.default_rng(3), sizes)
    x[0, :, 0] = 0  # an empty row
    x[-1, :, -1] = 1
    steps, table = weights((outputs, sizes[1]), device)
    z = gpu.product(convert_spikes(form, x, value, device), table)
    assert z.dtype == torch.float32
    np.testing.assert_array_equal(np.swapaxes(z.cpu().numpy(), 1, 2), oracles.product(steps, x, value))


@FORMS
def test_the_largest_sums_are_exact(device, form):
    """All 2312 inputs spike; all weights of a row are -128 but one, which is -127 and must not be rounded."""
    steps = np.full((16, 2312), -128)
    steps[np.arange(16), np.arange(16) * 140] = -127
    table = gpu.quantise(oracles.tensor(steps / 32).to(device), torch.ones(16, device=device))
    z = gpu.product(convert_spikes(form, np.ones((1, 2312, 2), np.float32), 1.0, device), table)
    assert (z.cpu() * 32 == -128 * 2312 + 1).all()


def test_product_of_graded_rows(device):
    x = torch.randn(2, 5, 37, device=device)
    steps, table = weights((10, 37), device)
    assert_close(gpu.product(x, table).cpu(), x.double().cpu() @ torch.from_numpy(steps / 32).t())


def test_product_refuses_more_inputs_than_every_twin_adds_up_exactly(device):
    table = torch.zeros(1, MAX_INPUTS + 1, dtype=torch.bfloat16, device=device)
    spikes = DenseSpikes(torch.zeros(1, 1, MAX_INPUTS + 1, dtype=torch.uint8, device=device))
    with pytest.raises(ValueError, match="at most 65535 inputs, found 65536"):
        gpu.product(spikes, table)


@FORMS
@pytest.mark.parametrize(
    ("sizes", "outputs", "value"),
    [((2, 37, 5), 10, 1.0), ((3, 140, 23), 70, 1 / 0.95), ((2, 20, 1100), 3, 1.0)],
    ids=str,
)
def test_weight_gradient(device, form, sizes, outputs, value):
    rng = np.random.default_rng(4)
    x = random_spikes(rng, sizes)
    x[:, 0] = 0  # a channel that never spikes
    grad = rng.normal(size=(sizes[0], outputs, sizes[2])).astype(np.float32)
    spikes = convert_spikes(form, x, value, device)
    grad_rows = oracles.tensor(np.swapaxes(grad, 1, 2)).to(device)
    found = gpu.weight_gradient(spikes, grad_rows)
    assert found.shape == (outputs, sizes[1])
    assert_close(found.cpu(), oracles.weight_gradient(grad, x * value))
    assert (found[:, 0] == 0).all()
    assert torch.equal(found, gpu.weight_gradient(spikes, grad_rows))  # the order of the sum is fixed


def test_weight_gradient_of_graded_rows(device):
    x, grad = torch.randn(2, 5, 37, device=device), torch.randn(2, 5, 10, device=device)
    found = gpu.weight_gradient(x, grad)
    expected = grad.cpu().double().reshape(10, 10).t() @ x.cpu().double().reshape(10, 37)
    assert_close(found.cpu(), expected)


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [((1, 1), 1, 1), ((2, 5), 10, 37), ((3, 23), 140, 70)])
def test_input_gradient(device, rows, outputs, inputs):
    """Two bfloat16 terms hold 16 bits of the gradient: within 1e-5 of the largest value, whatever the scale."""
    steps, table = weights((outputs, inputs), device)
    for scale in (1.0, 1e-12, 1e12):
        grad = torch.randn(*rows, outputs) * scale
        found = gpu.input_gradient(grad.to(device), table)
        assert_close(found.cpu(), grad.double() @ torch.from_numpy(steps / 32))


def test_one_bfloat16_term_is_not_accurate_enough(device):
    """The tolerance of `test_input_gradient` is strict: the leading term alone exceeds it more than tenfold."""
    grad, (steps, table) = torch.randn(2, 5, 64), weights((64, 48), device)
    leading = gpu.input_gradient(grad.bfloat16().float().to(device), table).cpu()
    expected = grad.double() @ torch.from_numpy(steps / 32)
    assert (leading - expected).abs().max() > 1e-4 * expected.abs().max()


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # from NumPy, in the interpreter
def test_nan_gradients_stay_nan(device):
    for bits in (0x7FFFFFFF, -1, 0x7F800001):  # rounded as integers, these would become numbers
        grad = torch.zeros(1, 2, 16)
        grad.view(torch.int32)[0, 1, 3] = bits
        found = gpu.input_gradient(grad.to(device), weights((16, 4), device)[1])
        assert found[0, 1].isnan().all()
        assert not found[0, 0].isnan().any()


def test_sums_split_between_programs_are_complete(device, monkeypatch):
    """A long sum with few tiles is split into parts, which are added at the end, for any number of parts."""
    a, b = torch.randn(20, 1000), (torch.rand(1000, 33) < 0.1).to(torch.uint8)
    for programs in (1, 2, 3, 256):
        monkeypatch.setattr(matmul_module, "PROGRAMS", programs)
        found = matmul_module.matmul(a.to(device), b.to(device), 0.5)
        assert_close(found.cpu(), 0.5 * a.double() @ b.double())
