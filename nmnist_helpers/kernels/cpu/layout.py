"""The memory layout of tensors in the kernels: flat, and padded to a whole number of chunks."""

import numpy as np
import torch
import torch.nn.functional as F

from .lanes import CHUNK, LANES

NOTHING = {kind: np.empty(0, kind) for kind in (np.uint8, np.int8, np.int32, np.float32)}  # for what is not given

Layout = np.ndarray  # three numbers: elements from one sample, one chunk of `CHUNK` channels, one step to the next


def padded(channels: int) -> int:
    """The least whole number of chunks that holds `channels`."""
    return -(-channels // CHUNK) * CHUNK


def pad(x: torch.Tensor, fill: float = 0, copy: bool = False) -> torch.Tensor:
    """`x` [..., C], contiguous, with `fill` up to a whole number of chunks; `copy` returns a new tensor always."""
    missing = padded(x.shape[-1]) - x.shape[-1]
    if missing:
        return F.pad(x, (0, missing), value=fill)
    return x.clone(memory_format=torch.contiguous_format) if copy else x.contiguous()


def flat(x: torch.Tensor | None, kind: type = np.float32) -> np.ndarray:
    """A contiguous tensor as the flat array that lanes are loaded from; an empty one of type `kind` for None."""
    return NOTHING[kind] if x is None else x.detach().view(-1).numpy()


def by_rows(steps: int, width: int) -> Layout:
    """[B, T, width]: all channels of a step side by side, as everybody else reads them."""
    return np.array([steps * width, CHUNK, width])


def by_chunks(steps: int, width: int) -> Layout:
    """[B, width / CHUNK, T, CHUNK]: what one task writes lies together, which is kind to caches and page tables."""
    return np.array([steps * width, steps * CHUNK, CHUNK])


def last_only(width: int) -> Layout:
    """[B, width]: every step overwrites the one before, where nobody reads them afterwards."""
    return np.array([width, CHUNK, 0])


def words(batch: int, steps: int, width: int) -> np.ndarray:
    """Room for a bit of every neuron and step: uint64 [B, T, width / CHUNK], all zero."""
    return np.zeros((batch, steps, width // CHUNK), np.uint64)


def by_lanes(words: np.ndarray) -> np.ndarray:
    """The same words flat, a number for each `LANES` bits, lowest first."""
    return words.reshape(-1).view(f"uint{LANES}")
