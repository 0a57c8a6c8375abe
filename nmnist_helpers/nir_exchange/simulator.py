"""NIR graphs run in floating point, as other simulators run them, and how near that comes to the exact network."""

from dataclasses import dataclass

import numpy as np
import torch

from .graph import chain_of, check_form, nir_package


def simulate(graph, spikes, dt: float | None = None, method: str = "euler", substeps: int = 1) -> np.ndarray:
    """Run a NIR graph in floating point, as other simulators do.

    Parameters
    ----------
    graph : nir.NIRGraph
        A chain as `from_nir` takes.
    spikes : array or tensor [B, in, T]
        Input spikes; a spike is an input of 1 for the length of a step.
    dt : float, optional
        Length of a step, seconds; the graph's own if not given.
    method : {'euler', 'exponential'}
        How states move on: ``x + h (target - x) / tau`` or ``target + (x - target) exp(-h / tau)``.
    substeps : int
        Time is cut `substeps` times finer than `dt`. One step is what most readers do; many come near to the
        differential equations themselves, where a neuron fires when it crosses the threshold and not at the
        next step.

    Returns
    -------
    int64 array [B, out, T]
        Output spikes in each step; more than one is possible with substeps.
    """
    nir = nir_package()
    check_form(method, 1.0)
    dt = float((graph.metadata or {}).get("dt", 1e-3) if dt is None else dt)
    array = spikes.detach().cpu().numpy() if isinstance(spikes, torch.Tensor) else np.asarray(spikes)
    if array.ndim != 3:
        raise ValueError(f"spikes: found shape {list(array.shape)}, expected [B, in, T]")
    batch, _, steps = array.shape
    # Spikes on the fine grid, time first: one at the first substep of its step.
    onset = np.zeros((steps * substeps, batch, array.shape[1]), np.float32)
    onset[::substeps] = array.transpose(2, 0, 1)
    weight = None
    for name, node in chain_of(graph, nir):
        if isinstance(node, nir.Linear | nir.Affine):
            weight = node.weight
            if weight.shape[1] != onset.shape[2]:
                raise ValueError(f"node {name!r}: found {onset.shape[2]} inputs, expected {weight.shape[1]}")
        elif isinstance(node, nir.CubaLIF):
            drive = onset @ weight.T.astype(np.float64)  # [time, B, out]
            onset = _neurons(node, _boxes(drive, substeps), dt / substeps, method)
        elif isinstance(node, nir.Delay):
            onset = _delayed(onset, np.rint(node.delay / dt * substeps).astype(int))
        else:
            raise ValueError(f"node {name!r}: found a {type(node).__name__}, expected Linear, Affine, CubaLIF or Delay")
    counts = onset.reshape(steps, substeps, batch, -1).sum(axis=1)
    return counts.transpose(1, 2, 0).astype(np.int64)


def _boxes(drive: np.ndarray, length: int) -> np.ndarray:
    """Each impulse held for `length` substeps."""
    if length == 1:
        return drive
    total = np.cumsum(drive, axis=0)
    total[length:] = total[length:] - total[:-length].copy()
    return total


def _neurons(node, drive: np.ndarray, h: float, method: str) -> np.ndarray:
    move_i, move_v = (h / tau if method == "euler" else -np.expm1(-h / tau) for tau in (node.tau_syn, node.tau_mem))
    fired = np.zeros(drive.shape, np.float32)
    current, voltage = np.zeros(drive.shape[1:]), np.zeros(drive.shape[1:])
    for t in range(len(drive)):
        current += move_i * (node.w_in * drive[t] - current)
        voltage += move_v * (node.v_leak + node.r * current - voltage)
        fires = voltage > node.v_threshold
        voltage[fires] = np.broadcast_to(node.v_reset, voltage.shape)[fires]
        fired[t] = fires
    return fired


def _delayed(onset: np.ndarray, delay: np.ndarray) -> np.ndarray:
    out = np.zeros_like(onset)
    for channel, steps in enumerate(np.broadcast_to(delay, onset.shape[2])):
        out[steps:, :, channel] = onset[: len(onset) - steps, :, channel]
    return out


@dataclass
class Agreement:
    """How near one set of output spikes comes to another.

    Attributes
    ----------
    answers : float
        Share of recordings in which the same class fires most.
    trains : float
        Share of recordings whose output trains are equal, spike by spike.
    spikes : float
        Share of all spikes of both that the other has in the same step.
    near : float
        The same, where a spike in the step before or after counts as well.
    counts : float
        Mean absolute difference of an output's spike count over a recording.
    """

    answers: float
    trains: float
    spikes: float
    near: float
    counts: float

    def __str__(self) -> str:
        return (
            f"same answer {100 * self.answers:.1f} %, equal trains {100 * self.trains:.1f} %, spikes in the same step "
            f"{100 * self.spikes:.1f} %, within one {100 * self.near:.1f} %, counts differ by {self.counts:.2f}"
        )


def agreement(exact, other) -> Agreement:
    """Compare output spikes [B, out, T] of the exact network with those of another form of it."""
    a, b = (np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x, dtype=np.int64) for x in (exact, other))
    if a.shape != b.shape or a.ndim != 3:
        raise ValueError(f"found shapes {list(a.shape)} and {list(b.shape)}, expected the same [B, out, T] twice")
    both = np.minimum(a, b).sum()
    total = a.sum() + b.sum()
    return Agreement(
        answers=float((a.sum(axis=2).argmax(axis=1) == b.sum(axis=2).argmax(axis=1)).mean()),
        trains=float((a == b).all(axis=(1, 2)).mean()),
        spikes=float(2 * both / total) if total else 1.0,
        near=float((a[_around(b)].sum() + b[_around(a)].sum()) / total) if total else 1.0,
        counts=float(np.abs(a.sum(axis=2) - b.sum(axis=2)).mean()),
    )


def _around(spikes: np.ndarray) -> np.ndarray:
    """Bins with a spike in them or in the step before or after."""
    found = spikes > 0
    around = found.copy()
    around[:, :, 1:] |= found[:, :, :-1]
    around[:, :, :-1] |= found[:, :, 1:]
    return around
