"""Spikes of a batch as events: the form in which spikes travel until someone needs them dense."""

from dataclasses import dataclass, field

import torch


@dataclass
class Spikes:
    """A batch of spike trains, stored as the list of its spikes (CSR over rows ``b * T + t``).

    Parameters
    ----------
    indptr : int32 tensor [B * T + 1]
        Row ``r = b * T + t`` owns entries ``indptr[r]:indptr[r + 1]`` of `channel`.
    channel : int32 tensor [N]
        Channel of each spike; within a row increasing, no channel twice.
    shape : (int, int, int)
        (B, C, T) of the dense tensor that this stands for.
    value : float
        What a spike is worth: 1, or dropout's 1/(1-p), or 1/sampling_time. It is applied after the
        products, so that these stay exact.
    """

    indptr: torch.Tensor
    channel: torch.Tensor
    shape: tuple[int, int, int]
    value: float = 1.0
    _dense: torch.Tensor | None = field(default=None, repr=False)
