"""The cost of an inference on spiking hardware: operations, memory, and time until the answer stands.

Counted on the integer network, from the spikes of real recordings. A spike that arrives at a layer costs one
synaptic operation (an addition) for each neuron that it reaches, so the work follows the spikes; a dense
network multiplies every weight at every step, spikes or not.

>>> from nmnist_helpers import cost, netx
>>> exported = netx.load("Trained/network.net")
>>> print(cost.count_operations(exported, spikes))
>>> print(cost.count_memory(exported))
>>> print(cost.latency(exported(spikes), labels))
"""

from .memory import LayerMemory, Memory, count_memory
from .operations import LayerOperations, Operations, count_operations, plot_operations
from .timing import NO_ANSWER, Latency, answers_over_time, latency, plot_latency

__all__ = [
    "NO_ANSWER",
    "Latency",
    "LayerMemory",
    "LayerOperations",
    "Memory",
    "Operations",
    "answers_over_time",
    "count_memory",
    "count_operations",
    "latency",
    "plot_latency",
    "plot_operations",
]
