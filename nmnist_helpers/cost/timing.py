"""The predicted class of a network over time."""

import numpy as np

from ..tools import as_array

NO_ANSWER = -1


def answers_over_time(spikes_out) -> np.ndarray:
    """Return the class with the most spikes so far, at every time step.

    Parameters
    ----------
    spikes_out : array or tensor [B, classes, T]
        Output spikes.

    Returns
    -------
    int array [B, T]
        Among classes with equally many spikes, the first, as in `classifier.Rate`. `NO_ANSWER` before the first spike.

    Raises
    ------
    ValueError
        If the spikes have another shape, or if they are not finite numbers.
    """
    array = as_array(spikes_out)
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"spikes_out: expected [B, classes, T], found shape {list(array.shape)}")
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ValueError(f"spikes_out: expected finite numbers, found other values of type {array.dtype}")
    counts = np.cumsum(array != 0, axis=2)
    return np.where(counts.any(axis=1), counts.argmax(axis=1), NO_ANSWER)
