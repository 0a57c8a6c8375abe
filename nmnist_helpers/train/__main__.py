"""``python -m nmnist_helpers.train`` is ``python -m nmnist_helpers train``; torchrun starts it, too."""

import sys

from ..__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
