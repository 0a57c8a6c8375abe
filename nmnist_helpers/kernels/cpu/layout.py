"""The memory layout of the kernels' tensors: flat, and padded to a whole number of chunks."""

import numpy as np
import torch
import torch.nn.functional as F

from .lanes import CHUNK, LANES

EMPTY = {kind: np.empty(0, kind) for kind in (np.uint8, np.int8, np.int32, np.float32)}  # for absent arguments

Layout = np.ndarray  # elements from one sample, one chunk of `CHUNK` channels and one step to the next


def padded(channels: int) -> int:
    """Return `channels` rounded up to a whole number of chunks."""
    return -(-channels // CHUNK) * CHUNK


def pad(x: torch.Tensor, fill: float = 0, copy: bool = False) -> torch.Tensor:
    """Return `x` [..., C] contiguous and padded with `fill` to whole chunks; with `copy`, always as a new tensor."""
    missing = padded(x.shape[-1]) - x.shape[-1]
    if missing:
        return F.pad(x, (0, missing), value=fill)
    return x.clone(memory_format=torch.contiguous_format) if copy else x.contiguous()


def flat(x: torch.Tensor | None, kind: type = np.float32) -> np.ndarray:
    """Return a contiguous tensor as a flat array for the kernels, and None as an empty array of type `kind`."""
    return EMPTY[kind] if x is None else x.detach().numpy().reshape(-1, copy=False)


def by_rows(steps: int, width: int) -> Layout:
    """Return the layout [B, T, width]: the channels of a step lie side by side, as in the other modules."""
    return np.array([steps * width, CHUNK, width])


def by_chunks(steps: int, width: int) -> Layout:
    """Return the layout [B, width / CHUNK, T, CHUNK]: a task writes contiguous memory, for caches and page tables."""
    return np.array([steps * width, steps * CHUNK, CHUNK])


def last_only(width: int) -> Layout:
    """Return the layout [B, width]: each step overwrites the one before; for values that are not needed afterwards."""
    return np.array([width, CHUNK, 0])


def zero_words(batch: int, steps: int, width: int) -> np.ndarray:
    """Return a zero bit for every neuron and step: uint64 [B, T, width / CHUNK]."""
    return np.zeros((batch, steps, width // CHUNK), np.uint64)


def by_lanes(words: np.ndarray) -> np.ndarray:
    """Return a flat view of the words, with one number for each `LANES` bits, lowest bits first."""
    return words.reshape(-1).view(f"uint{LANES}")
