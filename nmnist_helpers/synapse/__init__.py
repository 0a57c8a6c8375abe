"""Synapses: weights, their normalisation and 8-bit quantisation, and their product with spikes."""

from ..lava import absent
from .base import Synapse
from .dense import Dense
from .picture import Conv, Pool

__getattr__ = absent(__name__)

__all__ = ["Conv", "Dense", "Pool", "Synapse"]
