"""Save and load trees of plain values, arrays and tensors, and refuse damaged files."""

import pytest
import torch
from support.neurons import Blocks

from nmnist_helpers.checkpoint import CheckpointError, archive, load_tree, save_tree

pytestmark = pytest.mark.filterwarnings("error")


def tree(seed=0):
    """Return a tree such as a run may save: weights, the optimiser's state, random states and settings."""
    torch.manual_seed(seed)
    net = Blocks((20, 16, 5))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    net(torch.ones(2, 20, 30)).sum().backward()
    optimizer.step()
    return {
        "net": net.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": [torch.get_rng_state(), torch.zeros(0)],
        "settings": {"name": "a", "epoch": 3, "loss": float("inf"), "best": None, "split": (0.1, [True, "a"])},
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_a_tree_survives_a_round_trip(tmp_path):
    save_tree(tmp_path / "a.pt", tree())
    assert same(load_tree(tmp_path / "a.pt"), tree())
    assert same(torch.load(tmp_path / "a.pt", weights_only=True), tree())


def test_equal_trees_give_equal_bytes(tmp_path):
    """The bytes do not depend on the file's name, nor on whether equal strings or tensors are the same object."""
    save_tree(tmp_path / "a.pt", tree())
    other = tree()
    part = torch.arange(100.0)
    other["random"][1] = part[50:50]  # a view of a larger storage
    other["settings"]["name"] = "".join(["", "a"])
    save_tree(tmp_path / "another name.pt", other)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another name.pt").read_bytes()
    save_tree(tmp_path / "a.pt", load_tree(tmp_path / "a.pt"))
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another name.pt").read_bytes()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": {"b": pytest}}, r"a.pt: expected tensors and plain values, found module under 'a\.b'"),
        ({"a": [0, {1}]}, r"found set under 'a\.1'"),
        ({(1, 2): 0}, r"expected keys of type str or int, found \(1, 2\)"),
        ({"w": torch.ones(2).to_sparse()}, "expected a plain tensor under 'w', found a torch.sparse.FloatTensor"),
        ({"w": torch.ones(2, dtype=torch.complex64)}, "expected a plain tensor under 'w'"),
        (torch.ones(1).expand(1 << 29), r"expected at most 1073741824 bytes, found shape \[536870912\]"),
        ([torch.ones(1)] * 1200, "expected one data.pkl and at most 1000 tensors"),
        ([0] * 200_000, "expected at most 100000 values"),
    ],
    ids=["module", "set", "key", "sparse", "complex", "large", "many tensors", "many values"],
)
def test_what_cannot_be_loaded_is_not_saved(tmp_path, value, message):
    with pytest.raises(CheckpointError, match=message):
        save_tree(tmp_path / "a.pt", value)
    assert not list(tmp_path.iterdir())


def test_whatever_is_saved_can_be_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "MAX_FILE", 40_000)
    with pytest.raises(CheckpointError, match="expected at most 40000 bytes, found 4"):
        save_tree(tmp_path / "a.pt", {"w": torch.zeros(9990)})  # with the pickle beside it, more than 40,000
    save_tree(tmp_path / "a.pt", {"w": torch.zeros(9000)})
    assert load_tree(tmp_path / "a.pt")["w"].shape == (9000,)


def test_tensors_that_share_memory_are_loaded(tmp_path):
    weight = torch.randn(1000)
    torch.save({"a": weight, "b": weight, "c": weight[10:].view(99, 10)}, tmp_path / "a.pt")
    tree = load_tree(tmp_path / "a.pt")
    assert torch.equal(tree["a"], weight)
    assert torch.equal(tree["b"], weight)
    assert torch.equal(tree["c"], weight[10:].view(99, 10))


def test_a_tree_that_is_larger_than_its_file_is_refused(tmp_path):
    """The trees are nested lists that repeat the same list, and a list that contains itself."""
    nested = []
    for _ in range(30):
        nested = [nested, nested]
    torch.save(nested, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="expected at most 100000 values"):
        load_tree(tmp_path / "a.pt")
    nested = []
    nested.append(nested)
    torch.save(nested, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="expected at most 32 levels"):
        load_tree(tmp_path / "a.pt")


def test_a_damaged_tree_is_refused_or_unchanged(tmp_path):
    """This holds for any flipped bit; torch.load reads most of these files and returns wrong numbers."""
    save_tree(tmp_path / "a.pt", tree())
    data = (tmp_path / "a.pt").read_bytes()
    refused = 0
    for index in range(60):
        damaged = bytearray(data)
        damaged[(index * 7919 + 40) * 131 % len(data)] ^= 1 << index % 8
        (tmp_path / "b.pt").write_bytes(damaged)
        try:
            assert same(load_tree(tmp_path / "b.pt"), tree())
        except CheckpointError as error:
            refused += str(error).startswith(f"{tmp_path / 'b.pt'}: expected ")
    assert refused > 30
    for length in (0, 1, 1000, len(data) - 1):
        (tmp_path / "b.pt").write_bytes(data[:length])
        with pytest.raises(CheckpointError):
            load_tree(tmp_path / "b.pt")
