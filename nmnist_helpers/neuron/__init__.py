"""Neurons: the CUBA model, dropout on its spikes, normalisation of its current."""

from . import cuba, norm
from .dropout import Dropout

__all__ = ["Dropout", "cuba", "norm"]
