"""Export to and import from lava's `.net` files: a writer, a safe reader and an integer simulator.

>>> from nmnist_helpers import netx
>>> netx.write_network("network.net", net)  # a Network, or a list of blocks
>>> exported = netx.load("network.net")
>>> print(exported)
>>> torch.equal(exported(spikes), net(spikes))
True

The supported layer types are those that lava-dl exports from CUBA networks: input, dense, conv, pool and flatten.
(lava-dl also has an ``average`` layer, but cannot export it.)
"""

from ..block.hdf5 import write_layer, write_network
from ..block.spec import LayerSpec, NetFileError, as_specs
from ..lava import absent
from .net import Net, load

__getattr__ = absent(__name__)

__all__ = ["LayerSpec", "Net", "NetFileError", "as_specs", "load", "write_layer", "write_network"]
