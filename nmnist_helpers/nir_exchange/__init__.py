"""Exchange with other simulators through NIR, the neuromorphic intermediate representation.

>>> from nmnist_helpers import netx, nir_exchange
>>> exported = netx.load("Trained/network.net")
>>> nir_exchange.write_nir("Trained/network.nir", exported)
>>> layers = nir_exchange.read_nir("Trained/network.nir")  # equal to exported.layers
>>> graph = nir_exchange.to_nir(exported)
>>> print(nir_exchange.agreement(exported(spikes), nir_exchange.simulate(graph, spikes)))
"""

from .graph import FORMS, from_nir, read_nir, to_nir, write_nir
from .simulator import Agreement, agreement, simulate

__all__ = ["FORMS", "Agreement", "agreement", "from_nir", "read_nir", "simulate", "to_nir", "write_nir"]
