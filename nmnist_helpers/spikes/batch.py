"""The spikes of a batch as a list or as 0/1 bytes: the forms in which layers exchange them."""

import math
from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np
import torch
from torch.utils.weak import WeakIdKeyDictionary

from .checks import check_bytes, check_list, check_picture, check_value, checked_shape
from .convert import dense_to_events, events_to_rows, holds_events, rows_to_events

# The events of dense tensors. They are not attributes of the tensors, so that saving a tensor, copying it or sending it
# to another process involves only its numbers.
_events = WeakIdKeyDictionary()


@dataclass(eq=False)
class Spikes:
    """A batch of spike trains, stored as the list of its spikes (CSR over rows ``b * T + t``).

    Parameters
    ----------
    indptr : int32 tensor [B * T + 1]
        Row ``r = b * T + t`` has entries ``indptr[r]:indptr[r + 1]`` of `channel`.
    channel : int32 tensor [N]
        Channel of each spike; the channels of a row are strictly increasing.
    shape : (int, int, int)
        Shape (B, C, T) of the dense tensor that the list represents.
    value : float
        Value of a spike: 1, or dropout's 1/(1-p), or 1/sampling_time. Products with the weights are multiplied by it
        afterwards, so that they stay exact.
    source : tensor [B, C, T] or [B, channels, height, width, T], optional
        Represents these spikes in autograd: the output of the block that fired them, without memory of its own.
        A gradient that reaches it is propagated back into that block.
    picture : (int, int, int), optional
        Channels, height and width, if the C channels are the pixels of a picture; None if they have no positions.
    active : object, optional
        Positions at which a gradient of `source` has an effect in the block that fired these spikes. Elsewhere the
        gradient may be left at zero. None means that it is needed everywhere.

    Raises
    ------
    ValueError
        If the list does not describe spikes of this shape, or `picture` does not have C pixels. Compiled code does not
        check it again. The check runs once, here (0.1 ms for 150,000 spikes); `trusted` omits it for lists that a
        kernel has made. Layers repeat it (see `verify`) if the list or its shape has been replaced since, or if torch
        has counted a change of the list.

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
        check_list(self.indptr, self.channel, self.shape)
        if self.picture is not None:
            check_picture(self.picture, self.shape[1])
        if self.source is not None and self.source.numel() != math.prod(self.shape):
            raise ValueError(f"Spikes: expected a source of shape {self.shape}, found {list(self.source.shape)}")
        self._checked = self._as_now()

    @classmethod
    def trusted(cls, indptr: torch.Tensor, channel: torch.Tensor, shape: tuple[int, int, int], value: float = 1.0):
        """Make spikes without checking the list; only for lists that the package's own code has made."""
        spikes = Spikes.__new__(Spikes)
        spikes.indptr, spikes.channel, spikes.shape, spikes.value, spikes.source = indptr, channel, shape, value, None
        spikes.picture = spikes.active = None
        spikes._checked = spikes._as_now()
        return spikes

    def as_picture(self, picture: tuple[int, int, int] | None) -> Self:
        """Return the same spikes as the pixels of a picture (channels, height, width), or without positions (None)."""
        if picture is not None:
            check_picture(picture, self.shape[1])
        same = copy(self)
        same.picture = picture
        if self.source is not None:
            batch, channels, steps = self.shape
            same.source = self.source.reshape(batch, *(picture or (channels,)), steps)
        return same

    def verify(self) -> Self:
        """Repeat the check if the list has been replaced or changed since the last check; return the object itself.

        Changes that torch does not count (through ``.numpy()`` or ``.data``, or in inference mode) are not noticed.
        """
        checked = self.__dict__.get("_checked")  # not in `DenseSpikes`, whose bytes need no check
        if checked is not None:
            now = self._as_now()
            if any(a is not b for a, b in zip(checked[:2], now, strict=False)) or checked[2:] != now[2:]:
                self.__post_init__()
        return self

    def _as_now(self) -> tuple:
        """Return the list, its shape, and torch's counts of changes, by which `verify` recognises a change."""
        parts = self.indptr, self.channel
        return *parts, self.shape, *(None if part.is_inference() else part._version for part in parts)

    @property
    def count(self) -> int:
        """Number of spikes."""
        return len(self.channel)

    @property
    def density(self) -> float:
        """Fraction of the bins that hold a spike."""
        batch, channels, steps = self.shape
        return self.count / max(1, batch * channels * steps)

    @property
    def device(self) -> torch.device:
        """Device of the list."""
        return self.channel.device

    def __len__(self) -> int:
        return self.shape[0]

    if not TYPE_CHECKING:  # type checkers shall report unknown names

        def __getattr__(self, name: str):
            if not name.startswith("_") and hasattr(torch.Tensor, name):
                raise AttributeError(self._expected_tensor(name))
            return object.__getattribute__(self, name)  # raises the usual error

    def __getitem__(self, index) -> NoReturn:
        raise TypeError(self._expected_tensor("indexing"))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if dtype is None or np.dtype(dtype) != object:
            raise TypeError(self._expected_tensor("NumPy"))
        alone = np.empty((), object)  # in an array of objects
        alone[()] = self
        return alone

    def _expected_tensor(self, use: str) -> str:
        return f"{use}: expected a tensor [B, C, T], found {type(self).__name__}; dense() makes one"

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Spikes":
        """Return the same spikes on another device (the same object if they are there already)."""
        if self.device == torch.device(device):
            return self
        self.verify()
        moved = Spikes.trusted(
            self.indptr.to(device, non_blocking=non_blocking),
            self.channel.to(device, non_blocking=non_blocking),
            self.shape,
            self.value,
        )
        moved.source, moved.picture = None if self.source is None else self.source.to(device), self.picture
        return moved

    def cpu(self) -> "Spikes":
        """Return the same spikes on the CPU; see `to`."""
        return self.to("cpu")

    def cuda(self, device: torch.device | str | int | None = None, non_blocking: bool = False) -> "Spikes":
        """Return the same spikes on a GPU; see `to`."""
        return self.to(torch.device("cuda" if device is None else device), non_blocking)

    def rows(self, dtype: torch.dtype = torch.float32, value: float | None = None) -> torch.Tensor:
        """Return the spikes as a dense tensor [B, T, C], in which the channels of a time step are adjacent.

        Parameters
        ----------
        dtype : torch.dtype
            Type of the result.
        value : float, optional
            Number that represents a spike; by default `self.value`.
        """
        value = self.value if value is None else value
        self.verify()
        return events_to_rows(self.indptr, self.channel, self.shape, value, dtype)

    def dense(self) -> torch.Tensor:
        """Return a dense tensor [B, C, T], float32, and remember its list, so that it need not be searched for."""
        rows = self.rows() if self.source is None else _Filled.apply(self.source.reshape(self.shape), self)
        same = self
        if self.active is not None:  # a user of dense numbers expects their complete gradient
            same = copy(self)
            same.active = None
        return attach(rows.transpose(1, 2), same)

    @classmethod
    def from_rows(cls, rows: torch.Tensor, value: float = 1.0) -> "Spikes":
        """Make a list from 0/1 rows, uint8 [B, T, C]; every non-zero byte is a spike."""
        check_bytes("Spikes.from_rows", rows)
        check_value(value)
        batch, steps, channels = rows.shape
        return cls.trusted(*rows_to_events(rows), (batch, channels, steps), value)

    @classmethod
    def from_dense(cls, dense: torch.Tensor) -> "Spikes | None":
        """Make spikes from a dense tensor [B, C, T], or return None if its non-zero entries differ (graded spikes).

        Gradients flow back to the tensor, unless they are switched off (`torch.no_grad`). To send the spikes to another
        process or to deep-copy them, give ``dense.detach()``.

        Raises
        ------
        ValueError
            If `dense` is not a real tensor [B, C, T].
        """
        spikes = cls.search(dense)
        if spikes is not None and spikes.source is None and dense.requires_grad and torch.is_grad_enabled():
            spikes = copy(spikes)  # what is remembered must not keep its own tensor alive
            spikes.source = dense
        return spikes

    @classmethod
    def search(cls, dense: torch.Tensor) -> "Spikes | None":
        """Do as `from_dense`, but without a gradient, so that the spikes do not keep the tensor alive.

        Blocks use it, which propagate the gradient to the tensor themselves.
        """
        if not isinstance(dense, torch.Tensor) or dense.dim() != 3 or dense.is_complex():
            found = f"{dense.dtype} {list(dense.shape)}" if isinstance(dense, torch.Tensor) else type(dense).__name__
            raise ValueError(f"Spikes.from_dense: expected a tensor [B, C, T], found {found}")
        batch, channels, steps = checked_shape(tuple(dense.shape))
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
        same = ((dense == value) | ~rows).all()  # False if there is a NaN, which equals nothing
        value, same = torch.stack([value, same.to(value.dtype)]).tolist()  # the only host-device synchronisation
        if not same:
            return None
        return DenseSpikes(
            rows.transpose(1, 2).to(torch.uint8, memory_format=torch.contiguous_format), value=value or 1.0
        )


class _Filled(torch.autograd.Function):
    """Write out the rows [B, T, C] that `source` represents, and pass their gradient on to `source`."""

    @staticmethod
    def forward(ctx, source, spikes):
        return spikes.rows()

    @staticmethod
    def backward(ctx, grad):
        return grad.transpose(1, 2), None


class DenseSpikes(Spikes):
    """Spikes stored as 0/1 bytes instead of a list, for a GPU.

    The length of a list is known only on the device, and the host would have to wait for it at every layer. The number
    of bytes is known beforehand. `indptr`, `channel` and `count` are computed when they are first read, with a
    host-device synchronisation.

    Parameters
    ----------
    data : uint8 tensor [B, T, P]
        0 or 1; the channels of a time step are adjacent. P >= C, and entries from C on are 0.
    channels : int, optional
        C; by default P.
    value : float
        Value of a spike.

    Raises
    ------
    ValueError
        If `data` is not a uint8 tensor with three axes, `channels` is not in 1..P, or `value` is not finite.

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
        self._list: tuple[int, Spikes] | None = None  # with the version of `data` from which it was made

    @property
    def listed(self) -> Spikes:
        """The same spikes as a list."""
        version = 0 if self.data.is_inference() else self.data._version
        if self._list is None or self._list[0] != version:
            self._list = version, Spikes.from_rows(self.data[..., : self.shape[1]].contiguous(), self.value)
        return self._list[1]

    @property
    def indptr(self) -> torch.Tensor:  # type: ignore[override]  # a property instead of a field
        """Limits of the rows in the list; see `Spikes`."""
        return self.listed.indptr

    @property
    def channel(self) -> torch.Tensor:  # type: ignore[override]
        """Channels of the spikes in the list; see `Spikes`."""
        return self.listed.channel

    @property
    def device(self) -> torch.device:
        """Device of the bytes."""
        return self.data.device

    def __repr__(self) -> str:
        return f"DenseSpikes(shape={self.shape}, value={self.value}, device={self.device})"

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "DenseSpikes":
        """Return the same spikes on another device (the same object if they are there already)."""
        if self.device == torch.device(device):
            return self
        moved = DenseSpikes(self.data.to(device, non_blocking=non_blocking), self.shape[1], self.value)
        moved.source, moved.picture = None if self.source is None else self.source.to(device), self.picture
        return moved

    def rows(self, dtype: torch.dtype = torch.float32, value: float | None = None) -> torch.Tensor:
        """Return the spikes as a dense tensor [B, T, C]; see `Spikes.rows`."""
        value = self.value if value is None else value
        rows = self.data[..., : self.shape[1]]
        return rows.to(dtype) if value == 1.0 else (rows * value).to(dtype)

    @classmethod
    def from_events(cls, spikes: Spikes, width: int | None = None) -> "DenseSpikes":
        """Make bytes from a list of spikes, in rows of `width` bytes (by default C)."""
        channels, rows = spikes.shape[1], spikes.rows(torch.uint8, 1)
        if width is not None and width != channels:
            rows = torch.nn.functional.pad(rows, (0, width - channels))
        made = cls(rows, channels, spikes.value)
        made.source, made.picture = spikes.source, spikes.picture
        return made

    @classmethod
    def from_rows(cls, rows: torch.Tensor, value: float = 1.0) -> "DenseSpikes":
        """Make spikes from 0/1 rows, uint8 [B, T, C], which are not copied."""
        return cls(rows, value=value)


def attach(dense: torch.Tensor, spikes: Spikes) -> torch.Tensor:
    """Store the events of a dense tensor [B, C, T] for the next block that needs them, and return the tensor."""
    if not dense.is_inference():  # torch does not count the changes of inference tensors
        _events[dense] = (spikes, dense._version)
    return dense


def remembered(dense: torch.Tensor) -> Spikes | None:
    """Return the events that `attach` stored for this tensor object, or None if there are none or they no longer match.

    Changes that torch does not count (through ``.numpy()`` or ``.data``) are detected too: the numbers are compared
    with the events in one pass over the tensor, which takes a sixth of the time of searching it for the events.
    """
    spikes, version = _events.get(dense, (None, None))
    if spikes is None or version != dense._version or spikes.shape != tuple(dense.shape):
        return None
    return spikes if _holds(dense.detach(), spikes) else None


def _holds(dense: torch.Tensor, spikes: Spikes) -> bool:
    """Return whether a dense tensor holds exactly these spikes."""
    rows = dense.transpose(1, 2)
    if dense.is_cuda and torch.cuda.is_current_stream_capturing():
        return True  # a capture forbids synchronisation; `remembered` has compared torch's count of changes
    if dense.is_cuda or isinstance(spikes, DenseSpikes):
        return bool((rows == spikes.rows(dense.dtype)).all())
    if dense.dtype != torch.float32 or not (dense.is_contiguous() or rows.is_contiguous()):
        return False
    return holds_events(rows, spikes.indptr, spikes.channel, spikes.value)
