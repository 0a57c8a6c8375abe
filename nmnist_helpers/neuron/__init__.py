"""Neurons: the CUBA model, dropout of its spikes and normalisation of its current."""

from typing import TYPE_CHECKING

from ..lava import absent, public
from . import cuba, norm
from .dropout import Dropout

if not TYPE_CHECKING:  # else type checkers would accept any name
    __getattr__, __dir__ = absent(__name__), public(__name__)

__all__ = ["Dropout", "cuba", "norm"]
