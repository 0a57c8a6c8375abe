"""Import of networks from NIR graphs: a chain of nodes becomes layers in integers of the chip."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..block.spec import BIAS_MAX, BIAS_MIN, WEIGHT_MAX, WEIGHT_MIN
from ..files import size_of
from ..kernels.constants import DECAY_SCALE, MAX_DELAY, WEIGHT_SCALE
from ..netx import LayerSpec, as_specs
from .graph import nir_package, step_and_form

MAX_FILE = 1 << 30  # bytes
TRIAL_SECONDS = 30
TRIAL = """
import sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
except (ImportError, ValueError, OSError):
    pass  # this system has no such limits
import nir
nir.read(sys.argv[1])
"""
TOLERANCE = 1e-3  # largest accepted distance of an imported value from an integer, in integer units of the chip


def from_nir(graph, dt: float | None = None, form: str | None = None, strict: bool = True) -> list[LayerSpec]:
    """Return the layers of a NIR graph in integers of the chip.

    Parameters
    ----------
    graph : nir.NIRGraph
        A chain of ``Linear`` or ``Affine`` (with bias 0) and ``CubaLIF`` nodes, optionally with ``Delay`` nodes.
    dt, form : optional
        As for `to_nir`. The defaults are taken from the metadata of the graph; without metadata, 1 ms and ``"euler"``.
    strict : bool
        Raise for values that are not integers of the chip within a small tolerance. Otherwise, round and clamp them;
        a warning counts all values that are clamped, and the weights that become 0 if most of them do.

    Returns
    -------
    list of LayerSpec
        Accepted by `netx.Net` and `netx.write_network`. A layer whose delays are all one step has no learned delay.

    Raises
    ------
    ValueError
        If the graph has another structure or, with `strict`, if the chip cannot represent a value. The message states
        the node.
    """
    nir = nir_package()
    known = dt is not None or "dt" in (getattr(graph, "metadata", None) or {})
    dt, form = step_and_form(graph, dt, form)
    note = "" if known else f"; the graph states no dt, so {dt:g} s is assumed"
    layers = []
    for (_, linear), (name, neuron), delay in layers_of(graph, nir):
        rounding = _Rounding(strict, note)
        try:
            layers.append(_layer(linear.weight, neuron, None if delay is None else delay.delay, dt, form, rounding))
        except ValueError as error:
            raise ValueError(f"node {name!r}: {error}") from error
        if rounding.lost:
            warnings.warn(f"node {name!r}: {'; '.join(rounding.lost)}{note}", stacklevel=2)
    return as_specs(layers)


def read_nir(path: str | os.PathLike, **options) -> list[LayerSpec]:
    """Return the layers of a `.nir` file; keyword arguments as for `from_nir`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file does not contain such a graph. The message states the file.

    Notes
    -----
    For some damaged files, the HDF5 library loops forever or crashes. So a separate process, with limited time and
    memory, reads the file first, which takes about a second.
    """
    path, nir = Path(path), nir_package()
    size_of(path, ".nir", MAX_FILE)
    try:
        trial = [sys.executable, "-P", "-c", TRIAL, str(path)]
        # With a thread for each of many cores, numpy alone would need more address space than the trial may use.
        one_thread = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        subprocess.run(trial, check=True, timeout=TRIAL_SECONDS, capture_output=True, env=one_thread)
        return from_nir(nir.read(str(path)), **options)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"{path}: expected a readable NIR file, found that reading it does not finish") from error
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()  # a traceback, unless the process crashed
        found = lines[-1][:300] if lines else f"that reading it fails with exit code {error.returncode}"
        raise ValueError(f"{path}: expected a readable NIR file, found {found}") from error
    except Exception as error:  # for a damaged file, nir and h5py may raise almost any exception
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"{path}: {kind}{error}") from error


def layers_of(graph, nir) -> Iterator[tuple[tuple[str, Any], tuple[str, Any], Any]]:
    """Yield the Linear and the CubaLIF node of each layer, both with their names, and its Delay node or None.

    Raises
    ------
    ValueError
        If the graph is not a chain of such layers, or if a Linear node adds a bias.
    """
    chain = chain_of(graph, nir)
    if not chain:
        raise ValueError("expected Linear or Affine nodes, found none between input and output")
    position = 0
    while position < len(chain):
        name, linear = chain[position]
        if not isinstance(linear, nir.Linear | nir.Affine):
            raise ValueError(f"node {name!r}: expected Linear or Affine, found a {type(linear).__name__}")
        if isinstance(linear, nir.Affine) and np.any(linear.bias):
            raise ValueError(f"node {name!r}: expected no bias, found one: it would add to the current")
        neuron = chain[position + 1] if position + 1 < len(chain) else None
        if neuron is None or not isinstance(neuron[1], nir.CubaLIF):
            found = "nothing" if neuron is None else f"a {type(neuron[1]).__name__}"
            raise ValueError(f"node {name!r}: expected CubaLIF, found {found} after it")
        for constant in ("tau_syn", "tau_mem"):
            values = np.asarray(getattr(neuron[1], constant))
            if not (np.isfinite(values) & (values > 0)).all():
                raise ValueError(f"node {neuron[0]!r}: {constant}: expected positive seconds, found {values.min()}")
        position += 2
        delay = chain[position][1] if position < len(chain) else None
        if not isinstance(delay, nir.Delay):
            delay = None
        else:
            position += 1
        yield (name, linear), neuron, delay


def chain_of(graph, nir) -> list[tuple[str, Any]]:
    """Return the nodes between input and output in their order; raise if they do not form a chain."""
    after: dict[str, str] = {}
    for source, target in graph.edges:
        if source in after or target in after.values():
            raise ValueError(f"edge {source!r} -> {target!r}: expected a chain of layers, found a branch")
        after[source] = target
    starts = [name for name, node in graph.nodes.items() if isinstance(node, nir.Input)]
    if len(starts) != 1:
        raise ValueError(f"expected one Input node, found {len(starts)}")
    chain: list[tuple[str, Any]] = []
    name = after.get(starts[0])
    while name is not None and not isinstance(graph.nodes[name], nir.Output):
        if len(chain) > len(graph.nodes):
            raise ValueError("expected a chain of layers, found a cycle")
        chain.append((name, graph.nodes[name]))
        name = after.get(name)
    if len(chain) != sum(not isinstance(node, nir.Input | nir.Output) for node in graph.nodes.values()):
        outside = sorted(graph.nodes.keys() - dict(chain).keys() - {starts[0], name})
        raise ValueError(f"expected one chain, found nodes outside it: {', '.join(outside)}")
    return chain


@dataclass
class _Rounding:
    """Conversion of values, in integer units of the chip, to integers; `lost` describes what that destroys."""

    strict: bool  # accept only values within TOLERANCE of an integer
    note: str  # the end of messages
    lost: list[str] = field(default_factory=list)

    def __call__(self, name: str, values: np.ndarray, low: float, high: float) -> np.ndarray:
        """Return `values` as integers in low..high."""
        values = np.asarray(values, dtype=np.float64)
        nearest = np.rint(values)
        integers = np.clip(nearest, low, high)
        if not np.isfinite(integers).all():
            raise ValueError(f"{name}: expected finite values, found others")
        off = np.abs(values - integers)
        if self.strict and off.max() > TOLERANCE:
            where = np.unravel_index(off.argmax(), off.shape)
            raise ValueError(
                f"{name}: expected integers in {low:g}..{high:g}, found {values[where]:.6g} units of the chip at "
                f"{[int(i) for i in where]}; strict=False rounds and clamps it{self.note}"
            )
        clamped, zero = (nearest != integers).sum(), ((integers == 0) & (values != 0)).sum()
        if clamped:
            limits = f"{low:g}..{high:g} units of the chip"
            self.lost.append(f"{name}: expected values in {limits}, found {clamped} of {values.size} outside, clamped")
        weights = np.count_nonzero(values)
        if 2 * zero > weights and name == "weight":  # the smallest weights always become 0
            self.lost.append(f"{name}: expected most weights to differ from 0, found {zero} of {weights} rounded to 0")
        return integers.astype(np.int64)


def _layer(weight, neuron, delay, dt: float, form: str, rounding: _Rounding) -> LayerSpec:
    du, dv = (dt / tau if form == "euler" else -np.expm1(-dt / tau) for tau in (neuron.tau_syn, neuron.tau_mem))
    if not rounding.strict:
        for name, d in (("tau_syn", du), ("tau_mem", dv)):
            if (short := d > 1 + TOLERANCE / DECAY_SCALE).any():
                rounding.lost.append(f"{name}: expected at least dt, found {short.sum()} of {d.size} below, clamped")
        du, dv = np.minimum(du, 1), np.minimum(dv, 1)  # the weights depend on them
    if np.any(neuron.v_reset):
        raise ValueError("v_reset: expected 0, the only supported value, found others")
    # A spike adds w_in * du to I, and the current adds r * dv to V: both factors become part of the weights.
    gain = np.broadcast_to(neuron.w_in * du * neuron.r * dv, du.shape)
    weight = rounding("weight", weight * gain[:, None] * WEIGHT_SCALE / 2, WEIGHT_MIN // 2, WEIGHT_MAX // 2) * 2
    threshold = np.unique(rounding("v_threshold", neuron.v_threshold * WEIGHT_SCALE, 0, np.inf))
    if len(threshold) != 1:
        raise ValueError(f"v_threshold: expected one value for the whole layer, found {len(threshold)}")
    bias = rounding("v_leak", neuron.v_leak * dv * WEIGHT_SCALE, BIAS_MIN, BIAS_MAX)
    steps = None
    if delay is not None and not np.allclose(np.asarray(delay) / dt, 1):
        steps = rounding("delay", delay / dt - 1, 0, MAX_DELAY)
    i_decay, v_decay = (
        rounding(name, d * DECAY_SCALE, 0, DECAY_SCALE) for name, d in (("tau_syn", du), ("tau_mem", dv))
    )
    return LayerSpec(
        type="dense",
        weight=weight,
        delay=steps,
        i_decay=_scalar_if_equal(i_decay),
        v_decay=_scalar_if_equal(v_decay),
        v_th_mant=int(threshold[0]),
        bias=bias if bias.any() else None,
    )


def _scalar_if_equal(values: np.ndarray) -> int | np.ndarray:
    return int(values[0]) if (values == values[0]).all() else values
