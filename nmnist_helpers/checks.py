"""Checks of arguments that several modules share; unlike `tools`, this module does not import torch."""

import math
import operator
from typing import Any

import numpy as np


def as_number(value: Any) -> float:
    """Return a single number of any type as a float; anything else becomes nan, for which all comparisons fail.

    Examples
    --------
    >>> 0 < as_number("5") < math.inf
    False
    """
    if isinstance(value, str | bytes):  # float() would read it
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # an array or a tensor of several numbers, None, ...
        return math.nan


def is_number(value: Any) -> bool:
    """Return whether a value is a single number, whatever its type."""
    return np.ndim(value) == 0


def whole_number(name: str, value: Any, least: int) -> int:
    """Return a whole number of any integer type as an int; raise ValueError unless it is at least `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name}: expected a whole number from {least}, found {value!r}")
    return number


def check_sampling_time(sampling_time: float) -> None:
    """Raise ValueError unless a time bin has a positive length (in ms)."""
    if not 0 < as_number(sampling_time) < math.inf:
        raise ValueError(f"sampling_time: expected a positive number of ms, found {sampling_time!r}")
