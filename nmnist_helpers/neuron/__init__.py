"""Neurons: the CUBA model, dropout of its spikes and normalisation of its current."""

from ..lava import absent
from . import cuba, norm
from .dropout import Dropout

__getattr__ = absent(__name__)

__all__ = ["Dropout", "cuba", "norm"]
