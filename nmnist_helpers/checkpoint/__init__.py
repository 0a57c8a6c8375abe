"""Saving and loading tensors: `network.pt`, ours or lava-dl's, and the checkpoints of a run."""

from .archive import CheckpointError, load_tree, save_tree
from .load import load_checkpoint

__all__ = ["CheckpointError", "load_checkpoint", "load_tree", "save_tree"]
