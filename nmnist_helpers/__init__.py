"""N-MNIST with spiking networks: the package under the notebooks, and a successor of lava-dl's SLAYER.

``import nmnist_helpers as slayer`` and the names of lava-dl's tutorial are where its users expect them:
`slayer.block.cuba.Dense`, `slayer.neuron.Dropout`, `slayer.loss.SpikeRate`, `slayer.utils.Assistant`, ...

From user to metal: `NMNISTDataset`, `EventLoader`, `augment` bring the data; `Network` or your own stack of
`block.cuba` computes; `utils` and `train` train; `netx` exports; `kernels` is what runs underneath.
"""

import importlib
import os

# torch and Numba bring an OpenMP runtime each. Threads of the one that spin while they wait take the cores from the
# other: up to twenty times slower where the cores are shared. It counts only for what is loaded after this line.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from . import axon, block, classifier, dendrite, io, kernels, loss, neuron, synapse, utils
from .augment import Augment, augment
from .dataset import NMNISTDataset
from .loader import EventLoader
from .network import Network
from .paths import GIFS, ROOT, TRAINED, data_root
from .spikes import Spikes

__version__ = "1.0.0"

_LATER = ("animate", "checkpoint", "cost", "download", "graph", "netx", "nir_exchange", "saccade", "train")


def __getattr__(name: str):
    """Modules that not everyone needs are loaded when someone asks for them: ``slayer.netx``."""
    if name in _LATER:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "GIFS",
    "ROOT",
    "TRAINED",
    "Augment",
    "EventLoader",
    "NMNISTDataset",
    "Network",
    "Spikes",
    "augment",
    "axon",
    "block",
    "classifier",
    "data_root",
    "dendrite",
    "io",
    "kernels",
    "loss",
    "neuron",
    "synapse",
    "utils",
]
