"""The cost of an inference on spiking hardware: operations, memory, and the answer over time.

Counted on the integer network, from the spikes of real recordings. A spike that arrives at a layer costs one
synaptic operation (an addition) for each neuron that it reaches, so the work follows the spikes; a dense
network multiplies every weight at every step, spikes or not.

>>> from nmnist_helpers import cost, netx
>>> exported = netx.load("Trained/network.net")
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
