"""Batches for torch's own DataLoader: dense tensors that remember the events from which they were made.

A `DataLoader` usually collects the samples of a batch one by one and stacks them: it writes 89 MB twice, and the first
layer then searches them for spikes. Here the samples of a batch share one list of spikes. `default_collate` makes one
dense tensor from the list and attaches the list to it. A worker process sends only the list.
"""

import threading
import weakref
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils._pytree import tree_map
from torch.utils.data import get_worker_info
from torch.utils.data._utils.collate import default_collate_fn_map

from ..jit.compiled import njit
from ..spikes import Spikes, attach

#: Memory of recent dense batches, reused when a batch is no longer referenced: new memory costs as much as filling it.
_buffers: list[tuple[np.ndarray, weakref.ref[np.ndarray]]] = []
_lock = threading.Lock()


@njit(nogil=True)
def _scatter(indptr, channel, value, out):
    bins = out.shape[2]
    for row in range(len(indptr) - 1):
        for i in range(indptr[row], indptr[row + 1]):
            out[row // bins, channel[i], row % bins] = value


def make_dense(indptr: torch.Tensor, channel: torch.Tensor, shape: tuple[int, int, int], value: float) -> torch.Tensor:
    """Return a dense tensor [B, C, T], float32, that remembers its events."""
    with _lock:
        free = (i for i, (memory, array) in enumerate(_buffers) if memory.shape == shape and array() is None)
        i = next(free, None)
        memory = np.zeros(shape, np.float32) if i is None else _buffers.pop(i)[0]
        array = memory.view()  # the tensor refers to this array as long as a tensor, view or array uses the memory
        _buffers.append((memory, weakref.ref(array)))
        del _buffers[:-2]  # two are enough: the batch in use and the next
    dense = torch.from_numpy(array)
    if i is not None:
        dense.zero_()
    _scatter(indptr.numpy(), channel.numpy(), np.float32(value), array)
    return attach(dense, Spikes(indptr, channel, shape, value))


class Sample(tuple):
    """One recording of a `Batch`: (spikes [C, T], label)."""


class Batch(list):
    """The samples of a batch, as a list; a sample's dense tensor is made when the sample is first read.

    Parameters
    ----------
    spikes : Spikes
        Of shape (B, C, T).
    labels : int64 array [B]

    Attributes
    ----------
    in_order : bool
        Whether the list still holds the samples of `spikes`, in their order. Their numbers may have been changed.
    """

    def __init__(self, spikes: Spikes, labels: np.ndarray):
        super().__init__([_UNREAD] * len(labels))
        self.spikes, self.labels, self.in_order = spikes, labels, True

    def __getitem__(self, n):
        if isinstance(n, slice):
            return [self[i] for i in range(*n.indices(len(self)))]
        sample = super().__getitem__(n)
        if sample is _UNREAD:
            n = range(len(self))[n]
            sample = self._sample(n)
            super().__setitem__(n, sample)
        return sample

    def __iter__(self) -> Iterator:
        return (self[n] for n in range(len(self)))

    def __radd__(self, before: list) -> list:
        return before + list(self)

    def __repr__(self) -> str:
        return repr(list(self))

    def __reduce_ex__(self, protocol):
        if self.in_order and not self.read:
            return Batch, (self.spikes, self.labels)
        return list, (list(self),)

    @property
    def read(self) -> list[int]:
        """The numbers of the samples that have been read, and may have been changed."""
        return [n for n, sample in enumerate(super().__iter__()) if sample is not _UNREAD]

    def _events(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the spikes of sample `n` as in `Spikes`: the limits of its rows, and its channels."""
        bins = self.spikes.shape[2]
        indptr = self.spikes.indptr[n * bins : (n + 1) * bins + 1].numpy()
        return indptr - indptr[0], self.spikes.channel[indptr[0] : indptr[-1]].numpy()

    def _sample(self, n: int) -> Sample:
        dense = np.zeros((1, *self.spikes.shape[1:]), np.float32)
        _scatter(*self._events(n), np.float32(self.spikes.value), dense)
        return Sample((torch.from_numpy(dense[0]), int(self.labels[n])))

    def changed(self, n: int) -> bool:
        """Return whether a sample that has been read no longer equals its spikes."""
        dense, (indptr, channel) = self[n][0], self._events(n)
        if dense.shape != self.spikes.shape[1:] or torch.count_nonzero(dense) != len(channel):
            return True
        step = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        return not (dense.detach().numpy()[channel, step] == np.float32(self.spikes.value)).all()


_UNREAD = object()


def _of_list(name: str) -> Callable:
    def call(self, *args, **kwargs):
        for n in range(len(self)):
            self[n]  # `list` itself sees only samples that have been made
        self.in_order = False
        return getattr(list, name)(self, *(list(a) if isinstance(a, Batch) else a for a in args), **kwargs)

    return call


# These methods change the list, or read its memory directly.
for _name in (
    *("append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"),
    *("__add__", "__contains__", "__delitem__", "__eq__", "__iadd__", "__imul__", "__mul__", "__ne__", "__reversed__"),
    *("__rmul__", "__setitem__"),
):
    setattr(Batch, _name, _of_list(_name))


class _LazyBatch(torch.Tensor):
    """A worker's dense batch, computed when the worker first reads it, else when it arrives in another process."""

    _spikes: Spikes
    _dense: torch.Tensor | None

    @staticmethod
    def __new__(cls, spikes: Spikes):
        self = torch.Tensor._make_wrapper_subclass(cls, spikes.shape, dtype=torch.float32)
        self._spikes, self._dense = spikes, None
        return self

    def dense(self) -> torch.Tensor:
        if self._dense is None:
            self._dense = make_dense(*_arguments(self._spikes))
        return self._dense

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = tree_map(lambda a: a.dense() if isinstance(a, cls) else a, (args, kwargs or {}))
        return func(*args, **kwargs)

    def __repr__(self, **kwargs) -> str:  # type: ignore[override]  # torch leaves its own untyped
        return repr(self.dense())

    def __reduce_ex__(self, protocol):
        if self._dense is not None:  # its numbers may have been changed
            return torch.Tensor.clone, (self._dense,)
        return make_dense, _arguments(self._spikes)


def _of_dense(name: str) -> Callable:
    def call(self, *args, **kwargs):
        return getattr(self.dense(), name)(*args, **kwargs)

    return call


# These methods bypass `__torch_dispatch__`, because they read the tensor's memory.
for _name in ("numpy", "tolist", "data_ptr", "untyped_storage", "share_memory_", "__dlpack__", "__deepcopy__"):
    setattr(_LazyBatch, _name, _of_dense(_name))


def _arguments(spikes: Spikes) -> tuple:
    return spikes.indptr, spikes.channel, spikes.shape, spikes.value


def _collate(batch, *, collate_fn_map=None) -> list[torch.Tensor]:
    """Collate the samples of a `Batch`, or any list of `Sample`, for torch's `default_collate`."""
    # `default_collate` itself reads the first sample.
    if not isinstance(batch, Batch) or not batch.in_order or any(map(batch.changed, batch.read)):
        return [torch.stack([spike for spike, _ in batch]), torch.tensor([label for _, label in batch])]
    labels = torch.from_numpy(np.array(batch.labels, np.int64))
    if get_worker_info() is not None:
        return [_LazyBatch(batch.spikes), labels]
    return [make_dense(*_arguments(batch.spikes)), labels]


default_collate_fn_map[Sample] = _collate
