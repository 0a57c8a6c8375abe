"""Check data from outside the package before compiled code reads it."""

import math

import numpy as np
import torch


def checked_shape(shape) -> tuple[int, int, int]:
    """Return a shape (B, C, T) as three ints, or raise ValueError."""
    sides = tuple(shape) if isinstance(shape, tuple | list) else ()
    if len(sides) != 3 or not all(isinstance(n, int | np.integer) and n >= 0 for n in sides):
        raise ValueError(f"Spikes: expected a shape (B, C, T) of whole numbers from 0, found {shape}")
    if sides[1] < 1:
        raise ValueError(f"Spikes: expected at least one channel, found shape {shape}")
    batch, channels, steps = (int(n) for n in sides)
    if max(channels, batch * steps + 1) >= 2**31:
        raise ValueError(f"Spikes: expected B * T and C below 2**31, found shape {shape}")
    return batch, channels, steps


def check_value(value: float) -> None:
    """Raise ValueError unless `value`, the value of a spike, is a finite number other than 0."""
    if not isinstance(value, int | float | np.number) or not math.isfinite(value) or value == 0:
        raise ValueError(f"Spikes: expected a finite value of a spike other than 0, found {value}")


def check_picture(picture, channels: int) -> None:
    """Raise ValueError unless `picture` is (channels, height, width) with as many pixels as there are `channels`."""
    sides = tuple(picture) if isinstance(picture, tuple | list) else ()
    whole = len(sides) == 3 and all(isinstance(n, int | np.integer) and n >= 1 for n in sides)
    if not whole or math.prod(sides) != channels:
        raise ValueError(f"Spikes: expected a picture (channels, height, width) of {channels} pixels, found {picture}")


def check_bytes(name: str, rows: torch.Tensor) -> None:
    """Raise ValueError unless `rows` is a uint8 tensor [B, T, C]."""
    if not isinstance(rows, torch.Tensor) or rows.dim() != 3 or rows.dtype != torch.uint8:
        found = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, torch.Tensor) else type(rows).__name__
        raise ValueError(f"{name}: expected a uint8 tensor [B, T, C], found {found}")
    if rows.shape[2] < 1:
        raise ValueError(f"{name}: expected at least one channel, found shape {list(rows.shape)}")


def check_list(indptr: torch.Tensor, channel: torch.Tensor, shape: tuple[int, int, int]) -> None:
    """Raise ValueError unless two int32 tensors list spikes of this shape, as `Spikes` describes."""
    for name, x in (("indptr", indptr), ("channel", channel)):
        if not isinstance(x, torch.Tensor) or x.dtype != torch.int32 or x.dim() != 1 or not x.is_contiguous():
            found = f"{x.dtype} {list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
            raise ValueError(f"Spikes: expected {name} as a contiguous int32 tensor of one axis, found {found}")
    if indptr.device != channel.device:
        raise ValueError(
            f"Spikes: expected indptr and channel on one device, found {indptr.device} and {channel.device}"
        )
    _check_rows(indptr.cpu().numpy(), channel.cpu().numpy(), shape)


def _check_rows(indptr: np.ndarray, channel: np.ndarray, shape: tuple[int, int, int]) -> None:
    """Raise ValueError unless `indptr` rises from 0 to N and each row's channels strictly increase within 0..C-1."""
    batch, channels, steps = shape
    count = len(channel)
    if len(indptr) != batch * steps + 1:
        raise ValueError(
            f"Spikes: expected B * T + 1 = {batch * steps + 1} entries of indptr for shape {shape}, found {len(indptr)}"
        )
    if indptr[0] != 0 or indptr[-1] != count or (indptr[1:] < indptr[:-1]).any():
        falls = " that decreases in between" if (indptr[1:] < indptr[:-1]).any() else ""
        raise ValueError(
            f"Spikes: expected indptr to rise from 0 to {count}, the number of channels listed,"
            f" found one from {indptr[0]} to {indptr[-1]}{falls}"
        )
    if not count:
        return
    if channel.min() < 0 or channel.max() >= channels:
        raise ValueError(f"Spikes: expected channels from 0 to {channels - 1}, found {channel.min()}..{channel.max()}")
    begins = np.zeros(count + 1, bool)
    begins[indptr] = True
    wrong = ~((channel[1:] > channel[:-1]) | begins[1:-1])
    if wrong.any():
        at = int(wrong.argmax())
        row = int(np.searchsorted(indptr, at, side="right")) - 1
        raise ValueError(
            f"Spikes: expected channels that increase within a row, found {channel[at]} before {channel[at + 1]}"
            f" in row {row}"
        )
