"""Save and load trees of tensors and plain values as `.pt` files, with a check before torch reads a file.

A `.pt` file is a zip archive with one pickle, which describes the tensors, and one uncompressed record per tensor with
its numbers. A file is rejected if a record is damaged, compressed or missing, or if the pickle refers to anything but
tensors and plain values. (`torch.load` alone does not verify the checksums of the records, so it loads wrong numbers
from a damaged file.)
"""

import io
import os
import pickletools
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import torch

from ..files import atomic, size_of

MAX_FILE = 1 << 30  # bytes
MAX_PICKLE = 1 << 20
MAX_TENSORS = 1000
MAX_VALUES = 100_000  # tensors, plain values and containers
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
# All globals that dictionaries of tensors need. torch's list of safe globals is longer and allows huge allocations.
PICKLE_GLOBALS = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.nn.parameter Parameter",
    *(f"torch {kind}Storage" for kind in _STORAGES),
}


class CheckpointError(ValueError):
    """Raised for a `.pt` file that cannot be loaded; the message states what was expected and what was found."""


def save_tree(path: str | os.PathLike, tree) -> None:
    """Write a tree of tensors and plain values to a file, completely or not at all.

    Parameters
    ----------
    path : path-like
        The ``.pt`` file. An existing file is replaced.
    tree : dict, list, tuple, tensor, str, int, float, bool or None
        Dictionaries (with keys of type str or int), lists and tuples may be nested. A state_dict is such a tree. Only
        the values of a tensor are written, independent of its device, storage and graph, so equal trees give equal
        files.

    Raises
    ------
    CheckpointError
        If the tree contains other types, or is larger than `load_tree` accepts.

    Notes
    -----
    ``torch.load(path, weights_only=True)`` can read the file too, but does not verify the checksums.
    """
    try:
        _check_tree(tree, MAX_FILE)
        buffer = io.BytesIO()  # torch.save would store the name of a file in the archive
        torch.save(_copy_tree(tree), buffer)
        if buffer.tell() > MAX_FILE:  # the tensors fit, but not with what is stored beside them
            raise CheckpointError(f"expected at most {MAX_FILE} bytes, found {buffer.tell()}")
        _check_archive(buffer, buffer.tell())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    with atomic(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_tree(path: str | os.PathLike):
    """Return the tree in a file written by `save_tree` or by `torch.save`, with all tensors on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CheckpointError
        If the file is damaged, is not a `.pt` file, or contains anything but tensors and plain values.
    """
    path = Path(path)
    size = size_of(path, ".pt", MAX_FILE, CheckpointError)
    try:
        with open(path, "rb") as file:
            _check_archive(file, size)
        # With mmap, no tensor can extend beyond the file, whatever size the pickle declares.
        tree = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
        _check_tree(tree, size)
        return _copy_tree(tree)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except Exception as error:  # zipfile, pickle and torch may raise almost any exception
        found = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise CheckpointError(f"{path}: expected a checkpoint, found an unreadable file: {found}") from error


def _nodes(tree, where: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """Yield the path and the value of every node of the tree."""
    if depth > MAX_DEPTH:
        raise CheckpointError(f"expected at most {MAX_DEPTH} levels, found more under {where[:80]!r}")
    yield where, tree
    if isinstance(tree, dict):
        children = list(tree.items())
        if hasattr(tree, "_metadata"):  # what modules store about themselves in a state_dict
            children.append(("_metadata", tree._metadata))
        for key, _ in children:
            if not isinstance(key, str | int):
                raise CheckpointError(f"expected keys of type str or int, found {key!r:.80} under {where!r}")
    else:
        children = list(enumerate(tree)) if isinstance(tree, list | tuple) else []
    for key, value in children:
        yield from _nodes(value, f"{where}.{key}" if where else str(key), depth + 1)


def _check_tree(tree, most: int) -> None:
    """Raise unless all values are tensors or plain values of limited size.

    No tensor may have more than `most` bytes, and all together no more than MAX_FILE. (In a file that `torch.save`
    wrote, tensors that share memory are stored once, so together they may be larger than the file.)
    """
    total = 0
    for count, (where, value) in enumerate(_nodes(tree)):
        if count == MAX_VALUES:
            raise CheckpointError(f"expected at most {MAX_VALUES} values, found more")
        if isinstance(value, torch.Tensor):
            if value.layout is not torch.strided or value.dtype not in _STORAGES.values():
                raise CheckpointError(f"expected a plain tensor under {where!r}, found a {value.type()}")
            # With strides of zero, a tensor that is small in the file can be large in memory.
            size = value.numel() * value.element_size()
            total += size
            if size > most or total > MAX_FILE:
                limit = most if size > most else MAX_FILE
                raise CheckpointError(
                    f"expected at most {limit} bytes, found shape {list(value.shape)} under {where!r}"
                )
        elif not (value is None or isinstance(value, dict | list | tuple | str | int | float)):
            raise CheckpointError(f"expected tensors and plain values, found {type(value).__name__} under {where!r}")


def _copy_tree(tree):
    """Return a copy of plain types, without shared or mapped memory, so that equal trees pickle to equal bytes."""
    if isinstance(tree, torch.Tensor):
        plain = tree.detach().as_subclass(torch.Tensor).cpu()
        return plain.clone(memory_format=torch.contiguous_format)
    if isinstance(tree, dict):
        copied = {_copy_tree(key): _copy_tree(value) for key, value in tree.items()}
        if hasattr(tree, "_metadata"):
            copied = OrderedDict(copied)
            copied._metadata = _copy_tree(tree._metadata)
        return copied
    if isinstance(tree, list | tuple):
        items = [_copy_tree(value) for value in tree]
        return items if isinstance(tree, list) else tuple(items)
    if isinstance(tree, str):
        return sys.intern(str(tree))  # pickle writes one object once, but equal objects twice
    if tree is None or isinstance(tree, bool):
        return tree
    return int(tree) if isinstance(tree, int) else float(tree)


def _check_archive(file: IO[bytes], size: int) -> None:
    """Raise if the archive differs in structure from those of torch.save; runs before torch reads it."""
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
                raise CheckpointError(f"expected uncompressed records, found {record.filename} compressed")
        if sum(record.file_size for record in records) > size:
            raise CheckpointError(f"expected records of at most {size} bytes in total, found more")
        if pickles[0].file_size > MAX_PICKLE:
            raise CheckpointError(f"expected a pickle of at most {MAX_PICKLE} bytes, found {pickles[0].file_size}")
        damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"expected undamaged records, found {damaged} damaged")
        _check_pickle(archive.read(pickles[0]))


def _check_pickle(data: bytes) -> None:
    """Raise if the pickle refers to anything but tensors and dictionaries, or if its nesting is too deep."""
    expected = "expected tensors and plain values only"
    tuples = 0
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL" and argument not in PICKLE_GLOBALS:
            raise CheckpointError(f"{expected}, found {str(argument).replace(' ', '.')!r}")
        if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4"):
            raise CheckpointError(f"{expected}, found the pickle operation {opcode.name}")
        tuples += opcode.name.startswith("TUPLE")
        if tuples > 6 * MAX_TENSORS:  # deeply nested tuples would overflow the stack
            raise CheckpointError(f"expected at most {MAX_TENSORS} tensors, found a pickle with more")
