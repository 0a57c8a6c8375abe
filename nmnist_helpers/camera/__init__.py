"""From digits to events: an event camera, simulated, that looks at digits in three saccades."""

from .digits import load_mnist
from .sensor import SensorParams
from .simulator import simulate

__all__ = ["SensorParams", "load_mnist", "simulate"]
