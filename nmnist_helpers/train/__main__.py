"""``python -m nmnist_helpers.train``: the command ``train`` in the form that torchrun can start."""

import sys

from ..__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
