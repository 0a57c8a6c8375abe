"""Test that spikes stored as bytes behave like a list of spikes, with the same numbers."""

import pytest
import torch

from nmnist_helpers.spikes import DenseSpikes, Spikes


@pytest.fixture
def events() -> Spikes:
    torch.manual_seed(0)
    spikes = Spikes.from_dense((torch.rand(3, 37, 11) < 0.1).float())
    spikes.value = 1 / 0.95
    return spikes


@pytest.mark.parametrize("width", [None, 64])
def test_bytes_represent_the_same_spikes(events, width):
    dense = DenseSpikes.from_events(events, width)
    assert dense.data.shape == (3, 11, width or 37)
    assert (dense.shape, dense.value, dense.count, dense.density) == (
        events.shape, events.value, events.count, events.density,
    )  # fmt: skip
    assert len(dense) == 3
    assert torch.equal(dense.indptr, events.indptr)
    assert torch.equal(dense.channel, events.channel)
    for dtype in (torch.float32, torch.uint8, torch.float64):
        assert torch.equal(dense.rows(dtype, 1), events.rows(dtype, 1))
    assert torch.equal(dense.rows(), events.rows())
    assert dense.rows().dtype == torch.float32
    tensor = dense.dense()
    assert torch.equal(tensor, events.dense())
    assert Spikes.from_dense(tensor) is dense


def test_a_list_follows_a_change_of_the_bytes(events):
    dense = DenseSpikes.from_events(events)
    assert dense.count == events.count
    dense.data.zero_()
    assert (dense.count, float(dense.rows().sum())) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rows_of_16_bits(events, dtype):
    assert torch.equal(events.rows(dtype), events.rows().to(dtype))


def test_bytes_are_made_from_rows(events):
    rows = events.rows(torch.uint8, 1)
    dense = DenseSpikes.from_rows(rows, 0.5)
    assert dense.shape == events.shape
    assert torch.equal(dense.rows(), events.rows(value=0.5))
    assert "shape=(3, 37, 11), value=0.5" in repr(dense)


def test_bytes_move_to_another_device(events):
    dense = DenseSpikes.from_events(events, 64)
    assert dense.to("cpu") is dense
    there = dense.to("meta")
    assert isinstance(there, DenseSpikes)
    assert (there.device.type, there.shape, there.value) == ("meta", dense.shape, dense.value)


@pytest.mark.parametrize(
    ("data", "channels", "message"),
    [
        (torch.zeros(1, 2, 3), None, r"uint8 tensor \[B, T, C\], found torch.float32 \[1, 2, 3\]"),
        (torch.zeros(2, 3, dtype=torch.uint8), None, r"found torch.uint8 \[2, 3\]"),
        (torch.zeros(1, 2, 3, dtype=torch.uint8), 4, "1 to 3 channels in rows of 3, found 4"),
    ],
)
def test_invalid_data_are_refused(data, channels, message):
    with pytest.raises(ValueError, match=message):
        DenseSpikes(data, channels)


@pytest.mark.gpu
@pytest.mark.parametrize("value", [1.0, 0.8, -2.0])
def test_spikes_are_found_in_a_dense_tensor_on_a_gpu(events, value):
    dense = (events.dense() != 0).float() * value
    found = Spikes.from_dense(dense.cuda())
    assert isinstance(found, DenseSpikes)
    assert found.value == pytest.approx(value)
    assert torch.equal(found.rows().cpu(), dense.transpose(1, 2))
    assert Spikes.from_dense(torch.randn(1, 2, 3).cuda()) is None
    assert Spikes.from_dense(torch.full((1, 2, 3), float("nan")).cuda()) is None
    assert Spikes.from_dense(torch.zeros(1, 2, 3).cuda()).count == 0
