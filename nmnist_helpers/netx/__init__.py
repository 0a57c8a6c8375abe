"""Export to the `.net` file that lava's netx reads, and back: writer, safe reader, integer simulator.

>>> from nmnist_helpers import netx
>>> netx.write_network("Trained/network.net", net)  # net.blocks
>>> exported = netx.load("Trained/network.net")
>>> print(exported)
>>> torch.equal(exported(spikes), net(spikes))
True

The kinds of layers are those that lava-dl exports of CUBA networks: input, dense, conv, pool and flatten. (It has an
``average`` layer too, but cannot write it.)
"""

from ..block.hdf5 import write_layer, write_network
from ..block.spec import LayerSpec, NetFileError, as_specs
from .net import Net, load

__all__ = ["LayerSpec", "Net", "NetFileError", "as_specs", "load", "write_layer", "write_network"]
