"""What a training loop needs around the network: statistics, the assistant, parameter groups."""

from .assistant import Assistant
from .optim import DECAY_LR_SCALE, parameter_groups, scale_decay_groups
from .stats import LearningStat, LearningStats

__all__ = [
    "DECAY_LR_SCALE",
    "Assistant",
    "LearningStat",
    "LearningStats",
    "parameter_groups",
    "scale_decay_groups",
]
