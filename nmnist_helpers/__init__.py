"""N-MNIST with spiking networks: the package under the notebooks, and a successor of lava-dl's SLAYER.

``import nmnist_helpers as slayer`` and the names of lava-dl's tutorial are where its users expect them:
`slayer.block.cuba.Dense`, `slayer.neuron.Dropout`, `slayer.loss.SpikeRate`, `slayer.utils.Assistant`, ...

The parts, from the user down to the hardware: `data` (from recordings to batches) and `camera` (a simulated event
camera) bring the spikes; `network`, `block`, `synapse`, `dendrite`, `neuron` and `axon` compute; `loss`, `classifier`,
`utils` and `train` train; `netx`, `nir`, `checkpoint` and `cost` export, exchange, save and count; `pictures` shows;
`kernels` does the arithmetic underneath.
"""

import importlib
import os

# Threads of torch that wait for work. If they spin for long, they take the cores from other programs, and from the
# threads of the kernels (`tasks`). If they sleep at once, waking them costs a lone training 5 %. Hence a spin of some
# microseconds. It counts for what is loaded after these lines, and only where nobody has chosen otherwise.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from . import axon, block, classifier, dendrite, io, kernels, loss, neuron, synapse, utils
from .data.augmentation import Augment, augment
from .data.dataset import NMNISTDataset
from .data.loader import EventLoader
from .lava import absent
from .network import ConvNetwork, Network
from .paths import GIFS, ROOT, TRAINED, data_root
from .spikes import Spikes
from .tasks import respect_quota

respect_quota()

__version__ = "1.1.0"

_LATER = ("camera", "checkpoint", "cost", "data", "lava", "netx", "nir", "pictures", "sim2real", "train")


def __getattr__(name: str):
    """Load optional modules at first use: ``slayer.netx``."""
    if name in _LATER:
        return importlib.import_module(f".{name}", __name__)
    return absent(__name__)(name)


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
