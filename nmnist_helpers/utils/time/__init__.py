"""Signals in time: moving them, and repeating a value at every step."""

from .replicate import replicate
from .shift import shift

__all__ = ["replicate", "shift"]
