"""Keep all events of a dataset on one device, and make batches of them there."""

from weakref import WeakValueDictionary

import numpy as np
import torch

from ..geometry import CHANNELS, PIXELS, SIDE
from ..io import PackedEvents
from ..kernels.backend import resolve
from ..spikes import Spikes
from .augmentation import Augment, scales_of
from .draw import FLIP, GOLDEN, KEY, MASK, check_draws, mix, move, time_offset, warp
from .event_file import MappedEvents

#: Number of events that are copied to the device at a time.
CHUNK = 1 << 24
#: The events of cache files on devices, by stamp and device, as long as a loader uses them.
_shared: WeakValueDictionary = WeakValueDictionary()


class DeviceEvents:
    """All events of a `PackedEvents` on one device, from which batches are made there.

    An event is stored as one integer, ``t << 12 | channel``: 4 bytes if all times are below 2^19 microseconds (half a
    second), else 8. The full N-MNIST training set takes 1 GB.

    Parameters
    ----------
    packed : PackedEvents
    device : str or torch.device

    Raises
    ------
    ValueError
        If a pixel, a polarity or a time is out of range.
    """

    @classmethod
    def of(cls, packed: PackedEvents, device: torch.device) -> "DeviceEvents":
        """Return the events on a device; those of a cache file, which cannot change, exist there only once."""
        if not (isinstance(packed, MappedEvents) and packed.is_unchanged()):
            return cls(packed, device)
        key = packed.stamp, device
        found = _shared[key] = _shared.get(key) or cls(packed, device)
        return found

    def __init__(self, packed: PackedEvents, device: str | torch.device):
        self.device = torch.device(device)
        offsets = torch.from_numpy(np.array(packed.offsets)).to(self.device)
        self.first, self.count = offsets[:-1].contiguous(), offsets.diff()
        total = len(packed.t)
        longest = max((int(packed.t[i : i + CHUNK].max()) for i in range(0, total, CHUNK)), default=0)
        dtype = torch.int32 if longest < 2**19 else torch.int64
        self.words = torch.empty(total, dtype=dtype, device=self.device)
        for i in range(0, total, CHUNK):
            part = slice(i, i + CHUNK)
            x, y, p, t = (np.asarray(a[part]).astype(np.int64) for a in (packed.x, packed.y, packed.p, packed.t))
            if x.max() >= SIDE or y.max() >= SIDE or p.max() > 1 or t.min() < 0:
                raise ValueError(
                    f"events from {i} on: expected pixels 0..{SIDE - 1}, polarity 0..1 and times from 0, found x up to "
                    f"{x.max()}, y up to {y.max()}, polarity up to {p.max()}, times from {t.min()}"
                )
            self.words[part] = torch.from_numpy(t << 12 | (p * PIXELS + y * SIDE + x)).to(self.device, dtype)

    def rasterise(
        self,
        index: torch.Tensor,
        draws: torch.Tensor,
        edges: torch.Tensor,
        value: float = 1.0,
        augment: Augment | None = None,
        cap: int | None = None,
    ) -> Spikes:
        """Compute the spikes of a batch of recordings; all tensors, given and returned, are on the device.

        The selected kernels (`kernels.backend`) determine the method. Triton gives `DenseSpikes` without a host-device
        synchronisation. Otherwise tensor operations give `Spikes`, with several synchronisations.

        Parameters
        ----------
        index, draws, edges : int64 tensors [B], [B, 8], [T]
            These, `augment` and `cap` have the same meaning as in `binning.rasterise`.
        value : float
            Value of a spike.
        """
        first, count = self.first[index], self.count[index]
        if resolve(self.device) == "gpu":
            from .binning_gpu import rasterise as on_gpu

            return on_gpu(self.words, first, count, draws, edges, augment, cap, value)
        return self._rasterise_with_tensors(first, count, draws, edges, value, augment, cap)

    def _rasterise_with_tensors(self, first, count, draws, edges, value, augment, cap) -> Spikes:
        batch, bins = len(first), len(edges)
        check_draws(draws, batch)
        sample = torch.repeat_interleave(torch.arange(batch, device=self.device), count)
        order = torch.arange(len(sample), device=self.device) - (count.cumsum(0) - count)[sample]
        word, n = self.words[first[sample] + order].to(torch.int64), count[sample]
        draw = draws[sample]
        channel, time = word & 0xFFF, word >> 12
        p, pixel = channel // PIXELS, channel % PIXELS
        x, y = pixel % SIDE, pixel // SIDE
        drop_below, jitter_scale, warp_scale = scales_of(augment)
        moved = warp(draw[:, KEY], warp_scale, x, y) if warp_scale else (0, 0)
        x, y = move(draw.T, x, y, *moved)
        keep = (x >= 0) & (x < SIDE) & (y >= 0) & (y < SIDE)
        if cap:
            keep &= (n <= cap) | ((order + 1) * cap // n != order * cap // n)
        if drop_below or jitter_scale:
            number = mix((draw[:, KEY] + order * GOLDEN) & MASK)
            keep &= number >= drop_below
            if jitter_scale:
                time = time + time_offset(number, jitter_scale)
        k = torch.bucketize(time, edges)
        keep &= (time >= 0) & (k < bins)
        spike = ((sample * bins + k) * CHANNELS + (p ^ draw[:, FLIP]) * PIXELS + y * SIDE + x)[keep]
        spike = torch.unique(spike)  # also sorts them by row, then by channel
        row = spike // CHANNELS
        indptr = torch.zeros(batch * bins + 1, dtype=torch.int32, device=self.device)
        indptr[1:] = torch.bincount(row, minlength=batch * bins).cumsum(0)
        return Spikes.trusted(indptr, (spike % CHANNELS).to(torch.int32), (batch, CHANNELS, bins), value)
