"""Load networks that torch saved, by this package or by lava-dl, and refuse every other file."""

import pickle
import zipfile

import pytest
import torch
from support.neurons import PARAMS, Blocks

from nmnist_helpers import netx, paths
from nmnist_helpers.block import cuba
from nmnist_helpers.checkpoint import CheckpointError, load_checkpoint, load_tree, save_tree
from nmnist_helpers.network import Network

pytestmark = pytest.mark.filterwarnings("error", "ignore:.*assumed the tutorial's:UserWarning")


def save_state(tmp_path, state, name="network.pt"):
    torch.save(state, tmp_path / name)
    return tmp_path / name


def network(weight_norm=True, delay=True, **params):
    """Return a small version of the tutorial's network."""
    return Blocks((20, 16, 5), weight_norm, delay, **params)


def lava_dl_state(weight_norm=True, seed=0):
    """Return a state_dict with the keys and shapes of lava-dl's for this network."""
    g = torch.Generator().manual_seed(seed)
    state = {}
    for index, (inputs, out) in enumerate([(20, 16), (16, 5)]):
        v = torch.randn(out, inputs, 1, 1, 1, generator=g)
        state[f"blocks.{index}.neuron.current_decay"] = torch.tensor([1000.0 + index])
        state[f"blocks.{index}.neuron.voltage_decay"] = torch.tensor([120.5 + index])
        if weight_norm:
            state[f"blocks.{index}.synapse.weight_g"] = torch.rand(out, 1, 1, 1, 1, generator=g) * 5
            state[f"blocks.{index}.synapse.weight_v"] = v
        else:
            state[f"blocks.{index}.synapse.weight"] = v
    state["blocks.0.delay.delay"] = torch.rand(16, generator=g) * 20
    return state


def assert_state_equals(net, state):
    found = net.state_dict()
    assert found.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(found[key], value), key


@pytest.mark.parametrize("weight_norm", [True, False])
def test_a_fresh_network_loads_a_lava_dl_checkpoint(tmp_path, weight_norm):
    state = lava_dl_state(weight_norm)
    path = save_state(tmp_path, state)
    net = network(weight_norm)
    assert load_checkpoint(path, net) is net
    assert_state_equals(net, state)
    assert net.blocks[0].synapse.direction.requires_grad  # still a trainable parameter


@pytest.mark.parametrize("weight_norm", [True, False])
def test_a_network_is_built_from_the_file(tmp_path, weight_norm):
    state = lava_dl_state(weight_norm)
    with pytest.warns(UserWarning, match="expected neuron_params, .* assumed the tutorial's {'threshold': 1.25, "):
        net = load_checkpoint(save_state(tmp_path, state))
    assert_state_equals(net, state)
    assert net.blocks[0].neuron.threshold == 1.25
    reference = load_checkpoint(tmp_path / "network.pt", network(weight_norm))
    spikes = (torch.rand(3, 20, 50) < 0.3).float()
    assert net(spikes).any()
    assert torch.equal(net(spikes), reference(spikes))
    assert netx.as_specs(net) == netx.as_specs(reference)
    assert load_checkpoint(tmp_path / "network.pt", neuron_params={"threshold": 2}).blocks[1].neuron.threshold == 2


@pytest.mark.parametrize("inputs", [20, (5, 2, 2)])
def test_a_network_with_a_mask_is_built_from_the_file(tmp_path, inputs):
    net = Network.from_blocks([cuba.Dense(PARAMS, inputs, 12, weight_scale=5, mask=torch.rand(12, 20) < 0.5)])
    torch.save(net.state_dict(), tmp_path / "network.pt")
    again = load_checkpoint(tmp_path / "network.pt", neuron_params=PARAMS)
    weights = [network.blocks[0].synapse.quantised_weight().flatten() for network in (again, net)]
    assert torch.equal(*weights)


def test_our_own_checkpoint_loads_bit_for_bit(tmp_path):
    net = network()
    path = save_state(tmp_path, net.state_dict())
    assert_state_equals(load_checkpoint(path, network()), net.state_dict())
    assert_state_equals(load_checkpoint(path), net.state_dict())


def test_our_own_checkpoint_stores_the_neurons_constants(tmp_path):
    """The constants are stored beside the tensors, where lava-dl and torch ignore them. Loading gives no warnings."""
    net = network(threshold=3.5, tau_grad=0.2, scale_grad=2)
    for save in (torch.save, lambda state, path: save_tree(path, state)):
        save(net.state_dict(), tmp_path / "a.pt")
        again = load_checkpoint(tmp_path / "a.pt")
        assert [b.neuron.threshold for b in again.blocks] == [3.5, 3.5]
        assert again.blocks[0].neuron.surrogate == net.blocks[0].neuron.surrogate
        assert netx.as_specs(again) == netx.as_specs(net)
        assert load_checkpoint(tmp_path / "a.pt", neuron_params={"threshold": 2}).blocks[0].neuron.threshold == 2
        with pytest.warns(UserWarning, match=r"expected the thresholds .*'blocks.1.neuron': 3\.5.*, found .* 1\.25"):
            load_checkpoint(tmp_path / "a.pt", network())
        state = torch.load(tmp_path / "a.pt")
        assert not network(threshold=3.5).load_state_dict(state).missing_keys
        with pytest.warns(UserWarning, match=r": expected the saved threshold 3.5, found 1.25") as warned:
            assert not network().load_state_dict(state).missing_keys
        names = [str(warning.message).split(":")[1] for warning in warned]
        assert names == [" blocks.0.neuron", " blocks.1.neuron"]


@pytest.mark.parametrize("constants", [{"threshold": float("nan")}, {"threshold": -1}, {"threshold": 2, "tau_grad": 0}])
def test_constants_out_of_range_are_refused(tmp_path, constants):
    state = network().state_dict()
    state._metadata["blocks.0.neuron"]["neuron_params"] = constants
    with pytest.raises(CheckpointError, match=r"a\.pt: blocks\.0: Neuron: expected a positive"):
        load_checkpoint(save_state(tmp_path, state, "a.pt"))


def test_converted_weights_quantise_to_the_same_values(tmp_path):
    normed = lava_dl_state(True)
    # One neuron has only zero weights; below, weights are so close to half a step that their last bit matters.
    normed["blocks.0.synapse.weight_g"][3] = 0
    source = load_checkpoint(save_state(tmp_path, normed), network(True))
    plain = load_checkpoint(tmp_path / "network.pt", network(False))
    assert netx.as_specs(plain) == netx.as_specs(source)
    state = lava_dl_state(False)
    state["blocks.0.synapse.weight"] = (torch.randint(-90, 90, (16, 20, 1, 1, 1)) + 0.5) / 32 * (1 + 1e-7)
    state["blocks.0.synapse.weight"][3] = 0
    source = load_checkpoint(save_state(tmp_path, state), network(False))
    again = load_checkpoint(tmp_path / "network.pt", network(True))
    assert netx.as_specs(again) == netx.as_specs(source)
    assert all(torch.isfinite(p).all() for p in again.parameters())


@pytest.mark.parametrize("shape", [(16, 20), (16, 20, 1, 1, 1), (16, 5, 2, 2, 1), (16, 4, 5)])
def test_weights_with_other_axes_load(tmp_path, shape):
    state = lava_dl_state(False)
    weight = state["blocks.0.synapse.weight"]
    state["blocks.0.synapse.weight"] = weight.reshape(shape)
    net = load_checkpoint(save_state(tmp_path, state), network(False))
    assert torch.equal(net.blocks[0].synapse.weight, weight)
    assert torch.equal(load_checkpoint(tmp_path / "network.pt").blocks[0].synapse.weight, weight)


def test_transposed_weights_are_refused(tmp_path):
    state = lava_dl_state(False)
    state["blocks.0.synapse.weight"] = state["blocks.0.synapse.weight"].squeeze().T
    with pytest.raises(CheckpointError, match=r"shape: blocks\.0\.synapse\.weight: expected .*, found \[20, 16\]"):
        load_checkpoint(save_state(tmp_path, state), network(False))


def test_another_number_of_lengths_than_of_weights_is_refused(tmp_path):
    state = lava_dl_state()
    state["blocks.0.synapse.weight_g"] = torch.ones(7, 1, 1, 1, 1)
    with pytest.raises(CheckpointError, match=r"missing: blocks\.0\.synapse\.weight \[16, 20"):
        load_checkpoint(save_state(tmp_path, state), network(False))


def test_a_file_saved_before_the_first_forward_pass_loads(tmp_path):
    """A file saved before the first forward pass has one delay and one decay for all channels."""
    state = lava_dl_state()
    state["blocks.0.delay.delay"] = torch.zeros(1)
    net = load_checkpoint(save_state(tmp_path, state), network())
    assert torch.equal(net.blocks[0].delay.delay, torch.zeros(16))
    net = load_checkpoint(tmp_path / "network.pt", network(shared_param=False))
    assert net.blocks[1].neuron.current_decay.tolist() == [1001.0] * 5


def test_decays_per_channel_load(tmp_path):
    state = lava_dl_state()
    state["blocks.0.neuron.current_decay"] = torch.arange(16.0) * 100
    state["blocks.0.neuron.voltage_decay"] = torch.arange(16.0) * 50
    net = load_checkpoint(save_state(tmp_path, state))
    assert net.blocks[0].layer_spec().i_decay.tolist() == list(range(0, 1600, 100))
    shared = state | {"blocks.0.neuron.voltage_decay": torch.tensor([50.0])}
    net = load_checkpoint(save_state(tmp_path, shared, "shared.pt"))
    assert net.blocks[0].layer_spec().v_decay.tolist() == [50] * 16
    with pytest.raises(CheckpointError, match=r"shape: blocks\.0\.neuron\.current_decay: expected \[1\], found \[16\]"):
        load_checkpoint(tmp_path / "network.pt", network())


def test_convolutions_are_not_taken_for_dense_blocks(tmp_path):
    state = torch.nn.ModuleList([cuba.Conv(PARAMS, 2, 4, 3), cuba.Conv(PARAMS, 4, 5, 3)]).state_dict(prefix="blocks.")
    with pytest.raises(CheckpointError, match=r"found \(neurons, inputs\) \[\(4, 18\), \(5, 36\)\]; a network with"):
        load_checkpoint(save_state(tmp_path, state))


@pytest.mark.parametrize("other", [(2, 4, (2, 3)), (12, 4, 1)])
def test_a_convolution_of_another_geometry_is_refused(tmp_path, other):
    torch.save(Network.from_blocks([cuba.Conv(PARAMS, 2, 4, (3, 2))]).state_dict(), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="shape: blocks.0.synapse.weight"):
        load_checkpoint(tmp_path / "a.pt", Network.from_blocks([cuba.Conv(PARAMS, *other)]))


def test_delays_of_pooling_are_loaded_before_the_first_forward_pass(tmp_path):
    pool = cuba.Pool(PARAMS, 2, delay=True)
    pool(torch.ones(1, 3, 4, 4, 5))
    torch.save(Network.from_blocks([pool]).state_dict(), tmp_path / "a.pt")
    fresh = load_checkpoint(tmp_path / "a.pt", Network.from_blocks([cuba.Pool(PARAMS, 2, delay=True)]))
    assert torch.equal(fresh[0].delay.delay, pool.delay.delay)
    other = Network.from_blocks([cuba.Pool(PARAMS, 3, delay=True)])
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "a.pt", other)
    assert not other[0].delay.sized  # nothing has changed


def test_a_normalisation_is_built_from_the_file(tmp_path):
    state = {**lava_dl_state(), "blocks.0.neuron.norm.running_mean": torch.arange(16.0) / 32}
    net = load_checkpoint(save_state(tmp_path, state))
    assert_state_equals(net, state)
    assert net.blocks[0].neuron.norm.bias.tolist() == [-2.0 * i for i in range(16)]
    assert net.blocks[1].neuron.norm is None


def test_stored_states_and_data_parallel_prefix_are_ignored(tmp_path):
    state = lava_dl_state()
    stored = {**state, "blocks.0.neuron.current_state": torch.zeros(32, 16)}
    stored = {f"module.{key}": value for key, value in stored.items()}
    assert_state_equals(load_checkpoint(save_state(tmp_path, stored), network()), state)


def test_a_mismatch_lists_every_key_and_shape(tmp_path):
    state = lava_dl_state()
    del state["blocks.1.neuron.voltage_decay"]
    state["blocks.0.delay.delay"] = torch.zeros(15)
    state["blocks.1.synapse.weight_v"] = torch.ones(5, 17, 1, 1, 1)
    state["blocks.2.synapse.weight"] = torch.ones(2, 5)
    net = network()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(save_state(tmp_path, state), net)
    assert str(error.value).splitlines() == [
        f"{tmp_path / 'network.pt'}: does not fit this network",
        "  missing: blocks.1.neuron.voltage_decay [1]",
        "  not in the network: blocks.2.synapse.weight [2, 5]",
        "  shape: blocks.0.delay.delay: expected [16], found [15]",
        "  shape: blocks.1.synapse.weight_v: expected [5, 16, 1, 1, 1], found [5, 17, 1, 1, 1]",
    ]
    assert_state_equals(net, before)  # nothing was loaded


def test_a_network_without_delays_refuses_delays(tmp_path):
    path = save_state(tmp_path, lava_dl_state())
    with pytest.raises(CheckpointError, match=r"not in the network: blocks\.0\.delay\.delay \[16\]"):
        load_checkpoint(path, network(delay=False))
    state = lava_dl_state()
    del state["blocks.0.delay.delay"]
    with pytest.raises(CheckpointError, match=r"missing: blocks\.0\.delay\.delay \[16\]"):
        load_checkpoint(save_state(tmp_path, state), network())


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"epoch": 3}, "expected a tensor under 'epoch', found int: save net.state_dict"),
        ({"state": {"w": torch.ones(2), "epoch": 3}}, "expected a tensor under 'state', found dict"),
        ([torch.ones(2)], "expected a state_dict, tensors by name, found a list"),
        ({}, "expected a state_dict, tensors by name, found a dict"),
        ({1: torch.ones(2)}, "expected keys of type str, found 1"),
        ({"w": torch.tensor([1.0, float("nan")])}, "expected finite numbers under 'w', found NaN or infinite ones"),
        ({"w": torch.tensor([float("-inf")])}, "expected finite numbers under 'w', found NaN or infinite ones"),
        ({"w": torch.ones(2, dtype=torch.int64)}, "expected floating-point numbers under 'w', found torch.int64"),
        ({"w": torch.ones(1).expand(1 << 40)}, r"expected at most \d+ bytes, found shape \[1099511627776\] under 'w'"),
        ({"w": torch.ones(2, 2).to_sparse()}, "found 'torch._utils._rebuild_sparse_tensor'"),
        (torch.nn.Linear(2, 2), r"expected tensors and plain values only, found '.*Linear'"),
        ({"w": torch.ones(2, 3)}, r"expected blocks 0, 1, .*found weights of blocks \[\]; the keys are \['w'\]"),
        ({"blocks.1.synapse.weight": torch.ones(2, 3)}, r"expected blocks 0, 1, .*found weights of blocks \[1\]"),
    ],
    ids=lambda v: None if isinstance(v, str) else type(v).__name__,
)
def test_unexpected_contents_raise(tmp_path, state, message):
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(save_state(tmp_path, state))


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a .* file, found none"):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(CheckpointError, match="no regular file"):
        load_checkpoint(tmp_path)


def test_torchs_old_format_is_refused(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="expected a file that torch.save wrote .*, found no zip archive"):
        load_checkpoint(tmp_path / "a.pt")


class Bomb:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def test_a_pickle_that_calls_something_is_refused(tmp_path):
    target = tmp_path / "ran"
    for bomb in (Bomb(open, str(target), "w"), Bomb(bytearray, 1 << 40), Bomb(torch.Tensor, 1 << 40)):
        torch.save({"w": bomb}, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match="expected tensors and plain values only, found '"):
            load_tree(tmp_path / "a.pt")
    assert not target.exists()


def rebuild(source, target, change):
    """Copy an archive record by record; `change(name, data)` gives new data, or None to leave the record out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for record in old.infolist():
            data = change(record.filename.rpartition("/")[2], old.read(record))
            if data is not None:
                new.writestr(record.filename, data)
    return target


def test_a_deeply_nested_pickle_is_refused(tmp_path):
    path = save_state(tmp_path, {"w": torch.ones(2)})
    deep = (
        b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"K\x01s."
    )  # a dictionary with a deeply nested key, whose hash recurses
    path = rebuild(path, tmp_path / "b.pt", lambda name, data: deep if name == "data.pkl" else data)
    with pytest.raises(CheckpointError, match="expected at most 1000 tensors, found a pickle with more"):
        load_tree(path)


def test_short_and_missing_records_raise(tmp_path):
    path = save_state(tmp_path, {"w": torch.ones(1000)})
    load_tree(rebuild(path, tmp_path / "same.pt", lambda name, data: data))
    short = rebuild(path, tmp_path / "short.pt", lambda name, data: data[:40] if name == "0" else data)
    with pytest.raises(CheckpointError, match="found an unreadable file|expected at most"):
        load_tree(short)
    gone = rebuild(path, tmp_path / "gone.pt", lambda name, data: None if name == "0" else data)
    with pytest.raises(CheckpointError, match="found an unreadable file: "):
        load_tree(gone)


def test_compressed_records_are_refused(tmp_path):
    path = save_state(tmp_path, {"w": torch.zeros(100_000)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record))
    with pytest.raises(CheckpointError, match="expected uncompressed records, found .* compressed"):
        load_tree(tmp_path / "b.pt")


def test_a_damaged_weight_raises(tmp_path):
    path = save_state(tmp_path, {"w": torch.arange(1000.0)})
    data = bytearray(path.read_bytes())
    position = data.index(torch.arange(1000.0).numpy().tobytes()[:64])
    data[position + 500] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="expected undamaged records, found .*/data/0 damaged"):
        load_tree(path)


def test_a_torchscript_program_is_refused(tmp_path):
    path = save_state(tmp_path, {"w": torch.ones(2)})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("network/constants.pkl", pickle.dumps(()))
    with pytest.raises(CheckpointError, match="found a TorchScript program"):
        load_tree(path)


def test_a_loaded_network_does_not_depend_on_the_file(tmp_path):
    """Tensors are memory-mapped while loading, but the network holds copies."""
    path = save_state(tmp_path, lava_dl_state())
    net = load_checkpoint(path)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with open(path, "r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert_state_equals(net, before)


def test_prefixes_of_wrapped_networks_are_ignored(tmp_path):
    net = network()
    averaged = torch.optim.swa_utils.AveragedModel(net)
    states = [averaged.state_dict(), {f"module._orig_mod.{name}": value for name, value in net.state_dict().items()}]
    for state in states:
        other = load_checkpoint(save_state(tmp_path, state), network())
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())


def test_a_network_among_other_things_is_found(tmp_path):
    net = network()
    path = tmp_path / "run.pt"
    torch.save(
        {"epoch": 3, "net": net.state_dict(), "optimizer": torch.optim.Adam(net.parameters()).state_dict()}, path
    )
    loaded = load_checkpoint(path, network())
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), loaded.parameters(), strict=True))
    torch.save({"net": net.state_dict(), "mean": net.state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"expected one network, found \['net', 'mean'\]"):
        load_checkpoint(path, network())


def test_a_package_without_the_repository_says_where_trained_networks_are(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "TRAINED", tmp_path / "Trained")
    for load, name in ((load_checkpoint, "network.pt"), (netx.load, "network.net")):
        with pytest.raises(FileNotFoundError, match="found none; the trained networks come with the repository"):
            load(paths.TRAINED / "best" / name)
        with pytest.raises(FileNotFoundError, match="found none$"):
            load(tmp_path / name)
    paths.TRAINED.mkdir()
    with pytest.raises(FileNotFoundError, match="found none$"):
        load_checkpoint(paths.TRAINED / "network.pt")
