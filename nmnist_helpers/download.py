"""The old name of the command ``python -m nmnist_helpers download``, which is in `data.download`; it still works."""

from .data.download import main

if __name__ == "__main__":
    main()
