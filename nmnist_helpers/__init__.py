"""Classification of N-MNIST with spiking networks: the notebooks' package, and a successor of lava-dl's SLAYER.

After ``import nmnist_helpers as slayer``, the names of lava-dl's tutorial work as its users expect:
`slayer.block.cuba.Dense`, `slayer.neuron.Dropout`, `slayer.loss.SpikeRate`, `slayer.utils.Assistant`, ...

The parts of the package: `data` (from recordings to batches) and `camera` (a simulated event camera) provide input
spikes. `network`, `block`, `synapse`, `dendrite`, `neuron` and `axon` form the network. `loss`, `classifier`, `utils`
and `train` are for training. `netx`, `nir`, `checkpoint` and `cost` export, exchange and save a network and count its
operations. `pictures` draws the figures. `kernels` contains the arithmetic of all layers.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING

# How long torch's idle threads spin before they sleep. While they spin, they block cores for other programs and for the
# kernels' threads (`jit.crew`). Threads that sleep at once slow down a single training run by 5 %. Hence they spin for
# some microseconds. The setting affects only libraries loaded after these lines, and it never overrides the user's
# choice.
if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from . import axon, block, classifier, dendrite, io, kernels, loss, neuron, synapse, utils
from .data.augmentation import Augment, augment
from .data.dataset import NMNISTDataset
from .data.loader import EventLoader
from .jit.tasks import respect_quota
from .lava import absent, public
from .network import ConvNetwork, Network
from .paths import GIFS, ROOT, TRAINED, data_root
from .spikes import Spikes

respect_quota()

__version__ = "1.1.0"

_LAZY_MODULES = ("camera", "checkpoint", "cost", "data", "lava", "netx", "nir", "pictures", "sim2real", "train")

if TYPE_CHECKING:
    from . import camera, checkpoint, cost, data, lava, netx, nir, pictures, sim2real, train  # noqa: F401
else:  # type checkers would accept any name

    def __getattr__(name: str):
        """Import optional modules at first use, such as ``slayer.netx``."""
        if name in _LAZY_MODULES:
            return importlib.import_module(f".{name}", __name__)
        return absent(__name__)(name)

    def __dir__() -> list[str]:
        """List the public names, with optional modules that are not imported yet: tab completion offers these."""
        return sorted({*public(__name__)(), *_LAZY_MODULES})


__all__ = [
    "GIFS",
    "ROOT",
    "TRAINED",
    "Augment",
    "ConvNetwork",
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
