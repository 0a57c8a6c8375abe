"""A safe reader for `.net` files from any source.

An HDF5 file can refer to other files, name plugins to load, and declare sizes that exceed its content. So every object
is checked before it is read: its link, its kind, its data type, its shape, and the number of bytes stored for it. The
HDF5 library does not read strings of variable length and compressed chunks safely, so this module reads them itself.
"""

import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..block.spec import KINDS, MAX_FEATURES, MAX_LAYERS, MAX_WEIGHTS, LayerSpec, NetFileError, as_specs
from ..files import size_of
from ..kernels.constants import WEIGHT_SCALE
from ..tools import whole_number

AFFINE_THRESHOLD = (1 << 18) - 1  # lava-dl's Affine layer writes it
MAX_FILE = 1 << 30  # bytes
MAX_CHUNKS = 4096
MAX_PACKING = 1032  # no DEFLATE stream expands to more than this many times its size
MAX_TEXT = 64  # characters
MAX_HEAP = 1 << 20  # bytes
GZIP, SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE


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
    size = size_of(path, ".net", MAX_FILE, NetFileError)
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            specs = as_specs(_layers(file, size, in_shape))
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


def _layers(file: h5py.File, size: int, shape: tuple[int, int, int] | None) -> list[LayerSpec]:
    group = _child(file, "layer", h5py.Group)
    count = group.id.get_num_objs()
    if not 1 <= count <= MAX_LAYERS:
        raise NetFileError(f"/layer: expected 1 to {MAX_LAYERS} layers, found {count}")
    specs = []
    for index in range(count):
        layer = _child(group, str(index), h5py.Group)
        kind = _text(layer, "type")
        if kind == "flatten" or (kind == "input" and not _has(layer, "neuron")):
            shape = _shape(layer, size, shape)
            continue
        specs.append(_layer(layer, kind, size, shape))
        shape = specs[-1].out_shape
    return specs


def _shape(group: h5py.Group, size: int, before: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Return the shape of a layer without neurons; its size must equal that of `before`, the previous shape."""
    found = _numbers(group, "shape", size, 3).ravel().tolist()
    if before is not None and math.prod(found) != math.prod(before):
        raise NetFileError(
            f"{group.name}/shape: expected {math.prod(before)} neurons as in the layer before, found {found}"
        )
    return (*found, 1, 1)[:3]


def _layer(group: h5py.Group, kind: str, size: int, in_shape: tuple[int, int, int] | None) -> LayerSpec:
    if kind not in KINDS:
        raise NetFileError(f"{group.name}/type: expected 'flatten' or one of {sorted(KINDS)}, found {kind!r}")
    neuron = _child(group, "neuron", h5py.Group)
    model = _text(neuron, "type")
    if model not in ("CUBA", "LOIHI"):  # netx accepts both names for the same neuron
        raise NetFileError(f"{neuron.name}/type: expected 'CUBA', found {model!r}")
    for name in ("gradedSpike", "weight_exp", "wgtExp"):
        if _has(neuron, name) and _numbers(neuron, name, size, 1).any():
            raise NetFileError(f"{neuron.name}/{name}: expected 0, the only supported value, found another")
    shape = _numbers(group, "shape", size, 8).ravel().tolist()
    if kind == "input":  # one weight for all neurons, or none
        in_shape = channels, _, _ = (*shape, 1, 1)[:3]
        weight = _numbers(group, "weight", size, 1) if _has(group, "weight") else np.array(WEIGHT_SCALE)
        weight = weight.reshape(1, 1, 1, 1)
    else:
        weight = _numbers(group, "weight", size, MAX_WEIGHTS)
    if kind in ("conv", "pool") and weight.ndim == 5 and weight.shape[4] == 1:
        weight = weight[..., 0]
    fields: dict[str, Any] = {"type": kind, "weight": weight, "in_shape": in_shape}
    for name in ("delay", "bias"):
        fields[name] = _numbers(group, name, size, MAX_FEATURES) if _has(group, name) else None
    fields["i_decay"], fields["v_decay"] = (
        _scalar_if_single(_numbers(neuron, name, size, MAX_FEATURES)) for name in ("iDecay", "vDecay")
    )
    fields["v_th_mant"] = _numbers(neuron, "vThMant", size, 1)
    if fields["v_th_mant"].tolist() in (AFFINE_THRESHOLD, [AFFINE_THRESHOLD]):
        raise NetFileError(f"{group.name}: expected neurons that fire, found lava-dl's Affine, whose neurons never do")
    fields["ref_delay"] = _numbers(neuron, "refDelay", size, 1) if _has(neuron, "refDelay") else 1
    if kind == "input" and fields["bias"] is not None:
        fields["bias"] = np.broadcast_to(fields["bias"], channels)
    if kind in ("conv", "pool"):
        for name in ("stride", "padding", "dilation"):
            fields[name] = _numbers(group, name, size, 2)
        if kind == "conv":
            fields["groups"] = _numbers(group, "groups", size, 1)
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
        if _has(group, name) and (found := _numbers(group, name, size, 1).item()) != features:
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


# -- single objects


def _has(group: h5py.Group, name: str) -> bool:
    return group.id.links.exists(name.encode())


def _child(group: h5py.Group, name: str, kind: type) -> h5py.Group | h5py.Dataset:
    """Return member `name` of the group; raise for soft and external links instead of following them."""
    where = f"{group.name.rstrip('/')}/{name}"
    if not _has(group, name):
        raise NetFileError(f"{where}: expected a {kind.__name__.lower()}, found none")
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise NetFileError(f"{where}: expected the {kind.__name__.lower()} itself, found a link to elsewhere")
    member = group[name]
    if not isinstance(member, kind):
        found = type(member).__name__.lower()
        raise NetFileError(f"{where}: expected a {kind.__name__.lower()}, found a {found}")
    return member


def _text(group: h5py.Group, name: str) -> str:
    """Return a short ASCII string of fixed length (our files) or variable length (lava-dl's neuron type)."""
    data = _check_storage(_child(group, name, h5py.Dataset))
    text = h5py.check_string_dtype(data.dtype)
    if text is None or (text.length or 0) > MAX_TEXT or math.prod(data.shape) != 1 or data.chunks is not None:
        raise NetFileError(f"{data.name}: expected one short string, found {_description(data)}")
    value = _heap_text(data) if text.length is None else np.asarray(data[()]).reshape(()).item()
    value = value.rstrip(b"\0")
    if len(value) > MAX_TEXT or not value.isascii():
        raise NetFileError(f"{data.name}: expected one short ASCII string, found {value[:MAX_TEXT]!r}")
    return value.decode("ascii")


def _heap_text(data: h5py.Dataset) -> bytes:
    """Return a string of variable length, read directly from the file's bytes.

    The dataset contains (length, address, index) of an object in a "global heap" collection. A collection is a header
    of 16 bytes followed by objects. Each object is a header of 16 bytes (index, references, size) followed by its data,
    padded to a multiple of 8 bytes. The HDF5 library loops forever on a collection with an object of size zero, so it
    is not used here.
    """
    offset = data.id.get_offset()
    if offset is None or data.id.get_storage_size() != 16 or data.file.userblock_size:
        raise NetFileError(f"{data.name}: expected a string, found none at its address")
    with open(data.file.filename, "rb") as raw:
        raw.seek(offset)
        length, address, index = struct.unpack("<IQI", raw.read(16))
        raw.seek(min(address, MAX_FILE))
        heading = raw.read(16)
        if heading[:5] != b"GCOL\1" or length > MAX_TEXT:
            raise NetFileError(f"{data.name}: expected a short string, found none or one of {length} characters")
        heap = raw.read(min(int.from_bytes(heading[8:], "little") - 16, MAX_HEAP))
    position = 0
    while position + 16 <= len(heap):
        found, _, size = struct.unpack_from("<HH4xQ", heap, position)
        if found == index:
            return heap[position + 16 : position + 16 + min(length, size)]
        if found == 0:  # free space at the end
            break
        position += 16 + -(-size // 8) * 8
    raise NetFileError(f"{data.name}: expected a string, found none at its address")


def _numbers(group: h5py.Group, name: str, file_size: int, most: int) -> np.ndarray:
    """Return a numeric dataset of at most `most` elements, after checking that the file contains all of them."""
    data = _check_storage(_child(group, name, h5py.Dataset))
    if data.dtype.kind not in "iufb" or data.dtype.itemsize > 8:
        raise NetFileError(f"{data.name}: expected numbers, found {_description(data)}")
    count = math.prod(data.shape)
    if not 1 <= count <= most:
        raise NetFileError(f"{data.name}: expected 1 to {most} numbers, found {_description(data)}")
    size = count * data.dtype.itemsize
    if data.chunks is not None:
        return _read_chunks(data, file_size)
    if data.id.get_storage_size() != size or size > file_size:
        raise NetFileError(f"{data.name}: expected {size} bytes for {_description(data)}, found fewer in the file")
    return np.asarray(data[()])


def _check_storage(data: h5py.Dataset) -> h5py.Dataset:
    """Return `data`; raise if it is empty or if its values are stored in another file."""
    if data.shape is None:
        raise NetFileError(f"{data.name}: expected values, found an empty dataset")
    if data.is_virtual or data.external:
        raise NetFileError(f"{data.name}: expected the data in this file, found them stored in another")
    return data


def _description(data: h5py.Dataset) -> str:
    return f"{data.dtype} of shape {data.shape}"


# -- compressed datasets


def _read_chunks(data: h5py.Dataset, file_size: int) -> np.ndarray:
    """Return a chunked dataset, decompressing each chunk here and checking its size.

    The HDF5 library decompresses a chunk to any size. This may be gigabytes. It may also be less than the size of a
    chunk, and then the library reads beyond the decompressed data, so that weights come from unrelated memory.
    """
    properties = data.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if not set(filters) <= {GZIP, SHUFFLE} or len(set(filters)) != len(filters):
        raise NetFileError(
            f"{data.name}: expected the HDF5 filters gzip ({GZIP}) or shuffle ({SHUFFLE}), found {filters}"
        )
    grid = tuple(-(-side // step) for side, step in zip(data.shape, data.chunks, strict=True))
    size, count = math.prod(data.chunks) * data.dtype.itemsize, math.prod(grid)
    if count > MAX_CHUNKS or count * size > MAX_PACKING * file_size:
        raise NetFileError(
            f"{data.name}: expected no more than {file_size} bytes can hold, "
            f"found {_description(data)} in chunks of {data.chunks}"
        )
    if data.id.get_num_chunks() != count:
        raise NetFileError(f"{data.name}: expected {count} chunks, found {data.id.get_num_chunks()}")
    result = np.empty([n * step for n, step in zip(grid, data.chunks, strict=True)], data.dtype)
    for index in np.ndindex(grid):
        start = tuple(i * step for i, step in zip(index, data.chunks, strict=True))
        stored = data.id.get_chunk_info_by_coord(start)
        if stored.byte_offset is None or stored.size > file_size:
            raise NetFileError(f"{data.name}: expected a chunk at {start}, found it missing or beyond the file's end")
        mask, raw = data.id.read_direct_chunk(start)
        if len(raw) != stored.size:
            raise NetFileError(f"{data.name}: expected {len(raw)} bytes in the chunk at {start}, found {stored.size}")
        for position, name in reversed(list(enumerate(filters))):
            if not mask >> position & 1:
                raw = _inflate(raw, size) if name == GZIP else _unshuffle(raw, data.dtype.itemsize)
        if len(raw) != size:
            raise NetFileError(f"{data.name}: expected {size} bytes in the chunk at {start}, found {len(raw)}")
        place = tuple(slice(s, s + step) for s, step in zip(start, data.chunks, strict=True))
        result[place] = np.frombuffer(raw, data.dtype).reshape(data.chunks)
    return result[tuple(slice(side) for side in data.shape)]


def _inflate(packed: bytes, size: int) -> bytes:
    stream = zlib.decompressobj()
    raw = stream.decompress(packed, size + 1)
    if len(raw) != size or not stream.eof:
        raise NetFileError(f"expected gzip chunks of {size} bytes, found one that decompresses to another size")
    return raw


def _unshuffle(raw: bytes, itemsize: int) -> bytes:
    """Undo HDF5's shuffle filter, which stores the first bytes of all items, then all second bytes, and so on."""
    if len(raw) % itemsize:
        raise NetFileError(f"expected a multiple of {itemsize} bytes, found a chunk of {len(raw)} bytes")
    return np.frombuffer(raw, np.uint8).reshape(itemsize, -1).T.tobytes()


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
