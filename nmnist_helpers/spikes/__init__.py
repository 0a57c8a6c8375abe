"""The spikes of a batch, as a list or as 0/1 bytes, and the conversion of both from and to dense tensors."""

from .batch import DenseSpikes, Spikes, attach, remembered, row_of_spike

__all__ = ["DenseSpikes", "Spikes", "attach", "remembered", "row_of_spike"]
