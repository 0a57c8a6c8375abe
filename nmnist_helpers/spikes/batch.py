"""Spikes of a batch as events: the form in which layers exchange them."""

import math
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch.utils.weak import WeakIdKeyDictionary

from .checks import check_bytes, check_list, check_value, checked_shape
from .convert import dense_to_events, events_to_rows, holds_events, rows_to_events

# The events of dense tensors: kept beside the tensors, so that saving, copying or sending one to another
# process takes the numbers alone.
_events = WeakIdKeyDictionary()


@dataclass(eq=False)
class Spikes:
    """A batch of spike trains, stored as the list of its spikes (CSR over rows ``b * T + t``).

    Parameters
    ----------
    indptr : int32 tensor [B * T + 1]
        Row ``r = b * T + t`` has entries ``indptr[r]:indptr[r + 1]`` of `channel`.
    channel : int32 tensor [N]
        Channel of each spike; within a row increasing, no channel twice.
    shape : (int, int, int)
        (B, C, T) of the dense tensor that this stands for.
    value : float
        What a spike is worth: 1, or dropout's 1/(1-p), or 1/sampling_time. It is applied after the
        products, so that these stay exact.
    source : tensor [B, C, T] or [B, channels, height, width, T], optional
        Stands for these spikes in autograd: the output of the block that fired them, without memory of its own.
        A gradient that reaches it flows back into that block.
    picture : (int, int, int), optional
        Channels, height and width of a picture that C pixels are; None where they have no places.
    active : object, optional
        Places where a gradient of `source` changes anything in the block that fired these spikes; elsewhere it may be
        zero. None: it is needed everywhere.

    Raises
    ------
    ValueError
        If the list does not describe spikes of this shape. Compiled code relies on it and checks nothing.
        The check runs once, here (0.1 ms for 150,000 spikes); `trusted` leaves it out for lists that a kernel made.
        `verify` repeats it where torch has seen a change of the list since.

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
    picture: tuple[int, int, int] | None = None
    active: Any = field(default=None, repr=False)

    def __post_init__(self):
        self.shape = checked_shape(self.shape)
        check_value(self.value)
        for name, x in (("indptr", self.indptr), ("channel", self.channel)):
            if not isinstance(x, torch.Tensor) or x.dtype != torch.int32 or x.dim() != 1 or not x.is_contiguous():
                found = f"{x.dtype} {list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
                raise ValueError(f"Spikes: expected {name} as a contiguous int32 tensor of one axis, found {found}")
        if self.indptr.device != self.channel.device:
            raise ValueError(
                f"Spikes: expected indptr and channel on one device,"
                f" found {self.indptr.device} and {self.channel.device}"
            )
        check_list(self.indptr.cpu().numpy(), self.channel.cpu().numpy(), self.shape)
        self._seen = self.indptr._version, self.channel._version

    @classmethod
    def trusted(cls, indptr: torch.Tensor, channel: torch.Tensor, shape: tuple[int, int, int], value: float = 1.0):
        """Spikes of a list that the package's own code made: nothing is checked."""
        spikes = Spikes.__new__(Spikes)
        spikes.indptr, spikes.channel, spikes.shape, spikes.value, spikes.source = indptr, channel, shape, value, None
        spikes.picture = spikes._seen = spikes.active = None
        return spikes

    def as_picture(self, picture: tuple[int, int, int] | None) -> Self:
        """The same spikes as those of a picture (channels, height, width), or of one that was laid flat (None)."""
        if picture is not None and math.prod(picture) != self.shape[1]:
            raise ValueError(f"Spikes.as_picture: expected a picture of {self.shape[1]} pixels, found {picture}")
        same = copy(self)
        same.picture = picture
        if self.source is not None:
            batch, channels, steps = self.shape
            same.source = self.source.reshape(batch, *(picture or (channels,)), steps)
        return same

    def verify(self) -> Self:
        """Repeat the check where the list was changed in place since; free of charge where it was not."""
        seen = self.__dict__.get("_seen")  # bytes have none: none of them can lead outside memory
        if seen is not None and seen != (self.indptr._version, self.channel._version):
            self.__post_init__()
        return self

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
        moved = Spikes.trusted(
            self.indptr.to(device, non_blocking=non_blocking),
            self.channel.to(device, non_blocking=non_blocking),
            self.shape,
            self.value,
        )
        moved.source, moved.picture = None if self.source is None else self.source.to(device), self.picture
        return moved

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
            return events_to_rows(self.indptr, self.channel, self.shape, value, dtype)
        rows = torch.zeros(batch * steps, channels, dtype=dtype, device=self.device)
        rows[row_of_spike(self.indptr, self.count), self.channel] = value
        return rows.view(batch, steps, channels)

    def dense(self) -> torch.Tensor:
        """Dense tensor [B, C, T] float32; it remembers these events, so that they need not be found again."""
        rows = self.rows() if self.source is None else _Filled.apply(self.source.reshape(self.shape), self)
        same = self
        if self.active is not None:  # whoever reads the gradient of numbers wants it whole
            same = copy(self)
            same.active = None
        return attach(rows.transpose(1, 2), same)

    @classmethod
    def from_rows(cls, rows: torch.Tensor, value: float = 1.0) -> "Spikes":
        """The spikes of 0/1 rows, uint8 [B, T, C]; whatever is not 0 counts as a spike."""
        check_bytes("Spikes.from_rows", rows)
        check_value(value)
        batch, steps, channels = rows.shape
        if rows.device.type == "cpu":
            indptr, channel = rows_to_events(rows)
        else:
            flat = rows.reshape(-1, channels) != 0
            indptr = torch.zeros(batch * steps + 1, dtype=torch.int32, device=rows.device)
            torch.cumsum(flat.sum(1, dtype=torch.int32), 0, out=indptr[1:])
            channel = flat.nonzero()[:, 1].to(torch.int32)
        return cls.trusted(indptr, channel, (batch, channels, steps), value)

    @classmethod
    def from_dense(cls, dense: torch.Tensor) -> "Spikes | None":
        """The spikes of a dense tensor [B, C, T], or None where its non-zero entries differ (graded spikes)."""
        if not isinstance(dense, torch.Tensor) or dense.dim() != 3 or dense.is_complex():
            found = f"{dense.dtype} {list(dense.shape)}" if isinstance(dense, torch.Tensor) else type(dense).__name__
            raise ValueError(f"Spikes.from_dense: expected a tensor [B, C, T], found {found}")
        batch, channels, steps = dense.shape
        known = remembered(dense)
        if known is not None:
            return known
        if dense.dtype != torch.float32:
            dense = dense.float()
        if dense.device.type == "cpu":
            events = dense_to_events(dense)
            return None if events is None else cls.trusted(events[0], events[1], (batch, channels, steps), events[2])
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

    The length of a list is known on the device only, and the host would have to wait for it at every layer. Bytes
    have a size that is known beforehand. `indptr`, `channel` and `count` are computed (with a wait) when they are
    read.

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
        check_bytes("DenseSpikes", data)
        check_value(value)
        batch, steps, width = data.shape
        channels = width if channels is None else channels
        if not 0 < channels <= width:
            raise ValueError(f"DenseSpikes: expected 1 to {width} channels in rows of {width}, found {channels}")
        self.data, self.shape, self.value, self.source = data, (batch, channels, steps), value, None
        self.picture = self.active = None
        self._list: Spikes | None = None

    @property
    def listed(self) -> Spikes:
        """The same spikes as a list."""
        if self._list is None:
            self._list = Spikes.from_rows(self.data[..., : self.shape[1]].contiguous(), self.value)
        return self._list

    @property
    def indptr(self) -> torch.Tensor:  # type: ignore[override]  # worked out when it is asked for
        """As in `Spikes`."""
        return self.listed.indptr

    @property
    def channel(self) -> torch.Tensor:  # type: ignore[override]
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
        moved.source, moved.picture = None if self.source is None else self.source.to(device), self.picture
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


def row_of_spike(indptr: torch.Tensor, count: int) -> torch.Tensor:
    """Return the row of every spike of a list, int64 [N], from `indptr`; `count` is N."""
    rows = torch.arange(len(indptr) - 1, device=indptr.device)
    return torch.repeat_interleave(rows, indptr.diff(), output_size=count)


def attach(dense: torch.Tensor, spikes: Spikes) -> torch.Tensor:
    """Store the events of a dense tensor [B, C, T], for the next block that needs them."""
    if not dense.is_inference():  # these do not count their changes
        _events[dense] = (spikes, dense._version)
    return dense


def remembered(dense: torch.Tensor) -> Spikes | None:
    """The events that `attach` stored for this very tensor, if they still hold.

    A change that torch does not count (through ``.numpy()`` or ``.data``) is found too: the numbers are compared with
    the events, in one pass over the tensor's memory (a sixth of the time that it takes to find the events anew).
    """
    spikes, version = _events.get(dense, (None, None))
    if spikes is None or version != dense._version or spikes.shape != tuple(dense.shape):
        return None
    return spikes if _holds(dense.detach(), spikes) else None


def _holds(dense: torch.Tensor, spikes: Spikes) -> bool:
    """Whether a dense tensor holds these spikes and nothing else."""
    rows = dense.transpose(1, 2)
    if dense.is_cuda and torch.cuda.is_current_stream_capturing():
        return True  # the host may not wait for the device now: the count of changes has to do
    if dense.is_cuda or isinstance(spikes, DenseSpikes):
        return bool((rows == spikes.rows(dense.dtype)).all())
    if dense.dtype != torch.float32 or not (dense.is_contiguous() or rows.is_contiguous()):
        return False
    return holds_events(rows, spikes.indptr, spikes.channel, spikes.value)
