"""Writing a network as the HDF5 `.net` file that lava's netx reads.

The layout, for each layer i under ``/layer/<i>/``:

================  =============  ==============================================================
``type``          S10 (1,)       ``dense``
``shape``         int64 (1,)     neurons of the layer
``inFeatures``    int64          inputs
``outFeatures``   int64          neurons
``weight``        float32        [out, in], weight x 64: even integers, -256..254
``delay``         float32        [out], whole steps, 0..62; only where the block has delays
``bias``          float32        [out], x 64; only after a mean-only normalisation
``neuron/``       group          ``type`` (S10 ``CUBA``), ``iDecay``, ``vDecay`` (of 4096), ``vThMant``,
                                 ``refDelay`` (int64) and ``gradedSpike`` (bool)
================  =============  ==============================================================

netx decodes both types from ASCII bytes, takes the product of ``shape``, and turns ``weight`` into
integers. It applies ``delay`` (its ``DelayDense``), and its output needs no shift: it equals ours step by step.
"""

import os
from pathlib import Path

import h5py
import numpy as np

from ..files import atomic
from .spec import LayerSpec, as_specs


def write_layer(group: h5py.Group, spec: LayerSpec) -> None:
    """Write one layer into an empty HDF5 group.

    Parameters
    ----------
    group : h5py.Group
        For instance ``file.create_group("layer/0")``.
    spec : LayerSpec
        The layer; its rules are checked again before anything is written.

    Raises
    ------
    ValueError
        If a rule is broken, or the group holds something already.
    """
    spec.check()
    if len(group):
        raise ValueError(f"group {group.name}: found {sorted(group)} in it, expected an empty group")
    packed = {"compression": "gzip", "compression_opts": 9, "shuffle": True}
    group.create_dataset("type", data=np.array([spec.type], dtype="S10"))
    group.create_dataset("shape", data=np.array([spec.out_features], dtype=np.int64))
    group.create_dataset("inFeatures", data=np.int64(spec.in_features))
    group.create_dataset("outFeatures", data=np.int64(spec.out_features))
    group.create_dataset("weight", data=spec.weight.astype(np.float32), **packed)
    for name in ("delay", "bias"):
        if getattr(spec, name) is not None:
            group.create_dataset(name, data=getattr(spec, name).astype(np.float32), **packed)
    neuron = group.create_group("neuron")
    neuron.create_dataset("type", data=np.array("CUBA", dtype="S10"))
    for name, value in (("iDecay", spec.i_decay), ("vDecay", spec.v_decay)):
        neuron.create_dataset(name, data=np.asarray(value, dtype=np.int64))
    neuron.create_dataset("vThMant", data=np.int64(spec.v_th_mant))
    neuron.create_dataset("refDelay", data=np.int64(spec.ref_delay))
    neuron.create_dataset("gradedSpike", data=np.bool_(False))


def write_network(path: str | os.PathLike, network) -> Path:
    """Write a whole network; the file appears complete or not at all.

    Parameters
    ----------
    path : path-like
        The ``.net`` file; one that exists is replaced. Its folder is made if it is missing.
    network : module with ``.blocks``, or iterable
        Blocks (anything with ``layer_spec()``) or `LayerSpec`, from input to output.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        For a layer that breaks a rule or does not fit the one before; no file is touched then.
    """
    specs = as_specs(network)
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        layers = file.create_group("layer")
        for index, spec in enumerate(specs):
            write_layer(layers.create_group(str(index)), spec)
    return Path(path)
