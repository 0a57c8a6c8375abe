"""From digits to events: a simulation of the event camera that recorded MNIST's digits in three saccades."""

from .digits import load_digits, load_mnist, mnist_folder
from .drawing import to_mnist_look
from .path import BURSTS, SACCADES
from .sensor import SensorParams
from .simulator import simulate, simulate_chunks

__all__ = [
    "BURSTS",
    "SACCADES",
    "SensorParams",
    "load_digits",
    "load_mnist",
    "mnist_folder",
    "simulate",
    "simulate_chunks",
    "to_mnist_look",
]
