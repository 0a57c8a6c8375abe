"""Many recordings in seven flat arrays: the form in which whole datasets are loaded, cached and passed around."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..geometry import MAX_TIME, SIDE

#: Hint of errors about other recordings than N-MNIST's.
OTHER_EVENTS = (
    "PackedEvents are N-MNIST's (34 x 34 pixels, digits 0..9); for other recordings, use a torch DataLoader of tensors,"
    " which Event.to_tensor makes"
)
#: Array name -> data type, in the order of the fields of `PackedEvents`.
EVENT_ARRAYS = {"x": np.uint8, "y": np.uint8, "p": np.uint8, "t": np.int32}
RECORDING_ARRAYS = {"offsets": np.int64, "labels": np.int64, "ids": np.int64}


@dataclass(eq=False)  # == of two arrays is an array, not an answer
class PackedEvents:
    """Events of N recordings of N-MNIST (34 x 34 pixels, digits 0..9), one after another, each sorted by time.

    Other recordings need a torch `DataLoader` of tensors; `Event.to_tensor` makes one.

    Parameters
    ----------
    x, y : uint8 array [E]
        Pixel column and row, 0..33.
    p : uint8 array [E]
        Polarity, 1 = ON.
    t : int32 array [E]
        Time since the start of the recording in microseconds.
    offsets : int64 array [N + 1]
        The events of recording n are ``offsets[n]:offsets[n + 1]``.
    labels : int64 array [N]
        Digit of each recording, 0..9.
    ids : int64 array [N]
        1-based index of the MNIST image that was shown, or 0 if it is not known.
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
        """Number of events of each recording, int64 [N]."""
        return np.diff(self.offsets)

    def recording(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the events of recording `n` as views: x, y, p (uint8) and t (int32, microseconds).

        Raises
        ------
        IndexError
            If there is no such recording.
        """
        size = len(self)
        if not -size <= n < size:
            raise IndexError(f"recording: expected one of {size}, found number {n}")
        span = slice(int(self.offsets[n % size]), int(self.offsets[n % size + 1]))
        return self.x[span], self.y[span], self.p[span], self.t[span]

    def select(self, indices: Sequence[int] | np.ndarray) -> "PackedEvents":
        """Return a copy with the recordings `indices`, in that order.

        Parameters
        ----------
        indices : integers [M] or booleans [N]
            Numbers of the recordings, which may repeat, or a mask of all recordings.

        Raises
        ------
        IndexError
            If a number is outside 0..N-1, or if a mask does not have N entries.
        """
        rows = np.asarray(indices)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"mask: expected shape {(len(self),)}, found {rows.shape}")
            rows = np.flatnonzero(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise IndexError(f"recordings: expected whole numbers or a mask, found {rows.dtype}")
        rows = rows.astype(np.int64).reshape(-1)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"recordings: expected numbers 0..{len(self) - 1}, found {rows.min()}..{rows.max()}")
        counts = self.counts[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        # Event e of the copy is event e - (offset in the copy) + (offset in the original) of the original.
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[rows] - offsets[:-1], counts)
        x, y, p, t = (getattr(self, name)[source] for name in EVENT_ARRAYS)
        return PackedEvents(x, y, p, t, offsets, self.labels[rows], self.ids[rows])

    @staticmethod
    def concatenate(parts: Iterable["PackedEvents"]) -> "PackedEvents":
        """Return one `PackedEvents` with the recordings of all `parts`, in order.

        Raises
        ------
        ValueError
            If there are no parts.
        """
        parts = list(parts)
        if not parts:
            raise ValueError("concatenate: expected at least one PackedEvents, found none")
        offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.counts for part in parts]))])
        arrays = {
            name: np.concatenate([getattr(part, name) for part in parts]) for name in (*EVENT_ARRAYS, "labels", "ids")
        }
        return PackedEvents(**arrays, offsets=offsets.astype(np.int64))

    def validate(self) -> "PackedEvents":
        """Check the types, lengths and ranges of all arrays, and that times are sorted; return the object itself.

        Raises
        ------
        ValueError
            If a check fails; the message names the array, what was found and, if one event is wrong, the recording.
        """
        for name, dtype in (EVENT_ARRAYS | RECORDING_ARRAYS).items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != 1:
                found = f"{getattr(array, 'dtype', type(array).__name__)} {np.shape(array)}"
                raise ValueError(f"{name}: expected a flat {np.dtype(dtype)} array, found {found}")
        events, recordings = len(self.x), len(self.labels)
        for name in EVENT_ARRAYS:
            if len(getattr(self, name)) != events:
                raise ValueError(f"{name}: expected {events} events, like x, found {len(getattr(self, name))}")
        if len(self.ids) != recordings or len(self.offsets) != recordings + 1:
            raise ValueError(
                f"expected {recordings} ids and {recordings + 1} offsets for {recordings} labels, "
                f"found {len(self.ids)} and {len(self.offsets)}"
            )
        if self.offsets[0] != 0 or self.offsets[-1] != events or (self.counts < 0).any():
            raise ValueError(
                f"offsets: expected them to rise from 0 to {events}, found {self.offsets[0]} to {self.offsets[-1]}"
            )
        if recordings and not (0 <= self.labels.min() and self.labels.max() <= 9):
            found = f"{self.labels.min()}..{self.labels.max()}"
            raise ValueError(f"labels: expected digits 0..9, found {found}; {OTHER_EVENTS}")
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
                hint = f"; {OTHER_EVENTS}" if name in "xy" else ""
                raise ValueError(f"{name}: expected 0..{limit - 1}, found {array[event]} in {self._where(event)}{hint}")
        # Times may decrease only from one recording to the next.
        back = np.flatnonzero(self.t[1:] < self.t[:-1]) + 1
        back = np.setdiff1d(back, self.offsets)
        if back.size:
            event = int(back[0])
            raise ValueError(
                f"t: expected times that never decrease, found {self.t[event]} us after "
                f"{self.t[event - 1]} us in {self._where(event)}"
            )

    def _where(self, event: int) -> str:
        n = int(np.searchsorted(self.offsets, event, side="right")) - 1
        return f"recording {n} (event {event - int(self.offsets[n])})"
