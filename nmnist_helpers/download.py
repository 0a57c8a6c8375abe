"""The old name of the command ``python -m nmnist_helpers download``, which is in `data.download`; it still works."""

import sys

from .__main__ import main as run_command
from .data.download import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(run_command(["download", *sys.argv[1:]]))
