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

from typing import TYPE_CHECKING

from ..block.hdf5 import write_layer, write_network
from ..block.spec import LayerSpec, NetFileError, as_specs
from ..lava import absent, public
from .net import Net, load

if not TYPE_CHECKING:  # else type checkers would accept any name
    __getattr__, __dir__ = absent(__name__), public(__name__)

__all__ = ["LayerSpec", "Net", "NetFileError", "as_specs", "load", "write_layer", "write_network"]
