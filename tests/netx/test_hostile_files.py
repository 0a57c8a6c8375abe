"""Test that damaged and malicious `.net` and `.pt` files give a clear error or a valid network.

No file may crash the program, make it hang or exhaust its memory. Hundreds of random mutations of valid files are
loaded in a process whose program is this file and whose memory is limited: it fails in all three cases.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from nmnist_helpers import netx
from nmnist_helpers.checkpoint import CheckpointError, load_checkpoint
from nmnist_helpers.netx import LayerSpec, NetFileError

SPARE_MEMORY = 256 << 20  # bytes beyond those that the worker needs to start
MUTATIONS = 800  # of each kind of file


def layers():
    rng = np.random.default_rng(0)

    def layer(inputs, out, **changes):
        weight = 2 * rng.integers(-128, 128, (out, inputs))
        fields = {"delay": rng.integers(0, 63, out), "i_decay": 1024, "v_decay": 123, "v_th_mant": 80}
        return LayerSpec("dense", weight, **{**fields, **changes})

    return [layer(12, 8), layer(8, 8, i_decay=rng.integers(0, 4097, 8)), layer(8, 4, delay=None)]


def write_pictures(path):
    rng = np.random.default_rng(1)
    neurons = {"delay": None, "i_decay": 1024, "v_decay": 123, "v_th_mant": 80}
    conv = 2 * rng.integers(-128, 128, (4, 2, 3, 3))
    pool = np.full((1, 1, 2, 2), 64)
    geometry = {"in_shape": (2, 6, 7), "padding": (1, 1)}
    return netx.write_network(
        path,
        [
            LayerSpec("conv", conv, **neurons, **geometry),
            LayerSpec("pool", pool, **neurons, in_shape=(4, 6, 7), stride=(2, 2)),
            LayerSpec("dense", 2 * rng.integers(-128, 128, (5, 48)), **neurons),
        ],
    )


def write_as_lava_dl(path):
    """Write a file as lava-dl does: uncompressed, with the neuron's type as a string of variable length."""
    with h5py.File(path, "w") as file:
        for index, layer in enumerate(layers()):
            group = file.create_group(f"layer/{index}")
            group.create_dataset("type", (1,), "S10", [b"dense"])
            group.create_dataset("shape", data=np.array([layer.out_features]))
            group.create_dataset("inFeatures", data=layer.in_features)
            group.create_dataset("outFeatures", data=layer.out_features)
            group.create_dataset("weight", data=layer.weight.astype(np.float32))
            if layer.delay is not None:
                group.create_dataset("delay", data=layer.delay.astype(np.float32))
            values = {"type": "CUBA", "iDecay": layer.i_decay, "vDecay": layer.v_decay, "vThMant": 80, "refDelay": 1}
            for name, value in values.items():
                group.create_dataset(f"neuron/{name}", data=value)
            group.create_dataset("neuron/gradedSpike", data=False)
    return path


def write_newest_format(path):
    """Write a file in HDF5's newest format, whose metadata has checksums."""
    with h5py.File(path, "w", libver="latest") as file:
        for index, layer in enumerate(layers()):
            netx.write_layer(file.create_group(f"layer/{index}"), layer)
    return path


def write_checkpoint(path, weight_norm):
    network = torch.nn.Module()
    blocks = netx.Net(layers()).to_blocks().blocks
    if weight_norm:
        for block in blocks:
            block.synapse.enable_weight_norm()
    network.blocks = blocks
    torch.save(network.state_dict(), path)
    return path


def write_net_files(folder):
    return [
        netx.write_network(folder / "ours.net", layers()),
        write_as_lava_dl(folder / "lava.net"),
        write_newest_format(folder / "newest.net"),
        write_pictures(folder / "pictures.net"),
        shutil.copy(Path(__file__).with_name("golden") / "input.net", folder / "input.net"),
    ]


def write_pt_files(folder):
    return [write_checkpoint(folder / "normed.pt", True), write_checkpoint(folder / "plain.pt", False)]


def mutation(data: bytes, rng: random.Random) -> bytes:
    """Return data that is cut short, or has flipped bits, extreme numbers, or overwritten or missing pieces."""
    kind = rng.choice(["cut", "flip", "flip", "extreme", "extreme", "copy", "remove"])
    changed = bytearray(data)
    if kind == "cut":
        return bytes(changed[: rng.randrange(len(data))])
    for _ in range(rng.choice([1, 1, 2, 8, 32])):
        position = rng.randrange(len(changed))
        if kind == "flip":
            changed[position] ^= 1 << rng.randrange(8)
        elif kind == "extreme":
            width = rng.choice([1, 2, 4, 8])
            value = rng.choice([b"\xff", b"\x00", b"\x7f", b"\x01"]) * width
            changed[position : position + width] = value[: len(changed) - position]
        elif kind == "copy":
            source, width = rng.randrange(len(changed)), rng.choice([8, 64, 512])
            piece = changed[source : source + width]
            changed[position : position + len(piece)] = piece[: len(changed) - position]
        else:
            del changed[position : position + rng.choice([1, 8, 64])]
            break
    return bytes(changed)


def try_net(path) -> bool:
    """Return True for a valid network, after running it, and False if loading raises the right error."""
    try:
        net = netx.load(path)
    except NetFileError as error:
        if not str(error).startswith(f"{path}: "):
            raise AssertionError("the message does not name the file") from error
        return False
    str(net)
    net(np.ones((1, net.in_features, 5), np.uint8), engine="reference")
    return True


def try_pt(path) -> bool:
    """Return True for a valid checkpoint and False if loading raises the right error."""
    try:
        net = load_checkpoint(path)
    except CheckpointError as error:
        if not str(error).startswith(f"{path}: "):
            raise AssertionError("the message does not name the file") from error
        return False
    assert all(torch.isfinite(value).all() for value in net.state_dict().values())
    return True


KINDS = {"net": (try_net, write_net_files), "pt": (try_pt, write_pt_files)}


def run_mutations(kinds: list[str], folder: Path, count: int, seed: int) -> dict:
    """Load `count` mutations of each kind of file, shared by its base files; return the outcomes and the cost."""
    attempts = []
    for kind in kinds:
        attempt, make = KINDS[kind]
        bases = make(folder)
        attempts += [(attempt, base, count // len(bases)) for base in bases]
    assert all(attempt(base) for attempt, base, _ in attempts)
    peak = None
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * os.sysconf("SC_PAGE_SIZE") + SPARE_MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {"tried": 0, "valid": 0, "refused": 0, "slowest": 0.0}
    for attempt, base, share in attempts:
        data, path = base.read_bytes(), folder / f"mutated{base.suffix}"
        for index in range(share):
            rng = random.Random(f"{seed} {base.name} {index}")
            path.write_bytes(mutation(data, rng))
            start = time.perf_counter()
            try:
                result["valid" if attempt(path) else "refused"] += 1
            except BaseException:
                print(f"seed {seed}, {base.name}, mutation {index}", file=sys.stderr)
                raise
            result["slowest"] = max(result["slowest"], time.perf_counter() - start)
            result["tried"] += 1
    if peak is not None:
        result["grown_MiB"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    return result


@pytest.mark.slow
def test_random_mutations(tmp_path):
    command = [sys.executable, __file__, str(tmp_path), str(MUTATIONS), "1", *KINDS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(Path(netx.__file__).parents[2])
    worker = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, check=False)
    assert worker.returncode == 0, f"return code {worker.returncode}: {worker.stderr[-3000:]}"
    result = json.loads(worker.stdout.splitlines()[-1])
    assert result["tried"] == len(KINDS) * MUTATIONS
    assert result["valid"] + result["refused"] == result["tried"]
    assert result["refused"] > result["tried"] // 2  # most mutations cause an error
    assert result["slowest"] < 5  # seconds
    assert result.get("grown_MiB", 0) < 128


# -- crafted files, which random mutations would hardly produce


def net_file(tmp_path, change):
    path = netx.write_network(tmp_path / "a.net", layers())
    with h5py.File(path, "a") as file:
        change(file)
    return path


def replace(name, **dataset):
    def change(file):
        del file[f"layer/0/{name}"]
        file.create_dataset(f"layer/0/{name}", **dataset)

    return change


def remove(name):
    def change(file):
        del file[name]

    return change


def set_values(name, where, value):
    def change(file):
        data = file[f"layer/0/{name}"][()]
        data[where] = value
        del file[f"layer/0/{name}"]
        file[f"layer/0/{name}"] = data

    return change


F4 = np.dtype(np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove("layer"), "/layer: expected a .*, found none"),
        (remove("layer/1"), "/layer/1: expected a .*, found none"),
        (remove("layer/0/type"), "/layer/0/type: expected a dataset, found none"),
        (remove("layer/0/weight"), "/layer/0/weight: expected a .*, found none"),
        (remove("layer/0/shape"), "/layer/0/shape: expected a .*, found none"),
        (remove("layer/2/neuron"), "/layer/2/neuron: expected a .*, found none"),
        (remove("layer/0/neuron/iDecay"), "/layer/0/neuron/iDecay: expected a .*, found none"),
        (remove("layer/0/neuron/vThMant"), "/layer/0/neuron/vThMant: expected a .*, found none"),
        (replace("type", data=np.array([b"rnn"])), "/layer/0/type: expected 'flatten' or one of.*found 'rnn'"),
        (replace("type", data=7), "/layer/0/type: expected one short string, found int64 of shape"),
        (replace("type", data=np.array([b"dense"] * 2)), "expected one short string"),
        (replace("type", data=np.array([b"d" * 100])), "expected one short string"),
        (replace("type", data="d" * 1000), "expected a short string, found none or one of 1000 characters"),
        (replace("type", data="d\u00e9nse"), "expected one short ASCII string"),
        (replace("type", data=h5py.Empty("S5")), "found an empty dataset"),
        (replace("neuron/type", data=b"LIF"), "/layer/0/neuron/type: expected 'CUBA'.*found 'LIF'"),
        (replace("neuron/gradedSpike", data=True), "gradedSpike: expected 0, .*found another"),
        (lambda file: file.create_dataset("layer/0/neuron/wgtExp", data=1), "wgtExp: expected 0, .*found another"),
        (replace("neuron/refDelay", data=2), "ref_delay: expected 1.*found 2"),
        (replace("neuron/iDecay", data=5000), "i_decay: expected an integer in 0..4096.*found 5000"),
        (replace("neuron/iDecay", data=np.float64("nan")), "i_decay: .*found nan"),
        (replace("neuron/iDecay", data=np.zeros(3)), r"i_decay: expected \[8\].*found shape \(3,\)"),
        (replace("neuron/vThMant", data=np.zeros(3)), "expected 1 to 1 numbers.*found float64 of shape .3,."),
        (replace("neuron/vDecay", data=b"123"), "/layer/0/neuron/vDecay: expected numbers, found object of shape"),
        (replace("shape", data=np.array([9])), r"/layer/0/shape: expected 8 for weights \(8, 12\).*found \[9\]"),
        (replace("shape", data=np.full(8, 1 << 62)), "shape: expected 8 .*found"),
        (replace("inFeatures", data=13), "inFeatures: expected 12.*found 13"),
        (replace("weight", data=np.zeros(96, F4)), r"weight: expected \[out, in\].*found shape \(96,\)"),
        (replace("weight", data=np.zeros((8, 12), complex)), "weight: .*found complex128 of shape"),
        (replace("weight", data=np.zeros((8, 12), "f4,f4")), "weight: expected numbers, found"),
        (replace("weight", shape=(8, 12), dtype=h5py.vlen_dtype(F4)), "expected numbers"),
        (replace("weight", shape=(8, 12), dtype=h5py.ref_dtype), "expected numbers"),
        (replace("weight", data=np.zeros((8, 0), F4)), r"weight: .*found float32 of shape \(8, 0\)"),
        (replace("weight", data=h5py.Empty(F4)), "weight: .*found an empty dataset"),
        (replace("weight", shape=(8, 12), dtype=F4), "weight: expected 384 bytes for .*, found fewer in the file"),
        (set_values("weight", (2, 3), np.nan), r"weight: .*found nan at \[2, 3\]"),
        (set_values("weight", (2, 3), np.inf), r"weight: .*found inf at \[2, 3\]"),
        (set_values("weight", (0, 0), 3), r"weight: .*found 3\.0 at \[0, 0\]"),
        (set_values("delay", 1, 63), r"delay: .*found 63\.0 at \[1\]"),
        (set_values("delay", 1, -1e30), r"delay: .*found -1\.0.*e.30 at"),
        # sizes declared without data: 1 TiB, then 256 MiB at once, in one chunk and in many, and by a fill value
        (replace("weight", shape=(1 << 19, 1 << 19), dtype=F4), "expected 1 to 67108864 numbers"),
        (
            replace("weight", shape=(1 << 13, 1 << 13), dtype=F4),
            "weight: expected 268435456 bytes for .*, found fewer in the file",
        ),
        (
            replace("weight", shape=(8192, 8192), dtype=F4, chunks=(8192, 8192)),
            "expected no more than .* bytes can hold",
        ),
        (replace("weight", shape=(8192, 8192), dtype=F4, chunks=(1, 1)), "expected no more than .* bytes can hold"),
        (replace("weight", shape=(8, 12), dtype=F4, chunks=(4, 6), fillvalue=2), "expected 4 chunks, found 0"),
        (replace("delay", shape=(1 << 40,), dtype=F4), "expected 1 to 1048576 numbers"),
        # filters other than the two supported ones
        (
            replace("weight", data=np.zeros((8, 12), F4), compression="lzf"),
            r"expected the HDF5 filters gzip .*, found \[32000\]",
        ),
        (
            replace("weight", data=np.zeros((8, 12), F4), chunks=True, fletcher32=True),
            r"expected the HDF5 filters gzip .*, found \[3\]",
        ),
    ],
)
def test_crafted_files_raise(tmp_path, change, message):
    path = net_file(tmp_path, change)
    with pytest.raises(NetFileError, match=message) as error:
        netx.load(path)
    assert str(path) in str(error.value)


def test_a_gzip_bomb_is_not_decompressed(tmp_path):
    """The chunk decompresses to a thousand times its size, and the HDF5 library itself would decompress all of it."""
    import zlib

    def change(file):
        del file["layer/0/weight"]
        data = file.create_dataset("layer/0/weight", (8, 12), F4, chunks=(8, 12), compression="gzip")
        data.id.write_direct_chunk((0, 0), zlib.compress(bytes(1 << 25), 9))

    with pytest.raises(NetFileError, match="expected gzip chunks of 384 bytes, found one that decompresses to another"):
        netx.load(net_file(tmp_path, change))


@pytest.mark.parametrize("content", [b"", bytes(380), bytes(388)])
def test_a_chunk_that_decompresses_to_another_size_raises(tmp_path, content):
    """If a chunk is too short, the HDF5 library itself reads beyond the end of its buffer."""
    import zlib

    def change(file):
        del file["layer/0/weight"]
        data = file.create_dataset("layer/0/weight", (8, 12), F4, chunks=(8, 12), compression="gzip")
        data.id.write_direct_chunk((0, 0), zlib.compress(content))

    with pytest.raises(NetFileError, match="expected gzip chunks of 384 bytes, found one that decompresses to another"):
        netx.load(net_file(tmp_path, change))


def test_an_uncompressed_chunk_of_another_size_raises(tmp_path):
    def change(file):
        del file["layer/0/weight"]
        data = file.create_dataset("layer/0/weight", (8, 12), F4, chunks=(8, 12))
        data.id.write_direct_chunk((0, 0), bytes(383))

    with pytest.raises(NetFileError, match="expected 384 bytes in the chunk at .*, found 383"):
        netx.load(net_file(tmp_path, change))


@pytest.mark.parametrize("name", ["layer/0/weight", "layer/1", "layer/0/neuron", "layer/0/type"])
@pytest.mark.parametrize("kind", ["soft", "external"])
def test_links_are_not_followed(tmp_path, name, kind):
    other = netx.write_network(tmp_path / "other.net", layers())
    link = h5py.SoftLink("/kept/" + name) if kind == "soft" else h5py.ExternalLink(str(other), "/" + name)

    def change(file):
        file.copy(name, f"kept/{name}")
        del file[name]
        file[name] = link

    path = net_file(tmp_path, change)
    with h5py.File(path) as file:
        assert name in file  # h5py itself follows the link
    with pytest.raises(NetFileError, match=f"/{name}: expected the .*found a link to elsewhere"):
        netx.load(path)


def test_data_in_other_files_is_not_read(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(8 * 12 * 4))
    change = replace("weight", shape=(8, 12), dtype=F4, external=[(str(secret), 0, 8 * 12 * 4)])
    with pytest.raises(
        NetFileError, match="/layer/0/weight: expected the data in this file, found them stored in another"
    ):
        netx.load(net_file(tmp_path, change))
    other = netx.write_network(tmp_path / "other.net", layers())

    def make_virtual(file):
        del file["layer/0/weight"]
        layout = h5py.VirtualLayout((8, 12), F4)
        layout[:] = h5py.VirtualSource(other, "/layer/0/weight", (8, 12))
        file.create_virtual_dataset("layer/0/weight", layout)

    with pytest.raises(
        NetFileError, match="/layer/0/weight: expected the data in this file, found them stored in another"
    ):
        netx.load(net_file(tmp_path, make_virtual))


def test_a_cyclic_group_and_too_many_layers_raise(tmp_path):
    def add_cycle(file):
        del file["layer/1"]
        file["layer/1"] = file["layer"]

    with pytest.raises(NetFileError, match="/type: expected a dataset, found none"):
        netx.load(net_file(tmp_path, add_cycle))

    def add_layers(file):
        for index in range(3, 300):
            file["layer"].create_group(str(index))

    with pytest.raises(NetFileError, match="/layer: expected 1 to 256 layers, found 300"):
        netx.load(net_file(tmp_path, add_layers))


def test_a_dataset_in_place_of_a_group_and_vice_versa_raise(tmp_path):
    def replace_by_dataset(file):
        del file["layer/0/neuron"]
        file["layer/0/neuron"] = 1

    with pytest.raises(NetFileError, match="/layer/0/neuron: expected a group.*found a dataset"):
        netx.load(net_file(tmp_path, replace_by_dataset))

    def replace_by_group(file):
        del file["layer/0/weight"]
        file["layer/0/weight/real"] = np.zeros((8, 12))

    with pytest.raises(NetFileError, match="/layer/0/weight: expected a dataset.*found a group"):
        netx.load(net_file(tmp_path, replace_by_group))


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"a text\n" * 100])
@pytest.mark.parametrize(("load", "error"), [(netx.load, NetFileError), (load_checkpoint, CheckpointError)])
def test_files_of_other_formats_raise(tmp_path, content, load, error):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(error, match="expected a readable .net|found no zip archive"):
        load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes on this system")
@pytest.mark.parametrize(("load", "error"), [(netx.load, NetFileError), (load_checkpoint, CheckpointError)])
def test_a_named_pipe_does_not_block(tmp_path, load, error):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(error, match="no regular file"):
        load(tmp_path / "pipe")


if __name__ == "__main__":
    folder, count, seed, *kinds = sys.argv[1:]
    print(json.dumps(run_mutations(kinds, Path(folder), int(count), int(seed))))
