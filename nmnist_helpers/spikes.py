"""Spikes of a batch as events: the form in which spikes travel until someone needs them dense."""

from dataclasses import dataclass

import torch
from torch.utils.weak import WeakIdKeyDictionary

# Which dense tensors remember their events: kept beside the tensors, so that saving, copying or sending one
# to another process takes the numbers alone.
_events = WeakIdKeyDictionary()


@dataclass(eq=False)
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

    Examples
    --------
    >>> spikes = Spikes.from_dense(torch.tensor([[[0.0, 1.0], [1.0, 1.0]]]))
    >>> spikes.shape, spikes.count
    ((1, 2, 2), 3)
    >>> spikes.dense()
    tensor([[[0., 1.],
             [1., 1.]]])
    """

    indptr: torch.Tensor
    channel: torch.Tensor
    shape: tuple[int, int, int]
    value: float = 1.0

    def __post_init__(self):
        batch, channels, steps = self.shape
        if self.indptr.shape != (batch * steps + 1,):
            raise ValueError(
                f"Spikes: indptr needs B * T + 1 = {batch * steps + 1} entries for shape {self.shape},"
                f" found {list(self.indptr.shape)}"
            )

    @property
    def count(self) -> int:
        """Number of spikes."""
        return len(self.channel)

    @property
    def density(self) -> float:
        """Share of the bins that hold a spike."""
        batch, channels, steps = self.shape
        return self.count / max(1, batch * channels * steps)

    @property
    def device(self) -> torch.device:
        """Where the spikes live."""
        return self.channel.device

    def __len__(self) -> int:
        return self.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Spikes":
        """The same spikes on another device (the same object if they are there already)."""
        if self.device == torch.device(device):
            return self
        return Spikes(
            self.indptr.to(device, non_blocking=non_blocking),
            self.channel.to(device, non_blocking=non_blocking),
            self.shape,
            self.value,
        )

    def rows(self, dtype: torch.dtype = torch.float32, value: float | None = None) -> torch.Tensor:
        """Dense rows [B, T, C], each step's channels side by side.

        Parameters
        ----------
        dtype : torch.dtype
            Of the result.
        value : float, optional
            What to write for a spike; `self.value` if not given.
        """
        value = self.value if value is None else value
        batch, channels, steps = self.shape
        if self.device.type == "cpu":
            from .kernels.cpu.events import events_to_rows

            return events_to_rows(self.indptr, self.channel, self.shape, value, dtype)
        rows = torch.zeros(batch * steps, channels, dtype=dtype, device=self.device)
        row = torch.repeat_interleave(
            torch.arange(batch * steps, device=self.device), self.indptr.diff(), output_size=self.count
        )
        rows[row, self.channel] = value
        return rows.view(batch, steps, channels)

    def dense(self) -> torch.Tensor:
        """Dense tensor [B, C, T] float32; it remembers these events, so that nobody has to find them again."""
        return attach(self.rows().transpose(1, 2), self)

    @classmethod
    def from_rows(cls, rows: torch.Tensor, value: float = 1.0) -> "Spikes":
        """The spikes of 0/1 rows, uint8 [B, T, C]."""
        batch, steps, channels = rows.shape
        if rows.device.type == "cpu":
            from .kernels.cpu.events import rows_to_events

            indptr, channel = rows_to_events(rows)
        else:
            flat = rows.reshape(-1, channels)
            indptr = torch.zeros(batch * steps + 1, dtype=torch.int32, device=rows.device)
            torch.cumsum(flat.sum(1, dtype=torch.int32), 0, out=indptr[1:])
            channel = flat.nonzero()[:, 1].to(torch.int32)
        return cls(indptr, channel, (batch, channels, steps), value)

    @classmethod
    def from_dense(cls, dense: torch.Tensor) -> "Spikes | None":
        """The spikes of a dense tensor [B, C, T], or None where its non-zero entries differ (graded spikes)."""
        if dense.dim() != 3:
            raise ValueError(f"Spikes.from_dense: expected a tensor [B, C, T], found {list(dense.shape)}")
        known = remembered(dense)
        if known is not None:
            return known
        if dense.dtype != torch.float32:
            dense = dense.float()
        if dense.device.type == "cpu":
            from .kernels.cpu.events import dense_to_events

            found = dense_to_events(dense)
            return None if found is None else cls(*found[:2], tuple(dense.shape), found[2])
        rows = (dense != 0).transpose(1, 2)
        values = dense.transpose(1, 2)[rows]
        if len(values) and not (values == values[0]).all():
            return None
        return cls.from_rows(rows.to(torch.uint8), float(values[0]) if len(values) else 1.0)


def attach(dense: torch.Tensor, spikes: Spikes) -> torch.Tensor:
    """Let a dense tensor remember its events; the memory ends when the tensor is changed in place."""
    if not dense.is_inference():  # these do not count their changes
        _events[dense] = (spikes, dense._version)
    return dense


def remembered(dense: torch.Tensor) -> Spikes | None:
    """The events that `attach` gave to this very tensor, if they still hold."""
    spikes, version = _events.get(dense, (None, None))
    return spikes if spikes is not None and version == dense._version else None
