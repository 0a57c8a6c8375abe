"""What a training loop needs around the network: statistics, the assistant, and small helpers on tensors."""

from . import time
from .assistant import Assistant
from .optim import DECAY_LR_SCALE, parameter_groups, scale_decay_groups
from .quantize import QUANTIZE_MODE, event_rate, quantize, quantize_hook_fx
from .stats import LearningStat, LearningStats

__all__ = [
    "DECAY_LR_SCALE",
    "QUANTIZE_MODE",
    "Assistant",
    "LearningStat",
    "LearningStats",
    "event_rate",
    "parameter_groups",
    "quantize",
    "quantize_hook_fx",
    "scale_decay_groups",
    "time",
]
