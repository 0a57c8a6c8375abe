"""The contents of a `.net` file: a layer as plain integers, and the validation of these integers."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import numpy as np

from ..kernels.constants import DECAY_SCALE, HIGHEST_STEP, LOWEST_STEP, MAX_DELAY

# Number ranges of the chip, which are also those of the file. A weight is stored as value x 64, in steps of two:
# a signed 8-bit number times two. Decays are stored x 4096. The threshold is stored x 64, and the state that it is
# compared with is stored x 4096.
WEIGHT_MIN, WEIGHT_MAX = 2 * LOWEST_STEP, 2 * HIGHEST_STEP
BIAS_MIN, BIAS_MAX = -4096, 4095
THRESHOLD_MAX = (1 << 17) - 1

# A file with larger sizes than these is treated as damaged (a whole Loihi 2 chip has about 2**20 neurons).
MAX_LAYERS = 256
MAX_FEATURES = 1 << 20
MAX_WEIGHTS = 1 << 26

# Axes of the weight array for each type of layer.
KINDS = {
    "dense": "[out, in]",
    "conv": "[out, in / groups, height, width]",
    "pool": "[1, 1, height, width]",
    "input": "[1, 1, 1, 1]",
}


class NetFileError(ValueError):
    """Raised for a `.net` file that is not a valid network; the message states the location and the reason."""


@dataclass
class LayerSpec:
    """One layer of CUBA neurons as integers of the chip, exactly as a `.net` file describes it.

    The fields are validated when the object is created, so every `LayerSpec` is a valid layer.

    Parameters
    ----------
    type : {'dense', 'conv', 'pool', 'input'}
        Type of the layer. Pooling is a convolution of each channel on its own with a single kernel for all channels.
        An input layer has one neuron per input, and its inputs may be numbers other than 0 and 1.
    weight : int16 array
        Weight x 64: even integers in -256..254, with axes as in `KINDS`. Any numeric array of such values is accepted.
    delay : int64 array [channels] or None
        Learned axonal delay in time steps, 0..62, in addition to the one-step delay of every block. None if the block
        has no learned delay. In a dense layer each neuron is a channel.
    i_decay, v_decay : int or int64 array [channels]
        Decay of current and voltage per time step, x 4096: 0..4096. One number for all neurons, or one per channel.
    v_th_mant : int
        Threshold x 64: 0..131071. A neuron fires when its state exceeds ``v_th_mant * 64``.
    ref_delay : int
        Refractory time in time steps; only 1 is supported (no refractory time after the reset).
    bias : int64 array [channels] or None
        Constant input x 64, -4096..4095. It is added to the voltage at every time step, and it represents a mean-only
        normalisation. In an input layer it is added to the current instead.
    in_shape : (int, int, int)
        Channels, height and width of the input. Dense layers derive it from `weight`.
    stride, padding, dilation : (int, int)
        Geometry of a convolution or pooling, height before width.
    groups : int
        Number of groups of a convolution; each group connects its own input and output channels.

    Raises
    ------
    ValueError
        If a field is invalid. The message states the field, the expected and the found value.
    """

    type: str
    weight: np.ndarray
    delay: np.ndarray | None
    i_decay: int | np.ndarray
    v_decay: int | np.ndarray
    v_th_mant: int
    ref_delay: int = 1
    bias: np.ndarray | None = None
    in_shape: tuple[int, int, int] = None  # type: ignore[assignment]  # None only until `check` has run
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Validate all fields again, in case an array was changed in place."""
        if self.type not in KINDS:
            raise ValueError(f"type: expected one of {sorted(KINDS)}, found {self.type!r}")
        weight = _integers("weight", self.weight, WEIGHT_MIN, WEIGHT_MAX, even=True)
        axes = KINDS[self.type]
        ones = {"pool": weight.shape[:2], "input": weight.shape}.get(self.type, ())
        if weight.ndim != axes.count(",") + 1 or weight.size == 0 or set(ones) - {1}:
            raise ValueError(f"weight: expected {axes} with no side empty, found shape {weight.shape}")
        if weight.size > MAX_WEIGHTS:
            raise ValueError(f"weight: expected at most {MAX_WEIGHTS} weights, found shape {weight.shape}")
        self.weight = np.ascontiguousarray(weight, dtype=np.int16)
        self._check_geometry()
        if max(self.in_features, self.out_features) > MAX_FEATURES or self.out_features < 1:
            raise ValueError(
                f"weight: expected 1 to {MAX_FEATURES} neurons and inputs, found {self.out_features} neurons, "
                f"because weight has shape {weight.shape} and in_shape is {self.in_shape}"
            )
        self.i_decay, self.v_decay = self._decay("i_decay", self.i_decay), self._decay("v_decay", self.v_decay)
        if self.delay is not None:
            self.delay = self._per_channel("delay", self.delay, 0, MAX_DELAY)
        if self.bias is not None:
            self.bias = self._per_channel("bias", self.bias, BIAS_MIN, BIAS_MAX)
        self.v_th_mant = _one_integer("v_th_mant", self.v_th_mant, 0, THRESHOLD_MAX)
        self.ref_delay = _one_integer("ref_delay", self.ref_delay, 1, 1)

    def _check_geometry(self) -> None:
        for name, low in (("stride", 1), ("padding", 0), ("dilation", 1)):
            pair = _integers(name, getattr(self, name), low, MAX_FEATURES).astype(int)
            if pair.shape not in ((), (2,)):
                raise ValueError(f"{name}: expected one number or two, found {getattr(self, name)}")
            pair = np.broadcast_to(pair, 2)
            setattr(self, name, tuple(pair.tolist()))
        self.groups = _one_integer("groups", self.groups, 1, MAX_FEATURES)
        if self.type == "dense":
            geometry = self.stride, self.padding, self.dilation, self.groups
            if geometry != ((1, 1), (0, 0), (1, 1), 1):
                raise ValueError(f"type: expected no stride, padding, dilation or groups, found {geometry} for 'dense'")
            self.in_shape = (self.weight.shape[1], 1, 1)
            return
        if self.in_shape is None:
            raise ValueError("in_shape: expected the input's (channels, height, width), found none")
        shape = _integers("in_shape", self.in_shape, 1, MAX_FEATURES).astype(int)
        if shape.shape != (3,):
            raise ValueError(f"in_shape: expected (channels, height, width), found {self.in_shape}")
        self.in_shape = tuple(shape.tolist())
        inputs = self.groups * self.weight.shape[1]
        if self.type == "conv" and (inputs != self.in_shape[0] or len(self.weight) % self.groups):
            raise ValueError(
                f"weight: expected {KINDS['conv']} for {self.in_shape[0]} input channels, "
                f"found shape {self.weight.shape} in {self.groups} groups"
            )

    @property
    def channels(self) -> int:
        """Number of output channels; in a dense layer, the number of neurons."""
        return len(self.weight) if self.type in ("dense", "conv") else self.in_shape[0]

    @property
    def out_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the output; height and width are 1 in a dense layer."""
        sides = zip(self.in_shape[1:], self.kernel.shape[2:], self.stride, self.padding, self.dilation, strict=True)
        sizes = []
        for side, kernel, stride, padding, dilation in sides:
            if self.type == "pool":
                side += side % kernel  # zeros that lava-dl appends at the far edge
            sizes.append(max(0, (side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1))
        return (self.channels, *sizes)

    @property
    def kernel(self) -> np.ndarray:
        """Weights of the equivalent convolution with `kernel_groups` groups, [out, in / groups, height, width]."""
        if self.type == "dense":
            return self.weight[:, :, None, None]  # a convolution over a picture of one pixel
        return self.weight if self.type == "conv" else np.repeat(self.weight, self.in_shape[0], axis=0)

    @property
    def kernel_groups(self) -> int:
        """Number of groups of `kernel`."""
        return self.in_shape[0] if self.type in ("pool", "input") else self.groups

    @property
    def out_features(self) -> int:
        """Number of neurons of this layer."""
        return math.prod(self.out_shape)

    @property
    def in_features(self) -> int:
        """Number of inputs of this layer."""
        return math.prod(self.in_shape)

    def per_neuron(self, value) -> np.ndarray:
        """Expand a value per channel, or one for all channels, to an int64 array [out_features]."""
        inner = math.prod(self.out_shape[1:])
        return np.repeat(np.broadcast_to(np.asarray(value, np.int64), self.channels), inner)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LayerSpec):
            return NotImplemented
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return all((a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in pairs)

    def _decay(self, name: str, value) -> int | np.ndarray:
        if np.ndim(value) == 0:
            return _one_integer(name, value, 0, DECAY_SCALE)
        return self._per_channel(name, value, 0, DECAY_SCALE, ", or a single number")

    def _per_channel(self, name: str, value, low: int, high: int, otherwise: str = "") -> np.ndarray:
        array = _integers(name, value, low, high)
        if array.shape != (self.channels,):
            expected = f"[{self.channels}], one for each channel{otherwise}"
            raise ValueError(f"{name}: expected {expected}, found shape {array.shape}")
        return array.astype(np.int64)


def _integers(name: str, value, low: int, high: int, even: bool = False) -> np.ndarray:
    """Return `value` as an array of integers in low..high; its type may still be a float type."""
    array = np.asarray(value)
    expected = f"{'even ' if even else ''}integers in {low}..{high}"
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name}: expected {expected}, found values of type {array.dtype}")
    with np.errstate(invalid="ignore"):  # NaN fails the comparisons below
        good = (array >= low) & (array <= high)
        good &= (np.remainder(array, 2) == 0) if even else (np.remainder(array, 1) == 0)
    if not good.all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        raise ValueError(
            f"{name}: expected {expected}, found {array[where]} at {list(where)} "
            f"({np.count_nonzero(~good)} of {array.size} are invalid)"
        )
    return array


def _one_integer(name: str, value, low: int, high: int) -> int:
    array = np.asarray(value)
    expected = f"an integer in {low}..{high}" if low != high else f"{low}, the only supported value"
    if array.size != 1 or array.dtype.kind not in "iuf":
        raise ValueError(f"{name}: expected {expected}, found {value!r}")
    number = array.reshape(()).item()
    if not (low <= number <= high) or number != int(number):
        raise ValueError(f"{name}: expected {expected}, found {number}")
    return int(number)


def as_specs(network) -> list[LayerSpec]:
    """Return the layers of `network` as a list of valid `LayerSpec` objects, each of which fits the previous one.

    Parameters
    ----------
    network : module with ``.blocks``, or iterable
        Each layer may be a `LayerSpec`, a mapping of its fields, or a block with ``layer_spec(in_shape)``. The
        input size of a convolution at the beginning is known only after its first forward pass.

    Raises
    ------
    ValueError
        If a layer is invalid or does not fit the previous layer. The message starts with the index of the layer.
    """
    specs: list[LayerSpec] = []
    while not hasattr(network, "blocks") and hasattr(network, "module"):  # DataParallel, AveragedModel
        network = network.module
    layers = getattr(network, "blocks", network)
    if not isinstance(layers, Iterable):
        hint = "; a single block goes into a list" if hasattr(network, "layer_spec") else ""
        raise ValueError(f"expected a network with .blocks or a list of layers, found {type(network).__name__}{hint}")
    for index, item in enumerate(layers):
        try:
            if hasattr(item, "layer_spec"):
                item = item.layer_spec(specs[-1].out_shape if specs else None)
                if item is None:  # the block only changes the shape
                    continue
            if not isinstance(item, LayerSpec | Mapping):
                raise ValueError(f"expected a block (one with layer_spec()), found {type(item).__name__}")
            spec = item if isinstance(item, LayerSpec) else LayerSpec(**{"type": "dense", **item})
            spec.check()
            if specs:
                _check_fit(specs[-1], spec)
        except (TypeError, ValueError) as error:
            raise ValueError(f"layer {index}: {error}") from error
        specs.append(spec)
    if not 1 <= len(specs) <= MAX_LAYERS:
        raise ValueError(f"network: expected 1 to {MAX_LAYERS} layers, found {len(specs)}")
    return specs


def _check_fit(before: LayerSpec, spec: LayerSpec) -> None:
    if spec.type == "input":
        raise ValueError("type: expected 'input' only as the first layer, found it after another layer")
    if spec.type == "dense" and spec.in_features != before.out_features:
        raise ValueError(
            f"weight: expected {before.out_features} inputs from the layer before, found {spec.in_features}"
        )
    if spec.type != "dense" and spec.in_shape != before.out_shape:
        raise ValueError(f"in_shape: expected {before.out_shape} from the layer before, found {spec.in_shape}")
