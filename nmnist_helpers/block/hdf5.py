"""Write networks as the HDF5 `.net` files that lava's netx reads.

The layout is lava-dl's. Each layer i is a group ``/layer/<i>/`` with these members:

================  =============  ==============================================================
``type``          S10 (1,)       ``dense``, ``conv``, ``pool``, ``flatten`` or ``input``
``shape``         int64          [neurons] in a dense layer, else [channels, height, width]
``weight``        float32        weight x 64: even integers, -256..254; [out, in] in a dense
                                 layer, [out, in / groups, height, width] in a convolution,
                                 [1, 1, height, width] in pooling
``delay``         float32        [channels], whole time steps, 0..62; only if the block has delays
``bias``          float32        [channels], x 64; only if the block has a mean-only normalisation
``neuron/``       group          ``type`` (S10 ``CUBA``), ``iDecay``, ``vDecay`` (both x 4096), ``vThMant``,
                                 ``refDelay`` (int64) and ``gradedSpike`` (bool)
================  =============  ==============================================================

A dense layer also has ``inFeatures`` and ``outFeatures``. A convolution also has ``inChannels``, ``outChannels`` and
``groups``. Convolution and pooling have ``kernelSize``, ``stride``, ``padding`` and ``dilation``, height before width.
A ``flatten`` layer stands between a picture and a dense layer, and an ``input`` layer without neurons gives the input
size of a convolution or pooling at the beginning. Both contain only ``type`` and ``shape``.

netx decodes both types from ASCII bytes and converts ``weight`` to integers. In a dense layer it applies ``delay``
(its ``DelayDense``), and its output equals ours at every step without a shift. In a convolution it ignores ``delay``,
and it cannot build pooling layers at all. lava-dl's blocks and `nmnist_helpers.netx` support both.
"""

import math
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from ..files import atomic
from ..kernels.constants import DECAY_SCALE
from .spec import LayerSpec, as_specs

COMPRESSION = {"compression": "gzip", "compression_opts": 6, "shuffle": True}


def write_shape(group: h5py.Group, kind: str, shape: tuple[int, ...]) -> None:
    """Write a layer's type and shape into an empty group; a layer without neurons has nothing else.

    Raises
    ------
    TypeError
        If `group` is no group of an open file.
    ValueError
        If the group is not empty.
    """
    if not isinstance(group, h5py.Group):
        raise TypeError(f"export: expected an open h5py.Group, found {type(group).__name__}; see netx.write_network")
    if len(group):
        raise ValueError(f"group {group.name}: expected an empty group, found {sorted(group)} in it")
    group.create_dataset("type", data=np.array([kind], dtype="S10"))
    group.create_dataset("shape", data=np.array(shape, dtype=np.int64))


def write_layer(group: h5py.Group, spec: LayerSpec) -> None:
    """Write one layer into an empty HDF5 group.

    Parameters
    ----------
    group : h5py.Group
        An empty group, such as ``file.create_group("layer/0")``.
    spec : LayerSpec
        The layer. It is validated again before anything is written.

    Raises
    ------
    ValueError
        If the layer is invalid, or if the group is not empty.
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
    group.create_dataset("weight", data=weight.astype(np.float32), **COMPRESSION)
    for name in ("delay", "bias"):
        if getattr(spec, name) is not None:
            group.create_dataset(name, data=getattr(spec, name).astype(np.float32), **COMPRESSION)
    neuron = group.create_group("neuron")
    neuron.create_dataset("type", data=np.array("CUBA", dtype="S10"))
    for name, decay in (("iDecay", spec.i_decay), ("vDecay", spec.v_decay)):
        neuron.create_dataset(name, data=np.asarray(decay, dtype=np.int64))
    neuron.create_dataset("vThMant", data=np.int64(spec.v_th_mant))
    neuron.create_dataset("refDelay", data=np.int64(spec.ref_delay))
    neuron.create_dataset("gradedSpike", data=np.bool_(False))


def _warn_about_netx(path: str | os.PathLike, specs: Sequence[LayerSpec]) -> None:
    """Warn about layers that lava-dl's netx computes otherwise, or not at all.

    The chip stores ``iDecay - 1`` and ``vDecay`` in 12 bits each (Davies et al., 2018; lava's `PyLifModelBitAcc`).
    """
    faults = {
        "cannot set a current decay of 0 (the chip's least is 1)": [
            i for i, spec in enumerate(specs) if np.min(spec.i_decay) < 1
        ],
        "cannot set a voltage decay of 4096 (the chip's most is 4095)": [
            i for i, spec in enumerate(specs) if np.max(spec.v_decay) >= DECAY_SCALE
        ],
        "ignores the delays of convolutions (delay=False avoids them)": [
            i for i, spec in enumerate(specs) if spec.type == "conv" and spec.delay is not None and spec.delay.any()
        ],
        "cannot build pooling layers": [i for i, spec in enumerate(specs) if spec.type == "pool"],
    }
    for fault, layers in faults.items():
        if layers:
            warnings.warn(f"{path}: layers {layers}: lava-dl's netx {fault}", stacklevel=4)


def write_network(path: str | os.PathLike, network) -> Path:
    """Write a network to a `.net` file, completely or not at all.

    The file describes the blocks alone: it contains neither forward hooks that change results nor what the network's
    own `forward` does between the blocks.

    Parameters
    ----------
    path : path-like
        The ``.net`` file. An existing file is replaced, and a missing folder is created.
    network : module with ``.blocks``, or iterable
        Blocks (objects with ``layer_spec()``) or `LayerSpec` objects, from input to output.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    ValueError
        If a layer is invalid or does not fit the previous layer. The file is not touched in that case.

    Warns
    -----
    UserWarning
        If lava-dl's netx, which puts such files on the chip, would compute something else or refuse the file.
    """
    specs = as_specs(network)
    _warn_about_netx(path, specs)
    with atomic(path) as temporary, h5py.File(temporary, "w") as file:
        layers = file.create_group("layer")

        def next_group() -> h5py.Group:
            return layers.create_group(str(len(layers)))

        before = None
        for spec in specs:
            if before is None and spec.type in ("conv", "pool"):
                write_shape(next_group(), "input", spec.in_shape)
            if before is not None and spec.type == "dense" and before.type != "dense":
                write_shape(next_group(), "flatten", (math.prod(before.out_shape), 1, 1))
            write_layer(next_group(), spec)
            before = spec
    return Path(path)
