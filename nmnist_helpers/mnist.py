"""The old name of the command ``python -m nmnist_helpers mnist``, which is in `data.mnist`; it still works."""

from .data.mnist import main

if __name__ == "__main__":
    main()
