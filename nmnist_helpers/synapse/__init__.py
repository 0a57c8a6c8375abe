"""Synapses: weights, their normalisation and 8-bit quantisation, and their product with spikes."""

from typing import TYPE_CHECKING

from ..lava import absent, public
from .base import Synapse
from .dense import Dense
from .picture import Conv, Pool

if not TYPE_CHECKING:  # else type checkers would accept any name
    __getattr__, __dir__ = absent(__name__), public(__name__)

__all__ = ["Conv", "Dense", "Pool", "Synapse"]
