"""Make random recordings."""

import numpy as np

from nmnist_helpers.io import Event


def random_events(n=500, seed=0, dim=2, width=34):
    """Return `n` events within 300 ms, in order of time."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, width, (2, n))
    t = np.sort(rng.integers(0, 300_000, n)) / 1000
    return Event(x, y if dim == 2 else None, rng.integers(0, 2, n), t)
