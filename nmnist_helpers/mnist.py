"""The command ``python -m nmnist_helpers.mnist``, kept under its old name; the work is done in `data.mnist`."""

from .data.mnist import main

if __name__ == "__main__":
    main()
