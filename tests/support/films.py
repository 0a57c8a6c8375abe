"""Recordings to draw, and the frames of a gif."""

import io
import re

import numpy as np
from matplotlib.colors import to_rgb
from PIL import Image

from nmnist_helpers.io import Event, tensor_to_event


def rgb(color):
    return tuple(round(255 * part) for part in to_rgb(color))


def decode_gif(data):
    """Return the frames [F, H, W, 3] of a gif, their durations in ms and the number of repetitions (0: endless)."""
    gif = Image.open(io.BytesIO(data))
    frames, times = [], []
    for f in range(gif.n_frames):
        gif.seek(f)
        frames.append(np.asarray(gif.convert("RGB")))
        times.append(gif.info["duration"])
    return np.stack(frames), times, gif.info.get("loop")


def recording(n=4100, seed=0, span=300):
    """Return `n` random events, by default as many as a real recording has, most of them where a digit would be."""
    rng = np.random.default_rng(seed)
    x, y = np.clip(np.rint(rng.normal(17, 6, (2, n))), 0, 33).astype(int)
    return Event(x, y, rng.integers(0, 2, n), np.sort(rng.random(n) * span))


def output(seed=0, steps=300, label=3):
    """Return random spikes of ten outputs as an `Event` and as an array [10, T]; the true class fires most."""
    rng = np.random.default_rng(seed)
    spikes = rng.random((1, 10, steps)) < 0.02
    spikes[0, label] = rng.random(steps) < 0.2
    return tensor_to_event(spikes.astype(np.float32)), spikes[0]


def images(table):
    """Return the source and the alternative text of each picture in a table."""
    return re.findall(r'<img src="([^"]*)" alt="([^"]*)">', table.data)
