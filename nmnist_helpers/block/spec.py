"""What a `.net` file may hold: one layer as plain integers, and the rules that these integers obey."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from ..kernels.constants import DECAY_SCALE, HIGHEST_STEP, LOWEST_STEP, MAX_DELAY

# The chip's number ranges, and with them the file's. A weight is stored as value x 64 in steps of two:
# 8 bits and a sign that is part of them. Decays are parts of 4096. The threshold counts in 1/64 and is
# compared with a state 64 times finer.
WEIGHT_MIN, WEIGHT_MAX = 2 * LOWEST_STEP, 2 * HIGHEST_STEP
BIAS_MIN, BIAS_MAX = -4096, 4095
THRESHOLD_MAX = (1 << 17) - 1

# Sizes beyond these are taken for damage, not for a network (a whole Loihi 2 chip has about 2**20 neurons).
MAX_LAYERS = 256
MAX_FEATURES = 1 << 20
MAX_WEIGHTS = 1 << 26


class NetFileError(ValueError):
    """A `.net` file that cannot be read as a network; the message says where and why."""


@dataclass
class LayerSpec:
    """One dense CUBA layer in the integers of the chip: all that a `.net` file says of it.

    The rules are checked when the object is made, so a `LayerSpec` at hand is a valid layer.

    Parameters
    ----------
    type : str
        Kind of layer; ``'dense'`` is the one known.
    weight : int16 array [out, in]
        Weight x 64: even integers in -256..254. Any numeric array of such values is accepted.
    delay : int64 array [out] or None
        Learned axonal delay in time steps, 0..62, on top of the one step that every block takes;
        None where the block has none.
    i_decay, v_decay : int or int64 array [out]
        Decay of current and voltage per step, x4096: 0..4096. One for all neurons, or one each.
    v_th_mant : int
        Threshold x 64: 0..131071. A neuron fires when its state exceeds ``v_th_mant * 64``.
    ref_delay : int
        Refractory time in steps; only 1 (none beyond the reset) is known.
    bias : int64 array [out] or None
        Constant input to the voltage x 64, -4096..4095: what a mean-only normalisation leaves behind.

    Raises
    ------
    ValueError
        For a value outside its rule; the message gives the field, what was found and what was expected.
    """

    type: str
    weight: np.ndarray
    delay: np.ndarray | None
    i_decay: int | np.ndarray
    v_decay: int | np.ndarray
    v_th_mant: int
    ref_delay: int = 1
    bias: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Apply the rules again, for arrays that were changed in place since."""
        if self.type != "dense":
            raise ValueError(f"type: found {self.type!r}, expected 'dense', the one kind of layer known here")
        weight = _integers("weight", self.weight, WEIGHT_MIN, WEIGHT_MAX, even=True)
        if weight.ndim != 2 or weight.size == 0:
            raise ValueError(f"weight: found shape {weight.shape}, expected [out, in] with no side empty")
        if max(weight.shape) > MAX_FEATURES or weight.size > MAX_WEIGHTS:
            raise ValueError(
                f"weight: found shape {weight.shape}, expected at most {MAX_FEATURES} neurons a side "
                f"and {MAX_WEIGHTS} weights"
            )
        self.weight = np.ascontiguousarray(weight, dtype=np.int16)
        self.i_decay = self._per_neuron("i_decay", self.i_decay, 0, DECAY_SCALE, shared=True)
        self.v_decay = self._per_neuron("v_decay", self.v_decay, 0, DECAY_SCALE, shared=True)
        if self.delay is not None:
            self.delay = self._per_neuron("delay", self.delay, 0, MAX_DELAY)
        if self.bias is not None:
            self.bias = self._per_neuron("bias", self.bias, BIAS_MIN, BIAS_MAX)
        self.v_th_mant = _one_integer("v_th_mant", self.v_th_mant, 0, THRESHOLD_MAX)
        self.ref_delay = _one_integer("ref_delay", self.ref_delay, 1, 1)

    @property
    def out_features(self) -> int:
        """Neurons of this layer."""
        return self.weight.shape[0]

    @property
    def in_features(self) -> int:
        """Inputs of each neuron."""
        return self.weight.shape[1]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LayerSpec):
            return NotImplemented
        pairs = [(getattr(self, f.name), getattr(other, f.name)) for f in fields(self)]
        return all((a is None) == (b is None) and (a is None or np.array_equal(a, b)) for a, b in pairs)

    def _per_neuron(self, name: str, value, low: int, high: int, shared: bool = False) -> int | np.ndarray:
        if shared and np.ndim(value) == 0:
            return _one_integer(name, value, low, high)
        array = _integers(name, value, low, high)
        if array.shape != (self.out_features,):
            expected = f"[{self.out_features}], one for each neuron" + (", or a single number" if shared else "")
            raise ValueError(f"{name}: found shape {array.shape}, expected {expected}")
        return array.astype(np.int64)


def _integers(name: str, value, low: int, high: int, even: bool = False) -> np.ndarray:
    """`value` as an array whose numbers all obey the rule; it may still be of a float type."""
    array = np.asarray(value)
    expected = f"{'even ' if even else ''}integers in {low}..{high}"
    if array.dtype.kind not in "iuf":
        raise ValueError(f"{name}: found values of type {array.dtype}, expected {expected}")
    with np.errstate(invalid="ignore"):  # NaN is what the next lines look for
        good = (array >= low) & (array <= high)
        good &= (np.remainder(array, 2) == 0) if even else (np.remainder(array, 1) == 0)
    if not good.all():
        where = tuple(int(i) for i in np.argwhere(~good)[0])
        raise ValueError(
            f"{name}: found {array[where]} at {list(where)} ({np.count_nonzero(~good)} such of {array.size}), "
            f"expected {expected}"
        )
    return array


def _one_integer(name: str, value, low: int, high: int) -> int:
    array = np.asarray(value)
    expected = f"an integer in {low}..{high}" if low != high else f"{low}, the only value known here"
    if array.size != 1 or array.dtype.kind not in "iuf":
        raise ValueError(f"{name}: found {value!r}, expected {expected}")
    number = array.reshape(()).item()
    if not (low <= number <= high) or number != int(number):
        raise ValueError(f"{name}: found {number}, expected {expected}")
    return int(number)


def _spec_of_block(block) -> Mapping:
    """A block's own account of itself, unless it does what the file cannot say."""
    fields = block.layer_spec()
    if not getattr(block, "delay_shift", True):
        raise ValueError("found a block with delay_shift=False, expected True: on the chip a spike takes a step")
    if getattr(getattr(block, "neuron", None), "norm", None) is not None and "bias" not in fields:
        raise ValueError("found a block with a normalisation, expected one without, or a bias in its layer_spec()")
    return fields


def as_specs(network) -> list[LayerSpec]:
    """The layers of `network` as a list of valid `LayerSpec` that fit onto each other.

    Parameters
    ----------
    network : module with ``.blocks``, or iterable
        What it holds may be `LayerSpec`, a mapping of its fields, or a block with ``layer_spec()``.

    Raises
    ------
    ValueError
        For a layer that breaks a rule or does not fit the one before; the message starts with its index.
    """
    specs = []
    for index, item in enumerate(getattr(network, "blocks", network)):
        try:
            if hasattr(item, "layer_spec"):
                item = _spec_of_block(item)
            if not isinstance(item, LayerSpec | Mapping):
                raise ValueError(f"found a {type(item).__name__}, expected a dense block (one with layer_spec())")
            spec = item if isinstance(item, LayerSpec) else LayerSpec(**{"type": "dense", **item})
            spec.check()
            if specs and spec.in_features != specs[-1].out_features:
                raise ValueError(
                    f"weight: found {spec.in_features} inputs, expected {specs[-1].out_features}, "
                    "the neurons of the layer before"
                )
        except (TypeError, ValueError) as error:
            raise ValueError(f"layer {index}: {error}") from error
        specs.append(spec)
    if not 1 <= len(specs) <= MAX_LAYERS:
        raise ValueError(f"found {len(specs)} layers, expected 1 to {MAX_LAYERS}")
    return specs
