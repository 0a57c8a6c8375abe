"""Loading `network.pt` files, ours and lava-dl's: strictly, and without trusting them.

A `.pt` file is a zip archive: one pickle, which describes the tensors, and one uncompressed record for each
tensor's numbers. It is looked through before torch gets it: records that are damaged, compressed or missing, and
a pickle that names anything but tensors in a dictionary, are refused.
"""

import os
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch

MAX_FILE = 1 << 30  # bytes
MAX_PICKLE = 1 << 20
MAX_TENSORS = 1000
# All that a dictionary of tensors needs. torch's own safe list is longer, and has ways to ask for much memory.
PICKLE_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.nn.parameter Parameter",
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Bool")),
}
# State that older versions stored: it belongs to the last batch, not to the network.
IGNORED = ("neuron.current_state", "neuron.voltage_state")


class CheckpointError(ValueError):
    """A `.pt` file that cannot be loaded; the message says what was found and what was expected."""


def load_checkpoint(
    path: str | os.PathLike, net: torch.nn.Module | None = None, neuron_params: dict | None = None
) -> torch.nn.Module:
    """Load the network that lava-dl or this package saved with ``torch.save(net.state_dict(), path)``.

    Parameters
    ----------
    path : path-like
        The ``.pt`` file.
    net : torch.nn.Module, optional
        Where to load it. Every key of the file must be in it and the other way round, with the same shape.
        These differences of form are bridged: weights with and without weight normalisation, flat or with
        the axes of a convolution; delays and decays of a network that was saved before its first forward,
        where lava-dl stores one number for all channels. `net` changes only if all of the file fits.
        Without `net`, dense CUBA blocks are built from the shapes in the file.
    neuron_params : dict, optional
        For the blocks that are built: what a checkpoint does not hold (``threshold``, ``tau_grad``, ...).
        The tutorial's values if not given.

    Returns
    -------
    torch.nn.Module
        `net`, or a new network with ``.blocks``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is damaged or not a checkpoint, or does not fit; then all keys and shapes that differ are
        listed.

    Examples
    --------
    >>> net = load_checkpoint("Trained/network.pt", Network())
    >>> net = load_checkpoint("lava_dl/network.pt")  # built from the file
    """
    found = read_state(path)
    if net is None:
        net = _build(found, neuron_params, path)
    _fill(net, found, path)
    return net


def read_state(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tensors of a `.pt` file by name, float32 on the CPU, checked to be finite.

    Raises
    ------
    FileNotFoundError, CheckpointError
        As `load_checkpoint`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():  # a pipe or a device would be waited on for ever
        raise CheckpointError(f"{path}: found something that is no regular file, expected a .pt file")
    if path.stat().st_size > MAX_FILE:
        raise CheckpointError(f"{path}: found {path.stat().st_size} bytes, expected at most {MAX_FILE}")
    try:
        _check_archive(path)
        # Mapped, tensors cannot reach beyond the file, whatever sizes the pickle claims.
        state = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        return _check_state(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # damage makes zipfile, pickle and torch raise almost anything
        line = (str(error).splitlines() or [""])[0][:300]
        raise CheckpointError(f"{path}: not a readable checkpoint: {type(error).__name__}: {line}") from error


# -- is it safe


def _check_archive(path: Path) -> None:
    """Refuse an archive that is not what torch.save writes, before torch reads it."""
    if not zipfile.is_zipfile(path):
        raise CheckpointError("found no zip archive, expected a file that torch.save wrote (torch 1.6 or later)")
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        names = [record.filename for record in records]
        pickles = [record for record in records if record.filename.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or len(set(names)) != len(names) or len(names) > MAX_TENSORS + 100:
            raise CheckpointError(f"found {len(names)} records, {len(pickles)} of them data.pkl, expected one data.pkl")
        if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
            raise CheckpointError("found a TorchScript program, expected a state_dict")
        for record in records:
            if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
                raise CheckpointError(f"found record {record.filename} compressed, expected it stored as it is")
        if sum(record.file_size for record in records) > path.stat().st_size:
            raise CheckpointError("found records of more bytes than the file has")
        if pickles[0].file_size > MAX_PICKLE:
            raise CheckpointError(f"found a pickle of {pickles[0].file_size} bytes, expected at most {MAX_PICKLE}")
        damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"found record {damaged} damaged: its checksum differs")
        _check_pickle(archive.read(pickles[0]))


def _check_pickle(data: bytes) -> None:
    """Refuse a pickle that names more than tensors and dictionaries, or nests without end."""
    tuples = 0
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL" and argument not in PICKLE_GLOBALS:
            raise CheckpointError(f"found {argument.replace(' ', '.')!r} in it, expected a state_dict of tensors only")
        if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
            raise CheckpointError(f"found pickle operation {opcode.name}, expected a state_dict of tensors only")
        tuples += opcode.name.startswith("TUPLE")
        if tuples > 6 * MAX_TENSORS:
            raise CheckpointError(f"found too much in it, expected at most {MAX_TENSORS} tensors")


def _check_state(state: object) -> dict[str, torch.Tensor]:
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(f"found a {type(state).__name__}, expected a state_dict: tensors by name")
    checked = {}
    for key, tensor in state.items():
        if not isinstance(key, str):
            raise CheckpointError(f"found the key {key!r:.80}, expected names")
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(
                f"found {type(tensor).__name__} under {key!r}, expected a tensor: "
                "save net.state_dict(), or pass on the part that is one"
            )
        plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and tensor.is_floating_point()
        if not plain:
            raise CheckpointError(f"found {tensor.dtype} {tensor.layout} under {key!r}, expected plain floats")
        # A tensor may repeat its few numbers by strides of zero: large to work with, small in the file.
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"found shape {list(tensor.shape)} under {key!r}, more than its record holds")
        tensor = tensor.detach().to(torch.float32)
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"found NaN or infinite numbers under {key!r}, expected finite ones")
        checked[key.removeprefix("module.")] = tensor  # DataParallel's prefix
    return checked


# -- does it fit


@torch.no_grad()
def _fill(net: torch.nn.Module, found: dict[str, torch.Tensor], path: str | os.PathLike) -> None:
    """Copy the tensors into the network, all or none."""
    expected = net.state_dict()
    found = _same_norm({k: v for k, v in found.items() if k in expected or not k.endswith(IGNORED)}, expected)
    lines = [f"missing: {k} {list(expected[k].shape)}" for k in expected if k not in found]
    lines += [f"not in the network: {k} {list(v.shape)}" for k, v in found.items() if k not in expected]
    fitted = {}
    for key in expected.keys() & found.keys():
        fitted[key] = _fitted(key, found[key], expected[key].shape)
        if fitted[key] is None:
            lines.append(f"shape: {key}: found {list(found[key].shape)}, expected {list(expected[key].shape)}")
    if lines:
        more = [f"... and {len(lines) - 30} more"] if len(lines) > 30 else []
        raise CheckpointError("\n  ".join([f"{path}: does not fit this network", *sorted(lines)[:30], *more]))
    for key, tensor in fitted.items():
        expected[key].copy_(tensor)


def _fitted(key: str, tensor: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    """The tensor in the shape wanted, or None where that would be more than another way to write it."""
    if tensor.shape == shape:
        return tensor
    weight = key.rpartition(".")[2] in ("weight", "weight_v", "weight_g")
    if weight and tensor.dim() and tensor.shape[0] == shape[0] and tensor.numel() == shape.numel():
        return tensor.reshape(shape)  # [out, in] or [out, C, H, W, 1] for [out, in, 1, 1, 1]
    lazy = key.endswith(("delay.delay", "neuron.current_decay", "neuron.voltage_decay"))
    if lazy and tensor.numel() == 1 and len(shape) == 1:
        return tensor.reshape(1).expand(shape)
    return None


def _same_norm(found: dict[str, torch.Tensor], expected: Mapping) -> dict[str, torch.Tensor]:
    """Weights as the network keeps them: length and direction apart, or multiplied out."""
    found = dict(found)
    for key in expected:
        prefix, _, name = key.rpartition(".")
        plain, v, g = (f"{prefix}.{n}" for n in ("weight", "weight_v", "weight_g"))
        if name == "weight" and plain not in found and {v, g} <= found.keys():
            direction, length = found.pop(v), found.pop(g)
            length = length.reshape(-1, *[1] * (direction.dim() - 1))
            if direction.dim() and len(length) == len(direction):
                found[plain] = torch._weight_norm(direction, length, 0)  # the product that training used
        elif name == "weight_v" and plain in found and not {v, g} & found.keys():
            found[v], found[g] = _apart(found.pop(plain))
    return found


def _apart(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Direction and length whose product quantises as `weight` does.

    The product may differ from the weight in the last bit, which decides where a weight lies half-way between two
    quantisation steps (of 1/32): such a weight first moves a thousandth of the way to the step that it goes to.
    """
    step = torch.round(weight * 32) / 32
    half_way = (weight - step).abs() * 32 > 0.499
    direction = torch.where(half_way, weight + 1e-3 * (step - weight), weight)
    length = torch.norm_except_dim(direction, 2, 0)
    # A neuron without weights has no direction: any will do, of length zero.
    return torch.where(length == 0, torch.ones_like(direction), direction), length


def _build(found: dict[str, torch.Tensor], neuron_params: dict | None, path: str | os.PathLike) -> torch.nn.Module:
    """Dense CUBA blocks of the sizes in the file, under the names that it uses."""
    from .block import cuba
    from .network import NEURON_PARAMS, Network
    from .neuron.norm import MeanOnlyBatchNorm

    weights = {}
    for key, tensor in found.items():
        match = re.fullmatch(r"blocks\.(\d+)\.synapse\.(weight_v|weight)", key)
        if match and tensor.dim() >= 2 and tensor.numel():
            weights[int(match[1])] = tensor
    if not weights or sorted(weights) != list(range(len(weights))):
        raise CheckpointError(
            f"{path}: found weights of blocks {sorted(weights)}, expected blocks 0, 1, ... of dense synapses "
            f"(blocks.<i>.synapse.weight or .weight_v); the keys are {sorted(found)[:12]}"
        )
    blocks = []
    for index in range(len(weights)):
        out, inputs = len(weights[index]), weights[index][0].numel()
        prefix = f"blocks.{index}."
        decays = [found.get(f"{prefix}neuron.{name}_decay") for name in ("current", "voltage")]
        shared = all(decay is None or decay.numel() == 1 for decay in decays)
        params = {**NEURON_PARAMS, **(neuron_params or {}), "shared_param": shared}
        if f"{prefix}neuron.norm.running_mean" in found:
            params["norm"] = MeanOnlyBatchNorm
        normed = f"{prefix}synapse.weight_v" in found
        blocks.append(cuba.Dense(params, inputs, out, weight_norm=normed, delay=f"{prefix}delay.delay" in found))
    return Network.from_blocks(blocks)
