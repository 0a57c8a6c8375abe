"""The spikes of a batch, as a list or as 0/1 bytes, and the conversion of both from and to dense tensors."""

from .batch import DenseSpikes, Spikes, attach, remembered

__all__ = ["DenseSpikes", "Spikes", "attach", "remembered"]
