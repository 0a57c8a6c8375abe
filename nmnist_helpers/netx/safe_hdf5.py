"""Read single objects of an HDF5 file from any source.

An HDF5 file can refer to other files, name plugins to load, and declare sizes that exceed its content. So every object
is checked before it is read: its link, its kind, its data type, its shape, and the number of bytes stored for it. The
HDF5 library does not read strings of variable length and compressed chunks safely, so this module reads them itself.
"""

import math
import os
import struct
import zlib

import h5py
import numpy as np

from ..block.spec import NetFileError

MAX_FILE = 1 << 30  # bytes
MAX_CHUNKS = 4096
MAX_PACKING = 1032  # no DEFLATE stream expands to more than this many times its size
MAX_TEXT = 64  # characters
MAX_HEAP = 1 << 20  # bytes
GZIP, SHUFFLE = h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE


def has(group: h5py.Group, name: str) -> bool:
    return group.id.links.exists(name.encode())


def child(group: h5py.Group, name: str, kind: type) -> h5py.Group | h5py.Dataset:
    """Return member `name` of the group; raise for soft and external links instead of following them."""
    where = f"{group.name.rstrip('/')}/{name}"
    if not has(group, name):
        raise NetFileError(f"{where}: expected a {kind.__name__.lower()}, found none")
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise NetFileError(f"{where}: expected the {kind.__name__.lower()} itself, found a link to elsewhere")
    member = group[name]
    if not isinstance(member, kind):
        found = type(member).__name__.lower()
        raise NetFileError(f"{where}: expected a {kind.__name__.lower()}, found a {found}")
    return member


def text(group: h5py.Group, name: str) -> str:
    """Return a short ASCII string of fixed length (our files) or variable length (lava-dl's neuron type)."""
    data = _check_storage(child(group, name, h5py.Dataset))
    kind = h5py.check_string_dtype(data.dtype)
    if kind is None or (kind.length or 0) > MAX_TEXT or math.prod(data.shape) != 1 or data.chunks is not None:
        raise NetFileError(f"{data.name}: expected one short string, found {_description(data)}")
    value = _heap_text(data) if kind.length is None else np.asarray(data[()]).reshape(()).item()
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


def numbers(group: h5py.Group, name: str, most: int) -> np.ndarray:
    """Return a numeric dataset of at most `most` elements, after checking that the file contains all of them."""
    data = _check_storage(child(group, name, h5py.Dataset))
    if data.dtype.kind not in "iufb" or data.dtype.itemsize > 8:
        raise NetFileError(f"{data.name}: expected numbers, found {_description(data)}")
    count = math.prod(data.shape)
    if not 1 <= count <= most:
        raise NetFileError(f"{data.name}: expected 1 to {most} numbers, found {_description(data)}")
    size, file_size = count * data.dtype.itemsize, os.path.getsize(data.file.filename)
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
