"""A recording as a list of events, and its conversion to a tensor and back."""

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ..checks import check_sampling_time

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

BINNING_MODES = ("OR", "SUM")
FAR = 100  # a recording that is so many times longer than its tensor is hardly cut on purpose


class Event:
    """A recording as a list of events, each with a position, a channel, a time and, optionally, a payload.

    The attributes may be changed, for example by an augmentation; positions may become fractions or leave the sensor.

    Parameters
    ----------
    x_event : array [N]
        Column; in a 1-D recording the index of the neuron.
    y_event : array [N] or None
        Row; None makes the recording 1-D.
    c_event : array [N]
        Channel; for an event camera the polarity, 1 = ON. Unlike in lava-dl, it is not shifted to start at 0.
    t_event : array [N]
        Time in ms.
    payload : array [N], optional
        Values of graded spikes.

    Attributes
    ----------
    x, y, c, t, p : arrays [N]
        The parameters in this order; `p` is the payload or None, and `y` may be None. Each of `x`, `y` and
        `c` is int64 if it holds whole numbers only.
    dim : int
        Number of spatial dimensions, 1 or 2.
    extent : (int, int, int, float) or None
        Channels, rows, columns and duration (ms) of the tensor from which the events were made, if there was one.
        Pictures have this size, so that silent neurons are shown too.

    Raises
    ------
    ValueError
        If the arrays differ in length, or if a value is not a finite number.
    """

    extent: tuple[int, int, int, float] | None

    def __init__(
        self,
        x_event: "ArrayLike",
        y_event: "ArrayLike | None",
        c_event: "ArrayLike",
        t_event: "ArrayLike",
        payload: "ArrayLike | None" = None,
    ) -> None:
        self.x = _numbers("x", x_event)
        self.y: Any = None if y_event is None else _numbers("y", y_event)
        self.c = _numbers("c", c_event)
        self.t = _numbers("t", t_event, whole=False)
        self.p: Any = None if payload is None else _numbers("payload", payload, whole=False)
        self.dim = 1 if y_event is None else 2
        self.extent = None
        for name, values in (("x", self.x), ("y", self.y), ("c", self.c), ("t", self.t), ("payload", self.p)):
            if values is not None and (values.ndim != 1 or len(values) != len(self.t)):
                raise ValueError(f"Event: expected {name} of shape [{self.t.size}], like t, found {list(values.shape)}")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        span = f"{self.t.min():g}..{self.t.max():g} ms" if len(self) else "empty"
        return f"Event({self.dim}-D, {len(self)} events, {span})"

    @property
    def graded(self) -> bool:
        """Whether the events have payloads."""
        return self.p is not None

    def _default_dim(self, sampling_time: float) -> tuple[int, ...]:
        """Return the shape of the smallest tensor that holds all events with non-negative positions and times."""
        axes = [self.c, self.x] if self.dim == 1 else [self.c, self.y, self.x]
        last = [float(np.rint(axis).max(initial=0)) for axis in (*axes, _bins(self.t, sampling_time))]
        if not math.prod(value + 1 for value in last) <= 2**32:
            raise ValueError(f"to_tensor: expected at most 2^32 entries, found events up to {last}; pass dim")
        return tuple(int(value) + 1 for value in last)

    def to_tensor(
        self, sampling_time: float = 1, dim: tuple[int, ...] | None = None, binning_mode: str = "OR"
    ) -> np.ndarray:
        """Return the events as a float32 array, [C, H, W, T] or, for 1-D events, [C, N, T].

        Parameters
        ----------
        sampling_time : float
            Length of a time bin in ms.
        dim : tuple of int, optional
            Shape of the array; by default the smallest that holds all events.
        binning_mode : {'OR', 'SUM'}
            See `fill_tensor`.

        Raises
        ------
        ValueError
            If the default shape has more than 2^32 entries, and under the conditions of `fill_tensor`.
        """
        if dim is None:
            dim = self._default_dim(sampling_time)
        return self.fill_tensor(np.zeros(tuple(dim), np.float32), sampling_time, binning_mode=binning_mode)

    def fill_tensor(self, tensor, sampling_time: float = 1, random_shift: bool = False, binning_mode: str = "OR"):
        """Write the events into a NumPy array or torch tensor in place, and return it.

        Positions are rounded, half to even, and the time bin is ``round(t / sampling_time)``. Events outside the
        tensor, in space or in time, are left out, and so are those of the last half bin. A 1-D recording with only one
        channel fits into a tensor of one channel, whatever the channel's number is.

        Parameters
        ----------
        tensor : array or torch.Tensor [C, H, W, T]
            Usually zeros. For 1-D events its height is H = 1, or its shape is [C, N, T].
        sampling_time : float
            Length of a time bin in ms.
        random_shift : bool
            Shift the recording by a random number of bins: anywhere in a tensor that is longer than the recording, or
            so that a shorter tensor receives a random part of it.
        binning_mode : {'OR', 'SUM'}
            'OR': a bin with events is set to 1 / sampling_time. 'SUM': every event adds 1 / sampling_time. Payloads of
            graded events are always added up.

        Raises
        ------
        ValueError
            If a position or a time is NaN, if the mode or the shape of the tensor is not allowed, or if a tensor of
            whole numbers cannot hold the value of an event (sums are not checked).

        Warns
        -----
        UserWarning
            If channels are lost. Without `random_shift`, also if all events lie before or all behind the time of the
            tensor, or if more than nine tenths of them are left out because the recording is a hundred times longer
            than the tensor: the times may be microseconds.
        """
        given, binning_mode = binning_mode, str(binning_mode).upper()
        if binning_mode not in BINNING_MODES:
            raise ValueError(f"fill_tensor: expected binning_mode 'OR' or 'SUM', found {given!r}")
        if self.dim == 1 and len(tensor.shape) == 3:
            self.fill_tensor(tensor[:, None], sampling_time, random_shift, binning_mode)  # a view
            return tensor
        if len(tensor.shape) != 4:
            raise ValueError(f"fill_tensor: expected a tensor [C, H, W, T], found {list(tensor.shape)}")
        if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no such type
            return tensor.copy_(self.fill_tensor(tensor.float(), sampling_time, random_shift, binning_mode))
        at, keep = self.entries(tuple(tensor.shape), sampling_time, random_shift)
        if not random_shift and 10 * np.count_nonzero(keep) < len(keep):
            self._warn_if_times_miss(tensor.shape[3], sampling_time)
        value = np.asarray(self.p)[keep] if self.graded else np.full(len(at[0]), 1 / sampling_time)
        host = tensor if isinstance(tensor, np.ndarray) else tensor.detach().cpu()
        data = host if isinstance(host, np.ndarray) else host.numpy()  # shares the memory of a tensor on the CPU
        if data.dtype.kind in "iub" and (lost := value != value.astype(data.dtype)).any():
            raise ValueError(
                f"fill_tensor: expected a tensor that can hold {value[lost][0]:g}, found {data.dtype}; use float32"
            )
        if binning_mode == "SUM" or self.graded:
            np.add.at(data, at, value)
        else:
            data[at] = value
        if not isinstance(tensor, np.ndarray) and tensor.device.type != "cpu":
            tensor.copy_(host)
        return tensor

    def entries(
        self, shape: tuple[int, ...], sampling_time: float = 1, random_shift: bool = False
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """Return the indices at which `fill_tensor` writes the events into a tensor of shape [C, H, W, T].

        Returns
        -------
        at : tuple of int64 arrays [M]
            Channel, row, column and time bin of the events inside the tensor.
        inside : bool array [N]
            Whether each event lies inside.
        """
        c = np.asarray(self.c)
        if self.dim == 1 and shape[0] == 1 and len(c) and (c == c[0]).all():
            c = np.zeros_like(c)  # the only polarity of a recording becomes channel 0, even if it is ON
        t = _bins(self.t, sampling_time)
        if random_shift and len(t) and t.max() < 2**53:
            room = shape[3] - 1 - int(t.max())  # negative if the recording is longer than the tensor
            shift = np.random.randint(abs(room) + 1)  # noqa: NPY002 (follows np.random.seed, as users expect)
            t = t + (shift if room > 0 else -shift)
        y = np.zeros(len(c)) if self.y is None else self.y
        axes = {"c": c, "y": y, "x": self.x, "t": t}
        keep = np.ones(len(c), bool)
        for name, size in zip(axes, shape, strict=True):
            values = np.asarray(axes[name])
            if values.shape != c.shape:
                raise ValueError(f"fill_tensor: expected {name} of shape {list(c.shape)}, found {list(values.shape)}")
            axes[name] = np.rint(values)  # compared as floats: a cast to integers would wrap very large numbers around
            if np.isnan(axes[name]).any():
                raise ValueError(f"fill_tensor: expected numbers for {name}, found nan")
            inside = (axes[name] >= 0) & (axes[name] < size)
            if name == "c" and not inside.all():
                warnings.warn(
                    f"Event: expected channels 0..{size - 1}, found {axes[name].min():g}..{axes[name].max():g};"
                    f" {int((~inside).sum())} of {len(c)} events are left out",
                    stacklevel=4,
                )
            keep &= inside
        return tuple(values[keep].astype(np.int64) for values in axes.values()), keep

    def _warn_if_times_miss(self, steps: int, sampling_time: float) -> None:
        """Warn if a tensor of so many time bins seems to miss the recording by mistake."""
        t = _bins(self.t, sampling_time)
        if not len(t) or not steps:
            return
        outside = (t < 0) | (t >= steps)
        beside = t.max() < 0 or t.min() >= 2 * steps  # the end of a recording may be left out on purpose
        if beside or (outside.mean() > 0.9 and t.max() >= FAR * steps):
            warnings.warn(
                f"Event: expected times in 0..{(steps - 0.5) * sampling_time:g} ms, found {np.min(self.t):g}.."
                f"{np.max(self.t):g}; {outside.sum()} of {len(t)} events are left out: are the times microseconds, or"
                " do they not start at 0?",
                stacklevel=4,
            )

    def rounded(self) -> "Event":
        """Return a copy with rounded positions and channels, without the events that have a negative one."""
        axes = [np.rint(axis) for axis in (self.x, self.c, np.zeros(len(self)) if self.y is None else self.y)]
        inside = np.min(axes, axis=0, initial=np.inf) >= 0
        x, c, y = (axis[inside] for axis in axes)
        payload = None if self.p is None else np.asarray(self.p)[inside]
        copy = Event(x, None if self.y is None else y, c, np.asarray(self.t)[inside], payload)
        copy.extent = self.extent
        return copy

    def show(
        self, fig: "Figure | None" = None, frame_rate: float = 24, pre_compute_frames: bool = True,
        repeat: bool = False,
    ) -> None:  # fmt: skip
        """Show the recording as an animation, in a window or a notebook; see `pictures.animation.show`."""
        from ..pictures import animation

        animation.show(self.rounded(), fig, frame_rate, pre_compute_frames, repeat)

    def anim(
        self, fig: "Figure | None" = None, frame_rate: float = 24, pre_compute_frames: bool = True,
        repeat: bool = True,
    ) -> "FuncAnimation":  # fmt: skip
        """Return a matplotlib animation of the recording; see `pictures.animation.anim`."""
        from ..pictures import animation

        return animation.anim(self.rounded(), fig, frame_rate, pre_compute_frames, repeat)


def _numbers(name: str, values, whole: bool = True) -> np.ndarray:
    """Return finite numbers as an array; convert them to int64 if `whole` is true and all are whole numbers."""
    array = np.array(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"Event: expected numbers for {name}, found {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"Event: expected finite {name}, found {array[~np.isfinite(array)][0]}")
    if whole and array.dtype != np.int64:
        with np.errstate(invalid="ignore"):
            as_int = array.astype(np.int64)
        return as_int if (as_int == array).all() else array
    return array


def _bins(t: np.ndarray, sampling_time: float) -> np.ndarray:
    """Return the time bins of times in ms, as floats."""
    check_sampling_time(sampling_time)
    return np.rint(np.asarray(t) / sampling_time)


def tensor_to_event(spike_tensor, sampling_time: float = 1) -> Event:
    """Convert the non-zero entries of a tensor to events.

    Parameters
    ----------
    spike_tensor : array or torch.Tensor, [C, H, W, T] or [C, N, T]
        Spikes. If any non-zero entry differs from 1 / sampling_time, the entries become the payload of graded events.
    sampling_time : float
        Length of a time bin in ms.

    Returns
    -------
    Event
        2-D for a tensor with four axes, 1-D for one with three; sorted by time.

    Raises
    ------
    ValueError
        If the tensor has another number of axes or an entry that is not finite, or if `sampling_time` is not positive.

    Examples
    --------
    >>> tensor_to_event(np.array([[[0, 1, 1], [1, 0, 0]]]))
    Event(1-D, 3 events, 0..2 ms)
    """
    check_sampling_time(sampling_time)
    tensor = spike_tensor
    if hasattr(tensor, "detach"):
        from ..tools import as_array  # imports torch, which this module does not need otherwise

        tensor = as_array(tensor)
    tensor = np.asarray(tensor)
    if tensor.ndim not in (3, 4):
        raise ValueError(f"tensor_to_event: expected [C, H, W, T] or [C, N, T], found {list(tensor.shape)}")
    at = np.nonzero(tensor)
    order = np.argsort(at[-1], kind="stable")
    at = tuple(axis[order] for axis in at)
    value = tensor[at]
    # A small integer type may not hold 1 / sampling_time.
    kind = value.dtype.type if value.dtype.kind in "fb" else float
    payload = None if (value == kind(1 / sampling_time)).all() else value
    y = at[1] if tensor.ndim == 4 else None
    event = Event(at[-2], y, at[0], at[-1] * sampling_time, payload)
    rows = tensor.shape[1] if tensor.ndim == 4 else 1
    event.extent = (tensor.shape[0], rows, tensor.shape[-2], tensor.shape[-1] * sampling_time)
    return event
