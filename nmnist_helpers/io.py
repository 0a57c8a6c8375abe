"""Events and their files: .bin and .npy files <-> `Event` <-> tensors."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .files import atomic

if TYPE_CHECKING:
    import torch
    from matplotlib.animation import FuncAnimation
    from matplotlib.figure import Figure

EVENT_BYTES = 5
MAX_TIME_2D = (1 << 23) - 1  # microseconds that 23 bits hold
MAX_TIME_1D = (1 << 24) - 1
BINNING_MODES = ("OR", "SUM")


class Event:
    """A recording: for every event its place, channel and time, and maybe what it carried.

    Parameters
    ----------
    x_event : int array [N]
        Column, or the neuron's number in a 1-D recording.
    y_event : int array [N] or None
        Row; None makes the recording 1-D.
    c_event : int array [N]
        Channel; for an event camera the polarity, 1 = ON. Kept as it is given.
    t_event : array [N]
        Time in ms.
    payload : array [N], optional
        Values of graded spikes.

    Attributes
    ----------
    x, y, c, t, p : arrays [N]
        The same; `p` is the payload, None without one.
    dim : int
        1 or 2.

    Raises
    ------
    ValueError
        If the arrays differ in length, a place is negative, or a time is not finite.
    """

    def __init__(self, x_event, y_event, c_event, t_event, payload=None):
        self.x = _whole("x", x_event)
        self.y = None if y_event is None else _whole("y", y_event)
        self.c = _whole("c", c_event)
        self.t = np.asarray(t_event)
        self.p = None if payload is None else np.asarray(payload)
        self.dim = 1 if y_event is None else 2
        for name, values in (("y", self.y), ("c", self.c), ("t", self.t), ("payload", self.p)):
            if values is not None and values.shape != self.x.shape:
                raise ValueError(f"Event: expected {name} of shape {self.x.shape} as x has, found {values.shape}")
        if not np.isfinite(self.t).all():
            raise ValueError("Event: expected finite times in ms")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        span = f"{self.t.min():g}..{self.t.max():g} ms" if len(self) else "empty"
        return f"Event({self.dim}-D, {len(self)} events, {span})"

    @property
    def graded(self) -> bool:
        """Whether the events carry values."""
        return self.p is not None

    def _default_dim(self, sampling_time: float) -> tuple[int, ...]:
        def size(values):
            return int(values.max()) + 1 if len(values) else 1

        steps = int(np.rint(self.t.max() / sampling_time)) + 1 if len(self) else 1
        return (size(self.c), 1 if self.y is None else size(self.y), size(self.x), steps)

    def to_tensor(
        self, sampling_time: float = 1, dim: tuple[int, ...] | None = None, binning_mode: str = "OR"
    ) -> np.ndarray:
        """The events as an array [C, H, W, T] (H = 1 for 1-D events), float32.

        Parameters
        ----------
        sampling_time : float
            ms in a time bin.
        dim : tuple of int, optional
            Shape of the array; by default just large enough.
        binning_mode : {'OR', 'SUM'}
            As in `fill_tensor`.
        """
        dim = self._default_dim(sampling_time) if dim is None else tuple(dim)
        if self.dim == 1 and len(dim) == 3:
            dim = (dim[0], 1, *dim[1:])
        return self.fill_tensor(np.zeros(dim, np.float32), sampling_time, binning_mode=binning_mode)

    def fill_tensor(
        self, tensor, sampling_time: float = 1, random_shift: bool = False, binning_mode: str = "OR"
    ):
        """Write the events into a tensor [C, H, W, T] (NumPy or torch), which is changed and returned.

        The time bin is ``round(t / sampling_time)``, half to even. Events past the end are left out.

        Parameters
        ----------
        tensor : array or torch.Tensor [C, H, W, T]
            Usually zeros.
        sampling_time : float
            ms in a time bin.
        random_shift : bool
            If the tensor is longer than the recording, begin at a random bin.
        binning_mode : {'OR', 'SUM'}
            'OR': a bin with events holds 1 / sampling_time (its last payload for graded events);
            'SUM': every event adds that much.

        Raises
        ------
        ValueError
            If an event lies outside the tensor in space or before time 0, or the mode is unknown.
        """
        if binning_mode not in BINNING_MODES:
            raise ValueError(f"fill_tensor: expected binning_mode 'OR' or 'SUM', found {binning_mode!r}")
        if len(tensor.shape) != 4:
            raise ValueError(f"fill_tensor: expected a tensor [C, H, W, T], found {list(tensor.shape)}")
        y = np.zeros_like(self.x) if self.y is None else self.y
        for name, place, size in (("c", self.c, 0), ("y", y, 1), ("x", self.x, 2)):
            if len(place) and place.max() >= tensor.shape[size]:
                raise ValueError(
                    f"fill_tensor: event at {name} = {place.max()} lies outside the tensor {list(tensor.shape)}"
                )
        t = np.rint(self.t / sampling_time).astype(np.int64)
        if len(t) and t.min() < 0:
            raise ValueError(f"fill_tensor: event before time 0, at {self.t.min():g} ms")
        steps = tensor.shape[3]
        if random_shift and len(t) and t.max() < steps - 1:
            t = t + np.random.randint(steps - t.max())  # noqa: NPY002 (follows np.random.seed, as users expect)
        keep = t < steps
        value = self.p if self.graded else np.full(len(t), 1 / sampling_time)
        data = tensor if isinstance(tensor, np.ndarray) else tensor.detach().cpu().numpy()
        at = (self.c[keep], y[keep], self.x[keep], t[keep])
        if binning_mode == "SUM":
            np.add.at(data, at, value[keep])
        else:
            data[at] = value[keep]
        if not isinstance(tensor, np.ndarray) and not _shares_memory(tensor, data):
            tensor.copy_(_torch_like(data, tensor))
        return tensor

    def show(self, fig: "Figure | None" = None, frame_rate: float = 24, repeat: bool = False, **options):
        """Play the recording in a matplotlib figure; see `nmnist_helpers.animate.show`."""
        from . import animate

        return animate.show(self, fig=fig, frame_rate=frame_rate, repeat=repeat, **options)

    def anim(
        self, fig: "Figure | None" = None, frame_rate: float = 24, pre_compute_frames: bool = True,
        repeat: bool = True, **options,
    ) -> "FuncAnimation":  # fmt: skip
        """The recording as a matplotlib animation; see `nmnist_helpers.animate.anim`."""
        from . import animate

        return animate.anim(
            self, fig=fig, frame_rate=frame_rate, pre_compute_frames=pre_compute_frames, repeat=repeat, **options
        )


def _whole(name: str, values) -> np.ndarray:
    """Places as integers; anything with a fraction or below zero is an error."""
    array = np.asarray(values)
    whole = array.astype(np.int64)
    if array.size and (not (whole == array).all() or whole.min() < 0):
        raise ValueError(f"Event: expected {name} to be whole numbers from 0, found {array.min()}..{array.max()}")
    return whole


def _shares_memory(tensor: "torch.Tensor", data: np.ndarray) -> bool:
    return tensor.device.type == "cpu" and tensor.data_ptr() == data.ctypes.data


def _torch_like(data: np.ndarray, tensor: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.from_numpy(data).to(tensor.device)


def tensor_to_event(spike_tensor, sampling_time: float = 1) -> Event:
    """The non-zero entries of a tensor as events.

    Parameters
    ----------
    spike_tensor : array or torch.Tensor, [C, H, W, T] or [C, N, T]
        Spikes; entries that are not 1 / sampling_time become payloads of graded events.
    sampling_time : float
        ms in a time bin.

    Returns
    -------
    Event
        2-D for four axes, 1-D for three, ordered by time.

    Examples
    --------
    >>> tensor_to_event(np.array([[[0, 1, 1], [1, 0, 0]]]))
    Event(1-D, 3 events, 0..2 ms)
    """
    tensor = spike_tensor.detach().cpu().numpy() if hasattr(spike_tensor, "detach") else np.asarray(spike_tensor)
    if tensor.ndim not in (3, 4):
        raise ValueError(f"tensor_to_event: expected [C, H, W, T] or [C, N, T], found {list(tensor.shape)}")
    at = np.nonzero(tensor)
    order = np.argsort(at[-1], kind="stable")
    at = tuple(axis[order] for axis in at)
    value = tensor[at]
    payload = None if (value == value.dtype.type(1 / sampling_time)).all() else value
    y = at[1] if tensor.ndim == 4 else None
    return Event(at[-2], y, at[0], at[-1] * sampling_time, payload)


def decode_2d(data: bytes | bytearray | np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Unpack a 2-D spike file: 5 bytes an event, x, y, then 1 bit polarity and 23 bits microseconds, big-endian.

    Returns
    -------
    x, y, p : uint8 arrays [N]
    t : int32 array [N]
        Microseconds.

    Raises
    ------
    ValueError
        If the length is no multiple of 5.
    """
    raw = np.frombuffer(data, np.uint8)
    if len(raw) % EVENT_BYTES:
        raise ValueError(f"expected {EVENT_BYTES} bytes an event, found {len(raw)} bytes in all (truncated?)")
    columns = raw.reshape(-1, EVENT_BYTES)
    high = columns[:, 2].astype(np.int32)
    t = ((high & 127) << 16) | (columns[:, 3].astype(np.int32) << 8) | columns[:, 4]
    return columns[:, 0].copy(), columns[:, 1].copy(), (high >> 7).astype(np.uint8), t


def encode_2d(x: np.ndarray, y: np.ndarray, p: np.ndarray, t: np.ndarray) -> bytes:
    """The inverse of `decode_2d`; `t` in microseconds.

    Raises
    ------
    ValueError
        If a value does not fit its bits.
    """
    for name, values, most in (("x", x, 255), ("y", y, 255), ("polarity", p, 1), ("t", t, MAX_TIME_2D)):
        if len(values) and (np.min(values) < 0 or np.max(values) > most):
            raise ValueError(f"{name}: expected 0..{most}, found {np.min(values)}..{np.max(values)}")
    t = np.asarray(t, np.int64)
    columns = np.empty((len(t), EVENT_BYTES), np.uint8)
    columns[:, 0], columns[:, 1] = x, y
    columns[:, 2] = (np.asarray(p, np.int64) << 7) | (t >> 16)
    columns[:, 3], columns[:, 4] = (t >> 8) & 255, t & 255
    return columns.tobytes()


def _read(filename: str | os.PathLike) -> bytes:
    data = Path(filename).read_bytes()
    if len(data) % EVENT_BYTES:
        raise ValueError(f"{filename}: expected {EVENT_BYTES} bytes an event, found {len(data)} bytes (truncated?)")
    return data


def read_2d_spikes(filename: str | os.PathLike) -> Event:
    """Read a .bin file of an event camera (N-MNIST's format, see `decode_2d`); times come in ms."""
    x, y, p, t = decode_2d(_read(filename))
    return Event(x, y, p, t / 1000)


def _microseconds(filename: str | os.PathLike, event: Event, dim: int) -> np.ndarray:
    if event.dim != dim:
        raise ValueError(f"{filename}: expected {dim}-D events, found {event.dim}-D ones")
    return np.rint(np.asarray(event.t, np.float64) * 1000).astype(np.int64)


def encode_2d_spikes(filename: str | os.PathLike, td_event: Event) -> None:
    """Write 2-D events (times in ms) to a .bin file; see `encode_2d`."""
    t = _microseconds(filename, td_event, 2)
    try:
        data = encode_2d(td_event.x, td_event.y, td_event.c, t)
    except ValueError as error:
        raise ValueError(f"{filename}: {error}") from None
    with atomic(filename) as temporary:
        temporary.write_bytes(data)


def read_1d_spikes(filename: str | os.PathLike) -> Event:
    """Read 1-D spikes: 5 bytes each, 16 bits neuron, 24 bits microseconds, big-endian; times come in ms."""
    columns = np.frombuffer(_read(filename), np.uint8).reshape(-1, EVENT_BYTES).astype(np.int64)
    neuron = (columns[:, 0] << 8) | columns[:, 1]
    t = (columns[:, 2] << 16) | (columns[:, 3] << 8) | columns[:, 4]
    return Event(neuron, None, np.zeros_like(neuron), t / 1000)


def encode_1d_spikes(filename: str | os.PathLike, td_event: Event) -> None:
    """Write 1-D events (times in ms) in the format of `read_1d_spikes`; channels and payloads are not kept."""
    t = _microseconds(filename, td_event, 1)
    for name, values, most in (("neuron", td_event.x, 65535), ("t", t, MAX_TIME_1D)):
        if len(values) and (values.min() < 0 or values.max() > most):
            raise ValueError(f"{filename}: {name}: expected 0..{most}, found {values.min()}..{values.max()}")
    columns = np.empty((len(t), EVENT_BYTES), np.uint8)
    for i, byte in enumerate((td_event.x >> 8, td_event.x & 255, t >> 16, (t >> 8) & 255, t & 255)):
        columns[:, i] = byte
    with atomic(filename) as temporary:
        temporary.write_bytes(columns.tobytes())


def read_np_spikes(filename: str | os.PathLike, fmt: str = "xypt", time_unit: float = 1e-3) -> Event:
    """Read events from a .npy file: an array [N, 4] (or [N, 3] for 'xpt'), or one with named fields.

    Parameters
    ----------
    filename : path-like
        The .npy file; pickled objects are refused.
    fmt : str
        Meaning of the columns: 'x', 'y', 'p' (polarity or channel) and 't' in any order; 'xpt' is 1-D.
    time_unit : float
        Seconds in a unit of the file's times: 1e-3 for ms, 1e-6 for microseconds.

    Raises
    ------
    ValueError
        If the file or its shape is not as `fmt` says.
    """
    if sorted(fmt) not in (sorted("xypt"), sorted("xpt")):
        raise ValueError(f"read_np_spikes: expected fmt to order the letters of 'xypt' or 'xpt', found {fmt!r}")
    try:
        array = np.load(filename, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{filename}: not a .npy file of plain numbers ({error})") from None
    if array.dtype.names:
        missing = set(fmt) - set(array.dtype.names)
        if missing:
            raise ValueError(f"{filename}: expected fields {fmt!r}, found {array.dtype.names}")
        column = {name: array[name] for name in fmt}
    elif array.ndim == 2 and array.shape[1] == len(fmt):
        column = {name: array[:, i] for i, name in enumerate(fmt)}
    else:
        raise ValueError(f"{filename}: expected an array [N, {len(fmt)}] for {fmt!r}, found {list(array.shape)}")
    t = np.asarray(column["t"], np.float64) * (time_unit * 1e3)
    return Event(column["x"], column.get("y"), column["p"], t)


def encode_np_spikes(
    filename: str | os.PathLike, td_event: Event, fmt: str = "xypt", time_unit: float = 1e-3
) -> None:
    """Write events to a .npy file, the inverse of `read_np_spikes`; float64 columns in the order of `fmt`."""
    wanted = "xypt" if td_event.dim == 2 else "xpt"
    if td_event.dim == 1 and fmt == "xypt":
        fmt = "xpt"
    if sorted(fmt) != sorted(wanted):
        raise ValueError(f"encode_np_spikes: expected fmt to order the letters of {wanted!r}, found {fmt!r}")
    t = np.asarray(td_event.t, np.float64) / (time_unit * 1e3)
    column = {"x": td_event.x, "y": td_event.y, "p": td_event.c, "t": t}
    array = np.stack([np.asarray(column[name], np.float64) for name in fmt], 1)
    with atomic(filename) as temporary, open(temporary, "wb") as file:
        np.save(file, array)


__all__ = [
    "Event",
    "decode_2d",
    "encode_1d_spikes",
    "encode_2d",
    "encode_2d_spikes",
    "encode_np_spikes",
    "read_1d_spikes",
    "read_2d_spikes",
    "read_np_spikes",
    "tensor_to_event",
]
