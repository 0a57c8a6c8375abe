"""The command ``python -m nmnist_helpers.download``, kept under its old name; the work is done in `data.download`."""

from .data.download import main

if __name__ == "__main__":
    main()
