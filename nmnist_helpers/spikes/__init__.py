"""Spikes of a batch: as the list of its events, as 0/1 bytes, and the way between both and dense tensors."""

from .batch import DenseSpikes, Spikes, attach, remembered, row_of_spike

__all__ = ["DenseSpikes", "Spikes", "attach", "remembered", "row_of_spike"]
