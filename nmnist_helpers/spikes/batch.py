"""Spikes of a batch as events: the form in which spikes travel until someone needs them dense."""

from dataclasses import dataclass, field

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
    source : tensor [B, C, T], optional
        Stands for these spikes in autograd: the output of the block that fired them, without memory of its own.
        A gradient that reaches it flows back into that block.

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
    source: torch.Tensor | None = field(default=None, repr=False)

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
            None if self.source is None else self.source.to(device),
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
            from .convert import events_to_rows

            return events_to_rows(self.indptr, self.channel, self.shape, value, dtype)
        rows = torch.zeros(batch * steps, channels, dtype=dtype, device=self.device)
        row = torch.repeat_interleave(
            torch.arange(batch * steps, device=self.device), self.indptr.diff(), output_size=self.count
        )
        rows[row, self.channel] = value
        return rows.view(batch, steps, channels)

    def dense(self) -> torch.Tensor:
        """Dense tensor [B, C, T] float32; it remembers these events, so that nobody has to find them again."""
        rows = self.rows() if self.source is None else _Filled.apply(self.source, self)
        return attach(rows.transpose(1, 2), self)

    @classmethod
    def from_rows(cls, rows: torch.Tensor, value: float = 1.0) -> "Spikes":
        """The spikes of 0/1 rows, uint8 [B, T, C]."""
        batch, steps, channels = rows.shape
        if rows.device.type == "cpu":
            from .convert import rows_to_events

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
            from .convert import dense_to_events

            found = dense_to_events(dense)
            return None if found is None else cls(*found[:2], tuple(dense.shape), found[2])
        low, high = dense.aminmax()
        value = torch.where(high > 0, high, low)
        rows = dense != 0
        same = ((dense == value) | ~rows).all()  # NaN equals nothing
        value, same = torch.stack([value, same.to(value.dtype)]).tolist()  # the one wait for the device
        if not same:
            return None
        return DenseSpikes(
            rows.transpose(1, 2).to(torch.uint8, memory_format=torch.contiguous_format), value=value or 1.0
        )


class _Filled(torch.autograd.Function):
    """The rows [B, T, C] for which a `source` stands."""

    @staticmethod
    def forward(ctx, source, spikes):
        return spikes.rows()

    @staticmethod
    def backward(ctx, grad):
        return grad.transpose(1, 2), None


class DenseSpikes(Spikes):
    """Spikes kept as 0/1 bytes instead of a list: the form for a GPU.

    How long a list is, only the device knows, and the host would have to wait for it at every layer. Bytes have
    a size that is known beforehand. `indptr`, `channel` and `count` are there all the same, worked out (with a
    wait) when somebody asks.

    Parameters
    ----------
    data : uint8 tensor [B, T, P]
        0 or 1, each step's channels side by side; P >= C, with zeros beyond C.
    channels : int, optional
        C; P if not given.
    value : float
        What a spike is worth.

    Examples
    --------
    >>> spikes = DenseSpikes(torch.tensor([[[0, 1], [1, 1]]], dtype=torch.uint8))
    >>> spikes.shape, spikes.count
    ((1, 2, 2), 3)
    """

    def __init__(self, data: torch.Tensor, channels: int | None = None, value: float = 1.0):
        if data.dim() != 3 or data.dtype != torch.uint8:
            raise ValueError(f"DenseSpikes: expected a uint8 tensor [B, T, P], found {data.dtype} {list(data.shape)}")
        batch, steps, width = data.shape
        channels = width if channels is None else channels
        if not 0 < channels <= width:
            raise ValueError(f"DenseSpikes: expected 1 to {width} channels in rows of {width}, found {channels}")
        self.data, self.shape, self.value, self.source = data, (batch, channels, steps), value, None
        self._list: Spikes | None = None

    @property
    def listed(self) -> Spikes:
        """The same spikes as a list."""
        if self._list is None:
            self._list = Spikes.from_rows(self.data[..., : self.shape[1]].contiguous(), self.value)
        return self._list

    @property
    def indptr(self) -> torch.Tensor:
        """As in `Spikes`."""
        return self.listed.indptr

    @property
    def channel(self) -> torch.Tensor:
        """As in `Spikes`."""
        return self.listed.channel

    @property
    def device(self) -> torch.device:
        """Where the spikes live."""
        return self.data.device

    def __repr__(self) -> str:
        return f"DenseSpikes(shape={self.shape}, value={self.value}, device={self.device})"

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "DenseSpikes":
        """The same spikes on another device (the same object if they are there already)."""
        if self.device == torch.device(device):
            return self
        moved = DenseSpikes(self.data.to(device, non_blocking=non_blocking), self.shape[1], self.value)
        moved.source = None if self.source is None else self.source.to(device)
        return moved

    def rows(self, dtype: torch.dtype = torch.float32, value: float | None = None) -> torch.Tensor:
        """As in `Spikes`."""
        value = self.value if value is None else value
        rows = self.data[..., : self.shape[1]]
        return rows.to(dtype) if value == 1.0 else (rows * value).to(dtype)

    @classmethod
    def from_events(cls, spikes: Spikes, width: int | None = None) -> "DenseSpikes":
        """Bytes of a list of spikes, in rows of `width` (by default C)."""
        batch, channels, steps = spikes.shape
        rows = spikes.rows(torch.uint8, 1)
        if width is not None and width != channels:
            rows = torch.nn.functional.pad(rows, (0, width - channels))
        return cls(rows, channels, spikes.value)

    @classmethod
    def from_rows(cls, rows: torch.Tensor, value: float = 1.0) -> "DenseSpikes":
        """The spikes of 0/1 rows, uint8 [B, T, C]."""
        return cls(rows, value=value)


def attach(dense: torch.Tensor, spikes: Spikes) -> torch.Tensor:
    """Let a dense tensor remember its events; the memory ends when the tensor is changed in place."""
    if not dense.is_inference():  # these do not count their changes
        _events[dense] = (spikes, dense._version)
    return dense


def remembered(dense: torch.Tensor) -> Spikes | None:
    """The events that `attach` gave to this very tensor, if they still hold."""
    spikes, version = _events.get(dense, (None, None))
    return spikes if spikes is not None and version == dense._version else None
