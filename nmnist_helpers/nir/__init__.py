"""Exchange with other simulators through NIR, the neuromorphic intermediate representation.

>>> from nmnist_helpers import netx, nir
>>> exported = netx.load("Trained/best/network.net")
>>> nir.write_nir("network.nir", exported)
>>> layers = nir.read_nir("network.nir")  # equal to exported.layers
>>> graph = nir.to_nir(exported)
>>> print(nir.agreement(exported(spikes), nir.run_graph(graph, spikes)))
"""

from .graph import FORMS, to_nir, write_nir
from .reader import from_nir, read_nir
from .simulator import Agreement, agreement, run_graph

__all__ = ["FORMS", "Agreement", "agreement", "from_nir", "read_nir", "run_graph", "to_nir", "write_nir"]
