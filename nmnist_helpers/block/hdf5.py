"""Writing a network as the HDF5 `.net` file that lava's netx reads.

The layout, for each layer i under ``/layer/<i>/``, is lava-dl's:

================  =============  ==============================================================
``type``          S10 (1,)       ``dense``, ``conv``, ``pool``, ``flatten`` or ``input``
``shape``         int64          [neurons] of a dense layer, else [channels, height, width]
``weight``        float32        weight x 64: even integers, -256..254; [out, in] of a dense
                                 layer, [out, in / groups, height, width] of a convolution,
                                 [1, 1, height, width] of pooling
``delay``         float32        [channels], whole steps, 0..62; only where the block has delays
``bias``          float32        [channels], x 64; only after a mean-only normalisation
``neuron/``       group          ``type`` (S10 ``CUBA``), ``iDecay``, ``vDecay`` (of 4096), ``vThMant``,
                                 ``refDelay`` (int64) and ``gradedSpike`` (bool)
================  =============  ==============================================================

A dense layer also has ``inFeatures`` and ``outFeatures``; a convolution ``inChannels``, ``outChannels`` and
``groups``; convolution and pooling ``kernelSize``, ``stride``, ``padding`` and ``dilation``, height before width.
``flatten`` stands between a picture and a dense layer and holds its ``shape`` alone, as does ``input`` without
neurons: it says how large the first convolution's input is.

netx decodes both types from ASCII bytes and turns ``weight`` into integers. In a dense layer it applies ``delay``
(its ``DelayDense``), and its output needs no shift: it equals ours step by step. In a convolution it passes over
``delay``, and pooling it does not build at all; lava-dl's blocks and `nmnist_helpers.netx` do both.
"""

import math
import os
from pathlib import Path

import h5py
import numpy as np

from ..files import atomic
from .spec import LayerSpec, as_specs

PACKED = {"compression": "gzip", "compression_opts": 9, "shuffle": True}


def write_shape(group: h5py.Group, kind: str, shape: tuple[int, ...]) -> None:
    """Write a layer's type and shape into an empty group: all that a layer without neurons has.

    Raises
    ------
    ValueError
        If the group holds something already.
    """
    if len(group):
        raise ValueError(f"group {group.name}: expected an empty group, found {sorted(group)} in it")
    group.create_dataset("type", data=np.array([kind], dtype="S10"))
    group.create_dataset("shape", data=np.array(shape, dtype=np.int64))


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
    dense = spec.type == "dense"
    write_shape(group, spec.type, spec.out_shape[:1] if dense else spec.out_shape)
    numbers: dict[str, int | tuple[int, ...]] = {}
    if dense:
        numbers = {"inFeatures": spec.in_features, "outFeatures": spec.out_features}
    elif spec.type == "conv":
        numbers = {"inChannels": spec.in_shape[0], "outChannels": spec.channels, "groups": spec.groups}
    if spec.type in ("conv", "pool"):
        numbers["kernelSize"] = spec.kernel.shape[2:]
        numbers |= {name: getattr(spec, name) for name in ("stride", "padding", "dilation")}
    for name, value in numbers.items():
        group.create_dataset(name, data=np.array(value, dtype=np.int64))
    weight = spec.weight.reshape(1) if spec.type == "input" else spec.weight
    group.create_dataset("weight", data=weight.astype(np.float32), **PACKED)
    for name in ("delay", "bias"):
        if getattr(spec, name) is not None:
            group.create_dataset(name, data=getattr(spec, name).astype(np.float32), **PACKED)
    neuron = group.create_group("neuron")
    neuron.create_dataset("type", data=np.array("CUBA", dtype="S10"))
    for name, decay in (("iDecay", spec.i_decay), ("vDecay", spec.v_decay)):
        neuron.create_dataset(name, data=np.asarray(decay, dtype=np.int64))
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

        def following() -> h5py.Group:
            return layers.create_group(str(len(layers)))

        before = None
        for spec in specs:
            if before is None and spec.type in ("conv", "pool"):
                write_shape(following(), "input", spec.in_shape)
            if before is not None and spec.type == "dense" and before.type != "dense":
                write_shape(following(), "flatten", (math.prod(before.out_shape), 1, 1))
            write_layer(following(), spec)
            before = spec
    return Path(path)
