r"""Export of networks to NIR graphs.

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
``pip install nir``.
"""

import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import atomic
from ..kernels.constants import DECAY_SCALE, WEIGHT_SCALE
from ..netx import as_specs

if TYPE_CHECKING:
    import nir

FORMS = ("euler", "exponential")


def nir_package():
    """Return the optional package `nir`; raise ImportError, which says how to install it, if it is missing."""
    try:
        import nir
    except ImportError as error:
        raise ImportError("nir: expected the package nir, found none; pip install nir") from error
    return nir


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
    dt, form = step_and_form(None, dt, form)
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


def step_and_form(graph: Any, dt: float | None, form: str | None, name: str = "form") -> tuple[float, str]:
    """Return the length of a step in seconds and the integration method: as given, as the graph says, or the default.

    Raises
    ------
    ValueError
        If one of them is not valid; the message calls the integration method `name`.
    """
    metadata = getattr(graph, "metadata", None) or {}
    dt = float(metadata.get("dt", 1e-3) if dt is None else dt)
    form = str(metadata.get("form", "euler") if form is None else form)
    if form not in FORMS:
        raise ValueError(f"{name}: expected one of {FORMS}, found {form!r}")
    if not (np.isfinite(dt) and dt > 0):
        raise ValueError(f"dt: expected the length of a step in seconds, found {dt!r}")
    return dt, form
