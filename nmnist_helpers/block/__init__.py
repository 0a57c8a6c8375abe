"""Blocks, which combine synapse, dendrite, neuron and axon in one module."""

from typing import TYPE_CHECKING

from ..lava import absent, public
from . import cuba

if not TYPE_CHECKING:  # else type checkers would accept any name
    __getattr__, __dir__ = absent(__name__), public(__name__)

__all__ = ["cuba"]
