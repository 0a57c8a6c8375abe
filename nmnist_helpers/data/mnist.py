"""Fetch MNIST, the digits that N-MNIST's camera recorded: 11 MB for simulations, instead of 1.2 GB of recordings.

``python -m nmnist_helpers mnist`` saves the four files in ``mnist/`` in the data folder.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from ..camera.digits import read_idx
from ..files import named
from ..paths import data_root, expanded
from .fetch import Downloader, DownloadError, fetch

MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist")
#: Name -> MD5 and size in bytes of the original files (LeCun, Cortes and Burges).
FILES = {
    "train-images-idx3-ubyte.gz": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9912422),
    "train-labels-idx1-ubyte.gz": ("d53e105ee54ea40749a09fcbcd1e9432", 28881),
    "t10k-images-idx3-ubyte.gz": ("9fb629c4189551a2d022fa330f9573f3", 1648877),
    "t10k-labels-idx1-ubyte.gz": ("ec29112dd5afa0611ce80d1b7f02629c", 4542),
}


def download_mnist(
    folder: str | os.PathLike | None = None,
    mirrors: Sequence[str] = MIRRORS,
    downloader: Downloader | None = None,
) -> Path:
    """Fetch those of MNIST's four files that are missing, resume broken transfers, and check every MD5.

    Parameters
    ----------
    folder : path-like, optional
        Target folder; by default ``mnist/`` in the data folder (`paths.data_root`).
    mirrors : sequence of str
        URLs of folders with the files, tried in turn.
    downloader : Downloader, optional
        For other timeouts or numbers of attempts than the default ones.

    Returns
    -------
    Path
        The folder, for `digits.load_mnist` and for the environment variable ``NMNIST_MNIST``.

    Raises
    ------
    DownloadError
        If no mirror delivers a complete file; the message explains how to fetch by hand what is missing.
    OSError
        If the folder cannot be made; the message names it.
    """
    folder = data_root() / "mnist" if folder is None else expanded(folder)
    if folder.is_file():
        raise NotADirectoryError(f"{folder}: expected a folder for MNIST, found a file")
    with named(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, (md5, size) in FILES.items():
        urls = [f"{mirror.rstrip('/')}/{name}" for mirror in mirrors]
        try:
            fetch(urls, folder / name, md5, size, read_idx, downloader)
        except DownloadError as error:
            missing = "\n".join(
                f"  {MIRRORS[0]}/{other} ({size} bytes, md5 {md5})"
                for other, (md5, size) in FILES.items()
                if not (folder / other).exists()
            )
            raise DownloadError(
                f"{error}\nTo fetch by hand what is missing: open these addresses in a browser (or look for files of "
                f"these names elsewhere), save them in {folder} as they are and start again:\n{missing}"
            ) from None
    return folder


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command ``python -m nmnist_helpers mnist``."""
    parser = argparse.ArgumentParser(
        prog="python -m nmnist_helpers mnist",
        description="Fetch MNIST, the digits that the simulated camera records (11 MB).",
    )
    parser.add_argument("folder", nargs="?", help="target folder (default mnist/ in the data folder)")
    folder = download_mnist(parser.parse_args(argv).folder)
    print(f"MNIST is in {folder}; if you chose this folder yourself, set NMNIST_MNIST to it")
