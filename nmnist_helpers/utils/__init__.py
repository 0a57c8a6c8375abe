"""Helpers for a training loop: statistics, the assistant, and small functions on tensors."""

from typing import TYPE_CHECKING

from ..lava import absent, public
from . import time
from .assistant import Assistant
from .optim import parameter_groups
from .quantize import QUANTIZE_MODE, event_rate, quantize, quantize_hook_fx
from .stats import LearningStat, LearningStats

if not TYPE_CHECKING:  # else type checkers would accept any name
    __getattr__, __dir__ = absent(__name__), public(__name__)

__all__ = [
    "QUANTIZE_MODE",
    "Assistant",
    "LearningStat",
    "LearningStats",
    "event_rate",
    "parameter_groups",
    "quantize",
    "quantize_hook_fx",
    "time",
]
