"""Oracles: the network's computations in plain NumPy and exact integers, without the package's code.

Signals are [B, C, T]. States are int64, value x 4096. Gradients are float64. The code is deliberately slow and literal.
"""

import numpy as np
import torch

NEVER = 2**31 - 1


def tensor(array, dtype=torch.float32) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)


def array(x) -> np.ndarray:
    return x.detach().numpy()


def trunc_product(state: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Return ``trunc(state * keep / 4096)``, rounded toward zero, in 64-bit integers."""
    product = state.astype(np.int64) * keep
    return np.where(product >= 0, product // 4096, -((-product) // 4096))


def keep_of(decay) -> np.ndarray:
    """Return 4096 minus the decay x 4096, which is clamped to 0..4096 and rounded half to even."""
    return 4096 - np.rint(np.clip(np.asarray(decay, np.float64), 0, 4096)).astype(np.int64)


def neuron(z, retain_i, retain_v, threshold, current=None, reset=None, scale=4096):
    """Integrate, fire and reset; return current, voltage before reset, spikes [B, C, T], and final I and R [B, C].

    `threshold` is in units of the integer state (80 * 64 for 1.25).
    """
    batch, channels, steps = z.shape
    retain_i, retain_v = np.broadcast_to(retain_i, channels), np.broadcast_to(retain_v, channels)
    drive = np.trunc(np.asarray(z, np.float32) * np.float32(scale)).astype(np.int64)
    i = np.zeros((batch, channels), np.int64) if current is None else np.array(current, np.int64)
    r = np.zeros((batch, channels), np.int64) if reset is None else np.array(reset, np.int64)
    currents, voltages, spikes = (np.empty(z.shape, np.int64) for _ in range(3))
    for t in range(steps):
        i = trunc_product(i, retain_i) + drive[:, :, t]
        v = trunc_product(r, retain_v) + i
        fires = v > threshold
        r = np.where(fires, 0, v)
        currents[:, :, t], voltages[:, :, t], spikes[:, :, t] = i, v, fires
    return currents, voltages, spikes, i, r


def steps_of_weight(w) -> np.ndarray:
    """Return quantised weights x 32 as int64: ``clamp(round(32 w) / 32, -4, 254/64) * 32``."""
    w = np.asarray(w, np.float32)
    return np.clip(np.rint(w * np.float32(32)), -4 * 32, 254 * 32 // 64).astype(np.int64)


def normed(v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """Return normalised weights, rounded as by torch's weight normalisation on an x86 processor with AVX2.

    It keeps eight sums side by side, adds the square of every eighth weight of a row to each, and then adds up the
    sums: those four places apart, then two, then one. Rows of fewer than eight weights are added up one by one.
    """
    squares = np.square(v.detach().numpy().reshape(len(v), -1))
    lanes = 8 if squares.shape[1] >= 8 else 1
    squares = np.pad(squares, ((0, 0), (0, -squares.shape[1] % lanes)))
    total = np.zeros((len(v), lanes), np.float32)
    for first in range(0, squares.shape[1], lanes):
        total += squares[:, first : first + lanes]
    while total.shape[1] > 1:
        half = total.shape[1] // 2
        total = total[:, :half] + total[:, half:]
    return v * (g / torch.from_numpy(np.sqrt(total)).view_as(g))


def product(weight_steps, spikes, value=1.0):
    """Return z [B, out, T], float32: an exact integer sum over 0/1 spikes times the value of a spike, rounded once."""
    total = np.einsum("oi,bit->bot", weight_steps, (np.asarray(spikes) != 0).astype(np.int64))
    return np.float32(value) * (total / 32).astype(np.float32)


def shifted(x, lag):
    """Shift every channel of x [B, C, T] to later time steps by its own lag, filling in zeros."""
    batch, channels, steps = x.shape
    lag = np.broadcast_to(lag, channels)
    out = np.zeros_like(x)
    for c in range(channels):
        if lag[c] < steps:
            out[:, c, lag[c] :] = x[:, c, : steps - lag[c]]
    return out


def shifted_back(x, lag):
    """Shift every channel to earlier time steps: the transpose of `shifted`."""
    return shifted(x[:, :, ::-1], lag)[:, :, ::-1]


def block(x, weight_steps, retain_i, retain_v, threshold, *, value_in=1.0, kept=None, value=1.0, shift=1, delay=None):
    """Run synapse, neuron, dropout, one-step shift and learned delay; return 0/1 output and the internal signals."""
    current, voltage, spikes, i, r = neuron(product(weight_steps, x, value_in), retain_i, retain_v, threshold)
    sent = spikes if kept is None else spikes * np.asarray(kept, np.int64)[:, :, None]
    lag = shift + (0 if delay is None else np.floor(np.clip(delay, 0, 62)).astype(np.int64))
    return shifted(sent, lag), {"current": current, "voltage": voltage, "spikes": spikes, "state": (i, r), "lag": lag}


def surrogate(voltage, threshold=80 * 64, tau_grad=0.03, scale_grad=3.0, scale=4096):
    """Return ``ds/dV = s / (2 tau) exp(-|V - th| / tau)`` with tau = 100 tau_grad th and s = 0.1 scale_grad."""
    th = threshold / scale
    tau, s = 100 * tau_grad * th, 0.1 * scale_grad
    return s / (2 * tau) * np.exp(-np.abs(np.asarray(voltage, np.float64) / scale - th) / tau)


def filtered_back(grad, keep):
    """Return ``g[t] = a g[t+1] + grad[t]`` with a = keep / 4096: the transpose of a leaky integrator."""
    a = np.broadcast_to(np.asarray(keep, np.float64) / 4096, grad.shape[1])
    out, g = np.zeros(grad.shape, np.float64), np.zeros(grad.shape[:2])
    for t in reversed(range(grad.shape[2])):
        g = a * g + grad[:, :, t]
        out[:, :, t] = g
    return out


def neuron_gradient(
    grad_spike, current, voltage, spikes, retain_i, retain_v, slope, current0=None, reset0=None,
    grad_voltage=None, grad_current=None, scale=4096,
):  # fmt: skip
    """Return the gradients of z, current decay and voltage decay (per channel, for decays stored x 4096)."""
    zero = np.zeros(voltage.shape[:2])
    g = np.zeros(voltage.shape) if grad_spike is None else np.asarray(grad_spike, np.float64) * slope
    g = g if grad_voltage is None else g + grad_voltage
    g_v = filtered_back(g, retain_v)
    g_i = filtered_back(g_v if grad_current is None else g_v + grad_current, retain_i)
    reset = np.where(spikes.astype(bool), 0, voltage)

    def previous(x, first):
        first = zero if first is None else first
        return np.concatenate([np.asarray(first, np.float64)[:, :, None], x[:, :, :-1]], 2) / scale

    by_current = -(g_i * previous(current, current0)).sum((0, 2)) / 4096
    by_voltage = -(g_v * previous(reset, reset0)).sum((0, 2)) / 4096
    return g_i, by_current, by_voltage


def delay_gradient(grad, out):
    """Return ``sum_bt grad[b, c, t] (y[b, c, t-1] - y[b, c, t])``, where y is the delayed output times its value."""
    total = np.zeros(grad.shape[1])
    for c in range(grad.shape[1]):
        for b in range(grad.shape[0]):
            for t in range(grad.shape[2]):
                earlier = out[b, c, t - 1] if t else 0.0
                total[c] += grad[b, c, t] * (earlier - out[b, c, t])
    return total


def weight_gradient(grad_z, x):
    """Return dL/dw [out, in]."""
    return np.einsum("bot,bit->oi", np.asarray(grad_z, np.float64), np.asarray(x, np.float64))


def straight_through(v, g, grad_w):
    """Return the gradients of v and g (or only of v, if g is None), by float64 autograd through torch's weight norm.

    The gradient of rounding is 1. Outside the clamp, the gradient is 0.
    """
    v = v.detach().double().requires_grad_()
    g = None if g is None else g.detach().double().requires_grad_()
    w = v if g is None else torch._weight_norm(v, g, 0)
    steps = torch.round(w.detach().float() * 32)
    inside = (steps >= -128) & (steps <= 127)
    w.backward(torch.as_tensor(grad_w).reshape(w.shape) * inside)
    return v.grad.numpy(), None if g is None else g.grad.numpy()


def block_gradient(grad, x, weight_steps, inside, out, retain_i, retain_v, *, kept=None, value=1.0, delay=None):
    """Return a dictionary of the gradients of x, weights, decays and delay, from a block's output gradient."""
    grad = np.asarray(grad, np.float64)
    at_neuron = shifted_back(grad, inside["lag"]) * value
    if kept is not None:
        at_neuron = at_neuron * np.asarray(kept)[:, :, None]
    grad_z, by_current, by_voltage = neuron_gradient(
        at_neuron, inside["current"], inside["voltage"], inside["spikes"], retain_i, retain_v,
        surrogate(inside["voltage"]), *inside.get("start", (None, None)),
    )  # fmt: skip
    return {
        "x": np.einsum("oi,bot->bit", weight_steps / 32, grad_z),
        "weight": weight_gradient(grad_z, x),
        "current_decay": by_current,
        "voltage_decay": by_voltage,
        "delay": None if delay is None else delay_gradient(grad, out * value),
    }


def assert_close(found, expected, tolerance=1e-5):
    """Assert that the largest difference is at most `tolerance` times the largest expected magnitude."""
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else np.asarray(expected)
    assert found.shape == expected.shape, f"expected shape {expected.shape}, found {found.shape}"
    assert np.isfinite(found).all(), "expected finite numbers"
    size = np.abs(expected).max(initial=0)
    worst = np.abs(found.astype(np.float64) - expected).max(initial=0)
    assert worst <= tolerance * size, f"largest difference {worst:.3g}, largest expected magnitude {size:.3g}"
