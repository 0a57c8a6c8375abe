"""Fetch the official N-MNIST archives, check them, count their recordings, and unpack them on request."""

import argparse
import glob
import json
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..console import progress_bar, tell
from ..files import atomic, replace
from ..paths import data_root, writable
from ..processes import locked
from . import recordings
from .fetch import Downloader, DownloadError, fetch
from .layout import find, split_name

ATTRIBUTION = """\
N-MNIST: Orchard, G.; Jayawant, A.; Cohen, G.; Thakor, N.: Converting Static Image Datasets to Spiking
Neuromorphic Datasets Using Saccades. Frontiers in Neuroscience 9:437, 2015. Licence CC BY-SA 4.0.
https://www.garrickorchard.com/datasets/n-mnist"""

_MENDELEY = "https://data.mendeley.com/public-files/datasets/468j46mzdv/files/"
_PAGE = "https://data.mendeley.com/datasets/468j46mzdv/1"
#: Environment variable that names further mirrors: URLs of folders with Train.zip and Test.zip, separated by spaces.
MIRRORS_VARIABLE = "NMNIST_MIRRORS"


@dataclass(frozen=True)
class Archive:
    """An official archive of N-MNIST.

    Parameters
    ----------
    split : str
        'Train' or 'Test'; the archive is ``<split>.zip``.
    md5 : str
    size : int
        Approximate size in bytes.
    urls : tuple of str
        URLs of the file, in the order in which they are tried.
    per_digit : tuple of int
        Numbers of recordings of the digits 0 to 9.
    """

    split: str
    md5: str
    size: int
    urls: tuple[str, ...]
    per_digit: tuple[int, ...]

    @property
    def name(self) -> str:
        """File name of the archive."""
        return f"{self.split}.zip"


ARCHIVES = (
    Archive(
        "Train",
        "20959b8e626244a1b502305a9e6e2031",
        1_010_000_000,
        (_MENDELEY + "39c25547-014b-4137-a934-9d29fa53c7a0/file_downloaded",),
        (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    ),
    Archive(
        "Test",
        "69ca8762b2fe404d9b9bad1103e97832",
        170_000_000,
        (_MENDELEY + "05a4d654-7e03-4c15-bdfa-9bb2bcbea494/file_downloaded",),
        (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    ),
)


def manual_instructions(archive: Archive, root: Path) -> str:
    """Return instructions for fetching an archive in a browser."""
    return (
        f"To fetch it by hand: open {_PAGE} in a browser, save {archive.name} (about {archive.size / 1e9:.2f} GB, "
        f"md5 {archive.md5}) in {root} and start again; it need not be unpacked. Or name a mirror in "
        f"{MIRRORS_VARIABLE}."
    )


def download(
    root: str | os.PathLike | None = None,
    train: bool | None = None,
    unpack: bool = False,
    archives: Sequence[Archive] = ARCHIVES,
    downloader: Downloader | None = None,
) -> list[Path]:
    """Fetch the official archives that are missing, and check them.

    Parameters
    ----------
    root : path-like, optional
        Data folder; see `paths.data_root`.
    train : bool, optional
        True for the training archive only, False for the test archive only; by default both.
    unpack : bool
        Unpack the archives into folders. This is not necessary: `NMNISTDataset` reads archives as well.
    archives : sequence of Archive
        By default the official ones.
    downloader : Downloader, optional
        For other timeouts or numbers of attempts than the default ones.

    Returns
    -------
    list of Path
        The archives, or the folders with the unpacked recordings.

    Raises
    ------
    DownloadError
        If no mirror delivered an archive; the message explains how to fetch it by hand.
    OSError
        If the folder cannot be written or the disk has too little space.
    ValueError
        If an archive does not contain the expected recordings.
    """
    root = data_root(root)
    done = []
    for archive in archives:
        if train is not None and archive.split != split_name(train):
            continue
        place = find(root, archive.split == "Train")
        if place is not None and place != root / archive.name:
            _warn_if_counts_differ(place, archive)
        else:
            place = _fetch_and_check(root, archive, downloader)
            if unpack:
                try:
                    place = unpack_archive(place, root / archive.split)
                except FileExistsError:
                    place = root / archive.split  # another process has unpacked it meanwhile
        done.append(place)
    return done


def _warn_if_counts_differ(place: Path, archive: Archive) -> None:
    found = recordings.Recordings(place, archive.split)
    found.close()
    counts = np.bincount(found.labels, minlength=10).tolist()
    if counts != list(archive.per_digit):
        tell(
            f"{place}: {sum(counts)} recordings, of the digits 0 to 9: {', '.join(map(str, counts))}; the official "
            f"archive has {sum(archive.per_digit)}. Nothing was fetched; to get them all, move this file or folder "
            "away."
        )


def _fetch_and_check(root: Path, archive: Archive, downloader: Downloader | None) -> Path:
    """Return the path of an archive in `root` after fetching the archive, if it is missing, and checking it."""
    target = root / archive.name
    if _is_checked(target, archive):
        return target
    if not target.exists():
        if not writable(root):
            raise PermissionError(
                f"{root}: expected a folder that can be written, found one that cannot be written. "
                f"{manual_instructions(archive, root)}"
            )
        print(ATTRIBUTION)
    mirrors = [f"{base.rstrip('/')}/{archive.name}" for base in os.environ.get(MIRRORS_VARIABLE, "").split()]
    try:
        fetch(
            [*mirrors, *archive.urls],
            target,
            archive.md5,
            archive.size,
            lambda path: check_archive(path, archive),
            downloader,
        )
    except DownloadError as error:
        raise DownloadError(f"{error}\n{manual_instructions(archive, root)}") from None
    counts = check_archive(target, archive)
    tell(f"{target}: {sum(counts)} recordings, as expected; of the digits 0 to 9: {', '.join(map(str, counts))}")
    with suppress(OSError), atomic(_stamp_file(target)) as temporary:  # if it cannot be written: check again next time
        temporary.write_text(json.dumps(_stamp(target, archive)), encoding="utf-8")
    return target


def _stamp_file(target: Path) -> Path:
    return target.with_name(f".{target.name}.checked")


def _stamp(target: Path, archive: Archive) -> dict:
    found = target.stat()
    return {"md5": archive.md5, "size": found.st_size, "changed": found.st_mtime_ns}


def _is_checked(target: Path, archive: Archive) -> bool:
    # The MD5 of a gigabyte takes seconds, so it is not computed again while the file is unchanged.
    try:
        return json.loads(_stamp_file(target).read_text(encoding="utf-8")) == _stamp(target, archive)
    except (OSError, ValueError):
        return False


def check_archive(path: Path, archive: Archive) -> list[int]:
    """Return the numbers of recordings of the digits 0 to 9 in an archive.

    Raises
    ------
    ValueError
        If the file is not an archive, if it contains anything but recordings, or if the numbers are not the official
        ones.
    """
    try:
        found = recordings.Recordings(path, archive.split)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    found.close()  # on Windows, an open file could be neither moved nor replaced
    counts = np.bincount(found.labels, minlength=10).tolist()
    if counts != list(archive.per_digit):
        raise ValueError(
            f"{path}: expected {sum(archive.per_digit)} recordings, of the digits 0 to 9: {list(archive.per_digit)}, "
            f"found {sum(counts)}, {counts}"
        )
    return counts


def unpack_archive(path: str | os.PathLike, target: str | os.PathLike) -> Path:
    """Unpack an archive of recordings into the folder `target`, completely or not at all.

    Parameters
    ----------
    path : path-like
        The archive.
    target : path-like
        The folder to create, such as ``data/Train``. The recordings become ``<digit>/<id>.bin`` in it.

    Raises
    ------
    FileExistsError
        If `target` exists already.
    OSError
        If the disk has too little space.
    ValueError
        If a member is damaged, is not a recording, or would be unpacked outside `target`.
    """
    path, target = Path(path), Path(target)
    with closing(recordings.Recordings(path, target.name)) as found:
        return _unpack(found, path, target)


def _unpack(found: recordings.Recordings, path: Path, target: Path) -> Path:
    with locked(target.with_name(f".{target.name}.lock"), f"that unpacks {target}"):
        if target.exists():
            raise FileExistsError(f"{target}: expected no such folder yet, found one")
        # While the lock is held, such a folder can only be one that a killed process has left.
        for left in target.parent.glob(f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}"):
            shutil.rmtree(left, ignore_errors=True)
        need, free = int(found.sizes.sum()) + 4096 * len(found), shutil.disk_usage(target.parent).free
        if free < need:
            raise OSError(
                f"{target.parent}: expected {need / 1e9:.2f} GB of room to unpack {path.name}, "
                f"found {free / 1e9:.2f} GB free"
            )
        # Unlike `tempfile.mkdtemp`, mkdir() makes a folder that others may read, on Windows too.
        temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
        temporary.mkdir()
        try:
            for digit in np.unique(found.labels):
                (temporary / str(digit)).mkdir()
            for n in progress_bar(range(len(found)), desc=f"unpacking {path.name}", unit="rec"):
                # `names` are always <digit>/<id>.bin, whatever the names of the archive's members are.
                (temporary / found.names[n]).write_bytes(found.read(n))
            replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command ``python -m nmnist_helpers download``."""
    parser = argparse.ArgumentParser(
        prog="python -m nmnist_helpers download", description="Fetch and check the official N-MNIST archives (1.2 GB)."
    )
    parser.add_argument("root", nargs="?", help="data folder (default NMNIST_DATA, else data/ beside notebooks/)")
    parser.add_argument(
        "--unpack", action="store_true", help="also unpack the archives (not needed: the dataset reads archives)"
    )
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--train", action="store_const", const=True, dest="train", help="fetch the training archive only")
    part.add_argument("--test", action="store_const", const=False, dest="train", help="fetch the test archive only")
    options = parser.parse_args(argv)
    for path in download(options.root, options.train, options.unpack):
        print(path)
