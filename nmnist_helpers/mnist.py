"""The old name of the command ``python -m nmnist_helpers mnist``, which is in `data.mnist`; it still works."""

import sys

from .__main__ import main as run_command
from .data.mnist import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(run_command(["mnist", *sys.argv[1:]]))
