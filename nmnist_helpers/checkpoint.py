"""Saving and loading tensors: `network.pt` of ours and lava-dl's, and the checkpoints of a run.

A `.pt` file is a zip archive: one pickle, which describes the tensors, and one uncompressed record for each
tensor's numbers. It is checked before torch reads it: a record that is damaged, compressed or missing is refused,
and so is a pickle that names anything but tensors and plain values. (`torch.load` alone does not compare the
records with their checksums: it loads a damaged file with other numbers in it.)
"""

import io
import os
import pickletools
import re
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import torch

from .files import atomic

MAX_FILE = 1 << 30  # bytes
MAX_PICKLE = 1 << 20
MAX_TENSORS = 1000
MAX_VALUES = 100_000  # tensors, plain values and what holds them
MAX_DEPTH = 32
_STORAGES = {
    "Float": torch.float32,
    "Double": torch.float64,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
# All that tensors in dictionaries need. torch's own safe list is longer, and has ways to ask for much memory.
PICKLE_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.nn.parameter Parameter",
    *(f"torch {kind}Storage" for kind in _STORAGES),
}
# What a file of ours says of a neuron beside its tensors.
CONSTANTS = ("threshold", "tau_grad", "scale_grad", "requires_grad")
# State that older versions stored: it belongs to the last batch, not to the network.
IGNORED = ("neuron.current_state", "neuron.voltage_state")


class CheckpointError(ValueError):
    """A `.pt` file that cannot be loaded; the message says what was expected and what was found."""


def save_tree(path: str | os.PathLike, tree) -> None:
    """Write tensors and plain values to one file, complete or not at all.

    Parameters
    ----------
    path : path-like
        The ``.pt`` file; one that exists is replaced.
    tree : dict, list, tuple, tensor, str, int, float, bool or None
        Dictionaries (keys: str or int), lists and tuples may hold each other. A state_dict is such a tree. Every
        tensor is written from its values alone, whatever device, storage or graph it belongs to, so equal trees give
        equal bytes.

    Raises
    ------
    CheckpointError
        If the tree holds anything else, or more than `load_tree` accepts.

    Notes
    -----
    ``torch.load(path, weights_only=True)`` reads the file too, without comparing the checksums.
    """
    try:
        _check_tree(tree, MAX_FILE)
        buffer = io.BytesIO()  # a file's name would be stored inside
        torch.save(_copied(tree), buffer)
        _check_archive(buffer, buffer.tell())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_tree(path: str | os.PathLike):
    """Read what `save_tree`, or `torch.save` of such a tree, wrote. Tensors arrive on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is damaged, is no such file, or holds anything but tensors and plain values.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():  # a pipe or a device would be waited on for ever
        raise CheckpointError(f"{path}: expected a .pt file, found something that is no regular file")
    size = path.stat().st_size
    if size > MAX_FILE:
        raise CheckpointError(f"{path}: expected at most {MAX_FILE} bytes, found {size}")
    try:
        with open(path, "rb") as file:
            _check_archive(file, size)
        # Mapped, tensors cannot reach beyond the file, whatever sizes the pickle claims.
        tree = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        _check_tree(tree, size)
        return _copied(tree)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # damage makes zipfile, pickle and torch raise almost anything
        line = (str(error).splitlines() or [""])[0][:300]
        raise CheckpointError(
            f"{path}: expected a checkpoint, found an unreadable file: {type(error).__name__}: {line}"
        ) from error


def read_state(path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tensors of a state_dict by name, float32 on the CPU, checked to be finite.

    Raises
    ------
    FileNotFoundError, CheckpointError
        As `load_tree`; also if the file holds anything but floating-point tensors by name.
    """
    return _state(load_tree(path), path)


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
        For the blocks that are built: ``threshold``, ``tau_grad``, ``scale_grad``, ... The tensors do not tell them.
        If not given, they are what the file says beside its tensors; lava-dl's files say nothing, and then they are
        the tutorial's, with a warning.

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

    Warns
    -----
    UserWarning
        If the threshold had to be assumed, or the one of `net` differs from what the file says: weights answer
        wrongly at another threshold than they were trained with.

    Examples
    --------
    >>> net = load_checkpoint("Trained/network.pt", Network())
    >>> net = load_checkpoint("lava_dl/network.pt", neuron_params={"threshold": 1.25})  # built from the file
    """
    tree = load_tree(path)
    found, constants = _state(tree, path), _constants(tree)
    if net is None:
        net = _build(found, neuron_params or {}, constants, path)
    _fill(net, found, path)
    if "threshold" not in (neuron_params or {}):
        own = {name: getattr(module, "threshold", None) for name, module in net.named_modules()}
        other = {name: said["threshold"] for name, said in constants.items() if own.get(name) != said["threshold"]}
        if other:
            found_there = {name: own.get(name) for name in other}
            warnings.warn(f"{path}: expected the thresholds {other}, found {found_there} in the network", stacklevel=2)
    return net


# -- is it safe


def _nodes(tree, where: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """Everything in the tree with the names that lead to it."""
    if depth > MAX_DEPTH:
        raise CheckpointError(f"expected at most {MAX_DEPTH} levels, found more under {where[:80]!r}")
    yield where, tree
    if isinstance(tree, dict):
        children = list(tree.items())
        if hasattr(tree, "_metadata"):  # what modules add to a state_dict about themselves
            children.append(("_metadata", tree._metadata))
        for key, _ in children:
            if not isinstance(key, str | int):
                raise CheckpointError(f"expected keys of type str or int, found {key!r:.80} under {where!r}")
    else:
        children = list(enumerate(tree)) if isinstance(tree, list | tuple) else []
    for key, value in children:
        yield from _nodes(value, f"{where}.{key}" if where else str(key), depth + 1)


def _check_tree(tree, most: int) -> None:
    """Refuse what is neither tensor nor plain value, and tensors of more than `most` bytes altogether."""
    size = 0
    for count, (where, value) in enumerate(_nodes(tree)):
        if count == MAX_VALUES:
            raise CheckpointError(f"expected at most {MAX_VALUES} values, found more")
        if isinstance(value, torch.Tensor):
            if value.layout is not torch.strided or value.dtype not in _STORAGES.values():
                raise CheckpointError(f"expected a plain tensor under {where!r}, found a {value.type()}")
            # A tensor may repeat its few numbers by strides of zero: small in the file, large to work with.
            size += value.numel() * value.element_size()
            if size > most:
                raise CheckpointError(f"expected at most {most} bytes, found shape {list(value.shape)} under {where!r}")
        elif not (value is None or isinstance(value, dict | list | tuple | str | int | float)):
            raise CheckpointError(f"expected tensors and plain values, found {type(value).__name__} under {where!r}")


def _copied(tree):
    """The tree anew, of plain types: nothing shared, nothing mapped. Equal trees then pickle to equal bytes."""
    if isinstance(tree, torch.Tensor):
        plain = tree.detach().as_subclass(torch.Tensor).cpu()
        return plain.clone(memory_format=torch.contiguous_format)
    if isinstance(tree, dict):
        copied = {_copied(key): _copied(value) for key, value in tree.items()}
        if hasattr(tree, "_metadata"):
            copied = OrderedDict(copied)
            copied._metadata = _copied(tree._metadata)
        return copied
    if isinstance(tree, list | tuple):
        items = [_copied(value) for value in tree]
        return items if isinstance(tree, list) else tuple(items)
    if isinstance(tree, str):
        return sys.intern(str(tree))  # pickle writes the same object once, an equal one again
    if tree is None or isinstance(tree, bool):
        return tree
    return int(tree) if isinstance(tree, int) else float(tree)


def _check_archive(file: IO[bytes], size: int) -> None:
    """Refuse an archive that is not what torch.save writes, before torch reads it."""
    if not zipfile.is_zipfile(file):
        raise CheckpointError("expected a file that torch.save wrote (torch 1.6 or later), found no zip archive")
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        names = [record.filename for record in records]
        pickles = [record for record in records if record.filename.rpartition("/")[2] == "data.pkl"]
        if len(pickles) != 1 or len(set(names)) != len(names) or len(names) > MAX_TENSORS + 100:
            raise CheckpointError(
                f"expected one data.pkl and at most {MAX_TENSORS} tensors, "
                f"found {len(names)} records, {len(pickles)} of them data.pkl"
            )
        if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
            raise CheckpointError("expected a state_dict, found a TorchScript program")
        for record in records:
            if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
                raise CheckpointError(f"expected every record stored as it is, found {record.filename} compressed")
        if sum(record.file_size for record in records) > size:
            raise CheckpointError(f"expected records of {size} bytes at most, found more")
        if pickles[0].file_size > MAX_PICKLE:
            raise CheckpointError(f"expected a pickle of at most {MAX_PICKLE} bytes, found {pickles[0].file_size}")
        damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"expected every record as it was written, found {damaged} damaged")
        _check_pickle(archive.read(pickles[0]))


def _check_pickle(data: bytes) -> None:
    """Refuse a pickle that names more than tensors and dictionaries, or nests without end."""
    expected = "expected tensors and plain values only"
    tuples = 0
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL" and argument not in PICKLE_GLOBALS:
            raise CheckpointError(f"{expected}, found {str(argument).replace(' ', '.')!r}")
        if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
            raise CheckpointError(f"{expected}, found the pickle operation {opcode.name}")
        tuples += opcode.name.startswith("TUPLE")
        if tuples > 6 * MAX_TENSORS:  # deep ones would overflow the stack
            raise CheckpointError(f"expected at most {MAX_TENSORS} tensors, found a pickle with more")


def _state(tree, path: str | os.PathLike) -> dict[str, torch.Tensor]:
    """The tree as a state_dict: float32 tensors by name, all finite."""
    if not isinstance(tree, dict) or not tree:
        raise CheckpointError(f"{path}: expected a state_dict, tensors by name, found a {type(tree).__name__}")
    checked = {}
    for key, tensor in tree.items():
        if not isinstance(key, str):
            raise CheckpointError(f"{path}: expected names, found the key {key!r:.80}")
        if not isinstance(tensor, torch.Tensor):
            raise CheckpointError(
                f"{path}: expected a tensor under {key!r}, found {type(tensor).__name__}: "
                "save net.state_dict(), or pass on the part that is one"
            )
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: expected floating-point numbers under {key!r}, found {tensor.dtype}")
        tensor = tensor.to(torch.float32)
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: expected finite numbers under {key!r}, found NaN or infinite ones")
        checked[key.removeprefix("module.")] = tensor  # DataParallel's prefix
    return checked


def _constants(tree) -> dict[str, dict]:
    """What our own files say of their neurons: constructor arguments by the neuron's name."""
    found = {}
    for name, about in getattr(tree, "_metadata", {}).items():
        said = about.get("neuron_params") if isinstance(about, dict) else None
        if isinstance(said, dict) and all(isinstance(v, int | float) for v in said.values()) and "threshold" in said:
            found[str(name).removeprefix("module.")] = {n: said[n] for n in CONSTANTS if n in said}
    return found


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
            lines.append(f"shape: {key}: expected {list(expected[key].shape)}, found {list(found[key].shape)}")
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


def _build(
    found: dict[str, torch.Tensor], neuron_params: dict, constants: dict[str, dict], path: str | os.PathLike
) -> torch.nn.Module:
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
            f"{path}: expected blocks 0, 1, ... of dense synapses (blocks.<i>.synapse.weight or .weight_v), "
            f"found weights of blocks {sorted(weights)}; the keys are {sorted(found)[:12]}"
        )
    sizes = [(len(weights[index]), weights[index][0].numel()) for index in range(len(weights))]
    if any(out != inputs for (out, _), (_, inputs) in zip(sizes, sizes[1:], strict=False)):
        raise CheckpointError(
            f"{path}: expected dense blocks that fit onto each other, found (neurons, inputs) {sizes}; "
            "a network with other blocks must be given"
        )
    blocks, assumed = [], False
    for index, (out, inputs) in enumerate(sizes):
        prefix = f"blocks.{index}."
        decays = [found.get(f"{prefix}neuron.{name}_decay") for name in ("current", "voltage")]
        shared = all(decay is None or decay.numel() == 1 for decay in decays)
        said = constants.get(f"{prefix}neuron", {})
        assumed |= "threshold" not in {**said, **neuron_params}
        params = {**NEURON_PARAMS, **said, **neuron_params, "shared_param": shared}
        if f"{prefix}neuron.norm.running_mean" in found:
            params["norm"] = MeanOnlyBatchNorm
        normed = f"{prefix}synapse.weight_v" in found
        try:
            blocks.append(cuba.Dense(params, inputs, out, weight_norm=normed, delay=f"{prefix}delay.delay" in found))
        except ValueError as error:
            raise CheckpointError(f"{path}: {prefix}neuron: {error}") from error
    if assumed:
        values = {name: NEURON_PARAMS[name] for name in CONSTANTS if name not in neuron_params}
        warnings.warn(
            f"{path}: expected neuron_params, for the file does not tell them; assumed the tutorial's {values}",
            stacklevel=3,
        )
    return Network.from_blocks(blocks)
