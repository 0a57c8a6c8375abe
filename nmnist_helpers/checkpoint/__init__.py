"""Checkpoints: save and load tensors in `.pt` files, such as the `network.pt` of this package or of lava-dl."""

from .archive import CheckpointError, load_tree, save_tree
from .load import load_checkpoint

__all__ = ["CheckpointError", "load_checkpoint", "load_tree", "save_tree"]
