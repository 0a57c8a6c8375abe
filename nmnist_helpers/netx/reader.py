"""Read the layers of a `.net` file from any source; see `safe_hdf5` for the reading of a single object."""

import math
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..block.spec import KINDS, MAX_FEATURES, MAX_LAYERS, MAX_WEIGHTS, LayerSpec, NetFileError, as_specs
from ..checks import whole_number
from ..files import size_of
from ..kernels.constants import WEIGHT_SCALE
from .safe_hdf5 import MAX_FILE, child, has, numbers, text

AFFINE_THRESHOLD = (1 << 18) - 1  # lava-dl's Affine layer writes it


def read_network(path: str | os.PathLike, in_shape: tuple[int, int, int] | None = None) -> list[LayerSpec]:
    """Return the validated layers of a `.net` file.

    Parameters
    ----------
    path : path-like
        A file in the layout described in `nmnist_helpers.block.hdf5`, written by this package or by lava-dl.
    in_shape : (int, int, int), optional
        Channels, height and width of the input. Required if the file begins with a convolution and lacks this shape.

    Returns
    -------
    list of LayerSpec
        From input to output.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    NetFileError
        If the file is not a valid network, or if its input has another shape than `in_shape`. The message states the
        file, the layer and the field.
    ValueError
        If `in_shape` is not three whole numbers from 1.
    """
    if in_shape is not None:
        if np.shape(in_shape) != (3,):
            raise ValueError(f"in_shape: expected (channels, height, width), found {in_shape!r}")
        channels, height, width = (whole_number("in_shape", size, 1) for size in in_shape)
        in_shape = channels, height, width
    path = Path(path)
    size_of(path, ".net", MAX_FILE, NetFileError)
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            specs = as_specs(_layers(file, in_shape))
            if in_shape is not None and in_shape != specs[0].in_shape:
                if specs[0].type != "dense" or math.prod(in_shape) != specs[0].in_features:
                    raise NetFileError(f"in_shape: expected {specs[0].in_shape}, found {in_shape}")
            return specs
    except NetFileError as error:
        raise NetFileError(f"{path}: {error}") from None
    # For a damaged file, the HDF5 library may raise almost any exception (OSError, RuntimeError, KeyError, TypeError,
    # MemoryError, ...), always with the same meaning for the caller.
    except Exception as error:
        raise NetFileError(f"{path}: expected a readable .net (HDF5) file, found {_first_line(error)}") from error


def _layers(file: h5py.File, shape: tuple[int, int, int] | None) -> list[LayerSpec]:
    group = child(file, "layer", h5py.Group)
    count = group.id.get_num_objs()
    if not 1 <= count <= MAX_LAYERS:
        raise NetFileError(f"/layer: expected 1 to {MAX_LAYERS} layers, found {count}")
    specs = []
    for index in range(count):
        layer = child(group, str(index), h5py.Group)
        kind = text(layer, "type")
        if kind == "flatten" or (kind == "input" and not has(layer, "neuron")):
            shape = _shape(layer, shape)
            continue
        specs.append(_layer(layer, kind, shape))
        shape = specs[-1].out_shape
    return specs


def _shape(group: h5py.Group, before: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Return the shape of a layer without neurons; its size must equal that of `before`, the previous shape."""
    found = numbers(group, "shape", 3).ravel().tolist()
    if before is not None and math.prod(found) != math.prod(before):
        raise NetFileError(
            f"{group.name}/shape: expected {math.prod(before)} neurons as in the layer before, found {found}"
        )
    return (*found, 1, 1)[:3]


def _layer(group: h5py.Group, kind: str, in_shape: tuple[int, int, int] | None) -> LayerSpec:
    if kind not in KINDS:
        raise NetFileError(f"{group.name}/type: expected 'flatten' or one of {sorted(KINDS)}, found {kind!r}")
    neuron = child(group, "neuron", h5py.Group)
    model = text(neuron, "type")
    if model not in ("CUBA", "LOIHI"):  # netx accepts both names for the same neuron
        raise NetFileError(f"{neuron.name}/type: expected 'CUBA', found {model!r}")
    for name in ("gradedSpike", "weight_exp", "wgtExp"):
        if has(neuron, name) and numbers(neuron, name, 1).any():
            raise NetFileError(f"{neuron.name}/{name}: expected 0, the only supported value, found another")
    shape = numbers(group, "shape", 8).ravel().tolist()
    if kind == "input":  # one weight for all neurons, or none
        in_shape = channels, _, _ = (*shape, 1, 1)[:3]
        weight = numbers(group, "weight", 1) if has(group, "weight") else np.array(WEIGHT_SCALE)
        weight = weight.reshape(1, 1, 1, 1)
    else:
        weight = numbers(group, "weight", MAX_WEIGHTS)
    if kind in ("conv", "pool") and weight.ndim == 5 and weight.shape[4] == 1:
        weight = weight[..., 0]
    fields: dict[str, Any] = {"type": kind, "weight": weight, "in_shape": in_shape}
    for name in ("delay", "bias"):
        fields[name] = numbers(group, name, MAX_FEATURES) if has(group, name) else None
    fields["i_decay"], fields["v_decay"] = (
        _scalar_if_single(numbers(neuron, name, MAX_FEATURES)) for name in ("iDecay", "vDecay")
    )
    fields["v_th_mant"] = numbers(neuron, "vThMant", 1)
    if fields["v_th_mant"].tolist() in (AFFINE_THRESHOLD, [AFFINE_THRESHOLD]):
        raise NetFileError(f"{group.name}: expected neurons that fire, found lava-dl's Affine, whose neurons never do")
    fields["ref_delay"] = numbers(neuron, "refDelay", 1) if has(neuron, "refDelay") else 1
    if kind == "input" and fields["bias"] is not None:
        fields["bias"] = np.broadcast_to(fields["bias"], channels)
    if kind in ("conv", "pool"):
        for name in ("stride", "padding", "dilation"):
            fields[name] = numbers(group, name, 2)
        if kind == "conv":
            fields["groups"] = numbers(group, "groups", 1)
        if in_shape is None:
            fields["in_shape"] = _infer_in_shape(group, fields, shape)
    try:
        spec = LayerSpec(**fields)
    except ValueError as error:
        raise NetFileError(f"{group.name}: {error}") from error
    shape_is_right = math.prod(shape) == spec.out_features if kind == "dense" else (*shape, 1, 1)[:3] == spec.out_shape
    if not shape_is_right:
        expected = spec.out_features if kind == "dense" else list(spec.out_shape)
        raise NetFileError(f"{group.name}/shape: expected {expected} for weights {weight.shape}, found {shape}")
    for name, features in (("inFeatures", spec.in_features), ("outFeatures", spec.out_features)):
        if has(group, name) and (found := numbers(group, name, 1).item()) != features:
            raise NetFileError(f"{group.name}/{name}: expected {features} for weights {weight.shape}, found {found}")
    return spec


def _infer_in_shape(group: h5py.Group, fields: dict, shape: list[int]) -> tuple[int, int, int]:
    """Infer the input shape from the output shape; raise if several input shapes are possible."""
    stride, padding, dilation = (np.broadcast_to(fields[name], 2) for name in ("stride", "padding", "dilation"))
    if fields["type"] == "pool" or len(shape) != 3 or fields["weight"].ndim != 4 or (stride != 1).any():
        raise NetFileError(f"{group.name}: expected an input layer before it, or in_shape for netx.load, found neither")
    sides = np.array(shape[1:]) + dilation * (np.array(fields["weight"].shape[2:]) - 1) - 2 * padding
    return (fields["weight"].shape[1] * int(fields["groups"].item()), *sides.tolist())


def _scalar_if_single(array: np.ndarray) -> np.ndarray:
    """Return an array of one number as a scalar, because lava-dl stores a shared decay in both forms."""
    return array.reshape(()) if array.size == 1 else array


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
