"""Blocks, which combine synapse, dendrite, neuron and axon in one module."""

from ..lava import absent
from . import cuba

__getattr__ = absent(__name__)

__all__ = ["cuba"]
