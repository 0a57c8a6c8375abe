"""All events of a dataset on one device, and their way into a batch there."""

import numpy as np
import torch

from ..geometry import CHANNELS, PIXELS, SIDE
from ..io import PackedEvents
from ..kernels.backend import resolve
from ..spikes import Spikes
from .augmentation import COS, DX, DY, FLIP, GOLDEN, KEY, MASK, SIN, Augment, mix, rotate, wobble

#: Events that are brought to the device at a time.
CHUNK = 1 << 24


class DeviceEvents:
    """All events of a `PackedEvents` on one device, and their way into a batch there.

    One event is one number, ``t << 12 | channel``: 4 bytes where all times are below 2^19 microseconds (half a
    second), else 8. The full N-MNIST training set takes 1 GB.

    Parameters
    ----------
    packed : PackedEvents
    device : str or torch.device
    """

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
                    f"events {i} and on: expected pixels 0..{SIDE - 1}, polarity 0..1 and times from 0, found x up to "
                    f"{x.max()}, y up to {y.max()}, polarity up to {p.max()}, times from {t.min()}"
                )
            self.words[part] = torch.from_numpy(t << 12 | (p * PIXELS + y * SIDE + x)).to(self.device, dtype)

    def rasterise(
        self,
        index: torch.Tensor,
        draws: torch.Tensor,
        edges: torch.Tensor,
        sampling_time: float = 1,
        augment: Augment | None = None,
        cap: int | None = None,
    ) -> Spikes:
        """Spikes of some recordings, as `binning.rasterise`; everything given and returned is on the device.

        The kernels' switch says how: with Triton, bytes without a wait for the device; else tensor operations,
        which wait for the number of spikes.

        Parameters
        ----------
        index, draws, edges : int64 tensors [B], [B, 6], [T]
            These and `augment` and `cap` as in `binning.rasterise`.
        sampling_time : float
            ms.
        """
        first, count = self.first[index], self.count[index]
        if resolve(self.device) == "gpu":
            from .binning_gpu import rasterise as on_gpu

            return on_gpu(self.words, first, count, draws, edges, augment, cap, 1 / sampling_time)
        return self._by_tensors(first, count, draws, edges, sampling_time, augment, cap)

    def _by_tensors(self, first, count, draws, edges, sampling_time, augment, cap) -> Spikes:
        batch, bins = len(first), len(edges)
        sample = torch.repeat_interleave(torch.arange(batch, device=self.device), count)
        order = torch.arange(len(sample), device=self.device) - (count.cumsum(0) - count)[sample]
        word, n = self.words[first[sample] + order].to(torch.int64), count[sample]
        draw = draws[sample]
        channel, time = word & 0xFFF, word >> 12
        p, pixel = channel // PIXELS, channel % PIXELS
        x, y = rotate(draw[:, COS], draw[:, SIN], draw[:, DX], draw[:, DY], pixel % SIDE, pixel // SIDE)
        keep = (x >= 0) & (x < SIDE) & (y >= 0) & (y < SIDE)
        if cap:
            keep &= (n <= cap) | ((order + 1) * cap // n != order * cap // n)
        if augment and (augment.drop_below or augment.jitter_scale):
            number = mix((draw[:, KEY] + order * GOLDEN) & MASK)
            keep &= number >= augment.drop_below
            if augment.jitter_scale:
                time = time + wobble(number, augment.jitter_scale)
        k = torch.bucketize(time, edges)
        keep &= (time >= 0) & (k < bins)
        spike = ((sample * bins + k) * CHANNELS + (p ^ draw[:, FLIP]) * PIXELS + y * SIDE + x)[keep]
        spike = torch.unique(spike)  # sorts: by row, then by channel
        row = spike // CHANNELS
        indptr = torch.zeros(batch * bins + 1, dtype=torch.int32, device=self.device)
        indptr[1:] = torch.bincount(row, minlength=batch * bins).cumsum(0)
        return Spikes.trusted(
            indptr, (spike % CHANNELS).to(torch.int32), (batch, CHANNELS, bins), value=1 / sampling_time
        )
