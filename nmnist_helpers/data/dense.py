"""Batches for a plain DataLoader: dense tensors that remember the events they were made from.

A `DataLoader` asks for the samples of a batch one by one and stacks them: 89 MB are written twice, and then searched
for the spikes that they were made of. Here a batch of samples is one list of spikes. `default_collate` makes one dense
tensor of it that remembers the list; from a worker the list alone is sent.
"""

import sys
import threading
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numba import njit
from torch.utils._pytree import tree_map
from torch.utils.data import get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from ..spikes import Spikes, attach

#: Memory of dense batches that nobody holds any more, to be used again: new memory costs as much as filling it.
_buffers: list[np.ndarray] = []
_lock = threading.Lock()


@njit(cache=True, nogil=True)
def _scatter(indptr, channel, value, out):
    bins = out.shape[2]
    for row in range(len(indptr) - 1):
        for i in range(indptr[row], indptr[row + 1]):
            out[row // bins, channel[i], row % bins] = value


def make_dense(indptr: torch.Tensor, channel: torch.Tensor, shape: tuple[int, int, int], value: float) -> torch.Tensor:
    """A dense tensor [B, C, T], float32, that remembers its events."""
    with _lock:
        for buffer in _buffers:
            # A tensor, a view of it or an array made of it holds the buffer: two names here, one in the call.
            if buffer.shape == shape and sys.getrefcount(buffer) == 3:
                dense = torch.from_numpy(buffer).zero_()
                break
        else:
            buffer = np.zeros(shape, np.float32)
            dense = torch.from_numpy(buffer)
            _buffers.append(buffer)
            del _buffers[:-2]  # the batch in use and the next
    _scatter(indptr.numpy(), channel.numpy(), np.float32(value), buffer)
    return attach(dense, Spikes(indptr, channel, shape, value))


class Sample(tuple):
    """One recording of a `Batch`: (spikes [C, T], label)."""


class Batch(Sequence):
    """The samples of a batch, each made dense when it is asked for.

    Parameters
    ----------
    spikes : Spikes
    labels : int64 array [B]
    """

    def __init__(self, spikes: Spikes, labels: np.ndarray):
        self.spikes, self.labels = spikes, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, n):
        if isinstance(n, slice):
            return [self._sample(i) for i in range(*n.indices(len(self)))]
        return self._sample(range(len(self))[n])

    def __iter__(self) -> Iterator[Sample]:
        return (self._sample(n) for n in range(len(self)))

    def _sample(self, n: int) -> Sample:
        _, channels, bins = self.spikes.shape
        first, last = n * bins, (n + 1) * bins
        indptr = self.spikes.indptr[first : last + 1].numpy()
        dense = np.zeros((1, channels, bins), np.float32)
        channel = self.spikes.channel[indptr[0] : indptr[-1]].numpy()
        _scatter(indptr - indptr[0], channel, np.float32(self.spikes.value), dense)
        return Sample((torch.from_numpy(dense[0]), int(self.labels[n])))


class _Unsent(torch.Tensor):
    """A worker's dense batch: made where it is first read, in the worker or in the process that it is sent to."""

    _spikes: Spikes
    _whole: torch.Tensor | None

    @staticmethod
    def __new__(cls, spikes: Spikes):
        self = torch.Tensor._make_wrapper_subclass(cls, spikes.shape, dtype=torch.float32)
        self._spikes, self._whole = spikes, None
        return self

    def whole(self) -> torch.Tensor:
        if self._whole is None:
            self._whole = make_dense(*_parts(self._spikes))
        return self._whole

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = tree_map(lambda a: a.whole() if isinstance(a, cls) else a, (args, kwargs or {}))
        return func(*args, **kwargs)

    def numpy(self, *, force: bool = False) -> np.ndarray:
        return self.whole().numpy(force=force)

    def tolist(self) -> list:
        return self.whole().tolist()

    def __repr__(self, **kwargs) -> str:  # type: ignore[override]  # torch leaves its own untyped
        return repr(self.whole())

    def __reduce_ex__(self, protocol):
        if self._whole is not None:  # it may have been changed
            return torch.Tensor.clone, (self._whole,)
        return make_dense, _parts(self._spikes)


def _parts(spikes: Spikes) -> tuple:
    return spikes.indptr, spikes.channel, spikes.shape, spikes.value


def _collate(batch, *, collate_fn_map=None) -> list[torch.Tensor]:
    """What `default_collate` does with the samples of a `Batch`, or with any list of samples."""
    if not isinstance(batch, Batch):
        return [torch.stack([spike for spike, _ in batch]), torch.tensor([label for _, label in batch])]
    labels = torch.from_numpy(np.array(batch.labels, np.int64))
    if get_worker_info() is not None:
        return [_Unsent(batch.spikes), labels]
    return [make_dense(*_parts(batch.spikes)), labels]


default_collate_fn_map[Sample] = _collate
