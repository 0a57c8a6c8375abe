"""Many recordings side by side in five flat arrays: the form in which whole datasets travel."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..geometry import MAX_TIME, SIDE

#: Array name -> data type, in the order of the dataclass fields.
EVENT_ARRAYS = {"x": np.uint8, "y": np.uint8, "p": np.uint8, "t": np.int32}
RECORDING_ARRAYS = {"offsets": np.int64, "labels": np.int64, "ids": np.int64}


@dataclass
class PackedEvents:
    """Events of N recordings, one recording after the other, each in order of time.

    Parameters
    ----------
    x, y : uint8 array [E]
        Pixel column and row, 0..33.
    p : uint8 array [E]
        Polarity, 1 = ON.
    t : int32 array [E]
        Time since the recording's start, microseconds.
    offsets : int64 array [N + 1]
        The events of recording n are ``offsets[n]:offsets[n + 1]``.
    labels : int64 array [N]
        Digit 0..9.
    ids : int64 array [N]
        1-based index of the digit image that was shown, 0 where it is not known.
    """

    x: np.ndarray
    y: np.ndarray
    p: np.ndarray
    t: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    ids: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> np.ndarray:
        """Events of each recording, int64 [N]."""
        return np.diff(self.offsets)

    def recording(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Events of recording `n`, as views: x, y, p (uint8) and t (int32, microseconds)."""
        size = len(self)
        if not -size <= n < size:
            raise IndexError(f"recording: expected one of {size}, found number {n}")
        span = slice(int(self.offsets[n % size]), int(self.offsets[n % size + 1]))
        return self.x[span], self.y[span], self.p[span], self.t[span]

    def select(self, indices: Sequence[int] | np.ndarray) -> "PackedEvents":
        """A copy that holds the recordings `indices` in that order.

        Parameters
        ----------
        indices : integers [M] or booleans [N]
            Which recordings; one may be taken more than once.

        Raises
        ------
        IndexError
            Where an index is outside 0..N-1, or a mask has not one entry a recording.
        """
        rows = np.asarray(indices)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"mask: expected shape {(len(self),)}, found {rows.shape}")
            rows = np.flatnonzero(rows)
        rows = rows.astype(np.int64).reshape(-1)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"recordings: expected numbers 0..{len(self) - 1}, found {rows.min()}..{rows.max()}")
        counts = self.counts[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        # Event e of the copy comes from e minus the copy's offset plus the original's offset.
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], counts)
        x, y, p, t = (getattr(self, name)[source] for name in EVENT_ARRAYS)
        return PackedEvents(x, y, p, t, offsets, self.labels[rows], self.ids[rows])

    @classmethod
    def concatenate(cls, parts: Iterable["PackedEvents"]) -> "PackedEvents":
        """One `PackedEvents` of all recordings of `parts`, in their order."""
        parts = list(parts)
        if not parts:
            raise ValueError("concatenate: expected at least one PackedEvents, found none")
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.counts for part in parts]))])
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in (*EVENT_ARRAYS, "labels", "ids")
        }
        return cls(**arrays, offsets=offsets.astype(np.int64))

    def validate(self) -> "PackedEvents":
        """Check every rule of this class; returns itself, so that it can end a chain.

        Raises
        ------
        ValueError
            Naming the first array, recording and value that breaks a rule.
        """
        for name, dtype in (EVENT_ARRAYS | RECORDING_ARRAYS).items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
                found = f"{getattr(array, 'dtype', type(array).__name__)} {np.shape(array)}"
                raise ValueError(f"{name}: expected a flat {np.dtype(dtype)} array, found {found}")
        events, recordings = len(self.x), len(self.labels)
        for name in EVENT_ARRAYS:
            if len(getattr(self, name)) != events:
                raise ValueError(f"{name}: expected {events} events as x has, found {len(getattr(self, name))}")
        if len(self.ids) != recordings or len(self.offsets) != recordings + 1:
            raise ValueError(
                f"expected {recordings} ids and {recordings + 1} offsets for {recordings} labels, "
                f"found {len(self.ids)} and {len(self.offsets)}"
            )
        if self.offsets[0] != 0 or self.offsets[-1] != events or (self.counts < 0).any():
            raise ValueError(f"offsets: expected 0 rising to {events}, found {self.offsets[0]} to {self.offsets[-1]}")
        if recordings and not (0 <= self.labels.min() and self.labels.max() <= 9):
            raise ValueError(f"labels: expected digits 0..9, found {self.labels.min()}..{self.labels.max()}")
        if recordings and self.ids.min() < 0:
            raise ValueError(f"ids: expected 0 or more, found {self.ids.min()}")
        if events:
            self._validate_events()
        return self

    def _validate_events(self) -> None:
        for name, limit in (("x", SIDE), ("y", SIDE), ("p", 2), ("t", MAX_TIME)):
            array = getattr(self, name)
            if array.min() < 0 or array.max() >= limit:
                event = int(np.flatnonzero((array < 0) | (array >= limit))[0])
                raise ValueError(f"{name}: expected 0..{limit - 1}, found {array[event]} in {self._where(event)}")
        # A step back in time is allowed only where a recording starts.
        back = np.flatnonzero(self.t[1:] < self.t[:-1]) + 1
        back = np.setdiff1d(back, self.offsets)
        if back.size:
            event = int(back[0])
            raise ValueError(
                f"t: expected times that never fall, found {self.t[event]} us after "
                f"{self.t[event - 1]} us in {self._where(event)}"
            )

    def _where(self, event: int) -> str:
        n = int(np.searchsorted(self.offsets, event, side="right")) - 1
        return f"recording {n} (event {event - int(self.offsets[n])})"
