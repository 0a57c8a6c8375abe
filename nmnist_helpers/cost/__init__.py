"""Cost of an inference on spiking hardware: operations, memory, and the predicted class over time.

Operations are counted on the integer network, for the spikes of real recordings. Each spike that arrives at a layer
costs one synaptic operation (an addition) per neuron that it reaches, so the cost depends on the number of spikes. A
dense network multiplies every weight at every time step, with or without spikes.

>>> from nmnist_helpers import cost, netx
>>> exported = netx.load("Trained/best/network.net")
>>> print(cost.count_operations(exported, spikes))
>>> print(cost.count_memory(exported))
>>> cost.answers_over_time(exported(spikes))
"""

from .memory import LayerMemory, Memory, count_memory
from .operations import LayerOperations, Operations, count_operations, plot_operations
from .timing import NO_ANSWER, answers_over_time

__all__ = [
    "NO_ANSWER",
    "LayerMemory",
    "LayerOperations",
    "Memory",
    "Operations",
    "answers_over_time",
    "count_memory",
    "count_operations",
    "plot_operations",
]
