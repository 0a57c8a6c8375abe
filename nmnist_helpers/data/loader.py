"""Make batches directly from packed events: shuffle, augment and bin them without making a dense tensor."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sized
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from ..checks import as_number, whole_number
from ..geometry import CHANNELS
from ..io import Event, PackedEvents
from ..io.packed import OTHER_EVENTS
from ..spikes import Spikes
from .augmentation import UNIFORMS, Augment, compiled_part
from .binning import bin_edges, rasterise, time_bins
from .dataset import as_indices, flat_bins
from .device import DeviceEvents
from .draw import IDENTITY
from .event_file import MappedEvents


class EventLoader:
    """Iterate over a dataset in batches of spikes, many times faster than one recording at a time.

    An epoch depends only on (seed, epoch): the order of the recordings and the augmentation of each are the same on the
    CPU and on a GPU, for every batch size, and when an epoch is resumed in the middle. Each iteration over the loader
    is the next epoch, even if the previous one was not finished.

    Parameters
    ----------
    dataset : NMNISTDataset, torch.utils.data.Subset of one, or PackedEvents
    batch_size : int
    shuffle : bool
        Shuffle the recordings in every epoch. Training needs it: real recordings are sorted by digit.
    seed : int
        Seed of the shuffling and of the augmentation.
    transform : Augment or function Event -> Event, optional
        By default the dataset's own. `Augment` runs compiled. Any other function is called for one recording at a
        time, which is slow, and its random numbers do not depend on `seed`. Pass False for no transform.
    device : str or torch.device
        Device of the batches. On a GPU all events are kept there (1 GB for the full training set), and the batches are
        selected, augmented and binned there.
    drop_last : bool
        Leave out the last batch if it is not full.
    sampling_time, sample_length : float, optional
        Length of a time bin and of a sample in ms; by default the dataset's own (1 and 300 for PackedEvents).
    max_events : int, optional
        Maximum number of events that are used of each recording, spread evenly over its events; by default all. If
        events are dropped, one line is printed; the numbers are in `dropped_events` and `capped_recordings`.
    on_device : bool, optional
        Keep the events on `device` and make the batches there. By default True unless `device` is the CPU.
    value : float, optional
        Value of a spike; by default 1 / sampling_time, as in lava-dl. The chip knows only the value 1: a network that
        is to be exported must be trained and tested with it.

    Yields
    ------
    spikes : Spikes
        Of shape (B, 2312, T); `DenseSpikes` if Triton makes the batches.
    labels : int64 tensor [B]

    Raises
    ------
    ValueError, TypeError, IndexError
        If an argument of the constructor has another type or range than expected.

    Examples
    --------
    >>> for spikes, label in EventLoader(training_set, batch_size=32, shuffle=True, transform=augment):
    ...     output = net(spikes)
    """

    def __init__(
        self,
        dataset: Dataset | PackedEvents,
        batch_size: int = 32,
        shuffle: bool = False,
        seed: int = 0,
        transform: Augment | Callable[[Event], Event] | bool | None = None,
        device: str | torch.device = "cpu",
        drop_last: bool = False,
        sampling_time: float | None = None,
        sample_length: float | None = None,
        max_events: int | None = None,
        on_device: bool | None = None,
        value: float | None = None,
    ):
        self.batch_size, self.seed = whole_number("batch_size", batch_size, 1), whole_number("seed", seed, 0)
        self.max_events = None if max_events is None else whole_number("max_events", max_events, 1)
        base, self.index = _unwrap(dataset)
        self.packed = base if isinstance(base, PackedEvents) else base.packed
        if not (isinstance(self.packed, MappedEvents) and self.packed.is_unchanged()):
            self.packed.validate()
        used: Any = getattr(base, "transform", None) if transform is None else (transform or None)
        if used is not None and not callable(used):
            raise TypeError(f"transform: expected an Augment or a function, found {type(transform).__name__}")
        self.transform: Callable[[Event], Event] | None = used
        self.sampling_time = getattr(base, "sampling_time", 1) if sampling_time is None else sampling_time
        self.sample_length = getattr(base, "sample_length", 300) if sample_length is None else sample_length
        time_bins(self.sample_length, self.sampling_time)  # raises if they are invalid
        if value is not None and not 0 < as_number(value) < math.inf:
            raise ValueError(f"value: expected a positive number, found {value!r}")
        self._value = value
        self.shuffle, self.drop_last = bool(shuffle), bool(drop_last)
        self.device = torch.device(device)
        if not len(self.index):
            raise ValueError("dataset: expected at least one recording, found none")
        if self.drop_last and len(self.index) < self.batch_size:
            raise ValueError(
                f"drop_last: expected at least batch_size={batch_size} recordings, found {len(self.index)}"
            )
        self.epoch, self.position = 0, 0
        self._resume = False
        self._labels = torch.from_numpy(self.packed.labels[self.index])
        on_device = self.device.type != "cpu" if on_device is None else on_device
        self._events: DeviceEvents | None = None
        # A transform that is not compiled takes one Event at a time, on the CPU.
        if on_device and self._slow_transform is None:
            self._events = DeviceEvents.of(self.packed, self.device)
            self._labels = self._labels.to(self.device)
        self._plan: tuple | None = None
        self._edges: tuple | None = None
        self._bin_edges(self.bins, self.sampling_time)  # on a GPU, the first batch then need not wait for them
        self._count_dropped()

    @property
    def bins(self) -> int:
        """Number of time bins of a sample."""
        return time_bins(self.sample_length, self.sampling_time)

    @property
    def value(self) -> float:
        """Value of a spike."""
        return 1 / self.sampling_time if self._value is None else float(self._value)

    @property
    def _slow_transform(self) -> Callable[[Event], Event] | None:
        """The transform, if it is not compiled and has to be called for each recording; else None."""
        return None if compiled_part(self.transform) else self.transform or None

    def _count_dropped(self) -> None:
        self.capped_recordings = self.dropped_events = 0
        if self.max_events is None:
            return
        counts = self.packed.counts[self.index]
        over = np.maximum(counts - self.max_events, 0)
        self.capped_recordings, self.dropped_events = int((over > 0).sum()), int(over.sum())
        if self.dropped_events:
            print(
                f"EventLoader: max_events={self.max_events} drops {self.dropped_events} of {counts.sum()} events "
                f"({self.dropped_events / counts.sum():.2%}), from {self.capped_recordings} of {len(counts)} "
                "recordings"
            )

    def __len__(self) -> int:
        full, rest = divmod(len(self.index), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at the beginning of `epoch` (counted from 0)."""
        self.epoch, self.position, self._resume = whole_number("epoch", epoch, 0), 0, False

    def _identity(self) -> dict:
        chosen = hashlib.sha256(self.index.astype("<i8").tobytes())
        for column in (self.packed.labels, self.packed.ids, self.packed.counts):
            chosen.update(column[self.index].astype("<i8").tobytes())
        return {
            "seed": self.seed,
            "shuffle": self.shuffle,
            "batch_size": self.batch_size,
            "recordings": len(self.index),
            "recordings_sha256": chosen.hexdigest()[:16],
            "sampling_time": self.sampling_time,
            "value": self.value,
            "bins": self.bins,
            "drop_last": self.drop_last,
            "max_events": self.max_events,
            "transform": self._name_of_transform(),
        }

    def _name_of_transform(self) -> str | None:
        """Return the settings of an `Augment`, or the name of another transform, whose settings are not known."""
        if not self.transform:
            return None
        if compiled_part(self.transform):
            return repr(self.transform)
        return getattr(self.transform, "__qualname__", type(self.transform).__qualname__)

    def state_dict(self) -> dict:
        """Return the state: the epoch, the number of batches yielded in it, and settings for a later check."""
        return self._identity() | {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state`: the next iteration starts with the batch after the last one yielded.

        Raises
        ------
        ValueError
            If the state comes from a loader with another seed, shuffle, batch_size, drop_last, max_events, transform,
            sampling_time, value or number of bins, or with other recordings.
        """
        missing = {*self._identity(), "epoch", "position"} - set(state)
        if missing:
            raise ValueError(f"state: expected a result of state_dict, found none of {', '.join(sorted(missing))}")
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(f"{name}: expected {value} as in this loader, found {state.get(name)} in the state")
        epoch, position = int(state["epoch"]), int(state["position"])
        if epoch < 0 or not 0 <= position <= len(self):
            raise ValueError(
                f"state: expected an epoch from 0 and a position in 0..{len(self)}, found {epoch}, {position}"
            )
        if position == len(self):
            epoch, position = epoch + 1, 0
        self.epoch, self.position, self._resume = epoch, position, True

    def __iter__(self) -> Iterator[tuple[Spikes, torch.Tensor]]:
        if self.position and not self._resume:
            self.epoch, self.position = self.epoch + 1, 0
        self._resume = False
        epoch = self.epoch
        for i in range(self.position, len(self)):
            batch = self.batch(i, epoch)
            self.position = i + 1
            yield batch

    def batch(self, i: int, epoch: int | None = None) -> tuple[Spikes, torch.Tensor]:
        """Return batch `i` of an epoch, independently of the iteration.

        Parameters
        ----------
        i : int
            0 .. len(self) - 1.
        epoch : int, optional
            By default the current one.

        Raises
        ------
        IndexError
            If there is no such batch.
        ValueError
            If `epoch` is not a whole number from 0.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"batch: expected one of {len(self)}, found number {i}")
        order, index, draws = self._epoch_plan(self.epoch if epoch is None else whole_number("epoch", epoch, 0))
        bins, sampling_time = self.bins, self.sampling_time
        edges = self._bin_edges(bins, sampling_time)
        part = slice(i * self.batch_size, (i + 1) * self.batch_size)
        labels, index, draws = self._labels[order[part]], index[part], draws[part]
        augment = compiled_part(self.transform)
        if self._slow_transform is not None:  # also one that was set later
            indptr, channel = self._bin_one_by_one(index.cpu().numpy(), self._slow_transform, bins, sampling_time)
        elif self._events is not None:
            return self._events.rasterise(index, draws, edges, self.value, augment, self.max_events), labels
        else:
            indptr, channel = rasterise(
                self.packed, index.numpy(), draws.numpy(), edges.numpy(), augment, self.max_events
            )
        spikes = Spikes(torch.from_numpy(indptr), torch.from_numpy(channel), (len(index), CHANNELS, bins), self.value)
        return spikes.to(self.device), labels.to(self.device)

    def _epoch_plan(self, epoch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the order of an epoch [N], the recordings in that order [N], and the draw of each [N, 8]."""
        augment = compiled_part(self.transform)
        settings = None if augment is None else augment.settings
        key = epoch, self.seed, self.shuffle, settings  # what order and draws depend on
        plan = self._plan  # read only once, because another thread may replace it with another epoch's
        if plan is None or plan[0] != key:
            size = len(self.index)
            order = np.arange(size)
            if self.shuffle:
                order = np.random.default_rng([self.seed, epoch, 0]).permutation(size)
            if augment is not None:
                draws = augment.draws(np.random.default_rng([self.seed, epoch, 1]).random((size, UNIFORMS)))
            else:
                draws = np.broadcast_to(IDENTITY, (size, len(IDENTITY))).copy()
            arrays = [torch.from_numpy(array) for array in (order, self.index[order], draws)]
            if self._events is not None:
                arrays = [array.to(self.device) for array in arrays]
            self._plan = plan = (key, *arrays)
        return plan[1:]

    def _bin_edges(self, bins: int, sampling_time: float) -> torch.Tensor:
        """Return the last whole microsecond of each bin, int64 [T], on the device if the batches are made there."""
        known = self._edges  # read only once, like the plan
        if known is None or known[0] != (bins, sampling_time):
            edges = torch.from_numpy(bin_edges(bins, sampling_time))
            self._edges = known = (bins, sampling_time), edges if self._events is None else edges.to(self.device)
        return known[1]

    def _bin_one_by_one(
        self, index: np.ndarray, transform: Callable[[Event], Event], bins: int, sampling_time: float
    ) -> tuple[np.ndarray, np.ndarray]:
        spikes = []
        for b, n in enumerate(index):
            x, y, p, t = self.packed.recording(n)
            if self.max_events and len(t) > self.max_events:
                kept = np.diff(np.arange(len(t) + 1) * self.max_events // len(t)) > 0
                x, y, p, t = x[kept], y[kept], p[kept], t[kept]
            flat = flat_bins(transform(Event(x, y, p, t / 1000)), bins, sampling_time)
            channel, k = np.divmod(flat, bins)
            spikes.append((b * bins + k) * CHANNELS + channel)
        spike = np.unique(np.concatenate(spikes))
        indptr = np.searchsorted(spike, CHANNELS * np.arange(len(index) * bins + 1))
        return indptr.astype(np.int32), (spike % CHANNELS).astype(np.int32)


def _unwrap(dataset: Dataset | PackedEvents) -> tuple:
    """Return the dataset inside all `Subset`s, and the numbers of the recordings that they select."""
    indices = None
    while isinstance(dataset, Subset):
        own = as_indices(dataset.indices)
        indices = own if indices is None else own[indices]
        dataset = dataset.dataset
    if not isinstance(dataset, PackedEvents) and not hasattr(dataset, "packed"):
        hint = OTHER_EVENTS
        if isinstance(dataset, ConcatDataset):
            hint = "PackedEvents.concatenate([a.packed, b.packed]) joins datasets"
        raise TypeError(
            "dataset: expected an NMNISTDataset, a Subset of one, or PackedEvents, found"
            f" {type(dataset).__name__}; {hint}"
        )
    if not getattr(dataset, "is_plain", True):
        raise TypeError(
            f"dataset: expected an NMNISTDataset, found the subclass {type(dataset).__name__}, which makes its samples"
            " itself; use a torch DataLoader, or a transform"
        )
    size = len(cast(Sized, dataset))
    indices = np.arange(size) if indices is None else indices
    if len(indices) and (indices.min() < -size or indices.max() >= size):
        raise IndexError(f"subset: expected indices in {-size}..{size - 1}, found {indices.min()}..{indices.max()}")
    return dataset, indices % size if size else indices
