"""Checks of arguments that several modules share; unlike `tools`, this module does not import torch."""

import math
from typing import Any


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
