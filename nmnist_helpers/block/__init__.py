"""Blocks: synapse, dendrite, neuron and axon in one module."""

from . import cuba

__all__ = ["cuba"]
