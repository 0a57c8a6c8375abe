r"""Export of networks to NIR graphs, and import from them.

NIR (Pedersen et al., Nature Communications 15:8122, 2024) describes a network as a graph of continuous-time nodes. A
block becomes three nodes: ``Linear`` (the weights), ``CubaLIF`` and ``Delay``. NIR defines the neuron by

.. math::
    \tau_{syn} \dot I = -I + w_{in} S, \qquad \tau_{mem} \dot v = (v_{leak} - v) + R I

whereas our neuron is defined in discrete time, :math:`I \leftarrow a I + z`, :math:`V \leftarrow b V + I`, with
``a = 1 - iDecay / 4096`` and ``b = 1 - vDecay / 4096``. With :math:`w_{in} = 1 / (1 - a)` and :math:`R = 1 / (1 - b)`,
a simulator with time step `dt` reproduces these equations if the time constants match its integration method:

=================  ==================================  ==========================================
form               time constant                       exact for simulators that use
=================  ==================================  ==========================================
``"euler"``        ``dt / (1 - a)``                    forward Euler (norse, snnTorch, lava-dl)
``"exponential"``  ``-dt / log(a)``                    exponential Euler, ``exp(-dt / tau)``
=================  ==================================  ==========================================

Neither form reproduces the truncation to integers after each product. A simulator in continuous time also lacks our
grid of time steps. `run_graph` and `agreement` measure both effects. The package `nir` is optional; install it with
``pip install nir==1.0.8``.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..block.spec import BIAS_MAX, BIAS_MIN, WEIGHT_MAX, WEIGHT_MIN
from ..files import atomic, size_of
from ..kernels.constants import DECAY_SCALE, MAX_DELAY, WEIGHT_SCALE
from ..netx import LayerSpec, as_specs

if TYPE_CHECKING:
    import nir

FORMS = ("euler", "exponential")
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


def nir_package():
    try:
        import nir
    except ImportError as error:
        raise ImportError("nir: expected the package nir, found none; pip install nir==1.0.8") from error
    return nir


# -- export


def to_nir(network, dt: float = 1e-3, form: str = "euler", delays: bool = True) -> "nir.NIRGraph":
    """Return the network as a NIR graph.

    Parameters
    ----------
    network : anything `netx.write_network` takes
        Blocks, layers or a loaded `.net` file.
    dt : float
        Length of a time step in seconds, the time unit of NIR.
    form : {'euler', 'exponential'}
        Integration method for which the time constants are exact; see the table at the top of the module.
    delays : bool
        Write ``Delay`` nodes (one step plus the learned delay). False is for simulators without ``Delay`` nodes: the
        learned delays are lost, and the spikes of every layer arrive one step earlier.

    Returns
    -------
    nir.NIRGraph
        A chain of nodes: ``input``; ``linear_<i>``, ``neuron_<i>`` and ``delay_<i>`` for each layer; ``output``.

    Raises
    ------
    ImportError
        If the package `nir` is not installed.
    ValueError
        If a layer is not dense, or if no time constant can represent a decay: 0, or 4096 in the exponential form.
    """
    nir = nir_package()
    check_form(form, dt)
    layers = as_specs(network)
    nodes = {"input": nir.Input(input_type={"input": np.array([layers[0].in_features])})}
    for index, layer in enumerate(layers):
        if layer.type != "dense":
            raise ValueError(f"layer {index}: expected a dense layer, found one of type {layer.type!r}")
        every = np.ones(layer.out_features)
        du, dv = (every * decay / DECAY_SCALE for decay in (layer.i_decay, layer.v_decay))
        try:
            tau_syn, tau_mem = _time_constant(du, dt, form), _time_constant(dv, dt, form)
        except ValueError as error:
            raise ValueError(f"layer {index}: {error}") from error
        nodes[f"linear_{index}"] = nir.Linear(weight=layer.weight / np.float32(WEIGHT_SCALE))
        nodes[f"neuron_{index}"] = nir.CubaLIF(
            tau_syn=tau_syn,
            tau_mem=tau_mem,
            r=1 / dv,
            v_leak=every * (0 if layer.bias is None else layer.bias / WEIGHT_SCALE / dv),
            v_threshold=every * layer.v_th_mant / WEIGHT_SCALE,
            v_reset=0 * every,
            w_in=1 / du,
        )
        if delays:
            steps = 1 + every * (0 if layer.delay is None else layer.delay)
            nodes[f"delay_{index}"] = nir.Delay(delay=steps * dt)
    nodes["output"] = nir.Output(output_type={"output": np.array([layers[-1].out_features])})
    names = list(nodes)
    metadata = {"dt": dt, "form": form}
    return nir.NIRGraph(nodes=nodes, edges=list(pairwise(names)), metadata=metadata)


def write_nir(path: str | os.PathLike, network, **options) -> Path:
    """Write the network to a `.nir` file, completely or not at all; parameters as for `to_nir`."""
    graph = to_nir(network, **options)
    with atomic(path) as temporary:
        nir_package().write(str(temporary), graph)
    return Path(path)


def _time_constant(decay: np.ndarray, dt: float, form: str) -> np.ndarray:
    if (decay == 0).any():
        raise ValueError("expected a decay above 0, found 0: its time constant would be infinite")
    if form == "euler":
        return dt / decay
    if (decay == 1).any():
        raise ValueError(
            "expected a decay below 4096, found 4096: no exponential ends within one step; use form='euler'"
        )
    return -dt / np.log1p(-decay)


def check_form(form: str, dt: float, name: str = "form") -> None:
    if form not in FORMS:
        raise ValueError(f"{name}: expected one of {FORMS}, found {form!r}")
    if not (np.isfinite(dt) and dt > 0):
        raise ValueError(f"dt: expected the length of a step in seconds, found {dt!r}")


# -- import


def from_nir(graph, dt: float | None = None, form: str | None = None, strict: bool = True) -> list[LayerSpec]:
    """Return the layers of a NIR graph in integers of the chip.

    Parameters
    ----------
    graph : nir.NIRGraph
        A chain of ``Linear`` or ``Affine`` (with bias 0) and ``CubaLIF`` nodes, optionally with ``Delay`` nodes.
    dt, form : optional
        As for `to_nir`. The defaults are taken from the metadata of the graph; without metadata, 1 ms and ``"euler"``.
    strict : bool
        Raise for values that are not integers of the chip within a small tolerance. Otherwise, round and clamp them.

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
    metadata = getattr(graph, "metadata", None) or {}
    dt = float(metadata.get("dt", 1e-3) if dt is None else dt)
    form = str(metadata.get("form", "euler") if form is None else form)
    check_form(form, dt)
    layers = []
    for (_, linear), (name, neuron), delay in layers_of(graph, nir):
        try:
            layers.append(_layer(linear.weight, neuron, None if delay is None else delay.delay, dt, form, strict))
        except ValueError as error:
            raise ValueError(f"node {name!r}: {error}") from error
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
        subprocess.run(trial, check=True, timeout=TRIAL_SECONDS, capture_output=True)
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


def _layer(weight, neuron, delay, dt: float, form: str, strict: bool) -> LayerSpec:
    du, dv = (dt / tau if form == "euler" else -np.expm1(-dt / tau) for tau in (neuron.tau_syn, neuron.tau_mem))
    if not strict:
        du, dv = np.minimum(du, 1), np.minimum(dv, 1)  # as the decays are clamped below; the weights depend on them
    if np.any(neuron.v_reset):
        raise ValueError("v_reset: expected 0, the only supported value, found others")
    # A spike adds w_in * du to I, and the current adds r * dv to V: both factors become part of the weights.
    gain = np.broadcast_to(neuron.w_in * du * neuron.r * dv, du.shape)
    weight = _round("weight", weight * gain[:, None] * WEIGHT_SCALE / 2, WEIGHT_MIN // 2, WEIGHT_MAX // 2, strict) * 2
    threshold = np.unique(_round("v_threshold", neuron.v_threshold * WEIGHT_SCALE, 0, np.inf, strict))
    if len(threshold) != 1:
        raise ValueError(f"v_threshold: expected one value for the whole layer, found {len(threshold)}")
    bias = _round("v_leak", neuron.v_leak * dv * WEIGHT_SCALE, BIAS_MIN, BIAS_MAX, strict)
    steps = None
    if delay is not None and not np.allclose(np.asarray(delay) / dt, 1):
        steps = _round("delay", delay / dt - 1, 0, MAX_DELAY, strict)
    i_decay, v_decay = (
        _round(name, d * DECAY_SCALE, 0, DECAY_SCALE, strict) for name, d in (("tau_syn", du), ("tau_mem", dv))
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


def _round(name: str, values: np.ndarray, low: float, high: float, strict: bool) -> np.ndarray:
    """Round `values`, in integer units of the chip, to integers in low..high; with `strict`, only within TOLERANCE."""
    values = np.asarray(values, dtype=np.float64)
    integers = np.clip(np.rint(values), low, high)
    if not np.isfinite(integers).all():
        raise ValueError(f"{name}: expected finite values, found others")
    off = np.abs(values - integers)
    if strict and off.max() > TOLERANCE:
        where = np.unravel_index(off.argmax(), off.shape)
        raise ValueError(
            f"{name}: expected integers in {low:g}..{high:g}, found {values[where]:.6g} units of the chip at "
            f"{[int(i) for i in where]}; strict=False rounds it"
        )
    return integers.astype(np.int64)


def _scalar_if_equal(values: np.ndarray) -> int | np.ndarray:
    return int(values[0]) if (values == values[0]).all() else values
