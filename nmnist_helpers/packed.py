"""Many recordings side by side in five flat arrays: the form in which whole datasets travel."""

from dataclasses import dataclass

import numpy as np


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
        Recording n owns events ``offsets[n]:offsets[n + 1]``.
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
