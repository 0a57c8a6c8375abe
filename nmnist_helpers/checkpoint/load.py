"""Load a `network.pt` of this package or of lava-dl, into a given network or into one built from the file."""

import os
import re
import warnings
from collections.abc import Mapping
from itertools import pairwise

import torch

from ..axon import Delay
from ..kernels.constants import WEIGHT_STEPS
from ..kernels.functions import normalise
from ..synapse import Conv
from .archive import CheckpointError, load_tree

# Neuron constants that our files contain in addition to the tensors.
CONSTANTS = ("threshold", "tau_grad", "scale_grad", "requires_grad")
# Keys of older files that are ignored: the state after the last batch does not belong to the network.
IGNORED = ("neuron.current_state", "neuron.voltage_state")


def load_checkpoint(
    path: str | os.PathLike, net: torch.nn.Module | None = None, neuron_params: dict | None = None
) -> torch.nn.Module:
    """Load a network that this package or lava-dl saved with ``torch.save(net.state_dict(), path)``.

    The state_dict may also be one entry of a dict, such as ``{"epoch": 3, "net": net.state_dict()}``.

    Parameters
    ----------
    path : path-like
        The ``.pt`` file.
    net : torch.nn.Module, optional
        Network to load the file into. Its keys and shapes must equal those in the file, with these exceptions. Weights
        may be stored with or without weight normalisation, and flat or with the axes of a convolution. Delays and
        decays may be single numbers, as lava-dl stores them before the first forward pass. `net` is changed only if
        the whole file fits. Without `net`, dense CUBA blocks are built from the shapes in the file.
    neuron_params : dict, optional
        Neuron arguments for blocks that are built: ``threshold``, ``tau_grad``, ``scale_grad``, ... The tensors do not
        contain them. The defaults are taken from the metadata in the file. lava-dl's files have no such metadata; for
        them, the values of the tutorial are used, with a warning. With `net`, a ``threshold`` given here only
        suppresses the warning about another threshold in the file.

    Returns
    -------
    torch.nn.Module
        `net`, or a new network with ``.blocks``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is damaged, is not a checkpoint, or does not fit. In the last case, the message lists the keys and
        shapes that differ.

    Warns
    -----
    UserWarning
        If the threshold had to be assumed, or if the threshold of `net` differs from that in the file: with another
        threshold than in training, a network gives wrong answers.

    Examples
    --------
    >>> net = load_checkpoint("Trained/best/network.pt", Network())
    >>> net = load_checkpoint("lava_dl/network.pt", neuron_params={"threshold": 1.25})  # built from the file
    """
    tree = _find_state(load_tree(path), path)
    found, constants = _state(tree, path), _constants(tree)
    if net is None:
        net = _build_network(found, neuron_params or {}, constants, path)
    _fill(net, found, path)
    if "threshold" not in (neuron_params or {}):
        own = {name: getattr(module, "threshold", None) for name, module in net.named_modules()}
        other = {name: saved["threshold"] for name, saved in constants.items() if own.get(name) != saved["threshold"]}
        if other:
            found_there = {name: own.get(name) for name in other}
            warnings.warn(f"{path}: expected the thresholds {other}, found {found_there} in the network", stacklevel=2)
    return net


def _find_state(tree, path: str | os.PathLike):
    """Return the state_dict in a file of several things, or the tree itself if that is no such dict."""
    if not isinstance(tree, dict) or {"settings", "moments"} <= tree.keys():
        return tree
    names = [k for k, v in tree.items() if isinstance(v, dict) and v and all(map(torch.is_tensor, v.values()))]
    if len(names) > 1:
        raise CheckpointError(f"{path}: expected one network, found {names}; save the state_dict of one alone")
    return tree[names[0]] if names else tree


def _state(tree, path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """Return the tree as a state_dict of float32 tensors; raise unless it is one and all numbers are finite."""
    if not isinstance(tree, dict) or not tree:
        raise CheckpointError(f"{path}: expected a state_dict, tensors by name, found a {type(tree).__name__}")
    if {"settings", "moments"} <= tree.keys():
        raise CheckpointError(f"{path}: expected a network, found the state of a run: load network.pt beside it")
    checked = {}
    for key, tensor in tree.items():
        if not isinstance(key, str):
            raise CheckpointError(f"{path}: expected keys of type str, found {key!r:.80}")
        if key == "n_averaged":  # a count of AveragedModel
            continue
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(
                f"{path}: expected a tensor under {key!r}, found {type(tensor).__name__}: save net.state_dict() alone"
            )
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: expected floating-point numbers under {key!r}, found {tensor.dtype}")
        tensor = tensor.to(torch.float32)
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: expected finite numbers under {key!r}, found NaN or infinite ones")
        checked[_own_name(key)] = tensor
    return checked


def _own_name(key: str) -> str:
    """Return a key without the prefixes that DataParallel, AveragedModel and torch.compile put before it."""
    return re.sub(r"^((module|_orig_mod)(\.|$))+", "", key)


def _constants(tree) -> dict[str, dict]:
    """Return the neuron arguments in the metadata of our own files, as a dict by the name of the neuron."""
    found = {}
    for name, about in getattr(tree, "_metadata", {}).items():
        saved = about.get("neuron_params") if isinstance(about, dict) else None
        if isinstance(saved, dict) and all(isinstance(v, int | float) for v in saved.values()) and "threshold" in saved:
            found[_own_name(str(name))] = {n: saved[n] for n in CONSTANTS if n in saved}
    return found


@torch.no_grad()
def _fill(net: torch.nn.Module, found: dict[str, torch.Tensor], path: str | os.PathLike) -> None:
    """Copy all tensors into the network; raise and copy none if they do not fit."""
    expected, modules = net.state_dict(), dict(net.named_modules())
    unsized = {  # the number of channels of pooling is known from the file alone
        f"{name}.delay".removeprefix(".") for name, m in modules.items() if isinstance(m, Delay) and not m.sized
    }
    pictures = tuple(f"{name}." for name, m in modules.items() if isinstance(m, Conv))
    found = _match_weight_norm({k: v for k, v in found.items() if k in expected or not k.endswith(IGNORED)}, expected)
    lines = [f"missing: {k} {list(expected[k].shape)}" for k in expected if k not in found]
    lines += [f"not in the network: {k} {list(v.shape)}" for k, v in found.items() if k not in expected]
    fitted = {}
    for key in expected.keys() & found.keys():
        shape = found[key].shape if key in unsized and found[key].dim() == 1 else expected[key].shape
        fitted[key] = _reshape(key, found[key], shape, key.startswith(pictures))
        if fitted[key] is None:
            lines.append(f"shape: {key}: expected {list(expected[key].shape)}, found {list(found[key].shape)}")
    if lines:
        more = [f"... and {len(lines) - 30} more"] if len(lines) > 30 else []
        raise CheckpointError("\n  ".join([f"{path}: does not fit this network", *sorted(lines)[:30], *more]))
    net.load_state_dict(fitted)


def _reshape(key: str, tensor: torch.Tensor, shape: torch.Size, of_conv: bool) -> torch.Tensor | None:
    """Return the tensor in the given shape, or None if the shapes are not different forms of the same parameter.

    The weights of a convolution may only lack axes of size 1 at their end.
    """
    if tensor.shape == shape:
        return tensor
    weight = key.rpartition(".")[2] in ("weight", "weight_v", "weight_g", "mask")
    own, other = _trim(tensor.shape), _trim(shape)
    flattened = not of_conv and min(len(own), len(other)) <= 2 and own[:1] == other[:1]
    if weight and tensor.dim() and tensor.numel() == shape.numel() and (own == other or flattened):
        return tensor.reshape(shape)  # such as [out, in] or [out, C, H, W, 1] to [out, in, 1, 1, 1]
    lazy = key.endswith(("delay.delay", "neuron.current_decay", "neuron.voltage_decay"))
    if lazy and tensor.numel() == 1 and len(shape) == 1:
        return tensor.reshape(1).expand(shape)
    return None


def _trim(shape: torch.Size) -> tuple[int, ...]:
    """Return a shape without axes of size 1 at its end."""
    axes = tuple(shape)
    while axes[-1:] == (1,):
        axes = axes[:-1]
    return axes


def _match_weight_norm(found: dict[str, torch.Tensor], expected: Mapping) -> dict[str, torch.Tensor]:
    """Convert the weights to the form that the network expects, with or without weight normalisation."""
    found = dict(found)
    for key in expected:
        prefix, _, name = key.rpartition(".")
        plain, v, g = (f"{prefix}.{n}" for n in ("weight", "weight_v", "weight_g"))
        if name == "weight" and plain not in found and {v, g} <= found.keys():
            direction, length = found.pop(v), found.pop(g)
            length = length.reshape(-1, *[1] * (direction.dim() - 1))
            if direction.dim() and len(length) == len(direction):
                found[plain] = normalise(direction, length)  # the same function as in training
        elif name == "weight_v" and plain in found and not {v, g} & found.keys():
            found[v], found[g] = _split_weight(found.pop(plain))
    return found


def _split_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a direction and a length whose product quantises to the same values as `weight`.

    The product may differ from the weight in the last bit. This could change the rounding of a weight half-way between
    two quantisation steps (of 1/32). Such a weight is first moved by a thousandth of its distance to the rounded value.
    """
    step = torch.round(weight * WEIGHT_STEPS) / WEIGHT_STEPS
    half_way = (weight - step).abs() * WEIGHT_STEPS > 0.499
    direction = torch.where(half_way, weight + 1e-3 * (step - weight), weight)
    length = torch.norm_except_dim(direction, 2, 0)
    # If all weights of a neuron are zero, any direction is valid, with length zero.
    return torch.where(length == 0, torch.ones_like(direction), direction), length


def _build_network(
    found: dict[str, torch.Tensor], neuron_params: dict, constants: dict[str, dict], path: str | os.PathLike
) -> torch.nn.Module:
    """Return a network of dense CUBA blocks with the sizes and names in the file."""
    from ..block import cuba
    from ..network import NEURON_PARAMS, Network
    from ..neuron.norm import MeanOnlyBatchNorm

    weights = {}
    for key, tensor in found.items():
        match = re.fullmatch(r"blocks\.(\d+)\.synapse\.(weight_v|weight)", key)
        if match and tensor.dim() >= 2 and tensor.numel():
            weights[int(match[1])] = tensor
    if not weights or sorted(weights) != list(range(len(weights))):
        raise CheckpointError(
            f"{path}: expected blocks 0, 1, ... of dense synapses (blocks.<i>.synapse.weight or .weight_v), "
            f"found weights of blocks {sorted(weights)}; the keys are {sorted(found)[:12]}"
        )
    sizes = [(len(weights[index]), weights[index][0].numel()) for index in range(len(weights))]
    if any(out != inputs for (out, _), (_, inputs) in pairwise(sizes)):
        raise CheckpointError(
            f"{path}: expected dense blocks of matching sizes, found (neurons, inputs) {sizes}; "
            "a network with other blocks must be passed as net"
        )
    blocks, assumed = [], False
    for index, (out, inputs) in enumerate(sizes):
        prefix = f"blocks.{index}."
        decays = [found.get(f"{prefix}neuron.{name}_decay") for name in ("current", "voltage")]
        shared = all(decay is None or decay.numel() == 1 for decay in decays)
        saved = constants.get(f"{prefix}neuron", {})
        assumed |= "threshold" not in {**saved, **neuron_params}
        params = {**NEURON_PARAMS, **saved, **neuron_params, "shared_param": shared}
        if f"{prefix}neuron.norm.running_mean" in found:
            params["norm"] = MeanOnlyBatchNorm
        normed = f"{prefix}synapse.weight_v" in found
        delayed, mask = f"{prefix}delay.delay" in found, found.get(f"{prefix}mask")
        if mask is not None and mask.numel() == out * inputs:
            mask = mask.reshape(out, inputs)  # pictures as inputs are flat in the new block
        try:
            blocks.append(cuba.Dense(params, inputs, out, weight_norm=normed, delay=delayed, mask=mask))
        except ValueError as error:
            raise CheckpointError(f"{path}: {prefix[:-1]}: {error}") from error
    if assumed:
        values = {name: NEURON_PARAMS[name] for name in CONSTANTS if name not in neuron_params}
        warnings.warn(
            f"{path}: expected neuron_params, which the file does not contain; assumed the tutorial's {values}",
            stacklevel=3,
        )
    return Network.from_blocks(blocks)
