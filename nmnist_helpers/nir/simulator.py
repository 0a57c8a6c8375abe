"""Run NIR graphs in floating point, as other simulators do, and compare the results with the exact network."""

from dataclasses import dataclass

import numpy as np

from ..checks import whole_number
from ..jit.compiled import njit
from ..netx.simulator import events_of_rows
from ..tools import as_array
from .graph import nir_package, step_and_form
from .reader import layers_of

BATCH = 8  # number of recordings that run at a time; limits the memory for dense inputs with many substeps


def run_graph(graph, spikes, dt: float | None = None, method: str | None = None, substeps: int = 1) -> np.ndarray:
    """Run a NIR graph in floating point and return its output spikes.

    Parameters
    ----------
    graph : nir.NIRGraph
        A chain of nodes, as for `from_nir`.
    spikes : array or tensor [B, in, T]
        Input spikes. A spike is an input of 1 that lasts one time step.
    dt : float, optional
        Length of a time step in seconds. The default is taken from the metadata of the graph; without metadata, 1 ms.
    method : {'euler', 'exponential'}, optional
        Update of a state x over a substep h: ``x + h (target - x) / tau`` or ``target + (x - target) exp(-h / tau)``.
        The default is the form in the metadata of the graph, for which its time constants were made; without metadata,
        ``"euler"``.
    substeps : int
        Number of integration steps per `dt`. Most simulators use one. Many substeps approximate the continuous-time
        equations, in which a neuron fires when its voltage crosses the threshold and not at the next time step.

    Returns
    -------
    int64 array [B, out, T]
        Number of output spikes in each time step; with substeps, it may exceed 1.

    Raises
    ------
    ValueError
        If the graph has another structure, or if an argument is not as described.
    """
    nir = nir_package()
    dt, method = step_and_form(graph, dt, method, "method")
    substeps = whole_number("substeps", substeps, 1)
    array = as_array(spikes)
    if array.ndim != 3 or not len(array):
        raise ValueError(f"spikes: expected [B, in, T] of at least one recording, found shape {list(array.shape)}")
    if not ((array == 0) | (array == 1)).all():
        raise ValueError("spikes: expected zeros and ones, found other numbers")
    layers = list(layers_of(graph, nir))
    parts = [_run(layers, array[b : b + BATCH], dt, method, substeps) for b in range(0, len(array), BATCH)]
    return np.concatenate(parts)


def _run(layers: list, spikes: np.ndarray, dt: float, method: str, substeps: int) -> np.ndarray:
    batch, channels, steps = spikes.shape
    # Spikes per substep, [B, T * substeps, C]; a spike occurs in the first substep of its time step.
    rows = np.zeros((batch, steps * substeps, channels), np.uint8)
    rows[:, ::substeps] = (spikes != 0).transpose(0, 2, 1)
    for (name, linear), (_, neuron), delay in layers:
        if linear.weight.shape[1] != rows.shape[2]:
            raise ValueError(f"node {name!r}: expected {linear.weight.shape[1]} inputs, found {rows.shape[2]}")
        events = events_of_rows(rows)
        drive = np.zeros((batch * steps * substeps, linear.weight.shape[0]))
        _add_up(events.indptr, events.channel, np.ascontiguousarray(linear.weight.T, np.float64), drive)
        drive = drive.reshape(batch, steps * substeps, -1)
        rows = _run_neurons(neuron, _hold_impulses(drive, substeps), dt / substeps, method)
        if delay is not None:
            rows = _delay_spikes(rows, np.rint(delay.delay / dt * substeps).astype(int))
    counts = rows.reshape(batch, steps, substeps, -1).sum(axis=2, dtype=np.int64)
    return counts.transpose(0, 2, 1)


@njit()
def _add_up(indptr, channel, column, drive):
    for row in range(len(drive)):
        for event in range(indptr[row], indptr[row + 1]):
            drive[row] += column[channel[event]]


def _hold_impulses(drive: np.ndarray, length: int) -> np.ndarray:
    """Extend each impulse to `length` substeps."""
    if length == 1:
        return drive
    held = drive.copy()
    for lag in range(1, length):
        held[:, lag:] += drive[:, :-lag]
    return held


def _run_neurons(node, drive: np.ndarray, h: float, method: str) -> np.ndarray:
    gain_i, gain_v = (h / tau if method == "euler" else -np.expm1(-h / tau) for tau in (node.tau_syn, node.tau_mem))
    fired = np.zeros(drive.shape, np.uint8)
    current, voltage = np.zeros(drive[:, 0].shape), np.zeros(drive[:, 0].shape)
    for t in range(drive.shape[1]):
        current += gain_i * (node.w_in * drive[:, t] - current)
        voltage += gain_v * (node.v_leak + node.r * current - voltage)
        fires = voltage > node.v_threshold
        voltage = np.where(fires, node.v_reset, voltage)
        fired[:, t] = fires
    return fired


def _delay_spikes(rows: np.ndarray, delay: np.ndarray) -> np.ndarray:
    out = np.zeros_like(rows)
    for channel, steps in enumerate(np.broadcast_to(delay, rows.shape[2])):
        out[:, steps:, channel] = rows[:, : max(0, rows.shape[1] - steps), channel]
    return out


@dataclass
class Agreement:
    """Agreement between two sets of output spikes.

    Attributes
    ----------
    answers : float
        Share of recordings in which the same class has the most spikes.
    trains : float
        Share of recordings whose output spike trains are identical.
    spikes : float
        Share of all spikes, of both sets, that the other set has in the same time step.
    near : float
        The same share, counting also a spike in the previous or the next time step.
    counts : float
        Mean absolute difference between the spike counts of an output neuron in a recording.
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
    """Compare the output spikes [B, out, T] of the exact network with those of another version of it."""
    a, b = (as_array(x).astype(np.int64) for x in (exact, other))
    if a.shape != b.shape or a.ndim != 3 or not a.size:
        raise ValueError(
            "agreement: expected two arrays of the same shape [B, out, T], none of them 0, found"
            f" {list(a.shape)} and {list(b.shape)}"
        )
    both = np.minimum(a, b).sum()
    total = a.sum() + b.sum()
    return Agreement(
        answers=float((a.sum(axis=2).argmax(axis=1) == b.sum(axis=2).argmax(axis=1)).mean()),
        trains=float((a == b).all(axis=(1, 2)).mean()),
        spikes=float(2 * both / total) if total else 1.0,
        near=float((a[_near_spikes(b)].sum() + b[_near_spikes(a)].sum()) / total) if total else 1.0,
        counts=float(np.abs(a.sum(axis=2) - b.sum(axis=2)).mean()),
    )


def _near_spikes(spikes: np.ndarray) -> np.ndarray:
    """Return a mask of the bins with a spike in the same, the previous or the next time step."""
    found = spikes > 0
    around = found.copy()
    around[:, :, 1:] |= found[:, :, :-1]
    around[:, :, :-1] |= found[:, :, 1:]
    return around
